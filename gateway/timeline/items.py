"""Items: which envelopes belong to a trace, and what each says in words."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec

from gateway.core.actions import Action, CloseAlarm, Command, OpenAlarm, OpenBridge, SendDigits
from gateway.core.endpoints import Endpoint
from gateway.core.envelope import Envelope
from gateway.core.events import (
    AdapterLost,
    AlarmAcknowledged,
    AlarmCleared,
    AlarmRaised,
    DigitPressed,
    EndpointChanged,
    Event,
    LegEnded,
    PanelChanged,
)
from gateway.timeline.ladder import GATEWAY
from gateway.timeline.redact import Redactor
from gateway.timeline.wire import WireEntry

_AFTER_S: Final = 5.0
"""What happens to its endpoints this long after a trace's end may be because of it."""
_CSEQ: Final = re.compile(r"(?im)^cseq\s*:\s*\d+\s+(\S+)")
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_UNSAID: Final = ("trace", "call", "demanded_at", "raised_at", "leg", "endpoint", "type")
_PLACES: Final = (EndpointChanged, PanelChanged)


class Item(msgspec.Struct, frozen=True, kw_only=True, tag_field="line", tag="item"):
    """One line of a timeline."""

    at: float
    """Wall clock, seconds since 1970."""
    mono: float
    """Monotonic seconds of the gateway's run; compares exactly where the wall clock may jump."""
    lane: str
    """Endpoint, or ``gateway`` for what it does by itself."""
    kind: str
    """``event`` (it told us), ``action`` (we told it), ``in`` and ``out`` (on the wire)."""
    name: str
    """Type of event or action; on the wire the protocol."""
    text: str
    """What it says, without secrets."""
    leg: str = ""
    call: str = ""
    facts: dict[str, Any] = {}
    """The event's or action's own fields."""


