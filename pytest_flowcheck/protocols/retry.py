"""retry (RTY): one call, tried again when it fails or takes too long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from pytest_flowcheck.protocols._body import AwaitableOrValue, Body, Opened

T = TypeVar("T")

CAPABILITIES: Final = {
    "timeout": "an attempt is given up after `policy.timeout` seconds, and the call goes on without it",
    "bounded": "at most `max_workers` attempts that have not timed out run at once; others queue",
    "history": "errors of earlier attempts are reachable from the one raised",
    "context": "each attempt sees the caller's context variables",
    "policy": "`policy.retry_on` says which errors are worth another try",
    "fence": "what an abandoned attempt still does has no effect on the call that gave it up",
}
"""The optional capabilities of this facet, and what each promises: the only list of them."""

READ_OFF: Final = {"async": "opened by `async with`; attempts are awaited on the caller's loop"}
"""Capabilities that nobody claims: they are read off the opened instance."""

TRAITS: Final[dict[str, str]] = {}

DECLARES: Final[dict[str, tuple[str, ...]]] = {
    "raises": ("itself", "wrapper"),
    "abandoned": ("runs", "killed"),
    "zero_attempts": ("refused", "once", "forever"),
    "none_attempts": ("refused", "once", "forever"),
    "zero_timeout": ("refused", "none", "at_once"),
}
"""Choices that rules take *as declared*, the default first.

`raises`: what a call whose attempts all failed raises: the last error itself, or an error of the subject's own around
it (RTY-02). `abandoned`: what becomes of a synchronous attempt that timed out (RTY-24). `zero_attempts`,
`zero_timeout`: what 0 means; `none_attempts`: what `attempts=None` means (RTY-13)."""

OPENS: Final[dict[str, Any]] = {"max_workers": 2}
"""Arguments with which the colour of an instance is read off."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long. The kit passes nonsense too, unchecked: refusing it is the subject's part (RTY-13)."""

    attempts: int = 1
    """Tries in all, the first included (RTY-02)."""
    timeout: float | None = None
    """`[timeout]` seconds for each attempt, from its own start (RTY-03, 07); None: no limit."""
    backoff: float = 0.0
    """Seconds between the end of one attempt and the start of the next (RTY-11); constant."""
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    """`[policy]` what is worth another try (RTY-16); an attempt that timed out is one where TimeoutError is."""


class Retry(Protocol):
    """Calls bodies under a policy; many calls at once share it (RTY-08, 09, 20)."""

    def call(self, body: Body[[], T], policy: RetryPolicy) -> AwaitableOrValue[T]:
        """The value of the first attempt that returns (RTY-01, 04..06).

        Raises: the last attempt's error, itself or as its cause (RTY-02), earlier ones reachable by `__cause__`,
        `__context__` or `exceptions` (RTY-21); TimeoutError, also by `Subject.errors`, while the body is still
        running (RTY-03, 18); Invalid, which is a ValueError, or TypeError for a policy without sense (RTY-13).
        """
        ...


class Opener(Protocol):
    """`subject.retry`. At most `max_workers` attempts at once where `[bounded]` is claimed; else it may be ignored."""

    def __call__(self, *, max_workers: int) -> Opened[Retry]: ...
