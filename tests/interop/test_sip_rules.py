"""What a trunk's rules make of a call, and ways to telephones, as SIPp sees them: numbers,
identity, codecs, outbound proxy, Path, keep-alives; and what of our side nobody sees."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from gateway.lab.softphone import free_port
from tests.interop.peers import Box, box
from tests.interop.sipp_flow import Flow, perform, played, sdp
from tests.interop.test_sip_services import ELSEWHERE, HOUSE, phone

pytestmark = pytest.mark.interop

CARRIER, PROXY = "127.0.2.48", "127.0.2.49"
PORT = free_port(socket.SOCK_DGRAM)
TRUNK = f"""
[adapters.sip.trunks.carrier]
peer = "sip:{CARRIER}:{PORT}"
keepalive_s = 0
"""
OUT = (
    ELSEWHERE
    + """
[[routes]]
name = "out"
called = "0X."
targets = ["sip/carrier:{called}"]
"""
)


def carrier(gateway: Box, address: str = CARRIER) -> Flow:
    flow = Flow("+49815", gateway, address=address)
    flow.port = PORT
    return flow


@pytest.mark.parametrize(
    ("rules", "asks", "wanted", "absent"),
    [
        ("", [], ["P-Asserted-Identity: .*<sip:201@", "From: .*<sip:201@"], ["Remote-Party"]),
        ('identity = "ppi"', [], ["P-Preferred-Identity: .*<sip:201@"], ["P-Asserted"]),
        ('identity = "rpid"', [], ["Remote-Party-ID: .*<sip:201@"], ["P-Asserted"]),
        ('identity = "from"', [], ["From: .*<sip:201@"], ["P-Asserted", "Remote-Party"]),
        ('number = "+4930999"', [], [r"P-Asserted-Identity: .*<sip:\+4930999@"], ["sip:201"]),
        ("", ["Privacy: id"], ["From: .*anonymous.invalid", "Privacy: id"], ["sip:201", "anna"]),
        ('number = "+4930999"', ["Privacy: id"], ["Privacy: id"], ["4930999", "sip:201"]),
        (
            "tells_hidden = true", ["Privacy: id"],
            ["From: .*anonymous.invalid", "Privacy: id", "P-Asserted-Identity: <sip:201@"],
            ["anna"],
        ),
        (
            'tells_hidden = true\nidentity = "rpid"', ["Privacy: id"],
            ["From: .*anonymous", "Privacy: id", "Remote-Party-ID: <sip:201@.*privacy=full"],
            ["anna", "privacy=off"],
        ),
        (
            'codecs = ["PCMA", "PCMU"]\ndtmf = "inband"', [],
            ["m=audio [0-9]+ RTP/AVP 8 0"], ["telephone-event"],
        ),
        (
            'numbers = { country_code = "49" }', [],
            [r"INVITE sip:\+493012345@", r"To: <sip:\+493012345@"], [],
        ),
        ('numbers = { strip = 1, prefix = "77" }', [], ["INVITE sip:773012345@"], []),
    ],
)  # fmt: skip
async def test_how_a_trunk_is_spoken_to(
    tmp_path: Path, rules: str, asks: list[str], wanted: list[str], absent: list[str]
) -> None:
    """Nothing of the telephone's own signalling is in it, whatever the rules."""
    inside = ["127.0.2.31", "SecretPhone", "X-Inside"]
    async with box(f"{HOUSE}{TRUNK}{rules}\n", OUT) as gateway:
        hello = ["User-Agent: SecretPhone/1.0", "X-Inside: yes", *asks]
        anna = phone(gateway, "anna").call("03012345", *hello).talks().hangs_up()
        far = carrier(gateway).takes("INVITE", *wanted, absent=[*absent, *inside])
        far.reply(200, body=sdp(), again=True).takes("ACK").settled().is_hung_up()
        await perform(tmp_path, anna, far)


async def test_an_outbound_proxy(tmp_path: Path) -> None:
    """Everything goes to it, for the domain of the peer."""
    rules = TRUNK.replace(f"{CARRIER}:{PORT}", "carrier.test")
    rules += f'proxy = "sip:{PROXY}:{PORT};lr"\n'
    async with box(HOUSE + rules, OUT) as gateway:
        anna = phone(gateway, "anna").call("03012345").talks().hangs_up()
        far = carrier(gateway, PROXY)
        far.answers("INVITE sip:03012345@carrier.test", rf"Route: <sip:{PROXY}:{PORT};lr>")
        await perform(tmp_path, anna, far.is_hung_up())


async def test_callers_who_are_not_shown(tmp_path: Path) -> None:
    """RFC 3323: anonymous in From, known by its password; the house knows, bert does not."""
    async with box(HOUSE, ELSEWHERE) as gateway:
        anna = phone(gateway, "anna").call("202").talks().hangs_up()
        anna.steps[:] = [
            step.replace('"anna" <sip:anna@[remote_ip]>', '"X" <sip:anonymous@anonymous.invalid>')
            for step in anna.steps
        ]
        bert = phone(gateway, "bert").takes(
            "INVITE", "From: .*anonymous", absent=["sip:201", "anna"]
        )
        bert.reply(200, body=sdp(), again=True).takes("ACK").settled().is_hung_up()
        await perform(tmp_path, anna, bert)
        legs = await gateway.legs(2)
    assert legs["sip/anna#1"].calling == "201"


async def test_path(tmp_path: Path) -> None:
    """RFC 3327: a phone that registered through an edge proxy is called through it."""
    async with box(HOUSE, ELSEWHERE) as gateway:
        edge = Flow("bert", gateway, password="b1", address=PROXY)
        way, home = f"<sip:{PROXY}:{edge.port};lr>", "sip:bert@127.0.2.31:4000"
        asks = Flow("bert", gateway, password="b1", address=PROXY)
        asks.port, asks.contact = edge.port, False
        asks.send("REGISTER", "bert", f"Contact: <{home}>", "Supported: path", f"Path: {way}")
        await played(asks.gets(200, f"Path: {way}").program(tmp_path, "register"))
        edge.password = ""
        edge.answers(f"Route: {way}", f"INVITE {home}")
        anna = phone(gateway, "anna").call("202").talks().hangs_up()
        await perform(tmp_path, anna, edge.is_hung_up())


async def test_keep_alives_are_answered() -> None:
    """RFC 5626 section 3.5.1: two line ends are answered with one, over a stream."""
    async with box(HOUSE, ELSEWHERE) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.sip.ports["tcp"])
        for _ in range(3):
            writer.write(b"\r\n\r\n")
            assert await asyncio.wait_for(reader.readexactly(2), 10.0) == b"\r\n"
        writer.close()
        assert not gateway.counters["garbage"]
