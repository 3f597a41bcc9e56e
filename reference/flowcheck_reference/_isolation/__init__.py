"""The inside of `isolation`, from one run to the end of all:

errors.py                  what the service raises of its own
run.py       Run           one run: waits, runs, is over; whom to tell
working.py                 the work of a run, on its thread; an async function gets an event loop there
pending.py   Pending       the result of a thread's work, to be awaited on asyncio or trio
ending.py                  the end of an executor within a limit: what is stuck is written off
"""
