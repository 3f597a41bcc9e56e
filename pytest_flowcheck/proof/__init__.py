"""Evidence read from the kernel: is anything still able to run, who waits for whom, what does the process hold, and what
could a crash leave of its files.

Everything here looks from outside: no subject is patched. `Observer` answers whether a process tree can ever move again,
`wait_list` says in words why it can't, `Census` says what a process holds more than before. `record` runs an operation
below strace; its `Recording` gives every state that a kill or a power loss could leave, and `inject` makes its system
calls fail. `LoopWatch` finds event loops that were left behind. `sweep` alone looks from inside: it parks one thread at
each line of a subject's own code.
"""

from __future__ import annotations

from pytest_flowcheck.proof.census import Census as Census
from pytest_flowcheck.proof.census import Held as Held
from pytest_flowcheck.proof.census import census as census
from pytest_flowcheck.proof.crash import CrashState as CrashState
from pytest_flowcheck.proof.crash import Footprint as Footprint
from pytest_flowcheck.proof.crash import Recording as Recording
from pytest_flowcheck.proof.crash import RecordingError as RecordingError
from pytest_flowcheck.proof.crash import mark as mark
from pytest_flowcheck.proof.crash import record as record
from pytest_flowcheck.proof.faults import Fault as Fault
from pytest_flowcheck.proof.faults import Injected as Injected
from pytest_flowcheck.proof.faults import inject as inject
from pytest_flowcheck.proof.faults import plans as plans
from pytest_flowcheck.proof.forkserver import ForkServer as ForkServer
from pytest_flowcheck.proof.forkserver import serve as serve
from pytest_flowcheck.proof.harness import Harness as Harness
from pytest_flowcheck.proof.loops import LeftLoop as LeftLoop
from pytest_flowcheck.proof.loops import LoopWatch as LoopWatch
from pytest_flowcheck.proof.observer import Observer as Observer
from pytest_flowcheck.proof.processes import become_subreaper as become_subreaper
from pytest_flowcheck.proof.processes import descendants as descendants
from pytest_flowcheck.proof.processes import kill_tree as kill_tree
from pytest_flowcheck.proof.sighting import Sighting as Sighting
from pytest_flowcheck.proof.sighting import State as State
from pytest_flowcheck.proof.sighting import Wait as Wait
from pytest_flowcheck.proof.strace import missing as missing
from pytest_flowcheck.proof.sweep import Outcome as Outcome
from pytest_flowcheck.proof.sweep import Race as Race
from pytest_flowcheck.proof.sweep import Step as Step
from pytest_flowcheck.proof.sweep import Sweep as Sweep
from pytest_flowcheck.proof.sweep import Unsweepable as Unsweepable
from pytest_flowcheck.proof.sweep import code_of as code_of
from pytest_flowcheck.proof.sweep import sweep as sweep
from pytest_flowcheck.proof.waitlist import Waiting as Waiting
from pytest_flowcheck.proof.waitlist import wait_list as wait_list
from pytest_flowcheck.proof.waitlist import waits_of as waits_of

__all__ = [
    "Census",
    "CrashState",
    "Fault",
    "Footprint",
    "ForkServer",
    "Harness",
    "Held",
    "Injected",
    "LeftLoop",
    "LoopWatch",
    "Observer",
    "Outcome",
    "Race",
    "Recording",
    "RecordingError",
    "Sighting",
    "State",
    "Step",
    "Sweep",
    "Unsweepable",
    "Wait",
    "Waiting",
    "become_subreaper",
    "census",
    "code_of",
    "descendants",
    "inject",
    "kill_tree",
    "mark",
    "missing",
    "plans",
    "record",
    "serve",
    "sweep",
    "wait_list",
    "waits_of",
]
