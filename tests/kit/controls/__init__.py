"""Subjects of which we know whether they can move: those that proof must never accuse, and those it must convict.

The only place in the repository where `time.sleep` is allowed: a sleeper is what some of these are. Each control is one
small function, registered by `@live`, `@dead` or their variants in `stage`; run one by hand, in a process of its own:

    python -m controls sleeper 200        # from tests/kit: 200 attempts at a proof
    python -m controls                    # lists them
"""
