"""What a plan is: the part of a route that lives on after the match, fed with its legs' events."""

from __future__ import annotations

from typing import Protocol

from gateway.core.calls import Leg


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
