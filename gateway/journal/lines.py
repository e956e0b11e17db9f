"""A journal's files and lines: names, encoding, where the sound part of a file ends."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway.core.actions import Command, SendDigits
from gateway.core.envelope import Envelope
from gateway.core.events import DigitPressed
from gateway.core.routes import Route

_NAME: Final = re.compile(
    r"journal-([0-9a-f]{8})-([0-9a-f]{4})-7[0-9a-f]{3}-[0-9a-f-]{17}\.jsonl\Z"
)
_BLOCK: Final = 1 << 20

CARRIED: Final = b'{"carried":'
"""Begins the first line of a segment: the alarms that were open."""
OPENED: Final = b'{"opened":'
"""Begins the line that stands where a run of the gateway began."""
PLAN: Final = b'{"plan":'
"""Begins a line with the routes that are used from here on; each segment has one near its head."""
TAKEN: Final = b'{"taken":'
"""Begins the line that says when the switchboard was given an alarm that is written above."""
LOST: Final = b'{"lost":'
"""Begins the line that says that it will not be given one: there was no room."""
_ENCODER: Final = msgspec.json.Encoder()
_SECRETS: Final = frozenset((Command, DigitPressed, SendDigits))
"""What may hold a secret."""
MARKS: Final = (CARRIED, OPENED, PLAN, TAKEN, LOST)
"""Lines that are no envelopes."""


class Head(msgspec.Struct, frozen=True):
    """First line of a segment: the envelopes of the alarms that are open."""

    carried: list[Envelope]
    ahead: list[str] = []
    """Ids of those that nobody had acted on yet."""


class Plan(msgspec.Struct, frozen=True):
    """The routes in use. Of a PIN only the length is kept."""

    routes: list[Route]
    zone: str = "UTC"
    asked: tuple[float, float] | None = None
    """Monotonic and wall clock of when alarms that no route took were given to them."""


class Taken(msgspec.Struct, frozen=True):
    """An alarm is written down before anybody acts on it; this is when it was acted on."""

    alarm: str
    """Id of the alarm's envelope."""
    mono: float
    at: float


class Mark(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line that is no envelope and no head."""

    opened: str = ""
    anew: bool = False
    """The run did not know how long the one before it had been over, or it was too long."""
    plan: Plan | None = None
    taken: Taken | None = None
    lost: str = ""
    """Id of the alarm's envelope."""


decode_mark: Final = msgspec.json.Decoder(Mark).decode
"""A mark of its line. Raises `msgspec.MsgspecError`, `UnicodeDecodeError`."""


def plan(routes: Iterable[Route], zone: str, asked: tuple[float, float] | None = None) -> bytes:
    """The line with the routes in use, without PINs."""
    hidden = [
        msgspec.structs.replace(
            route, pins={who: "?" * len(pin) for who, pin in route.pins.items()}
        )
        for route in routes
    ]
    return msgspec.json.encode(Mark(plan=Plan(hidden, zone, asked))) + b"\n"


def taken(alarm: str, mono: float, at: float) -> bytes:
    """The line that says when the alarm of this envelope was acted on."""
    return msgspec.json.encode(Mark(taken=Taken(alarm, mono, at))) + b"\n"


def lost(alarm: str) -> bytes:
    """The line that says that nobody will act on the alarm of this envelope."""
    return msgspec.json.encode(Mark(lost=alarm)) + b"\n"


def settled(line: bytes) -> tuple[str, bool]:
    """The alarm's envelope that a line says has been acted on (False), or will not be (True);
    empty: none."""
    if not line.startswith((TAKEN, LOST)):
        return "", False
    try:
        mark = decode_mark(line)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return "", False
    return (mark.lost, True) if mark.taken is None else (mark.taken.alarm, False)


def head(carried: Iterable[Envelope], ahead: Iterable[str]) -> bytes:
    """The first line of a segment."""
    body = b",".join(encode(envelope, keep_digits=True)[:-1] for envelope in carried)
    waiting = list(ahead)
    behind = b',"ahead":' + msgspec.json.encode(waiting) if waiting else b""
    return CARRIED + b"[" + body + b"]" + behind + b"}\n"


def opened(run: str, *, anew: bool = False) -> bytes:
    """The line that marks the beginning of a run.

    anew: what was acknowledged before it is acknowledged no more.
    """
    return msgspec.json.encode(Mark(opened=run, anew=anew)) + b"\n"


def begins(line: bytes) -> tuple[str, bool]:
    """The run whose beginning a line marks, and whether anew; empty: none."""
    try:
        mark = msgspec.json.decode(line, type=Mark)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return "", False
    return mark.opened, mark.anew


def segments(directory: Path) -> list[Path]:
    """The journal's files, oldest first; other files are not looked at."""
    try:
        return sorted(path for path in directory.iterdir() if _NAME.match(path.name))
    except FileNotFoundError:
        return []


def encode(envelope: Envelope, *, keep_digits: bool = False) -> bytes:
    """The journal's line for an envelope, without secrets: codes never, digits when asked for."""
    body = envelope.body
    if type(body) not in _SECRETS:
        pass
    elif isinstance(body, Command) and body.code:
        envelope = msgspec.structs.replace(envelope, action=msgspec.structs.replace(body, code=""))
    elif isinstance(body, DigitPressed) and not keep_digits:
        envelope = msgspec.structs.replace(envelope, event=msgspec.structs.replace(body, digit="?"))
    elif isinstance(body, SendDigits) and not keep_digits:
        hidden = msgspec.structs.replace(body, digits="?" * len(body.digits))
        envelope = msgspec.structs.replace(envelope, action=hidden)
    try:
        return _ENCODER.encode(envelope) + b"\n"
    except UnicodeEncodeError:
        # Lone surrogates come from octets of a peer that were no UTF-8.
        return msgspec.json.encode(_printable(msgspec.to_builtins(envelope))) + b"\n"


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_printable(item) for item in value]
    return value


def begun(path: Path) -> float:
    """When a segment was begun, by its name: wall clock, seconds since 1970."""
    found = _NAME.match(path.name)
    assert found is not None
    return int(found[1] + found[2], 16) / 1000


def line_start(fd: int, size: int) -> int:
    """Where the line begins that the octet before `size` belongs to, or `size` after a newline."""
    end = size
    while end > 0:
        start = max(0, end - _BLOCK)
        found = os.pread(fd, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def sound_size(fd: int, size: int) -> int:
    """Length of the file up to its last line that is JSON.

    A crash tears at most the last line; a power cut may also leave blocks of zeros.
    """
    end = line_start(fd, size)
    while end > 0:
        start = line_start(fd, end - 1)
        try:
            msgspec.json.decode(os.pread(fd, end - start, start), type=dict[str, msgspec.Raw])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            end = start
        else:
            return end
    return 0
