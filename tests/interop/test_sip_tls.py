"""SIP over TLS: foreign phones, a foreign proxy as trunk, and openssl as an attacker."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path

import pytest

from gateway.core.endpoints import Condition
from gateway.core.events import LegEnded, LegOffered
from gateway.lab.softphone import free_port
from tests.interop.certificates import Authority
from tests.interop.peers import (
    Box,
    Kamailio,
    Linphone,
    Program,
    assert_hears,
    box,
    common_port,
    microphone,
    mulaw,
    need,
    phone,
    sipp,
    until,
)

pytestmark = pytest.mark.interop

PHONES = """
codecs = ["PCMA", "PCMU"]
digest = ["MD5"]
[adapters.sip.phones.anna]
password = "a1"
number = "201"
[adapters.sip.phones.bert]
password = "b1"
number = "202"
"""
CALLS = '[[routes]]\nname = "in"\ncalled = "202"\ntargets = ["sip/bert"]\n'
OUT = '[[routes]]\nname = "out"\ncalled = "0(X.)"\ntargets = ["sip/carrier:{1}"]\n'
TALK_S = 1.6


def secure(certificate: Path, authority: Authority, clients: str = "no") -> str:
    """The beginning of ``[adapters.sip]`` that listens on UDP, TCP and TLS."""
    port, tls = common_port(), free_port()
    return (
        f'listen = ["udp:127.0.0.1:{port}", "tcp:127.0.0.1:{port}", "tls:127.0.0.1:{tls}"]\n'
        f'tls = {{ cert_file = "{certificate}", ca_file = "{authority.certificate}", '
        f'clients = "{clients}" }}\n'
    )


async def test_phones_over_tls_and_udp_talk(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    certificate = authority.issue("box", "DNS:box.test", "IP:127.0.0.1")
    async with (
        box(secure(certificate, authority) + PHONES, CALLS) as gateway,
        phone(tmp_path, "anna", "a1", gateway, hz=1000, transport="tls") as anna,
        phone(tmp_path, "bert", "b1", gateway, hz=440, answer="auto") as bert,
    ):
        await gateway.up("sip/anna", "sip/bert")
        place = gateway.gateway.places["sip/anna"][0]
        assert place.detail["address"].startswith("tls:127.0.0.1:")
        assert "baresip" in place.detail["agent"]
        await anna.dial(f"sip:202@127.0.0.1:{gateway.sip.ports['tls']};transport=tls")
        await anna.wait("CALL_ESTABLISHED")
        await asyncio.sleep(TALK_S)
        await anna.hang_up()
        await bert.wait("CALL_CLOSED")
        legs = await gateway.legs(2)
    assert_hears(anna.heard(), 440, 1000)
    assert_hears(bert.heard(), 1000, 440)
    assert {leg.cause for leg in legs.values()} == {"normal"}


async def test_linphone_checks_our_certificate_and_talks(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    certificate = authority.issue("box", "DNS:localhost", "IP:127.0.0.1")
    lin = Linphone(
        tmp_path / "lin", 0, microphone(tmp_path, 1000), tmp_path / "heard.wav",
        tls_port=free_port(), authority=authority.certificate,
    )  # fmt: skip
    async with (
        box(secure(certificate, authority) + PHONES, CALLS) as gateway,
        phone(tmp_path, "bert", "b1", gateway, hz=440, answer="auto") as bert,
        lin,
    ):
        port = gateway.sip.ports["tls"]
        await lin.tell(
            "soundcard use files", f"play {lin.play}", f"record {lin.record}",
            f"register sip:anna@localhost:{port} sip:localhost:{port};transport=tls a1",
        )  # fmt: skip
        await gateway.up("sip/anna", "sip/bert")
        assert gateway.gateway.places["sip/anna"][0].detail["address"].startswith("tls:")
        await lin.tell(f"call sip:202@localhost:{port};transport=tls")
        await bert.wait("CALL_ESTABLISHED")
        await asyncio.sleep(TALK_S)
        await lin.tell("terminate")
        await bert.wait("CALL_CLOSED")
        legs = await gateway.legs(2)
        await lin.tell("quit")
    assert_hears(bert.heard(), 1000, 440)
    assert {leg.cause for leg in legs.values()} == {"normal"}


@pytest.mark.parametrize("scheme", ["sip", "sips"])
async def test_kamailio_as_a_trunk_over_tls(tmp_path: Path, scheme: str) -> None:
    """Registered and called over TLS; each side shows its certificate to the other."""
    authority = Authority(tmp_path / "ca")
    ours = authority.issue("box", "DNS:box.test")
    theirs = authority.issue("kam", "URI:sip:pbx.test", "DNS:elsewhere.test")
    users = {"gw": "gwpw", "4711": "d1"}
    tls = (theirs, authority.certificate)
    async with Kamailio(tmp_path / "kam", users, tls=tls) as proxy:
        way = ";transport=tls" if scheme == "sip" else ""
        peer = f"{scheme}:{proxy.address}:{proxy.tls_port}{way}"
        trunk = (
            f'[adapters.sip.trunks.carrier]\npeer = "{peer}"\n'
            'tls_name = "pbx.test"\nregister = true\nuser = "gw"\npassword = "gwpw"\n'
            "keepalive_s = 0.3\n"
        )
        async with contextlib.AsyncExitStack() as stack:
            sip = secure(ours, authority) + PHONES + trunk
            gateway = await stack.enter_async_context(box(sip, OUT))
            anna = await stack.enter_async_context(phone(tmp_path, "anna", "a1", gateway, hz=440))
            dora = await stack.enter_async_context(
                phone(tmp_path, "4711", "d1", proxy.at, hz=1000, answer="auto")
            )
            await dora.registered()
            await gateway.up("sip/anna", "sip/carrier")
            place = gateway.gateway.places["sip/carrier"][0]
            assert place.detail["address"] == f"tls:{proxy.address}:{proxy.tls_port}"
            assert f"{scheme}:gw@127.0.0.1" in await proxy.contacts()
            await anna.dial(gateway.uri("04711"))
            await anna.wait("CALL_ESTABLISHED")
            await asyncio.sleep(TALK_S)
            await anna.hang_up()
            await dora.wait("CALL_CLOSED")
            legs = await gateway.legs(2)
            assert_hears(anna.heard(), 1000, 440)
            assert_hears(dora.heard(), 440, 1000)
            assert {leg.cause for leg in legs.values()} == {"normal"}


async def test_a_trunk_with_the_wrong_certificate_gets_nothing(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "ca"), Authority(tmp_path / "other", "other")
    ours = authority.issue("box", "DNS:box.test")
    for n, (issuer, name, wanted) in enumerate(
        (
            (authority, "DNS:*.test", "pbx.test"),
            (authority, "URI:sip:gw@pbx.test", "pbx.test"),
            (other, "DNS:pbx.test", "pbx.test"),
        )
    ):
        theirs = issuer.issue(f"kam{n}", name)
        tls = (theirs, authority.certificate)
        async with Kamailio(tmp_path / f"kam{n}", {"gw": "gwpw"}, tls=tls) as proxy:
            trunk = (
                f'[adapters.sip.trunks.carrier]\npeer = "sip:{proxy.address}:{proxy.tls_port}'
                f';transport=tls"\ntls_name = "{wanted}"\nregister = true\nuser = "gw"\n'
                'password = "gwpw"\nkeepalive_s = 0.3\n'
            )
            async with box(secure(ours, authority) + PHONES + trunk) as gateway:
                await gateway.up("sip/carrier", condition=Condition.DOWN)
                await until(lambda g=gateway: g.counters["certificates_refused"], "refused")
                assert "gw" not in await proxy.contacts()
                assert gateway.counters["faults"] == 0


# Attackers


def shake(port: int, *arguments: str) -> list[str]:
    return ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *arguments]


async def run(command: list[str], typed: bytes = b"") -> tuple[int, str]:
    need("openssl")
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(typed), 20.0)
    return process.returncode or 0, out.decode(errors="replace")


async def test_old_versions_garbage_and_renewed_certificates(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    certificate = authority.issue("box", "DNS:box.test", common="first")
    async with box(secure(certificate, authority) + PHONES) as gateway:
        port = gateway.sip.ports["tls"]
        shown = ("-CAfile", str(authority.certificate))
        status, said = await run(shake(port, "-tls1_2", *shown), b"Q\n")
        assert status == 0, said
        assert "Verify return code: 0 (ok)" in said
        status, said = await run(shake(port, "-tls1_3", "-servername", "box.test", *shown), b"Q\n")
        assert "TLSv1.3" in said
        assert "CN = first" in said
        weak = ("-tls1_1", "-cipher", "ALL:@SECLEVEL=0")
        status, said = await run(shake(port, *weak), b"Q\n")
        assert status != 0
        assert "BEGIN CERTIFICATE" not in said
        await until(lambda: gateway.counters["handshakes_failed"], "a failed handshake")
        # Plain SIP to the secure port, then garbage inside TLS.
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"OPTIONS sip:box SIP/2.0\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert b"SIP" not in await asyncio.wait_for(reader.read(), 10.0)
        writer.close()
        await run(shake(port, "-quiet", "-no_ign_eof", *shown), b"\xff\x00garbage\r\n\r\n" * 20)
        await until(lambda: gateway.counters["garbage"], "garbage is counted")
        # A half-written file does not replace the present certificate; a whole one does.
        certificate.write_text("-----BEGIN CERTIFICATE-----\n")
        await until(lambda: gateway.counters["certificate_refused"], "it is refused")
        status, said = await run(shake(port, *shown), b"Q\n")
        assert "CN = first" in said
        authority.issue("box", "DNS:box.test", common="second")
        await until(lambda: gateway.counters["certificate_reloads"], "it is taken")
        status, said = await run(shake(port, *shown), b"Q\n")
        assert "CN = second" in said
        assert gateway.counters["faults"] == 0


async def test_handshakes_that_stall_take_no_more_than_their_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.drivers.net.HANDSHAKE_S", 1.0)
    authority = Authority(tmp_path / "ca")
    certificate = authority.issue("box", "IP:127.0.0.1")
    sip = "max_connections_per_address = 5\n" + secure(certificate, authority) + PHONES
    async with box(sip) as gateway:
        port = gateway.sip.ports["tls"]
        stalled = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
        # The sixth to the eighth are cut at once, the others when their time is up.
        await until(lambda: gateway.counters["connections_refused"] == 3, "three are refused")
        async with tls_phone_elsewhere(gateway, authority) as answer:
            assert answer.startswith(b"SIP/2.0 200")
        await until(lambda: gateway.counters["handshakes_failed"] == 5, "five are cut")
        for reader, writer in stalled:
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 5.0) == b""
            writer.close()
        assert gateway.counters["faults"] == 0


@contextlib.asynccontextmanager
async def tls_phone_elsewhere(gateway: Box, authority: Authority):  # type: ignore[no-untyped-def]
    """Asks OPTIONS over TLS from another loopback address."""
    context = ssl.create_default_context(cafile=str(authority.certificate))
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", gateway.sip.ports["tls"], ssl=context, local_addr=("127.0.2.77", 0)
    )
    writer.write(options("TLS"))
    yield await asyncio.wait_for(reader.readuntil(b"\r\n"), 5.0)
    writer.close()


def options(transport: str, uri: str = "sip:box") -> bytes:
    return (
        f"OPTIONS {uri} SIP/2.0\r\nVia: SIP/2.0/{transport} 127.0.0.1:9;branch=z9hG4bK1\r\n"
        "From: <sip:t@t>;tag=1\r\nTo: <sip:box>\r\nCall-ID: t\r\nCSeq: 1 OPTIONS\r\n"
        "Max-Forwards: 5\r\nContent-Length: 0\r\n\r\n"
    ).encode()


async def test_clients_without_a_certificate_are_refused_where_it_is_required(
    tmp_path: Path,
) -> None:
    authority, other = Authority(tmp_path / "ca"), Authority(tmp_path / "other", "other")
    certificate = authority.issue("box", "IP:127.0.0.1")
    good, bad = authority.issue("good", "DNS:c.test"), other.issue("bad", "DNS:c.test")
    sip = secure(certificate, authority, "required") + PHONES
    sip += (
        '[adapters.sip.trunks.carrier]\npeer = "sip:127.0.2.90;transport=tls"\n'
        'tls_name = "c.test"\nkeepalive_s = 0\n'
    )
    routes = '[[routes]]\nname = "in"\nfrom = ["sip/carrier"]\ntargets = ["sip/anna"]\n'
    async with box(sip, routes) as gateway:
        port = gateway.sip.ports["tls"]

        async def ask(cert: Path | None, text: bytes) -> bytes:
            context = ssl.create_default_context(cafile=str(authority.certificate))
            if cert:
                context.load_cert_chain(cert)
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
                writer.write(text)
                try:
                    return await asyncio.wait_for(reader.readuntil(b"\r\n"), 5.0)
                finally:
                    writer.close()
            except (OSError, asyncio.IncompleteReadError):
                return b""

        assert await ask(None, options("TLS")) == b""
        assert await ask(bad, options("TLS")) == b""
        assert (await ask(good, options("TLS"))).startswith(b"SIP/2.0 200")
        # The certificate says who it is, at whatever address.
        invite = options("TLS", "sip:201@box").replace(b"OPTIONS", b"INVITE")
        assert (await ask(good, invite)).startswith(b"SIP/2.0 100")
        offered = await gateway.wait(LegOffered)
        assert offered.endpoint == "sip/carrier"
        await gateway.wait(LegEnded)
        # The trunk's address alone is not enough where TLS is agreed: anybody can forge UDP.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as forger:
            forger.bind(("127.0.2.90", 0))
            forger.settimeout(20.0)
            own = forger.getsockname()[1]
            forged = options("UDP", "sip:201@box").replace(b"OPTIONS", b"INVITE")
            forged = forged.replace(b"127.0.0.1:9", b"127.0.2.90:%d" % own)
            forger.sendto(forged, ("127.0.0.1", gateway.port))
            loop = asyncio.get_running_loop()
            answer = await loop.run_in_executor(None, forger.recv, 4000)
            assert answer.startswith(b"SIP/2.0 401")
        assert gateway.counters["trunk_not_secure"] == 1


async def test_sips_is_refused_over_anything_but_tls(tmp_path: Path) -> None:
    async with box(PHONES) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.sip.ports["tcp"])
        writer.write(options("TCP", "sips:201@box").replace(b"OPTIONS", b"INVITE"))
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n"), 5.0)).startswith(b"SIP/2.0 403")
        writer.close()


async def test_sipp_calls_over_tls(tmp_path: Path) -> None:
    """SIPp as packaged speaks no TLS: socat wraps its stream, and shows a client certificate."""
    need("socat")
    authority = Authority(tmp_path / "ca")
    certificate = authority.issue("box", "DNS:box.test")
    shown = authority.issue("sipp", "URI:sip:carrier.test")
    sip = secure(certificate, authority, "required") + PHONES
    sip += (
        '[adapters.sip.trunks.carrier]\npeer = "sip:127.0.2.99;transport=tls"\n'
        'tls_name = "carrier.test"\nkeepalive_s = 0\n'
    )
    routes = '[[routes]]\nname = "in"\nfrom = ["sip/carrier"]\ncalled = "+49301(XXX)"\n'
    routes += 'targets = ["sip/bert"]\n'
    async with (
        box(sip, routes) as gateway,
        phone(tmp_path, "bert", "b1", gateway, hz=440, answer="auto") as bert,
    ):
        await gateway.up("sip/bert", "sip/carrier")
        port = free_port()
        there = gateway.sip.ports["tls"]
        wrap = Program(
            ["socat", f"TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork",
             f"OPENSSL:127.0.0.1:{there},cafile={authority.certificate},commonname=box.test,"
             f"cert={shown},snihost=box.test"],
            tmp_path / "socat",
        )  # fmt: skip
        (tmp_path / "sipp").mkdir()
        mulaw(tmp_path / "sipp", 1000)
        async with wrap:
            await until(lambda: listens(port), "socat listens")
            async with sipp(
                tmp_path / "sipp", "uac.xml", f"127.0.0.1:{there}", address="127.0.0.1",
                arguments=(
                    "-t", "t1", "-rsa", f"127.0.0.1:{port}", "-s", "+49301202",
                    "-key", "user", "4711",
                ),
            ) as carrier:  # fmt: skip
                assert await carrier.done() == 0, carrier.said()
        legs = await gateway.legs(2)
        await bert.wait("CALL_CLOSED")
        assert gateway.counters["wrong_password"] == 0
    assert_hears(bert.heard(), 1000, 440)
    assert {leg.cause for leg in legs.values()} == {"normal"}


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
