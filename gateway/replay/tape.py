"""Tape: a journal as the runs it holds, each with the routes that were in use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from gateway.core.envelope import Envelope, decode_envelope
from gateway.core.events import AlarmRaised, InputChanged
from gateway.core.routes import Route
from gateway.errors import UsageError
from gateway.journal import segments
from gateway.journal.lines import CARRIED, LOST, OPENED, PLAN, TAKEN, Plan, decode_mark

_ALARMS: Final = 100_000
"""Alarms that may wait to be acted on; a journal in which more do is damaged."""


class Step(msgspec.Struct, frozen=True):
    """One thing that a run's journal tells, where it stands."""

    what: Envelope | Plan
    mono: float
    at: float
    where: str
    """``file:line``."""


class Run(msgspec.Struct):
    """One run of the gateway, as far as the journal has it."""

    name: str
    """Empty: the run began before the journal does."""
    where: str
    steps: Iterator[Step]
    """To be read before the next run."""


class Tape:
    """A journal's file or directory.

    `runs` can be read any number of times; what the journal gains meanwhile is read as well.
    """

    def __init__(self, path: Path) -> None:
        """Raises `UsageError` when there is no journal at this path."""
        self.path = path
        self.unreadable = 0
        """Lines of the last reading that were nothing this version knows."""
        files = segments(path) if path.is_dir() else [path] if path.is_file() else []
        if not files:
            raise UsageError(f"{path} is no journal: neither a file nor a directory with journal-*")

    def runs(self) -> Iterator[Run]:
        """The runs, oldest first. Raises `OSError` when a file cannot be read."""
        self.unreadable = 0
        lines = _Lines(self.path)
        yield Run("", str(self.path), self._steps(lines))
        while lines.held is not None:
            name, where = lines.take()
            yield Run(name, where, self._steps(lines))

    def _steps(self, lines: _Lines) -> Iterator[Step]:
        """Up to where the next run begins. An alarm stands where it was acted on."""
        waiting: dict[str, Envelope] = {}
        for where, line in lines:
            if line.startswith(CARRIED):
                continue
            try:
                if line.startswith((OPENED, PLAN, TAKEN, LOST)):
                    mark = decode_mark(line)
                    if mark.opened:
                        lines.hold(mark.opened, where)
                        return
                    if mark.plan is not None:
                        yield Step(mark.plan, *(mark.plan.asked or (0.0, 0.0)), where)
                    elif mark.taken is not None and mark.taken.alarm in waiting:
                        alarm = waiting.pop(mark.taken.alarm)
                        yield Step(alarm, mark.taken.mono, mark.taken.at, where)
                    elif mark.lost:
                        waiting.pop(mark.lost, None)
                    continue
                envelope = decode_envelope(line)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                self.unreadable += 1
                continue
            if envelope.event is None and envelope.action is None:
                self.unreadable += 1
            elif _held(envelope) and len(waiting) < _ALARMS:
                waiting[envelope.id] = envelope
            else:
                yield Step(envelope, envelope.mono, envelope.at, where)


def _held(envelope: Envelope) -> bool:
    """Whether it was written down before anybody acted on it."""
    event = envelope.event
    return isinstance(event, AlarmRaised) or (
        isinstance(event, InputChanged) and event.raised_at is not None
    )


class _Lines:
    """The lines of all files with where they stand, and the beginning of a run that was met."""

    def __init__(self, path: Path) -> None:
        self.held: tuple[str, str] | None = None
        self._lines = self._read(path)

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        return self._lines

    def hold(self, name: str, where: str) -> None:
        self.held = (name, where)

    def take(self) -> tuple[str, str]:
        assert self.held is not None, "no run was met"
        held, self.held = self.held, None
        return held

    @staticmethod
    def _read(path: Path) -> Iterator[tuple[str, bytes]]:
        for file in segments(path) if path.is_dir() else [path]:
            with file.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    # Without its end a line is torn, or is just being written.
                    if line.endswith(b"\n"):
                        yield f"{file.name}:{number}", line


def playable(plan: Plan) -> list[Route]:
    """The plan's routes with invented PINs in place of the hidden ones, each of the same length.

    What people entered is hidden as well, so that any PIN will do as long as it is the same.
    """
    number = 0
    routes = []
    for route in plan.routes:
        pins = {}
        for person, hidden in route.pins.items():
            number += 1
            pins[person] = f"{number:0{len(hidden)}d}"[-len(hidden) or None :]
        routes.append(msgspec.structs.replace(route, pins=pins))
    return routes
