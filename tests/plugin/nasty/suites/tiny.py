"""The facet `tiny` (TNY): two rules that only want to be left alone, and two in which the subject may do its worst."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_flowcheck.errors import NotTestable
from pytest_flowcheck.rules import rule

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab


def probed(lab: Lab) -> None:
    """Run the one probe without which no rule counts."""
    lab.probe("probe", gated=False)()


@rule("TNY-01")
def calm_before(lab: Lab) -> None:
    """Nothing happens here.

    Intent: A neighbour of the rules that kill.

    Usual cause: A crash that was charged to the wrong rule.

    Proof: The probe ran.

    Source: This test.
    """
    probed(lab)


@rule("TNY-02")
def strike(lab: Lab) -> None:
    """A call into the subject comes back.

    Intent: The place for a nasty subject to be nasty.

    Usual cause: It is nasty.

    Proof: The call returns.

    Source: This test.
    """
    probed(lab)
    lab.call("strike()", lab.subject.target.strike).result()


@rule("TNY-03")
def strike_again(lab: Lab) -> None:
    """A second call into the subject comes back too.

    Intent: Several deaths in one run.

    Usual cause: It is nasty.

    Proof: The call returns.

    Source: This test.
    """
    probed(lab)
    lab.call("strike()", lab.subject.target.strike).result()


@rule("TNY-04")
def calm_after(lab: Lab) -> None:
    """Nothing happens here either.

    Intent: A neighbour of the rules that kill.

    Usual cause: A crash that was charged to the wrong rule.

    Proof: The probe ran.

    Source: This test.
    """
    probed(lab)


@rule("TNY-05", should=True)
def polite(lab: Lab) -> None:
    """The subject is polite.

    Intent: A recommendation.

    Usual cause: Haste.

    Proof: It says so.

    Source: This test.
    """
    probed(lab)
    lab.check(getattr(lab.subject.target, "polite", True), "it was rude", "it is polite")


@rule("TNY-06", "extra")
def extra(lab: Lab) -> None:
    """The subject has the optional thing.

    Intent: A capability.

    Usual cause: None.

    Proof: It says so.

    Source: This test.
    """
    probed(lab)


@rule("TNY-07")
def testable(lab: Lab) -> None:
    """The machine has what it takes.

    Intent: A rule that may have to be skipped.

    Usual cause: None.

    Proof: It says so.

    Source: This test.
    """
    probed(lab)
    if not getattr(lab.subject.target, "testable", True):
        raise NotTestable("this machine lacks the moon")
