"""isolation (ISO): long runs beside short operations, and what a run beyond the bound may expect.

bounds.py      how many are in flight, who waits, who is refused   beside.py    what goes on while runs are stuck or fail
loops.py       the event loop, and cancelling what is stuck        ending.py    slots that come back, threads that go
sessions.py    sessions, services, and a session without one
"""
