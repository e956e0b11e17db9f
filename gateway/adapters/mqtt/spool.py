"""What is still to be published, on disk: survives an outage of the broker and a restart.

Messages get a number when they are put in and leave when the broker confirmed them. A thread of
its own writes in batches, so that a slow disk holds up neither the event loop nor the network.
Full, it drops the oldest message that is not about an alarm; only when nothing else is left, the
oldest about an alarm.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections import Counter, deque
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import msgspec

_SCHEMA = """
CREATE TABLE IF NOT EXISTS message (
  number INTEGER PRIMARY KEY, topic TEXT NOT NULL, payload BLOB NOT NULL,
  trace TEXT NOT NULL, content TEXT NOT NULL, alarm INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS by_worth ON message (alarm, number);
CREATE TABLE IF NOT EXISTS kept (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


class Message(msgspec.Struct, frozen=True):
    """One message to be published at least once, with QoS 1, not retained."""

    topic: str
    payload: bytes
    trace: str = ""
    content: str = "application/json"
    alarm: bool = False
    number: int = 0


class Spool:
    """Driven by `put` (any thread), `fetch` and `done` (the network thread).

    `on_ready` is called from the writer thread when there is something new to fetch; `on_count`
    from any thread with the name and amount of something lost.
    """

    def __init__(
        self,
        path: Path,
        maximum: int,
        *,
        on_ready: Callable[[], None],
        on_count: Callable[[str, int], None],
    ) -> None:
        self._path, self._maximum = path, maximum
        self._on_ready, self._on_count = on_ready, on_count
        self._incoming: deque[Message] = deque()
        self._writing: list[Message] = []
        self._done: set[int] = set()
        self._keep: dict[str, str] = {}
        self._closing = False
        self._broken = False
        self._size = 0
        self._last = 0
        self._state = threading.Condition()
        self._disk = threading.Lock()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Open the file and start the writer. Blocks; raises `sqlite3.Error`, `OSError`."""
        try:
            self._connect()
        except sqlite3.DatabaseError:
            # A file spoilt by a power cut must not keep the box from alarming; it is put aside.
            self._path.replace(self._path.with_suffix(".corrupt"))
            for tail in ("-wal", "-shm"):
                self._path.with_name(self._path.name + tail).unlink(missing_ok=True)
            self._on_count("mqtt.spool_corrupt", 1)
            self._connect()
        self._size, self._last = self._db.execute(
            "SELECT count(*), coalesce(max(number), 0) FROM message"
        ).fetchone()
        self._thread = threading.Thread(target=self._write, name="mqtt-spool", daemon=True)
        self._thread.start()

    def _connect(self) -> None:
        self._db = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA busy_timeout = 1000")
            self._db.executescript(_SCHEMA)
        except sqlite3.DatabaseError:
            self._db.close()
            raise

    def close(self) -> None:
        """Write what is left and end the thread. Blocks at most 5 s; harmless when not open."""
        with self._state:
            self._closing = True
            self._state.notify_all()
        if self._thread is not None:
            self._thread.join(5.0)
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
            self._thread = None

    @property
    def size(self) -> int:
        """How many messages wait."""
        waiting = len(self._incoming) + len(self._writing)
        return max(self._size + waiting - len(self._done), 0)

    def put(self, message: Message) -> None:
        """Take a message; never blocks for the disk."""
        dropped = ""
        with self._state:
            self._last += 1
            self._incoming.append(msgspec.structs.replace(message, number=self._last))
            if len(self._incoming) > self._maximum:
                # Only while the disk does not take anything.
                dropped = self._drop_incoming()
            self._state.notify_all()
        if dropped:
            self._on_count(dropped, 1)

    def _drop_incoming(self) -> str:
        for index, message in enumerate(self._incoming):
            if not message.alarm:
                del self._incoming[index]
                return "mqtt.events_dropped"
        self._incoming.popleft()
        return "mqtt.alarms_dropped"

    def fetch(self, after: int, limit: int) -> list[Message]:
        """The oldest messages numbered above `after`, at most `limit`; raises nothing."""
        found: list[Message] = []
        with self._disk, contextlib.suppress(sqlite3.Error):
            while not found:
                rows = self._db.execute(
                    "SELECT topic, payload, trace, content, alarm, number FROM message"
                    " WHERE number > ? ORDER BY number LIMIT ?",
                    (after, limit),
                ).fetchall()
                with self._state:
                    found = [
                        Message(topic, payload, trace, content, bool(alarm), number)
                        for topic, payload, trace, content, alarm, number in rows
                        if number not in self._done
                    ]
                if len(rows) < limit:
                    break
                after = rows[-1][5]
        with self._state:
            if self._broken and not found:
                # The disk refuses what is new: memory has to do.
                waiting = (
                    m
                    for m in (*self._writing, *self._incoming)
                    if m.number > after and m.number not in self._done
                )
                found = list(islice(waiting, limit))
        return found

    def done(self, number: int) -> None:
        """The broker has it."""
        with self._state:
            self._done.add(number)
            if len(self._done) >= 200:
                self._state.notify_all()

    def keep(self, name: str, value: str) -> None:
        """Remember a small text over a restart; never blocks for the disk."""
        with self._state:
            self._keep[name] = value
            self._state.notify_all()

    def kept(self) -> dict[str, str]:
        """Everything that `keep` stored in earlier runs. Blocks for the disk."""
        with self._disk:
            return dict(self._db.execute("SELECT name, value FROM kept").fetchall())

    def _write(self) -> None:
        while True:
            with self._state:
                if not (self._incoming or self._keep or self._closing or len(self._done) >= 200):
                    # Confirmed messages are removed in batches, to spare flash memory.
                    self._state.wait(1.0 if self._done else None)
                if self._broken and not self._closing:
                    self._state.wait(1.0)
                self._writing = batch = list(self._incoming)
                self._incoming.clear()
                done = set(self._done)
                keep = dict(self._keep)
                closing = self._closing
            if batch or done or keep:
                dropped = self._commit(batch, done, keep)
                for name, n in dropped.items():
                    if n:
                        self._on_count(name, n)
                if batch:
                    self._on_ready()
            if closing:
                return

    def _commit(self, batch: list[Message], done: set[int], keep: dict[str, str]) -> dict[str, int]:
        rows = [
            (m.number, m.topic, m.payload, m.trace, m.content, m.alarm)
            for m in batch
            if m.number not in done
        ]
        dropped = {"mqtt.events_dropped": 0, "mqtt.alarms_dropped": 0}
        with self._disk:
            try:
                # An alarm is on the platter before we go on; for the rest the kernel's copy,
                # which survives our own death, is enough.
                urgent = any(m.alarm for m in batch)
                self._db.execute(f"PRAGMA synchronous = {'FULL' if urgent else 'NORMAL'}")
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany("INSERT INTO message VALUES (?, ?, ?, ?, ?, ?)", rows)
                removed = self._db.executemany(
                    "DELETE FROM message WHERE number = ?", [(n,) for n in done]
                ).rowcount
                self._db.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?)", keep.items())
                size = self._size + len(rows) - max(removed, 0)
                for alarm, name in ((0, "mqtt.events_dropped"), (1, "mqtt.alarms_dropped")):
                    if size > self._maximum:
                        dropped[name] = self._db.execute(
                            "DELETE FROM message WHERE number IN (SELECT number FROM message"
                            " WHERE alarm = ? ORDER BY number LIMIT ?)",
                            (alarm, size - self._maximum),
                        ).rowcount
                        size -= dropped[name]
                self._db.execute("COMMIT")
            except sqlite3.Error:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                return self._take_back(batch)
            with self._state:
                self._writing = []
                self._done -= done
                for name, value in keep.items():
                    if self._keep.get(name) == value:
                        del self._keep[name]
                self._size = size
                self._broken = False
        return dropped

    def _take_back(self, batch: list[Message]) -> dict[str, int]:
        lost = Counter({"mqtt.spool_errors": 1})
        with self._state:
            self._broken = True
            self._writing = []
            self._incoming.extendleft(reversed(batch))
            while len(self._incoming) > self._maximum:
                lost[self._drop_incoming()] += 1
        return lost
