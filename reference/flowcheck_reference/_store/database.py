"""Connections to a SQLite file, for any number of threads; and its errors as the store's (STO-06, 07, 12, 22).

Durable (STO-17). In WAL mode a commit is one write and one fsync, and lasts with `synchronous=FULL`; with NORMAL it
would be lost with the power. With a rollback journal FULL is not enough: the journal is deleted, and its name may be back
after a power loss, which would undo the commit: EXTRA syncs the folder, too. WAL is asked for, as readers never wait in it
and a commit costs a third; it maps a file into the memory of all processes, which network file systems don't have.

A database appears whole: it is made under another name, with its tables, and renamed. So a file that is there and empty
was damaged, and is no new one, as it would be for SQLite.

Waiting. SQLite waits by trying again, ever more seldom: who writes all the time would keep others out until their patience
is over. So it is asked to give up soon, and asked again at once; and of the threads of a process only one asks.

Connections. SQLite's are used by one thread at a time; here an operation takes an idle one or opens another, and leaves
it for the next. So there are as many as operations at once, and none for a thread that has ended.

Fork. A connection must not cross it: SQLite remembers for each file what locks its process has, a child would inherit
that memory and not the locks, and even to close an inherited connection may roll back what the parent is at. So a fork
waits until no operation is under way, and no connection is open when it comes; both open theirs again. (It doesn't wait
for an operation of its own thread: a signal's handler that forks must let the child end by `os._exit`.)
"""
from __future__ import annotations

import errno
import os
import sqlite3
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, suppress
from time import monotonic
from typing import Any, Final, Literal, TypeAlias, TypeVar

from .errors import CorruptStateError, StoreBusyError, StoreClosedError, StoreError
from .files import drop, lock, make_folder, sync_names

T = TypeVar("T")

Journal: TypeAlias = Literal["wal", "delete"]

_APPLICATION: Final = 0x666C6F77  # "flow"
_SCHEMA: Final = 1
_TABLES: Final = f"""
    CREATE TABLE state (run_id TEXT PRIMARY KEY, revision INTEGER NOT NULL, checksum INTEGER NOT NULL, state BLOB NOT NULL);
    CREATE TABLE log (run_id TEXT, number INTEGER, checksum INTEGER NOT NULL, entry BLOB NOT NULL,
                      PRIMARY KEY (run_id, number)) WITHOUT ROWID;
    PRAGMA application_id = {_APPLICATION};
    PRAGMA user_version = {_SCHEMA};
"""

_live: Final[weakref.WeakSet[Database]] = weakref.WeakSet()

_ONCE: Final = 0.008
"""Seconds for which SQLite tries by itself, after 1, 2 and 5 ms."""

_SYSTEM: Final = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_NOMEM: errno.ENOMEM,
    sqlite3.SQLITE_TOOBIG: errno.EFBIG,
}


