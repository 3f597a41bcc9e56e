"""Wrong in what stays."""

from __future__ import annotations

import threading
from typing import Any

from flowcheck_reference.broken.looppool._sound import Engine, Plain
from pytest_flowcheck.protocols import breaks


@breaks("LOP-13")
class TheReaperStays(Plain):
    """Each pool has a thread that looks after it, and that nobody ends."""

    class Pool(Engine):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            threading.Thread(target=threading.Event().wait, daemon=True, name="reaper").start()
