"""Hunt: connect a caller with the first of several targets that answers.

Targets are tried group by group: one at a time (in order) or all at once. While they ring the
caller is told; the first answer takes the call and the others are released as answered
elsewhere; when all have failed the caller is refused with the cause that says most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from gateway.core.actions import Play, StopPlay
from gateway.core.calls import Call, Leg
from gateway.core.causes import Cause
from gateway.core.endpoints import Target
from gateway.core.timers import Timer

if TYPE_CHECKING:
    from gateway.core.switchboard import Switchboard

# Which failure a caller is told when several targets failed differently: the one that says most
# about the person wanted (as RFC 3261 section 16.7 prefers a callee's word to a server's).
_TELLING: Final[tuple[Cause, ...]] = (Cause.REJECTED, Cause.BUSY, Cause.NO_ANSWER, Cause.ABSENT)


class Hunt:
    """One caller looking for one callee."""

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
    ) -> None:
        self.board, self.call, self.caller = board, call, caller
        self._groups = list(groups)
        self._ring_s = ring_s
        self._calling = calling or caller.calling
        self._auto_answer = auto_answer
        self._attempts: list[Leg] = []
        self._waiting = 0
        self._causes: list[tuple[Cause, str]] = []
        self._deadline: Timer | None = None
        self._ringback = ""
        self._over = False

    def begin(self) -> None:
        """Try the first group."""
        self.caller.plan = self
        self._next_group()

    def _next_group(self) -> None:
        while not self._over and self._groups:
            group = self._groups.pop(0)
            self._arm_deadline()
            for target in group:
                self._try(target)
            if self._attempts or self._waiting:
                return
        self._fail()

    def _arm_deadline(self) -> None:
        if self._deadline:
            self._deadline.cancel()
        self._deadline = self.board.after(self._ring_s, self._timed_out)

    def _try(self, target: Target) -> None:
        refusal = self.board.unfit(target)
        if refusal:
            self._causes.append(refusal)
            return
        if self.board.seize(target.endpoint, self.call.priority):
            self._dial(target)
        elif self.board.preempt(target.endpoint, self.call):
            self._waiting += 1
            self.board.when_free(target.endpoint, lambda: self._freed(target))
        else:
            self._causes.append((Cause.BUSY, f"{target.endpoint} is in use"))

    def _freed(self, target: Target) -> None:
        if self._over:
            return
        self._waiting -= 1
        self._try(target)
        self._check()

    def _dial(self, target: Target) -> None:
        leg = self.board.dial(
            self.call,
            target,
            self,
            calling=self._calling,
            display=self.caller.display,
            auto_answer=self._auto_answer,
        )
        self._attempts.append(leg)

    def _timed_out(self) -> None:
        self._deadline = None
        self._causes.append((Cause.NO_ANSWER, f"no answer within {self._ring_s:g} s"))
        attempts, self._attempts = self._attempts, []
        self._waiting = 0
        for leg in attempts:
            leg.plan = None
            self.board.hangup(leg, Cause.NO_ANSWER, "ring time-out")
        self._next_group()

    def _check(self) -> None:
        if not self._over and not self._attempts and not self._waiting:
            self._next_group()

    def _fail(self) -> None:
        if self._over:
            return
        self._finish()
        cause, detail = self._causes[-1] if self._causes else (Cause.NO_ROUTE, "no target")
        for known in _TELLING:
            found = next((pair for pair in self._causes if pair[0] is known), None)
            if found:
                cause, detail = found
                break
        self.board.hangup(self.caller, cause, detail)

    def _finish(self) -> None:
        self._over = True
        if self._deadline:
            self._deadline.cancel()
        if self._ringback:
            self.board.act(StopPlay(leg=self.caller.id, play=self._ringback))
            self._ringback = ""

    # Events of the legs

    def ringing(self, leg: Leg) -> None:
        """A target alerts: tell the caller, once."""
        if leg is self.caller or self._over:
            return
        if self.caller.answered_at is None:
            self.board.ring(self.caller)
        elif not self._ringback:
            # A caller who is already connected (transferred, called back) hears ringback from us.
            self._ringback = f"{self.caller.id}/ringback"
            self.board.act(Play(leg=self.caller.id, play=self._ringback, tone="ringback", repeat=0))

    def progressed(self, leg: Leg) -> None:
        """Let the caller hear what a single target says before it answers."""
        if leg is self.caller or self._over or self._groups or len(self._attempts) != 1:
            return
        self.board.connect(self.call, self.caller, leg)
        if self.caller.answered_at is None:
            self.board.progress(self.caller)

    def answered(self, leg: Leg) -> None:
        """The first target to answer has the call."""
        if leg is self.caller or self._over:
            return
        self._finish()
        for other in self._attempts:
            if other is not leg:
                other.plan = None
                self.board.hangup(other, Cause.ANSWERED_ELSEWHERE, f"answered by {leg.endpoint}")
        leg.plan = self.caller.plan = None
        self.board.answer(self.caller)
        self.board.connect(self.call, self.caller, leg)

    def ended(self, leg: Leg) -> None:
        """A target failed, or the caller gave up."""
        if self._over:
            return
        if leg is self.caller:
            self._finish()
            for other in self._attempts:
                other.plan = None
                self.board.hangup(other, Cause.CANCELLED, "the caller gave up")
            return
        if leg in self._attempts:
            self._attempts.remove(leg)
            self._causes.append((leg.cause or Cause.UNSPECIFIED, leg.detail))
            self._check()

    def digit(self, leg: Leg, digit: str) -> bool:
        """Digits before the answer mean nothing here."""
        return False

    def play_ended(self, leg: Leg, play: str) -> None:
        """Ringback never ends by itself."""


class Callback:
    """Call a place first, then hunt for its partner (click to dial, help-point buttons)."""

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

    def begin(self, origin: Target, *, auto_answer: bool) -> None:
        """Dial the origin; the hunt starts when it answers."""
        refusal = self.board.unfit(origin)
        if not refusal and not self.board.seize(origin.endpoint, self.call.priority):
            refusal = (Cause.BUSY, f"{origin.endpoint} is in use")
        if refusal:
            self.board.note(f"cannot call {origin}: {refusal[1]}", call=self.call)
            self.board.forget(self.call)
            return
        leg = self.board.dial(
            self.call, origin, self, calling=self._calling, auto_answer=auto_answer
        )
        self._deadline = self.board.after(self._ring_s, lambda: self._timed_out(leg))

    def _timed_out(self, leg: Leg) -> None:
        self.board.hangup(leg, Cause.NO_ANSWER, "ring time-out")

    def ringing(self, leg: Leg) -> None:
        """The origin rings."""

    def progressed(self, leg: Leg) -> None:
        """Nothing to hear yet."""

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

    def digit(self, leg: Leg, digit: str) -> bool:
        """Nothing to press yet."""
        return False

    def play_ended(self, leg: Leg, play: str) -> None:
        """Nothing plays."""
