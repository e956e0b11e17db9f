"""Calls from one network into another, each end saying a frequency and hearing only the other's."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest

from gateway.core.causes import Cause
from gateway.core.events import LegAnswered, LegEnded, LegOffered, LegRinging
from gateway.lab.linecard import LineCard
from gateway.lab.softphone import free_port
from tests.cards import needs_card
from tests.interop.peers import (
    Kamailio,
    Linphone,
    assert_hears,
    box,
    microphone,
    mulaw,
    phone,
    sipp,
    until,
)
from tests.interop.test_analog import TALK_S, assert_only, speak

pytestmark = [pytest.mark.interop, needs_card]

PHONE = """
digest = ["MD5"]
codecs = ["PCMU", "PCMA"]
[adapters.sip.phones.anna]
password = "a1"
number = "201"
"""
TRUNK = """
digest = ["MD5"]
codecs = ["PCMU", "PCMA"]
[adapters.sip.trunks.carrier]
peer = "sip:{address}:{port}"
keepalive_s = {keepalive}
"""
LINES = """
[adapters.analog]
device_dir = "{card}"
[adapters.analog.ports.1]
kind = "fxs"
number = "11"
[adapters.analog.ports.2]
kind = "fxo"
dial_tone_s = 0.0
dial_delay_s = 0.5
answer = ["polarity"]

[[routes]]
name = "from the exchange"
from = ["fxo/2"]
targets = ["{inward}"]

[[routes]]
name = "from the carrier"
from = ["sip/carrier"]
called = "11"
targets = ["fxs/1"]

[[routes]]
name = "to the exchange"
called = "0(X.)"
targets = ["fxo/2:{{1}}"]

