"""Calls from RTP, in bad weather, into other networks: what is common to line, station, radio."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import json
import pickle
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gateway.runtime import Gateway
from tests.interop.peers import Box, box
from tests.quality.judge import PCMU, Weather, chain, find, mos
from tests.quality.report import Report
from tests.quality.rtp import CEILING_MOS
from tests.quality.speech import Material
from tests.quality.systems import FAR, NEAR
from tests.quality.trunk import Trunk, sdp

SIP = """
codecs = ["PCMU"]
[adapters.sip.trunks.near]
peer = "sip:{ip}:{port}"
keepalive_s = 0
calls = 20
dtmf = "info"
"""
EXTENSIONS = """
[[routes]]
name = "extensions"
called = "(1X)"
targets = ["directory:{1}"]
"""


class Heard:
    """Samples as they come: 8 kHz, and when each piece of them was there."""

    def __init__(self) -> None:
        self.pieces: list[np.ndarray] = []
        self._ends: list[int] = []
        self._times: list[float] = []
        self.on = False

    def add(self, pcm: np.ndarray, at: float | None = None) -> None:
        """A piece was heard just now."""
        if not self.on:
            return
        self.pieces.append(pcm)
        self._ends.append((self._ends[-1] if self._ends else 0) + len(pcm))
        self._times.append(time.time() if at is None else at)

    def pcm(self) -> np.ndarray:
        """All of it."""
        return np.concatenate(self.pieces) if self.pieces else np.zeros(0, np.int16)

    def at(self, sample: int) -> float:
        """When a sample was there."""
        k = min(bisect.bisect_right(self._ends, sample), len(self._times) - 1)
        # A piece is there as a whole, except a long one: that has been recorded from its beginning.
        begin = self._ends[k - 1] if k else 0
        long = len(self.pieces[k]) > 8000
        return self._times[k] + ((sample - begin) / 8000 if long else 0.0)


class Place(Protocol):
    """Somebody who is called."""

    number: str

    async def answer(self) -> None:
        """Wait until it rings, and answer."""

    async def listen(self) -> None:
        """What is heard from now on counts."""

    async def heard(self) -> Heard:
        """What was heard since then."""

    async def hang_up(self) -> None:
        """End it."""


@contextlib.asynccontextmanager
async def site(home: Path, configuration: str) -> AsyncIterator[tuple[Box, Trunk]]:
    """A gateway in this process, and a trunk to it."""
    caller: Trunk
    trunk = Trunk(NEAR, ("127.0.0.1", 0), lambda _: "")
    await trunk.open()
    caller = trunk
    async with box(SIP.format(ip=NEAR, port=trunk.port), configuration, home=home) as found:
        caller.gateway = ("127.0.0.1", found.port)
        yield found, caller
        caller.hang_up()
        await asyncio.sleep(0.5)
    caller.close()


def _depths(gateway: Gateway) -> dict[int, int]:
    """What the gateway states for its jitter buffers, by our ports."""
    found: dict[int, int] = {}
    for leg in gateway.switchboard.legs:
        stats = gateway.patchbay.stats(leg)
        host, _, port = (stats.remote if stats else "").rpartition(":")
        if stats and host == NEAR:
            found[int(port)] = stats.buffer_ms
    return found


async def _watch(report: Report) -> None:
    """Note how long this program stands still."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + 0.01
        await asyncio.sleep(0.01)
        report.stall_s = max(report.stall_s, loop.time() - due)


async def play(
    report: Report, part: str, name: str, gateway: Box, trunk: Trunk,
    places: Sequence[tuple[Place, Weather]], material: Material, ceiling_pcm: np.ndarray | None,
    home: Path, *, press: str = "",
) -> None:  # fmt: skip
    """Call each place in its weather, at the same time; speak; judge what was heard.

    ceiling_pcm: what would be heard without losses if nothing but codecs were between (8 kHz);
    None: only the trunk's own.
    """
    octets, out = home / "octets", home / "out"
    octets.write_bytes(PCMU.encode(material.narrow))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.quality.media",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    wish = {"streams": len(places), "near": NEAR, "far": FAR}
    process.stdin.write(json.dumps(wish).encode() + b"\n")
    ports = json.loads(await process.stdout.readline())["near"]
    plan = []
    for (place, weather), port in zip(places, ports, strict=True):
        answering = asyncio.create_task(place.answer())
        to = await trunk.call(place.number, sdp(NEAR, port, "PCMU", 0))
        await answering
        if press:
            trunk.press(press)
        due = weather.schedule(octets.stat().st_size // 160)
        plan.append({"to": to, "type": 0, "file": str(octets), "due": due})
    await asyncio.sleep(0.5)
    for place, _ in places:
        await place.listen()
    process.stdin.write(json.dumps({"plan": plan, "out": str(out)}).encode() + b"\n")
    await process.stdin.drain()
    ended = asyncio.create_task(process.wait())
    stated: dict[int, list[int]] = {}
    watching = asyncio.create_task(_watch(report))
    while not ended.done():
        await asyncio.wait({ended}, timeout=1.0)
        if not ended.done():
            for port, depth in _depths(gateway.gateway).items():
                stated.setdefault(port, []).append(depth)
    watching.cancel()
    sent = pickle.loads(out.read_bytes())["sent"]
    for i, (place, weather) in enumerate(places):
        listened = await place.heard()
        await place.hang_up()
        depths = stated.get(ports[i], [])
        row = await asyncio.to_thread(
            _row, name, weather, material, listened, sent[i], depths, ceiling_pcm
        )
        targets = [("above repetition", row["mos"] > row["repetition"])]
        if not weather.loss:
            targets = [("the codec's ceiling", row["mos"] >= row["ceiling"] - CEILING_MOS)]
        report.add(part, row, targets)


def _row(
    name: str, weather: Weather, material: Material, listened: Heard,
    sent: list[tuple[float, int]], depths: list[int], ceiling_pcm: np.ndarray | None,
) -> dict[str, Any]:  # fmt: skip
    pcm = listened.pcm()
    at = {n: t for t, n in sent}
    delays = []
    for begin, end in material.spans if len(pcm) else ():
        first = int(8000 * begin)
        shift = find(material.narrow[first : int(8000 * end)], pcm) - first
        for n in range(int(50 * begin) + 1, int(50 * end) - 1):
            last = 160 * n + 159 + shift
            if n in at and 0 <= last < len(pcm):
                delays.append(1000 * (listened.at(last) - at[n]))
    plain = chain(material, PCMU, PCMU, weather)
    ceiling = chain(material, PCMU, PCMU, Weather()) if ceiling_pcm is None else ceiling_pcm
    delays.sort()
    return {
        "path": name, "weather": str(weather), "mos": round(mos(material, pcm), 3),
        "repetition": round(mos(material, plain), 3), "ceiling": round(mos(material, ceiling), 3),
        "delay_p50_ms": round(delays[len(delays) // 2], 1) if delays else None,
        "delay_p99_ms": round(delays[int(0.99 * (len(delays) - 1))], 1) if delays else None,
        "buffer_ms": round(statistics.mean(depths), 1) if depths else None,
    }  # fmt: skip
