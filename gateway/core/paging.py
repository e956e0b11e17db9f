"""Paging: a caller speaks to several zones at once, or has something played to them.

The zones answer by themselves. When the first one listens the caller is answered; an announcement
(a chime) is heard by the caller and the zones together, and at its end the caller is on the air.
A page that is not live plays its announcement in the zones, also after the caller has hung up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.actions import Play
from gateway.core.calls import Call, Leg
from gateway.core.causes import Cause
from gateway.core.lines import WARNING_TONE
from gateway.core.plans import Silent
from gateway.core.routes import Match
from gateway.core.zones import Zones

if TYPE_CHECKING:
    from gateway.core.switchboard import Switchboard


class Paging(Silent):
    """One caller and the zones he pages."""

    def __init__(self, board: Switchboard, caller: Leg, match: Match) -> None:
        self.board, self.caller, self.match = board, caller, match
        self.route = match.route.route
        self._zones = Zones(
            board, self, ring_s=self.route.ring_s, calling=caller.calling, display=caller.display,
            caller=caller,
        )  # fmt: skip
        self._speaking = False
        self._heard = False

    def begin(self) -> None:
        """Call the zones."""
        self.caller.plan = self
        self._zones.page(self.board.routing.expand(self.match, self.route.page))
        if self._zones.busy and not self._zones.coming:
            self._zones.abandon()
            self.caller.plan = None
            self.board.hangup(self.caller, Cause.BUSY, "all zones are in use")
        else:
            self.zones_changed()

    # What the zones say

    def page_call(self) -> Call:
        """The zones belong to the caller's call."""
        return self.caller.call

    def zone_answered(self, leg: Leg) -> None:
        """A zone listens: let it hear what is heard now."""
        self._heard = True
        if self.route.live:
            self.board.connect(self.caller.call, self.caller, leg)
        if self.caller.plan is self:
            self.board.answer(self.caller)
        if not self.route.live:
            self._chime(leg)
        elif self.caller.saying and not self._speaking:
            # It joins in the middle of the chime, which it then hears whole.
            self._chime(leg)

    def zone_played(self, leg: Leg) -> None:
        """A zone has heard the announcement."""
        if not self.route.live:
            self._zones.release(leg, "announcement played")

    def zones_changed(self) -> None:
        """Without zones there is no page; with none that listens the caller is told."""
        caller = self.caller
        if not self._zones.busy:
            if caller.plan is self and self._heard:
                self.board.confirm_and_hang_up(caller)
            elif caller.plan is self:
                caller.plan = None
                self.board.hangup(caller, Cause.NOT_AVAILABLE, "no zone can be paged")
        elif self._speaking and caller.live and not self._zones.legs:
            play = Play(leg=caller.id, play=f"{caller.id}/displaced", tone=WARNING_TONE, repeat=1)
            self.board.bridging.say(caller, play)

    def _chime(self, leg: Leg) -> None:
        announce = self.route.announce
        if announce:
            repeat = 1 if self.route.live else None
            text = self.match.told(hidden=self.caller.hidden).expand(announce.text)
            self.board.bridging.announce(leg, announce, text, repeat=repeat)

    # The caller

    def answered(self, leg: Leg) -> None:
        """The caller is there: chime, then speak."""
        if not self.route.live:
            return
        for zone in self._zones.legs:
            if zone.connected:
                self._chime(zone)
        if self.route.announce and not self.board.bridging.half(leg):
            self._chime(leg)
        else:
            self._speak()

    def play_ended(self, leg: Leg, play: str) -> None:
        """The chime is over."""
        if not self._speaking:
            self._speak()

    def _speak(self) -> None:
        self._speaking = True
        if not self.board.bridging.half(self.caller):
            # Nobody on the air may talk into a page; a radio that pages has the floor by its key.
            self.board.bridging.request_floor(self.caller, firm=True)

    def ended(self, leg: Leg) -> None:
        """The caller has finished."""
        if self.route.live:
            self._zones.stop("the page is over")
