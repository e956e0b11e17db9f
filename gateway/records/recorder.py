"""Recorder: follows the bus and says what to store. No I/O, no clock.

Driven by `receive`, `media` and `tick`. What it finds goes to a sink, normally `Store.put`; what
is given to one call of the sink belongs into one transaction.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import msgspec

from gateway.core.actions import Action, Dial, Hangup, Hold, Note, OpenAlarm, Record, Retrieve
from gateway.core.causes import Cause
from gateway.core.envelope import Envelope
from gateway.core.events import (
    AlarmRaised,
    CallRequested,
    Event,
    InputChanged,
    LegAnswered,
    LegEnded,
    LegHeld,
    LegOffered,
    LegRetrieved,
    LegRinging,
    PageDelivered,
    PathTestRequested,
)
from gateway.media.streams import StreamStats
from gateway.records.open import Demand, OpenCall, OpenLeg
from gateway.records.ops import Beat, Forget, PutCall, PutLeg, PutOpen, PutStream, StoreOp
from gateway.records.tables import Kind

_MEMBERS: Final = 4096
"""Characters of the list of a page's members."""
_REMEMBERED: Final = 10_000
"""Demands, and ended legs and calls, that are kept for what may still come."""
_LINGER_S: Final = 600.0
"""An escalation may dial the next person this long after the call's last leg ended."""
_LATE_S: Final = 30.0
"""Counters of an ended leg's stream, and more legs of a call that a person began, come until then:
a busy trunk would have thousands in memory otherwise."""


class RecorderCounters(msgspec.Struct, kw_only=True):
    """What a recorder saw that does not fit."""

    legs: int = 0
    """Leg records finished."""
    calls: int = 0
    unknown: int = 0
    """Events of legs that never began or had ended."""
    repeated: int = 0
    """Legs that began again before they ended; the earlier one was closed."""


