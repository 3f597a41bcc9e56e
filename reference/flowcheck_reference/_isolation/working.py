"""What a run does on its thread."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any, cast

from .errors import RunCancelledError
from .run import Run


def work(run: Run[Any]) -> tuple[Any, BaseException | None]:
    """Its value, or its error. Raises nothing."""
    call, run.call = run.call, None
    try:
        if run.unwanted or call is None:
            raise RunCancelledError(f"the run of session {run.session!r} was cancelled before it began")
        fn, args = call
        del call  # nothing of it outlives the run
        value = run.context.run(fn, *args)
        if inspect.isawaitable(value):
            value = (_on_trio if run.trio else _on_asyncio)(run, value)
    except asyncio.CancelledError as error:
        return None, _cancelled(run, error)
    except BaseException as error:  # noqa: BLE001  the run's own, whatever it is (ISO-06)
        return None, error
    else:
        return value, None


def _on_asyncio(run: Run[Any], work: Awaitable[Any]) -> Any:
    """Await it on a loop of this thread, which is closed with the run."""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()

        async def main() -> Any:
            task = asyncio.current_task()
            assert task is not None

            def stop() -> None:
                with suppress(RuntimeError):  # the loop is closed: it has ended
                    loop.call_soon_threadsafe(task.cancel)

            run.stop_by(stop)
            return await work

        return runner.run(main(), context=run.context)


def _on_trio(run: Run[Any], work: Awaitable[Any]) -> Any:
    import trio

    async def main() -> Any:
        token = trio.lowlevel.current_trio_token()
        with trio.CancelScope() as scope:

            def stop() -> None:
                with suppress(trio.RunFinishedError):
                    token.run_sync_soon(scope.cancel)

            run.stop_by(stop)
            return await work
        raise _cancelled(run, None)

    return run.context.run(trio.run, cast("Any", main))


def _cancelled(run: Run[Any], error: BaseException | None) -> RunCancelledError:
    cancelled = RunCancelledError(f"the run of session {run.session!r} was cancelled")
    cancelled.__cause__ = error
    return cancelled
