"""Shapes of what the control interface answers and takes: the stable, documented JSON.

Fields may be added within `/v1`; none is removed or given another meaning. Times called `at` or
ending in `_at` are wall clock, seconds since 1970 (UTC); durations end in `_s` and are seconds.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import msgspec

from gateway.core.calls import LegState
from gateway.core.endpoints import Condition, Duplex
from gateway.core.events import InputChanged, PageMember, PathTestKind
from gateway.journal import StorageState
from gateway.media.streams import StreamStats
from gateway.pathtests import Limits
from gateway.reload import Outcome


class ProblemDetails(msgspec.Struct, kw_only=True):
    """Why a request was not carried out (RFC 9457)."""

    title: str
    status: int
    detail: str
    remedy: str = ""
    """What the person can do about it."""


class AdapterState(StrEnum):
    """Whether an adapter serves."""

    UP = "up"
    DOWN = "down"
    """Lost, or not ready yet; it is started again, later each time."""


class AdapterView(msgspec.Struct, kw_only=True):
    """One adapter."""

    name: str
    """Section of the configuration: ``[adapters.<name>]``."""
    kind: str
    state: AdapterState
    up_s: float | None
    """How long it has been up; null while it is down."""
    reason: str
    """Why it is down, or was down last."""
    restarts: int
    endpoints: int
    legs: int
    counters: dict[str, int]


class LegAt(msgspec.Struct, kw_only=True):
    """A leg that holds an endpoint."""

    leg: str
    call: str
    state: LegState


class PathTestView(msgspec.Struct, kw_only=True):
    """The last test of a path."""

    endpoint: str
    kind: PathTestKind
    listen: str
    """Who listened, when it was not the endpoint itself."""
    ok: bool
    verdict: str
    detail: str
    figures: dict[str, float]
    """What was measured; each name ends in its unit."""
    at: float
    age_s: float
    scheduled: bool
    """The timetable asked for it: a failure is something that is wrong."""
    waiting: str
    """Why it could not be carried out when it was due since; empty: it could."""
    baseline: dict[str, float] | None
    """What was measured when the path was declared to be good."""


class EndpointView(msgspec.Struct, kw_only=True):
    """One endpoint."""

    id: str
    label: str
    location: str
    number: str
    adapter: str
    """Empty: a place of the gateway itself, whose alarms are about journal and records."""
    condition: Condition
    reason: str
    """Why it is down; of one that is up: what is doubtful about it."""
    absent: bool
    """It is down because whoever it belongs to is not there: no fault."""
    duplex: Duplex
    can_ring: bool
    takes_number: bool
    capacity: int | None
    """Legs at a time; null is unlimited."""
    legs: list[LegAt]
    inputs: list[InputChanged]
    """Inputs that were heard of, with their last value."""
    outputs: list[str]
    alarm: bool
    """Raises alarms."""
    panel: str
    """State of the alarm panel, when it is one."""
    detail: dict[str, str]
    tests: list[PathTestView]
    """The last test of each kind."""
    counters: dict[str, int]
    """Counters of the adapter it belongs to, which counts for all its endpoints."""


class LegView(msgspec.Struct, kw_only=True):
    """One endpoint's half of a call."""

    id: str
    endpoint: str
    direction: str
    """``in``: it called us; ``out``: we called it."""
    state: LegState
    number: str
    """What was dialled: by us on an ``out`` leg, by the caller on an ``in`` leg."""
    calling: str
    display: str
    age_s: float
    answered_s: float | None
    """How long ago it was answered; null when it was not."""
    early: bool
    """Audio flows before the answer."""
    bridge: str
    floor: bool
    """It holds the floor of a half-duplex bridge: it is heard by all others."""
    keyed: bool
    """Its transmitter is keyed on behalf of the floor's holder."""
    impaired: list[str] = []
    """What is wrong now with what it sends: ``silence``, ``clipping``, ``one-way``."""
    cause: str
    detail: str
    played: list[PageMember] = []
    """Of a page that is over: who gave a sign of having played it."""
    missing: list[str] = []
    """Who should have, and did not."""
    audio: StreamStats | None
    """Counters of its stream; null when it has none."""


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why a route did not take an event."""

    route: str
    reason: str


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that explains missing or bad audio."""

    leg: str
    what: str
    remedy: str


class CallView(msgspec.Struct, kw_only=True):
    """One call with its legs."""

    id: str
    trace: str
    state: str
    """The furthest state of its legs: ``connected``, ``held``, ``alerting``, ``offered``,
    ``initiated``, ``closing``; while one side waits for another, how far that one is."""
    route: str
    why: str
    """Why this route, in words."""
    priority: str
    """``routine``, ``priority``, ``urgent`` or ``emergency``."""
    age_s: float
    """Since the first human or physical demand."""
    answered_s: float | None
    """How long ago the called side answered; null when it did not."""
    bridge: str
    """``pair``, ``conference``, ``page``, ``floor``; empty: the legs are not joined."""
    room: str
    """Name of the conference."""
    legs: list[LegView]


class CallDetail(CallView, kw_only=True):
    """One call with everything that is known about it now."""

    refusals: list[Refusal]
    """Routes that were tried before the one that matched, and why each did not take the call."""
    findings: list[Finding]
    """What explains missing or bad audio; empty when nothing is suspicious."""


