"""A revision that is frozen asks what it asked: certificates that name it can be compared for ever."""

from __future__ import annotations

from pytest_flowcheck.certificate import digests
from pytest_flowcheck.rules import REVISION, bundled_rules

FROZEN = {"2026.1": "sha256:d1d04f283240cf7cd368a9b754f822af45de8eaaef3fdd48f327de2b0523ed3f"}


def test_a_frozen_revision_stays() -> None:
    """A change to a sentence, level or capability, or another rule, begins the next revision: `.dev` until it is frozen."""
    if REVISION.endswith(".dev"):
        assert REVISION.removesuffix(".dev") not in FROZEN
    else:
        assert digests.revision(bundled_rules()) == FROZEN[REVISION]
