"""Service call: a telephone commands a panel, after the person has proved who it is.

The caller dials a service number; the gateway answers, asks for the PIN with a tone, takes digits
up to ``#``, gives the command, and says with a tone whether it worked.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.core.actions import Command, Play
from gateway.core.calls import Leg
from gateway.core.causes import Cause
from gateway.core.pins import LOCKED_S
from gateway.core.plans import Silent
from gateway.core.routes import Match
from gateway.core.timers import Timer

if TYPE_CHECKING:
    from gateway.core.switchboard import Switchboard

_DIGIT_S = 10.0
_OUTCOME_S = 15.0
_MAXIMUM = 16


def person(pins: dict[str, str], entered: str) -> str:
    """Whose PIN was entered; empty when nobody's. Every PIN is compared, in constant time."""
    found = ""
    for name, pin in pins.items():
        if hmac.compare_digest(pin.encode(), entered.encode()) and pin:
            found = name
    return found


class Service(Silent):
    """One person at a telephone, commanding one device."""

    def __init__(self, board: Switchboard, leg: Leg, match: Match) -> None:
        self.board, self.leg, self.match = board, leg, match
        self.route = match.route.route
        self._entered = ""
        self._timer: Timer | None = None
        self._command = ""

    def begin(self) -> None:
        """Answer; a PIN that was dialled along with the number (capture 1) is used at once."""
        self.leg.plan = self
        # To the end of the leg: a digit too many, or one that comes late, is part of the PIN too.
        self.leg.secret = bool(self.route.pins)
        self.board.answer(self.leg)

    def answered(self, leg: Leg) -> None:
        """The person hears us: ask for the PIN, or go ahead."""
        if not self.route.pins:
            self._give("", "")
        elif "1" in self.match.fields:
            self._check(self.match.fields["1"])
        else:
            self._prompt("dial")

    def _prompt(self, tone: str) -> None:
        self.board.act(Play(leg=self.leg.id, play=f"{self.leg.id}/prompt", tone=tone, repeat=1))
        self._arm(_DIGIT_S, lambda: self._refuse("no PIN was entered"))

    def _arm(self, seconds: float, act: Callable[[], None]) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self.board.after(seconds, act)

    def digit(self, leg: Leg, digit: str) -> bool:
        """Collect the PIN."""
        if not self.route.pins or self._command:
            return True
        if digit == "#":
            entered, self._entered = self._entered, ""
            self._check(entered)
        elif digit == "*":
            self._entered = ""
        elif len(self._entered) < _MAXIMUM:
            self._entered += digit
            self._arm(_DIGIT_S, lambda: self._refuse("the PIN was not finished with #"))
        return True

    def _check(self, entered: str) -> None:
        pins, route = self.board.pins, self.route.name
        if pins.locked(self.leg, route):
            # Said of a right one too: who guesses must not learn that he has found it.
            self._refuse(f"too many wrong PINs: closed for {LOCKED_S:g} s after the last")
            return
        name = person(self.route.pins, entered)
        if name:
            pins.right(self.leg, route)
            self._give(name, entered)
            return
        left = pins.wrong(self.leg, route)
        self.board.note(
            f"wrong PIN from {self.leg.endpoint}, {left} tries left", call=self.leg.call
        )
        if left > 0:
            self._prompt("congestion")
        else:
            self._refuse("too many wrong PINs")

    def _refuse(self, why: str) -> None:
        if self._timer:
            self._timer.cancel()
        self.leg.plan = None
        self.board.hangup(self.leg, Cause.NOT_AUTHORIZED, why)

    def _give(self, name: str, code: str) -> None:
        command = self.route.command
        assert command is not None
        by = name or self.leg.endpoint
        if command.verb == "ACKNOWLEDGE":
            self._command = "acknowledge"
            self.finished(self.board.acknowledge(command.endpoint, "", by) > 0, "no active alarm")
            return
        self._command = self.board.new_id()
        self.board.expect(self._command, self)
        self._arm(_OUTCOME_S, lambda: self.finished(False, "no answer from the device"))
        self.board.act(
            Command(
                command=self._command,
                endpoint=command.endpoint,
                verb=command.verb,
                code=code if command.pass_code else "",
                by=by,
                trace=self.leg.call.trace,
            )
        )

    def finished(self, ok: bool, detail: str) -> None:
        """The device answered, or did not."""
        self._forget()
        if not self.leg.live:
            return
        self.leg.plan = None
        if ok:
            self.board.confirm_and_hang_up(self.leg)
        else:
            self.board.note(f"command refused: {detail}", call=self.leg.call)
            self.board.confirm_and_hang_up(self.leg, tone="congestion")

    def ended(self, leg: Leg) -> None:
        """The person hung up; a command that was given is carried out all the same."""
        self._forget()

    def _forget(self) -> None:
        if self._timer:
            self._timer.cancel()
        self.board.unexpect(self._command)
