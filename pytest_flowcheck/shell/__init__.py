"""`flowcheck`, the command: what there is to do with subjects, rules and certificates beside a run of pytest.

One file of `commands/` for each word; the folder is the registry. A command imports what it needs when it runs.
"""