class AlarmView(msgspec.Struct, kw_only=True):
    """One alarm."""

    endpoint: str
    alarm: str
    kind: str
    severity: str
    """``indeterminate``, ``warning``, ``minor``, ``major``, ``critical``."""
    text: str
    trace: str
    state: str
    """``active``, ``acknowledged``, ``cleared`` or ``exhausted`` (nobody was left to tell)."""
    by: str
    """Who acknowledged it."""
    route: str
    """The route that took it; empty: no route did, nobody is told."""
    age_s: float
    being_told: bool
    """Its route still runs: people are being called, zones paged."""


class Status(msgspec.Struct, kw_only=True):
    """The gateway in one answer."""

    box: str
    version: str
    state: str
    """``running`` or ``stopping``."""
    pid: int
    up_s: float
    config: str
    """File that the configuration was read from."""
    generation: int
    """Counts the configurations that were applied since the start."""
    adapters_up: int
    adapters_down: list[str]
    endpoints_up: int
    endpoints_unknown: int
    endpoints_down: list[str]
    realtime_wanted: bool
    """The configuration asks for real-time scheduling of the audio thread."""
    calls: int
    legs: int
    alarms_active: int
    stores: list[StorageState]
    """Journal and records: whether they reach the disk."""
    tests_failed: list[PathTestView]
    """Scheduled tests that failed when they were carried out last."""
    ignored: dict[str, int]
    """Events that meant nothing in the state they met, by type."""
    counters: dict[str, int]
    """What the gateway itself counted: dropped or failed."""


class TargetView(msgspec.Struct, kw_only=True):
    """A target of a route, as it would be called now."""

    target: str
    usable: bool
    reason: str
    """Why it cannot be called now, or what has to happen first."""


class Explanation(msgspec.Struct, kw_only=True):
    """What would happen to an event, without making it happen."""

    event: str
    """The event in words."""
    by: str
    """``route``, ``directory`` (extensions reach each other by number) or ``nothing``."""
    route: str
    why: str
    does: list[str]
    """What the route does, in words, in order."""
    targets: list[TargetView]
    refusals: list[Refusal]
    at: float
    live: bool
    """False: answered from the configuration file, without the state of any endpoint."""


class DialRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Call `origin`; when it answers, call `target` and connect both."""

    origin: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    target: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    """``network/local`` or ``network/local:number``."""
    priority: str = "routine"
    """``routine``, ``priority``, ``urgent`` or ``emergency``."""


class DialAnswer(msgspec.Struct, kw_only=True):
    """The call that was begun."""

    call: str
    trace: str


class PathTestRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Test the path to an endpoint; answered when the test is over."""

    endpoint: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    """``network/local`` or ``network/local:number``."""
    kind: PathTestKind
    seconds: Annotated[float, msgspec.Meta(ge=0.5, le=30)] | None = None
    tone_hz: Annotated[float, msgspec.Meta(ge=100, le=3800)] = 1004.0
    level_dbm0: Annotated[float, msgspec.Meta(ge=-60, le=0)] = -10.0
    listen: Annotated[str, msgspec.Meta(max_length=256)] = ""
    transmit: bool = False
    """A transmitter may be keyed for it."""
    ring_s: Annotated[float, msgspec.Meta(ge=1, le=300)] = 30.0
    expect: Literal["", "closed", "open", "hybrid"] = ""
    baseline: bool = False
    """What is found is good; later tests are held to it."""
    limits: Limits | None = None
    """What is still good; null: as configured for this path, or as usual."""


class PathTestAnswer(msgspec.Struct, kw_only=True):
    """What was found."""

    test: str
    trace: str
    endpoint: str
    kind: PathTestKind
    ok: bool
    judged: bool
    """False: it could not be carried out now; nothing is known of the path."""
    verdict: str
    detail: str
    figures: dict[str, float]
    baseline: bool
    """It was kept as what is good."""


class HangupRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """End a call, or one leg of it: exactly one of the two."""

    call: str = ""
    leg: str = ""


class HangupAnswer(msgspec.Struct, kw_only=True):
    """The legs that were told to end."""

    legs: list[str]


class AcknowledgeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Acknowledge one alarm, or every active alarm of the endpoint."""

    endpoint: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    alarm: str = ""


class AcknowledgeAnswer(msgspec.Struct, kw_only=True):
    """The alarms that were acknowledged."""

    alarms: list[str]


class SafeStateRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Put outputs to rest: transmitters released, relays at rest, lines on hook."""

    adapter: str = ""
    """Empty: all adapters."""


class SafeStateAnswer(msgspec.Struct, kw_only=True):
    """What became of it, adapter by adapter."""

    safe: list[str]
    failed: dict[str, str]
    """Adapter and what it said; its outputs must be looked at by a person."""


class StopRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Take no new calls and stop when the present ones are over, or the drain limit is."""

    now: bool = False
    """Do not wait for the present calls."""


class StopAnswer(msgspec.Struct, kw_only=True):
    """The gateway stops."""

    calls: int
    """Calls that are still up."""
    within_s: float
    """When it will have stopped at the latest."""


class TraceHead(msgspec.Struct, kw_only=True, tag_field="line", tag="head"):
    """What stands before the items of a trace."""

    trace: str
    box: str
    labels: dict[str, str]
    """What people call its endpoints."""
    cut: bool = False
    """There is more than is given here."""
    wire_s: float = 0.0
    """For how long the gateway remembers what went over the wires; 0: not answered by a running
    gateway, so that it is not known."""


class ReloadRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Read the configuration file again and use it."""

    dry_run: bool = False
    """Only say what would change."""
    now: bool = False
    """Also when it ends calls."""


class ReloadAnswer(Outcome, kw_only=True):
    """What changed, or would change, and what became of it."""

    generation: int
    """Counts the configurations that were applied since the start."""
    routes: int
    warnings: list[str]
