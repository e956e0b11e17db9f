"""Hunt: connect a caller with the first of several targets that answers.

Targets are tried group by group: one at a time (in order) or all at once. While they ring the
caller is told; the first answer takes the call and the others are released as answered
elsewhere; when all have failed the caller is refused with the cause that says most. A route may
want that whoever answers accepts the call with a digit: an answering machine does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from gateway.core.actions import Play
from gateway.core.calls import Call, Leg, LegState
from gateway.core.causes import Cause
from gateway.core.endpoints import Target
from gateway.core.events import Diversion
from gateway.core.lines import Waiter
from gateway.core.plans import Silent
from gateway.core.routes import BY_ANSWER, BY_TALKING, Match
from gateway.core.timers import Timer

if TYPE_CHECKING:
    from gateway.core.switchboard import Switchboard

# Which failure a caller is told when several targets failed differently: the one that says most
# about the person wanted (as RFC 3261 section 16.7 prefers a callee's word to a server's).
_TELLING: Final[tuple[Cause, ...]] = (Cause.REJECTED, Cause.BUSY, Cause.NO_ANSWER, Cause.ABSENT)

_MOST_REDIRECTS: Final = 5
"""Telephones that forward to each other must not do so for ever."""


class Hunt(Silent):
    """One caller looking for one callee. The plan of the caller's leg and of all attempts."""

    def __init__(
        self,
        board: Switchboard,
        call: Call,
        caller: Leg,
        groups: Sequence[Sequence[Target]],
        *,
        ring_s: float,
        calling: str = "",
        auto_answer: bool = False,
        screened: Match | None = None,
    ) -> None:
        """screened: the route by whose digit an answered call has to be accepted."""
        self.board, self.call, self.caller = board, call, caller
        self._groups = list(groups)
        self._ring_s = ring_s
        self._calling = calling or caller.calling
        self._auto_answer = auto_answer
        self._screened = screened
        self._redirects = 0
        self._attempts: dict[Leg, tuple[Diversion, ...]] = {}  # and who sent the call on to each
        self._deciding: dict[Leg, Timer] = {}
        self._waiting: dict[Target, Waiter] = {}
        self._causes: list[tuple[Cause, str]] = []
        self._deadline: Timer | None = None
        self._over = False

    def begin(self) -> None:
        """Try the first group."""
        self.caller.plan = self
        self._check()

    def _check(self) -> None:
        """Go on to the next group when nobody of this one is left."""
        while not self._over and not self._attempts and not self._waiting:
            if not self._groups or not self.caller.live:
                self._fail()
                return
            group = self._groups.pop(0)
            if self._deadline:
                self._deadline.cancel()
            self._deadline = self.board.after(self._ring_s, self._timed_out)
            for target in dict.fromkeys(group):
                self._try(target, self.caller.diverted)

    def _try(self, target: Target, diverted: tuple[Diversion, ...]) -> None:
        if target in self._waiting:
            return  # two who send the call on to the same place
        got = self.board.lines.obtain(
            target, self.call.priority, lambda: self._freed(target, diverted)
        )
        if got is None:
            self._dial(target, diverted)
        elif isinstance(got, Waiter):
            self._waiting[target] = got
        else:
            self._causes.append(got)

    def _freed(self, target: Target, diverted: tuple[Diversion, ...]) -> None:
        del self._waiting[target]
        refusal = self.board.lines.refusal(target)
        if refusal or not self.caller.live:
            self._causes.append(refusal or (Cause.CANCELLED, "the caller gave up"))
            self._check()
        else:
            self._dial(target, diverted)

    def _dial(self, target: Target, diverted: tuple[Diversion, ...]) -> None:
        leg = self.board.dial(
            self.call,
            target,
            self,
            calling=self._calling,
            display=self.caller.display,
            auto_answer=self._auto_answer,
            diverted=diverted,
            caller=self.caller,
        )
        self._attempts[leg] = diverted

    def _timed_out(self) -> None:
        self._causes.append((Cause.NO_ANSWER, f"no answer within {self._ring_s:g} s"))
        for leg in list(self._attempts):
            # Somebody who is deciding has his own time for it.
            if leg not in self._deciding:
                del self._attempts[leg]
                leg.plan = None
                self.board.hangup(leg, Cause.NO_ANSWER, "ring time-out")
        self._drop_waiting()
        self._check()

    def _drop_waiting(self) -> None:
        for waiter in self._waiting.values():
            self.board.lines.drop(waiter)
        self._waiting.clear()

    def _fail(self) -> None:
        self._finish()
        self.caller.plan = None
        self.board.hangup(self.caller, *self._why())

    def _why(self) -> tuple[Cause, str]:
        """Why nobody has the call."""
        for known in _TELLING:
            found = next((pair for pair in self._causes if pair[0] is known), None)
            if found:
                return found
        return self._causes[-1] if self._causes else (Cause.NO_ROUTE, "no target")

    def _finish(self) -> None:
        self._over = True
        if self._deadline:
            self._deadline.cancel()
        for timer in self._deciding.values():
            timer.cancel()
        self._drop_waiting()
        if self.caller.live:
            self.board.bridging.hush(self.caller)

    def _release(self, cause: Cause, detail: str, but: Leg | None = None) -> None:
        for leg in self._attempts:
            if leg is not but:
                leg.plan = None
                self.board.hangup(leg, cause, detail)

    # Events of the legs

    def ringing(self, leg: Leg) -> None:
        """A target alerts: tell the caller, once."""
        if leg is self.caller:
            return
        if self.caller.answered_at is None:
            self.board.ring(self.caller)
        elif not self.caller.saying and self.caller.live:
            # A caller who is already connected (transferred, called back) hears ringback from us.
            name = f"{self.caller.id}/ringback"
            ringback = Play(leg=self.caller.id, play=name, tone="ringback", repeat=0)
            self.board.bridging.say(self.caller, ringback)

    def progressed(self, leg: Leg) -> None:
        """Let the caller hear what a single target says before it answers."""
        alone = len(self._attempts) == 1 and not self._waiting and not self._groups
        if leg is self.caller or not alone or self._screened or not self.caller.live:
            return
        self.board.bridging.hush(self.caller)
        self.board.connect(self.call, self.caller, leg)
        if self.caller.answered_at is None:
            self.board.progress(self.caller)

    def answered(self, leg: Leg) -> None:
        """The first target to answer, and to accept where that is asked, has the call."""
        if leg is self.caller:
            return
        route = self._screened.route.route if self._screened else None
        if self._screened and route and route.acknowledge not in ("", BY_ANSWER):
            self._deciding[leg] = self.board.after(route.acknowledge_s, lambda: self._decline(leg))
            if route.announce:
                text = self._screened.expand(route.announce.text)
                self.board.bridging.announce(leg, route.announce, text, repeat=0)
            return
        self._take(leg)

    def _decline(self, leg: Leg) -> None:
        del self._deciding[leg], self._attempts[leg]
        leg.plan = None
        self.board.hangup(leg, Cause.NORMAL, "not accepted")
        self._causes.append((Cause.NO_ANSWER, "nobody accepted the call"))
        self._check()

    def _take(self, leg: Leg) -> None:
        self._finish()
        self._release(Cause.ANSWERED_ELSEWHERE, f"answered by {leg.endpoint}", but=leg)
        leg.plan = self.caller.plan = None
        if not self.caller.live:
            self.board.hangup(leg, Cause.CANCELLED, "the caller gave up")
            return
        self.board.bridging.hush(leg)
        self.board.answer(self.caller)
        self.board.connect(self.call, self.caller, leg)

    def rings_at(self, leg: Leg) -> bool:
        """Whether the leg is one of the targets that may still answer."""
        return leg in self._attempts and leg not in self._deciding

    def hand_over(self, caller: Leg, other: Leg) -> bool:
        """Go on for somebody else; True when `caller` was the one hunting, and is free to go."""
        if caller is not self.caller:
            return False
        self.board.move(other, self.call)
        if self._calling == caller.calling:
            # Whom the next ones are called for now; the former one may be hidden.
            self._calling = other.calling
        self.caller, other.plan = other, self
        if any(leg.state is LegState.ALERTING for leg in self._attempts):
            self.ringing(next(iter(self._attempts)))
        return True

    def pick_up(self, newcomer: Leg) -> None:
        """Somebody else takes the call that rings at one of the targets."""
        self.board.move(newcomer, self.call)
        self.board.answer(newcomer)
        self._take(newcomer)

    def _redirected(self, leg: Leg, diverted: tuple[Diversion, ...]) -> bool:
        """Call where a target wants its calls to go; whether there is such a place."""
        target = self.board.transfers.resolve(leg, leg.redirect) if leg.redirect else None
        if target is None or self._redirects >= _MOST_REDIRECTS:
            return False
        self._redirects += 1
        number = self.board.endpoints[leg.endpoint].number or leg.number
        diversion = Diversion(number=number, reason=leg.redirect_reason or "unknown")
        self.board.note(f"{leg.endpoint} sends the call on to {target}", call=self.call)
        if self._deadline:
            self._deadline.cancel()
        self._deadline = self.board.after(self._ring_s, self._timed_out)
        self._try(target, (diversion, *diverted))
        return True

    def ended(self, leg: Leg) -> None:
        """A target failed, or the caller gave up."""
        if leg is self.caller:
            self._finish()
            if leg.cause is Cause.ANSWERED_ELSEWHERE:
                # It rang elsewhere too, and was answered there: no call was missed here.
                self._release(leg.cause, "the caller was answered elsewhere")
            else:
                self._release(Cause.CANCELLED, "the caller gave up")
            return
        diverted = self._attempts.pop(leg)
        timer = self._deciding.pop(leg, None)
        if timer:
            timer.cancel()
        if not self._redirected(leg, diverted):
            self._causes.append((leg.cause or Cause.UNSPECIFIED, leg.detail))
        self._check()

    def digit(self, leg: Leg, digit: str) -> bool:
        """Whoever decides accepts with the route's digit."""
        if leg not in self._deciding:
            return False
        assert self._screened is not None
        if digit == self._screened.route.route.acknowledge:
            self._take(leg)
        return True

    def talked(self, leg: Leg) -> bool:
        """Where talking acknowledges, the talk key accepts."""
        if leg not in self._deciding or self._screened is None:
            return False
        if self._screened.route.route.acknowledge == BY_TALKING:
            self._take(leg)
        return True

    def displaced(self, leg: Leg) -> bool:
        """An attempt may be taken for a higher call; without its caller there is no hunt."""
        return leg is not self.caller


