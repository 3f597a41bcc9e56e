"""Importing this is the mistake."""

raise RuntimeError("not today")
