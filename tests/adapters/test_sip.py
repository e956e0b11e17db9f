"""The SIP adapter: its contract, its configuration, why legs end, what survives."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.adapters.sip import Sip
from gateway.adapters.sip.config import parse_listen
from gateway.adapters.sip.legs import Leg, why
from gateway.core.actions import Answer, Dial
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition
from gateway.core.events import LegEnded, LegOffered
from gateway.errors import DeviceError
from gateway.lab.softphone import Softphone
from gateway.protocols.sip.events import Ended, How
from gateway.protocols.sip.headers import Reason
from gateway.protocols.sip.message import Request, Response
from gateway.protocols.sip.sessionid import session_id_of
from gateway.testing import Scenario, TestHost, check_adapter, until
from gateway.testing.audio import tone, write_wav

from .sip_stand import SDP, Peer, section, trunk, up

# The contract, with a phone that is not ours as the world


@pytest.mark.interop
async def test_it_keeps_every_promise(tmp_path: Path) -> None:
    microphone = write_wav(tmp_path / "tone.wav", tone(440, 5))
    n = 0

    @contextlib.asynccontextmanager
    async def world() -> AsyncIterator[Softphone]:
        nonlocal n
        n += 1
        account = "<sip:anna@127.0.0.1>;regint=0;audio_codecs=PCMU/8000/1;answermode=manual"
        async with Softphone(account, microphone, tmp_path / str(n)) as phone:
            yield phone

    def configure(outside: Softphone) -> dict[str, Any]:
        peer = f"sip:127.0.0.1:{outside.port}"
        return {"trunks": {"far": {"peer": peer, "keepalive_s": 0}}}

    async def offer(adapter: Sip, outside: Softphone) -> None:
        await outside.dial(f"sip:201@127.0.0.1:{adapter.ports['udp']}")

    async def answer(adapter: Sip, outside: Softphone) -> None:
        await outside.wait("CALL_INCOMING")
        await outside.accept()

    def garbage(adapter: Sip, outside: Softphone) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for data in (b"\0" * 100, b"INVITE sip:x SIP/2.0\r\n\r\n", b"SIP/2.0 999 \r\n\r\n"):
                sock.sendto(data, ("127.0.0.1", adapter.ports["udp"]))

    report = await check_adapter(
        Sip,
        {"listen": ["udp:127.0.0.1:0", "tcp:127.0.0.1:0"]},
        Scenario(
            dial="sip/far",
            number="anna",
            world=world,
            configure=configure,
            offer=offer,
            answer=answer,
            garbage=garbage,
        ),
    )
    assert not report.unchecked, str(report)


async def test_it_says_what_is_open_inside() -> None:
    """Figures that have to be again after a call what they were before it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        peer = f"sip:127.0.0.1:{silent.getsockname()[1]}"
        host = TestHost("sip")
        trunks = {"far": {"peer": peer, "keepalive_s": 0, "no_response_s": 1}}
        adapter = host.make(Sip, section(trunks=trunks))
        assert adapter.holds() == {}
        async with host.running():
            assert set(adapter.holds().values()) == {0}
            host.dial("sip/far", "1")
            assert adapter.holds()["sessions"] == adapter.holds()["transactions"] == 1
            await host.wait_for(LegEnded)
            await until(lambda: adapter.holds()["sessions"] == 0, "no session is open")
        assert not host.counters["certificate_reloads"], "without TLS there are no certificates"


