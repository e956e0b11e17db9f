"""A gateway as a process of its own, as on any box, until it is up."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any, Final

from gateway.client import Client, CommandError
from gateway.errors import DeviceError

_START_S: Final = 20.0


class Daemon:
    """The running gateway, for questions."""

    def __init__(self, control: Path) -> None:
        self._client = Client(str(control))

    async def ask(self, path: str, **query: Any) -> Any:
        """An answer of its control interface. Raises `CommandError`."""
        return await asyncio.to_thread(self._client.get, path, **query)

    async def condition(self, endpoint: str) -> str:
        """Condition of an endpoint, empty when there is none. Raises `CommandError`."""
        for place in await self.ask("/v1/endpoints", endpoint=endpoint):
            return str(place["condition"])
        return ""

    async def until_up(self, endpoint: str, within_s: float = _START_S) -> None:
        """Wait for an endpoint. Raises `DeviceError`."""
        deadline = time.monotonic() + within_s
        while (condition := await self.condition(endpoint)) != "up":
            if time.monotonic() > deadline:
                raise DeviceError(f"{endpoint} is {condition or 'not known'}, not up")
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def daemon(
    configuration: Path, control: Path, log: Path, *, later: Collection[str] = ()
) -> AsyncIterator[Daemon]:
    """Run it until all its endpoints are up but those in `later`. Raises `DeviceError`."""
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", "--config", str(configuration), "run",
            stdin=asyncio.subprocess.DEVNULL, stdout=file, stderr=file,
        )  # fmt: skip
    running = Daemon(control)
    try:
        await _until_up(running, process, log, later)
        yield running
    finally:
        if process.returncode is None:
            process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 10.0)
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _until_up(
    running: Daemon, process: asyncio.subprocess.Process, log: Path, later: Collection[str]
) -> None:
    deadline = time.monotonic() + _START_S
    down: dict[str, str] = {}
    while True:
        with contextlib.suppress(CommandError):
            places = await running.ask("/v1/endpoints")
            down = {
                place["id"]: place["condition"]
                for place in places
                if place["condition"] != "up" and place["id"] not in later
            }
            if places and not down:
                return
        if process.returncode is not None or time.monotonic() > deadline:
            why = ", ".join(f"{name} is {condition}" for name, condition in down.items())
            tail = log.read_text(errors="replace")[-1500:]
            raise DeviceError(f"the gateway did not come up: {why}\n{tail}")
        await asyncio.sleep(0.1)
