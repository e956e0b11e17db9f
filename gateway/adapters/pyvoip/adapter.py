"""The pyvoip adapter: a threaded, blocking library behind the contract of every other adapter.

The library runs in a process of its own, for five reasons. It blocks for as long as a PBX is
silent, and no thread can be taken out of that; its threads never end, so that only the end of a
process ends them; one leak or fault in it would be one of the whole gateway; its threads would
compete with the event loop for the interpreter, and calls of the whole box would hear that; and it
is licensed under GPL-3, which then ends at the process. So this side has no thread and no lock: a
socket pair carries small messages (`messages`), and another one for each call carries its audio
straight between the engine and the library. A process that dies, hangs or grows is replaced.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import re
import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from gateway.adapters.base import Adapter, Host
from gateway.adapters.pyvoip import messages as say
from gateway.adapters.pyvoip.config import PyVoipSection
from gateway.adapters.pyvoip.process import Process
from gateway.core.actions import Answer, Dial, Hangup, SendDigits
from gateway.core.causes import Cause, from_sip, to_sip
from gateway.core.endpoints import Condition, Endpoint
from gateway.core.events import DigitPressed, LegAnswered, LegEnded, LegOffered, LegRinging
from gateway.errors import DeviceError
from gateway.media.streams import Codec, DeviceFailed, DeviceSpec, MediaEvent, Stream, StreamOptions

VERSION: Final = "1.6.8"
INSTALL: Final = "pip install 'crosspoint-gateway[pyvoip]'"
LIMITS: Final = (
    "SIP over UDP and IPv4 only; no TLS, no SRTP; G.711 only; digest MD5 without qop; no hold, "
    "transfer, early media, session timer or text message; a header in lower case, in its compact "
    "form or folded makes a request unreadable; audio is taken from any address"
)
_FIRST_RETRY_S: Final = 1.0
_LONGEST_RETRY_S: Final = 15.0
_REFUSED_RETRY_S: Final = 30.0
_LONGEST_REFUSED_S: Final = 300.0
"""A PBX locks accounts that try again and again."""


@dataclass(slots=True)
class _Leg:
    key: str
    """The call's name in the library's process."""
    near: socket.socket | None = None
    """The engine's end of the audio, until there is a stream."""
    offered: bool = False
    asked: bool = False
    answered: bool = False
    events: bool = False
    stream: Stream | None = None


