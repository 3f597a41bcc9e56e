"""The report's page in a real browser: what a reader sees, by pointer, by keyboard, on a phone and in the dark."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sample_certificates import DEADLOCK, RETRY, certificate, event, every_kind
from test_report import EVIL, hostile

from pytest_flowcheck.certificate import html
from pytest_flowcheck.certificate.verdicts import Verdict

webdriver = pytest.importorskip("selenium.webdriver", reason="the browser is driven by selenium: pip install selenium")
CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
if not CHROMIUM or not DRIVER:
    pytest.skip("no Chromium with its driver here: apt-get install chromium chromium-driver", allow_module_level=True)

from axe_selenium_python import Axe  # noqa: E402 - needs selenium
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

PHONE, DESK = (390, 844), (1200, 900)


class Page:
    """A page in the browser."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def find(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def run(self, script: str, *args: Any) -> Any:
        return self.driver.execute_script(script, *args)

    def press(self, *keys: str) -> None:
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def focused(self) -> str:
        """The label, or the text, of what has the focus."""
        return self.run("const at = document.activeElement; return at.ariaLabel || at.textContent.trim() || at.tagName")

    def cell(self, label: str) -> Any:
        return self.find(f'td[aria-label^="{label}"]')

    def shown(self) -> list[str]:
        """The rules that are shown."""
        return self.run(
            "return [...document.querySelectorAll('#matrix tbody:not([hidden]) tr:not([hidden]) .id')].map(e => e.textContent)"
        )

    def choose(self, name: str, value: str) -> None:
        self.run(
            "const it = document.getElementById(arguments[0]); it.value = arguments[1];"
            "it.dispatchEvent(new Event('input', { bubbles: true }))",
            name,
            value,
        )  # fmt: skip

    def go(self, at: str) -> None:
        """To the details at this address, as a link would; stays where it is for none."""
        if at:
            self.driver.execute_async_script(
                "const [at, done] = arguments; addEventListener('hashchange', () => done(), { once: true }); location.hash = at",
                at,
            )

    def told(self) -> str:
        return self.find("#told").text

    def complaints(self) -> list[str]:
        """What the browser's console says since it was last asked: errors, and breaches of the policy."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    """One browser for all tests: it takes longer to start than to try them."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield started
    started.quit()


@pytest.fixture
def opened(driver: Any, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """The page of some certificates, in a window of some size."""

    def show(
        certificates: list[dict[str, Any]],
        at: str = "",
        size: tuple[int, int] = DESK,
        *,
        dark: bool = False,
        scripts: bool = True,
    ) -> Page:
        path = html.write(certificates, tmp_path / "report.html")
        width, height = size
        phone = size == PHONE
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripts})
        driver.get("about:blank")
        driver.get_log("browser")
        driver.get(path.as_uri() + at)
        return Page(driver)

    yield show
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_the_matrix_by_pointer(opened: Callable[..., Page]) -> None:
    """A cell for each rule and subject; a click tells the story, the focus comes back to the cell; the console is silent."""
    page = opened(every_kind())
    assert len(page.all("#matrix tbody:not([hidden]) td.cell")) == 3 * len(page.shown()) > 90
    cell = page.cell("EXE-03 on broken")
    assert cell.text == "HUNG"
    cell.click()
    assert page.find("#details-title").text == "HUNG EXE-03 on broken 1.0"
    for words in ("It did this.", "That.", "It is there.", "An off-by-one.", "--flowcheck-only=EXE-03"):
        assert words in page.told()
    page.press(Keys.ESCAPE)
    assert not page.find("dialog").is_displayed()
    assert page.focused() == "EXE-03 on broken: HUNG, MUST, proven"
    page.cell("EXE-01 on sound").click()
    assert "the probes show that it was put to the test" in page.told()
    page.find("#close").click()
    assert page.complaints() == []


