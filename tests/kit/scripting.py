"""Runs the programs that rules print for whoever has no pytest."""

import os
import subprocess
import sys
from pathlib import Path


def ran(text: str, folder: Path, *, logs: bool = False) -> int:
    """Its exit status: 1 where it shows a problem. It may import what this process can. `logs`: it may print the tracebacks
    of errors that it makes, but none of its own."""
    script = folder / "script.py"
    script.write_text(text)
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONWARNINGS": "", "PYTHONPATH": os.pathsep.join(p or "." for p in sys.path)},
    )
    for word in ("SyntaxError", "NameError") if logs else ("Traceback",):
        assert word not in done.stderr, done.stderr
    assert done.returncode == 0 or done.stdout, "what is wrong is not told"
    return done.returncode


def shows(text: str, folder: Path) -> bool:
    """Whether it shows the problem. A program without the kit has only time to bring things about by: on a busy machine it may
    miss them, and is asked again.
    """
    return any(ran(text, folder) == 1 for _ in range(5))
