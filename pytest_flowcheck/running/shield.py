"""What a subject can reach of the process around it, put back after every rule.

A subject may close stdout, replace the warning filters, raise in threads of its own. None of that may touch pytest's
capture or the verdict of the next rule; and none of the user's settings (`filterwarnings = error`) may change how the
subject behaves.
"""

from __future__ import annotations

import io
import os
import sys
import threading
import warnings
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator


@contextmanager
def shielded() -> Generator[None]:
    """Around one rule."""
    with ExitStack() as stack:
        stack.enter_context(_folder())
        for descriptor, name in ((1, "stdout"), (2, "stderr")):
            stack.enter_context(_stream(descriptor, name))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _folder() -> Generator[None]:
    before = Path.cwd()
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def _stream(descriptor: int, name: str) -> Generator[None]:
    """Give the subject a stream object of its own, and put descriptor and object back."""
    before = getattr(sys, name)
    try:
        kept = os.dup(descriptor)
    except OSError:  # pytest itself was started without it
        yield
        return
    # closefd=False: that a subject closes the object must not close the descriptor, unless it does that too
    own = io.TextIOWrapper(io.FileIO(descriptor, "w", closefd=False), errors="replace", write_through=True)
    setattr(sys, name, own)
    try:
        yield
    finally:
        setattr(sys, name, before)
        os.dup2(kept, descriptor)
        os.close(kept)


@contextmanager
def own_hooks() -> Generator[list[str]]:
    """From the first rule to the last: exceptions in the subject's threads and finalisers are noted, and judged by rules only.

    pytest would turn them into warnings of whatever item comes next.
    """
    noted: list[str] = []
    threads, finalisers = threading.excepthook, sys.unraisablehook

    def in_thread(args: threading.ExceptHookArgs, /) -> None:
        name = args.thread.name if args.thread is not None else "?"
        noted.append(f"thread {name!r}: {args.exc_type.__name__}: {args.exc_value}")

    def in_finaliser(args: Any, /) -> None:
        noted.append(
            f"{args.err_msg or 'exception ignored in'} {args.object!r}: {args.exc_type.__name__}: {args.exc_value}"
        )

    threading.excepthook, sys.unraisablehook = in_thread, in_finaliser
    try:
        yield noted
    finally:
        threading.excepthook, sys.unraisablehook = threads, finalisers
