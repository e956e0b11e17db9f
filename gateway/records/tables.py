"""What is recorded of a leg and of a call, and the tables that hold it.

Wall times are seconds since 1970 (UTC), durations seconds of the monotonic clock. All wall times of
a call are counted from its first event by the monotonic clock, so they stay in order when the wall
clock is set; `clock_step_s` says by how much it was.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

import msgspec
import sqlalchemy as sa

SCHEMA_VERSION: Final = 3


class Outcome(StrEnum):
    """How a call went, seen by the one who wanted it."""

    ANSWERED = "answered"
    ABANDONED = "abandoned"
    """The caller gave up before a human answered."""
    FAILED = "failed"
    """Refused, blocked, not answered, or cut off before the answer."""


class Kind(StrEnum):
    """What a call began with."""

    CALL = "call"
    """Somebody called: off hook, button, INVITE."""
    ALARM = "alarm"
    REQUESTED = "requested"
    """An operator or schedule asked for it."""
    TEST = "test"
    """A test of a path: nobody's call."""
    PAGE = "page"
    """Whatever began it: nobody was expected to answer, all called legs only listen."""


class LegRecord(msgspec.Struct, kw_only=True, gc=False):
    """Call detail record of one leg."""

    id: str
    """UUIDv7 of the envelope that began the leg: unique over all boxes and restarts."""
    box: str
    leg: str
    call: str
    """Id of the call's record: `CallRecord.id`."""
    trace: str
    endpoint: str
    network: str
    direction: str
    """``in``: somebody called us; ``out``: we called."""
    calling: str
    called: str
    route: str
    priority: int
    demanded_at: float
    """First human or physical event behind the leg."""
    offered_at: float
    ringing_at: float | None
    answered_at: float | None
    ended_at: float
    wait_s: float
    """Demand to answer, or to the end of a leg that was never answered."""
    talk_s: float
    """Answer to end, without what the leg was on hold."""
    held_s: float
    cause: str
    """A `gateway.core.causes.Cause`."""
    q850: int
    detail: str
    released: str
    """Who ended it: ``gateway`` or ``far``."""
    codec: str
    packets_sent: int
    packets_received: int
    packets_lost: int
    loss_percent: float
    """Lost of those that should have been received."""
    jitter_ms: float
    """Highest interarrival jitter of the leg's streams (RFC 3550 section 6.4.1)."""
    level_dbm0: float | None
    """Mean power received, over the readings taken; None when nothing was measured."""
    recording: str
    """File of the last recording that was begun on the leg."""
    clock_step_s: float
    """How far the wall clock was set between the call's first event and the leg's end."""
    played: str = ""
    """Who gave a sign of having played a page, and which: ``Hall north (rtcp), gate (input)``."""
    missing: str = ""
    """Who should have given one, and did not: names, separated by commas."""
    partial: str = ""
    """Why the recording is not whole: ``2.0 s lost: the disk is too slow``, or what the system
    said; empty when nothing is missing."""


class StreamRecord(msgspec.Struct, kw_only=True, gc=False):
    """Last counters of one audio stream of a leg: what `gateway diag` judges later."""

    id: str
    """`LegRecord.id` and the stream's number."""
    leg: str
    """`LegRecord.leg`."""
    trace: str
    ended_at: float
    """The leg's end."""
    stats: str
    """A `gateway.media.streams.StreamStats` as JSON: it gets new fields, the table does not."""


class CallRecord(msgspec.Struct, kw_only=True, gc=False):
    """One demand and what became of it: the legs that belong together."""

    id: str
    """UUIDv7 of the envelope that began the first leg."""
    box: str
    call: str
    """The switchboard's id of the call; empty when it never made one (no route)."""
    trace: str
    kind: str
    """A `Kind`."""
    endpoint: str
    """Where the demand came from."""
    network: str
    """Network of that endpoint."""
    calling: str
    called: str
    route: str
    priority: int
    demanded_at: float
    answered_at: float | None
    """First human answer."""
    ended_at: float
    wait_s: float
    """Demand to first human answer, or to the end."""
    talk_s: float
    held_s: float
    """Time since the answer in which any leg was on hold."""
    outcome: str
    """An `Outcome`."""
    cause: str
    q850: int
    answered_by: str
    """Endpoint of the first human answer."""
    legs: int
    partial: str = ""
    """Why a recording of it is not whole; empty when nothing is missing."""


metadata = sa.MetaData()

_TYPES: Final[dict[object, sa.types.TypeEngine[Any]]] = {
    str: sa.Text(),
    int: sa.BigInteger(),
    float: sa.Double(),
    float | None: sa.Double(),
}


def _table(name: str, record: type[msgspec.Struct], *indexes: tuple[str, ...]) -> sa.Table:
    columns = [
        sa.Column(
            field.name,
            _TYPES[field.type],
            primary_key=field.name == "id",
            nullable=field.type == float | None,
            # What a migration adds to rows that are there.
            server_default=None if field.default is msgspec.NODEFAULT else str(field.default),
        )
        for field in msgspec.structs.fields(record)
    ]
    keys = [sa.Index(f"{name}_{'_'.join(index)}", *index) for index in indexes]
    return sa.Table(name, metadata, *columns, *keys)


legs = _table("legs", LegRecord, ("ended_at",), ("call",), ("trace",))
calls = _table("calls", CallRecord, ("demanded_at",), ("ended_at",), ("trace",))
streams = _table("streams", StreamRecord, ("ended_at",), ("trace",))

MIGRATIONS: Final[dict[int, tuple[str, ...]]] = {
    1: tuple(
        f"ALTER TABLE legs ADD COLUMN {name} TEXT NOT NULL DEFAULT ''"
        for name in ("played", "missing")
    ),
    2: tuple(
        f"ALTER TABLE {name} ADD COLUMN partial TEXT NOT NULL DEFAULT ''"
        for name in ("legs", "calls")
    ),
}
"""What makes the tables of a version those of the next."""

open_calls = sa.Table(
    "open_calls",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("box", sa.Text, nullable=False, index=True),
    sa.Column("run", sa.Text, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
)
"""State of calls that are not over, for the next start after a crash."""

boxes = sa.Table(
    "boxes",
    metadata,
    sa.Column("box", sa.Text, primary_key=True),
    sa.Column("run", sa.Text, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("mono", sa.Double, nullable=False),
)
"""When each box last said that it lives, by both clocks."""

schema_version = sa.Table(
    "schema_version",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True),
)
