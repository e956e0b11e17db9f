"""What a plan is: the part of a route that lives on after the match, fed with its legs' events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from gateway.core.actions import Play
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

    def play_ended(self, leg: Leg, play: str) -> None:
        """An announcement on the leg came to its end."""


class Silent:
    """A plan that takes nothing; the small plans below say only what they care about."""

    def ringing(self, leg: Leg) -> None: ...
    def progressed(self, leg: Leg) -> None: ...
    def answered(self, leg: Leg) -> None: ...
    def ended(self, leg: Leg) -> None: ...
    def play_ended(self, leg: Leg, play: str) -> None: ...

    def digit(self, leg: Leg, digit: str) -> bool:
        return False


class Leaving(Silent):
    """The leg was transferred away: its end concerns nobody."""


class LastWords(Silent):
    """A last tone plays; then the leg ends."""

    def __init__(self, board: Switchboard, leg: Leg, play: str) -> None:
        self.board, self.leg, self.play = board, leg, play

    def play_ended(self, leg: Leg, play: str) -> None:
        if play == self.play:
            self.board.hangup(leg)

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
        self.board.act(
            Play(
                leg=leg.id,
                play=f"{leg.id}/announce",
                file=announce.file,
                tone=announce.tone,
                text=self.match.expand(announce.text),
                repeat=announce.repeat,
                gap_s=announce.gap_s,
            )
        )

    def play_ended(self, leg: Leg, play: str) -> None:
        self.board.hangup(leg, Cause.NORMAL, "announcement played")


class Invitation(Silent):
    """Somebody who is called into a conference."""

    def __init__(self, board: Switchboard, room: str) -> None:
        self.board, self.room = board, room

    def answered(self, leg: Leg) -> None:
        leg.plan = None
        self.board.bridging.enter(self.room, leg)
