"""What a crash makes of a story: the states that a kill or a power loss could leave.

*Kill*: the state after each operation, and each write torn. *Power*: at each point, each file independently holds some of
what was not synced, and each folder some of its changes of entries, in their order. What may be lost only grows until a
sync takes it back; so the combinations are made at the end of each stretch between two syncs.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_flowcheck.proof.filesystem import (
    DataEffect,
    Effect,
    Entries,
    File,
    Folder,
    Inode,
    Link,
    Mark,
    Operation,
    Resize,
    Story,
    Sync,
    Write,
    after,
)

SECTOR = 512
PAGE = 4096
_ALL_REORDERINGS = 8
"""Un-synced writes of a file up to which every one is left out at every point; above it, see `_reordered`."""
_FOLDER_COMBINATIONS = 256
_BYTES = 1 << 27
"""Of all that may have become of one file, held at once. Above it, fewer of its writes are torn and reordered."""
_EACH = 14
"""About how many fates one write adds."""

Note = Callable[[str], None]
Names = Mapping[Folder, Mapping[str, Inode]]


@dataclass(frozen=True, slots=True, eq=False)
class Fate:
    """One thing that may have become of a file's data."""

    data: bytes
    lost: str
    """For a human, what of it is lost; empty for nothing."""
    coarse: bool = True
    """Whole writes in their order; not torn, nor reordered."""
    supposed: bool = False
    within_sector: bool = False
    digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", _digest(self.data))


@dataclass(frozen=True, slots=True, eq=False)
class Raw:
    """A state before it is made presentable."""

    rows: tuple[tuple[str, Inode], ...]
    contents: tuple[bytes, ...]
    """Of the files among the rows, in their order."""
    passed: int
    """How many steps that are marks had been passed."""
    last: int
    """How many operations were begun when the crash came."""
    how: tuple[str, ...]
    """What the crash did."""
    supposed: bool
    within_sector: bool


