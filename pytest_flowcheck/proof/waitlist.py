"""Why nothing moves, in words: one line per waiting thread, with what it waits for and where in the user's code.

The proof is the kernel's (`observer`); frames only make it readable, so a frame that is not recognised costs nothing.
"""

from __future__ import annotations

import linecache
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.proof import pollers, procfs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from pytest_flowcheck.proof.harness import Harness
    from pytest_flowcheck.proof.sighting import Sighting, Wait

_STDLIB = str(Path(os.__file__).parent) + os.sep
_KIT = str(Path(__file__).parents[1]) + os.sep
_GATES = str(Path(_KIT, "probes", "gates.py"))
_IDLE = "idle pool worker"


def wait_list(sighting: Sighting, harness: Harness | None = None) -> list[str]:
    """One line per waiting thread, idle pool workers in one line, then one per thread of other processes.

    Call it from the thread that looked, while the threads still wait: names and frames are read now.
    """
    me, lines, idle = os.getpid(), list[str](), 0
    threads = {_native(thread): thread for thread in threading.enumerate()}
    # The documented way to see other threads, though its name begins with an underscore.
    frames = sys._current_frames()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    for wait in sighting.waits:
        if wait.pid != me or not wait.tid:
            continue
        if harness is not None and harness.owns(wait.pid, wait.tid):
            continue
        thread = threads.get(wait.tid)
        frame = frames.get(thread.ident or 0) if thread is not None else None
        words = _words(frame, wait) if frame is not None else wait.text
        if words == _IDLE:
            idle += 1
            continue
        name = f"'{thread.name}'" if thread is not None else f"{wait.tid} (not Python's)"
        lines.append(f"thread {name} {words}{_place(frame) if frame is not None else ''}")
    if idle:
        lines.append(f"{idle} idle pool worker{'s' if idle > 1 else ''}")
    lines += [_elsewhere(wait) for wait in sighting.waits if wait.pid != me or not wait.tid]
    return lines


def _native(thread: threading.Thread) -> int:
    """The kernel's id; the main thread's is the process's (`native_id` is stale after a fork before Python 3.13)."""
    return os.getpid() if thread is threading.main_thread() else thread.native_id or 0


def _elsewhere(wait: Wait) -> str:
    who = f"process {wait.pid} ({procfs.shortened(procfs.command(wait.pid))})"
    return f"{who}, thread {wait.tid}, {wait.text}" if wait.tid not in {0, wait.pid} else f"{who} {wait.text}"


def _outwards(frame: FrameType) -> Iterator[FrameType]:
    at: FrameType | None = frame
    while at is not None:
        yield at
        at = at.f_back


def _place(frame: FrameType) -> str:
    """The user's innermost frame; the kit's or the library's own only if there is no other."""
    chain = list(_outwards(frame))

    def is_library(at: FrameType) -> bool:
        name = at.f_code.co_filename
        return name.startswith("<") or (name.startswith(_STDLIB) and "site-packages" not in name)

    users = [at for at in chain if not is_library(at) and not at.f_code.co_filename.startswith(_KIT)]
    kits = [at for at in chain if at.f_code.co_filename.startswith(_KIT)]
    if not users and pollers.runner_of(frame) is not None:
        return ""  # a guest's events, on a thread of trio's: its tasks were told
    at = (users or kits or chain)[0]
    return f", at {_where(at.f_code.co_filename, at.f_lineno)} {at.f_code.co_name}"


def _where(file: str, line: int) -> str:
    return f"{Path(file).name}:{line}"


def _words(frame: FrameType, wait: Wait) -> str:
    """What the innermost frame that we recognise waits for; else what the kernel says, with the source line."""
    for at in _outwards(frame):
        helper = _HELPERS.get((Path(at.f_code.co_filename).stem, at.f_code.co_name))
        if helper is not None:
            return helper
    for depth, at in enumerate(_outwards(frame)):
        code = at.f_code
        if depth == 0 and (code.co_filename, code.co_name) == (_GATES, "wait"):
            return f"waits at the gate '{at.f_locals['name']}'"
        if depth == 0 and (runner := pollers.runner_of(at)) is not None:
            return _trio_loop(runner)
        if not code.co_filename.startswith(_STDLIB) or "site-packages" in code.co_filename:
            if depth == 0:
                return _bare(at, wait)
            break
        reader = _READERS.get((Path(code.co_filename).stem, code.co_name))
        if reader is not None:
            words = reader(at, depth)
            if words:
                return words
    return wait.text


def _bare(frame: FrameType, wait: Wait) -> str:
    """The user's own line called into C: a lock shows as a futex, and its name stands in the source."""
    source = linecache.getline(frame.f_code.co_filename, frame.f_lineno or 0).strip()
    what = "waits for a lock" if "futex" in wait.text and wait.kind == "untimed" else wait.text
    return f"{what}: `{source[:80]}`" if source else what


def _self(frame: FrameType) -> Any:
    return frame.f_locals.get("self")


