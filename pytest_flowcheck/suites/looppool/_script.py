"""A drawn scenario as a program of its own: what is printed below a failure, to be run with `python script.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.suites.looppool._model import Scenario

_PROGRAM: Final = '''\
import inspect
import sys
import threading
import time

{imports}{source}

TTL = {ttl!r}
KINDS = {kinds!r}  # what make gives, by key
FAILING = {failing!r}  # whether finalizers raise
STEPS = {steps!r}
CLEAR_AT_ONCE = {at_once!r}
PATIENCE = 10.0  # seconds until this program gives up


class Resource:
    def __init__(self, name, truth):
        self.name, self.truth = name, truth

    def __bool__(self):
        return self.truth

    def __repr__(self):
        return self.name


made, finalised, problems = [], [], []


class Make:
    """A thread calls it, a loop awaits `aio`."""

    __name__ = __qualname__ = "make"

    def __call__(self, key):
        made.append(key)
        name = key + str(made.count(key))
        return None if KINDS[key] == "none" else Resource(name, KINDS[key] == "object")

    async def aio(self, key):
        return self(key)


class Finalize:
    __name__ = __qualname__ = "finalize"

    def __call__(self, value):
        finalised.append(str(value))
        if FAILING:
            raise ValueError(f"the finalizer of {{value!r}} failed")

    async def aio(self, value):
        return self(value)


class Model:
    """key, number, holders, whether it was cleared, whether it is finalised: a list for each resource."""

    def __init__(self):
        self.all, self.current, self.leases = [], {{}}, []

    def hold(self, key):
        if key not in self.current:
            number = 1 + sum(one["key"] == key for one in self.all)
            self.current[key] = {{"key": key, "number": number, "holders": 0, "dropped": False, "ended": False}}
            self.all.append(self.current[key])
        self.current[key]["holders"] += 1
        return self.current[key]

    def let_go(self, one):
        one["holders"] -= 1
        if not one["ended"] and not one["holders"] and (one["dropped"] or TTL == 0):
            self.end(one)

    def end(self, one):
        one["ended"] = True
        if self.current.get(one["key"]) is one:
            del self.current[one["key"]]

    def clear(self, at_once):
        for one in self.all:
            if not one["ended"]:
                one["dropped"] = True
                self.current.pop(one["key"], None)
                if at_once or not one["holders"]:
                    self.end(one)

    def named(self, one):
        return "None" if KINDS[one["key"]] == "none" else one["key"] + str(one["number"])


model = Model()


def expect(what, came, expected):
    if came != expected:
        problems.append(f"{{what}}: came {{came}}, expected {{expected}}")


def agree(what):
    ended = sorted(model.named(one) for one in model.all if one["ended"])
    until = time.monotonic() + 1.0
    while len(finalised) < len(ended) and time.monotonic() < until:
        time.sleep(0.005)  # a reaper may need a moment
    expect(f"after {{what}}, made", sorted(made), sorted(one["key"] for one in model.all))
    expect(f"after {{what}}, finalised", sorted(finalised), ended)


{play}

thread = threading.Thread(target=play, daemon=True)
thread.start()
thread.join(PATIENCE)
if thread.is_alive():
    problems.append("a call never came back")
for problem in problems:
    print("problem: ", problem)
print("made:     ", *made)
print("finalised:", *finalised)
sys.exit(bool(problems))
'''

_PLAY: Final = """\
{start}def step(pool, what, which):
    if what == "acquire":
        lease = {awaited}pool.acquire(which)
        one = model.hold(which)
        if KINDS[which] != "none":
            expect(f"acquire({{which!r}})", str(lease.value), model.named(one))
        model.leases.append((lease, one))
    elif what == "release" and model.leases:
        lease, one = model.leases.pop(which % len(model.leases))
        {awaited}pool.release(lease)
        model.let_go(one)
    elif what == "clear":
        {awaited}pool.clear()
        model.clear(CLEAR_AT_ONCE)
    elif what == "stop":
        {awaited}pool.stop()
        model.clear(True)


{start}def played():
    {enter} subject.looppool(ttl=TTL, make=Make(), finalize=Finalize()) as pool:
        for what, which in STEPS:
            if problems:
                break
            try:
                {awaited}step(pool, what, which)
            except Exception as error:
                if what == "acquire" or not FAILING:
                    problems.append(f"{{what}}({{which!r}}) raised {{error!r}}")
                elif what != "release":
                    model.clear(True if what == "stop" else CLEAR_AT_ONCE)
            agree(f"{{what}}({{which!r}})")


def play():
    {run}"""


def program(lab: Lab, scenario: Scenario) -> str:
    """The program. What cancelled callers came to is a matter of moments: it plays them as if they were not cancelled."""
    looping = "async" in lab.subject.claims.get(lab.facet, ())
    backend = lab.subject.backend
    run = (f"{backend}.run(played)" if backend == "trio" else f"{backend}.run(played())") if looping else "played()"
    play = _PLAY.format(
        start="async " if looping else "",
        awaited="await " if looping else "",
        enter="async with" if looping else "with",
        run=run,
    )
    return _PROGRAM.format(
        imports=f"import {backend}\n\n" if looping else "",
        source=lab.subject.source,
        ttl=scenario.ttl,
        kinds=dict(zip(("a", "b"), scenario.kinds, strict=True)),
        failing=scenario.failing,
        steps=[(what.removeprefix("cancelled "), which) for what, which in scenario.steps],
        at_once=lab.declared("clear") == "at_once",
        play=play,
    )
