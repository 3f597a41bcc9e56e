"""`python -m pytest_flowcheck` is `flowcheck`."""

from __future__ import annotations

import sys

from pytest_flowcheck.shell.main import main

if __name__ == "__main__":
    sys.exit(main())