class Database:
    """A file of tables. `timeout`: seconds for which an operation waits for others before it gives up."""

    def __init__(self, path: str, *, journal: Journal, timeout: float, durable: bool) -> None:
        self.path = path
        self._timeout = timeout
        self._durable = durable
        self._idle: deque[sqlite3.Connection] = deque()
        self._busy: dict[object, int] = {}
        """The operations under way, and in which threads."""
        self._quiet = threading.Condition(threading.RLock())
        """Held for a moment at both ends of an operation, and by a fork from when all is quiet until it is done."""
        self._forking = False
        self._writer = threading.Lock()
        """Of this process's threads one waits for the others' processes."""
        self._closed = False
        _live.add(self)
        make_folder(os.path.dirname(path))  # noqa: PTH120  paths are texts here
        if not os.path.exists(path):  # noqa: PTH110
            self._make(journal)
        with self._operation():  # what is wrong with it is said now
            pass

    # -- operations

    def fetch(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        """The rows of a query. Raises: see `_translated`; StoreClosedError."""
        with self._operation() as connection:
            return self._patiently(lambda: connection.execute(sql, parameters).fetchall(), monotonic() + self._timeout)

    def check(self) -> None:
        """Raises: StoreClosedError."""
        if self._closed:
            msg = f"this store was closed: {self.path}"
            raise StoreClosedError(msg)

    @contextmanager
    def writing(self) -> Generator[sqlite3.Connection]:
        """A transaction: all of it lasts, or none of it was. It waits for its turn at the beginning, never in between."""
        with self._operation() as connection:
            until = monotonic() + self._timeout
            if not self._writer.acquire(timeout=self._timeout):
                msg = f"other threads were at {self.path} for too long: nothing was changed, try again"
                raise StoreBusyError(msg)
            try:
                self._patiently(lambda: connection.execute("BEGIN IMMEDIATE"), until)
                yield connection
                self._patiently(lambda: connection.execute("COMMIT"), until)
            except BaseException:
                if connection.in_transaction:  # a failed commit may have ended it
                    with suppress(sqlite3.Error):  # then it is closed, which does the same
                        connection.execute("ROLLBACK")
                raise
            finally:
                self._writer.release()

    def _patiently(self, call: Callable[[], T], until: float) -> T:
        """Until nobody is in the way, or it is too late."""
        while True:
            try:
                return call()
            except sqlite3.OperationalError as error:
                if _code(error) != sqlite3.SQLITE_BUSY or monotonic() >= until:
                    raise

    def close(self) -> None:
        """Take no more operations; those under way come to their end. Any thread, any number of times."""
        self._closed = True
        self._drain()

    # -- forks

    def quiet(self) -> None:
        """Wait until no operation is under way, and let none begin; then close what is open."""
        self._quiet.acquire()
        self._forking = True
        while any(thread != threading.get_ident() for thread in self._busy.values()):
            self._quiet.wait()
        self._drain()

    def resume(self) -> None:
        """In the parent: go on."""
        self._forking = False
        self._quiet.notify_all()
        self._quiet.release()

    def begin_anew(self) -> None:
        """In the child: nothing is under way, but for what this thread may be in itself."""
        self._forking = False
        self._writer = threading.Lock()
        self._quiet = threading.Condition(threading.RLock())

    @contextmanager
    def _operation(self) -> Generator[sqlite3.Connection]:
        """A connection for a while; a fork waits for it. Raises: see `_translated`; StoreClosedError."""
        with self._under_way(), _translated(self.path):
            connection = self._taken()
            try:
                yield connection
            finally:
                self._left(connection)

    @contextmanager
    def _under_way(self) -> Generator[None]:
        """Something for which a fork waits."""
        ticket = object()
        with self._quiet:
            while self._forking:
                self._quiet.wait()
            self.check()
            self._busy[ticket] = threading.get_ident()
        try:
            yield
        finally:
            with self._quiet:
                self._busy.pop(ticket, None)
                self._quiet.notify_all()

    # -- connections

    def _taken(self) -> sqlite3.Connection:
        try:
            return self._idle.pop()
        except IndexError:
            return self._connected()

    def _left(self, connection: sqlite3.Connection) -> None:
        """It is left for the next; and then looked whether there will be one: so `close` finds it, or we see `close`."""
        if connection.in_transaction:
            connection.close()
            return
        self._idle.append(connection)
        if self._closed:
            self._drain()

    def _drain(self) -> None:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return
            connection.close()

    def _connected(self) -> sqlite3.Connection:
        try:
            if not os.stat(self.path).st_size:
                msg = f"{self.path} is empty: it is no database, or was one; delete it to begin anew"
                raise CorruptStateError(msg, self.path)
        except FileNotFoundError:
            msg = f"the database {self.path} is gone"
            raise FileNotFoundError(errno.ENOENT, msg, self.path) from None
        connection = self._plain(self.path)
        try:
            until = monotonic() + self._timeout
            (application,) = self._patiently(lambda: connection.execute("PRAGMA application_id").fetchone(), until)
            (schema,) = self._patiently(lambda: connection.execute("PRAGMA user_version").fetchone(), until)
            if (application, schema) != (_APPLICATION, _SCHEMA):
                msg = (
                    f"{self.path} is no database of runs, or one of another version (application {application:#x}, "
                    f"schema {schema}; this one knows {_APPLICATION:#x}, {_SCHEMA}): it is left alone"
                )
                raise StoreError(msg)
            (journal,) = self._patiently(lambda: connection.execute("PRAGMA journal_mode").fetchone(), until)
            # EXTRA is FULL in WAL mode. NORMAL keeps a database with a WAL whole, and with a journal nearly always.
            mode = "EXTRA" if self._durable else "NORMAL" if journal == "wal" else "FULL"
            connection.execute(f"PRAGMA synchronous={mode}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _plain(self, path: str) -> sqlite3.Connection:
        return sqlite3.connect(path, timeout=_ONCE, isolation_level=None, check_same_thread=False)

    def _make(self, journal: Journal) -> None:
        """One maker at a time; whoever comes later finds it there."""
        temporary = f"{self.path}-new"
        fd = lock(f"{self.path}-making", os.O_RDWR | os.O_CREAT, wait=True)
        try:
            if not os.path.exists(self.path):  # noqa: PTH110
                for left in (temporary, f"{temporary}-journal", f"{temporary}-wal", f"{temporary}-shm"):  # by a dead one
                    with suppress(FileNotFoundError):
                        os.unlink(left)  # noqa: PTH108
                try:
                    with self._under_way(), _translated(self.path), closing(self._plain(temporary)) as connection:
                        connection.execute("PRAGMA synchronous=EXTRA")
                        connection.executescript(f"BEGIN; {_TABLES} COMMIT;")
                        connection.execute(f"PRAGMA journal_mode={journal}")
                    os.replace(temporary, self.path)  # noqa: PTH105
                except BaseException:
                    with suppress(OSError):  # or else the next maker does it
                        os.unlink(temporary)  # noqa: PTH108
                    raise
                sync_names(os.path.dirname(self.path))  # noqa: PTH120
        finally:
            with suppress(OSError):  # an empty file more
                os.unlink(f"{self.path}-making")  # noqa: PTH108
            drop(fd)


def _code(error: sqlite3.Error) -> int:
    code: int = getattr(error, "sqlite_errorcode", 0)  # errors of Python's own have none
    return code & 0xFF


_frozen: Final[list[Database]] = []
"""Those that wait for a fork to be over. One at a time: the interpreter's own lock around a fork comes later than this."""
_fork = threading.RLock()


def _before_fork() -> None:
    _fork.acquire()
    for database in tuple(_live):
        database.quiet()
        _frozen.append(database)


def _after_fork_in_parent() -> None:
    while _frozen:
        _frozen.pop().resume()
    _fork.release()


def _after_fork_in_child() -> None:
    global _fork  # noqa: PLW0603  others may have waited for it
    while _frozen:
        _frozen.pop().begin_anew()
    _fork = threading.RLock()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)


@contextmanager
def _translated(path: str) -> Generator[None]:
    """SQLite's errors as ours: StoreBusyError, CorruptStateError, OSError."""
    try:
        yield
    except sqlite3.Error as error:
        code = _code(error)
        if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}:
            msg = f"others were at {path} for too long: nothing was changed, try again ({error})"
            raise StoreBusyError(msg) from error
        if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            msg = f"the database {path} is damaged: {error}"
            raise CorruptStateError(msg, path) from error
        if code in _SYSTEM:
            msg = f"{error}; what was saved before is intact"
            raise OSError(_SYSTEM[code], msg, path) from error
        raise
