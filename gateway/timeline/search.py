"""Search: finds a trace in a journal's files without decoding what is not of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
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


def find(directory: Path, wanted: str, at: float | None = None) -> str:
    """The newest trace that is meant: ``last``, the end of a trace's or call's id, a leg, or an
    endpoint. at: the newest that there was at this moment, seconds since 1970.

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
    for path in reversed(segments(directory)):
        if at is not None and begun(path) > at:
            continue
        for line in reversed(path.read_bytes().splitlines()):
            if line.startswith(MARKS) or not pattern.search(line):
                continue
            if at is not None and (stamp := _AT.search(line)) and float(stamp[1]) > at:
                continue
            trace = _TRACE.search(line)
            if trace is not None:
                return trace[1].decode()
    then = "" if at is None else " up to then"
    if wanted == LAST:
        raise UsageError(f"nothing has been traced {then.strip() or 'yet'}")
    raise UsageError(
        f"the journal has nothing of {wanted}{then}: name the end of an id (gateway records), "
        "a leg, an endpoint, or last"
    )


def read(directory: Path, picker: Picker) -> Iterator[Item]:
    """The items of the picker's trace, oldest first. Raises `OSError`."""
    for path in _since(segments(directory), picker.trace):
        after_ours = False
        with path.open("rb") as lines:
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
