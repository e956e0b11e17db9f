"""What a plan is: the part of a route that lives on after the match, fed with its legs' events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from gateway.core.calls import Leg
from gateway.core.causes import Cause
from gateway.core.routes import Match

if TYPE_CHECKING:
    from gateway.core.switchboard import Switchboard


class Plan(Protocol):
    """Decides what the events of its legs mean. Called by the switchboard, one at a time."""

    def ringing(self, leg: Leg) -> None:
        """The leg's far end alerts."""

    def progressed(self, leg: Leg) -> None:
        """Audio comes before the answer."""

    def answered(self, leg: Leg) -> None:
        """The leg is connected."""

    def ended(self, leg: Leg) -> None:
        """The leg is over; its cause is set."""

    def digit(self, leg: Leg, digit: str) -> bool:
        """A digit on a connected leg; True when the plan took it."""

    def talked(self, leg: Leg) -> bool:
        """Somebody on the leg asks for the floor; True when the plan took it."""

    def play_ended(self, leg: Leg, play: str) -> None:
        """An announcement on the leg came to its end."""

    def displaced(self, leg: Leg) -> bool:
        """A higher call takes the leg's line; True when the plan goes on without the leg."""


class Silent:
    """A plan that takes nothing; other plans say only what they care about."""

    def ringing(self, leg: Leg) -> None: ...
    def progressed(self, leg: Leg) -> None: ...
    def answered(self, leg: Leg) -> None: ...
    def ended(self, leg: Leg) -> None: ...
    def play_ended(self, leg: Leg, play: str) -> None: ...

    def digit(self, leg: Leg, digit: str) -> bool:
        return False

    def talked(self, leg: Leg) -> bool:
        return False

    def displaced(self, leg: Leg) -> bool:
        return False


class Leaving(Silent):
    """The leg was transferred away: its end concerns nobody."""


class LastWords(Silent):
    """A last tone or announcement plays; then the leg ends."""

    def __init__(
        self, board: Switchboard, play: str, cause: Cause = Cause.NORMAL, detail: str = ""
    ) -> None:
        self.board, self.play, self.cause, self.detail = board, play, cause, detail

    def play_ended(self, leg: Leg, play: str) -> None:
        if play == self.play:
            self.board.hangup(leg, self.cause, self.detail)

    def digit(self, leg: Leg, digit: str) -> bool:
        return True


class AnnounceToCaller(Silent):
    """The caller hears an announcement and is released."""

    def __init__(self, board: Switchboard, leg: Leg, match: Match) -> None:
        self.board, self.leg, self.match = board, leg, match

    def begin(self) -> None:
        self.leg.plan = self
        self.board.answer(self.leg)

    def answered(self, leg: Leg) -> None:
        announce = self.match.route.route.announce
        assert announce is not None
        self.board.bridging.announce(leg, announce, self.match.expand(announce.text))

    def play_ended(self, leg: Leg, play: str) -> None:
        self.board.hangup(leg, Cause.NORMAL, "announcement played")


class Meeting(Silent):
    """Somebody is there already and waits for the other side to answer; then they are joined."""

    def __init__(self, board: Switchboard, here: Leg, coming: Leg, ring_s: float) -> None:
        self.board, self.here, self.coming = board, here, coming
        here.plan = coming.plan = self
        self._deadline = board.after(ring_s, lambda: self._part("ring time-out"))

    def answered(self, leg: Leg) -> None:
        self._deadline.cancel()
        self.here.plan = self.coming.plan = None
        self.board.bridging.hush(self.here)
        self.board.connect(self.coming.call, self.coming, self.here)

    def ended(self, leg: Leg) -> None:
        self._deadline.cancel()
        self._part("the other side is gone")

    def digit(self, leg: Leg, digit: str) -> bool:
        return True

    def _part(self, detail: str) -> None:
        for leg in (self.here, self.coming):
            leg.plan = None
            self.board.hangup(leg, Cause.NO_ANSWER, detail)
