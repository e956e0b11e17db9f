"""Lines: which legs an endpoint carries, who waits for it, and who has to make room.

An endpoint carries as many legs as its capacity says. When it is full, a plan may wait: for a leg
that is closing anyway, for one that was thrown off for it, or, if it is patient, for any. Those who
wait are served by priority, then in the order they came, before anybody new gets the line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from gateway.core.calls import Leg
from gateway.core.causes import Cause
from gateway.core.endpoints import Target
from gateway.core.events import Priority
from gateway.core.timers import Timer

if TYPE_CHECKING:
    from gateway.core.switchboard import Switchboard

FREED_S: Final = 5.0
"""How long a line that was promised is waited for before it is dialled all the same."""

WARNING_TONE: Final = "intercept"
"""What the partners of a displaced leg hear before they are released."""


class Waiter:
    """One plan's place in the queue for an endpoint."""

    __slots__ = ("act", "borrows", "endpoint", "priority", "timer")

    def __init__(
        self, endpoint: str, priority: Priority, act: Callable[[], None], *, borrows: bool = False
    ) -> None:
        self.endpoint, self.priority, self.act = endpoint, priority, act
        self.borrows = borrows
        """It calls another endpoint, which is to speak over this one's line."""
        self.timer: Timer | None = None


class Lines:
    """The use of all endpoints of a switchboard.

    Driven by `take` and `free` (a leg began, ended), `lend` and `give_back` (it speaks over another
    endpoint's line), `changed` (an endpoint did), and by plans that `obtain` a line or `drop` their
    place in the queue.
    """

    def __init__(self, board: Switchboard) -> None:
        self.board = board
        self._legs: dict[str, list[Leg]] = {}
        self._queue: dict[str, list[Waiter]] = {}
        self._speakers: dict[str, Waiter] = {}
        """Callers who wait for the line over which they are to speak, by leg."""

    def take(self, leg: Leg) -> None:
        """The leg uses its endpoint from now on; one that we call, also the line that it is to
        speak over."""
        self._legs.setdefault(leg.endpoint, []).append(leg)
        if leg.outbound and (line := self._line_of(leg.endpoint)):
            self.lend(leg, line)

    def free(self, leg: Leg) -> None:
        """The leg has ended: whoever waits gets the line, and the one that it borrowed."""
        speaker = self._speakers.pop(leg.id, None)
        if speaker:
            self.drop(speaker)
        self.give_back(leg)
        self._remove(leg, leg.endpoint)

    def lend(self, leg: Leg, endpoint: str) -> None:
        """The leg speaks over that endpoint's line: it is in use as if it were called."""
        if leg.borrows == endpoint:
            return
        self.give_back(leg)
        leg.borrows = endpoint
        self._legs.setdefault(endpoint, []).append(leg)

    def give_back(self, leg: Leg) -> None:
        """The leg does so no more."""
        endpoint, leg.borrows = leg.borrows, ""
        if endpoint:
            self._remove(leg, endpoint)

    def _remove(self, leg: Leg, endpoint: str) -> None:
        legs = self._legs[endpoint]
        legs.remove(leg)
        if not legs:
            del self._legs[endpoint]
        self.changed(endpoint)

    def changed(self, endpoint: str) -> None:
        """Serve those who wait, as far as there is room; all of them when the place is gone."""
        while waiting := self._queue.get(endpoint):
            place = self.board.endpoints.get(endpoint)
            if place and place.capacity is not None and self._used(endpoint) >= place.capacity:
                self._ring_beside(endpoint)
                return
            # max() answers with the first of equals: who came first.
            waiter = max(waiting, key=lambda each: each.priority)
            self.drop(waiter)
            waiter.act()

    def _ring_beside(self, endpoint: str) -> None:
        """Who came for the same line and finds an equal on it need not wait for its end to ring:
        the first to answer speaks over it."""
        for waiter in list(self._queue.get(endpoint, ())):
            waits = waiter in self._queue.get(endpoint, ())
            if waiter.borrows and waits and self._nobody_leaves(endpoint, waiter.priority):
                self.drop(waiter)
                waiter.act()

    def _nobody_leaves(self, endpoint: str, priority: Priority) -> bool:
        legs = self._legs.get(endpoint, ())
        return self._victim(endpoint, priority) is None and all(leg.live for leg in legs)

    def seize(self, endpoint: str, priority: Priority) -> bool:
        """Whether a newcomer of this priority could have a line at once."""
        place = self.board.endpoints.get(endpoint)
        if place is None:
            return False
        ahead = self._ahead(endpoint, priority)
        return place.capacity is None or self._used(endpoint) + ahead < place.capacity

    def gives_way(self, endpoint: str, priority: Priority) -> bool:
        """Whether a lower call would have to make room for one of this priority."""
        return self._victim(endpoint, priority) is not None

    def obtain(
        self,
        target: Target,
        priority: Priority,
        act: Callable[[], None],
        *,
        patient: bool = False,
    ) -> Waiter | tuple[Cause, str] | None:
        """Ask for a line to the target.

        None: there is one, dial now. A `Waiter`: `act` is called, once, when there is one; it
        must look again whether there is a `refusal`. Else why there is none. A patient plan waits
        for whoever has the line; others wait only for a line that is about to be free: one that
        closes, or that a lower call has to give up for this one.
        """
        refusal = self.board.unfit(target)
        if refusal:
            return refusal
        endpoint = target.endpoint
        if self.seize(endpoint, priority):
            return self._obtain_line(self._line_of(endpoint), priority, act)
        # A routine call waits for no line, but a test must never have cost it one.
        closing = sum(
            not leg.live and (priority > Priority.ROUTINE or leg.call.yields)
            for leg in self._legs.get(endpoint, ())
        )
        if closing > self._ahead(endpoint, priority):
            return self._wait(endpoint, priority, act, FREED_S)
        victim = self._victim(endpoint, priority)
        if victim:
            waiter = self._wait(endpoint, priority, act, FREED_S)
            self._displace(victim, priority)
            return waiter
        if patient:
            return self._wait(endpoint, priority, act, None)
        return Cause.BUSY, self._by_whom(endpoint)

    def speak(self, leg: Leg, act: Callable[[], None]) -> None:
        """Call `act` when the caller can be given the line that it borrows, if it borrows one.

        A lower call that has it leaves. Where nobody leaves, `act` is called at once: the adapter
        finds out who has the line, and says so.
        """
        line = self._line_of(leg.endpoint)

        def go_on() -> None:
            del self._speakers[leg.id]
            if leg.live:
                # From now on, for until the station has it the next one would get it too.
                self.lend(leg, line)
                act()

        if line and self.seize(line, leg.call.priority):
            self.lend(leg, line)
            act()
            return
        waiter = self._obtain_line(line, leg.call.priority, go_on)
        if waiter is None:
            act()
        else:
            self._speakers[leg.id] = waiter

    def _line_of(self, endpoint: str) -> str:
        """The endpoint over whose line the legs of another speak; empty: over its own."""
        place = self.board.endpoints.get(endpoint)
        return place.borrows if place and place.borrows in self.board.endpoints else ""

    def _obtain_line(self, line: str, priority: Priority, act: Callable[[], None]) -> Waiter | None:
        """A place in the queue for a line to borrow, where somebody leaves it; else None."""
        if not line or self.seize(line, priority):
            return None
        if self._nobody_leaves(line, priority):
            return None
        victim = self._victim(line, priority)
        waiter = self._wait(line, priority, act, FREED_S, borrows=True)
        if victim:
            self._displace(victim, priority)
        return waiter

    def drop(self, waiter: Waiter) -> None:
        """Leave the queue; harmless when the waiter has been served."""
        if waiter.timer:
            waiter.timer.cancel()
        waiting = self._queue.get(waiter.endpoint, [])
        if waiter in waiting:
            waiting.remove(waiter)
        if not waiting:
            self._queue.pop(waiter.endpoint, None)

    def waiting(self) -> int:
        """How many plans wait for a line."""
        return sum(map(len, self._queue.values()))

    def _used(self, endpoint: str) -> int:
        return len(self._legs.get(endpoint, ()))

    def _ahead(self, endpoint: str, priority: Priority) -> int:
        return sum(waiter.priority >= priority for waiter in self._queue.get(endpoint, ()))

    def _wait(
        self,
        endpoint: str,
        priority: Priority,
        act: Callable[[], None],
        limit: float | None,
        *,
        borrows: bool = False,
    ) -> Waiter:
        waiter = Waiter(endpoint, priority, act, borrows=borrows)
        self._queue.setdefault(endpoint, []).append(waiter)

        if limit is not None:
            waiter.timer = self.board.after(limit, lambda: self._dial_anyway(waiter))
        return waiter

    def _dial_anyway(self, waiter: Waiter) -> None:
        """The line that was promised does not report its end: whoever closes may be ignored."""
        victim = self._victim(waiter.endpoint, waiter.priority)
        if self._full(waiter.endpoint) and victim:
            # Somebody else was quicker, from the other side: it is his turn to leave.
            waiter.timer = self.board.after(FREED_S, lambda: self._dial_anyway(waiter))
            self._displace(victim, waiter.priority)
            return
        self.drop(waiter)
        waiter.act()

    def refusal(self, target: Target) -> tuple[Cause, str] | None:
        """Why a plan whose turn has come cannot dial after all."""
        refusal = self.board.unfit(target)
        if refusal is None and self._full(target.endpoint):
            return Cause.BUSY, self._by_whom(target.endpoint)
        return refusal

    def _by_whom(self, endpoint: str) -> str:
        for leg in self._legs.get(endpoint, ()):
            if leg.borrows == endpoint:
                return f"{endpoint} is lent to {leg.id}"
        return f"{endpoint} is in use"

    def _full(self, endpoint: str) -> bool:
        place = self.board.endpoints.get(endpoint)
        live = sum(leg.live for leg in self._legs.get(endpoint, ()))
        return place is not None and place.capacity is not None and live >= place.capacity

    def _victim(self, endpoint: str, priority: Priority) -> Leg | None:
        """The lowest call below this priority; among equals the youngest has least to lose."""
        legs = [leg for leg in self._legs.get(endpoint, ()) if leg.live]
        lowest = min(reversed(legs), key=_rank, default=None)
        return lowest if lowest and _rank(lowest) < priority else None

    def _displace(self, victim: Leg, priority: Priority) -> None:
        board, call = self.board, victim.call
        reason = f"pre-empted by a call of priority {priority.name.lower()}"
        board.note(f"{victim.id} is {reason}", call=call, leg=victim.id)
        partners = call.partners(victim)
        goes_on = victim.plan is not None and victim.plan.displaced(victim)
        board.hangup(victim, Cause.PREEMPTED, reason)
        if goes_on:
            return
        for partner in partners:
            if partner.connected and partner.plan is None:
                board.confirm_and_hang_up(partner, WARNING_TONE, Cause.PREEMPTED, reason)
            else:
                board.hangup(partner, Cause.PREEMPTED, reason)


def _rank(leg: Leg) -> int:
    """What a call must be above to take the leg's line."""
    return -1 if leg.call.yields else int(leg.call.priority)
