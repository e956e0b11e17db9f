"""Bells: the timetable made to ring, and the proof that it did.

A bell that is due is an input of ``page/bells`` that goes to 1 until the bell is over: a route with
``on = "input"`` says where it is heard and what is played, on zones, telephones and radios alike.
What then happens is followed on the bus by its trace and written down: which places played it, and
for how long. Bells that could not ring are written down too.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Final

import msgspec

from gateway.adapters.base import Host
from gateway.adapters.page.config import BELLS, MUTE, PageSection
from gateway.core.actions import CloseAlarm, Dial, Note, OpenAlarm
from gateway.core.endpoints import Condition, Duplex, Endpoint
from gateway.core.envelope import Envelope
from gateway.core.events import (
    AlarmCleared,
    AlarmRaised,
    InputChanged,
    LegAnswered,
    LegEnded,
    Severity,
)
from gateway.drivers.kernel_clock import is_synchronised
from gateway.errors import DeviceError
from gateway.protocols.calendar import Ring

SHOWN: Final = 10
KEPT: Final = 200
"""Proofs in the file."""
CLOCK_ALARM: Final = "clock"
_LOOK_S: Final = 15.0
"""The clock is looked at so often at the least: somebody may set it."""
_TAKEN_S: Final = 5.0
"""So soon a route must have taken the bell."""
_SETTLE_S: Final = 3.0
"""How long the last zone may take to end after the plan is over."""
_SET_BACK_S: Final = 60.0
# Nothing of this was running before: a clock that says so has lost its time.
_EARLIEST_WALL: Final = 1_735_689_600.0


class Proof(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What became of one entry of the timetable."""

    bell: str
    due: float
    """Wall time."""
    outcome: str
    """``rung``, ``failed``, ``missed`` or ``muted``."""
    detail: str = ""
    by: str = "timetable"
    rung_at: float = 0.0
    places: dict[str, str] = {}
    """Endpoint to what it did."""


class Book(msgspec.Struct, kw_only=True):
    """What survives a restart."""

    since: float
    """The timetable has been looked at up to this wall time."""
    muted: str = ""
    """The day on which nothing rings."""
    proofs: list[Proof] = []


class Watch:
    """What happens under one trace. Driven by `take` with the bus's envelopes."""

    def __init__(self) -> None:
        self.taken, self.over, self.settled = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.settled.set()
        self.outcome = ""
        self.places: dict[str, str] = {}
        self.notes: list[str] = []
        self._legs: dict[str, str] = {}

    def take(self, envelope: Envelope) -> None:
        """Take an envelope of this trace in."""
        body = envelope.event if envelope.event is not None else envelope.action
        match body:
            case OpenAlarm():
                self.taken.set()
            case CloseAlarm():
                self.outcome = body.outcome
                self.over.set()
            case Dial():
                self._legs[body.leg] = body.endpoint
                self.places[body.endpoint] = "called"
                self.settled.clear()
            case LegAnswered() if body.leg in self._legs:
                self.places[self._legs[body.leg]] = "played"
            case LegEnded() if body.leg in self._legs:
                endpoint = self._legs.pop(body.leg)
                played = self.places[endpoint] == "played"
                said = body.detail or ("" if played else str(body.cause))
                word = "played" if played else "not played"
                self.places[endpoint] = f"{word}: {said}" if said else word
                if not self._legs:
                    self.settled.set()
            case Note() if body.text.startswith(("cannot", "zone")):
                self.notes.append(body.text)

    @property
    def played(self) -> bool:
        """Whether any place played it."""
        return any(text.startswith("played") for text in self.places.values())