# Configuration


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"listen": ["udp:localhost:5060"]}, "localhost"),
        ({"listen": ["sctp:0.0.0.0:5061"]}, "write it like"),
        ({"listen": ["tls:0.0.0.0:5061"]}, "cert_file"),
        ({"tls": {"clients": "required"}}, "ca_file"),
        ({"nameservers": ["dns.example"]}, "dns.example"),
        ({"deny": ["192.0.2.0/99"]}, "192.0.2.0/99"),
        ({"fraud": {"night": "22-6"}}, "22:00-06:00"),
        ({"min_expires_s": 600, "max_expires_s": 300}, "longer"),
        ({"trunks": {"t": {"peer": "sip:x", "numbers": {"country_code": "+49"}}}}, "digits"),
        ({"trunks": {"t": {"peer": "sip:x", "proxy": "sip:y;transport=ws"}}}, "transport"),
        ({"codecs": ["OPUS"]}, "OPUS"),
        ({"digest": ["SHA1"]}, "SHA1"),
        ({"public_ip": "example.org"}, "example.org"),
        ({"trunks": {"t": {"peer": "sip:x", "register": True}}}, "needs a user"),
        ({"phones": {"t": {"password": "x"}}, "trunks": {"t": {"peer": "sip:x"}}}, "both"),
        ({"trunks": {"t": {"peer": "http://x"}}}, "http://x"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(Exception, match=words):
        section(**fields)


def test_listen() -> None:
    assert parse_listen("tcp:[::1]:5060") == ("tcp", "::1", 5060)


# Why a leg ended


def ended(how: How, status: int = 0, *reasons: Reason) -> Ended:
    message = Response(status, "Word", {}, b"") if status else None
    return Ended(session=1, how=how, status=status, reasons=reasons, message=message)


def test_a_reason_header_counts_for_more_than_the_status() -> None:
    event = ended(How.REJECTED, 480, Reason("Q.850", 17, "user busy"))
    assert why(event) == (Cause.BUSY, "rejected: Q.850 17 user busy")
    assert why(ended(How.REJECTED, 404)) == (Cause.UNALLOCATED, "404 Word")
    assert why(ended(How.BYE)) == (Cause.NORMAL, "BYE")
    assert why(ended(How.TIMEOUT, 408))[0] is Cause.NO_RESPONSE


def test_what_one_contact_says_is_not_lost_in_the_silence_of_others() -> None:
    audio: Any = None
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2), (0, 2, 1)):
        events = [ended(How.REJECTED, 486), ended(How.TIMEOUT, 408), ended(How.REJECTED, 480)]
        leg = Leg("l", "sip/a", audio, False)
        for n in order:
            leg.note_end(events[n])
        assert leg.cause is Cause.BUSY, order


# Running, with a peer of a few lines


async def test_no_codec_in_common_is_488_before_anything_rings() -> None:
    async with trunk() as (adapter, host, peer):
        peer.send(adapter, peer.invite("c1", body=SDP.format(codec="3")))
        await peer.expect(488)
        leg = (await host.wait_for(LegOffered)).leg
        assert (await host.wait_for(LegEnded, leg=leg)).cause is Cause.NOT_ACCEPTABLE


@pytest.mark.parametrize(
    ("inside", "said", "used"),
    [
        (["10.0.0.0/8"], "10.1.2.3", "127.0.0.1"),
        (["10.0.0.0/8"], "203.0.113.9", "203.0.113.9"),
        (["10.0.0.0/8", "127.0.0.0/8"], "10.1.2.3", "10.1.2.3"),
    ],
)
async def test_audio_to_a_peer_behind_its_nat_goes_where_it_is_heard(
    inside: list[str], said: str, used: str
) -> None:
    async with trunk(inside=inside) as (adapter, host, peer):
        offer = SDP.format(codec="0").replace("c=IN IP4 127.0.0.1", f"c=IN IP4 {said}")
        peer.send(adapter, peer.invite("c1", body=offer))
        leg = (await host.wait_for(LegOffered)).leg
        adapter.answer(Answer(leg=leg))
        assert host.stream(leg).spec.remote_ip == used
        await peer.expect(200)


async def test_broken_sdp_is_400_and_counted_nowhere_as_a_fault() -> None:
    async with trunk() as (adapter, host, peer):
        peer.send(adapter, peer.invite("c1", body="v=0\r\nm=audio x RTP/AVP 0\r\n"))
        await peer.expect(400)
        assert (await host.wait_for(LegEnded)).cause is Cause.PROTOCOL_ERROR
        assert host.counters["faults"] == 0


async def test_cancel_right_behind_the_invite_on_a_stream() -> None:
    """Both in one segment: the call is over before anybody could look at it."""
    async with trunk() as (adapter, host, peer):
        reader, writer = await asyncio.open_connection("127.0.0.1", adapter.ports["tcp"])
        invite = peer.invite("c1", body=SDP.format(codec="0")).replace("/UDP", "/TCP")
        cancel = peer.invite("c1", method="CANCEL").replace("/UDP", "/TCP")
        writer.write((invite + cancel).encode())
        ended_ = await host.wait_for(LegEnded)
        assert ended_.cause is Cause.CANCELLED
        text = b""
        while b" 487 " not in text:
            text += await asyncio.wait_for(reader.read(4096), 30.0)
        assert host.counters["faults"] == 0
        writer.close()
        # And it still works.
        peer.send(adapter, peer.invite("c2", body=SDP.format(codec="0")))
        await host.wait_for(LegOffered, count=2)


