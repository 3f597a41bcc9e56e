"""The report's page, as text: what stands in it, and that nothing of a certificate is markup."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from sample_certificates import CRASH, DEADLOCK, RETRY, SCHEDULE, certificate, every_kind

from pytest_flowcheck.certificate import document, html
from pytest_flowcheck.certificate.verdicts import Verdict

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{DATA}}<!--\u2028\ud800"
"""What a hostile subject could be called, or say."""


class Elements(HTMLParser):
    """Which elements a page has, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def told(page: str) -> dict[str, Any]:
    """The data of a page, as its script reads it."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def hostile() -> dict[str, Any]:
    """A certificate whose every text is an attack."""

    def spoilt(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {k: spoilt(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [spoilt(v, key) for v in value]
        return EVIL if isinstance(value, str) and key not in {"kind", "model"} else value

    evidence = {"EXE-03": DEADLOCK, "EXE-05": RETRY, "EXE-09": CRASH, "EXE-31": SCHEDULE}
    made = certificate(
        EVIL, {rule: (Verdict.VIOLATED, spoilt(found)) for rule, found in evidence.items()}, version=EVIL
    )
    made["subject"] |= {"asked": EVIL, "spec": EVIL, "claims": {"executor": [EVIL]}, "unclaimed": [EVIL]}
    for rule in made["rules"]:
        rule["sentence"], rule["capability"] = EVIL, [EVIL]
        rule["message"] = rule["message"] and EVIL
    return made


def test_nothing_of_a_certificate_is_markup(tmp_path: Path) -> None:
    """Whatever its texts hold, a page has the same elements as that of a harmless certificate, and one script of our own."""
    harmless = json.loads(json.dumps(hostile()).replace(json.dumps(EVIL)[1:-1], "good"))
    attacked = html.write([hostile()], tmp_path / "report.html").read_text(encoding="utf-8")
    good = html.page([harmless])
    assert [tag for tag, _ in Elements(attacked).seen] == [tag for tag, _ in Elements(good).seen]
    for _, attributes in Elements(attacked).seen:
        assert not [name for name in attributes if name.startswith("on") or name in {"src", "style"}]
    assert told(attacked)["subjects"][0]["label"] == EVIL.replace("\ud800", "?")
    assert attacked.count("<script") == 2


def test_the_page_asks_for_nothing() -> None:
    """No address is in the page but the names of XML, and its policy forbids every request and every script but its own."""
    page = html.page(every_kind())
    assert set(re.findall(r"https?://[^\s\"'<`]+", page)) == {"http://www.w3.org/2000/svg"}
    (policy,) = [a["content"] for tag, a in Elements(page).seen if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


def test_the_overview_stands_without_scripts() -> None:
    """Who passed, who failed and in what, and who was judged in part only."""
    page = html.page(every_kind())
    assert "3 subjects: 1 passed, 1 failed, 1 partial" in page
    overview = page[page.index("<table>") : page.index("</table>")]
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", overview))
    assert (
        "broken 1.0 FAILED EXE-03 HUNG EXE-05 VIOLATED EXE-08 INCONCLUSIVE EXE-09 VIOLATED EXE-31 SHOULD VIOLATED"
        in words
    )
    assert "partial 1.0 PARTIAL 2 NOT-RUN" in words
    alone = html.page(every_kind()[:1])
    assert re.search(r'<p id="summary">sound 1\.0: (\d+) of \1 MUST rules kept</p>', alone)
    assert "2 not run, so this is no whole certificate" in html.page(every_kind()[2:])


def test_two_releases_are_told_apart() -> None:
    """Subjects of one label are named by their version, and by a number if that is the same as well."""
    page = told(html.page([certificate("it", {}, version=v) for v in ("1", "2", "2")]))
    assert [subject["label"] for subject in page["subjects"]] == ["it 1", "it 2 (1)", "it 2 (2)"]


def test_a_rule_that_a_certificate_does_not_know() -> None:
    """Of another revision: NOT-RUN there, with the reason."""
    old = certificate("old", {})
    old["rules"] = [rule for rule in old["rules"] if rule["id"] != "EXE-02"]
    page = told(html.page([certificate("new", {}), old]))
    number = [rule[0] for rule in page["rules"]].index("EXE-02")
    assert page["verdicts"][page["subjects"][1]["cells"][3 * number]]["name"] == "NOT-RUN"
    assert "does not have this rule" in page["reasons"][page["subjects"][1]["why"][number]]


def test_what_is_told_of_a_violation() -> None:
    """Story, picture, waits, crash, schedule, scenario, program and reproducer; never the same twice."""
    details = told(html.page(every_kind()))["subjects"][1]["details"]
    assert set(details["EXE-03"]) == {"seconds", "reproduce", "story", "picture", "waits"}
    assert set(details["EXE-05"]) == {"seconds", "reproduce", "story", "picture", "example", "script"}
    assert set(details["EXE-09"]) == {"seconds", "reproduce", "story", "notes", "crash"}
    assert set(details["EXE-31"]) == {"seconds", "reproduce", "story", "picture", "schedule"}
    assert set(details["EXE-08"]) == {"seconds", "reproduce", "message", "because_of"}
    assert details["EXE-09"]["story"]["facts"] == "the load raised Corrupt."
    assert details["EXE-03"]["reproduce"] == "pytest --flowcheck --flowcheck-subject=m:broken --flowcheck-only=EXE-03"


def test_a_reproducer_can_be_pasted() -> None:
    """A subject with a blank or worse in its name is quoted for the shell; a seed of its own is given."""
    made = certificate("it", {"EXE-03": (Verdict.VIOLATED, {})})
    made["subject"]["asked"], made["seed"] = "my file.py:$(rm)", 7
    command = told(html.page([made]))["subjects"][0]["details"]["EXE-03"]["reproduce"]
    assert command.endswith("--flowcheck-subject='my file.py:$(rm)' --flowcheck-only=EXE-03 --flowcheck-seed=7")


def test_what_was_found_first_of_an_unstable_rule() -> None:
    """Its evidence is that of the first finding."""
    details = told(html.page([certificate("it", {"EXE-03": (Verdict.UNSTABLE, {"first": DEADLOCK})})]))
    assert set(details["subjects"][0]["details"]["EXE-03"]) >= {"message", "story", "picture", "waits"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 worker(s)\nstep  operation\n   0  submit", (["1 worker(s)"], ["step", "operation"], [["0", "submit"]])),
        ("save('a')\nload('a')", ([], [], [["save('a')"], ["load('a')"]])),
        ("TTL 0\n 1. acquire\n 2. stop", (["TTL 0"], [], [["acquire"], ["stop"]])),
        ("1. acquire\nthen stop", ([], [], [["1. acquire"], ["then stop"]])),
        ("2 workers, 3 tasks", ([], [], [["2 workers, 3 tasks"]])),
        ("a  b\nc  d  e", ([], [], [["a  b"], ["c  d  e"]])),
        ("", ([], [], [])),
    ],
    ids=["columns", "steps", "numbered", "not all numbered", "one line", "ragged", "empty"],
)  # fmt: skip
def test_an_example_is_a_table(text: str, expected: tuple[list[str], list[str], list[list[str]]]) -> None:
    """Columns are two blanks apart; without them each line is a row."""
    made = html.table(text)
    assert (made["before"], made["head"], made["rows"]) == expected


def test_fifty_subjects_are_less_than_five_megabytes() -> None:
    """Every rule on fifty subjects, a tenth of which is violated, with timelines."""
    names = [rule["id"] for rule in certificate("it", {})["rules"]]
    kinds = [DEADLOCK, RETRY, CRASH, SCHEDULE]
    facets = tuple(sorted({rule["facet"] for rule in certificate("it", {})["rules"]}))
    found = {rule: (Verdict.VIOLATED, kinds[n % 4]) for n, rule in enumerate(names) if n % 10 == 0}
    many = [
        {**made, "subject": {**made["subject"], "label": f"s{n}"}}
        for made in [certificate("s", found, claims=facets)]
        for n in range(50)
    ]
    page = html.page(many)
    assert len(page.encode()) < 5_000_000
    assert len(told(page)["subjects"]) == 50


def test_a_run_writes_the_page_and_the_badges(run) -> None:
    """`--flowcheck-report` writes one page for all subjects and a badge for each; the certificates' evidence keeps the schema."""
    done = run("--flowcheck-only=EXE-31", "--flowcheck-subject=stdlib-threads", "--flowcheck-subject=pools:Same", "-v")
    folder = run.folder / "certificates"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert [subject["label"] for subject in told(page)["subjects"]] == ["stdlib-threads", "ThreadPoolExecutor"]
    assert f"to look at: {folder / 'report.html'}" in done.output
    for label in done.certificates:
        assert (folder / label / "badge.svg").read_text().startswith("<svg ")
        assert json.loads((folder / label / "badge.json").read_text())["color"] == "lightgrey"
        jsonschema.Draft202012Validator(document.schema()).validate(
            json.loads((folder / label / "certificate.json").read_text())
        )
    story = told(page)["subjects"][0]["details"]["EXE-31"]
    assert story["story"]["cause"].startswith("Waiters are told by the worker")
    assert {"wait([cancelled])", "hold 0"} <= {bar["name"] for bar in story["picture"]["bars"]}
    assert any(node["name"] == "queued 7" for node in story["waits"]["nodes"])


def test_a_failure_at_v_has_a_picture(run) -> None:
    """A lane for each thread, below the story; without `-v` there is none."""
    args = (
        "--flowcheck-only=EXE-03",
        "--flowcheck-subject=flowcheck_reference.broken.executor.workers:OneTooMany",
        "-n0",
    )
    with_picture, without = run(*args, "-v", report=False), run(*args, report=False)
    assert re.search(r"Timeline:\n(?:  .*\n)*?  \S+_0  .*\[\.*>  .*task 0\n", with_picture.output), with_picture.output
    assert "Timeline:" not in without.output
