"""SIPp as a party of a call flow: a scenario written step by step, one dialog each.

A `Flow` is turned into SIPp's XML. Whoever it plays, everything it expects has to come, in order,
and nothing else may: SIPp fails otherwise.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import quoteattr

from tests.interop.peers import Box, Program, need

ADDRESS = "127.0.2.31"
TAG = "[pid]t[call_number]"
_VIA = "Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]"
_REASONS = {
    100: "Trying", 180: "Ringing", 183: "Session Progress", 200: "OK", 202: "Accepted",
    302: "Moved Temporarily", 486: "Busy Here", 487: "Request Terminated", 491: "Request Pending",
}  # fmt: skip


def sdp(way: str = "sendrecv", *, address: str = "[media_ip]", version: int = 1, **m: str) -> str:
    """A description with one audio stream. `before` and `after`: further m-lines."""
    return (
        f"v=0\no=s 1 {version} IN IP4 [local_ip]\ns=-\nc=IN IP4 {address}\nt=0 0\n"
        + m.get("before", "")
        + "m=audio [media_port] RTP/AVP 0 96\na=rtpmap:96 telephone-event/8000\na=fmtp:96 0-15\n"
        + f"a={way}\n"
        + m.get("after", "")
    )


_given: set[int] = set()


def port_at(address: str, n: int = 1) -> int:
    """A port that nobody uses at an address, as the first of `n` (audio and video with their RTCP,
    from an even one); none is given twice. All parties share one address: a port that is free
    elsewhere may be another test's telephone there."""
    for _ in range(200):
        with contextlib.ExitStack() as stack:

            def probe(port: int) -> int:
                sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                sock.bind((address, port))
                return int(sock.getsockname()[1])

            try:
                first = probe(0)
                if n > 1 and (first % 2 or first > 65000):
                    continue
                ports = {first, *(probe(first + k) for k in range(1, n))}
            except OSError:
                continue
        if not ports & _given:
            _given.update(ports)
            return first
    raise AssertionError(f"no free ports at {address}")


