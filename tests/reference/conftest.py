"""What the engine's tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from gating import Gate


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A gate that is open at the end, whatever happened."""
    gate = Gate()
    yield gate
    gate.opened.set()
