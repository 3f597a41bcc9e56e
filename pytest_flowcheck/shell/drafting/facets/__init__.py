"""A module for each facet that has an adapter: what it looks for, its drafts, and the one use that shows whether a draft works.

Each has `LOOKS_FOR` (a sentence), `drafts(seen, aio)`, `check(held)` and `SKELETON`: the wrapper's methods where no draft works.
"""
