"""The intercom adapter on other buses, with split legs, and on a line that is pulled."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway._codecs import g711
from gateway.adapters.intercom import Intercom
from gateway.core.actions import Answer, Dial, Hangup, SendDigits, SetOutput
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition, Duplex
from gateway.core.events import (
    AlarmRaised,
    FloorReleased,
    FloorRequested,
    InputChanged,
    LegAnswered,
    LegEnded,
    LegOffered,
    LegRinging,
)
from gateway.errors import DeviceError, Unsupported
from gateway.lab.intercom_bus import CallPoint, CallPointBus
from gateway.lab.openwebnet import LogIn, OpenWebNetGateway
from gateway.media.engine import Engine
from gateway.media.streams import RtpSpec
from gateway.testing import Scenario, TestHost, check_adapter
from gateway.testing.audio import level_at, write_wav
from gateway.testing.audio import tone as samples
from gateway.testing.wires import SerialLine
from tests.adapters.test_intercom import until


@contextlib.asynccontextmanager
async def exchange(profile: str, **station: Any) -> AsyncIterator[tuple[TestHost, Any, SerialLine]]:
    with SerialLine() as line:
        host = TestHost("intercom")
        adapter = host.make(
            Intercom, {"port": line.path, "profile": profile, "stations": {"s": station}}
        )
        async with host.running():
            yield host, adapter, line


@pytest.mark.parametrize("log_in", ["none", "open", "sha1", "sha256"])
async def test_openwebnet(log_in: LogIn) -> None:
    async with OpenWebNetGateway(log_in, "12345") as bus:
        host = TestHost("intercom")
        adapter = host.make(
            Intercom,
            {
                "port": f"socket://127.0.0.1:{bus.port}",
                "profile": "openwebnet",
                "password": "12345",
                "stations": {"gate": {"address": 21}, "zone1": {"address": 1}},
            },
        )
        async with host.running():
            assert host.endpoints["intercom/gate"].duplex is Duplex.NONE
            bus.ring("21")
            await host.wait_for(InputChanged, endpoint="intercom/gate", input="call", value=1.0)
            bus.report("*5*15*#1##")
            alarm = await host.wait_for(AlarmRaised)
            assert (alarm.endpoint, alarm.kind) == ("intercom/zone1", "intrusion")
            adapter.set_output(SetOutput(endpoint="intercom/gate", output="lock", value=1))
            await host.wait_for(InputChanged, endpoint="intercom/gate", input="lock", value=1.0)
            begin = host.now()
            await host.wait_for(InputChanged, endpoint="intercom/gate", input="lock", value=0.0)
            assert 0.3 < host.now() - begin < 3.0
            bus.report("*1*1*12##*#1*12*1*3##")  # lights
            bus.report("*8*999##")
            await until(lambda: host.counters["unknown_frame"] == 1)
        assert bus.n_monitors == 0
        assert [frame for frame in bus.commands if frame.startswith("*8*")] == [
            "*8*19*21##", "*8*20*21##",
        ]  # fmt: skip


async def test_openwebnet_refuses_a_wrong_password() -> None:
    async with OpenWebNetGateway("sha256", "12345") as bus:
        host = TestHost("intercom")
        host.make(
            Intercom,
            {
                "port": f"socket://127.0.0.1:{bus.port}", "profile": "openwebnet",
                "password": "999", "stations": {"gate": {"address": 21}},
            },
        )  # fmt: skip
        with pytest.raises(DeviceError, match="refuses the session"):
            async with host.running():
                pass


async def test_openwebnet_comes_back() -> None:
    async with OpenWebNetGateway() as bus:
        host = TestHost("intercom")
        host.make(
            Intercom,
            {
                "port": f"socket://127.0.0.1:{bus.port}", "profile": "openwebnet",
                "reopen_s": 0.1, "stations": {"gate": {"address": 21}},
            },
        )  # fmt: skip
        async with host.running():
            await bus.__aexit__()
            await until(lambda: host.endpoints["intercom/bus"].condition is Condition.DOWN)
            await bus.__aenter__()
            await until(lambda: host.endpoints["intercom/bus"].condition is Condition.UP)
            bus.ring("21")
            await host.wait_for(InputChanged, endpoint="intercom/gate", input="call", value=1.0)


async def test_an_exchange_with_its_speech_on_rtp() -> None:
    """One leg: the control on the serial line, the speech on a socket."""
    station = {"address": "8002", "audio": "rtp://127.0.0.1:4000", "via": "8009", "duplex": "half"}
    async with exchange("acdp", **station) as (host, adapter, line):
        leg = host.dial("intercom/s")
        await host.wait_for(LegRinging, leg=leg)
        assert await line.read(18) == b"$CONN L8002 L8009\r"
        line.write(b"014101FF211B410018004107D706070B1A2D01043201800232018009=7F\r\n")
        await host.wait_for(LegAnswered, leg=leg)
        spec = host.stream(leg).spec
        assert isinstance(spec, RtpSpec)
        assert (spec.remote_ip, spec.remote_port) == ("127.0.0.1", 4000)
        # The M key of the exchange's station is push-to-talk.
        for message, event in ((b"0054", FloorRequested), (b"0055", FloorReleased)):
            body = b"014101FF211C41001A" + message + b"32018002"
            total = 0
            for octet in bytes.fromhex(body.decode()):
                total ^= octet
            line.write(body + b"=%02X\r\n" % total)
            await host.wait_for(event, leg=leg)
        adapter.send_digits(SendDigits(leg=leg, digits="12"))
        adapter.hangup(Hangup(leg=leg))
        assert host.of(LegEnded, leg=leg)[0].cause is Cause.NORMAL
        assert await line.read(23) == b"$DD L8002 L12\r$C L8002\r"


async def test_promises_of_a_station_whose_speech_is_borrowed() -> None:
    @contextlib.asynccontextmanager
    async def serial() -> AsyncIterator[SerialLine]:
        with SerialLine() as line:
            yield line

    async def answer(adapter: Any, line: SerialLine) -> None:
        line.write(b"014101FF211B410018004107D706070B1A2D01043201800232018009=7F\r\n")

    scenario = Scenario(
        name="intercom",
        world=serial,
        configure=lambda line: {"port": line.path},
        dial="intercom/s",
        answer=answer,
    )
    stations = {"s": {"address": "8002", "audio": "fxo/2", "via": "8009"}}
    report = await check_adapter(
        Intercom, {"profile": "acdp", "stations": stations}, scenario, promises=["A15", "A16"]
    )
    assert report.kept == ["A15", "A16"]


async def test_two_stations_with_one_exchange_line() -> None:
    with SerialLine() as line:
        near = TestHost("intercom")
        adapter = near.make(
            Intercom,
            {
                "port": line.path, "profile": "acdp",
                "stations": {
                    name: {"address": at, "audio": "fxo/2", "via": "8009"}
                    for name, at in (("a", "8002"), ("b", "8003"))
                },
            },
        )  # fmt: skip
        async with near.running():
            first, second = near.dial("intercom/a"), near.dial("intercom/b")
            ended = near.of(LegEnded, leg=second)[0]
            assert (ended.cause, ended.detail) == (
                Cause.NO_CIRCUIT, f"fxo/2 carries the speech of {first}",
            )  # fmt: skip
            # Nobody has an endpoint of that name here: it is said when it is answered.
            line.write(b"014101FF211B410018004107D706070B1A2D01043201800232018009=7F\r\n")
            ended = await near.wait_for(LegEnded, leg=first)
            assert ended.cause is Cause.RESOURCE_UNAVAILABLE
            assert "no adapter has an endpoint fxo/2" in ended.detail
        assert adapter is near.adapter


async def test_a_call_of_the_exchange_to_the_gateway_and_one_to_another() -> None:
    with SerialLine() as line:
        host = TestHost("intercom")
        adapter = host.make(
            Intercom,
            {
                "port": line.path, "profile": "acdp", "numbers": ["8009"],
                "stations": {"s": {"address": "8002", "audio": "rtp://127.0.0.1:4000"}},
            },
        )  # fmt: skip
        async with host.running():
            line.write(b"014101FF211A410017004007D706070B1A2D320180023201800A0201=75\r\n")
            await until(lambda: host.counters["calls_of_others"] == 1)
            line.write(b"014101FF211A410017004007D706070B1A2D32018002320180090201=76\r\n")
            offered = await host.wait_for(LegOffered)
            assert offered.called == "8009"
            adapter.answer(Answer(leg=offered.leg))
            await host.wait_for(LegAnswered, leg=offered.leg)


async def test_fermax_rings_is_answered_and_opens_the_door(tmp_path: Path) -> None:
    near, far = socket.socketpair()
    with near, far:
        device = f"/proc/self/fd/{near.fileno()}"
        async with exchange("fermax", address=1, audio=device) as (host, adapter, line):
            with pytest.raises(Unsupported):
                host.dial("intercom/s")
            line.write(bytes.fromhex("FB11001C"))
            offered = await host.wait_for(LegOffered)
            # A socket cannot be opened as a device: the leg says so and ends.
            adapter.answer(Answer(leg=offered.leg))
            ended = await host.wait_for(LegEnded, leg=offered.leg)
            assert ended.cause is Cause.RESOURCE_UNAVAILABLE
            adapter.set_output(SetOutput(endpoint="intercom/s", output="lock", value=1))
            written = await line.read(12)
            assert bytes.fromhex("FB12011E") in written
            with pytest.raises(DeviceError):
                adapter.dial(Dial(leg="x", endpoint="intercom/zz", trace="t", call="c"))


async def test_speech_on_a_device(tmp_path: Path) -> None:
    """A pseudo-terminal stands for a channel of a card: the block size is all they share."""
    engine = Engine(max_streams=4, ports=(31700, 31799), realtime=False)
    await engine.start()
    try:
        with SerialLine() as line, SerialLine() as channel:
            host = TestHost("intercom", engine=engine)
            adapter = host.make(
                Intercom,
                {
                    "port": line.path, "profile": "kocom",
                    "stations": {"door": {"address": "0200", "audio": channel.path}},
                },
            )  # fmt: skip
            spoken = write_wav(tmp_path / "spoken.wav", samples(440, 3.0, dbm0=-10))
            async with host.running():
                line.write(bytes.fromhex("aa557a9d020200ffffffff31ffffff0101a4550d0d"))
                offered = await host.wait_for(LegOffered)
                adapter.answer(Answer(leg=offered.leg))
                await host.wait_for(LegAnswered, leg=offered.leg)
                assert await line.read(21) == bytes.fromhex(
                    "aa5579bc02020031ffffff61ffffff030008d30d0d"
                )
                host.stream(offered.leg).play_file(str(spoken))
                heard = b""
                for _ in range(60):
                    channel.write(bytes([0xFF]) * 160)  # the card's clock
                    heard += await channel.read(160)
                    await asyncio.sleep(0.02)
            got = memoryview(g711.decode_ulaw(heard[1600:])).cast("h")
            # The test's clock is no card's: blocks may slip, but within one the tone is whole.
            levels = sorted(
                level_at(got[at : at + 400], 440) for at in range(0, len(got) - 400, 400)
            )
            assert levels[len(levels) // 2] == pytest.approx(-10, abs=1.5)
    finally:
        await engine.stop()


@pytest.mark.interop
async def test_a_bus_that_is_pulled_in_the_middle_of_a_frame_again_and_again(
    tmp_path: Path,
) -> None:
    if shutil.which("socat") is None:
        pytest.skip("socat is not installed: apt-get install socat")
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"

    @contextlib.asynccontextmanager
    async def cable() -> AsyncIterator[None]:
        process = await asyncio.create_subprocess_exec(
            "socat", f"pty,raw,echo=0,link={ours}", f"pty,raw,echo=0,link={theirs}"
        )
        await until(lambda: ours.exists() and theirs.exists())
        try:
            yield
        finally:
            process.kill()
            await process.wait()
            for link in (ours, theirs):
                link.unlink(missing_ok=True)

    host = TestHost("intercom")
    adapter = host.make(
        Intercom,
        {"port": str(ours), "reopen_s": 0.1, "stations": {"km3": {"address": 3}}},
    )
    station = CallPoint(3)
    service: asyncio.Future[str] | None = None
    cycles = 5
    try:
        for cycle in range(1, cycles + 1):
            async with cable(), CallPointBus(station, device=str(theirs)) as bus:
                service = service or asyncio.ensure_future(host.serve())
                await until(lambda: host.endpoints["intercom/km3"].condition is Condition.UP)
                leg = host.dial("intercom/km3")
                await host.wait_for(LegRinging, leg=leg)
                adapter.set_output(SetOutput(endpoint="intercom/km3", output="relay", value=1))
                await until(lambda: station.outputs.get(1) == 1)
                bus.write(b"\xaa\x55\x03\x83\x01\x05\x00")  # half a call
                begin = host.now()
            ended = await host.wait_for(LegEnded, leg=leg)
            assert ended.cause is Cause.ADAPTER_LOST
            assert host.now() - begin < 5.0
            assert host.endpoints["intercom/km3"].condition is Condition.DOWN
            assert host.counters["line_lost"] == cycle
            station.let_go(host.now())
        assert not host.of(LegOffered)
        assert host.counters["reopened"] == cycles - 1
    finally:
        if service is not None:
            service.cancel()
            await asyncio.wait({service})
