"""A drawn scenario as a program of its own: what is printed below a failure, to be run with `python script.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab

_PROGRAM: Final = '''\
import inspect
import queue
import sys
import threading

{imports}from pytest_flowcheck.protocols import Closed, is_a

{source}

STEPS = {steps}
RAISES = {raises}  # declared: an emit after close raises
PATIENCE = 10.0  # seconds until this program gives up
problems, delivered, failed = [], [], []
errors = getattr(subject, "errors", {{}})


class Sink:
    """Each call waits until the sink is let go, if it is held."""

    def __init__(self):
        self.open, self.fail = threading.Event(), False
        self.open.set()

    def __call__(self, batch):
        batch = [event["by"] + str(event["n"]) for event in batch]
        self.open.wait()
        if self.fail:
            self.fail = False
            failed.extend(batch)
            raise ValueError("the sink failed on " + ", ".join(batch))
        delivered.extend(batch)

    async def aio(self, batch):
        while not self.open.is_set():
            await {sleep}
        self(batch)


async def awaited(value):
    return await value if inspect.isawaitable(value) else value


class Call(threading.Thread):
    """A call under way."""

    def __init__(self, do):
        super().__init__(daemon=True)
        self.do, self.error, self.value, self.settled = do, None, None, []
        self.start()

    def run(self):
        try:
            self.value = self.do()
        except Exception as error:
            self.error = error
        self.settled = delivered + failed

    def came(self, what):
        self.join(PATIENCE)
        if self.is_alive():
            problems.append(what + " never came back")
            raise TimeoutError(what)


{on_loop}


def play(tracer, asked):
    sink_held, pending, accepted, emitted, closed, closing = False, [], {{}}, {{}}, False, []

    def wait(what, call, before):
        call.came(what)
        missing = [event for event in before if event not in call.settled]
        if call.error is not None:
            if what != "flush()" or not closed or not is_a(call.error, Closed, errors):
                problems.append(f"{{what}} raised {{call.error!r}}")
        elif what == "close()" and closing and closing[0] is not call:
            pass  # the first one waits
        elif not (call.value is None or call.value is True or (call.value == 0 and call.value is not False)):
            pass  # it says that not all is delivered
        elif missing and len(missing) > dropped():
            problems.append(f"when {{what}} came back, {{missing}} had not come, and dropped() says {{dropped()}}")

    def dropped():
        call = Call(lambda: asked(lambda: tracer.dropped()))
        call.came("dropped()")
        return call.value or 0  # None: it does not count

    def waiting(what):
        call = Call(lambda: asked(getattr(tracer, what)))
        before = [event for events in accepted.values() for event in events]
        if what == "close":
            closing.append(call)
        if sink_held:
            pending.append((what + "()", call, before))
        else:
            wait(what + "()", call, before)

    def go():
        sink.open.set()
        for each in pending:
            wait(*each)
        pending.clear()

    for what, counts in STEPS:
        print(what, *counts)
        if what == "emit":
            calls = []
            for by, count in zip("abc", counts):
                first = emitted.get(by, 0) + 1
                emitted[by] = first + count - 1
                some = [{{"by": by, "n": number}} for number in range(first, first + count)]
                calls.append((by, some, Call(lambda some=some: [asked(lambda: tracer.emit(event)) for event in some])))
            for by, some, call in calls:
                call.came("emit")
                if closed and some:
                    right = is_a(call.error, Closed, errors) if RAISES and call.error else call.error is None
                    right = right and (closed != "done" or not RAISES or call.error is not None)
                else:
                    right = call.error is None
                    accepted.setdefault(by, []).extend(by + str(event["n"]) for event in some)
                if not right:
                    problems.append(f"emit by {{by}}{{' after close' if closed else ''}}: {{call.error!r}}")
        elif what == "hold":
            sink.open.clear()
            sink_held = True
        elif what == "go":
            sink_held = False
            go()
        elif what == "fail":
            if not sink_held and not closed:
                waiting("flush")  # or it might be the call before that fails
            sink.fail = True
        else:
            waiting(what)
            closed = closed or (what == "close" and ("begun" if sink_held else "done"))
        if closed and not sink_held:
            closed = "done"
    sink_held = False
    go()
    waiting("{last}")
    for by, events in accepted.items():
        came = [event for event in delivered if event.startswith(by)]
        if came != sorted(set(came), key=lambda event: int(event[1:])):
            problems.append(f"{{by}} emitted {{events}}; the sink got {{came}}")
    missing = [event for events in accepted.values() for event in events if event not in delivered + failed]
    if len(missing) > dropped():
        problems.append(f"{{missing}} never came, and dropped() says {{dropped()}}")


sink = Sink()
thread = threading.Thread(target=main, daemon=True)
thread.start()
thread.join(3 * PATIENCE)
for problem in problems or (["the tracer never came back"] if thread.is_alive() else []):
    print("WRONG:", problem)
print("delivered:", *delivered, " failed:", *failed)
sys.stdout.flush()
sys.exit(bool(problems) or thread.is_alive())
'''

_BLOCKING: Final = """\
def main():
    with subject.tracing(sink=sink) as tracer:
        try:
            play(tracer, lambda do: do())
        except TimeoutError:
            pass  # it is told
        sink.open.set()"""

_ASYNCIO: Final = """\
def main():
    async def opened():
        loop = asyncio.get_running_loop()

        def asked(do):
            async def run():
                return await awaited(do())

            return asyncio.run_coroutine_threadsafe(run(), loop).result()

        async with subject.tracing(sink=sink) as tracer:
            over, ring = asyncio.Event(), loop.call_soon_threadsafe

            def played():
                try:
                    play(tracer, asked)
                except TimeoutError:
                    pass  # it is told
                sink.open.set()
                ring(over.set)

            threading.Thread(target=played, daemon=True).start()
            await over.wait()

    asyncio.run(opened())"""

_TRIO: Final = """\
def main():
    async def opened():
        token = trio.lowlevel.current_trio_token()

        def asked(do):
            async def run():
                return await awaited(do())

            return trio.from_thread.run(run, trio_token=token)

        async with subject.tracing(sink=sink) as tracer:
            over = trio.Event()

            def played():
                try:
                    play(tracer, asked)
                except TimeoutError:
                    pass  # it is told
                sink.open.set()
                token.run_sync_soon(over.set)

            threading.Thread(target=played, daemon=True).start()
            await over.wait()

    trio.run(opened)"""


def program(lab: Lab, scenario: tuple[tuple[str, tuple[int, ...]], ...], *, last: str = "close") -> str:
    """The program; see `_play.Step`. `last`: what it ends with, flush or close."""
    backend = lab.subject.backend if "async" in lab.subject.claims.get(lab.facet, ()) else ""
    values: dict[str, Any] = {
        "imports": f"import {backend}\n\n" if backend else "",
        "source": lab.subject.source,
        "steps": "[\n" + "".join(f"    {step!r},\n" for step in scenario) + "]",
        "raises": lab.declared("after_close") == "raise",
        "sleep": f"{backend}.sleep(0.001)" if backend else "None",
        "on_loop": {"": _BLOCKING, "asyncio": _ASYNCIO, "trio": _TRIO}[backend],
        "last": last,
    }
    return _PROGRAM.format(**values)
