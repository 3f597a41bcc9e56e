"""A subject that does its worst costs its own verdicts: never the run, its neighbours, or a process left behind."""

from __future__ import annotations

import os
import signal

import pytest

CALM = {"TNY-01": "PASS", "TNY-04": "PASS", "TNY-05": "PASS", "TNY-06": "PASS", "TNY-07": "PASS"}


@pytest.mark.parametrize(
    ("subject", "verdict", "words"),
    [
        ("Hangs", "HUNG", "it never came about that strike() comes back"),
        ("Exits0", "CRASHED", "exited with status 0"),
        ("Exits7InThread", "CRASHED", "exited with status 7"),
        ("Segfaults", "CRASHED", "was killed by SIGSEGV"),
        ("Killed", "CRASHED", "was killed by SIGKILL"),
        ("HoldsTheLock", "HUNG", "native code holds the interpreter's lock"),
        ("ForksAndDies", "CRASHED", "exited with status 9"),
        ("ClosesAll", "CRASHED", "the process that carried the subject"),
        ("Raises", "VIOLATED", "the strike hit its owner"),
        ("SystemExits", "VIOLATED", "SystemExit(4)"),
        ("Adapts", "ADAPTER-ERROR", "the adapter gave a coroutine"),
    ],
)
def test_two_deaths_cost_two_verdicts(run, subject: str, verdict: str, words: str) -> None:
    """Both rules in which the subject strikes read the verdict, all others what they would have read; nothing is left."""
    done = run("--flowcheck", f"--flowcheck-subject=strikes:{subject}", "--flowcheck-facet=tiny")
    label = next(iter(done.certificates))
    assert done.verdicts(label) == CALM | {"TNY-02": verdict, "TNY-03": verdict}, done.output
    assert done.status == 1, done.output
    assert words in done.output
    assert done.left == []
    assert f"2 MUST rules {verdict} (TNY-02, TNY-03)" in done.last


@pytest.mark.parametrize("subject", ["ClosesStdout", "ThreadRaises", "LeavesThread", "LeavesDaemon"])
def test_bad_manners_alone_are_no_verdict(run, subject: str) -> None:
    """What no rule forbids changes no verdict, under `-W error` either; but nothing of it outlives the run."""
    done = run("--flowcheck", f"--flowcheck-subject=strikes:{subject}", "--flowcheck-facet=tiny", "-Werror", "-n1")
    label = next(iter(done.certificates))
    assert done.verdicts(label) == CALM | {"TNY-02": "PASS", "TNY-03": "PASS"}, done.output
    assert done.status == 0, done.output
    assert done.left == []


def test_patience_bounds_what_cannot_be_proven(run) -> None:
    """A busy loop is no proof of anything: INCONCLUSIVE once patience has run out, and its process is left behind by nobody."""
    done = run("--flowcheck", "--flowcheck-subject=strikes:Spins", "--flowcheck-facet=tiny", "--flowcheck-patience=2")
    assert done.verdicts("spins") == CALM | {"TNY-02": "INCONCLUSIVE", "TNY-03": "INCONCLUSIVE"}, done.output
    assert done.status == 1
    assert done.left == []


def test_a_time_bomb_is_charged_to_who_set_it(run) -> None:
    """A process that dies after its rule ended turns that rule's PASS into CRASHED, and no other rule's."""
    done = run(
        "--flowcheck",
        "--flowcheck-subject=strikes:DiesLater",
        "--flowcheck-facet=tiny",
        "--flowcheck-only=TNY-02",
        "-n1",
    )
    assert done.left == []
    assert done.status in {0, 1}, done.output
    read = done.verdicts("dies-later")["TNY-02"]
    assert read == ("CRASHED" if done.status else "PASS"), done.output


