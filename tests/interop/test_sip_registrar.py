"""The registrar's rules as SIPp meets them, and what an operator sees of a telephone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.interop import peers
from tests.interop.peers import ANNA, Box, box, until
from tests.interop.sipp_flow import Flow, perform, played
from tests.interop.test_capture import controlled, said
from tests.interop.test_sip_services import ELSEWHERE, HOUSE, phone

pytestmark = pytest.mark.interop

RULES = HOUSE.replace("keepalive_s = 0", "keepalive_s = 0\nmax_contacts = 2\nmax_expires_s = 600")


def asks(gateway: Box, contact: str, *headers: str) -> Flow:
    flow = phone(gateway, "anna")
    flow.contact = False
    return flow.send("REGISTER", "anna", f"Contact: {contact}", *headers)


async def test_intervals_and_places(tmp_path: Path) -> None:
    """Too brief is 423, too long is cut; one place more than allowed is 403 and changes nothing."""
    async with box(RULES, ELSEWHERE) as gateway:
        brief = asks(gateway, "<sip:anna@127.0.2.31:1>", "Expires: 10").gets(423, "Min-Expires: 60")
        long = asks(gateway, "<sip:anna@127.0.2.31:1>", "Expires: 86400").gets(200, "expires=600")
        await perform(tmp_path, brief, long)
        second = asks(gateway, "<sip:anna@127.0.2.31:2>").gets(200, ":1>", ":2>")
        await played(second.program(tmp_path, "second"))
        third = asks(gateway, "<sip:anna@127.0.2.31:3>").gets(403)
        await played(third.program(tmp_path, "third"))
        still = phone(gateway, "anna")
        still.contact = False
        still.send("REGISTER", "anna").gets(200, ":1>", ":2>", absent=[":3>"])
        await played(still.program(tmp_path, "still"))
        # Everybody at once is asked for alone, and for the end.
        mixed = Flow("anna", gateway)
        mixed.contact = False
        both = "Contact: *, <sip:anna@127.0.2.31:4>"
        mixed.send("REGISTER", "anna", both, "Expires: 0").gets(400)
        alive = asks(gateway, "*", "Expires: 300").gets(400)
        await perform(tmp_path, mixed, alive)


async def test_an_operator_sees_address_make_and_round_trip(tmp_path: Path) -> None:
    async with (
        box("keepalive_s = 0.3\n" + ANNA) as gateway,
        controlled(gateway),
        peers.phone(tmp_path, "anna", "a1", gateway, hz=440),
    ):
        await gateway.up("sip/anna")
        place = gateway.gateway.places
        await until(lambda: "rtt_ms" in place["sip/anna"][0].detail, "it answered OPTIONS")
        shown = await said(gateway, "endpoints", "sip/anna", "--detail")
        detail = json.loads(await said(gateway, "endpoints", "sip/anna", "--json"))
    assert "127.0.0.1" in shown
    assert "baresip" in shown
    assert float(re.findall(r'"rtt_ms": ?"([\d.]+)"', json.dumps(detail))[0]) < 10_000
