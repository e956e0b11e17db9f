"""The pyvoip adapter against a PBX that is written out here, message by message."""

from __future__ import annotations

import array
import asyncio
import contextlib
import importlib.metadata
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway._codecs import g711
from gateway.adapters.pyvoip import PyVoip
from gateway.adapters.pyvoip.adapter import INSTALL
from gateway.config import ConfigErrors, convert
from gateway.core.actions import Answer, Hangup, Hold, SendDigits
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition
from gateway.core.events import LegAnswered, LegEnded, LegOffered, LegRinging
from gateway.errors import DeviceError
from gateway.media.engine import Engine
from gateway.testing import TestHost, until
from gateway.testing.audio import read_wav, steady_level_at, tone

LINE = "pyvoip/line"
ACCOUNT = {"server": "127.0.0.1", "user": "gw", "password": "gwpw", "local_ip": "127.0.0.1"}


@pytest.fixture
def pbx() -> Iterator[Pbx]:
    with Pbx() as found:
        yield found


class Pbx:
    """A UDP socket that takes registrations; everything else is the test's to answer."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.setblocking(False)
        self.port = self.socket.getsockname()[1]
        self.rtp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.rtp.bind(("127.0.0.1", 0))
        self.rtp.setblocking(False)
        self.peer = ("", 0)

    def __enter__(self) -> Pbx:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self.rtp.close()

    def section(self, **more: Any) -> dict[str, Any]:
        low = 16000 + self.port % 30000
        return ACCOUNT | {"port": self.port, "rtp_ports": [low, low + 99]} | more

    async def receive(self, what: str, within_s: float = 8.0) -> str:
        """The next message that begins so; registrations are answered meanwhile."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(within_s):
            while True:
                data, self.peer = await loop.sock_recvfrom(self.socket, 65536)
                text = data.decode()
                if text.startswith("REGISTER"):
                    self.reply(text, "200 OK")
                if text.startswith(what):
                    return text

    def send(self, *lines: str, body: str = "") -> None:
        kind = ["Content-Type: application/sdp"] if body else []
        text = "\r\n".join([*lines, *kind, f"Content-Length: {len(body)}", "", body])
        self.socket.sendto(text.encode(), self.peer)

    def reply(
        self, request: str, status: str, *more: str, tag: str = "pbx", body: str = ""
    ) -> None:
        kept = [line for line in request.split("\r\n") if re.match("Via|From|Call-ID|CSeq", line)]
        to = header(request, "To")
        to = to if ";tag=" in to else f"{to};tag={tag}"
        self.send(f"SIP/2.0 {status}", *kept, f"To: {to}", *more, body=body)

    def invite(
        self, call_id: str, cseq: int = 1, *, payloads: str = "0 8 101", to: str = ""
    ) -> None:
        host, port = self.peer
        self.request("INVITE", call_id, cseq, to=to, body=self.sdp(payloads))
        assert (host, port) == self.peer

    def request(
        self, method: str, call_id: str, cseq: int = 1, *, to: str = "", body: str = ""
    ) -> None:
        host, port = self.peer
        self.send(
            f"{method} sip:gw@{host}:{port} SIP/2.0",
            f"Via: SIP/2.0/UDP 127.0.0.1:{self.port};branch=z9hG4bK{call_id}{cseq}",
            "Max-Forwards: 70",
            'From: "Anna" <sip:201@pbx.test>;tag=abc',
            f"To: {to or '<sip:9201@pbx.test>'}",
            f"Call-ID: {call_id}",
            f"CSeq: {cseq} {method}",
            f"Contact: <sip:anna@127.0.0.1:{self.port}>",
            f"Record-Route: <sip:127.0.0.1:{self.port};lr;n=1>,<sip:127.0.0.1:{self.port};lr;n=2>",
            body=body,
        )  # fmt: skip

    def sdp(self, payloads: str = "0 101") -> str:
        lines = [
            "v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "c=IN IP4 127.0.0.1", "t=0 0",
            f"m=audio {self.rtp.getsockname()[1]} RTP/AVP {payloads}",
            *(["a=rtpmap:101 telephone-event/8000"] if "101" in payloads else []), "",
        ]  # fmt: skip
        return "\r\n".join(lines)


def header(message: str, name: str) -> str:
    found = re.search(rf"(?m)^{name}: (.*?)\r?$", message)
    assert found, f"no {name} in {message}"
    return found.group(1)


@contextlib.asynccontextmanager
async def registered(
    pbx: Pbx, engine: Engine | None = None, **more: Any
) -> AsyncIterator[TestHost]:
    host = TestHost("pyvoip", engine=engine)
    host.make(PyVoip, pbx.section(**more))
    run = asyncio.ensure_future(pbx.receive("REGISTER"))
    async with host.running():
        await run
        await until(lambda: host.endpoints[LINE].condition is Condition.UP, "it is registered")
        yield host
    assert host.refused == []


