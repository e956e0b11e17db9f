"""Features: what digits during a call mean. Talk keys, outputs, commands, transfers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.core.actions import BridgeKind, Command, SendDigits
from gateway.core.calls import Leg
from gateway.core.events import DigitPressed
from gateway.core.routes import CompiledRoute, Match, Trigger
from gateway.core.service import person

if TYPE_CHECKING:
    from gateway.core.switchboard import Switchboard

_IDLE_S: Final = 4.0
"""Digits that are further apart than this do not belong together."""
_TWICE_S: Final = 2.0
"""The same digit in another way so soon after is the same key press."""
_UNPAIRED: Final = 32
_KEPT: Final = 64
_BESIDE: Final = frozenset(("info", "pulse", "keypad"))
"""Ways of a digit in which nobody hears it in the audio; the engine passes on the others."""
_DTMF: Final = frozenset("0123456789*#ABCD")


class Features:
    """The digits pressed on connected legs, and the digits routes they may match."""

    def __init__(self, board: Switchboard) -> None:
        self.board = board
        self._kept: dict[str, tuple[str, float]] = {}
        self._heard: set[str] = set()
        """Legs whose digits are in their audio."""
        self._unpaired: dict[str, list[tuple[str, bool, float]]] = {}
        """Digits of a leg that came in one way so far, whether they were heard, and when."""

    def forget(self, leg: Leg) -> None:
        """The leg is over."""
        self._kept.pop(leg.id, None)
        self._heard.discard(leg.id)
        self._unpaired.pop(leg.id, None)

    def digit(self, event: DigitPressed) -> None:
        """A digit. A device that tells each in two ways has pressed its keys once."""
        heard = event.via not in _BESIDE
        if event.leg in self.board.legs:
            if heard:
                self._heard.add(event.leg)
            if self._is_copy(event.leg, event.digit, heard=heard):
                return
        self.pressed(event.leg, event.digit)

    def _is_copy(self, leg: str, digit: str, *, heard: bool) -> bool:
        """Whether a digit came before in the other way: each way is in order by itself, but one
        may be some digits behind."""
        now, waiting = self.board.now, self._unpaired.setdefault(leg, [])
        waiting[:] = [each for each in waiting[-_UNPAIRED:] if now - each[2] < _TWICE_S]
        for index, (other, was_heard, _) in enumerate(waiting):
            if other == digit and was_heard is not heard:
                # What came before it in that way was lost in this one.
                del waiting[: index + 1]
                return True
        waiting.append((digit, heard, now))
        return False

    def pressed(self, leg_id: str, digit: str) -> None:
        """A digit; a hook flash is ``!``. Its plan sees it first, then talk keys, then the other
        side, then routes."""
        leg = self.board.legs.get(leg_id)
        if leg is None or not leg.connected:
            return
        if leg.plan and leg.plan.digit(leg, digit):
            return
        if self._talk_key(leg, digit):
            return
        self._pass_on(leg, digit)
        kept = (self._recent(leg) + digit)[-_KEPT:]
        self._kept[leg.id] = kept, self.board.now
        for compiled in self._routes(leg):
            captures = next(
                (
                    found
                    for tail in _tails(kept)
                    if (found := compiled.digits.match(tail)) is not None
                ),
                None,
            )
            if captures is not None:
                del self._kept[leg.id]
                fields = {str(index): text for index, text in enumerate(captures, 1)}
                self._feature(leg, Match(compiled, fields | {"source": leg.endpoint}))
                return

    def _pass_on(self, leg: Leg, digit: str) -> None:
        """Let the other side of a call have a digit: one that was told beside the audio, or any
        if it wants to be told its digits so.

        PINs are for us alone.
        """
        bridge = self.board.bridges.get(leg.bridge)
        if (
            bridge is None
            or bridge.kind is not BridgeKind.PAIR
            or digit not in _DTMF
            or self.secret(leg)
        ):
            return
        for other in bridge.members:
            if other == leg.id:
                continue
            place = self.board.endpoints.get(self.board.legs[other].endpoint)
            if place is None or not place.digits_beside:
                if leg.id not in self._heard:
                    self.board.act(SendDigits(leg=other, digits=digit))
            else:
                self.board.act(SendDigits(leg=other, digits=digit))

    def secret(self, leg: Leg) -> bool:
        """Whether the next digit may be one of a PIN: such a one must not be written down."""
        kept = self._recent(leg)
        return leg.secret or any(
            compiled.digits.awaits_capture(tail)
            for compiled in self._routes(leg)
            if compiled.route.pins
            for tail in (*_tails(kept), "")
        )

    def _recent(self, leg: Leg) -> str:
        kept, at = self._kept.get(leg.id, ("", 0.0))
        return kept if self.board.now - at <= _IDLE_S else ""

    def _routes(self, leg: Leg) -> list[CompiledRoute]:
        return [
            compiled
            for compiled in self.board.table.routes
            if compiled.route.on is Trigger.DIGITS and compiled.takes(leg.endpoint, self.board.wall)
        ]

    def _talk_key(self, leg: Leg, digit: str) -> bool:
        """One digit toggles, of two the first takes the floor and the second gives it back."""
        keys, bridging = leg.call.talk.keys, self.board.bridging
        bridge = self.board.bridges.get(leg.bridge)
        if not keys or digit not in keys or bridge is None or bridging.half(leg):
            return False
        holds = bridge.floor.holder == leg.id or bridge.floor.waits(leg.id)
        talks = digit == keys[0] and not (len(keys) == 1 and holds)
        return bridging.request_floor(leg) if talks else bridging.release_floor(leg)

    def _feature(self, leg: Leg, match: Match) -> None:
        """A digits route: outputs, a command, or a transfer of the partner."""
        route, board = match.route.route, self.board
        by = leg.endpoint
        if route.pins:
            if board.pins.locked(leg, route.name):
                text = f"route {route.name!r} is closed to {leg.id}: too many wrong PINs"
                board.note(text, call=leg.call)
                return
            by = person(route.pins, match.fields.get("1", ""))
            if not by:
                left = board.pins.wrong(leg, route.name)
                text = f"wrong PIN for route {route.name!r} from {leg.endpoint}, {left} tries left"
                board.note(text, call=leg.call)
                return
            board.pins.right(leg, route.name)
        board.note(
            f"route {route.name!r} by digits of {by}",
            call=leg.call,
            leg=leg.id,
            route=route.name,
        )
        board.switch(route.outputs)
        if route.command and route.command.verb == "ACKNOWLEDGE":
            board.acknowledge(route.command.endpoint, "", by)
        elif route.command:
            board.act(
                Command(
                    command=board.new_id(),
                    endpoint=route.command.endpoint,
                    verb=route.command.verb,
                    code=match.fields.get("1", "") if route.command.pass_code else "",
                    by=by,
                    trace=leg.call.trace,
                )
            )
        if route.targets:
            board.transfers.transfer(leg, board.routing.expand(match, route.targets), route.ring_s)


def _tails(digits: str) -> list[str]:
    """The digits, and what is left of them without the first ones, longest first."""
    return [digits[start:] for start in range(len(digits))]
