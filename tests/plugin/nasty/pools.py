"""Executors that are wrong in one place each, for runs with the real facet."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

LOADED_BY = threading.get_ident()


def _judged() -> bool:
    """Whether a rule asks; the first probe, on the main thread of its child, is answered."""
    return threading.get_ident() != LOADED_BY


class HangsInSubmit(ThreadPoolExecutor):
    def submit(self, *args: Any, **kwargs: Any) -> Any:
        if _judged():
            threading.Event().wait()
        return super().submit(*args, **kwargs)


class HangsInShutdown(ThreadPoolExecutor):
    def shutdown(self, *args: Any, **kwargs: Any) -> None:
        super().shutdown(*args, **kwargs)
        if _judged():
            threading.Event().wait()


class Same(ThreadPoolExecutor):
    """Another class of a name that exists elsewhere too."""


Same.__name__ = "ThreadPoolExecutor"