async def test_what_is_sent_in_a_call_that_we_make(pbx: Pbx) -> None:
    async with registered(pbx) as host:
        leg = host.dial(LINE, "1#2\r\nX")
        first = await pbx.receive("INVITE")
        assert first.startswith("INVITE sip:1%232%0D%0AX@127.0.0.1 SIP/2.0\r\n")
        # A lost datagram is sent again, as it was.
        assert await pbx.receive("INVITE") == first
        challenge = 'Digest realm="pbx.test", nonce="n1", qop="auth", opaque="o"'
        pbx.reply(first, "407 Proxy Authentication Required", f"Proxy-Authenticate: {challenge}")
        assert header(await pbx.receive("ACK"), "To").endswith(";tag=pbx")
        second = await pbx.receive("INVITE")
        assert 'realm="pbx.test",nonce="n1"' in header(second, "Proxy-Authorization")
        assert header(second, "Call-ID") == header(first, "Call-ID")
        pbx.reply(second, "180 Ringing")
        await host.wait_for(LegRinging, leg=leg)
        target = f"sip:x@127.0.0.1:{pbx.port};ob"
        routes = [f"<sip:127.0.0.1:{pbx.port};lr;n={n}>" for n in (1, 2)]
        answer = (f"Contact: <{target}>", f"Record-Route: {','.join(routes)}")
        pbx.reply(second, "200 OK", *answer, body=pbx.sdp())
        await host.wait_for(LegAnswered, leg=leg)
        pbx.reply(second, "200 OK", *answer, body=pbx.sdp())
        for _ in range(2):  # each 200 has its ACK
            ack = await pbx.receive("ACK")
        host.adapter.hangup(Hangup(leg=leg))
        bye = await pbx.receive("BYE")
        assert await pbx.receive("BYE") == bye
        pbx.reply(bye, "200 OK")
        for sent in (ack, bye):
            assert sent.split(" ")[1] == target
            assert re.findall("(?m)^Route: (.*?)\r$", sent) == routes[::-1]
            assert header(sent, "To") == header(second, "To") + ";tag=pbx"
            assert header(sent, "From") == header(second, "From")
        assert host.of(LegEnded, leg=leg)[0].cause is Cause.NORMAL


async def test_an_answer_that_crosses_our_hangup(pbx: Pbx) -> None:
    async with registered(pbx) as host:
        leg = host.dial(LINE, "12")
        invite = await pbx.receive("INVITE")
        pbx.reply(invite, "180 Ringing")
        await host.wait_for(LegRinging, leg=leg)
        host.adapter.hangup(Hangup(leg=leg))
        await pbx.receive("CANCEL")
        pbx.reply(invite, "200 OK", f"Contact: <sip:x@127.0.0.1:{pbx.port}>", body=pbx.sdp())
        await pbx.receive("ACK")
        pbx.reply(await pbx.receive("BYE"), "200 OK")
        assert host.of(LegAnswered) == []


@pytest.mark.parametrize(
    ("status", "cause"), [("603 Decline", Cause.REJECTED), ("480 Temporarily Unavailable", None)]
)
async def test_refusals(pbx: Pbx, status: str, cause: Cause | None) -> None:
    async with registered(pbx) as host:
        leg = host.dial(LINE, "12")
        pbx.reply(await pbx.receive("INVITE"), status)
        ended = await host.wait_for(LegEnded, leg=leg)
        assert ended.detail == status
        assert cause is None or ended.cause is cause


async def test_a_pbx_that_says_nothing_to_a_call(pbx: Pbx) -> None:
    async with registered(pbx, no_response_s=0.7) as host:
        leg = host.dial(LINE, "12")
        ended = await host.wait_for(LegEnded, leg=leg)
        assert (ended.cause, ended.detail) == (Cause.TIMER_EXPIRED, "no answer to INVITE")


async def test_a_challenge_that_cannot_be_met(pbx: Pbx) -> None:
    async with registered(pbx) as host:
        leg = host.dial(LINE, "12")
        challenge = 'WWW-Authenticate: Digest realm="r", nonce="n", algorithm=SHA-256'
        pbx.reply(await pbx.receive("INVITE"), "401 Unauthorized", challenge)
        ended = await host.wait_for(LegEnded, leg=leg)
        assert ended.detail == "401 without a challenge of digest MD5"