def test_several_killers_beside_a_calm_one(run) -> None:
    """Subjects in one run keep their verdicts apart, however many of them die how often."""
    killers = ("Exits0", "Segfaults", "Hangs", "Exits7InThread")
    done = run(
        "--flowcheck", "--flowcheck-facet=tiny", *(f"--flowcheck-subject=strikes:{s}" for s in ("Calm", *killers))
    )
    assert set(done.verdicts("calm").values()) == {"PASS"}, done.output
    for label, verdict in {"exits0": "CRASHED", "segfaults": "CRASHED", "hangs": "HUNG", "exits7": "CRASHED"}.items():
        assert done.verdicts(label) == CALM | {"TNY-02": verdict, "TNY-03": verdict}, done.output
    assert (done.status, done.left) == (1, [])


@pytest.mark.parametrize(("pool", "rule"), [("HangsInSubmit", "EXE-01"), ("HangsInShutdown", "EXE-12")])
def test_a_real_pool_that_hangs_is_proven(run, pool: str, rule: str) -> None:
    """The executor facet on a pool whose submit or shutdown never returns: HUNG with a wait list, in seconds."""
    done = run("--flowcheck", f"--flowcheck-subject=pools:{pool}", f"--flowcheck-only={rule}")
    (judged,) = [r for r in done.certificates[pool]["rules"] if r["id"] == rule]
    assert (judged["verdict"], judged["grade"]) == ("HUNG", "proven"), done.output
    assert "thread" in judged["message"]
    assert (done.status, done.left) == (1, [])


@pytest.mark.parametrize("mode", ["-n0", "-pno:xdist"])
def test_without_workers_a_hang_still_ends(run, mode: str) -> None:
    """In one process a proven hang costs its verdict, and the process leaves with the right status; nobody joins."""
    done = run("--flowcheck", "--flowcheck-subject=strikes:Hangs", "--flowcheck-facet=tiny", mode)
    assert done.verdicts("hangs") == CALM | {"TNY-02": "HUNG", "TNY-03": "HUNG"}, done.output
    assert (done.status, done.left) == (1, [])
    assert done.last == "exit 1: 2 MUST rules HUNG (TNY-02, TNY-03)"


def test_without_workers_stuck_threads_do_not_hold_up_the_exit(run) -> None:
    """Non-daemon threads that a subject left stuck are not waited for."""
    done = run("--flowcheck", "--flowcheck-subject=strikes:LeavesThread", "--flowcheck-facet=tiny", "-n0")
    assert (done.status, done.left) == (0, []), done.output


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("import_exits", "exited with status 5 while it was loaded"),
        ("import_segfaults", "was killed by SIGSEGV while it was loaded"),
        ("import_hangs", "loading it never ends"),
    ],
)
def test_an_import_that_dies_costs_its_subject_only(run, module: str, words: str) -> None:
    """Every rule of that subject reads ADAPTER-ERROR with one clear line, the others go on; exit code 1."""
    done = run(
        "--flowcheck", "--flowcheck-facet=tiny", f"--flowcheck-subject={module}:X", "--flowcheck-subject=strikes:Calm"
    )
    assert set(done.verdicts("calm").values()) == {"PASS"}, done.output
    assert set(done.verdicts(next(k for k in done.certificates if k != "calm")).values()) == {"ADAPTER-ERROR"}
    assert words in done.output
    assert (done.status, done.left) == (1, [])


@pytest.mark.parametrize(("mode", "whom"), [("-n2", os.killpg), ("-n2", os.kill), ("-n0", os.kill)])
def test_ctrl_c_leaves_a_certificate(run, mode: str, whom) -> None:
    """Interrupted in the middle of a rule: exit code 2 at once, what was judged stands, the rest reads NOT-RUN."""
    os.mkfifo(run.folder / "struck")
    args = (
        "--flowcheck",
        "--flowcheck-subject=strikes:Announces",
        "--flowcheck-facet=tiny",
        "--flowcheck-patience=200",
    )
    process = run.start(*args, mode)
    with open(run.folder / "struck") as pipe:  # opens once the subject strikes
        assert pipe.read(1) == "x"
    whom(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    done = run.finished(process.returncode, output, 0)
    assert (done.status, done.left) == (2, []), done.output
    assert done.verdicts("announces")["TNY-02"] == "NOT-RUN"
    assert not done.certificates["announces"]["complete"]
    assert "exit 2: interrupted" in done.output
