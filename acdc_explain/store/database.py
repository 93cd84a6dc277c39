"""The file of a store: opened for a moment, alone to write or beside others to read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import UserError
from .duck.connection import Connection
from .duck.engine import (
    DatabaseError,
    NotThere,
    attached,
    first_line,
    pass_on_interrupt,
    quoted,
    replaced,
    search_limits,
    stop_engine,
)
from .search.index import index_all
from .tables.catalog import strangers
from .tables.schema import MIGRATIONS, VERSION

NARROW = "name more of the steps, or narrow it with `task=` or `model=`"

State = tuple[tuple[int, ...] | None, ...]
_checked: dict[Path, State] = {}  # files with nothing but our tables, as this process left them


def _state(path: Path) -> State:
    """What changes whenever a file or its log is written to or replaced."""
    found: list[tuple[int, ...] | None] = []
    for file in (path, path.with_name(f"{path.name}.wal")):
        try:
            held = file.stat()
            found.append((held.st_dev, held.st_ino, held.st_size, held.st_mtime_ns))
        except OSError:
            found.append(None)
    return tuple(found)


class StoreFile:
    """What all of a store's methods open and close; the file is not kept open."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            raise UserError(f"{path} is a folder; give the path of a store's file with `store=`.")
        if not self.path.parent.is_dir():
            raise UserError(
                f"The folder {self.path.parent} does not exist; make it or change `store=`."
            )

    @contextmanager
    def _open(self, folder: Path | None = None) -> Iterator[Connection]:
        """A connection inside one transaction; commits if the body ends well.

        `folder`: where other files may be written meanwhile.
        """
        with self._attached(read_only=self._read_only, folder=folder) as connection:
            found = self._version(connection)
            connection.execute("BEGIN")
            if found != VERSION:
                self._migrate(connection, found)
            yield connection
            connection.execute("COMMIT")

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """A connection for queries alone: others may read meanwhile, and none may write."""
        if self.path.exists() and self.path.stat().st_size:
            with self._attached(read_only=True) as connection:
                if self._version(connection) == VERSION:
                    connection.execute("BEGIN")
                    yield connection
                    return
        with self._open() as connection:  # a file that must be brought up to date
            yield connection

    @contextmanager
    def _searching(self, narrow: str = NARROW) -> Iterator[Connection]:
        """The same, for no longer than a search may take."""
        with self._reading() as connection, search_limits(connection, narrow):
            yield connection

    @contextmanager
    def _attached(self, *, read_only: bool, folder: Path | None = None) -> Iterator[Connection]:
        """A connection to the file, in which there is nothing but tables of ours."""
        new = not any(_state(self.path))
        with attached(self.path, read_only=read_only, folder=folder) as connection:
            try:
                if not new:  # nobody could have put anything in it
                    self._check(connection)
                connection.execute("USE store")
                yield connection
            except (DatabaseError, RuntimeError) as error:
                stop_engine()
                pass_on_interrupt(error)
                raise self._failed(error) from error
        _checked[self.path] = _state(self.path)

    def _check(self, connection: Connection) -> None:
        """Once for each state of the file: it takes longer than a search. Raises UserError."""
        if _checked.get(self.path) == _state(self.path):
            return
        for stranger in strangers(connection):
            raise UserError(
                f"{self.path} is a database of something else (it has {stranger}, which no store "
                "has) and is not read; give another `store=`."
            )

    def _failed(self, error: Exception) -> UserError:
        if self._read_only:
            return UserError(
                f"{self.path} may only be read: nothing was written; "
                "use a copy, or another `store=`."
            )
        return UserError(f"{self.path}: {first_line(error)}")

    @property
    def _read_only(self) -> bool:
        """May be searched and exported all the same."""
        return self.path.exists() and not os.access(self.path, os.W_OK)

    def _version(self, connection: Connection) -> int:
        """Of the schema; 0: a new file."""
        try:
            row = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        except NotThere:
            tables = [name for (name,) in connection.execute("SHOW TABLES").fetchall()]
            if tables:
                raise UserError(
                    f"{self.path} is a database of something else (it has a table "
                    f"{min(tables)!r}); give another `store=`."
                ) from None
            return 0
        return row[0] if row else 0

    def _migrate(self, connection: Connection, found: int) -> None:
        if found > VERSION:
            raise UserError(
                f"{self.path} was written by a newer acdc-explain (schema {found}, this one knows "
                f"{VERSION}); upgrade with `pip install -U acdc-explain`."
            )
        if found == 0:
            connection.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value BIGINT)")
        for step in MIGRATIONS[found:]:
            connection.execute(step)
        try:
            index_all(connection)
        except ValueError as error:  # a node that earlier versions took
            raise UserError(
                f"{self.path} cannot be brought up to date ({error}); export its other runs with "
                "the version that wrote it, and import them into a new store."
            ) from error
        connection.execute(
            "INSERT INTO meta VALUES ('schema', ?) "
            "ON CONFLICT DO UPDATE SET value = excluded.value",
            [VERSION],
        )

    def compact(self) -> tuple[int, int]:
        """Write the file anew without the gaps that changes leave; its size before and after.

        The old file is there until the new one is complete. Meanwhile no other process can open
        either: what one would write to the old file would be lost.
        """
        file = Path(os.path.realpath(self.path))
        new, before = file.with_name(f"{file.name}.new"), self.path.stat().st_size
        with self._open():
            pass  # brought up to date
        with self._attached(read_only=False) as connection:
            try:
                for left in (new, new.with_name(f"{new.name}.wal")):
                    left.unlink(missing_ok=True)  # by one that was killed
                connection.execute("CHECKPOINT store")  # no log of the old file is left beside
                connection.execute(f"ATTACH {quoted(new)} AS compacted")
                connection.execute("COPY FROM DATABASE store TO compacted")
                connection.execute("DETACH compacted")
                with replaced(file):
                    new.replace(file)
                    connection.execute("USE memory")
                    connection.execute("DETACH store")
            except (DatabaseError, OSError) as error:
                stop_engine()
                pass_on_interrupt(error)
                new.unlink(missing_ok=True)
                raise UserError(
                    f"{self.path} was not compacted and is as it was: {first_line(error)}"
                ) from error
        return before, self.path.stat().st_size
