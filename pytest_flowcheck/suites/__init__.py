"""The rules, one module or package per facet; the folder is the registry (see `pytest_flowcheck.rules`)."""
