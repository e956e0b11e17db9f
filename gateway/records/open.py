"""State of legs and calls that are not over: what becomes a record at their end.

Plain data that is saved at checkpoints. All times are of the monotonic clock, except `at`.
"""

from __future__ import annotations

import math

import msgspec

from gateway.core.causes import Cause, to_q850
from gateway.media.streams import StreamStats
from gateway.records.tables import CallRecord, Kind, LegRecord, Outcome, StreamRecord


class Demand(msgspec.Struct, kw_only=True, gc=False):
    """What began a trace, and when."""

    kind: Kind
    endpoint: str
    mono: float
    calling: str = ""
    called: str = ""
    route: str = ""
    priority: int = 0


class OpenLeg(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """A leg that has begun."""

    id: str
    leg: str
    trace: str
    endpoint: str
    direction: str
    calling: str
    called: str
    priority: int
    demanded: float
    offered: float
    one_way: bool = False
    auto_answer: bool = False
    ringing: float | None = None
    answered: float | None = None
    ended: float = 0.0
    held_s: float = 0.0
    held_since: float | None = None
    held_by: list[bool] = []
    """Which sides hold: True is the far end."""
    hangup_cause: Cause | None = None
    """Set when the gateway ended the leg."""
    hangup_detail: str = ""
    cause: Cause = Cause.UNSPECIFIED
    detail: str = ""
    step: float = 0.0
    recording: str = ""
    partial: str = ""
    played: str = ""
    missing: str = ""
    streams: dict[int, StreamStats] = {}
    power: float = 0.0
    """Sum of the received levels' powers, in milliwatts at the zero level point."""
    n_levels: int = 0

    def hold(self, mono: float, *, far: bool) -> None:
        """One side put the leg on hold; again does nothing."""
        if far not in self.held_by:
            self.held_by = [*self.held_by, far]
        if self.held_since is None:
            self.held_since = mono

    def retrieve(self, mono: float, *, far: bool) -> bool:
        """One side took it off hold; True when the leg is free again."""
        self.held_by = [side for side in self.held_by if side is not far]
        if self.held_by or self.held_since is None:
            return False
        if self.answered is not None:
            self.held_s += max(0.0, mono - max(self.held_since, self.answered))
        self.held_since = None
        return True

    def end(self, mono: float, cause: Cause, detail: str, step: float) -> None:
        """The leg is over."""
        for far in list(self.held_by):
            self.retrieve(mono, far=far)
        self.ended = mono
        self.cause = cause
        if self.hangup_cause is not None and cause is Cause.NORMAL:
            # The network only says "cleared"; what decided it is ours to know.
            self.cause = self.hangup_cause
        self.detail = detail or self.hangup_detail
        self.step = step

    def take(self, stats: StreamStats, stream: int) -> None:
        """Take the counters of one of the leg's streams."""
        self.streams = {**self.streams, stream: msgspec.structs.replace(stats)}
        if stats.level_in_dbm0 > -99.0:
            self.power += 10.0 ** (min(stats.level_in_dbm0, 20.0) / 10.0)
            self.n_levels += 1

    def record(self, call: OpenCall) -> LegRecord:
        """The record of a leg that is over."""
        streams = list(self.streams.values())
        received = sum(stats.packets_received for stats in streams)
        lost = sum(stats.packets_lost for stats in streams)
        codecs = dict.fromkeys(stats.codec for stats in streams if stats.codec)
        until = self.ended if self.answered is None else self.answered
        talk = 0.0 if self.answered is None else self.ended - self.answered - self.held_s
        return LegRecord(
            id=self.id,
            box=call.box,
            leg=self.leg,
            call=call.id,
            trace=self.trace,
            endpoint=self.endpoint,
            network=self.endpoint.partition("/")[0],
            direction=self.direction,
            calling=self.calling,
            called=self.called,
            route=call.route,
            priority=self.priority,
            demanded_at=call.wall(self.demanded),
            offered_at=call.wall(self.offered),
            ringing_at=None if self.ringing is None else call.wall(self.ringing),
            answered_at=None if self.answered is None else call.wall(self.answered),
            ended_at=call.wall(self.ended),
            wait_s=until - self.demanded,
            talk_s=max(0.0, talk),
            held_s=self.held_s,
            cause=self.cause.value,
            q850=to_q850(self.cause),
            detail=self.detail,
            released="far" if self.hangup_cause is None else "gateway",
            codec=",".join(codecs),
            packets_sent=sum(stats.packets_sent for stats in streams),
            packets_received=received,
            packets_lost=lost,
            loss_percent=100.0 * lost / (received + lost) if received + lost else 0.0,
            jitter_ms=max((stats.jitter_ms for stats in streams), default=0.0),
            level_dbm0=10.0 * math.log10(self.power / self.n_levels) if self.n_levels else None,
            recording=self.recording,
            played=self.played,
            missing=self.missing,
            partial=self.partial,
            clock_step_s=round(self.step, 3) if abs(self.step) >= 0.1 else 0.0,
        )

    def stream_records(self, call: OpenCall) -> list[StreamRecord]:
        """The records of its streams, in the order they were opened."""
        return [
            StreamRecord(
                id=f"{self.id}/{number}",
                leg=self.leg,
                trace=self.trace,
                ended_at=call.wall(self.ended),
                stats=msgspec.json.encode(stats).decode(),
            )
            for number, stats in sorted(self.streams.items())
        ]


class OpenCall(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """A call that has at least one leg, or had one a short while ago."""

    id: str
    box: str
    run: str
    call: str
    trace: str
    kind: Kind
    endpoint: str
    calling: str
    called: str
    priority: int
    at: float
    mono: float
    """`at` and `mono` are the same moment: all wall times are counted from it."""
    demanded: float
    origin: str = ""
    """The leg of the one who wanted the call, if there is one."""
    route: str = ""
    legs: dict[str, OpenLeg] = {}
    n_legs: int = 0
    n_dialled: int = 0
    n_listening: int = 0
    """Of the dialled legs: those that nobody is expected to speak on."""
    n_attended: int = 0
    """Of the dialled legs: those that only a human answers."""
    human: float | None = None
    human_by: str = ""
    machine: float | None = None
    """First answer of a leg that answers by itself."""
    machine_by: str = ""
    own: float | None = None
    """When the gateway answered the caller."""
    held: list[str] = []
    held_since: float | None = None
    spans: list[tuple[float, float]] = []
    ended: float = 0.0
    abandoned: bool = False
    cause: Cause | None = None
    """Of the origin's leg."""
    partial: str = ""
    over: Cause | None = None
    """Why it ended; None: it has not."""
    last_id: str = ""
    """Envelope up to which this state is complete."""
    last_mono: float = 0.0
    saved: bool = False

    def wall(self, mono: float) -> float:
        """Wall clock of a moment, counted from the call's first event."""
        return self.at + (mono - self.mono)

    def dialled(self, leg: OpenLeg) -> None:
        """A leg was called; the calling side of a requested call does not count."""
        if leg.leg == self.origin:
            return
        self.n_dialled += 1
        self.n_listening += leg.one_way
        self.n_attended += not (leg.one_way or leg.auto_answer)

    def answer(self, leg: OpenLeg) -> None:
        """A leg was answered."""
        if leg.leg == self.origin or leg.direction == "in":
            if self.own is None:
                self.own = leg.answered
        elif leg.one_way or leg.auto_answer:
            if self.machine is None:
                self.machine, self.machine_by = leg.answered, leg.endpoint
        elif self.human is None:
            self.human, self.human_by = leg.answered, leg.endpoint

    def answered(self) -> tuple[float | None, str]:
        """When the demand was met, and by which endpoint.

        By a human where one was called; else by a device that answers by itself; else, when
        nobody was called (a conference room, an announcement), by the gateway.
        """
        if self.n_attended:
            return self.human, self.human_by
        if self.n_dialled:
            return self.machine, self.machine_by
        return self.own, self.endpoint if self.own is not None else ""

    def hold(self, leg: str, mono: float) -> None:
        """A leg of the call is on hold."""
        if not self.held:
            self.held_since = mono
        if leg not in self.held:
            self.held = [*self.held, leg]

    def retrieve(self, leg: str, mono: float) -> None:
        """A leg is off hold, or over."""
        if leg not in self.held:
            return
        self.held = [other for other in self.held if other != leg]
        if not self.held and self.held_since is not None:
            self.spans = [*self.spans, (self.held_since, mono)]
            self.held_since = None

    def ended_leg(self, leg: OpenLeg, mono: float) -> None:
        """A leg is over; its record is in it."""
        self.retrieve(leg.leg, mono)
        self.legs = {name: other for name, other in self.legs.items() if name != leg.leg}
        self.ended = mono
        if leg.leg == self.origin:
            self.cause = leg.cause
            gave_up = leg.cause is Cause.CANCELLED or (
                leg.cause is Cause.NORMAL and leg.hangup_cause is None
            )
            self.abandoned = gave_up and self.answered()[0] is None

    def record(self, cause: Cause) -> CallRecord:
        """The record of the call; `cause` is why its last leg ended."""
        answered, by = self.answered()
        held = 0.0
        if answered is not None:
            held = sum(max(0.0, stop - max(start, answered)) for start, stop in self.spans)
        if answered is not None:
            outcome = Outcome.ANSWERED
        else:
            outcome = Outcome.ABANDONED if self.abandoned else Outcome.FAILED
        cause = self.cause if self.cause is not None else cause
        kind = self.kind
        if kind is not Kind.TEST and self.n_dialled and self.n_listening == self.n_dialled:
            kind = Kind.PAGE
        return CallRecord(
            id=self.id,
            box=self.box,
            call=self.call,
            trace=self.trace,
            kind=kind.value,
            endpoint=self.endpoint,
            network=self.endpoint.partition("/")[0],
            calling=self.calling,
            called=self.called,
            route=self.route,
            priority=self.priority,
            demanded_at=self.wall(self.demanded),
            answered_at=None if answered is None else self.wall(answered),
            ended_at=self.wall(self.ended),
            wait_s=(self.ended if answered is None else answered) - self.demanded,
            talk_s=0.0 if answered is None else max(0.0, self.ended - answered - held),
            held_s=held,
            outcome=outcome.value,
            cause=cause.value,
            q850=to_q850(cause),
            answered_by=by,
            legs=self.n_legs,
            partial=self.partial,
        )