def cuts(write: Write) -> list[int]:
    """Where a write is torn: after the first byte, the quarters, before the last byte, at joints and at some pages and
    sectors. The last are what is left of a short write over older bytes: sectors are written whole.

    Where pages begin depends on what was in the file before, so any byte of an appended write can be such a place.
    """
    size = len(write.data)
    pages = list(range(PAGE - write.offset % PAGE, size, PAGE))
    sectors = range(SECTOR - write.offset % SECTOR, size, SECTOR)
    some = {among[place] for among in (pages, sectors) if among for place in (0, len(among) // 2, -1)}
    return sorted({1, size // 4, size // 2, 3 * size // 4, size - 1, *write.joints, *some} - {0, size})


def _overwrites_in_sector(data: bytes, write: Write, cut: int) -> bool:
    """Whether one sector would hold old bytes behind the cut and new ones before it."""
    place = write.offset + cut
    return place % SECTOR != 0 and place < len(data)


class Enumeration:
    """The states of a story, each once."""

    def __init__(self, story: Story, begin: Names, left_out: list[str], bound: int) -> None:
        self._story = story
        self._left_out = left_out
        self._bound = bound
        self._seen: set[tuple[object, ...]] = set()
        self._digests: dict[File, tuple[bytes, bytes]] = {}
        self._names: dict[Folder, dict[str, Inode]] = {folder: dict(entries) for folder, entries in begin.items()}

    def _pairs(self) -> Iterator[tuple[Operation | Mark, Operation | Mark | None]]:
        steps = self._story.steps
        return zip(steps, [*steps[1:], None], strict=True)

    # ------------------------------------------------------------------------------------------------ kill

    def kill(self) -> Iterator[Raw]:
        """After each operation, and within each write."""
        names = {folder: dict(entries) for folder, entries in self._names.items()}
        data: dict[File, bytes] = {}
        passed = last = 0
        yield from self._kill_state(names, data, passed, last, "killed before the first operation")
        for step, following in self._pairs():
            if isinstance(step, Mark):
                passed += 1
                if not isinstance(
                    following, Mark
                ):  # of marks in a row the last one stands for all: nothing lies between
                    yield from self._kill_state(names, data, passed, last, f"killed after the mark {step.name!r}")
                continue
            for effect in step.effects:
                if isinstance(effect, Write):
                    before = data.get(effect.file, effect.file.base)
                    for cut in cuts(effect):
                        torn = {
                            **data,
                            effect.file: after(before, Write(effect.file, effect.offset, effect.data[:cut])),
                        }
                        how = f"killed in operation {last + 1}, when {cut} of {len(effect.data)} bytes were written"
                        yield from self._kill_state(
                            names, torn, passed, last, how, _overwrites_in_sector(before, effect, cut)
                        )
            last += 1
            for effect in step.effects:
                _apply(effect, names, data)
            yield from self._kill_state(names, data, passed, last, f"killed after operation {last}")

    def _kill_state(
        self, names: Names, data: Mapping[File, bytes], passed: int, last: int, how: str, within_sector: bool = False
    ) -> Iterator[Raw]:
        rows = self._rows(names)
        files = _files(rows)
        contents = tuple(data.get(file, file.base) for file in files)
        supposed = any(file.mapped for file in files)
        digests = [self._digest(file, data) for file, data in zip(files, contents, strict=True)]
        if self._fresh(rows, digests, passed):
            yield Raw(rows, contents, passed, last, (how,), supposed, within_sector)
        for index, file in enumerate(files):
            for text, other in _supposed_contents(file, contents[index]):
                made_up = (*contents[:index], other, *contents[index + 1 :])
                if self._fresh(rows, [*digests[:index], _digest(other), *digests[index + 1 :]], passed):
                    yield Raw(rows, made_up, passed, last, (how, text), True, within_sector)

    # ------------------------------------------------------------------------------------------------ power

    def power(self) -> Iterator[Raw]:
        """All that the un-synced may have become, those of `kill` (everything had reached the disk in order) first."""
        for raw in self.kill():
            how = (raw.how[0].replace("killed", "power lost", 1), *raw.how[1:], "all before it had reached the disk")
            yield Raw(raw.rows, raw.contents, raw.passed, raw.last, how, raw.supposed, raw.within_sector)
        disk = _Disk({folder: dict(entries) for folder, entries in self._names.items()})
        passed = last = 0
        before: Operation | Mark | None = None
        for step in self._story.steps:
            previous, before = before, step
            if isinstance(step, Mark):
                if not isinstance(previous, Mark):
                    yield from self._point(disk, passed, last, _moment(last))
                passed += 1
                continue
            last += 1
            for effect in step.effects:
                if not isinstance(effect, Sync):
                    disk.add(last, effect)
            if any(isinstance(effect, Sync) for effect in step.effects):
                # what it is to make durable may be so already, wholly or partly, or not
                yield from self._point(disk, passed, last, f"power lost in operation {last}")
                for effect in step.effects:
                    if isinstance(effect, Sync):
                        disk.sync(effect.inode)
        yield from self._point(disk, passed, last, _moment(last))

    def _point(self, disk: _Disk, passed: int, last: int, moment: str) -> Iterator[Raw]:
        """All combinations of what may have become of the files and folders."""
        for names, lost_names in disk.folders(self._note):
            rows = self._rows(names)
            files = _files(rows)
            fates = [self._fates(disk, file) for file in files]
            for combination in self._combinations(files, fates):
                if self._fresh(rows, [fate.digest for fate in combination], passed):
                    contents = tuple(fate.data for fate in combination)
                    lost = tuple(
                        f"data of {_path(rows, file)!r}: {fate.lost}"
                        for file, fate in zip(files, combination, strict=True)
                        if fate.lost
                    )
                    supposed = any(file.mapped for file in files)
                    within_sector = any(fate.within_sector for fate in combination)
                    yield Raw(rows, contents, passed, last, (moment, *lost, *lost_names), supposed, within_sector)

    def _fates(self, disk: _Disk, file: File) -> list[Fate]:
        found = disk.fates(file, self._note)
        if not file.mapped:
            return found
        latest = found[-1].data if found else file.base
        return found + [Fate(data, text, supposed=True) for text, data in _supposed_contents(file, latest)]

    def _combinations(self, files: Sequence[File], fates: Sequence[list[Fate]]) -> Iterator[Sequence[Fate]]:
        total = 1
        for one in fates:
            total *= len(one)
        if total <= self._bound:
            yield from itertools.product(*fates)
            return
        extremes = [[one[0], _whole(one)] for one in fates]
        coarse = [[fate for fate in one if fate.coarse] for one in fates]
        few = 1
        for one in coarse:
            few *= len(one)
        several = [index for index, one in enumerate(fates) if len(one) > 1]
        names = ", ".join(repr(files[index].label) for index in several)
        if few <= self._bound:
            self._note(
                f"{names}: {total} combinations of what is lost; torn or reordered data was looked at in one file at a time"
            )
            yield from itertools.product(*coarse)
        else:
            self._note(
                f"{names}: {total} combinations of what is lost; pairs were looked at, others all lost or all kept"
            )
            for ends in (0, 1):
                others = [one[ends] for one in extremes]
                for a, b in itertools.combinations(several, 2):
                    for of_a, of_b in itertools.product(coarse[a], coarse[b]):
                        yield _with(others, {a: of_a, b: of_b})
        for corner in itertools.product((0, 1), repeat=min(len(several), 4)):
            others = [one[1] for one in extremes]
            for index, end in zip(several, corner, strict=False):
                others[index] = extremes[index][end]
            for index in several:
                for fate in fates[index]:
                    yield _with(others, {index: fate})

    # ------------------------------------------------------------------------------------------------ both

    def _note(self, text: str) -> None:
        if text not in self._left_out:
            self._left_out.append(text)

    def _rows(self, names: Names) -> tuple[tuple[str, Inode], ...]:
        return tuple(_rows(self._story.root, names, ""))

    def _digest(self, file: File, data: bytes) -> bytes:
        known = self._digests.get(file)
        if known is None or known[0] is not data:
            known = self._digests[file] = data, _digest(data)
        return known[1]

    def _fresh(self, rows: tuple[tuple[str, Inode], ...], digests: Sequence[bytes], passed: int) -> bool:
        """Whether no such state came yet."""
        numbers: dict[Inode, int] = {}
        shape = tuple(
            (
                path,
                inode.target if isinstance(inode, Link) else isinstance(inode, File),
                numbers.setdefault(inode, len(numbers)),
            )
            for path, inode in rows
        )
        key = (passed, shape, tuple(digests))
        if key in self._seen:
            return False
        self._seen.add(key)
        return True


def _rows(folder: Folder, names: Names, prefix: str) -> Iterator[tuple[str, Inode]]:
    for name, inode in sorted(names.get(folder, {}).items(), key=lambda item: item[0]):
        yield prefix + name, inode
        if isinstance(inode, Folder):
            yield from _rows(inode, names, f"{prefix}{name}/")


def paths(root: Folder, names: Names) -> list[str]:
    """All paths below the root, parents first."""
    return [path for path, _ in _rows(root, names, "")]


def enter(effect: Effect, names: dict[Folder, dict[str, Inode]]) -> None:
    """Apply a change of entries; other effects change none."""
    if isinstance(effect, Entries):
        for folder, name, inode in effect.changes:
            _set(names, folder, name, inode)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _files(rows: Sequence[tuple[str, Inode]]) -> list[File]:
    return list(dict.fromkeys(inode for _, inode in rows if isinstance(inode, File)))


def _with(fates: Sequence[Fate], others: Mapping[int, Fate]) -> Sequence[Fate]:
    return [others.get(index, fate) for index, fate in enumerate(fates)]


def _moment(last: int) -> str:
    return f"power lost after operation {last}" if last else "power lost before the first operation"


def _path(rows: Sequence[tuple[str, Inode]], file: File) -> str:
    return next(path for path, inode in rows if inode is file)


def _whole(fates: Sequence[Fate]) -> Fate:
    """The one in which nothing is lost."""
    return next(fate for fate in fates if not fate.lost)


def _apply(effect: Effect, names: dict[Folder, dict[str, Inode]], data: dict[File, bytes]) -> None:
    enter(effect, names)
    if not isinstance(effect, Entries | Sync):
        data[effect.file] = after(data.get(effect.file, effect.file.base), effect)


def _set(names: dict[Folder, dict[str, Inode]], folder: Folder, name: str, inode: Inode | None) -> None:
    if inode is None:
        names.setdefault(folder, {}).pop(name, None)
    else:
        names.setdefault(folder, {})[name] = inode


def _supposed_contents(file: File, data: bytes) -> list[tuple[str, bytes]]:
    """What a file that is mapped writable might hold: nobody knows."""
    if not file.mapped:
        return []
    noise = random.Random(0).randbytes(len(data))  # noqa: S311 - the same every time, and no secret
    return [
        (f"{file.label!r} is mapped: supposed to hold {what}", other)
        for what, other in (
            *(("what it held at another time", other) for other in file.elsewhere),
            ("zeroes", bytes(len(data))),
            ("noise", noise),
        )
        if other != data
    ]


# -------------------------------------------------------------------------------------------------- the disk


@dataclass(slots=True)
class _Disk:
    """What is durable, and what is pending."""

    names: dict[Folder, dict[str, Inode]]
    data: dict[File, bytes] = field(default_factory=dict[File, bytes])
    pending: dict[File, list[tuple[int, DataEffect]]] = field(default_factory=dict[File, list[tuple[int, DataEffect]]])
    changes: list[tuple[int, Entries]] = field(default_factory=list[tuple[int, Entries]])
    _cache: dict[File, tuple[int, list[Fate]]] = field(default_factory=dict[File, tuple[int, list[Fate]]])

    def add(self, number: int, effect: DataEffect | Entries) -> None:
        if isinstance(effect, Entries):
            self.changes.append((number, effect))
        else:
            self.pending.setdefault(effect.file, []).append((number, effect))
            self._cache.pop(effect.file, None)

    def sync(self, inode: Inode | None) -> None:
        if inode is None:
            for file in list(self.pending):
                self._keep(file)
            while self.changes:
                self._enter(self.changes.pop(0)[1])
        elif isinstance(inode, File):
            self._keep(inode)
        elif isinstance(inode, Folder):
            self._settle(inode)

    def _keep(self, file: File) -> None:
        data = self.data.get(file, file.base)
        for _, effect in self.pending.pop(file, ()):
            data = after(data, effect)
        self.data[file] = data
        self._cache.pop(file, None)

    def _enter(self, entries: Entries) -> None:
        for folder, name, inode in entries.changes:
            _set(self.names, folder, name, inode)

    def _settle(self, folder: Folder) -> None:
        """All changes in this folder, and those that must come before them in others (by a rename between two)."""
        touched = {folder}
        kept: list[int] = []
        for index in reversed(range(len(self.changes))):
            folders = {one for one, _, _ in self.changes[index][1].changes}
            if folders & touched:
                kept.append(index)
                touched |= folders
        for index in reversed(kept):
            self._enter(self.changes[index][1])
        self.changes = [change for index, change in enumerate(self.changes) if index not in set(kept)]

    def folders(self, note: Note) -> Iterator[tuple[dict[Folder, dict[str, Inode]], tuple[str, ...]]]:
        """Each set of changes that may have persisted: of each folder the first few; a rename in both or in none."""
        order: dict[Folder, list[int]] = {}
        for index, (_, entries) in enumerate(self.changes):
            for folder in {one for one, _, _ in entries.changes}:
                order.setdefault(folder, []).append(index)
        folders = list(order)
        combinations = 1
        for one in order.values():
            combinations *= len(one) + 1
        choices: Iterator[tuple[int, ...]]
        if combinations <= _FOLDER_COMBINATIONS:
            choices = itertools.product(*(range(len(order[folder]) + 1) for folder in folders))
        else:
            note(
                f"{combinations} combinations of changes in {len(folders)} folders: only those in which one folder lags"
            )
            choices = self._lagging(folders, order)
        for choice in choices:
            kept = {
                index: folder for folder, count in zip(folders, choice, strict=True) for index in order[folder][:count]
            }
            missing = {index for folder, count in zip(folders, choice, strict=True) for index in order[folder][count:]}
            if missing & kept.keys():
                continue
            names = {folder: dict(entries) for folder, entries in self.names.items()}
            for index in sorted(kept):
                for folder, name, inode in self.changes[index][1].changes:
                    _set(names, folder, name, inode)
            lost = tuple(
                f"folder {folder.label!r}: as before operation {self.changes[order[folder][count]][0]}"
                for folder, count in zip(folders, choice, strict=True)
                if count < len(order[folder])
            )
            yield names, lost

    @staticmethod
    def _lagging(folders: Sequence[Folder], order: Mapping[Folder, Sequence[int]]) -> Iterator[tuple[int, ...]]:
        """The changes in the order in which they were made, and at each point one folder that is behind, or ahead."""
        length = 1 + max(index for one in order.values() for index in one)
        for now in range(length + 1):
            even = [sum(index < now for index in order[folder]) for folder in folders]
            yield tuple(even)
            for place in range(len(folders)):
                for count in (0, len(order[folders[place]])):
                    yield (*even[:place], count, *even[place + 1 :])

    def fates(self, file: File, note: Note) -> list[Fate]:
        """What may have become of a file's data, without repetition: nothing persisted first."""
        pending = self.pending.get(file, [])
        cached = self._cache.get(file)
        if cached is not None and cached[0] == len(pending):
            return cached[1]
        found = list(_fates(self.data.get(file, file.base), pending, file.label, note))
        unique: dict[bytes, Fate] = {}
        for fate in found:
            known = unique.get(fate.data)
            if known is None or not fate.lost or (known.lost and _plainer(fate, known)):
                unique[fate.data] = fate
        result = list(unique.values())
        self._cache[file] = (len(pending), result)
        return result


def _plainer(fate: Fate, other: Fate) -> bool:
    """Of two ways to one content, the one that takes less for granted."""
    return (fate.coarse, not fate.within_sector) > (other.coarse, not other.within_sector)


def _fates(base: bytes, pending: Sequence[tuple[int, DataEffect]], label: str, note: Note) -> Iterator[Fate]:
    """Prefixes; sizes without data; torn writes; one left out; one alone."""
    count = len(pending)
    chosen = _chosen(base, pending, label, note)
    data, sized = base, base
    yield Fate(base, f"none of {_changes(count)}" if count else "")
    for index, (number, effect) in enumerate(pending):
        before, data = data, after(data, effect)
        if isinstance(effect, Resize):
            sized = after(sized, effect)
        if index not in chosen:
            continue
        yield Fate(data, "" if index == count - 1 else f"only {index + 1} of {_changes(count)}")
        full = len(data)
        yield Fate(sized[:full].ljust(full, b"\0"), f"the size is {full} bytes, new data is zeroes or not there")
        if isinstance(effect, Write):
            yield from _torn(before, effect, number)
        yield from _reordered(base, pending, index)
    if count > _ALL_REORDERINGS:
        note(
            f"{label!r}: {count} un-synced changes; each was left out alone, or with all after its successor, or persisted alone"
        )


def _chosen(base: bytes, pending: Sequence[tuple[int, DataEffect]], label: str, note: Note) -> Container[int]:
    """The changes that are looked at: all, unless what might have become of the file would fill the memory."""
    count = len(pending)
    size = len(base) + sum(len(effect.data) for _, effect in pending if isinstance(effect, Write))
    most = max(4, _BYTES // (_EACH * size + 1))
    if count <= most:
        return range(count)
    note(f"{label!r}: {count} un-synced changes, {size} bytes; what may be lost was looked at, at {most} of them")
    return {round(place * (count - 1) / (most - 1)) for place in range(most)}


def _torn(before: bytes, effect: Write, number: int) -> Iterator[Fate]:
    size = len(effect.data)
    for cut in cuts(effect):
        yield Fate(
            after(before, Write(effect.file, effect.offset, effect.data[:cut])),
            f"{cut} of {size} bytes of the write of operation {number}, and nothing after it",
            coarse=False,
            within_sector=_overwrites_in_sector(before, effect, cut),
        )
    half = size // 2
    if half and effect.offset + size > len(before):
        padded = effect.data[:half].ljust(size, b"\0")
        yield Fate(
            after(before, Write(effect.file, effect.offset, padded)),
            f"half of the write of operation {number}, zeroes for the rest, and nothing after it",
            coarse=False,
        )


def _reordered(base: bytes, pending: Sequence[tuple[int, DataEffect]], index: int) -> Iterator[Fate]:
    """One change missing, with or without what came after its successor; and one alone."""
    count = len(pending)
    number, alone = pending[index]
    ends = range(index + 2, count + 1) if count <= _ALL_REORDERINGS else sorted({min(index + 2, count), count})
    for end in ends:
        data = base
        for place, (_, effect) in enumerate(pending[:end]):
            if place != index:
                data = after(data, effect)
        rest = "" if end == count else f", and nothing after operation {pending[end - 1][0]}"
        shared = any(_share_sector(alone, effect) for _, effect in pending[index + 1 : end])
        yield Fate(data, f"all but operation {number}{rest}", coarse=False, within_sector=shared)
    shared = any(_share_sector(alone, effect) for _, effect in pending[:index])
    yield Fate(after(base, alone), f"operation {number} alone of {_changes(count)}", coarse=False, within_sector=shared)


def _share_sector(one: DataEffect, other: DataEffect) -> bool:
    """Whether two writes touch one sector: then the later one does not reach the disk without the earlier one there."""
    if not (isinstance(one, Write) and isinstance(other, Write)):
        return False
    first, second = (
        (effect.offset // SECTOR, (effect.offset + len(effect.data) - 1) // SECTOR) for effect in (one, other)
    )
    return first[0] <= second[1] and second[0] <= first[1]


def _changes(count: int) -> str:
    return f"{count} change" if count == 1 else f"{count} changes"
