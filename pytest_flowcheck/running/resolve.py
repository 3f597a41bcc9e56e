"""Load each subject in a child process first: what dies or hangs on import costs that child, not the run.

    controller                              python -m pytest_flowcheck.running.resolve <question> <answer>
      write the question (a JSON file)  -->   import, load, first probe, warm up
      look at the child's kernel state        (whatever the subject prints goes to a file)
      read the answer                   <--   a JSON file, moved into place when whole

A child that can't be loaded for a reason that the user can mend answers with one line (`UsageError`, exit code 4). One
that dies, or provably never comes back, or outlasts patience, leaves no answer: its rules read ADAPTER-ERROR.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import UsageError
from pytest_flowcheck.proof import Harness, Observer, State, become_subreaper, descendants, kill_tree, wait_list
from pytest_flowcheck.running.plan import Column

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pytest_flowcheck.subjects import Subject

FIRST_LOOK = 1.0
"""Seconds that a child is left alone: most are done by then."""

LOOK_AGAIN = 0.1


def resolve(asked: Sequence[str], extra: Mapping[str, str], folder: Path, patience: float) -> list[Column]:
    """Load these subjects, side by side.

    Args:
        asked: as the user wrote them.
        extra: names that hooks added.
        folder: where the user stands; first on `sys.path`.
        patience: seconds after which a child that may yet answer is given up.

    Raises:
        UsageError: one line for each that does not exist or is no subject.
    """

    def answer_to(spec: str) -> dict[str, Any]:
        return ask({"load": spec, "extra": dict(extra)}, folder, patience)

    with ThreadPoolExecutor(_at_once(len(asked)), thread_name_prefix="flowcheck resolves") as pool:
        answers = list(pool.map(answer_to, asked))
    if wrong := [answer["usage"] for answer in answers if "usage" in answer]:
        raise UsageError("\n".join(wrong))
    columns: list[Column] = []
    for spec, answer in zip(asked, answers, strict=True):
        if "problem" in answer:
            columns.append(Column(asked=spec, problem=answer["problem"]))
        columns += [Column(**column) for column in answer.get("columns", ())]
    return columns


def _at_once(count: int) -> int:
    return max(1, min(count, 2 * (os.cpu_count() or 1)))


def resolve_broken(folder: Path, patience: float) -> list[Column]:
    """Every broken engine that an installed distribution offers.

    Raises:
        UsageError: there is none, or they can't be imported.
    """
    answer = ask({"broken": True}, folder, patience)
    if "columns" not in answer:
        raise UsageError(answer.get("usage") or f"the broken engines can't be loaded: {answer['problem']}")
    return [Column(**column) for column in answer["columns"]]


def ask(question: dict[str, Any], folder: Path, patience: float) -> dict[str, Any]:
    """The answer of one child; `{"problem": line}` if it gave none."""
    with tempfile.TemporaryDirectory(prefix="flowcheck-") as scratch, tempfile.TemporaryFile() as output:
        asking, answer = Path(scratch, "question"), Path(scratch, "answer")
        asking.write_text(json.dumps({**question, "path": [str(folder), *sys.path]}))
        process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, str(asking), str(answer)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(p or str(folder) for p in sys.path))},
        )
        try:
            why = _wait(process, answer, patience)
        finally:
            process.poll()  # learn how it ended before anybody collects it
            kill_tree([*descendants(process.pid), process.pid])
            process.wait()
        if answer.exists():
            found: dict[str, Any] = json.loads(answer.read_text())
            return found
        output.seek(0)
        last = output.read()[-4000:].decode(errors="replace").strip().splitlines()[-1:]
        said = f"; the last line that it wrote: {last[0]}" if last else ""
        return {"problem": (why or f"its process {ended(process.returncode)} while it was loaded") + said}


_BOOT = "import sys; from pytest_flowcheck.running import resolve; resolve.main(*sys.argv[1:])"


def _wait(process: subprocess.Popen[bytes], answer: Path, patience: float) -> str:
    """Until the child has ended or answered; else why it is given up."""
    began = monotonic()
    observer = Observer(Harness(), root=process.pid)
    pause = FIRST_LOOK
    while True:
        if exited(process, pause) or answer.exists():
            return ""
        pause = LOOK_AGAIN
        sighting = observer.prove(lambda: 0)
        if answer.exists() or process.poll() is not None:
            return ""
        if sighting.state is State.QUIESCENT:
            return "loading it never ends: " + "; ".join(wait_list(sighting)[:3])
        if monotonic() - began > patience:
            return f"loading it did not end within {patience:g} s of patience ({sighting.reason or 'it runs'})"


def exited(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait for the end of a process, without polling where the kernel can tell."""
    try:
        handle = os.pidfd_open(process.pid)
    except (OSError, AttributeError):
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True
    try:
        return bool(select.select([handle], [], [], seconds)[0])
    finally:
        os.close(handle)