def test_the_matrix_by_keyboard(opened: Callable[..., Page]) -> None:
    """One stop of the tab key leads into the matrix; arrows move, Enter opens, arrows go on to the next that is not kept."""
    page = opened(every_kind())
    page.run("document.querySelector('#filters button').focus()")
    page.press(Keys.TAB)
    assert page.focused().startswith("EXE-01 on sound")
    page.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
    assert page.focused().startswith("EXE-03 on broken")
    page.press(Keys.ENTER)
    assert "EXE-03 on broken" in page.find("#details-title").text
    assert "1 of 5 not kept" in page.find("#position").text
    page.press(Keys.ARROW_RIGHT)
    assert "EXE-05 on broken" in page.find("#details-title").text
    page.press(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert "EXE-31 on broken" in page.find("#details-title").text
    page.press(Keys.ESCAPE)
    assert page.focused().startswith("EXE-03 on broken")
    page.press(Keys.END)
    assert page.focused().startswith("EXE-03 on partial")


def test_filters(opened: Callable[..., Page]) -> None:
    """Text, facet, verdict, level, capability and grade; how many are left is said; what nobody claims is out of the way."""
    page = opened(every_kind())
    executor = page.shown()
    assert all(rule.startswith("EXE-") for rule in executor)
    page.choose("verdict", "!")
    assert page.shown() == ["EXE-03", "EXE-05", "EXE-08", "EXE-09", "EXE-31"]
    page.choose("level", "S")
    assert page.shown() == ["EXE-31"]
    assert page.find("#count").text.startswith("1 of ")
    page.find("#filters button[type=reset]").click()
    assert page.run(
        "return new Promise(done => setTimeout(() => done(document.getElementById('count').textContent)))"
    ).startswith(f"{len(executor)} of")
    page.choose("text", "shutdown wait")
    assert "EXE-09" in page.shown()
    page.choose("text", "")
    page.choose("capability", "nested")
    assert "EXE-23" in page.shown()
    page.choose("capability", "")
    page.choose("facet", "retry")
    assert all(rule.startswith("RTY-") for rule in page.shown())
    page.choose("facet", "*")
    assert len(page.shown()) > 200
    page.choose("text", "no such rule")
    assert page.shown() == []


def test_the_timeline(opened: Callable[..., Page]) -> None:
    """A lane for each thread, a bar for each task with its name; arrows in red where waits go in a circle; all of it in words."""
    page = opened(every_kind(), "#broken/EXE-03")
    timeline = page.find("section svg[aria-label^=Timeline]")
    assert len(timeline.find_elements(By.CSS_SELECTOR, ".lane")) == 3
    assert [g.find_element(By.CSS_SELECTOR, "text").text for g in timeline.find_elements(By.CSS_SELECTOR, ".task")] == [
        "outer 0", "outer 1", "inner",
    ]  # fmt: skip
    assert (
        len(timeline.find_elements(By.CSS_SELECTOR, ".gate"))
        == len(timeline.find_elements(By.CSS_SELECTOR, ".run"))
        == 2
    )
    assert len(timeline.find_elements(By.CSS_SELECTOR, ".arrow.circle")) == 3
    assert "outer 0 released" in page.find("ol.order").text
    waits = page.find("svg[aria-label*='waits for']")
    assert (
        waits.get_attribute("aria-label") == "pool-0 waits for inner; pool-1 waits for pool-0; inner waits for pool-1"
    )
    assert len(waits.find_elements(By.CSS_SELECTOR, ".box.circle")) == 3


def test_each_kind_of_evidence(opened: Callable[..., Page]) -> None:
    """Attempts, the scenario as a table, the parked line, the crash's operations and files."""
    page = opened(every_kind(), "#broken/EXE-05")
    assert [cell.text for cell in page.all("#told table th")] == ["step", "thread", "operation"]
    assert len(page.all("svg .fail")) >= 3
    page.find("#after").click()
    assert "It lost its precondition to EXE-03." in page.told()
    page.find("#after").click()
    assert [row.text for row in page.all("#told tbody tr")] == ["b 0 (empty)", "c 3 old"]
    assert "rename 'a' to 'b'" in page.told()
    assert [lost.text for lost in page.all(".lost")] == ["power lost in operation 2", "data of 'b': none of 1 change"]
    page.find("#after").click()
    assert page.find(".parked").text.strip() == "\N{BLACK RIGHT-POINTING TRIANGLE}    21      loop = self.loop"
    assert "meanwhile stop() returned None" in page.told()


def test_marks_of_a_text_are_shown_as_such(opened: Callable[..., Page]) -> None:
    """Code and emphasis of a rule's author, in the matrix and in the details; a subject's asterisks are what they are."""
    (found,) = every_kind()[1:2]
    rule = next(rule for rule in found["rules"] if rule["id"] == "EXE-03")
    rule["sentence"] = "A *first* word, `a*b*c`, <b>f(*args, **more)</b>."
    rule["evidence"] = {
        "story": {"facts": "*it* ran `f`", "expected": "*two*", "proof": "*re*-run", "cause": "`x = *y*`"}
    }
    page = opened([found], "#broken/EXE-03")
    for place in ("#told", "#matrix"):
        html_of, title = page.run(
            "const all = [...document.querySelectorAll(`${arguments[0]} .sentence`)];"
            "const it = all.find(e => e.textContent.startsWith('A first'));"
            "return [it.innerHTML, it.title]",
            place,
        )
        assert html_of == "A <em>first</em> word, <code>a*b*c</code>, &lt;b&gt;f(*args, **more)&lt;/b&gt;."
        assert title == ("A first word, a*b*c, <b>f(*args, **more)</b>." if place == "#matrix" else "")
    shown = [p.get_attribute("innerHTML") for p in page.all("#told section > p")]
    assert shown == ["*it* ran <code>f</code>", "<em>two</em>", "<em>re</em>-run", "<code>x = *y*</code>"]


def test_a_wide_timeline_keeps_the_names_of_its_lanes(opened: Callable[..., Page]) -> None:
    """They move along when it is scrolled; what is left out is one column, and its number leads on to the right one."""
    events = [event(n, kind, f"task {n}", 11, "pool-0") for n in range(80) for kind in ("started", "ended")]
    (found,) = every_kind()[1:2]
    next(rule for rule in found["rules"] if rule["id"] == "EXE-03")["evidence"] = {"events": events}
    page = opened([found], "#broken/EXE-03")
    scroll = "document.querySelector('#told .scroll[aria-label=Timeline]')"
    at = page.driver.execute_async_script(
        f"const done = arguments[0], scroll = {scroll};"
        "const name = [...scroll.querySelectorAll('text')].find(e => e.textContent === 'thread pool-0');"
        "scroll.addEventListener('scroll', () => done([Number(name.getAttribute('x')), scroll.scrollLeft]));"
        "scroll.scrollLeft = 300"
    )
    assert at == [305, 300]
    numbers = page.run(
        f"return [...{scroll}.querySelectorAll('text.faint')].map(e => e.firstChild.nodeValue).filter(t => /^…?\\d/.test(t))"
    )
    assert numbers[:10] == [*map(str, range(1, 9)), "\N{HORIZONTAL ELLIPSIS}112\N{HORIZONTAL ELLIPSIS}", "121"]
    assert "112 events are left out" in page.run("return document.querySelector('ol.order').textContent")
    assert page.run("return document.querySelector('ol.order').lastChild.value") == 160


def test_the_reproducer_is_copied(opened: Callable[..., Page]) -> None:
    """The button puts the command on the clipboard, and says so."""
    page = opened(every_kind(), "#broken/EXE-03")
    page.driver.execute_cdp_cmd(
        "Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    )
    button = page.find("button[aria-label^=Copy]")
    button.click()
    copied = page.driver.execute_async_script(
        "const [button, done] = arguments;"
        "const read = () => navigator.clipboard.readText().then(done, done);"
        "const look = () => (button.textContent === 'Copied' ? read() : requestAnimationFrame(look));"
        "look()",
        button,
    )
    assert copied == "pytest --flowcheck --flowcheck-subject=m:broken --flowcheck-only=EXE-03"


def test_a_hostile_certificate(opened: Callable[..., Page]) -> None:
    """Its texts are shown as texts, in the overview, the matrix and the details; nothing runs and nothing is asked for."""
    page = opened([hostile()])
    assert page.run("return document.querySelector('.subject').textContent") == EVIL.replace("\ud800", "?")
    for rule in ("EXE-03", "EXE-05", "EXE-09", "EXE-31"):
        page.run(
            "[...document.querySelectorAll('#overview .rule')].find(it => it.dataset.rule === arguments[0]).click()",
            rule,
        )
        assert "<script>alert(1)</script>" in page.run("return document.getElementById('told').textContent")
        assert page.run("return document.querySelectorAll('#told script, #told img, main img').length") == 0
        page.press(Keys.ESCAPE)
    page.run("document.querySelector('#overview .subject').click()")
    assert page.run("return performance.getEntriesByType('resource').length") == 0
    assert page.complaints() == []


def test_the_policy_stops_what_would_get_in(opened: Callable[..., Page]) -> None:
    """Even a script, a style or a request that were in the page would not be carried out."""
    page = opened(every_kind())
    page.run(
        "const s = document.createElement('script'); s.textContent = 'window.got = 1'; document.body.append(s);"
        "const i = new Image(); i.src = 'https://example.invalid/x.png'; document.body.append(i);"
    )
    assert page.run("return window.got") is None
    assert sum("Content Security Policy" in complaint for complaint in page.complaints()) == 2


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_accessibility(opened: Callable[..., Page], dark: bool) -> None:
    """No violation of axe's rules: names, roles, headings, contrast. This axe does not know that a dialog is a landmark."""
    page = opened(every_kind(), dark=dark)
    axe = Axe(page.driver)
    axe.inject()
    for at in ("", "broken/EXE-03", "broken/EXE-09"):
        page.go(at)
        found = axe.run(options=json.dumps({"rules": {"region": {"enabled": not at}}}))
        assert [(rule["id"], [node["html"][:80] for node in rule["nodes"]]) for rule in found["violations"]] == [], at
        assert len(found["passes"]) > 15


def test_on_a_phone(opened: Callable[..., Page]) -> None:
    """Nothing is wider than the screen but what scrolls by itself, in the page and in the details."""
    page = opened(every_kind(), size=PHONE)
    for at in ("", "broken/EXE-03", "broken/EXE-05", "broken/EXE-09", "broken/EXE-31"):
        page.go(at)
        assert page.run("return document.documentElement.scrollWidth") <= PHONE[0], at
        assert page.run("const it = document.querySelector('dialog'); return it.scrollWidth - it.clientWidth") <= 0, at


def test_without_scripts(opened: Callable[..., Page]) -> None:
    """The overview says who keeps what; the rest says what it needs."""
    page = opened(every_kind(), scripts=False)
    assert "EXE-03 HUNG" in page.find("#overview").text
    assert "need JavaScript" in page.find("noscript").text


def test_many_subjects(opened: Callable[..., Page]) -> None:
    """Fifty subjects and every rule: signs in place of words, one element for a cell, and details still on demand."""
    rules = certificate("it", {})["rules"]
    found = {rule["id"]: (Verdict.VIOLATED, [DEADLOCK, RETRY][n % 2]) for n, rule in enumerate(rules) if n % 10 == 0}
    made = certificate("s", found, claims=tuple(sorted({rule["facet"] for rule in rules})))
    page = opened([{**made, "subject": {**made["subject"], "label": f"s{n}"}} for n in range(50)])
    assert page.run("return document.querySelectorAll('#matrix td.cell').length") == 50 * len(rules)
    assert page.run("return document.querySelectorAll('*').length") < 1.5 * 50 * len(rules)
    assert page.run("return document.querySelectorAll('#told *').length") == 0
    assert page.cell(f"{rules[0]['id']} on s49").text == "\N{BALLOT X}"
