"""Radios behind lines and networks: promises, keying, carrier, time-out, audio both ways."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import socket
import tty
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.adapters.radio import Radio
from gateway.config import load
from gateway.core.actions import Answer, Hangup, Key, Unkey
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition
from gateway.core.events import (
    AlarmCleared,
    AlarmRaised,
    FloorReleased,
    FloorRequested,
    InputChanged,
    LegAnswered,
    LegEnded,
    LegOffered,
)
from gateway.errors import ConfigError, DeviceError
from gateway.media.engine import Engine
from gateway.protocols.radio import usrp
from gateway.runtime import Gateway
from gateway.testing import PROMISES, Scenario, TestHost, check_adapter, until
from gateway.testing.audio import level_at, read_wav, steady_level_at, tone, write_wav

RATE = 16000
FRAME = 640
ID = "radio/a"


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    made = Engine(max_streams=8, ports=(31100, 31199), realtime=False)
    await made.start()
    yield made
    await made.stop()


@dataclass
class Site:
    """A transceiver: its key line and carrier on pseudo-terminals, its audio on UDP."""

    key: tuple[int, int]
    carrier: tuple[int, int]
    audio: socket.socket
    port: int
    heard: bytearray = field(default_factory=bytearray)
    keyed: bool = False
    sent: str = ""

    @property
    def config(self) -> dict[str, Any]:
        return {
            "key": {"by": "pty", "path": os.ttyname(self.key[1])},
            "carrier": {"by": "pty", "path": os.ttyname(self.carrier[1])},
            "audio": {
                "by": "udp",
                "listen": f"127.0.0.1:{self.port}",
                "send": f"127.0.0.1:{self.audio.getsockname()[1]}",
                "idle_silence": False,
            },
            "transmit": True,
        }

    def signal(self, on: bool) -> None:
        os.write(self.carrier[0], b"T" if on else b"R")

    async def watch(self) -> None:
        """Follow the key line and hear what is transmitted."""
        while True:
            with contextlib.suppress(BlockingIOError):
                self.sent += os.read(self.key[0], 100).decode()
                self.keyed = self.sent.endswith("O")
            with contextlib.suppress(BlockingIOError):
                while True:
                    self.heard += self.audio.recv(65536)
            await asyncio.sleep(0.002)

    async def speak(self, hz: float, seconds: float) -> None:
        """Receive a tone, in pieces of another size than ours."""
        samples = tone(hz, seconds, rate=RATE).tobytes()
        loop = asyncio.get_running_loop()
        begin = loop.time()
        for at in range(0, len(samples), 1024):
            self.audio.sendto(samples[at : at + 1024], ("127.0.0.1", self.port))
            await asyncio.sleep(begin + at / (2 * RATE) - loop.time())


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as audio:
        audio.bind(("127.0.0.1", 0))
        audio.setblocking(False)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        key, carrier = pty.openpty(), pty.openpty()
        for pair in (key, carrier):
            tty.setraw(pair[1])
            os.set_blocking(pair[0], False)
        made = Site(key, carrier, audio, port)
        watching = asyncio.create_task(made.watch())
        yield made
        watching.cancel()
        for fd in (*key, *carrier):
            with contextlib.suppress(OSError):
                os.close(fd)


@contextlib.asynccontextmanager
async def radio(engine: Engine | None, **config: Any) -> AsyncIterator[TestHost]:
    host = TestHost("radio", engine=engine)
    host.make(Radio, {"radios": {"a": config}})
    async with host.running():
        await until(lambda: host.endpoints[ID].condition is Condition.UP, "up", 20.0)
        yield host


async def keep_keyed(host: TestHost, leg: str, seconds: float) -> None:
    """What dispatch does."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        host.adapter.key(Key(leg=leg))
        await asyncio.sleep(min(0.5, max(0.0, end - loop.time())))


