"""The inside of `looppool`, from one dispatch to what it runs on:

errors.py                       what dispatches raise of their own
dispatched.py   Dispatched      one dispatch: how it came out, who waits, settled once
bell.py         Bell            wakes a loop from another thread
worker.py       Worker          a warm loop on its thread: mailbox, idle clock, reap
draining.py     Drain           the end of a loop: generations of tasks, generators, threads, under one limit
resources.py    Resources       keyed, counted, made and finalised on the warm loop

    caller ── append ──► mailbox ── one wake-up for all ──► task on the loop ── settle ──► caller

A dispatch that finds its worker gone is posted again to the next one: who pops it from the mailbox owns it.
"""
