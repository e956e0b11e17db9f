"""Search: finds a trace in a journal's files without decoding what is not of it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from gateway.core.envelope import decode_envelope
from gateway.core.ids import minted_at, trace_of
from gateway.errors import UsageError
from gateway.journal import segments
from gateway.journal.lines import MARKS, OPENED, begun
from gateway.timeline.items import Item, Picker

LAST: Final = "last"
_TRACE: Final = re.compile(rb'"trace":"([0-9A-Za-z_-]{1,64})"')
_AT: Final = re.compile(rb'"at":([0-9.]{1,32})')
_ID: Final = re.compile(r"[0-9A-Za-z_-]{4,64}\Z")


_CALL: Final = re.compile(rb'"(?:leg|alarm)":"')
"""In a line of a call or alarm; not of a contact that opens, or a lamp."""
_BLOCK_OCTETS: Final = 256 << 10
_BEFORE_OCTETS: Final = 64 << 10


def find(directory: Path, wanted: str, at: float | None = None, known: Collection[str] = ()) -> str:
    """The newest trace that is meant: ``last``, the end of a trace's or call's id, a leg, or an
    endpoint. at: the newest that there was at this moment, seconds since 1970. The last one is a
    call's or an alarm's, if there is any. known: endpoints, for who mistypes one.

    Raises `UsageError` when there is none, `OSError` when the journal cannot be read.
    """
    if wanted == LAST:
        pattern = _TRACE
    elif "/" in wanted:
        # A leg's id is whole, an endpoint has any leg.
        tail = "" if "#" in wanted else r"(?:#\d+)?"
        pattern = re.compile(
            rb'"(?:leg|endpoint)":"' + re.escape(wanted).encode() + tail.encode() + rb'"'
        )
    elif _ID.match(wanted):
        # Ours are hexadecimal; one that came with a message may be any word.
        word = re.escape(trace_of(wanted) or wanted).encode()
        pattern = re.compile(rb'"(?:trace|call)":"[0-9A-Za-z_-]*(?i:' + word + rb')"')
    else:
        raise UsageError(
            f"{wanted!r} is no trace, call, leg or endpoint: give the end of an id (at least 4 "
            "characters), fxs/1#18, fxs/1, or last"
        )
    paths = [each for each in segments(directory) if at is None or begun(each) <= at]
    for each in (_CALL, _TRACE) if wanted == LAST else (pattern,):
        for path in reversed(paths):
            # Meanwhile the oldest may be removed.
            with suppress(FileNotFoundError):
                if trace := _newest(path, each, at):
                    return trace
    then = "" if at is None else " up to then"
    endpoint = wanted.partition("#")[0]
    if known and "/" in endpoint and endpoint not in known:
        close = difflib.get_close_matches(endpoint, known, n=2, cutoff=0.7)
        hint = f"did you mean {' or '.join(close)}?" if close else "gateway endpoints lists them"
        raise UsageError(f"there is no endpoint {endpoint}: {hint}")
    if wanted == LAST:
        raise UsageError(f"nothing has been traced {then.strip() or 'yet'}")
    raise UsageError(
        f"the journal has nothing of {wanted}{then}: name the end of an id (gateway records), "
        "a leg, an endpoint, or last"
    )


def _newest(path: Path, pattern: re.Pattern[bytes], at: float | None) -> str:
    """The trace of the newest line that fits; empty: there is none in this file."""
    for block in _backwards(path):
        # In blocks: the thread that asks keeps the gateway's from working for as long as one takes.
        if not pattern.search(block):
            continue
        for line in reversed(block.splitlines()):
            if line.startswith(MARKS) or not pattern.search(line):
                continue
            if at is not None and (stamp := _AT.search(line)) and float(stamp[1]) > at:
                continue
            trace = _TRACE.search(line)
            if trace is not None:
                return trace[1].decode()
    return ""


def _backwards(path: Path) -> Iterator[bytes]:
    """A file in blocks of whole lines, the last one first."""
    with path.open("rb") as file:
        place, rest = file.seek(0, 2), b""
        while place > 0:
            step = min(_BLOCK_OCTETS, place)
            place -= step
            file.seek(place)
            rest = file.read(step) + rest
            first, newline, block = rest.partition(b"\n") if place else (b"", b"", rest)
            if newline or not place:
                rest = first
                yield block


def _where(path: Path, trace: bytes) -> int:
    """Where to begin to read for a trace: shortly before a file names it first, for what was done
    at the same moment; else shortly before its end."""
    with path.open("rb") as file:
        place, tail = 0, b""
        while data := file.read(_BLOCK_OCTETS):
            found = (tail + data).find(trace)
            if found >= 0:
                place += found - len(tail)
                break
            place, tail = place + len(data), data[-len(trace) :]
        place = max(0, place - _BEFORE_OCTETS)
        file.seek(place)
        return place + len(file.readline()) if place else 0


def read(directory: Path, picker: Picker) -> Iterator[Item]:
    """The items of the picker's trace, oldest first. Raises `OSError`."""
    begun_with = frozenset(picker.needles)
    for path in _since(segments(directory), picker.trace):
        after_ours = False
        # Until it is named for the first time, nothing else can be known to be of it.
        fresh = begun_with == picker.needles == {picker.trace.encode()}
        skipped = _where(path, picker.trace.encode()) if fresh else 0
        with path.open("rb") as lines:
            lines.seek(skipped)
            for line in lines:
                if line.startswith(MARKS) or not line.endswith(b"\n"):
                    if line.startswith(OPENED):
                        picker.restart()
                    continue
                bridge = b'"OpenBridge"' in line
                if not (after_ours or bridge or any(each in line for each in picker.needles)):
                    continue
                try:
                    envelope = decode_envelope(line)
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    continue
                if envelope.event is None and envelope.action is None:
                    continue
                after_ours = picker.follows(envelope.mono)
                found = picker.take(envelope)
                after_ours = bool(found) or after_ours
                yield from found


def _since(paths: list[Path], trace: str) -> list[Path]:
    """The files from the one on in which the trace began: its id tells when it was minted."""
    minted = minted_at(trace)
    if minted is None:
        # It came from outside: when it began cannot be told.
        return paths
    # The clock may have been set back meanwhile: one file more does no harm.
    first = max((n for n, path in enumerate(paths) if begun(path) <= minted), default=0)
    return paths[max(0, first - 1) :]
