"""Database: the records in SQLite or PostgreSQL, through SQLAlchemy Core."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.pool import NullPool

from gateway.errors import ConfigError, DeviceError
from gateway.records.ops import (
    Beat,
    Forget,
    PutCall,
    PutLeg,
    PutOpen,
    PutStream,
    StoreOp,
    Unfinished,
)
from gateway.records.tables import (
    MIGRATIONS,
    SCHEMA_VERSION,
    CallRecord,
    LegRecord,
    StreamRecord,
    boxes,
    calls,
    legs,
    metadata,
    open_calls,
    schema_version,
    streams,
)

_ID_LENGTH: Final = 32
"""Of whole ids, with or without hyphens."""
BUSY_S: Final = 2.5
"""How long another program may hold the database before that counts as trouble."""


def parse_url(url: str) -> sa.URL:
    """``sqlite:///path`` or ``postgresql://user@host/database``; a plain path is SQLite.

    Raises `ConfigError` for anything else, and when the driver is not installed.
    """
    try:
        parsed = sa.make_url(url if "://" in url else f"sqlite:///{url}")
    except (sa.exc.ArgumentError, ValueError) as error:
        raise ConfigError(
            f"{url!r} is no database URL", remedy="sqlite:///path or postgresql://user@host/name"
        ) from error
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise ConfigError(f"{url!r} names no file", remedy="sqlite:////var/lib/.../records.db")
        return parsed.set(drivername="sqlite+pysqlite")
    if backend == "postgresql":
        try:
            import psycopg  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                "the PostgreSQL driver is not installed",
                remedy="install crosspoint-gateway[postgresql]",
            ) from error
        return parsed.set(drivername="postgresql+psycopg")
    raise ConfigError(f"{backend!r} is not supported", remedy="use sqlite or postgresql")


class Database:
    """One connection to the records. Not thread-safe: each thread has its own.

    All methods raise `sqlalchemy.exc.SQLAlchemyError` when the database refuses; the next call
    after `close` connects again.
    """

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        """Parse the URL (`ConfigError`); connect at first use."""
        self.url = parse_url(url)
        self._read_only = read_only
        self._engine = self._make_engine()
        self._connection: sa.Connection | None = None
        self._is_stand_in = False
        """The tables were not there yet: another look is due."""
        insert = sqlite.insert if self.is_sqlite else postgresql.insert
        self._statements: dict[tuple[str, bool], Any] = {}
        self._columns: dict[str, list[str]] = {}
        for table in (legs, calls, streams, open_calls, boxes):
            self._columns[table.name] = [column.name for column in table.columns]
            key = next(iter(table.primary_key.columns)).name
            statement = insert(table)
            others = {
                column.name: statement.excluded[column.name]
                for column in table.columns
                if column.name != key
            }
            self._statements[table.name, True] = statement.on_conflict_do_update(
                index_elements=[key], set_=others
            )
            self._statements[table.name, False] = statement.on_conflict_do_nothing(
                index_elements=[key]
            )
        if self.is_sqlite:
            # As text: bringing each row into a statement costs SQLAlchemy ten times what SQLite
            # takes to store it.
            self._statements = {
                key: str(statement.compile(dialect=self._engine.dialect))
                for key, statement in self._statements.items()
            }
        self._forget = sa.delete(open_calls).where(open_calls.c.id == sa.bindparam("key"))

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def path(self) -> Path | None:
        """The file, for SQLite."""
        return Path(self.url.database or "") if self.is_sqlite else None

    def __str__(self) -> str:
        return self.url.render_as_string(hide_password=True)

    def _make_engine(self) -> sa.Engine:
        if not self.is_sqlite:
            return sa.create_engine(
                self.url,
                poolclass=NullPool,
                # A server that vanished without a word must not hold the writer for minutes.
                connect_args={
                    "connect_timeout": 3,
                    "tcp_user_timeout": 5000,
                    "options": "-c statement_timeout=30000 -c lock_timeout=2500",
                },
            )
        path = self.path
        assert path is not None
        # mode=ro: a question from the command line must not create an empty database.
        mode = "ro" if self._read_only else "rwc"
        quoted = str(path.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")

        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(
                f"file:{quoted}?mode={mode}", uri=True, timeout=BUSY_S, check_same_thread=False
            )
            try:
                if not self._read_only:
                    connection.execute("PRAGMA journal_mode=WAL")
                    # FULL: a committed record survives a power cut, not only a crash.
                    connection.execute("PRAGMA synchronous=FULL")
                    connection.execute("PRAGMA journal_size_limit=16777216")
                    # Rows are added at the end, and hardly ever looked for: 2 MB would be kept.
                    connection.execute("PRAGMA cache_size=-256")
            except BaseException:
                connection.close()
                raise
            return connection

        creator: Callable[[], Any] = connect
        return sa.create_engine("sqlite+pysqlite://", creator=creator, poolclass=NullPool)

    def connect(self) -> sa.Connection:
        """The connection; creates missing tables. Read-only, a database without them is empty.

        Raises `DeviceError` when the tables belong to another version.
        """
        if self._is_stand_in:
            self.close()
        if self._connection is not None:
            return self._connection
        if self.path is not None and not self._read_only:
            try:
                self.path.absolute().parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise DeviceError(f"{self}: {error}") from error
        connection = self._engine.connect()
        try:
            if not self._read_only:
                if self.is_sqlite:
                    # Otherwise each table would be there by itself, and the version last.
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                else:
                    # Two boxes that create the tables at once would fail one another.
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(0x43504E54)))
                metadata.create_all(connection)
                if connection.execute(sa.select(schema_version)).first() is None:
                    connection.execute(sa.insert(schema_version).values(version=SCHEMA_VERSION))
                self._migrate(connection)
                connection.commit()
            elif not sa.inspect(connection).has_table(schema_version.name):
                # Whoever writes has opened it and not come to the tables.
                connection.close()
                connection = sa.create_engine("sqlite+pysqlite://", poolclass=NullPool).connect()
                metadata.create_all(connection)
                connection.execute(sa.insert(schema_version).values(version=SCHEMA_VERSION))
                connection.commit()
                self._is_stand_in = True
            found = connection.execute(sa.select(schema_version.c.version)).scalar()
            connection.rollback()
            if found != SCHEMA_VERSION:
                raise DeviceError(
                    f"{self}: its tables are version {found}, this program writes "
                    f"{SCHEMA_VERSION} (use another database)"
                )
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _migrate(self, connection: sa.Connection) -> None:
        """Make the tables of an earlier version those of this one."""
        found = connection.execute(sa.select(schema_version.c.version)).scalar_one()
        while found in MIGRATIONS:
            for statement in MIGRATIONS[found]:
                connection.execute(sa.text(statement))
            found += 1
            connection.execute(sa.update(schema_version).values(version=found))

    def close(self) -> None:
        """Disconnect; harmless when not connected."""
        connection, self._connection = self._connection, None
        self._is_stand_in = False
        if connection is not None:
            try:
                connection.close()
            except sa.exc.SQLAlchemyError:
                # Closing a connection that is broken already.
                pass

    def set_aside(self) -> Path | None:
        """Move a damaged SQLite database out of the way; where to, or None for PostgreSQL."""
        self.close()
        if self.path is None:
            return None
        n = 1
        while (aside := self.path.with_name(f"{self.path.name}.damaged-{n}")).exists():
            n += 1
        os.rename(self.path, aside)
        for suffix in ("-wal", "-shm"):
            beside = self.path.with_name(self.path.name + suffix)
            if beside.exists():
                os.rename(beside, aside.with_name(aside.name + suffix))
        return aside

    def write(self, ops: Iterable[StoreOp]) -> None:
        """Carry out operations in one transaction; all or nothing."""
        connection = self.connect()
        rows: dict[tuple[str, bool], list[tuple[Any, ...]]] = {}
        forgotten: list[dict[str, str]] = []
        for op in ops:
            match op:
                case PutLeg():
                    row = msgspec.structs.astuple(op.record)
                    rows.setdefault(("legs", op.replace), []).append(row)
                case PutStream():
                    row = msgspec.structs.astuple(op.record)
                    rows.setdefault(("streams", True), []).append(row)
                case PutCall():
                    row = msgspec.structs.astuple(op.record)
                    rows.setdefault(("calls", op.replace), []).append(row)
                case PutOpen():
                    row = op.id, op.box, op.run, op.data
                    rows.setdefault(("open_calls", True), []).append(row)
                case Forget():
                    forgotten.append({"key": op.id})
                case Beat():
                    row = op.box, op.run, op.at, op.mono
                    rows.setdefault(("boxes", True), []).append(row)
        try:
            for key, values in rows.items():
                self._insert(connection, key, values)
            if forgotten:
                connection.execute(self._forget, forgotten)
            connection.commit()
        except BaseException:
            connection.rollback()
            raise

    def _insert(
        self, connection: sa.Connection, key: tuple[str, bool], rows: list[tuple[Any, ...]]
    ) -> None:
        """Rows hold a value for each column of the table, in their order."""
        if self.is_sqlite:
            connection.exec_driver_sql(self._statements[key], rows)
            return
        names = self._columns[key[0]]
        connection.execute(
            self._statements[key], [dict(zip(names, row, strict=True)) for row in rows]
        )

    def unfinished(self, box: str, run: str) -> Unfinished:
        """What runs of this box other than `run` left open."""
        connection = self.connect()
        try:
            beat = connection.execute(
                sa.select(boxes.c.run, boxes.c.at, boxes.c.mono).where(boxes.c.box == box)
            ).first()
            states = connection.execute(
                sa.select(open_calls.c.id, open_calls.c.data)
                .where(open_calls.c.box == box, open_calls.c.run != run)
                .order_by(open_calls.c.id)
            )
            found = Unfinished(calls={row.id: row.data for row in states})
            if beat is not None:
                found.run, found.at, found.mono = beat.run, beat.at, beat.mono
            return found
        finally:
            connection.rollback()

    def legs(
        self,
        *,
        since: float | None = None,
        until: float | None = None,
        call: str = "",
        trace: str = "",
        endpoint: str = "",
        limit: int | None = None,
    ) -> Iterator[LegRecord]:
        """Leg records by their end, newest first. since, until: seconds since 1970."""
        query = sa.select(legs).order_by(legs.c.ended_at.desc(), legs.c.id.desc())
        query = _between(query, legs.c.ended_at, since, until)
        for column, value in ((legs.c.call, call), (legs.c.trace, trace)):
            if value:
                query = query.where(_means(column, value))
        if endpoint:
            query = query.where(legs.c.endpoint == endpoint)
        for row in self._rows(query.limit(limit)):
            yield msgspec.convert(row, LegRecord)

    def streams(self, *, trace: str) -> Iterator[StreamRecord]:
        """Records of a trace's audio streams, in the order they were opened; none in a database
        that an earlier version wrote."""
        if not sa.inspect(self.connect()).has_table(streams.name):
            return
        query = sa.select(streams).where(streams.c.trace == trace).order_by(streams.c.id)
        for row in self._rows(query):
            yield msgspec.convert(row, StreamRecord)

    def calls(
        self,
        *,
        since: float | None = None,
        until: float | None = None,
        trace: str = "",
        box: str = "",
        limit: int | None = None,
    ) -> Iterator[CallRecord]:
        """Call records by their demand, newest first. since, until: seconds since 1970."""
        query = sa.select(calls).order_by(calls.c.demanded_at.desc(), calls.c.id.desc())
        query = _between(query, calls.c.demanded_at, since, until)
        if trace:
            query = query.where(_means(calls.c.trace, trace))
        if box:
            query = query.where(calls.c.box == box)
        for row in self._rows(query.limit(limit)):
            yield msgspec.convert(row, CallRecord)

    def prune(self, *, before: float | None, maximum: int | None, most: int) -> int:
        """Delete at most `most` of the oldest rows of each table; return how many.

        before: wall clock; rows that ended earlier go. maximum: rows that may stay.
        """
        connection = self.connect()
        n = 0
        try:
            for table in (legs, calls, streams):
                quota = most
                oldest = sa.select(table.c.id).order_by(table.c.ended_at).limit(quota)
                if maximum is not None:
                    total = connection.execute(
                        sa.select(sa.func.count()).select_from(table)
                    ).scalar_one()
                    surplus = min(quota, total - maximum)
                    connection.commit()
                    if surplus > 0:
                        ids = oldest.limit(surplus).scalar_subquery()
                        n += connection.execute(
                            sa.delete(table).where(table.c.id.in_(ids))
                        ).rowcount
                if before is not None:
                    ids = oldest.where(table.c.ended_at < before).scalar_subquery()
                    n += connection.execute(sa.delete(table).where(table.c.id.in_(ids))).rowcount
                connection.commit()
        except BaseException:
            connection.rollback()
            raise
        return n

    def _rows(self, query: sa.Select[Any]) -> Iterator[dict[str, Any]]:
        connection = self.connect()
        try:
            result = connection.execute(query)
            names = [str(column.name) for column in query.selected_columns]
            for row in result:
                yield dict(zip(names, row, strict=True))
        finally:
            connection.rollback()


def _means(column: sa.Column[Any], value: str) -> sa.ColumnElement[bool]:
    """A whole id, or the end of one."""
    if len(value) >= _ID_LENGTH:
        return column == value
    return column.endswith(value, autoescape=True)


def _between(
    query: sa.Select[Any], column: sa.Column[Any], since: float | None, until: float | None
) -> sa.Select[Any]:
    if since is not None:
        query = query.where(column >= since)
    if until is not None:
        query = query.where(column < until)
    return query


def is_damage(error: BaseException) -> bool:
    """Whether SQLite says that the file itself is broken."""
    original = getattr(error, "orig", None)
    code = getattr(original, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_refusal(error: BaseException) -> bool:
    """Whether the database refuses these rows, and would refuse them again."""
    return isinstance(error, sa.exc.DataError | sa.exc.IntegrityError) or (
        isinstance(error, sa.exc.StatementError) and not isinstance(error, sa.exc.DBAPIError)
    )
