"""How a certification runs: resolving subjects, judging one rule, and the pytest side of containment.

    judge.py    one rule on one subject: driver thread, watcher, finding
"""
