"""Alarms: which are known, what they started, and inputs that act like them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.core.actions import AcknowledgeAlarm, CloseAlarm, Command
from gateway.core.alerting import Alarm, Alert, stops_on_clear
from gateway.core.events import (
    AcknowledgeRequested,
    AlarmAcknowledged,
    AlarmCleared,
    AlarmRaised,
    InputChanged,
    Quality,
    Severity,
)
from gateway.core.routes import Match

if TYPE_CHECKING:
    from gateway.core.switchboard import Switchboard

ALARMS_KEPT: Final = 1000
"""Alarms that are known at a time. Beyond it those that are over are forgotten, then the least
severe is dropped, which is an outcome of its own."""
ALERTS: Final = 200
"""Alarms that people are told of at a time; others wait, the most severe for the shortest time."""
OWN: Final = "gateway/"
"""Alarms of the gateway itself, such as that alarms are dropped: they are never in the way."""


class Alarms:
    """The alarms of a switchboard and the plans they started."""

    def __init__(self, board: Switchboard) -> None:
        self.board = board
        self._matched: dict[tuple[str, str], str] = {}
        """Inputs (or ``input/quality``) whose present value a route has taken, and the route."""
        self._waiting: dict[tuple[str, str], tuple[Alarm, Match]] = {}
        """Alarms whose turn has not come: oldest first."""
        self._serving = False

    def acknowledge(self, endpoint: str, alarm: str, by: str) -> int:
        """Acknowledge an alarm (every alarm of the endpoint without a name); how many it was."""
        done = 0
        for (place, name), known in list(self.board.alarms.items()):
            if place == endpoint and alarm in ("", name) and known.state == "active":
                done += 1
                if known.plan:
                    known.plan.acknowledge(by)
                    continue
                known.state, known.by = "acknowledged", by
                self.board.act(
                    AcknowledgeAlarm(endpoint=place, alarm=name, by=by, trace=known.trace)
                )
                self._no_more(known, "acknowledged", by)
        return done

    def _no_more(self, alarm: Alarm, outcome: str, by: str = "") -> None:
        """Nobody needs to be told any more of an alarm that nobody is being told of."""
        if self._waiting.pop((alarm.endpoint, alarm.alarm), None) or outcome == "dropped":
            self._close(alarm, outcome, by)
        self.closed(alarm)

    def closed(self, alarm: Alarm) -> None:
        """Nothing more is done about an alarm; one whose cause is gone is forgotten."""
        alarm.plan = None
        key = alarm.endpoint, alarm.alarm
        if (alarm.gone or alarm.state == "cleared") and self.board.alarms.get(key) is alarm:
            del self.board.alarms[key]
        self._next()

    def _next(self) -> None:
        """Somebody is free to be told of the next one."""
        if self._serving:
            return  # one that ends as it begins: whoever is below us takes the next
        self._serving = True
        try:
            while self._waiting and not self.board.closed and self._n_alerts() < ALERTS:
                # max() answers with the first of equals: the oldest.
                key = max(self._waiting, key=lambda each: _rank(*self._waiting[each]))
                alarm, match = self._waiting.pop(key)
                self._begin(alarm, match)
        finally:
            self._serving = False

    def _n_alerts(self) -> int:
        return sum(
            each.plan is not None and not each.endpoint.startswith(OWN)
            for each in self.board.alarms.values()
        )

    def raised(self, event: AlarmRaised) -> None:
        """An alarm: start its plan, unless it runs already."""
        key = (event.endpoint, event.alarm)
        known = self.board.alarms.get(key)
        if known and known.state == "active":
            known.gone = False
            if event.severity <= known.severity:
                self.board.ignore(event)
            else:
                self._worsened(known, event)
            return
        if (
            known
            and known.state == "acknowledged"
            and not known.gone
            and event.standing
            and event.severity <= known.severity
            and event.kind == known.kind
        ):
            # Its source was lost sight of and says what it said before.
            self._in_hand(known, known.by)
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
        match, refusals = self.board.table.match(event, self.board.wall)
        if not self._keep(key, alarm, match):
            return
        if event.by:
            self._in_hand(alarm, event.by)
            return
        if match is None:
            why = "; ".join(f"{name}: {reason}" for name, reason in refusals) or "no routes"
            self.board.note(f"no route for alarm {event.alarm}: {why}", trace=event.trace)
            return
        self._alert(alarm, match)

    def _in_hand(self, alarm: Alarm, by: str) -> None:
        """Somebody took it in hand before, and it has not been over since."""
        alarm.state, alarm.by = "acknowledged", by
        self.board.note(
            f"alarm {alarm.alarm} of {alarm.endpoint} is still acknowledged by {by}",
            trace=alarm.trace,
        )
        self._close(alarm, "acknowledged", by)

    def _close(self, alarm: Alarm, outcome: str, by: str = "") -> None:
        self.board.act(
            CloseAlarm(
                endpoint=alarm.endpoint,
                alarm=alarm.alarm,
                outcome=outcome,
                by=by,
                trace=alarm.trace,
            )
        )

    def _worsened(self, known: Alarm, event: AlarmRaised) -> None:
        """More severe than before: perhaps a matter for another route."""
        known.severity, known.text = event.severity, event.text or known.text
        known.kind = event.kind or known.kind
        self.board.note(f"alarm {event.alarm} is now {event.severity.name}", trace=known.trace)
        match, _ = self.board.table.match(event, self.board.wall)
        if match and (known.plan is None or match.route.name != known.route):
            if known.plan:
                known.plan.supersede()
            self._waiting.pop((known.endpoint, known.alarm), None)
            self._alert(known, match)

    def match_again(self) -> None:
        """There are other routes: perhaps one for an alarm that none took."""
        for alarm in list(self.board.alarms.values()):
            if alarm.state != "active" or alarm.plan or alarm.route or alarm.gone:
                continue
            event = AlarmRaised(
                endpoint=alarm.endpoint,
                alarm=alarm.alarm,
                kind=alarm.kind,
                severity=alarm.severity,
                text=alarm.text,
                trace=alarm.trace,
                raised_at=alarm.raised_at,
            )
            match, _ = self.board.table.match(event, self.board.wall)
            if match is not None:
                self._alert(alarm, match)

    def _alert(self, alarm: Alarm, match: Match) -> None:
        route = match.route.route
        alarm.route = route.name
        self.board.note(
            f"route {route.name!r} takes alarm {alarm.alarm} of {alarm.endpoint}",
            trace=alarm.trace,
            route=route.name,
        )
        if self.board.closed:
            # What nobody can be told any more is carried out by the next run.
            self._waiting[alarm.endpoint, alarm.alarm] = alarm, match
            self.board.note(f"alarm {alarm.alarm} waits for the restart", trace=alarm.trace)
            return
        if not alarm.endpoint.startswith(OWN) and self._n_alerts() >= ALERTS:
            self._wait(alarm, match)
        else:
            self._begin(alarm, match)

    def _begin(self, alarm: Alarm, match: Match) -> None:
        alarm.plan = Alert(self.board, alarm, match)
        self.board.testing.alarmed(alarm)
        alarm.plan.begin()

    def _wait(self, alarm: Alarm, match: Match) -> None:
        """Too many at once: the least severe of those that people are told of makes room."""
        told = [
            each for each in self.board.alarms.values()
            if each.plan and not each.endpoint.startswith(OWN)
        ]  # fmt: skip
        least = min(
            reversed(told), key=lambda each: _rank(each, each.plan.match if each.plan else None)
        )
        assert least.plan is not None
        begins = _rank(alarm, match) > _rank(least, least.plan.match)
        waits, with_ = (least, least.plan.match) if begins else (alarm, match)
        if begins:
            least.plan.supersede()
        self._waiting[waits.endpoint, waits.alarm] = waits, with_
        self.board.note(
            f"alarm {waits.alarm} of {waits.endpoint} waits: people are told of {ALERTS} others",
            trace=waits.trace,
        )
        if begins:
            self._begin(alarm, match)

    def _keep(self, key: tuple[str, str], alarm: Alarm, match: Match | None) -> bool:
        """Know an alarm; False when it is the one that there is no room for."""
        alarms = self.board.alarms
        alarms.pop(key, None)
        alarms[key] = alarm
        if len(alarms) <= ALARMS_KEPT:
            return True
        idle = [
            known for known in alarms.values()
            if known.plan is None and not known.endpoint.startswith(OWN)
        ]  # fmt: skip
        over = next((known for known in idle if known.state != "active"), None)
        if over is not None:
            del alarms[over.endpoint, over.alarm]
            return True
        # min() answers with the first of equals: the oldest, of which nobody could be told so long.
        least = min(idle, key=lambda known: self._rank_of(known, alarm, match), default=alarm)
        del alarms[least.endpoint, least.alarm]
        least.state = "dropped"
        self.board.note(
            f"alarm {least.alarm} of {least.endpoint} is dropped: there are {ALARMS_KEPT} that are "
            "as severe or more",
            trace=least.trace,
        )
        self._no_more(least, "dropped")
        return least is not alarm

    def _rank_of(self, known: Alarm, newest: Alarm, match: Match | None) -> int:
        if known is newest:
            return _rank(known, match)
        waiting = self._waiting.get((known.endpoint, known.alarm))
        return _rank(known, waiting[1] if waiting else None)

    def suspend(self) -> None:
        """The gateway stops: what is being done about alarms ends without an outcome."""
        for alarm in self.board.alarms.values():
            if alarm.plan:
                alarm.plan.suspend()

    def acknowledged(self, event: AlarmAcknowledged | AcknowledgeRequested) -> None:
        """Somebody took it in hand outside of a call of ours."""
        if not self.acknowledge(event.endpoint, event.alarm, event.by or event.endpoint):
            self.board.ignore(event)

    def cleared(self, event: AlarmCleared) -> None:
        """The alarm went away by itself or was reset."""
        if not self._clear(event.endpoint, event.alarm):
            self.board.ignore(event)

    def _clear(self, endpoint: str, name: str) -> bool:
        known = self.board.alarms.get((endpoint, name))
        if known is None:
            return False
        known.gone = True
        waiting = self._waiting.get((endpoint, name))
        if known.plan:
            known.plan.cleared()
        elif waiting is None:
            if known.state == "active" and not known.route:
                # Nobody was told and nobody waits: it is over here, and no plan says so.
                self._close(known, "cleared")
            self.closed(known)
        elif stops_on_clear(waiting[1].route.route):
            known.state = "cleared"
            self._no_more(known, "cleared")
        return True

    # Inputs

    def begins(self, event: InputChanged, wall: float) -> bool:
        """Whether an input would begin an alarm now, at this wall-clock time."""
        match, _ = self.board.table.match(event, wall)
        if match is None or match.route.route.command:
            return False
        return self._matched.get((event.endpoint, event.alarm)) != match.route.name

    def taken_by(self, event: InputChanged, wall: float) -> str:
        """The route that takes an input at this wall-clock time; empty: none."""
        match, _ = self.board.table.match(event, wall)
        return "" if match is None else match.route.name

    def input_changed(self, event: InputChanged) -> None:
        """An input: what a route does begins when the value does, and ends with it.

        A value that is not good says nothing about the thing measured: it neither raises nor
        clears what a value raised. That the source is lost can be a route's matter of its own.
        """
        self.board.inputs[(event.endpoint, event.input)] = event
        name = event.input
        if event.quality is Quality.GOOD:
            for lost in (Quality.STALE, Quality.BAD):
                self._ended((event.endpoint, f"{name}/{lost}"))
        else:
            other = Quality.BAD if event.quality is Quality.STALE else Quality.STALE
            self._ended((event.endpoint, f"{name}/{other}"))
        key = (event.endpoint, event.alarm)
        match, _ = self.board.table.match(event, self.board.wall)
        if match is None:
            self._ended(key)
            if event.raised_at is not None:
                self._unrouted(event)
        elif self._matched.get(key) != match.route.name:
            self._matched[key] = match.route.name
            self._began(key, event, match)

    def _unrouted(self, event: InputChanged) -> None:
        """It began an alarm before a restart, and the routes are others now."""
        text = f"no route takes {event.alarm} of {event.endpoint} any more: its alarm is over"
        self.board.note(text, trace=event.trace)
        self.board.act(
            CloseAlarm(
                endpoint=event.endpoint, alarm=event.alarm, outcome="unrouted", trace=event.trace
            )
        )

    def _ended(self, key: tuple[str, str]) -> None:
        if self._matched.pop(key, None) is not None:
            self._clear(*key)

    def _began(self, key: tuple[str, str], event: InputChanged, match: Match) -> None:
        route = match.route.route
        trace = event.trace or self.board.new_id()
        by = f"{event.endpoint}/{event.input}"
        if route.command:
            self.board.note(f"route {route.name!r} by {by}", trace=trace, route=route.name)
            if route.command.verb == "ACKNOWLEDGE":
                self.acknowledge(route.command.endpoint, "", by)
            else:
                self.board.act(
                    Command(
                        command=self.board.new_id(),
                        endpoint=route.command.endpoint,
                        verb=route.command.verb,
                        by=by,
                        trace=trace,
                    )
                )
            return
        known = self.board.alarms.get(key)
        if known and (known.plan or key in self._waiting):
            known.gone = False
            if known.route == route.name:
                return
            if known.plan:
                known.plan.supersede()
            self._waiting.pop(key, None)
            trace = known.trace
        alarm = Alarm(
            endpoint=event.endpoint,
            alarm=key[1],
            kind="input",
            severity=Severity.WARNING if event.quality is Quality.GOOD else Severity.MINOR,
            text=f"{event.input} is {event.value:g}",
            trace=trace,
            raised_at=self.board.now if event.raised_at is None else event.raised_at,
        )
        if not self._keep(key, alarm, match):
            return
        if event.by:
            alarm.route = route.name
            self._in_hand(alarm, event.by)
        else:
            self._alert(alarm, match)

    def forget(self, endpoint: str) -> None:
        """The endpoint is gone for good: its inputs have no value any more."""
        for key in [key for key in self.board.inputs if key[0] == endpoint]:
            del self.board.inputs[key]
        for key in [key for key in self._matched if key[0] == endpoint]:
            # What it raised goes on: that a sensor is gone does not mean that the danger is.
            del self._matched[key]


def _rank(alarm: Alarm, match: Match | None) -> int:
    """Who is told first, and dropped last: by severity, or by the route's priority if it says more.

    An emergency button has no severity of its own; the route knows what it is.
    """
    priority = int(match.route.priority) + 1 if match is not None else 0
    return max(int(alarm.severity), priority)
