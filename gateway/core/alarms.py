"""Alarms: which are known, what they started, and inputs that act like them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.core.actions import AcknowledgeAlarm
from gateway.core.alerting import Alarm, Alert
from gateway.core.endpoints import Target
from gateway.core.events import (
    AcknowledgeRequested,
    AlarmAcknowledged,
    AlarmCleared,
    AlarmRaised,
    InputChanged,
    Quality,
    Severity,
)
from gateway.core.hunting import Callback
from gateway.core.routes import Match, Strategy

if TYPE_CHECKING:
    from gateway.core.switchboard import Switchboard

_ALARMS_KEPT: Final = 1000


class Alarms:
    """The alarms of a switchboard and the plans they started."""

    def __init__(self, board: Switchboard) -> None:
        self.board = board
        self._matched_inputs: dict[tuple[str, str], Alarm] = {}

    def acknowledge(self, endpoint: str, alarm: str, by: str) -> int:
        """Acknowledge an alarm (every alarm of the endpoint without a name); how many it was."""
        done = 0
        for (place, name), known in list(self.board.alarms.items()):
            if place == endpoint and alarm in ("", name) and known.state == "active":
                done += 1
                if known.plan:
                    known.plan.acknowledge(by)
                else:
                    known.state, known.by = "acknowledged", by
                    self.board.act(
                        AcknowledgeAlarm(endpoint=place, alarm=name, by=by, trace=known.trace)
                    )
                if known.gone:
                    del self.board.alarms[(place, name)]
        return done

    def raised(self, event: AlarmRaised) -> None:
        """An alarm: start its plan, unless it runs already."""
        key = (event.endpoint, event.alarm)
        known = self.board.alarms.get(key)
        if known and known.state == "active" and event.severity <= known.severity:
            self.board.ignore(event)
            return
        if known and known.plan:
            known.severity, known.text = event.severity, event.text
            self.board.note(f"alarm {event.alarm} is now {event.severity.name}", trace=known.trace)
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

    def _alert(self, alarm: Alarm, match: Match) -> None:
        route = match.route.route
        alarm.route = route.name
        self.board.note(
            f"route {route.name!r} takes alarm {alarm.alarm} of {alarm.endpoint}",
            trace=alarm.trace,
            route=route.name,
        )
        alarm.plan = Alert(self.board, alarm, match)
        alarm.plan.begin()

    def _keep(self, key: tuple[str, str], alarm: Alarm) -> None:
        self.board.alarms.pop(key, None)
        self.board.alarms[key] = alarm
        if len(self.board.alarms) > _ALARMS_KEPT:
            over = next(
                (k for k, known in self.board.alarms.items() if known.state != "active"), None
            )
            if over:
                del self.board.alarms[over]

    def acknowledged(self, event: AlarmAcknowledged | AcknowledgeRequested) -> None:
        """Somebody took it in hand outside of a call of ours."""
        self.acknowledge(event.endpoint, event.alarm, event.by or event.endpoint)

    def cleared(self, event: AlarmCleared) -> None:
        """The alarm went away by itself or was reset."""
        known = self.board.alarms.get((event.endpoint, event.alarm))
        if known is None:
            self.board.ignore(event)
            return
        if known.plan:
            known.plan.cleared()
        known.gone = True
        if known.plan is None:
            del self.board.alarms[(event.endpoint, event.alarm)]

    def input_changed(self, event: InputChanged) -> None:
        """An input: start a plan when it begins to match a route, end it when it stops."""
        key = (event.endpoint, event.input)
        self.board.inputs[key] = event
        running = self._matched_inputs.get(key)
        match, _ = self.board.table.match(event, self.board.wall)
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
            trace=event.trace or self.board.new_id(),
            raised_at=self.board.now,
        )
        self._matched_inputs[key] = alarm
        route = match.route.route
        if route.origin:
            call = self.board.new_call(
                trace=alarm.trace, demanded_at=self.board.now, priority=match.route.priority
            )
            call.route, call.why = route.name, f"{event.input} of {event.endpoint}"
            targets = self.board.expand(match)
            groups = [targets] if route.strategy is Strategy.ALL else [[t] for t in targets]
            Callback(self.board, call, groups, ring_s=route.ring_s).begin(
                Target.parse(match.expand(route.origin)), auto_answer=True
            )
            return
        self._keep(key, alarm)
        self._alert(alarm, match)
