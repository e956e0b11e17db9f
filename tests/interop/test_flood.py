"""Garbage and floods on every door at once: the other networks work, and all of it is counted."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.core.events import LegAnswered, LegEnded
from gateway.lab.linecard import LineCard
from tests.adapters.mqtt_broker import Broker, free_port, needs_mosquitto
from tests.cards import needs_card
from tests.fresh import descriptors
from tests.interop.peers import ANNA, Box, box, phone, until
from tests.interop.test_analog import TALK_S, assert_only, speak

pytestmark = [
    pytest.mark.interop,
    needs_mosquitto,
    needs_card,
]

REST = """
[adapters.analog]
device_dir = "{card}"
[adapters.analog.ports.1]
kind = "fxs"
number = "11"
[adapters.analog.ports.2]
kind = "fxs"
number = "12"

[adapters.mqtt]
port = {broker}
box = "box1"
[adapters.mqtt.panels.house]
state_topic = "house/state"
kind = "fire"

[adapters.modbus.servers.main]
host = "127.0.0.1"
port = {modbus}
"""
_SPOILT = (
    b"INVITE sip:11@127.0.0.1 ANNA/2.0\r\nVia: ANNA/2.0/UDP 127.0.0.1:9;branch=z9hG4bK%d\r\n"
    b"From: <sip:x@y>;tag=1\r\nTo: <sip:11@z>\r\nCall-ID: %d\r\nCSeq: 1 INVITE\r\n"
    b"Content-Length: 99999\r\n\r\nv=0\r\n"
)


async def _datagrams(port: int, chance: random.Random) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.3.1", 0))
        while True:
            for n in range(20):
                garbage = chance.randbytes(chance.randrange(1, 1400))
                with contextlib.suppress(OSError):
                    sock.sendto(chance.choice((garbage, _SPOILT % (n, n))), ("127.0.0.1", port))
            await asyncio.sleep(0.01)


async def _streams(port: int, chance: random.Random) -> None:
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(chance.choice((chance.randbytes(3000), _SPOILT % (1, 1))))
                await asyncio.wait_for(writer.drain(), 1.0)
                await asyncio.sleep(0.05)
            finally:
                writer.close()
        await asyncio.sleep(0.01)


async def _messages(broker: Broker, chance: random.Random) -> None:
    for _ in range(4):
        await broker.publish("house/state", chance.randbytes(3000))
        lines = b"\n".join(b"%x" % chance.getrandbits(64) for _ in range(2000))
        process = await asyncio.create_subprocess_exec(
            "mosquitto_pub", "-h", "127.0.0.1", "-p", str(broker.port), "-t", "house/state", "-l",
            stdin=asyncio.subprocess.PIPE,
        )  # fmt: skip
        await process.communicate(lines)


@contextlib.asynccontextmanager
async def _attacked(gateway: Box, broker: Broker, modbus: int) -> AsyncIterator[None]:
    chance = random.Random(1)
    attacks = [
        asyncio.create_task(attack)
        for attack in (
            _datagrams(gateway.port, chance), _streams(gateway.port, chance),
            _streams(modbus, chance), _messages(broker, chance),
        )
    ]  # fmt: skip
    try:
        yield
    finally:
        for attack in attacks:
            attack.cancel()
        ends = await asyncio.gather(*attacks, return_exceptions=True)
        assert not [e for e in ends if isinstance(e, Exception)], ends


async def test_calls_go_on_under_garbage_on_every_door(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mq").mkdir()
    broker = Broker(tmp_path / "mq")
    broker.start()
    modbus = free_port()
    try:
        async with (
            LineCard.start(fxs=2, fxo=0) as card,
            box(
                ANNA, REST.format(card=card.directory, broker=broker.port, modbus=modbus)
            ) as gateway,
            phone(tmp_path, "anna", "a1", gateway, hz=1000, answer="auto") as anna,
        ):
            await gateway.up("sip/anna", "fxs/1", "fxs/2")
            gate, desk = card.telephone(1), card.telephone(2)
            before = descriptors(tidy=True)
            async with _attacked(gateway, broker, modbus):
                await asyncio.sleep(0.5)
                # Telephone to telephone, and telephone to the network that is flooded.
                await gate.lift()
                await asyncio.sleep(0.3)
                await gate.dial_dtmf("12")
                await desk.wait_for_ring()
                await desk.lift()
                await gateway.wait(LegAnswered, lambda e: e.leg == "fxs/1#1")
                await speak(desk, 700)
                await gate.record()
                await asyncio.sleep(TALK_S)
                assert_only(await gate.recorded(), 700)
                await desk.hang_up()
                await gateway.wait(LegEnded, lambda e: e.leg == "fxs/1#1")
                await gate.hang_up()
                await asyncio.sleep(1.5)
                began, skip = time.monotonic(), len(gateway.seen)
                await gate.lift()
                await asyncio.sleep(0.3)
                await gate.dial_dtmf("201")
                await gateway.wait(LegAnswered, lambda e: e.leg.startswith("sip/anna"), skip=skip)
                assert time.monotonic() - began < 5.0
                await gate.record()
                await asyncio.sleep(TALK_S)
                assert_only(await gate.recorded(), 1000)
                await gate.hang_up()
                await anna.wait("CALL_CLOSED")
            await gateway.legs(4)
            hosts = gateway.gateway.hosts
            assert all(host.up for host in hosts.values())
            for name in ("sip", "mqtt", "modbus"):
                assert sum(hosts[name].counters.values()) > 5, (name, hosts[name].counters)
            await until(lambda: descriptors() <= before + 3, "descriptors leak")
    finally:
        broker.kill()
    said = "".join(capfd.readouterr())
    assert "Traceback" not in said
    assert said.count("\n") < 200, "the log is flooded"
