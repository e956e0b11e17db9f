"""The guard and a rig that is slow to answer: what it was asked to key must not come later."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import gateway
from tests.interop.peers import until


@dataclass
class Rig:
    """A rigctld that can be told to wait. Like the real one it serves each connection by itself."""

    keyed: bool = False
    asked: list[tuple[int, str]] = field(default_factory=list)
    """Number of the connection, command; when it was carried out."""
    waits_for: str = ""
    """A command that is not carried out before `goes_on`."""
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0
    _served: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._served += 1
        number = self._served
        with contextlib.suppress(ConnectionError):
            while line := (await reader.readline()).decode().strip().lstrip("+\\"):
                if line == self.waits_for:
                    await self.goes_on.wait()
                self.asked.append((number, line))
                name, _, value = line.partition(" ")
                if name == "set_ptt":
                    self.keyed = value == "1"
                    writer.write(f"set_ptt: {value}\nRPRT 0\n".encode())
                else:
                    writer.write(f"get_ptt:\nPTT: {int(self.keyed)}\nRPRT 0\n".encode())
        writer.close()


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    made.goes_on.set()
    server.close()


class Parent:
    """What a gateway says to its guard."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self.heard: list[dict[str, Any]] = []

    def renew(self, over: int) -> None:
        message = {"key": True, "over": over, "at": time.monotonic(), "release": ""}
        self._control.send(json.dumps(message).encode())

    def has(self, what: str, n: int = 1) -> bool:
        with contextlib.suppress(BlockingIOError):
            while True:
                self.heard.append(json.loads(self._control.recv(65536)))
        return sum(message["is"] == what for message in self.heard) >= n

    async def hears(self, what: str, n: int = 1, *, over: int = 0) -> None:
        """Wait for a message, renewing an over the while."""

        def there() -> bool:
            if over:
                self.renew(over)
            return self.has(what, n)

        await until(there, f"{what}, heard {self.heard}")


@pytest.fixture
async def parent(rig: Rig, tmp_path: Path) -> AsyncIterator[Parent]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    root = Path(gateway.__file__).parent.parent
    with _closing(ours, theirs):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway.guard", str(theirs.fileno()),
            pass_fds=(theirs.fileno(),), cwd=root,
        )  # fmt: skip
        theirs.close()
        ours.send(json.dumps({
            "name": "radio/a", "lease_ms": 300, "proof": str(tmp_path / "proof"),
            "key": {"by": "rigctld", "host": "127.0.0.1", "port": rig.port},
        }).encode())  # fmt: skip
        made = Parent(ours)
        try:
            await made.hears("ready")
            yield made
        finally:
            rig.goes_on.set()
            ours.close()
            try:
                await asyncio.wait_for(process.wait(), 10)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
    assert not rig.keyed


@contextlib.contextmanager
def _closing(*sockets: socket.socket) -> Iterator[None]:
    try:
        yield
    finally:
        for each in sockets:
            each.close()


async def test_an_over_that_has_ended_is_not_keyed_again(rig: Rig, parent: Parent) -> None:
    """The gateway learns of the end a little later, and renews until then."""
    await parent.hears("keyed", over=1)
    rig.waits_for = "get_ptt"
    await parent.hears("fault", over=1)
    rig.goes_on.set()
    await parent.hears("unkeyed", over=1)
    n = len(rig.asked)
    for _ in range(10):
        parent.renew(1)
        await asyncio.sleep(0.03)
    assert "set_ptt 1" not in [command for _, command in rig.asked[n:]]
    assert not rig.keyed
    await parent.hears("keyed", 2, over=2)
    assert rig.keyed


async def test_a_lapsed_over_is_not_keyed_again(rig: Rig, parent: Parent) -> None:
    await parent.hears("keyed", over=1)
    await parent.hears("unkeyed")
    parent.renew(1)
    await asyncio.sleep(0.2)
    assert not rig.keyed
    assert [command for _, command in rig.asked].count("set_ptt 1") == 1


async def test_a_command_that_keys_late_is_waited_for(rig: Rig, parent: Parent) -> None:
    """Its answer does not come in time, so the guard releases over another connection: that proves
    nothing before the first command has been carried out, which rigctld may do after that."""
    rig.waits_for = "set_ptt 1"
    await parent.hears("fault", over=1)
    for _ in range(20):
        await asyncio.sleep(0.1)
        assert not parent.has("unkeyed"), "it may still be keyed"
    rig.goes_on.set()
    await parent.hears("unkeyed")
    assert not rig.keyed
    commands = [command for _, command in rig.asked]
    assert commands.count("set_ptt 1") == 1, "the late one"
    late = commands.index("set_ptt 1")
    assert commands[late + 1 :][-2:] == ["set_ptt 0", "get_ptt"], "read back after it"
