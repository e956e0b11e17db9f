"""A seeded in-memory network between agents, with a clock that is turned by hand."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

from gateway.protocols.sip.agent import SipAgent, SipConfig
from gateway.protocols.sip.events import Event
from gateway.protocols.sip.gate import Gate, admit_all

Handler = Callable[["Phone", Event, float], None]

SDP = (
    b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"
    b"m=audio 4000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"
)


class Phone:
    """One agent with an address, the events it has told, and what it does about them."""

    def __init__(
        self,
        host: str,
        *,
        gate: Gate = admit_all,
        handler: Handler | None = None,
        **config: object,
    ) -> None:
        self.host = host
        self.agent = SipAgent(SipConfig(host=host, **config), gate)  # type: ignore[arg-type]
        self.events: list[Event] = []
        self.handler = handler
        self.sent: list[bytes] = []

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    def last(self, kind: type) -> object:
        return self.of(kind)[-1]


class Network:
    """Carries datagrams between phones: loses, repeats, delays and reorders them by seed."""

    def __init__(
        self,
        *phones: Phone,
        seed: int = 1,
        loss: float = 0.0,
        duplicate: float = 0.0,
        delay: float = 0.01,
        jitter: float = 0.0,
    ) -> None:
        self.phones = {phone.host: phone for phone in phones}
        self.random = random.Random(seed)
        self.loss, self.duplicate, self.delay, self.jitter = loss, duplicate, delay, jitter
        self.now = 1000.0
        self._wire: list[tuple[float, int, str, str, bytes]] = []
        self._count = 0
        self.lose: Callable[[bytes], bool] = lambda data: False
        self.log: list[tuple[float, str, str, bytes]] = []

    def _put(self, due: float, source: str, target: str, data: bytes) -> None:
        self._count += 1
        heapq.heappush(self._wire, (due, self._count, source, target, data))

    def pump(self) -> None:
        """Move what the agents have to say onto the wire."""
        busy = True
        while busy:
            busy = False
            for phone in self.phones.values():
                while (event := phone.agent.next_event()) is not None:
                    busy = True
                    phone.events.append(event)
                    if phone.handler is not None:
                        phone.handler(phone, event, self.now)
                while (send := phone.agent.next_send()) is not None:
                    busy = True
                    phone.sent.append(send.data)
                    self.log.append((self.now, phone.host, send.flow.host, send.data))
                    if self.lose(send.data) or self.random.random() < self.loss:
                        continue
                    copies = 2 if self.random.random() < self.duplicate else 1
                    for _ in range(copies):
                        late = self.delay + self.random.random() * self.jitter
                        self._put(self.now + late, phone.host, send.flow.host, send.data)

    def run(self, seconds: float) -> None:
        """Turn the clock, delivering and ticking in order."""
        end = self.now + seconds
        self.pump()
        while True:
            due = [self._wire[0][0]] if self._wire else []
            due += [at for p in self.phones.values() if (at := p.agent.next_timeout()) is not None]
            if not due or min(due) > end:
                break
            self.now = max(self.now, min(due))
            while self._wire and self._wire[0][0] <= self.now:
                _, _, source, target, data = heapq.heappop(self._wire)
                phone = self.phones.get(target)
                if phone is not None:
                    phone.agent.receive_datagram(
                        data, (source, 5060), (target, 5060), "udp", self.now
                    )
            for phone in self.phones.values():
                at = phone.agent.next_timeout()
                if at is not None and at <= self.now:
                    phone.agent.tick(self.now)
            self.pump()
        self.now = end
