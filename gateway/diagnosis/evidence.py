"""Evidence: what is known of a call, collected from its timeline and its streams' counters.

The same for a call that is up and for one that is over; the timeline comes from the journal
(and from the wires, where the gateway still remembers them), the counters from the engine or
from the records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from gateway.media.streams import StreamStats
from gateway.timeline.items import Item


class Digit(msgspec.Struct, frozen=True):
    """A key press, without which key it was."""

    mono: float
    via: str


class LegEvidence(msgspec.Struct, kw_only=True):
    """What is known of one leg. Times are monotonic seconds of the gateway's run."""

    id: str
    endpoint: str
    direction: str = ""
    """``in``: it called us; ``out``: we called it."""
    began: float = 0.0
    answered: float | None = None
    early: bool = False
    """Audio flowed before the answer."""
    ended: float | None = None
    cause: str = ""
    detail: str = ""
    hangup: tuple[str, str] | None = None
    """Cause and detail with which we were the ones to end it."""
    hangup_at: float = 0.0
    held: bool = False
    """On hold at the end, or now."""
    held_by: str = ""
    """``far`` or ``gateway``."""
    held_s: float = 0.0
    held_since: float | None = None
    one_way: bool = False
    """Only spoken to: a paging zone."""
    bridge: str = ""
    """Kind of the bridge it was in last."""
    lost_media: bool = False
    """Audio stopped arriving for longer than the leg allows."""
    tones: list[str] = []
    digits: list[Digit] = []
    floor_asked: float | None = None
    floor_wanted: int = 0
    """How often it asked for the floor."""
    floor_waited_s: float = 0.0
    """How long it spoke while another was heard."""
    floor_waited_for: str = ""
    streams: list[StreamStats] = []

    def seconds(self, until: float) -> float:
        """How long it has been connected."""
        if self.answered is None:
            return 0.0
        return max(0.0, (until if self.ended is None else self.ended) - self.answered)

    @property
    def half_duplex(self) -> bool:
        """It was in a bridge where one at a time is heard."""
        return self.bridge == "floor"


class CallEvidence(msgspec.Struct, kw_only=True):
    """What is known of a call or alarm: everything of one trace."""

    trace: str
    live: bool = False
    at: float = 0.0
    """Wall clock of its first event, seconds since 1970."""
    began: float = 0.0
    now: float = 0.0
    """Monotonic: the present, or the last that is known of it."""
    legs: dict[str, LegEvidence] = {}
    notes: list[str] = []
    route: str = ""
    lost_adapters: dict[str, str] = {}
    conditions: dict[str, tuple[str, str]] = {}
    """Of endpoints: condition and reason, as last known within the call's time."""
    alarmed: dict[str, str] = {}
    """Places that raised an alarm, and why they were lost while it was open."""
    requested: str = ""
    """An operator's wish that began it."""


