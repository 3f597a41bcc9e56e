"""Time limits and timers without a thread for each: one thread that sleeps until the earliest moment it was told of.

    worker ── publish(deadline, cell, on_expired) ──► Post ◄── looks, at that moment ── watchdog thread
    anybody ── call_at(when, callback) ─────────────► inbox ◄─┘

How a limit is kept. Before a call that has one, a worker publishes `(deadline, cell, on_expired)` at its post: one store,
and no thread is woken unless this deadline is the earliest of all. `cell` is a list with one item, the *token*. After
the call the worker pops it. Should the deadline come first, the watchdog pops it. `list.pop` is atomic and succeeds once,
so one of the two settles the call, and the other knows that it came too late:

- the watchdog: it looks on to the next post;
- the worker: what it was doing was given up. It drops what it has, writes itself off (`Pool.write_off`), and returns
  from whatever its pool had called, so that its thread ends.

Whoever gives a call up must write off its worker, so that another may take its place: `on_expired(token)` is where.

What the watchdog calls runs in its thread, between all other limits of its owner: it must be short, take no user's code
along, and not raise (what it raises is logged).
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from heapq import heappop, heappush
from itertools import count
from math import inf
from time import monotonic
from typing import Any, Final, TypeAlias

Watched: TypeAlias = tuple[float, list[Any], Callable[[Any], object]]
"""When (as `time.monotonic`, seconds), the cell that is the settle race, and what to do with the token once it is late."""

_LOG = logging.getLogger(__name__)
_LONGEST: Final = min(threading.TIMEOUT_MAX, 1e6)
"""Seconds: no sleep is longer, as a lock takes no longer time. To wake every eleven days is as good as never."""


class Post:
    """Where one worker publishes what it is in, one thing at a time.

    Guarantees: only the worker stores in `watched`, and what it stored may stay there when it is settled: an empty cell
    is passed over, and holds nothing of the call. A worker that nests publishes at a second post.
    """

    __slots__ = ("state", "watched")

    def __init__(self, state: _State) -> None:
        self.state = state
        self.watched: Watched | None = None

    def publish(self, deadline: float, cell: list[Any], on_expired: Callable[[Any], object]) -> None:
        """From `deadline` on the watchdog takes the token out of `cell`, and calls `on_expired(token)` with it.

        Where nanoseconds count, do by hand what this does: store in `watched`, then compare with `state.wake`, and `nudge`.

        Raises: RuntimeError: there is no thread for the watchdog. Nothing is watched then.
        """
        self.watched = deadline, cell, on_expired
        if deadline < self.state.wake:
            self.nudge(deadline)

    def nudge(self, deadline: float) -> None:
        """What was published is earlier than all the watchdog knows of."""
        try:
            self.state.nudge(deadline)
        except BaseException:
            watched, self.watched = self.watched, None
            if watched is not None:
                # Empty: another's nudge got a thread just now, which has given it up. So there is nothing to raise.
                with suppress(IndexError):
                    watched[1].pop()
                    raise

    def leave(self) -> None:
        """The worker publishes here no more."""
        self.watched = None
        self.state.posts.discard(self)


class _State:
    """What the watchdog's thread and its owner share. The thread doesn't refer to the owner, so that can be dropped.

    Guarantees:
    - `wake` is when the thread looks next, at the latest; `inf` while it looks, while it sleeps untimed, and while
      there is no thread. Whoever adds something adds it first, then reads `wake`, and nudges if that is later.
    - Who nudges lowers `wake`, then releases `alarm`; the thread takes `alarm`, then sets `wake` to `inf`, then looks.
      So whatever is not seen by this look was nudged for, or will be, and causes another.
    - The thread ends under `mutex`, when it was told to, nothing is pending and `alarm` is not released. A nudge, under
      `mutex`, too, then starts another. The lock is re-entrant since a finalizer may tell so in any thread, at any time.
    - There is one thread: it takes its ticket first, and goes home without one. Who is interrupted while it starts one
      takes the ticket back, or finds that it is there.
    - `posts` and `inbox` are used in calls that are one step in C: no lock. `timers` is the thread's own.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.posts: set[Post] = set()
        self.inbox: deque[tuple[float, int, Callable[[], object]]] = deque()
        self.timers: list[tuple[float, int, Callable[[], object]]] = []
        self.numbers = count()
        self.reset()

    def reset(self) -> None:
        """No thread, and nothing to watch: at the beginning, and in a forked child."""
        self.posts.clear()
        self.inbox.clear()
        self.timers.clear()
        self.mutex = threading.RLock()
        self.alarm = threading.Lock()
        self.alarm.acquire()
        self.wake = inf
        self.thread: threading.Thread | None = None
        self.leaving = False

    # -- the side of whoever adds something

    def nudge(self, when: float) -> None:
        """Look, now: there is something earlier than `wake`."""
        with self.mutex:
            self.start()
            try:
                self.wake = min(self.wake, when)
            finally:  # KeyboardInterrupt: whoever reads this `wake` relies on the ring
                self.ring()

    def start(self) -> None:
        """See to it that there is a thread. Under `mutex`."""
        if self.thread is None:
            ticket: list[None] = [None]
            self.thread = threading.Thread(target=self.run, args=(ticket,), name=self.name, daemon=True)
            try:
                self.thread.start()
            except BaseException:
                with suppress(IndexError):
                    ticket.pop()
                    self.thread = None
                raise

    def ring(self) -> None:
        """Let the thread look again. Once too often is harmless."""
        with suppress(RuntimeError):
            self.alarm.release()

    def tell(self, *, leaving: bool) -> None:
        """End as soon as nothing is pending; or don't."""
        with self.mutex:
            self.leaving = leaving
            self.ring()

    # -- the thread's side

    def run(self, ticket: list[None]) -> None:
        """Sleep, look, sleep, …"""
        try:
            ticket.pop()
        except IndexError:
            return  # `start` was interrupted, and doesn't count on this one
        while True:
            self.wake = inf
            self.look()
            nearest = self.nearest()
            if nearest == inf and self.ends():
                return
            self.wake = nearest
            if nearest == inf:
                self.alarm.acquire()
            else:
                self.alarm.acquire(timeout=min(max(nearest - monotonic(), 0.0), _LONGEST))

    def look(self) -> None:
        """Do all that is due."""
        now = monotonic()
        for post in tuple(self.posts):
            watched = post.watched
            if watched is None or watched[0] > now:
                continue
            _, cell, on_expired = watched
            try:
                token = cell.pop()
            except IndexError:
                continue
            self.posts.discard(post)
            _do(on_expired, token)
            del token
        while self.inbox:
            heappush(self.timers, self.inbox.popleft())
        while self.timers and self.timers[0][0] <= now:
            _do(heappop(self.timers)[2])

    def nearest(self) -> float:
        """When the next thing is due."""
        nearest = self.timers[0][0] if self.timers else inf
        for post in tuple(self.posts):
            watched = post.watched
            if watched is not None and watched[1] and watched[0] < nearest:
                nearest = watched[0]
        return nearest

    def ends(self) -> bool:
        """Is this thread's time over? Nothing was pending a moment ago; if that changed, there was a nudge."""
        with self.mutex:
            if not (self.leaving and self.alarm.locked()):
                return False
            self.thread = None
            return True


