"""Alarms: which are known, what they started, and inputs that act like them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.core.actions import AcknowledgeAlarm, Command
from gateway.core.alerting import Alarm, Alert
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
"""Alarms that nobody is being told of are forgotten beyond this, those that are over first."""


class Alarms:
    """The alarms of a switchboard and the plans they started."""

    def __init__(self, board: Switchboard) -> None:
        self.board = board
        self._matched: dict[tuple[str, str], str] = {}
        """Inputs (or ``input/quality``) whose present value a route has taken, and the route."""

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
                self.closed(known)
        return done

    def closed(self, alarm: Alarm) -> None:
        """Nothing more is done about an alarm; one whose cause is gone is forgotten."""
        alarm.plan = None
        key = alarm.endpoint, alarm.alarm
        if (alarm.gone or alarm.state == "cleared") and self.board.alarms.get(key) is alarm:
            del self.board.alarms[key]

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
        match, refusals = self.board.table.match(event, self.board.wall)
        if match is None:
            why = "; ".join(f"{name}: {reason}" for name, reason in refusals) or "no routes"
            self.board.note(f"no route for alarm {event.alarm}: {why}", trace=event.trace)
            return
        self._alert(alarm, match)

    def _worsened(self, known: Alarm, event: AlarmRaised) -> None:
        """More severe than before: perhaps a matter for another route."""
        known.severity, known.text = event.severity, event.text or known.text
        known.kind = event.kind or known.kind
        self.board.note(f"alarm {event.alarm} is now {event.severity.name}", trace=known.trace)
        match, _ = self.board.table.match(event, self.board.wall)
        if match and (known.plan is None or match.route.name != known.route):
            if known.plan:
                known.plan.supersede()
            self._alert(known, match)

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
            self.board.note(f"alarm {alarm.alarm} waits for the restart", trace=alarm.trace)
            return
        alarm.plan = Alert(self.board, alarm, match)
        self.board.testing.alarmed(alarm)
        alarm.plan.begin()

    def _keep(self, key: tuple[str, str], alarm: Alarm) -> None:
        alarms = self.board.alarms
        alarms.pop(key, None)
        alarms[key] = alarm
        if len(alarms) > ALARMS_KEPT:
            idle = [k for k, known in alarms.items() if known.plan is None and known is not alarm]
            over = next((k for k in idle if alarms[k].state != "active"), None)
            forgotten = over or next(iter(idle), None)
            if forgotten:
                del alarms[forgotten]
                if not over:
                    place, name = forgotten
                    self.board.note(
                        f"alarm {name} of {place} is forgotten: {ALARMS_KEPT} newer ones wait"
                    )

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
        if known.plan:
            known.plan.cleared()
        else:
            self.closed(known)
        return True

    # Inputs

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
            name = f"{name}/{event.quality}"
        key = (event.endpoint, name)
        match, _ = self.board.table.match(event, self.board.wall)
        if match is None:
            self._ended(key)
        elif self._matched.get(key) != match.route.name:
            self._matched[key] = match.route.name
            self._began(key, event, match)

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
        if known and known.plan:
            known.gone = False
            if known.route == route.name:
                return
            known.plan.supersede()
            trace = known.trace
        alarm = Alarm(
            endpoint=event.endpoint,
            alarm=key[1],
            kind="input",
            severity=Severity.WARNING if event.quality is Quality.GOOD else Severity.MINOR,
            text=f"{event.input} is {event.value:g}",
            trace=trace,
            raised_at=self.board.now,
        )
        self._keep(key, alarm)
        self._alert(alarm, match)

    def forget(self, endpoint: str) -> None:
        """The endpoint is gone for good: its inputs have no value any more."""
        for key in [key for key in self.board.inputs if key[0] == endpoint]:
            del self.board.inputs[key]
        for key in [key for key in self._matched if key[0] == endpoint]:
            # What it raised goes on: that a sensor is gone does not mean that the danger is.
            del self._matched[key]
