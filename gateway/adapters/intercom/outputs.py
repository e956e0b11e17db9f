"""Outputs: the relays of the stations, what is on, and what ends a pulse."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping

from gateway.errors import GatewayError
from gateway.protocols.intercom.fields import Value
from gateway.protocols.intercom.profile import Output

_Send = Callable[[str, str, dict[str, Value]], bool]


class Outputs:
    """Driven by `switch`, and by `rest`, `settle` and `forget` as the line comes and goes.

    `send` queues a command for a station, `write` puts it on the line at once; both say whether
    there is a line.
    """

    def __init__(self, specs: Mapping[str, Output], send: _Send, write: _Send) -> None:
        self._specs = specs
        self._send, self._write = send, write
        self._on: dict[tuple[str, str], asyncio.TimerHandle | None] = {}
        """What is on, and what ends its pulse."""

    def switch(self, name: str, output: str, value: float, pulse_ms: int) -> None:
        """Switch an output of a station. Raises `DeviceError`."""
        if not value:
            self._off(name, output)
            return
        spec, key = self._specs[output], (name, output)
        self._send(name, spec.on, {"value": 1, **spec.value})
        self._stop(key)
        if spec.off:
            loop = asyncio.get_running_loop()
            wait_s = (pulse_ms or spec.pulse_ms) / 1000
            self._on[key] = loop.call_later(wait_s, self._lapse, *key) if wait_s else None

    def rest(self) -> None:
        """Everything off at once, past all queues; without a line, as soon as there is one."""
        for key in list(self._on):
            self._stop(key)
            spec = self._specs[key[1]]
            sent = False
            with contextlib.suppress(GatewayError):
                sent = self._write(key[0], spec.off, {"value": 0, **spec.value})
            if not sent:
                self._on[key] = None

    def settle(self) -> None:
        """The line is back: what was on when it went is off, or will be now."""
        for key in list(self._on):
            self._lapse(*key)

    def forget(self, name: str) -> None:
        """A station is gone: it lets go of everything by itself."""
        for key in [key for key in self._on if key[0] == name]:
            self._stop(key)

    def _lapse(self, name: str, output: str) -> None:
        with contextlib.suppress(GatewayError):
            self._off(name, output)

    def _off(self, name: str, output: str) -> None:
        self._stop((name, output))
        spec = self._specs[output]
        if spec.off and not self._send(name, spec.off, {"value": 0, **spec.value}):
            self._on[name, output] = None

    def _stop(self, key: tuple[str, str]) -> None:
        if (timer := self._on.pop(key, None)) is not None:
            timer.cancel()
