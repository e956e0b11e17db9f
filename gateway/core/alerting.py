"""Alert: tell people until somebody takes it in hand.

An alarm (or an input) pages zones, switches outputs and calls people: one after the other or all
at once. Whoever answers hears the announcement and acknowledges; that stops everything, everywhere,
and the alarm's source is told. Nobody does: next person, next round, and at last the alarm is
closed as exhausted, which is an event of its own and never silence. Somebody whose line is in use
by an equal call, or is taken for a higher one, is called as soon as it is free again.

With an `origin` (a help point) the person is then connected with the place where help is needed;
with a `conference`, everybody who acknowledges meets there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.core.actions import (
    AcknowledgeAlarm,
    CloseAlarm,
    OpenAlarm,
    Play,
)
from gateway.core.calls import Call, Leg
from gateway.core.causes import Cause
from gateway.core.endpoints import Target
from gateway.core.events import Severity
from gateway.core.lines import Waiter
from gateway.core.plans import LastWords, Meeting, Silent
from gateway.core.routes import BY_ANSWER, BY_TALKING, Match, Route, Strategy, Trigger
from gateway.core.timers import Timer
from gateway.core.zones import Zones

if TYPE_CHECKING:
    from gateway.core.switchboard import Switchboard

# A round of calls begins this long after the one before it at the earliest: people who are all
# busy are not called in a tight circle.
RETRY_S = 5.0


@dataclass(slots=True, eq=False)
class Alarm:
    """An alarm that is known to the switchboard."""

    endpoint: str
    alarm: str
    kind: str
    severity: Severity
    text: str
    trace: str
    raised_at: float
    state: str = "active"
    """``active``, ``acknowledged``, ``cleared``, ``delivered``, ``exhausted`` or ``dropped``."""
    by: str = ""
    gone: bool = False
    """The cause went away, but the route wants an acknowledgement all the same."""
    route: str = ""
    plan: Alert | None = None


def stops_on_clear(route: Route) -> bool:
    """Whether an alarm's going away ends what this route does about it.

    A button comes back by itself: what somebody asked for with it still stands.
    """
    if route.stop_on_clear is not None:
        return route.stop_on_clear
    button = route.on is Trigger.INPUT and bool(route.acknowledge)
    return not (route.origin or button)


class Alert(Silent):
    """The plan of one alarm, and of the legs to the people it calls."""

    def __init__(self, board: Switchboard, alarm: Alarm, match: Match) -> None:
        self.board, self.alarm, self.match = board, alarm, match
        self.route = match.route.route
        self.priority = match.route.priority
        self._display = alarm.text or alarm.kind or alarm.alarm
        self._calling = match.expand(self.route.calling_as) or alarm.endpoint
        self._zones = Zones(
            board, self, ring_s=self.route.ring_s, calling=self._calling, display=self._display
        )
        self._rounds_left = self.route.rounds
        self._next_round_at = 0.0
        self._queue: list[Target] = []
        self._people: dict[Leg, tuple[Target, Timer]] = {}
        self._waiting: dict[Target, Waiter] = {}
        self._pause: Timer | None = None
        self._page_limits: dict[Leg, Timer] = {}
        self._origin: Leg | None = None
        self._over = False
        self._delivered = False

    def begin(self) -> None:
        """Switch outputs, open pages and call the first person."""
        alarm = self.alarm
        self.board.act(
            OpenAlarm(
                endpoint=alarm.endpoint, alarm=alarm.alarm, route=self.route.name, trace=alarm.trace
            )
        )
        self.board.switch(self.route.outputs)
        self._zones.page(self.board.routing.expand(self.match, self.route.page))
        if self.route.origin:
            self._call_origin()
        self._next()

    def _new_call(self) -> Call:
        call = self.board.new_call(
            trace=self.alarm.trace, demanded_at=self.alarm.raised_at, priority=self.priority
        )
        call.route = self.route.name
        call.why = f"alarm {self.alarm.alarm} of {self.alarm.endpoint}"
        call.record, call.talk = self.route.record, self.route.talk
        return call

    # The place where help is needed

    def _call_origin(self) -> None:
        found = self.board.routing.expand(self.match, (self.route.origin,))
        if found:
            target = found[0]
            got = self.board.lines.obtain(target, self.priority, lambda: self._dial_origin(target))
            if got is None:
                self._dial_origin(target)
            elif not isinstance(got, Waiter):
                self._no_origin(target, got[1])

    def _dial_origin(self, target: Target) -> None:
        if self._over:
            return
        refusal = self.board.lines.refusal(target)
        if refusal:
            self._no_origin(target, refusal[1])
            return
        self._origin = self.board.dial(
            self._new_call(), target, self, calling=self._calling, auto_answer=True
        )

    def _no_origin(self, target: Target, why: str) -> None:
        # Somebody asked for help there: people are called all the same, and hear the message.
        self.board.note(f"cannot reach {target}: {why}", trace=self.alarm.trace)

    # Reaching people

    def _next(self) -> None:
        """Call the next person; all of them when the strategy says so."""
        while not self._over and not self._people and not self._promised():
            if not self._queue and not self._new_round():
                return
            if self.route.strategy is Strategy.ALL:
                batch, self._queue = self._queue, []
            else:
                batch = [self._queue.pop(0)]
            for target in batch:
                self._reach(target)

    def _promised(self) -> bool:
        return any(waiter.timer for waiter in self._waiting.values())

    def _new_round(self) -> bool:
        """Fill the queue again; False when it is too early, or there are no more rounds."""
        if self._pause:
            return False
        if not self._rounds_left:
            self._maybe_exhausted()
            return False
        if self.board.now < self._next_round_at:
            self._pause = self.board.after(self._next_round_at - self.board.now, self._resume)
            return False
        self._rounds_left -= 1
        self._next_round_at = self.board.now + RETRY_S
        targets = self.board.routing.expand(self.match, self.route.targets)
        busy = {target for target, _ in self._people.values()} | set(self._waiting)
        self._queue = [target for target in targets if target not in busy]
        return bool(self._queue) or self._new_round()

    def _resume(self) -> None:
        self._pause = None
        self._next()

    def _reach(self, target: Target, *, noted: bool = False) -> None:
        if target in self._waiting:
            return
        got = self.board.lines.obtain(
            target, self.priority, lambda: self._freed(target), patient=True
        )
        if got is None:
            self._dial(target)
        elif isinstance(got, Waiter):
            self._waiting[target] = got
            if not got.timer:
                self.board.note(f"{target} is called when it is free", trace=self.alarm.trace)
        else:
            self.board.note(f"cannot reach {target}: {got[1]}", trace=self.alarm.trace)

    def _freed(self, target: Target) -> None:
        del self._waiting[target]
        refusal = self.board.lines.refusal(target)
        if refusal:
            self.board.note(f"cannot reach {target}: {refusal[1]}", trace=self.alarm.trace)
            self._next()
        else:
            self._dial(target)

    def _dial(self, target: Target) -> None:
        leg = self.board.dial(
            self._new_call(),
            target,
            self,
            calling=self._calling,
            display=self._display,
            auto_answer=self.route.auto_answer,
        )
        timer = self.board.after(self.route.ring_s, lambda: self._give_up(leg, Cause.NO_ANSWER))
        self._people[leg] = target, timer

    def _give_up(self, leg: Leg, cause: Cause) -> None:
        self._let_go(leg)
        detail = "ring time-out" if cause is Cause.NO_ANSWER else "not acknowledged"
        self.board.hangup(leg, cause, detail)
        self._next()

    def _let_go(self, leg: Leg) -> Target:
        target, timer = self._people.pop(leg)
        timer.cancel()
        leg.plan = None
        return target

    # Events of the legs

    def answered(self, leg: Leg) -> None:
        """Play the announcement; give the person time to acknowledge."""
        if leg is self._origin:
            ringback = Play(leg=leg.id, play=f"{leg.id}/ringback", tone="ringback", repeat=0)
            self.board.bridging.say(leg, ringback)
            return
        target, timer = self._people[leg]
        timer.cancel()
        if self.route.acknowledge == BY_ANSWER:
            self._accept(leg)
            return
        if self._meets and not self.route.acknowledge:
            by = leg.endpoint
            self._let_go(leg)
            self._hand_over(leg)
            if self.route.announce:
                # Heard by the person alone, over what comes from the place.
                self._announce(leg)
            self._close("delivered", by)
            return
        if self.route.announce:
            # Somebody who is to acknowledge hears it for as long as he may.
            self._announce(leg, repeat=0 if self.route.acknowledge else None)
        if self.route.acknowledge:
            timer = self.board.after(
                self.route.acknowledge_s, lambda: self._give_up(leg, Cause.NORMAL)
            )
            self._people[leg] = target, timer
        elif not self.route.announce:
            self._delivered_to(leg)

    def _announce(self, leg: Leg, *, repeat: int | None = None) -> str:
        announce = self.route.announce
        assert announce is not None
        text = self.match.expand(announce.text)
        return self.board.bridging.announce(leg, announce, text, repeat=repeat)

    def ended(self, leg: Leg) -> None:
        """Somebody hung up, was busy, or was displaced by a higher call."""
        if leg is self._origin:
            self._origin = None
            self._no_origin(Target(leg.endpoint), leg.detail or leg.cause or "it ended")
            return
        target, timer = self._people.pop(leg)
        timer.cancel()
        if leg.cause is Cause.PREEMPTED:
            self._reach(target)
        self._next()

    def digit(self, leg: Leg, digit: str) -> bool:
        """The acknowledging digit ends the alert everywhere."""
        if leg in self._people and digit == self.route.acknowledge:
            self._accept(leg)
        return True

    def talked(self, leg: Leg) -> bool:
        """Where talking acknowledges, so does the talk key of a radio or a station."""
        if leg not in self._people or self.route.acknowledge != BY_TALKING:
            return False
        self._accept(leg)
        return True

    def play_ended(self, leg: Leg, play: str) -> None:
        """The announcement was heard to its end."""
        if leg in self._people and not self.route.acknowledge:
            self._delivered_to(leg)

    def displaced(self, leg: Leg) -> bool:
        """The others are told all the same."""
        return True

    # Zones

    def page_call(self) -> Call:
        """Each zone has a call of its own, so that one may be displaced alone."""
        return self._new_call()

    def zone_answered(self, leg: Leg) -> None:
        """A zone listens."""
        if self.route.announce:
            self._announce(leg)
        else:
            self._page_limits[leg] = self.board.after(
                self.route.acknowledge_s, lambda: self.zone_played(leg)
            )

    def zone_played(self, leg: Leg) -> None:
        """A zone has heard the announcement."""
        self._delivered = True
        self._zones.release(leg, "announcement played")

    def zones_changed(self) -> None:
        """A zone is gone."""
        self._maybe_exhausted()

    # Somebody takes it

    @property
    def _meets(self) -> bool:
        return bool(self.route.conference or (self._origin and self._origin.live))

    def _accept(self, leg: Leg) -> None:
        by = leg.endpoint
        self._let_go(leg)
        if self._meets:
            self._hand_over(leg)
        elif self.route.acknowledge == BY_ANSWER and self.route.announce:
            # He has not heard yet what it is about.
            leg.plan = LastWords(self.board, self._announce(leg), detail="announcement played")
            limit = self.route.acknowledge_s
            self.board.after(limit, lambda: self.board.hangup(leg, detail="announcement played"))
        else:
            self.board.confirm_and_hang_up(leg)
        self.acknowledge(by)

    def _hand_over(self, leg: Leg) -> None:
        """Connect the person with the origin, or let him into the conference."""
        origin, self._origin = self._origin, None
        self.board.bridging.hush(leg)
        if self.route.conference:
            for each in (leg, origin):
                if each and each.connected:
                    self.board.bridging.hush(each)
                    each.plan = None
                    self.board.rooms.enter(self.route.conference, each)
            if origin and not origin.connected:
                origin.plan = None
                self.board.hangup(origin, Cause.CANCELLED, "it did not answer in time")
            return
        assert origin is not None
        self.board.move(leg, origin.call)
        if not origin.connected:
            Meeting(self.board, leg, origin, self.route.ring_s)
            return
        self.board.bridging.hush(origin)
        origin.plan = None
        self.board.connect(origin.call, origin, leg)

    def _delivered_to(self, leg: Leg) -> None:
        self._delivered = True
        self._let_go(leg)
        self.board.hangup(leg, Cause.NORMAL, "announcement played")
        if self.route.strategy is Strategy.ALL:
            self._next()
        else:
            self._close("delivered", leg.endpoint)

    def acknowledge(self, by: str) -> None:
        """Somebody took it in hand: stop everything and tell the source."""
        if self._over:
            return
        self.alarm.state, self.alarm.by = "acknowledged", by
        self.board.act(
            AcknowledgeAlarm(
                endpoint=self.alarm.endpoint,
                alarm=self.alarm.alarm,
                by=by,
                trace=self.alarm.trace,
            )
        )
        self._close("acknowledged", by)

    # The end

    def cleared(self) -> None:
        """The alarm went away by itself, or its panel was reset."""
        if stops_on_clear(self.route) and not self._over:
            self._close("cleared")

    def _maybe_exhausted(self) -> None:
        busy = self._people or self._waiting or self._queue or self._rounds_left or self._pause
        if self._over or busy or self._zones.busy:
            return
        if not self.route.targets and not self.route.page:
            # Nobody is to be told: the outputs stay until it is cleared or acknowledged.
            return
        self._close("delivered" if self._delivered and not self.route.acknowledge else "exhausted")

    def _close(self, outcome: str, by: str = "") -> None:
        self._over = True
        meeting = self.route.conference if outcome in ("acknowledged", "delivered") else ""
        for leg in list(self._people):
            target = self._let_go(leg)
            if meeting and not leg.connected:
                self.board.rooms.adopt(meeting, target, leg, self.route.ring_s)
            else:
                self.board.hangup(leg, Cause.ANSWERED_ELSEWHERE, outcome)
        if meeting:
            self.board.rooms.settle(meeting)
        self._zones.stop(outcome)
        if self._origin:
            self._origin.plan = None
            self.board.hangup(self._origin, Cause.NO_ANSWER, outcome)
        self._stop_timers()
        self.board.rest(self.route.outputs)
        if self.alarm.state == "active":
            self.alarm.state = outcome
        self.board.act(
            CloseAlarm(
                endpoint=self.alarm.endpoint,
                alarm=self.alarm.alarm,
                outcome=outcome,
                by=by,
                trace=self.alarm.trace,
            )
        )
        self.board.alarming.closed(self.alarm)

    def _stop_timers(self) -> None:
        for waiter in self._waiting.values():
            self.board.lines.drop(waiter)
        self._waiting.clear()
        for timer in (self._pause, *self._page_limits.values()):
            if timer:
                timer.cancel()

    def supersede(self) -> None:
        """Another route takes the alarm over: end what this one began, not the alarm."""
        self._over = True
        for leg in list(self._people):
            self._let_go(leg)
            self.board.hangup(leg, Cause.NORMAL, "the alarm became another one")
        self._zones.stop("the alarm became another one")
        if self._origin:
            self._origin.plan = None
            self.board.hangup(self._origin, Cause.NORMAL, "the alarm became another one")
        self._stop_timers()
        self.board.rest(self.route.outputs)
        self.alarm.plan = None

    def suspend(self) -> None:
        """The gateway stops: the legs are ended elsewhere, the alarm goes on after the restart."""
        self._over = True
        for leg in list(self._people):
            self._let_go(leg)
        self._zones.abandon()
        if self._origin:
            self._origin.plan = None
        self._stop_timers()
        self.alarm.plan = None