class Callback(Silent):
    """Call a place first, then hunt for its partner (click to dial)."""

    def __init__(
        self,
        board: Switchboard,
        call: Call,
        groups: Sequence[Sequence[Target]],
        *,
        ring_s: float,
        calling: str = "",
    ) -> None:
        self.board, self.call = board, call
        self._groups, self._ring_s, self._calling = groups, ring_s, calling
        self._deadline: Timer | None = None

    def begin(self, origin: Target) -> None:
        """Dial the origin; the hunt starts when it answers."""
        got = self.board.lines.obtain(origin, self.call.priority, lambda: self._dial(origin))
        if got is None:
            self._dial(origin)
        elif not isinstance(got, Waiter):
            self.board.note(f"cannot call {origin}: {got[1]}", call=self.call)

    def _dial(self, origin: Target) -> None:
        refusal = self.board.lines.refusal(origin)
        if refusal:
            self.board.note(f"cannot call {origin}: {refusal[1]}", call=self.call)
            return
        leg = self.board.dial(self.call, origin, self, calling=self._calling)
        self._deadline = self.board.after(
            self._ring_s, lambda: self.board.hangup(leg, Cause.NO_ANSWER, "ring time-out")
        )

    def answered(self, leg: Leg) -> None:
        """The origin is there: look for its partner."""
        if self._deadline:
            self._deadline.cancel()
        Hunt(
            self.board, self.call, leg, self._groups, ring_s=self._ring_s, calling=self._calling
        ).begin()

    def ended(self, leg: Leg) -> None:
        """The origin did not want."""
        if self._deadline:
            self._deadline.cancel()
