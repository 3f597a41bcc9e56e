"""Retry wrappers that are wrong on purpose, one bug each."""