async def test_what_is_sent_in_a_call_that_we_get(pbx: Pbx) -> None:
    async with registered(pbx) as host:
        pbx.request("OPTIONS", "o1")
        await pbx.receive("SIP/2.0 200")
        pbx.invite("c1")
        offered = await host.wait_for(LegOffered)
        assert (offered.called, offered.calling, offered.display) == ("9201", "201", "Anna")
        ringing = await pbx.receive("SIP/2.0 180")
        host.adapter.answer(Answer(leg=offered.leg))
        answer = await pbx.receive("SIP/2.0 200")
        assert header(answer, "To") == header(ringing, "To")
        await host.wait_for(LegAnswered, leg=offered.leg)
        # Our answer was lost; then they put us on hold: the same audio each time.
        pbx.invite("c1")
        again = await pbx.receive("SIP/2.0 200")
        pbx.invite("c1", 2, to=header(answer, "To"))
        held = await pbx.receive("SIP/2.0 200")
        port = re.compile(r"m=audio (\d+)").findall
        assert port(answer) == port(again) == port(held)
        # The library has no words for it: the PBX hears what its partner is made to hear.
        host.adapter.hold(Hold(leg=offered.leg))
        host.adapter.hangup(Hangup(leg=offered.leg))
        bye = await pbx.receive("BYE")
        assert bye.split(" ")[1] == f"sip:anna@127.0.0.1:{pbx.port}"
        assert header(bye, "From") == header(answer, "To")
        assert re.findall(r"(?m)^Route: .*n=(\d)>\r$", bye) == ["1", "2"]


async def test_calls_that_cannot_be_taken(pbx: Pbx) -> None:
    async with registered(pbx, calls=1) as host:
        pbx.invite("video", payloads="98")
        await pbx.receive("SIP/2.0 488")
        pbx.invite("c1")
        await host.wait_for(LegOffered)
        await pbx.receive("SIP/2.0 180")
        pbx.invite("c2")
        await pbx.receive("SIP/2.0 486")
        pbx.request("CANCEL", "c1")
        assert (await host.wait_for(LegEnded)).cause is Cause.CANCELLED
        await pbx.receive("SIP/2.0 487")
        pbx.request("BYE", "c1", 2)
        await pbx.receive("SIP/2.0 481")
        pbx.invite("c3")
        offered = await host.wait_for(LegOffered, count=2)
        host.adapter.hangup(Hangup(leg=offered.leg, cause=Cause.UNALLOCATED))
        await pbx.receive("SIP/2.0 404")
        assert len(host.of(LegOffered)) == 2


async def test_the_audio_is_whole(pbx: Pbx, tmp_path: Path) -> None:
    """A-law at a level that 8-bit samples would lose, among garbage; and digits as events."""
    engine = Engine(max_streams=4, ports=(31500, 31599), realtime=False)
    await engine.start()
    try:
        async with registered(pbx, engine) as host:
            pbx.invite("c1", payloads="8 101")
            offered = await host.wait_for(LegOffered)
            host.adapter.answer(Answer(leg=offered.leg))
            answer = await pbx.receive("SIP/2.0 200")
            to = ("127.0.0.1", int(re.findall(r"m=audio (\d+)", answer)[0]))
            await host.wait_for(LegAnswered, leg=offered.leg)
            stream = host.stream(offered.leg)
            samples = tone(1004, 10, dbm0=-50)
            stream.play_samples(samples.tobytes(), rate=8000)
            stream.record(str(tmp_path / "heard.wav"), both=False)
            speech = g711.encode_alaw(samples.tobytes())
            heard: list[bytes] = []
            loop = asyncio.get_running_loop()
            due = loop.time()
            for n in range(100):
                for garbage in (b"", b"\x80", b"\x80\x65" + bytes(10) + b"\xff", os.urandom(40)):
                    pbx.rtp.sendto(garbage if n % 10 == 0 else b"\x00", to)
                packet = bytes((0x80, 8)) + n.to_bytes(2, "big") + (160 * n).to_bytes(4, "big")
                pbx.rtp.sendto(packet + b"ssrc" + speech[160 * n : 160 * n + 160], to)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        heard.append(pbx.rtp.recv(2000))
                if n == 90:
                    host.adapter.send_digits(SendDigits(leg=offered.leg, digits="5"))
                due += 0.02
                await asyncio.sleep(due - loop.time())
            async with asyncio.timeout(20.0):
                while sum(packet[1] & 0x7F == 101 for packet in heard) < 8:
                    heard.append(await loop.sock_recv(pbx.rtp, 2000))
            stream.stop_record()
            await host.recorded(tmp_path / "heard.wav")
            await until(lambda: host.counters["rtp_garbage"] >= 100, "garbage is counted")
    finally:
        await engine.stop()
    told = read_wav(tmp_path / "heard.wav")[0][0][4000:12000]
    assert steady_level_at(told, 1004) == pytest.approx(-50, abs=1)
    audio = b"".join(packet[12:] for packet in heard if packet[1] & 0x7F == 8)
    got = array.array("h", g711.decode_alaw(audio))[4000:10000]
    assert steady_level_at(got, 1004) == pytest.approx(-50, abs=1)
    events = [packet for packet in heard if packet[1] & 0x7F == 101]
    assert [packet[12] for packet in events] == [5] * 8
    assert len({packet[4:8] for packet in events}) == 1
    assert [packet[13] >> 7 for packet in events] == [0] * 5 + [1] * 3
    sequence = [int.from_bytes(packet[2:4], "big") for packet in heard]
    assert sequence == list(range(sequence[0], sequence[0] + len(sequence)))


