"""Modems: the adapter."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from gateway.adapters.base import Adapter, Host
from gateway.adapters.modem.config import Config as ModemConfig
from gateway.adapters.modem.trunk import INPUTS, Trunk
from gateway.core.actions import (
    AcknowledgeAlarm,
    Answer,
    Dial,
    Hangup,
    Progress,
    Ring,
    SendDigits,
    SendMessage,
)
from gateway.core.endpoints import Endpoint
from gateway.errors import DeviceError

_FIRST_S = 10.0
"""So long a start waits for modules; those that are slower come up later."""


class ModemTrunks(Adapter):
    """Radio modules as trunks, each an endpoint with one call at a time."""

    kind = "modem"
    Config = ModemConfig

    def __init__(self, name: str, config: ModemConfig, host: Host) -> None:
        super().__init__(name, config, host)
        self._trunks: dict[str, Trunk] = {}

    def endpoints(self) -> Iterable[Endpoint]:
        for name, modem in self.config.modems.items():
            yield Endpoint(
                id=f"{self.name}/{name}", label=modem.label, location=modem.location,
                number=modem.number, takes_number=True, inputs=INPUTS,
                alarm=modem.fault_severity != "none",
                detail={"port": modem.port},
            )  # fmt: skip

    async def run(self) -> None:
        for endpoint in self.endpoints():
            modem = self.config.modems[endpoint.id.partition("/")[2]]
            self._trunks[endpoint.id] = Trunk(endpoint, modem, self.config.reopen_s, self.host)
        tasks = [
            self.host.create_task(trunk.serve(), name=id_) for id_, trunk in self._trunks.items()
        ]
        try:
            # One that is not there is an endpoint that is down, with an alarm of its own: to begin
            # anew with all of them would forget how long it is gone.
            await asyncio.wait([trunk.first for trunk in self._trunks.values()], timeout=_FIRST_S)
            self.host.ready()
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            for trunk in self._trunks.values():
                trunk.stop()
            self._trunks.clear()

    def safe_state(self) -> None:
        for trunk in self._trunks.values():
            trunk.safe_state()

    # Actions

    def dial(self, action: Dial) -> None:
        self._at(action.endpoint).dial(action)

    def ring(self, action: Ring) -> None:
        """The network has its own ringing tone for who calls."""

    def progress(self, action: Progress) -> None:
        """A module has no audio before the answer."""

    def answer(self, action: Answer) -> None:
        if (trunk := self._of(action.leg)) is not None:
            trunk.answer(action.leg)

    def hangup(self, action: Hangup) -> None:
        if (trunk := self._of(action.leg)) is not None:
            trunk.hangup(action.leg, action.cause)

    def send_digits(self, action: SendDigits) -> None:
        if (trunk := self._of(action.leg)) is not None:
            trunk.send_digits(action.leg, action.digits)

    def send_message(self, action: SendMessage) -> None:
        self._at(action.endpoint).send_text(action)

    def acknowledge_alarm(self, action: AcknowledgeAlarm) -> None:
        """Nothing is sent: the alarm of a module is the gateway's own."""

    def _at(self, endpoint: str) -> Trunk:
        trunk = self._trunks.get(endpoint)
        if trunk is None:
            raise DeviceError(f"there is no modem {endpoint}")
        return trunk

    def _of(self, leg: str) -> Trunk | None:
        return self._trunks.get(leg.rpartition("#")[0])
