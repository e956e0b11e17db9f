"""LegEvents: what the events of a leg do: it begins, moves on, is heard or is not, ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.calls import TRANSITIONS, Call, Leg, LegState
from gateway.core.causes import Cause
from gateway.core.events import (
    AnnouncementEnded,
    AudioBorrowed,
    AudioImpaired,
    AudioRestored,
    AudioReturned,
    LegAnswered,
    LegEnded,
    LegHeld,
    LegOffered,
    LegProgressed,
    LegRetrieved,
    LegRinging,
    MediaLost,
    PageDelivered,
)

if TYPE_CHECKING:
    from gateway.core.switchboard import Switchboard


class LegEvents:
    """The life of a switchboard's legs."""

    def __init__(self, board: Switchboard) -> None:
        self.board = board

    def add(self, leg: Leg) -> None:
        """A leg begins: it counts in its call and takes its line."""
        self.board.legs[leg.id] = leg
        self.board.calls[leg.call.id] = leg.call
        leg.call.legs.append(leg)
        self.board.lines.take(leg)

    def offered(self, event: LegOffered) -> None:
        """A call from outside: it gets its route, or the place of another leg."""
        board = self.board
        if event.leg in board.legs:
            board.ignore(event)
            return
        call = board.new_call(
            trace=event.trace, demanded_at=event.demanded_at, priority=event.priority
        )
        leg = Leg(
            id=event.leg,
            endpoint=event.endpoint,
            call=call,
            outbound=False,
            state=LegState.OFFERED,
            number=event.called,
            calling=event.calling,
            display=event.display,
            hidden=event.hidden,
            began_at=board.now,
            asks_answer=event.auto_answer,
            diverted=event.diverted,
        )
        self.add(leg)
        if board.stopping:
            board.hangup(leg, Cause.CONGESTION, "the gateway is stopping")
            return
        board.testing.offered(leg)
        if event.replaces:
            board.transfers.replace(leg, event.replaces)
        else:
            board.routing.route(leg, event)

    def moved(
        self,
        event: LegRinging | LegProgressed | LegAnswered | LegHeld | LegRetrieved | LegEnded,
    ) -> None:
        """The next of its states (`TRANSITIONS`); anything else is counted and changes nothing."""
        board = self.board
        leg = board.legs.get(event.leg)
        state = TRANSITIONS.get((leg.state, type(event))) if leg else None
        if leg is None or state is None:
            board.ignore(event)
            return
        if isinstance(event, LegEnded):
            if leg.state is not LegState.CLOSING:
                leg.cause, leg.detail = event.cause, event.detail
                leg.redirect, leg.redirect_reason = event.redirect, event.redirect_reason
            self.end(leg)
            return
        leg.state = state
        match event:
            case LegAnswered():
                leg.answered_at = board.now
                if leg.call.answered_at is None:
                    leg.call.answered_at = board.now
                if leg.plan:
                    leg.plan.answered(leg)
                bridge = board.bridges.get(leg.bridge)
                if bridge:
                    board.bridging.arbitrate(bridge)
                    board.bridging.tell_holds(bridge.id)
            case LegHeld():
                leg.sends = event.sends
                board.bridging.silence(leg)
                board.bridging.tell_holds(leg.bridge)
            case LegRetrieved():
                board.bridging.resume(leg)
                board.bridging.tell_holds(leg.bridge)
            case LegRinging() if leg.plan:
                leg.plan.ringing(leg)
            case LegProgressed() if leg.plan:
                leg.early = True
                leg.plan.progressed(leg)

    def end(self, leg: Leg) -> None:
        """The leg is over: its line goes to who waits, its plan or its partner hears of it."""
        board = self.board
        leg.state = LegState.NULL
        if leg.giving_up is not None:
            # Else it would keep the leg alive, and wake us, long after its end.
            leg.giving_up.cancel()
            leg.giving_up = None
        board.bridging.silence(leg)
        call, plan = leg.call, leg.plan
        leg.plan = None
        bridge = board.bridges.get(leg.bridge)
        if bridge:
            board.bridging.leave(bridge, leg)
        del board.legs[leg.id]
        board.features.forget(leg)
        # Who waits for the line was first: he gets it before this leg's own plan can want it.
        board.lines.free(leg)
        if plan:
            plan.ended(leg)
        elif bridge is None or not bridge.room:
            # Two people talking: when one goes, so does the other, for the same reason.
            partners = call.partners(leg)
            if len(partners) == 1 and partners[0].plan is None:
                board.hangup(partners[0], leg.cause or Cause.NORMAL, leg.detail)
        if bridge:
            board.bridging.tell_holds(bridge.id)
        self.close_call(call)

    def media_lost(self, event: MediaLost) -> None:
        """A leg that should be heard is not: it ends."""
        leg = self.board.legs.get(event.leg)
        # Who is on hold, or only listens, has nothing to say.
        if leg is None or leg.state is not LegState.CONNECTED or self.board.bridging.listens(leg):
            self.board.ignore(event)
            return
        self.board.hangup(leg, Cause.MEDIA_TIMEOUT, "no audio arrived")

    def audio_impaired(self, event: AudioImpaired) -> None:
        """What is sent by a leg is not fit to be heard."""
        leg = self.board.legs.get(event.leg)
        if leg is None or not leg.live:
            self.board.ignore(event)
            return
        leg.impaired |= {event.impairment}

    def audio_restored(self, event: AudioRestored) -> None:
        """It is again."""
        leg = self.board.legs.get(event.leg)
        if leg is None:
            self.board.ignore(event)
            return
        leg.impaired -= {event.impairment}

    def audio_borrowed(self, event: AudioBorrowed) -> None:
        """The leg speaks over another endpoint, whose line it takes."""
        leg = self.board.legs.get(event.leg)
        if leg is None:
            self.board.ignore(event)
            return
        self.board.lines.lend(leg, event.endpoint)

    def audio_returned(self, event: AudioReturned) -> None:
        """It needs that line no more."""
        leg = self.board.legs.get(event.leg)
        if leg is None:
            self.board.ignore(event)
            return
        self.board.lines.give_back(leg)

    def page_delivered(self, event: PageDelivered) -> None:
        """How many places a page was played at."""
        leg = self.board.legs.get(event.leg)
        if leg is None:
            self.board.ignore(event)
            return
        leg.played, leg.missing = event.members, event.missing

    def announcement_ended(self, event: AnnouncementEnded) -> None:
        """What was played to a leg is over."""
        leg = self.board.legs.get(event.leg)
        if leg is None or leg.saying != event.play:
            self.board.ignore(event)
            return
        self.board.bridging.said(leg, event.play)
        if leg.plan:
            leg.plan.play_ended(leg, event.play)

    def close_call(self, call: Call) -> None:
        """A call without legs that live is over."""
        if any(leg.state is not LegState.NULL for leg in call.legs):
            return
        if self.board.calls.pop(call.id, None):
            # A leg knows its call: each would keep the other until garbage is collected.
            call.legs.clear()
            after, call.after = call.after, ()
            self.board.rest(after)
