"""Calls in which much happens and nothing is wrong: none of it may be called a fault."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.core.actions import CloseBridge
from gateway.core.events import LegAnswered, LegEnded, LegHeld, LegOffered, LegRetrieved
from gateway.diagnosis.verdict import CLEAN
from gateway.lab.softphone import Softphone
from tests.interop import diag_site
from tests.interop.diag_site import CARRIER, said, verdict
from tests.interop.matrix_site import first_served
from tests.interop.peers import HERE, Box, Program, box, need, phone, sipp, until

pytestmark = pytest.mark.interop
HOUSE = f"""
digest = ["MD5"]
codecs = ["PCMU"]
comfort_noise = true
[adapters.sip.phones.anna]
password = "a1"
number = "201"
[adapters.sip.phones.bert]
password = "b1"
number = "202"
[adapters.sip.phones.carl]
password = "c1"
number = "203"
[adapters.sip.trunks.carrier]
peer = "sip:{CARRIER}:5060"
keepalive_s = 0
"""
ROUTES = """
[adapters.loopback.ports.t]
number = "900"
tone_hz = 425.0
[[routes]]
name = "room"
called = "800"
conference = "room"
[[routes]]
name = "phones"
called = "(20X)"
targets = ["directory:{1}"]
[[routes]]
name = "t"
called = "900"
targets = ["loopback/t"]
"""


@pytest.fixture(autouse=True)
def _before_others() -> Iterator[None]:
    with first_served():
        yield


@asynccontextmanager
async def house() -> AsyncIterator[tuple[Box, dict[str, Softphone]]]:
    """Three telephones that speak; bert and carl answer by themselves."""
    async with box(HOUSE, ROUTES) as gateway, contextlib.AsyncExitStack() as stack:
        phones = {}
        for name, hz in (("anna", 440), ("bert", 700), ("carl", 1000)):
            phones[name] = await stack.enter_async_context(
                phone(gateway.home, name, f"{name[0]}1", gateway, hz=hz,
                      answer="manual" if name == "anna" else "auto")
            )  # fmt: skip
            await phones[name].registered()
        yield gateway, phones


class StalledError(Exception):
    """This program stood still, or its phones: what that does to audio is a fault indeed."""


async def clean(gateway: Box, leg: str) -> None:
    found = await verdict(gateway.gateway, leg)
    assert said(found) == CLEAN, found
    if found.fault:
        raise StalledError(found.sentence)


async def over(gateway: Box) -> None:
    await until(lambda: not gateway.gateway.switchboard.calls, "no call any more")


async def hold(gateway: Box, phones: dict[str, Softphone]) -> str:
    """Anna puts bert on hold and comes back."""
    anna = phones["anna"]
    await anna.dial(gateway.uri("202"))
    answered = await gateway.wait(LegAnswered, lambda e: e.leg.startswith("sip/anna#"))
    await asyncio.sleep(1.0)
    await anna.command("hold")
    await gateway.wait(LegHeld, lambda e: e.leg == answered.leg)
    await asyncio.sleep(3.0)
    await anna.command("resume")
    await gateway.wait(LegRetrieved, lambda e: e.leg == answered.leg)
    await asyncio.sleep(2.5)
    await clean(gateway, answered.leg)
    await anna.hang_up()
    return answered.leg


async def transfer(gateway: Box, phones: dict[str, Softphone]) -> str:
    """Anna gives bert to carl as soon as she knows what he wants."""
    anna = phones["anna"]
    await anna.dial(gateway.uri("202"))
    answered = await gateway.wait(LegAnswered, lambda e: e.leg.startswith("sip/bert#"))
    await asyncio.sleep(1.5)
    await anna.command("transfer", gateway.uri("203"))
    await gateway.wait(LegAnswered, lambda e: e.leg.startswith("sip/carl#"))
    await gateway.wait(LegEnded, lambda e: e.leg.startswith("sip/anna#"))
    await asyncio.sleep(4.0)
    await clean(gateway, answered.leg)
    await phones["carl"].hang_up()
    return answered.leg


async def conference(gateway: Box, phones: dict[str, Softphone]) -> str:
    """Three meet; one leaves early, one listens more than he says."""
    legs = []
    for name in ("anna", "bert", "carl"):
        skip = len(gateway.seen)
        await phones[name].dial(gateway.uri("800"))
        answered = await gateway.wait(
            LegAnswered, lambda e, n=name: e.leg.startswith(f"sip/{n}#"), skip=skip
        )  # type: ignore[misc]
        legs.append(answered.leg)
    await asyncio.sleep(1.0)
    await phones["bert"].command("mute")
    await asyncio.sleep(3.0)
    await phones["bert"].command("mute")
    await asyncio.sleep(1.0)
    for leg in legs:
        await clean(gateway, leg)
    for name in ("carl", "bert", "anna"):
        await phones[name].hang_up()
    return legs[0]


@pytest.mark.parametrize("talk", [hold, transfer, conference])
async def test_nothing_is_wrong(
    talk: Callable[[Box, dict[str, Softphone]], Awaitable[str]],
) -> None:
    for _ in range(3):
        try:
            async with house() as (gateway, phones):
                leg = await talk(gateway, phones)
                await over(gateway)
                await gateway.wait(CloseBridge)
                await clean(gateway, leg)
            return
        except StalledError as stalled:
            why = stalled
    pytest.skip(f"this machine stalls: {why}")


async def test_silence_that_is_not_sent(tmp_path: Path) -> None:
    """A caller with silence suppression (RFC 3389) who says little."""
    need("sox", "sipp")
    sounds = await asyncio.to_thread(diag_site.octets, tmp_path / "sounds")
    for _ in range(3):
        try:
            await _says_little(tmp_path, sounds)
            return
        except StalledError as stalled:
            why = stalled
    pytest.skip(f"this machine stalls: {why}")


async def _says_little(tmp_path: Path, sounds: dict[str, Path]) -> None:
    async with (
        box(HOUSE, ROUTES) as gateway,
        Program([sys.executable, str(HERE / "rtp_sender.py")], tmp_path / "sender") as sender,
    ):
        site: Any = type("S", (), {"sounds": sounds, "sender": sender})()
        arguments = (
            "-s", "900", "-key", "caddr", CARRIER, "-key", "family", "IP4",
            "-key", "mport", "21000", "-key", "way", "sendrecv", "-key", "profile", "AVP",
            "-key", "more", "ptime:20", "-d", "9000",
        )  # fmt: skip
        async with sipp(
            tmp_path / "sipp", "diag.xml", f"127.0.0.1:{gateway.port}", arguments=arguments
        ) as caller:
            offered = await gateway.wait(LegOffered)
            await gateway.wait(LegAnswered, lambda e: e.leg == offered.leg)
            stream = gateway.gateway.patchbay.stream(offered.leg)
            assert stream is not None
            ends = {"from": [CARRIER, 21000], "to": list(stream.local)}
            diag_site.Site.send(site, **ends, seconds=8.7, talk_s=0.8, pause_s=1.2)
            await asyncio.sleep(7.0)
            await clean(gateway, offered.leg)
            stats = gateway.gateway.patchbay.stats(offered.leg)
            assert await caller.done(40) == 0, caller.said()
        await over(gateway)
        await clean(gateway, offered.leg)
    assert stats is not None
    assert stats.packets_received < 250, "it was silent most of the time"
