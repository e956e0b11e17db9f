"""An adapter in a world of its own, and what every check does there."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.adapters.base import Adapter
from gateway.core import actions as act
from gateway.core.events import (
    LegAnswered,
    LegEnded,
    LegOffered,
    LegProgressed,
    LegRinging,
)
from gateway.errors import GatewayError
from gateway.media.patchbay import MediaEngine
from gateway.testing.host import TestHost
from gateway.testing.promises import BrokenPromise


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What the checks need to know of the adapter's world. All of it is optional: what cannot be
    checked without it is reported as such, not as kept."""

    name: str = ""
    """Section name; default: the adapter's kind."""
    dial: str = ""
    """Endpoint that can be called; default: the first one that `can_ring`."""
    lend: str = ""
    """Endpoint whose audio other adapters may borrow; default: `dial`."""
    number: str = ""
    """Number to dial there, for trunks."""
    world: Callable[[], contextlib.AbstractAsyncContextManager[Any]] | None = None
    """Opens the simulator at the other end around each check; what it yields is passed on below."""
    configure: Callable[[Any], Mapping[str, Any]] | None = None
    """Called with the world: what to add to the configuration, such as a port that it chose."""
    offer: Callable[[Any, Any], Awaitable[None] | None] | None = None
    """Called with adapter and world: makes somebody outside call us."""
    answer: Callable[[Any, Any], Awaitable[None] | None] | None = None
    """Called with adapter and world: makes the called person answer."""
    garbage: Callable[[Any, Any], Awaitable[None] | None] | None = None
    """Called with adapter and world: sends nonsense."""
    engine: MediaEngine | None = None
    """A running media engine; without one streams are paper."""
    within_s: float = 20.0
    """How long the outside may take to react."""
    settle_s: float = 0.1
    """How long after the last event is known to be the last."""


@dataclass(frozen=True)
class Stage:
    """One adapter in one world."""

    host: TestHost
    adapter: Adapter
    world: Any