def ended(status: int | None) -> str:
    """How a process ended, in words: `exited with status 7`, `was killed by SIGSEGV`."""
    if status is None:
        return "ended"
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


# --- the child's side -----------------------------------------------------------------------------------------------


def main(asking: str, answer: str) -> None:
    """Answer one question and leave at once, whatever threads and processes the subject keeps."""
    question: dict[str, Any] = json.loads(Path(asking).read_text())
    sys.path[:] = list(dict.fromkeys(question["path"]))
    become_subreaper()
    found = _answer(question)
    Path(answer + "~").write_text(json.dumps(found))
    Path(answer + "~").replace(answer)
    kill_tree(descendants())
    os._exit(0)


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    try:
        if "call" in question:
            module, _, function = question["call"].partition(":")
            return {"value": getattr(import_module(module), function)(*question["arguments"])}
        if question.get("broken"):
            return {"columns": [asdict(column) for column in _broken()]}
        return {"columns": [asdict(column) for column in _load(question["load"], question["extra"])]}
    except UsageError as error:
        return {"usage": str(error)}
    except BaseException as error:  # noqa: BLE001 - SystemExit too: whatever a subject raises is one line
        text = " ".join(str(error).split())
        what = question.get("load") or question.get("about", "the broken engines")
        return {"usage": f"subject {what!r}: loading it raised {type(error).__name__}{f': {text}' if text else ''}"}


def _load(spec: str, extra: Mapping[str, str]) -> list[Column]:
    from pytest_flowcheck import subjects

    subject = subjects.first_probe(subjects.load(spec, extra))
    warm_up: Callable[[], object] | None = getattr(subject.target, "warm_up", None) if subject.is_adapter else None
    if warm_up is not None:
        warm_up()
    return _columns(spec, subject)


def _columns(asked: str, subject: Subject) -> list[Column]:
    """One for each loop library: the first has every facet, the others those that run on a loop."""
    from pytest_flowcheck import subjects

    looping = {facet: claimed for facet, claimed in subject.claims.items() if "async" in claimed}
    backends = subject.backends if looping else subject.backends[:1]
    return [
        Column(
            asked=asked,
            name=subject.name,
            version=subject.version,
            spec=subject.spec,
            claims={
                facet: sorted(claimed | subjects.read_off_backend(facet, claimed, backend))
                for facet, claimed in sorted((looping if number else subject.claims).items())
            },
            declares={facet: dict(choices) for facet, choices in subject.declares.items()},
            backend=backend,
            unclaimed=sorted(set(subject.unclaimed) - _all(subject.claims)),
            is_adapter=subject.is_adapter,
        )
        for number, backend in enumerate(backends)
    ]


def _all(claims: Mapping[str, Iterable[str]]) -> set[str]:
    return {capability for claimed in claims.values() for capability in claimed}


def _broken() -> list[Column]:
    """The classes marked by `@breaks` in the packages of entry point group `pytest_flowcheck.broken`."""
    from pytest_flowcheck import subjects
    from pytest_flowcheck.running import selftest

    columns: list[Column] = []
    for engine, rules in selftest.engines():
        subject = subjects.first_probe(subjects.load(f"{engine.__module__}:{engine.__qualname__}"))
        # a loop library that is not installed makes every rule NOT-TESTABLE, which tells nothing of the rules
        ways = [way for way in _columns(engine.__qualname__, subject) if find_spec(way.backend) is not None]
        columns += [
            replace(column, name=engine.__qualname__, breaks=sorted(rules), twin=number > 0)
            for number, column in enumerate(ways)
        ]
    return columns


if __name__ == "__main__":
    main(*sys.argv[1:])