async def test_promises(site: Site, engine: Engine) -> None:
    async def offer(adapter: Any, _: Any) -> None:
        station = adapter.stations[ID]
        await until(lambda: station.endpoint.condition is Condition.UP, "up", 20.0)
        site.signal(False)
        await until(lambda: not station._carrier.busy)
        await asyncio.sleep(0.05)
        site.signal(True)

    def garbage(adapter: Any, _: Any) -> None:
        for data in (b"x", b"odd", bytes(999)):
            site.audio.sendto(data, ("127.0.0.1", site.port))

    @contextlib.asynccontextmanager
    async def settled() -> AsyncIterator[None]:
        yield

    class Ready(Radio):
        """Ready once its radios are: the checks dial without looking at the condition."""

        async def run(self) -> None:
            ready = self.host.ready
            self.host.ready = lambda: None  # type: ignore[method-assign]

            async def wait() -> None:
                await until(
                    lambda: all(
                        s.endpoint.condition is Condition.UP for s in self.stations.values()
                    ),
                    20.0,
                )
                ready()

            waiting = asyncio.create_task(wait())
            try:
                await super().run()
            finally:
                waiting.cancel()
                self.host.ready = ready  # type: ignore[method-assign]

    scenario = Scenario(
        dial=ID, offer=offer, garbage=garbage, answer=lambda adapter, _: None, engine=engine,
        within_s=20.0,
    )  # fmt: skip
    report = await check_adapter(
        Ready, {"radios": {"a": {**site.config, "calls": "101", "hang_ms": 20}}}, scenario
    )
    assert set(report.kept) == set(PROMISES), str(report)


async def test_a_telephone_is_heard_on_the_air_from_its_first_word_to_its_last(
    site: Site, engine: Engine, tmp_path: Path
) -> None:
    spoken = write_wav(tmp_path / "spoken.wav", tone(1000, 1.0, rate=8000))
    async with radio(engine, **site.config, lead_in_ms=300, courtesy={"hz": 2000}) as host:
        leg = host.dial(ID)
        await host.wait_for(LegAnswered, leg=leg)
        await until(lambda: site.sent.endswith("Z"))  # released first of all
        host.adapter.key(Key(leg=leg))
        host.stream(leg).play_file(str(spoken))
        await until(lambda: site.keyed)
        assert not site.heard, "no audio before the lead-in is over"
        await keep_keyed(host, leg, 1.1)
        host.adapter.unkey(Unkey(leg=leg))
        assert site.keyed, "what was said before still goes out"
        await until(lambda: not site.keyed)
        proofs = (host.data_dir / "keying-a.jsonl").read_text().splitlines()
    assert '"released"' in proofs[-1]
    samples = memoryview(bytes(site.heard)).cast("h")
    of_tone = [
        n for n in range(0, len(samples) - 320, 320)
        if level_at(samples[n : n + 320], 1000, rate=RATE) > -20
    ]  # fmt: skip
    assert 48 <= len(of_tone) <= 51, "a second of speech, nothing cut off"
    last = samples[-2400:]
    assert level_at(last[:1600], 2000, rate=RATE) > -25, "the courtesy tone ends it"


async def test_the_radio_is_heard_without_the_squelch_tail(
    site: Site, engine: Engine, tmp_path: Path
) -> None:
    async with radio(engine, **site.config, squelch_tail_ms=120, hang_ms=150) as host:
        leg = host.dial(ID)
        await host.wait_for(LegAnswered, leg=leg)
        recording = tmp_path / "heard.wav"
        host.stream(leg).record(str(recording), both=False)
        await site.speak(600, 0.2)
        assert not host.of(FloorRequested), "a source of audio is not a source of keying"
        site.signal(True)
        speech = asyncio.create_task(site.speak(1000, 1.0))
        await host.wait_for(FloorRequested, leg=leg)
        await host.wait_for(InputChanged, input="carrier", value=1.0)
        await speech
        noise = asyncio.create_task(site.speak(3000, 0.3))
        await asyncio.sleep(0.08)
        site.signal(False)
        await noise
        await host.wait_for(FloorReleased, leg=leg)
        host.stream(leg).stop_record()
        await host.recorded(recording)
    samples = read_wav(recording)[0][0]
    assert steady_level_at(samples, 1000, rate=RATE) > -20
    for n in range(0, len(samples) - 320, 320):
        frame = samples[n : n + 320]
        assert level_at(frame, 3000, rate=RATE) < -40, "noise of the closing squelch"
        assert level_at(frame, 600, rate=RATE) < -40 or n < 4000 * 16, "closed squelch"


