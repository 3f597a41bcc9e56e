"""A module for each word of `flowcheck`: its docstring is the help, `arguments(parser)` declares, `run(given)` does it."""
