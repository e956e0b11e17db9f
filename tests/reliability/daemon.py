"""The gateway under test: a real daemon in a namespace, asked over its control socket."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp

from tests.reliability.net import CLIENT, FAR, GATEWAY, Netlab

ROOT = Path(__file__).resolve().parents[2]
PORT = 5060
CONFIG = """\
[gateway]
name = "reliability"
data_dir = "{home}/data"
drain_s = {drain_s}
[control]
socket = "{home}/s"
[media]
realtime = true
ports = [20000, 24000]
[adapters.sip]
listen = [{listen}]
codecs = ["PCMU"]
digest = [{digest}]
keepalive_s = 0
media_timeout_s = {media_timeout_s}
session_expires_s = {session_expires_s}
{sip}
{trunks}
[[routes]]
name = "through"
from = ["sip/caller", "sip/{users}"]
called = "1000"
targets = ["{target}:1000"]
{routes}
"""
CALLER = f"""
[adapters.sip.trunks.caller]
peer = "sip:{CLIENT}:5060"
keepalive_s = 0
calls = 10000
"""
CALLED = f"""
[adapters.sip.trunks.called]
peer = "sip:{FAR}:5060"
keepalive_s = 0
calls = 10000
"""


class Daemon:
    """``gateway run`` with a configuration for the bench."""

    def __init__(self, net: Netlab, home: Path, **settings: Any) -> None:
        """settings: fields of `CONFIG`."""
        self._net, self.home = net, home
        self.file = home / "gateway.toml"
        self.log = home / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self.environment: dict[str, str] = {}
        """Of the process, beside ours."""
        self.began = 0.0
        self.configure(**settings)

    def configure(self, **settings: Any) -> None:
        """Write the configuration; a running daemon reads it on SIGHUP."""
        given = {
            "listen": f'"udp:{GATEWAY}:{PORT}", "tcp:{GATEWAY}:{PORT}"', "drain_s": 5,
            "media_timeout_s": 20, "session_expires_s": 1800, "digest": '"SHA-256"',
            "sip": "", "trunks": CALLER + CALLED, "routes": "",
            "users": "caller", "target": "sip/called",
        } | settings  # fmt: skip
        self.file.write_text(CONFIG.format(home=self.home, **given))

    async def start(self) -> float:
        """Start it; seconds until it answered OPTIONS."""
        environment = {k: v for k, v in os.environ.items() if "GATEWAY" not in k}
        began = self.began = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._net.command("b", sys.executable, "-m", "gateway", "run", "--config",
                                  str(self.file)),
                env=environment | {"PYTHONPATH": str(ROOT)} | self.environment, cwd=self.home,
                stdout=log, stderr=log,
            )  # fmt: skip
        self._net.processes.append(self.process)
        while time.monotonic() - began < 60.0 and self.process.poll() is None:
            if await asyncio.get_running_loop().run_in_executor(None, self.answers):
                return time.monotonic() - began
        raise AssertionError(f"the gateway does not start:\n{self.log.read_text()[-3000:]}")

    def answers(self, within_s: float = 0.1) -> bool:
        """Whether it answers OPTIONS from beside it."""
        sock = self._net.udp("b", FAR)
        try:
            sock.settimeout(within_s)
            own = f"{FAR}:{sock.getsockname()[1]}"
            sock.sendto(
                f"OPTIONS sip:{GATEWAY} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bK"
                f"{time.monotonic_ns():x};rport\r\nFrom: <sip:up@{own}>;tag=1\r\n"
                f"To: <sip:{GATEWAY}>\r\nCall-ID: up-{time.monotonic_ns()}\r\nCSeq: 1 OPTIONS\r\n"
                "Max-Forwards: 5\r\nContent-Length: 0\r\n\r\n".encode(),
                (GATEWAY, PORT),
            )
            return sock.recv(4096).startswith(b"SIP/2.0 200")
        except OSError:
            return False
        finally:
            sock.close()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def wait(self, within_s: float) -> int | None:
        """Its exit code, None while it goes on."""
        process = self.process
        assert process is not None
        deadline = time.monotonic() + within_s
        while process.poll() is None and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        return process.returncode

    async def stop(self) -> None:
        """End it as systemd would, or the hard way."""
        if self.process is None or self.process.poll() is not None:
            return
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        if await self.wait(20.0) is None:
            self.process.kill()
            self.process.wait()

    # Questions

    async def get(self, path: str, **query: Any) -> Any:
        """An answer of its control interface."""
        connector = aiohttp.UnixConnector(str(self.home / "s"))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(f"http://gateway/v1/{path}", params=query) as response,
        ):
            response.raise_for_status()
            if response.content_type == "application/json":
                return await response.json()
            return await response.text()

    async def metrics(self) -> dict[str, float]:
        """All figures of ``/v1/metrics``, by name with labels."""
        text = await self.get("metrics")
        return {
            name: float(value) for name, value in re.findall(r"(?m)^(\w+(?:\{.*\})?) (\S+)$", text)
        }

    async def counter(self, what: str) -> int:
        """A counter of the SIP adapter."""
        figures = await self.metrics()
        return int(
            figures.get(f'crosspoint_adapter_counts_total{{adapter="sip",what="{what}"}}', 0)
        )

    async def held(self) -> dict[str, float]:
        """What has to be the same before and after: calls, streams, transactions, tasks, files."""
        figures = await self.metrics()
        held = {
            name.removeprefix("crosspoint_"): value
            for name, value in figures.items()
            if name.startswith("crosspoint_adapter_holds")
            or name in ("crosspoint_calls_up", "crosspoint_engine_streams",
                        "crosspoint_engine_bridges", "crosspoint_tasks",
                        "crosspoint_event_queue_length")
        }  # fmt: skip
        held["descriptors"] = len(os.listdir(f"/proc/{self.pid}/fd"))
        held["threads"] = len(os.listdir(f"/proc/{self.pid}/task"))
        # The connection that asks is one itself.
        return held

    def rss_kb(self) -> int:
        """Resident memory."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int((re.search(r"VmRSS:\s+(\d+)", text) or ["", "0"])[1])

    def cpu_s(self) -> float:
        """Processor time it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def records(self, since: float) -> list[dict[str, Any]]:
        """Call detail records of what began after a wall time."""
        found = await self.get("records/calls", limit=100000)
        return [record for record in found if record["demanded_at"] >= since]
