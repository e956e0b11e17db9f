"""Exchange line: an FXO port, and the exchange that rings it and is called over it."""

from __future__ import annotations

import asyncio
from typing import ClassVar, Final, cast

from gateway.adapters.analog.config import AnalogSection, Fxo
from gateway.adapters.analog.line import DTMF_DIGITS, Call, Line
from gateway.adapters.analog.voice import VoiceAfterRingback
from gateway.adapters.base import Host
from gateway.core.actions import Dial
from gateway.core.causes import Cause
from gateway.core.events import LegEnded, LegOffered, LegProgressed, LegRinging
from gateway.drivers.dahdi import Channel, EventKind, Hook, LineEvent, PortKind
from gateway.errors import DeviceError, GatewayError, PeerError
from gateway.media import tones
from gateway.media.streams import (
    DigitDetected,
    FskReceived,
    MediaEvent,
    StreamOptions,
    ToneDetected,
)
from gateway.protocols.analog import (
    CallerId,
    FxoConfig,
    FxoPort,
    FxoState,
    Output,
    Rule,
    Signal,
    ToneName,
)
from gateway.protocols.analog import signals as said
from gateway.protocols.analog.callerid import parse, parse_dtmf
from gateway.protocols.analog.fxo import CallerIdFrom

_HEARD: Final = {
    "dial": ToneName.DIAL,
    "ringback": ToneName.RINGBACK,
    "busy": ToneName.BUSY,
    "congestion": ToneName.CONGESTION,
}
_BATTERY_POLL_S: Final = 0.05
_BATTERY_POLLS: Final = 100
_VOICE_POLL_S: Final = 0.1
_SILENCE_POLL_S: Final = 0.5
_SETTLED_S: Final = 0.05
_PAUSE_S: Final = 0.5
_VISUAL: Final = str.maketrans("", "", " -.()/")
_MOST_DIGITS: Final = 32
_NEVER_S: Final = 86400.0


