"""The analog adapter: opens the ports, hands them events and actions, brings lost ones back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from gateway.adapters.analog.config import AnalogSection, Fxs
from gateway.adapters.analog.exchange import ExchangeLine
from gateway.adapters.analog.line import DTMF_DIGITS, Line
from gateway.adapters.analog.telephone import Telephone
from gateway.adapters.base import Adapter, Host, Loan
from gateway.core.actions import Answer, Dial, Hangup, Progress, Ring, SendDigits
from gateway.core.causes import Cause
from gateway.core.endpoints import Endpoint
from gateway.drivers.dahdi import EventPoll
from gateway.errors import DeviceError

_OPEN_S: Final = 2.0
"""How long to wait for a channel that our last run has not quite let go."""
_OPEN_AGAIN_S: Final = 0.05
_BRING_BACK_S: Final = 10.0


class Analog(Adapter):
    """FXS and FXO ports of DAHDI cards."""

    kind = "analog"
    Config = AnalogSection

    def __init__(self, name: str, config: AnalogSection, host: Host) -> None:
        super().__init__(name, config, host)
        self._lines: dict[str, Telephone | ExchangeLine] = {}
        for channel, port in config.ports.items():
            line = (
                Telephone(channel, config, host)
                if isinstance(port, Fxs)
                else ExchangeLine(channel, config, host)
            )
            line.on_lost = self._line_lost
            self._lines[line.endpoint] = line
        self._poll: EventPoll | None = None
        self._failure: asyncio.Future[None] | None = None

    def endpoints(self) -> Iterable[Endpoint]:
        for line in self._lines.values():
            yield line.described()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self._failure = loop.create_future()
        self._poll = EventPoll()
        loop.add_reader(self._poll.fileno(), self._events)
        try:
            await self._open_all()
            self.host.ready()
            for line in self._lines.values():
                if line.reason:
                    line.announce(line.reason)
            self.host.create_task(self._bring_back(), name="bring lost ports back")
            await self._failure
        finally:
            for line in self._lines.values():
                line.on_lost = _nobody
                self._unwatch(line)
                line.stop(Cause.SHUTDOWN)
                line.on_lost = self._line_lost
            loop.remove_reader(self._poll.fileno())
            self._poll.close()
            self._poll = None

    async def _open_all(self) -> None:
        deadline = asyncio.get_running_loop().time() + _OPEN_S
        failures: dict[str, DeviceError] = {}
        for line in self._lines.values():
            while (failure := self._try(line)) is not None:
                busy = "busy" in str(failure)
                if not busy or asyncio.get_running_loop().time() >= deadline:
                    failures[line.endpoint] = failure
                    break
                # The media engine closes its copy of a descriptor in its own time.
                await asyncio.sleep(_OPEN_AGAIN_S)
        if len(failures) == len(self._lines):
            raise next(iter(failures.values()))
        for endpoint, error in failures.items():
            self._lines[endpoint].announce(str(error))

    def _try(self, line: Line) -> DeviceError | None:
        """Open a line; what is in the way."""
        assert self._poll is not None
        try:
            self._poll.add(line.open())
        except DeviceError as error:
            return error
        return None

    async def _bring_back(self) -> None:
        """One broken port must not keep the others from serving, nor stay lost once mended."""
        while True:
            await asyncio.sleep(_BRING_BACK_S)
            for line in self._lines.values():
                if line.channel is None and (failure := self._try(line)) is not None:
                    line.announce(str(failure))

    def _line_lost(self, line: Line, reason: str) -> None:
        self.host.count("ports_lost")
        if (
            self._failure is not None
            and not self._failure.done()
            and all(each.channel is None for each in self._lines.values())
        ):
            self._failure.set_exception(DeviceError(reason))

    def _unwatch(self, line: Line) -> None:
        if self._poll is not None and line.channel is not None:
            self._poll.remove(line.channel)

    def _events(self) -> None:
        poll = self._poll
        if poll is None:
            return
        for channel in poll.ready():
            for line in self._lines.values():
                if line.channel is channel:
                    line.take()
                    break
            if channel.fileno() < 0:
                poll.remove(channel)

    def safe_state(self) -> None:
        for line in self._lines.values():
            line.safe_state()

    # -- actions -------------------------------------------------------------------------------

    def _of(self, leg: str) -> Telephone | ExchangeLine | None:
        """The line whose present call, or waiting one, this leg is."""
        line = self._lines.get(leg.rpartition("#")[0])
        if line is None:
            return None
        waiting = line.pending is not None and line.pending.leg == leg
        talking = line.call is not None and line.call.leg == leg
        return line if waiting or talking else None

    def dial(self, action: Dial) -> None:
        line = self._lines.get(action.endpoint)
        if line is None:
            raise DeviceError(f"there is no port {action.endpoint}")
        line.dial(action)

    def ring(self, action: Ring) -> None:
        line = self._of(action.leg)
        if isinstance(line, Telephone):
            line.ringback(early_media=False)

    def progress(self, action: Progress) -> None:
        line = self._of(action.leg)
        if isinstance(line, Telephone):
            line.ringback(early_media=True)

    def answer(self, action: Answer) -> None:
        line = self._of(action.leg)
        if line is not None:
            line.answer()

    def hangup(self, action: Hangup) -> None:
        line = self._of(action.leg)
        if line is not None:
            line.hangup(action)

    def send_digits(self, action: SendDigits) -> None:
        line = self._of(action.leg)
        if isinstance(line, ExchangeLine):
            line.send_digits(action.digits)
        elif line is not None and line.call is not None and line.call.stream is not None:
            digits = "".join(digit for digit in action.digits.upper() if digit in DTMF_DIGITS)
            if digits:
                line.call.stream.send_digits(digits)

    def lend(self, endpoint: str, leg: str) -> Loan:
        line = self._lines.get(endpoint)
        if line is None:
            raise DeviceError(f"there is no port {endpoint}")
        return line.lend(leg)

    def release(self, endpoint: str, leg: str) -> None:
        line = self._lines.get(endpoint)
        if line is not None:
            line.release_loan(leg)


def _nobody(line: Line, reason: str) -> None:
    """Nobody minds: we are closing."""
