"""tracing (TRC): events that are handed over in passing, whatever becomes of the sink.

emitting.py   a stuck sink, order, copies, first emits at once     failing.py    sinks that raise, or emit
waiting.py    flush and close                                      bounding.py   drops, dispatchers
machine.py    any interleaving, against a model                    looping.py    from coroutines
interpreter.py   exit and fork, in a process of their own
"""
