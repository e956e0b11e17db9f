"""A 2xx to an INVITE that waits for its ACK."""

from __future__ import annotations

from collections.abc import Callable

from gateway.protocols.sip.core import Core
from gateway.protocols.sip.transaction import Flow


class AckWait:
    """Repeats a 2xx to an INVITE until its ACK comes (RFC 3261 section 13.3.1.4).

    On every transport: a 2xx crosses proxies that may change to UDP.
    """

    __slots__ = ("_core", "_data", "_ender", "_flow", "_interval", "_lost", "_repeater", "seq")

    def __init__(
        self,
        core: Core,
        data: bytes,
        flow: Flow,
        seq: int,
        now: float,
        lost: Callable[[float], None],
    ) -> None:
        self._core = core
        self._data = data
        self._flow = flow
        self._interval = core.values.t1
        self.seq = seq
        self._repeater = core.timers.start(now + self._interval, self._repeat)
        self._lost = lost
        self._ender = core.timers.start(now + core.values.timeout, self._give_up)

    def _repeat(self, now: float) -> None:
        self._core.transmit(self._data, self._flow, "")
        self._interval = min(self._interval * 2, self._core.values.t2)
        self._repeater = self._core.timers.start(now + self._interval, self._repeat)

    def _give_up(self, now: float) -> None:
        self._repeater.stop()
        self._lost(now)

    def stop(self) -> None:
        self._repeater.stop()
        self._ender.stop()
