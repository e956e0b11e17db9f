"""What an adapter tells of its wire: both ways, and never a code."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.adapters.mqtt import Mqtt
from gateway.core.actions import AcknowledgeAlarm, Command
from gateway.core.events import AlarmRaised, PanelChanged
from gateway.protocols.packets import published
from gateway.testing.host import TestHost
from tests.adapters.mqtt_broker import Broker, needs_mosquitto, subscribed

pytestmark = [needs_mosquitto, pytest.mark.interop]


async def test_messages_are_told_and_codes_are_not(tmp_path: Path) -> None:
    (tmp_path / "mq").mkdir()
    broker = Broker(tmp_path / "mq")
    broker.start()
    try:
        host = TestHost("mqtt", data_dir=tmp_path)
        panel = {
            "state_topic": "house/state",
            "command_topic": "house/set",
            "command_payload": "{{ action }} {{ code }}",
            "commands": {"ARM_AWAY": "away"},
        }
        adapter = host.make(
            Mqtt,
            {"host": "127.0.0.1", "port": broker.port, "panels": {"house": panel}},
        )
        async with host.running(), subscribed(broker, "house/set") as sub:
            await broker.publish("house/state", "disarmed", "-r")
            await host.wait_for(PanelChanged, state="disarmed")
            adapter.command(
                Command(
                    command="c",
                    endpoint="mqtt/house",
                    verb="ARM_AWAY",
                    code="83650917",
                    by="guard",
                    trace="t1",
                )
            )
            (line,) = await sub.wait(1)
            assert "83650917" in line
    finally:
        broker.kill()
    wires = host.exchange.wires.entries()
    told = [(each.about, each.outward, each.words, each.key) for each in wires]
    assert ("mqtt/house", False, "house/state disarmed", "") in told
    assert ("", True, "house/set (hidden)", "t1") in told
    assert "83650917" not in str(wires)
    assert published(bytes(wires[-1].data)) == ("house/set", b"(hidden)")  # type: ignore[arg-type]


async def test_a_trace_comes_and_goes_as_user_property(tmp_path: Path) -> None:
    """A peer's id, also in the form of RFC 7989, is the alarm's trace, and goes back with it."""
    (tmp_path / "mq").mkdir()
    broker = Broker(tmp_path / "mq")
    broker.start()
    bare = "0123456789abcdef0123456789abcdef"
    trace = "01234567-89ab-cdef-0123-456789abcdef"
    try:
        host = TestHost("mqtt", data_dir=tmp_path)
        panel = {"state_topic": "house/state", "ack_topic": "house/ack"}
        adapter = host.make(
            Mqtt, {"host": "127.0.0.1", "port": broker.port, "panels": {"house": panel}}
        )
        async with (
            host.running(),
            subscribed(broker, "house/ack", "-F", "%P|%p") as sub,
        ):
            await broker.publish(
                "house/state", "triggered", "-D", "publish", "user-property", "trace", bare
            )
            alarm = await host.wait_for(AlarmRaised)
            assert alarm.trace == trace
            adapter.acknowledge_alarm(
                AcknowledgeAlarm(
                    endpoint="mqtt/house", alarm=alarm.alarm, by="guard", trace=alarm.trace
                )
            )
            (line,) = await sub.wait(1)
            assert f"trace:{trace}" in line
    finally:
        broker.kill()
