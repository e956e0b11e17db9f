"""What may carry a call from the near to the far end: a gateway, or Debian's rtpengine."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

from gateway.client import Client, CommandError
from gateway.lab.softphone import free_port
from tests.interop.peers import Program, until
from tests.quality.judge import Codec
from tests.quality.trunk import Trunk, media_of, sdp

NEAR, BOX, FAR = "127.0.2.10", "127.0.2.20", "127.0.2.30"
CONFIG = """\
[gateway]
name = "quality"
data_dir = "{home}/data"
drain_s = 0
log_level = "warning"
[control]
socket = "{home}/s"
[adapters.sip]
listen = ["udp:127.0.2.20:{port}"]
media_timeout_s = 0
[adapters.sip.trunks.near]
peer = "sip:127.0.2.10:{near_port}"
keepalive_s = 0
calls = 100
codecs = ["{near}"]
[adapters.sip.trunks.far]
peer = "sip:127.0.2.30:{far_port}"
keepalive_s = 0
calls = 100
codecs = ["{far}"]
[[routes]]
name = "through"
from = ["sip/near"]
called = "(1X.)"
targets = ["sip/far:{number}"]
"""


class System(Protocol):
    """Carries calls."""

    async def connect(self, near: list[int], far: list[int]) -> list[tuple[str, int]]:
        """A call for each pair of our ports; where the near end's audio goes."""

    def buffers(self) -> dict[int, int]:
        """Depth in milliseconds that it states for its jitter buffers, by near port; may be {}."""


class Ours:
    """A gateway in a process of its own, between two SIP trunks."""

    name = "crosspoint"

    def __init__(self, home: Path, near: Codec, far: Codec) -> None:
        self.home, self.near, self.far = home, near, far
        self._client = Client(f"{home}/s")
        self._ports: dict[str, int] = {}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Ours]:
        """While it runs."""
        port = free_port(socket.SOCK_DGRAM)
        self.caller = Trunk(NEAR, (BOX, port), lambda _: "")
        self.called = Trunk(FAR, (BOX, port), self._answer)
        await self.caller.open()
        await self.called.open()
        config = self.home / "gateway.toml"
        config.write_text(CONFIG.format(
            home=self.home, port=port, near_port=self.caller.port, far_port=self.called.port,
            near=self.near.name, far=self.far.name, number="{1}",
        ))  # fmt: skip
        command = [sys.executable, "-m", "gateway", "run", "--config", str(config)]
        path = {"PYTHONPATH": str(Path(__file__).parents[2])}
        try:
            async with Program(command, self.home, path):
                await until(self._answers, "the gateway answers", 20.0)
                await asyncio.sleep(0.5)
                yield self
                self.caller.hang_up()
                await asyncio.sleep(0.5)
        finally:
            self.caller.close()
            self.called.close()

    def _answers(self) -> bool:
        with contextlib.suppress(CommandError):
            self._client.get("/v1/calls")
            return True
        return False

    def _answer(self, number: str) -> str:
        return sdp(FAR, self._ports[number], self.far.name, self.far.payload_type)

    async def connect(self, near: list[int], far: list[int]) -> list[tuple[str, int]]:
        found = []
        for i, (a, b) in enumerate(zip(near, far, strict=True)):
            number = f"1{i:03d}"
            self._ports[number] = b
            offer = sdp(NEAR, a, self.near.name, self.near.payload_type)
            found.append(await self.caller.call(number, offer))
        return found

    def buffers(self) -> dict[int, int]:
        found: dict[int, int] = {}
        for call in self._client.get("/v1/calls"):
            for leg in call["legs"]:
                audio: dict[str, Any] = leg.get("audio") or {}
                host, _, port = str(audio.get("remote", "")).rpartition(":")
                if host == NEAR:
                    found[int(port)] = int(audio["buffer_ms"])
        return found


def _encode(value: Any) -> bytes:
    if isinstance(value, str):
        return b"%d:%s" % (len(value.encode()), value.encode())
    if isinstance(value, list):
        return b"l" + b"".join(map(_encode, value)) + b"e"
    return b"d" + b"".join(_encode(k) + _encode(value[k]) for k in sorted(value)) + b"e"


class Rtpengine:
    """Debian's rtpengine in user space, asked over its ng protocol (bencode over UDP)."""

    name = "rtpengine"

    def __init__(self, home: Path, near: Codec, far: Codec) -> None:
        self.home, self.near, self.far = home, near, far

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Rtpengine]:
        """While it runs."""
        control = ("127.0.0.1", free_port(socket.SOCK_DGRAM))
        command = [
            "rtpengine", "--foreground", "--log-stderr", "--log-level=4", "--table=-1",
            "--interface=127.0.0.1", f"--listen-ng={control[0]}:{control[1]}",
            "--port-min=40000", "--port-max=44000", "--config-file=none",
            f"--pidfile={self.home}/rtpengine.pid",
        ]  # fmt: skip
        self._control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with self._control:
            self._control.connect(control)
            self._control.settimeout(2.0)
            async with Program(command, self.home):
                await asyncio.sleep(1.5)
                yield self

    def _ask(self, i: int, **command: Any) -> str:
        """Its answer, of which only the description in it is read."""
        words = {"call-id": f"q{i}", "from-tag": "n", "ICE": "remove", **command}
        self._control.send(b"%s-%d %s" % (command["command"].encode(), i, _encode(words)))
        answer = self._control.recv(65536).decode(errors="replace")
        if "2:ok" not in answer:
            raise AssertionError(f"rtpengine: {answer}")
        return answer

    async def connect(self, near: list[int], far: list[int]) -> list[tuple[str, int]]:
        found = []
        other = self.near is not self.far
        more = {"codec": {"mask": [self.near.name], "transcode": [self.far.name]}} if other else {}
        for i, (a, b) in enumerate(zip(near, far, strict=True)):
            offer = sdp(NEAR, a, self.near.name, self.near.payload_type)
            self._ask(i, command="offer", sdp=offer, **more)
            answer = sdp(FAR, b, self.far.name, self.far.payload_type)
            found.append(media_of(self._ask(i, command="answer", sdp=answer, **{"to-tag": "f"})))
        return found

    def buffers(self) -> dict[int, int]:
        return {}
