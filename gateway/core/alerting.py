"""Alert: tell people until somebody takes it in hand.

An alarm (or an input) pages zones, switches outputs and calls people: one after the other or all
at once. Whoever answers hears the announcement and presses the acknowledging digit; that stops
everything, everywhere, and the alarm's source is told. Nobody does: next person, next round, and
at last the alarm is closed as exhausted, which is an event of its own and never silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.core.actions import (
    AcknowledgeAlarm,
    CloseAlarm,
    OpenAlarm,
    Play,
    SetOutput,
    StopPlay,
)
from gateway.core.calls import Call, Leg
from gateway.core.causes import Cause
from gateway.core.endpoints import Target
from gateway.core.events import Severity
from gateway.core.routes import Match, Strategy
from gateway.core.timers import Timer

if TYPE_CHECKING:
    from gateway.core.switchboard import Switchboard

# How long a confirmation tone is waited for before the call ends anyway.
CONFIRM_S = 3.0
# A busy person is tried again only after the others; without anybody else, after this.
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
    """``active``, ``acknowledged``, ``cleared`` or ``exhausted``."""
    by: str = ""
    gone: bool = False
    """The cause went away, but the route wants an acknowledgement all the same."""
    route: str = ""
    plan: Alert | None = None


class Alert:
    """The plan of one alarm."""

    def __init__(self, board: Switchboard, alarm: Alarm, match: Match) -> None:
        self.board, self.alarm, self.match = board, alarm, match
        self.route = match.route.route
        self._rounds_left = self.route.rounds
        self._queue: list[Target] = []
        self._calls: dict[Leg, Timer] = {}
        self._pages: dict[Leg, Timer | None] = {}
        self._waiting: set[Target] = set()
        self._timers: list[Timer] = []
        self._over = False
        self._delivered = False

    def begin(self) -> None:
        """Switch outputs, open pages and call the first person."""
        alarm, act = self.alarm, self.board.act
        act(
            OpenAlarm(
                endpoint=alarm.endpoint, alarm=alarm.alarm, route=self.route.name, trace=alarm.trace
            )
        )
        for setting in self.route.outputs:
            act(
                SetOutput(
                    endpoint=setting.endpoint,
                    output=setting.output,
                    value=setting.value,
                    pulse_ms=setting.pulse_ms,
                )
            )
        for target in self.match.targets(self.route.page):
            self._reach(target, page=True)
        self._queue = self._round()
        self._next()

    def _round(self) -> list[Target]:
        if not self._rounds_left:
            return []
        self._rounds_left -= 1
        return self.match.targets(self.route.targets)

    # Reaching people

    def _next(self) -> None:
        """Call the next person; all of them when the strategy says so."""
        while not self._over and not self._calls and not self._waiting:
            if not self._queue:
                self._queue = self._round()
            if not self._queue:
                self._maybe_exhausted()
                return
            if self.route.strategy is Strategy.ALL:
                batch, self._queue = self._queue, []
            else:
                batch = [self._queue.pop(0)]
            before = len(self._calls) + len(self._waiting)
            for target in batch:
                self._reach(target, page=False)
            if len(self._calls) + len(self._waiting) == before and not self._queue:
                # Nobody could be called at all; do not spin through the rounds at once.
                if self._rounds_left:
                    self._timers.append(self.board.after(RETRY_S, self._next))
                else:
                    self._maybe_exhausted()
                return

    def _reach(self, target: Target, *, page: bool) -> None:
        board, priority = self.board, self.match.route.priority
        refusal = board.unfit(target)
        if refusal:
            board.note(f"cannot reach {target}: {refusal[1]}", trace=self.alarm.trace)
            return
        if board.seize(target.endpoint, priority):
            self._dial(target, page=page)
            return
        probe = Call(id="", trace=self.alarm.trace, demanded_at=0.0, priority=priority)
        if board.preempt(target.endpoint, probe):
            self._waiting.add(target)
            board.when_free(target.endpoint, lambda: self._freed(target, page=page))
        else:
            board.note(f"cannot reach {target}: it is in use", trace=self.alarm.trace)

    def _freed(self, target: Target, *, page: bool) -> None:
        if target in self._waiting:
            self._waiting.discard(target)
            if not self._over:
                self._reach(target, page=page)
                self._next()

    def _dial(self, target: Target, *, page: bool) -> None:
        board, alarm = self.board, self.alarm
        call = board.new_call(
            trace=alarm.trace, demanded_at=alarm.raised_at, priority=self.match.route.priority
        )
        call.route = self.route.name
        call.why = f"alarm {alarm.alarm} of {alarm.endpoint}"
        leg = board.dial(
            call,
            target,
            self,
            calling=self.route.calling_as or alarm.endpoint,
            display=alarm.text or alarm.kind or alarm.alarm,
            auto_answer=page or self.route.auto_answer,
            one_way=page,
        )
        if page:
            self._pages[leg] = None
        else:
            self._calls[leg] = board.after(self.route.ring_s, lambda: self._no_answer(leg))

    def _no_answer(self, leg: Leg) -> None:
        self._calls.pop(leg, None)
        leg.plan = None
        self.board.hangup(leg, Cause.NO_ANSWER, "ring time-out")
        self._next()

    def _no_acknowledgement(self, leg: Leg) -> None:
        self._calls.pop(leg, None)
        leg.plan = None
        self.board.hangup(leg, Cause.NORMAL, "not acknowledged")
        self._next()

    # Events of the legs

    def ringing(self, leg: Leg) -> None:
        """Nothing to tell anybody."""

    def progressed(self, leg: Leg) -> None:
        """An answering machine's greeting is no answer."""

    def answered(self, leg: Leg) -> None:
        """Play the announcement; give the person time to acknowledge."""
        if self._over:
            return
        page = leg in self._pages
        announce = self.route.announce
        if announce:
            self.board.act(
                Play(
                    leg=leg.id,
                    play=f"{leg.id}/announce",
                    file=announce.file,
                    tone=announce.tone,
                    text=self.match.expand(announce.text),
                    # Somebody who is to acknowledge hears it for as long as he may.
                    repeat=0 if self.route.acknowledge and not page else announce.repeat,
                    gap_s=announce.gap_s,
                )
            )
        if page:
            if not announce:
                self._pages[leg] = self.board.after(
                    self.route.acknowledge_s, lambda: self._page_over(leg)
                )
            return
        self._calls[leg].cancel()
        if self.route.acknowledge:
            self._calls[leg] = self.board.after(
                self.route.acknowledge_s, lambda: self._no_acknowledgement(leg)
            )
        elif not announce:
            self._delivered_to(leg)

    def ended(self, leg: Leg) -> None:
        """Somebody hung up, was busy, or the page is over."""
        if leg in self._pages:
            del self._pages[leg]
            if not self._over:
                self._maybe_exhausted()
            return
        timer = self._calls.pop(leg, None)
        if timer:
            timer.cancel()
        if not self._over:
            self._next()

    def digit(self, leg: Leg, digit: str) -> bool:
        """The acknowledging digit ends the alert everywhere."""
        if self._over or leg not in self._calls:
            return False
        if self.route.acknowledge and digit == self.route.acknowledge:
            self._calls.pop(leg).cancel()
            leg.plan = None
            self.board.confirm_and_hang_up(leg)
            self.acknowledge(leg.endpoint)
        return True

    def play_ended(self, leg: Leg, play: str) -> None:
        """The announcement was heard to its end."""
        if self._over:
            return
        if leg in self._pages:
            self._page_over(leg)
        elif leg in self._calls and not self.route.acknowledge:
            self._delivered_to(leg)

    def _page_over(self, leg: Leg) -> None:
        self._delivered = True
        self.board.hangup(leg, Cause.NORMAL, "announcement played")

    def _delivered_to(self, leg: Leg) -> None:
        self._delivered = True
        self._calls.pop(leg).cancel()
        leg.plan = None
        self.board.hangup(leg, Cause.NORMAL, "announcement played")
        if self.route.strategy is Strategy.ALL:
            self._next()
        else:
            self._close("delivered", leg.endpoint)

    # The end

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

    def cleared(self) -> None:
        """The alarm went away by itself, or its panel was reset."""
        if self.route.stop_on_clear and not self._over:
            self._close("cleared", "")

    def _maybe_exhausted(self) -> None:
        if self._over or self._calls or self._waiting or self._queue or self._rounds_left:
            return
        if self._pages:
            return
        self._close("delivered" if self._delivered and not self.route.acknowledge else "exhausted")

    def _close(self, outcome: str, by: str = "") -> None:
        self._over = True
        for timer in self._timers:
            timer.cancel()
        for leg, timer in self._calls.items():
            timer.cancel()
            leg.plan = None
            self.board.hangup(leg, Cause.ANSWERED_ELSEWHERE, outcome)
        for leg, page_timer in self._pages.items():
            if page_timer:
                page_timer.cancel()
            self.board.act(StopPlay(leg=leg.id, play=f"{leg.id}/announce"))
            leg.plan = None
            self.board.hangup(leg, Cause.NORMAL, outcome)
        self._calls.clear()
        self._pages.clear()
        for setting in self.route.outputs:
            if setting.after is not None:
                self.board.act(
                    SetOutput(endpoint=setting.endpoint, output=setting.output, value=setting.after)
                )
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
        self.alarm.plan = None
