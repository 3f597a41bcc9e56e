"""EXE-01, 02, 05, 13, 15, 16, 33, 34: what becomes of a submitted call."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import FIRST_COMPLETED, Future, as_completed, wait
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import Inconclusive
from pytest_flowcheck.probes.forall import forall, st
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.executor import _tasks as tasks
from pytest_flowcheck.suites.executor._shared import draws, error_of, hold_all, settle_done, swept

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.proof.sweep import Outcome


@rule("EXE-01")
def submit_yields_the_result(lab: Lab) -> None:
    """`submit` returns a `concurrent.futures.Future` that yields the call's result, with args and kwargs passed through.

    Intent: Everything else in the standard library (`wait`, `as_completed`, asyncio) builds on this one promise.

    Usual cause: A future class of the pool's own, or keyword arguments swallowed by a wrapper's signature.

    Proof: The result is compared with the arguments as the task saw them.

    Source: PEP 3148; Python library reference, `Executor.submit`.
    """
    with lab.executor(max_workers=2) as executor:
        task = lab.probe("task", tasks.describe_call, gated=False)
        future: Any = executor.submit(task, 1, "two", three=3, four=[4])
        lab.check(
            isinstance(future, Future),
            f"submit returned an object of type {type(future).__qualname__}",
            "a concurrent.futures.Future",
        )
        got = lab.finish(future, "the task's future")
        lab.check(
            got == ((1, "two"), {"three": 3, "four": [4]}),
            f"the task was called with {got!r}",
            "((1, 'two'), {'three': 3, 'four': [4]})",
        )
        returned = lab.submit(executor, "returns an error", gated=False, does=tasks.return_error)
        error = lab.finish(returned, "the future of a task that returns an exception")
        lab.check(
            type(error) is tasks.TaskError,
            f"a task that returns an exception gave {error!r}",
            "that exception, as its result",
        )
        second = lab.submit(executor, "second", gated=False)
        lab.check(
            lab.finish(second, "the second future") == "second",
            "the second future gave another result",
            "the call's own result",
        )


@rule("EXE-02")
def exceptions_reach_the_reader(lab: Lab) -> None:
    """An exception raised by the task is what `result()` and `exception()` give: type and args; for `[threads]` also the same object, its cause and its traceback.

    Intent: A reader must be able to catch the task's own error, and to find the line that raised it.

    Usual cause: The error is wrapped, turned into text, or re-created from its class.

    Proof: The object that the task raised is compared with what the future gives.

    Source: PEP 3148; Python library reference, `Future.result`.
    """
    error, cause = tasks.TaskError("message", 7), KeyError("the cause")
    error.__cause__ = cause
    with lab.executor(max_workers=1) as executor:
        future = lab.submit(executor, "task", gated=False, does=tasks.Raiser(error))
        raised = error_of(lab, future, "the failing task's future")
        told = future.exception(timeout=0)
        del lab.futures["task"]  # it is meant to fail
        stop = error_of(
            lab, lab.submit(executor, "stops", gated=False, does=tasks.Raiser(StopIteration("s"))), "another future"
        )
    lab.check(
        type(stop) is StopIteration, f"the task raised StopIteration, its future gave {stop!r}", "StopIteration('s')"
    )
    times = lab.started().count("task")
    lab.check(times == 1, f"the failing task was started {times} times", "once")
    for source, got in (("result()", raised), ("exception()", told)):
        lab.check(
            type(got) is tasks.TaskError,
            f"{source} gave {got!r} of type {type(got).__qualname__}",
            "the task's own TaskError('message', 7)",
        )
        lab.check(
            getattr(got, "args", None) == ("message", 7),
            f"{source} gave {got!r}",
            "the args that the task raised it with",
        )
    if not lab.claims("threads"):
        return
    lab.check(
        raised is error and told is error, "the error is equal to the raised one, but another object", "the same object"
    )
    lab.check(
        error.__cause__ is cause, f"its __cause__ became {error.__cause__!r}", "the __cause__ that it was raised with"
    )
    names: list[str] = []
    traceback = error.__traceback__
    while traceback is not None:
        names.append(traceback.tb_frame.f_code.co_qualname)
        traceback = traceback.tb_next
    lab.check(
        "Raiser.__call__" in names,
        f"its traceback has only the frames {names}",
        "a traceback that reaches the line which raised",
    )


@rule("EXE-05", cluster="SHOULD")
def one_worker_keeps_the_order(lab: Lab) -> None:
    """Tasks start in submission order when one worker serves them.

    Intent: A queue is fair; whoever waits longest is next.

    Usual cause: A stack, a set or a priority queue without a sequence number.

    Proof: The order of the probes' own starts, behind a gated first task that made all of them queue.

    Source: Python library reference, `ThreadPoolExecutor`; FIFO as implied by PEP 3148's work queue.
    """
    names = [f"task {i}" for i in range(20)]
    with lab.executor(max_workers=1) as executor:
        hold_all(lab, executor, 1)
        futures = [lab.submit(executor, name, gated=False) for name in names]
        lab.settle()
        if early := [name for name in lab.started() if name in names]:
            raise Inconclusive(f"{early[0]} started while the only worker was at its gate", because_of="EXE-03")
        lab.open_all()
        for name, future in zip(names, futures, strict=True):
            lab.finish(future, name)
    order = [n for n in lab.started() if n in names]
    lab.check(order == names, f"tasks started in the order {order}", f"the order of submission: {names}")


@rule("EXE-13", cluster="SHOULD")
def any_base_exception_stays_with_its_task(lab: Lab) -> None:
    """A task that raises any BaseException (SystemExit, KeyboardInterrupt, GeneratorExit) fails its own future with it, and the workers go on.

    Intent: `sys.exit()` in one task must not take a worker, or a waiter's result, away from all others.

    Usual cause: `except Exception` around the call; the worker thread dies and the future stays pending for ever.

    Proof: The future is read by proof; afterwards as many gated tasks as there are workers must be in flight.

    Source: CPython `concurrent.futures.thread._WorkItem.run` catches BaseException.
    """
    with lab.executor(max_workers=2) as executor:
        for name in ("hold", "hold again"):  # workers that rest are woken, too: a pool that can't breaks EXE-03
            futures = hold_all(lab, executor, 2, name)
            lab.open(f"{name} 0", f"{name} 1")
            settle_done(lab, futures, "once their gates are open")
        # as many of each as there are workers, so that a pool that loses one worker each time is empty at the end
        for kind in (SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, tasks.OwnBaseException):
            for turn in range(2):
                name = f"{kind.__name__} {turn}"
                future = lab.submit(executor, name, gated=False, does=tasks.Raiser(kind(turn)))
                del lab.futures[name]  # it is meant to fail
                got = error_of(lab, future, f"the future of the task that raised {kind.__name__}")
                lab.check(
                    type(got) is kind,
                    f"the task raised {kind.__name__}, its future gave {got!r}",
                    f"{kind.__name__}({turn})",
                )
        futures = [lab.submit(executor, f"after {i}") for i in range(2)]
        lab.until(lambda: len(lab.live()) == 2, "2 tasks are in flight on the 2 workers after the others raised")
        lab.open_all()
        for future in futures:
            lab.finish(future, "a task after those that raised")


@rule("EXE-15", property=True)
def many_threads_submit_at_once(lab: Lab) -> None:
    """`submit` is safe from many threads at once: nothing lost, nothing run twice.

    Intent: An executor is shared; callers must not need a lock of their own around it.

    Usual cause: A counter or a lazily made worker list that is read and written without a lock.

    Proof: Every call has a name of its own; its starts are counted and its future is read by proof. Then the race is made: on threads, one submit, and each worker, is parked at every line of the executor's own code until another submit is done or blocked.

    Source: Python library reference, `Executor.submit`; CPython issue 78 and followers on `_idle_semaphore` races.
    """

    def scenario(drawn: tuple[int, int, int]) -> None:
        workers, submitters, each = drawn
        with lab.executor(max_workers=workers) as executor:
            task = lab.probe("task", gated=False)
            barrier = threading.Barrier(submitters)

            def submit_some(submitter: int) -> list[Future[Any]]:
                barrier.wait()
                return [executor.submit(task, submitter, k) for k in range(each)]

            calls = [lab.call(f"submitter {s}", lambda s=s: submit_some(s)) for s in range(submitters)]  # type: ignore[misc]
            futures = [call.result() for call in calls]
            for s, row in enumerate(futures):
                for k, future in enumerate(row):
                    lab.watch(future)
                    got = lab.finish(future, f"task({s}, {k})")
                    lab.check(got == f"task({s}, {k})", f"the future of task({s}, {k}) gave {got!r}", "its own result")
        starts = lab.started()
        twice = sorted({n for n in starts if starts.count(n) > 1})
        lab.check(not twice, f"run more than once: {', '.join(twice)}", "each task runs once")
        lab.check(
            len(starts) == submitters * each, f"{len(starts)} of {submitters * each} tasks ran", "each task runs once"
        )

    strategy = st.tuples(st.integers(1, 4), st.integers(2, 4), st.integers(1, 6))
    forall(
        lab,
        scenario,
        strategy,
        examples=draws(lab, 20),
        describe=lambda d: f"{d[0]} workers, {d[1]} threads submit {d[2]} tasks each",
    )
    for idle in (True, False):
        swept(
            lab,
            ("submit(task, 'one')", lambda pool: pool.executor.submit(pool.task, "one")),
            ("submit(task, 'two')", lambda pool: pool.executor.submit(pool.task, "two")),
            lambda _pool, outcome: _each_runs_once(lab, outcome),
            expected="each task runs once, and gives its own result",
            idle=idle,
        )


def _each_runs_once(lab: Lab, outcome: Outcome) -> str | None:
    for name, end in (("one", outcome.first), ("two", outcome.rival)):
        assert end is not None  # a submit that never comes back is not judged: it is a hang
        call = f"task({name!r})"
        future: Future[Any] = end.value
        lab.watch(future)
        lab.until(future.done, f"the future of {call} is done", expected="each task runs once")
        if (error := future.exception()) is not None:
            return f"the future of {call} gave {error!r}"
        if future.result() != call:
            return f"the future of {call} gave {future.result()!r}"
        times = lab.started().count(call)
        if times != 1:
            return f"{call} was started {times} times"
    return None


@rule("EXE-16")
def futures_work_with_the_standard_library(lab: Lab) -> None:
    """Its futures work with `wait`, `as_completed`, `asyncio.wrap_future` and `loop.run_in_executor` (StopIteration is asyncio's own matter).

    Intent: What waits for futures in general must be able to wait for these.

    Usual cause: A future that overrides `set_result` or keeps its state elsewhere, so that waiters and callbacks are not told.

    Proof: Each waiter is a call of its own; that it never wakes is proven from the kernel.

    Source: Python library reference, `concurrent.futures`, `asyncio.wrap_future`.
    """
    with lab.executor(max_workers=2) as executor:
        first, second = lab.submit(executor, "first"), lab.submit(executor, "second")
        waiter = lab.call("wait(FIRST_COMPLETED)", lambda: wait([first, second], return_when=FIRST_COMPLETED))
        everyone = lab.call("as_completed()", lambda: list(as_completed([first, second])))
        lab.until(lambda: len(lab.live()) == 2, "2 tasks are in flight on 2 workers", needs="EXE-03")
        lab.settle()  # both waiters wait
        lab.open("second")
        done, pending = waiter.result()
        lab.check(
            (done, pending) == ({second}, {first}),
            f"wait gave done={done}, not_done={pending}",
            "the second future is done, the first is not",
        )
        lab.open("first")
        order = everyone.result()
        lab.check(
            order == [second, first], f"as_completed gave {order}", "the futures in the order of their completion"
        )

        failing = lab.submit(executor, "fails later", does=tasks.raise_task_error)
        patient = lab.call("wait() for a task that fails", lambda: wait([failing]))
        lab.until(lambda: "fails later" in lab.live(), "the failing task is in flight", needs="EXE-01")
        lab.settle()
        lab.open("fails later")
        patient.result()
        del lab.futures["fails later"]  # it is meant to fail

        async def on_a_loop() -> list[Any]:
            loop = asyncio.get_running_loop()
            free = lab.probe("looped", gated=False)
            awaited = await loop.run_in_executor(executor, free, 1)
            wrapped = await asyncio.wrap_future(executor.submit(free, 2))
            try:
                await loop.run_in_executor(executor, lab.probe("failing", tasks.raise_task_error, gated=False))
            except tasks.TaskError as error:
                return [awaited, wrapped, error.args]
            return [awaited, wrapped, "no error"]

        got = lab.call("awaiting on an event loop", lambda: asyncio.run(on_a_loop())).result()
        expected = ["looped(1)", "looped(2)", ("message", 7)]
        lab.check(got == expected, f"awaited on a loop they gave {got!r}", repr(expected))


@rule("EXE-33")
def senseless_max_workers_is_refused(lab: Lab) -> None:
    """`max_workers` of 0, a negative number or a string is refused with ValueError or TypeError.

    Intent: A pool of no workers takes work that never runs; the mistake must show where it is made.

    Usual cause: The value is passed on unchecked; `range(0)` starts no worker and nobody notices.

    Proof: What opening raised, if anything, is in the history.

    Source: Python library reference, `ThreadPoolExecutor`: ValueError.
    """
    bad: tuple[Any, ...] = (0, -1, "two")
    with lab.executor(max_workers=1) as executor:
        lab.finish(lab.submit(executor, "task", gated=False), "a task with max_workers=1")
    for value in bad:

        def opening(value: Any = value) -> str:
            try:
                with lab.subject.open_executor(max_workers=value):
                    return "opened"
            except (ValueError, TypeError) as error:
                return f"refused with {type(error).__name__}"
            except Exception as error:  # noqa: BLE001 - any other end is the finding
                return f"raised {error!r}"

        got = lab.call(f"opening with max_workers={value!r}", opening).result()
        lab.check(got.startswith("refused"), f"with max_workers={value!r} it {got}", "ValueError or TypeError")


@rule("EXE-34")
def a_reader_that_times_out_disturbs_nothing(lab: Lab) -> None:
    """`result(timeout)` and `exception(timeout)` that time out raise TimeoutError and disturb neither task nor later readers.

    Intent: Looking is not touching: whoever gives up waiting must not take the result away from others.

    Usual cause: The timed-out reader cancels the future, or leaves a waiter behind that is told twice.

    Proof: The task is gated, so that the short timeout must run out; the same future is then read by others.

    Source: Python library reference, `Future.result`.
    """
    with lab.executor(max_workers=1) as executor:
        (future,) = hold_all(lab, executor, 1)
        patient = lab.call("another reader's result()", future.result)
        for what, timeout, read in (
            ("result", 0.01, future.result),
            ("result", 0, future.result),
            ("exception", 0.01, future.exception),
            ("exception", 0, future.exception),
        ):

            def impatient(read: Any = read, timeout: float = timeout) -> str:
                try:
                    return f"returned {read(timeout=timeout)!r}"
                except TimeoutError:
                    return "TimeoutError"
                except BaseException as error:  # noqa: BLE001 - any other end is the finding
                    return f"raised {error!r}"

            got = lab.call(f"{what}(timeout={timeout})", impatient).result()
            lab.check(got == "TimeoutError", f"{what}(timeout={timeout}) of a gated task: {got}", "TimeoutError")
        lab.check(
            not future.done() and not patient.done,
            "the future is done though its task is still gated",
            "the task goes on undisturbed",
        )
        lab.open_all()
        for reader, value in (
            ("the other reader", patient.result()),
            ("a later reader", lab.finish(future, "the future")),
        ):
            lab.check(value == "hold 0", f"{reader} got {value!r}", "'hold 0', the task's result")