class PyVoip(Adapter):
    """One account on a PBX."""

    kind = "pyvoip"
    Config = PyVoipSection

    def __init__(self, name: str, config: PyVoipSection, host: Host) -> None:
        super().__init__(name, config, host)
        self._id = f"{name}/{config.line}"
        self._process: Process | None = None
        self._legs: dict[str, _Leg] = {}
        self._by_key: dict[str, str] = {}
        self._registered = self._was_registered = False
        self._condition, self._reason = Condition.UNKNOWN, "not heard from yet"
        self._local = ""
        self._n_calls = 0
        self._memory_mb = 0.0
        self._final = ""

    def endpoints(self) -> Iterable[Endpoint]:
        yield self._endpoint()

    def _endpoint(self) -> Endpoint:
        config: PyVoipSection = self.config
        detail = {
            "server": f"{config.server}:{config.port}",
            "user": config.user,
            "registered": "yes" if self._registered else "no",
            "library": f"pyVoIP {VERSION}",
            "limits": LIMITS,
        }
        if self._local:
            detail["local"] = self._local
        return Endpoint(
            id=self._id,
            label=config.label,
            number=config.number,
            takes_number=True,
            capacity=config.calls,
            condition=self._condition,
            reason=self._reason if self._condition is not Condition.UP else "",
            detail=detail,
        )

    @property
    def pid(self) -> int | None:
        """Process id of the library; None while there is none."""
        return None if self._process is None else self._process.pid

    async def run(self) -> None:
        if why := missing():
            raise DeviceError(why)
        local_port = self.config.local_port or _free_port(self.config.local_ip)
        pause = 0.0
        try:
            while True:
                self._process = Process(self._heard)
                self._was_registered, self._final = False, ""
                self._n_calls = 0
                reason = await self._process.serve(self._begin(local_port))
                self._process = None
                self._lose_all(Cause.ADAPTER_LOST)
                if not reason:
                    self._set(Condition.UNKNOWN, "the library starts anew")
                    continue
                reason = self._final or reason
                self._set(Condition.DOWN, reason)
                self.host.count("library_restarts")
                refused = "refused" in reason
                first = _REFUSED_RETRY_S if refused else _FIRST_RETRY_S
                longest = _LONGEST_REFUSED_S if refused else _LONGEST_RETRY_S
                pause = first if self._was_registered else min(max(first, 2 * pause), longest)
                await asyncio.sleep(pause)
        finally:
            self._process = None
            self._lose_all(Cause.SHUTDOWN)
            self._registered = False
            self._condition, self._reason = Condition.UNKNOWN, "not heard from yet"

    def _begin(self, local_port: int) -> say.Begin:
        config: PyVoipSection = self.config
        return say.Begin(
            server=config.server,
            port=config.port,
            user=config.user,
            password=config.password.reveal(),
            local_ip=config.local_ip,
            local_port=local_port,
            rtp_ports=config.rtp_ports,
            expires_s=config.expires_s,
            no_response_s=config.no_response_s,
            calls=config.calls,
        )

    def safe_state(self) -> None:
        for leg in list(self._legs):
            self._end(leg, Cause.SHUTDOWN)

    # From the library

    def _tell(
        self, message: say.Press | say.Place | say.Accept | say.Drop, wire: socket.socket | None
    ) -> bool:
        """Give the library an order; False when it takes none."""
        self._show(message, outward=True)
        return self._process is not None and self._process.send(message, wire)

    def _show(self, message: say.ToLibrary | say.FromLibrary, *, outward: bool) -> None:
        """Let it be seen what we and the library say to each other; digits never are."""
        key = getattr(message, "call", "")
        facts = " ".join(
            f"{name}={'?' if name.startswith('digit') else getattr(message, name)}"
            for name in message.__struct_fields__
            if name != "call"
        )
        about = self._by_key.get(key, "")
        text = f"{type(message).__name__} {facts}".strip()
        self.host.wire(about, text, kind="pyvoip", outward=outward, key=key)

    def _heard(self, message: say.FromLibrary) -> None:
        if not isinstance(message, say.Alive | say.Counted):
            self._show(message, outward=False)
        match message:
            case say.Alive():
                self._memory_mb = message.memory_mb
                self._renew()
            case say.Counted():
                self.host.count(message.name, message.n)
            case say.Hello():
                pass
            case say.Registered():
                self._registered = self._was_registered = True
                self._local = message.local
                self._set(Condition.UP, "")
            case say.Unregistered():
                if message.final:
                    self._final = message.reason
                self._set(Condition.DOWN, message.reason)
            case say.Offered():
                self._offered(message)
            case _:
                leg = self._by_key.get(message.call)
                if leg is not None:
                    self._of_call(leg, self._legs[leg], message)

    def _of_call(
        self, leg: str, state: _Leg, message: say.Alerting | say.Connected | say.Over | say.Digit
    ) -> None:
        match message:
            case say.Alerting():
                self.host.emit(LegRinging(leg=leg))
            case say.Connected():
                self._connected(leg, state, message.events)
            case say.Digit():
                self.host.emit(DigitPressed(leg=leg, digit=message.digit, via="keypad"))
            case say.Over():
                if message.status < 300:
                    cause = Cause.NORMAL
                elif message.status == 487 and state.offered:
                    cause = Cause.CANCELLED
                else:
                    cause = from_sip(message.status)
                del self._by_key[state.key]
                self._end(leg, cause, message.reason)

    def _offered(self, message: say.Offered) -> None:
        leg = self.host.new_leg(self._id)
        self._keep(leg, _Leg(message.call, offered=True))
        self.host.emit(
            LegOffered(
                leg=leg,
                endpoint=self._id,
                called=_clean(message.called),
                calling=_clean(message.calling),
                display=_clean(message.display),
                trace=self.host.new_trace(),
                demanded_at=self.host.now(),
            )
        )

    def _connected(self, leg: str, state: _Leg, events: bool) -> None:
        if state.near is None or state.answered:
            return
        state.events = events
        spec = DeviceSpec(
            fd=state.near.fileno(), codec=Codec.PCMU, block_bytes=say.BLOCK, paced_by_device=False
        )
        try:
            options = StreamOptions(detect_dtmf=not events, **self.config.shaping)
            state.stream = self.host.open_stream(leg, spec, options, _closes_first)
        except DeviceError as error:
            self._end(leg, Cause.RESOURCE_UNAVAILABLE, str(error))
            return
        # The engine has a copy of its own.
        state.near.close()
        state.near = None
        state.answered = True
        self.host.emit(LegAnswered(leg=leg))

    # From the gateway

    def dial(self, action: Dial) -> None:
        if action.endpoint != self._id:
            raise DeviceError(f"there is no line {action.endpoint}")
        number = action.number or self.config.dials
        if not number:
            self._refuse(action.leg, Cause.ADDRESS_INCOMPLETE, "no number to dial at the PBX")
        elif not self._registered:
            self._refuse(action.leg, Cause.NETWORK_OUT_OF_ORDER, self._reason)
        elif len(self._legs) >= self.config.calls:
            self._refuse(action.leg, Cause.NO_CIRCUIT, f"all {self.config.calls} calls are taken")
        else:
            state = _Leg(action.leg)
            self._keep(action.leg, state)
            # What is not a digit or letter would else become a part of the request.
            place = say.Place(call=state.key, number=quote(number, safe="*+!~'()"))
            self._send_with_audio(action.leg, state, place)

    def answer(self, action: Answer) -> None:
        state = self._legs.get(action.leg)
        if state is not None and state.offered and not state.asked:
            state.asked = True
            self._send_with_audio(action.leg, state, say.Accept(call=state.key))

    def hangup(self, action: Hangup) -> None:
        self._end(action.leg, action.cause, action.detail)

    def send_digits(self, action: SendDigits) -> None:
        state = self._legs.get(action.leg)
        if state is None or state.stream is None:
            return
        if state.events and self._process is not None:
            self._tell(say.Press(call=state.key, digits=action.digits), None)
        else:
            state.stream.send_digits(action.digits)

    # Legs

    def _keep(self, leg: str, state: _Leg) -> None:
        self._legs[leg] = state
        self._by_key[state.key] = leg
        self._n_calls += 1

    def _refuse(self, leg: str, cause: Cause, detail: str) -> None:
        self.host.emit(LegEnded(leg=leg, cause=cause, detail=detail))

    def _send_with_audio(self, leg: str, state: _Leg, message: say.Place | say.Accept) -> None:
        try:
            state.near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            self._end(leg, Cause.RESOURCE_UNAVAILABLE, str(error))
            return
        with far:
            sent = self._tell(message, far)
        if not sent:
            self._end(leg, Cause.TEMPORARY_FAILURE, "the library's process takes no order")

    def _end(self, leg: str, cause: Cause, detail: str = "") -> None:
        state = self._legs.pop(leg, None)
        if state is None:
            return  # ended before: a leg ends exactly once
        if state.near is not None:
            state.near.close()
        if state.key in self._by_key:
            self._tell(say.Drop(call=state.key, status=to_sip(cause)), None)
            del self._by_key[state.key]
        self.host.emit(LegEnded(leg=leg, cause=cause, detail=detail))

    def _lose_all(self, cause: Cause) -> None:
        for leg in list(self._legs):
            self._end(leg, cause, self._final)
        self._registered = False

    # The process

    def _renew(self) -> None:
        """Replace a process that has done much or grown."""
        limit, idle = self.config.memory_mb, not self._legs
        grown = self._memory_mb > (limit if idle else 2 * limit)
        if self._process is not None and (
            grown or (idle and self._n_calls >= self.config.calls_per_process)
        ):
            why = f"{self._memory_mb:.0f} MB" if grown else f"{self._n_calls} calls"
            self.host.log.info("the library gets a new process", after=why)
            self.host.count("library_renewals")
            self._process.end()

    def _set(self, condition: Condition, reason: str) -> None:
        self._registered = condition is Condition.UP
        if (self._condition, self._reason) != (condition, reason):
            if condition is Condition.DOWN:
                self.host.log.warning("not registered", reason=reason)
            elif condition is Condition.UP:
                self.host.log.info("registered", server=self.config.server)
        self._condition, self._reason = condition, reason
        self.host.set_endpoint(self._endpoint())
        if condition is not Condition.UNKNOWN:
            # Not before: until the PBX has answered every call would be refused.
            self.host.ready()


