"""Which alarms are not over: what a restart must carry on."""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.core.actions import AcknowledgeAlarm, CloseAlarm, OpenAlarm
from gateway.core.envelope import Envelope
from gateway.core.events import AlarmAcknowledged, AlarmCleared, AlarmRaised, InputChanged


class OpenAlarms:
    """Which alarms a stream of envelopes leaves open: driven by `see`, `settle`, `begin_run`.

    An alarm is written down ahead of the events that wait for the switchboard, so a clear that
    came before it may stand behind it. What nobody has acted on yet, nothing ends.
    """

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
        self._ahead: dict[str, Envelope] = {}
        """Of those raised, by the envelope's id: what nobody has acted on yet."""
        self._behind: dict[tuple[str, str], dict[str, Envelope]] = {}
        """The same, by alarm."""
        self._stale: set[tuple[str, str]] = set()
        """Plans of an earlier run: whether this one has any is seen when it acts on the alarm."""

    def see(self, envelope: Envelope) -> None:
        """Follow one envelope."""
        body = envelope.body
        if isinstance(body, AlarmRaised | InputChanged):
            if isinstance(body, AlarmRaised) or body.raised_at is not None:
                key = body.endpoint, body.alarm
                self._ahead[envelope.id] = envelope
                self._behind.setdefault(key, {})[envelope.id] = envelope
                if key in self._stale:
                    self._stale.discard(key)
                    self._planned.pop(key, None)
                self._keep(envelope)
        elif isinstance(body, OpenAlarm):
            self._stale.discard((body.endpoint, body.alarm))
            self._planned[body.endpoint, body.alarm] = envelope
        elif isinstance(body, CloseAlarm):
            self._planned.pop((body.endpoint, body.alarm), None)
            self._end((body.endpoint, body.alarm))
        elif isinstance(body, AlarmCleared | AlarmAcknowledged | AcknowledgeAlarm):
            # An alarm that no route answers never gets a plan, so nothing would ever close it.
            # One with a plan stays open until the plan itself is over.
            key = body.endpoint, body.alarm
            if key not in self._planned:
                self._end(key)

    def settle(self, envelope: str) -> None:
        """The alarm of the envelope of this id was acted on, or nobody will."""
        settled = self._ahead.pop(envelope, None)
        if settled is not None:
            behind = self._behind[_key(settled)]
            del behind[envelope]
            if not behind:
                del self._behind[_key(settled)]

    def begin_run(self) -> None:
        """Another run carries on what is open; it writes it down again."""
        self._ahead.clear()
        self._behind.clear()
        self._stale = set(self._planned)

    def _end(self, key: tuple[str, str]) -> None:
        self._raised.pop(key, None)
        for envelope in self._behind.get(key, {}).values():
            self._keep(envelope)

    def _keep(self, envelope: Envelope) -> None:
        """The same alarm again is the old one, at its worst."""
        key, alarm = _key(envelope), envelope.event
        known = self._raised.get(key)
        before = None if known is None else known.event
        if (
            known is None
            or not isinstance(before, AlarmRaised)
            or not isinstance(alarm, AlarmRaised)
        ):
            # An input's newest value is the one that the present routes are to be asked about.
            self._raised[key] = envelope
        elif alarm.severity > before.severity:
            worse = msgspec.structs.replace(alarm, raised_at=before.raised_at, trace=before.trace)
            self._raised[key] = msgspec.structs.replace(known, event=worse)

    def envelopes(self) -> list[Envelope]:
        """What has to be known again to be in the same state."""
        # What was raised may have become worse than its envelope said.
        found = {**self._ahead, **{each.id: each for each in self._raised.values()}}
        found |= {each.id: each for each in self._planned.values()}
        return [found[name] for name in sorted(found)]

    @property
    def ahead(self) -> list[str]:
        """Which of them nobody has acted on yet."""
        return list(self._ahead)

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


def _key(envelope: Envelope) -> tuple[str, str]:
    alarm = envelope.event
    assert isinstance(alarm, AlarmRaised | InputChanged)
    return alarm.endpoint, alarm.alarm
