"""A drawn fan-out as a program of its own: what is printed below a failure, to be run with `python script.py`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

_PROGRAM: Final = '''\
import sys
import threading
import time

{imports}from pytest_flowcheck.protocols import Halt, Ok

{source}

ACTS = {acts!r}  # what item 0, 1, ... does once its gate is open
STEPS = {steps!r}  # (how many are in flight by then, which item completes next)
ACCEPTABLE = {acceptable!r}
PATIENCE = 10.0  # seconds until this program gives up


class Body:
    """Reports its start, waits at its gate, does its work. A thread calls it, a loop awaits `aio`."""

    __name__ = __qualname__ = "body"

    def __init__(self):
        self.changed = threading.Condition()
        self.gates = [threading.Event() for _ in ACTS]
        self.history = []

    def note(self, item, what):
        with self.changed:
            self.history.append((item, what))
            self.changed.notify_all()

    def live(self):
        return sum(1 if what == "started" else -1 for _, what in self.history)

    def until(self, holds):
        with self.changed:
            return self.changed.wait_for(holds, PATIENCE)

    def __call__(self, item):
        self.note(item, "started")
        self.gates[item].wait()
        return self.work(item)

    async def aio(self, item):
        self.note(item, "started")
        try:
            while not self.gates[item].is_set():
                await sleep(0.001)
        except BaseException:
            self.note(item, "raised")
            raise
        return self.work(item)

    def work(self, item):
        self.note(item, "ended" if ACTS[item] == "ok" else "raised")
        if ACTS[item] == "raises":
            raise ValueError(f"item({{item}}) failed")
        if ACTS[item] != "ok":
            raise Halt(ACTS[item])
        return f"item({{item}})"


body, came = Body(), []


def leaves(error):
    return [leaf for e in error.exceptions for leaf in leaves(e)] if isinstance(error, BaseExceptionGroup) else [error]


def told(outcomes):
    return "; ".join(str(o.value) if isinstance(o, Ok) else type(o).__name__ for o in outcomes)


{call}

caller = threading.Thread(target=call, daemon=True)
caller.start()
problems = []
for in_flight, item, stopped in STEPS:
    if not stopped and not body.until(lambda: body.live() >= in_flight and (item, "started") in body.history):
        problems.append(f"item({{item}}) and {{in_flight - 1}} others never were in flight together")
        break
    body.gates[item].set()
    body.until(lambda: any(i == item and what != "started" for i, what in body.history))
    if ACTS[item] != "ok":
        time.sleep(0.1)  # the subject may notice
for gate in body.gates:
    gate.set()
caller.join(PATIENCE)

live = most = 0
over = False  # an item has halted it, or raised
for item, what in body.history:
    live += 1 if what == "started" else -1
    most = max(most, live)
    if over and what == "started":
        problems.append(f"item({{item}}) started after another had stopped the fan-out")
    over = over or (what == "raised" and not {keep_going})
if most > {bound}:
    problems.append(f"{{most}} items were in flight together, max_concurrency={bound}")
print("came:    ", came[0] if came else "nothing: the call never came back")
print("expected:", " or ".join(ACCEPTABLE))
for problem in problems:
    print("problem: ", problem)
sys.exit(problems != [] or came == [] or came[0] not in ACCEPTABLE)
'''

_CALL: Final = """\
{start}def call():
{indent}try:
{indent}    {enter} subject.fanout() as it:
{indent}        outcomes = {awaited}it.run(body, list(range(len(ACTS))), max_concurrency={bound}{more})
{indent}    came.append(told(outcomes))
{indent}except BaseException as error:
{indent}    known = [str(e) for e in leaves(error) if any(f"raises {{e}}" == a for a in ACCEPTABLE)]
{indent}    came.append(f"raises {{known[0] if known else repr(error)}}")"""


def program(
    source: str,
    *,
    loop: str | None,
    bound: int,
    acts: Sequence[str],
    keep_going: bool,
    steps: Iterable[tuple[int, int, bool]],
    acceptable: Iterable[str],
) -> str:
    """The program.

    Args:
        source: makes the adapter, as `subject`.
        loop: the loop library on which it runs; None for threads.
        bound: `max_concurrency`.
        acts: what each item does.
        keep_going: `continue_on_error`.
        steps: the forced completions.
        acceptable: what the call may come to.
    """
    call = _CALL.format(
        start="async " if loop else "",
        indent="    ",
        enter="async with" if loop else "with",
        awaited="await " if loop else "",
        bound=bound,
        more=", continue_on_error=True" if keep_going else "",
    )
    imports = ""
    if loop:
        imports = f"import {loop}\nfrom {loop} import sleep\n\n"
        runner = f"{loop}.run(serve)" if loop == "trio" else f"{loop}.run(serve())"
        call = call.replace("async def call()", "async def serve()") + f"\n\n\ndef call():\n    {runner}"
    return _PROGRAM.format(
        imports=imports,
        source=source,
        acts=list(acts),
        steps=list(steps),
        acceptable=list(acceptable),
        bound=bound,
        keep_going=keep_going,
        call=call,
    )
