"""Switchboard: events in, actions out. It knows no sockets and no clock.

Driven by `receive` (something happened) and `tick` (time passed); both return the actions to carry
out, in order. `next_timeout` says when `tick` is due. A timer that is due fires at its own time
before a later event is looked at, so that the same events at the same times always give the same
actions: a journal can be replayed.

The switchboard owns endpoints, legs, calls, bridges and alarms. What a route started lives on as a
plan (`hunting`, `alerting`, `service`); a leg's events go to its plan while it has one, and a call
whose legs have none is simply two or more people talking.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from gateway.core.actions import (
    Action,
    Answer,
    BridgeKind,
    CloseBridge,
    Command,
    Dial,
    GiveFloor,
    Hangup,
    Join,
    Key,
    Leave,
    Note,
    OpenBridge,
    Play,
    Progress,
    Record,
    Ring,
    SetOutput,
    Unkey,
)
from gateway.core.alerting import CONFIRM_S, Alarm, Alert
from gateway.core.bridges import Bridge
from gateway.core.calls import TRANSITIONS, Call, Leg, LegState
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition, Duplex, Endpoint, Target
from gateway.core.events import (
    AcknowledgeRequested,
    AdapterLost,
    AdapterReady,
    AlarmAcknowledged,
    AlarmCleared,
    AlarmRaised,
    AnnouncementEnded,
    CallRequested,
    CommandFinished,
    DigitPressed,
    EndpointChanged,
    EndpointRemoved,
    Event,
    FloorReleased,
    FloorRequested,
    HangupRequested,
    InputChanged,
    LegAnswered,
    LegEnded,
    LegFlashed,
    LegHeld,
    LegOffered,
    LegProgressed,
    LegRetrieved,
    LegRinging,
    MediaFlowing,
    MediaLost,
    MessageReceived,
    PanelChanged,
    Priority,
    Quality,
    Severity,
    StopRequested,
    ToneHeard,
    TransferRequested,
)
from gateway.core.hunting import Callback, Hunt
from gateway.core.plans import Plan
from gateway.core.routes import Match, RouteTable, Strategy, Trigger
from gateway.core.service import Service, person
from gateway.core.timers import Timer, Timers
from gateway.errors import UsageError

# A leg that was told to hang up and never ends would hold its endpoint for ever. SIP gives a BYE
# 32 s (RFC 3261 timer F); nobody needs longer.
_CLOSING_S: Final = 40.0
_PREEMPT_S: Final = 5.0
_DIGITS_IDLE_S: Final = 4.0
_DIGITS_KEPT: Final = 32
_ALARMS_KEPT: Final = 1000


class Switchboard:
    """All calls and alarms of one box."""

    def __init__(
        self,
        table: RouteTable,
        *,
        new_leg: Callable[[str], str],
        new_id: Callable[[], str],
    ) -> None:
        self.table = table
        self.new_id = new_id
        self._new_leg = new_leg
        self.endpoints: dict[str, Endpoint] = {}
        self.legs: dict[str, Leg] = {}
        self.calls: dict[str, Call] = {}
        self.bridges: dict[str, Bridge] = {}
        self.alarms: dict[tuple[str, str], Alarm] = {}
        self.panels: dict[str, str] = {}
        self.inputs: dict[tuple[str, str], InputChanged] = {}
        self.ignored: dict[str, int] = {}
        """Events that meant nothing in the state they met, by name: counted, never a crash."""
        self.stopping = False
        self.now = 0.0
        self.wall = 0.0
        self._timers = Timers()
        self._out: list[Action] = []
        self._in_use: dict[str, set[Leg]] = {}
        self._freed: dict[str, list[Callable[[], None]]] = {}
        self._rooms: dict[str, str] = {}
        self._expected: dict[str, Service] = {}
        self._digits: dict[str, tuple[str, float]] = {}
        self._matched_inputs: dict[tuple[str, str], Alarm] = {}
        self._handlers: dict[type, Callable[[Any], None]] = {
            LegOffered: self._leg_offered,
            LegRinging: self._leg_moved,
            LegProgressed: self._leg_moved,
            LegAnswered: self._leg_moved,
            LegHeld: self._leg_moved,
            LegRetrieved: self._leg_moved,
            LegEnded: self._leg_moved,
            LegFlashed: lambda event: self._digit(event.leg, "!"),
            TransferRequested: self._transfer_requested,
            DigitPressed: lambda event: self._digit(event.leg, event.digit),
            FloorRequested: self._floor_requested,
            FloorReleased: self._floor_released,
            MediaFlowing: lambda event: None,
            MediaLost: self._media_lost,
            ToneHeard: lambda event: None,
            AnnouncementEnded: self._announcement_ended,
            EndpointChanged: self._endpoint_changed,
            EndpointRemoved: self._endpoint_removed,
            InputChanged: self._input_changed,
            AlarmRaised: self._alarm_raised,
            AlarmCleared: self._alarm_cleared,
            AlarmAcknowledged: self._acknowledged,
            AcknowledgeRequested: self._acknowledged,
            PanelChanged: self._panel_changed,
            CommandFinished: self._command_finished,
            MessageReceived: lambda event: None,
            CallRequested: self._call_requested,
            HangupRequested: self._hangup_requested,
            AdapterReady: lambda event: None,
            AdapterLost: lambda event: None,
            StopRequested: self._stop_requested,
        }

    # Driven by

    def receive(self, event: Event, now: float, wall: float) -> list[Action]:
        """Take an event at monotonic time `now` and wall time `wall`; return what to do."""
        self._fire(now, wall)
        self._handlers[type(event)](event)
        return self._drain()

    def tick(self, now: float, wall: float) -> list[Action]:
        """Let time pass; return what to do."""
        self._fire(now, wall)
        return self._drain()

    def next_timeout(self) -> float | None:
        """The monotonic time at which `tick` is due."""
        return self._timers.next_due()

    def replace_routes(self, table: RouteTable) -> None:
        """Use other routes from the next event on; what has begun goes on as it began."""
        self.table = table

    def call_of(self, body: Event | Action) -> tuple[str, str]:
        """Call id and trace that an event or action belongs to, as far as it is known."""
        leg = self.legs.get(getattr(body, "leg", ""))
        if leg is not None:
            return leg.call.id, leg.call.trace
        return getattr(body, "call", ""), getattr(body, "trace", "")

    def collecting_secret(self, leg: str) -> bool:
        """Whether digits on this leg are a PIN: they must not be written down."""
        known = self.legs.get(leg)
        return (
            known is not None and isinstance(known.plan, Service) and known.plan.collecting_secret
        )

    def _fire(self, now: float, wall: float) -> None:
        while timer := self._timers.pop_due(now):
            self.now, self.wall = timer.due, wall - (now - timer.due)
            if timer.act:
                timer.act()
        self.now, self.wall = now, wall

    def _drain(self) -> list[Action]:
        out, self._out = self._out, []
        return out

    # What plans use

    def act(self, action: Action) -> None:
        """Add an action to what `receive` returns."""
        self._out.append(action)

    def after(self, seconds: float, act: Callable[[], None]) -> Timer:
        """Call `act` in `seconds`."""
        return self._timers.at(self.now + seconds, act)

    def note(
        self, text: str, *, call: Call | None = None, trace: str = "", route: str = ""
    ) -> None:
        """Say why, for the record."""
        trace = call.trace if call else trace
        self.act(Note(text=text, trace=trace, call=call.id if call else "", route=route))

    def new_call(
        self, *, trace: str, demanded_at: float, priority: Priority = Priority.ROUTINE
    ) -> Call:
        """A call without legs."""
        call = Call(id=self.new_id(), trace=trace, demanded_at=demanded_at, priority=priority)
        self.calls[call.id] = call
        return call

    def forget(self, call: Call) -> None:
        """Drop a call that never got a leg."""
        if not any(leg.state is not LegState.NULL for leg in call.legs):
            self.calls.pop(call.id, None)

    def unfit(self, target: Target) -> tuple[Cause, str] | None:
        """Why a target cannot be called at all; None when it can."""
        endpoint = self.endpoints.get(target.endpoint)
        if endpoint is None:
            return Cause.NO_ROUTE, f"there is no endpoint {target.endpoint}"
        if endpoint.condition is Condition.DOWN:
            reason = f": {endpoint.reason}" if endpoint.reason else ""
            return Cause.OUT_OF_ORDER, f"{target.endpoint} is down{reason}"
        if not endpoint.can_ring:
            return Cause.INCOMPATIBLE, f"{target.endpoint} cannot be called"
        if endpoint.takes_number and not target.number:
            return Cause.ADDRESS_INCOMPLETE, f"{target.endpoint} needs a number"
        return None

    def seize(self, endpoint: str, priority: Priority) -> bool:
        """Whether the endpoint has room for one more leg."""
        place = self.endpoints[endpoint]
        return place.capacity is None or len(self._in_use.get(endpoint, ())) < place.capacity

    def preempt(self, endpoint: str, call: Call) -> bool:
        """Make room by ending the lowest call below this one's priority; False when none is."""
        legs = [leg for leg in self._in_use.get(endpoint, ()) if leg.live]
        victim = min(legs, key=lambda leg: leg.call.priority, default=None)
        if victim is None or victim.call.priority >= call.priority:
            return False
        reason = f"pre-empted by a call of priority {call.priority.name.lower()}"
        self.note(f"{victim.id} is {reason}", call=victim.call)
        for leg in [victim, *victim.call.partners(victim)]:
            self.hangup(leg, Cause.PREEMPTED, reason)
        return True

    def when_free(self, endpoint: str, act: Callable[[], None]) -> None:
        """Call `act` when a leg of the endpoint has ended, or after 5 s all the same."""
        done = False

        def once() -> None:
            nonlocal done
            if not done:
                done = True
                act()

        self._freed.setdefault(endpoint, []).append(once)
        self.after(_PREEMPT_S, once)

    def dial(
        self,
        call: Call,
        target: Target,
        plan: Plan,
        *,
        calling: str = "",
        display: str = "",
        auto_answer: bool = False,
        one_way: bool = False,
    ) -> Leg:
        """Begin a leg whose events go to `plan`."""
        leg = Leg(
            id=self._new_leg(target.endpoint),
            endpoint=target.endpoint,
            call=call,
            outbound=True,
            state=LegState.INITIATED,
            number=target.number,
            calling=calling,
            display=display,
            began_at=self.now,
            plan=plan,
        )
        self._add(leg)
        self.act(
            Dial(
                leg=leg.id,
                endpoint=target.endpoint,
                number=target.number,
                calling=calling,
                display=display,
                trace=call.trace,
                call=call.id,
                priority=call.priority,
                auto_answer=auto_answer,
                one_way=one_way,
            )
        )
        return leg

    def ring(self, leg: Leg) -> None:
        """Tell a caller that the called side alerts."""
        if leg.live and not leg.early:
            self.act(Ring(leg=leg.id))

    def progress(self, leg: Leg) -> None:
        """Open a caller's audio path before the answer."""
        if leg.live and not leg.early:
            leg.early = True
            self.act(Progress(leg=leg.id))

    def answer(self, leg: Leg) -> None:
        """Answer a caller who was offered."""
        if leg.state is LegState.OFFERED and not leg.answering:
            leg.answering = True
            self.act(Answer(leg=leg.id))

    def hangup(self, leg: Leg, cause: Cause = Cause.NORMAL, detail: str = "") -> None:
        """End a leg; harmless when it is ending already."""
        if not leg.live:
            return
        leg.state, leg.cause, leg.detail = LegState.CLOSING, cause, detail
        self.act(Hangup(leg=leg.id, cause=cause, detail=detail))

        def give_up() -> None:
            if leg.state is LegState.CLOSING:
                self.note(f"{leg.id} did not end within {_CLOSING_S:g} s", call=leg.call)
                self._end(leg)

        self.after(_CLOSING_S, give_up)

    def confirm_and_hang_up(self, leg: Leg, tone: str = "confirmation") -> None:
        """Play a short tone, then end the leg."""
        play = f"{leg.id}/{tone}"
        self.act(Play(leg=leg.id, play=play, tone=tone, repeat=1))
        leg.plan = _LastWords(self, leg, play)
        self.after(CONFIRM_S, lambda: self.hangup(leg))

    def connect(self, call: Call, *legs: Leg) -> None:
        """Join legs in one bridge, as their endpoints' duplex allows."""
        bridge = next((self.bridges[leg.bridge] for leg in legs if leg.bridge), None)
        if bridge is None:
            bridge = self._open_bridge(self._kind(legs))
        for leg in legs:
            self._join(bridge, leg)
        if call.record:
            self._record(call, legs)

    def acknowledge(self, endpoint: str, alarm: str, by: str) -> int:
        """Acknowledge an alarm (every alarm of the endpoint without a name); how many it was."""
        done = 0
        for (place, name), known in list(self.alarms.items()):
            if place == endpoint and alarm in ("", name) and known.state == "active":
                done += 1
                if known.plan:
                    known.plan.acknowledge(by)
                else:
                    known.state, known.by = "acknowledged", by
        return done

    def expect(self, command: str, service: Service) -> None:
        """Send the outcome of a command to the service call that gave it."""
        self._expected[command] = service

    def alert_over(self, alarm: Alarm) -> None:
        """The alarm's plan has ended."""
        alarm.plan = None

    # Legs

    def _add(self, leg: Leg) -> None:
        self.legs[leg.id] = leg
        leg.call.legs.append(leg)
        self._in_use.setdefault(leg.endpoint, set()).add(leg)

    def _ignore(self, event: object) -> None:
        name = type(event).__name__
        self.ignored[name] = self.ignored.get(name, 0) + 1

    def _leg_offered(self, event: LegOffered) -> None:
        if event.leg in self.legs:
            self._ignore(event)
            return
        call = self.new_call(
            trace=event.trace, demanded_at=event.demanded_at, priority=event.priority
        )
        leg = Leg(
            id=event.leg,
            endpoint=event.endpoint,
            call=call,
            outbound=False,
            state=LegState.OFFERED,
            number=event.called,
            calling=event.calling,
            display=event.display,
            began_at=self.now,
        )
        self._add(leg)
        if self.stopping:
            self.hangup(leg, Cause.CONGESTION, "the gateway is stopping")
            return
        self._route(leg, event)

    def _route(self, leg: Leg, event: LegOffered) -> None:
        call = leg.call
        match, refusals = self.table.match(event, self.wall)
        if match is None:
            self._directory(leg, event, refusals)
            return
        route = match.route.route
        call.route, call.record = route.name, route.record
        call.priority = max(call.priority, match.route.priority)
        call.why = (
            f"route {route.name!r} matched {event.called or 'the call'} from {event.endpoint}"
        )
        self.note(call.why, call=call, route=route.name)
        if route.refuse:
            self.hangup(leg, Cause(route.refuse), f"route {route.name!r} refuses")
        elif route.command:
            Service(self, leg, match).begin()
        elif route.conference:
            self.answer(leg)
            self._enter(route.conference, leg)
            for target in match.targets(route.targets):
                self._invite(route.conference, call, target, leg, match)
        elif route.announce and not route.targets:
            _Announcement(self, leg, match).begin()
        else:
            self._hunt(leg, match)

    def _hunt(self, leg: Leg, match: Match) -> None:
        route = match.route.route
        targets = self._expand(match)
        groups = [targets] if route.strategy is Strategy.ALL else [[t] for t in targets]
        Hunt(
            self,
            leg.call,
            leg,
            groups * route.rounds,
            ring_s=route.ring_s,
            calling=match.expand(route.calling_as),
            auto_answer=route.auto_answer,
        ).begin()

    def _expand(self, match: Match) -> list[Target]:
        targets = []
        for text in match.route.route.targets:
            expanded = match.expand(text)
            if expanded.startswith("directory:"):
                found = self.lookup(expanded.removeprefix("directory:"))
                if found:
                    targets.append(found)
                continue
            try:
                targets.append(Target.parse(expanded))
            except UsageError as error:
                self.note(f"route {match.route.name!r}: {error}")
        return targets

    def lookup(self, number: str) -> Target | None:
        """The extension with this directory number."""
        for endpoint in self.endpoints.values():
            if number and endpoint.number == number:
                return Target(endpoint.id)
        return None

    def _directory(self, leg: Leg, event: LegOffered, refusals: list[tuple[str, str]]) -> None:
        """No route matched: extensions reach each other by number; trunks need a route."""
        origin = self.endpoints.get(event.endpoint)
        target = self.lookup(event.called)
        if target and origin and not origin.takes_number and target.endpoint != event.endpoint:
            leg.call.route = "directory"
            leg.call.why = f"{event.called} is the number of {target.endpoint}"
            self.note(leg.call.why, call=leg.call, route="directory")
            Hunt(self, leg.call, leg, [[target]], ring_s=60.0).begin()
            return
        why = "; ".join(f"{name}: {reason}" for name, reason in refusals) or "there are no routes"
        leg.call.why = f"no route matched {event.called or '(no number)'} from {event.endpoint}"
        self.note(f"{leg.call.why}: {why}", call=leg.call)
        self.hangup(leg, Cause.UNALLOCATED, leg.call.why)

    def _leg_moved(
        self,
        event: LegRinging | LegProgressed | LegAnswered | LegHeld | LegRetrieved | LegEnded,
    ) -> None:
        leg = self.legs.get(event.leg)
        state = TRANSITIONS.get((leg.state, type(event))) if leg else None
        if leg is None or state is None:
            self._ignore(event)
            return
        if isinstance(event, LegEnded):
            if leg.state is not LegState.CLOSING:
                leg.cause, leg.detail = event.cause, event.detail
            self._end(leg)
            return
        leg.state = state
        match event:
            case LegAnswered():
                leg.answered_at = self.now
                if leg.call.answered_at is None and leg.outbound:
                    leg.call.answered_at = self.now
                if leg.plan:
                    leg.plan.answered(leg)
            case LegRinging() if leg.plan:
                leg.plan.ringing(leg)
            case LegProgressed() if leg.plan:
                leg.early = True
                leg.plan.progressed(leg)

    def _end(self, leg: Leg) -> None:
        leg.state = LegState.NULL
        call, plan = leg.call, leg.plan
        leg.plan = None
        del self.legs[leg.id]
        self._digits.pop(leg.id, None)
        self._in_use[leg.endpoint].discard(leg)
        bridge = self.bridges.get(leg.bridge)
        if bridge:
            self._leave(bridge, leg)
        if plan:
            plan.ended(leg)
        elif bridge is None or not bridge.room:
            # Two people talking: when one goes, so does the other, for the same reason.
            partners = call.partners(leg)
            if len(partners) == 1:
                self.hangup(partners[0], leg.cause or Cause.NORMAL, leg.detail)
        if all(other.state is LegState.NULL for other in call.legs):
            self.calls.pop(call.id, None)
        for act in self._freed.pop(leg.endpoint, []):
            act()

    def _media_lost(self, event: MediaLost) -> None:
        leg = self.legs.get(event.leg)
        if leg is None or not leg.connected:
            self._ignore(event)
            return
        self.hangup(leg, Cause.MEDIA_TIMEOUT, "no audio arrived")

    def _announcement_ended(self, event: AnnouncementEnded) -> None:
        leg = self.legs.get(event.leg)
        if leg and leg.plan:
            leg.plan.play_ended(leg, event.play)

    def _digit(self, leg_id: str, digit: str) -> None:
        leg = self.legs.get(leg_id)
        if leg is None or not leg.connected:
            return
        if leg.plan and leg.plan.digit(leg, digit):
            return
        kept, at = self._digits.get(leg_id, ("", 0.0))
        kept = (kept if self.now - at <= _DIGITS_IDLE_S else "") + digit
        self._digits[leg_id] = (kept[-_DIGITS_KEPT:], self.now)
        for compiled in self.table.routes:
            if compiled.route.on is not Trigger.DIGITS:
                continue
            captures = compiled.digits.match(kept)
            if captures is None or not compiled.takes(leg.endpoint, self.wall):
                continue
            del self._digits[leg_id]
            fields = {str(index): text for index, text in enumerate(captures, 1)}
            self._feature(leg, Match(compiled, fields | {"source": leg.endpoint}))
            return

    def _feature(self, leg: Leg, match: Match) -> None:
        """A digits route during a call: outputs, a command, or a transfer of the partner."""
        route = match.route.route
        by = leg.endpoint
        if route.pins:
            by = person(route.pins, match.fields.get("1", ""))
            if not by:
                self.note(f"wrong PIN for route {route.name!r} from {leg.endpoint}", call=leg.call)
                return
        self.note(f"route {route.name!r} by digits of {by}", call=leg.call, route=route.name)
        for setting in route.outputs:
            self.act(
                SetOutput(
                    endpoint=setting.endpoint,
                    output=setting.output,
                    value=setting.value,
                    pulse_ms=setting.pulse_ms,
                )
            )
        if route.command and route.command.verb == "ACKNOWLEDGE":
            self.acknowledge(route.command.endpoint, "", by)
        elif route.command:
            self.act(
                Command(
                    command=self.new_id(),
                    endpoint=route.command.endpoint,
                    verb=route.command.verb,
                    by=by,
                    trace=leg.call.trace,
                )
            )
        if route.targets:
            self._transfer(leg, self._expand(match), route.ring_s)

    # Transfer

    def _transfer_requested(self, event: TransferRequested) -> None:
        leg = self.legs.get(event.leg)
        if leg is None or not leg.connected:
            self._ignore(event)
            return
        consulted = self.legs.get(event.replaces)
        if consulted:
            self._attended(leg, consulted)
            return
        try:
            targets = [Target.parse(event.target)]
        except UsageError:
            found = self._resolve(leg, event.target)
            targets = [found] if found else []
        self._transfer(leg, targets, 30.0)

    def _resolve(self, leg: Leg, number: str) -> Target | None:
        """Where a bare number leads, seen from the leg that asks."""
        probe = LegOffered(
            leg=leg.id, endpoint=leg.endpoint, called=number, trace="", demanded_at=self.now
        )
        match, _ = self.table.match(probe, self.wall)
        if match:
            return next(iter(self._expand(match)), None)
        return self.lookup(number)

    def _transfer(self, leg: Leg, targets: list[Target], ring_s: float) -> None:
        partners = leg.call.partners(leg)
        if len(partners) != 1 or not targets:
            self.note(f"{leg.id} cannot transfer: no partner or no such target", call=leg.call)
            return
        partner = partners[0]
        self._part(partner)
        hunt = Hunt(self, leg.call, partner, [[target] for target in targets], ring_s=ring_s)
        hunt.begin()
        self.hangup(leg, Cause.NORMAL, "transferred")

    def _attended(self, leg: Leg, consulted: Leg) -> None:
        """Join the partners of both calls; both legs of the one who transfers end."""
        first, second = leg.call.partners(leg), consulted.call.partners(consulted)
        if len(first) != 1 or len(second) != 1 or leg.call is consulted.call:
            self.note(f"{leg.id} cannot transfer: both calls need one partner", call=leg.call)
            return
        stays, moves = first[0], second[0]
        for other in (stays, moves):
            self._part(other)
        moves.call.legs.remove(moves)
        moves.call = leg.call
        leg.call.legs.append(moves)
        for other in (leg, consulted):
            other.plan = _Leaving()
            self.hangup(other, Cause.NORMAL, "transferred")
        self.connect(leg.call, stays, moves)

    def _part(self, leg: Leg) -> None:
        bridge = self.bridges.get(leg.bridge)
        if bridge:
            self._leave(bridge, leg)

    # Bridges

    def _kind(self, legs: tuple[Leg, ...]) -> BridgeKind:
        kinds = {self._duplex(leg) for leg in legs}
        if Duplex.HALF in kinds:
            return BridgeKind.FLOOR
        if Duplex.LISTEN in kinds:
            return BridgeKind.PAGE
        return BridgeKind.PAIR if len(legs) == 2 else BridgeKind.CONFERENCE

    def _duplex(self, leg: Leg) -> Duplex:
        endpoint = self.endpoints.get(leg.endpoint)
        return endpoint.duplex if endpoint else Duplex.FULL

    def _open_bridge(self, kind: BridgeKind, room: str = "") -> Bridge:
        bridge = Bridge(id=self.new_id(), kind=kind, room=room)
        self.bridges[bridge.id] = bridge
        self.act(OpenBridge(bridge=bridge.id, kind=kind))
        return bridge

    def _join(self, bridge: Bridge, leg: Leg) -> None:
        if leg.bridge == bridge.id:
            return
        if leg.bridge:
            self._leave(self.bridges[leg.bridge], leg)
        leg.bridge = bridge.id
        bridge.members.append(leg.id)
        self.act(Join(bridge=bridge.id, leg=leg.id, speaks=self._duplex(leg) is not Duplex.LISTEN))

    def _leave(self, bridge: Bridge, leg: Leg) -> None:
        leg.bridge = ""
        bridge.members.remove(leg.id)
        if leg.id in bridge.keyed:
            bridge.keyed.discard(leg.id)
            self.act(Unkey(leg=leg.id))
        if bridge.floor.release(leg.id):
            self._floor_moved(bridge)
        self.act(Leave(bridge=bridge.id, leg=leg.id))
        if not bridge.members:
            del self.bridges[bridge.id]
            if self._rooms.get(bridge.room) == bridge.id:
                del self._rooms[bridge.room]
            self.act(CloseBridge(bridge=bridge.id))

    def _enter(self, room: str, leg: Leg) -> None:
        bridge = self.bridges.get(self._rooms.get(room, ""))
        if bridge is None:
            bridge = self._open_bridge(BridgeKind.CONFERENCE, room)
            self._rooms[room] = bridge.id
        self._join(bridge, leg)

    def _invite(self, room: str, call: Call, target: Target, host: Leg, match: Match) -> None:
        """Dial somebody into a conference, unless he is in it already."""
        refusal = self.unfit(target)
        if refusal or not self.seize(target.endpoint, call.priority):
            self.note(f"cannot invite {target}: {refusal[1] if refusal else 'in use'}", call=call)
            return
        own = self.new_call(trace=call.trace, demanded_at=self.now, priority=call.priority)
        own.route, own.why = call.route, f"invited to conference {room}"
        leg = self.dial(own, target, _Invitation(self, room), calling=host.calling)
        self.after(match.route.route.ring_s, lambda: self._not_come(leg))

    def _not_come(self, leg: Leg) -> None:
        if leg.live and not leg.connected:
            self.hangup(leg, Cause.NO_ANSWER, "ring time-out")

    def _record(self, call: Call, legs: tuple[Leg, ...]) -> None:
        call.record = False
        self.act(Record(leg=legs[0].id, file=f"{call.id}.wav"))

    # Floor

    def _floor_requested(self, event: FloorRequested) -> None:
        leg = self.legs.get(event.leg)
        bridge = self.bridges.get(leg.bridge) if leg else None
        if leg is None or bridge is None or bridge.kind is not BridgeKind.FLOOR:
            self._ignore(event)
            return
        unstoppable = self._duplex(leg) is Duplex.HALF
        if bridge.floor.request(leg.id, priority=leg.call.priority, unstoppable=unstoppable):
            self._floor_moved(bridge)

    def _floor_released(self, event: FloorReleased) -> None:
        leg = self.legs.get(event.leg)
        bridge = self.bridges.get(leg.bridge) if leg else None
        if bridge is None:
            self._ignore(event)
        elif bridge.floor.release(event.leg):
            self._floor_moved(bridge)

    def _floor_moved(self, bridge: Bridge) -> None:
        """Let the holder be heard, and key every transmitter but his own."""
        holder = bridge.floor.holder
        wanted = set()
        if holder is not None:
            wanted = {
                member
                for member in bridge.members
                if member != holder and self._duplex(self.legs[member]) is Duplex.HALF
            }
        for member in sorted(bridge.keyed - wanted):
            self.act(Unkey(leg=member))
        self.act(GiveFloor(bridge=bridge.id, leg=holder))
        for member in sorted(wanted - bridge.keyed):
            self.act(Key(leg=member))
        bridge.keyed = wanted

    # Places

    def _endpoint_changed(self, event: EndpointChanged) -> None:
        self.endpoints[event.endpoint.id] = event.endpoint

    def _endpoint_removed(self, event: EndpointRemoved) -> None:
        self.endpoints.pop(event.endpoint, None)

    def _panel_changed(self, event: PanelChanged) -> None:
        self.panels[event.endpoint] = event.state

    def _command_finished(self, event: CommandFinished) -> None:
        service = self._expected.pop(event.command, None)
        if service:
            service.finished(event.ok, event.detail)

    def _alarm_raised(self, event: AlarmRaised) -> None:
        key = (event.endpoint, event.alarm)
        known = self.alarms.get(key)
        if known and known.state == "active" and event.severity <= known.severity:
            self._ignore(event)
            return
        if known and known.plan:
            known.severity, known.text = event.severity, event.text
            self.note(f"alarm {event.alarm} is now {event.severity.name}", trace=known.trace)
            return
        alarm = Alarm(
            endpoint=event.endpoint,
            alarm=event.alarm,
            kind=event.kind,
            severity=event.severity,
            text=event.text,
            trace=event.trace,
            raised_at=event.raised_at,
        )
        self._keep(key, alarm)
        match, refusals = self.table.match(event, self.wall)
        if match is None:
            why = "; ".join(f"{name}: {reason}" for name, reason in refusals) or "no routes"
            self.note(f"no route for alarm {event.alarm}: {why}", trace=event.trace)
            return
        self._alert(alarm, match)

    def _alert(self, alarm: Alarm, match: Match) -> None:
        route = match.route.route
        alarm.route = route.name
        self.note(
            f"route {route.name!r} takes alarm {alarm.alarm} of {alarm.endpoint}",
            trace=alarm.trace,
            route=route.name,
        )
        alarm.plan = Alert(self, alarm, match)
        alarm.plan.begin()

    def _keep(self, key: tuple[str, str], alarm: Alarm) -> None:
        self.alarms.pop(key, None)
        self.alarms[key] = alarm
        if len(self.alarms) > _ALARMS_KEPT:
            over = next((k for k, known in self.alarms.items() if known.state != "active"), None)
            if over:
                del self.alarms[over]

    def _acknowledged(self, event: AlarmAcknowledged | AcknowledgeRequested) -> None:
        self.acknowledge(event.endpoint, event.alarm, event.by or event.endpoint)

    def _alarm_cleared(self, event: AlarmCleared) -> None:
        known = self.alarms.get((event.endpoint, event.alarm))
        if known is None:
            self._ignore(event)
            return
        if known.plan:
            known.plan.cleared()
        if known.plan is None:
            known.state = "cleared"
            del self.alarms[(event.endpoint, event.alarm)]

    def _input_changed(self, event: InputChanged) -> None:
        key = (event.endpoint, event.input)
        self.inputs[key] = event
        running = self._matched_inputs.get(key)
        match, _ = self.table.match(event, self.wall)
        if match is None:
            if running:
                del self._matched_inputs[key]
                if running.plan:
                    running.plan.cleared()
            return
        if running:
            return
        alarm = Alarm(
            endpoint=event.endpoint,
            alarm=event.input,
            kind="input",
            severity=Severity.WARNING if event.quality is Quality.GOOD else Severity.MINOR,
            text=f"{event.input} is {event.value:g}",
            trace=event.trace or self.new_id(),
            raised_at=self.now,
        )
        self._matched_inputs[key] = alarm
        route = match.route.route
        if route.origin:
            call = self.new_call(
                trace=alarm.trace, demanded_at=self.now, priority=match.route.priority
            )
            call.route, call.why = route.name, f"{event.input} of {event.endpoint}"
            targets = self._expand(match)
            groups = [targets] if route.strategy is Strategy.ALL else [[t] for t in targets]
            Callback(self, call, groups, ring_s=route.ring_s).begin(
                Target.parse(match.expand(route.origin)), auto_answer=True
            )
            return
        self._keep(key, alarm)
        self._alert(alarm, match)

    # People at the gateway

    def _call_requested(self, event: CallRequested) -> None:
        call = self.new_call(trace=event.trace, demanded_at=self.now, priority=event.priority)
        call.route, call.why = "operator", f"asked for by {event.by or 'the operator'}"
        try:
            origin, target = Target.parse(event.origin), Target.parse(event.target)
        except UsageError as error:
            self.note(str(error), call=call)
            self.forget(call)
            return
        self.note(call.why, call=call, route=call.route)
        Callback(self, call, [[target]], ring_s=60.0, calling=str(target)).begin(
            origin, auto_answer=False
        )

    def _hangup_requested(self, event: HangupRequested) -> None:
        detail = f"hung up by {event.by or 'the operator'}"
        leg = self.legs.get(event.leg)
        call = self.calls.get(event.call)
        legs = [leg] if leg else list(call.legs) if call else []
        for each in legs:
            self.hangup(each, Cause.NORMAL, detail)

    def _stop_requested(self, event: StopRequested) -> None:
        self.stopping = True

        def end_all() -> None:
            for leg in list(self.legs.values()):
                self.hangup(leg, Cause.SHUTDOWN, "the gateway stops")

        if event.deadline_s > 0:
            self.after(event.deadline_s, end_all)
        else:
            end_all()