async def test_time_out_and_penalty(site: Site) -> None:
    async with radio(None, **site.config, time_out_s=0.6, penalty_s=0.4) as host:
        leg = host.dial(ID)
        await keep_keyed(host, leg, 0.3)
        await until(lambda: site.keyed)
        await keep_keyed(host, leg, 0.8)
        assert not site.keyed, "the speaker did not let go: it stays off"
        assert host.counters["time_outs"] == 1
        host.adapter.unkey(Unkey(leg=leg))
        host.adapter.key(Key(leg=leg))
        host.adapter.unkey(Unkey(leg=leg))
        await asyncio.sleep(0.5)
        await keep_keyed(host, leg, 0.2)
        await until(lambda: site.keyed)


async def test_nothing_is_keyed_unless_transmitting_is_enabled(site: Site) -> None:
    async with radio(None, **{**site.config, "transmit": False}) as host:
        leg = host.dial(ID)
        await keep_keyed(host, leg, 0.7)
        assert "O" not in site.sent
        assert host.counters["transmit_disabled"] == 1
        assert host.endpoints[ID].detail["transmit"] == "disabled"


async def test_a_floor_that_is_not_renewed_lapses(site: Site) -> None:
    async with radio(None, **site.config) as host:
        leg = host.dial(ID)
        host.adapter.key(Key(leg=leg))
        await until(lambda: site.keyed)
        await until(lambda: not site.keyed, "released", 3.0)


async def test_safe_state_holds_until_the_speaker_lets_go(site: Site) -> None:
    async with radio(None, **site.config, penalty_s=0.1) as host:
        leg = host.dial(ID)
        await keep_keyed(host, leg, 0.3)
        await until(lambda: site.keyed)
        host.adapter.safe_state()
        await until(lambda: not site.keyed, "released", 0.3)
        await keep_keyed(host, leg, 0.8)
        assert not site.keyed


async def test_an_event_loop_that_hangs_loses_the_transmitter(site: Site) -> None:
    import time

    async with radio(None, **site.config) as host:
        leg = host.dial(ID)
        await keep_keyed(host, leg, 0.3)
        time.sleep(0.6)  # noqa: ASYNC251 - that is what it is about
        await host.wait_for(InputChanged, input="ptt", value=0.0, count=2)
        assert '"the lease was not renewed"' in (host.data_dir / "keying-a.jsonl").read_text()
        assert host.counters["unkeyed_by_guard"] == 1
        # The floor is still held: the next renewal keys again.
        await keep_keyed(host, leg, 0.2)
        await until(lambda: site.keyed)


async def test_a_carrier_begins_a_call_and_silence_ends_it(site: Site, engine: Engine) -> None:
    async with radio(engine, **site.config, calls="101", idle_s=0.5) as host:
        site.signal(True)
        offered = await host.wait_for(LegOffered)
        assert (offered.endpoint, offered.called) == (ID, "101")
        host.adapter.answer(Answer(leg=offered.leg))
        await host.wait_for(LegAnswered, leg=offered.leg)
        await host.wait_for(FloorRequested, leg=offered.leg)
        host.adapter.hangup(Hangup(leg=offered.leg))
        await asyncio.sleep(0.2)
        assert len(host.of(LegOffered)) == 1, "the same carrier does not call again"
        site.signal(False)
        await host.wait_for(InputChanged, input="carrier", value=0.0, count=2)
        site.signal(True)
        again = await host.wait_for(LegOffered, count=2)
        host.adapter.answer(Answer(leg=again.leg))
        site.signal(False)
        ended = await host.wait_for(LegEnded, leg=again.leg)
        assert ended.cause is Cause.NORMAL


async def test_our_own_transmission_is_no_carrier(site: Site) -> None:
    async with radio(None, **site.config, turnaround_ms=300, hang_ms=20) as host:
        leg = host.dial(ID)
        await keep_keyed(host, leg, 0.3)
        site.signal(True)
        await keep_keyed(host, leg, 0.3)
        assert not host.of(FloorRequested)
        host.adapter.unkey(Unkey(leg=leg))
        await until(lambda: not site.keyed)
        await host.wait_for(FloorRequested, leg=leg)


