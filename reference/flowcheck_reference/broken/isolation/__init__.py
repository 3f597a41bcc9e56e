"""Broken services, in modules that are named as the rules' own (`suites/isolation/`)."""
