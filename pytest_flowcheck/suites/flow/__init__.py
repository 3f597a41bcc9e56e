"""flow (FLO): a graph of nodes, each run once when all that it needs is done, on threads, loops and processes alike.

order.py    what runs, when, and at how many a time   limits.py    threads, sizing, changed limits
failing.py  failures, dependents, other branches      waiting.py   polling, spinning
refusing.py graphs that make no sense                 closing.py   close, growth
beside.py   runs beside and inside each other         sharing.py   shared resources
after.py    runs after failed and cancelled ones      looping.py   cancellation, trio, blocked loops
carrying.py context, executors, both ways in
attempts.py timeouts and retries inside a graph       resuming.py  runs that are resumed, ids, leases
scale.py    ten thousand nodes, and what they cost    saving.py    saves that fail, bytes that are written
"""