[[routes]]
name = "to the carrier"
from = ["fxs/1"]
called = "8(X.)"
targets = ["sip/carrier:{{1}}"]
"""
FXS_HZ, FXO_HZ, SIP_HZ = 440.0, 900.0, 600.0


async def test_linphone_with_a_telephone_and_with_the_exchange(tmp_path: Path) -> None:
    home = tmp_path / "lin"
    listened, wav = home / "heard.wav", microphone(tmp_path, SIP_HZ)
    async with (
        LineCard.start(fxs=1, fxo=1) as card,
        box(PHONE, LINES.format(card=card.directory, inward="sip/anna")
            .replace("sip/carrier:", "sip/anna:")) as gateway,
        Linphone(home, free_port(socket.SOCK_DGRAM), wav, listened) as linphone,
    ):  # fmt: skip
        gate, exchange = card.telephone(1), card.exchange(2)
        await linphone.tell(
            "soundcard use files", "ipv6 disable", f"play {wav}", f"record {listened}",
            f"register sip:anna@127.0.0.1:{gateway.port} sip:127.0.0.1:{gateway.port} a1",
        )  # fmt: skip
        await gateway.up("sip/anna", "fxs/1", "fxo/2")

        # The softphone calls the telephone.
        await linphone.tell(f"call {gateway.uri('11')}")
        await gate.wait_for_ring()
        await gate.lift()
        await linphone.says("connected")
        await linphone.tell(f"record {listened}")
        await asyncio.sleep(0.5)
        await speak(gate, FXS_HZ)
        await gate.record()
        await asyncio.sleep(TALK_S)
        assert_only(await gate.recorded(), SIP_HZ, FXS_HZ)
        await linphone.tell("terminate")
        ended = await gateway.wait(LegEnded, lambda e: e.leg.startswith("fxs/1"))
        assert ended.cause is Cause.NORMAL
        await until(listened.exists, "linphone's recording")
        assert_hears(listened, FXS_HZ, SIP_HZ)
        await gate.stop()
        await gate.hang_up()
        await until(lambda: not gateway.gateway.switchboard.calls, "no call any more")
        await asyncio.sleep(1.5)

        # The telephone calls the softphone.
        skip = len(gateway.seen)
        await gate.lift()
        await asyncio.sleep(0.3)
        await gate.dial_dtmf("201")
        await gateway.wait(LegRinging, lambda e: e.leg.startswith("sip/anna"), skip=skip)
        await linphone.tell("answer")
        await gateway.wait(LegAnswered, lambda e: e.leg.startswith("sip/anna"), skip=skip)
        await asyncio.sleep(0.3)
        await gate.record()
        await asyncio.sleep(TALK_S)
        assert_only(await gate.recorded(), SIP_HZ)
        await gate.hang_up()
        await gateway.wait(LegEnded, lambda e: e.leg.startswith("sip/anna"), skip=skip)

        # The exchange calls the softphone.
        skip = len(gateway.seen)
        await until(lambda: not gateway.gateway.switchboard.calls, "no call any more")
        await exchange.ring((800, 3000))
        await gateway.wait(LegRinging, lambda e: e.leg.startswith("sip/anna"), skip=skip)
        await linphone.tell("answer")
        await gateway.wait(LegAnswered, lambda e: e.leg.startswith("fxo/2"), skip=skip)
        await asyncio.sleep(0.3)
        await exchange.record()
        await asyncio.sleep(TALK_S)
        assert_only(await exchange.recorded(), SIP_HZ)
        await linphone.tell("terminate")
        await exchange.wait_for("released")
        records = await gateway.legs(6)
    assert {leg.cause for leg in records.values()} == {"normal"}


async def test_sipp_calls_a_telephone(tmp_path: Path) -> None:
    port = free_port(socket.SOCK_DGRAM)
    sip = TRUNK.format(address="127.0.2.30", port=port, keepalive=0)
    async with (
        LineCard.start(fxs=1, fxo=1) as card,
        box(sip, LINES.format(card=card.directory, inward="fxs/1")) as gateway,
    ):
        await gateway.up("sip/carrier", "fxs/1")
        gate = card.telephone(1)
        (tmp_path / "sipp").mkdir()
        mulaw(tmp_path / "sipp", SIP_HZ)
        async with sipp(
            tmp_path / "sipp", "uac.xml", f"127.0.0.1:{gateway.port}", port=port,
            arguments=("-s", "11", "-key", "user", "4711"),
        ) as carrier:  # fmt: skip
            await gate.wait_for_ring()
            await gate.lift()
            await gateway.wait(LegAnswered, lambda e: e.leg == "fxs/1#1")
            await speak(gate, FXS_HZ)
            await gate.record()
            await asyncio.sleep(1.6)
            assert_only(await gate.recorded(), SIP_HZ, FXS_HZ)
            assert await carrier.done() == 0, carrier.said()
        await gate.hang_up()
        legs = await gateway.legs(2)
    assert {leg.cause for leg in legs.values()} == {"normal"}
    # What SIPp is sent, it only counts; that it was sent is in the record.
    assert legs["sip/carrier#1"].packets_sent > 50


async def test_a_telephone_calls_sipp(tmp_path: Path) -> None:
    port = free_port(socket.SOCK_DGRAM)
    sip = TRUNK.format(address="127.0.2.30", port=port, keepalive=0)
    async with (
        LineCard.start(fxs=1, fxo=1) as card,
        box(sip, LINES.format(card=card.directory, inward="fxs/1")) as gateway,
        sipp(tmp_path / "sipp", "uas.xml", "", port=port, arguments=("-rtp_echo",)) as carrier,
    ):
        await gateway.up("sip/carrier", "fxs/1")
        gate = card.telephone(1)
        await gate.lift()
        await asyncio.sleep(0.3)
        await gate.dial_dtmf("84711#")
        await gateway.wait(LegAnswered, lambda e: e.leg == "sip/carrier#1")
        await speak(gate, FXS_HZ)
        await gate.record()
        await asyncio.sleep(TALK_S)
        assert_only(await gate.recorded(), FXS_HZ, SIP_HZ)  # its own echo: there and back
        await gate.hang_up()
        assert await carrier.done() == 0, carrier.said()
        legs = await gateway.legs(2)
    assert legs["sip/carrier#1"].called == "4711"
    assert {leg.cause for leg in legs.values()} == {"normal"}


async def test_a_kamailio_trunk_with_a_telephone_and_with_the_exchange(tmp_path: Path) -> None:
    """A phone of Kamailio's dials through the trunk out over the exchange, and is called."""
    async with (
        Kamailio(tmp_path / "kam", {"gw": "gwpw", "4711": "d1"}) as proxy,
        LineCard.start(fxs=1, fxo=1) as card,
        contextlib.AsyncExitStack() as stack,
    ):
        sip = TRUNK.format(address=proxy.address, port=proxy.port, keepalive=0.3)
        sip += 'register = true\nuser = "gw"\npassword = "gwpw"\n'
        routes = LINES.format(card=card.directory, inward="sip/carrier:4711")
        routes = routes.replace('called = "0(X.)"', 'called = "90(X.)"')
        gateway = await stack.enter_async_context(box(sip, routes))
        await gateway.up("sip/carrier", "fxs/1", "fxo/2")
        gate, exchange = card.telephone(1), card.exchange(2)
        dora = await stack.enter_async_context(phone(tmp_path, "4711", "d1", proxy.at, hz=SIP_HZ))
        await dora.registered()

        # Outward: trunk to exchange line.
        await dora.dial(f"sip:90561@{proxy.address}:{proxy.port}")
        assert await exchange.digits(3) == "561"
        await asyncio.sleep(1.0)
        await exchange.battery("reversed")
        await dora.wait("CALL_ESTABLISHED")
        await speak(exchange, FXO_HZ)
        await exchange.record()
        await asyncio.sleep(TALK_S)
        assert_only(await exchange.recorded(), SIP_HZ, FXO_HZ)
        await dora.hang_up()
        await exchange.wait_for("released")
        assert_hears(dora.heard(), FXO_HZ, SIP_HZ)
        await exchange.stop()
        await exchange.battery("on")
        await until(lambda: not gateway.gateway.switchboard.calls, "no call any more")
        await asyncio.sleep(2.2)

        # Inward: exchange line to trunk.
        seen, skip = len(dora.events), len(gateway.seen)
        await exchange.ring((800, 3000))
        await gateway.wait(LegOffered, lambda e: e.endpoint == "fxo/2", skip=skip)
        await dora.wait("CALL_INCOMING", skip=seen, within_s=15)
        await dora.accept()
        await gateway.wait(LegAnswered, lambda e: e.leg.startswith("fxo/2"), skip=skip)
        await speak(exchange, FXO_HZ)
        await exchange.record()
        await asyncio.sleep(TALK_S)
        assert_only(await exchange.recorded(), SIP_HZ, FXO_HZ)
        await exchange.drop(500)
        await dora.wait("CALL_CLOSED", skip=seen)
        assert_hears(dora.heard(), FXO_HZ, SIP_HZ)
        await exchange.stop()

        # A telephone calls through the trunk.
        seen, skip = len(dora.events), len(gateway.seen)
        await gate.lift()
        await asyncio.sleep(0.3)
        await gate.dial_dtmf("84711#")
        await dora.wait("CALL_INCOMING", skip=seen, within_s=15)
        await dora.accept()
        await gateway.wait(LegAnswered, lambda e: e.leg.startswith("sip/carrier"), skip=skip)
        await speak(gate, FXS_HZ)
        await gate.record()
        await asyncio.sleep(TALK_S)
        assert_only(await gate.recorded(), SIP_HZ, FXS_HZ)
        await gate.hang_up()
        await dora.wait("CALL_CLOSED", skip=seen)
        assert_hears(dora.heard(), FXS_HZ, SIP_HZ)
        legs = await gateway.legs(6)
    assert {leg.cause for leg in legs.values()} == {"normal"}
