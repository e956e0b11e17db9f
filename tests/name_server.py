"""dnsmasq, a name server that is not ours, on a free loopback port."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.interop.peers import common_port


@dataclass
class NameServer:
    """Where it listens and what it was asked."""

    port: int
    log: Path

    def asked(self, kind: str, name: str) -> int:
        """How many questions of a kind about a name it was asked."""
        lines = self.log.read_text(errors="replace").splitlines()
        return sum(f"query[{kind}] {name} " in line for line in lines)


@contextlib.asynccontextmanager
async def name_server(directory: Path, *records: str, ttl: int = 60) -> AsyncIterator[NameServer]:
    """Runs dnsmasq with records in its own notation, such as ``host-record=a.test,192.0.2.1``."""
    program = shutil.which("dnsmasq") or shutil.which("dnsmasq", path="/usr/sbin")
    if program is None:
        pytest.skip("dnsmasq is not installed")
    # It listens over TCP as well.
    port = common_port()
    directory.mkdir(parents=True, exist_ok=True)
    found = NameServer(port, directory / "dns.log")
    arguments = [
        "--keep-in-foreground", "--conf-file=/dev/null", f"--port={port}", "--no-resolv",
        "--no-hosts", "--listen-address=127.0.0.1", "--bind-interfaces", "--log-queries",
        f"--log-facility={found.log}", f"--local-ttl={ttl}", "--local=/test/", "--user=root",
        f"--pid-file={directory / 'dns.pid'}", *(f"--{record}" for record in records),
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        program, *arguments, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(30):
            while not found.log.exists() or "started" not in found.log.read_text():
                assert process.returncode is None, "dnsmasq did not start"
                await asyncio.sleep(0.02)
        yield found
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
