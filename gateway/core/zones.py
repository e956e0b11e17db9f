"""Zones: places that are spoken to at once, and what happens to each while a page lasts.

A zone that a higher page or call displaces is called again when it is free, and so is one that is
in use by an equal: a page that cannot be heard everywhere now is heard there later, if it still
lasts. A zone that is down or fails is noted and left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from gateway.core.calls import Call, Leg
from gateway.core.causes import Cause
from gateway.core.endpoints import Target
from gateway.core.lines import Waiter
from gateway.core.plans import Silent

if TYPE_CHECKING:
    from gateway.core.switchboard import Switchboard


class Pager(Protocol):
    """Whose page it is."""

    def page_call(self) -> Call:
        """The call that a zone's leg belongs to."""

    def zone_answered(self, leg: Leg) -> None:
        """The zone listens."""

    def zone_played(self, leg: Leg) -> None:
        """What was played to the zone came to its end."""

    def zones_changed(self) -> None:
        """A zone is gone; perhaps it was the last one (`Zones.busy`)."""


class Zones(Silent):
    """The zones of one page. The plan of their legs."""

    def __init__(
        self,
        board: Switchboard,
        pager: Pager,
        *,
        ring_s: float,
        calling: str = "",
        display: str = "",
        caller: Leg | None = None,
    ) -> None:
        self.board, self.pager, self._ring_s = board, pager, ring_s
        self._calling, self._display, self._caller = calling, display, caller
        self.legs: dict[Leg, Target] = {}
        self._waiting: dict[Target, Waiter] = {}
        self._over = False

    @property
    def busy(self) -> bool:
        """Whether any zone listens, rings, or is waited for."""
        return bool(self.legs or self._waiting)

    @property
    def coming(self) -> bool:
        """Whether any zone listens, rings, or is about to be free."""
        return bool(self.legs) or any(waiter.timer for waiter in self._waiting.values())

    def page(self, targets: Iterable[Target]) -> None:
        """Call the zones."""
        for target in dict.fromkeys(targets):
            self._reach(target)

    def _reach(self, target: Target) -> None:
        call = self.pager.page_call()
        got = self.board.lines.obtain(
            target, call.priority, lambda: self._freed(target), patient=True
        )
        if got is None:
            self._dial(target, call)
        elif isinstance(got, Waiter):
            self._waiting[target] = got
            self.board.note(f"zone {target} is paged when it is free", call=call)
        else:
            self.board.note(f"cannot page {target}: {got[1]}", call=call)

    def _freed(self, target: Target) -> None:
        del self._waiting[target]
        call = self.pager.page_call()
        refusal = self.board.lines.refusal(target)
        if refusal:
            self.board.note(f"cannot page {target}: {refusal[1]}", call=call)
            self.pager.zones_changed()
        else:
            self._dial(target, call)

    def _dial(self, target: Target, call: Call) -> None:
        leg = self.board.dial(
            call,
            target,
            self,
            calling=self._calling,
            display=self._display,
            auto_answer=True,
            one_way=True,
            caller=self._caller,
        )
        self.legs[leg] = target
        self.board.after(self._ring_s, lambda: self._not_there(leg))

    def _not_there(self, leg: Leg) -> None:
        if leg.plan is self and not leg.connected:
            self.board.hangup(leg, Cause.NO_ANSWER, "the zone does not answer")

    def answered(self, leg: Leg) -> None:
        self.pager.zone_answered(leg)

    def play_ended(self, leg: Leg, play: str) -> None:
        self.pager.zone_played(leg)

    def ended(self, leg: Leg) -> None:
        target = self.legs.pop(leg, None)
        if self._over or target is None:
            return
        if leg.cause is Cause.PREEMPTED and not self.board.closed:
            self._reach(target)
        elif leg.cause is not Cause.NORMAL:
            why = leg.detail or leg.cause or "it ended"
            self.board.note(f"zone {target} is gone: {why}", call=leg.call)
        self.pager.zones_changed()

    def digit(self, leg: Leg, digit: str) -> bool:
        return True

    def displaced(self, leg: Leg) -> bool:
        return True

    def release(self, leg: Leg, detail: str) -> None:
        """The page is over in this zone."""
        self.board.hangup(leg, Cause.NORMAL, detail)

    def stop(self, detail: str) -> None:
        """The page is over everywhere."""
        self._over = True
        for waiter in self._waiting.values():
            self.board.lines.drop(waiter)
        for leg in self.legs:
            leg.plan = None
            self.board.bridging.hush(leg)
            self.board.hangup(leg, Cause.NORMAL, detail)
        self._waiting.clear()
        self.legs.clear()

    def abandon(self) -> None:
        """Let go of the legs without ending them: somebody else does."""
        self._over = True
        for waiter in self._waiting.values():
            self.board.lines.drop(waiter)
        for leg in self.legs:
            leg.plan = None
        self._waiting.clear()
        self.legs.clear()
