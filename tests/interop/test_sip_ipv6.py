"""SIP and audio over IPv6, joined with IPv4."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from gateway.core.events import LegOffered
from tests.interop.peers import assert_hears, box, common_port, mulaw, phone, sipp

pytestmark = pytest.mark.interop

PHONES = """
codecs = ["PCMA", "PCMU"]
digest = ["MD5"]
[adapters.sip.phones.anna]
password = "a1"
number = "201"
"""
ROUTES = """
[[routes]]
name = "out"
called = "0(X.)"
targets = ["sip/carrier:{1}"]
[[routes]]
name = "in"
from = ["sip/carrier"]
called = "+49301(XXX)"
targets = ["sip/anna"]
"""
TALK_S = 1.6


def both_versions(carrier: str) -> str:
    port = common_port()
    return (
        f'listen = ["udp:127.0.0.1:{port}", "tcp:127.0.0.1:{port}", "udp:[::1]:{port}",'
        f' "tcp:[::1]:{port}"]\n{PHONES}'
        f'[adapters.sip.trunks.carrier]\npeer = "{carrier}"\nkeepalive_s = 0\n'
    )


def free_port6() -> int:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.bind(("::1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_a_phone_on_ipv4_calls_a_carrier_on_ipv6(tmp_path: Path, transport: str) -> None:
    port = free_port6()
    way = "" if transport == "udp" else ";transport=tcp"
    arguments = ("-rtp_echo", "-t", "u1" if transport == "udp" else "t1")
    async with (
        box(both_versions(f"sip:[::1]:{port}{way}"), ROUTES) as gateway,
        phone(tmp_path, "anna", "a1", gateway, hz=1000) as anna,
        sipp(
            tmp_path / "sipp", "uas.xml", "", address="[::1]", port=port, arguments=arguments
        ) as carrier,
    ):
        await gateway.up("sip/anna", "sip/carrier")
        address = gateway.gateway.places["sip/carrier"][0].detail["address"]
        assert address == f"{transport}:[::1]:{port}"
        await anna.dial(gateway.uri("04711"))
        await anna.wait("CALL_ESTABLISHED")
        await asyncio.sleep(TALK_S)
        await anna.hang_up()
        assert await carrier.done() == 0, carrier.said()
        legs = await gateway.legs(2)
    # What comes back was spoken over IPv4 and went through IPv6 there and back.
    assert_hears(anna.heard(), 1000)
    assert {leg.cause for leg in legs.values()} == {"normal"}


async def test_a_carrier_on_ipv6_calls_a_phone_on_ipv4(tmp_path: Path) -> None:
    port = free_port6()
    async with (
        box(both_versions(f"sip:[::1]:{port}"), ROUTES) as gateway,
        phone(tmp_path, "anna", "a1", gateway, hz=440, answer="auto") as anna,
    ):
        await gateway.up("sip/anna", "sip/carrier")
        (tmp_path / "sipp").mkdir()
        mulaw(tmp_path / "sipp", 1000)
        async with sipp(
            tmp_path / "sipp", "uac.xml", f"[::1]:{gateway.port}", address="[::1]", port=port,
            arguments=("-s", "+49301201", "-key", "user", "4711"),
        ) as carrier:  # fmt: skip
            assert await carrier.done() == 0, carrier.said()
        legs = await gateway.legs(2)
        offered = await gateway.wait(LegOffered)
        await anna.wait("CALL_CLOSED")
    assert offered.endpoint == "sip/carrier"
    assert_hears(anna.heard(), 1000, 440)
    assert {leg.cause for leg in legs.values()} == {"normal"}
