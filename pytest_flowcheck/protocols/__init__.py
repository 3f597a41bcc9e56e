"""The protocols, one module per facet (`protocols.executor`, ...); and what they share, here."""

from pytest_flowcheck.protocols._body import JSON as JSON
from pytest_flowcheck.protocols._body import AwaitableOrValue as AwaitableOrValue
from pytest_flowcheck.protocols._body import Body as Body
from pytest_flowcheck.protocols._body import Opened as Opened
from pytest_flowcheck.protocols._body import blocking as blocking
from pytest_flowcheck.protocols._broken import breaks as breaks
from pytest_flowcheck.protocols._broken import broken_rules as broken_rules
from pytest_flowcheck.protocols._errors import Closed as Closed
from pytest_flowcheck.protocols._errors import Corrupt as Corrupt
from pytest_flowcheck.protocols._errors import ErrorMap as ErrorMap
from pytest_flowcheck.protocols._errors import Foreign as Foreign
from pytest_flowcheck.protocols._errors import Halt as Halt
from pytest_flowcheck.protocols._errors import Inexpressible as Inexpressible
from pytest_flowcheck.protocols._errors import Invalid as Invalid
from pytest_flowcheck.protocols._errors import NotFound as NotFound
from pytest_flowcheck.protocols._errors import Refused as Refused
from pytest_flowcheck.protocols._errors import Unsupported as Unsupported
from pytest_flowcheck.protocols._errors import is_a as is_a
from pytest_flowcheck.protocols._outcome import Failed as Failed
from pytest_flowcheck.protocols._outcome import Ok as Ok
from pytest_flowcheck.protocols._outcome import Outcome as Outcome
from pytest_flowcheck.protocols._outcome import Skipped as Skipped
from pytest_flowcheck.protocols._subject import Adapter as Adapter
from pytest_flowcheck.protocols._subject import Backend as Backend
from pytest_flowcheck.protocols._subject import Subject as Subject

__all__ = [
    "JSON",
    "Adapter",
    "AwaitableOrValue",
    "Backend",
    "Body",
    "Closed",
    "Corrupt",
    "ErrorMap",
    "Failed",
    "Foreign",
    "Halt",
    "Inexpressible",
    "Invalid",
    "NotFound",
    "Ok",
    "Opened",
    "Outcome",
    "Refused",
    "Skipped",
    "Subject",
    "Unsupported",
    "blocking",
    "breaks",
    "broken_rules",
    "is_a",
]
