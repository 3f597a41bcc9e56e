"""Engines that are wrong on purpose: all of them!

Each class says by `@breaks` which rules it must fail; `pytest --flowcheck-selftest` shows that it fails these and no
other. They are bugs that were really made, each as small as it can be: the reference engine with one thing changed.
"""
