"""Writes a failing scenario of RTY-05 as a program without pytest: the adapter, the standard library, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_flowcheck.probes.lab import Lab


def write(lab: Lab, patterns: Sequence[Sequence[str]]) -> str:
    """The program: exit status 0 where every call comes out as the model says, else 1."""
    listed = "\n".join(f"    {list(pattern)!r}," for pattern in patterns)
    timed = any("stuck" in pattern for pattern in patterns)
    wrapped = lab.declared("raises") == "wrapper"
    loop = "trio" if lab.subject.backend == "trio" else "asyncio"
    return _PROGRAM.format(
        source=lab.subject.source,
        patterns=listed,
        limit=0.5 if timed else None,
        last="error.__cause__ or error" if wrapped else "error",
        loop=_TRIO if loop == "trio" else _ASYNCIO,
    )


_PROGRAM = '''"""RTY-05, forced: each call's attempts follow a pattern; 'stuck' ones never come back."""
import os
import sys
import threading
from pytest_flowcheck.protocols import is_a
from pytest_flowcheck.protocols.retry import RetryPolicy

{source}
PATTERNS = [
{patterns}
]
LIMIT = {limit}
never = threading.Event()


class Body:
    def __init__(self, name, pattern):
        self.__name__ = self.__qualname__ = self.name = name
        self.pattern, self.starts = pattern, 0

    def begin(self):
        self.starts += 1
        print(f"{{self.name}} #{{self.starts}} starts")
        return self.starts, self.pattern[self.starts - 1] if self.starts <= len(self.pattern) else "returns"

    def end(self, number, does):
        if does == "raises":
            raise ValueError(f"error {{number}}")
        return f"result {{number}}"

    def __call__(self):
        number, does = self.begin()
        if does == "stuck":
            never.wait()
        return self.end(number, does)

    async def aio(self):
        number, does = self.begin()
        if does == "stuck":
            await stuck()
        return self.end(number, does)


def model(pattern):
    for number, does in enumerate(pattern, 1):
        outcome = {{"returns": "result", "raises": "error", "stuck": "timeout"}}[does] + f" {{number}}"
        if does == "returns":
            break
    return outcome, number


def told(body, error):
    error = {last}
    if is_a(error, TimeoutError, getattr(subject, "errors", {{}})):
        return f"timeout {{body.starts}}"
    return next((f"error {{n}}" for n in range(1, 9) if f"error {{n}}" in str(error)), repr(error))


bodies = [Body(f"call {{i}}", pattern) for i, pattern in enumerate(PATTERNS)]
outcomes = {{body: "has not come back" for body in bodies}}


def policy(body):
    return RetryPolicy(attempts=len(body.pattern), timeout=LIMIT)


def report():
    wrong = 0
    for body in bodies:
        came, expected = (outcomes[body], body.starts), model(body.pattern)
        print(f"{{body.name}} {{body.pattern}}: {{came[0]}} after {{came[1]}} starts; expected {{expected[0]}} after {{expected[1]}}")
        wrong |= came != expected
    sys.stdout.flush()
    os._exit(wrong)  # stuck threads hold up any other exit


{loop}

manager = subject.retry(max_workers=4)
if hasattr(manager, "__enter__"):
    with manager as retry:

        def make(body):
            try:
                outcomes[body] = retry.call(body, policy(body))
            except BaseException as error:
                outcomes[body] = told(body, error)

        threads = [threading.Thread(target=make, args=(body,), daemon=True) for body in bodies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        report()
else:
    run(manager)
'''

_ASYNCIO = """import asyncio


async def stuck():
    await asyncio.get_running_loop().create_future()


async def make(retry, body):
    try:
        outcomes[body] = await retry.call(body, policy(body))
    except BaseException as error:
        outcomes[body] = told(body, error)


async def main(manager):
    async with manager as retry:
        await asyncio.wait([asyncio.ensure_future(make(retry, body)) for body in bodies], timeout=10)
        report()


def run(manager):
    asyncio.run(main(manager))"""

_TRIO = """import trio


async def stuck():
    await trio.sleep_forever()


async def make(retry, body):
    try:
        outcomes[body] = await retry.call(body, policy(body))
    except Exception as error:
        outcomes[body] = told(body, error)


async def main(manager):
    async with manager as retry:
        with trio.move_on_after(10):
            async with trio.open_nursery() as nursery:
                for body in bodies:
                    nursery.start_soon(make, retry, body)
        report()


def run(manager):
    trio.run(main, manager)"""
