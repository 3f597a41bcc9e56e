"""client (CLI): one async client per event loop, wherever loops come and go.

single.py      within one loop; without one      closing.py    close, and what comes behind it
successive.py  loops one after the other         failing.py    creations that are cancelled, or fail
beside.py      loops at once, in several threads on_trio.py    the same on trio
machine.py     any interleaving against a model
"""
