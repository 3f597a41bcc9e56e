"""store (STO): states that are saved whole, whatever happens meanwhile, and logs whose lines are whole.

values.py   what can be saved, what is refused       crashes.py  kills, power losses, what they leave behind
ids.py      run ids                                  failing.py  full disks and other errors
beside.py   readers and savers beside each other     logs.py     entries, torn tails
files.py    corrupted files, modes, symbolic links   forking.py  a fork in the middle of a save
machine.py  any sequence against a model
"""
