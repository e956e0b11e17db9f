"""Writing a journal: one thread, batches, repair, rotation, and trying again."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Final

import msgspec

from gateway.core.actions import CloseAlarm, OpenAlarm
from gateway.core.envelope import Envelope
from gateway.core.events import AlarmRaised, InputChanged
from gateway.core.ids import Ids
from gateway.core.routes import Route
from gateway.errors import DeviceError
from gateway.journal.alarms import InHand, OpenAlarms
from gateway.journal.lines import (
    PLAN,
    begun,
    encode,
    head,
    lost,
    opened,
    plan,
    segments,
    settled,
    sound_size,
    taken,
)
from gateway.journal.reader import Reader, read_open_alarms

ALIVE_S: Final = 60.0
"""A journal that is given nothing shows all the same that somebody is there."""
AWAY_S: Final = 900.0
"""A run that begins so long after the last one does not trust what was acknowledged before: of
what went and came again meanwhile, most sources say only that it is there."""
_OF_ALARMS: Final = frozenset((AlarmRaised, OpenAlarm, CloseAlarm))
_MAYBE_OF_ALARMS: Final = _OF_ALARMS | {InputChanged}


class StorageState(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a store on disk (journal, records, recordings) takes what it is given."""

    name: str
    """``journal``, ``records`` or ``recordings``."""
    degraded: bool
    reason: str = ""
    """What the system said, and where."""
    waiting: int = 0
    """Entries that are not yet safe on disk."""
    dropped: int = 0
    """Entries lost since the start because the queue was full."""


class JournalCounters(msgspec.Struct, kw_only=True):
    """What a journal did since it was opened."""

    written: int = 0
    dropped: int = 0
    """Ordinary entries refused because `queue` of them were waiting."""
    refused: int = 0
    """Durable entries refused because far too many were waiting (their futures failed), and
    entries that have no JSON form."""
    failures: int = 0
    """Writes or syncs that the system refused; each is tried again."""
    repaired_bytes: int = 0
    """Torn end of the last segment, cut off at opening."""
    segments_deleted: int = 0
    bytes_deleted: int = 0


class _Entry(msgspec.Struct, gc=False):
    envelope: Envelope | None
    """None: a mark, whose line is given."""
    line: bytes
    done: Future[None] | None


class _Segment(msgspec.Struct):
    path: Path
    fd: int
    size: int
    synced: int
    begun: float


