"""Bridging: which legs are joined, in which kind of bridge, who has the floor, what is played.

A transmitter is keyed for two reasons only: somebody else holds the floor of the bridge it is in,
or something is played to it. Both end with the leg, at the latest when we hang it up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from gateway.core.actions import (
    BridgeKind,
    CloseBridge,
    GiveFloor,
    Hold,
    Join,
    Key,
    Leave,
    OpenBridge,
    Play,
    Record,
    Retrieve,
    StopPlay,
    Unkey,
    WatchSpeech,
)
from gateway.core.bridges import Bridge
from gateway.core.calls import Call, Leg, LegState
from gateway.core.endpoints import Duplex
from gateway.core.events import FloorReleased, FloorRequested
from gateway.core.routes import Announcement

if TYPE_CHECKING:
    from gateway.core.switchboard import Switchboard

# By these names, since to ask the enumeration for its member costs more than all the rest of a
# question that is asked thirty times in a call.
_HALF: Final = Duplex.HALF
_LISTEN: Final = Duplex.LISTEN
_FLOOR: Final = BridgeKind.FLOOR


class Bridging:
    """The bridges of a switchboard, and what its legs are made to hear."""

    def __init__(self, board: Switchboard) -> None:
        self.board = board

    # Who is joined

    def connect(self, call: Call, *legs: Leg) -> None:
        """Join legs in one bridge, as their endpoints' duplex allows."""
        bridge = next((self.board.bridges[leg.bridge] for leg in legs if leg.bridge), None)
        inside = [] if bridge is None else [self.board.legs[name] for name in bridge.members]
        everybody = [*inside, *(leg for leg in legs if leg not in inside)]
        kind = self._kind(everybody)
        if bridge is None or (bridge.kind is not kind and not bridge.room):
            bridge = self.open(kind)
        else:
            everybody = list(legs)
        for leg in everybody:
            self.join(bridge, leg)
        self.arbitrate(bridge)
        if call.record:
            self.record(call, legs[0])

    def part(self, leg: Leg) -> None:
        """Take a leg out of its bridge, if it is in one."""
        bridge = self.board.bridges.get(leg.bridge)
        if bridge:
            self.leave(bridge, leg)

    def _kind(self, legs: Sequence[Leg]) -> BridgeKind:
        if any(self.half(leg) for leg in legs):
            return BridgeKind.FLOOR
        if any(self.listens(leg) for leg in legs):
            return BridgeKind.PAGE
        return BridgeKind.PAIR if len(legs) == 2 else BridgeKind.CONFERENCE

    def _duplex(self, leg: Leg) -> Duplex:
        endpoint = self.board.endpoints.get(leg.endpoint)
        return endpoint.duplex if endpoint else Duplex.FULL

    def half(self, leg: Leg) -> bool:
        """Whether the leg has a transmitter that must be keyed to be heard."""
        endpoint = self.board.endpoints.get(leg.endpoint)
        return endpoint is not None and endpoint.duplex is _HALF

    def listens(self, leg: Leg) -> bool:
        """Whether the leg is only spoken to."""
        return leg.one_way or self._duplex(leg) is _LISTEN

    def open(self, kind: BridgeKind, room: str = "") -> Bridge:
        """A bridge without members."""
        bridge = Bridge(id=self.board.new_id(), kind=kind, room=room)
        self.board.bridges[bridge.id] = bridge
        self.board.act(OpenBridge(bridge=bridge.id, kind=kind))
        return bridge

    def join(self, bridge: Bridge, leg: Leg) -> None:
        """Put a leg into a bridge, out of any other."""
        if leg.bridge == bridge.id or not leg.live:
            return
        if leg.bridge:
            self.leave(self.board.bridges[leg.bridge], leg)
        leg.bridge = bridge.id
        bridge.members.append(leg.id)
        self.board.act(Join(bridge=bridge.id, leg=leg.id, speaks=not self.listens(leg)))
        self.arbitrate(bridge)
        self.tell_holds(bridge.id)

    def leave(self, bridge: Bridge, leg: Leg) -> None:
        """Take a leg out; the last to leave dissolves the bridge."""
        bridge.floor.release(leg.id)
        self._watch(leg, bridge, wanted=False)
        bridge.members.remove(leg.id)
        bridge.keyed.discard(leg.id)
        self._settle(leg)
        self.arbitrate(bridge)
        leg.bridge = ""
        self.board.act(Leave(bridge=bridge.id, leg=leg.id))
        if not bridge.members:
            del self.board.bridges[bridge.id]
            self.board.act(CloseBridge(bridge=bridge.id))
        if bridge.room:
            self.board.rooms.left(bridge)
        if leg.live:
            self._tell_hold(leg, None)
            self.tell_holds(bridge.id)

    def record(self, call: Call, leg: Leg) -> None:
        """Record a call, once, as this leg hears and says it."""
        call.record = False
        self.board.act(Record(leg=leg.id, file=f"{call.trace}-{call.id[-8:]}.wav"))

    # Who is on hold

    def tell_holds(self, bridge_id: str) -> None:
        """Let two who talk know, and hear, that the other one put the call on hold, or no more."""
        bridge = self.board.bridges.get(bridge_id)
        if bridge is None:
            return
        legs = [self.board.legs[member] for member in bridge.members]
        if not any(leg.held_by or leg.state is LegState.HELD for leg in legs):
            return
        pair = len(legs) == 2 and bridge.kind in (BridgeKind.PAIR, BridgeKind.FLOOR)
        for leg in legs:
            holder = next((each for each in legs if each is not leg), None)
            held = pair and holder is not None and holder.state is LegState.HELD
            self._tell_hold(leg, holder if held else None)

    def _tell_hold(self, leg: Leg, holder: Leg | None) -> None:
        if not leg.connected or not (holder or leg.held_by):
            return
        play = f"{leg.id}/hold"
        if holder is None:
            leg.held_by = ""
            if leg.music:
                leg.music = False
                self.board.act(StopPlay(leg=leg.id, play=play))
            self.board.act(Retrieve(leg=leg.id))
            return
        # A transmitter is not keyed for music.
        music = None if holder.sends or self.half(leg) else leg.call.hold
        silent = not holder.sends and music is None
        if leg.music and music is None:
            leg.music = False
            self.board.act(StopPlay(leg=leg.id, play=play))
        if not leg.held_by or leg.muted is not silent:
            self.board.act(Hold(leg=leg.id, by=holder.endpoint, silent=silent))
        leg.held_by, leg.muted = holder.endpoint, silent
        if music is not None and not leg.music:
            leg.music = True
            self.board.act(
                Play(
                    leg=leg.id,
                    play=play,
                    file=music.file,
                    tone=music.tone,
                    text=music.text,
                    repeat=0,
                    gap_s=music.gap_s,
                )
            )

    # Who has the floor

    def floor_requested(self, event: FloorRequested) -> None:
        """A half-duplex side begins to speak, or a telephone wants to be heard on the air."""
        leg = self.board.legs.get(event.leg)
        if leg is not None and leg.watched:
            leg.speaking = True
            self._ask_by_voice(leg)
            return
        taken = leg is not None and leg.live and leg.plan is not None and leg.plan.talked(leg)
        if leg is None or not (taken or self.request_floor(leg)):
            self.board.ignore(event)

    def request_floor(self, leg: Leg, *, firm: bool = False) -> bool:
        """Ask for the floor on behalf of a leg; False where there is none to be had.

        firm: the speaker cannot be stopped by an equal, like somebody on the air.
        """
        bridge = self.board.bridges.get(leg.bridge)
        if bridge is None or not self._arbitrated(bridge) or self.listens(leg) or not leg.live:
            return False
        if leg.state is LegState.HELD:
            return False
        half = self.half(leg)
        if half:
            for voice in self._voices(bridge):
                if self._yields(voice, leg):
                    bridge.floor.release(voice.id)
        standing = 2 if leg.call.talk.first and not half else int(firm or half)
        bridge.floor.request(leg.id, priority=leg.call.priority, standing=standing)
        self.arbitrate(bridge)
        return True

    def floor_released(self, event: FloorReleased) -> None:
        """It stopped speaking."""
        leg = self.board.legs.get(event.leg)
        if leg is not None and leg.watched:
            leg.speaking = False
            self.release_floor(leg)
        elif leg is None or not self.release_floor(leg):
            self.board.ignore(event)

    def release_floor(self, leg: Leg) -> bool:
        """Give the floor back on behalf of a leg; False where there is none."""
        bridge = self.board.bridges.get(leg.bridge)
        if bridge is None or not self._arbitrated(bridge):
            return False
        changed = bridge.floor.release(leg.id)
        self.arbitrate(bridge)
        if changed and self.half(leg):
            self._pause(bridge)
        return True

    # By voice

    def _watched(self, bridge: Bridge) -> list[Leg]:
        """Those whose voice asks for the floor."""
        legs = (self.board.legs[member] for member in bridge.members)
        return [leg for leg in legs if leg.watched]

    def _voices(self, bridge: Bridge) -> list[Leg]:
        """Who of them speaks."""
        return [leg for leg in self._watched(bridge) if leg.speaking]

    def _yields(self, voice: Leg, radio: Leg) -> bool:
        return not voice.call.talk.first and voice.call.priority <= radio.call.priority

    def _ask_by_voice(self, leg: Leg) -> None:
        """Somebody speaks: he gets the floor, but not at once when an over has just ended.

        He does not queue while somebody is on the air: that would be a turn for what he said then.
        If he still speaks when it is quiet, he is asked for again.
        """
        bridge = self.board.bridges.get(leg.bridge)
        if bridge is None:
            return
        holder = self.board.legs.get(bridge.floor.holder or "")
        if holder is not None and self.half(holder) and self._yields(leg, holder):
            return
        if leg.call.talk.first or self.board.now >= bridge.quiet_until:
            self.request_floor(leg)

    def _pause(self, bridge: Bridge) -> None:
        """An over ended: others on the air may answer it before a voice on the telephone does."""
        pause_ms = max((voice.call.talk.vox.pause_ms for voice in self._watched(bridge)), default=0)
        bridge.quiet_until = self.board.now + pause_ms / 1000

        def over() -> None:
            if self.board.bridges.get(bridge.id) is bridge:
                for voice in self._voices(bridge):
                    self._ask_by_voice(voice)

        if pause_ms:
            self.board.after(pause_ms / 1000, over)
        else:
            over()

    def _watch_voices(self, bridge: Bridge) -> None:
        """Watch the voices of those who have no other way to the floor, and only theirs: who has
        a plan is addressed by it, not by the other side."""
        arbitrated = self._arbitrated(bridge)
        for member in bridge.members:
            leg = self.board.legs[member]
            able = leg.state is LegState.CONNECTED and leg.plan is None and not leg.call.talk.keys
            able = able and not self.half(leg) and not self.listens(leg)
            self._watch(leg, bridge, wanted=arbitrated and able)

    def _watch(self, leg: Leg, bridge: Bridge, *, wanted: bool) -> None:
        if leg.watched == wanted:
            return
        leg.watched, leg.speaking = wanted, False
        bridge.floor.release(leg.id)
        if leg.live:
            self.board.act(WatchSpeech(leg=leg.id, vox=leg.call.talk.vox if wanted else None))

    def silence(self, leg: Leg) -> None:
        """The leg is held or hung up: it neither holds the floor nor transmits from now on."""
        if leg.state is not LegState.HELD:
            # What is played to a held leg goes on, and its end is waited for.
            leg.saying = ""
        bridge = self.board.bridges.get(leg.bridge)
        if bridge:
            bridge.floor.release(leg.id)
            bridge.keyed.discard(leg.id)
        self._settle(leg)
        if bridge:
            self.arbitrate(bridge)

    def resume(self, leg: Leg) -> None:
        """The leg is off hold: it may speak, and transmit, again."""
        self._settle(leg)
        bridge = self.board.bridges.get(leg.bridge)
        if bridge:
            self.arbitrate(bridge)

    def _arbitrated(self, bridge: Bridge) -> bool:
        return any(self.half(self.board.legs[member]) for member in bridge.members)

    def arbitrate(self, bridge: Bridge) -> None:
        """Let the holder be heard, and key every transmitter but his own.

        In a conference telephones hear each other whoever holds the floor; there it only says
        which transmitters are keyed. A transmitter on a busy channel is not keyed over those who
        speak there, unless the holder comes first.
        """
        if bridge.kind is not _FLOOR and not bridge.keyed:
            for member in bridge.members:
                leg = self.board.legs[member]
                if leg.watched or self.half(leg):
                    break
            else:
                return  # Telephones only, as in most calls: there is nothing to decide.
        legs = [self.board.legs[member] for member in bridge.members]
        self._watch_voices(bridge)
        holder = bridge.floor.holder
        speaker = self.board.legs.get(holder or "")
        first = speaker is not None and speaker.call.talk.first and not self.half(speaker)
        wanted = [
            leg
            for leg in legs
            if holder not in (None, leg.id)
            and self.half(leg)
            and leg.state is LegState.CONNECTED
            and (first or not bridge.floor.waits(leg.id))
        ]
        wanted_ids = {leg.id for leg in wanted}
        for leg in legs:
            if leg.id in bridge.keyed and leg.id not in wanted_ids:
                bridge.keyed.discard(leg.id)
                self._settle(leg)
        if bridge.kind is BridgeKind.FLOOR and bridge.given != holder:
            bridge.given = holder
            self.board.act(GiveFloor(bridge=bridge.id, leg=holder))
        for leg in wanted:
            bridge.keyed.add(leg.id)
            self._settle(leg)

    def _settle(self, leg: Leg) -> None:
        """Key or release the leg's transmitter, as what it is needed for says."""
        bridge = self.board.bridges.get(leg.bridge)
        wanted = bool(leg.saying or (bridge and leg.id in bridge.keyed))
        if not wanted and not leg.keyed:
            return
        keyed = wanted and self.half(leg) and leg.state is not LegState.HELD
        if keyed and not leg.keyed:
            self.board.act(Key(leg=leg.id))
        elif leg.keyed and not keyed:
            self.board.act(Unkey(leg=leg.id))
        leg.keyed = keyed

    # What is played

    def announce(
        self, leg: Leg, announce: Announcement, text: str, *, repeat: int | None = None
    ) -> str:
        """Play an announcement to a leg, its transmitter keyed; the name of the play.

        text: the announcement's, with its fields filled in. repeat: instead of the
        announcement's own; what is to be heard until further notice ends by itself on a
        half-duplex leg: while we transmit nobody there can answer.
        """
        repeat = announce.repeat if repeat is None else repeat
        if self.half(leg) and repeat == 0 and not leg.one_way:
            repeat = max(1, announce.repeat)
        play = Play(
            leg=leg.id,
            play=f"{leg.id}/announce",
            file=announce.file,
            tone=announce.tone,
            text=text,
            repeat=repeat,
            gap_s=announce.gap_s,
        )
        return self.say(leg, play)

    def say(self, leg: Leg, play: Play) -> str:
        """Play to a leg, its transmitter keyed; the name of the play."""
        if not leg.live:
            return play.play
        leg.saying = play.play
        self._settle(leg)
        self.board.act(play)
        return play.play

    def hush(self, leg: Leg) -> None:
        """Stop what is played to a leg, if anything is."""
        if leg.saying:
            self.board.act(StopPlay(leg=leg.id, play=leg.saying))
            self.said(leg, leg.saying)

    def said(self, leg: Leg, play: str) -> None:
        """A play is over: the transmitter is released, unless the floor wants it."""
        if leg.saying == play:
            leg.saying = ""
            self._settle(leg)
