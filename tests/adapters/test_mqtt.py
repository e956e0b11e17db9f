"""Panels, devices, outputs, acknowledgements and discovery, against mosquitto and its clients."""

from __future__ import annotations

import asyncio
import json
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.adapters.mqtt import Mqtt
from gateway.core.actions import AcknowledgeAlarm, Command, SetOutput
from gateway.core.endpoints import Condition
from gateway.core.events import (
    AcknowledgeRequested,
    AlarmAcknowledged,
    AlarmCleared,
    AlarmRaised,
    CommandFinished,
    InputChanged,
    PanelChanged,
    Quality,
    Severity,
)
from gateway.errors import ConfigError, Unsupported
from gateway.testing import Scenario, check_adapter
from gateway.testing.host import TestHost
from tests.adapters.mqtt_broker import Broker, needs_mosquitto, subscribed, until

pytestmark = [needs_mosquitto, pytest.mark.interop]

PANEL = {
    "state_topic": "house/state",
    "command_topic": "house/set",
    "availability": {"topic": "house/online"},
    "ack_topic": "house/ack",
    "kind": "intrusion",
    "severity": "critical",
    "text": "Break-in",
    "command_timeout_s": 1.0,
}


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    (tmp_path / "mq").mkdir()
    broker = Broker(tmp_path / "mq")
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture(params=["5", "3.1.1"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make(tmp_path: Path, broker: Broker, **section: Any) -> TestHost:
    data = tmp_path / "data"
    data.mkdir(exist_ok=True)
    host = TestHost("mqtt", data_dir=data)
    section = {"port": broker.port, "box": "box1", "keepalive_s": 5} | section
    host.make(Mqtt, section)
    return host


async def test_contract(tmp_path: Path, broker: Broker) -> None:
    config = {
        "port": broker.port,
        "panels": {"house": PANEL | {"outputs": {"siren": {"topic": "siren"}}}, "site": {}},
    }

    async def garbage(adapter: Any, world: Any) -> None:
        await broker.publish("house/state", b"\x00\xff")
        await broker.publish("house/state", "disarmed")

    report = await check_adapter(Mqtt, config, Scenario(garbage=garbage))
    # It has no legs.
    assert set(report.unchecked) == {"A05", "A06", "A07", "A12"}


async def test_panel_states(tmp_path: Path, broker: Broker, version: str) -> None:
    host = make(tmp_path, broker, version=version, panels={"house": PANEL})
    assert host.endpoints["mqtt/house"].alarm
    assert host.endpoints["mqtt/house"].condition is Condition.UNKNOWN
    await broker.publish("house/online", "online", "-r")
    await broker.publish("house/state", "disarmed", "-r")
    async with host.running():
        await host.wait_for(PanelChanged, state="disarmed")
        await until(lambda: host.endpoints["mqtt/house"].condition is Condition.UP, "up")
        before = host.now()
        await broker.publish("house/state", "triggered", "-D", "publish", "user-property",
                             "trace", "0190-abc")  # fmt: skip
        raised = await host.wait_for(AlarmRaised)
        assert (raised.endpoint, raised.alarm, raised.kind) == ("mqtt/house", "alarm", "intrusion")
        assert (raised.severity, raised.text) == (Severity.CRITICAL, "Break-in")
        assert before <= raised.raised_at <= host.now()
        assert (raised.trace == "0190-abc") == (version == "5")
        assert raised.trace
        await host.wait_for(PanelChanged, state="triggered")
        await broker.publish("house/state", "triggered")
        await broker.publish("house/state", "disarmed")
        await host.wait_for(AlarmCleared, count=2)
        assert len(host.of(AlarmRaised)) == 1, "the same again is not news"
        await broker.publish("house/online", "offline")
        await until(lambda: host.endpoints["mqtt/house"].condition is Condition.DOWN, "down")
        await broker.publish("house/state", "on fire")
        await broker.publish("house/state", b"\xff\xfe")
        await until(lambda: host.counters["mqtt.bad_payload"] == 2, "bad payloads counted")
        complaints = [line for line in host.logged.lines if line[1] == "message not understood"]
        assert len(complaints) == 1, "one line a minute for each topic"
    assert host.refused == []


async def test_panel_commands(tmp_path: Path, broker: Broker, version: str) -> None:
    template = '{"action":"{{ action }}","code":"{{ code }}","by":"{{ by }}"}'
    panel = PANEL | {"command_payload": template, "commands": {"ARM_AWAY": "away"}}
    host = make(tmp_path, broker, version=version, panels={"house": panel})
    adapter = host.adapter
    async with host.running(), subscribed(broker, "house/set") as sub:
        await broker.publish("house/state", "disarmed", "-r")
        await host.wait_for(PanelChanged, state="disarmed")

        began = time.perf_counter()
        adapter.command(
            Command(command="c1", endpoint="mqtt/house", verb="ARM_AWAY", code='12"3', by="guard")
        )
        assert time.perf_counter() - began < 0.5
        (line,) = await sub.wait(1)
        topic, retain, payload = line.split("|", 2)
        assert (topic, retain) == ("house/set", "0")
        assert json.loads(payload) == {"action": "away", "code": '12"3', "by": "guard"}
        await broker.publish("house/state", "arming")
        await host.wait_for(PanelChanged, state="arming")
        assert host.of(CommandFinished) == []
        await broker.publish("house/state", "armed_away", "-r")
        done = await host.wait_for(CommandFinished, command="c1")
        assert (done.ok, done.detail) == (True, "armed_away")

        adapter.command(Command(command="c2", endpoint="mqtt/house", verb="DISARM"))
        failed = await host.wait_for(CommandFinished, command="c2")
        assert (failed.ok, failed.detail) == (False, "still armed_away after 1 s")

        adapter.command(Command(command="c3", endpoint="mqtt/house", verb="ARM_AWAY"))
        assert (await host.wait_for(CommandFinished, command="c3")).detail == "already armed_away"
        with pytest.raises(Unsupported, match="ARM_VACATION"):
            adapter.command(Command(command="c4", endpoint="mqtt/house", verb="ARM_VACATION"))
        with pytest.raises(Unsupported):
            adapter.command(Command(command="c5", endpoint="mqtt/other", verb="DISARM"))

        broker.kill()
        await until(lambda: host.endpoints["mqtt/house"].condition is Condition.DOWN, "down")
        adapter.command(Command(command="c6", endpoint="mqtt/house", verb="DISARM"))
        refused = await host.wait_for(CommandFinished, command="c6")
        assert (refused.ok, refused.detail) == (False, "no connection to the broker")
    assert len(sub.lines) == 2, "nothing was sent late"


async def test_acknowledgement_both_ways(tmp_path: Path, broker: Broker, version: str) -> None:
    host = make(tmp_path, broker, version=version, panels={"house": PANEL})
    async with host.running(), subscribed(broker, "house/ack") as sub:
        host.adapter.acknowledge_alarm(
            AcknowledgeAlarm(endpoint="mqtt/house", alarm="alarm", by="sip/guard-1", trace="t1")
        )
        (line,) = await sub.wait(1)
        said = json.loads(line.split("|", 2)[2])
        assert abs(said.pop("time") - time.time()) < 5
        assert said == {"alarm": "alarm", "by": "sip/guard-1", "trace": "t1"}
        await broker.publish("house/ack", '{"alarm":"alarm","by":"console"}')
        event = await host.wait_for(AlarmAcknowledged)
        assert (event.endpoint, event.alarm, event.by) == ("mqtt/house", "alarm", "console")
        assert len(host.of(AlarmAcknowledged)) == 1, "our own came back and was taken for another's"


async def test_any_payload_by_rules(tmp_path: Path, broker: Broker) -> None:
    device = {
        "topics": [
            {
                "topic": "plant/{zone}/+/smoke",
                "alarms": [
                    {
                        "alarm": "{zone}-{/id}",
                        "path": "/s",
                        "raised": ["ALARM"],
                        "cleared": ["OK"],
                        "acknowledged": ["ACK"],
                        "kind": "fire",
                        "severity_path": "/level",
                        "severities": {"2": "critical"},
                        "text": "Smoke in {zone}: {/msg}",
                        "by": "{/who}",
                    }
                ],
                "inputs": [{"input": "temp-{zone}", "path": "/t", "scale": 0.1}],
            },
            {
                "topic": "plant/door",
                "format": "text",
                "inputs": [{"input": "door", "values": {"OPEN": 1, "CLOSED": 0}}],
            },
        ]
    }
    host = make(tmp_path, broker, devices={"plant": device})
    assert host.endpoints["mqtt/plant"].inputs == ("door",)
    async with host.running():
        smoke = {"id": "d7", "s": "ALARM", "level": 2, "msg": "beam\n", "t": 215}
        await broker.publish("plant/hall/x/smoke", json.dumps(smoke))
        raised = await host.wait_for(AlarmRaised)
        assert (raised.alarm, raised.kind, raised.severity, raised.text) == (
            "hall-d7", "fire", Severity.CRITICAL, "Smoke in hall: beam",
        )  # fmt: skip
        assert (await host.wait_for(InputChanged, input="temp-hall")).value == 21.5
        await broker.publish("plant/door", "OPEN")
        assert (await host.wait_for(InputChanged, input="door")).value == 1.0
        await broker.publish("plant/hall/x/smoke", '{"id":"d7","s":"ACK","who":"porter"}')
        assert (await host.wait_for(AlarmAcknowledged)).by == "porter"
        await broker.publish("plant/hall/x/smoke", '{"id":"d7","s":"OK"}')
        assert (await host.wait_for(AlarmCleared)).alarm == "hall-d7"
        for garbage in ("{", "[]", '{"id":"d7","s":"WHAT"}', '{"s":"ALARM","id":7,"t":"warm"}'):
            await broker.publish("plant/hall/x/smoke", garbage)
        await until(lambda: host.counters["mqtt.bad_payload"] == 4, "garbage counted")
        broker.kill()
        stale = await host.wait_for(InputChanged, input="door", quality=Quality.STALE)
        assert stale.value == 1.0
        assert host.endpoints["mqtt/plant"].condition is Condition.DOWN
        broker.start()
        await until(lambda: host.endpoints["mqtt/plant"].condition is Condition.UNKNOWN, "back")
        await broker.publish("plant/door", "OPEN")
        await host.wait_for(InputChanged, input="door", quality=Quality.GOOD, count=2)
    assert len(host.of(AlarmRaised)) == 1
    assert host.refused == []


async def test_outputs(tmp_path: Path, broker: Broker, version: str) -> None:
    outputs = {
        "siren": {"topic": "siren/set", "on": "SOUND", "off": "QUIET"},
        "level": {"topic": "level/set", "payload": '{"v":{{ value }}}', "keep": True},
    }
    host = make(tmp_path, broker, version=version, devices={"hall": {"outputs": outputs}})
    host.adapter.safe_state()
    async with subscribed(broker, "+/set") as sub:
        async with host.running():
            siren = SetOutput(endpoint="mqtt/hall", output="siren", value=1, pulse_ms=200)
            began = time.monotonic()
            host.adapter.set_output(siren)
            await sub.wait(2)
            assert 0.15 < time.monotonic() - began < 15.0
            host.adapter.set_output(SetOutput(endpoint="mqtt/hall", output="level", value=2.5))
            host.adapter.set_output(SetOutput(endpoint="mqtt/hall", output="siren", value=1))
            await sub.wait(4)
            host.adapter.safe_state()
            host.adapter.safe_state()
            await sub.wait(8)
            host.adapter.set_output(SetOutput(endpoint="mqtt/hall", output="siren", value=1))
            with pytest.raises(Unsupported, match="siren, level"):
                host.adapter.set_output(SetOutput(endpoint="mqtt/hall", output="x", value=1))
        await sub.wait(10)
        await broker.shows("gw/box1/status", "offline")
    said = [line.split("|", 2)[2] for line in sub.lines]
    assert said[:4] == ["SOUND", "QUIET", '{"v":2.5}', "SOUND"]
    assert said[4:8] == ["QUIET", '{"v":0}'] * 2
    assert said[8:] == ["SOUND", "QUIET"], "off when we stop, and kept outputs are left alone"


async def test_output_of_an_outage_is_not_switched_late(tmp_path: Path, broker: Broker) -> None:
    outputs = {"siren": {"topic": "siren/set"}, "lamp": {"topic": "lamp/set"}}
    host = make(tmp_path, broker, command_ttl_s=0.2, devices={"hall": {"outputs": outputs}})
    async with host.running():
        host.adapter.set_output(SetOutput(endpoint="mqtt/hall", output="lamp", value=1))
        broker.kill()
        await until(lambda: host.endpoints["mqtt/hall"].condition is Condition.DOWN, "down")
        host.adapter.set_output(SetOutput(endpoint="mqtt/hall", output="siren", value=1))
        host.adapter.set_output(SetOutput(endpoint="mqtt/hall", output="lamp", value=0))
        await asyncio.sleep(0.3)
        broker.start()
        async with subscribed(broker, "+/set") as sub:
            await sub.wait(1)
            assert host.counters["mqtt.outputs_expired"] == 1
            assert sub.lines == ["lamp/set|0|OFF"]


async def test_home_assistant_meets_our_panel(tmp_path: Path, broker: Broker, version: str) -> None:
    hosted = {
        "label": "Site",
        "kind": "panic",
        "mirror": ["modbus/*"],
        "codes": {"pins": {"anna": "4711"}, "without_code": ["TRIGGER"]},
    }
    section: dict[str, Any] = {
        "version": version,
        "homeassistant": {"birth_delay_s": 0.2},
        "panels": {"site": hosted},
    }
    host = make(tmp_path, broker, **section)
    face = "gw/box1/panel/site"

    def ask(action: str, **more: Any) -> str:
        return json.dumps({"action": action} | more)

    async with host.running(), subscribed(broker, f"{face}/result") as results:
        topic = "homeassistant/alarm_control_panel/box1-mqtt/site/config"
        config = json.loads(await broker.get(topic))
        assert config["command_topic"] == f"{face}/command"
        assert config["code"] == "REMOTE_CODE_TEXT"
        assert "arm_away" in config["supported_features"]
        assert config["retain"] is False
        await broker.shows(config["state_topic"], "disarmed")
        assert [await broker.get(a["topic"]) for a in config["availability"]] == ["online"] * 2

        # Wrong, missing and right code.
        await broker.publish(f"{face}/command", ask("ARM_AWAY", code="0000", time=time.time()))
        await broker.publish(f"{face}/command", "ARM_AWAY")
        await broker.publish(f"{face}/command", ask("ARM_AWAY", code="4711", time=time.time()))
        await results.wait(3)
        answers = [json.loads(line.split("|", 2)[2]) for line in results.lines]
        assert [(a["ok"], a["detail"]) for a in answers] == [
            (False, "wrong code"), (False, "no code"), (True, "armed_away"),
        ]  # fmt: skip
        assert answers[2]["by"] == "anna"
        assert "4711" not in str(host.logged.lines) + str(host.events) + "".join(results.lines)
        await broker.shows(config["state_topic"], "armed_away")
        await host.wait_for(PanelChanged, state="armed_away")

        # Old and retained commands.
        old = ask("DISARM", code="4711", time=time.time() - 60)
        await broker.publish(f"{face}/command", old)
        await results.wait(4)
        assert "too old" in results.lines[3]
        await broker.publish(f"{face}/command", ask("DISARM", code="4711"), "-r")
        if version == "5":
            await until(lambda: host.counters["mqtt.retained_ignored"] == 1, "retained counted")
            await broker.shows(config["state_topic"], "armed_away")

        # The panic button.
        await broker.publish(f"{face}/command", ask("TRIGGER"))
        raised = await host.wait_for(AlarmRaised)
        assert (raised.endpoint, raised.kind) == ("mqtt/site", "panic")
        # A new Home Assistant that knows nothing.
        async with subscribed(broker, topic, "-R") as discovery:
            await broker.publish("homeassistant/status", "online")
            await discovery.wait(1)
        await broker.publish(f"{face}/command", ask("DISARM", code="4711"))
        await host.wait_for(AlarmCleared)

    await broker.publish(f"{face}/command", ask("ARM_HOME", code="4711"), "-r")
    host = make(tmp_path, broker, **section)
    async with host.running():
        await until(lambda: host.counters["mqtt.retained_ignored"] == 1, "retained counted")
        await broker.shows(f"{face}/state", "disarmed")
        # Five wrong codes lock the panel, even for the right one.
        async with subscribed(broker, f"{face}/result") as results:
            for n in range(5):
                await broker.publish(f"{face}/command", ask("DISARM", code=f"000{n}"))
            await broker.publish(f"{face}/command", ask("ARM_HOME", code="4711"))
            await results.wait(6)
            assert "locked" in results.lines[5]
    # Out of the configuration, out of Home Assistant.
    host = make(tmp_path, broker, version=version, panels={})
    async with host.running():
        await broker.shows(topic, "")


async def test_our_panel_remembers_and_mirrors(tmp_path: Path, broker: Broker) -> None:
    from tests.adapters.test_mqtt_events import envelope

    section: dict[str, Any] = {"panels": {"site": {"mirror": ["modbus/*"]}}}
    host = make(tmp_path, broker, **section)
    async with host.running():
        for command, verb in (("a", "ARM_NIGHT"), ("b", "TRIGGER")):
            host.adapter.command(Command(command=command, endpoint="mqtt/site", verb=verb))
            assert (await host.wait_for(CommandFinished, command=command)).ok
    host = make(tmp_path, broker, **section)
    async with host.running():
        await host.wait_for(AlarmRaised)
        host.adapter.command(Command(command="c", endpoint="mqtt/site", verb="DISARM"))
        await host.wait_for(AlarmCleared)
        await broker.shows("gw/box1/panel/site/state", "disarmed")
        gas = {"endpoint": "modbus/gas", "alarm": "co"}
        host.publish(envelope(AlarmRaised(**gas, trace="t", raised_at=0.0)))
        await host.wait_for(PanelChanged, state="triggered", count=2)
        await broker.shows("gw/box1/panel/site/state", "triggered")
        host.publish(envelope(AlarmCleared(**gas)))
        await host.wait_for(PanelChanged, state="disarmed")
    assert host.refused == []


async def test_disarming_a_mirror_acknowledges(tmp_path: Path, broker: Broker) -> None:
    from tests.adapters.test_mqtt_events import envelope

    hosted = {"mirror": ["modbus/*"], "codes": {"pins": {"anna": "4711"}}}
    host = make(tmp_path, broker, panels={"site": hosted})
    async with host.running():
        gas = AlarmRaised(endpoint="modbus/gas", alarm="co", trace="t", raised_at=0.0)
        host.publish(envelope(gas))
        await host.wait_for(PanelChanged, state="triggered")
        await broker.publish("gw/box1/panel/site/command", '{"action":"DISARM","code":"4711"}')
        asked = await host.wait_for(AcknowledgeRequested)
        assert (asked.endpoint, asked.alarm, asked.by) == ("modbus/gas", "co", "anna")


async def test_presented_panel_passes_commands_on(tmp_path: Path, broker: Broker) -> None:
    panel = PANEL | {"present": True, "codes": {"without_code": ["ARM_AWAY"]}}
    host = make(tmp_path, broker, panels={"house": panel})
    face = "gw/box1/panel/house"
    async with host.running(), subscribed(broker, "#", "-R") as sub:
        await broker.publish("house/online", "online", "-r")
        await broker.publish("house/state", "disarmed", "-r")
        await host.wait_for(PanelChanged, state="disarmed")
        await broker.publish(f"{face}/command", "DISARM")
        await broker.publish(f"{face}/command", "ARM_AWAY")
        await until(lambda: "house/set|0|ARM_AWAY" in sub.lines, "command passed on")
        await broker.publish("house/state", "armed_away", "-r")
        await until(lambda: any('"armed_away"' in line for line in sub.lines), "answer")
        await broker.shows(f"{face}/state", "armed_away")
        await broker.shows(f"{face}/availability", "online")
        assert "house/set|0|DISARM" not in sub.lines
        assert host.counters["mqtt.commands_refused"] == 1
        assert host.of(CommandFinished) == []


async def test_flood_starves_nobody(tmp_path: Path, broker: Broker) -> None:
    device = {
        "topics": [
            {
                "topic": "noisy/#",
                "inputs": [{"input": "n", "path": "/n"}],
                "alarms": [
                    {"alarm": "a", "path": "/a", "raised": ["1"], "cleared": ["0"]},
                ],
            }
        ]
    }
    host = make(
        tmp_path, broker, rate=10.0, burst=10, devices={"noisy": device}, panels={"house": PANEL}
    )
    n = 5000
    lines = "".join(f'{{"n":{i},"a":{i % 2}}}\n' for i in range(1, n + 1))
    async with host.running():
        flood = await asyncio.create_subprocess_exec(
            "mosquitto_pub", "-h", "127.0.0.1", "-p", str(broker.port), "-t", "noisy/x", "-l",
            stdin=asyncio.subprocess.PIPE,
        )  # fmt: skip
        feeding = asyncio.get_running_loop().create_task(flood.communicate(lines.encode()))
        await host.wait_for(InputChanged)
        began = time.monotonic()
        await broker.publish("house/state", "triggered")
        await host.wait_for(AlarmRaised, endpoint="mqtt/house")
        assert time.monotonic() - began < 10.0
        await feeding
        await host.wait_for(InputChanged, value=float(n), within_s=20.0)
        await host.wait_for(AlarmCleared, endpoint="mqtt/noisy")
        emitted = len([e for e in host.events if getattr(e, "endpoint", "") == "mqtt/noisy"])
        # Ten at once, ten a second, and as many alarms raised as cleared.
        assert emitted < 2 * (10 + 10 * (time.monotonic() - began + 2))
        assert host.counters["mqtt.rate_limited"] > n
        alarms = [e for e in host.events if isinstance(e, AlarmRaised | AlarmCleared)]
        noisy = [type(e) for e in alarms if e.endpoint == "mqtt/noisy"]
        assert noisy[::2] == [AlarmRaised] * len(noisy[::2])
        assert noisy[1::2] == [AlarmCleared] * len(noisy[1::2])


async def test_oversized_is_counted(tmp_path: Path, broker: Broker, version: str) -> None:
    host = make(tmp_path, broker, version=version, message_limit=1024, panels={"house": PANEL})
    async with host.running():
        await broker.publish("house/state", b"x" * 2_000_000)
        await broker.publish("house/state", b"x" * 2000)
        await broker.publish("house/state", "disarmed")
        await host.wait_for(PanelChanged, state="disarmed")
        # With MQTT 5 the broker spares us the first.
        assert host.counters["mqtt.oversized"] == (1 if version == "5" else 2)
        assert host.counters["mqtt.disconnects"] == 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"panels": {"x": {"state_topic": "a/+"}}}, "wildcard"),
        ({"panels": {"x": {"severity": "bad"}}}, "severity"),
        ({"panels": {"x": {"command_topic": "a"}}}, "state_topic"),
        ({"panels": {"x": {"codes": {"pins": {"a": "123"}}}}}, "four"),
        ({"panels": {"x": {}}, "devices": {"x": {}}}, "both"),
        ({"devices": {"x": {"topics": [{"topic": "a/#/b"}]}}}, "'#'"),
        ({"panles": {}}, "panels"),
        ({"port": 70000}, "70000"),
        ({"events": {"maximum": 1}}, "100"),
    ],
)
def test_configuration_errors(tmp_path: Path, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TestHost("mqtt", data_dir=tmp_path).make(Mqtt, wrong)
    assert says in str(caught.value)


def test_the_example_is_valid(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "hardware/examples/mqtt.toml").read_text()
    for secret in ("mqtt.password", "control-room.pin"):
        (tmp_path / secret).write_text("471147\n")
        text = text.replace(f"/etc/crosspoint/{secret}", str(tmp_path / secret))
    host = TestHost("mqtt", data_dir=tmp_path)
    host.make(Mqtt, tomllib.loads(text)["adapters"]["mqtt"])
    assert set(host.endpoints) == {"mqtt/house", "mqtt/site", "mqtt/smoke"}
    assert "471147" not in repr(host.adapter.config)