class Watchdog:
    """The limits and timers of one owner: a retrier, a fan-out, an engine.

    Guarantees:
    - It never polls. With something pending it sleeps until that is due; with nothing pending, in a lock and untimed.
      A deadline that was met costs at most one wake when it comes: nobody is woken to forget it. `relax` does that.
    - Its thread starts with the first deadline, and ends after `close` (or when this object is dropped) as soon as
      nothing is pending. What is added after that starts another.
    - It is a daemon thread. So it is at work for as long as anything is that it watches, also while the interpreter
      waits for workers at exit; and it doesn't keep the interpreter from exiting.
    - A forked child begins with nothing pending, and a thread of its own.
    """

    def __init__(self, name: str = "flowcheck-watchdog") -> None:
        self._state = _State(name)
        weakref.finalize(self, self._state.tell, leaving=True).atexit = False
        _states.add(self._state)

    def post(self) -> Post:
        """A post for a worker; `Post.leave` gives it back."""
        post = Post(self._state)
        self._state.posts.add(post)
        return post

    def call_at(self, when: float, callback: Callable[[], object]) -> None:
        """Call it once, at `when` (as `time.monotonic`, seconds) or soon after, holding no worker until then.

        Raises: RuntimeError: there is no thread for the watchdog. `callback` will not be called then.
        """
        state = self._state
        entry = when, next(state.numbers), callback
        state.inbox.append(entry)
        if when < state.wake:
            try:
                state.nudge(when)
            except BaseException as error:
                try:
                    state.inbox.remove(entry)
                except ValueError:
                    # Another's nudge got a thread just now, which has taken it out, and will call it.
                    if isinstance(error, Exception):
                        return
                raise

    def ensure(self) -> None:
        """Start the thread now, if there is none: since 3.12 none can be started once the interpreter is about to exit.

        Raises: RuntimeError: the system gives no thread.
        """
        if self._state.thread is None:
            with self._state.mutex:
                self._state.start()

    def runs_here(self) -> bool:
        """Is this its thread? Who waits here for what the watchdog is to do waits for ever."""
        return threading.current_thread() is self._state.thread

    def relax(self) -> None:
        """Forget the deadlines that were met: if nothing else is pending, sleep untimed from now on.

        It wakes the thread, if that sleeps timed; so not for each call, but when many are over.
        """
        if self._state.wake != inf:
            self._state.ring()

    def close(self) -> None:
        """No more is going to be added: let the thread end as soon as nothing is pending. Doesn't wait for that."""
        self._state.tell(leaving=True)


def _do(callback: Callable[..., object], *args: Any) -> None:
    """Call it; what it raises must not end the watchdog."""
    try:
        callback(*args)
    except BaseException:  # noqa: BLE001  all other limits depend on this thread
        _LOG.exception("a callback of the watchdog raised")


_states: weakref.WeakSet[_State] = weakref.WeakSet()
"""For a forked child to reset."""


def _after_fork_in_child() -> None:
    """Only the forking thread is here: no watchdog, and none of the workers that published something."""
    for state in tuple(_states):
        state.reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
