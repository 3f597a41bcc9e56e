"""Tracers that are wrong on purpose."""
