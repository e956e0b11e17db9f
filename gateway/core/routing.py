"""Routing: from an offered leg to the plan that its route starts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from gateway.core.calls import Leg
from gateway.core.causes import Cause
from gateway.core.endpoints import Target
from gateway.core.events import LegOffered, MessageReceived
from gateway.core.hunting import Hunt
from gateway.core.numbers import Completeness
from gateway.core.paging import Paging
from gateway.core.plans import AnnounceToCaller
from gateway.core.routes import Match, Strategy
from gateway.core.service import Service
from gateway.errors import UsageError

if TYPE_CHECKING:
    from gateway.core.switchboard import Switchboard


class Routing:
    """Routes, and the directory behind them, as a switchboard uses them for calls."""

    def __init__(self, board: Switchboard) -> None:
        self.board = board

    def route(self, leg: Leg, event: LegOffered) -> None:
        """Find the route of a call that is offered, and begin its plan."""
        call = leg.call
        match, refusals = self.board.table.match(event, self.board.wall)
        if match is None:
            self._directory(leg, event, refusals)
            return
        route = match.route.route
        leg.number = match.route.shown(event.called)
        call.route, call.record = route.name, route.record
        call.talk, call.hold = match.route.talk, match.route.route.hold
        call.priority = max(call.priority, match.route.priority)
        call.why = f"route {route.name!r} matched {leg.number or 'the call'} from {event.endpoint}"
        self.board.note(call.why, call=call, route=route.name)
        if route.refuse:
            self.board.hangup(leg, Cause(route.refuse), f"route {route.name!r} refuses")
            return
        call.after = route.outputs
        self.board.switch(route.outputs)
        if route.command:
            Service(self.board, leg, match).begin()
        elif route.conference:
            self.board.answer(leg)
            self.board.rooms.enter(route.conference, leg)
            for target in self.expand(match, route.targets):
                self.board.rooms.invite(route.conference, target, leg, ring_s=route.ring_s)
        elif route.page:
            Paging(self.board, leg, match).begin()
        elif route.announce and not route.targets:
            AnnounceToCaller(self.board, leg, match).begin()
        else:
            self._hunt(leg, match)

    def _hunt(self, leg: Leg, match: Match) -> None:
        route = match.route.route
        targets = self.expand(match, route.targets)
        told = match.told(hidden=leg.hidden)
        # Nothing that is made of a hidden number is another number in its place.
        veiled = leg.hidden and "{calling}" in route.calling_as
        groups = [targets] if route.strategy is Strategy.ALL else [[t] for t in targets]
        Hunt(
            self.board,
            leg.call,
            leg,
            groups * route.rounds,
            ring_s=route.ring_s,
            calling="" if veiled else match.expand(route.calling_as),
            auto_answer=route.auto_answer or leg.asks_answer,
            screened=told if route.acknowledge else None,
        ).begin()

    def expand(self, match: Match, texts: Iterable[str]) -> list[Target]:
        """A route's targets, with captures and directory numbers filled in."""
        targets = []
        for text in texts:
            expanded = match.expand(text)
            try:
                if expanded.startswith("directory:"):
                    number = expanded.removeprefix("directory:")
                    found = self.lookup(number)
                    if found is None:
                        raise UsageError(f"{number or '(no number)'} is nobody's number")
                    targets.append(found)
                else:
                    targets.append(Target.parse(expanded))
            except UsageError as error:
                self.board.note(f"route {match.route.name!r}: {error}")
        return targets

    def lookup(self, number: str) -> Target | None:
        """The extension with this directory number."""
        for endpoint in self.board.endpoints.values():
            if number and endpoint.number == number:
                return Target(endpoint.id)
        return None

    def for_text(self, event: MessageReceived) -> Target | None:
        """Who gets a text: the extension with its number, else the first trunk of the route that
        would take a call to it."""
        extension = self.lookup(event.recipient)
        if extension or not event.recipient:
            return extension
        call = LegOffered(
            leg="", endpoint=event.endpoint, called=event.recipient, calling=event.sender,
            trace=event.trace, demanded_at=self.board.now,
        )  # fmt: skip
        match, _ = self.board.table.match(call, self.board.wall)
        if match is None:
            return None
        route = match.route.route
        if route.refuse or route.command or route.conference or route.page:
            # A call does not simply get to the targets of such a route.
            return None
        for target in self.expand(match, route.targets):
            trunk = self.board.endpoints.get(target.endpoint)
            if trunk and trunk.takes_number and target.number:
                return target
        return None

    def _directory(self, leg: Leg, event: LegOffered, refusals: list[tuple[str, str]]) -> None:
        """No route matched: extensions reach each other by number; trunks need a route."""
        origin = self.board.endpoints.get(event.endpoint)
        target = self.lookup(event.called)
        if target and origin and not origin.takes_number and target.endpoint != event.endpoint:
            leg.call.route = "directory"
            leg.call.why = f"{event.called} is the number of {target.endpoint}"
            self.board.note(leg.call.why, call=leg.call, route="directory")
            Hunt(
                self.board, leg.call, leg, [[target]], ring_s=60.0, auto_answer=leg.asks_answer
            ).begin()
            return
        why = "; ".join(f"{name}: {reason}" for name, reason in refusals) or "there are no routes"
        leg.call.why = f"no route matched {event.called or '(no number)'} from {event.endpoint}"
        self.board.note(f"{leg.call.why}: {why}", call=leg.call)
        known = self.board.table.completeness(
            leg.endpoint, event.called, self.board.wall, self.board.endpoints
        )
        # More digits would lead somewhere: exchanges that dial in overlap send them then.
        partial = event.called and known is Completeness.PARTIAL
        cause = Cause.ADDRESS_INCOMPLETE if partial else Cause.UNALLOCATED
        self.board.hangup(leg, cause, leg.call.why)
