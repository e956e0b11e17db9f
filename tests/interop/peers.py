"""Foreign programs for interoperability tests, and a gateway in this process to meet them.

Everything speaks over loopback addresses and free ports, waits for what happens and not for time,
and ends the processes that it began, each by its own id.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import wave
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from gateway.adapters.sip import Sip
from gateway.config import load
from gateway.core.endpoints import Condition
from gateway.core.envelope import Envelope
from gateway.lab.softphone import Softphone, free_port
from gateway.records.database import Database
from gateway.records.tables import LegRecord
from gateway.registry import Registry
from gateway.runtime import Gateway
from gateway.testing import until
from gateway.testing.audio import read_wav, steady_level_at, tone, write_wav

HERE = Path(__file__).parent
WITHIN_S = 45.0
SECONDS = 30.0
ANNA = """
digest = ["MD5"]
codecs = ["PCMU"]
[adapters.sip.phones.anna]
password = "a1"
number = "201"
"""
"""The SIP adapter's part of a configuration: one telephone that takes G.711 only."""
LOOPBACK = (
    '[adapters.loopback.ports.t]\nnumber = "301"\ntone_hz = 425.0\n'
    '[[routes]]\nname = "t"\ncalled = "301"\ntargets = ["loopback/t"]\n'
)
"""The rest of it: somebody to call, 301, who says a tone."""
_E = TypeVar("_E")


def need(*programs: str) -> None:
    """Skip the test when a program is not installed."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def common_port() -> int:
    """A port that is free for UDP and TCP."""
    while True:
        port = free_port()
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe,
            contextlib.suppress(OSError),
        ):
            probe.bind(("127.0.0.1", port))
            return port


# The gateway


@dataclass(eq=False)
class Box:
    """A real gateway in this process, with the SIP adapter on a free port."""

    gateway: Gateway
    home: Path
    run: asyncio.Task[None]
    seen: list[Envelope] = field(default_factory=list)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def sip(self) -> Sip:
        adapter = self.gateway.hosts["sip"].adapter
        assert isinstance(adapter, Sip)
        return adapter

    @property
    def port(self) -> int:
        return self.sip.ports["udp"]

    @property
    def counters(self) -> Any:
        return self.gateway.hosts["sip"].counters

    def uri(self, number: str) -> str:
        return f"sip:{number}@127.0.0.1:{self.port}"

    async def wait(
        self,
        kind: type[_E],
        where: Callable[[_E], object] = lambda _: True,
        *,
        skip: int = 0,
        within_s: float = WITHIN_S,
    ) -> _E:
        """The first event or action of a kind, beyond the first `skip` envelopes."""

        def found() -> _E | None:
            for envelope in self.seen[skip:]:
                for body in (envelope.event, envelope.action):
                    if isinstance(body, kind) and where(body):
                        return body
            return None

        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(found), within_s)
            except TimeoutError:
                shown = [type(e.event or e.action).__name__ for e in self.seen[skip:]]
                raise AssertionError(f"no {kind.__name__} within {within_s:g} s: {shown}") from None
        body = found()
        assert body is not None
        return body

    async def up(self, *endpoints: str, condition: Condition = Condition.UP) -> None:
        """Wait until endpoints are in a condition."""
        places = self.gateway.places
        for endpoint in endpoints:
            await until(
                lambda e=endpoint: places[e][0].condition is condition,  # type: ignore[misc]
                f"{endpoint} {condition}, it is {places[endpoint][0]}",
            )

    async def connected(self, leg: str) -> None:
        """Wait until a leg is connected."""
        legs = self.gateway.switchboard.legs
        await until(lambda: leg in legs and legs[leg].connected, f"{leg} is connected")

    async def legs(self, n: int) -> dict[str, LegRecord]:
        """Wait for the records of all calls; there must be exactly one for each of `n` legs."""
        await until(lambda: not self.gateway.switchboard.calls, "no call any more")
        database = Database(self.gateway.configuration.records_url, read_only=True)
        try:
            await until(lambda: len(list(database.legs())) >= n, f"records of {n} legs")
            found = list(database.legs())
        finally:
            database.close()
        assert len(found) == n, [leg.leg for leg in found]
        assert len({leg.leg for leg in found}) == n
        return {leg.leg: leg for leg in found}

    async def follow(self) -> None:
        async for envelope in self.gateway.subscribe(100_000):
            async with self._changed:
                self.seen.append(envelope)
                self._changed.notify_all()


@contextlib.asynccontextmanager
async def box(
    sip: str,
    routes: str = "",
    *,
    home: Path | None = None,
    media: str = "",
    registry: Registry | None = None,
) -> AsyncIterator[Box]:
    """A running gateway. `sip` is the inside of ``[adapters.sip]``, `media` of ``[media]``;
    `{home}` is its directory; `registry`: the adapters that are installed."""
    with contextlib.ExitStack() as stack:
        if home is None:
            home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sip-")))
        file = home / "gateway.toml"
        port = common_port()
        listen = f'listen = ["udp:127.0.0.1:{port}", "tcp:127.0.0.1:{port}"]'
        listen = "" if "listen" in sip else listen
        file.write_text(
            f'[gateway]\nname = "lab"\ndata_dir = "{home}/data"\ndrain_s = 0.2\nzone = "UTC"\n'
            f'[control]\nsocket = "{home}/s"\n[media]\nrealtime = false\nlocal_ip = "127.0.0.1"\n'
            f"{media}\n[adapters.sip]\n{listen}\n{sip}\n{routes}\n"
        )
        gateway = Gateway(load(file, registry=registry))
        run = asyncio.create_task(gateway.run())
        found = Box(gateway, home, run)
        follow = asyncio.create_task(found.follow())
        try:
            await until(lambda: gateway.hosts["sip"].up or run.done(), "the adapter is up")
            yield found
        finally:
            gateway.stop()
            gateway.stop()
            try:
                await asyncio.wait_for(run, 20.0)
            finally:
                follow.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await follow


# Audio


def microphone(directory: Path, hz: float, rate: int = 8000) -> Path:
    """A WAV file with a tone."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"tone{hz:g}-{rate}.wav"
    if not path.exists():
        write_wav(path, tone(hz, SECONDS, rate=rate), rate=rate)
    return path


