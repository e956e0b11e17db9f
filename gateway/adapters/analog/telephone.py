"""Telephone: an FXS port and whoever lifts the handset."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import ClassVar, Final, cast

from gateway._codecs import fsk
from gateway.adapters.analog.config import AnalogSection, Fxs
from gateway.adapters.analog.line import Call, Line
from gateway.adapters.base import Host
from gateway.core.actions import Dial
from gateway.core.causes import Cause
from gateway.core.events import (
    DigitPressed,
    LegEnded,
    LegFlashed,
    LegOffered,
    LegRinging,
    Priority,
)
from gateway.core.numbers import Completeness
from gateway.drivers.dahdi import Channel, EventKind, Hook, PortKind, Tone
from gateway.errors import DeviceError, UsageError
from gateway.media.streams import DigitDetected, MediaEvent, PlayEnded, StreamOptions
from gateway.protocols.analog import CallerId, FxsConfig, FxsPort, FxsState, Output, Rule, Signal
from gateway.protocols.analog import signals as said
from gateway.protocols.analog.callerid import OUT_OF_AREA, PRIVATE, build_dtmf, build_mdmf
from gateway.protocols.analog.digits import DialPlan, Match
from gateway.protocols.analog.fxs import CallerIdWhen

_TONES: Final = {
    said.ToneName.DIAL: "dial",
    said.ToneName.STUTTER: "stutter",
    said.ToneName.RINGBACK: "ringback",
    said.ToneName.BUSY: "busy",
    said.ToneName.CONGESTION: "congestion",
    said.ToneName.HOWLER: "howler",
    said.ToneName.CALL_WAITING: "call_waiting",
    said.ToneName.DIAL_RECALL: "stutter",
}
# What the card itself can play when the engine has no stream to give.
_CARD_TONES: Final = {
    said.ToneName.BUSY: Tone.BUSY,
    said.ToneName.CONGESTION: Tone.CONGESTION,
    said.ToneName.HOWLER: Tone.CONGESTION,
}
_MATCHES: Final = {
    Completeness.NO: Match.NONE,
    Completeness.PARTIAL: Match.PARTIAL,
    Completeness.COMPLETE: Match.FINAL,
    Completeness.EXTENSIBLE: Match.FULL,
}
# Ends after which a caller hears busy tone; after all others congestion.
_BUSY: Final = frozenset(
    {
        Cause.NORMAL, Cause.BUSY, Cause.NO_ANSWER, Cause.NO_RESPONSE, Cause.REJECTED,
        Cause.CANCELLED, Cause.ANSWERED_ELSEWHERE, Cause.PREEMPTED, Cause.ABSENT,
    }
)  # fmt: skip
_DIALLABLE: Final = re.compile(r"\+?[0-9*#]{1,20}\Z")
_CALLER_ID: Final = "caller id"
# Quick enough not to take a dialled digit for a hang-up (pulses open the loop for up to 200 ms).
_HANG_UP_MS: Final = 250
# The driver ignores the loop this long after it is fed, and with it a quick first pulse.
_DEBOUNCE_MS: Final = 60
_DTMF_MS: Final = 70
_RING_AGAIN_S: Final = 0.3
_RING_TRIES: Final = 4
_LEFT_OFF: Final = "the handset was left off hook"
_AFTER_CALL: Final = frozenset((FxsState.CLEARING, FxsState.BUSY_TONE, FxsState.HOWLER))


def _urgent(action: Dial) -> bool:
    return action.priority > Priority.ROUTINE


class BusPlan(DialPlan):
    """The gateway's dial plan, as seen from one endpoint."""

    __slots__ = ("_ask", "_terminator")

    def __init__(self, ask: Callable[[str], Completeness], terminator: str) -> None:
        super().__init__(("x.",))
        object.__setattr__(self, "_ask", ask)
        object.__setattr__(self, "_terminator", terminator)

    def match(self, dialled: str) -> Match:
        """How the digits stand against all routes and directory numbers."""
        ask: Callable[[str], Completeness] = self._ask  # type: ignore[attr-defined]
        end: str = self._terminator  # type: ignore[attr-defined]
        found = ask(dialled)
        # An open end takes anything, but there the terminator means what it always means; in a
        # pattern that names it, it is a digit.
        ends = end and found is Completeness.EXTENSIBLE and dialled[1:].endswith(end)
        if ends and ask(dialled[:-1]) in (Completeness.EXTENSIBLE, Completeness.COMPLETE):
            return Match.NONE
        return _MATCHES[found]


