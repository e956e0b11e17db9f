"""Tracing: the timeline of a trace from the journal, the wires and, if wanted, what comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

import msgspec

from gateway.control.questions import TraceQuery
from gateway.control.shapes import TraceHead
from gateway.core.envelope import Envelope
from gateway.core.events import AlarmRaised, CallRequested, LegOffered
from gateway.errors import UsageError
from gateway.exchange import Feed
from gateway.runtime import Gateway
from gateway.timeline import search
from gateway.timeline.items import Item, Picker, of_wire
from gateway.timeline.wire import Reader

MAXIMUM: Final = 20_000
"""Items of one answer; a trace that has more is cut, and says so."""
NEXT: Final = "next"
_BEAT_S: Final = 0.25
"""How often the wires are looked at while a trace is followed."""
_RECENT_S: Final = 60.0
"""What is older, and had no leg by now, is no part of what is followed."""
_AROUND_S: Final = 2.0
"""The message that began a trace came before its first event."""


async def find(gateway: Gateway, query: TraceQuery) -> str:
    """The trace that is meant; empty for the next one. Raises `UsageError`."""
    if query.id == NEXT:
        if not query.follow:
            raise UsageError("next is what comes: it needs --follow")
        return ""
    directory, known = gateway.configuration.journal_dir, list(gateway.switchboard.endpoints)
    return await asyncio.to_thread(search.find, directory, query.id, query.at, known)


async def lines(
    gateway: Gateway, trace: str, feed: Feed, *, follow: bool
) -> AsyncGenerator[bytes, None]:
    """A `TraceHead` and then the `Item`s, one in a line; empty lines only show that we live.

    trace: as `find` answered. feed: begun by the caller, who closes it.
    """
    configuration = gateway.configuration
    directory, keep = configuration.journal_dir, configuration.journal.keep_digits
    beats = beating(feed, _BEAT_S)
    early: list[Envelope] = []
    while not trace:
        envelope = await anext(beats, None)
        if envelope is None:
            if feed.closed:
                return
            yield b"\n"
        elif isinstance(envelope.event, LegOffered | AlarmRaised | CallRequested):
            trace = envelope.trace or envelope.event.trace
            early = [envelope]
    picker = Picker(trace, keep_digits=keep)

    def history() -> list[Item]:
        found: list[Item] = []
        for item in search.read(directory, picker):
            found.append(item)
            if len(found) == MAXIMUM:
                break
        return found

    past = [] if early else await asyncio.to_thread(history)
    last = max((item.at for item in past), default=0.0)
    wires = Reader(gateway.wires, trace)
    items = sorted([*past, *_wires(gateway, picker, wires, past)], key=lambda item: item.at)
    labels = {
        name: place.label for name, place in gateway.switchboard.endpoints.items() if place.label
    }
    head = TraceHead(
        trace=trace,
        box=gateway.box,
        labels={name: labels[name] for name in picker.places if name in labels},
        cut=len(past) == MAXIMUM,
        wire_s=gateway.wires.keep_s,
    )
    yield encode(head)
    for item in items:
        yield encode(item)
    if not follow:
        return
    for envelope in early:
        for item in picker.take(envelope):
            yield encode(item)
    looked, learned = 0.0, True
    async for beat in beats:
        if beat is not None and beat.at > last:
            for item in picker.take(beat):
                learned = True
                yield encode(item)
        # Not after each event of other calls: on a busy box there are many.
        if beat is not None and not learned and time.monotonic() < looked + _BEAT_S:
            continue
        learned, looked = False, time.monotonic()
        fresh = _wires(gateway, picker, wires)
        for item in fresh:
            yield encode(item)
        if beat is None and not fresh:
            yield b"\n"


def _wires(
    gateway: Gateway, picker: Picker, wires: Reader, past: list[Item] | None = None
) -> list[Item]:
    """What went over the wires and was not there yet. past: of a trace that is looked at first."""
    since = past[0].at - _AROUND_S if past else time.time() - _RECENT_S
    until = past[-1].at + _AROUND_S if past else float("inf")
    entries = wires.fresh(
        picker.legs, picker.places, since=since, until=until, rests=past is not None
    )
    if not entries:
        return []
    ties = gateway.wires.leg_of()
    return [of_wire(entry, picker.legs, ties, gateway.redactor) for entry in entries]


def encode(value: msgspec.Struct) -> bytes:
    """A JSON line; what a peer sent may be no UTF-8."""
    try:
        return msgspec.json.encode(value) + b"\n"
    except UnicodeEncodeError:
        import json

        return json.dumps(msgspec.to_builtins(value)).encode() + b"\n"


async def beating(feed: Feed, beat_s: float) -> AsyncIterator[Envelope | None]:
    """What is in a feed; None every `beat_s` when nothing is."""
    envelopes = aiter(feed)
    waiting: asyncio.Task[Envelope] | None = None
    try:
        while True:
            if waiting is None:
                waiting = asyncio.ensure_future(anext(envelopes))
            done, _ = await asyncio.wait({waiting}, timeout=beat_s)
            if not done:
                yield None
                continue
            try:
                envelope = waiting.result()
            except StopAsyncIteration:
                return
            finally:
                waiting = None
            yield envelope
    finally:
        if waiting is not None:
            waiting.cancel()
