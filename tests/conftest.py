"""What all tests share: a memory in which looking for garbage is cheap."""

from __future__ import annotations

import gc
import importlib
from contextlib import suppress

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """What is here before the first test stays. Every rule that is judged collects garbage, most of them several times, and
    so do many tests: most of that time went into pytest, hypothesis and 3 000 items, again and again. See `running.bench`.

    What looks through memory when it is imported (hypothesis for who refers to trio's random numbers) is imported before.
    """
    for name in ("hypothesis.strategies", "trio"):
        with suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
