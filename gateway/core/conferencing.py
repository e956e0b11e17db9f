"""Conferencing: rooms by name, who is called into them, and when a room is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.actions import BridgeKind
from gateway.core.bridges import Bridge
from gateway.core.calls import Call, Leg
from gateway.core.causes import Cause
from gateway.core.endpoints import Target
from gateway.core.lines import Waiter
from gateway.core.plans import Silent
from gateway.core.timers import Timer

if TYPE_CHECKING:
    from gateway.core.switchboard import Switchboard


class Rooms:
    """The conferences of a switchboard."""

    def __init__(self, board: Switchboard) -> None:
        self.board = board
        self._bridges: dict[str, Bridge] = {}
        self._invited: dict[str, list[Invitation]] = {}

    def enter(self, room: str, leg: Leg) -> None:
        """Put a leg into the room of this name, which is opened for the first."""
        bridge = self._bridges.get(room)
        if bridge is None:
            self._bridges[room] = bridge = self.board.bridging.open(BridgeKind.CONFERENCE, room)
        self.board.bridging.join(bridge, leg)
        if leg.call.record:
            self.board.bridging.record(leg.call, leg)

    def invite(self, room: str, target: Target, caller: Leg, *, ring_s: float) -> None:
        """Call somebody into the room, unless he is in it or on the way."""
        bridge = self._bridges.get(room)
        inside = [self.board.legs[name].endpoint for name in bridge.members] if bridge else []
        invited = self._invited.setdefault(room, [])
        if target.endpoint in (*inside, *(each.target.endpoint for each in invited)):
            self._tidy(room)
            return
        invitation = Invitation(self.board, room, target, caller.call, caller=caller, ring_s=ring_s)
        invited.append(invitation)
        invitation.begin()

    def adopt(self, room: str, target: Target, leg: Leg, ring_s: float) -> None:
        """Let somebody whom another plan has dialled come in when he answers."""
        invitation = Invitation(self.board, room, target, leg.call, ring_s=ring_s)
        self._invited.setdefault(room, []).append(invitation)
        invitation.watch(leg)

    def done(self, invitation: Invitation) -> None:
        """He came, or will not."""
        self._invited[invitation.room].remove(invitation)
        self._tidy(invitation.room)

    def settle(self, room: str) -> None:
        """Nobody else is called: a radio that sits there alone waits for nobody."""
        bridge = self._bridges.get(room)
        if bridge and room not in self._invited:
            self._end_if_lost(bridge)

    def _tidy(self, room: str) -> None:
        if not self._invited[room]:
            del self._invited[room]

    def left(self, bridge: Bridge) -> None:
        """Somebody left: end what could never end by itself."""
        if not bridge.members:
            del self._bridges[bridge.room]
        self._end_if_lost(bridge, last=True)

    def _end_if_lost(self, bridge: Bridge, *, last: bool = False) -> None:
        """End a room in which nobody is left who could leave it.

        A radio or an intercom station that was called into a room does not hang up. When nobody
        else is there it would keep its line, and its transmitter, in the room for ever; so would
        the last one who was called and waits for people who have gone.
        """
        room = bridge.room
        legs = [self.board.legs[name] for name in bridge.members]
        bridging = self.board.bridging
        lost = all(leg.outbound and (bridging.half(leg) or bridging.listens(leg)) for leg in legs)
        if lost or (last and len(legs) == 1 and legs[0].outbound):
            for invitation in list(self._invited.get(room, ())):
                invitation.withdraw()
            for leg in legs:
                self.board.hangup(leg, Cause.NORMAL, f"conference {room} is over")


class Invitation(Silent):
    """Somebody who is called into a conference."""

    def __init__(
        self,
        board: Switchboard,
        room: str,
        target: Target,
        by: Call,
        *,
        ring_s: float,
        caller: Leg | None = None,
    ) -> None:
        self.board, self.room, self.target, self.by = board, room, target, by
        self._caller, self._ring_s = caller, ring_s
        self._waiter: Waiter | None = None
        self._leg: Leg | None = None
        self._deadline: Timer | None = None

    def begin(self) -> None:
        """Dial, as soon as there is a line."""
        got = self.board.lines.obtain(self.target, self.by.priority, self._freed)
        if got is None:
            self._dial()
        elif isinstance(got, Waiter):
            self._waiter = got
        else:
            self._fail(got[1])

    def _freed(self) -> None:
        self._waiter = None
        refusal = self.board.lines.refusal(self.target)
        if refusal:
            self._fail(refusal[1])
        else:
            self._dial()

    def _fail(self, why: str) -> None:
        self.board.note(f"cannot invite {self.target}: {why}", call=self.by)
        self._absent()

    def _dial(self) -> None:
        call = self.board.new_call(
            trace=self.by.trace, demanded_at=self.board.now, priority=self.by.priority
        )
        call.route, call.why = self.by.route, f"invited to conference {self.room}"
        call.talk = self.by.talk
        caller = self._caller
        calling = caller.calling if caller else ""
        self.watch(self.board.dial(call, self.target, self, calling=calling, caller=caller))
        self.board.note(call.why, call=call, route=call.route)

    def watch(self, leg: Leg) -> None:
        """Wait for the leg's answer."""
        self._leg = leg
        leg.plan = self
        self._deadline = self.board.after(self._ring_s, lambda: self._give_up("ring time-out"))

    def _give_up(self, detail: str) -> None:
        assert self._leg is not None
        self._leg.plan = None
        self.board.hangup(self._leg, Cause.NO_ANSWER, detail)
        self._absent()

    def _absent(self) -> None:
        self.board.rooms.done(self)
        self.board.rooms.settle(self.room)

    def withdraw(self) -> None:
        """The conference is over before he came."""
        if self._deadline:
            self._deadline.cancel()
        if self._waiter:
            self.board.lines.drop(self._waiter)
            self.board.rooms.done(self)
        else:
            self._give_up(f"conference {self.room} is over")

    def answered(self, leg: Leg) -> None:
        """He comes in."""
        assert self._deadline is not None
        self._deadline.cancel()
        leg.plan = None
        self.board.rooms.done(self)
        self.board.rooms.enter(self.room, leg)

    def ended(self, leg: Leg) -> None:
        """He does not want, or his line was taken for somebody more urgent."""
        assert self._deadline is not None
        self._deadline.cancel()
        self._absent()

    def displaced(self, leg: Leg) -> bool:
        """The conference goes on."""
        return True
