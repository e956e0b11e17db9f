"""Trunk: one radio module, its endpoint and its call."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import msgspec

from gateway.adapters.base import Host
from gateway.adapters.modem.config import Modem
from gateway.adapters.modem.outbox import Outbox
from gateway.adapters.modem.speech import PcmPort
from gateway.core.actions import Dial, SendMessage
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition, Endpoint
from gateway.core.events import (
    AlarmCleared,
    AlarmRaised,
    DigitPressed,
    InputChanged,
    LegAnswered,
    LegEnded,
    LegOffered,
    LegRinging,
    MessageReceived,
    Quality,
    Severity,
)
from gateway.drivers.serial import SerialPort
from gateway.errors import DeviceError, UsageError
from gateway.media.streams import StreamOptions
from gateway.protocols.modem.happenings import (
    Alerting,
    Connected,
    Down,
    Happening,
    Offered,
    Pressed,
    Release,
    Released,
    Status,
    TextCame,
    TextFailed,
    TextSent,
    Up,
)
from gateway.protocols.modem.lines import Registration
from gateway.protocols.modem.module import Module

INPUTS: Final = ("registered", "signal", "no-audio")
"""``signal`` in dBm."""
ALARM: Final = "fault"
WEAK_DBM: Final = -105
"""Calls break off at such a level."""
_MAX_TEXT: Final = 4096
_SIGNAL_STEP_DB: Final = 3
_MAX_REOPEN_S: Final = 60.0
_CAUSES: Final = {
    Release.NORMAL: Cause.NORMAL,
    Release.BUSY: Cause.BUSY,
    Release.NO_ANSWER: Cause.NO_ANSWER,
    Release.CANCELLED: Cause.CANCELLED,
    Release.FAILED: Cause.NETWORK_OUT_OF_ORDER,
    Release.NO_AUDIO: Cause.TEMPORARY_FAILURE,
}


@dataclass(eq=False)
class _Leg:
    id: str
    outgoing: bool
    answered: bool = False
    cause: Cause | None = None
    """Why we hang up; the module has not confirmed it yet."""
    detail: str = ""
    speech: PcmPort | None = None
    watch: asyncio.TimerHandle | None = None


class Trunk:
    """Driven by `serve` and the actions on its leg. `first` is done when the module was brought up,
    or could not be, for the first time."""

    def __init__(self, endpoint: Endpoint, config: Modem, reopen_s: float, host: Host) -> None:
        self.first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._endpoint, self._config, self._reopen_s = endpoint, config, reopen_s
        self._host = host
        self._module = Module()
        self._outbox = Outbox(endpoint.id, config.texts_an_hour, host)
        self._alarmed: bool | None = None
        """None: not known, a run before this one may have raised it."""
        self._fault: asyncio.TimerHandle | None = None
        self._reason = ""
        self._signal_dbm: int | None = None
        """As last told."""
        self._port: SerialPort | None = None
        self._leg: _Leg | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._down: asyncio.Future[str] | None = None
        self._inputs: dict[str, float] = {}
        self._up = False

    # Running

    async def serve(self) -> None:
        """Open, and open anew, until cancelled."""
        pause = self._reopen_s
        while True:
            self._up = False
            why = await self._once()
            self._lost(why)
            if not self.first.done():
                self.first.set_result(None)
            pause = self._reopen_s if self._up else min(2 * pause, _MAX_REOPEN_S)
            await asyncio.sleep(pause)

    async def _once(self) -> str:
        self._module = Module(keys=self._config.keys == "module")
        self._down = asyncio.get_running_loop().create_future()
        try:
            self._port = await SerialPort.open(
                self._config.port, self._config.settings, self._received, self._unplugged
            )
        except DeviceError as error:
            return str(error)
        self._module.start(self._host.now())
        self._kick()
        return await self._down

    def _unplugged(self, why: str) -> None:
        self._end_of_line(f"{self._config.port}: {why}")

    def _end_of_line(self, why: str) -> None:
        if self._down is not None and not self._down.done():
            self._down.set_result(why)
        # At once: the call's other side must not wait for a task to be scheduled.
        if self._leg is not None:
            self._end(self._leg, Cause.ADAPTER_LOST, why)

    def _lost(self, why: str) -> None:
        self._close()
        if self._up:
            self._host.count("modems_lost")
        self._host.log.warning("modem is down", endpoint=self._endpoint.id, reason=why)
        self._outbox.lost()
        self._signal_dbm = None
        self._set(Condition.DOWN, why)
        for name in ("registered", "signal"):
            if name in self._inputs:
                self._host.emit(
                    InputChanged(
                        endpoint=self._endpoint.id, input=name, value=self._inputs.pop(name),
                        quality=Quality.STALE,
                    )
                )  # fmt: skip

    def stop(self) -> None:
        """End the call, go on hook and close."""
        self.safe_state()
        if self._leg is not None:
            self._end(self._leg, Cause.SHUTDOWN)
        self._close()
        self._outbox.close()
        if self._fault is not None:
            self._fault.cancel()
            self._fault = None

    def safe_state(self) -> None:
        """On hook, past all queues."""
        if self._port is not None and self._leg is not None:
            self._module.on_hook()
            self._write()

    def _close(self) -> None:
        if self._leg is not None:
            self._end(self._leg, Cause.ADAPTER_LOST)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        port, self._port = self._port, None
        if port is not None:
            port.close()

    # The line

    def _received(self, data: bytes) -> None:
        if self._port is not None:
            self._deal(self._module.receive(data, self._host.now()))

    def _tick(self) -> None:
        self._timer = None
        self._deal(self._module.advance(self._host.now()))

    def _deal(self, found: list[Happening]) -> None:
        for each in found:
            self._happened(each)
        for name, n in self._module.talk.counters.items():
            self._host.count(name, n)
        self._module.talk.counters.clear()
        self._kick()

    def _kick(self) -> None:
        if self._port is None:
            return
        self._outbox.send(self._module)
        self._write()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = min(self._module.due(), self._outbox.due()) - self._host.now()
        if due < 86400.0:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, due), self._tick)

    def _write(self) -> None:
        about = self._leg.id if self._leg is not None else self._endpoint.id
        key = "" if self._leg is not None else self._outbox.trace
        for said in self._module.said():
            self._host.wire(about, said.text, kind="at", outward=said.outward, key=key)
        data = self._module.take()
        if data and self._port is not None and not self._port.write(data):
            self._host.count("not_sent")

    # From the module

    def _happened(self, what: Happening) -> None:
        leg = self._leg
        match what:
            case Up():
                self._up = True
                if not self.first.done():
                    self.first.set_result(None)
            case Down(why=why):
                self._write()
                self._end_of_line(why)
            case Status():
                self._status(what)
            case TextCame():
                self._text_came(what)
            case TextSent():
                self._write()
                self._outbox.sent()
            case TextFailed():
                self._write()
                self._outbox.failed(what)
            case Pressed(digit=digit) if leg is not None and leg.answered and leg.cause is None:
                self._host.emit(DigitPressed(leg=leg.id, digit=digit, via="inband"))
            case Offered(number=number, hidden=hidden):
                self._offered(number, hidden)
            case Alerting() if leg is not None and leg.cause is None:
                self._host.emit(LegRinging(leg=leg.id))
            case Connected() if leg is not None and leg.cause is None:
                self._connected(leg)
            case Released(why=why, detail=detail) if leg is not None:
                cause = leg.cause or _CAUSES[why]
                if why is Release.NORMAL and leg.cause is None and leg.outgoing:
                    cause = Cause.NORMAL if leg.answered else Cause.REJECTED
                self._end(leg, cause, leg.detail or detail)

    def _status(self, status: Status) -> None:
        reason = ""
        if status.registration is Registration.DENIED:
            reason = "the network refuses the SIM"
        elif not status.registered:
            reason = f"not registered in a network ({status.registration.name.lower()})"
        if status.signal_dbm is None:
            self._signal_dbm = None
        elif self._signal_dbm is None or (
            abs(status.signal_dbm - self._signal_dbm) >= _SIGNAL_STEP_DB
        ):
            self._signal_dbm = status.signal_dbm
            self._input("signal", float(status.signal_dbm))
        weak = self._signal_dbm is not None and self._signal_dbm <= WEAK_DBM
        known = {
            "maker": status.maker, "model": status.model, "firmware": status.firmware,
            "network": status.network, "technology": status.technology,
            "texts": "yes" if status.texts else "",
            "signal": f"{self._signal_dbm} dBm" if self._signal_dbm is not None else "",
        }  # fmt: skip
        self._set(
            Condition.DOWN if reason else Condition.UP,
            reason or (f"weak signal, {self._signal_dbm} dBm" if weak else ""),
            {name: value for name, value in known.items() if value},
        )  # fmt: skip
        self._input("registered", float(status.registered))

    def _set(self, condition: Condition, reason: str, detail: dict[str, str] | None = None) -> None:
        self._reason = reason
        if condition is Condition.UP:
            self._clear()
        elif self._fault is None and not self._alarmed and self._config.fault_severity != "none":
            loop = asyncio.get_running_loop()
            self._fault = loop.call_later(self._config.fault_after_s, self._raise)
        self._host.set_endpoint(
            msgspec.structs.replace(
                self._endpoint, condition=condition, reason=reason,
                detail={**self._endpoint.detail, **(detail or {})},
            )
        )  # fmt: skip

    def _raise(self) -> None:
        self._fault, self._alarmed = None, True
        self._host.emit(
            AlarmRaised(
                endpoint=self._endpoint.id, alarm=ALARM, kind="fault",
                severity=Severity[self._config.fault_severity.upper()],
                text=f"{self._config.label or self._endpoint.id}: {self._reason}",
                trace=self._host.new_trace(), raised_at=self._host.now(),
            )
        )  # fmt: skip

    def _clear(self) -> None:
        if self._fault is not None:
            self._fault.cancel()
            self._fault = None
        if self._alarmed is not False:
            self._alarmed = False
            self._host.emit(AlarmCleared(endpoint=self._endpoint.id, alarm=ALARM))

    def _input(self, name: str, value: float) -> None:
        if self._inputs.get(name) != value:
            self._inputs[name] = value
            self._host.emit(
                InputChanged(
                    endpoint=self._endpoint.id, input=name, value=value,
                    trace=self._host.new_trace(),
                )
            )  # fmt: skip

    def _offered(self, number: str, hidden: bool) -> None:
        self._leg = leg = _Leg(self._host.new_leg(self._endpoint.id), outgoing=False)
        self._host.emit(
            LegOffered(
                leg=leg.id, endpoint=self._endpoint.id, called=self._config.calls, calling=number,
                hidden=hidden, trace=self._host.new_trace(), demanded_at=self._host.now(),
                priority=self._config.level,
            )
        )  # fmt: skip

    def _text_came(self, text: TextCame) -> None:
        self._host.count("messages_received")
        shown = "".join(sign for sign in text.text if sign.isprintable() or sign == "\n")
        sender = "".join(sign for sign in text.sender if sign.isprintable())
        self._host.emit(
            MessageReceived(
                endpoint=self._endpoint.id, sender=sender,
                recipient=self._config.texts or self._config.calls,
                text=shown[:_MAX_TEXT].encode("utf-8", "replace").decode(),
                trace=self._host.new_trace(),
            )
        )  # fmt: skip

    # Audio

    def _connected(self, leg: _Leg) -> None:
        options = StreamOptions(detect_dtmf=not self._module.keys, **self._config.shaping)

        def lost(why: str) -> None:
            self._hang_up(leg, Cause.ADAPTER_LOST, f"{self._config.audio}: {why}")

        try:
            leg.speech = PcmPort(self._host, leg.id, self._config.audio, options, lost)
        except DeviceError as error:
            self._host.log.error("no audio", endpoint=self._endpoint.id, reason=str(error))
            self._hang_up(leg, Cause.OUT_OF_ORDER, str(error))
            return
        leg.answered = True
        leg.watch = asyncio.get_running_loop().call_later(
            self._config.audio_within_s, self._watch, leg
        )
        self._host.emit(LegAnswered(leg=leg.id))

    def _watch(self, leg: _Leg) -> None:
        leg.watch = None
        if leg.speech is None or leg.cause is not None:
            return
        if leg.speech.n_heard:
            if "no-audio" in self._inputs:
                self._input("no-audio", 0.0)
            return
        self._host.count("no_audio")
        self._host.log.error(
            "the module gives no audio: it is reset", endpoint=self._endpoint.id, leg=leg.id
        )
        self._input("no-audio", 1.0)
        self._end(leg, Cause.TEMPORARY_FAILURE, "no audio from the module")
        now = self._host.now()
        self._module.on_hook()
        self._module.reset(now)
        self._deal(self._module.advance(now))

    # Actions

    def dial(self, action: Dial) -> None:
        """Begin a call."""
        if self._leg is not None:
            self._host.emit(LegEnded(leg=action.leg, cause=Cause.BUSY))
            return
        if not self._module.free or self._port is None:
            down = self._port is None or not self._module.status.registered
            cause = Cause.OUT_OF_ORDER if down else Cause.BUSY
            self._host.emit(LegEnded(leg=action.leg, cause=cause))
            return
        try:
            self._module.dial(action.number, self._host.now(), hidden=action.hidden)
        except UsageError as error:
            self._host.emit(
                LegEnded(leg=action.leg, cause=Cause.ADDRESS_INCOMPLETE, detail=str(error))
            )
            return
        self._leg = _Leg(action.leg, outgoing=True)
        self._kick()

    def answer(self, leg: str) -> None:
        """Answer the leg."""
        if self._leg is not None and self._leg.id == leg and not self._leg.outgoing:
            self._module.answer(self._host.now())
            self._kick()

    def hangup(self, leg: str, cause: Cause) -> None:
        """End the leg."""
        if self._leg is not None and self._leg.id == leg:
            self._hang_up(self._leg, cause)

    def send_digits(self, leg: str, digits: str) -> None:
        """Send DTMF; the network makes the tones."""
        if self._leg is not None and self._leg.id == leg:
            wanted = sum(each in "0123456789*#ABCD" for each in digits.upper())
            sent = self._module.digits(digits, self._host.now())
            if sent < wanted:
                self._host.count("digits_dropped", wanted - sent)
            self._kick()

    def send_text(self, action: SendMessage) -> None:
        """Send a text message. Raises `DeviceError`, `UsageError`."""
        if self._up and not self._module.sends_texts:
            raise DeviceError(f"{self._endpoint.id}: this module sends no texts")
        self._outbox.put(action)
        self._kick()

    def _hang_up(self, leg: _Leg, cause: Cause, detail: str = "") -> None:
        if leg.cause is None:
            leg.cause, leg.detail = cause, detail
            self._module.hangup(self._host.now())
            self._kick()

    def _end(self, leg: _Leg, cause: Cause, detail: str = "") -> None:
        if self._leg is not leg:
            return
        self._leg = None
        if leg.watch is not None:
            leg.watch.cancel()
        if leg.speech is not None:
            leg.speech.close()
        self._host.emit(LegEnded(leg=leg.id, cause=cause, detail=detail))
