"""The compatibility page: made from certificates, and nothing in it is anybody's opinion."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from pytest_flowcheck.certificate import document
from pytest_flowcheck.certificate.accounting import account
from pytest_flowcheck.certificate.verdicts import Finding, Verdict
from pytest_flowcheck.rules import bundled_rules

ROOT = Path(__file__).parent.parent
FANOUT = {rule.id: rule for rule in bundled_rules() if rule.facet == "fanout"}

pytestmark = pytest.mark.skipif(not (ROOT / "docs/compatibility.py").exists(), reason="needs the source tree")


@pytest.fixture(scope="module")
def compatibility() -> Any:
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("compatibility_page", ROOT / "docs/compatibility.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def written(folder: Path, version: str, **verdicts: Verdict) -> None:
    """A certificate of a fan-out in which these rules end so, and all others pass."""
    found = {id_: Finding(id_, Verdict.PASS, rule.level) for id_, rule in FANOUT.items()}
    for name, verdict in verdicts.items():
        rule = FANOUT[name.replace("_", "-")]
        did = "item(2) | <b>started</b>\ntwice at /home/me/lib/python3.11/pool.py:7"
        message = f"{rule.id} {rule.sentence}\n\nWhat it did:   {did}\n\nExpected:      once"
        found[rule.id] = Finding(rule.id, verdict, rule.level, message=message)
    subject = {"name": "fan", "version": version, "spec": "m:Fan", "asked": "fan", "label": "fan", "backend": "asyncio"}
    certificate = document.build(
        account=account({"fanout": list(FANOUT.values())}, {"fanout": []}, found),
        subject={**subject, "unclaimed": []},
        claims={"fanout": []},
        seed=0,
        kit="1.0",
        revision="2026.1",
        packages={},
    )
    document.write(certificate, folder / version)


def test_a_column_for_each_certificate(compatibility: Any, tmp_path: Path) -> None:
    """Releases in order of their numbers; each verdict as it is; of what fails, what happened."""
    written(tmp_path, "1.10.0", FAN_02=Verdict.VIOLATED, FAN_03=Verdict.NOT_CLAIMED)
    written(tmp_path, "1.9.0", FAN_02=Verdict.INCONCLUSIVE, FAN_05=Verdict.HUNG)
    columns = compatibility.gather(tmp_path)
    assert [column["version"] for column in columns] == ["1.9.0", "1.10.0"]
    page = compatibility.page(json.loads(json.dumps(columns)))
    assert "| | fan<br>1.9.0 | fan<br>1.10.0 |" in page
    assert "| FAN-01 | ok | ok |" in page
    assert "| FAN-02 | ? | **VIOLATED** |" in page
    assert "| FAN-03 | ok |  |" in page
    assert "| FAN-05 | **HUNG** | ok |" in page
    assert "- FAN-02 VIOLATED: item(2) \\| \\<b\\>started\\</b\\> twice at pool.py:7" in page
    assert "## fanout" in page
    assert "## retry" not in page


def test_the_page_is_what_was_gathered(compatibility: Any) -> None:
    """And not edited by hand."""
    assert compatibility.main(["--check"]) == 0


def test_a_folder_without_certificates_is_told(
    compatibility: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says what to do, and nothing is overwritten."""
    before = compatibility.GATHERED.read_bytes()
    assert compatibility.main([str(tmp_path)]) == 1
    assert "no certificate.json below" in capsys.readouterr().err
    assert compatibility.GATHERED.read_bytes() == before
