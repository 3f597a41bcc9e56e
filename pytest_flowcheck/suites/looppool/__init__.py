"""looppool (LOP): coroutines on a worker's loop that is kept warm, in every way that it can come to its end.

sharing.py    one loop for all, one after the other and at once; contexts     idling.py     the TTL, and what renews it
failing.py    errors, cancellations, loops that die                           stopping.py   stop, whoever calls it, and when
draining.py   what dispatches left behind; interpreter exit                   racing.py     dispatch against reaper and stop
nesting.py    a dispatch inside a dispatch                                    remains.py    what stays after many rounds
holding.py    keyed resources, against a reference count
"""
