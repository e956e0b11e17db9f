"""Radios that are foreign programs: hamlib's rigctld, SvxLink's reflector and a node behind it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import gateway
from gateway.adapters.radio import Radio
from gateway.core.actions import Key, Unkey
from gateway.core.endpoints import Condition
from gateway.core.events import (
    AlarmCleared,
    AlarmRaised,
    FloorReleased,
    FloorRequested,
    InputChanged,
    LegAnswered,
    LegEnded,
)
from gateway.lab.softphone import free_port
from gateway.media.engine import Engine
from gateway.testing import TestHost
from gateway.testing.audio import level_at, read_wav, steady_level_at, tone, write_wav
from tests.adapters.radio_stand import Port, build_shim
from tests.interop.peers import Program, need, until
from tests.interop.svxlink import RATE, Node, reflector

pytestmark = pytest.mark.interop

ID = "radio/a"


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    made = Engine(max_streams=8, ports=(32200, 32299), realtime=False)
    await made.start()
    yield made
    await made.stop()


@contextlib.asynccontextmanager
async def radio(engine: Engine | None, **config: Any) -> AsyncIterator[TestHost]:
    host = TestHost("radio", engine=engine)
    host.make(Radio, {"radios": {"a": {"transmit": True, **config}}})
    async with host.running():
        await up(host)
        yield host


async def up(host: TestHost) -> None:
    await until(
        lambda: host.endpoints[ID].condition is Condition.UP, f"up, it is {host.endpoints[ID]}", 20
    )


async def keep_keyed(host: TestHost, leg: str, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        host.adapter.key(Key(leg=leg))
        await asyncio.sleep(min(0.5, max(0.0, end - loop.time())))


# hamlib


class Rig(Program):
    """rigctld with hamlib's dummy rig; its keying through `arguments`."""

    def __init__(self, directory: Path, *arguments: str, **environment: str) -> None:
        need("rigctld")
        self.port = free_port()
        command = ["rigctld", "-m", "1", "-T", "127.0.0.1", "-t", str(self.port), *arguments]
        super().__init__(command, directory, environment)

    async def __aenter__(self) -> Rig:
        await super().__aenter__()
        await until(lambda: self.keyed() is not None, "rigctld answers")
        return self

    def keyed(self) -> bool | None:
        """What the rig says, asked by another client with the plain protocol."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5.0) as client:
                client.sendall(b"t\n")
                return {b"1": True, b"0": False}.get(client.recv(100).strip())
        except OSError:
            return None


def silent_audio() -> dict[str, Any]:
    return {"by": "command", "record": ["sleep", "1000"], "play": ["dd", "of=/dev/null"]}


async def test_rigctld_is_keyed_and_released(tmp_path: Path) -> None:
    async with Rig(tmp_path, "-P", "RIG") as rig:
        # Left keyed by somebody who crashed.
        with socket.create_connection(("127.0.0.1", rig.port)) as client:
            client.sendall(b"T 1\n")
            client.recv(100)
        await until(rig.keyed, "keyed by another")
        key = {"by": "rigctld", "port": rig.port}
        async with radio(None, key=key, audio=silent_audio()) as host:
            assert rig.keyed() is False, "released before anything else"
            leg = host.dial(ID)
            await keep_keyed(host, leg, 0.8)
            assert rig.keyed()
            host.adapter.unkey(Unkey(leg=leg))
            await until(lambda: rig.keyed() is False, "released")
            host.adapter.key(Key(leg=leg))
            await until(rig.keyed, "keyed")
        assert rig.keyed() is False, "released at the end"
        proofs = (host.data_dir / "keying-a.jsonl").read_text().splitlines()
        assert all('"read_back": "off"' in proof for proof in proofs)


async def test_a_rig_that_hangs_while_keyed(tmp_path: Path) -> None:
    async with Rig(tmp_path, "-P", "RIG") as rig:
        key = {"by": "rigctld", "port": rig.port}
        async with radio(None, key=key, audio=silent_audio()) as host:
            leg = host.dial(ID)
            await keep_keyed(host, leg, 0.5)
            assert rig.process is not None
            rig.process.send_signal(signal.SIGSTOP)
            try:
                raised = await host.wait_for(AlarmRaised, alarm="transmitter")
                assert raised.severity == 4, "it may still be on the air"
                assert "did not answer" in raised.text
                await host.wait_for(LegEnded, leg=leg)
                assert host.endpoints[ID].condition is Condition.DOWN
            finally:
                rig.process.send_signal(signal.SIGCONT)
            await host.wait_for(AlarmCleared, alarm="transmitter")
            assert rig.keyed() is False
            await up(host)
            assert rig.keyed() is False, "what was renewed meanwhile does not key again"


async def test_a_rig_that_hangs_when_it_is_to_be_keyed(tmp_path: Path) -> None:
    """rigctld carries out what it was asked before it hung, in whatever order: it counts as
    released when nothing more can come."""
    async with Rig(tmp_path, "-P", "RIG") as rig:
        key = {"by": "rigctld", "port": rig.port}
        async with radio(None, key=key, penalty_s=0.0, audio=silent_audio()) as host:
            assert rig.process is not None
            for n in range(1, 6):
                leg = host.dial(ID)
                rig.process.send_signal(signal.SIGSTOP)
                try:
                    host.adapter.key(Key(leg=leg))
                    await host.wait_for(AlarmRaised, alarm="transmitter", count=n)
                    await host.wait_for(LegEnded, leg=leg)
                finally:
                    rig.process.send_signal(signal.SIGCONT)
                await host.wait_for(AlarmCleared, alarm="transmitter", count=n)
                assert rig.keyed() is False
                await up(host)
                assert rig.keyed() is False


async def test_a_rig_that_somebody_else_releases(tmp_path: Path) -> None:
    async with Rig(tmp_path, "-P", "RIG") as rig:
        key = {"by": "rigctld", "port": rig.port}
        async with radio(None, key=key, audio=silent_audio()) as host:
            leg = host.dial(ID)
            await keep_keyed(host, leg, 0.4)
            with socket.create_connection(("127.0.0.1", rig.port)) as client:
                client.sendall(b"T 0\n")
                client.recv(100)
            await host.wait_for(InputChanged, input="ptt", value=0.0, count=2)
            assert "released by somebody else" in (host.data_dir / "keying-a.jsonl").read_text()


async def test_a_rig_that_lies(tmp_path: Path) -> None:
    """It confirms that it released, and stays keyed."""
    keyed = False
    honest = True

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal keyed
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                word, _, value = line.decode().strip().lstrip("+\\").partition(" ")
                if word == "set_ptt":
                    keyed = value == "1" or (keyed and not honest)
                    writer.write(f"set_ptt: {value}\nRPRT 0\n".encode())
                else:
                    writer.write(f"get_ptt:\nPTT: {int(keyed)}\nRPRT 0\n".encode())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with radio(None, key={"by": "rigctld", "port": port}, audio=silent_audio()) as host:
        leg = host.dial(ID)
        await keep_keyed(host, leg, 0.4)
        honest = False
        host.adapter.unkey(Unkey(leg=leg))
        raised = await host.wait_for(AlarmRaised, alarm="transmitter")
        assert "still keyed" in raised.text
        honest = True
        await host.wait_for(AlarmCleared, alarm="transmitter")
        assert not keyed
    server.close()


async def test_a_rig_with_serial_lines(tmp_path: Path) -> None:
    shim = build_shim(tmp_path)
    port = Port(tmp_path)
    lines = ("-p", port.path, "-P", "RTS", "-d", port.path, "-D", "CTS")
    async with Rig(tmp_path, *lines, LINES_SHIM=str(tmp_path), LD_PRELOAD=str(shim)) as rig:
        async with radio(
            None, key={"by": "rigctld", "port": rig.port},
            carrier={"by": "rigctld", "port": rig.port}, audio=silent_audio(),
        ) as host:  # fmt: skip
            leg = host.dial(ID)
            port.carrier(True)
            await host.wait_for(FloorRequested, leg=leg)
            port.carrier(False)
            await host.wait_for(FloorReleased, leg=leg)
            assert not port.output()
            await keep_keyed(host, leg, 0.4)
            assert port.output(), "RTS is raised by hamlib"
        assert not port.output()
    port.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
async def test_a_killed_gateway_leaves_no_rig_keyed(tmp_path: Path, number: signal.Signals) -> None:
    async with Rig(tmp_path, "-P", "RIG") as rig:
        root = Path(gateway.__file__).parent.parent
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.adapters.radio_stand", f"rigctld:{rig.port}",
            str(tmp_path), cwd=root, stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(root)}, process_group=0,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            assert (await asyncio.wait_for(process.stdout.readline(), 30)).startswith(b"keyed")
            assert rig.keyed()
            process.send_signal(number)
            loop = asyncio.get_running_loop()
            begin = loop.time()
            while rig.keyed():
                assert loop.time() - begin < 5.0
                await asyncio.sleep(0.005)
            assert loop.time() - begin < 0.4
            proof = tmp_path / "keying-a.jsonl"
            # The one of the start, and this one.
            await until(lambda: proof.read_text().count('"read_back": "off"') == 2, "the proof")
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


# SvxLink


async def test_a_node_behind_a_reflector_hears_and_is_heard(tmp_path: Path, engine: Engine) -> None:
    async with Node(tmp_path) as node, radio(engine, reflector=reflector(node)) as host:
        leg = host.dial(ID)
        await host.wait_for(LegAnswered, leg=leg)
        spoken = write_wav(tmp_path / "spoken.wav", tone(1000, 10.0))
        host.stream(leg).play_file(str(spoken))
        await keep_keyed(host, leg, 1.5)
        assert node.keyed, "its transmitter is keyed"
        host.adapter.unkey(Unkey(leg=leg))
        await until(lambda: not node.keyed, "its transmitter is released")
        samples = memoryview(bytes(node.heard)).cast("h")
        steady = samples[len(samples) // 3 : 2 * len(samples) // 3]
        assert steady_level_at(steady, 1000, rate=RATE) > -20
        host.stream(leg).stop_play()

        recording = tmp_path / "heard.wav"
        host.stream(leg).record(str(recording), both=False)
        node.tone_hz = 700.0
        node.squelch(True)
        await host.wait_for(FloorRequested, leg=leg)
        await asyncio.sleep(1.5)
        node.squelch(False)
        await host.wait_for(FloorReleased, leg=leg)
        host.stream(leg).stop_record()
        await asyncio.sleep(0.3)
        heard = read_wav(recording)[0][0]
        steady = heard[RATE // 2 : RATE]
        assert steady_level_at(steady, 700, rate=RATE) > -20
        assert level_at(steady, 1000, rate=RATE) < -45

        # Again: the sequence of datagrams goes on where it was.
        host.stream(leg).play_file(str(spoken))
        await keep_keyed(host, leg, 0.8)
        assert node.keyed


async def test_svxlink_as_a_site_by_its_ptys(tmp_path: Path, engine: Engine) -> None:
    """radio/a is on the reflector, radio/site is the air around the node's own transceiver."""
    async with Node(tmp_path, air=False) as node:
        host = TestHost("radio", engine=engine)
        radios = {"a": {"transmit": True, "reflector": reflector(node)}, "site": node.site}
        host.make(Radio, {"radios": radios})
        async with host.running():
            await until(
                lambda: all(e.condition is Condition.UP for e in host.endpoints.values()), "up", 20
            )
            legs = {name: host.dial(name) for name in host.endpoints}
            for speaker, listener in ((ID, "radio/site"), ("radio/site", ID)):
                hz = 600.0 if speaker == ID else 1100.0
                spoken = write_wav(tmp_path / f"{hz}.wav", tone(hz, 10.0))
                heard = tmp_path / f"heard{hz}.wav"
                floors = len(host.of(FloorReleased, leg=legs[listener]))
                host.stream(legs[speaker]).play_file(str(spoken))
                host.stream(legs[listener]).record(str(heard), both=False)
                keying = asyncio.create_task(keep_keyed(host, legs[speaker], 1.8))
                await host.wait_for(FloorRequested, leg=legs[listener])
                await keying
                host.adapter.unkey(Unkey(leg=legs[speaker]))
                await host.wait_for(FloorReleased, leg=legs[listener], count=floors + 1)
                host.stream(legs[listener]).stop_record()
                host.stream(legs[speaker]).stop_play()
                await asyncio.sleep(0.3)
                samples = read_wav(heard)[0][0]
                steady = samples[len(samples) // 2 :][: RATE // 2]
                assert steady_level_at(steady, hz, rate=RATE) > -20


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_killed_gateway_leaves_no_node_transmitting(
    tmp_path: Path, number: signal.Signals
) -> None:
    async with Node(tmp_path) as node:
        root = Path(gateway.__file__).parent.parent
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.adapters.radio_stand", f"reflector:{node.port}",
            str(tmp_path), cwd=root, stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(root)}, process_group=0,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            assert (await asyncio.wait_for(process.stdout.readline(), 30)).startswith(b"keyed")
            await until(lambda: node.keyed, "the node transmits")
            process.send_signal(number)
            loop = asyncio.get_running_loop()
            begin = loop.time()
            await until(lambda: not node.keyed, "released")
            # The lease, and what the node itself takes after the end of an over.
            assert loop.time() - begin < 0.8
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def test_a_reflector_that_goes_and_comes(tmp_path: Path) -> None:
    async with Node(tmp_path) as node, radio(None, reflector=reflector(node)) as host:
        leg = host.dial(ID)
        assert node.running.process is not None
        node.running.process.terminate()
        await host.wait_for(LegEnded, leg=leg)
        assert host.endpoints[ID].condition is Condition.DOWN
        async with node.reflector():
            await up(host)


async def test_a_wrong_password_says_so(tmp_path: Path) -> None:
    async with Node(tmp_path) as node:
        host = TestHost("radio")
        host.make(Radio, {"radios": {"a": {"reflector": reflector(node, password="wrong")}}})
        async with host.running():
            await until(lambda: "Access denied" in host.endpoints[ID].reason, "refused")
