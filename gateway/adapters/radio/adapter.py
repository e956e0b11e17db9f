"""Radio: the adapter."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from gateway.adapters.base import Adapter, Host
from gateway.adapters.radio.config import Config as RadioConfig
from gateway.adapters.radio.station import Station
from gateway.core.actions import AcknowledgeAlarm, Answer, Dial, Hangup, Key, Unkey
from gateway.core.endpoints import Endpoint
from gateway.errors import DeviceError


class Radio(Adapter):
    """Radios: who speaks on the air, and when we may."""

    kind = "radio"
    Config = RadioConfig
    config: RadioConfig

    def __init__(self, name: str, config: RadioConfig, host: Host) -> None:
        super().__init__(name, config, host)
        self.stations: dict[str, Station] = {}
        self._furnish()

    def endpoints(self) -> Iterable[Endpoint]:
        return [station.endpoint for station in self.stations.values()]

    async def run(self) -> None:
        self._furnish()
        tasks = [
            asyncio.create_task(station.serve(), name=station.id)
            for station in self.stations.values()
        ]
        try:
            self.host.ready()
            if tasks:
                # A station mends what it can by itself; what gets out is a fault of ours.
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            await asyncio.get_running_loop().create_future()
        finally:
            self.safe_state()
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    def safe_state(self) -> None:
        for station in self.stations.values():
            station.safe()

    def dial(self, action: Dial) -> None:
        station = self.stations.get(action.endpoint)
        if station is None:
            raise DeviceError(f"there is no radio {action.endpoint}")
        station.dial(action.leg)

    def answer(self, action: Answer) -> None:
        if station := self._station(action.leg):
            station.answer(action.leg)

    def hangup(self, action: Hangup) -> None:
        if station := self._station(action.leg):
            station.end(action.leg, action.cause, action.detail)

    def key(self, action: Key) -> None:
        if station := self._station(action.leg):
            station.key(action.leg)

    def unkey(self, action: Unkey) -> None:
        if station := self._station(action.leg):
            station.unkey(action.leg)

    def acknowledge_alarm(self, action: AcknowledgeAlarm) -> None:
        """Nothing is sent: the alarms of a radio are the gateway's own."""

    def _station(self, leg: str) -> Station | None:
        return self.stations.get(leg.rpartition("#")[0])

    def _furnish(self) -> None:
        self.stations = {
            station.id: station
            for station in (
                Station(f"{self.name}/{local}", radio, self.host)
                for local, radio in self.config.radios.items()
            )
        }