class Bench:
    """Makes stages for one adapter, and calls on them."""

    def __init__(
        self, adapter: type[Adapter], config: Mapping[str, Any], scenario: Scenario
    ) -> None:
        self.kind, self.config, self.scenario = adapter, config, scenario
        self.name = scenario.name or adapter.kind

    @contextlib.asynccontextmanager
    async def stage(self) -> AsyncIterator[Stage]:
        """An adapter that is constructed but does not run."""
        world: contextlib.AbstractAsyncContextManager[Any]
        world = self.scenario.world() if self.scenario.world else contextlib.nullcontext()
        async with world as outside:
            config = dict(self.config)
            if self.scenario.configure:
                config |= self.scenario.configure(outside)
            host = TestHost(self.name, engine=self.scenario.engine)
            yield Stage(host, host.make(self.kind, config), outside)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Stage]:
        """An adapter that is ready."""
        async with self.stage() as stage, stage.host.running():
            yield stage

    # What the checks have in common

    def _dialled(self, stage: Stage) -> str:
        if self.scenario.dial:
            return self.scenario.dial
        return next((e.id for e in stage.adapter.endpoints() if e.can_ring), "")

    def _beginnings(self) -> list[Callable[[Stage], Awaitable[str]]]:
        """The ways in which a leg can begin; each returns it, or nothing when there is none."""

        async def dialled(stage: Stage) -> str:
            return await self._some_leg(stage) if self._can_dial(stage) else ""

        return [dialled, self._offer] if self.scenario.offer else [dialled]

    def _can_dial(self, stage: Stage) -> bool:
        return type(stage.adapter).dial is not Adapter.dial and bool(self._dialled(stage))

    def _dial(self, stage: Stage) -> str | None:
        """A new leg; None when the adapter refused with an error of the family, which is legal."""
        try:
            return stage.host.dial(self._dialled(stage), self.scenario.number)
        except GatewayError:
            return None

    async def _heard_of(self, stage: Stage, leg: str) -> None:
        kinds = (LegEnded, LegRinging, LegProgressed, LegAnswered)
        await within(
            lambda: any(stage.host.of(kind, leg=leg) for kind in kinds), self.scenario.within_s
        )
        if not any(stage.host.of(kind, leg=leg) for kind in kinds):
            raise BrokenPromise(
                "A06", f"{leg}: nothing was heard of it for {self.scenario.within_s:g} s"
            )

    async def _some_leg(self, stage: Stage, *, answered: bool = True) -> str:
        """A leg that was dialled, and answered if anybody does that."""
        leg = stage.host.dial(self._dialled(stage), self.scenario.number)
        await self._heard_of(stage, leg)
        if answered and self.scenario.answer:
            await call(self.scenario.answer, stage)
            await stage.host.wait_for(LegAnswered, leg=leg, within_s=self.scenario.within_s)
        return leg

    async def _offer(self, stage: Stage, *, count: int = 1) -> str:
        assert self.scenario.offer is not None
        await call(self.scenario.offer, stage)
        offered = await stage.host.wait_for(
            LegOffered, count=count, within_s=self.scenario.within_s
        )
        return offered.leg

    async def _ended(self, stage: Stage, number: str, leg: str) -> None:
        try:
            await stage.host.wait_for(LegEnded, leg=leg, within_s=self.scenario.within_s)
        except TimeoutError as error:
            raise BrokenPromise(number, f"{leg} never ended: {error}") from None

    def _safe(self, stage: Stage, when: str) -> None:
        begin = time.perf_counter()
        try:
            stage.adapter.safe_state()
        except Exception as error:
            raise BrokenPromise("A09", f"{when} it raised {error!r}") from error
        took = time.perf_counter() - begin
        if took > 1.0:
            raise BrokenPromise("A09", f"{when} it took {took:.1f} s")

    def _actions(self, stage: Stage) -> list[tuple[str, Any]]:
        """Every action, on legs that are not there and on places that are."""
        leg = f"{self._dialled(stage) or self.name + '/x'}#998"
        found: list[tuple[str, Any]] = [
            ("ring", act.Ring(leg=leg)),
            ("report_transfer", act.ReportTransfer(leg=leg, outcome="answered")),
            ("progress", act.Progress(leg=leg)),
            ("answer", act.Answer(leg=leg)),
            ("hold", act.Hold(leg=leg)),
            ("retrieve", act.Retrieve(leg=leg)),
            ("send_digits", act.SendDigits(leg=leg, digits="5")),
            ("unkey", act.Unkey(leg=leg)),
            ("hangup", act.Hangup(leg=leg)),
        ]
        for place in list(stage.host.endpoints.values())[:4]:
            found += [
                ("set_output", act.SetOutput(endpoint=place.id, output=output, value=0.0))
                for output in (*place.outputs, "no-such-output")
            ]
            found += [
                (
                    "acknowledge_alarm",
                    act.AcknowledgeAlarm(endpoint=place.id, alarm="no-such-alarm", by="check"),
                ),
                ("command", act.Command(command="c1", endpoint=place.id, verb="NO_SUCH_VERB")),
                (
                    "send_message",
                    act.SendMessage(endpoint=place.id, recipient="nobody", text="check"),
                ),
            ]
        if self._can_dial(stage):
            dialled = stage.host.begin_leg(self._dialled(stage))
            found.append(
                (
                    "dial",
                    act.Dial(
                        leg=dialled,
                        endpoint=self._dialled(stage),
                        number=self.scenario.number,
                        trace="t",
                        call="c",
                    ),
                )
            )
        return found


async def within(condition: Callable[[], object], within_s: float) -> None:
    """Wait until a condition holds, at most `within_s`; the caller looks which it was."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while not condition() and loop.time() < deadline:  # noqa: ASYNC110
        # What is waited for may be a thread or the kernel: nothing that could wake us.
        await asyncio.sleep(min(0.005, within_s))


async def call(what: Callable[[Any, Any], Awaitable[None] | None], stage: Stage) -> None:
    found = what(stage.adapter, stage.world)
    if found is not None:
        await found
