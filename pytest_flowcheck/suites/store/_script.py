"""A drawn sequence as a program of its own: what is printed below a failure, to be run with `python script.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from pytest_flowcheck.suites.store._child import Ask

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab

_PROGRAM: Final = '''\
import os
import signal
import sys
import tempfile
from pathlib import Path

{imports}from pytest_flowcheck.protocols import Invalid, NotFound, is_a

{source}

nan, inf = float("nan"), float("inf")
REFUSED = 3
# each step, and what may come of it: values; an empty list: NotFound; None: it returns, or its value is refused
STEPS = {steps}


def same(one, other):
    if isinstance(one, bool) or isinstance(other, bool) or one is None or other is None:
        return one is other
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return one == other or (one != one and other != other)
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        keys = {{(type(key), key): value for key, value in other.items()}}
        return len(one) == len(other) and all(
            (type(key), key) in keys and same(value, keys[type(key), key]) for key, value in one.items()
        )
    return one == other


def told(ask):
    return ascii(ask[0]) + ascii(ask[1:])


def judge(ask, expected, value, error):
    """What was wrong, or an empty text."""
    came = f"raised {{error!a}}" if error is not None else f"returned {{value!a}}"
    if error is not None and is_a(error, Invalid, subject.errors) and ask[0] in ("save", "append"):
        if expected is None:
            print("refused: ", told(ask), came)
            sys.stdout.flush()
            os._exit(REFUSED)
    if expected is None:
        right = error is None
    elif not expected:
        right = error is not None and is_a(error, NotFound, subject.errors)
    else:
        right = error is None and any(same(list(value) if ask[0] == "entries" else value, one) for one in expected)
    print("right:   " if right else "WRONG:   ", told(ask), came)
    if not right:
        print("expected:", "it returns" if expected is None else " or ".join(map(ascii, expected)) or "NotFound")
    return right


{start}def life(folder, steps, crashes):
    """What one process does: opens a handle, makes its calls, and leaves it or is killed."""
    {enter} subject.store(folder) as it:
        for ask, expected in steps:
            value = error = None
            try:
                value = {awaited}getattr(it, ask[0])(*ask[1:])
            except Exception as raised:
                error = raised
            if not judge(ask, expected, value, error):
                sys.stdout.flush()
                os._exit(1)
        sys.stdout.flush()
        if crashes:
            os.kill(os.getpid(), signal.SIGKILL)


if not hasattr(subject, "errors"):
    subject.errors = {{}}
with tempfile.TemporaryDirectory() as name:
    lives, steps = [], []
    for ask, expected in STEPS:
        if ask[0] in ("crash", "reopen"):
            lives.append((steps, ask[0] == "crash"))
            steps = []
        else:
            steps.append((ask, expected))
    lives.append((steps, False))
    for steps, crashes in lives:
        print("a process", "that is killed:" if crashes else "that ends as usual:")
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            try:
                {run}
            except BaseException as error:
                print("WRONG:   ", ascii(error))
                sys.stdout.flush()
                os._exit(1)
            sys.stdout.flush()
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == REFUSED:
            sys.exit(0)
        if status and not (crashes and os.WIFSIGNALED(status)):
            sys.exit(1)
'''


def program(lab: Lab, steps: Sequence[Ask], expected: Sequence[Sequence[Any] | None]) -> str:
    """The program.

    Args:
        lab: whose subject it is about.
        steps: calls of the store; `("crash",)`: the process is killed, and another goes on; `("reopen",)`: it ends.
        expected: for each step, the values that may come of it; none: NotFound; None: it returns or refuses its value.
    """
    loop = lab.subject.backend if "async" in lab.subject.claims["store"] else None
    listed = "".join(
        f"    ({step!r}, {may if may is None else list(may)!r}),\n" for step, may in zip(steps, expected, strict=True)
    )
    call = "life(Path(name), steps, crashes)"
    if loop == "trio":
        call = "trio.run(life, Path(name), steps, crashes)"
    elif loop:
        call = f"asyncio.run({call})"
    return _PROGRAM.format(
        imports=f"import {loop}\n\n" if loop else "",
        source=lab.subject.source,
        steps=f"[\n{listed}]",
        start="async " if loop else "",
        enter="async with" if loop else "with",
        awaited="await " if loop else "",
        run=call,
    )
