"""Broken executors, in modules that are named as the rules' own (`suites/executor/`)."""