def assert_hears(recording: Path, hz: float, *not_hz: float, seconds: float = 0.8) -> None:
    """What was recorded holds one tone, at least so long, and none of the others."""
    (samples, *_), rate = read_wav(recording)
    # The beginning is ringing and the switching of paths.
    steady = samples[len(samples) // 3 :]
    assert len(steady) >= seconds * rate, f"{recording}: only {len(samples) / rate:.2f} s"
    wanted = steady_level_at(steady, hz, rate=rate)
    assert wanted > -16.0, f"{recording}: {hz:g} Hz at {wanted:.1f} dBm0"
    for other in not_hz:
        stray = steady_level_at(steady, other, rate=rate)
        assert stray < -45.0, f"{recording}: also {other:g} Hz at {stray:.1f} dBm0"


def raw_to_wav(path: Path, rate: int = 8000) -> Path:
    """A raw file of 16-bit samples as WAV."""
    out = path.with_suffix(".wav")
    with wave.open(str(out), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(path.read_bytes())
    return out


# Telephones


def mulaw(directory: Path, hz: float, seconds: float = 2.0) -> Path:
    """A raw file of mu-law octets with a tone, as SIPp wants it, made by a foreign encoder."""
    need("sox")
    wav = write_wav(directory / "tone.wav", tone(hz, seconds))
    raw = directory / "tone.ul"
    subprocess.run(["sox", str(wav), "-t", "ul", str(raw)], check=True, timeout=20)
    return raw


def phone(
    home: Path,
    user: str,
    password: str,
    to: Box | tuple[str, int],
    *,
    hz: float,
    rate: int = 8000,
    codec: str = "PCMU/8000/1",
    answer: str = "manual",
    transport: str = "udp",
    extra: str = "",
    modules: str = "",
    name: str = "",
    register: bool = True,
) -> Softphone:
    """A baresip that registers at a gateway, or at a server's address and port, and speaks a tone.

    extra: more of the account; modules: more of the configuration; name: of its directory.
    """
    need("baresip")
    address, port = to if isinstance(to, tuple) else ("127.0.0.1", to.port)
    way = f";transport={transport}" if transport != "udp" else ""
    outbound = ""
    if transport == "tls" and isinstance(to, Box):
        port = to.sip.ports["tls"]
        outbound = f';outbound="sip:{address}:{port};transport=tls"'
    account = (
        f"<sip:{user}@{address}:{port}{way}>;auth_pass={password};audio_codecs={codec}"
        f";answermode={answer};regint={60 if register else 0}{outbound}{extra}"
    )
    directory = home / (name or user)
    return Softphone(account, microphone(home, hz, rate), directory, transport, extra=modules)


def has_port(port: int) -> bool:
    """Whether a program on this machine takes datagrams or connections at this port."""
    for kind, state in (("udp", "07"), ("tcp", "0A")):
        for table in (Path(f"/proc/net/{kind}"), Path(f"/proc/net/{kind}6")):
            for line in table.read_text().splitlines()[1:]:
                _, local, _, is_now, *_ = line.split()
                if is_now == state and local.endswith(f":{port:04X}"):
                    return True
    return False


@dataclass(eq=False)
class Program:
    """A foreign process with its output in a file."""

    command: list[str]
    directory: Path
    environment: dict[str, str] = field(default_factory=dict)
    process: asyncio.subprocess.Process | None = None
    server_port: int = 0
    """It is there when it has this port; 0: at once."""

    @property
    def log(self) -> Path:
        return self.directory / "output"

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    async def __aenter__(self) -> Program:
        self.directory.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.command, cwd=self.directory, env={**os.environ, **self.environment},
                stdin=asyncio.subprocess.PIPE, stdout=log, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
        if self.server_port:
            running = self.process
            await until(
                lambda: running.returncode is not None or has_port(self.server_port),
                f"{self.command[0]} is there",
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        process = self.process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 5.0)
            except TimeoutError:
                process.kill()
                await process.wait()

    async def done(self, within_s: float = 30.0) -> int:
        """Wait for its end; the exit code."""
        assert self.process is not None
        return await asyncio.wait_for(self.process.wait(), within_s)

    async def says(self, text: str, within_s: float = WITHIN_S) -> None:
        """Wait until it wrote something."""
        await until(lambda: text in self.said(), f"{text!r} in {self.log}", within_s)


def sipp(
    directory: Path,
    scenario: str,
    target: str,
    *,
    address: str = "127.0.2.30",
    port: int = 0,
    arguments: tuple[str, ...] = (),
    calls: int = 1,
    status: int = 0,
) -> Program:
    """SIPp with a scenario of this directory; `status` is put in for STATUS."""
    need("sipp")
    directory.mkdir(parents=True, exist_ok=True)
    text = (HERE / "sipp" / scenario).read_text().replace("STATUS", str(status))
    (directory / scenario).write_text(text)
    media = min(free_port(socket.SOCK_DGRAM), 64000) & ~1
    command = [
        "sipp", "-sf", scenario, "-i", address, "-mi", address,
        "-p", str(port or free_port(socket.SOCK_DGRAM)), "-mp", str(media),
        "-m", str(calls), "-nostdin", "-timeout", "25s", "-timeout_error", "-trace_err",
        "-error_file", str(directory / "errors"), *arguments, target,
    ]  # fmt: skip
    return Program(command, directory, server_port=port)


class Kamailio(Program):
    """A registrar and proxy at an address of its own."""

    def __init__(
        self,
        directory: Path,
        users: dict[str, str],
        *,
        address: str = "127.0.2.40",
        port: int = 0,
        sha256: bool = False,
        tls: tuple[Path, Path] | None = None,
        media: int = 0,
    ) -> None:
        """`tls`: a file with its key and certificate, and one with the authority it believes;
        `media`: port of an rtpengine that stands between SRTP of `gw` and RTP of the others."""
        need("kamailio")
        self.tls_port = free_port() if tls else 0
        self.address, self.port = address, port or free_port(socket.SOCK_DGRAM)
        directory.mkdir(parents=True, exist_ok=True)
        text = (HERE / "kamailio.cfg").read_text()
        modules = next(iter(Path("/usr/lib").glob("*/kamailio/modules")), Path("/"))
        for name, value in (
            ("ADDRESS", address), ("PORT", str(self.port)), ("DIRECTORY", str(directory)),
            ("MODULES", f"{modules}/"),
            ("MEDIA", f'#!define RELAY_AT "udp:127.0.0.1:{media}"' if media else ""),
            ("ALGORITHM", 'modparam("auth", "algorithm", "SHA-256")' if sha256 else ""),
            ("TLS", _kamailio_tls(directory, address, self.tls_port, *tls) if tls else ""),
            ("USERS", "".join(f'\t$sht(pw=>{u}) = "{p}";\n' for u, p in users.items())),
        ):  # fmt: skip
            text = text.replace(f"@{name}@", value)
        (directory / "kamailio.cfg").write_text(text)
        super().__init__(
            ["kamailio", "-f", str(directory / "kamailio.cfg"), "-DD", "-E", "-m", "32", "-M", "4",
             "-Y", str(directory)],
            directory,
        )  # fmt: skip

    async def __aenter__(self) -> Kamailio:
        await super().__aenter__()
        process = self.process
        assert process is not None
        await until(lambda: process.returncode is not None or self.answers(), "kamailio is there")
        assert process.returncode is None, self.said()
        return self

    @property
    def at(self) -> tuple[str, int]:
        """Its address and port, for a telephone of its."""
        return self.address, self.port

    def answers(self) -> bool:
        """Whether it answers OPTIONS."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            probe.settimeout(0.05)
            own = "{}:{}".format(*probe.getsockname())
            probe.sendto(
                f"OPTIONS sip:{self.address} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bK1\r\n"
                f"From: <sip:t@{own}>;tag=1\r\nTo: <sip:{self.address}>\r\nCall-ID: {own}\r\n"
                "CSeq: 1 OPTIONS\r\nMax-Forwards: 5\r\nContent-Length: 0\r\n\r\n".encode(),
                (self.address, self.port),
            )
            with contextlib.suppress(OSError):
                return probe.recv(2000).startswith(b"SIP/2.0 200")
        return False

    async def contacts(self) -> str:
        """Its location table."""
        process = await asyncio.create_subprocess_exec(
            "kamcmd", "-s", f"unix:{self.directory}/ctl.sock", "ul.dump",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        out, _ = await process.communicate()
        return out.decode(errors="replace")


def rtpengine(directory: Path, port: int) -> Program:
    """A media relay that Kamailio commands at a port: packets in user space, on loopback."""
    need("rtpengine")
    first = min(free_port(socket.SOCK_DGRAM), 60000) & ~1
    return Program(
        ["rtpengine", "--table=-1", "--interface=127.0.0.1", f"--listen-ng=127.0.0.1:{port}",
         f"--port-min={first}", f"--port-max={first + 400}", "--foreground", "--log-stderr",
         "--delete-delay=0", "--config-file=none", "--num-threads=1"],
        directory,
        server_port=port,
    )  # fmt: skip


def _kamailio_tls(
    directory: Path, address: str, port: int, certificate: Path, authority: Path
) -> str:
    """Lines of its configuration that make it listen on TLS and show and verify certificates."""
    sections = "".join(
        f"[{side}:default]\nmethod = TLSv1.2+\nverify_certificate = yes\n"
        f"require_certificate = {required}\nprivate_key = {certificate}\n"
        f"certificate = {certificate}\nca_list = {authority}\n"
        for side, required in (("server", "yes"), ("client", "yes"))
    )
    (directory / "tls.cfg").write_text(sections)
    return (
        f'enable_tls=yes\nlisten=tls:{address}:{port}\nloadmodule "tls.so"\n'
        f'modparam("tls", "config", "{directory}/tls.cfg")\n'
    )


class Linphone(Program):
    """linphonec in a network namespace of its own is no use to a gateway outside: it is kept on
    loopback by its configuration instead. Driven by its standard input."""

    def __init__(
        self,
        directory: Path,
        own_port: int,
        play: Path,
        record: Path,
        *,
        tls_port: int = 0,
        authority: Path | None = None,
    ) -> None:
        need("linphonec")
        for folder in (".local/share/linphone", ".config/linphone"):
            (directory / folder).mkdir(parents=True, exist_ok=True)
        rtp = free_port(socket.SOCK_DGRAM) & ~1
        codecs = "".join(
            f"[audio_codec_{n}]\nmime={mime}\nrate=8000\nchannels=1\nenabled=1\n"
            for n, mime in enumerate(("PCMA", "PCMU"))
        )
        (directory / "linphonerc").write_text(
            f"[sip]\nsip_port={own_port}\nsip_tcp_port=0\nsip_tls_port={tls_port}\nbind_address=127.0.0.1\n"
            "use_ipv6=0\nipv6_migration_done=1\nmedia_encryption=none\n"
            f"verify_server_certs={int(authority is not None)}\nverify_server_cn=1\n"
            f"root_ca={authority or ''}\n"
            "guess_hostname=0\nregister_only_when_network_is_up=0\n"
            f'contact="lin" <sip:lin@127.0.0.1:{own_port}>\n'
            f"[net]\nfirewall_policy=0\n[rtp]\naudio_rtp_port={min(rtp, 64000)}\n"
            f"[sound]\nechocancellation=0\n[video]\ncapture=0\ndisplay=0\n{codecs}"
        )
        self.play, self.record = play, record
        super().__init__(
            ["linphonec", "-c", str(directory / "linphonerc"), "-d", "6", "-l",
             str(directory / "log")],
            directory, {"HOME": str(directory)},
        )  # fmt: skip

    async def tell(self, *lines: str) -> None:
        """Type commands."""
        assert self.process is not None
        assert self.process.stdin is not None
        for line in lines:
            self.process.stdin.write(line.encode() + b"\n")
            await self.process.stdin.drain()


def pyvoip(
    directory: Path, to: Box, user: str, password: str, callee: str, play: Path, out: Path
) -> Program:
    """pyVoIP as a registered phone that calls somebody, in a process of its own."""
    pytest.importorskip("pyVoIP")
    script = HERE / "pyvoip_phone.py"
    own, rtp = free_port(socket.SOCK_DGRAM), min(free_port(socket.SOCK_DGRAM), 64000)
    return Program(
        [sys.executable, "-W", "ignore", str(script), str(to.port), user, password, callee,
         str(play), str(out), str(own), str(rtp)],
        directory,
    )  # fmt: skip
