"""Write the pages that are made from code: `docs/spec/*.md` from the rules, `docs/reference/verdicts.md` from the verdicts,
`docs/reference/shell.md` from the commands.

python docs/specification.py            # write them
python docs/specification.py --check    # say which are out of date; exit 1 if any is
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
from pathlib import Path

from pytest_flowcheck.certificate.verdicts import Verdict
from pytest_flowcheck.rules import REVISION, Rule, bundled_facets, bundled_rules
from pytest_flowcheck.shell.main import commands

HERE = Path(__file__).parent
NOTE = "<!-- written by docs/specification.py from the code: edit the code, then run it -->"


def pages() -> dict[Path, str]:
    """Every generated page, by path."""
    found = {HERE / "spec" / f"{facet}.md": facet_page(facet) for facet in bundled_facets()}
    found[HERE / "spec" / "index.md"] = index_page()
    found[HERE / "reference" / "verdicts.md"] = verdict_page()
    found[HERE / "reference" / "shell.md"] = shell_page()
    return found


def facet_page(facet: str) -> str:
    """One facet: its promise, capabilities, choices, and every rule."""
    rules = [rule for rule in bundled_rules() if rule.facet == facet]
    protocol = importlib.import_module(f"pytest_flowcheck.protocols.{facet}")
    summary = (protocol.__doc__ or "").strip().splitlines()[0]
    lines = [NOTE, "", f"# {facet}", "", f"{summary[0].upper()}{summary[1:]}", ""]
    lines += [
        f"Revision {REVISION}: {len(rules)} rules.",
        "",
        "## Capabilities",
        "",
        "| claim | promises |",
        "|---|---|",
    ]
    lines += [f"| `{name}` | {text} |" for name, text in {**protocol.CAPABILITIES, **protocol.TRAITS}.items()]
    lines += [f"| (read off the instance) `{name}` | {text} |" for name, text in protocol.READ_OFF.items()]
    if protocol.DECLARES:
        lines += ["", "## Choices", "", "| `declares` | values, the default first |", "|---|---|"]
        lines += [f"| `{name}` | {', '.join(f'`{v}`' for v in values)} |" for name, values in protocol.DECLARES.items()]
    lines += ["", "## Rules", ""]
    for rule in rules:
        lines += rule_section(rule)
    return "\n".join(lines).rstrip() + "\n"


def rule_section(rule: Rule) -> list[str]:
    """One rule, as `--flowcheck-explain` tells it too."""
    traits = [rule.level, *(f"[{c}]" for c in sorted(rule.capabilities))]
    if rule.cluster != rule.level:
        traits.append(f"[cluster] {rule.cluster}")
    if rule.property:
        traits.append("property")
    return [
        f"### {rule.id}",
        "",
        rule.sentence,
        "",
        f"*{' · '.join(traits)}*",
        "",
        f"**Intent.** {rule.intent}",
        "",
        f"**Usual cause.** {rule.usual_cause}",
        "",
        f"**Proof.** {rule.proof}",
        "",
        f"**Source.** {rule.source}",
        "",
    ]


def index_page() -> str:
    """The facets, with their number of rules."""
    rules = bundled_rules()
    lines = [
        NOTE,
        "",
        "# The rules",
        "",
        f"Revision {REVISION}. It is frozen: which rules there are, their levels, capabilities and sentences stay as they are,",
        "and what is new comes with the next revision. Numbers are for ever: a rule is never renumbered. How a rule is judged",
        "may become sharper with a release of the kit; a certificate names both, and has digests of both.",
        "",
        "| facet | rules |",
        "|---|---|",
    ]
    lines += [f"| [{facet}]({facet}.md) | {sum(r.facet == facet for r in rules)} |" for facet in bundled_facets()]
    return "\n".join(lines) + "\n"


def shell_page() -> str:
    """Every command of `flowcheck`, as its `--help` tells it."""
    lines = [
        NOTE,
        "",
        "# The command `flowcheck`",
        "",
        "`python -m pytest_flowcheck` is the same. Exit code 4: what was asked for",
    ]
    lines += ["can't be done; one line says why.", ""]
    for name, module in commands().items():
        summary, _, more = inspect.cleandoc(module.__doc__ or "").partition("\n")
        lines += [
            f"## flowcheck {name}",
            "",
            summary,
            *([more] if more else []),
            "",
            "| argument | meaning |",
            "|---|---|",
        ]
        parser = argparse.ArgumentParser(add_help=False)
        module.arguments(parser)
        for action in parser._actions:  # noqa: SLF001 - argparse tells what was declared in no other way
            takes = "" if action.nargs == 0 else f"={action.metavar or action.dest.upper()}"
            several = " ..." if action.nargs in {"+", "*"} else ""
            shown = f"{action.option_strings[-1]}{takes}" if action.option_strings else f"{action.metavar}{several}"
            lines.append(f"| `{shown}` | {(action.help or '').replace('%(default)s', str(action.default))} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


ADAPTER_ERROR = """\
Nothing is said of the subject; the message is one line that says what to mend. It is certain where

- an opener (`MyAdapter.retry()`) raises as it opens the first instance of a rule, and does so as well with nothing but what
  every instance of the facet is opened with. An opener that raises `Inexpressible` reads NOT-TESTABLE. Rules that ask for a
  refusal, as of `max_workers=0`, judge what was raised;
- the opened instance lacks a method that the facet's protocol needs;
- a call gives something of another type than the protocol says, such as None for a fan-out's outcomes. A dispatch of a
  loop pool that gives None for a text is held against the adapter as long as no dispatch gave anything else, and nobody
  asked the pool to stop;
- the adapter's own file slips: a name that is not there or has no value yet, a call that does not fit the signature, an
  attribute of a module, or of an object whose classes never set one. That the subject is elsewhere must be known: from
  `requires`, the distributions that the adapter adapts, or because the adapter is bundled.

All else stays VIOLATED, so that no bug of a subject is hidden: an opener that raises for a second instance, or for an
option; a slip where adapter and subject may be one class in one file; what follows from a None that the subject gave. The
message then has a line that begins with `In doubt:` and names the place in the adapter's file: `my_adapter.py:12 in call`."""


def verdict_page() -> str:
    """What a rule can end in."""
    lines = [NOTE, "", "# Verdicts", "", "| verdict | meaning | a MUST that ends so fails the run |", "|---|---|---|"]
    lines += [f"| {v.value} | {v.meaning} | {'yes' if v.fails('MUST') else 'no'} |" for v in Verdict]
    lines += [
        "",
        "Evidence is *proven* (the kernel showed that nothing can happen any more, or it did happen) or *observed*.",
        "",
        "## ADAPTER-ERROR",
        "",
        ADAPTER_ERROR,
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            sys.stderr.write(f"{path.relative_to(HERE.parent)} is out of date: run `python docs/specification.py`\n")
        return bool(stale)
    for path in stale:
        path.write_text(pages()[path])
    return 0


if __name__ == "__main__":
    sys.exit(main())
