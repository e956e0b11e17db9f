"""What may be asked: the query parameters of each GET. An unknown one is refused, not ignored."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from gateway.records.measures import Variant

_Text = Annotated[str, msgspec.Meta(max_length=256)]


class Nothing(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """No parameters."""


class EndpointsQuery(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which endpoints."""

    endpoint: _Text = ""
    """Shell pattern of ids: ``fxs/*``."""
    condition: Literal["", "up", "down", "unknown"] = ""


class CallsQuery(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which calls."""

    endpoint: _Text = ""
    """Shell pattern: calls with a leg of such an endpoint."""
    limit: Annotated[int, msgspec.Meta(ge=0)] = 0
    """At most so many, the oldest; 0: all."""
    audio: bool = True
    """With the counters of each leg's stream; without, the answer costs a quarter."""


class AlarmsQuery(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which alarms."""

    endpoint: _Text = ""
    state: Literal["", "active", "acknowledged", "cleared", "exhausted", "dropped"] = ""


class ChangesQuery(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Of which configuration."""

    number: Annotated[int, msgspec.Meta(ge=0)] = 0
    """As kept; 0: the one in use."""


class ExplainQuery(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which event: a call to `called`, or an alarm of kind `alarm`, or an input's value, or digits
    that are pressed during a call."""

    source: _Text
    called: _Text = ""
    calling: _Text = ""
    alarm: _Text = ""
    severity: _Text = "major"
    input: _Text = ""
    value: float = 1.0
    digits: Annotated[str, msgspec.Meta(pattern="^[0-9A-D*#!]{0,64}$")] = ""
    at: float | None = None
    """Wall clock, seconds since 1970; now if it is missing."""


class EventsQuery(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which events and actions; filters are joined by "and"."""

    type: _Text = ""
    """Shell patterns of type names, separated by commas: ``Leg*,AlarmRaised``."""
    endpoint: _Text = ""
    """Shell pattern: of such an endpoint or one of its legs."""
    call: _Text = ""
    """Whole id, or its last characters."""
    trace: _Text = ""
    leg: _Text = ""
    adapter: _Text = ""
    since: float | None = None
    """History from this wall clock on, out of the journal."""
    until: float | None = None
    last: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 0
    """At most so many of the history, the newest; 0: all since `since`."""
    follow: bool = True
    """Go on with what happens from now on."""


class TraceQuery(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which trace."""

    id: _Text
    """``last``, ``next`` (with `follow`), a trace's or call's id or the end of it, a leg, or an
    endpoint, of which the newest trace is meant."""
    follow: bool = False
    """Go on with what happens from now on."""
    at: float | None = None
    """Wall clock, seconds since 1970: the newest that there was then; now if it is missing."""


class DiagnosisQuery(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which call."""

    id: _Text = "last"
    """As of a trace, without ``next``."""
    at: float | None = None
    """As of a trace."""


class CaptureQuery(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which capture."""

    id: _Text = ""
    """As of a trace; empty with `last_s`."""
    follow: bool = False
    """Go on until all legs of the trace have ended."""
    last_s: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 0.0
    """Everything of the last so many seconds, of all calls."""
    media: bool = True
    """RTP and RTCP too."""
    decrypted: bool = False
    """SRTP as what it holds; only with `follow`."""


class RecordsQuery(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which records, newest first."""

    since: float | None = None
    until: float | None = None
    endpoint: _Text = ""
    call: _Text = ""
    """Legs of this call's record; only for legs."""
    trace: _Text = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 100


class StatsQuery(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which calls are measured, and how they are grouped."""

    since: float
    until: float
    by: _Text = ""
    """Any of ``network``, ``route``, ``endpoint``, ``box``, ``kind``, separated by commas."""
    interval: Literal["", "quarter", "hour", "day"] = ""
    service_level_s: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 20.0
    short_abandon_s: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 5.0
    variant: Variant = Variant.LESS_SHORT
    kinds: _Text = ""
    """Any of ``call``, ``alarm``, ``requested``, ``page``; empty: all but pages."""
