"""A telephone (baresip, SIPp) talks to a radio (a node of SvxLink) by its voice alone."""

from __future__ import annotations

import array
import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from gateway.core.actions import Key
from gateway.core.events import FloorReleased, FloorRequested, LegAnswered, LegEnded
from gateway.lab.softphone import free_port
from gateway.testing.audio import level_at, tone, write_wav
from tests.interop.matrix_site import _toml as toml
from tests.interop.peers import Box, box, phone, sipp, until
from tests.interop.svxlink import RATE, Node, reflector

pytestmark = pytest.mark.interop

SPOKEN_S, SILENT_S = 2.0, 2.0
HANG_S = 0.5
HZ, ON_AIR_HZ = 1000.0, 700.0
SIP = """
digest = ["MD5"]
codecs = ["PCMU"]
[adapters.sip.phones]
anna = { password = "a1", number = "201" }
"""
TRUNK = """
digest = ["MD5"]
codecs = ["PCMU"]
[adapters.sip.trunks.carrier]
peer = "sip:127.0.2.30:{port}"
keepalive_s = 0
"""


def radio(node: Node, **fields: Any) -> str:
    """The radio, and who is called: it, or by it the carrier; vox in `fields`."""
    calls = fields.pop("calls", "")
    target = "sip/carrier:4711" if calls else "radio/a"
    site = toml({"transmit": True, "calls": calls, "reflector": reflector(node)})
    route = toml({"hang_ms": round(HANG_S * 1000), **fields})
    return f"""
[adapters.radio.radios]
a = {site}
[[routes]]
name = "the only one"
targets = ["{target}"]
vox = {route}
"""


def tone_s(node: Node, hz: float) -> float:
    """How long the node has transmitted a tone, in seconds."""
    samples = array.array("h", bytes(node.heard[: len(node.heard) & ~1]))
    step = RATE // 25
    pieces = (samples[at : at + step] for at in range(0, len(samples) - step, step))
    return sum(level_at(list(piece), hz, rate=RATE) > -25 for piece in pieces) * step / RATE


async def keyings(node: Node, seconds: float) -> list[tuple[float, float]]:
    """When the node's transmitter was keyed and released, for so long."""
    loop = asyncio.get_running_loop()
    begin, found, on_at = loop.time(), [], -1.0
    while loop.time() < begin + seconds:
        if node.keyed and on_at < 0:
            on_at = loop.time()
        elif not node.keyed and on_at >= 0:
            found.append((on_at, loop.time()))
            on_at = -1.0
        await asyncio.sleep(0.01)
    return found


async def connected(gateway: Box, endpoint: str) -> str:
    answered = await gateway.wait(LegAnswered, lambda e: e.leg.startswith(f"{endpoint}#"))
    return answered.leg


async def test_who_talks_is_on_the_air_and_who_is_silent_is_not(tmp_path: Path) -> None:
    turns = array.array("h", bytes(round(16000 * SILENT_S)))
    turns.extend(tone(HZ, SPOKEN_S))
    write_wav(tmp_path / f"tone{HZ:g}-8000.wav", turns * 5)  # what `phone` speaks
    async with (
        Node(tmp_path) as node,
        box(SIP, radio(node)) as gateway,
        phone(tmp_path, "anna", "a1", gateway, hz=HZ) as anna,
    ):
        await gateway.up("sip/anna", "radio/a")
        await anna.dial(gateway.uri("241"))
        leg = await connected(gateway, "sip/anna")
        await until(lambda: not node.keyed, "nothing is said yet")
        await gateway.wait(FloorRequested, lambda e: e.leg == leg)
        await until(lambda: node.keyed, "keyed")
        await until(lambda: not node.keyed, "released")
        node.heard.clear()
        (over,) = await keyings(node, SILENT_S + SPOKEN_S + HANG_S + 0.7)
        heard_s = tone_s(node, HZ)
        # Attack, and what it takes to the node's key, is all that is lost of what was said; it is
        # heard to its end, and the hang time is how long it stays keyed after that.
        assert SPOKEN_S - 0.4 < heard_s < SPOKEN_S + 0.1, f"{heard_s:.2f} s of speech on the air"
        extra_s = over[1] - over[0] - heard_s
        assert HANG_S - 0.15 < extra_s < HANG_S + 0.5, f"keyed {extra_s:.2f} s too long"

        # Somebody on the air answers, and goes on while he begins again: the radio comes first.
        seen = len(gateway.seen)
        node.tone_hz = ON_AIR_HZ
        node.squelch(True)
        await gateway.wait(FloorRequested, lambda e: e.leg.startswith("radio/a#"), skip=seen)
        await gateway.wait(FloorRequested, lambda e: e.leg == leg, skip=seen)
        await asyncio.sleep(0.5)
        assert not node.keyed
        node.squelch(False)
        await gateway.wait(FloorReleased, lambda e: e.leg.startswith("radio/a#"), skip=seen)
        assert not node.keyed
        await until(lambda: node.keyed, "he has the floor, as he still speaks")
        found = [each.event for each in gateway.seen[seen:]]
        assert found.count(FloorRequested(leg=leg)) == 1, "he did not have to begin anew"
        await anna.hang_up()
        await until(lambda: not node.keyed, "released with the end of the call")
        await gateway.wait(LegEnded, lambda e: e.leg == leg)


@pytest.mark.parametrize(("echo_loss_db", "trips"), [(-6.0, False), (20.0, True)])
async def test_the_radio_heard_back_from_the_telephone(
    tmp_path: Path, echo_loss_db: float, trips: bool
) -> None:
    """SIPp returns every packet: the worst echo there is, and as loud as what was sent."""
    port = free_port(socket.SOCK_DGRAM)
    async with (
        Node(tmp_path) as node,
        box(TRUNK.format(port=port), radio(node, calls="0", echo_loss_db=echo_loss_db)) as gateway,
        sipp(tmp_path / "sipp", "uas.xml", "", port=port, arguments=("-rtp_echo",)),
    ):
        await gateway.up("radio/a")
        node.tone_hz = ON_AIR_HZ
        node.squelch(True)
        leg = await connected(gateway, "sip/carrier")
        await asyncio.sleep(1.0)
        node.squelch(False)
        await gateway.wait(FloorReleased, lambda e: e.leg.startswith("radio/a#"))
        await asyncio.sleep(1.2)
        keyed = [e for e in gateway.seen if isinstance(e.action, Key)]
        asked = [e for e in gateway.seen if e.event == FloorRequested(leg=leg)]
        assert bool(asked) is trips
        if not trips:
            assert not keyed
            assert "T" not in node.ptt
