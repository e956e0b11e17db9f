"""The library as the adapter uses it: registration, parsing, SDP and threads are its own.

Loaded only in the library's own process. The classes below take over where it would block, lose a
call or leave one open: it waits in `call` for as long as the PBX is silent and knows 401 alone; it
never cancels, never retransmits, writes the ACK and BYE of a dialog without its tags and route,
answers CANCEL and goes on ringing, and takes no notice of most refusals. `docs/adapters/pyvoip.md`
has the list.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Final

# First: its modules import each other in a circle that only begins well here.
import pyVoIP.VoIP
from pyVoIP import RTP, SIP
from pyVoIP.VoIP import CallState, VoIPCall, VoIPPhone

from gateway.adapters.pyvoip import messages as say
from gateway.adapters.pyvoip.client import (
    GIVE_UP_S,
    Client,
    Dialog,
    header_line,
    routes_of,
    uri_of,
)
from gateway.adapters.pyvoip.rtp import AudioClient

VERSION: Final[str] = pyVoIP.__version__
_CODECS: Final = {0: RTP.PayloadType.PCMU, 8: RTP.PayloadType.PCMA, 101: RTP.PayloadType.EVENT}
_PORT_TRIES: Final = 20
_RENEWAL_S: Final = 0.5


class Call(VoIPCall):
    """One call of the library's; `key` is its name between us and the gateway."""

    phone: Phone
    sip: Client

    def __init__(
        self, phone: Phone, state: CallState, request: SIP.SIPMessage, session: int, *,
        key: str, number: str = "", media: dict[int, Any] | None = None,
    ) -> None:  # fmt: skip
        self.key, self.number = key, number
        self.over = threading.Event()
        self.dropped = self.proved = False
        self.since = time.monotonic()
        self.provisional = False
        self.dialog: Dialog | None = None
        self.wire: socket.socket | None = None
        self.client: AudioClient | None = None
        if state == CallState.RINGING:
            # One connection line for each part; the library would open the port once for each.
            request.body["c"] = request.body["c"][-1:]
        super().__init__(phone, state, request, session, phone.myIP, ms=media, sendmode="sendrecv")

    def __del__(self) -> None:
        # The library's own takes a lock in whatever thread the collector runs: `finish` does it.
        pass

    def create_rtp_clients(
        self, codecs: dict[int, RTP.PayloadType], ip: str, port: int,
        request: SIP.SIPMessage, baseport: int,
    ) -> None:  # fmt: skip
        self.assignedPorts.setdefault(port, codecs)
        self.client = AudioClient(
            codecs, (ip, port), (request.body["c"][-1]["address"], baseport),
            digit=self.dtmf_callback, count=self.phone.count,
        )  # fmt: skip
        if self.wire is not None:
            self.client.attach(self.wire)
        self.RTPClients = [self.client]

    def dtmf_callback(self, code: str) -> None:
        self.phone.tell(say.Digit(call=self.key, digit=code))

    @property
    def silent(self) -> bool:
        """Whether nothing at all came back yet."""
        return not self.dropped and not self.provisional

    @property
    def events(self) -> bool:
        """Whether digits travel as telephone-events."""
        return self.client is not None and self.client.event_type is not None

    def take(self) -> None:
        """Answer; raises `OSError` when the audio port is taken."""
        assert self.client is not None
        if self.wire is not None:
            self.client.attach(self.wire)
        request = self.request
        tag = self.sip.tagLibrary[self.call_id]
        self.dialog = Dialog(
            uri_of(header_line(request, "Contact") or header_line(request, "From")),
            routes_of(request),
            f"{header_line(request, 'To')};tag={tag}", header_line(request, "From"),
        )  # fmt: skip
        self.answer()
        self.phone.tell(say.Connected(call=self.key, events=self.events))

    def heard_back(self) -> None:
        """A provisional response: from now on it can be cancelled."""
        first, self.provisional = not self.provisional, True
        if first and self.dropped:
            self.sip.cancel(self.request)

    def connected(self, message: SIP.SIPMessage) -> None:
        """The called side answered."""
        self.dialog = Dialog(
            uri_of(header_line(message, "Contact") or header_line(message, "To")),
            routes_of(message)[::-1],
            header_line(message, "From"), header_line(message, "To"),
        )  # fmt: skip
        usable = False
        try:
            self.answered(message)
            usable = self.client is not None and self.client.usable
        except (KeyError, ValueError, UnboundLocalError, OSError, RTP.RTPParseError):
            pass
        self.state = CallState.ANSWERED
        if self.dropped or not usable:
            self.finish(488, "the answer holds no audio that can be used", bye=True)
        else:
            self.phone.tell(say.Connected(call=self.key, events=self.events))

    def renegotiate(self, request: SIP.SIPMessage) -> None:
        """Answer a re-INVITE, or the INVITE again when our answer was lost: the audio stays."""
        media = {client.inPort: client.assoc for client in self.RTPClients}
        self.sip.send(self.sip.gen_answer(request, self.session_id, media, self.sendmode))
        if self.client is not None and "c" in request.body and "m" in request.body:
            self.client.outIP = request.body["c"][-1]["address"]
            self.client.outPort = request.body["m"][0]["port"]

    def drop(self, status: int) -> None:
        """End the call from our side, whatever its state."""
        if self.over.is_set():
            return
        if self.state == CallState.ANSWERED:
            self.finish(200, "hung up", bye=True)
        elif self.state == CallState.RINGING:
            self.sip.reply(self.request, status)
            self.finish(status, "refused")
        elif not self.dropped:
            # Kept until its end is known: an answer that crosses our CANCEL needs a BYE.
            self.dropped = True
            self.since = time.monotonic()
            self.sip.forget(self.call_id, "INVITE")
            if self.provisional:
                self.sip.cancel(self.request)

    def finish(self, status: int, reason: str, *, bye: bool = False) -> None:
        """It is over; told once."""
        if self.over.is_set():
            return
        if bye:
            self.sip.bye(self.request)
        self.over.set()
        self.state = CallState.ENDED
        if self.client is not None:
            self.client.stop()
        self.sip.forget(self.call_id, "INVITE")
        self.phone.calls.pop(self.call_id, None)
        self.sip.tagLibrary.pop(self.call_id, None)
        self.phone.release_ports(call=self)
        self.phone.tell(say.Over(call=self.key, status=status, reason=reason))
        # After that: audio that breaks off in a call is a fault.
        if self.wire is not None:
            self.wire.close()


