"""`flowcheck verify`, `diff`, `summary`, `explain` and `replay`: what they tell, and what they make of what is no certificate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from pytest_flowcheck.certificate import digests, document, markdown
from pytest_flowcheck.rules import bundled_rules
from pytest_flowcheck.running import catalogue

NL = "\n"


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    path = folder / "certificate.json"
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))
    return path


# --- verify -------------------------------------------------------------------------------------------------------------


def test_a_certificate_of_this_kit_holds(flowcheck: Any, written: Any) -> None:
    """Every check holds, and what can't be known is said all the same."""
    done = flowcheck("verify", written("a", {"RTY-01": "VIOLATED"}))
    assert (done.status, done.err) == (0, ""), done.out
    assert "FAILS" not in done.out
    assert "unknown" not in done.out.partition("what can't be known")[0]
    assert "byte for byte the one installed here" in done.out
    assert "digests are no signature" in done.out


def _pass(found: dict[str, Any]) -> None:
    rule = next(rule for rule in found["rules"] if rule["verdict"] == "VIOLATED")
    rule["verdict"] = "PASS"


def _pass_and_count(found: dict[str, Any]) -> None:
    _pass(found)
    counts = found["accounting"]["verdicts"]
    counts["PASS"] += 1
    del counts["VIOLATED"]


def _resealed(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], None]:
    """The same by somebody who knows how digests are made."""

    def changed(found: dict[str, Any]) -> None:
        change(found)
        found["run"]["digest"] = digests.of_run(found["run"])
        found["digests"]["certificate"] = digests.of_lasting(found)

    return changed


def _another_kit(found: dict[str, Any]) -> None:
    found["digests"]["kit"] = "sha256:" + "0" * 64


def _lower(found: dict[str, Any]) -> None:
    """A violated MUST made a SHOULD, and the score to fit."""
    next(rule for rule in found["rules"] if rule["id"] == "RTY-01")["level"] = "SHOULD"
    found["facets"] = document.scores([{**rule, **found["run"]["rules"][rule["id"]]} for rule in found["rules"]])


def _drop_a_rule(found: dict[str, Any]) -> None:
    del found["run"]["rules"][found["rules"].pop(0)["id"]]
    found["accounting"]["rules"] -= 1
    found["accounting"]["verdicts"]["NOT-CLAIMED"] -= 1


WRONG: list[tuple[str, Callable[[dict[str, Any]], object], str]] = [
    ("a verdict", _pass, "it says 1 VIOLATED, and lists 0"),
    ("a verdict and its count", _pass_and_count, "retry: it says"),
    ("a digest", lambda c: c["digests"].update(certificate="sha256:" + "0" * 64), "what was found was altered"),
    (
        "a story",
        lambda c: c["run"]["rules"]["RTY-01"].update(message="all well"),
        "how it came about (`run`) was altered",
    ),
    ("a story, sealed", _resealed(lambda c: c["run"]["rules"]["RTY-01"].update(message="")), "nothing is told of why"),
    ("completeness, sealed", _resealed(lambda c: c.update(complete=False)), "it says that it is partial"),
    ("a sentence, sealed", _resealed(lambda c: c["rules"][0].update(sentence="It runs.")), "asks something else here"),
    ("a level, sealed", _resealed(_lower), "RTY-01 is a MUST for these claims, and it says SHOULD"),
    ("a rule, sealed", _resealed(_drop_a_rule), "it lacks CLI-01"),
    ("a rule twice, sealed", _resealed(lambda c: c["rules"].append(c["rules"][0])), "listed more than once: CLI-01"),
    ("the kit, sealed", _resealed(_another_kit), "one of the two was altered"),
    (
        "a suite, sealed",
        _resealed(lambda c: c["digests"]["suites"].update(retry="sha256:" + "0" * 64)),
        "retry was judged by other code",
    ),
]


