"""Alarms from mosquitto_pub to people and back to mosquitto_sub, through a real gateway."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.core.events import AlarmRaised, CommandFinished, LegAnswered, LegEnded
from gateway.lab.linecard import LineCard
from gateway.lab.softphone import Softphone
from gateway.testing.audio import steady_level_at, tone, write_wav
from tests.adapters.mqtt_broker import Broker, Subscriber, needs_mosquitto, subscribed
from tests.cards import needs_card
from tests.interop.peers import ANNA, Box, assert_hears, box, phone, until
from tests.interop.test_analog import heard

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

[adapters.mqtt]
port = {broker}
box = "box1"
[adapters.mqtt.panels.house]
state_topic = "house/state"
command_topic = "house/set"
ack_topic = "house/ack"
kind = "fire"
severity = "critical"

[[routes]]
name = "fire"
on = "alarm"
kind = ["fire"]
targets = ["{who}"]
acknowledge = "1"
announce = {{ file = "fire.wav", repeat = 0 }}

[[routes]]
name = "arm"
called = "*1"
command = {{ endpoint = "mqtt/house", verb = "ARM_AWAY" }}
pins = {{ anna = "47110815" }}

[[routes]]
name = "disarm"
called = "*0"
command = {{ endpoint = "mqtt/house", verb = "DISARM" }}
pins = {{ anna = "47110815" }}
"""
FIRE_HZ = 850.0


@dataclass
class Stand:
    """A gateway between a broker, an analog telephone and a softphone."""

    gateway: Box
    broker: Broker
    card: LineCard
    anna: Softphone
    said: Subscriber
    """What is published on ``house/ack`` and ``house/set``."""

    async def raise_alarm(self) -> None:
        """The panel, played by mosquitto_pub, is triggered."""
        await self.gateway.up("sip/anna", "fxs/1")
        await self.broker.publish("house/state", "triggered")
        await self.gateway.wait(AlarmRaised)

    async def acknowledged(self, by: str) -> None:
        """Exactly one acknowledgement by this endpoint came out of the broker."""
        lines = await self.said.wait(1)
        assert len(lines) == 1
        topic, retained, payload = lines[0].split("|", 2)
        document = json.loads(payload)
        raised = await self.gateway.wait(AlarmRaised)
        assert (topic, retained) == ("house/ack", "0")
        assert (document["alarm"], document["by"]) == ("alarm", by)
        assert document["trace"] == raised.trace


@contextlib.asynccontextmanager
async def stand(directory: Path, who: str) -> AsyncIterator[Stand]:
    """`who` is called when there is a fire."""
    (directory / "mq").mkdir()
    broker = Broker(directory / "mq")
    broker.start()
    home = Path(tempfile.mkdtemp(prefix="alarm-"))  # a socket's path may have 107 octets
    (home / "sounds").mkdir()
    write_wav(home / "sounds" / "fire.wav", tone(FIRE_HZ, 20.0), rate=8000)
    try:
        async with (
            LineCard.start(fxs=1, fxo=0) as card,
            subscribed(broker, "house/ack", "-t", "house/set") as said,
            box(
                ANNA,
                REST.format(card=card.directory, broker=broker.port, who=who),
                home=home,
            ) as gateway,
            phone(directory, "anna", "a1", gateway, hz=440) as anna,
        ):
            await broker.publish("house/state", "disarmed", "-r")
            await gateway.up("mqtt/house")
            yield Stand(gateway, broker, card, anna, said)
    finally:
        broker.kill()
        shutil.rmtree(home)


async def test_a_softphone_hears_the_alarm_and_acknowledges(tmp_path: Path) -> None:
    async with stand(tmp_path, "sip/anna") as at:
        await at.raise_alarm()
        await at.anna.wait("CALL_INCOMING")
        await at.anna.accept()
        await at.anna.wait("CALL_ESTABLISHED")
        await asyncio.sleep(1.5)
        assert not at.said.lines, "acknowledged without a digit"
        await at.anna.press("1")
        await at.acknowledged("sip/anna")
        await at.anna.wait("CALL_CLOSED")
        (leg,) = (await at.gateway.legs(1)).values()
        assert leg.cause == "normal"
        assert leg.trace == (await at.gateway.wait(AlarmRaised)).trace
        assert_hears(at.anna.heard(), FIRE_HZ, 1300.0, seconds=0.6)


async def test_an_analog_telephone_hears_the_alarm_and_acknowledges(tmp_path: Path) -> None:
    async with stand(tmp_path, "fxs/1") as at:
        gate = at.card.telephone(1)
        await at.raise_alarm()
        await gate.wait_for_ring()
        await gate.lift()
        await at.gateway.wait(LegAnswered, lambda e: e.leg == "fxs/1#1")
        await gate.record()
        await asyncio.sleep(1.5)
        assert steady_level_at(heard(await gate.recorded()), FIRE_HZ) > -16.0
        await gate.dial_dtmf("2")
        await asyncio.sleep(0.5)
        assert not at.said.lines, "acknowledged by a wrong digit"
        await gate.dial_dtmf("1")
        await at.acknowledged("fxs/1")
        await at.gateway.wait(LegEnded)
        await gate.hang_up()
        (leg,) = (await at.gateway.legs(1)).values()
        assert leg.trace == (await at.gateway.wait(AlarmRaised)).trace


async def test_two_telephones_arm_and_disarm_with_a_pin(tmp_path: Path) -> None:
    async with stand(tmp_path, "sip/anna") as at:
        gateway, gate = at.gateway, at.card.telephone(1)
        await gateway.up("fxs/1", "sip/anna")
        await gate.lift()
        await asyncio.sleep(0.3)
        await gate.dial_dtmf("*1")
        await gateway.wait(LegAnswered)
        await asyncio.sleep(0.5)
        await gate.dial_dtmf("1234#")
        await asyncio.sleep(1.0)
        assert not at.said.lines, "a wrong PIN commands the panel"
        await gate.dial_dtmf("47110815#")
        assert await at.said.wait(1) == ["house/set|0|ARM_AWAY"]
        await at.broker.publish("house/state", "armed_away", "-r")
        assert (await gateway.wait(CommandFinished)).ok
        await gate.hang_up()

        skip = len(gateway.seen)
        await at.anna.dial(gateway.uri("*0"))
        await at.anna.wait("CALL_ESTABLISHED")
        await asyncio.sleep(0.5)
        await at.anna.press("47110815#")
        assert (await at.said.wait(2))[1] == "house/set|0|DISARM"
        await at.broker.publish("house/state", "disarmed", "-r")
        assert (await gateway.wait(CommandFinished, skip=skip)).ok
        await at.anna.wait("CALL_CLOSED")
        await until(lambda: not gateway.gateway.switchboard.calls, "no call any more")
        # Who knows the log does not know the PIN.
        journal = b"".join(
            file.read_bytes() for file in (gateway.home / "data").rglob("*") if file.is_file()
        )
        assert b"ARM_AWAY" in journal
        assert b"47110815" not in journal
