"""Broken loop pools, in modules that are named as the rules' own (`suites/looppool/`)."""
