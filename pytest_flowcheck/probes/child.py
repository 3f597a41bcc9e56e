"""Scenarios that need an interpreter of their own: exit without shutdown, an interrupt, a fork.

A scenario is a module-level function `scenario(subject, *args)`; it runs on the main thread of a fresh interpreter and
speaks only through the probes among its arguments, which report to, and wait at, the rule's own gates.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from pytest_flowcheck.proof import descendants, kill_tree

if TYPE_CHECKING:
    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.lab import Lab


class Child:
    """A running scenario."""

    def __init__(self, lab: Lab, process: subprocess.Popen[bytes], output: IO[bytes]) -> None:
        self.pid = process.pid
        self._process, self._output = process, output
        self.exit: Call[int] = lab.call("the process", process.wait)

    @property
    def exited(self) -> bool:
        """Whether it has ended."""
        return self.exit.done

    @property
    def status(self) -> int:
        """Its exit status; negative: the signal that killed it. Only once it has ended."""
        return self.exit.result()

    def output(self) -> str:
        """What it wrote to stdout and stderr so far, the last 2 000 characters."""
        self._output.seek(0)
        return self._output.read().decode(errors="replace")[-2000:]


@contextmanager
def child(lab: Lab, scenario: Callable[..., None], *args: Any) -> Generator[Child]:
    """Run `scenario(subject, *args)` in a fresh interpreter. Leaving kills it and all that it started."""
    subject = lab.subject
    message = pickle.dumps((sys.path, subject.spec, dict(subject.claims), scenario.__module__, scenario.__name__))
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest_flowcheck.probes.child"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p or "." for p in sys.path)},
        )
        try:
            assert process.stdin is not None
            with process.stdin as pipe:
                # two pickles: sys.path must be set before the probes and their tasks can be imported
                pipe.write(message + pickle.dumps(args))
            running = Child(lab, process, output)
            yield running
        finally:
            lab.open_all()
            kill_tree([*descendants(process.pid), process.pid])
            process.wait()


def main() -> None:
    """The child's side: read what to run from stdin, run it, end like any program."""
    source = sys.stdin.buffer
    path, spec, claims, module, name = pickle.load(source)  # noqa: S301 - written by our own parent
    sys.path[:] = path
    import importlib

    from pytest_flowcheck import subjects

    subject = subjects.with_claims(subjects.load(spec), _claims(claims))
    args = pickle.load(source)  # noqa: S301 - written by our own parent
    getattr(importlib.import_module(module), name)(subject, *args)


def _claims(claims: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    return {facet: frozenset(capabilities) for facet, capabilities in claims.items()}


if __name__ == "__main__":
    # not as __main__: worker processes that a scenario starts by spawn import the main module again
    from pytest_flowcheck.probes import child as _child  # noqa: PLW0406

    _child.main()