def missing() -> str:
    """What keeps the library from working here and what to do about it; empty when nothing does.

    It looks without importing: the library stays out of the gateway's own process.
    """
    try:
        found = importlib.metadata.version("pyVoIP")
    except importlib.metadata.PackageNotFoundError:
        return f"the Python package pyVoIP is not installed: {INSTALL}"
    if found != VERSION:
        return f"pyVoIP {found} is installed, but only {VERSION} works: {INSTALL}"
    if importlib.util.find_spec("audioop") is None:
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        return (
            f"pyVoIP {VERSION} needs the module audioop, which Python {python} no longer has: "
            "run the gateway with Python 3.11 or 3.12, or pip install audioop-lts"
        )
    return ""


def _free_port(address: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            raise DeviceError(f"local_ip {address}: {error.strerror}") from error
        return int(probe.getsockname()[1])


def _clean(text: str) -> str:
    """Text of the far end without what could spoil a log or a terminal."""
    return re.sub(r"[^\x20-\x7e\xa0-\uffff]", "", text)[:80]


def _closes_first(event: MediaEvent) -> bool:
    """The audio's end may overtake the word that the call is over; only that word counts.

    A child that dies without a word is noticed by its control socket, and ends its legs.
    """
    return isinstance(event, DeviceFailed)
