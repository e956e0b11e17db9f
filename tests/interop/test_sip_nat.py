"""Phones behind NATs: flows that are kept (RFC 5626), STUN and CRLF keep-alives."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from gateway.core.events import LegEnded
from tests.interop.peers import Program, assert_hears, box, need, phone, until

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
CALLS = '[[routes]]\nname = "in"\ncalled = "(20X)"\nfrom = ["sip/*"]\ntargets = ["sip/bert"]\n'
OUTBOUND = ";sipnat=outbound"


async def test_a_stun_client_learns_its_address(tmp_path: Path) -> None:
    need("turnutils_stunclient")
    async with box(PHONES) as gateway:
        command = ["turnutils_stunclient", "-p", str(gateway.port), "-L", "127.0.0.1", "127.0.0.1"]
        async with Program(command, tmp_path / "stun") as client:
            await client.says("reflexive addr: 127.0.0.1:")
        assert re.search(r"reflexive addr: 127\.0\.0\.1:\d+", client.said())
        assert gateway.counters["keepalive"]
        assert not gateway.counters["garbage"]


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_a_phone_that_comes_back_elsewhere_replaces_its_binding(
    tmp_path: Path, transport: str
) -> None:
    async with box(PHONES, CALLS) as gateway:
        way = f";transport={transport}" if transport == "tcp" else ""
        extra = f'{OUTBOUND};outbound="sip:127.0.0.1:{gateway.port}{way}"'
        bert = phone(
            tmp_path, "bert", "b1", gateway, hz=440, answer="auto", transport=transport,
            extra=extra,
        )  # fmt: skip
        phones = gateway.sip._phones

        def bindings() -> list[tuple[str, int]]:
            now = gateway.gateway.hosts["sip"].now()
            return [(b.contact, b.reg_id) for b in phones.bindings("bert", now)]

        async with bert:
            await bert.registered()
            await until(lambda: len(bindings()) == 1, f"one binding: {bindings()}")
            (first,) = bindings()
            assert first[1] == 1
            # It loses power: nothing is taken back.
            assert bert._process is not None
            bert._process.kill()
            await bert._process.wait()
        log = (bert.directory / "log").read_text(errors="replace")
        assert "Require: outbound" in log
        bert.port = 0
        async with (
            bert,
            phone(tmp_path, "anna", "a1", gateway, hz=1000) as anna,
        ):
            await bert.registered()
            await until(lambda: bindings()[0] != first, "its new contact")
            assert len(bindings()) == 1
            await gateway.up("sip/anna", "sip/bert")
            await anna.dial(gateway.uri("202"))
            await anna.wait("CALL_ESTABLISHED")
            await asyncio.sleep(1.6)
            await anna.hang_up()
            await gateway.wait(LegEnded)
            await gateway.legs(2)
        assert_hears(bert.heard(), 1000, 440)
