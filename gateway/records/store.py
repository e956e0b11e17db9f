"""Store: takes operations from the event loop and brings them into the database.

A thread of its own gathers what comes within a moment into one transaction. What the database
refuses for now waits, first in a spill file, then in memory, and is tried again; nothing raises
into the caller and the event loop never waits for a disk.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec
import sqlalchemy as sa

from gateway.core.envelope import Envelope
from gateway.errors import DeviceError
from gateway.journal import StorageState
from gateway.records.database import Database, is_damage, is_refusal
from gateway.records.ops import StoreOp
from gateway.records.recovery import Recovery
from gateway.records.spill import Spill

_TAIL_S: Final = 60.0
"""How long before the last checkpoint the journal is read again after a crash."""
_PRUNE_ROWS: Final = 500
_PRUNE_EVERY_S: Final = 600.0
_CLOCK_STEP_S: Final = 3600.0
_HOLD_AFTER_STEP_S: Final = 86_400.0


class StoreCounters(msgspec.Struct, kw_only=True):
    """What a store did since it was opened."""

    written: int = 0
    """Operations committed."""
    commits: int = 0
    failures: int = 0
    """Transactions that failed; each is tried again."""
    spilled: int = 0
    dropped: int = 0
    """Operations lost because spill and memory were full."""
    refused: int = 0
    """Operations that the database can never take."""
    pruned: int = 0
    """Rows deleted for their age or number."""
    recovered: int = 0
    """Legs of earlier runs that were closed as crashed."""
    set_aside: int = 0
    """Damaged SQLite databases renamed and begun anew."""


class Store:
    """Brings records into the database. Driven by `put` (any thread), `open` and `close`."""

    def __init__(
        self,
        url: str,
        *,
        spill: Path | None = None,
        queue: int = 50_000,
        gather_s: float = 0.1,
        retry_s: float = 0.5,
        keep_days: float | None = None,
        keep_rows: int | None = None,
        on_state: Callable[[StorageState], None] | None = None,
    ) -> None:
        """Remember how; `open` starts. Raises `ConfigError` for a bad URL.

        spill: file for what the database does not take; None: memory only.
        queue: operations that may wait in memory; beyond it new ones are dropped and counted.
        gather_s: how long the first operation waits for others to share its transaction.
        keep_days, keep_rows: what is older, or more, is deleted in small batches.
        on_state: called from the store's thread when it degrades and when it is back.
        """
        self.counters = StoreCounters()
        self.run = secrets.token_hex(8)
        """Names this run of the gateway, for the `Recorder`."""
        self._box = ""
        self._earlier: Callable[[float], Iterable[Envelope | None]] | None = None
        self._recovered = False
        self._database = Database(url)
        self._spill = Spill(spill) if spill is not None else None
        self._limit = queue
        self._gather_s = gather_s
        self._retry_s = retry_s
        self._keep_days = keep_days
        self._keep_rows = keep_rows
        self._on_state = on_state
        self._pending: dict[tuple[str, str], StoreOp] = {}
        self._busy = 0
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._closing = False
        self._reason: str | None = None
        self._thread: threading.Thread | None = None
        self._prune_due = time.monotonic() + 60.0
        self._prune_held = 0.0
        self._offset = time.time() - time.monotonic()

    def open(
        self,
        box: str,
        earlier: Callable[[float], Iterable[Envelope | None]] | None = None,
    ) -> None:
        """Start the thread; never fails for a database that cannot be reached.

        As soon as it can be, and before anything of this run is stored, what earlier runs of the
        box left open is finished with cause ``crashed``. `earlier` gives what their journal holds
        since a wall-clock time, `Journal.earlier`: with it also what happened after the last
        checkpoint, or was still waiting here, is recorded.
        """
        self._box = box
        self._earlier = earlier
        self._thread = threading.Thread(target=self._run, name="records", daemon=True)
        self._thread.start()

    def put(self, ops: tuple[StoreOp, ...]) -> None:
        """Take operations that belong into one transaction. Returns at once, never raises."""
        with self._lock:
            idle = not self._pending
            for op in ops:
                key = op.key
                # Taken out first: order is order of the last change.
                earlier = self._pending.pop(key, None)
                if earlier is None and len(self._pending) >= self._limit:
                    self.counters.dropped += 1
                    continue
                self._pending[key] = op
            if idle:
                self._wake.notify_all()

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything put so far is committed; False when that takes too long."""
        with self._wake:
            return self._wake.wait_for(
                lambda: not self._pending and not self._busy and self._reason is None, timeout_s
            )

    def close(self, timeout_s: float = 5.0) -> bool:
        """Commit (or spill) what waits and stop; False when something is left in memory."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                return False
        with self._wake:
            return not self._pending

    @property
    def state(self) -> StorageState:
        """Whether records reach the database."""
        with self._wake:
            return StorageState(
                name="records",
                degraded=self._reason is not None,
                reason=self._reason or "",
                waiting=len(self._pending) + self._busy,
                dropped=self.counters.dropped + self.counters.refused,
            )

    # The store's thread

    def _run(self) -> None:
        self._store([])
        while True:
            with self._wake:
                while not self._pending and not self._closing:
                    spilled = self._spill is not None and not self._spill.empty
                    wait = self._retry_s if self._reason is not None or spilled else 60.0
                    if not self._wake.wait(wait):
                        break
                if self._pending:
                    pause = self._gather_s if self._reason is None else self._retry_s
                    self._wake.wait_for(lambda: self._closing, pause)
                batch, self._pending = self._pending, {}
                self._busy = len(batch)
                closing = self._closing
            stored = self._store(list(batch.values()))
            with self._wake:
                if not stored:
                    # What came meanwhile is newer than what failed.
                    for key in batch.keys() & self._pending.keys():
                        del batch[key]
                    self._pending = batch | self._pending
                self._busy = 0
                self._wake.notify_all()
                if closing and (not self._pending or not stored):
                    break
            if stored and not closing:
                self._prune()
        self._database.close()

    def _store(self, ops: list[StoreOp]) -> bool:
        """Bring operations into the database or, if it fails, the spill; False: neither."""
        try:
            self._unspill()
            if not self._recovered:
                self._recover()
            if ops:
                self._write(ops)
            elif self._reason is not None:
                self._database.connect()
        except (sa.exc.SQLAlchemyError, DeviceError, OSError) as error:
            self._fail(error)
            if ops and self._spill is not None and self._spill.add(ops):
                self.counters.spilled += len(ops)
                return True
            return not ops
        if self._reason is not None:
            with self._wake:
                self._reason = None
            self._report()
        return True

    def _unspill(self) -> None:
        while self._spill is not None and not self._spill.empty:
            # Within one transaction only the last operation of a key counts, as in `put`.
            latest: dict[tuple[str, str], StoreOp] = {}
            for op in self._spill.first(1000):
                latest.pop(op.key, None)
                latest[op.key] = op
            self._write(list(latest.values()))
            self._spill.done()

    def _recover(self) -> None:
        unfinished = self._database.unfinished(self._box, self.run)
        found: dict[tuple[str, str], StoreOp] = {}

        def sink(ops: tuple[StoreOp, ...]) -> None:
            found.update((op.key, op) for op in ops)
            if len(found) >= 1000:
                self._write(list(found.values()))
                found.clear()

        tail = self._earlier(unfinished.at - _TAIL_S) if self._earlier is not None else ()
        try:
            self.counters.recovered += Recovery(self._box, sink).finish(unfinished, tail)
        except (sa.exc.SQLAlchemyError, DeviceError, OSError):
            raise
        except Exception:
            # What an earlier run left must not keep out what this one has to store.
            self.counters.failures += 1
        self._write(list(found.values()))
        self._recovered = True

    def _write(self, ops: list[StoreOp]) -> None:
        try:
            self._database.write(ops)
        except sa.exc.SQLAlchemyError as error:
            if not is_refusal(error):
                raise
            # One row that cannot be stored must not keep out the others.
            for op in ops:
                try:
                    self._database.write([op])
                except sa.exc.SQLAlchemyError as again:
                    if not is_refusal(again):
                        raise
                    self.counters.refused += 1
        self.counters.written += len(ops)
        self.counters.commits += 1

    def _fail(self, error: Exception) -> None:
        self.counters.failures += 1
        reason = f"{self._database}: {getattr(error, 'orig', None) or error}"
        # A file that was opened while its disk was read-only stays read-only.
        self._database.close()
        if is_damage(error):
            try:
                aside = self._database.set_aside()
                self.counters.set_aside += 1
                reason = f"{reason} (begun anew, the old one is {aside})"
            except OSError as again:
                reason = f"{reason} ({again})"
        with self._wake:
            first, self._reason = self._reason is None, reason
        if first:
            self._report()

    def _report(self) -> None:
        if self._on_state is not None:
            try:
                self._on_state(self.state)
            except Exception:
                # The thread must outlive a mistake in somebody's callback.
                self.counters.failures += 1

    def _prune(self) -> None:
        now = time.monotonic()
        if (self._keep_days is None and self._keep_rows is None) or now < self._prune_due:
            return
        at = time.time()
        step, self._offset = abs(at - now - self._offset), at - now
        if step > _CLOCK_STEP_S:
            # A clock gone wrong by years must not delete years of records.
            self._prune_held = now + _HOLD_AFTER_STEP_S
        before = None
        if self._keep_days is not None and now >= self._prune_held:
            before = at - self._keep_days * 86_400.0
        try:
            n = self._database.prune(before=before, maximum=self._keep_rows, most=_PRUNE_ROWS)
        except (sa.exc.SQLAlchemyError, DeviceError):
            self.counters.failures += 1
            n = 0
        self.counters.pruned += n
        # Still more to delete: go on soon, in small bites between the commits.
        self._prune_due = now + (1.0 if n >= _PRUNE_ROWS else _PRUNE_EVERY_S)
