"""Modbus: the adapter."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Final

from gateway.adapters.base import Adapter, Host, Subscription
from gateway.adapters.modbus.config import Config as ModbusConfig
from gateway.adapters.modbus.device import Device
from gateway.adapters.modbus.line import Line
from gateway.adapters.modbus.server import Server
from gateway.adapters.modbus.state import State
from gateway.core.actions import AcknowledgeAlarm, Hangup, SetOutput
from gateway.core.endpoints import Endpoint
from gateway.errors import Unsupported, UsageError

OPEN_S: Final = 2.0
"""How long the servers may take to listen; what takes longer is not waited for."""
STOP_S: Final = 3.0
"""How long outputs may take to reach their safe state when the adapter stops."""


class Modbus(Adapter):
    """Contacts, registers and relays behind Modbus, and the gateway's state for others."""

    kind = "modbus"
    Config = ModbusConfig
    config: ModbusConfig

    def __init__(self, name: str, config: ModbusConfig, host: Host) -> None:
        super().__init__(name, config, host)
        self._furnish()

    def endpoints(self) -> Iterable[Endpoint]:
        yield from (device.endpoint for device in self._devices.values())
        yield from (server.endpoint for server in self.servers.values())

    async def run(self) -> None:
        self._furnish()
        host = self.host
        lines = self._lines()
        work = [host.create_task(line.serve(), name=line.name) for line in lines]
        feed = host.subscribe()
        if self.servers:
            state = State(host.now())
            host.create_task(_follow(feed, state), name="state")
            for server in self.servers.values():
                host.create_task(server.run(state), name=server.id)
        else:
            feed.close()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(OPEN_S):
                    for server in self.servers.values():
                        await server.tried.wait()
            host.ready()
            await asyncio.get_running_loop().create_future()
        finally:
            feed.close()
            self.safe_state()
            for line in lines:
                line.stop()
            if work:
                await asyncio.wait(work, timeout=STOP_S)
            for line in lines:
                line.close("the gateway stopped")
            for device in self._devices.values():
                device.line = None
                device.stop()

    def safe_state(self) -> None:
        for device in self._devices.values():
            device.safe()

    def hangup(self, action: Hangup) -> None:
        """Nothing here ever has a leg (A07)."""

    def set_output(self, action: SetOutput) -> None:
        device = self._device(action.endpoint)
        output = device.outputs.get(action.output)
        if output is None:
            raise Unsupported(
                f"{action.endpoint} has no output {action.output!r};"
                f" it has: {', '.join(device.outputs) or 'none'}"
            )
        output.set(action.value, action.pulse_ms)

    def acknowledge_alarm(self, action: AcknowledgeAlarm) -> None:
        device = self._device(action.endpoint)
        relay = device.config.ack_relay
        if not relay:
            raise Unsupported(f"{action.endpoint} has no ack_relay")
        device.outputs[relay].set(1.0, device.config.ack_pulse_ms)

    def _device(self, endpoint: str) -> Device:
        device = self._devices.get(endpoint)
        if device is None:
            if any(server.id == endpoint for server in self.servers.values()):
                raise Unsupported(f"{endpoint} is the gateway's own server: it has no outputs")
            raise UsageError(f"there is no device {endpoint}")
        return device

    def _furnish(self) -> None:
        devices = (
            Device(self.name, local, device, self.host)
            for local, device in self.config.devices.items()
        )
        self._devices = {device.id: device for device in devices}
        self.servers = {
            local: Server(self.name, local, server, self.host)
            for local, server in self.config.servers.items()
        }

    def _lines(self) -> list[Line]:
        """A connection for each serial line and each TCP address that devices are behind."""
        lines: dict[object, Line] = {}
        for device in self._devices.values():
            config = device.config
            key: object
            if config.line:
                port = self.config.lines[config.line]
                key = config.line
                line = lines.get(key) or Line(self.host, port.device, port=port, rtu=True)
            else:
                key = (config.host, config.port, config.framing)
                line = lines.get(key) or Line(
                    self.host,
                    f"{config.host}:{config.port}",
                    address=(config.host, config.port),
                    rtu=config.framing == "rtu",
                )
            lines[key] = device.line = line
            line.askers.append(device)
        return list(lines.values())


async def _follow(feed: Subscription, state: State) -> None:
    with contextlib.closing(feed):
        async for envelope in feed:
            state.missed = feed.dropped
            state.follow(envelope)
