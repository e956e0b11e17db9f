"""Transfer and feature codes: what a person in a call can ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.actions import Command, SetOutput
from gateway.core.calls import Leg
from gateway.core.causes import Cause
from gateway.core.endpoints import Target
from gateway.core.events import LegOffered, TransferRequested
from gateway.core.hunting import Hunt
from gateway.core.plans import Leaving
from gateway.core.routes import Match
from gateway.core.service import person
from gateway.errors import UsageError

if TYPE_CHECKING:
    from gateway.core.switchboard import Switchboard


class Transfers:
    """Blind and attended transfer, and digits routes during a call."""

    def __init__(self, board: Switchboard) -> None:
        self.board = board

    def feature(self, leg: Leg, match: Match) -> None:
        """A digits route during a call: outputs, a command, or a transfer of the partner."""
        route = match.route.route
        by = leg.endpoint
        if route.pins:
            by = person(route.pins, match.fields.get("1", ""))
            if not by:
                self.board.note(
                    f"wrong PIN for route {route.name!r} from {leg.endpoint}", call=leg.call
                )
                return
        self.board.note(f"route {route.name!r} by digits of {by}", call=leg.call, route=route.name)
        for setting in route.outputs:
            self.board.act(
                SetOutput(
                    endpoint=setting.endpoint,
                    output=setting.output,
                    value=setting.value,
                    pulse_ms=setting.pulse_ms,
                )
            )
        if route.command and route.command.verb == "ACKNOWLEDGE":
            self.board.acknowledge(route.command.endpoint, "", by)
        elif route.command:
            self.board.act(
                Command(
                    command=self.board.new_id(),
                    endpoint=route.command.endpoint,
                    verb=route.command.verb,
                    by=by,
                    trace=leg.call.trace,
                )
            )
        if route.targets:
            self._transfer(leg, self.board.expand(match), route.ring_s)

    def requested(self, event: TransferRequested) -> None:
        """The far end asks that its partner be connected to somebody else."""
        leg = self.board.legs.get(event.leg)
        if leg is None or not leg.connected:
            self.board.ignore(event)
            return
        consulted = self.board.legs.get(event.replaces)
        if consulted:
            self._attended(leg, consulted)
            return
        try:
            targets = [Target.parse(event.target)]
        except UsageError:
            found = self._resolve(leg, event.target)
            targets = [found] if found else []
        self._transfer(leg, targets, 30.0)

    def _resolve(self, leg: Leg, number: str) -> Target | None:
        """Where a bare number leads, seen from the leg that asks."""
        probe = LegOffered(
            leg=leg.id, endpoint=leg.endpoint, called=number, trace="", demanded_at=self.board.now
        )
        match, _ = self.board.table.match(probe, self.board.wall)
        if match:
            return next(iter(self.board.expand(match)), None)
        return self.board.lookup(number)

    def _transfer(self, leg: Leg, targets: list[Target], ring_s: float) -> None:
        partners = leg.call.partners(leg)
        if len(partners) != 1 or not targets:
            self.board.note(
                f"{leg.id} cannot transfer: no partner or no such target", call=leg.call
            )
            return
        partner = partners[0]
        self.board.bridging.part(partner)
        hunt = Hunt(self.board, leg.call, partner, [[target] for target in targets], ring_s=ring_s)
        hunt.begin()
        self.board.hangup(leg, Cause.NORMAL, "transferred")

    def _attended(self, leg: Leg, consulted: Leg) -> None:
        """Join the partners of both calls; both legs of the one who transfers end."""
        first, second = leg.call.partners(leg), consulted.call.partners(consulted)
        if len(first) != 1 or len(second) != 1 or leg.call is consulted.call:
            self.board.note(f"{leg.id} cannot transfer: both calls need one partner", call=leg.call)
            return
        stays, moves = first[0], second[0]
        for other in (stays, moves):
            self.board.bridging.part(other)
        moves.call.legs.remove(moves)
        moves.call = leg.call
        leg.call.legs.append(moves)
        for other in (leg, consulted):
            other.plan = Leaving()
            self.board.hangup(other, Cause.NORMAL, "transferred")
        self.board.connect(leg.call, stays, moves)
