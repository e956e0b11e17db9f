"""A UDP socket on loopback around an agent, so that foreign programs can call it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.protocols.sip.agent import SipAgent
from gateway.protocols.sip.events import Event


class UdpShim(asyncio.DatagramProtocol):
    """Sockets and clock for one agent."""

    def __init__(self, agent: SipAgent, handler: Callable[[Event, float], None]) -> None:
        self.agent = agent
        self.handler = handler
        self.port = 0
        self._transport: asyncio.DatagramTransport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    async def open(self, port: int = 0) -> None:
        self._transport, _ = await self._loop.create_datagram_endpoint(
            lambda: self, local_addr=("127.0.0.1", port)
        )
        self.port = self._transport.get_extra_info("sockname")[1]

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.close()

    @property
    def now(self) -> float:
        return self._loop.time()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.agent.receive_datagram(data, addr, ("127.0.0.1", self.port), "udp", self.now)
        self.drain()

    def drain(self) -> None:
        assert self._transport is not None
        while (event := self.agent.next_event()) is not None:
            self.handler(event, self.now)
        while (send := self.agent.next_send()) is not None:
            self._transport.sendto(send.data, (send.flow.host, send.flow.port))
        due = self.agent.next_timeout()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._tick) if due is not None else None

    def _tick(self) -> None:
        self.agent.tick(self.now)
        self.drain()
