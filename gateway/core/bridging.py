"""Bridging: which legs are joined, in which kind of bridge, and who has the floor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.actions import (
    BridgeKind,
    CloseBridge,
    GiveFloor,
    Join,
    Key,
    Leave,
    OpenBridge,
    Record,
    Unkey,
)
from gateway.core.bridges import Bridge
from gateway.core.calls import Call, Leg
from gateway.core.endpoints import Duplex
from gateway.core.events import FloorReleased, FloorRequested

if TYPE_CHECKING:
    from gateway.core.switchboard import Switchboard


class Bridging:
    """The bridges of a switchboard, and its conference rooms by name."""

    def __init__(self, board: Switchboard) -> None:
        self.board = board
        self._rooms: dict[str, str] = {}

    def connect(self, call: Call, *legs: Leg) -> None:
        """Join legs in one bridge, as their endpoints' duplex allows."""
        bridge = next((self.board.bridges[leg.bridge] for leg in legs if leg.bridge), None)
        if bridge is None:
            bridge = self._open_bridge(self._kind(legs))
        for leg in legs:
            self.join(bridge, leg)
        if call.record:
            self._record(call, legs)

    def part(self, leg: Leg) -> None:
        """Take a leg out of its bridge, if it is in one."""
        bridge = self.board.bridges.get(leg.bridge)
        if bridge:
            self.leave(bridge, leg)

    def _kind(self, legs: tuple[Leg, ...]) -> BridgeKind:
        kinds = {self.duplex(leg) for leg in legs}
        if Duplex.HALF in kinds:
            return BridgeKind.FLOOR
        if Duplex.LISTEN in kinds:
            return BridgeKind.PAGE
        return BridgeKind.PAIR if len(legs) == 2 else BridgeKind.CONFERENCE

    def duplex(self, leg: Leg) -> Duplex:
        """Which way the leg's endpoint carries speech."""
        endpoint = self.board.endpoints.get(leg.endpoint)
        return endpoint.duplex if endpoint else Duplex.FULL

    def _open_bridge(self, kind: BridgeKind, room: str = "") -> Bridge:
        bridge = Bridge(id=self.board.new_id(), kind=kind, room=room)
        self.board.bridges[bridge.id] = bridge
        self.board.act(OpenBridge(bridge=bridge.id, kind=kind))
        return bridge

    def join(self, bridge: Bridge, leg: Leg) -> None:
        """Put a leg into a bridge, out of any other."""
        if leg.bridge == bridge.id:
            return
        if leg.bridge:
            self.leave(self.board.bridges[leg.bridge], leg)
        leg.bridge = bridge.id
        bridge.members.append(leg.id)
        self.board.act(
            Join(bridge=bridge.id, leg=leg.id, speaks=self.duplex(leg) is not Duplex.LISTEN)
        )

    def leave(self, bridge: Bridge, leg: Leg) -> None:
        """Take a leg out; the last to leave dissolves the bridge."""
        leg.bridge = ""
        bridge.members.remove(leg.id)
        if leg.id in bridge.keyed:
            bridge.keyed.discard(leg.id)
            self.board.act(Unkey(leg=leg.id))
        if bridge.floor.release(leg.id):
            self._floor_moved(bridge)
        self.board.act(Leave(bridge=bridge.id, leg=leg.id))
        if not bridge.members:
            del self.board.bridges[bridge.id]
            if self._rooms.get(bridge.room) == bridge.id:
                del self._rooms[bridge.room]
            self.board.act(CloseBridge(bridge=bridge.id))

    def enter(self, room: str, leg: Leg) -> None:
        """Put a leg into the conference of this name, which is opened for the first."""
        bridge = self.board.bridges.get(self._rooms.get(room, ""))
        if bridge is None:
            bridge = self._open_bridge(BridgeKind.CONFERENCE, room)
            self._rooms[room] = bridge.id
        self.join(bridge, leg)

    def _record(self, call: Call, legs: tuple[Leg, ...]) -> None:
        call.record = False
        self.board.act(Record(leg=legs[0].id, file=f"{call.id}.wav"))

    def floor_requested(self, event: FloorRequested) -> None:
        """A half-duplex side begins to speak."""
        leg = self.board.legs.get(event.leg)
        bridge = self.board.bridges.get(leg.bridge) if leg else None
        if leg is None or bridge is None or bridge.kind is not BridgeKind.FLOOR:
            self.board.ignore(event)
            return
        unstoppable = self.duplex(leg) is Duplex.HALF
        if bridge.floor.request(leg.id, priority=leg.call.priority, unstoppable=unstoppable):
            self._floor_moved(bridge)

    def floor_released(self, event: FloorReleased) -> None:
        """It stopped speaking."""
        leg = self.board.legs.get(event.leg)
        bridge = self.board.bridges.get(leg.bridge) if leg else None
        if bridge is None:
            self.board.ignore(event)
        elif bridge.floor.release(event.leg):
            self._floor_moved(bridge)

    def _floor_moved(self, bridge: Bridge) -> None:
        """Let the holder be heard, and key every transmitter but his own."""
        holder = bridge.floor.holder
        wanted = set()
        if holder is not None:
            wanted = {
                member
                for member in bridge.members
                if member != holder and self.duplex(self.board.legs[member]) is Duplex.HALF
            }
        for member in sorted(bridge.keyed - wanted):
            self.board.act(Unkey(leg=member))
        self.board.act(GiveFloor(bridge=bridge.id, leg=holder))
        for member in sorted(wanted - bridge.keyed):
            self.board.act(Key(leg=member))
        bridge.keyed = wanted
