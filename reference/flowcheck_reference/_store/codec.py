"""A value as JSON: it loads equal, or it is refused (STO-01, 10).

Both libraries that can do the work are generous, each in its own way: `json` makes texts of keys that are numbers and
lists of tuples, and writes NaN, which is no JSON; `orjson` makes null of NaN, lists of tuples, texts of UUIDs, values of
enums, and reads a number of more than 64 bits as a float. Here all of that is refused, or done by the one that can, so
that a store behaves the same with orjson and without; with it a save is many times as fast.

Only None, bool, int, float, str, list and dict are JSON: the types themselves. What is derived from them would come back
as less than it was.
"""
from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from importlib import import_module
from itertools import chain
from math import isfinite
from typing import Any, Final, TypeAlias

from .errors import NotJsonError

JSON: TypeAlias = Any
"""None, bool, int, float, str, list, or dict with str keys, nested up to 200 deep."""

DEEPEST: Final = 200
"""Lists and dicts within each other. orjson writes 254; `json` as many as the stack has room for, and reads fewer elsewhere."""

try:
    _orjson: Any = import_module("orjson")
except ImportError:
    _orjson = None

if _orjson is not None:
    _OPTIONS: Any = (
        _orjson.OPT_PASSTHROUGH_SUBCLASS | _orjson.OPT_PASSTHROUGH_DATACLASS | _orjson.OPT_PASSTHROUGH_DATETIME
    )

_ATOMS: Final[frozenset[type]] = frozenset({str, int, float, bool, type(None)})
_TYPES: Final[frozenset[type]] = _ATOMS | {list, dict}
_NAMES: Final = "None, bool, int, float, str, list and dict"
_DIGITS: Final = bytes(ord("0") if chr(i) in "0123456789" else 0 for i in range(256))
_LONG: Final = b"0" * 19
"""A number of so many digits may have more than 64 bits: 2**63 has 19."""
_STRICT: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class Snapshot:
    """A value as it is now, for `save` and `append` to take in its stead.

    Take it under the lock that whoever changes the value holds, and save it without: so a change never waits for the disk.
    (`save` takes its own first thing. With orjson that is one step of the interpreter, which no thread comes between on
    a build with a GIL; the lock is what makes it so on any.)

    Raises: NotJsonError: the value can't be kept.
    """

    __slots__ = ("data",)

    def __init__(self, value: JSON) -> None:
        self.data: Final = encode(value)


def bytes_of(value: JSON | Snapshot) -> bytes:
    """As JSON, without a line break. Raises: NotJsonError."""
    return value.data if type(value) is Snapshot else encode(value)


def encode(value: JSON) -> bytes:
    """As JSON, in UTF-8, without a line break. Raises: NotJsonError."""
    data: bytes | None = None
    if _orjson is not None:
        try:
            data = _orjson.dumps(value, None, _OPTIONS)
        except TypeError:  # long numbers are for `json`; for the rest it or `_trouble` says what is wrong
            data = None
    by_orjson = data is not None
    try:
        if data is None:
            data = _STRICT.encode(value).encode()
        if _is_exact(value, keys=not by_orjson, floats=by_orjson and b"null" in data):
            return data
        cause = None
    except (TypeError, ValueError, RecursionError) as error:
        cause = error
    raise NotJsonError(_trouble(value) or f"not JSON: {cause}") from cause


def decode(data: bytes) -> JSON:
    """What `encode` was given. Raises: ValueError, saying why the bytes can't be read."""
    if _orjson is not None and data.translate(_DIGITS).find(_LONG) < 0:
        return _orjson.loads(data)
    text = data.decode()
    try:
        value = _generous(text, parse_constant=_no_number, parse_float=_finite)
    except RecursionError:  # nothing of ours is so deep, unless the caller has hardly any stack left
        msg = f"nested more than {DEEPEST} deep, or too deep for the stack that is left"
        raise ValueError(msg) from None
    if "\\u" in text:  # it may spell half a character, which no text can hold
        _STRICT.encode(value).encode()
    return value


_generous: Final[Callable[..., Any]] = json.loads


def _no_number(name: str) -> float:
    msg = f"{name} is no JSON number"
    raise ValueError(msg)


def _finite(digits: str) -> float:
    number = float(digits)
    return number if isfinite(number) else _no_number(digits)


def _is_exact(value: JSON, *, keys: bool, floats: bool) -> bool:
    """Has it only what loads equal? Asked when it was written already: so it is finite, and holds itself nowhere.

    `keys`: look at them, too; orjson has. `floats`: are there any that orjson would make a null of? `json` refuses them.
    Level by level, so that nearly all of it happens in C: this costs more than the writing.
    """
    kinds: set[type[Any]] = {type(value)}
    rest: list[Any] = [value]
    for _ in range(DEEPEST + 1):
        if not kinds <= _TYPES:
            return False
        if floats and float in kinds and not _are_finite(x for x in rest if type(x) is float):
            return False
        dicts: list[dict[Any, Any]] = [x for x in rest if type(x) is dict] if dict in kinds else []
        lists: list[list[Any]] = [x for x in rest if type(x) is list] if list in kinds else []
        if not dicts and not lists:
            return True
        if keys and not {type(key) for key in chain.from_iterable(dicts)} <= {str}:
            return False
        rest = list(chain.from_iterable(map(dict[Any, Any].values, dicts)))
        rest.extend(chain.from_iterable(lists))
        kinds = set(map(type, rest))
    return False


def _are_finite(numbers: Iterable[float]) -> bool:
    """A sum has what any of its parts has of infinity. One that overflows has it of its own: then each is asked."""
    kept = list(numbers)
    return isfinite(sum(kept)) or all(map(isfinite, kept))


def _trouble(value: JSON) -> str | None:
    """What is wrong with it, and where: the first thing, in the order of reading."""
    stack: list[tuple[Any, str, int]] = [(value, "", 0)]
    while stack:
        part, where, depth = stack.pop()
        if depth >= DEEPEST and _type(part) in {list, dict}:
            return f"nested more than {DEEPEST} deep, or it holds itself"
        wrong = _wrong(part)
        if wrong:
            return f"at {where}: {wrong}" if where else wrong
        inside: list[tuple[Any, Any]] = []
        if _type(part) is dict:
            inside = list(part.items())
        elif _type(part) is list:
            inside = list(enumerate[Any](part))
        stack.extend((held, f"{where}[{key!r}]", depth + 1) for key, held in reversed(inside))
    return None


def _type(part: Any) -> type[Any]:
    return type(part)  # pyright: ignore[reportUnknownVariableType]  of Any, it says


def _wrong(part: Any) -> str | None:
    """What is wrong with this part, what it holds aside."""
    kind = _type(part)
    if kind is tuple:
        return "a tuple would load as a list: give a list"
    if kind not in _TYPES:
        return f"{kind.__module__}.{kind.__qualname__} is no type of JSON: give a value made of {_NAMES}"
    if kind is float and not isfinite(part):
        return f"{part} is no JSON number"
    for text in (part,) if kind is str else part if kind is dict else ():
        if type(text) is not str:
            return f"the key {text!r} is no str: it would load as one"
        try:
            text.encode()
        except UnicodeEncodeError:
            return f"{text!a:.80} has half a character (a lone surrogate): it is no valid text"
    return None