class Recorder:
    """Builds one record for each leg and each call from the envelopes of the bus."""

    _replaying = False
    """Whether what is followed is an earlier run's journal: rows that exist are left alone."""

    def __init__(
        self,
        box: str,
        sink: Callable[[tuple[StoreOp, ...]], None],
        *,
        run: str = "",
        checkpoint_s: float = 4.0,
    ) -> None:
        """sink: takes what belongs into one transaction, returns at once.

        run: names this run of the gateway, `Store.run`.
        checkpoint_s: how often `tick` saves changes of open calls and that the box lives. After
        a crash a call's end is known this exactly, or better from the journal.
        """
        self.box = box
        self.run = run
        self.counters = RecorderCounters()
        self._sink = sink
        self._checkpoint_s = checkpoint_s
        self._legs: dict[str, tuple[OpenCall, OpenLeg]] = {}
        self._calls: dict[str, OpenCall] = {}
        self._by_call: dict[str, OpenCall] = {}
        self._by_trace: dict[str, OpenCall] = {}
        """Calls that have no id of the switchboard's yet."""
        self._demands: OrderedDict[str, Demand] = OrderedDict()
        self._ended: OrderedDict[str, tuple[OpenCall, OpenLeg]] = OrderedDict()
        self._recordings: OrderedDict[str, tuple[OpenCall, OpenLeg]] = OrderedDict()
        """Whose recordings were begun, by file: whether one is whole may be told late."""
        self._lately: OrderedDict[str, OpenCall] = OrderedDict()
        self._lingering: OrderedDict[str, OpenCall] = OrderedDict()
        """The same for calls that something else than an offered leg has begun."""
        self._dirty: set[str] = set()
        self._soon: dict[str, None] = {}
        """Calls that began, were answered or lost a leg since the last `tick`, which saves them. A
        crash before that finds them in the journal; most calls of a busy trunk are never saved."""
        self._beat_due = -math.inf
        self._out: list[StoreOp] = []

    def receive(self, envelope: Envelope) -> None:
        """Follow one envelope. Never raises for what an event says."""
        body = envelope.action if envelope.event is None else envelope.event
        if type(body) in _FOLLOWED:
            self._follow(envelope, body)
        if self._out:
            self._flush()

    def media(self, leg: str, stats: StreamStats, *, stream: int = 0) -> None:
        """Take the counters of a leg's stream, at its close or at any time before.

        Counters are totals of the stream since it was opened; those of several streams of a leg
        are added up. May come shortly after the leg's end: its record is then written again.
        """
        known = self._legs.get(leg)
        if known is not None:
            call, record = known
            record.take(stats, stream)
            self._dirty.add(call.id)
            return
        ended = self._ended.get(leg)
        if ended is None:
            self.counters.unknown += 1
            return
        call, record = ended
        record.take(stats, stream)
        self._sink((PutLeg(record=record.record(call)), *_streams(call, record)))

    def incomplete(self, file: str, why: str) -> None:
        """A recording has ended, or could not begin, and is not whole. It may be told long after
        the leg's end, by a disk that hangs: the record is then written again.

        file: its path in the folder of recordings, as written or as asked for.
        """
        # A file that was there already is left alone: -2 and so on is appended.
        stem, dot, suffix = _text(file).rpartition(".")
        for name in (f"{stem}{dot}{suffix}", f"{stem.rpartition('-')[0]}{dot}{suffix}"):
            if name in self._recordings:
                call, record = self._recordings[name]
                break
        else:
            self.counters.unknown += 1
            return
        record.partial = call.partial = _text("; ".join(filter(None, (record.partial, why))))
        if record.leg in self._legs:
            self._dirty.add(call.id)
            return
        self._out.append(PutLeg(record=record.record(call)))
        if call.over is None:
            self._dirty.add(call.id)
        else:
            self._out.append(PutCall(record=call.record(call.over)))
        self._flush()

    def tick(self, now: float, at: float) -> None:
        """Checkpoint when due; call about once a second. now: monotonic, at: wall clock."""
        for which, keep_s in ((self._lately, _LATE_S), (self._lingering, _LINGER_S)):
            while which:
                call = next(iter(which.values()))
                if now - call.ended < keep_s:
                    break
                self._forget(call)
        while self._ended:
            leg, (_, record) = next(iter(self._ended.items()))
            if now - record.ended < _LATE_S:
                break
            del self._ended[leg]
        for key in self._soon:
            self._save(self._calls[key])
        self._soon.clear()
        if now >= self._beat_due and self._calls:
            self._beat_due = now + self._checkpoint_s
            for key in list(self._dirty):
                self._save(self._calls[key])
            self._out.append(Beat(box=self.box, run=self.run, at=at, mono=now))
        self._flush()

    @property
    def open_legs(self) -> int:
        """Legs that have begun and not ended."""
        return len(self._legs)

    # What an envelope means

    def _follow(self, envelope: Envelope, body: Event | Action | None) -> None:
        of_leg = _OF_LEG.get(type(body))
        if of_leg is not None:
            known = self._legs.get(getattr(body, "leg", ""))
            if known is None:
                if isinstance(body, (LegRinging, LegAnswered, LegEnded)):
                    self.counters.unknown += 1
                return
            call, record = known
            if envelope.call and not call.call:
                self._name(call, envelope.call)
            self._touch(call, envelope)
            of_leg(self, call, record, envelope, body)
            return
        handler = _OTHERS.get(type(body))
        if handler is not None:
            handler(self, envelope, body)

    def _ringing(
        self, call: OpenCall, record: OpenLeg, envelope: Envelope, body: LegRinging
    ) -> None:
        if record.ringing is None:
            record.ringing = call.last_mono

    def _answered(
        self, call: OpenCall, record: OpenLeg, envelope: Envelope, body: LegAnswered
    ) -> None:
        if record.answered is None:
            record.answered = call.last_mono
            call.answer(record)
            self._soon[call.id] = None

    def _held(
        self, call: OpenCall, record: OpenLeg, envelope: Envelope, body: LegHeld | Hold
    ) -> None:
        record.hold(call.last_mono, far=isinstance(body, LegHeld))
        call.hold(record.leg, call.last_mono)

    def _retrieved(
        self, call: OpenCall, record: OpenLeg, envelope: Envelope, body: LegRetrieved | Retrieve
    ) -> None:
        if record.retrieve(call.last_mono, far=isinstance(body, LegRetrieved)):
            call.retrieve(record.leg, call.last_mono)

    def _hung_up(self, call: OpenCall, record: OpenLeg, envelope: Envelope, body: Hangup) -> None:
        if record.hangup_cause is None:
            record.hangup_cause, record.hangup_detail = body.cause, _text(body.detail)

    def _recorded(self, call: OpenCall, record: OpenLeg, envelope: Envelope, body: Record) -> None:
        record.recording = _text(body.file)
        self._recordings[record.recording] = (call, record)
        if len(self._recordings) > _REMEMBERED:
            self._recordings.popitem(last=False)

    def _delivered(
        self, call: OpenCall, record: OpenLeg, envelope: Envelope, body: PageDelivered
    ) -> None:
        played = ", ".join(f"{each.name} ({each.by})" for each in body.members)
        record.played = _text(played, _MEMBERS)
        record.missing = _text(", ".join(body.missing), _MEMBERS)

    def _leg_ended(
        self, call: OpenCall, record: OpenLeg, envelope: Envelope, body: LegEnded
    ) -> None:
        step = (envelope.at - call.at) - (envelope.mono - call.mono)
        self._end(call, record, call.last_mono, body.cause, _text(body.detail), step=step)

    def _alarm_raised(self, envelope: Envelope, body: AlarmRaised) -> None:
        raised = body.raised_at if math.isfinite(body.raised_at) else envelope.mono
        demand = Demand(
            kind=Kind.ALARM, endpoint=_text(body.endpoint), mono=min(raised, envelope.mono)
        )
        self._demand(body.trace, demand)

    def _requested(self, envelope: Envelope, body: CallRequested) -> None:
        demand = Demand(
            kind=Kind.REQUESTED,
            endpoint=_text(body.origin),
            called=_text(body.target),
            mono=envelope.mono,
            priority=int(body.priority),
        )
        self._demand(body.trace, demand)

    def _tested(self, envelope: Envelope, body: PathTestRequested) -> None:
        demand = Demand(kind=Kind.TEST, endpoint=_text(body.endpoint), mono=envelope.mono)
        self._demand(body.trace, demand)

    def _input_changed(self, envelope: Envelope, body: InputChanged) -> None:
        endpoint = _text(body.endpoint)
        self._demand(body.trace, Demand(kind=Kind.CALL, endpoint=endpoint, mono=envelope.mono))

    def _alarm_opened(self, envelope: Envelope, body: OpenAlarm) -> None:
        demand = self._demands.get(body.trace)
        if demand is not None:
            demand.route = _text(body.route)

    def _offered(self, envelope: Envelope, body: LegOffered) -> None:
        if not self._is_new(body.leg, envelope):
            return
        demanded = body.demanded_at if math.isfinite(body.demanded_at) else envelope.mono
        demanded = min(demanded, envelope.mono)
        trace = _text(body.trace)
        # Each offered leg is somebody's demand, also where the switchboard puts it into a call
        # that exists (a conference): it gets a call record of its own.
        call = OpenCall(
            id=envelope.id,
            box=self.box,
            run=self.run,
            call=_text(envelope.call),
            trace=trace,
            kind=Kind.CALL,
            endpoint=_text(body.endpoint),
            calling=_text(body.calling),
            called=_text(body.called),
            priority=int(body.priority),
            at=envelope.at,
            mono=envelope.mono,
            demanded=demanded,
            origin=_text(body.leg),
        )
        self._keep(call)
        self._demand(
            trace,
            Demand(
                kind=Kind.CALL,
                endpoint=call.endpoint,
                calling=call.calling,
                called=call.called,
                mono=demanded,
                priority=call.priority,
            ),
        )
        record = OpenLeg(
            id=envelope.id,
            leg=_text(body.leg),
            trace=trace,
            endpoint=_text(body.endpoint),
            direction="in",
            calling=_text(body.calling),
            called=_text(body.called),
            priority=int(body.priority),
            demanded=demanded,
            offered=envelope.mono,
        )
        self._begin(call, record, envelope)

    def _dialled(self, envelope: Envelope, body: Dial) -> None:
        if not self._is_new(body.leg, envelope):
            return
        trace = _text(body.trace)
        call = self._by_call.get(body.call)
        if call is None:
            call = self._by_trace.get(trace)
            if call is not None:
                self._name(call, body.call)
        if call is None:
            demand = self._demands.get(trace) or Demand(
                kind=Kind.CALL,
                endpoint=_text(body.endpoint),
                calling=_text(body.calling),
                mono=envelope.mono,
            )
            call = OpenCall(
                id=envelope.id,
                box=self.box,
                run=self.run,
                call=_text(body.call),
                trace=trace,
                kind=demand.kind,
                endpoint=demand.endpoint,
                calling=demand.calling or _text(body.calling),
                called=demand.called or _text(body.number),
                priority=max(int(body.priority), demand.priority),
                route=demand.route,
                at=envelope.at,
                mono=envelope.mono,
                demanded=min(demand.mono, envelope.mono),
                # An operator's own telephone is called first and is the calling side.
                origin=body.leg
                if demand.kind is Kind.REQUESTED and demand.endpoint == body.endpoint
                else "",
            )
            self._keep(call)
        call.priority = max(call.priority, int(body.priority))
        record = OpenLeg(
            id=envelope.id,
            leg=_text(body.leg),
            trace=trace,
            endpoint=_text(body.endpoint),
            direction="out",
            calling=_text(body.calling),
            called=_text(body.number),
            priority=int(body.priority),
            demanded=call.demanded,
            offered=envelope.mono,
            one_way=body.one_way,
            auto_answer=body.auto_answer,
        )
        call.dialled(record)
        self._begin(call, record, envelope)

    def _noted(self, envelope: Envelope, body: Note) -> None:
        route = _text(body.route)
        known = self._legs.get(body.leg)
        call = known[0] if known else self._by_call.get(body.call or envelope.call)
        if call is None:
            call = self._by_trace.get(body.trace or envelope.trace)
        if call is None:
            demand = self._demands.get(body.trace or envelope.trace)
            if demand is not None and route:
                demand.route = route
            return
        name = body.call or envelope.call
        if name and not call.call:
            self._name(call, name)
        if route and call.route != route:
            call.route = route
            self._touch(call, envelope)

    # Keeping and finishing

    def _flush(self) -> None:
        if self._out:
            out, self._out = tuple(self._out), []
            self._sink(out)

    def _is_new(self, leg: str, envelope: Envelope) -> bool:
        known = self._legs.get(leg)
        if known is None:
            return True
        call, record = known
        if record.id == envelope.id:
            return False
        self.counters.repeated += 1
        cause = Cause.CRASHED if self._replaying else Cause.UNSPECIFIED
        mono = call.last_mono if self._replaying else max(envelope.mono, call.last_mono)
        self._end(call, record, mono, cause, "leg began again", step=0.0)
        return True

    def _begin(self, call: OpenCall, record: OpenLeg, envelope: Envelope) -> None:
        if self._lately.pop(call.id, None) or self._lingering.pop(call.id, None):
            self._calls[call.id] = call
            call.over = None
        call.legs[record.leg] = record
        call.n_legs += 1
        self._legs[record.leg] = (call, record)
        self._ended.pop(record.leg, None)
        if envelope.call and not call.call:
            self._name(call, envelope.call)
        self._touch(call, envelope)
        self._soon[call.id] = None

    def _end(
        self,
        call: OpenCall,
        record: OpenLeg,
        mono: float,
        cause: Cause,
        detail: str,
        *,
        step: float,
    ) -> None:
        record.end(mono, cause, detail, step)
        call.ended_leg(record, mono)
        del self._legs[record.leg]
        self._ended[record.leg] = (call, record)
        if len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)
        self.counters.legs += 1
        self._out.append(PutLeg(record=record.record(call), replace=not self._replaying))
        self._out += _streams(call, record)
        if call.legs:
            self._soon[call.id] = None
        else:
            self._finish(call, record.cause)

    def _finish(self, call: OpenCall, cause: Cause) -> None:
        del self._calls[call.id]
        self._dirty.discard(call.id)
        self._soon.pop(call.id, None)
        demand = self._demands.get(call.trace)
        # An offered leg is a demand, too, but nobody escalates it.
        person = demand is None or (demand.kind is Kind.CALL and call.origin)
        which = self._lately if person else self._lingering
        which[call.id] = call
        if len(which) > _REMEMBERED:
            self._forget(next(iter(which.values())))
        self.counters.calls += 1
        call.over = cause
        replace = call.saved or not self._replaying
        self._out.append(PutCall(record=call.record(cause), replace=replace))
        if call.saved or self._replaying:
            self._out.append(Forget(id=call.id))

    def _save(self, call: OpenCall) -> None:
        self._dirty.discard(call.id)
        if self._replaying:
            return
        call.saved = True
        data = msgspec.json.encode(call).decode()
        self._out.append(PutOpen(id=call.id, box=self.box, run=self.run, data=data))

    def _touch(self, call: OpenCall, envelope: Envelope) -> None:
        call.last_id = envelope.id
        call.last_mono = max(call.last_mono, envelope.mono)
        self._dirty.add(call.id)

    def _keep(self, call: OpenCall) -> None:
        self._calls[call.id] = call
        for leg, record in call.legs.items():
            self._legs[leg] = (call, record)
        if call.call:
            self._by_call.setdefault(call.call, call)
        elif call.trace:
            self._by_trace[call.trace] = call

    def _forget(self, call: OpenCall) -> None:
        self._lately.pop(call.id, None)
        self._lingering.pop(call.id, None)
        if self._by_call.get(call.call) is call:
            del self._by_call[call.call]
        if self._by_trace.get(call.trace) is call:
            del self._by_trace[call.trace]

    def _name(self, call: OpenCall, name: str) -> None:
        call.call = _text(name)
        self._by_call.setdefault(call.call, call)
        if self._by_trace.get(call.trace) is call:
            del self._by_trace[call.trace]

    def _demand(self, trace: str, demand: Demand) -> None:
        trace = _text(trace)
        if not trace or trace in self._demands:
            return
        self._demands[trace] = demand
        if len(self._demands) > _REMEMBERED:
            self._demands.popitem(last=False)


