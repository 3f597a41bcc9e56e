"""The kit's own errors. What a *subject* may raise is in `protocols`.

Exception
 ├─ FlowcheckError      something asked of the kit makes no sense; one clear line, no traceback
 │   ├─ UsageError      a bad option, subject, rule or folder: exit code 4
 │   └─ AdapterError    the adapter itself is broken: its rules read ADAPTER-ERROR, the others go on
 └─ Judgement           a rule has come to an end before its last line
     ├─ Violated        the sentence does not hold: presence, or absence that was proven
     ├─ Inconclusive    neither shown nor refuted: no proof was possible here
     └─ NotTestable     this machine, or the subject's own terms, can't express the question
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pytest_flowcheck.probes.timeline import Event
    from pytest_flowcheck.proof.waitlist import Waiting

Grade = Literal["proven", "observed"]
"""How sure the evidence is: kernel state showed that nothing can happen any more, or it was merely seen not to."""


class FlowcheckError(Exception):
    """Base of what the kit says about bad input. `str(error)` is the one line that the user sees."""


class UsageError(FlowcheckError):
    """What was asked for does not exist or can't be done: says what we got, what was expected, what to write instead."""


class AdapterError(FlowcheckError):
    """The adapter broke its side of the protocol; nothing can be said of the subject behind it."""


class Judgement(Exception):  # noqa: N818 - a verdict, not an error of the program
    """Ends a rule. Never raised towards the subject."""


class Violated(Judgement):
    """The rule's sentence does not hold.

    Args:
        facts: what the subject did, in one or a few sentences.
        expected: what the rule's sentence asks for here.
        proof: why this can't be an accident of timing.
        grade: `"proven"` unless only observed.
        hung: the finding is that something never returns (verdict HUNG rather than VIOLATED).
        leaked: the finding is a growth of threads, processes or references (verdict LEAKED).
    """

    def __init__(
        self,
        facts: str,
        *,
        expected: str,
        proof: str,
        grade: Grade = "proven",
        hung: bool = False,
        leaked: bool = False,
    ) -> None:
        super().__init__(facts)
        self.facts, self.expected, self.proof = facts, expected, proof
        self.grade: Grade = grade
        self.hung, self.leaked = hung, leaked
        self.events: tuple[Event, ...] | None = None
        """The history when it fell."""
        self.told: tuple[Event, ...] | None = None
        """The same with what the rule asked for and let go."""
        self.waiting: tuple[Waiting, ...] = ()
        """Who waited for what when it was proven that nothing can happen any more."""
        self.exhibits: dict[str, Any] = {}
        """See `Lab.exhibits`."""


class Inconclusive(Judgement):
    """No verdict follows. `because_of` names the rule to which this one lost its precondition, where there is one."""

    def __init__(self, reason: str, *, because_of: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.because_of = reason, because_of


class NotTestable(Judgement):
    """The question can't be asked here: says what is missing and what to install or declare."""


class LeftBehindWarning(UserWarning):
    """A test left something behind that a fixture found, and was told not to fail for."""
