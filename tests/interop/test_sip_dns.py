"""Trunks found by DNS (dnsmasq): several servers, failover and return."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from gateway.core.endpoints import Condition
from gateway.lab.softphone import free_port
from tests.interop.peers import Kamailio, box, common_port, phone, sipp, until
from tests.name_server import name_server

pytestmark = pytest.mark.interop

PHONES = """
codecs = ["PCMA", "PCMU"]
digest = ["MD5"]
nameservers = ["127.0.0.1:{dns}"]
[adapters.sip.phones.anna]
password = "a1"
number = "201"
[adapters.sip.trunks.carrier]
peer = "sip:carrier.test"
keepalive_s = {keepalive}
no_response_s = 0.5
"""
OUT = '[[routes]]\nname = "out"\ncalled = "0(X.)"\ntargets = ["sip/carrier:{1}"]\n'
FIRST, SECOND = "127.0.2.41", "127.0.2.42"


def zone(first: int, second: int, service: str = "udp") -> tuple[str, ...]:
    letter = {"udp": "U", "tcp": "T"}[service]
    return (
        f"naptr-record=carrier.test,10,50,S,SIP+D2{letter},,_sip._{service}.carrier.test",
        f"srv-host=_sip._{service}.carrier.test,a.carrier.test,{first},10,1",
        f"srv-host=_sip._{service}.carrier.test,b.carrier.test,{second},20,1",
        f"host-record=a.carrier.test,{FIRST}",
        f"host-record=b.carrier.test,{SECOND}",
    )


@pytest.mark.parametrize("service", ["udp", "tcp"])
async def test_a_registration_moves_to_the_second_server_and_back(
    tmp_path: Path, service: str
) -> None:
    one, two = common_port(), common_port()
    users = {"gw": "gwpw"}
    async with name_server(tmp_path / "dns", *zone(one, two, service)) as names:
        sip = PHONES.format(dns=names.port, keepalive=0.2)
        sip += 'register = true\nuser = "gw"\npassword = "gwpw"\n'
        async with (
            Kamailio(tmp_path / "b", users, address=SECOND, port=two) as second,
            box(sip, OUT) as gateway,
        ):

            def place() -> tuple[Condition, str]:
                found = gateway.gateway.places["sip/carrier"][0]
                return found.condition, found.detail.get("address", "")

            async with Kamailio(tmp_path / "a", users, address=FIRST, port=one) as first:
                await until(
                    lambda: place() == (Condition.UP, f"{service}:{FIRST}:{one}"), "first", 20.0
                )
                assert "gw" in await first.contacts()
            await until(lambda: place()[1] == f"{service}:{SECOND}:{two}", "the second is used")
            await gateway.up("sip/carrier")
            for _ in range(200):
                if "gw" in await second.contacts():
                    break
                await asyncio.sleep(0.05)
            assert "gw" in await second.contacts()
            async with Kamailio(tmp_path / "again", users, address=FIRST, port=one) as first:
                await until(lambda: place()[1] == f"{service}:{FIRST}:{one}", "back", 20.0)
                await gateway.up("sip/carrier")


async def test_a_call_goes_on_to_the_next_server(tmp_path: Path) -> None:
    silent, port = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_DGRAM)
    async with (
        name_server(tmp_path / "dns", *zone(silent, port)) as names,
        box(PHONES.format(dns=names.port, keepalive=0), OUT) as gateway,
        phone(tmp_path, "anna", "a1", gateway, hz=1000) as anna,
        sipp(
            tmp_path / "sipp", "uas.xml", "", address=SECOND, port=port, arguments=("-rtp_echo",)
        ) as carrier,
    ):
        await gateway.up("sip/anna", "sip/carrier")
        assert gateway.gateway.places["sip/carrier"][0].detail["address"].startswith(f"udp:{FIRST}")
        await anna.dial(gateway.uri("04711"))
        await anna.wait("CALL_ESTABLISHED")
        await anna.hang_up()
        assert await carrier.done() == 0, carrier.said()
        legs = await gateway.legs(2)
        assert gateway.counters["failovers"] == 1
    assert {leg.cause for leg in legs.values()} == {"normal"}


async def test_a_name_that_leads_nowhere_is_said(tmp_path: Path) -> None:
    async with (
        name_server(tmp_path / "dns") as names,
        box(PHONES.format(dns=names.port, keepalive=0.2), OUT) as gateway,
    ):
        await gateway.up("sip/carrier", condition=Condition.DOWN)
        place = gateway.gateway.places["sip/carrier"][0]
        assert place.reason == "carrier.test cannot be resolved"
