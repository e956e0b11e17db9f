"""Other exchanges: SIPp known by its address, Kamailio registered with."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from pathlib import Path

import pytest

from gateway.core.endpoints import Condition
from gateway.core.events import (
    CallRequested,
    DigitPressed,
    LegAnswered,
    LegEnded,
    LegOffered,
    LegProgressed,
)
from gateway.lab.softphone import free_port
from tests.interop.peers import (
    Kamailio,
    assert_hears,
    box,
    common_port,
    mulaw,
    phone,
    sipp,
)

pytestmark = pytest.mark.interop

CARRIER = "127.0.2.30"
BASE = """
codecs = ["PCMA", "PCMU"]
digest = ["MD5"]
[adapters.sip.phones.anna]
password = "a1"
number = "201"
[adapters.sip.phones.bert]
password = "b1"
number = "202"
"""
TRUNK = (
    BASE
    + """
[adapters.sip.trunks.carrier]
peer = "sip:{address}:{port}{more}"
keepalive_s = {keepalive}
"""
)
OUT = '[[routes]]\nname = "out"\ncalled = "0(X.)"\ntargets = ["sip/carrier:{1}"]\n'
IN = """
[[routes]]
name = "in"
from = ["sip/carrier"]
called = "+49301(XXX)"
targets = ["sip/anna"]
"""
TALK_S = 1.6


async def test_carrier_known_by_its_address_calls(tmp_path: Path) -> None:
    port = free_port(socket.SOCK_DGRAM)
    sip = TRUNK.format(address=CARRIER, port=port, keepalive=0, more="")
    async with (
        box(sip, IN) as gateway,
        phone(tmp_path, "anna", "a1", gateway, hz=440, answer="auto") as anna,
    ):
        await gateway.up("sip/anna", "sip/carrier")
        (tmp_path / "sipp").mkdir()
        mulaw(tmp_path / "sipp", 1000)
        async with sipp(
            tmp_path / "sipp", "uac.xml", f"127.0.0.1:{gateway.port}", port=port,
            arguments=("-s", "+49301201", "-key", "user", "4711"),
        ) as carrier:  # fmt: skip
            assert await carrier.done() == 0, carrier.said()
        legs = await gateway.legs(2)
        offered = await gateway.wait(LegOffered)
        digit = await gateway.wait(DigitPressed)
        await anna.wait("CALL_CLOSED")
        shown = (anna.directory / "log").read_text(errors="replace")
    # P-Asserted-Identity counts for more than From, and the number comes as it was dialled.
    assert (offered.called, offered.calling, offered.display) == ("+49301201", "+49301234", "Real")
    assert "sip:+49301234@" in shown
    assert (digit.digit, digit.via, digit.leg) == ("7", "info", "sip/carrier#1")
    assert_hears(anna.heard(), 1000, 440)
    assert {leg.cause for leg in legs.values()} == {"normal"}
    assert {leg.codec for leg in legs.values()} == {"PCMU"}


async def test_strangers_are_refused(tmp_path: Path) -> None:
    sip = TRUNK.format(address=CARRIER, port=5060, keepalive=0, more="")
    async with box(sip, IN) as gateway:
        await gateway.up("sip/carrier")
        (tmp_path / "sipp").mkdir()
        mulaw(tmp_path / "sipp", 1000)
        async with sipp(
            tmp_path / "sipp", "uac.xml", f"127.0.0.1:{gateway.port}", address="127.0.2.66",
            arguments=("-s", "+49301201", "-key", "user", "4711", "-au", "anna", "-ap", "no"),
        ) as stranger:  # fmt: skip
            assert await stranger.done() == 1
        assert "401" in (tmp_path / "sipp" / "errors").read_text()
        assert not [e for e in gateway.seen if isinstance(e.event, LegOffered)]
        assert gateway.counters["wrong_password"] == 1


async def test_phone_calls_a_carrier_with_early_media(tmp_path: Path) -> None:
    port = free_port(socket.SOCK_DGRAM)
    sip = TRUNK.format(address=CARRIER, port=port, keepalive=0, more="")
    async with (
        box(sip, OUT) as gateway,
        phone(tmp_path, "anna", "a1", gateway, hz=1000) as anna,
        sipp(tmp_path / "sipp", "uas.xml", "", port=port, arguments=("-rtp_echo",)) as carrier,
    ):
        await gateway.up("sip/anna", "sip/carrier")
        await anna.dial(gateway.uri("04711"))
        await gateway.wait(LegProgressed, lambda e: e.leg == "sip/carrier#1")
        await anna.wait("CALL_ESTABLISHED")
        await asyncio.sleep(TALK_S)
        await anna.hang_up()
        assert await carrier.done() == 0, carrier.said()
        legs = await gateway.legs(2)
        assert "SIP/2.0 183" in (anna.directory / "log").read_text(errors="replace")
    # What comes back is what was spoken: through two legs, there and back.
    assert_hears(anna.heard(), 1000)
    assert legs["sip/carrier#1"].called == "4711"
    assert {leg.cause for leg in legs.values()} == {"normal"}


@pytest.mark.parametrize(
    ("status", "cause", "heard"),
    [(486, "busy", "486"), (603, "rejected", "403"), (404, "unallocated", "404")],
)
async def test_refusals_keep_their_meaning(
    tmp_path: Path, status: int, cause: str, heard: str
) -> None:
    port = free_port(socket.SOCK_DGRAM)
    sip = TRUNK.format(address=CARRIER, port=port, keepalive=0, more="")
    async with (
        box(sip, OUT) as gateway,
        phone(tmp_path, "anna", "a1", gateway, hz=1000) as anna,
        sipp(tmp_path / "sipp", "refuse.xml", "", port=port, status=status) as carrier,
    ):
        await gateway.up("sip/anna", "sip/carrier")
        await anna.dial(gateway.uri("04711"))
        closed = await anna.wait("CALL_CLOSED")
        assert await carrier.done() == 0, carrier.said()
        legs = await gateway.legs(2)
    assert closed["param"].startswith(heard)
    assert legs["sip/carrier#1"].cause == cause
    assert legs["sip/carrier#1"].detail.startswith(str(status))


async def test_delayed_offer(tmp_path: Path) -> None:
    port = free_port(socket.SOCK_DGRAM)
    sip = TRUNK.format(address=CARRIER, port=port, keepalive=0, more="")
    async with (
        box(sip, IN) as gateway,
        phone(tmp_path, "anna", "a1", gateway, hz=440, answer="auto") as anna,
    ):
        await gateway.up("sip/anna", "sip/carrier")
        (tmp_path / "sipp").mkdir()
        mulaw(tmp_path / "sipp", 1000)
        async with sipp(
            tmp_path / "sipp", "delayed.xml", f"127.0.0.1:{gateway.port}", port=port,
            arguments=("-s", "+49301201"),
        ) as carrier:  # fmt: skip
            assert await carrier.done() == 0, carrier.said()
        legs = await gateway.legs(2)
        await anna.wait("CALL_CLOSED")
    assert_hears(anna.heard(), 1000, 440)
    assert {leg.cause for leg in legs.values()} == {"normal"}


@pytest.mark.parametrize(("sha256", "transport"), [(False, "udp"), (True, "tcp")])
async def test_registered_with_kamailio(tmp_path: Path, sha256: bool, transport: str) -> None:
    """We register with digest, take a call from it, and call a phone that is registered there."""
    users = {"gw": "gwpw", "4711": "d1"}
    async with Kamailio(tmp_path / "kam", users, sha256=sha256) as proxy:
        more = f";transport={transport}" if transport != "udp" else ""
        sip = TRUNK.format(address=proxy.address, port=proxy.port, keepalive=0.3, more=more)
        sip += 'register = true\nuser = "gw"\npassword = "gwpw"\n'
        routes = OUT + IN.replace("+49301(XXX)", "9.")
        async with contextlib.AsyncExitStack() as stack:
            gateway = await stack.enter_async_context(box(sip, routes))
            anna = await stack.enter_async_context(
                phone(tmp_path, "anna", "a1", gateway, hz=440, answer="auto")
            )
            await gateway.up("sip/anna", "sip/carrier")
            place = gateway.gateway.places["sip/carrier"][0]
            assert place.detail["registered"] == "yes"
            assert "gw" in await proxy.contacts()
            if sha256:
                # baresip knows no SHA-256, so there is no far end here.
                gateway.gateway.stop()
                await asyncio.wait_for(asyncio.shield(gateway.run), 10.0)
                assert "AoR: gw" not in await proxy.contacts()
                return
            dora = await stack.enter_async_context(phone(tmp_path, "4711", "d1", proxy.at, hz=1000))
            await dora.registered()
            await dora.dial(f"sip:9201@{proxy.address}:{proxy.port}")
            await dora.wait("CALL_ESTABLISHED")
            await asyncio.sleep(TALK_S)
            await dora.hang_up()
            await anna.wait("CALL_CLOSED")
            await gateway.legs(2)
            assert_hears(anna.heard(), 1000, 440)
            assert_hears(dora.heard(), 440, 1000)
            offered = await gateway.wait(LegOffered)
            assert (offered.endpoint, offered.called, offered.calling) == (
                "sip/carrier", "9201", "4711",
            )  # fmt: skip
            seen, n = len(dora.events), len(anna.events)
            await anna.dial(gateway.uri("04711"))
            await dora.wait("CALL_INCOMING", skip=seen)
            await dora.accept()
            await anna.wait("CALL_ESTABLISHED", skip=n)
            await asyncio.sleep(TALK_S)
            await anna.hang_up()
            await dora.wait("CALL_CLOSED", skip=seen)
            legs = await gateway.legs(4)
            assert_hears(dora.heard(), 440, 1000)
            assert {leg.cause for leg in legs.values()} == {"normal"}


async def test_trunk_goes_down_and_comes_back(tmp_path: Path) -> None:
    port = common_port()
    users = {"gw": "gwpw"}
    sip = TRUNK.format(address="127.0.2.40", port=port, keepalive=0.2, more="")
    sip += 'register = true\nuser = "gw"\npassword = "gwpw"\nno_response_s = 0.5\n'
    async with box(sip, OUT) as gateway:
        await gateway.up("sip/carrier", condition=Condition.DOWN)
        async with Kamailio(tmp_path / "one", users, port=port):
            await gateway.up("sip/carrier")
        await gateway.up("sip/carrier", condition=Condition.DOWN)
        assert gateway.gateway.places["sip/carrier"][0].reason == "no answer to OPTIONS"
        async with Kamailio(tmp_path / "two", users, port=port) as proxy:
            await gateway.up("sip/carrier")
            assert "kamailio" in gateway.gateway.places["sip/carrier"][0].detail["agent"]
            # A call to nobody there is refused, which does not make the trunk bad.
            gateway.gateway.emit(
                CallRequested(origin="sip/carrier:none", target="sip/carrier:none", trace="t1")
            )
            ended = await gateway.wait(LegEnded)
            assert ended.detail.startswith("404")
            assert gateway.gateway.places["sip/carrier"][0].condition is Condition.UP
            assert proxy.process is not None


async def test_wrong_account_at_kamailio_is_said(tmp_path: Path) -> None:
    async with Kamailio(tmp_path / "kam", {"gw": "gwpw"}) as proxy:
        sip = TRUNK.format(address=proxy.address, port=proxy.port, keepalive=0.2, more="")
        sip += 'register = true\nuser = "gw"\npassword = "wrong"\n'
        async with box(sip) as gateway:
            await gateway.up("sip/carrier", condition=Condition.DOWN)
            place = gateway.gateway.places["sip/carrier"][0]
            assert re.match(r"registration refused: 40[137]", place.reason)
            assert "wrong" not in str(place)


async def test_second_carrier_takes_over_when_the_first_is_silent(tmp_path: Path) -> None:
    silent, port = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_DGRAM)
    sip = TRUNK.format(address="127.0.2.31", port=silent, keepalive=0, more="")
    sip += "no_response_s = 0.5\n"
    sip += f'[adapters.sip.trunks.second]\npeer = "sip:{CARRIER}:{port}"\nkeepalive_s = 0\n'
    routes = OUT.replace('{1}"]', '{1}", "sip/second:{1}"]')
    async with (
        box(sip, routes) as gateway,
        phone(tmp_path, "anna", "a1", gateway, hz=1000) as anna,
        sipp(tmp_path / "sipp", "uas.xml", "", port=port, arguments=("-rtp_echo",)) as carrier,
    ):
        await gateway.up("sip/anna", "sip/carrier", "sip/second")
        await anna.dial(gateway.uri("04711"))
        await anna.wait("CALL_ESTABLISHED")
        await gateway.wait(LegAnswered, lambda e: e.leg == "sip/second#1")
        await anna.hang_up()
        assert await carrier.done() == 0, carrier.said()
        legs = await gateway.legs(3)
    assert legs["sip/carrier#1"].cause == "no-response"
