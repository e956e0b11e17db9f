"""The library as the adapter uses it: registration, parsing, SDP and threads are its own.

Loaded only in the library's own process. The classes below take over where it would block, lose a
call or leave one open: it waits in `call` for as long as the PBX is silent and knows 401 alone; it
never cancels, never retransmits, writes the ACK and BYE of a dialog without its tags and route,
answers CANCEL and goes on ringing, and takes no notice of most refusals. `docs/adapters/pyvoip.md`
has the list.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

# First: its modules import each other in a circle that only begins well here.
import pyVoIP.VoIP
from pyVoIP import RTP, SIP
from pyVoIP.VoIP import CallState, VoIPCall, VoIPPhone

from gateway.adapters.pyvoip import messages as say
from gateway.adapters.pyvoip.rtp import AudioClient

VERSION: Final[str] = pyVoIP.__version__
T1_S: Final = 0.5
T2_S: Final = 4.0
GIVE_UP_S: Final = 32.0
"""RFC 3261 section 17: first and longest pause between retransmissions, and when they end."""
_CODECS: Final = {0: RTP.PayloadType.PCMU, 8: RTP.PayloadType.PCMA, 101: RTP.PayloadType.EVENT}
_CHALLENGES: Final = {
    401: ("WWW-Authenticate", "Authorization"),
    407: ("Proxy-Authenticate", "Proxy-Authorization"),
}
_PORT_TRIES: Final = 20


@dataclass
class _Pending:
    text: str
    since: float
    due: float
    pause: float = T1_S


class Client(SIP.SIPClient):
    """The library's SIP client. Everything of a call passes `parse_message`."""

    phone: Phone

    def __init__(self, phone: Phone, begin: say.Begin, local: tuple[str, int]) -> None:
        super().__init__(
            begin.server, begin.port, begin.user, begin.password, phone, *local,
            callCallback=phone.callback, fatalCallback=phone.fatal,
        )  # fmt: skip
        self.default_expires = begin.expires_s
        self.register_timeout = max(1, round(begin.no_response_s))
        # It counts Call-IDs from 1 in each process: the PBX would take them for old dialogs.
        self.callID = SIP.Counter(random.getrandbits(60))
        self.last_status = 0
        self._pending: dict[tuple[str, str, str], _Pending] = {}

    def send(self, text: str) -> None:
        """Send to the PBX; a failure is what a lost datagram is."""
        try:
            self.out.sendto(text.encode("utf8"), (self.server, self.port))
        except OSError:
            self.phone.count("sip_not_sent")

    def send_until_answered(self, text: str, key: tuple[str, str, str]) -> None:
        """Send, and again until there is a response to (Call-ID, CSeq, method)."""
        now = time.monotonic()
        self._pending[key] = _Pending(text, now, now + T1_S)
        self.send(text)

    def retransmit(self, now: float) -> None:
        """Send again what is due."""
        for key, pending in list(self._pending.items()):
            if now - pending.since > GIVE_UP_S:
                del self._pending[key]
            elif now >= pending.due:
                pending.pause = min(2 * pending.pause, T2_S)
                pending.due = now + pending.pause
                self.send(pending.text)

    def forget(self, call_id: str, method: str) -> None:
        """No more of these requests."""
        for key in [key for key in self._pending if key[0] == call_id and key[2] == method]:
            del self._pending[key]

    def register(self) -> bool:
        registered = bool(super().register())
        if registered:
            self.phone.registered()
        return registered

    def recv_loop(self) -> None:
        self.phone.listens()
        super().recv_loop()

    def invite(
        self, number: str, ms: dict[int, Any], sendtype: RTP.TransmitType
    ) -> tuple[SIP.SIPMessage, str, int]:
        """Send the first INVITE and return: what follows comes to `parse_message`."""
        call_id, session = self.gen_call_id(), self.sessID.next()
        branch = self.gen_branch()
        text = self.gen_invite(number, str(session), ms, sendtype, branch, call_id)
        return self._invited(text), call_id, session

    def invite_again(self, call: Call, challenge: SIP.SIPMessage) -> None:
        """Send the INVITE with credentials. Raises `KeyError` when that cannot be done."""
        asked, header = _CHALLENGES[int(challenge.status)]
        fields = challenge.auth_match.findall(_line(challenge, asked))
        found = challenge.authentication = {name: value.strip('"') for name, value in fields}
        if found.get("algorithm", "MD5").upper() != "MD5":
            raise KeyError(found["algorithm"])
        media: Any = call.ms
        text = self.gen_invite(
            call.number, call.session_id, media, RTP.TransmitType.SENDRECV,
            self.gen_branch(), call.call_id,
        )  # fmt: skip
        line = (
            f'{header}: Digest username="{self.username}",realm="{found["realm"]}",'
            f'nonce="{found["nonce"]}",uri="sip:{self.server};transport=UDP",'
            f'response="{self.gen_authorization(challenge).decode()}",algorithm=MD5'
        )
        if "opaque" in found:
            line += f',opaque="{found["opaque"]}"'
        end = "\r\nContent-Length"
        call.request = self._invited(text.replace(end, f"\r\n{line}{end}", 1))

    def _invited(self, text: str) -> SIP.SIPMessage:
        request = SIP.SIPMessage(text.encode("utf8"))
        self.send_until_answered(text, _transaction(request))
        return request

    # What comes in

    def parse_message(self, message: SIP.SIPMessage) -> None:
        with self.phone.guard:
            if message.type == SIP.SIPMessageType.MESSAGE:
                self._request(message)
            elif message.headers["CSeq"]["method"] == "INVITE":
                self._response(message)
            else:
                self._pending.pop(_transaction(message), None)
                if message.headers["CSeq"]["method"] == "REGISTER":
                    self.last_status = int(message.status)
                super().parse_message(message)

    def _request(self, message: SIP.SIPMessage) -> None:
        call, method = self.phone.calls.get(message.headers["Call-ID"]), message.method
        if method == "INVITE":
            self.phone.invited(message, call)
        elif method == "OPTIONS":
            self.reply(message, 200)
        elif method == "ACK":
            pass
        elif call is None:
            self.reply(message, 481)
        else:
            self.reply(message, 200)
            if method == "BYE":
                call.finish(200, "BYE")
            elif call.state == CallState.RINGING:
                self.reply(call.request, 487)
                call.finish(487, "CANCEL")

    def _response(self, message: SIP.SIPMessage) -> None:
        call_id, status = message.headers["Call-ID"], int(message.status)
        self._pending.pop(_transaction(message), None)
        call = self.phone.calls.get(call_id)
        if status >= 200:
            self.send(self.gen_ack(message))
        if call is None or call.state != CallState.DIALING:
            return
        if _transaction(call.request) != _transaction(message):
            return  # the challenge again
        if status < 200:
            call.heard_back()
            if status in (180, 183):
                self.phone.tell(say.Alerting(call=call.key))
        elif status < 300:
            call.connected(message)
        elif status in (401, 407) and not call.proved and not call.dropped:
            self._challenged(call, message)
        else:
            call.finish(status, f"{status} {message.status.phrase}")

    def _challenged(self, call: Call, message: SIP.SIPMessage) -> None:
        call.proved = True
        try:
            self.invite_again(call, message)
        except KeyError:
            status = int(message.status)
            call.finish(status, f"{status} without a challenge of digest MD5")

    # What goes out

    def reply(self, request: SIP.SIPMessage, status: int) -> None:
        """Answer a request without a body."""
        tag = self.tagLibrary.get(request.headers["Call-ID"]) or self.gen_tag()
        to = _line(request, "To")
        lines = [
            f"SIP/2.0 {status} {SIP.SIPStatus(status).phrase}",
            *(f"Via: {via}" for via in _lines(request, "Via")),
            f"From: {_line(request, 'From')}",
            f"To: {to}" if request.headers["To"]["tag"] else f"To: {to};tag={tag}",
            f"Call-ID: {request.headers['Call-ID']}",
            f"CSeq: {_line(request, 'CSeq')}",
        ]
        self.send(self._closed(lines))

    def gen_ack(self, request: SIP.SIPMessage) -> str:
        """The ACK of a final response (RFC 3261 sections 13.2.2.4 and 17.1.1.3)."""
        accepted = int(request.status) < 300
        to, contact = _line(request, "To"), _line(request, "Contact")
        return self._closed(
            [
                f"ACK {_uri(contact if accepted and contact else to)} SIP/2.0",
                f"Via: {self._via()}" if accepted else f"Via: {_line(request, 'Via')}",
                *(f"Route: {r}" for r in (reversed(_routes(request)) if accepted else ())),
                f"From: {_line(request, 'From')}",
                f"To: {to}",
                f"Call-ID: {request.headers['Call-ID']}",
                f"CSeq: {request.headers['CSeq']['check']} ACK",
            ]
        )

    def cancel(self, request: SIP.SIPMessage) -> None:
        """Take an INVITE back (RFC 3261 section 9.1)."""
        cseq = request.headers["CSeq"]["check"]
        lines = [
            request.heading.decode().replace("INVITE", "CANCEL", 1),
            f"Via: {_line(request, 'Via')}",
            f"From: {_line(request, 'From')}",
            f"To: {_line(request, 'To')}",
            f"Call-ID: {request.headers['Call-ID']}",
            f"CSeq: {cseq} CANCEL",
        ]
        key = (request.headers["Call-ID"], cseq, "CANCEL")
        self.send_until_answered(self._closed(lines), key)

    def bye(self, request: SIP.SIPMessage) -> None:
        call = self.phone.calls.get(request.headers["Call-ID"])
        if call is None or call.dialog is None:
            return
        dialog = call.dialog
        cseq = str(int(request.headers["CSeq"]["check"]) + 1)
        lines = [
            f"BYE {dialog.target} SIP/2.0",
            f"Via: {self._via()}",
            *(f"Route: {route}" for route in dialog.routes),
            f"From: {dialog.local}",
            f"To: {dialog.remote}",
            f"Call-ID: {request.headers['Call-ID']}",
            f"CSeq: {cseq} BYE",
        ]
        key = (request.headers["Call-ID"], cseq, "BYE")
        self.send_until_answered(self._closed(lines), key)

    def _via(self) -> str:
        return f"SIP/2.0/UDP {self.myIP}:{self.myPort};branch={self.gen_branch()};rport"

    def _closed(self, lines: list[str]) -> str:
        allow = ", ".join(pyVoIP.SIPCompatibleMethods)
        end = [f"Allow: {allow}", f"User-Agent: pyVoIP {pyVoIP.__version__}", "Content-Length: 0"]
        if not lines[0].startswith("SIP/"):
            end.insert(0, "Max-Forwards: 70")
        return "\r\n".join([*lines, *end, "", ""])


