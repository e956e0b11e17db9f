"""Modbus as a client: against a device made of libmodbus, over TCP and over a serial line."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.adapters.modbus import Modbus
from gateway.core.actions import AcknowledgeAlarm, SetOutput
from gateway.core.endpoints import Condition
from gateway.core.events import (
    AcknowledgeRequested,
    AlarmCleared,
    AlarmRaised,
    InputChanged,
    Quality,
    Severity,
)
from gateway.errors import Unsupported, UsageError
from gateway.testing import PROMISES, Scenario, TestHost, check_adapter
from gateway.testing.wires import SerialLine
from gateway.typed import ConfigErrors

from .modbus_peer import Cable, Device, cable, device, needs_libmodbus, needs_socat, until

pytestmark = [pytest.mark.interop, needs_libmodbus]

PLANT = "modbus/plant"


def plant(peer: Device, **fields: Any) -> dict[str, Any]:
    """A configuration with one device, the peer."""
    section = {"host": "127.0.0.1", "port": peer.port, "poll_s": 0.02, "timeout_s": 0.2}
    return {"devices": {"plant": section | {"retry_s": 0.1} | fields}}


@contextlib.asynccontextmanager
async def gateway(config: dict[str, Any]) -> AsyncIterator[TestHost]:
    """The adapter, running."""
    host = TestHost("modbus")
    host.make(Modbus, config)
    async with host.running():
        yield host
    assert host.refused == []


def switch(host: TestHost, output: str, value: float, pulse_ms: int = 0) -> None:
    host.adapter.set_output(
        SetOutput(endpoint=PLANT, output=output, value=value, pulse_ms=pulse_ms)
    )


async def up(host: TestHost, condition: Condition = Condition.UP) -> None:
    await until(lambda: host.endpoints[PLANT].condition is condition, f"{PLANT} is {condition}")


# The contract


async def test_promises() -> None:
    async def garbage(adapter: Any, peer: Device) -> None:
        await until(lambda: adapter.servers["scada"].port, "the server listens")
        _, writer = await asyncio.open_connection("127.0.0.1", adapter.servers["scada"].port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await writer.drain()
        writer.close()

    @contextlib.asynccontextmanager
    async def world() -> AsyncIterator[Device]:
        async with device() as peer:
            # A10 holds that nothing happens during an action; a first reading is something.
            peer.tell("delay 50")
            yield peer

    scenario = Scenario(
        world=world,
        configure=lambda peer: plant(
            peer, contacts={"door": {"address": 0}}, relays={"siren": {"address": 0}}
        ),
        garbage=garbage,
    )
    config = {"servers": {"scada": {"host": "127.0.0.1", "port": 0}}}
    report = await check_adapter(Modbus, config, scenario)
    # There are no legs.
    assert set(report.kept) == set(PROMISES) - {"A05", "A06", "A07", "A12"}


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"devices": {"p": {"contacts": {"a": {"address": 0}}}}}, "host"),
        ({"devices": {"p": {"line": "x", "contacts": {"a": {"address": 0}}}}}, "no line 'x'"),
        ({"devices": {"p": {"host": "h"}}}, "no contacts"),
        ({"devices": {"p": {"host": "h", "contacts": {"a": {"address": 65536}}}}}, "65535"),
        (
            {"devices": {"p": {"host": "h", "contacts": {"a": {"address": 0}},
                               "relays": {"a": {"address": 0}}}}},
            "names two points",
        ),
        (
            {"devices": {"p": {"host": "h", "registers": {"a": {"address": 0, "hi": 1, "lo": 2}}}}},
            "must rise",
        ),
        (
            {"devices": {"p": {"host": "h", "supervised": {
                "a": {"address": 0, "bands": {"normal": [0, 10], "alarm": [5, 20]}}}}}},
            "overlap",
        ),
        ({"servers": {"s": {"host": "127.0.0.1", "readers": ["everybody"]}}}, "everybody"),
    ],
)  # fmt: skip
def test_a_wrong_configuration_says_what_is_wrong(wrong: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigErrors, match=word):
        TestHost("modbus").make(Modbus, wrong)


BOARDS = Path(__file__).parents[2] / "hardware"


@pytest.mark.parametrize(
    "page",
    [
        "examples/modbus.toml",
        "moxa-iologik-e1212/README.md",
        "waveshare-modbus-rtu-relay/README.md",
    ],
)
def test_what_the_pages_show_is_accepted(page: str) -> None:
    text = (BOARDS / page).read_text()
    blocks = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL) or [text]
    for block in blocks:
        config = tomllib.loads(block)["adapters"]["modbus"]
        assert list(TestHost("modbus").make(Modbus, config).endpoints())


# Inputs


async def test_a_contact_becomes_an_input_and_an_alarm() -> None:
    async with device() as peer:
        door = {"address": 3, "debounce_ms": 0, "alarm": {"kind": "intrusion", "text": "Door"}}
        loop = {"address": 4, "debounce_ms": 0, "normally_closed": True}
        config = plant(peer, contacts={"door": door, "loop": loop})
        async with gateway(config) as host:
            await host.wait_for(InputChanged, input="door", value=0.0)
            await host.wait_for(InputChanged, input="loop", value=1.0)  # 0 is a broken loop
            peer.tell("di 3 1")
            raised = await host.wait_for(AlarmRaised, alarm="door")
            assert (raised.kind, raised.severity, raised.text) == (
                "intrusion", Severity.MAJOR, "Door"
            )  # fmt: skip
            changed = await host.wait_for(InputChanged, input="door", value=1.0)
            assert changed.trace == raised.trace != ""
            peer.tell("di 3 0")
            # Once for what might have been raised before we started, once for this.
            await host.wait_for(AlarmCleared, alarm="door", count=2)
    # Both in one request.
    assert set(peer.asked) == {"fc 2 addr 3"}


async def test_measured_values_are_scaled_and_watched() -> None:
    async with device() as peer:
        peer.tell("ir 10 65436")  # -100
        peer.tell("hr 20 17096")  # 100.5 is 0x42C90000
        registers = {
            "level": {"table": "input", "address": 10, "type": "int16", "scale": 0.1,
                      "offset": 20.0, "unit": "m", "hi": 30.0, "hihi": 40.0, "hysteresis": 1.0,
                      "deadband": 0.5},
            "flow": {"address": 20, "type": "float32"},
        }  # fmt: skip
        registers["level"]["invalid"] = [0x8000]
        async with gateway(plant(peer, registers=registers)) as host:
            level = await host.wait_for(InputChanged, input="level")
            assert level.value == pytest.approx(10.0)
            flow = await host.wait_for(InputChanged, input="flow")
            assert flow.value == 100.0
            peer.tell("ir 10 210")
            hihi = await host.wait_for(AlarmRaised, alarm="level-hihi")
            assert host.of(AlarmRaised, alarm="level-hi")[0].severity is Severity.MINOR
            assert hihi.severity is Severity.MAJOR
            assert hihi.text == "level is 41 m (hihi 40)"
            peer.tell("ir 10 195")  # 39.5: not back far enough
            await host.wait_for(InputChanged, input="level", count=3)
            assert len(host.of(AlarmCleared, alarm="level-hihi")) == 1
            peer.tell("ir 10 32768")
            await host.wait_for(InputChanged, input="level", quality=Quality.BAD)
            peer.tell("ir 10 0")
            await host.wait_for(AlarmCleared, alarm="level-hihi", count=2)
            await host.wait_for(AlarmCleared, alarm="level-hi", count=2)


async def test_a_supervised_loop_tells_an_alarm_from_a_cut_wire() -> None:
    async with device() as peer:
        peer.tell("ir 0 500")
        loop = {
            "table": "input", "address": 0, "debounce_ms": 0, "alarm": {"kind": "fire"},
            "bands": {"short": [0, 100], "normal": [400, 600], "alarm": [800, 1000],
                      "open": [2000, 65536]},
        }  # fmt: skip
        async with gateway(plant(peer, supervised={"smoke": loop})) as host:
            await host.wait_for(InputChanged, input="smoke", value=0.0)
            peer.tell("ir 0 900")
            assert (await host.wait_for(AlarmRaised, alarm="smoke")).kind == "fire"
            peer.tell("ir 0 4000")
            fault = await host.wait_for(AlarmRaised, alarm="smoke-fault")
            assert fault.text == "loop smoke is open"
            # Whether the detector alarms cannot be seen: its alarm stays.
            assert len(host.of(AlarmCleared, alarm="smoke")) == 1
            await host.wait_for(InputChanged, input="smoke", value=3.0, quality=Quality.BAD)
            peer.tell("ir 0 500")
            await host.wait_for(AlarmCleared, alarm="smoke", count=2)
            await host.wait_for(AlarmCleared, alarm="smoke-fault", count=2)


async def test_a_key_acknowledges_when_it_is_turned_not_when_it_is_found_turned() -> None:
    async with device() as peer:
        peer.tell("di 0 1")
        key = {"address": 0, "debounce_ms": 0, "acknowledges": ["mqtt/house"]}
        async with gateway(plant(peer, contacts={"key": key})) as host:
            await host.wait_for(InputChanged, input="key", value=1.0)
            peer.tell("di 0 0")
            await host.wait_for(InputChanged, input="key", value=0.0)
            assert host.of(AcknowledgeRequested) == []
            peer.tell("di 0 1")
            asked = await host.wait_for(AcknowledgeRequested)
            assert (asked.endpoint, asked.by) == ("mqtt/house", "modbus/plant key")


async def test_an_address_that_is_not_there_spoils_only_its_own_point() -> None:
    async with device() as peer:
        # Read with its neighbour, 100 is one beyond the device's table.
        contacts = {"last": {"address": 99, "debounce_ms": 0}, "beyond": {"address": 100}}
        async with gateway(plant(peer, contacts=contacts)) as host:
            await host.wait_for(InputChanged, input="last", value=0.0)
            await until(lambda: host.endpoints[PLANT].detail, "the detail tells")
            why = {"beyond": "illegal data address (discrete 100)"}
            assert host.endpoints[PLANT].detail == why
            assert host.endpoints[PLANT].condition is Condition.UP
            assert host.of(AlarmRaised) == []
            peer.tell("di 99 1")
            await host.wait_for(InputChanged, input="last", value=1.0)


async def test_a_device_that_refuses_everything_is_down_with_the_reason() -> None:
    async with device() as peer, gateway(plant(peer, contacts={"x": {"address": 200}})) as host:
        await up(host, Condition.DOWN)
        assert "x: illegal data address (discrete 200)" in host.endpoints[PLANT].reason


# Health


async def test_a_lost_device_makes_everything_stale_and_comes_back() -> None:
    async with device() as peer:
        door = {"address": 3, "debounce_ms": 0, "alarm": {}}
        async with gateway(plant(peer, contacts={"door": door})) as host:
            await host.wait_for(InputChanged, input="door")
            await up(host)
            peer.stop()
            await host.wait_for(InputChanged, input="door", quality=Quality.STALE)
            fault = await host.wait_for(AlarmRaised, alarm="io-fault")
            assert fault.kind == "fault"
            assert host.endpoints[PLANT].condition is Condition.DOWN
            assert host.endpoints[PLANT].reason != ""
            await peer.start()
            # It comes back with the alarm on.
            peer.tell("di 3 1")
            await host.wait_for(AlarmCleared, alarm="io-fault", count=2)
            await host.wait_for(AlarmRaised, alarm="door")
            good = host.of(InputChanged, input="door")[-1]
            assert (good.value, good.quality) == (1.0, Quality.GOOD)
            await up(host)


async def test_a_device_that_hangs_is_lost_after_three_polls() -> None:
    async with device() as peer:
        config = plant(peer, contacts={"door": {"address": 3}}, timeout_s=0.05)
        async with gateway(config) as host:
            await host.wait_for(InputChanged, input="door")
            peer.tell("mute 1")
            begin = host.now()
            await host.wait_for(InputChanged, quality=Quality.STALE)
            assert host.now() - begin < 5.0
            assert host.counters["modbus.timeouts"] >= 3
            assert host.endpoints[PLANT].reason == "no answer within 0.05 s"
            peer.tell("mute 0")
            await up(host)


async def test_late_answers_on_tcp_are_not_taken_for_others() -> None:
    async with device() as peer:
        config = plant(
            peer, timeout_s=0.1, missed=100,
            registers={"a": {"address": 1, "poll_s": 0.05}, "b": {"address": 7, "poll_s": 0.051}},
        )  # fmt: skip
        peer.tell("hr 1 11")
        peer.tell("hr 7 77")
        async with gateway(config) as host:
            await host.wait_for(InputChanged, input="a")
            await host.wait_for(InputChanged, input="b")
            peer.tell("delay 150")
            await until(lambda: host.counters["modbus.late_answers"] > 1, "answers come late")
            peer.tell("delay 0")
            await asyncio.sleep(0.5)
            assert {(e.input, e.value) for e in host.of(InputChanged)} == {("a", 11.0), ("b", 77.0)}


async def test_a_device_that_talks_nonsense_is_lost_and_counted() -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while await reader.read(100):
                writer.write(os.urandom(200))
        writer.close()

    server = await asyncio.start_server(nonsense, "127.0.0.1", 0)
    async with server:
        peer = Device("tcp", "0")
        peer.port = server.sockets[0].getsockname()[1]
        async with gateway(plant(peer, contacts={"door": {"address": 3}})) as host:
            await up(host, Condition.DOWN)
            assert host.counters["modbus.garbage"] + host.counters["modbus.timeouts"] >= 3
            assert host.of(InputChanged) == []


async def test_a_device_that_was_never_there_does_not_hold_up_the_others() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        async with device() as peer:
            config = plant(peer, contacts={"door": {"address": 3}})
            config["devices"]["ghost"] = {
                "host": "127.0.0.1", "port": nobody.getsockname()[1],
                "contacts": {"x": {"address": 0}},
            }  # fmt: skip
            async with gateway(config) as host:
                await host.wait_for(InputChanged, endpoint=PLANT, input="door")
                fault = await host.wait_for(AlarmRaised, endpoint="modbus/ghost")
                assert "Connection refused" in fault.text


# Outputs


async def test_relays_start_safe_switch_and_are_left_safe() -> None:
    async with device() as peer:
        for address in range(3):
            peer.tell(f"co {address} 1")
        relays = {
            "siren": {"address": 0},
            "door": {"address": 1, "safe": 1.0},
            "lamp": {"address": 2, "keep": True},
        }
        async with gateway(plant(peer, relays=relays)) as host:
            await peer.coil_is(0, False)
            await up(host)
            switch(host, "siren", 1.0)
            switch(host, "door", 0.0)
            await peer.coil_is(0, True)
            await peer.coil_is(1, False)
            with pytest.raises(Unsupported, match=r"no output 'horn'.*siren, door, lamp"):
                switch(host, "horn", 1.0)
        assert [await peer.coil(a) for a in range(3)] == [False, True, True]


async def test_a_pulse_returns_to_the_former_value() -> None:
    async with device() as peer, gateway(plant(peer, relays={"siren": {"address": 0}})) as host:
        await up(host)
        switch(host, "siren", 1.0, pulse_ms=150)
        await peer.coil_is(0, True)
        begin = host.now()
        await peer.coil_is(0, False)
        assert 0.05 < host.now() - begin < 3.0
        # Commanded off during a pulse, it does not come back on by itself.
        switch(host, "siren", 1.0)
        await peer.coil_is(0, True)
        switch(host, "siren", 0.0, pulse_ms=100)
        await peer.coil_is(0, False)
        await peer.coil_is(0, True)


async def test_a_register_takes_a_number_and_refuses_one_that_does_not_fit() -> None:
    async with device() as peer:
        relays = {"valve": {"table": "holding", "address": 5, "scale": 0.1}}
        registers = {"is": {"address": 5, "scale": 0.1}}
        async with gateway(plant(peer, relays=relays, registers=registers)) as host:
            await host.wait_for(InputChanged, input="is", value=0.0)
            switch(host, "valve", 42.5)
            await host.wait_for(InputChanged, input="is", value=42.5)
            with pytest.raises(UsageError, match="does not fit"):
                switch(host, "valve", 1e9)


async def test_a_relay_that_falls_back_by_itself_is_set_again() -> None:
    async with device() as peer, gateway(plant(peer, relays={"siren": {"address": 0}})) as host:
        await up(host)
        switch(host, "siren", 1.0)
        await peer.coil_is(0, True)
        await asyncio.sleep(0.1)
        peer.tell("co 0 0")
        await peer.coil_is(0, False)
        await peer.coil_is(0, True, within_s=20)
        assert host.counters["modbus.outputs_reverted"] == 1


async def test_a_command_that_cannot_be_carried_out_is_tried_then_reported() -> None:
    async with device() as peer:
        relays = {"siren": {"address": 0, "deadline_s": 0.5}}
        async with gateway(plant(peer, relays=relays)) as host:
            await up(host)
            peer.stop()
            switch(host, "siren", 1.0)
            failed = await host.wait_for(AlarmRaised, alarm="siren-output")
            assert "Connection refused" in failed.text
            assert host.counters["modbus.outputs_failed"] == 1
            assert any(line[1] == "output not switched" for line in host.logged.lines)
            # It comes back too late for the command: it gets the safe value instead.
            await peer.start()
            peer.tell("co 0 1")
            await host.wait_for(AlarmCleared, alarm="siren-output", count=2)
            assert not await peer.coil(0)


async def test_a_command_survives_a_short_break() -> None:
    async with device() as peer, gateway(plant(peer, relays={"siren": {"address": 0}})) as host:
        await up(host)
        peer.stop()
        switch(host, "siren", 1.0)
        await until(lambda: host.counters["modbus.open_failed"] > 1, "it is tried")
        await peer.start()
        await peer.coil_is(0, True)
        assert host.of(AlarmRaised, alarm="siren-output") == []


async def test_a_relay_that_was_on_when_its_device_was_lost_comes_back_off() -> None:
    async with device() as peer, gateway(plant(peer, relays={"siren": {"address": 0}})) as host:
        await up(host)
        switch(host, "siren", 1.0)
        await peer.coil_is(0, True)
        peer.stop()
        await up(host, Condition.DOWN)
        await peer.start()
        peer.tell("co 0 1")
        await peer.coil_is(0, False)


async def test_an_illegal_coil_is_reported_with_its_name() -> None:
    async with device() as peer:
        relays = {"far": {"address": 500, "deadline_s": 0.3, "verify": False}}
        config = plant(peer, relays=relays, contacts={"door": {"address": 0}})
        async with gateway(config) as host:
            failed = await host.wait_for(AlarmRaised, alarm="far-output")
            assert failed.text == "far of modbus/plant is not switched: illegal data address"


async def test_an_acknowledgement_pulses_the_relay_that_is_there_for_it() -> None:
    async with device() as peer:
        relays = {"reset": {"address": 9}}
        config = plant(peer, relays=relays, ack_relay="reset", ack_pulse_ms=100)
        async with gateway(config) as host:
            await up(host)
            host.adapter.acknowledge_alarm(AcknowledgeAlarm(endpoint=PLANT, alarm="x", by="me"))
            await peer.coil_is(9, True)
            await peer.coil_is(9, False)


async def test_a_pulse_that_the_device_makes_is_started_and_left_to_it() -> None:
    async with device() as peer:
        relays = {"siren": {"address": 0, "pulse": {"address": 16, "length_ms": 300}}}
        async with gateway(plant(peer, relays=relays)) as host:
            await up(host)
            n_asked = len(peer.asked)
            switch(host, "siren", 1.0, pulse_ms=300)
            await peer.coil_is(16, True)
            assert not await peer.coil(0)
            assert "fc 5 addr 0" not in peer.asked[n_asked:]
            # Another length is ours to make.
            switch(host, "siren", 1.0, pulse_ms=100)
            await peer.coil_is(0, True)
            await peer.coil_is(0, False)


# Serial


async def test_the_length_of_a_pulse_is_written_in_the_steps_of_the_board() -> None:
    """A Waveshare board, played by the test octet by octet: address 0x0200, 700 ms is 7."""
    with SerialLine() as board:
        relay = {"address": 0, "verify": False, "pulse": {"address": 0x200, "step_ms": 100}}
        config = {
            "lines": {"bus": {"device": board.path}},
            "devices": {"plant": {"line": "bus", "relays": {"siren": relay}}},
        }
        host = TestHost("modbus")
        host.make(Modbus, config)
        running = asyncio.ensure_future(host.serve())
        safe = await board.read(8)
        assert safe.hex() == "010500000000cdca"
        board.write(safe)
        await up(host)
        switch(host, "siren", 1.0, pulse_ms=700)
        pulse = await board.read(8)
        assert pulse[:6].hex() == "010502000007"
        board.write(pulse)
        running.cancel()
        assert (await board.read(8)) == safe
        board.write(safe)
        await asyncio.wait({running})


def serial_plant(line: Cable, **fields: Any) -> dict[str, Any]:
    section = {"line": "bus", "unit": 7, "poll_s": 0.02, "timeout_s": 0.2, "retry_s": 0.1}
    return {
        "lines": {"bus": {"device": line.ends[0], "baudrate": 19200}},
        "devices": {"plant": section | fields},
    }


@needs_socat
async def test_rtu_reads_switches_and_survives_unplugging(tmp_path: Path) -> None:
    async with cable(tmp_path) as line, device("rtu", line.ends[1], "7") as peer:
        config = serial_plant(
            line,
            contacts={"door": {"address": 3, "debounce_ms": 0}},
            relays={"siren": {"address": 1}},
        )
        async with gateway(config) as host:
            await host.wait_for(InputChanged, input="door", value=0.0)
            await up(host)
            switch(host, "siren", 1.0)
            await peer.coil_is(1, True)
            line.unplug()
            await host.wait_for(InputChanged, input="door", quality=Quality.STALE)
            await up(host, Condition.DOWN)
            peer.stop()
            await line.plug()
            await peer.start()
            peer.tell("di 3 1")
            await host.wait_for(InputChanged, input="door", value=1.0, quality=Quality.GOOD)
            await up(host)
        assert not await peer.coil(1)


@needs_socat
async def test_rtu_gets_through_noise(tmp_path: Path) -> None:
    async with cable(tmp_path) as line, device("rtu", line.ends[1], "7") as peer:
        config = serial_plant(line, registers={"level": {"address": 5}}, missed=20)
        peer.tell("hr 5 1234")
        noise = os.open(line.ends[1], os.O_WRONLY | os.O_NOCTTY)
        try:
            async with gateway(config) as host:
                await host.wait_for(InputChanged, value=1234.0)
                n_asked = len(peer.asked)
                for number in range(50):
                    os.write(noise, b"\x00\x07\x03\xff" + bytes((number,)))
                    await asyncio.sleep(0.01)
                assert len(peer.asked) > n_asked + 10, "polling goes on"
                peer.tell("hr 5 4321")
                await host.wait_for(InputChanged, value=4321.0)
                assert host.counters["modbus.noise_octets"] > 100
                assert host.counters["modbus.missed_polls"] == 0
                assert {e.value for e in host.of(InputChanged)} == {1234.0, 4321.0}
        finally:
            os.close(noise)


@needs_socat
async def test_rtu_does_not_take_a_late_answer_for_the_next(tmp_path: Path) -> None:
    async with cable(tmp_path) as line, device("rtu", line.ends[1], "7") as peer:
        # Apart, so that each has a request of its own, of the same shape.
        registers = {"a": {"address": 1}, "b": {"address": 50}}
        config = serial_plant(line, registers=registers, missed=100, timeout_s=0.4)
        peer.tell("hr 1 11")
        peer.tell("hr 50 77")
        async with gateway(config) as host:
            await host.wait_for(InputChanged, input="a")
            await host.wait_for(InputChanged, input="b")
            # Late, but within the time that the line is left alone after a request without answer.
            peer.tell("delay 600")
            await until(lambda: host.counters["modbus.timeouts"] > 3, "answers come late")
            peer.tell("delay 0")
            await asyncio.sleep(1.0)
            assert {(e.input, e.value) for e in host.of(InputChanged)} == {("a", 11.0), ("b", 77.0)}


@needs_socat
async def test_rtu_frames_over_tcp(tmp_path: Path) -> None:
    async with cable(tmp_path) as line, device("rtu", line.ends[1], "7") as peer:
        converter = await asyncio.create_subprocess_exec(
            "socat", "-d", "-d", "tcp-listen:0,bind=127.0.0.1", f"{line.ends[0]},raw,echo=0",
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert converter.stderr is not None
        listening = await asyncio.wait_for(converter.stderr.readline(), 30)
        peer.port = int(listening.rpartition(b":")[2])
        try:
            config = plant(peer, unit=7, framing="rtu", contacts={"door": {"address": 3}})
            async with gateway(config) as host:
                await host.wait_for(InputChanged, input="door", value=0.0)
        finally:
            with contextlib.suppress(ProcessLookupError):
                converter.kill()
            await converter.wait()