async def test_a_process_that_did_its_calls_is_replaced(pbx: Pbx) -> None:
    async with registered(pbx, calls_per_process=1) as host:
        adapter = host.adapter
        assert isinstance(adapter, PyVoip)
        before = adapter.pid
        leg = host.dial(LINE, "12")
        pbx.reply(await pbx.receive("INVITE"), "404 Not Found")
        await host.wait_for(LegEnded, leg=leg)
        for condition in (Condition.UNKNOWN, Condition.UP):
            while host.endpoints[LINE].condition is not condition:
                with contextlib.suppress(TimeoutError):
                    await pbx.receive("nothing", within_s=0.1)
        assert adapter.pid != before
        assert host.counters["library_renewals"] == 1
        assert host.counters["library_restarts"] == 0


async def test_a_silent_pbx(pbx: Pbx) -> None:
    host = TestHost("pyvoip")
    host.make(PyVoip, pbx.section(no_response_s=1))
    async with host.running():
        place = host.endpoints[LINE]
        assert (place.condition, place.reason) == (Condition.DOWN, "no answer to REGISTER")
        leg = host.dial(LINE, "12")
        ended = host.of(LegEnded, leg=leg)[0]
        assert (ended.cause, ended.detail) == (Cause.NETWORK_OUT_OF_ORDER, place.reason)
        for word in ("UDP", "hold", "G.711"):
            assert word in place.detail["limits"]


async def test_the_library_ends_when_the_gateway_is_killed(pbx: Pbx) -> None:
    code = (
        "import asyncio, sys\n"
        "from gateway.testing import TestHost\n"
        "from gateway.adapters.pyvoip import PyVoip\n"
        "async def main():\n"
        "    host = TestHost('pyvoip')\n"
        f"    adapter = host.make(PyVoip, {pbx.section()!r})\n"
        "    async with host.running():\n"
        "        print(adapter.pid, flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    answer = asyncio.ensure_future(pbx.receive("REGISTER"))
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    await answer
    pid = int(await asyncio.wait_for(parent.stdout.readline(), 10))
    parent.send_signal(signal.SIGKILL)
    await parent.wait()
    # It takes the registration back before it goes.
    assert header(await pbx.receive("REGISTER"), "Expires") == "0"
    await until(lambda: not Path(f"/proc/{pid}").exists(), "it is gone")


# What may be missing


@pytest.mark.parametrize(
    ("version", "audioop", "said"),
    [
        (None, True, f"the Python package pyVoIP is not installed: {INSTALL}"),
        ("2.0.0a1", True, f"pyVoIP 2.0.0a1 is installed, but only 1.6.8 works: {INSTALL}"),
        ("1.6.8", False, "needs the module audioop, which Python 3"),
    ],
)
async def test_what_to_install(
    pbx: Pbx, monkeypatch: pytest.MonkeyPatch, version: str | None, audioop: bool, said: str
) -> None:
    real = importlib.metadata.version

    def versions(name: str) -> str:
        if name != "pyVoIP":
            return real(name)
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", versions)
    if not audioop:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    host = TestHost("pyvoip")
    host.make(PyVoip, pbx.section())
    with pytest.raises(DeviceError, match=re.escape(said)):
        async with host.running():
            pass


def test_the_gateway_itself_never_loads_the_library() -> None:
    code = (
        "import sys, gateway.adapters.pyvoip as a\n"
        "assert a.PyVoip and not [n for n in sys.modules if n.partition('.')[0] == 'pyVoIP']\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("user", 'gw"\r\nX: y'), ("server", "pbx test"), ("password", ""), ("local_ip", "::1"),
        ("rtp_ports", [20000, 20003]), ("calls", 100),
    ],
)  # fmt: skip
def test_bad_configuration(pbx: Pbx, key: str, value: Any) -> None:
    with pytest.raises(ConfigErrors, match=key):
        convert(PyVoip.Config, pbx.section(**{key: value}))
