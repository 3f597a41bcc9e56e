"""Wrong when the sink raises."""

from __future__ import annotations

from typing import Any

from flowcheck_reference.broken.tracing._sound import LOG, Counting, Plain
from pytest_flowcheck.protocols import breaks


@breaks("TRC-05", "TRC-12")
class EndsWithTheFirstError(Plain):
    """No `try` around the sink."""

    class Tracer(Counting):
        def failed(self, batch: list[Any], error: Exception) -> None:
            raise error


@breaks("TRC-05", "TRC-12")
class SendsAgain(Plain):
    """After an error it begins anew, with the last batch that the sink took."""

    class Tracer(Counting):
        def fresh(self) -> None:
            super().fresh()
            self.last: list[Any] = []

        def post(self, batch: list[Any]) -> None:
            super().post(batch)
            self.last = batch

        def failed(self, batch: list[Any], error: Exception) -> None:
            super().failed(batch, error)
            if self.last:
                super().post(self.last)


@breaks("TRC-14")
class SaysNothing(Plain):
    """`except Exception: pass`."""

    class Tracer(Counting):
        def failed(self, batch: list[Any], error: Exception) -> None:
            """Tracing is not that important."""


@breaks("TRC-14")
class SaysItForEach(Plain):
    """A log record for each event that is lost."""

    class Tracer(Counting):
        def failed(self, batch: list[Any], error: Exception) -> None:
            for event in batch:
                LOG.error("%r is lost", event, exc_info=error)
