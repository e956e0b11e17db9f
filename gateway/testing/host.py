"""TestHost: a real host for one adapter, without the rest of the gateway.

It is the very `AdapterHost` of the daemon over an exchange that keeps what the adapter emits. With
an engine its streams carry audio; without, they are `PaperStream`s that write down what is asked
of them.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from gateway.adapters.base import Adapter
from gateway.config import convert
from gateway.core.actions import Dial, Vox
from gateway.core.endpoints import Endpoint
from gateway.core.envelope import Envelope
from gateway.core.events import AdapterReady, Event, LegEnded
from gateway.core.numbers import Completeness
from gateway.errors import DeviceError
from gateway.exchange import Exchange
from gateway.hosting import AdapterHost
from gateway.media.impairments import Meter
from gateway.media.patchbay import MediaEngine, Patchbay
from gateway.media.streams import (
    MediaEvent,
    RecordEnded,
    RtpSpec,
    Stream,
    StreamOptions,
    StreamSpec,
    StreamStats,
)
from gateway.testing.clock import until
from gateway.timeline.wire import Ring

_E = TypeVar("_E")
WAIT_S = 20.0


class PaperStream:
    """A stream without an engine: `asked` lists the calls, `report` plays the engine."""

    def __init__(
        self,
        number: int,
        spec: StreamSpec,
        options: StreamOptions,
        on_event: Callable[[MediaEvent], None],
    ) -> None:
        self.id = number
        self.spec = spec
        self.options = options
        self.asked: list[tuple[str, tuple[Any, ...]]] = []
        self.closed = False
        self.counters = StreamStats()
        """What `stats` answers; a test may set it."""
        self._on_event = on_event

    @property
    def local(self) -> tuple[str, int]:
        return (
            (self.spec.local_ip, 20000 + 2 * self.id) if isinstance(self.spec, RtpSpec) else ("", 0)
        )

    def report(self, event: MediaEvent) -> None:
        """Say what an engine would have detected."""
        if not self.closed:
            self._on_event(event)

    def update(self, spec: RtpSpec) -> None:
        self._ask("update", spec)
        self.spec = spec

    def configure(self, options: StreamOptions) -> None:
        self._ask("configure", options)
        self.options = options

    def watch_speech(self, vox: Vox | None) -> None:
        self._ask("watch_speech", vox)

    def play_tone(self, tone: str, *, play: str = "", repeat: bool = True) -> None:
        self._ask("play_tone", tone, play, repeat)

    def play_file(self, path: str, *, play: str = "", repeat: int = 1, gap_s: float = 0.0) -> None:
        self._ask("play_file", path, play, repeat, gap_s)

    def play_samples(self, samples: bytes, *, rate: int = 8000, play: str = "") -> None:
        self._ask("play_samples", samples, rate, play)

    def stop_play(self) -> None:
        self._ask("stop_play")

    def send_digits(self, digits: str, *, on_ms: int = 100, off_ms: int = 100) -> None:
        self._ask("send_digits", digits, on_ms, off_ms)

    def record(self, path: str, *, both: bool = True) -> None:
        self._ask("record", path, both)

    def stop_record(self) -> None:
        self._ask("stop_record")

    def stats(self) -> StreamStats:
        return self.counters

    def meter(self) -> Meter | None:
        return None

    def close(self) -> None:
        self.closed = True

    def _ask(self, what: str, *arguments: Any) -> None:
        if not self.closed:
            self.asked.append((what, arguments))


class PaperEngine:
    """Opens `PaperStream`s; `bridges` holds who sits where and who has the floor."""

    def __init__(self) -> None:
        self.streams: list[PaperStream] = []
        self.bridges: dict[str, dict[Stream, tuple[bool, bool, float]]] = {}
        self.floors: dict[str, Stream | None] = {}
        self.on_recorded: list[Callable[[RecordEnded], None]] = []

    def open(
        self,
        spec: StreamSpec,
        options: StreamOptions,
        on_event: Callable[[MediaEvent], None],
    ) -> Stream:
        stream = PaperStream(len(self.streams) + 1, spec, options, on_event)
        self.streams.append(stream)
        return stream

    def open_bridge(self, bridge: str, *, pass_digits: bool = True) -> None:
        self.bridges[bridge] = {}

    def close_bridge(self, bridge: str) -> None:
        self.bridges.pop(bridge, None)
        self.floors.pop(bridge, None)

    def join(
        self,
        bridge: str,
        stream: Stream,
        *,
        speaks: bool = True,
        hears: bool = True,
        gain_db: float = 0.0,
    ) -> None:
        for members in self.bridges.values():
            members.pop(stream, None)
        self.bridges[bridge][stream] = (speaks, hears, gain_db)

    def leave(self, bridge: str, stream: Stream) -> None:
        self.bridges[bridge].pop(stream, None)

    def set_floor(self, bridge: str, stream: Stream | None) -> None:
        self.floors[bridge] = stream


class _Exchange(Exchange):
    """The bus of a `TestHost`: keeps events instead of deciding on them."""

    def __init__(self, host: TestHost, patchbay: Patchbay) -> None:
        super().__init__(patchbay, wires=Ring(), log=host.logged)
        self._host = host

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def accept(self, event: Event, host: AdapterHost | None) -> None:
        (host if isinstance(host, TestHost) else self._host).take(event)

    def completeness(self, endpoint: str, digits: str) -> Completeness:
        return self._host.dial_plan(endpoint, digits)


class _Log:
    """Keeps what the adapter logs."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def debug(self, event: str, **facts: Any) -> None:
        self.lines.append(("debug", event, facts))

    def info(self, event: str, **facts: Any) -> None:
        self.lines.append(("info", event, facts))

    def warning(self, event: str, **facts: Any) -> None:
        self.lines.append(("warning", event, facts))

    def error(self, event: str, **facts: Any) -> None:
        self.lines.append(("error", event, facts))


