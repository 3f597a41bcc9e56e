"""Broken flows, in modules that are named as the rules' own (`suites/flow/`)."""