class Telephone(Line):
    """One FXS port."""

    kind = PortKind.FXS
    signals: ClassVar[dict[EventKind, Signal]] = {
        EventKind.RING_OFF_HOOK: Signal.LIFTED,
        EventKind.ON_HOOK: Signal.HUNG_UP,
        EventKind.WINK_FLASH: Signal.FLASHED,
        EventKind.PULSE_START: Signal.PULSE_STARTED,
        EventKind.RINGER_OFF: Signal.RINGER_OFF,
        EventKind.ALARM: Signal.FAULT,
        EventKind.NO_ALARM: Signal.FAULT_CLEARED,
    }
    port: FxsPort

    def __init__(self, channel: str, section: AnalogSection, host: Host) -> None:
        super().__init__(channel, section, host)
        self._config = cast(Fxs, section.ports[channel])
        self._standard = section.caller_id(self._config)
        self._tones: Call | None = None
        """A leg that nobody knows of: the tones after the call, until the handset is put back."""
        self.port = FxsPort()

    @property
    def config(self) -> Fxs:
        return self._config

    def _port_config(self) -> FxsConfig:
        config = self.config
        when = CallerIdWhen(config.caller_id_when) if self._standard != "off" else None
        return FxsConfig(
            plan=BusPlan(
                lambda digits: self.host.completeness(self.endpoint, digits), config.terminator
            ),
            hotline=config.hotline,
            hotline_delay=config.hotline_delay_s,
            first_digit=config.first_digit_s,
            inter_digit=config.inter_digit_s,
            full_match=config.extensible_s,
            terminator=config.terminator,
            cadence_ms=self.section.cadence_ms(config),
            caller_id=when or CallerIdWhen.NEVER,
            flash=config.flash_ms > 0,
            answer_reversal=config.answer_reversal,
            battery_drop=config.battery_drop,
            busy_tone=config.busy_s,
            howler=config.howler_s,
        )

    def _set_up(self, channel: Channel) -> None:
        channel.set_timing(
            rx_flash_ms=self.config.flash_ms or _HANG_UP_MS, debounce_ms=_DEBOUNCE_MS
        )

    def _begin(self, channel: Channel) -> None:
        self.port = FxsPort(self._port_config())
        self.announce()
        if channel.params().rx_off_hook:
            # Lifted before we came: whoever waits there is served now.
            self.port.signal(Signal.LIFTED, self.now)
        self.pump()

    # -- from the line -------------------------------------------------------------------------

    def do(self, output: Output) -> None:
        channel, call = self.channel, self.call
        if channel is None:
            return
        match output:
            case said.OffHook():
                self._lifted()
            case said.Digits(number, complete):
                self._dialled(number, complete)
            case said.DigitPressed(digit) if call is not None:
                self.host.emit(DigitPressed(leg=call.leg, digit=digit, via="pulse"))
            case said.Flash() if call is not None:
                self.host.emit(LegFlashed(leg=call.leg))
            case said.Answered():
                if call is not None and call.stream is not None:
                    call.stream.stop_play()
                self.connected()
            case said.Hangup(rule, detail):
                self._over(rule, detail)
            case said.PlayTone(tone):
                self._play(tone)
            case said.StopTone():
                self._stop_tone()
            case said.SetHook(off):
                self.set_hook(off)
            case said.Ring(cadence):
                self._ring(channel, call, cadence, _RING_TRIES)
            case said.StopRing():
                self.order(channel.hook, Hook.RING_OFF)
            case said.SetPolarity(reversed_):
                self.order(channel.set_polarity, reversed_)
            case said.DropBattery():
                self._off = False
                self.order(channel.hook, Hook.ON_HOOK)
            case said.SendCallerId(caller):
                self._send_caller_id(caller)
            case said.Idle():
                self.idle()
            case said.LockedOut():
                self._forget()
                self.announce(_LEFT_OFF)
                pending, self.pending = self.pending, None
                if pending is not None:
                    self.host.emit(LegEnded(leg=pending.leg, cause=Cause.BUSY, detail=_LEFT_OFF))
            case said.LineFault(reason):
                self.announce(reason)
            case said.LineRestored():
                self.announce()

    def heard(self, call: Call, event: MediaEvent) -> bool:
        if call.lent:
            return call is not self.call
        match event:
            case DigitDetected() if self.port.state not in (FxsState.CALLING, FxsState.TALKING):
                if call is self.call:
                    self.port.digit(event.digit, self.now)
                return True
            case PlayEnded(play=play) if play == _CALLER_ID:
                self.port.caller_id_sent(self.now)
                return True
            case PlayEnded(play=play):
                return play in _TONES.values()
        return call is not self.call

    def _lifted(self) -> None:
        self._forget()
        call = self.call = Call(
            self.host.new_leg(self.endpoint), self.host.new_trace(), self.host.now()
        )
        try:
            self.open_audio(call, self.options(detect_dtmf=True))
        except DeviceError as error:
            self.host.log.error("no audio", endpoint=self.endpoint, error=str(error))
            call.cause, call.detail = Cause.RESOURCE_UNAVAILABLE, str(error)
            self.release(call.cause)

    def _dialled(self, number: str, complete: bool) -> None:
        call = self.call
        if call is None or (not number and not complete):
            return
        call.offered = True
        self.host.emit(
            LegOffered(
                leg=call.leg,
                endpoint=self.endpoint,
                called=number,
                calling=self.config.number,
                display=self.config.label,
                trace=call.trace,
                demanded_at=call.demanded_at,
            )
        )

    def _ring(
        self, channel: Channel, call: Call | None, cadence: tuple[int, ...], tries: int
    ) -> None:
        if channel is not self.channel or call is not self.call:
            return
        if self.port.state is not FxsState.RINGING:
            return
        if self.order(channel.ring, cadence):
            if call is not None:
                self.host.emit(LegRinging(leg=call.leg))
        elif tries > 1:
            self.later(_RING_AGAIN_S, self._ring, channel, call, cadence, tries - 1)
        elif call is not None:
            # Whoever calls must hear that nothing rings here, so that somebody else is called.
            call.cause, call.detail = Cause.TEMPORARY_FAILURE, "the card does not ring"
            self.release(call.cause)

    def _over(self, rule: Rule, detail: str) -> None:
        call = self.call
        if call is None:
            return
        if call.cause is not None and rule is Rule.LOCAL:
            self.end_call(call.cause, call.detail)
        elif rule is Rule.ON_HOOK:
            self.end_call(Cause.NORMAL if call.answered else Cause.CANCELLED, "on hook")
        elif rule is Rule.FAULT:
            self.end_call(Cause.OUT_OF_ORDER, "port alarm")
        elif call.offered:
            self.end_call(Cause.UNALLOCATED, detail)
        else:
            self.end_call(Cause.ADDRESS_INCOMPLETE, detail)

    # -- tones ---------------------------------------------------------------------------------

    def _play(self, tone: said.ToneName) -> None:
        if self.call is None and self._tones is None:
            self._tones = Call(self.host.new_leg(self.endpoint))
            try:
                self.open_audio(self._tones, self.options())
            except DeviceError as error:
                self.host.log.error("no audio", endpoint=self.endpoint, error=str(error))
        stream = (self.call or self._tones or Call("")).stream
        if stream is not None:
            stream.play_tone(_TONES[tone])
        elif self.channel is not None and tone in _CARD_TONES:
            self.order(self.channel.tone, _CARD_TONES[tone])

    def _stop_tone(self) -> None:
        if self.call is not None and self.call.stream is not None:
            self.call.stream.stop_play()
        elif self._tones is not None:
            if self._tones.stream is None and self.channel is not None:
                self.order(self.channel.tone, Tone.STOP)
            self._forget()

    def _forget(self) -> None:
        tones, self._tones = self._tones, None
        if tones is not None:
            if tones.stream is not None:
                tones.stream.close()
            self.host.emit(LegEnded(leg=tones.leg, cause=Cause.NORMAL, detail="tones are over"))

    # -- called --------------------------------------------------------------------------------

    def dial(self, action: Dial) -> None:
        call = self.call
        if call is not None and not (call.offered or call.dialled) and _urgent(action):
            # Somebody listens to dial tone: nobody else knows of that call.
            call.cause, call.detail = Cause.PREEMPTED, "a more urgent call comes"
            self.release(Cause.PREEMPTED)
            self.pump()
        super().dial(action)

    def waits(self, action: Dial) -> bool:
        # Who has lost his call for a more urgent one still holds the handset: it rings when he
        # puts it down, as the tone asks him to. Refused, the urgent call would be lost.
        return self.port.state is FxsState.GUARD or (
            self.port.state in _AFTER_CALL and _urgent(action)
        )

    def start(self, action: Dial) -> None:
        if self.port.state is not FxsState.IDLE:
            fault = self.port.state is FxsState.FAULT
            cause, detail = (Cause.OUT_OF_ORDER, self.reason) if fault else (Cause.BUSY, "off hook")
            self.host.emit(LegEnded(leg=action.leg, cause=cause, detail=detail))
            return
        self.call = Call(action.leg, action.trace, self.now, dialled=True, clear=action.clear)
        try:
            self.open_audio(self.call, self.options(detect_dtmf=True))
        except DeviceError as error:
            self.end_call(Cause.RESOURCE_UNAVAILABLE, str(error))
            return
        self.port.ring(self.now, self._caller(action))

    def _connect(self) -> bool:
        return self.port.connect(self.now)

    def lent_options(self) -> StreamOptions:
        return self.options(detect_dtmf=True)

    def _caller(self, action: Dial) -> CallerId | None:
        if self._standard == "off":
            return None
        number, name = action.calling, action.display
        if not _DIALLABLE.match(number):
            # A SIP user's name is not a number: show it as the name.
            number, name = "", name or number
        reason = "" if number else PRIVATE if name.lower() == "anonymous" else OUT_OF_AREA
        # Displays show 15 to 20 characters, and a longer name would not fit between two rings.
        return CallerId(number, "" if reason == PRIVATE else name[:20].strip(),
                        time.strftime("%m%d%H%M"), reason)  # fmt: skip

    def _send_caller_id(self, caller: CallerId) -> None:
        stream = self.call.stream if self.call is not None else None
        if stream is None or self.channel is None:
            self.port.caller_id_sent(self.now)
            return
        try:
            if self._standard == "dtmf":
                digits = build_dtmf(caller)
                seconds = len(digits) * 2 * _DTMF_MS / 1000 + 0.1
                self.order(self.channel.on_hook_transfer, round(seconds * 1000) + 300)
                stream.send_digits(digits, on_ms=_DTMF_MS, off_ms=_DTMF_MS)
                self.later(seconds, lambda: self.port.caller_id_sent(self.now))
                return
            v23 = self._standard == "v23"
            samples = fsk.modulate(build_mdmf(caller), "v23" if v23 else "bell202")
        except UsageError as error:
            self.host.count("caller_id_not_sent")
            self.host.log.debug("caller ID not sent", endpoint=self.endpoint, why=str(error))
            self.port.caller_id_sent(self.now)
            return
        self.order(self.channel.on_hook_transfer, len(samples) // 16 + 300)
        stream.play_samples(samples, play=_CALLER_ID)

    # -- actions -------------------------------------------------------------------------------

    def release(self, cause: Cause) -> None:
        tone = said.ToneName.BUSY if cause in _BUSY else said.ToneName.CONGESTION
        self.port.release(self.now, tone)

    def ringback(self, *, early_media: bool) -> None:
        """The far end rings, or its audio is to be heard already."""
        self.port.progress(self.now, early_media=early_media)
        self.pump()

    def answer(self) -> None:
        """The far end answered."""
        if self.port.state is FxsState.CALLING:
            self.port.answered(self.now)
            self.pump()
            self.connected()
