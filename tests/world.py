"""Certify releases of other people's software, each in an environment of its own, as `tests/world.toml` lists them.

python tests/world.py                          # all of them; certificates in the folder `certificates`
python tests/world.py elsewhere --only wool    # those of one distribution, or one release of it: wool-0.15.7
python tests/world.py --light                  # what CI does
python tests/world.py --light --prepare        # make the environments, and certify nothing
python tests/world.py --light --prepared       # certify in those, with the kit as it was then

What fails is compared with what the list says. Exit 1 if they differ: a release is pinned, so either the kit or the machine
judges otherwise than before.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FAILS = {"VIOLATED", "HUNG", "CRASHED", "LEAKED"}


class WorldError(Exception):
    """Something that the list or the machine lacks, in one line."""


@dataclass(frozen=True)
class Certified:
    """One entry of the list."""

    distribution: str
    release: str
    python: str
    subjects: Sequence[str]
    light: Sequence[str] = ()
    fails: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    passes: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    varies: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    install: Sequence[Sequence[str]] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    options: Sequence[str] = ()
    page: str = ""

    def __str__(self) -> str:
        return f"{self.distribution}-{self.release}"

    @property
    def requirements(self) -> Sequence[Sequence[str]]:
        return self.install or [[f"{self.distribution}=={self.release}"]]


def listed(path: Path = ROOT / "tests" / "world.toml") -> list[Certified]:
    """All entries.

    Raises:
        WorldError: one has a key that no entry has, or lacks one.
    """
    found: list[Certified] = []
    for entry in tomllib.loads(path.read_text())["certified"]:
        try:
            found.append(Certified(**entry))
        except TypeError as error:
            raise WorldError(f"{path.name}: {entry.get('distribution')} {entry.get('release')}: {error}") from error
        unknown = {*found[-1].light, *found[-1].fails, *found[-1].passes, *found[-1].varies} - {*found[-1].subjects}
        if unknown:
            raise WorldError(f"{path.name}: {found[-1]}: {', '.join(sorted(unknown))} is not among its subjects")
    return found


def interpreter(version: str) -> str:
    """Where this Python is: the one that runs this, one on the path, or one of pyenv's.

    Raises:
        WorldError: nowhere.
    """
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return getattr(sys, "_base_executable", sys.executable)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for candidate in (shutil.which(f"python{version}"), *map(str, sorted(pyenv.glob(f"{version}.*/bin/python")))):
        if candidate and subprocess.run([candidate, "-c", ""], check=False, capture_output=True).returncode == 0:
            return candidate
    raise WorldError(f"there is no Python {version} here")


class World:
    """Where environments are kept, with the kit as it is now.

    Args:
        folder: of the environments. One that was made for the same requirements is used again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._wheel: Path | None = None

    def environment(self, it: Certified, *, prepared: bool = False) -> Path:
        """The environment's programs; what it lacks is installed, and the kit anew, unless it has just been `prepared`."""
        place = self._folder / str(it)
        made = place / "made-for.json"
        wanted = json.dumps([it.python, it.requirements])
        if not made.exists() or made.read_text() != wanted:
            shutil.rmtree(place, ignore_errors=True)
            self._run(interpreter(it.python), "-m", "venv", str(place))
            for arguments in filter(None, it.requirements):
                self._pip(place, *arguments)
            self._pip(place, str(self._kit()))
            made.write_text(wanted)
        elif not prepared:
            self._pip(place, "--force-reinstall", "--no-deps", str(self._kit()))
        return place / "bin"

    def certify(self, it: Certified, programs: Path, report: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Subject by subject: what its certificate says. They lie in `report/<entry>/<subject>/certificate.json`."""
        for subject in it.subjects:
            with tempfile.TemporaryDirectory() as empty:
                arguments = [f"--flowcheck-subject={subject}", f"--flowcheck-report={report / str(it)}", "-n2", "-q", *it.options]
                done = subprocess.run(
                    [str(programs / "pytest"), "--flowcheck", *arguments],
                    cwd=empty,
                    env={**os.environ, **it.environment},
                    capture_output=True,
                    text=True,
                    check=False,
                )
            certificate = report / str(it) / subject / "certificate.json"
            if done.returncode not in (0, 1) or not certificate.exists():
                raise WorldError(f"{it}: {subject} could not be certified:\n{done.stdout}{done.stderr}")
            yield subject, json.loads(certificate.read_text())

    def reproduce(self, it: Certified, programs: Path) -> str:
        """Run the programs of its page; what pytest says if one does not print what it should, or none is run."""
        alone = ["--noconftest", "-c", os.devnull, f"--rootdir={ROOT}", "-p", "no:cacheprovider", "-q"]
        done = subprocess.run(
            [
                str(programs / "python"),
                "-m",
                "pytest",
                *alone,
                str(ROOT / "tests/test_documentation.py"),
                "-k",
                it.page,
            ],
            env={**os.environ, **it.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        return "" if done.returncode == 0 and "skipped" not in done.stdout else done.stdout + done.stderr

    def _kit(self) -> Path:
        if self._wheel is None:
            self._made = tempfile.TemporaryDirectory()  # another run may use the same environments
            folder = Path(self._made.name)
            self._run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT))
            (self._wheel,) = folder.glob("*.whl")
        return self._wheel

    def _pip(self, place: Path, *arguments: str) -> None:
        self._run(str(place / "bin" / "python"), "-m", "pip", "install", "-q", *arguments)

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise WorldError(f"{' '.join(command)} exited with status {done.returncode}:\n{done.stdout}{done.stderr}")


def verdicts(certificate: Mapping[str, Any]) -> dict[str, str]:
    """Of the MUST rules, by id."""
    return {rule["id"]: rule["verdict"] for rule in certificate["rules"] if rule["level"] == "MUST"}


def differences(it: Certified, subject: str, certificate: Mapping[str, Any]) -> Iterator[str]:
    """Where the certificate says something else than the list, a line each."""
    found = verdicts(certificate)
    fails = {id_ for id_, verdict in found.items() if verdict in FAILS}
    if subject in it.fails:
        for id_ in sorted(fails - {*it.fails[subject], *it.varies.get(subject, ())}):
            yield f"{id_} is {found[id_]}, and the list does not say so"
    for id_ in sorted({*it.fails.get(subject, ())} - fails):
        yield f"{id_} is {found.get(id_, 'no rule')}, and fails by the list"
    for id_ in it.passes.get(subject, ()):
        if found.get(id_) != "PASS":
            yield f"{id_} is {found.get(id_, 'no rule')}, and passes by the list"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("certificates"), help="for the certificates")
    parser.add_argument("--only", action="append", metavar="NAME", help="a distribution, or distribution-release")
    parser.add_argument("--light", action="store_true", help="what CI does")
    parser.add_argument("--prepare", action="store_true", help="make the environments only")
    parser.add_argument("--prepared", action="store_true", help="don't install the kit anew where that was done")
    parser.add_argument("--environments", type=Path, default=ROOT / ".ci" / "world", help="where these are kept")
    asked = parser.parse_args(arguments)
    try:
        chosen = [it for it in listed() if it.light or not asked.light]
        for name in asked.only or ():
            if name not in {n for it in chosen for n in (it.distribution, str(it))}:
                raise WorldError(f"--only={name}: expected one of {', '.join(map(str, chosen))}, or a distribution")
        if asked.only:
            chosen = [it for it in chosen if {it.distribution, str(it)} & {*asked.only}]
        if asked.light:
            chosen = [replace(it, subjects=it.light) for it in chosen]
        world, wrong = World(asked.environments.absolute()), 0
        for it in chosen:
            programs = world.environment(it, prepared=asked.prepared)
            if asked.prepare:
                print(f"{it}: {programs}")
                continue
            for subject, certificate in world.certify(it, programs, asked.folder.absolute()):
                failed = [f"{id_} {verdict}" for id_, verdict in verdicts(certificate).items() if verdict in FAILS]
                print(f"{it} {subject}: {', '.join(failed) or 'nothing fails'}", flush=True)
                for line in differences(it, subject, certificate):
                    wrong += 1
                    print(f"  {line}", flush=True)
            if it.page and not asked.light and (said := world.reproduce(it, programs)):
                wrong += 1
                print(f"{it}: the programs of {it.page}:\n{said}", flush=True)
    except WorldError as error:
        print(error, file=sys.stderr)
        return 1
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