_OF_LEG: Final[dict[type, Callable[..., None]]] = {
    LegRinging: Recorder._ringing,
    LegAnswered: Recorder._answered,
    LegHeld: Recorder._held,
    Hold: Recorder._held,
    LegRetrieved: Recorder._retrieved,
    Retrieve: Recorder._retrieved,
    Hangup: Recorder._hung_up,
    Record: Recorder._recorded,
    PageDelivered: Recorder._delivered,
    LegEnded: Recorder._leg_ended,
}
_OTHERS: Final[dict[type, Callable[..., None]]] = {
    LegOffered: Recorder._offered,
    Dial: Recorder._dialled,
    Note: Recorder._noted,
    AlarmRaised: Recorder._alarm_raised,
    CallRequested: Recorder._requested,
    PathTestRequested: Recorder._tested,
    InputChanged: Recorder._input_changed,
    OpenAlarm: Recorder._alarm_opened,
}

_FOLLOWED: Final = frozenset(_OF_LEG) | frozenset(_OTHERS)
"""Most of what is on the bus is not for the record: one look-up tells."""


def _streams(call: OpenCall, record: OpenLeg) -> tuple[StoreOp, ...]:
    return tuple(PutStream(record=each) for each in record.stream_records(call))


def _text(value: str, limit: int = 256) -> str:
    """What every database takes: bounded, no NUL (PostgreSQL), no lone surrogates (UTF-8)."""
    if value.isascii() and len(value) <= limit and "\0" not in value:
        return value
    return (
        value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()[:limit]
    )