async def test_a_loop_of_routes_ends() -> None:
    async with trunk() as (adapter, host, peer):
        peer.send(
            adapter, peer.invite("c1", lines="Max-Forwards: 1\r\n", body=SDP.format(codec="0"))
        )
        offered = await host.wait_for(LegOffered)
        leg = host.begin_leg("sip/far")
        adapter.dial(Dial(leg=leg, endpoint="sip/far", number="1", trace=offered.trace, call="c"))
        assert (await host.wait_for(LegEnded, leg=leg)).cause is Cause.EXCHANGE_ROUTING_ERROR


async def test_max_forwards_counts_down_through_us() -> None:
    async with trunk() as (adapter, host, peer):
        peer.send(
            adapter, peer.invite("c1", lines="Max-Forwards: 9\r\n", body=SDP.format(codec="0"))
        )
        offered = await host.wait_for(LegOffered)
        leg = host.begin_leg("sip/far")
        trace = offered.trace
        adapter.dial(
            Dial(leg=leg, endpoint="sip/far", number="1", calling="5", trace=trace, call="c")
        )
        while True:
            found = await peer.receive()
            if isinstance(found, Request):
                break
        assert found.get("max-forwards") == "8"
        assert session_id_of(found) == offered.trace.replace("-", "").lower()[:32].ljust(32, "0")
        assert "<sip:5@" in (found.get("p-asserted-identity") or "")


async def test_stopping_says_503_and_when_to_come_back() -> None:
    peer = Peer()
    host = TestHost("sip")
    trunks = {"far": {"peer": f"sip:127.0.0.1:{peer.port}", "keepalive_s": 0}}
    adapter = host.make(Sip, {"listen": ["udp:127.0.0.1:0"], "trunks": trunks})
    try:
        async with host.running():
            await up(host)
            peer.send(adapter, peer.invite("c1", body=SDP.format(codec="0")))
            await host.wait_for(LegOffered)
        refusal = await peer.expect(503)
        assert int(refusal.get("retry-after") or 0) > 0
        assert host.of(LegEnded)[0].cause is Cause.SHUTDOWN
    finally:
        peer.close()


async def test_port_in_use_is_a_device_error_and_bindings_stay() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        host = TestHost("sip")
        adapter = host.make(Sip, {"listen": [f"udp:127.0.0.1:{port}"]})
        file = host.data_dir / "bindings.json"
        file.write_text('{"users": {}, "bindings": {}}')
        before = file.stat().st_mtime_ns
        with pytest.raises(DeviceError, match=str(port)):
            await adapter.run()
        assert file.stat().st_mtime_ns == before


async def test_damaged_bindings_do_not_matter() -> None:
    host = TestHost("sip")
    host.make(Sip, {"listen": ["udp:127.0.0.1:0"], "phones": {"a": {"password": "x"}}})
    (host.data_dir / "bindings.json").write_text('{"users": 1')
    async with host.running():
        assert host.endpoints["sip/a"].condition is Condition.DOWN


async def test_a_disk_that_hangs_holds_up_no_registrar() -> None:
    host = TestHost("sip")
    adapter = host.make(Sip, {"listen": ["udp:127.0.0.1:0"], "phones": {"a": {"password": "x"}}})
    # Whoever opens it for writing waits until somebody reads.
    hung = host.data_dir / "bindings.new"
    os.mkfifo(hung)
    async with host.running():
        phones = adapter._phones
        phones._unsaved = True
        await until(lambda: phones._saving is not None)
        phones._unsaved = True
        await asyncio.sleep(0.1)
        assert phones._saving.is_alive()
        reader = os.open(hung, os.O_RDONLY | os.O_NONBLOCK)
        await until(lambda: not phones._unsaved)
        os.close(reader)
    assert json.loads((host.data_dir / "bindings.json").read_text())["bindings"] == {}