class ExchangeLine(Line):
    """One FXO port."""

    kind = PortKind.FXO
    signals: ClassVar[dict[EventKind, Signal]] = {
        EventKind.RING_BEGIN: Signal.RING_STARTED,
        EventKind.RING_OFF_HOOK: Signal.RING_ENDED,
        EventKind.ON_HOOK: Signal.BATTERY_LOST,
        EventKind.ALARM: Signal.BATTERY_LOST,
        EventKind.NO_ALARM: Signal.BATTERY_RESTORED,
        EventKind.POLARITY: Signal.POLARITY_REVERSED,
        EventKind.DIAL_COMPLETE: Signal.DIAL_DONE,
    }
    port: FxoPort

    def __init__(self, channel: str, section: AnalogSection, host: Host) -> None:
        super().__init__(channel, section, host)
        self._config = cast(Fxo, section.ports[channel])
        self._standard = section.caller_id(self._config)
        self._demanded_at: float | None = None
        """When the present ringing, or what announced it, began."""
        self._listening = False
        self._digits = ""
        self._sending = 0
        """How many batches of our own digits are on their way."""
        self._watching_battery = False
        self._dialler: asyncio.Task[None] | None = None
        self._pulsed = asyncio.Event()
        self.port = FxoPort()

    @property
    def config(self) -> Fxo:
        return self._config

    def _port_config(self) -> FxoConfig:
        config = self.config
        when = CallerIdFrom(config.caller_id_when)
        return FxoConfig(
            ring_min=config.ring_min_s,
            ring_timeout=config.ring_timeout_s,
            caller_id=CallerIdFrom.NONE if self._standard == "off" else when,
            caller_id_window=config.caller_id_window_s,
            wait_dial_tone=config.dial_tone_s,
            dial_without_tone=config.dial_without_tone,
            dial_delay=config.dial_delay_s,
            pulse=config.dialling == "pulse",
            answer=tuple(Rule(rule) for rule in config.answer),
            answer_timer=config.answer_timer_s,
            no_answer=config.no_answer_s,
            cpc_min=config.cpc_min_s if "cpc" in config.hangup else _NEVER_S,
            hangup_polarity="polarity" in config.hangup,
            hangup_tones=tuple(
                tone for tone in (ToneName.BUSY, ToneName.CONGESTION) if tone in config.hangup
            ),
            silence=config.silence_s,
            max_call=config.max_call_s,
            guard=config.guard_s,
            glare=config.glare_s,
            fault_after=config.fault_s,
        )

    def _set_up(self, channel: Channel) -> None:
        channel.set_timing(flash_ms=self.config.flash_ms)

    def _begin(self, channel: Channel) -> None:
        self.port = FxoPort(self._port_config())
        self._demanded_at, self._listening, self._sending = None, False, 0
        self._watching_battery = False
        params = channel.params()
        if params.rx_hook == 0:
            self.port.signal(Signal.BATTERY_LOST, self.now)
            self.announce("no battery on the line")
            self._watch_battery()
        else:
            self.announce()
        self.pump()

    # -- from the line -------------------------------------------------------------------------

    def take_event(self, event: LineEvent) -> None:
        if event.kind in (EventKind.RING_BEGIN, EventKind.POLARITY) and (
            self.port.state is FxoState.IDLE and self._demanded_at is None
        ):
            self._demanded_at = self.now
        super().take_event(event)
        if event.kind is EventKind.DIAL_COMPLETE:
            self._pulsed.set()
        if event.kind in (EventKind.ON_HOOK, EventKind.ALARM):
            self._watch_battery()

    def _watch_battery(self) -> None:
        """The card says when the battery goes, not always when it is back."""
        if not self._watching_battery:
            self._watching_battery = True
            self._look_at_battery(_BATTERY_POLLS)

    def _look_at_battery(self, polls: int) -> None:
        self._watching_battery = False
        if self.channel is None:
            return
        try:
            back = self.channel.params().rx_hook != 0
        except DeviceError as error:
            self.lost(str(error))
            return
        if back:
            self.port.signal(Signal.BATTERY_RESTORED, self.now)
        else:
            # A line that was unplugged may stay so for days.
            self._watching_battery = True
            wait = _BATTERY_POLL_S if polls > 0 else 1.0
            self.later(wait, self._look_at_battery, polls - 1)

    def do(self, output: Output) -> None:
        channel, call, config = self.channel, self.call, self.config
        if channel is None:
            return
        match output:
            case said.SetHook(off):
                self.set_hook(off)
            case said.Dial(digits, pulse):
                self._dialler = self.host.create_task(
                    self._pulse(digits) if pulse else self._dial(digits),
                    name=f"{self.endpoint} dials",
                )
            case said.SendFlash():
                # The driver may wait until the flash is over.
                self.host.create_task(self._flash(channel), name=f"{self.endpoint} flashes")
            case said.RingDetected() | said.ListenCallerId() | said.Alert() if config.use == "lent":
                self._demanded_at = None  # its ringing waits for whoever borrows the line
            case said.ListenCallerId(on):
                self._listen(on)
            case said.RingDetected():
                self._ringing()
            case said.Alert(caller):
                self._alert(caller)
            case said.Progress() if call is not None:
                self.host.emit(LegRinging(leg=call.leg))
                self._listen_for_voice(call)
            case said.Answered(rule):
                self.connected(rule)
                self._watch_silence()
            case said.Hangup(rule, detail):
                self._over(rule, detail)
            case said.Idle():
                self._demanded_at = None
                if call is not None and not call.lent:
                    self.end_call(Cause.CANCELLED, "ring stopped")
                self.idle()
            case said.LineFault(reason):
                self._demanded_at = None
                if call is not None:
                    self.end_call(Cause.OUT_OF_ORDER, reason)
                self.announce(f"{reason} on the line" if reason == "no battery" else reason)
            case said.LineRestored():
                self.announce()

    def heard(self, call: Call, event: MediaEvent) -> bool:
        if call is not self.call:
            return True
        match event:
            case FskReceived(data=data):
                self._caller_id_message(data)
                return True
            case DigitDetected() if self._listening:
                self._caller_id_digit(event.digit)
                return True
            case DigitDetected():
                return self._sending > 0 or not call.answered
            case ToneDetected() if event.tone in _HEARD:
                self.port.tone(
                    _HEARD[event.tone], self.now, f"{event.tone} tone, {tones.ENDING_CYCLES} cycles"
                )
                self.pump()
                return self.call is not call or not (call.dialled or call.offered)
        return False

    # -- caller ID -----------------------------------------------------------------------------

    def _begin_incoming(self) -> Call | None:
        """The leg of a call that is about to come, so that its caller ID can be heard."""
        if self.call is None:
            began = self.now if self._demanded_at is None else self._demanded_at
            self.call = Call(self.host.new_leg(self.endpoint), self.host.new_trace(), began)
            try:
                self.open_audio(self.call, self._call_options())
            except DeviceError as error:
                self.host.log.error("no audio", endpoint=self.endpoint, error=str(error))
                self.end_call(Cause.RESOURCE_UNAVAILABLE, str(error))
        return self.call

    def _ringing(self) -> None:
        if self._begin_incoming() is None:
            self.port.release(self.now)

    def _listen(self, on: bool) -> None:
        self._listening, self._digits = on, ""
        call = self._begin_incoming() if on else self.call
        if call is None or call.stream is None:
            return
        if not on and self.port.state is FxoState.IDLE:
            # The reversal announced nothing.
            self._demanded_at = None
            self.end_call(Cause.CANCELLED, "no ring followed")
            return
        if on and self._standard in ("bell202", "v23"):
            call.stream.configure(self.options(detect_fsk=self._standard))
        else:
            call.stream.configure(self._call_options())

    def _caller_id_message(self, data: bytes) -> None:
        caller: CallerId | None = None
        try:
            caller = parse(data)
        except PeerError as error:
            self.host.count("caller_id_garbled")
            self.host.log.debug("caller ID garbled", endpoint=self.endpoint, why=str(error))
        if caller is None or caller.messages is None:
            self.port.caller_id(caller, self.now)

    def _caller_id_digit(self, digit: str) -> None:
        self._digits = (self._digits + digit)[-_MOST_DIGITS:]
        if digit not in "C#":
            return
        try:
            caller = parse_dtmf(self._digits)
        except PeerError as error:
            self.host.count("caller_id_garbled")
            self.host.log.debug("caller ID garbled", endpoint=self.endpoint, why=str(error))
            self._digits = ""
            return
        self.port.caller_id(caller, self.now)

    def _alert(self, caller: CallerId | None) -> None:
        call = self._begin_incoming()
        if call is None:
            self.port.release(self.now)
            return
        call.offered = True
        self.host.emit(
            LegOffered(
                leg=call.leg,
                endpoint=self.endpoint,
                called=self.config.hotline or self.config.number,
                calling=caller.number if caller else "",
                display=caller.name if caller else "",
                trace=call.trace,
                demanded_at=call.demanded_at,
            )
        )

    # -- out -----------------------------------------------------------------------------------

    def waits(self, action: Dial) -> bool:
        return self.port.state is FxoState.GUARD

    def start(self, action: Dial) -> None:
        if self.config.use == "lent":
            detail = 'the line is only lent (use = "lent")'
            self.host.emit(LegEnded(leg=action.leg, cause=Cause.INCOMPATIBLE, detail=detail))
            return
        number = action.number.translate(_VISUAL).replace(",", "w")
        allowed = "0123456789w" if self.config.dialling == "pulse" else DTMF_DIGITS + "w"
        if wrong := next((c for c in number if c not in allowed), ""):
            detail = f"{wrong!r} in {action.number[:40]!r} cannot be dialled on this line"
            self.host.emit(LegEnded(leg=action.leg, cause=Cause.UNALLOCATED, detail=detail))
            return
        if not self.port.seize(number, self.now):
            fault = self.port.state is FxoState.FAULT or bool(self.reason)
            cause = Cause.OUT_OF_ORDER if fault else Cause.NO_CIRCUIT
            detail = (self.reason or "no battery on the line") if fault else "the line rings"
            self.host.emit(LegEnded(leg=action.leg, cause=cause, detail=detail))
            return
        self.call = Call(action.leg, action.trace, self.now, dialled=True, clear=action.clear)
        try:
            self.open_audio(self.call, self._call_options())
        except DeviceError as error:
            self.call.cause, self.call.detail = Cause.RESOURCE_UNAVAILABLE, str(error)
            self.port.release(self.now)

    def _call_options(self) -> StreamOptions:
        names = tuple(_HEARD) if self.call is None or self.call.dialled else ("busy", "congestion")
        # Our own digits come back from the hybrid: they are nobody's key press.
        return self.options(detect_tones=names, detect_dtmf=not self._sending)

    def _connect(self) -> bool:
        # Who rings a line that is only lent rings for whoever borrows it.
        return self.port.connect(self.now, ringing=self.config.use == "lent")

    def lent_options(self) -> StreamOptions:
        return self._call_options()

    async def _dial(self, digits: str) -> None:
        await self._send(digits)
        self.port.signal(Signal.DIAL_DONE, self.now)
        self._dialled()

    async def _send(self, digits: str) -> None:
        """Send DTMF in the audio, ``w`` for half a second of silence."""
        config, call = self.config, self.call
        self._sending += 1
        self._configure(call)
        try:
            for part in digits.replace("w", " w ").split():
                if call is None or call is not self.call or call.stream is None:
                    return
                if part == "w":
                    await asyncio.sleep(_PAUSE_S)
                    continue
                call.stream.send_digits(part, on_ms=config.digit_ms, off_ms=config.digit_pause_ms)
                await asyncio.sleep(len(part) * (config.digit_ms + config.digit_pause_ms) / 1000)
            await asyncio.sleep(_SETTLED_S)
        except GatewayError as error:
            self.host.count("digits_not_sent")
            self.host.log.warning("digits not sent", endpoint=self.endpoint, why=str(error))
        finally:
            self._sending -= 1
            if call is self.call:
                self._configure(call)

    def _configure(self, call: Call | None) -> None:
        if call is not None and call.stream is not None and not self._listening:
            try:
                call.stream.configure(self._call_options())
            except GatewayError:  # closed meanwhile
                pass

    async def _pulse(self, digits: str) -> None:
        """Let the card pulse; audio written to it would stop that, so the stream goes and comes."""
        call, channel = self.call, self.channel
        if call is None or channel is None:
            return
        if call.stream is not None:
            call.stream.close()
            call.stream = None
        await asyncio.sleep(_SETTLED_S)
        if call is not self.call or self.channel is not channel:
            return
        self._pulsed.clear()
        if not self.order(lambda: channel.dial(digits, pulse=True)):
            self.port.signal(Signal.DIAL_DONE, self.now)
        else:
            await self._pulsed.wait()
        if call is not self.call or self.channel is not channel:
            return
        try:
            self.open_audio(call, self._call_options())
        except DeviceError as error:
            call.cause, call.detail = Cause.RESOURCE_UNAVAILABLE, str(error)
            self.port.release(self.now)
        self._dialled()

    def _dialled(self) -> None:
        call = self.call
        if call is not None and call.dialled and not call.progressed and not call.answered:
            # The exchange's own ringback, announcements and busy tone are for the caller to hear.
            call.progressed = True
            self.host.emit(LegProgressed(leg=call.leg))
        self.pump()

    async def _flash(self, channel: Channel) -> None:
        try:
            await asyncio.to_thread(channel.hook, Hook.FLASH)
        except GatewayError as error:
            self.host.count("refused_by_card")
            self.host.log.warning("no flash", endpoint=self.endpoint, why=str(error))

    # -- supervision ---------------------------------------------------------------------------

    def _listen_for_voice(self, call: Call) -> None:
        if Rule.VOICE not in self.port.config.answer:
            return
        voice = VoiceAfterRingback(tones.tone(self.section.country, "ringback").cadence_ms)
        self.later(_VOICE_POLL_S, self._look_for_voice, call, voice)

    def _look_for_voice(self, call: Call, voice: VoiceAfterRingback) -> None:
        if call is not self.call or call.answered or call.stream is None:
            return
        if voice.level(call.stream.stats().level_in_dbm0, self.now):
            self.port.tone(ToneName.VOICE, self.now)
        else:
            self.later(_VOICE_POLL_S, self._look_for_voice, call, voice)

    def _watch_silence(self) -> None:
        if self.config.silence_s > 0 and self.call is not None:
            self.later(_SILENCE_POLL_S, self._look_for_silence, self.call)

    def _look_for_silence(self, call: Call) -> None:
        if call is not self.call or call.stream is None:
            return
        if call.stream.stats().silent_s < _SILENCE_POLL_S:
            self.port.heard(self.now)
        self.later(_SILENCE_POLL_S, self._look_for_silence, call)

    def _over(self, rule: Rule, detail: str) -> None:
        call = self.call
        if self._dialler is not None:
            self._dialler.cancel()
            self._dialler = None
        if call is None:
            return
        if rule is Rule.LOCAL and call.cause is not None:
            self.end_call(call.cause, call.detail)
            return
        cause = _CAUSES.get(rule, Cause.NORMAL)
        if rule is Rule.TONE and not call.answered:
            cause = Cause.BUSY if detail.startswith("busy") else Cause.CONGESTION
        elif rule in (Rule.CPC, Rule.POLARITY) and not call.answered:
            cause = Cause.REJECTED
        self.end_call(cause, detail or rule.replace("_", " "))

    # -- actions -------------------------------------------------------------------------------

    def release(self, cause: Cause) -> None:
        self.port.release(self.now)

    def answer(self) -> None:
        """Take the exchange's call."""
        if self.port.answer(self.now):
            self.pump()
            self.connected()
            self._watch_silence()

    def send_digits(self, digits: str) -> None:
        """Send digits during a call; ``!`` flashes."""
        if self.call is None:
            return
        if "!" in digits:
            self.port.flash(self.now)
            self.pump()
        if dtmf := "".join(digit for digit in digits.upper() if digit in DTMF_DIGITS + "W"):
            self.host.create_task(
                self._send(dtmf.replace("W", "w")), name=f"{self.endpoint} sends digits"
            )


_CAUSES: Final[dict[Rule, Cause]] = {
    Rule.RING_STOPPED: Cause.CANCELLED,
    Rule.NO_ANSWER: Cause.NO_ANSWER,
    Rule.NO_DIAL_TONE: Cause.NETWORK_OUT_OF_ORDER,
    Rule.GLARE: Cause.NO_CIRCUIT,
    Rule.SILENCE: Cause.MEDIA_TIMEOUT,
    Rule.MAX_CALL: Cause.TIMER_EXPIRED,
    Rule.FAULT: Cause.OUT_OF_ORDER,
}
