"""Evidence read from the kernel: is anything still able to run, who waits for whom, and what does the process hold.

Everything here looks from outside: no subject is patched, traced or slowed. `Observer` answers whether a process tree
can ever move again, `wait_list` says in words why it can't, `Census` says what a process holds more than before.
"""

from __future__ import annotations

from pytest_flowcheck.proof.census import Census as Census
from pytest_flowcheck.proof.census import Held as Held
from pytest_flowcheck.proof.census import census as census
from pytest_flowcheck.proof.harness import Harness as Harness
from pytest_flowcheck.proof.observer import Observer as Observer
from pytest_flowcheck.proof.processes import become_subreaper as become_subreaper
from pytest_flowcheck.proof.processes import descendants as descendants
from pytest_flowcheck.proof.processes import kill_tree as kill_tree
from pytest_flowcheck.proof.sighting import Sighting as Sighting
from pytest_flowcheck.proof.sighting import State as State
from pytest_flowcheck.proof.sighting import Wait as Wait
from pytest_flowcheck.proof.waitlist import wait_list as wait_list

__all__ = [
    "Census",
    "Harness",
    "Held",
    "Observer",
    "Sighting",
    "State",
    "Wait",
    "become_subreaper",
    "census",
    "descendants",
    "kill_tree",
    "wait_list",
]