class Journal:
    """Writes the journal from a thread of its own.

    Driven by `append` and `append_durable` (any thread, both return at once) and `close`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        queue: int = 10_000,
        segment_bytes: int = 16 << 20,
        segment_age_s: float = 86_400.0,
        total_bytes: int = 256 << 20,
        sync_s: float = 1.0,
        gather_s: float = 0.02,
        retry_s: float = 0.5,
        keep_digits: bool = False,
        on_state: Callable[[StorageState], None] | None = None,
    ) -> None:
        """Remember how; `open` starts.

        queue: ordinary entries that may wait. Durable ones are still taken up to twice as many,
        alarms up to four times as many. What does not fit is refused and counted.
        sync_s: after this long ordinary entries survive a power cut.
        gather_s: least time between two writes of ordinary entries, so that they share them; an
        entry of this age may be lost by the gateway's crash. A durable one does not wait.
        on_state: called from the writer's thread when the journal degrades and when it is back.
        """
        self.directory = directory
        self.counters = JournalCounters()
        self._queue_limit = queue
        self._segment_bytes = segment_bytes
        self._segment_age = segment_age_s
        self._total_bytes = total_bytes
        self._sync_s = sync_s
        self._gather_s = gather_s
        self._retry_s = retry_s
        self._keep_digits = keep_digits
        self._on_state = on_state
        self._queue: deque[_Entry] = deque()
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._closing = False
        self._hurry = False
        """Somebody waits for an entry in the queue to be safe."""
        self._asleep = False
        """The writer waits to be told of the next entry; else it looks by itself soon."""
        self._reason: str | None = None
        self._thread: threading.Thread | None = None
        # Below: the writer's own; nobody else touches them once the thread runs.
        self._ids = Ids()
        self._written = 0.0
        self._segment: _Segment | None = None
        self._unsynced: list[_Entry] = []
        self._alarms = OpenAlarms()
        self.in_hand: list[InHand] = []
        """What was acknowledged before `open`, unless that was too long ago to be trusted."""
        self._began = ""
        """Names this run: what stands before its mark was written by earlier ones."""
        self._anew = False
        """Nobody knows what happened between the last run and this one."""
        self._marked = False
        self._plan = b""
        """The line with the routes in use: a segment must tell them without those before it."""
        self._alarms_known = False
        self._due = 0.0
        self._cut: tuple[Path, int] | None = None
        """A segment that could not be cut back to what is known to be in it."""

    def open(self, *, now: float, at: float) -> list[AlarmRaised | InputChanged]:
        """Repair the last segment, start the writer, return the alarms to be carried on.

        Their `raised_at` is on the present monotonic clock. Never raises for a broken disk: the
        journal is then degraded and keeps trying.
        """
        try:
            self._alarms, self._alarms_known = read_open_alarms(self.directory), True
        except OSError as error:
            self.counters.failures += 1
            self._reason = str(error)
            self._report()
        self._anew = not self._brief(at)
        if self._anew:
            self._alarms.begin_run(anew=True)
        self.in_hand = self._alarms.in_hand(now=now, at=at)
        carried = self._alarms.raised(now=now, at=at)
        self._began = self._ids.uuid7(at)
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()
        return carried

    def _brief(self, at: float) -> bool:
        """Whether the last run was there until a short while before this wall-clock time."""
        try:
            *_, newest = segments(self.directory)
            away_s = at - newest.stat().st_mtime
        except (OSError, ValueError):
            return False
        # A clock that was set back by more than a correction says nothing.
        return -ALIVE_S <= away_s <= AWAY_S

    def earlier(self, since: float) -> Iterator[Envelope | None]:
        """What earlier runs wrote since this wall-clock time; None stands where a run began."""
        return Reader(self.directory, since=since).runs(self._began)

    @property
    def state(self) -> StorageState:
        """Whether entries reach the disk."""
        with self._wake:
            reason, waiting = self._reason, len(self._queue)
        dropped = self.counters.dropped + self.counters.refused
        return StorageState(
            name="journal",
            degraded=reason is not None,
            reason=reason or "",
            waiting=waiting,
            dropped=dropped,
        )

    def append(self, envelope: Envelope) -> bool:
        """Queue an envelope; False when it was dropped because the queue is full.

        Alarms are not bound by the ordinary limit.
        """
        body = envelope.action if envelope.event is None else envelope.event
        if type(body) not in _MAYBE_OF_ALARMS:
            with self._lock:
                if len(self._queue) < self._queue_limit and not self._closing:
                    self._queue.append(_Entry(envelope, b"", None))
                    if self._asleep:
                        self._asleep = False
                        self._wake.notify()
                    return True
        return self._put(envelope, None)

    def append_durable(self, envelope: Envelope) -> Future[None]:
        """Queue an envelope; the future is done when it is safe from a power cut.

        It stays pending while the disk refuses, and fails with `DeviceError` when the journal is
        closed before or the queue is beyond its last limit. Its callbacks run in the writer's
        thread; from the event loop await ``asyncio.wrap_future(...)``.
        """
        done: Future[None] = Future()
        if not self._put(envelope, done):
            done.set_exception(
                DeviceError(f"{self.directory}: journal queue is full or closed: {self._reason}")
            )
        return done

    def plan(
        self, routes: Iterable[Route], zone: str, asked: tuple[float, float] | None = None
    ) -> bool:
        """Write down the routes that are used from now on, without PINs.

        asked: clocks of when alarms that no route took are given to them.
        """
        return self._put(None, None, plan(routes, zone, asked))

    def taken(self, alarm: str, *, now: float, at: float) -> bool:
        """Write down that the alarm of this envelope is acted on now.

        An alarm's line stands where it was raised, to be safe from a crash; a replay has to know
        where in the order of events it took effect.
        """
        return self._put(None, None, taken(alarm, now, at))

    def lost(self, alarm: str) -> bool:
        """Write down that nobody will act on the alarm of this envelope before a restart."""
        return self._put(None, None, lost(alarm))

    def _put(self, envelope: Envelope | None, done: Future[None] | None, line: bytes = b"") -> bool:
        limit = self._queue_limit
        if done is not None:
            limit *= 2
        body = None if envelope is None else envelope.body
        if (
            body is None
            or type(body) in _OF_ALARMS
            or (type(body) is InputChanged and body.raised_at is not None)
        ):
            limit = self._queue_limit * 4
        with self._lock:
            if len(self._queue) >= limit or self._closing:
                if limit == self._queue_limit:
                    self.counters.dropped += 1
                else:
                    self.counters.refused += 1
                return False
            self._queue.append(_Entry(envelope, line, done))
            self._hurry = self._hurry or done is not None
            if self._asleep or done is not None:
                self._asleep = False
                self._wake.notify()
        return True

    def close(self, timeout_s: float = 5.0) -> bool:
        """Write what waits and stop; False when something could not be written in time."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                return False
        with self._wake:
            return not self._queue

    # The writer's thread

    def _run(self) -> None:
        batch: list[_Entry] = []
        closing = False
        while True:
            try:
                written = self._write(batch, closing)
            except OSError as error:
                written = 0
                self._fail(error)
                if closing:
                    break
                with self._wake:
                    self._wake.wait_for(lambda: self._closing, self._retry_s)
            else:
                self._written = time.monotonic()
                with self._wake:
                    # Nobody but this thread takes entries out, so the batch is still the head.
                    for _ in range(written):
                        self._queue.popleft()
                    back, self._reason = self._reason is not None, None
                if back:
                    self._report()
                if closing and not self._queue:
                    break
            with self._wake:
                if written and not self._queue and not self._closing:
                    # Under load, being told of each batch would cost those who append more than
                    # all the rest of it.
                    self._wake.wait_for(lambda: self._closing or self._hurry, self._gather_s)
                while not self._queue and not self._closing:
                    wait = ALIVE_S
                    if self._unsynced:
                        wait = max(0.0, self._due - time.monotonic())
                    self._asleep = True
                    told = self._wake.wait(wait)
                    self._asleep = False
                    if not told:
                        break
                pause = self._written + self._gather_s - time.monotonic()
                if self._queue and pause > 0:
                    # Under load, waking for each entry would cost more than writing it.
                    self._wake.wait_for(lambda: self._closing or self._hurry, pause)
                batch = list(self._queue)
                self._hurry = False
                closing = self._closing
        self._finish()

    def _write(self, batch: list[_Entry], closing: bool) -> int:
        """Write the beginning of the batch, as much as the segment has room for."""
        segment = self._segment or self._open_segment()
        if not self._marked:
            mark = opened(self._began, anew=self._anew)
            _write_all(segment.fd, mark)
            os.fdatasync(segment.fd)
            segment.size = segment.synced = segment.size + len(mark)
            self._marked = True
        old = time.monotonic() - segment.begun >= self._segment_age
        if batch and (old or segment.size >= self._segment_bytes):
            segment = self._rotate(segment)
        if not batch and not self._unsynced:
            # The file's time tells the next run until when this one was there.
            os.utime(segment.fd)
        n, size, urgent = 0, segment.size, closing
        for entry in batch:
            if n and size >= self._segment_bytes:
                break
            if not entry.line:
                entry.line = self._line(entry)
            elif entry.line.startswith(PLAN):
                self._plan = entry.line
            n, size = n + 1, size + len(entry.line)
            urgent = urgent or entry.done is not None
        _write_all(segment.fd, b"".join(entry.line for entry in batch[:n]))
        segment.size = size
        if not self._unsynced:
            self._due = time.monotonic() + self._sync_s
        self._unsynced += batch[:n]
        if self._unsynced and (
            urgent or len(self._unsynced) > 4096 or time.monotonic() >= self._due
        ):
            self._sync(segment)
        return n

    def _line(self, entry: _Entry) -> bytes:
        if entry.envelope is None:
            return b""
        try:
            return encode(entry.envelope, keep_digits=self._keep_digits)
        except Exception as error:
            # A body that cannot be written must not end the journal for all others.
            self.counters.refused += 1
            if entry.done is not None and entry.done.set_running_or_notify_cancel():
                entry.done.set_exception(error)
            entry.done = None
            return b""

    def _sync(self, segment: _Segment) -> None:
        os.fdatasync(segment.fd)
        segment.synced = segment.size
        self.counters.written += len(self._unsynced)
        for entry in self._unsynced:
            envelope = entry.envelope
            if envelope is None:
                alarm, nobody = settled(entry.line)
                if alarm:
                    self._alarms.settle(alarm, nobody=nobody)
            elif type(envelope.body) in OpenAlarms.SEES:
                self._alarms.see(envelope)
            if entry.done is not None and entry.done.set_running_or_notify_cancel():
                entry.done.set_result(None)
        self._unsynced.clear()

    def _fail(self, error: OSError) -> None:
        """Forget what is not known to be on disk and queue it again.

        After a failed sync the kernel may have thrown the data away and call the next sync a
        success, so everything since the last good one has to be written again.
        """
        self.counters.failures += 1
        segment, self._segment = self._segment, None
        with self._wake:
            present = {id(entry) for entry in self._queue}
            again = [entry for entry in self._unsynced if id(entry) not in present]
            self._queue.extendleft(reversed(again))
            first, self._reason = self._reason is None, str(error)
        self._unsynced.clear()
        if segment is not None:
            try:
                os.ftruncate(segment.fd, segment.synced)
            except OSError:
                self._cut = (segment.path, segment.synced)
            os.close(segment.fd)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            # Of a history that no longer fits, the newest part is worth most.
            self._delete_old(keep=2, total_bytes=0, most=1)
        if first:
            self._report()

    def _report(self) -> None:
        if self._on_state is not None:
            try:
                self._on_state(self.state)
            except Exception:
                # The writer must outlive a mistake in somebody's callback.
                self.counters.failures += 1

    def _open_segment(self) -> _Segment:
        self.directory.mkdir(parents=True, exist_ok=True)
        if self._cut is not None:
            path, size = self._cut
            if path.exists():
                os.truncate(path, size)
            self._cut = None
        if not self._alarms_known:
            self._alarms, self._alarms_known = read_open_alarms(self.directory), True
        for left in self.directory.glob("journal-*.tmp"):
            left.unlink(missing_ok=True)
        found = segments(self.directory)
        if not found:
            self._segment = self._begin_segment()
            return self._segment
        path = found[-1]
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        try:
            before = os.fstat(fd).st_size
            size = sound_size(fd, before)
            if size < before:
                os.ftruncate(fd, size)
                self.counters.repaired_bytes += before - size
            os.fsync(fd)
        except BaseException:
            os.close(fd)
            raise
        age = max(0.0, time.time() - begun(path))
        self._segment = _Segment(path, fd, size, size, time.monotonic() - age)
        return self._segment if size else self._rotate(self._segment)

    def _begin_segment(self) -> _Segment:
        """A new segment appears under its name only when its first line is safe."""
        at = time.time()
        found = segments(self.directory)
        if found:
            # Names give the order, also when the wall clock was set back.
            at = max(at, begun(found[-1]) + 0.001)
        path = self.directory / f"journal-{self._ids.uuid7(at + 0.0005)}.jsonl"
        scratch = path.with_suffix(".tmp")
        line = head(self._alarms.envelopes(), self._alarms.ahead) + self._plan
        fd = os.open(
            scratch, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640
        )
        try:
            _write_all(fd, line)
            os.fsync(fd)
            os.rename(scratch, path)
            _sync_directory(self.directory)
        except BaseException:
            os.close(fd)
            raise
        return _Segment(path, fd, len(line), len(line), time.monotonic())

    def _rotate(self, segment: _Segment) -> _Segment:
        if self._unsynced:
            self._sync(segment)
        self._segment = self._begin_segment()
        os.close(segment.fd)
        self._delete_old(keep=1, total_bytes=self._total_bytes)
        return self._segment

    def _delete_old(self, *, keep: int, total_bytes: int, most: int | None = None) -> None:
        try:
            found = [(path, path.stat().st_size) for path in segments(self.directory)]
            total = sum(size for _, size in found)
            for path, size in found[:-keep][:most]:
                if total <= total_bytes:
                    break
                path.unlink()
                total -= size
                self.counters.segments_deleted += 1
                self.counters.bytes_deleted += size
        except OSError:
            # Too long a history stops nothing; the next segment tries again.
            self.counters.failures += 1

    def _finish(self) -> None:
        if self._segment is not None:
            os.close(self._segment.fd)
            self._segment = None
        with self._wake:
            left = [entry for entry in self._queue if entry.done is not None]
        for entry in left:
            assert entry.done is not None
            if entry.done.set_running_or_notify_cancel():
                entry.done.set_exception(
                    DeviceError(f"{self.directory}: closed before written: {self._reason}")
                )


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
