"""The library's SIP client, with requests that are repeated, cancelled and routed.

Loaded only in the library's own process. Registration and parsing are the library's.
"""

from __future__ import annotations

import random
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

# First: its modules import each other in a circle that only begins well here.
import pyVoIP.VoIP
from pyVoIP import RTP, SIP
from pyVoIP.VoIP import CallState

from gateway.adapters.pyvoip import messages as say

if TYPE_CHECKING:
    from gateway.adapters.pyvoip.library import Call, Phone

T1_S: Final = 0.5
T2_S: Final = 4.0
GIVE_UP_S: Final = 32.0
"""RFC 3261 section 17: first and longest pause between retransmissions, and when they end."""
_CHALLENGES: Final = {
    401: ("WWW-Authenticate", "Authorization"),
    407: ("Proxy-Authenticate", "Proxy-Authorization"),
}


@dataclass
class _Pending:
    text: str
    since: float
    due: float
    pause: float = T1_S


@dataclass(frozen=True)
class Dialog:
    """What a request within a dialog needs (RFC 3261 section 12)."""

    target: str
    routes: list[str]
    local: str
    remote: str


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
        self._leaving = False
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

    @property
    def waits(self) -> bool:
        """Whether a request has no answer yet."""
        return bool(self._pending)

    def forget(self, call_id: str, method: str) -> None:
        """No more of these requests."""
        for key in [key for key in self._pending if key[0] == call_id and key[2] == method]:
            del self._pending[key]

    def register(self) -> bool:
        registered = bool(super().register())
        if registered:
            self.phone.registered()
        return registered

    def leave(self) -> None:
        """Take the registration back. The library's own way takes the next datagram that comes,
        such as the answer to a BYE, for the registrar's."""
        self._leaving = True
        if self.registerThread is not None:
            self.registerThread.cancel()
        self._send_register(self.gen_first_response(deregister=True))

    def _send_register(self, text: str) -> None:
        found = re.search(r"Call-ID: (\S+)\r\nCSeq: (\d+) REGISTER", text)
        if found is not None:
            self.send_until_answered(text, (found[1], found[2], "REGISTER"))

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
        fields = challenge.auth_match.findall(header_line(challenge, asked))
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
        self.send_until_answered(text, transaction(request))
        return request

    # What comes in

    def parse_message(self, message: SIP.SIPMessage) -> None:
        with self.phone.guard:
            if message.type == SIP.SIPMessageType.MESSAGE:
                self._request(message)
            elif message.headers["CSeq"]["method"] == "INVITE":
                self._response(message)
            else:
                self._pending.pop(transaction(message), None)
                if message.headers["CSeq"]["method"] == "REGISTER":
                    before, self.last_status = self.last_status, int(message.status)
                    if self._leaving and self.last_status == 401 and before != 401:
                        self._send_register(self.gen_register(message, deregister=True))
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
        self._pending.pop(transaction(message), None)
        call = self.phone.calls.get(call_id)
        if status >= 200:
            self.send(self.gen_ack(message))
        if call is None or call.state != CallState.DIALING:
            return
        if transaction(call.request) != transaction(message):
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
        to = header_line(request, "To")
        lines = [
            f"SIP/2.0 {status} {SIP.SIPStatus(status).phrase}",
            *(f"Via: {via}" for via in header_lines(request, "Via")),
            f"From: {header_line(request, 'From')}",
            f"To: {to}" if request.headers["To"]["tag"] else f"To: {to};tag={tag}",
            f"Call-ID: {request.headers['Call-ID']}",
            f"CSeq: {header_line(request, 'CSeq')}",
        ]
        self.send(self._closed(lines))

    def gen_ack(self, request: SIP.SIPMessage) -> str:
        """The ACK of a final response (RFC 3261 sections 13.2.2.4 and 17.1.1.3)."""
        accepted = int(request.status) < 300
        to, contact = header_line(request, "To"), header_line(request, "Contact")
        return self._closed(
            [
                f"ACK {uri_of(contact if accepted and contact else to)} SIP/2.0",
                f"Via: {self._via()}" if accepted else f"Via: {header_line(request, 'Via')}",
                *(f"Route: {r}" for r in (reversed(routes_of(request)) if accepted else ())),
                f"From: {header_line(request, 'From')}",
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
            f"Via: {header_line(request, 'Via')}",
            f"From: {header_line(request, 'From')}",
            f"To: {header_line(request, 'To')}",
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


def transaction(message: SIP.SIPMessage) -> tuple[str, str, str]:
    """What a response is known by: Call-ID, number and method."""
    cseq = message.headers["CSeq"]
    return message.headers["Call-ID"], cseq["check"], cseq["method"]


def header_lines(message: SIP.SIPMessage, name: str) -> list[str]:
    """Header lines as they came; the library keeps the first of each name."""
    head = message.raw.partition(b"\r\n\r\n")[0].decode("utf8", "replace")
    return re.findall(rf"(?mi)^{name}: *(.*?)\r?$", head)


def header_line(message: SIP.SIPMessage, name: str) -> str:
    """The first of them; empty when there is none."""
    return next(iter(header_lines(message, name)), "")


def routes_of(message: SIP.SIPMessage) -> list[str]:
    """The proxies that want to stay on the way, first to last."""
    text = ",".join(header_lines(message, "Record-Route"))
    return re.findall(r"<[^>]+>", text)


def uri_of(field: str) -> str:
    """The URI of a name-addr or addr-spec."""
    found = re.search(r"<([^>]+)>", field)
    return found.group(1) if found else field.partition(";")[0].strip()
