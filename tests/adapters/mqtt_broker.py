"""Mosquitto and its command line clients, for the tests of the MQTT adapter."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.testing import until

needs_mosquitto = pytest.mark.skipif(
    not (shutil.which("mosquitto") and shutil.which("mosquitto_sub")),
    reason="needs mosquitto and mosquitto-clients (apt-get install mosquitto mosquitto-clients)",
)


def free_port() -> int:
    """A TCP port that nobody uses."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Broker:
    """A mosquitto of our own, which can be killed and started again with what it stored."""

    def __init__(self, directory: Path, listener: str = "allow_anonymous true\n") -> None:
        self.directory = directory
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._config = directory / "mosquitto.conf"
        user = "user root\n" if os.geteuid() == 0 else ""
        self._config.write_text(
            f"{user}log_dest stderr\nlog_type all\npersistence true\n"
            f"persistence_location {directory}/\n"
            "autosave_interval 1\nautosave_on_changes true\nmax_queued_messages 10000\n"
            f"listener {self.port} 127.0.0.1\n{listener}"
        )

    def start(self) -> None:
        """Start it; returns when it listens."""
        with (self.directory / "mosquitto.log").open("ab") as log:
            self.process = subprocess.Popen(["mosquitto", "-c", self._config], stderr=log)
        deadline = time.monotonic() + 30.0
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            assert self.process.poll() is None, (self.directory / "mosquitto.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    @property
    def log(self) -> str:
        """What it logged."""
        return (self.directory / "mosquitto.log").read_text(errors="replace")

    async def publish(self, topic: str, payload: str | bytes, *options: str) -> None:
        """mosquitto_pub -q 1."""
        await self._publish(topic, payload, "-s", *options)

    async def publish_lines(self, topic: str, lines: list[str]) -> None:
        """mosquitto_pub -q 1, a message for each line, over one connection."""
        await self._publish(topic, "\n".join(lines) + "\n", "-l")

    async def _publish(self, topic: str, payload: str | bytes, *options: str) -> None:
        process = await asyncio.create_subprocess_exec(
            "mosquitto_pub", "-h", "127.0.0.1", "-p", str(self.port), "-V", "5", "-q", "1",
            "-t", topic, *options,
            stdin=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        data = payload.encode() if isinstance(payload, str) else payload
        _, errors = await process.communicate(data)
        assert process.returncode == 0, errors

    async def get(self, topic: str, *options: str) -> str:
        """The retained message of a topic; empty when there is none."""
        process = await asyncio.create_subprocess_exec(
            "mosquitto_sub", "-h", "127.0.0.1", "-p", str(self.port), "-V", "5", "-q", "1",
            "-t", topic, "-C", "1", "-W", "1", *options,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            output, _ = await asyncio.wait_for(process.communicate(), 30.0)
        except TimeoutError:
            process.kill()
            await process.wait()
            return ""
        return output.decode().rstrip("\n")

    async def shows(self, topic: str, payload: str) -> None:
        """Wait until the retained message of a topic is this."""
        deadline = time.monotonic() + 30.0
        while (found := await self.get(topic)) != payload:
            assert time.monotonic() < deadline, f"{topic} is {found!r}, not {payload!r}"


class Subscriber:
    """mosquitto_sub with a session of its own that the broker keeps; `lines` as they come."""

    def __init__(self, broker: Broker, topic: str, *options: str) -> None:
        self.broker, self.topic, self.options = broker, topic, options
        self.lines: list[str] = []
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it; returns when the broker confirmed the subscription."""
        before = self.broker.log.count("Sending SUBACK")
        await self._spawn()
        await until(
            lambda: self.broker.log.count("Sending SUBACK") > before, "subscription of the test"
        )

    async def _spawn(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            "mosquitto_sub", "-h", "127.0.0.1", "-p", str(self.broker.port), "-V", "5",
            "-q", "1", "-t", self.topic, "-F", "%t|%r|%p", *self.options,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, limit=1 << 20,
        )  # fmt: skip
        self._task = asyncio.get_running_loop().create_task(self._read(self._process))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self.lines.append(line.decode(errors="replace").rstrip("\n"))

    async def stop(self) -> None:
        """End it."""
        if self._process is not None and self._process.returncode is None:
            # SIGTERM has been seen to leave it waiting for ever.
            self._process.kill()
            await self._process.wait()
        if self._task is not None:
            await self._task

    async def wait(self, count: int, within_s: float = 30.0) -> list[str]:
        """The lines, once there are so many."""
        await until(
            lambda: len(self.lines) >= count, f"{count} messages (have {self.lines[-3:]})", within_s
        )
        return self.lines


@contextlib.asynccontextmanager
async def subscribed(broker: Broker, topic: str, *options: str) -> AsyncIterator[Subscriber]:
    """A running `Subscriber`."""
    subscriber = Subscriber(broker, topic, *options)
    await subscriber.start()
    try:
        yield subscriber
    finally:
        await subscriber.stop()
