"""What `sweep` is made of.

steps.py     a place at which a thread can be parked, and whose code has such places
tracing.py   who tells of each step: `sys.settrace` before Python 3.12, `sys.monitoring` from then on
parking.py   counts the steps of one schedule, and parks the thread that comes to the chosen one
awaits.py    the same for two tasks of one event loop, which are interrupted at their awaits
rest.py      whether some threads of this process have come to rest, read from the kernel
"""
