"""10: a broker that says nothing, says garbage, refuses, floods or hangs, with calls up."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import shutil
import socket
import time

from tests.adapters.mqtt_broker import Broker
from tests.reliability.invariants import Expected
from tests.reliability.lab import Lab
from tests.reliability.n09_broker import MQTT
from tests.reliability.net import FURTHER

MODES = ("silent", "garbage", "refusing", "huge", "hanging")
KEEPALIVE_S = 5
BACK_S = 60.0
PER_S = 2.0
CONNACK = b"\x20\x03\x00\x00\x00"
REFUSED = b"\x20\x03\x00\x87\x00"
"""Not authorized (MQTT 5.0 section 3.2.2.2)."""
HUGE = b"\x30\xff\xff\xff\x7f\x00\x01x\x00"
"""The first octets of a PUBLISH of 256 MB."""


class Front:
    """Stands before a broker: passes on what both say, or is worse than it (`mode`)."""

    def __init__(self, lab: Lab, broker: Broker) -> None:
        self.mode = "passing"
        self.n_connections = 0
        self._lab, self._broker = lab, broker
        self._open: set[asyncio.StreamWriter] = set()
        self._chance = random.Random(10)
        with lab.net.inside("b"):
            self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, sock=self._socket)

    def become(self, mode: str) -> None:
        """Behave so from now on; what hangs keeps the connections that it has."""
        self.mode = mode
        if mode != "hanging":
            for writer in self._open:
                writer.transport.abort()

    def close(self) -> None:
        self.become("closed")
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.n_connections += 1
        self._open.add(writer)
        try:
            with contextlib.suppress(OSError):
                await self._answer(reader, writer)
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        match self.mode:
            case "garbage":
                writer.write(self._chance.randbytes(20_000))
                await writer.drain()
            case "refusing":
                await reader.read(1000)
                writer.write(REFUSED)
                await writer.drain()
            case "huge":
                await reader.read(1000)
                writer.write(CONNACK + HUGE)
                while self.mode == "huge":
                    writer.write(bytes(1 << 20))
                    await writer.drain()
                    await asyncio.sleep(0.02)
            case "passing":
                await self._pass(reader, writer)
            case _:
                while await reader.read(1000):
                    pass

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with self._lab.net.inside("b"):
            sock = socket.create_connection(("127.0.0.1", self._broker.port))
        there, to_there = await asyncio.open_connection(sock=sock)

        async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                while self.mode == "hanging":
                    await asyncio.sleep(0.1)
                target.write(data)
                await target.drain()

        both = [asyncio.create_task(carry(reader, to_there)),
                asyncio.create_task(carry(there, writer))]  # fmt: skip
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            to_there.transport.abort()


async def run(lab: Lab) -> None:
    """Calls do not notice, memory stays, the gateway is back when the broker is itself again."""
    if shutil.which("mosquitto") is None:
        lab.check(False, "mosquitto is not installed")
        return
    home = lab.home / "broker"
    home.mkdir()
    with lab.net.inside("b"):
        broker = Broker(home)
        broker.start()
    front = Front(lab, broker)
    await front.start()
    try:
        await _run(lab, broker, front)
        await lab.daemon.stop()
    finally:
        front.close()
        broker.kill()


async def _run(lab: Lab, broker: Broker, front: Front) -> None:
    await lab.start(routes=MQTT.format(port=front.port, keepalive_s=KEEPALIVE_S))
    caller, called = lab.ends()
    probe = lab.party("b", FURTHER[0])
    await lab.warm(caller)
    pairs = await lab.talk(caller, called, lab.load)
    enough = asyncio.Event()
    calling = asyncio.create_task(lab.churn(caller, PER_S, enough))
    longest, most, tries = 0.0, 0, {}
    for mode in MODES:
        front.become(mode)
        before, until = front.n_connections, time.monotonic() + (120.0 if lab.full else 12.0)
        while time.monotonic() < until:
            most = max(most, lab.daemon.rss_kb() - lab.was.rss_kb)
            await asyncio.sleep(0.5)
        tries[mode] = front.n_connections - before
        known = _came(broker)
        front.become("passing")
        began = time.monotonic()
        while _came(broker) == known and time.monotonic() < began + BACK_S:
            await asyncio.sleep(0.1)
        took = time.monotonic() - began
        lab.check(took < BACK_S, f"{mode}: not back after {BACK_S:g} s")
        longest = max(longest, took)
    enough.set()
    talks = await calling
    refused = [talk.status for talk in talks if not talk.answered_at]
    lab.check(not refused, f"{len(refused)} calls were refused: {refused[:5]}")
    lab.expected |= {talk.calling: Expected(answered=bool(talk.answered_at)) for talk in talks}
    await lab.hear(pairs, what="after")
    await lab.end(caller, pairs)
    lab.check(most <= lab.rss_kb, f"memory {most / 1024:+.1f} MB meanwhile")
    lab.figure(back_after_s=round(longest, 1), tries=tries, most_mb=round(most / 1024, 1))
    await lab.judge(caller, probe)


def _came(broker: Broker) -> int:
    return len(re.findall(r"New client connected .* as box1-mqtt", broker.log))
