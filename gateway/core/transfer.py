"""Transfer: connect the partner of a call with somebody else, or take over a call that stands."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from gateway.core.actions import ReportTransfer
from gateway.core.calls import Leg, LegState
from gateway.core.causes import Cause
from gateway.core.endpoints import Target
from gateway.core.events import LegOffered, TransferRequested
from gateway.core.hunting import Hunt
from gateway.core.plans import Leaving
from gateway.core.routes import Match
from gateway.errors import UsageError

if TYPE_CHECKING:
    from gateway.core.switchboard import Switchboard

REFER_RING_S: Final = 30.0
"""How long the target of a transfer may ring."""


class Transfers:
    """Blind and attended transfer, and calls taken over by somebody else."""

    def __init__(self, board: Switchboard) -> None:
        self.board = board

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
        partner = self._partner(leg)
        room = self._room(leg, event.target)
        if partner is not None and room:
            self._to_room(leg, partner, room)
            return
        target = self.resolve(leg, event.target)
        if partner is None or target is None:
            self._cannot(leg, Cause.UNALLOCATED if partner else Cause.NOT_AVAILABLE)
        else:
            _Referred(self.board, leg, partner, [target]).begin()

    def _cannot(self, leg: Leg, cause: Cause) -> None:
        self.board.note(f"{leg.id} cannot transfer: no partner or no such target", call=leg.call)
        self.board.act(ReportTransfer(leg=leg.id, outcome="failed", cause=cause))

    def resolve(self, leg: Leg, text: str) -> Target | None:
        """Where an endpoint or a bare number leads, seen from the leg that names it."""
        try:
            return Target.parse(text)
        except UsageError:
            pass
        match = self._match(leg, text)
        if match and (match.route.route.refuse or match.route.route.command):
            return None
        if match:
            return next(iter(self.board.routing.expand(match, match.route.route.targets)), None)
        return self.board.routing.lookup(text)

    def _match(self, leg: Leg, text: str) -> Match | None:
        probe = LegOffered(
            leg=leg.id, endpoint=leg.endpoint, called=text, trace="", demanded_at=self.board.now
        )
        return self.board.table.match(probe, self.board.wall)[0]

    def _room(self, leg: Leg, text: str) -> str:
        """The conference that a number leads to; empty: none."""
        with contextlib.suppress(UsageError):
            Target.parse(text)
            return ""
        match = self._match(leg, text)
        if match is None or match.route.route.refuse or match.route.route.command:
            return ""
        return match.route.route.conference

    def _to_room(self, leg: Leg, partner: Leg, room: str) -> None:
        """A conference answers at once: the partner is in it, the one who transfers leaves."""
        self.board.bridging.part(partner)
        leg.plan = Leaving()
        self.board.rooms.enter(room, partner)
        self.board.act(ReportTransfer(leg=leg.id, outcome="answered"))
        self.board.hangup(leg, Cause.NORMAL, "transferred")

    def transfer(self, leg: Leg, targets: list[Target], ring_s: float) -> None:
        """Blind: the partner hunts for the targets, the leg that asks ends."""
        partner = self._partner(leg)
        if partner is None or not targets:
            self.board.note(
                f"{leg.id} cannot transfer: no partner or no such target", call=leg.call
            )
            return
        self.board.bridging.part(partner)
        # Its end must not take the partner along, whatever the hunt has come to by then.
        leg.plan = Leaving()
        groups = [[target] for target in targets]
        Hunt(self.board, leg.call, partner, groups, ring_s=ring_s).begin()
        self.board.hangup(leg, Cause.NORMAL, "transferred")

    def _partner(self, leg: Leg) -> Leg | None:
        """The one other person of a call that nobody else decides about."""
        partners = leg.call.partners(leg)
        if not leg.connected or leg.plan or len(partners) != 1:
            return None
        partner = partners[0]
        waits = partner.state is LegState.OFFERED and not partner.answering
        return None if partner.plan or waits or partner.bridge != leg.bridge else partner

    def _attended(self, leg: Leg, consulted: Leg) -> None:
        """Join the partners of both calls; both legs of the one who transfers end."""
        stays = self._partner(leg)
        if stays is not None and isinstance(consulted.plan, Hunt):
            # Transferred while it still rings there: the hunt goes on for the partner.
            self._semi_attended(leg, stays, consulted, consulted.plan)
            return
        moves = self._partner(consulted)
        if stays is None or moves is None or leg.call is consulted.call:
            self.board.note(f"{leg.id} cannot transfer: both calls need one partner", call=leg.call)
            failed = ReportTransfer(leg=leg.id, outcome="failed", cause=Cause.NOT_AVAILABLE)
            self.board.act(failed)
            return
        for other in (stays, moves):
            self.board.bridging.part(other)
        self.board.move(moves, leg.call)
        self.board.act(ReportTransfer(leg=leg.id, outcome="answered"))
        for other in (leg, consulted):
            other.plan = Leaving()
            self.board.hangup(other, Cause.NORMAL, "transferred")
        self.board.connect(leg.call, stays, moves)

    def _semi_attended(self, leg: Leg, stays: Leg, consulted: Leg, hunt: Hunt) -> None:
        self.board.bridging.part(stays)
        if not hunt.hand_over(consulted, stays):
            self._cannot(leg, Cause.NOT_AVAILABLE)
            self.board.connect(leg.call, leg, stays)
            return
        self.board.act(ReportTransfer(leg=leg.id, outcome="answered"))
        for other in (leg, consulted):
            other.plan = Leaving()
            self.board.hangup(other, Cause.NORMAL, "transferred")

    def replace(self, newcomer: Leg, replaced: str) -> None:
        """A leg that was offered takes the place of another one (RFC 3891 section 3)."""
        old = self.board.legs.get(replaced)
        if old is not None and isinstance(old.plan, Hunt) and old.plan.rings_at(old):
            self.board.note(
                f"{newcomer.endpoint} picks up what rings at {old.endpoint}", call=old.call
            )
            old.plan.pick_up(newcomer)
            return
        bridge = self.board.bridges.get(old.bridge) if old is not None else None
        if old is None or bridge is None or not old.connected or old.plan:
            self.board.hangup(newcomer, Cause.REJECTED, f"{replaced} cannot be replaced now")
            return
        call = old.call
        self.board.note(f"{newcomer.endpoint} takes the place of {old.id}", call=call)
        self.board.move(newcomer, call)
        old.plan = Leaving()
        self.board.answer(newcomer)
        if bridge.room:
            self.board.bridging.join(bridge, newcomer)
            self.board.bridging.part(old)
        else:
            others = [self.board.legs[name] for name in bridge.members if name != old.id]
            self.board.bridging.part(old)
            self.board.connect(call, *others, newcomer)
        self.board.hangup(old, Cause.NORMAL, f"replaced by {newcomer.id}")


class _Referred(Hunt):
    """A blind transfer whose asker is told how it goes, and stays until that is known.

    When nobody answers he has his partner back; when he hangs up before, the hunt goes on, and he
    is told all the same.
    """

    def __init__(self, board: Switchboard, asker: Leg, partner: Leg, targets: list[Target]) -> None:
        super().__init__(
            board, asker.call, partner, [[target] for target in targets], ring_s=REFER_RING_S
        )
        self._asker = asker

    def begin(self) -> None:
        self.board.bridging.part(self.caller)
        self._asker.plan = Leaving()
        super().begin()

    def ringing(self, leg: Leg) -> None:
        if leg is not self.caller:
            self._report("ringing")
        super().ringing(leg)

    def _take(self, leg: Leg) -> None:
        super()._take(leg)
        self._report("answered")
        self.board.hangup(self._asker, Cause.NORMAL, "transferred")

    def _fail(self) -> None:
        asker, partner = self._asker, self.caller
        if not (asker.connected and partner.connected):
            self._report("failed", self._why()[0])
            super()._fail()
            return
        self._finish()
        self._report("failed", self._why()[0])
        asker.plan = partner.plan = None
        self.board.connect(self.call, partner, asker)

    def ended(self, leg: Leg) -> None:
        super().ended(leg)
        if leg is self.caller:
            self._report("failed", Cause.CANCELLED)
            self.board.hangup(self._asker, Cause.NORMAL, "the other side hung up")

    def _report(self, outcome: str, cause: Cause = Cause.NORMAL) -> None:
        asker = self._asker
        self.board.act(
            ReportTransfer(leg=asker.id, endpoint=asker.endpoint, outcome=outcome, cause=cause)
        )