async def test_a_disk_that_hangs_holds_up_no_stop_and_loses_nothing_newer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.adapters.sip.adapter._SAVING_S", 0.1)
    config = {"listen": ["udp:127.0.0.1:0"], "phones": {"a": {"password": "x"}}}
    host = TestHost("sip")
    old = host.make(Sip, config)._phones
    hung, file = host.data_dir / "bindings.new", host.data_dir / "bindings.json"
    readers: list[int] = []

    def let_go() -> None:
        readers.append(os.open(hung, os.O_RDONLY | os.O_NONBLOCK))

    # A stop that waits for the disk would end by this alone.
    rescue = threading.Timer(20.0, let_go)
    async with host.running():
        os.mkfifo(hung)
        rescue.start()
    rescue.cancel()
    assert not readers
    late = old._document(0.0)
    new = TestHost("sip", data_dir=host.data_dir).make(Sip, config)._phones
    new._aors["a"] = {"sip:a@box"}
    await new.save(host.now(), 0.05)
    assert not file.exists()
    let_go()
    await until(file.is_file, "the newer one is written")
    old._write(*late)
    assert json.loads(file.read_bytes())["users"] == {"a": ["sip:a@box"]}
    os.close(readers[0])


async def test_a_silent_connection_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.adapters.sip.wires._SILENT_S", 0.05)
    async with trunk() as (adapter, host, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", adapter.ports["tcp"])
        assert await asyncio.wait_for(reader.read(1), 5.0) == b""
        assert host.counters["connections_silent"] == 1
        writer.close()


async def test_too_many_connections_of_one_address_are_cut() -> None:
    async with trunk(max_connections_per_address=2) as (adapter, host, _):
        writers = []
        for _n in range(2):
            writers.append((await asyncio.open_connection("127.0.0.1", adapter.ports["tcp"]))[1])
        reader, writer = await asyncio.open_connection("127.0.0.1", adapter.ports["tcp"])
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(1), 5.0) == b""
        assert host.counters["connections_refused"] == 1
        for each in [*writers, writer]:
            each.close()


@pytest.mark.parametrize(
    "address",
    [
        "box.example.org", "127.0\x00.0.1", "127.0\udc8d.0.1", "%", ".", "224.2.1.1",
        "239.1.1.1/127", "255.255.255.255",
    ],
)  # fmt: skip
async def test_audio_to_what_is_no_address_of_one_host_is_refused(address: str) -> None:
    """RFC 4566 section 5.7 allows names and groups; nothing is looked up for audio, and nobody's
    call becomes a flood of a whole network."""
    async with trunk() as (adapter, host, peer):
        body = SDP.format(codec="0").replace("c=IN IP4 127.0.0.1", f"c=IN IP4 {address}")
        n_octets = len(body.encode(errors="surrogateescape"))
        text = peer.invite("c1", body=body).replace(f"h: {len(body)}", f"h: {n_octets}")
        data = text.encode(errors="surrogateescape")
        peer.sock.sendto(data, ("127.0.0.1", adapter.ports["udp"]))
        await peer.expect(400)
        assert not host.counters["faults"]
        assert not host.counters["too_late"]


async def test_the_oldest_silent_connection_makes_room() -> None:
    async with trunk(max_connections=2) as (adapter, host, _):
        port = adapter.ports["tcp"]
        first, one = await asyncio.open_connection("127.0.0.1", port)
        second, two = await asyncio.open_connection("127.0.0.1", port)
        two.write(b"OPTIONS sip:box SIP/2.0\r\n")
        await until(lambda: len(adapter._wires._silent) == 1, "the second is heard")
        newest, three = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(first.read(1), 5.0) == b""
        three.write(
            b"OPTIONS sip:box SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1;branch=z9hG4bKx\r\n"
            b"From: <sip:a@b>;tag=1\r\nTo: <sip:box>\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\n"
            b"Content-Length: 0\r\n\r\n"
        )
        assert (await asyncio.wait_for(newest.readline(), 5.0)).startswith(b"SIP/2.0 ")
        assert not second.at_eof(), "who has begun to speak stays"
        # Both have spoken, neither has proved himself: the older one makes room.
        fourth, four = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(second.read(1), 5.0) == b""
        assert not fourth.at_eof()
        assert host.counters["connections_refused"] == 0
        for each in (one, two, three, four):
            each.close()


async def test_a_flood_of_garbage_leaves_calls_alone() -> None:
    async with trunk() as (adapter, host, peer):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as noisy:
            for n in range(2000):
                noisy.sendto(b"\xff" * (n % 900 + 1), ("127.0.0.1", adapter.ports["udp"]))
        peer.send(adapter, peer.invite("c1", body=SDP.format(codec="0")))
        await host.wait_for(LegOffered)
        assert host.counters["garbage"] > 1000
