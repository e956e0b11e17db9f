"""A SIP telephone for hundreds of calls, with audio, independent of the gateway's own code.

Does what the tests need of RFC 3261: INVITE, ACK, BYE and OPTIONS over UDP, retransmissions of
both ends, late and doubled messages, session timers of RFC 4028 as the side that is refreshed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import random
import re
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.reliability.net import Netlab
from tests.reliability.sound import Mixer, Sound

T1_S, T2_S = 0.5, 4.0
_serial = itertools.count(1)


@dataclass(eq=False)
class Message:
    """A parsed message: enough of one for a peer that behaves."""

    first: str
    headers: list[tuple[str, str]]
    body: str
    source: tuple[str, int] = ("", 0)

    def __getitem__(self, name: str) -> str:
        return next((value for key, value in self.headers if key == name), "")

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    @property
    def status(self) -> int:
        return int(self.first.split()[1]) if self.first.startswith("SIP/2.0 ") else 0

    @property
    def method(self) -> str:
        return self["cseq"].partition(" ")[2].strip()

    @property
    def media(self) -> tuple[str, int] | None:
        """Where its description wants the audio."""
        address = re.search(r"(?m)^c=IN IP4 (\S+)", self.body)
        port = re.search(r"(?m)^m=audio (\d+)", self.body)
        return (address[1], int(port[1])) if address and port else None


def parse(data: bytes, source: tuple[str, int] = ("", 0)) -> Message:
    head, _, body = data.decode("utf-8", "replace").partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return Message(first, [(k.strip().lower(), v.strip()) for k, _, v in pairs], body, source)


@dataclass(eq=False)
class Talk:
    """One call, seen from one end."""

    call_id: str
    calling: str
    sound: Sound | None = None
    status: int = 0
    """Last final status; for the called end 200 when it is up."""
    answered_at: float = 0.0
    ended_at: float = 0.0
    released_at: float = 0.0
    """When our BYE was answered: a network may have lost the first ones."""
    ended_by: str = ""
    """``far`` for a BYE that came, ``here`` for ours."""
    reason: str = ""
    setup_s: float = 0.0
    final: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    local: str = ""
    remote: str = ""
    target: str = ""
    cseq: int = 1
    routes: list[str] = field(default_factory=list)
    expires_s: float = 0.0
    refreshed_at: float = 0.0
    n_refreshes: int = 0
    ack: bytes = b""
    acked: bool = False

    @property
    def up(self) -> bool:
        return bool(self.answered_at) and not self.ended_at


class Party:
    """One UDP port in a namespace with any number of calls."""

    def __init__(
        self,
        net: Netlab,
        space: str,
        address: str,
        gateway: tuple[str, int],
        mixer: Mixer,
        *,
        port: int = 5060,
        first_hz: int = 1200,
        user: str = "",
        password: str = "",
        expires_s: int = 0,
        answers: int = 200,
    ) -> None:
        self._net, self._space, self.address, self.gateway = net, space, address, gateway
        self._mixer, self._user, self._password = mixer, user, password
        self._expires_s, self.answers = expires_s, answers
        self._sock = net.udp(space, address, port)
        self.port = self._sock.getsockname()[1]
        self._tones = itertools.cycle(range(first_hz, first_hz + 7 * 100, 7))
        self.calls: dict[str, Talk] = {}
        self._waiting: dict[tuple[str, str], Callable[[Message], None]] = {}
        self.seen: Counter[str] = Counter()
        """Requests, each transaction once, by method."""
        self.copies: Counter[str] = Counter()
        """How often each request of the gateway came, by branch and method."""
        self.challenged: list[str] = []
        """Authorization headers that the gateway sent us."""
        self.odd: list[Message] = []
        """What came and belongs to nothing."""
        self.last_retry_after = ""
        """Retry-After of the last refusal of a call of ours."""
        self.mute = False
        """Nothing is heard or said, as of a dead host."""
        self.challenge_byes = ""
        """What a BYE is challenged with, as who wants to learn a password does."""
        self.greeting = ""
        """A header line that goes into every response to an INVITE."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._sent: dict[tuple[str, str], bytes] = {}
        asyncio.get_running_loop().add_reader(self._sock, self._read)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._sock)
        for task in self._tasks:
            task.cancel()
        for talk in self.calls.values():
            self._silence(talk)
        self._sock.close()

    def _task(self, work: object) -> None:
        task = asyncio.get_running_loop().create_task(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _read(self) -> None:
        for _ in range(64):
            try:
                data, source = self._sock.recvfrom(65535)
            except OSError:
                return
            if len(data) < 20 or self.mute:
                continue
            message = parse(data, source)
            if message.status:
                self._response(message)
            else:
                self._request(message)

    def send(self, data: bytes, to: tuple[str, int] | None = None) -> None:
        with contextlib.suppress(OSError):
            self._sock.sendto(data, to or self.gateway)

    # Calling

    def sound(self, hz: int = 0) -> Sound:
        sock = self._net.udp(self._space, self.address)
        return self._mixer.add(Sound(sock, hz or next(self._tones)))

    def description(self, sound: Sound) -> str:
        return (
            f"v=0\r\no=- {sound.port} 1 IN IP4 {self.address}\r\ns=-\r\nc=IN IP4 {self.address}\r\n"
            f"t=0 0\r\nm=audio {sound.port} RTP/AVP 0 101\r\na=rtpmap:0 PCMU/8000\r\n"
            "a=rtpmap:101 telephone-event/8000\r\na=ptime:20\r\n"
        )

    def build(
        self, method: str, uri: str, headers: list[str], body: str = "", branch: str = ""
    ) -> tuple[bytes, str]:
        """A request and its branch."""
        branch = branch or f"z9hG4bK{random.getrandbits(64):x}"
        lines = [
            f"{method} {uri} SIP/2.0",
            f"Via: SIP/2.0/UDP {self.address}:{self.port};branch={branch};rport",
            "Max-Forwards: 70", *headers,
        ]  # fmt: skip
        if body:
            lines.append("Content-Type: application/sdp")
        lines += [f"Content-Length: {len(body)}", "", body]
        return "\r\n".join(lines).encode(), branch

    async def transact(
        self, data: bytes, branch: str, method: str, *, within_s: float = 32.0, final: bool = True
    ) -> Message | None:
        """Send a request again and again until a response; None when none comes."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Message] = loop.create_future()
        provisional = asyncio.Event()

        def took(message: Message) -> None:
            if message.status < 200 and final:
                provisional.set()
            elif not answer.done():
                answer.set_result(message)

        self._waiting[branch, method] = took
        deadline, wait = loop.time() + within_s, T1_S
        try:
            while (left := deadline - loop.time()) > 0:
                if not (provisional.is_set() and method == "INVITE"):
                    self.send(data)
                try:
                    return await asyncio.wait_for(asyncio.shield(answer), min(wait, left))
                except TimeoutError:
                    wait = wait * 2 if method == "INVITE" else min(wait * 2, T2_S)
            return None
        finally:
            # Late copies are no surprise.
            self._waiting[branch, method] = lambda _: None

    async def options(self, within_s: float = 2.0) -> float:
        """Seconds to the answer to an OPTIONS; infinite without one. Sent once."""
        number = next(_serial)
        data, branch = self.build(
            "OPTIONS", f"sip:{self.gateway[0]}",
            [f"From: <sip:probe@{self.address}>;tag={number}", f"To: <sip:{self.gateway[0]}>",
             f"Call-ID: options-{number}@{self.address}", "CSeq: 1 OPTIONS"],
        )  # fmt: skip
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[float] = loop.create_future()

        def took(_: Message) -> None:
            if not answer.done():
                answer.set_result(time.perf_counter())

        self._waiting[branch, "OPTIONS"] = took
        began = time.perf_counter()
        self.send(data)
        try:
            return await asyncio.wait_for(answer, within_s) - began
        except TimeoutError:
            return float("inf")
        finally:
            del self._waiting[branch, "OPTIONS"]

    async def call(
        self,
        number: str,
        calling: str,
        *,
        hz: int = 0,
        audio: bool = True,
        within_s: float = 32.0,
        extra: tuple[str, ...] = (),
    ) -> Talk:
        """Call a number; the talk is up, or its `status` says why not (0: no answer at all)."""
        call_id = f"{calling}-{next(_serial)}-{random.getrandbits(32):x}@{self.address}"
        talk = Talk(call_id, calling)
        talk.sound = self.sound(hz) if audio else None
        talk.target = f"sip:{number}@{self.gateway[0]}:{self.gateway[1]}"
        talk.local = f"<sip:{self._user or calling}@{self.address}>;tag={random.getrandbits(48):x}"
        talk.remote = f"<sip:{number}@{self.gateway[0]}>"
        self.calls[call_id] = talk
        headers = [*self._inside(talk, "INVITE"), *extra]
        if self._expires_s:
            headers += ["Supported: timer", f"Session-Expires: {self._expires_s};refresher=uas"]
        body = self.description(talk.sound) if talk.sound else self._no_audio()
        began = time.monotonic()
        answer: Message | None = None
        for _ in range(2):
            data, branch = self.build("INVITE", talk.target, headers, body)
            answer = await self.transact(data, branch, "INVITE", within_s=within_s)
            if answer is None or answer.status < 300:
                break
            self._ack_failure(data, branch, answer)
            self.last_retry_after = answer["retry-after"]
            if answer.status != 401 or not self._password or len(headers) > 30:
                break
            talk.cseq += 1
            headers = [
                *self._inside(talk, "INVITE"), *extra, self._proof(answer, "INVITE", talk.target)
            ]  # fmt: skip
        talk.setup_s = time.monotonic() - began
        talk.status = answer.status if answer else 0
        if answer and 200 <= answer.status < 300:
            self._established(talk, answer)
        else:
            self._silence(talk)
            talk.ended_at = time.monotonic()
            talk.ended.set()
        talk.final.set()
        return talk

    def _no_audio(self) -> str:
        return (
            f"v=0\r\no=- 1 1 IN IP4 {self.address}\r\ns=-\r\nc=IN IP4 {self.address}\r\n"
            "t=0 0\r\nm=audio 9 RTP/AVP 0\r\na=inactive\r\n"
        )

    def _inside(self, talk: Talk, method: str) -> list[str]:
        contact = f"<sip:{self._user or talk.calling}@{self.address}:{self.port}>"
        return [
            f"From: {talk.local}", f"To: {talk.remote}", f"Call-ID: {talk.call_id}",
            f"CSeq: {talk.cseq} {method}", f"Contact: {contact}",
        ]  # fmt: skip

    def _established(self, talk: Talk, answer: Message) -> None:
        talk.remote = answer["to"]
        talk.target = answer["contact"].strip("<>").partition(">")[0]
        data, _ = self.build("ACK", talk.target, self._inside(talk, "ACK"))
        talk.ack = data
        self.send(data)
        talk.answered_at = talk.refreshed_at = time.monotonic()
        found = re.match(r"(\d+)", answer["session-expires"])
        if found and self._expires_s:
            talk.expires_s = float(found[1])
            self._task(self._watch(talk))
        if talk.sound:
            talk.sound.remote = answer.media

    def _ack_failure(self, invite: bytes, branch: str, answer: Message) -> None:
        message = parse(invite)
        data, _ = self.build(
            "ACK", message.first.split()[1],
            [f"From: {message['from']}", f"To: {answer['to']}", f"Call-ID: {message['call-id']}",
             f"CSeq: {message['cseq'].split()[0]} ACK"], branch=branch,
        )  # fmt: skip
        self.send(data)
        self._waiting[branch, "INVITE"] = lambda _: self.send(data)

    def _proof(self, challenge: Message, method: str, uri: str) -> str:
        # Of several the one with SHA-256, else the first.
        offers = challenge.all("www-authenticate") or challenge.all("proxy-authenticate")
        offer = next((each for each in offers if "SHA-256" in each), offers[0])
        return proof(offer, self._user, self._password, method, uri)

    async def hang_up(self, talk: Talk, within_s: float = 32.0) -> int:
        """BYE; its final status."""
        if talk.ended_at:
            return 0
        talk.ended_at, talk.ended_by = time.monotonic(), "here"
        self._silence(talk)
        talk.cseq += 1
        data, branch = self.build("BYE", talk.target, self._inside(talk, "BYE"))
        answer = await self.transact(data, branch, "BYE", within_s=within_s)
        talk.released_at = time.monotonic()
        talk.ended.set()
        return answer.status if answer else 0

    async def register(self, user: str, password: str, expires_s: int = 300) -> int:
        """Register a user at our address; the final status."""
        number = next(_serial)
        tag, uri = f"{random.getrandbits(32):x}", f"sip:{self.gateway[0]}"
        self._user, self._password = user, password
        headers = [
            f"From: <sip:{user}@{self.gateway[0]}>;tag={tag}",
            f"To: <sip:{user}@{self.gateway[0]}>",
            f"Call-ID: register-{number}@{self.address}", "CSeq: {cseq} REGISTER",
            f"Contact: <sip:{user}@{self.address}:{self.port}>;expires={expires_s}",
        ]  # fmt: skip
        extra: list[str] = []
        for cseq in (1, 2):
            lines = [line.replace("{cseq}", str(cseq)) for line in headers] + extra
            data, branch = self.build("REGISTER", uri, lines)
            answer = await self.transact(data, branch, "REGISTER")
            if answer is None or answer.status != 401:
                break
            extra = [self._proof(answer, "REGISTER", uri)]
        return answer.status if answer else 0

    async def register_once(self, user: str, *extra: str, expires_s: int = 300) -> Message | None:
        """One REGISTER as it is given, and its answer."""
        number, uri = next(_serial), f"sip:{self.gateway[0]}"
        data, branch = self.build(
            "REGISTER", uri,
            [f"From: <sip:{user}@{self.gateway[0]}>;tag={number}",
             f"To: <sip:{user}@{self.gateway[0]}>",
             f"Call-ID: once-{number}@{self.address}", "CSeq: 1 REGISTER",
             f"Contact: <sip:{user}@{self.address}:{self.port}>;expires={expires_s}", *extra],
        )  # fmt: skip
        return await self.transact(data, branch, "REGISTER")

    async def challenge(self, user: str) -> str:
        """What the gateway asks a user to prove."""
        answer = await self.register_once(user)
        return answer["www-authenticate"] if answer else ""

    async def _watch(self, talk: Talk) -> None:
        """Release a call that is not refreshed in time (RFC 4028 section 10)."""
        while not talk.ended_at:
            left = talk.refreshed_at + talk.expires_s - min(32.0, talk.expires_s / 3)
            left -= time.monotonic()
            if left <= 0:
                talk.reason = "session timer"
                await self.hang_up(talk, within_s=10.0)
                return
            await asyncio.sleep(left)

    def _silence(self, talk: Talk) -> None:
        if talk.sound:
            self._mixer.remove(talk.sound)

    # What comes

    def _response(self, message: Message) -> None:
        branch = (re.search(r"branch=([^;,\s]+)", message["via"]) or ["", ""])[1]
        took = self._waiting.get((branch, message.method))
        talk = self.calls.get(message["call-id"])
        if message.method == "INVITE" and 200 <= message.status < 300 and talk and talk.ack:
            # A copy: our ACK was lost.
            self.send(talk.ack)
        if took:
            took(message)
        else:
            self.odd.append(message)

    def _request(self, message: Message) -> None:
        method = message.method
        branch = (re.search(r"branch=([^;,\s]+)", message["via"]) or ["", ""])[1]
        key = (branch, method)
        self.copies[f"{branch} {method}"] += 1
        first = self.copies[f"{branch} {method}"] == 1
        if first:
            self.seen[method] += 1
            for name in ("authorization", "proxy-authorization"):
                self.challenged += message.all(name)
        talk = self.calls.get(message["call-id"])
        if method == "ACK":
            if talk:
                talk.acked = True
            return
        if not first:
            if key in self._sent:
                self.send(self._sent[key], message.source)
            return
        if method == "OPTIONS":
            self._answer(message, 200)
        elif talk is None and method == "INVITE":
            self._called(message)
        elif talk is None:
            self._answer(message, 481)
        elif method == "BYE":
            if self.challenge_byes:
                self._answer(message, 407, "", [f"Proxy-Authenticate: {self.challenge_byes}"])
            else:
                self._answer(message, 200)
            if not talk.ended_at:
                talk.ended_at, talk.ended_by = time.monotonic(), "far"
                talk.reason = message["reason"]
                self._silence(talk)
                talk.ended.set()
        elif method in ("INVITE", "UPDATE"):
            talk.refreshed_at = time.monotonic()
            talk.n_refreshes += 1
            body = self.description(talk.sound) if talk.sound and message.body else ""
            lines = []
            if message["session-expires"]:
                lines = [f"Session-Expires: {message['session-expires']}", "Require: timer"]
            self._answer(message, 200, body, lines)
        elif method == "CANCEL":
            self._answer(message, 200)
            talk.ended_at = time.monotonic()
            self._silence(talk)
        else:
            self._answer(message, 200)

    def _called(self, message: Message) -> None:
        calling = (re.search(r"sips?:([^@>;]+)@", message["from"]) or ["", ""])[1]
        talk = Talk(message["call-id"], calling)
        self.calls[talk.call_id] = talk
        tag = f"{random.getrandbits(48):x}"
        talk.local, talk.remote = f"{message['to']};tag={tag}", message["from"]
        talk.target = (re.search(r"<([^>]+)>", message["contact"]) or ["", message["contact"]])[1]
        if self.answers != 200:
            lines = [self.greeting] if self.greeting else []
            self._answer(message, self.answers, "", lines, tag)
            talk.status, talk.ended_at = self.answers, time.monotonic()
            return
        talk.sound = self.sound()
        talk.sound.remote = message.media
        talk.status = 200
        contact = [f"Contact: <sip:{self.address}:{self.port}>"]
        self._answer(message, 180, "", contact, tag)
        found = re.match(r"(\d+)", message["session-expires"])
        if found and self._expires_s:
            talk.expires_s = float(found[1])
            contact += [f"Session-Expires: {found[1]};refresher=uac", "Require: timer"]
        data = self._answer(message, 200, self.description(talk.sound), contact, tag)
        talk.answered_at = talk.refreshed_at = time.monotonic()
        if talk.expires_s:
            self._task(self._watch(talk))
        self._task(self._until_acked(talk, data, message.source))

    async def _until_acked(self, talk: Talk, data: bytes, to: tuple[str, int]) -> None:
        wait, end = T1_S, time.monotonic() + 64 * T1_S
        while time.monotonic() < end and not talk.ended_at:
            await asyncio.sleep(wait)
            if talk.acked:
                return
            self.send(data, to)
            wait = min(2 * wait, T2_S)

    def _answer(
        self,
        request: Message,
        status: int,
        body: str = "",
        extra: list[str] | None = None,
        tag: str = "",
    ) -> bytes:
        to = request["to"] if "tag=" in request["to"] else f"{request['to']};tag={tag or '1'}"
        lines = [
            f"SIP/2.0 {status} {'OK' if status == 200 else 'Said'}",
            *(f"Via: {via}" for via in request.all("via")),
            f"From: {request['from']}", f"To: {to}", f"Call-ID: {request['call-id']}",
            f"CSeq: {request['cseq']}", *(extra or []),
        ]  # fmt: skip
        if not any(line.startswith("Contact") for line in lines):
            lines.append(f"Contact: <sip:{self.address}:{self.port}>")
        if body:
            lines.append("Content-Type: application/sdp")
        data = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", body]).encode()
        branch = (re.search(r"branch=([^;,\s]+)", request["via"]) or ["", ""])[1]
        self._sent[branch, request.method] = data
        self.send(data, request.source)
        return data


def challenge_of(offer: str) -> dict[str, str]:
    """The parameters of a challenge."""
    return {
        key.lower(): quoted or bare
        for key, quoted, bare in re.findall(r'(\w+)=(?:"([^"]*)"|([^,\s]+))', offer)
    }


def proof(
    offer: str,
    user: str,
    password: str,
    method: str,
    uri: str,
    *,
    count: int = 1,
    realm: str = "",
    qop: bool = True,
    algorithm: str = "",
) -> str:
    """An Authorization header line for a challenge (RFC 7616, RFC 8760)."""
    found = challenge_of(offer)
    name = algorithm or found.get("algorithm", "MD5")
    digest = hashlib.sha256 if name == "SHA-256" else hashlib.md5
    realm = realm or found["realm"]
    cnonce, nc = f"{random.getrandbits(64):x}", f"{count:08x}"

    def h(*parts: str) -> str:
        return digest(":".join(parts).encode()).hexdigest()

    a1, a2 = h(user, realm, password), h(method, uri)
    if qop:
        response = h(a1, found["nonce"], nc, cnonce, "auth", a2)
        more = f', qop=auth, nc={nc}, cnonce="{cnonce}"'
    else:
        response, more = h(a1, found["nonce"], a2), ""
    return (
        f'Authorization: Digest username="{user}", realm="{realm}", nonce="{found["nonce"]}", '
        f'uri="{uri}", response="{response}", algorithm={name}{more}'
    )


def quiet(sock: socket.socket) -> int:
    """How many datagrams wait in a socket; reads them."""
    n = 0
    while True:
        try:
            sock.recv(65535)
        except OSError:
            return n
        n += 1
