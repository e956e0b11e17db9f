"""Switchboard: events in, actions out. It knows no sockets and no clock.

Driven by `receive` (something happened) and `tick` (time passed); both return the actions to carry
out, in order. `next_timeout` says when `tick` is due. A timer that is due fires at its own time
before a later event is looked at, so that the same events at the same times always give the same
actions: a journal can be replayed.

The switchboard owns endpoints, legs, calls, bridges and alarms. What a route started lives on as a
plan (`hunting`, `paging`, `alerting`, `service`); a leg's events go to its plan while it has one,
and a call whose legs have none is simply two or more people talking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from gateway.core.actions import (
    Action,
    Answer,
    Dial,
    Hangup,
    Note,
    Play,
    Progress,
    Ring,
    SendMessage,
    SetOutput,
)
from gateway.core.alarms import Alarms
from gateway.core.alerting import Alarm
from gateway.core.bridges import Bridge
from gateway.core.bridging import Bridging
from gateway.core.calls import Call, Leg, LegState
from gateway.core.causes import Cause
from gateway.core.conferencing import Rooms
from gateway.core.endpoints import Condition, Duplex, Endpoint, Target
from gateway.core.events import (
    AcknowledgeRequested,
    AdapterLost,
    AdapterReady,
    AlarmAcknowledged,
    AlarmCleared,
    AlarmRaised,
    AnnouncementEnded,
    AudioBorrowed,
    AudioImpaired,
    AudioRestored,
    AudioReturned,
    CallRequested,
    CommandFinished,
    DigitPressed,
    Diversion,
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
    PageDelivered,
    PanelChanged,
    PathTested,
    PathTestRequested,
    Priority,
    StopRequested,
    ToneHeard,
    TransferRequested,
)
from gateway.core.features import Features
from gateway.core.hunting import Callback
from gateway.core.leg_events import LegEvents
from gateway.core.lines import Lines
from gateway.core.pathtest import PathTests
from gateway.core.pins import Pins
from gateway.core.plans import LastWords, Plan
from gateway.core.routes import OutputSetting, RouteTable
from gateway.core.routing import Routing
from gateway.core.service import Service
from gateway.core.timers import Timer, Timers
from gateway.core.transfer import Transfers
from gateway.errors import UsageError

# A leg that was told to hang up and never ends would hold its endpoint for ever. SIP gives a BYE
# 32 s (RFC 3261 timer F); nobody needs longer.
_CLOSING_S: Final = 40.0
# How long a confirmation tone is waited for before the call ends anyway.
CONFIRM_S: Final = 3.0


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
        """No new calls from outside; what goes on may go on."""
        self.closed = False
        """Nobody is called any more."""
        self.now = 0.0
        self.wall = 0.0
        self._timers = Timers()
        self._out: list[Action] = []
        self._expected: dict[str, Service] = {}
        self.leg_events = LegEvents(self)
        self.lines = Lines(self)
        self.bridging = Bridging(self)
        self.rooms = Rooms(self)
        self.routing = Routing(self)
        self.features = Features(self)
        self.pins = Pins(self)
        self.transfers = Transfers(self)
        self.alarming = Alarms(self)
        self.testing = PathTests(self)
        self._handlers: dict[type, Callable[[Any], None]] = {
            LegOffered: self.leg_events.offered,
            LegRinging: self.leg_events.moved,
            LegProgressed: self.leg_events.moved,
            LegAnswered: self.leg_events.moved,
            LegHeld: self.leg_events.moved,
            LegRetrieved: self.leg_events.moved,
            LegEnded: self.leg_events.moved,
            PageDelivered: self.leg_events.page_delivered,
            LegFlashed: lambda event: self.features.pressed(event.leg, "!"),
            TransferRequested: self.transfers.requested,
            DigitPressed: self.features.digit,
            FloorRequested: self.bridging.floor_requested,
            FloorReleased: self.bridging.floor_released,
            AudioBorrowed: self.leg_events.audio_borrowed,
            AudioReturned: self.leg_events.audio_returned,
            MediaFlowing: lambda event: None,
            MediaLost: self.leg_events.media_lost,
            AudioImpaired: self.leg_events.audio_impaired,
            AudioRestored: self.leg_events.audio_restored,
            ToneHeard: lambda event: None,
            AnnouncementEnded: self.leg_events.announcement_ended,
            EndpointChanged: self._endpoint_changed,
            EndpointRemoved: self._endpoint_removed,
            InputChanged: self.alarming.input_changed,
            AlarmRaised: self.alarming.raised,
            AlarmCleared: self.alarming.cleared,
            AlarmAcknowledged: self.alarming.acknowledged,
            AcknowledgeRequested: self.alarming.acknowledged,
            PanelChanged: self._panel_changed,
            CommandFinished: self._command_finished,
            MessageReceived: self._message_received,
            CallRequested: self._call_requested,
            HangupRequested: self._hangup_requested,
            PathTestRequested: self.testing.requested,
            PathTested: lambda event: None,
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

    def match_again(self, now: float, wall: float) -> list[Action]:
        """Give alarms that no route took to the present routes; return what to do."""
        self._fire(now, wall)
        self.alarming.match_again()
        return self._drain()

    def call_of(self, body: Event | Action) -> tuple[str, str]:
        """Call id and trace that an event or action belongs to, as far as it is known."""
        leg = self.legs.get(getattr(body, "leg", ""))
        if leg is not None:
            return leg.call.id, leg.call.trace
        return getattr(body, "call", ""), getattr(body, "trace", "")

    def collecting_secret(self, leg: str) -> bool:
        """Whether the next digit on this leg may be one of a PIN: not to be written down."""
        known = self.legs.get(leg)
        return known is not None and self.features.secret(known)

    def shown(self, event: Event) -> Event:
        """The event as it may be written down; to be asked before `receive` is given it."""
        if isinstance(event, DigitPressed) and self.collecting_secret(event.leg):
            return msgspec.structs.replace(event, digit="?")
        if isinstance(event, LegOffered):
            match, _ = self.table.match(event, self.wall)
            if match and match.route.shown(event.called) != event.called:
                return msgspec.structs.replace(event, called=match.route.shown(event.called))
        return event

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
        self,
        text: str,
        *,
        call: Call | None = None,
        leg: str = "",
        trace: str = "",
        route: str = "",
    ) -> None:
        """Say why, for the record."""
        trace = call.trace if call else trace
        call_id = call.id if call else ""
        self.act(Note(text=text, trace=trace, call=call_id, leg=leg, route=route))

    def new_call(
        self, *, trace: str, demanded_at: float, priority: Priority = Priority.ROUTINE
    ) -> Call:
        """A call without legs; it counts as one from its first leg on."""
        return Call(id=self.new_id(), trace=trace, demanded_at=demanded_at, priority=priority)

    def unfit(self, target: Target) -> tuple[Cause, str] | None:
        """Why a target cannot be called at all; None when it can."""
        endpoint = self.endpoints.get(target.endpoint)
        if self.closed:
            return Cause.SHUTDOWN, "the gateway stops"
        if endpoint is None:
            return Cause.NO_ROUTE, f"there is no endpoint {target.endpoint}"
        if endpoint.condition is Condition.DOWN:
            reason = f": {endpoint.reason}" if endpoint.reason else ""
            cause = Cause.ABSENT if endpoint.absent else Cause.OUT_OF_ORDER
            return cause, f"{target.endpoint} is down{reason}"
        if not endpoint.can_ring or not endpoint.has_audio:
            return Cause.INCOMPATIBLE, f"{target.endpoint} cannot be called"
        if endpoint.takes_number and not target.number:
            return Cause.ADDRESS_INCOMPLETE, f"{target.endpoint} needs a number"
        return None

    def seize(self, endpoint: str, priority: Priority) -> bool:
        """Whether the endpoint has room for one more leg of this priority."""
        return self.lines.seize(endpoint, priority)

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
        clear: bool = False,
        diverted: tuple[Diversion, ...] = (),
        caller: Leg | None = None,
    ) -> Leg:
        """Begin a leg whose events go to `plan`. `caller`: who is not shown if he is hidden."""
        hidden = False
        if caller is not None and caller.hidden:
            # A route may show another number in place of his.
            hidden = calling == caller.calling
            calling, display = "" if hidden else calling, ""
        if self.endpoints[target.endpoint].duplex is Duplex.LISTEN:
            # Nobody is there to answer it, and nothing to be heard from it.
            auto_answer = one_way = True
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
            one_way=one_way,
            plan=plan,
        )
        self.leg_events.add(leg)
        self.act(
            Dial(
                leg=leg.id,
                endpoint=target.endpoint,
                number=target.number,
                calling=calling,
                display=display,
                hidden=hidden,
                trace=call.trace,
                call=call.id,
                priority=call.priority,
                auto_answer=auto_answer,
                one_way=one_way,
                clear=clear,
                diverted=diverted,
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
            self.lines.speak(leg, lambda: self.act(Answer(leg=leg.id)))

    def hangup(self, leg: Leg, cause: Cause = Cause.NORMAL, detail: str = "") -> None:
        """End a leg; harmless when it is ending already."""
        if not leg.live:
            return
        leg.state, leg.cause, leg.detail = LegState.CLOSING, cause, detail
        # A transmitter is not left on the air until the far end has confirmed.
        self.bridging.silence(leg)
        self.act(Hangup(leg=leg.id, cause=cause, detail=detail))

        def give_up() -> None:
            if leg.state is LegState.CLOSING:
                self.note(f"{leg.id} did not end within {_CLOSING_S:g} s", call=leg.call)
                self.leg_events.end(leg)

        leg.giving_up = self.after(_CLOSING_S, give_up)

    def confirm_and_hang_up(
        self,
        leg: Leg,
        tone: str = "confirmation",
        cause: Cause = Cause.NORMAL,
        detail: str = "",
    ) -> None:
        """Play a short tone, then end the leg."""
        play = Play(leg=leg.id, play=f"{leg.id}/{tone}", tone=tone, repeat=1)
        leg.plan = LastWords(self, self.bridging.say(leg, play), cause, detail)
        self.after(CONFIRM_S, lambda: self.hangup(leg, cause, detail))

    def connect(self, call: Call, *legs: Leg) -> None:
        """Join legs in one bridge, as their endpoints' duplex allows."""
        self.bridging.connect(call, *legs)

    def acknowledge(self, endpoint: str, alarm: str, by: str) -> int:
        """Acknowledge an alarm (every alarm of the endpoint without a name); how many it was."""
        return self.alarming.acknowledge(endpoint, alarm, by)

    def move(self, leg: Leg, call: Call) -> None:
        """Make a leg part of another call, which takes over the higher priority."""
        former = leg.call
        former.legs.remove(leg)
        leg.call = call
        call.legs.append(leg)
        call.priority = max(call.priority, former.priority)
        self.leg_events.close_call(former)

    def switch(self, outputs: Iterable[OutputSetting]) -> None:
        """Set a route's outputs as its plan begins."""
        for each in outputs:
            self.act(
                SetOutput(
                    endpoint=each.endpoint,
                    output=each.output,
                    value=each.value,
                    pulse_ms=each.pulse_ms,
                )
            )

    def rest(self, outputs: Iterable[OutputSetting]) -> None:
        """Set a route's outputs as its plan ends."""
        for each in outputs:
            if each.after is not None:
                self.act(SetOutput(endpoint=each.endpoint, output=each.output, value=each.after))

    def expect(self, command: str, service: Service) -> None:
        """Send the outcome of a command to the service call that gave it."""
        self._expected[command] = service

    def unexpect(self, command: str) -> None:
        """Nobody waits for the outcome any more."""
        self._expected.pop(command, None)

    def ignore(self, event: object) -> None:
        """Count an event that means nothing in the state it met."""
        name = type(event).__name__
        self.ignored[name] = self.ignored.get(name, 0) + 1

    # Places

    def _endpoint_changed(self, event: EndpointChanged) -> None:
        self.endpoints[event.endpoint.id] = event.endpoint
        self.lines.changed(event.endpoint.id)

    def _endpoint_removed(self, event: EndpointRemoved) -> None:
        self.endpoints.pop(event.endpoint, None)
        self.panels.pop(event.endpoint, None)
        self.alarming.forget(event.endpoint)
        self.lines.changed(event.endpoint)

    def _panel_changed(self, event: PanelChanged) -> None:
        self.panels[event.endpoint] = event.state

    def _command_finished(self, event: CommandFinished) -> None:
        service = self._expected.pop(event.command, None)
        if service:
            service.finished(event.ok, event.detail)

    def _message_received(self, event: MessageReceived) -> None:
        """An extension gets the texts to its number, of whatever network; others go out where a
        call to their number would."""
        target = self.routing.for_text(event)
        if target and event.hops <= 1:
            text = f"a text to {event.recipient} has no hops left: a loop of routes"
            self.note(text, trace=event.trace)
        elif target and target.endpoint != event.endpoint:
            self.act(
                SendMessage(
                    endpoint=target.endpoint,
                    recipient=target.number or event.recipient,
                    text=event.text,
                    sender=event.sender,
                    trace=event.trace,
                    hops=event.hops - 1,
                )
            )

    # People at the gateway

    def _call_requested(self, event: CallRequested) -> None:
        call = self.new_call(trace=event.trace, demanded_at=self.now, priority=event.priority)
        call.route, call.why = "operator", f"asked for by {event.by or 'the operator'}"
        try:
            origin, target = Target.parse(event.origin), Target.parse(event.target)
        except UsageError as error:
            self.note(str(error), call=call)
            return
        self.note(call.why, call=call, route=call.route)
        Callback(self, call, [[target]], ring_s=60.0, calling=str(target)).begin(origin)

    def _hangup_requested(self, event: HangupRequested) -> None:
        detail = f"hung up by {event.by or 'the operator'}"
        leg = self.legs.get(event.leg)
        call = self.calls.get(event.call)
        legs = [leg] if leg else list(call.legs) if call else []
        for each in legs:
            self.hangup(each, Cause.NORMAL, detail)

    def _stop_requested(self, event: StopRequested) -> None:
        self.stopping = True
        self.testing.stop("the gateway stops")

        def end_all() -> None:
            self.closed = True
            self.alarming.suspend()
            for leg in list(self.legs.values()):
                self.hangup(leg, Cause.SHUTDOWN, "the gateway stops")

        if event.deadline_s > 0:
            self.after(event.deadline_s, end_all)
        else:
            end_all()
