"""A gateway in parts: an adapter that obeys, no disk but a journal, a clock that is turned."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from gateway import journal
from gateway.adapters.base import Adapter
from gateway.config import AdapterSection, Configuration, GatewaySection
from gateway.core.actions import (
    Answer,
    Command,
    Dial,
    Hangup,
    Key,
    SetOutput,
    Unkey,
)
from gateway.core.endpoints import Condition, Duplex, Endpoint
from gateway.core.envelope import Envelope
from gateway.core.events import (
    AdapterLost,
    AdapterReady,
    AlarmRaised,
    LegAnswered,
    LegEnded,
    LegOffered,
)
from gateway.core.routes import Announcement, Route, Trigger
from gateway.hosting import AdapterHost
from gateway.media.patchbay import MediaEngine
from gateway.runtime import Gateway
from gateway.testing import PaperEngine


class Obedient(Adapter):
    """Does what the test says, and writes down what the gateway says."""

    kind = "far"
    places: ClassVar[tuple[Endpoint, ...]] = (
        Endpoint(id="far/a", capacity=None, condition=Condition.UP),
        Endpoint(id="far/b", capacity=None, condition=Condition.UP, takes_number=True),
        Endpoint(
            id="far/radio", duplex=Duplex.HALF, capacity=None, condition=Condition.UP,
        ),
        Endpoint(
            id="far/panel", duplex=Duplex.NONE, can_ring=False, alarm=True, outputs=("siren",),
            condition=Condition.UP,
        ),
    )  # fmt: skip

    class Config(msgspec.Struct, frozen=True):
        pass

    def __init__(self, name: str, config: Any, host: Any) -> None:
        super().__init__(name, config, host)
        self.got: list[Any] = []
        self.raises: dict[type, Exception] = {}
        self.breaks: asyncio.Future[None] | None = None
        self.fails_at_start: Exception | None = None
        self.started: list[float] = []
        self.safe = 0
        self.on_dial: Any = None

    def endpoints(self) -> Iterable[Endpoint]:
        return self.places

    async def run(self) -> None:
        self.started.append(self.host.now())
        if self.fails_at_start:
            raise self.fails_at_start
        self.host.ready()
        self.breaks = asyncio.get_running_loop().create_future()
        await self.breaks

    def safe_state(self) -> None:
        self.safe += 1

    def _take(self, action: Any) -> None:
        self.got.append(action)
        if type(action) in self.raises:
            raise self.raises[type(action)]

    def dial(self, action: Dial) -> None:
        if self.on_dial:
            self.on_dial(action)
        self._take(action)

    def answer(self, action: Answer) -> None:
        self._take(action)
        self.host.emit(LegAnswered(leg=action.leg))

    def hangup(self, action: Hangup) -> None:
        self._take(action)
        self.host.emit(LegEnded(leg=action.leg, cause=action.cause))

    def key(self, action: Key) -> None:
        self._take(action)

    def unkey(self, action: Unkey) -> None:
        self._take(action)

    def set_output(self, action: SetOutput) -> None:
        self._take(action)

    def command(self, action: Command) -> None:
        self._take(action)

    # What happens outside

    def offer(self, endpoint: str = "far/a", called: str = "123", **fields: Any) -> str:
        leg = self.host.new_leg(endpoint)
        self.host.emit(
            LegOffered(
                leg=leg, endpoint=endpoint, called=called, trace=self.host.new_trace(),
                demanded_at=self.host.now(), **fields,
            )
        )  # fmt: skip
        return leg

    def all(self, kind: type) -> list[Any]:
        return [action for action in self.got if type(action) is kind]


TO_B = Route(name="to b", called="X.", targets=("far/b:{called}",))
FIRE = Route(
    name="fire",
    on=Trigger.ALARM,
    targets=("far/a",),
    announce=Announcement(text="Fire in {source}"),
    acknowledge="1",
)


class Quiet:
    """Keeps the log."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def __getattr__(self, level: str) -> Any:
        return lambda event, **facts: self.lines.append((level, f"{event} {facts}"))

    def of(self, level: str) -> list[str]:
        return [line for found, line in self.lines if found == level]


class Rig:
    """A gateway with one obedient adapter, and what passed on its bus."""

    def __init__(
        self, directory: Path, *routes: Route, engine: MediaEngine | None = None, **sections: Any
    ) -> None:
        sections.setdefault(
            "gateway", GatewaySection(name="box", data_dir=str(directory), drain_s=1)
        )
        sections.setdefault("adapters", {"far": section("far", Obedient)})
        self.log = Quiet()
        self.engine: Any = engine or PaperEngine()
        self.gateway = Gateway(
            Configuration(file=directory / "c.toml", routes=routes, **sections),
            engine=self.engine,
            log=self.log,
        )
        self.host: AdapterHost = next(iter(self.gateway.hosts.values()))
        self.far: Any = self.host.adapter
        self.seen: list[Envelope] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Rig]:
        feed = self.gateway.subscribe()
        follow = asyncio.ensure_future(self._follow(feed))
        self.task = asyncio.ensure_future(self.gateway.run())
        try:
            await self.until(
                lambda: self.bodies(AdapterReady) or self.bodies(AdapterLost) or self.task.done()
            )
            yield self
        finally:
            self.gateway.stop()
            self.gateway.stop()
            await asyncio.wait({self.task})
            feed.close()
            await follow
        self.task.result()

    async def _follow(self, feed: Any) -> None:
        async for envelope in feed:
            self.seen.append(envelope)

    async def until(self, condition: Any, within_s: float = 30.0, step_s: float = 0.001) -> None:
        async with asyncio.timeout(within_s):
            while not condition():  # noqa: ASYNC110 (files and threads too)
                await asyncio.sleep(step_s)

    def bodies(self, kind: type, **fields: Any) -> list[Any]:
        return [
            envelope.body
            for envelope in self.seen
            if type(envelope.body) is kind
            and all(getattr(envelope.body, name) == value for name, value in fields.items())
        ]

    async def see(self, kind: type, **fields: Any) -> Any:
        await self.until(lambda: self.bodies(kind, **fields))
        return self.bodies(kind, **fields)[0]


def section(name: str, adapter: type[Adapter], config: Any = None) -> AdapterSection:
    return AdapterSection(
        name=name, kind=adapter.kind, adapter=adapter, config=config or adapter.Config()
    )


def written(directory: Path) -> list[Envelope]:
    return [e for e in journal.read(directory / "journal") if e is not None]


def raise_fire(rig: Rig) -> None:
    rig.host.emit(
        AlarmRaised(
            endpoint="far/panel", alarm="zone 1", kind="fire", trace=rig.gateway.mint_id(),
            raised_at=rig.gateway.now(),
        )
    )  # fmt: skip
