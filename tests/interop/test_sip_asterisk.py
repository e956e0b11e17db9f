"""Asterisk as a trunk and as others' exchange: both ways, held, transferred by either side."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.core.events import LegHeld, LegRetrieved, TransferRequested
from gateway.lab.softphone import Softphone, free_port
from tests.interop.asterisk import ADDRESS, Asterisk
from tests.interop.peers import Box, assert_hears, box, need, phone, until

pytestmark = pytest.mark.interop

SIP = """
codecs = ["PCMU"]
digest = ["MD5"]
[adapters.sip.phones.anna]
password = "a1"
number = "201"
[adapters.sip.phones.bert]
password = "b1"
number = "202"
[adapters.sip.trunks.pbx]
peer = "sip:{address}:{port}"
keepalive_s = 1.0
"""
ROUTES = """
[[routes]]
name = "out"
called = "0(X.)"
targets = ["sip/pbx:{1}"]
[[routes]]
name = "in"
from = ["sip/pbx"]
called = "2XX"
targets = ["directory:{called}"]
"""
TALK_S = 4.0


@contextlib.asynccontextmanager
async def house(tmp_path: Path) -> AsyncIterator[tuple[Box, Asterisk, Softphone, Softphone]]:
    need("baresip")
    port = free_port(socket.SOCK_DGRAM)
    async with (
        box(SIP.format(address=ADDRESS, port=port), ROUTES) as gateway,
        Asterisk(tmp_path / "asterisk", gateway.port, port) as pbx,
        phone(tmp_path, "anna", "a1", gateway, hz=1000) as anna,
        phone(tmp_path, "bert", "b1", gateway, hz=440, answer="auto") as bert,
    ):
        await pbx.ready()
        await gateway.up("sip/anna", "sip/bert", "sip/pbx")
        yield gateway, pbx, anna, bert


@contextlib.asynccontextmanager
async def dora(tmp_path: Path, pbx: Asterisk, answer: str = "manual") -> AsyncIterator[Softphone]:
    """A telephone of Asterisk's."""
    there = ADDRESS, pbx.port
    async with phone(tmp_path, "dora", "d1", there, hz=600, answer=answer) as softphone:
        await until(lambda: "Added contact" in pbx.said(), "dora is registered")
        yield softphone


async def test_we_call_its_echo_and_hold_it(tmp_path: Path) -> None:
    async with house(tmp_path) as (gateway, _, anna, _):
        await anna.dial(gateway.uri("09000"))
        await anna.wait("CALL_ESTABLISHED")
        await asyncio.sleep(TALK_S)
        await anna.command("hold")
        await gateway.wait(LegHeld)
        await anna.command("resume")
        await gateway.wait(LegRetrieved)
        # baresip writes down nothing more once it has held.
        await anna.hang_up()
        legs = await gateway.legs(2)
    assert_hears(anna.heard(), 1000)
    assert {leg.cause for leg in legs.values()} == {"normal"}


async def test_its_telephone_calls_holds_and_transfers(tmp_path: Path) -> None:
    async with house(tmp_path) as (gateway, pbx, anna, bert), dora(tmp_path, pbx) as away:
        await away.dial(f"sip:201@{ADDRESS}:{pbx.port}")
        await anna.wait("CALL_INCOMING")
        await anna.accept()
        await away.wait("CALL_ESTABLISHED")
        await asyncio.sleep(TALK_S)
        await away.command("hold")
        await gateway.wait(LegHeld, lambda e: e.leg.startswith("sip/pbx"))
        await away.command("resume")
        await gateway.wait(LegRetrieved, lambda e: e.leg.startswith("sip/pbx"))
        await away.command("transfer", f"sip:202@{ADDRESS}:{pbx.port}")
        await bert.wait("CALL_ESTABLISHED")
        await asyncio.sleep(TALK_S)
        await anna.hang_up()
        await bert.wait("CALL_CLOSED")
        legs = await gateway.legs(4)
    assert_hears(bert.heard(), 1000, 600)
    assert {leg.cause for leg in legs.values()} == {"normal"}


async def test_we_transfer_its_call(tmp_path: Path) -> None:
    async with house(tmp_path) as (gateway, _, anna, bert):
        await anna.dial(gateway.uri("09000"))
        await anna.wait("CALL_ESTABLISHED")
        await asyncio.sleep(0.5)
        await anna.command("transfer", gateway.uri("202"))
        await bert.wait("CALL_ESTABLISHED")
        await anna.wait("CALL_CLOSED")
        await asyncio.sleep(TALK_S)
        await bert.hang_up()
        await gateway.legs(3)
    assert_hears(bert.heard(), 440, 1000)


async def test_it_transfers_our_call(tmp_path: Path) -> None:
    """Asterisk sends REFER to us; the caller goes on with bert, Asterisk is out of it."""
    async with house(tmp_path) as (gateway, pbx, anna, bert):
        await anna.dial(gateway.uri("09001"))
        await gateway.wait(TransferRequested)
        await bert.wait("CALL_ESTABLISHED")
        await asyncio.sleep(TALK_S)
        await anna.hang_up()
        await bert.wait("CALL_CLOSED")
        legs = await gateway.legs(3)
    assert_hears(bert.heard(), 1000)
    assert legs["sip/pbx#1"].cause == "normal"
    assert "Transfer" in pbx.said()