class Flow:
    """What one party does and sees, in order."""

    def __init__(
        self, user: str, to: Box | None, *, password: str = "", address: str = ADDRESS
    ) -> None:
        self.user, self.password, self.address = user, password, address
        self._box = to
        self.port = port_at(address)
        self.call_id = "[call_id]"
        self.contact = True
        """Whether requests outside a dialog carry our Contact."""
        self.steps: list[str] = []
        self._cseq = 0
        self._variables = 0
        self._caller = True
        self._proof_uri = ""

    @property
    def box(self) -> Box:
        """The gateway it speaks with."""
        assert self._box is not None
        return self._box

    @box.setter
    def box(self, box: Box) -> None:
        self._box = box

    @property
    def calls(self) -> bool:
        """It begins; else it waits to be called."""
        return self._caller

    # What it does

    def _message(self, lines: Sequence[str], body: str, kind: str, *, again: bool = True) -> Flow:
        rest = [f"Content-Type: {kind}"] if body else []
        text = "\n".join([*lines, *rest, "Content-Length: [len]", "", body])
        # Nothing is lost here: what comes twice came late, and would be taken for a mistake.
        retransmit = ' retrans="1500"' if again else ""
        self.steps.append(f"<send{retransmit}><![CDATA[\n{text.rstrip()}\n\n]]></send>")
        return self

    def _out(
        self, method: str, uri: str, headers: Sequence[str], body: str, kind: str, to: str
    ) -> None:
        self._message(
            [
                f"{method} {uri} SIP/2.0", _VIA,
                f'From: "{self.user}" <sip:{self.user}@[remote_ip]>;tag={TAG}',
                f"To: <{to}>", f"Call-ID: {self.call_id}", f"CSeq: {self._cseq} {method}",
                *([f"Contact: <sip:{self.user}@[local_ip]:[local_port]>"] if self.contact else []),
                "Max-Forwards: 70", *headers,
            ],
            body, kind,
        )  # fmt: skip

    def send(
        self,
        method: str,
        number: str,
        *headers: str,
        body: str = "",
        kind: str = "application/sdp",
    ) -> Flow:
        """A request outside a dialog; answers a challenge if there is a password."""
        uri = to = f"sip:{number}@[remote_ip]:[remote_port]"
        if method == "REGISTER":
            uri, to = "sip:[remote_ip]:[remote_port]", f"sip:{self.user}@[remote_ip]"
        self._cseq += 1
        self._proof_uri = uri.removeprefix("sip:").replace("[remote_ip]", "127.0.0.1")
        self._out(method, uri, headers, body, kind, to)
        if not self.password:
            return self
        if method == "INVITE":
            self.steps.append('<recv response="100" optional="true"/>')
        self.steps.append('<recv response="401" auth="true"/>')
        if method == "INVITE":
            self._message(
                [f"ACK {uri} SIP/2.0", "[last_Via:]", "[last_From:]", "[last_To:]",
                 f"Call-ID: {self.call_id}", f"CSeq: {self._cseq} ACK", "Max-Forwards: 70"],
                "", "", again=False,
            )  # fmt: skip
        self._cseq += 1
        proof = f"[authentication username={self.user} password={self.password}]"
        self._out(method, uri, [proof, *headers], body, kind, to)
        return self

    def call(self, number: str, *headers: str, body: str | None = None) -> Flow:
        """INVITE with an offer; empty `body`: without."""
        return self.send("INVITE", number, *headers, body=sdp() if body is None else body)

    def inside(
        self,
        method: str,
        *headers: str,
        body: str = "",
        kind: str = "application/sdp",
        cseq: int = 0,
        again: bool = True,
    ) -> Flow:
        """A request inside the dialog."""
        if not cseq:
            self._cseq += 1
        if self._caller:
            ends = [
                f'From: "{self.user}" <sip:{self.user}@[remote_ip]>;tag={TAG}',
                "To: <sip:box@[remote_ip]:[remote_port]>[peer_tag_param]",
            ]
        else:
            ends = [f"From:[$to];tag={TAG}", "To:[$from]"]
        call_id = self.call_id if self._caller else "[call_id]"
        lines = [
            f"{method} [next_url] SIP/2.0", _VIA, "[routes]", *ends, f"Call-ID: {call_id}",
            f"CSeq: {cseq or self._cseq} {method}", "Max-Forwards: 70",
            f"Contact: <sip:{self.user}@[local_ip]:[local_port]>", *headers,
        ]  # fmt: skip
        return self._message(lines, body, kind, again=again)

    def ack(self, body: str = "") -> Flow:
        """ACK for a 2xx."""
        return self.inside("ACK", body=body, cseq=self._cseq, again=False)

    def ack_refusal(self) -> Flow:
        """ACK for a refused INVITE."""
        return self._message(
            ["ACK sip:box@[remote_ip]:[remote_port] SIP/2.0", "[last_Via:]", "[last_From:]",
             "[last_To:]", f"Call-ID: {self.call_id}", f"CSeq: {self._cseq} ACK",
             "Max-Forwards: 70"],
            "", "", again=False,
        )  # fmt: skip

    def cancel(self, number: str) -> Flow:
        """CANCEL of the INVITE that was sent last."""
        # SIPp names a branch by how many steps ago its message was.
        ago = next(n for n, step in enumerate(reversed(self.steps), 1) if "INVITE sip:" in step)
        return self._message(
            [f"CANCEL sip:{number}@[remote_ip]:[remote_port] SIP/2.0",
             f"Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch-{ago}]",
             f'From: "{self.user}" <sip:{self.user}@[remote_ip]>;tag={TAG}',
             f"To: <sip:{number}@[remote_ip]:[remote_port]>", f"Call-ID: {self.call_id}",
             f"CSeq: {self._cseq} CANCEL", "Max-Forwards: 70"],
            "", "",
        )  # fmt: skip

    def reply(
        self, status: int, *headers: str, body: str = "", reason: str = "", again: bool = False
    ) -> Flow:
        """A response to what came last; to an INVITE its final one is repeated until the ACK."""
        to = "To:[$to]" if not self._caller and status < 101 else "[last_To:]"
        if not self._caller and status > 100 and self._first:
            to = f"[last_To:];tag={TAG}"
        lines = [
            f"SIP/2.0 {status} {reason or _REASONS.get(status, 'No')}",
            "[last_Via:]", "[last_Record-Route:]", "[last_From:]", to, "[last_Call-ID:]",
            "[last_CSeq:]", f"Contact: <sip:{self.user}@[local_ip]:[local_port]>", *headers,
        ]  # fmt: skip
        return self._message(lines, body, "application/sdp", again=again)

    def pause(self, seconds: float) -> Flow:
        self.steps.append(f'<pause milliseconds="{round(seconds * 1000)}"/>')
        return self

    # What it sees

    _first = False

    def _checks(self, wanted: Sequence[str], absent: Sequence[str] = ()) -> str:
        actions = ""
        for text, inverse in [*((w, False) for w in wanted), *((a, True) for a in absent)]:
            self._variables += 1
            how = "check_it_inverse" if inverse else "check_it"
            actions += (
                f'<ereg regexp={quoteattr(text)} search_in="msg" {how}="true" '
                f'assign_to="v{self._variables}"/>'
            )
        return actions

    def takes(self, method: str, *wanted: str, absent: Sequence[str] = ()) -> Flow:
        """A request comes, in which all of `wanted` (regular expressions) are found."""
        keep = ""
        first = not self.steps
        if first:
            self._caller = False
            keep = (
                '<ereg regexp=".*" search_in="hdr" header="From:" assign_to="from"/>'
                '<ereg regexp=".*" search_in="hdr" header="To:" assign_to="to"/>'
                '<ereg regexp=".*" search_in="hdr" header="Via:" assign_to="via"/>'
            )
        self._first = first or (self._first and method in ("CANCEL", "PRACK"))
        actions = keep + self._checks(wanted, absent)
        rrs = ' rrs="true"' if first else ""
        self.steps.append(f'<recv request="{method}"{rrs}><action>{actions}</action></recv>')
        return self

    def gets(
        self, status: int, *wanted: str, maybe: Sequence[int] = (), absent: Sequence[str] = ()
    ) -> Flow:
        """A response comes; those of `maybe` may come before it."""
        for other in maybe:
            self.steps.append(f'<recv response="{other}" optional="true"/>')
        actions = self._checks(wanted, absent)
        self.steps.append(f'<recv response="{status}" rrs="true"><action>{actions}</action></recv>')
        return self

    # Common sequences

    def talks(self, *wanted: str, maybe: Sequence[int] = (100, 180, 183)) -> Flow:
        """Our call is answered."""
        return self.gets(200, *wanted, maybe=maybe).ack()

    def answers(self, *wanted: str, ring: bool = True, after: float = 0.0, body: str = "") -> Flow:
        """A call comes and is answered."""
        self.takes("INVITE", *wanted)
        if ring:
            self.reply(180)
        if after:
            self.pause(after)
        return self.reply(200, body=body or sdp(), again=True).takes("ACK").settled()

    def settled(self) -> Flow:
        """The dialog stands: what comes from now on has our tag."""
        self._first = False
        return self

    def hangs_up(self) -> Flow:
        return self.inside("BYE").gets(200)

    def is_hung_up(self, *wanted: str) -> Flow:
        return self.takes("BYE", *wanted).reply(200)

    # As a process

    def xml(self) -> str:
        """The whole scenario."""
        names = [f"v{n}" for n in range(1, self._variables + 1)]
        names += [] if self._caller else ["from", "to", "via"]
        known = f'<Reference variables="{",".join(names)}"/>' if names else ""
        steps = "\n".join(self.steps)
        head = '<?xml version="1.0" encoding="UTF-8"?>'
        return f'{head}\n<scenario name="f">\n{steps}\n{known}\n</scenario>\n'

    def program(self, home: Path, name: str = "") -> Program:
        """SIPp that plays it."""
        need("sipp")
        directory = home / (name or f"{self.user}-{self.port}")
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "flow.xml").write_text(self.xml())
        uri = self._proof_uri.replace("[remote_port]", str(self.box.port))
        proof = ("-auth_uri", uri) if self.password and self._caller else ()
        media = port_at(self.address, n=4)
        return Program(
            ["sipp", "-sf", "flow.xml", "-i", self.address, "-mi", self.address,
             "-p", str(self.port), "-mp", str(media), "-m", "1", "-nostdin",
             "-timeout", "20s", "-timeout_error", "-trace_err", "-error_file", "errors",
             "-trace_msg",
             "-message_file", "messages", *proof, f"127.0.0.1:{self.box.port}"],
            directory,
        )  # fmt: skip

    async def registered(self, home: Path) -> None:
        """Register the party's address, from its own port, and wait until that stands."""
        flow = Flow(self.user, self.box, password=self.password, address=self.address)
        flow.port = self.port
        flow.send("REGISTER", self.user, "Expires: 300").gets(200)
        await played(flow.program(home, f"register-{self.user}-{self.port}"))


async def played(program: Program) -> str:
    """Let a scenario run to its end; its messages. Fails with what SIPp saw otherwise."""
    async with program:
        return await finished(program)


async def finished(program: Program) -> str:
    """Wait for the end of a scenario that runs; its messages."""
    code = await program.done()
    errors = program.directory / "errors"
    shown = errors.read_text(errors="replace") if errors.exists() else program.said()[-3000:]
    assert code == 0, f"{program.directory.name}: {shown[-3000:]}"
    messages = program.directory / "messages"
    return messages.read_text(errors="replace") if messages.exists() else ""


def bodies(messages: str, mark: str) -> list[str]:
    """Received messages that hold a mark, in order."""
    return [m for m in re.split(r"-{20,}", messages) if "message received" in m and mark in m]


async def perform(home: Path, *flows: Flow) -> list[str]:
    """Let parties act together: who is called registers first and listens; their messages."""
    for flow in flows:
        if not flow.calls and flow.password:
            await flow.registered(home)
    async with contextlib.AsyncExitStack() as stack:
        programs = {}
        for flow in sorted(flows, key=lambda each: each.calls):
            programs[flow] = await stack.enter_async_context(flow.program(home))
        return [await finished(programs[flow]) for flow in flows]
