"""``kill -9``: nothing that had happened is forgotten, and what was going on is carried on."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from gateway.core.alarms import ALERTS
from gateway.testing.wires import SerialLine
from tests.adapters.mqtt_broker import Broker, needs_mosquitto, subscribed
from tests.box import Box, wait_until

_MQTT = """
[adapters.mqtt]
port = {port}
box = "box1"
[adapters.mqtt.panels.house]
state_topic = "house/state"
ack_topic = "house/ack"
kind = "fire"
severity = "critical"
"""


def _legs(box: Box) -> dict[str, str]:
    """Cause by leg, of all records; no leg twice."""
    found = box.json("records", "--legs")
    assert len({leg["leg"] for leg in found}) == len(found)
    return {leg["leg"]: leg["cause"] for leg in found}


def test_records_of_calls_that_were_over_and_of_those_that_were_not() -> None:
    box = Box()
    try:
        box.start()
        for _ in range(3):  # the last one ends an instant before the gateway does
            box.ok("dial", "loopback/alice", "loopback/bob", "--wait")
            box.ok("hangup", "loopback/bob")
            box.wait_for_no_call()
        box.ok("dial", "loopback/alice", "loopback/bob", "--wait")
        box.wait_for_call()
        box.kill()
        finished = {f"loopback/{who}#{n}": "normal" for who in ("alice", "bob") for n in (1, 2, 3)}
        box.start()
        legs = wait_until(lambda: len(found := _legs(box)) >= 8 and found, "eight records")
        assert {leg: legs.get(leg) for leg in finished} == finished
        rest = {leg: cause for leg, cause in legs.items() if leg not in finished}
        assert len(rest) == 2
        assert "normal" not in rest.values()
        assert box.json("calls") == []
        kept = list((box.home / "data").rglob("*"))
        assert kept
        assert not [path for path in kept if path.stat().st_mode & 0o007], "others may look"
        # The third start finds nothing to mend.
        box.kill()
        box.start()
        assert _legs(box) == legs
    finally:
        box.close()


@pytest.mark.interop
@needs_mosquitto
async def test_an_alarm_in_its_middle_is_carried_on(tmp_path: Path) -> None:
    (tmp_path / "mq").mkdir()
    broker = Broker(tmp_path / "mq")
    broker.start()
    box = Box(carol=_MQTT.format(port=broker.port))
    try:
        async with subscribed(broker, "house/ack") as said:
            await broker.publish("house/state", "disarmed", "-r")
            await asyncio.to_thread(box.start)
            await broker.publish("house/state", "triggered", "-r")
            (before,) = await asyncio.to_thread(
                wait_until,
                lambda: [c for c in box.json("calls") if c["legs"]],
                "somebody is called",
            )
            (alarm,) = await asyncio.to_thread(box.json, "alarms")
            assert alarm["state"] == "active"
            # A disk that is busy with other things is awaited for a quarter of a second only.
            await asyncio.to_thread(
                wait_until, lambda: alarm["trace"] in box.journal(), "the alarm is written down"
            )
            box.kill()
            await asyncio.to_thread(box.start)
            (after,) = await asyncio.to_thread(
                wait_until, lambda: [c for c in box.json("calls") if c["legs"]], "and again"
            )
            assert after["trace"] == before["trace"]
            assert [leg["endpoint"] for leg in after["legs"]] == ["loopback/bob"]
            (again,) = await asyncio.to_thread(box.json, "alarms")
            assert (again["state"], again["trace"]) == ("active", alarm["trace"])
            assert not said.lines
            await asyncio.to_thread(box.ok, "alarms", "ack", "mqtt/house")
            (line,) = await said.wait(1)
            assert json.loads(line.split("|", 2)[2])["trace"] == alarm["trace"]
            await asyncio.to_thread(box.wait_for_no_call)
            # What was acknowledged is not carried on by the next run.
            await asyncio.to_thread(
                wait_until, lambda: "CloseAlarm" in box.journal(), "that is written down"
            )
            box.kill()
            await broker.publish("house/state", "disarmed", "-r")
            await asyncio.to_thread(box.start)
            await asyncio.to_thread(
                wait_until, lambda: '"disarmed"' in _this_run(box), "the panel is heard"
            )
            assert '"Dial"' not in _this_run(box)
            assert await asyncio.to_thread(box.json, "alarms") == []
    finally:
        await asyncio.to_thread(box.close)
        broker.kill()


def _this_run(box: Box) -> str:
    return box.journal().rpartition('{"opened":')[2]


@pytest.mark.interop
@needs_mosquitto
async def test_an_acknowledged_alarm_stays_so_until_its_panel_says_otherwise(
    tmp_path: Path,
) -> None:
    (tmp_path / "mq").mkdir()
    broker = Broker(tmp_path / "mq")
    broker.start()
    box = Box(carol=_MQTT.format(port=broker.port))

    async def kill_and_start(*said: str) -> None:
        box.kill()
        for state in said:
            await broker.publish("house/state", state, "-r", "-q", "1")
        await asyncio.to_thread(box.start)
        await asyncio.to_thread(
            wait_until, lambda: '"AlarmRaised"' in _this_run(box), "the panel is heard"
        )

    async def acknowledge() -> None:
        await asyncio.to_thread(
            wait_until, lambda: any(c["legs"] for c in box.json("calls")), "somebody is called"
        )
        await asyncio.to_thread(box.ok, "alarms", "ack", "mqtt/house")
        await asyncio.to_thread(wait_until, lambda: "CloseAlarm" in _this_run(box), "it is written")

    try:
        await asyncio.to_thread(box.start)
        await broker.publish("house/state", "triggered", "-r", "-q", "1")
        await acknowledge()
        (before,) = await asyncio.to_thread(box.json, "alarms")
        for _ in range(2):
            await kill_and_start()
            (alarm,) = await asyncio.to_thread(
                wait_until, lambda: box.json("alarms"), "the alarm is known"
            )
            assert alarm["state"] == "acknowledged"
            assert (alarm["trace"], alarm["by"]) == (before["trace"], before["by"])
            assert await asyncio.to_thread(box.json, "calls") == []
            assert '"Dial"' not in _this_run(box)
        # The broker has kept what the panel said meanwhile: it went and came again.
        await kill_and_start("disarmed", "triggered")
        await acknowledge()
        (again,) = await asyncio.to_thread(box.json, "alarms")
        assert again["trace"] != before["trace"]
    finally:
        await asyncio.to_thread(box.close)
        broker.kill()


_DETECTORS = """
[adapters.mqtt]
port = {port}
[adapters.mqtt.devices.hall]
[[adapters.mqtt.devices.hall.topics]]
topic = "hall"
[[adapters.mqtt.devices.hall.topics.alarms]]
alarm = "{{/id}}"
path = "/is"
raised = ["on"]
cleared = ["off"]
kind = "help"
[[routes]]
name = "help"
on = "alarm"
kind = ["help"]
stop_on_clear = false
targets = ["loopback/bob"]
acknowledge = "1"
ring_s = 3600  # nobody gives up while a busy machine starts the next run
"""


@pytest.mark.interop
@needs_mosquitto
async def test_what_waits_behind_others_is_carried_on_though_it_was_cleared(
    tmp_path: Path,
) -> None:
    """A help button comes back by itself before anybody has been told of it."""
    (tmp_path / "mq").mkdir()
    broker = Broker(tmp_path / "mq")
    broker.start()
    box = Box(carol=_DETECTORS.format(port=broker.port))
    try:
        await asyncio.to_thread(box.start)
        said = [json.dumps({"id": f"b{n}", "is": "on"}) for n in range(ALERTS + 1)]
        said.append(json.dumps({"id": f"b{ALERTS}", "is": "off"}))
        await broker.publish_lines("hall", said)
        await asyncio.to_thread(
            wait_until,
            # On a slow machine the gateway has an alarm of its own, which goes again.
            lambda: any(
                '"AlarmCleared"' in line and f'"b{ALERTS}"' in line
                for line in box.journal().splitlines()
            ),
            "the last one is cleared",
            60.0,
        )
        box.kill()
        await asyncio.to_thread(box.start)
        found = await asyncio.to_thread(
            wait_until,
            lambda: len(found := box.json("alarms")) > ALERTS and found,
            "all of them are carried on",
            30.0,
        )
        assert {a["alarm"]: a["state"] for a in found}[f"b{ALERTS}"] == "active"
    finally:
        await asyncio.to_thread(box.close)
        broker.kill()


_EXCHANGE = """
[adapters.exchange]
kind = "intercom"
port = "{port}"
profile = "touchline"
[adapters.exchange.stations.gate]
address = "101"
audio = "none"
[[routes]]
name = "help"
on = "input"
from = ["exchange/gate"]
input = "dak1"
above = 0.5
targets = ["loopback/bob"]
acknowledge = "1"
"""


def test_a_button_on_a_serial_line_is_carried_on_though_it_was_let_go() -> None:
    """An alarm that an input began: killed in its middle, told on by the next run, once."""
    with SerialLine() as line:
        box = Box(carol=_EXCHANGE.format(port=line.path))
        try:
            box.start()
            wait_until(
                lambda: box.json("endpoints", "exchange/bus")[0]["condition"] == "up", "is up"
            )
            line.write(b"02C1 101\r02E1 101\r")  # pressed and let go
            (before,) = wait_until(
                lambda: [c for c in box.json("calls") if c["legs"]], "somebody is called"
            )
            box.kill()
            box.start()
            (after,) = wait_until(lambda: [c for c in box.json("calls") if c["legs"]], "and again")
            assert after["trace"] == before["trace"]
            (alarm,) = box.json("alarms")
            assert (alarm["endpoint"], alarm["alarm"]) == ("exchange/gate", "dak1")
            assert (alarm["state"], alarm["trace"]) == ("active", before["trace"])
            box.ok("alarms", "ack", "exchange/gate")
            box.wait_for_no_call()
            box.kill()
            box.start()
            assert box.json("calls") == []
            assert [a["state"] for a in box.json("alarms")] in ([], ["acknowledged"])
        finally:
            box.close()