@pytest.mark.parametrize(("change", "words"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_what_was_altered_is_told(flowcheck: Any, written: Any, change: Any, words: str) -> None:
    """Whatever contradicts itself, or the kit that it names: exit code 1, and the line that fails says what."""
    folder = written("a", {"RTY-01": "VIOLATED"})
    edit(folder, change)
    done = flowcheck("verify", folder)
    assert done.status == 1, done.err + done.out
    assert words in "".join(line for line in done.out.splitlines() if line.strip().startswith("FAILS")), done.out


def test_another_kits_certificate_is_neither_right_nor_wrong(flowcheck: Any, written: Any) -> None:
    """Of a kit, or a revision, that is not installed here nothing can be told: that is said, and fails nothing."""
    folder = written("a")
    edit(folder, _resealed(lambda c: (_another_kit(c), c["kit"].update(version="9.9"), c.update(revision="2031.1"))))
    done = flowcheck("verify", folder)
    assert done.status == 0, done.out
    assert "unknown  kit: it says 9.9" in done.out
    assert "unknown  revision: it says 2031.1" in done.out


HOSTILE: list[tuple[str, bytes, str]] = [
    ("empty", b"", "no JSON, or torn"),
    ("torn", b'{"schema": 2, "rules": [', "no JSON, or torn"),
    ("no text", b"\x89PNG\r\n\x1a\n", "no JSON, or torn"),
    ("a list", b"[]", "no certificate"),
    ("another document", b'{"name": "x"}', "no certificate"),
    ("old", b'{"schema": 1}', "a certificate of form 1; this kit reads form 2: certify again"),
    ("of the future", b'{"schema": 99}', "by a newer pytest-flowcheck"),
    ("of a form that is none", b'{"schema": "\\u001b[31m2"}', "a certificate of form"),
    ("true is no 1", b'{"schema": true}', "a certificate of form True"),
    ("nearly nothing", b'{"schema": 2}', "not in the form of a certificate"),
    ("deep", b"[" * 200_000, "nested too deeply"),
    ("nan", b'{"schema": NaN}', "NaN is no JSON number"),
    ("a key twice", b'{"schema": 2, "schema": 3}', "'schema' stands twice"),
    ("a number of many digits", b'{"schema": ' + b"9" * 5000 + b"}", "no JSON, or torn"),
]


@pytest.mark.parametrize("command", ["verify", "summary", "diff", "replay"])
@pytest.mark.parametrize(("content", "words"), [h[1:] for h in HOSTILE], ids=[h[0] for h in HOSTILE])
def test_what_is_no_certificate_is_one_line(
    flowcheck: Any, tmp_path: Path, command: str, content: bytes, words: str
) -> None:
    """Old, torn or hostile: every command that reads one says so in one line, which can be shown to a terminal."""
    path = tmp_path / "c.json"
    path.write_bytes(content)
    more = {"diff": [path], "replay": ["EXE-01"]}.get(command, [])
    done = flowcheck(command, path, *more)
    assert (done.status, done.out) == (4, ""), done.out
    assert done.err.count("\n") == 1
    assert words in done.err
    assert "Traceback" not in done.err
    assert done.err.strip().isprintable()


def test_what_is_not_there(flowcheck: Any, tmp_path: Path) -> None:
    """A path that does not exist, a folder without certificates, a device: one line, nothing is read for ever."""
    for path, words in (
        (tmp_path / "no", "no such file"),
        (tmp_path, "no certificate.json"),
        ("/dev/zero", "not a file"),
    ):
        done = flowcheck("verify", path)
        assert done.status == 4
        assert words in done.err


def test_what_is_too_large_is_not_read(flowcheck: Any, tmp_path: Path) -> None:
    """A file beyond all measure costs one line, and no memory."""
    path = tmp_path / "c.json"
    path.touch()
    os.truncate(path, document.MOST_BYTES + 1)
    done = flowcheck("verify", path)
    assert (done.status, "MiB" in done.err) == (4, True)


def test_the_form_names_the_place(flowcheck: Any, written: Any) -> None:
    """A field that is wrong is named, with what it was and what it may be."""
    folder = written("a")
    edit(folder, lambda c: c["rules"][3].update(verdict="GREEN"))
    done = flowcheck("verify", folder)
    assert done.status == 4
    assert "rules/3/verdict" in done.err
    assert "'GREEN'" in done.err
    edit(folder, lambda c: (c["rules"][3].update(verdict="PASS"), c["run"]["rules"].popitem()))
    assert "name different rules" in flowcheck("verify", folder).err


def test_a_text_from_a_stranger_does_nothing_to_a_terminal(flowcheck: Any, written: Any) -> None:
    """Escape sequences, and characters that turn the order of reading round, are shown as what they are."""
    folder = written("a", {"RTY-01": "VIOLATED"}, label="x\x1b[2J\N{RIGHT-TO-LEFT OVERRIDE}y", version="1\r2")
    for command in (("verify", folder), ("diff", folder, written("b")), ("replay", folder, "RTY-01", "--dry-run")):
        said = flowcheck(*command)
        assert all(line.isprintable() for line in said.out.splitlines()), said.out
        assert "\\x1b[2J\\u202e" in said.out


# --- the same bytes -----------------------------------------------------------------------------------------------------


def test_all_that_varies_stands_in_one_place(written: Any) -> None:
    """Two certificates of the same verdicts, made at other times, on another machine, by threads of other names: the same but
    for `run`."""
    a, b = (json.loads((written(name, {"RTY-01": "VIOLATED"}) / "certificate.json").read_text()) for name in "ab")
    b["run"]["environment"]["machine"] = "pdp11"
    del a["run"], b["run"]
    assert json.dumps(a) == json.dumps(b)


def test_what_a_subject_raises_can_be_written(tmp_path: Path, written: Any, flowcheck: Any) -> None:
    """Half a surrogate pair in a message and a nan in the evidence cost nothing: they are written, read and verified."""
    found = document.read(written("a", {"RTY-01": "VIOLATED"}))
    rule = next(rule for rule in found["rules"] if rule["id"] == "RTY-01")
    rule["message"] += "\udc80"
    rule["evidence"] = {"odd": [float("nan"), {"bound": float("inf")}]}
    path = document.write(found, tmp_path / "odd")
    again = next(rule for rule in document.read(path)["rules"] if rule["id"] == "RTY-01")
    assert again["message"].endswith("\udc80")
    assert again["evidence"] == {"odd": ["nan", {"bound": "inf"}]}
    assert flowcheck("verify", path).status == 0


def test_digests_tell_content_and_names() -> None:
    """A sentence, a level, or a byte of the kit changes its digest; asking again does not."""
    rules = bundled_rules()
    assert digests.revision(rules) == digests.revision(list(reversed(rules)))
    assert digests.revision(rules) != digests.revision(rules[1:])
    assert digests.of_rules(rules) == digests.of_rules(rules)
    assert digests.of_json({"a": 1, "b": 2}) == digests.of_json({"b": 2, "a": 1})
    assert len(set(digests.of_rules(rules)["suites"].values())) == 9


# --- diff ---------------------------------------------------------------------------------------------------------------


def test_what_was_mended_and_broken(flowcheck: Any, written: Any) -> None:
    """Each change by its kind, with the facts of what broke; a MUST that got worse is exit code 1, the other way is 0."""
    old = written("old", {"RTY-01": "VIOLATED", "RTY-02": "HUNG", "RTY-03": "NOT-CLAIMED"})
    new = written(
        "new",
        {"RTY-02": "VIOLATED", "RTY-04": "CRASHED", "RTY-05": "INCONCLUSIVE", "RTY-06": "NOT-TESTABLE"},
        version="2.0",
    )
    done = flowcheck("diff", old, new)
    assert done.status == 1
    words = [" ".join(line.split()[:4]) for line in done.out.splitlines() if line.startswith("    RTY")]
    assert words == [
        "RTY-04 PASS -> CRASHED",
        "RTY-05 PASS -> INCONCLUSIVE",
        "RTY-06 PASS -> NOT-TESTABLE",
        "RTY-01 VIOLATED -> PASS",
        "RTY-03 NOT-CLAIMED -> PASS",
        "RTY-02 HUNG -> VIOLATED",
    ]
    assert "it: 1.0 and 2.0" in done.out
    assert "it lost a task" in done.out
    assert flowcheck("diff", old, old).status == 0
    assert flowcheck("diff", written("only mended"), written("the same")).status == 0


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [
        ({"RTY-01": "VIOLATED"}, {}, 0),
        ({}, {"RTY-01": "EXPECTED"}, 1),
        ({"RTY-01": "VIOLATED"}, {"RTY-01": "EXPECTED"}, 0),
        ({}, {"RTY-01": "NOT-RUN"}, 1),
        ({}, {"RTY-01": "UNSTABLE"}, 1),
        ({"RTY-01": "NOT-CLAIMED"}, {"RTY-01": "VIOLATED"}, 0),
        ({"RTY-01": "NOT-CLAIMED"}, {"RTY-01": "NOT-RUN"}, 0),
        ({}, {next(r.id for r in bundled_rules() if r.facet == "retry" and r.level == "SHOULD"): "VIOLATED"}, 0),
    ],
)
def test_what_counts_as_worse(flowcheck: Any, written: Any, before: Any, after: Any, status: int) -> None:
    """A kept MUST that is not kept, not settled or not judged any more; a SHOULD and what was never kept do not count."""
    assert flowcheck("diff", written("a", before), written("b", after)).status == status


def test_rules_that_came_and_went(flowcheck: Any, written: Any) -> None:
    """A rule that one of the two does not know is neither mended nor broken; and who compares unlike things is told."""
    old, new = written("old"), written("new", label="another", name="another")

    def drop(found: dict[str, Any]) -> None:
        found["rules"] = [rule for rule in found["rules"] if rule["id"] != "RTY-01"]
        del found["run"]["rules"]["RTY-01"]
        found["digests"]["suites"]["retry"] = "sha256:" + "0" * 64

    edit(old, drop)
    done = flowcheck("diff", old, new)
    assert "new (1)" in done.out
    assert "RTY-01 - -> PASS" in done.out
    assert "beware: the subjects differ: it and another" in done.out
    assert "beware: the rules of retry were judged by different code" in done.out
    assert "gone (1)" in flowcheck("diff", new, old).out


def test_folders_of_reports_are_compared_by_subject(flowcheck: Any, written: Any, tmp_path: Path) -> None:
    """Each subject with itself; a subject that only one has is no comparison."""
    for report in ("one", "two"):
        for label in ("a", "b"):
            written(f"{report}/{label}", {"RTY-01": "VIOLATED"} if (report, label) == ("two", "b") else {}, label=label)
    done = flowcheck("diff", tmp_path / "one", tmp_path / "two")
    assert (done.status, done.out.count("unchanged:"), done.out.count("broken (1)")) == (1, 2, 1)
    written("two/c", label="c")
    done = flowcheck("diff", tmp_path / "one", tmp_path / "two")
    assert (done.status, "c (only in" in done.err) == (4, True)


# --- Markdown -----------------------------------------------------------------------------------------------------------


def test_markdown_holds_whatever_is_in_it(flowcheck: Any, written: Any) -> None:
    """A table stays a table, and nothing of a stranger's text is marked up, linked, or mentions anybody."""
    label = "x|y](http://evil) <img src=x> @everyone #1 www.evil `code`" + NL + "## head"
    broken, sound = written("a", {"RTY-01": "VIOLATED"}, label=label), written("b", label=label)
    for text in (flowcheck("summary", broken).out, flowcheck("diff", sound, broken, "--markdown").out):
        assert "RTY-01" in text
        for harmful in ("x|y", "](", "http://", "<img", "@everyone", " #1", "www.", "`code`", "\n## "):
            assert harmful not in text
        columns = {line.count("|") for line in text.splitlines() if line.startswith("| RTY")}
        assert columns == {5}


@pytest.mark.parametrize(
    ("sentence", "shown"),
    [
        ("Returns *results*, and `a|b`.", "Returns <em>results</em>, and <code>a&#124;b</code>."),
        ("`<b>` *@me* *a* ", "<code>&#60;b&#62;</code> &#42;&#64;me&#42; <em>a</em>"),
        ("f(*args, **more), 2*n*n, `a` b`", "f(&#42;args, &#42;&#42;more), 2&#42;n&#42;n, <code>a</code> b&#96;"),
    ],
)
def test_a_sentence_has_code_and_emphasis(sentence: str, shown: str) -> None:
    """As its author marked them; what stands within is escaped all the same, and asterisks of code are none."""
    assert markdown.marked(sentence) == shown


def test_the_summary_says_n_of_n(flowcheck: Any, written: Any) -> None:
    """A row for each facet that is claimed, and the line of the exit code."""
    done = flowcheck("summary", written("a", {"RTY-01": "VIOLATED"}))
    must = sum(1 for r in bundled_rules() if r.facet == "retry" and r.level == "MUST")
    assert f"| {must - 1}/{must} |" in done.out
    assert "exit 1: 1 MUST rule VIOLATED (RTY-01)" in done.out
    assert "it lost a task" in done.out
    assert done.status == 0


# --- explain, replay ----------------------------------------------------------------------------------------------------


def test_explain_is_the_text_of_the_plugin(flowcheck: Any) -> None:
    """Both commands read one source, to the letter."""
    done = flowcheck("explain", "exe-4")
    assert done.status == 4
    assert "did you mean EXE-04" in done.err
    (rule,) = [rule for rule in bundled_rules() if rule.id == "EXE-04"]
    assert flowcheck("explain", "exe-04").out == "".join(f"{line}\n" for line in catalogue.explain(rule))
    both = flowcheck("explain", "EXE-05", "EXE-04").out
    assert both.index("EXE-04") < both.index("EXE-05")


def test_replay_judges_again(flowcheck: Any, written: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """The same rule, seed and subject, as it is now: then and now stand side by side, and the exit code is today's."""
    (tmp_path / "mine.py").write_text(
        "class Mine:\n"
        "    claims = {'executor': {'threads'}}\n"
        "    def executor(self, *, max_workers):\n"
        "        from concurrent.futures import ThreadPoolExecutor\n"
        "        return ThreadPoolExecutor(max_workers)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p pytest_flowcheck.plugin")
    folder = written("a", asked="mine.py:Mine")
    edit(folder, lambda c: next(r for r in c["rules"] if r["id"] == "EXE-01").update(verdict="VIOLATED"))
    done = flowcheck("replay", folder, "EXE-01")
    assert done.status == 0, done.out + done.err
    assert "then:    VIOLATED on it 1.0" in done.out
    assert "now:     PASS on Mine" in done.out
    assert "pytest --flowcheck --flowcheck-subject=mine.py:Mine --flowcheck-only=EXE-01 --flowcheck-seed=0" in done.out


def test_replay_runs_nothing_before_it_knows_what(flowcheck: Any, written: Any) -> None:
    """A rule that the certificate has not; a subject that looks like an option: no shell, no option, one line."""
    folder = written("a", asked="-p evil; rm -rf")
    done = flowcheck("replay", folder, "RTY-99")
    assert done.status == 4
    assert "has no rule 'RTY-99': did you mean" in done.err
    assert "--flowcheck-subject=-p evil; rm -rf'" in flowcheck("replay", folder, "RTY-01", "--dry-run").out


def test_usage_is_four(flowcheck: Any) -> None:
    """An unknown command or option: one line that says where help is, as exit code 4."""
    for words in (("nope",), ("diff",), ("verify", "--nope"), ()):
        done = flowcheck(*words)
        assert (done.status, done.err.count("\n")) == (4, 1), done.err
        assert "--help" in done.err
    assert flowcheck("--help").status == 0


def test_the_module_is_the_command(written: Any) -> None:
    """`python -m pytest_flowcheck` does the same, imports no pytest for it, and stops quietly when nobody reads on."""
    folder = written("a")
    program = (
        "import sys; from pytest_flowcheck.shell.main import main; status = main(sys.argv[1:]);"
        "sys.exit(status or 'pytest' in sys.modules or 'hypothesis' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", program, "verify", folder], capture_output=True, check=False).returncode
        == 0
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "pytest_flowcheck", "verify", folder], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_change_needs_both_sides() -> None:
    """Every pair of verdicts has a change, or is the same: none is an error."""
    from pytest_flowcheck.certificate.comparing import CHANGES, compare
    from pytest_flowcheck.certificate.verdicts import Verdict

    base: dict[str, Any] = {
        "subject": {"name": "x", "backend": "asyncio"},
        "revision": "1",
        "seed": 0,
        "environment": {"python": "3"},
        "digests": {"suites": {}, "kit": ""},
        "kit": {"version": ""},
        "complete": True,
    }
    entry = {"id": "RTY-01", "facet": "retry", "level": "MUST", "sentence": "s", "message": ""}
    for a in Verdict:
        for b in Verdict:
            one, two = deepcopy(base), deepcopy(base)
            one["rules"], two["rules"] = [{**entry, "verdict": a.value}], [{**entry, "verdict": b.value}]
            found = compare(one, two)
            assert all(line.change in CHANGES for line in found.lines)
            assert bool(found.same) == (a is b)
