"""Subjects of the facet `tiny`: each does its worst in `strike`."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import warnings
from contextlib import contextmanager
from typing import Any, ClassVar

FOREVER = "import threading; threading.Event().wait()"


class Calm:
    """Keeps every rule."""

    name = "calm"
    version = "1.0"
    claims: ClassVar[Any] = {"tiny": frozenset({"extra"})}

    @contextmanager
    def tiny(self) -> Any:
        yield self

    def strike(self) -> None:
        return None


class Plain(Calm):
    name = "plain"
    claims: ClassVar[Any] = {"tiny": frozenset()}


class Rude(Calm):
    name = "rude"
    polite = False


class Moonless(Calm):
    name = "moonless"
    testable = False


class Raises(Calm):
    name = "raises"

    def strike(self) -> None:
        raise ValueError("the strike hit its owner")


class Hangs(Calm):
    name = "hangs"

    def strike(self) -> None:
        threading.Event().wait()


class Spins(Calm):
    name = "spins"

    def strike(self) -> None:
        while True:
            pass


class Announces(Calm):
    """Says when it is in the middle of a rule, and stays there."""

    name = "announces"

    def strike(self) -> None:
        with open("struck", "w") as pipe:
            pipe.write("x")
        while True:
            pass


class Exits0(Calm):
    name = "exits0"

    def strike(self) -> None:
        os._exit(0)


class Exits7InThread(Calm):
    name = "exits7"

    def strike(self) -> None:
        thread = threading.Thread(target=os._exit, args=(7,))
        thread.start()
        thread.join()


class Segfaults(Calm):
    name = "segfaults"

    def strike(self) -> None:
        ctypes.string_at(0)


class Killed(Calm):
    name = "killed"

    def strike(self) -> None:
        os.kill(os.getpid(), 9)


class HoldsTheLock(Calm):
    """A deadlock in C, with the interpreter's lock held."""

    name = "holds-the-lock"

    def strike(self) -> None:
        library, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
        library.pthread_mutex_lock(mutex)
        library.pthread_mutex_lock(mutex)


class ClosesStdout(Calm):
    name = "closes-stdout"

    def strike(self) -> None:
        sys.stdout.close()
        sys.stderr.close()
        os.close(1)
        os.close(2)


class ClosesAll(Calm):
    """Closes the worker's line to its controller too."""

    name = "closes-all"

    def strike(self) -> None:
        os.closerange(3, 256)


class SystemExits(Calm):
    name = "system-exits"

    def strike(self) -> None:
        thread = threading.Thread(target=sys.exit, args=(3,))
        thread.start()
        thread.join()
        raise SystemExit(4)


class ThreadRaises(Calm):
    """An exception in a thread, a warning and a changed folder: none of the kit's business."""

    name = "thread-raises"

    def strike(self) -> None:
        def fail() -> None:
            raise ValueError("nobody catches this")

        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
        warnings.warn("a warning of the subject", DeprecationWarning, stacklevel=1)
        os.chdir("/")


class LeavesThread(Calm):
    name = "leaves-thread"

    def strike(self) -> None:
        threading.Thread(target=threading.Event().wait, name="stuck").start()


class LeavesDaemon(Calm):
    """A grandchild in a session of its own, whose parent is gone."""

    name = "leaves-daemon"

    def strike(self) -> None:
        code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {FOREVER!r}], start_new_session=True)"
        subprocess.run([sys.executable, "-c", code], check=True)


class ForksAndDies(Calm):
    """A fork that holds the worker's pipes open while the worker is gone."""

    name = "forks-and-dies"

    def strike(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if os.fork() == 0:
                threading.Event().wait()
        os._exit(9)


class DiesLater(Calm):
    """A time bomb: the rule ends well, and its process dies after that."""

    name = "dies-later"

    def strike(self) -> None:
        def bomb() -> None:
            nowhere = threading.Event()
            nowhere.wait(0.3)
            os._exit(11)

        threading.Thread(target=bomb, daemon=True).start()


class Adapts(Calm):
    """Breaks its side of the protocol."""

    name = "adapts"

    def strike(self) -> None:
        from pytest_flowcheck.errors import AdapterError

        raise AdapterError("the adapter gave a coroutine where a value was due")


def factory_that_raises(max_workers: int) -> Any:
    raise RuntimeError("no pool today")


def factory_without_workers() -> Any:
    return None


def factory_of_nothing(max_workers: int) -> Any:
    return 7
