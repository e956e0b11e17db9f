"""Troubles: what is wrong with the gateway itself is an alarm like any other.

Each part of ours that can fail is an endpoint (``gateway/journal``, ``gateway/records``...), which
is down while it does, and whose alarms take the routes of ``gateway/*``.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Final, Protocol

import msgspec

from gateway.adapters.base import Log
from gateway.core.actions import CloseAlarm
from gateway.core.alarms import OWN
from gateway.core.endpoints import Condition, Duplex, Endpoint
from gateway.core.events import (
    AlarmCleared,
    AlarmRaised,
    EndpointChanged,
    Event,
    InputChanged,
    Severity,
)
from gateway.inbox import Begins
from gateway.journal import Journal, StorageState
from gateway.media.streams import RecordEnded

FLOOD_S: Final = 60.0
"""So long without a dropped alarm, a flood is over."""
_PARTS: Final = {
    "journal": "journal on disk",
    "records": "records on disk",
    "recordings": "recordings on disk",
    "alarms": "alarms at once",
    "audio": "audio of calls",
}


class _Gateway(Protocol):
    counters: Counter[str]
    journal: Journal
    log: Log

    def now(self) -> float: ...

    def mint_id(self) -> str: ...

    def accept(self, event: Event, host: None) -> None: ...


class Troubles:
    """Says them to the bus. `closed` once nobody is there any more to act on an alarm."""

    def __init__(self, gateway: _Gateway) -> None:
        self._gateway = gateway
        self.closed = False
        self._recording_fails = False
        self._flooded = False
        self._flood_at = 0.0

    def announce(self) -> None:
        """Make the parts known."""
        for name in _PARTS:
            self._gateway.accept(EndpointChanged(endpoint=_place(name)), None)

    def of_others(self, carried: Iterable[Begins]) -> list[Begins]:
        """Alarms of the last run but for our own: what is still so is said again.

        To be asked before anybody can have said so.
        """
        kept = []
        for alarm in carried:
            if alarm.endpoint.startswith(OWN):
                cleared = AlarmCleared(endpoint=alarm.endpoint, alarm=alarm.alarm)
                self._gateway.accept(cleared, None)
            else:
                kept.append(alarm)
        return kept

    # Too many alarms

    def alarm_lost(self, event: Begins | InputChanged | CloseAlarm, envelope: str = "") -> None:
        """There was no room for an alarm: that is said, counted, and an alarm itself.

        envelope: under which it waited to be acted on.
        """
        gateway = self._gateway
        if envelope:
            gateway.journal.lost(envelope)
        gateway.counters["alarms_dropped"] += 1
        self._flood_at = gateway.now()
        place = _place("alarms")
        if event.endpoint == place.id or self._flooded:
            return
        self._flooded = True
        gateway.log.error("alarms dropped", first=f"{event.endpoint} {event.alarm}")
        self._raise(
            place, "flood",
            "more alarms at once than can be kept: the least severe are dropped "
            "(see: gateway status, alarms_dropped)",
        )  # fmt: skip

    def calm(self) -> None:
        """End the alarm of a flood that is over; to be asked now and then."""
        gateway = self._gateway
        if self._flooded and gateway.now() - self._flood_at >= FLOOD_S:
            self._flooded = False
            n_dropped = gateway.counters["alarms_dropped"]
            gateway.log.warning("no more alarms are dropped", dropped=n_dropped)
            gateway.accept(AlarmCleared(endpoint=_place("alarms").id, alarm="flood"), None)

    # Storage

    def storage(self, state: StorageState) -> None:
        """A store cannot store, or can again."""
        gateway, place = self._gateway, _place(state.name)
        if state.degraded:
            gateway.log.error("storage degraded", store=state.name, reason=state.reason)
            down = msgspec.structs.replace(place, condition=Condition.DOWN, reason=state.reason)
            gateway.accept(EndpointChanged(endpoint=down), None)
            self._raise(place, "storage", f"{state.name} cannot be stored: {state.reason}")
        else:
            gateway.log.info("storage is back", store=state.name)
            gateway.accept(EndpointChanged(endpoint=place), None)
            gateway.accept(AlarmCleared(endpoint=place.id, alarm="storage"), None)

    def storage_from(self, loop: asyncio.AbstractEventLoop | None, state: StorageState) -> None:
        """The same, said by a thread of the store's own; loop: the gateway's, once it runs."""
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self.storage, state)

    def recorded(self, event: RecordEnded) -> None:
        """A recording has ended: one that is not whole is said, and an alarm until one is."""
        reason = event.error or ("the disk is too slow" if event.dropped_s else "")
        if reason:
            self._gateway.log.error(
                "recording is incomplete", file=event.path, seconds=round(event.duration_s, 1),
                dropped_s=round(event.dropped_s, 1), reason=reason,
            )  # fmt: skip
        if bool(reason) is not self._recording_fails and not self.closed:
            self._recording_fails = bool(reason)
            self.storage(StorageState(name="recordings", degraded=bool(reason), reason=reason))

    def _raise(self, place: Endpoint, alarm: str, text: str) -> None:
        gateway = self._gateway
        gateway.accept(
            AlarmRaised(
                endpoint=place.id, alarm=alarm, kind="fault", severity=Severity.MAJOR,
                text=text, trace=gateway.mint_id(), raised_at=gateway.now(),
            ),
            None,
        )  # fmt: skip


def _place(name: str) -> Endpoint:
    return Endpoint(
        id=f"gateway/{name}",
        label=_PARTS[name],
        duplex=Duplex.NONE,
        can_ring=False,
        alarm=True,
        condition=Condition.UP,
    )
