"""State: what the gateway shows of itself as Modbus registers.

Built from the bus alone. Registers (holding and input alike), big-endian words:

====  =============================================================================
0     0x4757, so that a reader knows whom it reads
1     version of this map: 1
2     health: bit 0 runs, 1 an adapter is lost, 2 an endpoint is down, 3 an input is not
      known, 4 an alarm is active, 5 events were missed and the picture may be incomplete
3     calls
4     alarms that are active
5     the severest of them: 0 none, 1 indeterminate, 2 warning, 3 minor, 4 major, 5 critical
6, 7  seconds since the adapter started, high word first
8     active alarms that nobody has acknowledged
100+  four for each endpoint: state (0 unknown, 1 idle, 2 in use, 3 down), fault (1: it has an
      active alarm or is down), legs, Q.850 cause of the last leg that ended
====  =============================================================================

Discrete inputs 0 to 255: alarm points. Coils: triggers.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Final, TypeVar

from gateway.adapters.modbus.config import Server
from gateway.core.actions import AcknowledgeAlarm, CloseAlarm, Dial
from gateway.core.causes import Q850
from gateway.core.endpoints import Condition
from gateway.core.envelope import Envelope
from gateway.core.events import (
    AdapterLost,
    AdapterReady,
    AlarmAcknowledged,
    AlarmCleared,
    AlarmRaised,
    EndpointChanged,
    EndpointRemoved,
    InputChanged,
    LegEnded,
    LegOffered,
    Quality,
)

MAGIC: Final = 0x4757
VERSION: Final = 1
FIRST_ENDPOINT: Final = 100
PER_ENDPOINT: Final = 4
N_POINTS: Final = 256
KNOWN_MAXIMUM: Final = 10_000
"""Alarms, inputs and legs that are remembered each; beyond it the oldest is forgotten."""

K = TypeVar("K")
V = TypeVar("V")

_CONDITIONS: Final = {Condition.UNKNOWN: 0, Condition.UP: 1, Condition.DOWN: 3}


class State:
    """Driven by `follow`; read with `register` and `point`."""

    def __init__(self, started: float) -> None:
        self.missed = 0
        """Events that the subscription dropped."""
        self._started = started
        self._legs: dict[str, str] = {}
        """Open legs, each with the trace of what it is part of."""
        self._alarms: dict[tuple[str, str], tuple[int, bool]] = {}
        """Severity of each active alarm, and whether somebody took it in hand."""
        self._inputs: dict[tuple[str, str], tuple[bool, bool]] = {}
        """Of each input, whether it is on and whether it is known."""
        self._conditions: dict[str, Condition] = {}
        self._causes: dict[str, int] = {}
        self._lost: set[str] = set()

    def follow(self, envelope: Envelope) -> None:
        """Take in what happened."""
        match envelope.body:
            case LegOffered(leg=leg, trace=trace) | Dial(leg=leg, trace=trace):
                self._legs[leg] = trace or leg
                _bound(self._legs)
            case LegEnded(leg=leg, cause=cause):
                if self._legs.pop(leg, None) is not None:
                    self._causes[leg.rpartition("#")[0]] = Q850[cause]
                    _bound(self._causes)
            case AlarmRaised(endpoint=endpoint, alarm=alarm, severity=severity):
                known = self._alarms.get((endpoint, alarm))
                self._alarms[(endpoint, alarm)] = (int(severity), bool(known and known[1]))
                _bound(self._alarms)
            case AlarmCleared(endpoint=endpoint, alarm=alarm):
                self._alarms.pop((endpoint, alarm), None)
            case (
                AlarmAcknowledged(endpoint=endpoint, alarm=alarm)
                | AcknowledgeAlarm(endpoint=endpoint, alarm=alarm)
            ):
                self._acknowledge(endpoint, alarm)
            case CloseAlarm(endpoint=endpoint, alarm=alarm, outcome="acknowledged"):
                self._acknowledge(endpoint, alarm)
            case InputChanged(endpoint=endpoint, input=name, value=value, quality=quality):
                self._inputs[(endpoint, name)] = (value != 0, quality is Quality.GOOD)
                _bound(self._inputs)
            case EndpointChanged(endpoint=place):
                self._conditions[place.id] = place.condition
                _bound(self._conditions)
            case EndpointRemoved(endpoint=endpoint):
                self._conditions.pop(endpoint, None)
            case AdapterLost(adapter=adapter):
                self._lost.add(adapter)
            case AdapterReady(adapter=adapter):
                self._lost.discard(adapter)
            case _:
                pass

    def _acknowledge(self, endpoint: str, alarm: str) -> None:
        for (place, name), (severity, _) in self._alarms.items():
            if place == endpoint and alarm in ("", name):
                self._alarms[(place, name)] = (severity, True)

    def head(self, now: float) -> list[int]:
        """Registers 0 to 8."""
        alarms = self._alarms.values()
        health = (
            1
            | bool(self._lost) << 1
            | (Condition.DOWN in self._conditions.values()) << 2
            | (not all(known for _, known in self._inputs.values())) << 3
            | bool(alarms) << 4
            | bool(self.missed) << 5
        )
        uptime_s = int(max(now - self._started, 0.0))
        return [
            MAGIC,
            VERSION,
            health,
            _word(len(set(self._legs.values()))),
            _word(len(alarms)),
            max((severity + 1 for severity, _ in alarms), default=0),
            uptime_s >> 16 & 0xFFFF,
            uptime_s & 0xFFFF,
            _word(sum(not taken for _, taken in alarms)),
        ]

    def endpoint(self, name: str) -> list[int]:
        """The four registers of an endpoint."""
        condition = self._conditions.get(name, Condition.UNKNOWN)
        n_legs = sum(leg.rpartition("#")[0] == name for leg in self._legs)
        state = 2 if condition is Condition.UP and n_legs else _CONDITIONS[condition]
        fault = condition is Condition.DOWN or any(place == name for place, _ in self._alarms)
        return [state, int(fault), _word(n_legs), self._causes.get(name, 0)]

    def point(self, endpoint: str, alarm: str, input_: str) -> bool:
        """Whether an alarm point is on: something that matches alarms, or is not known."""
        if input_ and any(
            (on or not known) and fnmatchcase(place, endpoint) and fnmatchcase(name, input_)
            for (place, name), (on, known) in self._inputs.items()
        ):
            return True
        if input_ and not alarm:
            return False
        return any(
            fnmatchcase(place, endpoint) and fnmatchcase(name, alarm or "*")
            for place, name in self._alarms
        )


class Image:
    """The tables of one server. Read by its requests; `coils` are the triggers as they stand."""

    def __init__(self, config: Server, state: State) -> None:
        self.config, self.state = config, state
        self.coils = {trigger.coil: False for trigger in config.triggers.values()}
        self._n_registers = FIRST_ENDPOINT + PER_ENDPOINT * len(config.endpoints)

    def registers(self, address: int, count: int, now: float) -> list[int] | None:
        """Registers from an address on; None when they go beyond the map. Gaps read as 0."""
        end = address + count
        if end > self._n_registers:
            return None
        words = [0] * count
        if address < FIRST_ENDPOINT:
            for at, word in enumerate(self.state.head(now)):
                if address <= at < end:
                    words[at - address] = word
        for at in range(max(address, FIRST_ENDPOINT), end):
            row, column = divmod(at - FIRST_ENDPOINT, PER_ENDPOINT)
            if column == 0 or at == address:
                values = self.state.endpoint(self.config.endpoints[row])
            words[at - address] = values[column]
        return words

    def points(self, address: int, count: int) -> list[bool] | None:
        """Discrete inputs from an address on; None when they go beyond the map."""
        if address + count > N_POINTS:
            return None
        bits = [False] * count
        for point in self.config.points.values():
            if address <= point.address < address + count:
                bits[point.address - address] = self.state.point(
                    point.endpoint, point.alarm, point.input
                )
        return bits

    def read_coils(self, address: int, count: int) -> list[bool] | None:
        """Coils from an address on; None when one of them is no trigger."""
        wanted = range(address, address + count)
        if not all(coil in self.coils for coil in wanted):
            return None
        return [self.coils[coil] for coil in wanted]


def _word(number: int) -> int:
    return min(number, 0xFFFF)


def _bound(known: dict[K, V]) -> None:
    if len(known) > KNOWN_MAXIMUM:
        del known[next(iter(known))]
