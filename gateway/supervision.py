"""Supervision: which adapters there are, and that each of them runs again after it has ended."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gateway import logs
from gateway.adapters.base import Log
from gateway.config import AdapterSection
from gateway.errors import DeviceError
from gateway.exchange import Exchange
from gateway.hosting import AdapterHost

BACKOFF_S: Final = (1.0, 60.0)
STEADY_S: Final = 60.0
"""An adapter that was up this long starts again from the shortest wait."""


class Supervision:
    """The hosts of all adapters, by name, and a task for each that runs.

    data_dir: each adapter gets a directory of its own in it. log: replaces the adapters' own logs.
    watched: is given each task, and notices when one ends by itself.
    """

    def __init__(
        self,
        exchange: Exchange,
        *,
        data_dir: Path,
        log: Log | None,
        watched: Callable[[asyncio.Task[None]], asyncio.Task[None]],
    ) -> None:
        self.hosts: dict[str, AdapterHost] = {}
        self.closed = False
        """Nothing begins any more."""
        self._exchange = exchange
        self._data_dir = data_dir
        self._given_log = log
        self._watched = watched
        self._tasks: dict[AdapterHost, asyncio.Task[None]] = {}

    def make(self, section: AdapterSection) -> AdapterHost:
        """An adapter that serves nobody yet. Raises `ConfigError` when it refuses its section."""
        name, log = section.name, self._given_log
        host = AdapterHost(
            name,
            self._exchange,
            log=logs.get(adapter=name) if log is None else log,
            data_dir=self._data_dir / name,
        )
        host.adapter = section.adapter(name, section.config, host)
        return host

    def prepare(self, host: AdapterHost) -> None:
        """Make an adapter's directory. Raises `DeviceError`."""
        try:
            host.data_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DeviceError(f"{host.data_dir}: {error.strerror}") from error

    def run(self, host: AdapterHost) -> None:
        """Run an adapter from now on, again and again."""
        task = asyncio.get_running_loop().create_task(self._supervise(host), name=host.name)
        self._tasks[host] = self._watched(task)

    def begin(self, host: AdapterHost) -> None:
        """Announce an adapter's endpoints and run it from now on. Raises `DeviceError`."""
        if self.closed:
            return
        self.hosts[host.name] = host
        self.prepare(host)
        for endpoint in host.adapter.endpoints():
            if not host.owns(endpoint.id):
                host.set_endpoint(endpoint)
        self.run(host)

    async def end(self, host: AdapterHost, why: str) -> None:
        """End an adapter and its legs; its endpoints stay known until they are forgotten."""
        task = self._tasks.pop(host, None)
        host.farewell = why
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    def forget(self, host: AdapterHost) -> None:
        """Take away an ended adapter with all its endpoints."""
        for endpoint in list(host.places()):
            host.remove_endpoint(endpoint.id, "it is no longer configured")
        if self.hosts.get(host.name) is host:
            del self.hosts[host.name]

    def order(self, names: list[str]) -> None:
        """Name the adapters in this order; others come after them."""
        self.hosts = {name: self.hosts[name] for name in names if name in self.hosts} | self.hosts

    def close(self) -> list[asyncio.Task[None]]:
        """Begin nothing any more, put all outputs to rest; the tasks to cancel."""
        self.closed = True
        for host in self.hosts.values():
            host.safe_state()
        return list(self._tasks.values())

    async def _supervise(self, host: AdapterHost) -> None:
        attempt = 0
        while True:
            reason = await host.serve()
            steady = host.served_s >= STEADY_S
            attempt = 0 if steady else attempt + 1
            if host.served_s > 0 or attempt <= 1:
                host.log.warning("adapter lost", adapter=host.name, reason=reason)
                host.lost(reason)
            else:
                host.reason = reason
                host.log.debug("adapter still lost", adapter=host.name, reason=reason)
            wait_s = min(BACKOFF_S[1], BACKOFF_S[0] * 2.0 ** min(max(attempt - 1, 0), 10))
            # Jitter: adapters that lost the same broker must not all come back in step.
            await asyncio.sleep(min(BACKOFF_S[1], wait_s * random.uniform(1.0, 1.5)))
            host.restarts += 1
