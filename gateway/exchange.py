"""Exchange: what the hosts of all adapters share: whose a leg or endpoint is, loans, the bus."""

from __future__ import annotations

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.adapters.base import Log
from gateway.core.endpoints import Endpoint
from gateway.core.envelope import Envelope
from gateway.core.events import Event
from gateway.core.ids import Ids
from gateway.core.numbers import Completeness
from gateway.media.patchbay import Patchbay
from gateway.media.streams import Stream
from gateway.timeline.wire import Ends, Ring

if TYPE_CHECKING:
    from gateway.hosting import AdapterHost


@dataclass(frozen=True)
class Borrowed:
    """A loan in force."""

    endpoint: str
    lender: AdapterHost
    borrower: AdapterHost
    stream: Stream


class Exchange(ABC):
    """What the hosts share: who owns which leg and endpoint, and the bus."""

    def __init__(self, patchbay: Patchbay, *, wires: Ring, log: Log) -> None:
        self.patchbay = patchbay
        self.log = log
        self.counters: Counter[str] = Counter()
        self.legs: dict[str, AdapterHost] = {}
        """Open legs and who carries them out."""
        self.places: dict[str, tuple[Endpoint, AdapterHost]] = {}
        """Endpoints as last announced, and whose they are."""
        self.loans: dict[str, Borrowed] = {}
        """Legs whose audio is another adapter's."""
        self.feeds: set[Feed] = set()
        """Who follows the bus."""
        self.wires = wires
        """What went over the wires in the last minutes."""
        self._ids = Ids(random.Random(random.SystemRandom().getrandbits(128)).getrandbits)
        self._leg_numbers: dict[str, int] = {}

    @abstractmethod
    def now(self) -> float:
        """Monotonic seconds: the event loop's."""

    @abstractmethod
    def accept(self, event: Event, host: AdapterHost | None) -> None:
        """Queue an event for the switchboard."""

    @abstractmethod
    def completeness(self, endpoint: str, digits: str) -> Completeness:
        """Whether digits dialled on an endpoint are a whole number."""

    def mint_leg(self, endpoint: str) -> str:
        """The id of a new leg of an endpoint."""
        self._leg_numbers[endpoint] = number = self._leg_numbers.get(endpoint, 0) + 1
        return f"{endpoint}#{number}"

    def minted(self, leg: str) -> bool:
        """Whether a leg of this id ever existed."""
        endpoint, _, number = leg.rpartition("#")
        return number.isdigit() and 0 < int(number) <= self._leg_numbers.get(endpoint, 0)

    def mint_id(self, wall: float | None = None) -> str:
        """A new global id; `wall`: of when (now)."""
        return self._ids.uuid7(time.time() if wall is None else wall)

    def subscribe(self, maximum: int = 10_000) -> Feed:
        """Follow the bus."""
        feed = Feed(maximum, self.feeds.discard)
        self.feeds.add(feed)
        return feed

    def publish(self, envelope: Envelope) -> None:
        """Put an envelope on the bus."""
        if self.feeds:
            for feed in tuple(self.feeds):
                feed.put(envelope)

    def wire(
        self,
        adapter: str,
        about: str,
        data: bytes | str,
        kind: str,
        outward: bool,
        key: str,
        words: str,
        ends: Ends | None,
    ) -> None:
        """Keep what went over a wire, for a while."""
        self.wires.keep(
            self.now(), time.time(), adapter, about, outward, kind, data, key, words, ends
        )

    def tie(self, leg: str, key: str) -> None:
        """Keep which leg a dialogue is of."""
        self.wires.tie(self.now(), leg, key)


class Feed:
    """A bounded subscription: when it is full the oldest envelope is dropped and counted."""

    def __init__(self, maximum: int, forget: Callable[[Feed], None]) -> None:
        self.dropped = 0
        self._maximum = maximum
        self._queue: deque[Envelope] = deque()
        self._some = asyncio.Event()
        self._forget = forget
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether nothing more will come."""
        return self._closed

    def put(self, envelope: Envelope) -> None:
        """Add an envelope."""
        if len(self._queue) >= self._maximum:
            self._queue.popleft()
            self.dropped += 1
        self._queue.append(envelope)
        self._some.set()

    async def __aiter__(self) -> AsyncIterator[Envelope]:
        while True:
            while self._queue:
                yield self._queue.popleft()
            if self._closed:
                return
            self._some.clear()
            await self._some.wait()

    def close(self) -> None:
        """Stop following; what is queued can still be read."""
        self._closed = True
        self._some.set()
        self._forget(self)