class Bells:
    """The bells of one adapter. Driven by `run`, by `take` with the bus's envelopes, and by
    `ring` and `mute` by hand."""

    wall: Callable[[], float] = staticmethod(time.time)
    synchronised: Callable[[], bool | None] = staticmethod(is_synchronised)

    def __init__(self, name: str, section: PageSection, host: Host) -> None:
        self.endpoint = f"{name}/{BELLS}"
        self._section, self._host = section, host
        self._calendar = section.timetable()
        self._book = Book(since=0.0)
        self._watches: dict[str, Watch] = {}
        self._gains: dict[str, float] = {}
        self._ringing: set[str] = set()
        self._next: tuple[float, list[Ring]] = (math.inf, [])
        self._writing: deque[bytes] = deque(maxlen=1)
        self._alarmed = False
        self._running = False
        self._worker: Executor | None = None

    def place(self, condition: Condition = Condition.UNKNOWN) -> Endpoint:
        """The endpoint of all bells."""
        return Endpoint(
            id=self.endpoint,
            label="bells",
            duplex=Duplex.NONE,
            can_ring=False,
            alarm=True,
            inputs=tuple(self._section.bells),
            outputs=(MUTE, *self._section.bells),
            condition=condition,
            detail=self._detail() if condition is Condition.UP else {},
        )

    def gain_db(self, trace: str) -> float:
        """Volume of what is played under a trace, if a bell began it."""
        return self._gains.get(trace, 0.0)

    def take(self, envelope: Envelope) -> None:
        """An envelope from the bus."""
        watch = self._watches.get(envelope.trace)
        if watch is not None:
            watch.take(envelope)

    # The timetable

    async def run(self, worker: Executor) -> None:
        """Ring until cancelled; the disk is waited for in the worker."""
        self._worker = worker
        self._read()
        self._running = True
        checked = self._book.since or self.wall()
        try:
            while True:
                wall = self.wall()
                if self._fit(wall):
                    if wall < checked - _SET_BACK_S:
                        self._host.log.warning("the clock was set back", by_s=checked - wall)
                        checked = wall
                    self._look(checked, wall)
                    checked = max(checked, wall)
                self.show()
                wait_s = min([_LOOK_S, *(ring.at - wall for ring in self._upcoming(wall)[:1])])
                await asyncio.sleep(max(wait_s, 0.01))
        finally:
            self._running, self._worker = False, None
            self._writing.clear()
            self._watches.clear()
            self._book.since = checked
            # At once: no thread is waited for when the gateway stops.
            with contextlib.suppress(OSError):
                _replace(self._file, self._text(), ".end")

    def _look(self, since: float, wall: float) -> None:
        done = {(proof.bell, proof.due) for proof in self._book.proofs}
        longest = max(bell.late_s for bell in self._section.bells.values())
        now, missed = self._calendar.due(since, wall, late_s=longest)
        for ring in (*missed, *now):
            if (ring.bell, ring.at) in done:
                continue
            late_s = wall - ring.at
            if late_s > self._section.bells[ring.bell].late_s:
                self._missed(ring, f"{late_s:.0f} s too late")
            elif self._book.muted == str(self._calendar.local(wall).date()):
                self._write_down(Proof(bell=ring.bell, due=ring.at, outcome="muted"))
            else:
                self.ring(ring.bell, due=ring.at, by="timetable")
        if now or missed:
            self._book.since = wall
            self._save()

    def _missed(self, ring: Ring, why: str) -> None:
        self._host.count("bells_missed")
        self._host.log.warning("bell missed", bell=ring.bell, why=why)
        self._write_down(Proof(bell=ring.bell, due=ring.at, outcome="missed", detail=why))

    def _fit(self, wall: float) -> bool:
        """Whether the clock can be rung by; an alarm when it is doubtful."""
        why, hold = "", False
        if wall < _EARLIEST_WALL:
            why, hold = f"the clock says {self._calendar.local(wall):%Y-%m-%d %H:%M}", True
        elif self._section.calendar.clock != "ignore" and self.synchronised() is False:
            why = "nothing keeps the clock right (no NTP)"
            hold = self._section.calendar.clock == "hold"
        if why and not self._alarmed:
            self._host.emit(
                AlarmRaised(
                    endpoint=self.endpoint, alarm=CLOCK_ALARM, kind="fault",
                    severity=Severity.MAJOR if hold else Severity.MINOR,
                    text=f"{why}; bells are held" if hold else why,
                    trace=self._host.new_trace(), raised_at=self._host.now(),
                )
            )  # fmt: skip
        elif self._alarmed and not why:
            self._host.emit(AlarmCleared(endpoint=self.endpoint, alarm=CLOCK_ALARM))
        self._alarmed = bool(why)
        return not hold

    # One bell

    def ring(self, bell: str, *, due: float | None = None, by: str = "hand") -> None:
        """Ring a bell now. Raises `DeviceError` when the adapter is not open."""
        if not self._running:
            raise DeviceError("the bells are not running")
        wall = self.wall()
        proof = Proof(bell=bell, due=wall if due is None else due, outcome="", by=by, rung_at=wall)
        if bell in self._ringing:
            proof.outcome, proof.detail = "failed", "it was still ringing"
            self._write_down(proof)
            return
        self._ringing.add(bell)
        self._host.create_task(self._ring(proof), name=f"bell {bell}")

    async def _ring(self, proof: Proof) -> None:
        section = self._section.bells[proof.bell]
        trace = self._host.new_trace()
        watch = self._watches[trace] = Watch()
        self._gains[trace] = section.gain_db
        why = "no route took it"
        try:
            self._switch(proof.bell, 1.0, trace)
            async with asyncio.timeout(_TAKEN_S):
                await watch.taken.wait()
            why = f"it was not over after {section.max_s:g} s"
            async with asyncio.timeout(section.max_s):
                await watch.over.wait()
            why = ""
        except TimeoutError:
            pass
        finally:
            # Also what plays until further notice ends with the bell.
            self._switch(proof.bell, 0.0, trace)
            self._ringing.discard(proof.bell)
        try:
            async with asyncio.timeout(_SETTLE_S):
                await watch.settled.wait()
        except TimeoutError:
            why = why or "not every place has ended"
        del self._watches[trace], self._gains[trace]
        proof.places = watch.places
        proof.outcome = "rung" if watch.played else "failed"
        proof.detail = "; ".join(part for part in (why or watch.outcome, *watch.notes[:5]) if part)
        self._host.count("bells_rung" if watch.played else "bells_failed")
        if not watch.played:
            self._host.log.error("bell was not heard", bell=proof.bell, why=proof.detail)
        self._write_down(proof)

    def _switch(self, bell: str, value: float, trace: str) -> None:
        self._host.emit(InputChanged(endpoint=self.endpoint, input=bell, value=value, trace=trace))

    def mute(self, on: bool) -> None:
        """Silence the timetable until midnight, or no more. Raises `DeviceError` when the adapter
        is not open."""
        if not self._running:
            raise DeviceError("the bells are not running")
        self._book.muted = str(self._calendar.local(self.wall()).date()) if on else ""
        self._save()
        self.show()

    # What is shown and kept

    def show(self) -> None:
        """Announce the endpoint as it is now."""
        if self._running:
            self._host.set_endpoint(self.place(Condition.UP))

    def _upcoming(self, wall: float) -> list[Ring]:
        looked, found = self._next
        # A year's calendar is not gone through again for nothing.
        if not looked <= wall < (found[0].at if found else looked + 3600.0):
            found = self._calendar.upcoming(wall, SHOWN)
            self._next = wall, found
        return found

    def _stamp(self, wall: float) -> str:
        return f"{self._calendar.local(wall):%a %Y-%m-%d %H:%M:%S}"

    def _detail(self) -> dict[str, str]:
        wall = self.wall()
        found = {"zone": str(self._calendar.zone)}
        if self._book.muted == str(self._calendar.local(wall).date()):
            found["muted"] = f"{self._book.muted}, until midnight"
        for n, ring in enumerate(self._upcoming(wall), 1):
            found[f"next {n:02}"] = f"{self._stamp(ring.at)} {ring.bell}"
        for n, proof in enumerate(reversed(self._book.proofs[-SHOWN:]), 1):
            places = ", ".join(f"{place} {text}" for place, text in proof.places.items())
            parts = [f"{self._stamp(proof.due)} {proof.bell} {proof.outcome}", proof.detail, places]
            found[f"last {n:02}"] = "; ".join(part for part in parts if part)
        return found

    def _write_down(self, proof: Proof) -> None:
        self._book.proofs.append(proof)
        del self._book.proofs[:-KEPT]
        self._save()
        self.show()

    @property
    def _file(self) -> Path:
        return self._host.data_dir / "bells.json"

    def _read(self) -> None:
        try:
            self._book = msgspec.json.decode(self._file.read_bytes(), type=Book)
        except FileNotFoundError:
            self._book = Book(since=self.wall())
            self._save()
        except (OSError, msgspec.DecodeError) as error:
            # Without its past it rings all the same.
            self._host.log.error("bells.json cannot be read", error=str(error))
            self._book = Book(since=self.wall())

    def _save(self) -> None:
        if self._worker is None:
            return
        if not self._writing:
            self._host.create_task(self._save_latest(), name="bells.json")
        self._writing.append(self._text())

    def _text(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self._book), indent=1)

    async def _save_latest(self) -> None:
        while self._writing:
            data = self._writing[-1]
            try:
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._worker, _replace, self._file, data, ".new")
            except OSError as error:
                self._host.count("bells_unsaved")
                self._host.log.error("bells.json cannot be written", error=str(error))
            if self._writing and self._writing[-1] is data:
                self._writing.clear()


def _replace(path: Path, data: bytes, suffix: str) -> None:
    """Old or new, never half: the power may go at any time."""
    beside = path.with_suffix(suffix)
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
