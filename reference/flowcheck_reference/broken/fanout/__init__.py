"""Broken fan-outs, in modules that are named as the rules' own (`suites/fanout/`)."""
