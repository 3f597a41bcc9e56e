"""One session for each check. CONTRIBUTING.md says when to run which."""

from __future__ import annotations

import nox

nox.options.sessions = ["lint", "types", "tests", "docs"]
PYTHONS = ["3.11", "3.12", "3.13"]


@nox.session(python="3.11")
def lint(session: nox.Session) -> None:
    """Style, and the bans (no sleeps in rules)."""
    session.install("ruff>=0.6")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", "noxfile.py", "docs")


@nox.session(python="3.11")
def types(session: nox.Session) -> None:
    """Two strict type checkers."""
    session.install(".[test,lint]")
    session.run("mypy")
    session.run("pyright")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The kit's own tests."""
    session.install("-e", ".[test]")
    session.run("pytest", "tests", *session.posargs)


@nox.session(python=PYTHONS)
def certify(session: nox.Session) -> None:
    """The reference engine and the standard library."""
    session.install(".[test]")
    session.run("pytest", "--flowcheck", *session.posargs)
    session.run("pytest", "--flowcheck", "--flowcheck-subject=stdlib-threads")


@nox.session(name="certify-world", python="3.11")
def certify_world(session: nox.Session) -> None:
    """Releases of other people's software, as `tests/world.toml` lists them; `-- FOLDER --only NAME`. Not part of CI."""
    session.run("python", "tests/world.py", *session.posargs)


@nox.session(python=PYTHONS)
def selftest(session: nox.Session) -> None:
    """Every broken engine is caught by exactly its rules."""
    session.install(".[trio]")
    session.run("pytest", "--flowcheck-selftest", *session.posargs)


@nox.session(python="3.11")
def docs(session: nox.Session) -> None:
    """The documentation, without warnings."""
    session.install("-e", ".[docs]")
    session.run("python", "docs/specification.py", "--check")
    session.run("python", "docs/compatibility.py", "--check")
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html")


@nox.session(python="3.11")
def changelog(session: nox.Session) -> None:
    """Put the fragments of changelog.d together; `nox -s changelog -- 0.2.0` for a release."""
    session.install("towncrier>=24.7")
    session.run("towncrier", "build", "--yes", "--version", session.posargs[0] if session.posargs else "0.0.0")
