"""The DuckDB file of a store: opened for each call, locked, checked and migrated."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import UserError, first_line
from .duck.attach import attached, replacing
from .duck.connection import Connection
from .duck.engine import DatabaseError, NotThere, quoted, stop_engine
from .duck.limits import pass_on_interrupt, search_limits
from .search.index import index_all
from .tables.catalog import foreign_objects
from .tables.schema import MIGRATIONS, VERSION

NARROW = "name more of the steps, or narrow it with `task=` or `model=`"

FileState = tuple[tuple[int, ...] | None, ...]
_checked: dict[Path, FileState] = {}  # files with nothing but our tables, as this process left them


def _file_state(path: Path) -> FileState:
    """What changes whenever the file or its log is written to or replaced."""
    states: list[tuple[int, ...] | None] = []
    for file in (path, path.with_name(f"{path.name}.wal")):
        try:
            stat = file.stat()
            states.append((stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns))
        except OSError:
            states.append(None)
    return tuple(states)


class Database:
    """The file of a store. It is attached for each `with` block and closed at its end."""

    def __init__(self, path: str | Path) -> None:
        """Raises UserError for a folder, or a file in a folder that does not exist."""
        self.path = Path(path)
        if self.path.is_dir():
            raise UserError(f"{path} is a folder; give the path of a store's file with `store=`.")
        if not self.path.parent.is_dir():
            raise UserError(
                f"The folder {self.path.parent} does not exist; make it or change `store=`."
            )

    # --- transactions --------------------------------------------------------------------------

    @contextmanager
    def writing(self, folder: Path | None = None) -> Iterator[Connection]:
        """One transaction, which commits if the block ends without an error.

        `folder`: where the block may write other files. Raises UserError.
        """
        with self._attached(read_only=self._read_only, folder=folder) as connection:
            version = self._version(connection)
            connection.execute("BEGIN")
            if version != VERSION:
                self._migrate(connection, version)
            yield connection
            connection.execute("COMMIT")

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One transaction of queries: other processes can read meanwhile, but not write.

        Raises UserError.
        """
        if self.path.exists() and self.path.stat().st_size:
            with self._attached(read_only=True) as connection:
                if self._version(connection) == VERSION:
                    connection.execute("BEGIN")
                    yield connection
                    return
        with self.writing() as connection:  # a file that must be migrated first
            yield connection

    @contextmanager
    def searching(self, narrow: str = NARROW) -> Iterator[Connection]:
        """Like `reading`, with the limits of a search on time and memory.

        `narrow`: how to make the search smaller, for the error message. Raises UserError.
        """
        with self.reading() as connection, search_limits(connection, narrow):
            yield connection

    @contextmanager
    def _attached(self, *, read_only: bool, folder: Path | None = None) -> Iterator[Connection]:
        """A connection to the file, which has nothing but the tables of a store."""
        is_new = not any(_file_state(self.path))
        with attached(self.path, read_only=read_only, folder=folder) as connection:
            try:
                if not is_new:  # a file that did not exist holds nothing else
                    self._check(connection)
                connection.execute("USE store")
                yield connection
            except (DatabaseError, RuntimeError) as error:
                stop_engine()
                pass_on_interrupt(error)
                raise self._user_error(error) from error
        _checked[self.path] = _file_state(self.path)

    def _check(self, connection: Connection) -> None:
        """Check the file once in each state: it takes longer than a search. Raises UserError."""
        if _checked.get(self.path) == _file_state(self.path):
            return
        for thing in foreign_objects(connection):
            raise UserError(
                f"{self.path} is a database of something else (it has {thing}, which no store "
                "has) and is not read; give another `store=`."
            )

    def _user_error(self, error: Exception) -> UserError:
        if self._read_only:
            return UserError(
                f"{self.path} may only be read: nothing was written; "
                "use a copy, or another `store=`."
            )
        return UserError(f"{self.path}: {first_line(error)}")

    @property
    def _read_only(self) -> bool:
        """Whether the file can be read but not written."""
        return self.path.exists() and not os.access(self.path, os.W_OK)

    # --- the schema ----------------------------------------------------------------------------

    def _version(self, connection: Connection) -> int:
        """The version of the file's schema; 0 for a new file."""
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

    def _migrate(self, connection: Connection, version: int) -> None:
        if version > VERSION:
            raise UserError(
                f"{self.path} was written by a newer acdc-explain (schema {version}, this one "
                f"knows {VERSION}); upgrade with `pip install -U acdc-explain`."
            )
        if version == 0:
            connection.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value BIGINT)")
        for step in MIGRATIONS[version:]:
            connection.execute(step)
        try:
            index_all(connection)
        except ValueError as error:  # a node that earlier versions accepted
            raise UserError(
                f"{self.path} cannot be brought up to date ({error}); export its other runs with "
                "the version that wrote it, and import them into a new store."
            ) from error
        connection.execute(
            "INSERT INTO meta VALUES ('schema', ?) "
            "ON CONFLICT DO UPDATE SET value = excluded.value",
            [VERSION],
        )

    # --- compacting ----------------------------------------------------------------------------

    def compact(self) -> tuple[int, int]:
        """Rewrite the file without the gaps that changes leave; its size before and after.

        The old file stays until the new one is complete. Meanwhile no other process can open
        either: what it wrote to the old file would be lost. Raises UserError.
        """
        file = Path(os.path.realpath(self.path))
        new, before = file.with_name(f"{file.name}.new"), self.path.stat().st_size
        with self.writing():
            pass  # migrate the file
        with self._attached(read_only=False) as connection:
            try:
                for leftover in (new, new.with_name(f"{new.name}.wal")):
                    leftover.unlink(missing_ok=True)  # of a process that was killed
                connection.execute("CHECKPOINT store")  # so that no log of the old file is left
                connection.execute(f"ATTACH {quoted(new)} AS compacted")
                connection.execute("COPY FROM DATABASE store TO compacted")
                connection.execute("DETACH compacted")
                with replacing(file):
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
