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
_TWICE_S: Final = 1.0
"""The same digit in another way so soon after is the same key press."""
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
        self._told: dict[str, tuple[str, bool, float]] = {}
        """The last digit of a leg that its other side was told, whether it was heard, and when."""

    def forget(self, leg: Leg) -> None:
        """The leg is over."""
        self._kept.pop(leg.id, None)
        self._heard.discard(leg.id)
        self._told.pop(leg.id, None)

    def digit(self, event: DigitPressed) -> None:
        """A digit."""
        heard = event.via not in _BESIDE
        if heard and event.leg in self.board.legs:
            self._heard.add(event.leg)
        self.pressed(event.leg, event.digit, heard=heard)

    def pressed(self, leg_id: str, digit: str, *, heard: bool = False) -> None:
        """A digit; a hook flash is ``!``. Its plan sees it first, then talk keys, then the other
        side, then routes.

        heard: it came in the audio, or as an event among it.
        """
        leg = self.board.legs.get(leg_id)
        if leg is None or not leg.connected:
            return
        if leg.plan and leg.plan.digit(leg, digit):
            return
        if self._talk_key(leg, digit):
            return
        self._pass_on(leg, digit, heard=heard)
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

    def _pass_on(self, leg: Leg, digit: str, *, heard: bool) -> None:
        """Let the other side of a call have a digit: one that was told beside the audio, or any
        if it wants to be told its digits so.

        Of a device that tells its digits twice it has them once; PINs are for us alone.
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
            elif not self._is_told(leg, digit, heard=heard):
                self._told[leg.id] = digit, heard, self.board.now
                self.board.act(SendDigits(leg=other, digits=digit))

    def _is_told(self, leg: Leg, digit: str, *, heard: bool) -> bool:
        """Whether it is the other copy of a digit that came in two ways."""
        last, was_heard, at = self._told.get(leg.id, ("", heard, 0.0))
        return last == digit and was_heard is not heard and self.board.now - at < _TWICE_S

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
