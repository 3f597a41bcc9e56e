"""A drawn life of loops as a program of its own: what is printed below a failure, to be run with `python script.py`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab

_PROGRAM: Final = '''\
import http.server
import queue
import sys
import threading

import {loop}
from pytest_flowcheck.protocols import Closed, is_a

{source}

TURNS = {turns}  # how many turns of the loop it takes to make a client
STEPS = {steps}
RAISES = {raises}  # declared: get raises behind a close
PATIENCE = 10.0  # seconds until this program gives up
history = []  # ("made" or "closed", the client)
ended = []  # loops, kept so that no new one is at the address of a dead one


class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        """Not asked."""


class Client:
    """Bound to the loop that made it."""

    def __init__(self):
        self.name = f"client {{sum(what == 'made' for what, _ in history) + 1}}"
        self.loop, self.closed = here(), False
        history.append(("made", self.name))

    @property
    def url(self):
        global server
        if server is None:
            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
            threading.Thread(target=server.serve_forever, daemon=True).start()
        return "http://127.0.0.1:%d" % server.server_port

    async def use(self):
        if self.loop is not here():
            raise RuntimeError(f"{{self.name}} is bound to a different event loop")
        if self.closed:
            raise RuntimeError(f"{{self.name}} is closed")
        return self.name

    async def aclose(self):
        history.append(("closed", self.name))
        self.closed = True


class Factory:
    __name__ = __qualname__ = "make_client"

    def __call__(self):
        return Client()

    async def aio(self):
        for _ in range(TURNS):
            await {loop}.sleep(0)
        return Client()


class Thread:
    """A thread on which loops run one after the other; each takes calls until it is told to end."""

    def __init__(self):
        self.inbox, self.outbox = queue.SimpleQueue(), queue.SimpleQueue()
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            self.inbox.get()
            {run}
            self.outbox.put((None, None))

    async def serve(self):
        ended.append(here())
        self.outbox.put((None, None))
        while True:
            try:
                job = self.inbox.get_nowait()
            except queue.Empty:
                await {loop}.sleep(0.001)
                continue
            if job is None:
                return
            try:
                self.outbox.put((await job(), None))
            except Exception as error:
                self.outbox.put((None, error))

    def ask(self, job):
        self.inbox.put(job)
        return self.outbox.get(timeout=PATIENCE)


{helpers}


async def awaited(value):
    return await value if hasattr(value, "__await__") else value


def getting(cache, many):
    async def one(_=None):
        try:
            client = await awaited(cache.get())
        except Exception as error:
            return None, f"get raised {{error!r}}", is_a(error, Closed, errors)
        try:
            return client, await client.use(), False
        except Exception as error:
            return None, f"get gave a client whose use raised {{error!r}}", False

    return lambda: at_once(one, many)


errors, server = getattr(subject, "errors", {{}}), None
problems, threads, has, got, seen, shut = [], {{}}, {{}}, {{}}, set(), False


def told(step, came, right):
    print("right:" if right else "WRONG:", step, "->", came)
    if not right:
        problems.append(step)


def play(cache):
    global shut
    for step in STEPS:
        what, number, *many = step
        if what == "close":
            cache.close()
            has.clear()
            shut = True
            continue
        thread = threads.setdefault(number, Thread()) if number not in threads else threads[number]
        if what in ("begin", "end"):
            thread.ask(what if what == "begin" else None)
            has.pop(number, None)
            continue
        past = len(history)
        if what == "get":
            gots, error = thread.ask(getting(cache, many[0]))
            names = sorted({{name for _, name, _ in gots}}) if gots else [repr(error)]
            if gots and RAISES and shut and all(closed for _, _, closed in gots):
                told(step, names[0], True)
                continue
            made = sum(what == "made" for what, _ in history[past:])
            mine = has.get(number)
            right = bool(gots) and all(client is not None for client, _, _ in gots) and len(names) == 1
            right = right and (names[0] == mine and not made if mine else names[0] not in seen and made == 1)
            told(step, f"{{' and '.join(names)}}; {{made}} made", right)
            if not right:
                return
            seen.add(names[0])
            has[number], got[number] = names[0], gots[0][0]
        elif what == "use" and number in has:
            _, error = thread.ask(lambda: got[number].use())
            told(step, repr(error) if error else has[number], error is None)
        elif what == "aclose":
            _, error = thread.ask(lambda: awaited(cache.aclose()))
            closed = [name for what, name in history[past:] if what == "closed" and name in has.values()]
            expected = [has[number]] if number in has else []
            told(step, repr(error) if error else f"closed: {{closed}}", error is None and closed == expected)
            has.pop(number, None)
            shut = True
        if problems:
            return


try:
    with subject.client(Factory()) as cache:
        play(cache)
except queue.Empty:
    problems.append("a call never came back")
    print("WRONG:", problems[-1])
sys.stdout.flush()
sys.exit(problems != [])
'''

_ASYNCIO: Final = """\
def here():
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def at_once(one, many):
    return await asyncio.gather(*(one() for _ in range(many)))"""

_TRIO: Final = """\
def here():
    return trio.lowlevel.current_trio_token() if trio.lowlevel.in_trio_run() else None


async def at_once(one, many):
    gots = []

    async def add():
        gots.append(await one())

    async with trio.open_nursery() as nursery:
        for _ in range(many):
            nursery.start_soon(add)
    return gots"""


def program(lab: Lab, turns: int, steps: Iterable[tuple[Any, ...]]) -> str:
    """The program.

    Args:
        lab: whose subject it is about.
        turns: how many turns of its loop making a client takes.
        steps: see `_play.Step`.
    """
    loop = lab.subject.backend
    return _PROGRAM.format(
        loop=loop,
        source=lab.subject.source,
        turns=turns,
        steps="[\n" + "".join(f"    {step!r},\n" for step in steps) + "]",
        raises=lab.declared("after_close") == "raise",
        run="trio.run(self.serve)" if loop == "trio" else "asyncio.run(self.serve())",
        helpers=_TRIO if loop == "trio" else _ASYNCIO,
    )
