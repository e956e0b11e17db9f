"""Reload: another configuration, adapter by adapter, while every other call goes on.

First everything is checked and every new adapter is made, which opens nothing. Then the changed
adapters are ended, their successors started, and the routes replaced. When a successor does not
come up, all of it is undone: the gateway runs on either configuration, never on a mixture.
"""

from __future__ import annotations

import asyncio
import signal
from typing import Final

import msgspec

from gateway import logs
from gateway.changes import Change, compare
from gateway.config import Configuration, load
from gateway.errors import ConfigError, DeviceError
from gateway.hosting import AdapterHost
from gateway.kept import Kept
from gateway.runtime import Gateway

HEALTH_S: Final = 10.0
"""How long a changed adapter may take to come up."""


class Touched(msgspec.Struct, frozen=True, kw_only=True):
    """A call that a change would end."""

    call: str
    legs: list[str]
    """Its legs on adapters that change."""


class Outcome(msgspec.Struct, kw_only=True):
    """What a reload would do, or has done."""

    changes: list[Change]
    touched: list[Touched]
    applied: bool = False
    undone: str = ""
    """Why it was undone; empty: it was not."""
    still_down: list[str] = []
    """Changed adapters that were down before, and still are."""


class Reloader:
    """Applies configurations to a running gateway, one at a time."""

    def __init__(self, gateway: Gateway, *, health_s: float = HEALTH_S) -> None:
        self._gateway = gateway
        self._health_s = health_s
        self._busy = asyncio.Lock()
        self.kept = Kept(gateway.configuration.data_dir / "configurations")
        self._reread: asyncio.Task[None] | None = None

    def handle_signal(self) -> None:
        """SIGHUP reads the configuration again; it is refused while it would end calls."""

        def hangup() -> None:
            if self._reread is None or self._reread.done():
                self._reread = asyncio.ensure_future(self._again())

        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hangup)

    async def _again(self) -> None:
        gateway = self._gateway
        try:
            await self.apply(await asyncio.to_thread(load, gateway.configuration.file))
        except (ConfigError, DeviceError) as error:
            gateway.counters["reloads_refused"] += 1
            for line in str(error).splitlines():
                gateway.log.error("configuration refused, the present one stays", why=line)

    def preview(self, configuration: Configuration) -> Outcome:
        """What would change, and which calls it would end."""
        changes = compare(self._gateway.configuration, configuration)
        ending = {c.name for c in changes if c.what == "adapter" and c.how != "added"}
        touched: dict[str, list[str]] = {}
        for leg in self._gateway.switchboard.legs.values():
            host = self._gateway.legs.get(leg.id)
            if host is not None and host.name in ending:
                touched.setdefault(leg.call.id, []).append(leg.id)
        return Outcome(
            changes=changes,
            touched=[Touched(call=call, legs=legs) for call, legs in touched.items()],
        )

    async def apply(self, configuration: Configuration, *, now: bool = False) -> Outcome:
        """Use another configuration.

        now: also when it ends calls. Raises `ConfigError` when it cannot be used while the gateway
        runs, when an adapter refuses it, or when it would end calls: nothing has changed then.
        """
        if self._busy.locked():
            raise ConfigError("another reload is under way", remedy="wait until it is through")
        async with self._busy:
            return await self._apply(configuration, now)

    async def _apply(self, configuration: Configuration, now: bool) -> Outcome:
        gateway, before = self._gateway, self._gateway.configuration
        outcome = self.preview(configuration)
        self._check(configuration, outcome, now)
        if not outcome.changes:
            return outcome
        names = {c.name: c.how for c in outcome.changes if c.what == "adapter"}
        # Made before anything ends: an adapter that refuses its section must change nothing.
        fresh = {
            name: gateway.supervision.make(configuration.adapters[name])
            for name, how in names.items()
            if how != "removed"
        }
        old = {name: gateway.hosts[name] for name, how in names.items() if how != "added"}
        was_up = {name: host.up for name, host in old.items()}
        await self._exchange(old, fresh)
        gateway.use(configuration)
        failed = await self._unhealthy(fresh)
        required = [name for name in failed if was_up.get(name, True)]
        if required:
            outcome.undone = "; ".join(f"{name}: {failed[name]}" for name in required)
            gateway.log.error("the configuration does not work: undone", why=outcome.undone)
            await self._restore(before, old, fresh)
            return outcome
        for host in fresh.values():
            if host.up:
                host.forget_inherited()
        for name in names:
            if name not in configuration.adapters:
                gateway.supervision.forget(old[name])
        self._settle(configuration, outcome.changes)
        outcome.applied = True
        outcome.still_down = sorted(failed)
        return outcome

    def _check(self, configuration: Configuration, outcome: Outcome, now: bool) -> None:
        file = str(configuration.file)
        restart = [change.name for change in outcome.changes if change.restart]
        if restart:
            raise ConfigError(
                f"[{'], ['.join(restart)}] changed, and that cannot be changed while running",
                file=file,
                remedy="restart the gateway",
            )
        if outcome.touched and not now:
            legs = [leg for touched in outcome.touched for leg in touched.legs]
            raise ConfigError(
                f"it would end {len(outcome.touched)} calls: {', '.join(legs[:5])}"
                + (", ..." if len(legs) > 5 else ""),
                file=file,
                remedy="wait until they are over, or: gateway reload --now",
            )

    async def _exchange(self, old: dict[str, AdapterHost], fresh: dict[str, AdapterHost]) -> None:
        """End some adapters and begin others; a place that both have never disappears."""
        why = "its configuration is being changed"
        await asyncio.gather(*(self._gateway.supervision.end(host, why) for host in old.values()))
        for name, host in fresh.items():
            if name in old:
                host.inherit(old[name], why)
            self._gateway.supervision.begin(host)

    async def _unhealthy(self, hosts: dict[str, AdapterHost]) -> dict[str, str]:
        """Adapters that are not up in time, and why."""
        # Twice it may fail: a port may still be held by what was there before.
        loop = asyncio.get_running_loop()
        due = loop.time() + self._health_s
        while loop.time() < due:
            if all(host.up or host.restarts >= 2 for host in hosts.values()):
                break
            await asyncio.sleep(0.02)
        return {
            name: host.reason or f"not up within {self._health_s:g} s"
            for name, host in hosts.items()
            if not host.up
        }

    async def _restore(
        self,
        before: Configuration,
        old: dict[str, AdapterHost],
        fresh: dict[str, AdapterHost],
    ) -> None:
        gateway = self._gateway
        gateway.use(before)
        again = {name: gateway.supervision.make(before.adapters[name]) for name in old}
        await self._exchange(fresh, again)
        for name, host in fresh.items():
            if name not in again:
                gateway.supervision.forget(host)
        await self._unhealthy(again)
        for host in again.values():
            if host.up:
                host.forget_inherited()
        gateway.counters["reloads_undone"] += 1

    def _settle(self, configuration: Configuration, changes: list[Change]) -> None:
        gateway = self._gateway
        gateway.generation += 1
        if any(change.what == "route" for change in changes):
            # Only now: those who are to be told may be on an adapter that has just come up.
            gateway.match_again()
        if any(change.name == "gateway" for change in changes):
            logs.set_level(configuration.gateway.log_level)
        gateway.log.info(
            "configuration in use",
            generation=gateway.generation,
            adapters=len(configuration.adapters),
            routes=len(configuration.routes),
        )
        self.keep()

    def keep(self) -> None:
        """Keep the configuration in use; one that cannot be kept is used all the same."""
        gateway = self._gateway
        if not gateway.configuration.text:
            return
        try:
            self.kept.keep(gateway.configuration.text)
        except DeviceError as error:
            gateway.log.error("not kept", why=str(error))
