"""Which alarms are not over: what a restart must carry on."""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.core.actions import AcknowledgeAlarm, CloseAlarm, OpenAlarm
from gateway.core.envelope import Envelope
from gateway.core.events import AlarmAcknowledged, AlarmCleared, AlarmRaised, InputChanged


class OpenAlarms:
    """Which alarms a stream of envelopes leaves open: driven by `see`."""

    SEES: Final = frozenset(
        (
            AlarmRaised, InputChanged, OpenAlarm, CloseAlarm, AlarmCleared, AlarmAcknowledged,
            AcknowledgeAlarm,
        )
    )  # fmt: skip
    """Bodies that matter to it; it need not be driven with others."""

    def __init__(self) -> None:
        self._raised: dict[tuple[str, str], Envelope] = {}
        self._planned: dict[tuple[str, str], Envelope] = {}

    def see(self, envelope: Envelope) -> None:
        """Follow one envelope."""
        body = envelope.body
        if isinstance(body, AlarmRaised):
            self._keep(envelope, body)
        elif isinstance(body, InputChanged) and body.raised_at is not None:
            # The newest value is the one that the present routes are to be asked about.
            self._raised[body.endpoint, body.alarm] = envelope
        elif isinstance(body, OpenAlarm):
            self._planned[body.endpoint, body.alarm] = envelope
        elif isinstance(body, CloseAlarm):
            self._raised.pop((body.endpoint, body.alarm), None)
            self._planned.pop((body.endpoint, body.alarm), None)
        elif isinstance(body, AlarmCleared | AlarmAcknowledged | AcknowledgeAlarm):
            # An alarm that no route answers never gets a plan, so nothing would ever close it.
            # One with a plan stays open until the plan itself is over.
            key = body.endpoint, body.alarm
            if key not in self._planned:
                self._raised.pop(key, None)

    def _keep(self, envelope: Envelope, alarm: AlarmRaised) -> None:
        """The same alarm again is the old one, at its worst."""
        key = alarm.endpoint, alarm.alarm
        known = self._raised.get(key)
        if known is None:
            self._raised[key] = envelope
            return
        before = known.event
        if not isinstance(before, AlarmRaised):
            self._raised[key] = envelope
        elif alarm.severity > before.severity:
            worse = msgspec.structs.replace(alarm, raised_at=before.raised_at, trace=before.trace)
            self._raised[key] = msgspec.structs.replace(known, event=worse)

    def envelopes(self) -> list[Envelope]:
        """What has to be known again to be in the same state."""
        return [*self._raised.values(), *self._planned.values()]

    def raised(self, *, now: float, at: float) -> list[AlarmRaised | InputChanged]:
        """What began the open alarms, oldest first, `raised_at` moved to the present clock.

        now: monotonic clock, at: wall clock, both seconds and both of this moment.
        """
        found = []
        for envelope in self._raised.values():
            alarm = envelope.event
            assert isinstance(alarm, AlarmRaised | InputChanged)
            assert alarm.raised_at is not None
            age = max(0.0, envelope.mono - alarm.raised_at) + max(0.0, at - envelope.at)
            found.append((age, msgspec.structs.replace(alarm, raised_at=now - age)))
        return [alarm for _, alarm in sorted(found, key=lambda pair: -pair[0])]
