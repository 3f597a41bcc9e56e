"""Caches of clients that are wrong on purpose."""