class Phone(VoIPPhone):
    """The account. Driven by `begin`, `place`, `take`, `drop`, `press`, `beat` and `end`, from one
    thread; tells what happens through `tell`, from any."""

    sip: Client
    calls: dict[str, Call]  # type: ignore[assignment]

    def __init__(self, begin: say.Begin, tell: Callable[[say.FromLibrary], None]) -> None:
        local = _local(begin)
        super().__init__(
            begin.server, begin.port, begin.user, begin.password, local[0], _wait_for_its_end,
            local[1], *begin.rtp_ports,
        )  # fmt: skip
        self.tell = tell
        self.guard = threading.RLock()
        self._begin = begin
        self._n_offered = 0
        self._failures = 0
        self._was_registered = self._listens = False
        self.sip = Client(self, begin, local)
        if "OPTIONS" not in pyVoIP.SIPCompatibleMethods:
            pyVoIP.SIPCompatibleMethods.append("OPTIONS")
        # At first one refusal decides: three in a row are what locks an account.
        pyVoIP.REGISTER_FAILURE_THRESHOLD = 1
        SIP.debug = self._listen

    def count(self, name: str) -> None:
        """Add to a counter of the gateway's."""
        self.tell(say.Counted(name=name))

    # Registration

    def registered(self) -> None:
        """The PBX took it."""
        self._failures = 0
        self._was_registered = True
        pyVoIP.REGISTER_FAILURE_THRESHOLD = 3
        if self._listens:
            self.tell(say.Registered(local=f"{self.sip.myIP}:{self.sip.myPort}"))

    def listens(self) -> None:
        """Its receiving thread runs: a second after the registration, and no call before that."""
        self._listens = True
        if self._was_registered:
            self.registered()

    def fatal(self) -> None:
        self.tell(say.Unregistered(reason=self._reason, final=True))

    _reason = "the library gave up"

    def _listen(self, text: object, also: object = None) -> None:
        """The library's only report of most troubles is a line for its debug log."""
        text = str(text)
        if text.startswith("Error on header parsing"):
            self.count("sip_garbage")
        elif text.startswith("REGISTERATION ERROR: "):
            self._failures += 1
            self._reason = self._why(text.partition(": ")[2])
            # While it is registered a request that came in between may look like a refusal.
            if self._failures > 1 or not self._was_registered:
                self.tell(say.Unregistered(reason=self._reason))

    def _why(self, text: str) -> str:
        status, self.sip.last_status = self.sip.last_status, 0
        if "timed out" in text or "TRYING" in text:
            return "no answer to REGISTER"
        if status >= 300:
            return f"registration refused: {status} {SIP.SIPStatus(status).phrase}"
        if "Invalid Username" in text:
            return "registration refused: wrong user or password"
        return f"registration failed: {text}"

    # Calls

    def invited(self, request: SIP.SIPMessage, call: Call | None) -> None:
        """An INVITE, new or not."""
        if call is not None:
            if call.state == CallState.ANSWERED:
                call.renegotiate(request)
            return
        if len(self.calls) >= self._begin.calls:
            self.count("calls_refused")
            self.sip.reply(request, 486)
            return
        try:
            self._callback_MSG_Invite(request)
            call = self.calls[request.headers["Call-ID"]]
        except (KeyError, ValueError, IndexError, TypeError, RTP.RTPParseError):
            call = self.calls.pop(request.headers["Call-ID"], None)
        if call is None or call.client is None or not call.client.usable:
            self.count("calls_without_codec")
            self.sip.reply(request, 488)
            if call is not None:
                call.finish(488, "no codec in common")
            return
        sender, target = request.headers["From"], request.headers["To"]
        self.tell(
            say.Offered(
                call=call.key, called=target["number"] or "", calling=sender["number"] or "",
                display=str(sender["caller"]).strip().strip('"'),
            )
        )  # fmt: skip

    def _create_Call(self, request: SIP.SIPMessage, sess_id: int) -> None:
        self._n_offered += 1
        self.calls[request.headers["Call-ID"]] = Call(
            self, CallState.RINGING, request, sess_id, key=f"in{self._n_offered}"
        )

    def place(self, key: str, number: str, wire: socket.socket) -> None:
        """Call a number."""
        with self.guard:
            try:
                media: dict[int, Any] = {self.request_port(): dict(_CODECS)}
            except Exception as error:
                wire.close()
                self.tell(say.Over(call=key, status=503, reason=str(error) or "no port is free"))
                return
            mode = RTP.TransmitType.SENDRECV
            request, call_id, session = self.sip.invite(number, media, mode)
            call = Call(
                self, CallState.DIALING, request, session, key=key, number=number, media=media
            )
            call.wire = wire
            self.calls[call_id] = call

    def take(self, key: str, wire: socket.socket) -> None:
        """Answer an offered call."""
        with self.guard:
            call = self._find(key)
            if call is None or call.state != CallState.RINGING:
                wire.close()
                return
            call.wire = wire
            try:
                call.take()
            except OSError as error:
                self.sip.reply(call.request, 500)
                call.finish(500, str(error))

    def drop(self, key: str, status: int) -> None:
        """End a call."""
        with self.guard:
            if (call := self._find(key)) is not None:
                call.drop(status)

    def press(self, key: str, digits: str) -> None:
        """Send digits."""
        with self.guard:
            if (call := self._find(key)) is not None and call.client is not None:
                call.client.press(digits)

    def beat(self, now: float) -> None:
        """Do what is due: retransmissions, and calls that nobody answers."""
        with self.guard:
            self.sip.retransmit(now)
            for call in list(self.calls.values()):
                waited = now - call.since
                if call.state != CallState.DIALING:
                    continue
                if call.dropped and waited > GIVE_UP_S:
                    call.finish(487, "no end of the INVITE")
                elif call.silent and waited > self._begin.no_response_s:
                    self.tell(say.Over(call=call.key, status=408, reason="no answer to INVITE"))
                    call.drop(408)

    @property
    def busy(self) -> bool:
        """Whether a call, or a request of ours, is not over."""
        return bool(self.calls) or self.sip.waits

    def end(self) -> None:
        """End all calls, and take the registration back."""
        # A renewal that is under way would otherwise come after its end.
        held = self.sip.recvLock.acquire(timeout=_RENEWAL_S)
        try:
            with self.guard:
                for call in list(self.calls.values()):
                    call.drop(503)
                if self._was_registered:
                    self.sip.leave()
        finally:
            if held:
                self.sip.recvLock.release()

    def request_port(self, blocking: bool = True) -> int:
        for _ in range(_PORT_TRIES):
            port = super().request_port(blocking)
            with (
                contextlib.suppress(OSError),
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe,
            ):
                probe.bind((self.myIP, port))
                return int(port)
        raise OSError("no port of rtp_ports is free")

    def _find(self, key: str) -> Call | None:
        return next((call for call in self.calls.values() if call.key == key), None)


def _wait_for_its_end(call: VoIPCall) -> None:
    # The library forgets a call whose thread has ended.
    if isinstance(call, Call):
        call.over.wait()


def _local(begin: say.Begin) -> tuple[str, int]:
    address = begin.local_ip
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        if not address:
            probe.connect((begin.server, begin.port))
            address = probe.getsockname()[0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((address, begin.local_port))
        return address, int(probe.getsockname()[1])