async def test_a_line_that_vanishes_takes_the_radio_down(site: Site) -> None:
    async with radio(None, **site.config) as host:
        leg = host.dial(ID)
        await keep_keyed(host, leg, 0.3)
        os.close(site.carrier[0])
        ended = await host.wait_for(LegEnded, leg=leg)
        assert ended.cause is Cause.OUT_OF_ORDER
        await until(lambda: not site.keyed)
        assert host.endpoints[ID].condition is Condition.DOWN
        await host.wait_for(AlarmRaised, alarm="transmitter")
        with pytest.raises(DeviceError, match="down"):
            host.dial(ID)


async def test_a_missing_line_is_down_and_comes_by_itself(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "ptt"
    config = {**site.config, "key": {"by": "pty", "path": str(path)}}
    host = TestHost("radio")
    host.make(Radio, {"radios": {"a": config}})
    async with host.running():
        raised = await host.wait_for(AlarmRaised, within_s=20)
        assert "No such file" in raised.text
        path.symlink_to(os.ttyname(site.key[1]))
        await host.wait_for(AlarmCleared, alarm="transmitter")
        await until(lambda: host.endpoints[ID].condition is Condition.UP)


async def test_programs_for_audio_and_vox(engine: Engine, tmp_path: Path) -> None:
    played = tmp_path / "played"
    record = ("ffmpeg", "-loglevel", "error", "-re", "-f", "lavfi", "-i",
              "sine=frequency=1000:sample_rate=16000", "-f", "s16le", "-")  # fmt: skip
    async with radio(
        engine,
        audio={"by": "command", "record": record, "play": ("dd", f"of={played}", "status=none")},
        carrier={"by": "vox", "dbm0": -30.0},
    ) as host:
        leg = host.dial(ID)
        await host.wait_for(FloorRequested, leg=leg, within_s=10)
        recording = tmp_path / "heard.wav"
        host.stream(leg).record(str(recording), both=False)
        await asyncio.sleep(1.0)
        host.stream(leg).stop_record()
        await host.recorded(recording)
    samples = read_wav(recording)[0][0]
    assert steady_level_at(samples[1600:9600], 1000, rate=RATE) > -20
    assert played.stat().st_size > 16000


async def test_a_program_that_ends_takes_the_radio_down() -> None:
    host = TestHost("radio")
    audio = {"by": "command", "record": ["true"], "play": ["cat"]}
    host.make(Radio, {"radios": {"a": {"audio": audio}}})
    async with host.running():
        await until(lambda: "has ended" in host.endpoints[ID].reason)


@pytest.fixture
def usrp_peer() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.setblocking(False)
        yield peer


async def test_usrp_both_ways(usrp_peer: socket.socket, engine: Engine, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = {"host": "127.0.0.1", "port": usrp_peer.getsockname()[1],
              "listen": f"127.0.0.1:{port}"}  # fmt: skip
    async with radio(engine, usrp=config, transmit=True) as host:
        leg = host.dial(ID)
        recording = tmp_path / "heard.wav"
        host.stream(leg).record(str(recording), both=False)
        samples = tone(700, 1.0).tobytes()
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for n in range(50):
            head = bytes.fromhex(f"55535250{n + 1:08x}00000000000000010000000000000000")
            sender.sendto(head + bytes(8) + samples[320 * n : 320 * n + 320], ("127.0.0.1", port))
            await asyncio.sleep(0.02)
        end = bytes.fromhex("55535250000000330000000000000000") + bytes(16)
        await host.wait_for(FloorRequested, leg=leg)
        sender.sendto(end, ("127.0.0.1", port))
        sender.close()
        await host.wait_for(FloorReleased, leg=leg)
        host.stream(leg).stop_record()
        spoken = write_wav(tmp_path / "spoken.wav", tone(1000, 1.0))
        host.stream(leg).play_file(str(spoken))
        await keep_keyed(host, leg, 0.8)
        host.adapter.unkey(Unkey(leg=leg))
        await host.wait_for(InputChanged, input="ptt", value=0.0, count=2)
        await asyncio.sleep(0.1)
    frames = []
    with contextlib.suppress(BlockingIOError):
        while True:
            frame, origin = usrp_peer.recvfrom(4096)
            # The port may have been another test's, to which somebody still sends.
            if origin == ("127.0.0.1", port):
                frames.append(frame)
    heard = read_wav(recording)[0][0]
    assert steady_level_at(heard[1600:6400], 700) > -20
    voice = [frame for frame in frames if len(frame) == 352]
    assert all(frame[12:16] == b"\0\0\0\1" for frame in voice)
    said = memoryview(b"".join(frame[32:] for frame in voice)).cast("h")
    assert steady_level_at(said[1600:4800], 1000) > -20
    assert [len(frame) for frame in frames[-3:]] == [32, 32, 32]
    assert all(frame[12:16] == bytes(4) for frame in frames[-3:])
    numbers = [int.from_bytes(frame[4:8], "big") for frame in frames]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({}, "one of them"),
        ({"transmit": True, "audio": {"by": "alsa"}}, "key line"),
        ({"calls": "1", "audio": {"by": "alsa"}}, "carrier"),
        ({"usrp": {"host": "x", "listen": "here"}}, "address:port"),
        ({"usrp": {"host": "x"}, "key": {"by": "rigctld"}}, "by themselves"),
    ],
)
def test_configuration_that_makes_no_sense(config: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        TestHost("radio").make(Radio, {"radios": {"a": config}})


async def test_two_radios_through_the_whole_gateway(tmp_path: Path) -> None:
    """Somebody speaks on one channel; the other is called, keyed, and hears him; and back."""
    peers, ports = [], []
    for _ in range(2):
        peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        peer.bind(("127.0.0.1", 0))
        peer.setblocking(False)
        peers.append(peer)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    text = f"""
        [gateway]
        name = "lab"
        data_dir = "{tmp_path}/data"
        drain_s = 0.1
        [control]
        socket = "{tmp_path}/s"
        [media]
        realtime = false
        ports = [31300, 31399]
        [[routes]]
        name = "cross"
        from = ["radio/a"]
        targets = ["radio/b"]
    """
    for name, peer, port in zip("ab", peers, ports, strict=True):
        text += f"""
        [adapters.radio.radios.{name}]
        transmit = true
        calls = "1"
        [adapters.radio.radios.{name}.usrp]
        host = "127.0.0.1"
        port = {peer.getsockname()[1]}
        listen = "127.0.0.1:{port}"
        """
    (tmp_path / "gateway.toml").write_text(text)
    gateway = Gateway(load(tmp_path / "gateway.toml"))
    run = asyncio.create_task(gateway.run())
    try:
        for name in "ab":
            await until(
                lambda place=f"radio/{name}": (
                    place in gateway.places and gateway.places[place][0].condition == "up"
                ),
                20.0,
            )
        for speaker, listener, hz in ((0, 1, 500), (1, 0, 900)):
            samples = tone(hz, 1.0).tobytes()
            heard: list[bytes] = []
            for n in range(100):
                frame = usrp.Frame(n + 1 + 1000 * speaker, True, usrp.Type.VOICE, 0,
                                   samples[320 * (n % 50) :][:320])  # fmt: skip
                peers[speaker].sendto(frame.pack(), ("127.0.0.1", ports[speaker]))
                await asyncio.sleep(0.02)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        heard.append(peers[listener].recv(4096))
            end = usrp.Frame(2000, False, usrp.Type.VOICE).pack()
            peers[speaker].sendto(end, ("127.0.0.1", ports[speaker]))
            await asyncio.sleep(0.3)
            with contextlib.suppress(BlockingIOError):
                while True:
                    heard.append(peers[listener].recv(4096))
            assert len(heard[-1]) == 32, "unkeyed after the last word"
            voice = b"".join(frame[32:] for frame in heard)
            said = memoryview(voice).cast("h")[len(voice) // 4 :]
            assert steady_level_at(said, hz) > -20
            with pytest.raises(BlockingIOError):
                peers[speaker].recv(4096)
    finally:
        gateway.stop()
        gateway.stop()
        await asyncio.wait_for(run, 20)
        for peer in peers:
            peer.close()
