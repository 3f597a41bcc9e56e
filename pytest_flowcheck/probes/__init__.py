"""What the kit hands to a subject, and how a rule steers it: probes, gates, the recorded history.

timeline.py  what happened, in order                gates.py  where probes wait until the rule lets them go
wire.py      the same two across processes          probe.py  the task body itself
lab.py       one rule's bench: all of the above, and `until` / `settle`, which end by proof
child.py     scenarios that need an interpreter of their own (exit, signals, fork)
nursery.py   other processes that hold instances of the subject, and can be killed
holding.py   a thread held between two steps of what it does to files or a database
kept.py      processes that outlive a rule, since they are dear to start
forall.py    hypothesis properties over gated scenarios
"""
