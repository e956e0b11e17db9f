"""Which alarms are not over, and which are acknowledged: what a restart must know."""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.core.actions import AcknowledgeAlarm, CloseAlarm, OpenAlarm
from gateway.core.alarms import OWN
from gateway.core.envelope import Envelope
from gateway.core.events import AlarmCleared, AlarmRaised, InputChanged, Quality

ACKNOWLEDGED: Final = 1000
"""Acknowledged alarms that are remembered; the oldest are forgotten first, and so told again."""


class InHand(msgspec.Struct, frozen=True):
    """An alarm that somebody took in hand and whose cause is not known to have gone since."""

    alarm: AlarmRaised | InputChanged
    """What began it, `raised_at` on the present clock."""
    by: str
    last: InputChanged | None = None
    """Of an input: what it was seen to be last."""


class OpenAlarms:
    """Which alarms a stream of envelopes leaves open: driven by `see`, `settle`, `begin_run`.

    An alarm is written down ahead of the events that wait for the switchboard, so a clear that
    came before it may stand behind it. What nobody has acted on yet, nothing ends.
    """

    SEES: Final = frozenset(
        (
            AlarmRaised, InputChanged, OpenAlarm, CloseAlarm, AlarmCleared, AcknowledgeAlarm,
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
        self._unknown: set[tuple[str, str]] = set()
        """Of those raised: what the switchboard was never given, and so never says is over."""
        self._gone: dict[tuple[str, str], Envelope] = {}
        """Open alarms whose cause has gone: who acknowledges one acknowledges nothing that is."""
        self._last: dict[tuple[str, str], Envelope] = {}
        """What became since of inputs that began an alarm."""
        self._in_hand: dict[tuple[str, str], tuple[Envelope, Envelope]] = {}
        """What began an alarm, and what says that it is acknowledged; oldest first."""

    def see(self, envelope: Envelope) -> None:
        """Follow one envelope."""
        body = envelope.body
        if isinstance(body, AlarmRaised | InputChanged):
            if isinstance(body, InputChanged) and (self._raised or self._in_hand):
                self._follow(body, envelope)
            if isinstance(body, AlarmRaised) or body.raised_at is not None:
                key = body.endpoint, body.alarm
                self._gone.pop(key, None)
                self._in_hand.pop(key, None)
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
            key = body.endpoint, body.alarm
            self._planned.pop(key, None)
            if body.outcome == "acknowledged":
                self._acknowledge(key, envelope)
            self._end(key)
        elif isinstance(body, AcknowledgeAlarm):
            # An alarm that no route answers never gets a plan, so nothing would ever close it.
            # One with a plan stays open until the plan itself is over.
            key = body.endpoint, body.alarm
            if key not in self._planned:
                self._acknowledge(key, envelope)
                self._end(key)
        elif isinstance(body, AlarmCleared):
            # What is done about it may go on: only who does it says that it is over.
            key = body.endpoint, body.alarm
            if key in self._raised and key not in self._behind:
                self._gone[key] = envelope
                # The gateway's own are not carried on: nobody but it says that they are over.
                if key in self._unknown and (key not in self._planned or key[0].startswith(OWN)):
                    self._planned.pop(key, None)
                    self._stale.discard(key)
                    self._end(key)
            self._forget(key)

    def _follow(self, body: InputChanged, envelope: Envelope) -> None:
        """What an input is now says something of the alarms that it began before."""
        key = body.endpoint, body.alarm
        if key in self._raised or key in self._in_hand:
            self._last[key] = envelope
        for lost in (Quality.STALE, Quality.BAD):
            other = body.endpoint, f"{body.input}/{lost}"
            if other != key:
                if other in self._raised:
                    self._gone[other] = envelope
                self._forget(other)

    def _acknowledge(self, key: tuple[str, str], envelope: Envelope) -> None:
        raised = self._raised.get(key)
        if raised is None or key in self._gone or key in self._behind:
            return
        self._in_hand[key] = raised, envelope
        while len(self._in_hand) > ACKNOWLEDGED:
            self._forget(next(iter(self._in_hand)))

    def _forget(self, key: tuple[str, str]) -> None:
        """It is acknowledged no more."""
        if self._in_hand.pop(key, None) is not None and key not in self._raised:
            self._last.pop(key, None)

    def settle(self, envelope: str, *, nobody: bool = False) -> None:
        """The alarm of the envelope of this id was acted on, or nobody will."""
        settled = self._ahead.pop(envelope, None)
        if settled is not None:
            (self._unknown.add if nobody else self._unknown.discard)(_key(settled))
            behind = self._behind[_key(settled)]
            del behind[envelope]
            if not behind:
                del self._behind[_key(settled)]

    def begin_run(self, *, anew: bool = False) -> None:
        """Another run carries on what is open; it writes it down again.

        anew: what was acknowledged before is acknowledged no more.
        """
        self._unknown = set(self._raised)
        if anew:
            for key in list(self._in_hand):
                self._forget(key)
        self._ahead.clear()
        self._behind.clear()
        self._stale = set(self._planned)

    def _end(self, key: tuple[str, str]) -> None:
        self._raised.pop(key, None)
        self._gone.pop(key, None)
        self._unknown.discard(key)
        if key not in self._in_hand:
            self._last.pop(key, None)
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
        for told in (self._gone.values(), self._last.values(), *self._in_hand.values()):
            found |= {each.id: each for each in told}
        return [found[name] for name in sorted(found)]

    @property
    def ahead(self) -> list[str]:
        """Which of them nobody has acted on yet."""
        return list(self._ahead)

    def raised(self, *, now: float, at: float) -> list[AlarmRaised | InputChanged]:
        """What began the open alarms, oldest first, `raised_at` moved to the present clock.

        now: monotonic clock, at: wall clock, both seconds and both of this moment.
        """
        found = [_moved(envelope, now, at) for envelope in self._raised.values()]
        return sorted(found, key=lambda alarm: alarm.raised_at or 0.0)

    def in_hand(self, *, now: float, at: float) -> list[InHand]:
        """The alarms that are acknowledged, oldest first; clocks as with `raised`."""
        found = []
        for key, (raised, taken) in self._in_hand.items():
            last = self._last.get(key)
            event = None if last is None else last.event
            assert event is None or isinstance(event, InputChanged)
            by = taken.body
            assert isinstance(by, CloseAlarm | AcknowledgeAlarm)
            found.append(InHand(_moved(raised, now, at), by.by, event))
        return found


def _moved(envelope: Envelope, now: float, at: float) -> AlarmRaised | InputChanged:
    alarm = envelope.event
    assert isinstance(alarm, AlarmRaised | InputChanged)
    assert alarm.raised_at is not None
    age = max(0.0, envelope.mono - alarm.raised_at) + max(0.0, at - envelope.at)
    # One that nobody closed as in hand is open again: who had it may be gone long since.
    return msgspec.structs.replace(alarm, raised_at=now - age, by="")


def _key(envelope: Envelope) -> tuple[str, str]:
    alarm = envelope.event
    assert isinstance(alarm, AlarmRaised | InputChanged)
    return alarm.endpoint, alarm.alarm
