"""Gather: the evidence of a call that is in files, which needs no running gateway."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

import msgspec
import sqlalchemy as sa

from gateway.diagnosis.evidence import CallEvidence, collect
from gateway.errors import GatewayError
from gateway.media.streams import StreamStats
from gateway.records import Database
from gateway.timeline import search
from gateway.timeline.items import Item, Picker

# Made while modules are imported, as `decode_envelope` is, for the same reason.
_decode_stats: Final = msgspec.json.Decoder(StreamStats).decode
MAXIMUM: Final = 50_000
"""Items of one trace that are read."""


def past(
    directory: Path, which: str, at: float | None = None, known: Collection[str] = ()
) -> tuple[CallEvidence, list[Item]]:
    """The newest trace that is meant, as `gateway.timeline.search.find` takes it, without counters.

    Raises `UsageError` when there is none, `OSError` when the journal cannot be read.
    """
    trace = search.find(directory, which, at, known)
    items = []
    for item in search.read(directory, Picker(trace)):
        items.append(item)
        if len(items) == MAXIMUM:
            break
    return collect(trace, items), items


def recorded(url: str, call: CallEvidence) -> str:
    """Add the counters that the records hold to a call's legs; why there are none, if so."""
    try:
        database = Database(url, read_only=True)
        try:
            rows = list(database.streams(trace=call.trace))
            ends = list(database.legs(trace=call.trace))
        finally:
            database.close()
    except (sa.exc.SQLAlchemyError, GatewayError) as error:
        return f"The records cannot be read ({getattr(error, 'orig', None) or error})."
    for row in sorted(rows, key=lambda row: int(row.id.rpartition("/")[2])):
        leg = call.legs.get(row.leg)
        if leg is None:
            continue
        try:
            stats = _decode_stats(row.stats)
        except msgspec.MsgspecError:
            continue
        leg.streams = [*leg.streams, stats]
    for end in ends:
        leg = call.legs.get(end.leg)
        if leg is not None and leg.ended is None:
            # Cut off by the gateway's death: only the next start wrote down that it is over.
            leg.ended = leg.began + (end.ended_at - end.offered_at)
            leg.cause, leg.detail = end.cause, end.detail
            call.now = max(call.now, leg.ended)
    if any(leg.ended is None for leg in call.legs.values()):
        return (
            "It is not known how this ended: it is up, or the gateway died and has not run since."
        )
    answered = [leg for leg in call.legs.values() if leg.answered is not None]
    if answered and not rows:
        return (
            "The records hold no counters of this call's audio: it is judged by its events alone."
        )
    return ""
