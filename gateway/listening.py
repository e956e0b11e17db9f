"""Listening: looks once a second whether what answered legs send is fit to be heard.

The audio thread only counts; here its counters meet what the switchboard expects of a leg. Who is
on hold, only listens, waits for the floor or was muted in a conference owes nobody speech.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from gateway.core.actions import BridgeKind
from gateway.core.calls import Leg, LegState
from gateway.core.events import (
    AlarmCleared,
    AlarmRaised,
    AudioImpaired,
    AudioRestored,
    Event,
    Impairment,
    Severity,
)
from gateway.core.switchboard import Switchboard
from gateway.media.impairments import Change, Judge, Supervision
from gateway.media.patchbay import Patchbay
from gateway.metrics.tally import Tally

PLACE: Final = "gateway/audio"
"""Raises the alarms."""
_NOTHING: Final[frozenset[Impairment]] = frozenset()
_EVERYTHING: Final = frozenset(Impairment)
_SPOKEN: Final = frozenset((Impairment.CLIPPING, Impairment.ONE_WAY))
_ARRIVES: Final = frozenset((Impairment.ONE_WAY,))


class _Gateway(Protocol):
    switchboard: Switchboard
    patchbay: Patchbay
    tally: Tally

    @property
    def configuration(self) -> Any: ...

    def accept(self, event: Event, host: None) -> None: ...

    def mint_id(self) -> str: ...


class Listening:
    """Driven by `sweep`."""

    def __init__(self, gateway: _Gateway) -> None:
        self._gateway = gateway
        self._judges: dict[str, Judge] = {}
        self._alarmed: dict[str, set[str]] = {}
        """Legs by the alarm that they raised."""

    def sweep(self, now: float) -> None:
        """Look at every answered leg, and emit what began or ended."""
        gateway = self._gateway
        rules: Supervision = gateway.configuration.supervision
        board, patchbay, judges = gateway.switchboard, gateway.patchbay, self._judges
        for name in [name for name in judges if name not in board.legs]:
            del judges[name]
            self._calm(name)
        for leg in board.legs.values():
            if leg.answered_at is None:
                continue
            meter = patchbay.meter(leg.id)
            if meter is None:
                continue
            judge = judges.get(leg.id)
            if judge is None:
                judge = judges[leg.id] = Judge()
            for change in judge.look(meter, now, expected(board, leg), rules):
                self._tell(leg, change, now, rules)

    def _tell(self, leg: Leg, change: Change, now: float, rules: Supervision) -> None:
        gateway, what = self._gateway, change.impairment
        if not change.began:
            gateway.accept(
                AudioRestored(leg=leg.id, impairment=what, lasted_s=round(change.seconds, 1)), None
            )
            self._calm(leg.id, what)
            return
        gateway.tally.impairments[leg.endpoint.partition("/")[0], str(what)] += 1
        gateway.accept(
            AudioImpaired(
                leg=leg.id,
                impairment=what,
                seconds=round(change.seconds, 1),
                level_dbm0=None if change.level_dbm0 is None else round(change.level_dbm0, 1),
                percent=None if change.percent is None else round(change.percent, 1),
            ),
            None,
        )
        if what in rules.alarms:
            alarm = f"{leg.endpoint} {what}"
            self._alarmed.setdefault(alarm, set()).add(leg.id)
            gateway.accept(
                AlarmRaised(
                    endpoint=PLACE, alarm=alarm, kind="audio", severity=Severity.MINOR,
                    text=_TEXTS[what].format(leg=leg.id, seconds=change.seconds),
                    trace=leg.call.trace or gateway.mint_id(), raised_at=now,
                ),
                None,
            )  # fmt: skip

    def _calm(self, leg: str, what: Impairment | None = None) -> None:
        """Clear the alarms that a leg raised, unless another one raised them too."""
        for alarm, legs in list(self._alarmed.items()):
            if leg in legs and (what is None or alarm.endswith(f" {what}")):
                legs.discard(leg)
                if not legs:
                    del self._alarmed[alarm]
                    self._gateway.accept(AlarmCleared(endpoint=PLACE, alarm=alarm), None)


_TEXTS: Final = {
    Impairment.SILENCE: "{leg}: silence for {seconds:.0f} s",
    Impairment.CLIPPING: "{leg}: its speech is clipped",
    Impairment.ONE_WAY: "{leg}: no audio has arrived for {seconds:.0f} s",
}


def expected(board: Switchboard, leg: Leg) -> frozenset[Impairment]:
    """What would be an impairment of this leg now."""
    bridge = board.bridges.get(leg.bridge)
    if leg.state is not LegState.CONNECTED or bridge is None or len(bridge.members) < 2:
        return _NOTHING
    if board.bridging.listens(leg):
        return _NOTHING
    half, holder = board.bridging.half(leg), bridge.floor.holder
    if half or bridge.kind is BridgeKind.FLOOR:
        if holder == leg.id:
            return _EVERYTHING
        # A telephone's packets come whoever speaks; of a transceiver nothing has to.
        return _NOTHING if half or holder else _ARRIVES
    others = (board.legs[member] for member in bridge.members if member != leg.id)
    alone = all(other.state is not LegState.CONNECTED for other in others)
    if bridge.kind is BridgeKind.CONFERENCE or alone or leg.saying:
        # Muted, or listening to music: common, and no fault.
        return _SPOKEN
    return _EVERYTHING