class _Silent:
    """A plan that takes nothing; the small plans below say only what they care about."""

    def ringing(self, leg: Leg) -> None: ...
    def progressed(self, leg: Leg) -> None: ...
    def answered(self, leg: Leg) -> None: ...
    def ended(self, leg: Leg) -> None: ...
    def play_ended(self, leg: Leg, play: str) -> None: ...

    def digit(self, leg: Leg, digit: str) -> bool:
        return False


class _Leaving(_Silent):
    """The leg was transferred away: its end concerns nobody."""


class _LastWords(_Silent):
    """A last tone plays; then the leg ends."""

    def __init__(self, board: Switchboard, leg: Leg, play: str) -> None:
        self.board, self.leg, self.play = board, leg, play

    def play_ended(self, leg: Leg, play: str) -> None:
        if play == self.play:
            self.board.hangup(leg)

    def digit(self, leg: Leg, digit: str) -> bool:
        return True


class _Announcement(_Silent):
    """The caller hears an announcement and is released."""

    def __init__(self, board: Switchboard, leg: Leg, match: Match) -> None:
        self.board, self.leg, self.match = board, leg, match

    def begin(self) -> None:
        self.leg.plan = self
        self.board.answer(self.leg)

    def answered(self, leg: Leg) -> None:
        announce = self.match.route.route.announce
        assert announce is not None
        self.board.act(
            Play(
                leg=leg.id,
                play=f"{leg.id}/announce",
                file=announce.file,
                tone=announce.tone,
                text=self.match.expand(announce.text),
                repeat=announce.repeat,
                gap_s=announce.gap_s,
            )
        )

    def play_ended(self, leg: Leg, play: str) -> None:
        self.board.hangup(leg, Cause.NORMAL, "announcement played")


class _Invitation(_Silent):
    """Somebody who is called into a conference."""

    def __init__(self, board: Switchboard, room: str) -> None:
        self.board, self.room = board, room

    def answered(self, leg: Leg) -> None:
        leg.plan = None
        self.board._enter(self.room, leg)