class Picker:
    """Picks what belongs to one trace from envelopes in order. Driven by `take`."""

    def __init__(self, trace: str, *, keep_digits: bool = False) -> None:
        self.trace = trace
        self.legs: dict[str, None] = {}
        self.places: dict[str, None] = {}
        """Endpoints of the trace in the order they appeared."""
        self.needles: set[bytes] = {trace.encode()}
        """A journal's line that holds none of these, and does not follow one that does, is not
        ours."""
        self._keep_digits = keep_digits
        self._bridges: set[str] = set()
        self._opened: Envelope | None = None
        self._last: float | None = None
        self._adapters: set[str] = set()
        self._live: set[str] = set()
        """Legs of the present run of the gateway: the next one counts from 1 again."""
        self._going: set[str] = set()
        """Legs and alarms that are not over."""
        self._over: set[str] = set()
        self._alarms: set[str] = set()
        """Alarms of the trace: a panel has others beside it."""
        self._until = 0.0

    def restart(self) -> None:
        """A new run of the gateway begins: no leg and no bridge of the one before is left."""
        self._live.clear()
        self._going.clear()
        self._over.clear()
        self._bridges.clear()
        self._opened = None
        self.needles = {self.trace.encode()}

    def take(self, envelope: Envelope) -> list[Item]:
        """The items that an envelope adds: mostly none or one."""
        body = envelope.body
        if not self._ours(envelope, body):
            if isinstance(body, AlarmRaised):
                # The same alarm once more: what becomes of it is of another trace now.
                self._alarms.discard(f"{body.endpoint} {body.alarm}")
            if isinstance(body, OpenBridge):
                # Whose bridge it is, the first that joins will tell.
                self._opened = envelope
            return []
        self._learn(envelope, body)
        self._last = envelope.mono
        found = [self.item(envelope)]
        bridge = getattr(body, "bridge", "")
        if bridge and bridge not in self._bridges:
            self._bridges.add(bridge)
            self.needles.add(bridge.encode())
            opened, self._opened = self._opened, None
            if opened is not None and getattr(opened.body, "bridge", "") == bridge:
                found.insert(0, self.item(opened))
        return found

    def follows(self, mono: float) -> bool:
        """Whether an action of this moment may be ours although it does not say so."""
        return self._last == mono

    def _ours(self, envelope: Envelope, body: Event | Action) -> bool:
        if (envelope.trace or getattr(body, "trace", "")) == self.trace:
            return True
        if getattr(body, "leg", "") in self._live or getattr(body, "bridge", "") in self._bridges:
            return True
        if isinstance(body, AlarmCleared | AlarmAcknowledged):
            return f"{body.endpoint} {body.alarm}" in self._alarms
        if isinstance(body, _PLACES):
            if not self._going and envelope.at > self._until:
                return False
            place = body.endpoint
            return (place.id if isinstance(place, Endpoint) else place) in self.places
        if isinstance(body, AdapterLost):
            return body.adapter in self._adapters
        # What a plan does at its end belongs to no call any more.
        other = envelope.trace or getattr(body, "leg", "")
        return envelope.action is not None and not other and self.follows(envelope.mono)

    def _learn(self, envelope: Envelope, body: Event | Action) -> None:
        leg = getattr(body, "leg", "")
        place = getattr(body, "endpoint", "")
        if isinstance(leg, str) and leg:
            self.legs.setdefault(leg)
            self._live.add(leg)
            # It leaves its bridge after its end.
            if isinstance(body, LegEnded):
                self._over.add(leg)
                self._going.discard(leg)
            elif leg not in self._over:
                self._going.add(leg)
            self.needles.add(leg.encode())
            place = place or leg.rpartition("#")[0]
        if isinstance(place, Endpoint):
            place = place.id
        if place:
            self.places.setdefault(place)
            self.needles.add(place.encode())
        if isinstance(body, AlarmRaised | OpenAlarm):
            self._alarms.add(f"{body.endpoint} {body.alarm}")
        if isinstance(body, AlarmRaised):
            self._going.add(f"{body.endpoint} {body.alarm}")
        elif isinstance(body, AlarmCleared | CloseAlarm):
            self._going.discard(f"{body.endpoint} {body.alarm}")
        self._until = envelope.at + _AFTER_S
        if envelope.adapter:
            self._adapters.add(envelope.adapter)

    def item(self, envelope: Envelope) -> Item:
        """An envelope in words."""
        body = envelope.body
        facts: dict[str, Any] = msgspec.to_builtins(body)
        if isinstance(body, Command) and body.code:
            facts["code"] = "?"
        elif isinstance(body, DigitPressed) and not self._keep_digits:
            facts["digit"] = "?"
        elif isinstance(body, SendDigits) and not self._keep_digits:
            facts["digits"] = "?" * len(body.digits)
        leg: str = facts.get("leg") or ""
        place = facts.get("endpoint") or leg.rpartition("#")[0]
        if isinstance(place, dict):
            facts |= {name: place[name] for name in ("condition", "reason") if place.get(name)}
            place = facts["endpoint"] = place["id"]
        return Item(
            at=envelope.at,
            mono=envelope.mono,
            lane=place or GATEWAY,
            kind="event" if envelope.event is not None else "action",
            name=type(body).__name__,
            text=_words(facts),
            leg=leg,
            call=envelope.call or facts.get("call", ""),
            facts={name: value for name, value in facts.items() if name != "type"},
        )


def of_wire(
    entry: WireEntry, legs: Collection[str], ties: Mapping[str, str], redactor: Redactor
) -> Item:
    """A wire's entry as an item, without secrets. ties: the leg of each dialogue."""
    leg = entry.about if entry.about in legs else ties.get(entry.dialogue, "")
    entry = redactor.entry(entry)
    data = entry.words or entry.data
    return Item(
        at=entry.at,
        mono=entry.mono,
        lane=(leg.rpartition("#")[0] if leg else entry.about) or entry.adapter or GATEWAY,
        kind="out" if entry.outward else "in",
        name=entry.kind,
        text=data if isinstance(data, str) else _said(entry.kind, data),
        leg=leg,
    )


def _said(kind: str, data: bytes) -> str:
    """Octets in words: SIP as it is, under a line that says what it is; others in hexadecimal."""
    if kind != "sip":
        signs = "".join(chr(octet) if 32 <= octet < 127 else "." for octet in data)
        return f"{data.hex(' ')}  {signs}"
    text = data.decode("utf-8", "replace").replace("\r\n", "\n").rstrip()
    first = text.partition("\n")[0]
    if not first:
        return "(keep-alive)"
    if first.startswith("SIP/2.0 "):
        method = _CSEQ.search(text)
        first = first[8:] + (f" to {method[1]}" if method else "")
    elif first.endswith(" SIP/2.0"):
        first = first[:-8]
    return f"{first}\n{text}"


def _words(facts: dict[str, Any]) -> str:
    if facts.get("type") == "Note":
        text = str(facts.get("text", ""))
    else:
        text = " ".join(
            f"{name}={value}"
            for name, value in facts.items()
            if name not in _UNSAID and value not in (None, "", False)
        )
    return _UUID.sub(lambda found: found[0][-8:], text)