@dataclass(frozen=True)
class _Dialog:
    """What a request within a dialog needs (RFC 3261 section 12)."""

    target: str
    routes: list[str]
    local: str
    remote: str


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
        self.dialog: _Dialog | None = None
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
        self.dialog = _Dialog(
            _uri(_line(request, "Contact") or _line(request, "From")), _routes(request),
            f"{_line(request, 'To')};tag={tag}", _line(request, "From"),
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
        self.dialog = _Dialog(
            _uri(_line(message, "Contact") or _line(message, "To")), _routes(message)[::-1],
            _line(message, "From"), _line(message, "To"),
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
        if self.wire is not None:
            self.wire.close()
        self.sip.forget(self.call_id, "INVITE")
        self.phone.calls.pop(self.call_id, None)
        self.sip.tagLibrary.pop(self.call_id, None)
        self.phone.release_ports(call=self)
        self.phone.tell(say.Over(call=self.key, status=status, reason=reason))


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

    def end(self) -> None:
        """End all calls."""
        with self.guard:
            for call in list(self.calls.values()):
                call.drop(503)

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


def _transaction(message: SIP.SIPMessage) -> tuple[str, str, str]:
    cseq = message.headers["CSeq"]
    return message.headers["Call-ID"], cseq["check"], cseq["method"]


def _lines(message: SIP.SIPMessage, name: str) -> list[str]:
    """Header lines as they came; the library keeps the first of each name."""
    head = message.raw.partition(b"\r\n\r\n")[0].decode("utf8", "replace")
    return re.findall(rf"(?mi)^{name}: *(.*?)\r?$", head)


def _line(message: SIP.SIPMessage, name: str) -> str:
    return next(iter(_lines(message, name)), "")


def _routes(message: SIP.SIPMessage) -> list[str]:
    text = ",".join(_lines(message, "Record-Route"))
    return re.findall(r"<[^>]+>", text)


def _uri(field: str) -> str:
    """The URI of a name-addr or addr-spec."""
    found = re.search(r"<([^>]+)>", field)
    return found.group(1) if found else field.partition(";")[0].strip()
