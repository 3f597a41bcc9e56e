"""What else lives in the test process: threads and descriptors that are none of a test's business."""

from __future__ import annotations

import threading

from pytest_flowcheck.proof import Harness

AT_START = Harness.at_start()
"""Taken at collection, before any test has started a helper process and opened a pipe to it: descriptors that are open
at the start count as held by outsiders."""


def fresh_harness() -> Harness:
    """A harness to which every thread belongs that earlier tests have left behind, and pytest-timeout's alarm."""
    AT_START.between_rules()
    for thread in threading.enumerate():
        if thread.native_id is not None:
            AT_START.adopt(thread.native_id)
    return AT_START
