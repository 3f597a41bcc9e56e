"""Broken stores, in modules that are named as the rules' own (`suites/store/`)."""
