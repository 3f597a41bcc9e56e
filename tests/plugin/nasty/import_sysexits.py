"""Importing this is the mistake."""

raise SystemExit(3)
