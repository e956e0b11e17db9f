"""Capturing: a capture file, of what is remembered and, if wanted, of what comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from gateway.control.questions import CaptureQuery
from gateway.control.tracing import beating
from gateway.core.events import AlarmRaised, CallRequested, LegEnded, LegOffered
from gateway.errors import UsageError
from gateway.exchange import Feed
from gateway.runtime import Gateway
from gateway.timeline import search
from gateway.timeline.capture import Capture
from gateway.timeline.items import Picker
from gateway.timeline.wire import Reader, whole

NEXT: Final = "next"
_BEAT_S: Final = 0.25
_AROUND_S: Final = 2.0
_AFTER_S: Final = 2.0
"""How long the last answers, and RTCP's BYE, may take after the last leg has ended."""
_ALL_AT_ONCE: Final = 4000
"""Entries written before others get their turn."""


async def find(gateway: Gateway, query: CaptureQuery) -> str:
    """The trace that is meant; empty for the next one, or for all. Raises `UsageError`."""
    if query.decrypted and not query.follow:
        raise UsageError("only what comes can be decrypted: it needs --follow")
    if query.last_s:
        if query.id or query.follow:
            raise UsageError("the last minutes are of all calls, and over")
        return ""
    if query.id == NEXT:
        if not query.follow:
            raise UsageError("next is what comes: it needs --follow")
        return ""
    if not query.id:
        raise UsageError("give a call, a trace, last, next, or a time")
    directory, known = gateway.configuration.journal_dir, list(gateway.switchboard.endpoints)
    return await asyncio.to_thread(search.find, directory, query.id, None, known)


async def octets(
    gateway: Gateway, query: CaptureQuery, trace: str, feed: Feed, version: str
) -> AsyncGenerator[bytes, None]:
    """The file in parts, of which an empty one only shows that we live.

    trace: as `find` answered. feed: begun by the caller, who closes it.
    """
    if query.last_s:
        async for part in _lately(gateway, query, version):
            yield part
        return
    beats = beating(feed, _BEAT_S)
    early = None
    while not trace:
        envelope = await anext(beats, None)
        if envelope is None:
            if feed.closed:
                return
            yield b""
        elif isinstance(envelope.event, LegOffered | AlarmRaised | CallRequested):
            trace, early = envelope.trace or envelope.event.trace, envelope
    picker = Picker(trace)
    ties: dict[str, str] = {}
    capture = Capture(gateway.redactor, box=gateway.box, version=version, trace=trace, ties=ties)
    yield capture.begin()
    watched: set[str] = set()
    wires = Reader(gateway.wires, trace)
    began, until, number = 0.0, float("inf"), 0
    lost = gateway.taps.lost()

    def watch() -> None:
        """Of each leg of the trace, as soon as there is one."""
        if not query.follow or not query.media:
            return
        for leg in picker.legs:
            if leg not in watched and leg in gateway.legs:
                watched.add(leg)
                gateway.taps.watch(leg, gateway.patchbay.stream(leg), clear=query.decrypted)

    def fresh() -> bytes:
        nonlocal number
        chunks = gateway.taps.since(number, picker.legs) if query.media else []
        number = gateway.taps.number
        entries = wires.fresh(
            picker.legs, picker.places, since=began, until=until, rests=not query.follow
        )
        if entries:
            ties.update(gateway.wires.leg_of())
        return capture.take(entries, chunks)

    try:
        directory = gateway.configuration.journal_dir
        past = await asyncio.to_thread(lambda: list(search.read(directory, picker)))
        if past:
            began = past[0].at - _AROUND_S
            if not query.follow:
                until = past[-1].at + _AROUND_S
        if early is not None:
            picker.take(early)
        watch()
        yield fresh()
        ended, looked = 0.0, gateway.now()
        while query.follow:
            beat = await anext(beats, None)
            if beat is None and feed.closed:
                break
            if beat is not None:
                picker.take(beat)
                if not isinstance(beat.event, LegEnded):
                    watch()
                # Not after each event of other calls: on a busy box there is no pause in them.
                if gateway.now() < looked + _BEAT_S:
                    continue
            looked = gateway.now()
            yield fresh()
            if any(leg in gateway.legs for leg in picker.legs):
                ended = 0.0
            elif picker.legs:
                ended = ended or gateway.now()
                if gateway.now() - ended > _AFTER_S:
                    break
        yield fresh() + capture.end(gateway.taps.lost() - lost)
    finally:
        for leg in watched:
            gateway.taps.unwatch(leg)


async def _lately(
    gateway: Gateway, query: CaptureQuery, version: str
) -> AsyncGenerator[bytes, None]:
    """All of the last so many seconds, in the order of its time."""
    until = gateway.now()
    since = until - query.last_s
    capture = Capture(
        gateway.redactor, box=gateway.box, version=version, ties=gateway.wires.leg_of()
    )
    yield capture.begin()
    entries = [entry for entry in whole(gateway.wires.entries()) if entry.mono >= since]
    chunks = [each for each in gateway.taps.since(0) if each.mono >= since] if query.media else []
    while entries or chunks:
        some, entries = entries[:_ALL_AT_ONCE], entries[_ALL_AT_ONCE:]
        edge = some[-1].mono if entries else until
        yield capture.take(some, [each for each in chunks if each.mono <= edge])
        chunks = [each for each in chunks if each.mono > edge]
        await asyncio.sleep(0)
        if not entries and edge == until:
            break
    yield capture.end(gateway.wires.dropped + gateway.taps.lost())
