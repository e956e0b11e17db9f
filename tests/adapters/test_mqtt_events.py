"""The gateway's events on the broker: outages, restarts, limits, TLS, hostile brokers."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.adapters.mqtt import Mqtt
from gateway.adapters.mqtt.link import pause_s
from gateway.adapters.mqtt.spool import Message, Spool
from gateway.core.envelope import Envelope
from gateway.core.events import (
    AlarmRaised,
    DigitPressed,
    Event,
    InputChanged,
    PanelChanged,
)
from gateway.core.ids import Ids
from gateway.errors import ConfigError
from gateway.testing.host import TestHost
from tests.adapters.mqtt_broker import Broker, needs_mosquitto, subscribed, until
from tests.fresh import descriptors, fresh

pytestmark = [needs_mosquitto, pytest.mark.interop]

_ids = Ids()


def envelope(event: Event, *, trace: str = "trace-1") -> Envelope:
    now = time.time()
    return Envelope(
        id=_ids.uuid7(now), box="box1", at=now, mono=time.monotonic(), trace=trace,
        adapter="test", event=event,
    )  # fmt: skip


def reading(n: int) -> Envelope:
    return envelope(InputChanged(endpoint="modbus/gate", input="n", value=float(n)))


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


def make(tmp_path: Path, port: int, **section: Any) -> TestHost:
    data = tmp_path / "data"
    data.mkdir(exist_ok=True)
    host = TestHost("mqtt", data_dir=data)
    host.make(Mqtt, {"port": port, "box": "box1", "keepalive_s": 5} | section)
    return host


def documents(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line.split("|", 2)[2]) for line in lines]


async def test_cloudevents(tmp_path: Path, broker: Broker) -> None:
    host = make(tmp_path, broker.port)
    form = ("-F", "%t|%r|%p|%q|%C|%P")
    async with host.running(), subscribed(broker, "gw/box1/#", *form) as sub:
        await sub.wait(1)
        host.publish(envelope(DigitPressed(leg="fxs/1#1", digit="4")))
        sent = envelope(AlarmRaised(endpoint="m/p", alarm="a", trace="trace-1", raised_at=1.0))
        host.publish(sent)
        lines = await sub.wait(2)
        assert lines[0].startswith("gw/box1/status|1|online|1")
        topic, retain, rest = lines[1].split("|", 2)
        assert (topic, retain) == ("gw/box1/event/AlarmRaised", "0")
        payload, qos, content, properties = rest.rsplit("|", 3)
        assert json.loads(payload) == sent.cloudevent()
        assert (qos, content) == ("1", "application/cloudevents+json")
        assert properties == "trace:trace-1"
        host.publish(reading(1))
        await sub.wait(3)
    assert not any("DigitPressed" in line for line in sub.lines), "digits are PINs"


async def test_digits_only_when_named(tmp_path: Path, broker: Broker) -> None:
    host = make(tmp_path, broker.port, events={"include": ["DigitPressed"]})
    async with host.running(), subscribed(broker, "gw/box1/event/#") as sub:
        host.publish(reading(1))
        host.publish(envelope(DigitPressed(leg="fxs/1#1", digit="4")))
        assert (await sub.wait(1))[0].startswith("gw/box1/event/DigitPressed")


async def test_broker_killed_again_and_again(tmp_path: Path, broker: Broker, version: str) -> None:
    """Every event arrives, in order, hardly any twice; retained state is right afterwards."""
    host = make(tmp_path, broker.port, version=version, panels={"house": {"state_topic": "s"}})
    chance = random.Random(7)
    sent: list[str] = []
    session = ("-c", "-i", f"judge-{version}", "-x", "3600")

    def logged(what: str) -> list[Any]:
        return [line for line in host.logged.lines if line[1] == what]

    async with host.running(), subscribed(broker, "gw/box1/event/InputChanged", *session) as sub:

        async def produce() -> None:
            while not enough.is_set():
                one = reading(len(sent))
                sent.append(one.id)
                host.publish(one)
                await asyncio.sleep(0.02)

        enough = asyncio.Event()
        producing = asyncio.get_running_loop().create_task(produce())
        for cycle in range(1, 4):
            await asyncio.sleep(chance.uniform(0.3, 1.0))
            broker.kill()
            await asyncio.sleep(chance.uniform(0.3, 1.5))
            broker.start()
            await until(lambda: len(logged("broker is back")) == cycle, "reconnect")  # noqa: B023
            await broker.shows("gw/box1/status", "online")
            # Mosquitto confirms a message before it is on its disk: what it holds for an absent
            # subscriber it may lose when it is killed, which would be judged as our loss.
            await sub.wait(len(sub.lines) + 5, 30.0)
        enough.set()
        await producing
        await until(
            lambda: {d["id"] for d in documents(sub.lines)} >= set(sent), "every event", 40.0
        )
        await broker.publish("s", "disarmed", "-r")
        await host.wait_for(PanelChanged, state="disarmed")
    assert len(sent) > 100
    ids = [d["id"] for d in documents(sub.lines)]
    # Counted where they arrive: mosquitto itself repeats to its subscriber after a kill.
    published = re.findall(r"Received PUBLISH from box1-mqtt \(.*InputChanged", broker.log)
    assert len(sent) <= len(published) <= 1.05 * len(sent), "duplicates"
    first = list(dict.fromkeys(ids))
    assert first == sent, "order of first arrival"
    assert host.counters["mqtt.disconnects"] >= 3
    assert host.counters["mqtt.events_dropped"] == 0
    assert len(logged("broker lost")) == len(logged("broker is back")) == 3


async def test_events_survive_outage_and_restart(tmp_path: Path, broker: Broker) -> None:
    sent = [reading(n) for n in range(300)]
    host = make(tmp_path, broker.port)
    async with host.running():
        broker.kill()
        await until(lambda: host.counters["mqtt.disconnects"], "loss noticed")
        for one in sent[:150]:
            host.publish(one)
    host = make(tmp_path, broker.port)
    serving = asyncio.get_running_loop().create_task(host.serve())
    await until(lambda: host.exchange.feeds, "second run")
    for one in sent[150:]:
        host.publish(one)
    await asyncio.sleep(0.1)
    broker.start()
    async with subscribed(broker, "gw/box1/event/#") as sub:
        await sub.wait(300, 30.0)
    serving.cancel()
    await asyncio.wait({serving})
    ids = [d["id"] for d in documents(sub.lines)]
    assert ids[-300:] == [one.id for one in sent]
    rows = sqlite3.connect(tmp_path / "data" / "spool.sqlite").execute(
        "SELECT count(*) FROM message"
    )
    assert rows.fetchone() == (0,), "what was confirmed is gone"


@pytest.mark.parametrize(
    ("fault", "within_s"),
    [
        # Sooner than any keepalive tells.
        (signal.SIGKILL, 4.5),
        # One and a half keepalives, mosquitto looks every five seconds, and a machine is busy.
        (signal.SIGSTOP, 1.5 * 5 + 5.5 + 12.0),
    ],
)
async def test_will_when_we_die(
    tmp_path: Path, broker: Broker, fault: signal.Signals, within_s: float
) -> None:
    program = (
        "import asyncio, sys, pathlib\n"
        "from gateway.testing.host import TestHost\n"
        "from gateway.adapters.mqtt import Mqtt\n"
        "async def main():\n"
        "    host = TestHost('mqtt', data_dir=pathlib.Path(sys.argv[1]))\n"
        "    host.make(Mqtt, {'port': int(sys.argv[2]), 'box': 'box1', 'keepalive_s': 5})\n"
        "    async with host.running():\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(tmp_path), str(broker.port)
    )
    try:
        async with subscribed(broker, "gw/box1/status") as sub:
            await until(lambda: any(x.endswith("online") for x in sub.lines), "online", 20.0)
            os.kill(process.pid, fault)
            await until(lambda: sub.lines[-1].endswith("offline"), "will", within_s)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    await broker.shows("gw/box1/status", "offline")


def test_spool_keeps_alarms_longest(tmp_path: Path) -> None:
    lost: dict[str, int] = {}

    def count(name: str, n: int) -> None:
        lost[name] = lost.get(name, 0) + n

    def message(n: int, alarm: bool) -> Message:
        return Message("t", str(n).encode(), alarm=alarm)

    spool = Spool(tmp_path / "s", 100, on_ready=lambda: None, on_count=count)
    spool.open()
    for n in range(300):
        spool.put(message(n, n % 5 == 0))
    spool.close()
    spool = Spool(tmp_path / "s", 100, on_ready=lambda: None, on_count=count)
    spool.open()
    left = spool.fetch(0, 1000)
    assert len(left) == 100
    assert [int(m.payload) for m in left if m.alarm] == list(range(0, 300, 5)), "all alarms"
    assert [int(m.payload) for m in left if not m.alarm] == [n for n in range(300) if n % 5][
        -40:
    ], "and the newest of the rest"
    assert lost == {"mqtt.events_dropped": 200}
    for n in range(300, 360):
        spool.put(message(n, True))
    spool.close()
    spool = Spool(tmp_path / "s", 100, on_ready=lambda: None, on_count=count)
    spool.open()
    left = spool.fetch(0, 1000)
    assert [int(m.payload) for m in left] == [*range(100, 300, 5), *range(300, 360)]
    assert lost == {"mqtt.events_dropped": 240, "mqtt.alarms_dropped": 20}
    spool.close()


def test_spool_of_a_spoilt_file(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(b"not a database" * 1000)
    lost: list[str] = []
    spool = Spool(
        tmp_path / "s", 100, on_ready=lambda: None, on_count=lambda name, n: lost.append(name)
    )
    spool.open()
    spool.put(Message("t", b"x"))
    spool.close()
    assert lost == ["mqtt.spool_corrupt"]
    assert (tmp_path / "s.corrupt").exists()


def test_spool_with_a_full_disk(tmp_path: Path) -> None:
    """What the disk refuses is sent from memory, in order."""
    ready = threading.Event()
    lost: list[str] = []
    spool = Spool(
        tmp_path / "s", 100, on_ready=ready.set, on_count=lambda name, n: lost.append(name)
    )
    spool.open()
    blocker = sqlite3.connect(tmp_path / "s", isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    for n in range(150):
        spool.put(Message("t", str(n).encode()))
    assert ready.wait(10.0)
    deadline = time.monotonic() + 5.0
    while not (found := spool.fetch(0, 1000)):
        assert time.monotonic() < deadline
    numbers = [int(m.payload) for m in found]
    assert numbers == list(range(50, 150))
    assert lost.count("mqtt.events_dropped") == 50
    spool.done(found[0].number)
    blocker.execute("ROLLBACK")
    spool.close()
    rows = blocker.execute("SELECT payload FROM message ORDER BY number").fetchall()
    assert [int(payload) for (payload,) in rows] == list(range(51, 150))


# Who may connect


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("certificates")

    def run(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=here, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    for authority in ("ca", "other"):
        run("req", "-x509", *key, "-keyout", f"{authority}.key", "-out", f"{authority}.crt",
            "-subj", f"/CN=test {authority}")  # fmt: skip
    (here / "ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name in ("server", "gw"):
        run("req", *key[:-2], "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj",
            f"/CN={name}")  # fmt: skip
        run("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key",
            "-CAcreateserial", "-days", "2", "-out", f"{name}.crt", "-extfile", "ext")  # fmt: skip
    return here


def tls_listener(certificates: Path) -> str:
    return (
        f"cafile {certificates}/ca.crt\ncertfile {certificates}/server.crt\n"
        f"keyfile {certificates}/server.key\nrequire_certificate true\n"
        "use_identity_as_username true\nallow_anonymous false\n"
    )


async def test_tls_with_client_certificate(
    tmp_path: Path, certificates: Path, version: str
) -> None:
    (tmp_path / "mq").mkdir()
    broker = Broker(tmp_path / "mq", tls_listener(certificates))
    broker.start()
    try:
        tls = {
            "ca_file": f"{certificates}/ca.crt",
            "cert_file": f"{certificates}/gw.crt",
            "key_file": f"{certificates}/gw.key",
        }
        options = (
            "--cafile", tls["ca_file"], "--cert", tls["cert_file"], "--key", tls["key_file"],
        )  # fmt: skip
        host = make(tmp_path, broker.port, version=version, tls=tls,
                    panels={"house": {"state_topic": "house/state"}})  # fmt: skip
        async with host.running(), subscribed(broker, "gw/box1/event/#", *options) as sub:
            # Bigger than one TLS record.
            await broker.publish("house/state", "x" * 60_000, *options)
            await broker.publish("house/state", "disarmed", *options)
            await host.wait_for(PanelChanged, state="disarmed")
            for n in range(50):
                host.publish(reading(n))
            await sub.wait(50)
        assert " as " in broker.log
        assert "u'gw'" in broker.log

        for wrong in (
            {**tls, "ca_file": f"{certificates}/other.crt"},
            {"ca_file": f"{certificates}/ca.crt"},
        ):
            host = make(tmp_path, broker.port, version=version, tls=wrong)
            serving = asyncio.get_running_loop().create_task(host.serve())
            await until(lambda: host.counters["mqtt.disconnects"], "refusal")  # noqa: B023
            assert not host.up
            serving.cancel()
            await asyncio.wait({serving})
    finally:
        broker.kill()


async def test_unreadable_certificate(tmp_path: Path) -> None:
    host = make(tmp_path, 1, tls={"ca_file": str(tmp_path / "missing.crt")})
    with pytest.raises(ConfigError, match=r"missing\.crt"):
        await host.adapter.run()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Broker]:
    home = tmp_path / "mq"
    home.mkdir()
    (home / "passwd").touch()
    subprocess.run(["mosquitto_passwd", "-b", home / "passwd", "gw", "secret"], check=True)
    (home / "acl").write_text("user gw\ntopic readwrite gw/#\ntopic read house/#\n")
    for name in ("passwd", "acl"):
        (home / name).chmod(0o600)
    broker = Broker(
        home, f"allow_anonymous false\npassword_file {home}/passwd\nacl_file {home}/acl\n"
    )
    broker.start()
    yield broker
    broker.kill()


async def test_password_and_access_rules(
    tmp_path: Path, guarded: Broker, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MQTT_TEST_SECRET", "secret")
    (tmp_path / "word").write_text("secret\n")
    for password in ({"env": "MQTT_TEST_SECRET"}, {"file": str(tmp_path / "word")}):
        host = make(
            tmp_path, guarded.port, version=version, user="gw", password=password,
            base="forbidden",
        )  # fmt: skip
        async with host.running():
            host.publish(reading(1))
            host.publish(reading(2))
            # MQTT 3.1.1 has no way to say that a message was refused.
            if version == "5":
                await until(
                    lambda: host.counters["mqtt.publish_refused"] >= 3,  # noqa: B023
                    "refusals counted",
                )
    host = make(tmp_path, guarded.port, version=version, user="gw", password="wrong")
    serving = asyncio.get_running_loop().create_task(host.serve())
    await until(lambda: host.counters["mqtt.disconnects"], "refusal")
    lost = [line for line in host.logged.lines if line[1] == "broker lost"]
    assert "uthor" in lost[0][2]["reason"]
    assert "wrong" not in str(host.logged.lines)
    serving.cancel()
    await asyncio.wait({serving})


def test_pauses_grow_with_the_trouble() -> None:
    chance = random.Random(1)
    for trouble_s, longest in ((0.0, 2.0), (30.0, 3.75), (200.0, 25.0), (86400.0, 60.0)):
        pauses = [pause_s(trouble_s, chance) for _ in range(500)]
        assert 1.0 <= min(pauses) < 1.0 + 0.1 * longest
        assert 0.9 * longest < max(pauses) <= longest


# Hostile brokers


class Hostile:
    """A TCP server that does as it likes with each connection."""

    def __init__(self, first: bytes = b"", *, then: bytes = b"", silent: bool = False) -> None:
        self.first, self.then, self.silent = first, then, silent
        self.connections = 0
        self.times: list[float] = []
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Hostile:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.times.append(time.monotonic())
        self._writers.add(writer)
        try:
            await reader.read(10)
            writer.write(self.first)
            if self.then:
                for _ in range(64):
                    writer.write(self.then)
                    await writer.drain()
            while self.silent and await reader.read(65536):
                pass
        except ConnectionError:
            pass
        finally:
            writer.close()


CONNACK5 = bytes.fromhex("2003000000")
GARBAGE = [
    b"",
    b"\xff" * 100,
    bytes.fromhex("20 02 00"),
    bytes.fromhex("20 ff ff ff ff ff"),
    CONNACK5 + bytes.fromhex("30 05 00 50 61 62 63"),
    CONNACK5 + bytes.fromhex("32 03 00 01 61"),
    CONNACK5 + bytes.fromhex("90 01 00"),
    CONNACK5 + bytes.fromhex("40 00"),
    CONNACK5 + bytes.fromhex("e0 05 8b 03 1f 00 50"),
    CONNACK5 + bytes.fromhex("30 07 00 02 c3 28 00 61 62"),
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    random.Random(3).randbytes(4096),
]


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_garbage_ends_in_a_count(tmp_path: Path, garbage: bytes) -> None:
    async with Hostile(garbage) as hostile:
        host = make(tmp_path, hostile.port, panels={"house": {"state_topic": "s"}})
        serving = asyncio.get_running_loop().create_task(host.serve())
        await until(lambda: host.counters["mqtt.disconnects"] >= 1, "end of the connection")
        await until(lambda: hostile.connections >= 2, "another try")
        assert not serving.done(), "run goes on"
        assert 0.9 < hostile.times[1] - hostile.times[0] < 4.0
        serving.cancel()
        await asyncio.wait({serving})
    assert host.refused == []


async def test_no_connack(tmp_path: Path) -> None:
    async with Hostile(silent=True) as hostile:
        host = make(tmp_path, hostile.port, connect_timeout_s=0.3)
        serving = asyncio.get_running_loop().create_task(host.serve())
        await until(lambda: hostile.connections >= 2, "another try")
        assert "CONNACK" in next(x for x in host.logged.lines if x[1] == "broker lost")[2]["reason"]
        serving.cancel()
        await asyncio.wait({serving})


async def test_broker_that_confirms_nothing(tmp_path: Path) -> None:
    """A bounded window under way, the rest on disk, and the bound holds there too."""
    async with Hostile(CONNACK5, silent=True) as hostile:
        host = make(tmp_path, hostile.port, events={"maximum": 500})
        async with host.running():
            for n in range(3000):
                host.publish(reading(n))
                if n % 100 == 0:
                    await asyncio.sleep(0)
            await until(lambda: host.counters["mqtt.events_dropped"] == 2500, "bound")
    rows = sqlite3.connect(tmp_path / "data" / "spool.sqlite").execute(
        "SELECT count(*) FROM message"
    )
    assert rows.fetchone() == (500,)


def _peak_kib() -> int:
    # Not `getrusage`: its peak begins with that of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


@fresh
async def test_gigantic_publish_costs_no_memory() -> None:
    size = 268_435_455
    header = bytes.fromhex("30 ff ff ff 7f 00 01 73 00")
    chunk = bytes(4 << 20)
    assert len(chunk) * 64 >= size
    with tempfile.TemporaryDirectory() as home:
        async with Hostile(CONNACK5 + header, then=chunk, silent=True) as hostile:
            host = make(Path(home), hostile.port, panels={"house": {"state_topic": "s"}})
            before = _peak_kib()
            serving = asyncio.get_running_loop().create_task(host.serve())
            await until(
                lambda: host.counters["mqtt.oversized"] + host.counters["mqtt.disconnects"],
                "end of the message",
                60.0,
            )
            grown_kib = _peak_kib() - before
            assert host.counters["mqtt.oversized"] == 1
            assert grown_kib < 60 * 1024, grown_kib
            serving.cancel()
            await asyncio.wait({serving})


async def test_nothing_is_left_behind(tmp_path: Path, broker: Broker) -> None:
    """A04, A13: a second run is as good as the first, and no descriptor or thread stays."""
    host = make(tmp_path, broker.port, panels={"house": {"state_topic": "house/state"}})

    async def once() -> None:
        before = len(host.of(AlarmRaised))
        async with host.running():
            await broker.publish("house/state", "triggered")
            await host.wait_for(AlarmRaised, count=before + 1)

    def gone() -> bool:
        return not any(thread.name.startswith("mqtt") for thread in threading.enumerate())

    await once()
    await until(gone, "no thread is left")
    before = descriptors(tidy=True)
    for _ in range(3):
        await once()
    await until(gone, "no thread is left")
    await until(lambda: descriptors() <= before, "no descriptor is left")


async def test_more_than_1024_descriptors(tmp_path: Path, broker: Broker) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 3000:
        pytest.skip(f"the limit of descriptors is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 3000), hard))
    hoard = [socket.socket() for _ in range(1100)]
    try:
        host = make(tmp_path, broker.port, panels={"house": {"state_topic": "house/state"}})
        async with host.running():
            await broker.publish("house/state", "triggered")
            await host.wait_for(AlarmRaised)
    finally:
        for sock in hoard:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_unreachable_and_slow_to_connect_blocks_nobody(tmp_path: Path) -> None:
    with socket.socket() as full:
        # A listener that never accepts, with its queue full: connecting hangs.
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        plugs = []
        for _ in range(4):
            plug = socket.socket()
            plug.setblocking(False)
            plug.connect_ex(("127.0.0.1", port))
            plugs.append(plug)
        host = make(tmp_path, port, connect_timeout_s=1.0, tls={})
        serving = asyncio.get_running_loop().create_task(host.serve())
        worst, last = 0.0, time.monotonic()
        while last < hosted_until(host):
            await asyncio.sleep(0.005)
            now = time.monotonic()
            worst, last = max(worst, now - last), now
        assert worst < 0.5, "the event loop stood still"
        serving.cancel()
        await asyncio.wait({serving}, timeout=6.0)
        assert serving.done()
        for plug in plugs:
            plug.close()


def hosted_until(host: TestHost) -> float:
    """Turn until the first attempt has failed."""
    return 0.0 if host.counters["mqtt.disconnects"] else time.monotonic() + 1.0


def test_tls_context_is_strict() -> None:
    from gateway.adapters.mqtt.config import Tls

    context = Tls().context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
