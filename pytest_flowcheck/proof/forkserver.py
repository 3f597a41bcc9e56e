"""A child that imports once, and forks for every run that is to be traced.

To start an interpreter and to import a subject takes a tenth of a second or more, a fork two milliseconds; a sweep of
faults over a save needs dozens of runs. strace attaches to the fork before it does anything.

    # the child: python -m that_module
    def run(arguments):          # in a fork of its own, which ends when this returns
        folder, = arguments
        mark("begin"); save(folder); mark("end")

    if __name__ == "__main__":
        serve(run)

    # the parent
    with ForkServer([sys.executable, "-m", "that_module"]) as server:
        recording = record([str(folder)], folder, server=server)
        for fault in plans(recording):
            inject([str(fresh)], fault, recording, fresh, server=server)
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pytest_flowcheck.proof.processes import descendants, kill_tree
from pytest_flowcheck.proof.strace import (
    ATTACH,
    Trace,
    TraceError,
    await_tracer,
    connects,
    follow,
    guarded,
    missing,
    read_log,
)

_PLACE = "PYTEST_FLOWCHECK_FORK"


def serve(run: Callable[[list[str]], object]) -> None:
    """The child's side: for each run that is asked for, call `run(arguments)` in a fork; return when the parent closes.

    Nothing may run beside the main thread yet: a fork has only the thread that forked. So open handles, loops and pools
    inside of `run`. A fork ends with status 0 when `run` returns, with 1 and a traceback when it raises, and without the
    interpreter's exit handlers: its last system calls are those of `run`.

    Args:
        run: is given the strings that the parent named.

    Raises:
        RuntimeError: the process was not started by a `ForkServer`.
    """
    place = os.environ.pop(_PLACE, None)
    if place is None:
        raise RuntimeError("serve() runs in a child of a ForkServer")
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(place)
        with line.makefile("rwb") as messages:
            for raw in messages:
                order = json.loads(raw)
                pid = os.fork()
                if pid == 0:
                    line.detach()
                    _fork(run, order)
                _, status = os.waitpid(pid, 0)
                messages.write(b"%d\n" % os.waitstatus_to_exitcode(status))
                messages.flush()


def _fork(run: Callable[[list[str]], object], order: dict[str, Any]) -> None:
    """One run. Never returns."""
    status = 1
    try:
        output = os.open(order["output"], os.O_WRONLY | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        os.environ[ATTACH] = order["attach"]
        if order["now"]:
            await_tracer()
        run(order["arguments"])
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001 - a fork must never come back into the server's loop
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)


class ForkServer:
    """The parent's side: one child, many traced runs. To be used as a context manager, by one thread.

    Args:
        argv: the command; it calls `serve`.
        env: its environment; default: this process's.
        cwd: its working directory, and that of all runs; default: this process's.

    Raises:
        TraceError: at entry: strace doesn't work here, or the child ended without calling `serve`.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> None:
        self.cwd = os.path.realpath(cwd or Path.cwd())
        """Where the runs begin."""
        self._argv, self._env = argv, env
        self._folder = tempfile.TemporaryDirectory()
        self._output = Path(self._folder.name, "output")

    def __enter__(self) -> Self:
        """Start the child, and wait until it has imported what it needs."""
        why = missing()
        if why is not None:
            raise TraceError(why)
        place = str(Path(self._folder.name, "control"))
        self._output.touch()
        with socket.socket(socket.AF_UNIX) as server, self._output.open("ab") as output:
            server.bind(place)
            server.listen(1)
            self._process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**(os.environ if self._env is None else self._env), _PLACE: place},
                cwd=self.cwd,
            )
            if not connects(server, self._process.pid):
                status = self._process.wait()
                said = self._said(0)
                self._folder.cleanup()
                raise TraceError(f"the child ended with status {status} before it called serve(); it printed: {said!r}")
            self._line = server.accept()[0]
        self._messages = self._line.makefile("rwb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the child and all that it started."""
        self._messages.close()
        self._line.close()
        kill_tree([*descendants(self._process.pid), self._process.pid])
        self._process.wait()
        self._folder.cleanup()

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can still fork."""
        return self._process.poll() is None

    def trace(
        self,
        arguments: Sequence[str],
        *,
        tampering: Sequence[str] = (),
        from_begin: bool = False,
        patience: float = 60.0,
    ) -> Trace:
        """One run, traced.

        Args:
            arguments: what `run` is given.
            tampering: what goes behind strace's `-e inject=`.
            from_begin: trace from `mark("begin")` on only; default: from the start of the fork on.
            patience: seconds after which the run is killed, and the server with it.

        Raises:
            TraceError: strace may not attach here, the run ended before it could, or it outlived `patience`.
        """
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
            place, log = str(Path(folder, "s")), Path(folder, "log")
            server.bind(place)
            server.listen(1)
            start = self._output.stat().st_size
            order = {
                "arguments": list(arguments),
                "output": str(self._output),
                "attach": place,
                "now": not from_begin,
            }
            with guarded(self._process.pid, patience) as expired:
                self._messages.write(json.dumps(order).encode() + b"\n")
                self._messages.flush()
                if not connects(server, self._process.pid, self._line):
                    raise TraceError(
                        f"the run did not come to where it is traced from; it printed: {self._said(start)!r}"
                    )
                line = server.accept()[0]
                family = descendants(self._process.pid)
                status = follow(family, line, log, tampering, patience, self._status)
            if expired.is_set():
                raise TraceError(
                    f"the run did not end in {patience:g} s and was killed; it printed: {self._said(start)!r}"
                )
            return Trace(*read_log(log), status, self._said(start))

    def _status(self) -> int:
        answer = self._messages.readline()
        if not answer:
            raise TraceError(f"the run outlived patience, or ended its server; it printed: {self._said(0)!r}")
        return int(answer)

    def _said(self, start: int) -> str:
        return self._output.read_bytes()[start:].decode(errors="replace")[-4000:]