class Collector:
    """Makes evidence of a timeline. Driven by `take`, item by item in order."""

    def __init__(self, trace: str) -> None:
        self.found = CallEvidence(trace=trace)
        self._bridges: dict[str, str] = {}
        self._holders: dict[str, str | None] = {}
        self._members: dict[str, str] = {}
        """Bridge of each leg."""
        self._alarm_over = False

    def take(self, item: Item) -> None:
        """Take in one item; those of the wires tell nothing that the events do not."""
        if item.kind not in ("event", "action"):
            return
        found = self.found
        if not found.at:
            found.at, found.began = item.at, item.mono
        found.now = max(found.now, item.mono)
        handler = _HANDLERS.get(item.name)
        if handler is not None:
            handler(self, item, item.facts)

    def done(self) -> CallEvidence:
        """All that was found, up to now."""
        for leg in self.found.legs.values():
            self._floor_ends(leg, self.found.now)
            if leg.held_since is not None:
                leg.held_s += self.found.now - leg.held_since
                leg.held_since = self.found.now
        return self.found

    # Legs

    def _leg(self, item: Item) -> LegEvidence:
        leg = self.found.legs.get(item.leg)
        if leg is None:
            place = item.leg.rpartition("#")[0]
            leg = self.found.legs[item.leg] = LegEvidence(
                id=item.leg, endpoint=place, began=item.mono
            )
        return leg

    def _offered(self, item: Item, facts: Mapping[str, Any]) -> None:
        self._leg(item).direction = "in"

    def _dialled(self, item: Item, facts: Mapping[str, Any]) -> None:
        leg = self._leg(item)
        leg.direction, leg.one_way = "out", bool(facts.get("one_way"))

    def _progressed(self, item: Item, facts: Mapping[str, Any]) -> None:
        self._leg(item).early = True

    def _answered(self, item: Item, facts: Mapping[str, Any]) -> None:
        leg = self._leg(item)
        if leg.answered is None:
            leg.answered = item.mono

    def _held(self, item: Item, facts: Mapping[str, Any]) -> None:
        leg = self._leg(item)
        if leg.held_since is None:
            leg.held, leg.held_since = True, item.mono
            leg.held_by = "far" if item.name == "LegHeld" else str(facts.get("by") or "gateway")

    def _retrieved(self, item: Item, facts: Mapping[str, Any]) -> None:
        leg = self._leg(item)
        if leg.held_since is not None:
            leg.held_s += item.mono - leg.held_since
            leg.held, leg.held_since = False, None

    def _hung_up(self, item: Item, facts: Mapping[str, Any]) -> None:
        leg = self._leg(item)
        if leg.hangup is None:
            leg.hangup = str(facts.get("cause", "normal")), str(facts.get("detail", ""))
            leg.hangup_at = item.mono

    def _ended(self, item: Item, facts: Mapping[str, Any]) -> None:
        leg = self._leg(item)
        leg.ended = item.mono
        leg.cause, leg.detail = str(facts.get("cause", "")), str(facts.get("detail", ""))
        self._floor_ends(leg, item.mono)

    def _lost_media(self, item: Item, facts: Mapping[str, Any]) -> None:
        self._leg(item).lost_media = True

    def _flowing(self, item: Item, facts: Mapping[str, Any]) -> None:
        self._leg(item).lost_media = False

    def _tone(self, item: Item, facts: Mapping[str, Any]) -> None:
        self._leg(item).tones.append(str(facts.get("tone", "")))

    def _digit(self, item: Item, facts: Mapping[str, Any]) -> None:
        self._leg(item).digits.append(Digit(item.mono, str(facts.get("via", ""))))

    # Bridges and floors

    def _opened(self, item: Item, facts: Mapping[str, Any]) -> None:
        self._bridges[str(facts["bridge"])] = str(facts.get("kind", ""))

    def _joined(self, item: Item, facts: Mapping[str, Any]) -> None:
        leg, bridge = self._leg(item), str(facts["bridge"])
        leg.bridge = self._bridges.get(bridge, leg.bridge)
        self._members[leg.id] = bridge
        if leg.bridge == "page" and not facts.get("speaks", True):
            leg.one_way = True

    def _floor_given(self, item: Item, facts: Mapping[str, Any]) -> None:
        bridge, holder = str(facts["bridge"]), facts.get("leg")
        for leg in self.found.legs.values():
            if self._members.get(leg.id) == bridge:
                self._waits(leg, item.mono)
        self._holders[bridge] = holder

    def _floor_requested(self, item: Item, facts: Mapping[str, Any]) -> None:
        leg = self._leg(item)
        leg.floor_wanted += 1
        if leg.floor_asked is None:
            leg.floor_asked = item.mono

    def _floor_released(self, item: Item, facts: Mapping[str, Any]) -> None:
        self._floor_ends(self._leg(item), item.mono)

    def _waits(self, leg: LegEvidence, mono: float) -> None:
        """Count how long it spoke to nobody up to now."""
        if leg.floor_asked is None:
            return
        holder = self._holders.get(self._members.get(leg.id, ""))
        if holder and holder != leg.id:
            leg.floor_waited_s += mono - leg.floor_asked
            leg.floor_waited_for = holder
        leg.floor_asked = mono

    def _floor_ends(self, leg: LegEvidence, mono: float) -> None:
        self._waits(leg, mono)
        leg.floor_asked = None

    # The rest

    def _noted(self, item: Item, facts: Mapping[str, Any]) -> None:
        self.found.notes.append(str(facts.get("text", "")))
        self.found.route = str(facts.get("route", "")) or self.found.route

    def _endpoint(self, item: Item, facts: Mapping[str, Any]) -> None:
        condition, reason = str(facts.get("condition", "unknown")), str(facts.get("reason", ""))
        self.found.conditions[item.lane] = condition, reason
        if condition == "down" and item.lane in self.found.alarmed and not self._alarm_over:
            self.found.alarmed[item.lane] = reason or "no reason"

    def _alarm_raised(self, item: Item, facts: Mapping[str, Any]) -> None:
        self.found.alarmed.setdefault(str(facts["endpoint"]), "")

    def _alarm_closed(self, item: Item, facts: Mapping[str, Any]) -> None:
        self._alarm_over = True

    def _adapter_lost(self, item: Item, facts: Mapping[str, Any]) -> None:
        self.found.lost_adapters[str(facts["adapter"])] = str(facts.get("reason", ""))

    def _requested(self, item: Item, facts: Mapping[str, Any]) -> None:
        self.found.requested = f"{facts.get('origin', '')} to {facts.get('target', '')}"


_HANDLERS: Final = {
    "LegOffered": Collector._offered,
    "Dial": Collector._dialled,
    "LegProgressed": Collector._progressed,
    "LegAnswered": Collector._answered,
    "LegHeld": Collector._held,
    "Hold": Collector._held,
    "LegRetrieved": Collector._retrieved,
    "Retrieve": Collector._retrieved,
    "Hangup": Collector._hung_up,
    "LegEnded": Collector._ended,
    "MediaLost": Collector._lost_media,
    "MediaFlowing": Collector._flowing,
    "ToneHeard": Collector._tone,
    "DigitPressed": Collector._digit,
    "OpenBridge": Collector._opened,
    "Join": Collector._joined,
    "GiveFloor": Collector._floor_given,
    "FloorRequested": Collector._floor_requested,
    "FloorReleased": Collector._floor_released,
    "Note": Collector._noted,
    "EndpointChanged": Collector._endpoint,
    "AlarmRaised": Collector._alarm_raised,
    "CloseAlarm": Collector._alarm_closed,
    "AdapterLost": Collector._adapter_lost,
    "CallRequested": Collector._requested,
}


def collect(trace: str, items: Iterable[Item]) -> CallEvidence:
    """The evidence of a timeline, oldest item first."""
    collector = Collector(trace)
    for item in items:
        collector.take(item)
    return collector.done()