def _future(frame: FrameType, _depth: int) -> str:
    future: Any = _self(frame)
    state = str(getattr(future, "_state", "unknown")).lower()
    return f"waits in Future.{frame.f_code.co_name}() of future {id(future):#x}, which is {state}"


def _wait_futures(frame: FrameType, _depth: int) -> str:
    return f"waits in concurrent.futures.{frame.f_code.co_name}()"


def _pool_worker(_frame: FrameType, depth: int) -> str:
    return _IDLE if depth == 0 else ""


def _condition(frame: FrameType, _depth: int) -> str:
    """The outermost method of the library on the way to the condition says more than the condition."""
    outermost = frame
    for at in _outwards(frame):
        module, method = Path(at.f_code.co_filename).stem, at.f_code.co_name
        if module not in {"threading", "queue", "_base"} or method in {"run", "_bootstrap_inner"}:
            break
        outermost = at
    reader = _READERS.get((Path(outermost.f_code.co_filename).stem, outermost.f_code.co_name), _owned)
    return _owned(outermost, 0) if reader is _condition else reader(outermost, 0)


def _owned(frame: FrameType, _depth: int) -> str:
    return f"waits in {type(_self(frame)).__name__}.{frame.f_code.co_name}()"


def _join(frame: FrameType, _depth: int) -> str:
    other = _self(frame)
    name = getattr(other, "name", "?")
    return f"waits in Thread.join() of '{name}'"


def _process(frame: FrameType, _depth: int) -> str:
    process = _self(frame)
    what = getattr(process, "args", None)
    pid = getattr(process, "pid", "?")
    return f"waits for process {pid}{f' ({what})' if what else ''} to end"


def _connection(frame: FrameType, _depth: int) -> str:
    return f"waits in {frame.f_code.co_name}() of a connection"


def _loop(frame: FrameType, _depth: int) -> str:
    """The tasks of a loop that sleeps without a deadline: they are what really waits."""
    loop = _self(frame)
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return ""
    tasks = sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name())
    return f"waits in an event loop with {', '.join(map(_task, tasks)) or 'no tasks'}"


def _task(task: Any) -> str:
    return f"task '{task.get_name()}'{_awaits(task.get_coro())}"


def _trio_loop(runner: Any) -> str:
    """The tasks of the trio loop for whose events a thread waits, without trio's own."""
    tasks = [task for task in tuple(runner.tasks) if not task.name.startswith(("trio.", "<"))]
    told = sorted(f"task '{task.name.rpartition('.')[2]}'{_awaits(task.coro)}" for task in tasks)
    return f"waits for events of a trio loop with {', '.join(told) or 'no tasks'}"


def _awaits(coroutine: Any) -> str:
    """Where it waits: the innermost frame of the user's along the awaits; else the outermost of all."""
    frames: list[FrameType] = []
    while coroutine is not None:
        kind = "cr" if hasattr(coroutine, "cr_frame") else "gi" if hasattr(coroutine, "gi_frame") else "ag"
        frame = getattr(coroutine, f"{kind}_frame", None)
        if frame is not None:
            frames.append(frame)
        coroutine = getattr(coroutine, f"{kind}_{'yieldfrom' if kind == 'gi' else 'await'}", None)
    if not frames:
        return ""
    files = [at.f_code.co_filename for at in frames]
    users = [
        at
        for at, file in zip(frames, files, strict=True)
        if not file.startswith((_STDLIB, _KIT, "<")) and "site-packages" not in file
    ]
    at = (users or frames[:1])[-1]
    return f" at {_where(at.f_code.co_filename, at.f_lineno)} {at.f_code.co_name}"


_HELPERS = {
    ("process", "wait_result_broken_or_wakeup"): "is a process pool's, and waits for its workers",
    ("process_executor", "wait_result_broken_or_wakeup"): "is a process pool's, and waits for its workers",
    ("queues", "_feed"): "feeds a multiprocessing queue, and has nothing to feed",
}

_READERS: dict[tuple[str, str], Callable[[FrameType, int], str]] = {
    ("_base", "result"): _future,
    ("_base", "exception"): _future,
    ("_base", "wait"): _wait_futures,
    ("_base", "as_completed"): _wait_futures,
    ("thread", "_worker"): _pool_worker,
    ("threading", "wait"): _condition,
    ("threading", "join"): _join,
    ("queue", "get"): _owned,
    ("queue", "put"): _owned,
    ("queue", "join"): _owned,
    ("queues", "get"): _owned,
    ("subprocess", "wait"): _process,
    ("subprocess", "_wait"): _process,
    ("subprocess", "communicate"): _process,
    ("popen_fork", "wait"): _process,
    ("popen_fork", "poll"): _process,
    ("connection", "recv"): _connection,
    ("connection", "recv_bytes"): _connection,
    ("connection", "wait"): _connection,
    ("connection", "accept"): _connection,
    ("base_events", "run_forever"): _loop,
}
