"""Reading a journal: all of it, a part, or what is being written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from gateway.core.envelope import Envelope, decode_envelope
from gateway.journal.alarms import OpenAlarms
from gateway.journal.lines import (
    LOST,
    MARKS,
    OPENED,
    TAKEN,
    Head,
    begins,
    line_start,
    segments,
    settled,
)


class Reader:
    """Reads a journal's envelopes in order, also while it is being written.

    Filters are joined by "and"; None or an empty string lets everything through.
    """

    def __init__(
        self,
        directory: Path,
        *,
        since: float | None = None,
        until: float | None = None,
        trace: str = "",
        call: str = "",
        leg: str = "",
    ) -> None:
        """since, until: wall clock, seconds since 1970, of the envelopes wanted."""
        self.directory = directory
        self.unreadable = 0
        """Lines that were no envelope of this version."""
        self._since = since
        self._until = until
        self._trace, self._call, self._leg = trace, call, leg
        wanted = (text for text in (trace, call, leg) if text)
        self._needles = [msgspec.json.encode(text)[1:-1] for text in wanted]
        self._at: tuple[str, int] = ("", 0)

    def poll(self) -> Iterator[Envelope]:
        """What was written since the last poll; at first: everything there is."""
        for line in self._lines():
            envelope = self._envelope(line)
            if envelope is not None:
                yield envelope

    def runs(self, before: str) -> Iterator[Envelope | None]:
        """What was written before the run of this name; None stands where a run began."""
        for line in self._lines():
            if line.startswith(OPENED):
                if begins(line)[0] == before:
                    return
                yield None
                continue
            envelope = self._envelope(line)
            if envelope is not None:
                yield envelope

    def follow(self, wait: Callable[[], bool]) -> Iterator[Envelope]:
        """All envelopes, then those to come; `wait` is called when there is nothing new and
        ends the reading by returning False."""
        while True:
            yield from self.poll()
            if not wait():
                return

    def skip(self) -> None:
        """Pass over what is there now: the next poll gives only what comes after."""
        found = segments(self.directory)
        if found:
            with found[-1].open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                self._at = (found[-1].name, line_start(file.fileno(), size))

    def _lines(self) -> Iterator[bytes]:
        for path in segments(self.directory):
            name, offset = self._at
            if path.name < name:
                continue
            if path.name > name:
                offset = 0
            try:
                with path.open("rb") as file:
                    file.seek(offset)
                    for line in file:
                        if not line.endswith(b"\n"):
                            break
                        offset += len(line)
                        self._at = (path.name, offset)
                        yield line
            except FileNotFoundError:
                # Deleted by the writer while we were reading: it was the oldest.
                continue

    def _envelope(self, line: bytes) -> Envelope | None:
        if line.startswith(MARKS):
            return None
        if not all(needle in line for needle in self._needles):
            return None
        try:
            envelope = decode_envelope(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self.unreadable += 1
            return None
        return envelope if self._wants(envelope) else None

    def _wants(self, envelope: Envelope) -> bool:
        if envelope.event is None and envelope.action is None:
            self.unreadable += 1
            return False
        if self._since is not None and envelope.at < self._since:
            return False
        if self._until is not None and envelope.at > self._until:
            return False
        body = envelope.body
        return (
            self._trace in ("", envelope.trace, getattr(body, "trace", ""))
            and self._call in ("", envelope.call, getattr(body, "call", ""))
            and self._leg in ("", getattr(body, "leg", ""))
        )


def read(
    directory: Path,
    *,
    since: float | None = None,
    until: float | None = None,
    trace: str = "",
    call: str = "",
    leg: str = "",
) -> Iterator[Envelope]:
    """The envelopes of a journal in order; see `Reader` for the filters."""
    return Reader(directory, since=since, until=until, trace=trace, call=call, leg=leg).poll()


def read_open_alarms(directory: Path) -> OpenAlarms:
    """The alarms that the newest segment leaves open to the next run; none when it cannot be
    read."""
    alarms = OpenAlarms()
    for path in reversed(segments(directory)):
        with path.open("rb") as file:
            try:
                head = msgspec.json.decode(file.readline(), type=Head)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                # Damaged by something other than us: an older segment still knows more.
                continue
        for envelope in head.carried:
            alarms.see(envelope)
            if envelope.id not in head.ahead:
                alarms.settle(envelope.id)
        break
    else:
        path = None
    reader = Reader(directory)
    if path is not None:
        reader._at = (path.name, 0)
    for line in reader._lines():
        if line.startswith(OPENED):
            alarms.begin_run(anew=begins(line)[1])
        elif line.startswith((TAKEN, LOST)):
            alarm, nobody = settled(line)
            alarms.settle(alarm, nobody=nobody)
        elif (found := reader._envelope(line)) is not None:
            alarms.see(found)
    alarms.begin_run()
    return alarms
