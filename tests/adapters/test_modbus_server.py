"""Modbus as a server: what mbpoll reads of the gateway, and what it may write."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.adapters.modbus import Modbus
from gateway.adapters.modbus.state import State
from gateway.core.actions import AcknowledgeAlarm, Action, Dial
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition, Endpoint
from gateway.core.envelope import Envelope
from gateway.core.events import (
    AcknowledgeRequested,
    AdapterLost,
    AlarmCleared,
    AlarmRaised,
    EndpointChanged,
    Event,
    InputChanged,
    LegEnded,
    LegOffered,
    Quality,
    Severity,
)
from gateway.testing import TestHost

from .modbus_peer import cable, mbpoll, needs_mbpoll, needs_socat, until

SCADA: dict[str, Any] = {
    "host": "127.0.0.1",
    "port": 0,
    "endpoints": ["fxs/1", "radio/a"],
    "points": {
        "fire": {"address": 0, "endpoint": "mqtt/*", "alarm": "smoke*"},
        "any": {"address": 1, "endpoint": "*"},
        "door": {"address": 9, "endpoint": "modbus/*", "input": "door"},
    },
    "triggers": {
        "page": {"coil": 0, "pulse_ms": 100},
        "night": {"coil": 1, "pulse_ms": 0},
        "ack": {"coil": 2, "acknowledges": ["mqtt/house"]},
    },
}


@contextlib.asynccontextmanager
async def gateway(**server: Any) -> AsyncIterator[TestHost]:
    host = TestHost("modbus")
    host.make(Modbus, {"servers": {"scada": SCADA | server}})
    async with host.running():
        yield host
    assert host.refused == []


def happen(host: TestHost, event: Event | None = None, action: Action | None = None) -> None:
    host.publish(Envelope(id="1", box="b", at=0.0, mono=0.0, event=event, action=action))


async def ask(host: TestHost, table: int, first: int, count: int = 1, *more: str) -> list[int]:
    """What mbpoll reads; table as mbpoll numbers them: 0 coils, 1 discrete, 3 input, 4 holding."""
    arguments = ("-0", "-1", "-m", "tcp", "-p", str(host.adapter.servers["scada"].port))
    status, output = await mbpoll(
        *arguments, "-t", str(table), "-r", str(first), "-c", str(count), *more, "127.0.0.1"
    )
    assert status == 0, output
    return [int(word) for word in re.findall(r"^\[\d+\]:\s+(\d+)", output, re.MULTILINE)]


async def write(host: TestHost, coil: int, *values: int) -> tuple[int, str]:
    port = str(host.adapter.servers["scada"].port)
    words = [str(value) for value in values]
    where = ("-0", "-m", "tcp", "-p", port, "-t", "0", "-r", str(coil), "127.0.0.1")
    return await mbpoll(*where, *words)


def alarm(name: str, severity: Severity = Severity.MAJOR) -> AlarmRaised:
    return AlarmRaised(
        endpoint="mqtt/house", alarm=name, severity=severity, trace="t", raised_at=0.0
    )


@needs_mbpoll
async def test_a_foreign_master_sees_the_state_of_the_gateway() -> None:
    async with gateway() as host:
        head = await ask(host, 4, 0, 9)
        assert head[:6] == [0x4757, 1, 1, 0, 0, 0]
        assert head[6] == 0
        assert head[7] < 10
        fxs = Endpoint(id="fxs/1", condition=Condition.UP)
        happen(host, EndpointChanged(endpoint=fxs))
        happen(host, EndpointChanged(
            endpoint=Endpoint(id="radio/a", condition=Condition.DOWN, reason="gone")))  # fmt: skip
        happen(host, LegOffered(leg="fxs/1#1", endpoint="fxs/1", trace="one", demanded_at=0.0))
        happen(host, action=Dial(leg="sip/x#1", endpoint="sip/x", trace="one", call="c"))
        happen(host, LegOffered(leg="sip/y#1", endpoint="sip/y", trace="two", demanded_at=0.0))
        happen(host, alarm("smoke-3", Severity.CRITICAL))
        happen(host, alarm("mains", Severity.WARNING))
        happen(host, AdapterLost(adapter="mqtt", reason="gone"))
        happen(host, InputChanged(endpoint="modbus/x", input="door", value=0.0,
                                  quality=Quality.STALE))  # fmt: skip
        head = await ask(host, 3, 0, 9)  # the same as input registers
        # Everything but "events were missed"; two calls, two alarms, one critical.
        assert head[:6] == [0x4757, 1, 0b011111, 2, 2, 5]
        assert head[8] == 2
        assert await ask(host, 4, 100, 8) == [2, 0, 1, 0, 3, 1, 0, 0]
        # A contact that is not known shows as on.
        assert await ask(host, 1, 0, 10) == [1, 1, 0, 0, 0, 0, 0, 0, 0, 1]
        happen(host, LegEnded(leg="fxs/1#1", cause=Cause.BUSY))
        happen(host, LegEnded(leg="sip/x#1", cause=Cause.BUSY))
        happen(host, action=AcknowledgeAlarm(endpoint="mqtt/house", alarm="smoke-3", by="me"))
        happen(host, InputChanged(endpoint="modbus/x", input="door", value=0.0))
        head = await ask(host, 4, 0, 9)
        assert (head[3], head[4], head[8]) == (1, 2, 1)
        assert await ask(host, 4, 100, 4) == [1, 0, 0, 17]
        happen(host, AlarmCleared(endpoint="mqtt/house", alarm="smoke-3"))
        assert (await ask(host, 4, 4, 2)) == [1, 2]
        assert await ask(host, 1, 0, 10) == [0, 1, 0, 0, 0, 0, 0, 0, 0, 0]


@needs_mbpoll
async def test_a_coil_is_an_input_of_the_gateway_for_those_who_may() -> None:
    async with gateway(writers=["127.0.0.1"]) as host:
        assert (await write(host, 0, 1))[0] == 0
        on = await host.wait_for(InputChanged, endpoint="modbus/scada", input="page", value=1.0)
        assert on.trace
        await host.wait_for(InputChanged, input="page", value=0.0)
        # Several at once (function 15); one stays, one acknowledges.
        assert (await write(host, 1, 1, 1))[0] == 0
        await host.wait_for(InputChanged, input="night", value=1.0)
        asked = await host.wait_for(AcknowledgeRequested)
        assert (asked.endpoint, asked.by) == ("mqtt/house", "modbus/scada 127.0.0.1")
        assert (await ask(host, 0, 1)) == [1]
        status, output = await write(host, 3, 1)
        assert status
        assert "Illegal data address" in output


@needs_mbpoll
async def test_who_is_no_writer_cannot_write_and_who_is_no_reader_is_cut_off() -> None:
    async with gateway() as host:
        status, output = await write(host, 0, 1)
        assert status
        assert "Illegal function" in output
        assert host.counters["modbus.writes_refused"] == 1
        assert host.of(InputChanged) == []
    async with gateway(readers=["10.0.0.0/8"]) as host:
        port = str(host.adapter.servers["scada"].port)
        status, output = await mbpoll("-1", "-m", "tcp", "-p", port, "127.0.0.1")
        assert status
        assert host.counters["modbus.clients_refused"] == 1


@needs_mbpoll
async def test_what_is_not_there_is_refused_by_its_name() -> None:
    async with gateway() as host:
        port = str(host.adapter.servers["scada"].port)
        where = ("-0", "-1", "-m", "tcp", "-p", port)
        for more, why in (
            (("-t", "4", "-r", "105", "-c", "4"), "Illegal data address"),
            (("-t", "1", "-r", "250", "-c", "10"), "Illegal data address"),
            (("-t", "0", "-r", "2", "-c", "2"), "Illegal data address"),
            (("-a", "9"), "Target device failed to respond"),
        ):
            _, output = await mbpoll(*where, *more, "127.0.0.1")
            assert why in output
        status, output = await mbpoll(
            "-0", "-m", "tcp", "-p", port, "-t", "4", "-r", "0", "127.0.0.1", "7"
        )
        assert status
        assert "Illegal function" in output


async def test_clients_are_bounded_and_idle_ones_are_closed() -> None:
    async with gateway(max_clients=2, idle_s=0.2) as host:
        port = host.adapter.servers["scada"].port
        clients = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        assert await clients[2][0].read() == b""
        assert host.counters["modbus.clients_overflowed"] == 1
        assert await asyncio.wait_for(clients[0][0].read(), 2) == b""
        assert host.counters["modbus.clients_idle"] >= 1
        for _, writer in clients:
            writer.close()


async def test_pipelined_and_torn_requests_are_each_answered() -> None:
    async with gateway() as host:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", host.adapter.servers["scada"].port
        )
        request = b"\x00\x05\x00\x00\x00\x06\x01\x03\x00\x00\x00\x01"
        writer.write(request + b"\x00\x06" + request[2:7])
        await writer.drain()
        answer = b"\x00\x00\x00\x05\x01\x03\x02\x47\x57"
        assert await asyncio.wait_for(reader.readexactly(11), 2) == b"\x00\x05" + answer
        writer.write(request[7:])
        assert await asyncio.wait_for(reader.readexactly(11), 2) == b"\x00\x06" + answer
        writer.close()


async def test_a_port_that_is_taken_does_not_stop_the_devices() -> None:
    taken = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    async with taken, gateway(port=taken.sockets[0].getsockname()[1]) as host:
        await until(lambda: host.endpoints["modbus/scada"].condition is Condition.DOWN, "down")
        assert host.endpoints["modbus/scada"].reason == "Address already in use"
        assert host.up


@needs_mbpoll
@needs_socat
async def test_on_a_serial_line_a_foreign_master_reads_and_others_are_left_alone(
    tmp_path: Path,
) -> None:
    async with cable(tmp_path) as line:
        serial = {"device": line.ends[0], "baudrate": 19200}
        async with gateway(host="", serial=serial, unit=5, writers=["serial"]) as host:
            where = ("-0", "-m", "rtu", "-b", "19200", "-P", "none", "-r", "0")
            holding = ("-1", "-a", "5", "-t", "4:hex", line.ends[1])
            status, output = await mbpoll(*where, *holding)
            assert status == 0, output
            assert "0x4757" in output
            assert (await mbpoll(*where, "-a", "5", "-t", "0", line.ends[1], "1"))[0] == 0
            await host.wait_for(InputChanged, input="page", value=1.0)
            status, _ = await mbpoll(*where, "-1", "-a", "6", "-o", "0.2", line.ends[1])
            assert status
            noise = os.open(line.ends[1], os.O_WRONLY | os.O_NOCTTY)
            os.write(noise, b"\x05\x03\xff\x05" * 200)
            os.close(noise)
            status, output = await mbpoll(*where, *holding)
            assert status == 0, output
            assert host.counters["modbus.noise_octets"] > 500


@needs_socat
async def test_a_dead_unit_does_not_hurt_the_others_on_its_line(tmp_path: Path) -> None:
    async with cable(tmp_path) as line:
        serial = {"device": line.ends[0], "baudrate": 19200}
        async with gateway(host="", serial=serial, unit=5):
            master = TestHost("plant")
            common = {"line": "bus", "timeout_s": 0.1, "poll_s": 0.02}
            register = {"registers": {"magic": {"address": 0}}}
            master.make(
                Modbus,
                {
                    "lines": {"bus": {"device": line.ends[1], "baudrate": 19200}},
                    "devices": {"here": common | register | {"unit": 5},
                                "ghost": common | register | {"unit": 9}},
                },
            )  # fmt: skip
            async with master.running():
                await master.wait_for(InputChanged, endpoint="plant/here", value=float(0x4757))
                await master.wait_for(AlarmRaised, endpoint="plant/ghost", alarm="io-fault")
                await asyncio.sleep(0.3)
                assert master.endpoints["plant/here"].condition is Condition.UP
                assert len(master.of(InputChanged)) == 1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=5))
def test_garbage_is_answered_with_an_exception_or_not_at_all(requests: list[bytes]) -> None:
    async def main() -> None:
        host = TestHost("modbus")
        adapter = host.make(Modbus, {"servers": {"scada": SCADA | {"writers": ["127.0.0.1"]}}})
        async with host.running():
            server = adapter.servers["scada"]  # type: ignore[attr-defined]
            for pdu in requests:
                for function in b"\x01\x03\x05\x0f":
                    request = bytes((function,)) + pdu
                    answer = server.answer(request, who="x", may_write=True)
                    assert answer[0] in (function, function | 0x80)
                    assert len(answer) <= 253

    asyncio.run(main())


def test_the_picture_forgets_the_oldest_before_it_grows_for_ever() -> None:
    state = State(0.0)
    for number in range(10_050):
        state.follow(Envelope(id="1", box="b", at=0.0, mono=0.0, event=alarm(f"a{number}")))
    assert state.head(0.0)[4] == 10_000
    assert state.head(70_000.0)[6:8] == [1, 4464]