class TestHost(AdapterHost):
    """Host of one adapter under test.

    Driven by the adapter; the test reads `events`, waits with `wait_for`, begins legs with `dial`
    and turns the adapter on and off with `running`. Events that the daemon would refuse are in
    `refused`; a leg's stream is `stream(leg)`.
    """

    __test__ = False

    def __init__(
        self,
        name: str = "test",
        *,
        data_dir: Path | None = None,
        engine: MediaEngine | None = None,
        beside: TestHost | None = None,
    ) -> None:
        """beside: the host of another adapter on the same exchange and engine, to borrow from."""
        self.events: list[Event] = []
        self.refused: list[tuple[Event, str]] = []
        """Events the daemon would refuse, and why: each is a broken promise."""
        self.dial_plan: Callable[[str, str], Completeness] = lambda endpoint, digits: (
            Completeness.EXTENSIBLE
        )
        """What `completeness` answers; a test may replace it."""
        self.engine: Any = beside.engine if beside else engine or PaperEngine()
        self.logged = _Log()
        self._scratch = None if data_dir else tempfile.TemporaryDirectory(prefix="gateway-test-")
        directory = data_dir or Path(self._scratch.name if self._scratch else "")
        patchbay = Patchbay(
            self.engine,
            log=self.logged,
            sounds_dir=directory / "sounds",
            recordings_dir=directory / "recordings",
            on_recorded=self._take_recording,
        )
        self._recordings: dict[str, RecordEnded] = beside._recordings if beside else {}
        self.exchange: _Exchange = beside.exchange if beside else _Exchange(self, patchbay)
        self._waiting: set[asyncio.Event] = set()
        super().__init__(name, self.exchange, log=self.logged, data_dir=directory)

    # Setting up

    def make(self, adapter: type[Adapter], config: Mapping[str, Any] | msgspec.Struct) -> Adapter:
        """Construct an adapter from what its configuration section would hold.

        Raises `ConfigErrors` as `gateway check` would report them.
        """
        if not isinstance(config, msgspec.Struct):
            config = convert(adapter.Config, config)
        self.adapter = adapter(self.name, config, self)
        self.announce()
        return self.adapter

    def announce(self) -> None:
        """Make the configured endpoints known, as the gateway does before `run`."""
        for endpoint in self.adapter.endpoints():
            self.set_endpoint(endpoint)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The adapter runs and is ready inside the block; it is cancelled at its end.

        Raises `DeviceError` with what made `run` fail before it was ready, and `TimeoutError`.
        """
        service = asyncio.get_running_loop().create_task(self.serve())
        ready = asyncio.get_running_loop().create_task(self.wait_for(AdapterReady))
        try:
            await asyncio.wait({service, ready}, return_when=asyncio.FIRST_COMPLETED)
            if service.done():
                why = service.result()
                raise DeviceError(f"{self.name}: run ended before it was ready: {why}")
            ready.result()
            yield
        finally:
            ready.cancel()
            service.cancel()
            await asyncio.wait({service, ready})

    # Driving

    def begin_leg(self, endpoint: str) -> str:
        """The id of a leg for a `Dial` that the test makes itself."""
        leg = self.exchange.mint_leg(endpoint)
        self.exchange.legs[leg] = self
        return leg

    async def put_tasks_away(self) -> None:
        """Cancel what `create_task` started, for a test that runs `Adapter.run` by itself."""
        await self._cancel(self._tasks)

    def dial(self, endpoint: str, number: str = "", **fields: Any) -> str:
        """Have the adapter begin a leg; its id. Raises what `Adapter.dial` raises."""
        leg = self.begin_leg(endpoint)
        trace = self.new_trace()
        action = Dial(leg=leg, endpoint=endpoint, number=number, trace=trace, call=trace, **fields)
        try:
            self.adapter.dial(action)
        except BaseException:
            self.exchange.legs.pop(leg, None)
            raise
        return leg

    def stream(self, leg: str) -> Any:
        """The leg's stream (a `PaperStream` without an engine); None before it has one."""
        return self.exchange.patchbay.stream(leg)

    def publish(self, envelope: Envelope) -> None:
        """Put an envelope on the bus for those who `subscribe`d."""
        self.exchange.publish(envelope)

    # Reading

    @property
    def legs(self) -> list[str]:
        """Legs that have not ended."""
        return list(self.exchange.legs)

    @property
    def endpoints(self) -> dict[str, Endpoint]:
        """Endpoints as last announced."""
        return {name: endpoint for name, (endpoint, _) in self.exchange.places.items()}

    def of(self, kind: type[_E], **fields: Any) -> list[_E]:
        """The events of a kind, and with these field values, so far."""
        return [
            event
            for event in self.events
            if isinstance(event, kind)
            and all(getattr(event, name) == value for name, value in fields.items())
        ]

    async def wait_for(
        self, kind: type[_E], *, within_s: float = WAIT_S, count: int = 1, **fields: Any
    ) -> _E:
        """The `count`th event of a kind with these field values, once it is there.

        Raises `TimeoutError` that tells which events came instead.
        """
        changed = asyncio.Event()
        self._waiting.add(changed)
        try:
            async with asyncio.timeout(within_s):
                while len(self.of(kind, **fields)) < count:
                    changed.clear()
                    await changed.wait()
        except TimeoutError:
            came = ", ".join(type(event).__name__ for event in self.events) or "nothing"
            wanted = kind.__name__ + (f" with {fields}" if fields else "")
            raise TimeoutError(f"no {wanted} within {within_s:g} s; there came: {came}") from None
        finally:
            self._waiting.discard(changed)
        return self.of(kind, **fields)[count - 1]

    async def recorded(self, path: str | Path, *, within_s: float = WAIT_S) -> RecordEnded:
        """What the engine says of a stream's recording, once its file is complete and closed.

        Each is told of once. Raises `TimeoutError` that names the file.
        """
        await until(lambda: str(path) in self._recordings, f"recording {path} complete", within_s)
        return self._recordings.pop(str(path))

    def _take_recording(self, ended: RecordEnded) -> None:
        self._recordings[ended.path] = ended

    # What AdapterHost calls

    def take(self, event: Event) -> None:
        """Keep an accepted event and tell those who wait."""
        self.events.append(event)
        if isinstance(event, LegEnded):
            self.exchange.patchbay.close_leg(event.leg)
        for changed in self._waiting:
            changed.set()

    def _refuse_leg(self, event: Event, leg: str) -> None:
        if leg not in self.exchange.legs and self.exchange.minted(leg):
            again = "a second LegEnded" if isinstance(event, LegEnded) else type(event).__name__
            self.refused.append((event, f"{again} for {leg}, which has ended"))
        super()._refuse_leg(event, leg)

    def _refuse(self, event: Event, why: str) -> None:
        self.refused.append((event, why))
        super()._refuse(event, why)
