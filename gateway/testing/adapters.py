"""check_adapter: the promises of `gateway.adapters.base`, held against any adapter.

    async def test_door_bus():
        await check_adapter(DoorBus, {"port": "/dev/null"}, Scenario(dial="door/front"))

Each promise is checked with an adapter, a host and an outside world of its own, so that a broken
one does not spoil the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.adapters.base import Adapter
from gateway.core import actions as act
from gateway.core.causes import Cause
from gateway.core.endpoints import Endpoint
from gateway.core.events import (
    LegAnswered,
    LegEnded,
    LegOffered,
    LegProgressed,
    LegRinging,
)
from gateway.errors import DeviceError, GatewayError, Unsupported
from gateway.media.patchbay import MediaEngine
from gateway.testing.host import TestHost
from gateway.testing.lending import Borrower, Lender

PROMISES: Final[dict[str, str]] = {
    "A01": "the constructor opens nothing",
    "A02": "endpoints can be called before run and names what is configured",
    "A03": "run opens, reports ready, and serves until it is cancelled",
    "A04": "cancelling run ends every leg and leaves nothing behind",
    "A05": "a leg ends exactly once, and nothing comes after it",
    "A06": "a dialled leg ends, rings or is answered",
    "A07": "hangup ends a leg in any state, and does nothing to one that is not there",
    "A08": "actions return at once",
    "A09": "safe_state may be called at any time",
    "A10": "an action that the adapter does not do raises Unsupported and changes nothing",
    "A11": "events name only what the adapter owns",
    "A12": "an offered leg carries a trace and the time of the first demand",
    "A13": "run can be started again after it ended",
    "A14": "garbage from outside ends in a count",
    "A15": "an endpoint that is lent is busy, and says for whom",
    "A16": "a leg that borrowed gives back, and ends when it is recalled",
}
AT_ONCE_S: Final = 0.05
_TRIES: Final = 3
_GRACE_S: Final = 1.0


class BrokenPromise(AssertionError):
    """One promise that the adapter does not keep."""

    def __init__(self, number: str, why: str) -> None:
        self.number = number
        self.why = why
        super().__init__(f"{number}: {PROMISES[number]}: {why}")


class BrokenPromises(AssertionError):
    """All promises that the adapter does not keep, one a line; `broken` holds them."""

    def __init__(self, broken: list[BrokenPromise]) -> None:
        self.broken = broken
        super().__init__("\n" + "\n".join(str(each) for each in broken))


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
    within_s: float = 5.0
    """How long the outside may take to react."""
    settle_s: float = 0.1
    """How long after the last event is known to be the last."""


@dataclass
class Report:
    """Outcome of `check_adapter`, by promise number."""

    kept: list[str] = field(default_factory=list)
    unchecked: dict[str, str] = field(default_factory=dict)
    """Promises that this scenario could not put to the test, and why."""

    def __str__(self) -> str:
        lines = [f"{number}: kept: {PROMISES[number]}" for number in self.kept]
        lines += [f"{number}: not checked: {why}" for number, why in self.unchecked.items()]
        return "\n".join(sorted(lines))


class _Unchecked(Exception):
    pass


async def check_adapter(
    adapter: type[Adapter],
    config: Mapping[str, Any],
    scenario: Scenario | None = None,
    *,
    promises: Iterable[str] = PROMISES,
) -> Report:
    """Hold the numbered promises against an adapter.

    Raises `BrokenPromises` naming every one that is not kept; otherwise says which were kept and
    which the scenario could not check.
    """
    bench = _Bench(adapter, config, scenario or Scenario())
    report = Report()
    broken: list[BrokenPromise] = []
    for number in promises:
        try:
            await getattr(bench, number.lower())()
        except _Unchecked as why:
            report.unchecked[number] = str(why)
        except BrokenPromise as error:
            broken.append(error)
        except Exception as error:
            found = BrokenPromise(number, f"{type(error).__name__}: {error}")
            found.__cause__ = error
            broken.append(found)
        else:
            report.kept.append(number)
    if broken:
        raise BrokenPromises(broken)
    return report


@dataclass(frozen=True)
class _Stage:
    """One adapter in one world."""

    host: TestHost
    adapter: Adapter
    world: Any


class _Bench:
    """The checks, one method for each promise."""

    def __init__(
        self, adapter: type[Adapter], config: Mapping[str, Any], scenario: Scenario
    ) -> None:
        self.kind, self.config, self.scenario = adapter, config, scenario
        self.name = scenario.name or adapter.kind

    @contextlib.asynccontextmanager
    async def stage(self) -> AsyncIterator[_Stage]:
        """An adapter that is constructed but does not run."""
        world: contextlib.AbstractAsyncContextManager[Any]
        world = self.scenario.world() if self.scenario.world else contextlib.nullcontext()
        async with world as outside:
            config = dict(self.config)
            if self.scenario.configure:
                config |= self.scenario.configure(outside)
            host = TestHost(self.name, engine=self.scenario.engine)
            yield _Stage(host, host.make(self.kind, config), outside)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[_Stage]:
        """An adapter that is ready."""
        async with self.stage() as stage, stage.host.running():
            yield stage

    async def a01(self) -> None:
        async with self.stage() as stage:
            before = _Holdings()
            host = TestHost(self.name, engine=self.scenario.engine)
            made = self.kind(self.name, stage.adapter.config, host)
            if gained := before.gained():
                raise BrokenPromise("A01", f"it opened {gained}")
            del made

    async def a02(self) -> None:
        async with self.stage() as stage:
            first, second = list(stage.adapter.endpoints()), list(stage.adapter.endpoints())
            for endpoint in first:
                if not isinstance(endpoint, Endpoint):
                    raise BrokenPromise("A02", f"{endpoint!r} is no Endpoint")
            names = [endpoint.id for endpoint in first]
            if len(set(names)) < len(names):
                raise BrokenPromise("A02", f"an endpoint is named twice: {', '.join(names)}")
            if first != second:
                raise BrokenPromise("A02", "the second call gives other endpoints than the first")

    async def a03(self) -> None:
        async with self.stage() as stage:
            service = asyncio.ensure_future(stage.host.serve())
            try:
                await _until(lambda: stage.host.up or service.done(), self.scenario.within_s)
                if service.done():
                    raise BrokenPromise("A03", f"run ended by itself: {service.result()}")
                if not stage.host.up:
                    raise BrokenPromise("A03", f"not ready after {self.scenario.within_s:g} s")
                await asyncio.sleep(self.scenario.settle_s)
                if service.done():
                    raise BrokenPromise("A03", f"run ended by itself: {service.result()}")
            finally:
                service.cancel()
                await asyncio.wait({service})

    async def a04(self) -> None:
        for begin in self._beginnings():
            async with self.stage() as stage:
                await self._cancelled(stage, begin)

    async def _cancelled(self, stage: _Stage, begin: Callable[[_Stage], Awaitable[str]]) -> None:
        before = _Holdings()
        run = asyncio.ensure_future(stage.adapter.run())
        try:
            await _until(lambda: stage.host.up or run.done(), self.scenario.within_s)
            leg = await begin(stage)
        finally:
            # Without the host's own cleaning up: what is left is the adapter's fault.
            run.cancel()
            done, _ = await asyncio.wait({run}, timeout=self.scenario.within_s)
        if not done:
            raise BrokenPromise("A04", "run goes on after its cancellation")
        if leg in stage.host.legs:
            raise BrokenPromise("A04", f"legs that did not end: {leg}")
        await stage.host.put_tasks_away()
        await _until(lambda: not before.gained(), _GRACE_S)
        if gained := before.gained():
            raise BrokenPromise("A04", f"left behind: {gained}")

    async def a05(self) -> None:
        async with self.running() as stage:
            legs = []
            for answered in (False, True):
                if self._can_dial(stage):
                    legs.append(await self._some_leg(stage, answered=answered))
                    stage.adapter.hangup(act.Hangup(leg=legs[-1]))
                    stage.adapter.hangup(act.Hangup(leg=legs[-1]))
                    await self._ended(stage, "A05", legs[-1])
            if self.scenario.offer:
                legs.append(await self._offer(stage))
                stage.adapter.hangup(act.Hangup(leg=legs[-1]))
                await self._ended(stage, "A05", legs[-1])
            if not legs:
                raise _Unchecked("it offers no leg that the scenario can begin")
            await asyncio.sleep(self.scenario.settle_s)
        for leg in legs:
            found = len(stage.host.of(LegEnded, leg=leg))
            if found != 1:
                raise BrokenPromise("A05", f"{leg} ended {found} times")
        for _, why in stage.host.refused:
            if "has ended" in why:
                raise BrokenPromise("A05", why)

    async def a06(self) -> None:
        async with self.running() as stage:
            if not self._can_dial(stage):
                raise _Unchecked("it has no endpoint that can be called")
            leg = await self._some_leg(stage, answered=False)
            endpoint = stage.host.endpoints.get(self._dialled(stage))
            if endpoint is not None and endpoint.capacity == 1 and leg in stage.host.legs:
                second = self._dial(stage)
                if second is not None:
                    await self._heard_of(stage, second)
                    stage.adapter.hangup(act.Hangup(leg=second))
            network = self._dialled(stage).partition("/")[0]
            try:
                unknown = stage.host.dial(f"{network}/no-such-place")
            except GatewayError:
                return  # the gateway makes a LegEnded with a cause of it
            await self._ended(stage, "A06", unknown)

    async def a07(self) -> None:
        async with self.running() as stage:
            nobody = act.Hangup(leg=f"{self._dialled(stage) or self.name + '/x'}#999")
            stage.adapter.hangup(nobody)
            if not self._can_dial(stage):
                raise _Unchecked("it has no endpoint that can be called")
            at_once = self._dial(stage)
            if at_once is not None:
                stage.adapter.hangup(act.Hangup(leg=at_once))
                await self._ended(stage, "A07", at_once)
            for answered in (False, True):
                leg = await self._some_leg(stage, answered=answered)
                stage.adapter.hangup(act.Hangup(leg=leg))
                await self._ended(stage, "A07", leg)
                n_events = len(stage.host.events)
                stage.adapter.hangup(act.Hangup(leg=leg))
                await asyncio.sleep(self.scenario.settle_s)
                if any(getattr(e, "leg", "") == leg for e in stage.host.events[n_events:]):
                    raise BrokenPromise("A07", f"hanging up {leg} again caused another event")

    async def a08(self) -> None:
        # A busy test machine may stall anybody once; an action that waits does so every time.
        slowest: dict[str, float] = {}
        for attempt in range(_TRIES):
            slow: dict[str, float] = {}
            async with self.running() as stage:
                for name, action in self._actions(stage):
                    begin = time.perf_counter()
                    with contextlib.suppress(GatewayError):
                        getattr(stage.adapter, name)(action)
                    took = time.perf_counter() - begin
                    if took > AT_ONCE_S:
                        slow[name] = took
            slowest = slow if not attempt else {n: slowest[n] for n in slow if n in slowest}
            if not slowest:
                return
        text = ", ".join(f"{name} took {took * 1000:.0f} ms" for name, took in slowest.items())
        raise BrokenPromise("A08", text)

    async def a09(self) -> None:
        async with self.stage() as stage:
            for when in ("before run", "before run, again"):
                self._safe(stage, when)
            async with stage.host.running():
                self._safe(stage, "while it runs")
                self._safe(stage, "while it runs, again")
                if self._can_dial(stage):
                    await self._some_leg(stage)
                    self._safe(stage, "during a call")
            self._safe(stage, "after run")
        if stage.host.counters["safe_state_failed"]:
            raise BrokenPromise("A09", "it raised when the host called it at the end of run")

    async def a10(self) -> None:
        async with self.running() as stage:
            for name, action in self._actions(stage):
                events, legs = len(stage.host.events), list(stage.host.legs)
                try:
                    getattr(stage.adapter, name)(action)
                except Unsupported:
                    await asyncio.sleep(0)
                    if len(stage.host.events) != events or stage.host.legs != legs:
                        raise BrokenPromise(
                            "A10", f"{name} raised Unsupported but changed something"
                        ) from None
                except GatewayError:
                    pass  # a refusal with a reason: unknown leg, device gone
                except NotImplementedError:
                    raise BrokenPromise(
                        "A10", f"{name} raises NotImplementedError, not Unsupported"
                    ) from None

    async def a11(self) -> None:
        emitted = False
        for begin in self._beginnings():
            async with self.running() as stage:
                await begin(stage)
                await asyncio.sleep(self.scenario.settle_s)
            # What crosses with an end is A05's.
            foreign = [why for _, why in stage.host.refused if "has ended" not in why]
            if foreign:
                raise BrokenPromise("A11", "; ".join(foreign))
            emitted = emitted or bool(stage.host.events)
        if not emitted:
            raise _Unchecked("it emitted nothing")

    async def a12(self) -> None:
        if not self.scenario.offer:
            raise _Unchecked("the scenario makes nobody call: give it `offer`")
        async with self.running() as stage:
            before = stage.host.now()
            offered = stage.host.of(LegOffered, leg=await self._offer(stage))[0]
            if not offered.trace:
                raise BrokenPromise("A12", "the trace is empty: mint one with host.new_trace")
            now = stage.host.now()
            if not before - 60.0 <= offered.demanded_at <= now:
                raise BrokenPromise(
                    "A12",
                    f"demanded_at is {offered.demanded_at:.3f}; host.now() says {now:.3f}",
                )
            stage.adapter.hangup(act.Hangup(leg=offered.leg))
            await self._ended(stage, "A12", offered.leg)
            again = stage.host.of(LegOffered, leg=await self._offer(stage, count=2))[0]
            if again.trace == offered.trace:
                raise BrokenPromise("A12", "two calls have the same trace")

    async def a13(self) -> None:
        async with self.stage() as stage:
            for attempt in ("first", "second"):
                stage.host.events.clear()
                async with stage.host.running():
                    if self._can_dial(stage):
                        await self._some_leg(stage)
                if attempt == "first":
                    before = stage.host.endpoints.keys()
            if stage.host.endpoints.keys() != before:
                raise BrokenPromise("A13", "the second run has other endpoints than the first")

    async def a14(self) -> None:
        if not self.scenario.garbage:
            raise _Unchecked("the scenario sends no garbage: give it `garbage`")
        async with self.stage() as stage:
            service = asyncio.ensure_future(stage.host.serve())
            try:
                await _until(lambda: stage.host.up or service.done(), self.scenario.within_s)
                counted = stage.host.counters.total()
                await _call(self.scenario.garbage, stage)
                await _until(
                    lambda: service.done() or stage.host.counters.total() > counted,
                    self.scenario.within_s,
                )
                if service.done():
                    raise BrokenPromise("A14", f"run ended: {service.result()}")
                if stage.host.counters.total() == counted:
                    raise BrokenPromise("A14", "nothing was counted: use host.count")
                if self._can_dial(stage):
                    await self._some_leg(stage)
            finally:
                service.cancel()
                await asyncio.wait({service})

    async def a15(self) -> None:
        if self.kind.lend is Adapter.lend:
            return  # it lends nothing: the gateway says so to whoever asks
        async with self.stage() as stage:
            before = _Holdings()
            run = asyncio.ensure_future(stage.adapter.run())
            borrower = TestHost("borrower", beside=stage.host)
            asker = borrower.make(Borrower, {})
            assert isinstance(asker, Borrower)
            try:
                await _until(lambda: stage.host.up or run.done(), self.scenario.within_s)
                place = self.scenario.lend or self._dialled(stage)
                leg = await self._lent(stage, asker, place)
                self._lent_for(stage, asker, place, leg)
                stage.adapter.release(place, "borrower/leg#999")
                self._lent_for(stage, asker, place, leg)
                asker.hangup(act.Hangup(leg=leg))
                stage.adapter.release(place, leg)
                leg = await self._lent(stage, asker, place)
            finally:
                run.cancel()
                await asyncio.wait({run}, timeout=self.scenario.within_s)
            if leg in borrower.legs:
                raise BrokenPromise("A15", f"run ended and did not recall {place} from {leg}")
            await stage.host.put_tasks_away()
            await _until(lambda: not before.gained(), _GRACE_S)
            if gained := before.gained():
                raise BrokenPromise("A15", f"left behind after a loan: {gained}")

    async def _lent(self, stage: _Stage, asker: Borrower, place: str) -> str:
        why = ""
        deadline = asyncio.get_running_loop().time() + self.scenario.within_s
        while asyncio.get_running_loop().time() < deadline:
            try:
                return asker.borrow(place)
            except DeviceError as error:
                why = str(error)  # perhaps it needs a moment to be free again
            await asyncio.sleep(0.02)
        raise BrokenPromise("A15", f"{place} could not be borrowed: {why}")

    def _lent_for(self, stage: _Stage, asker: Borrower, place: str, leg: str) -> None:
        try:
            asker.borrow(place)
        except DeviceError as error:
            if leg not in str(error):
                raise BrokenPromise("A15", f"it does not say for whom: {error}") from None
        else:
            raise BrokenPromise("A15", f"{place} was lent twice")
        if self._can_dial(stage):
            dialled = stage.host.dial(place, self.scenario.number)
            ended = stage.host.of(LegEnded, leg=dialled)
            if not ended or ended[0].cause is not Cause.BUSY or leg not in ended[0].detail:
                raise BrokenPromise("A15", f"a call to {place} while it is lent: {ended}")

    async def a16(self) -> None:
        async with self.stage() as stage:
            places = tuple(place for _, place in stage.adapter.borrows())
            if not places:
                return
            other = TestHost("lender", beside=stage.host)
            lender = other.make(Lender, {"places": places})
            assert isinstance(lender, Lender)
            async with other.running(), stage.host.running():
                leg = await self._some_leg(stage)
                if leg not in lender.lent.values():
                    raise _Unchecked("the leg that the scenario begins borrows nothing")
                stage.adapter.hangup(act.Hangup(leg=leg))
                await self._ended(stage, "A16", leg)
                if lender.lent:
                    raise BrokenPromise("A16", f"{leg} ended and did not give back {lender.lent}")
                leg = await self._some_leg(stage)
                lender.lent.clear()
                other.recall(leg, Cause.OUT_OF_ORDER, "the card is gone")
                await self._ended(stage, "A16", leg)
                if stage.host.of(LegEnded, leg=leg)[0].cause is not Cause.OUT_OF_ORDER:
                    raise BrokenPromise("A16", "its end does not have the cause of the recall")
                lender.refuses = True
                leg = stage.host.dial(self._dialled(stage), self.scenario.number)
                await self._heard_of(stage, leg)
                if self.scenario.answer and leg in stage.host.legs:
                    await _call(self.scenario.answer, stage)
                await self._ended(stage, "A16", leg)

    # What the checks have in common

    def _dialled(self, stage: _Stage) -> str:
        if self.scenario.dial:
            return self.scenario.dial
        return next((e.id for e in stage.adapter.endpoints() if e.can_ring), "")

    def _beginnings(self) -> list[Callable[[_Stage], Awaitable[str]]]:
        """The ways in which a leg can begin; each returns it, or nothing when there is none."""

        async def dialled(stage: _Stage) -> str:
            return await self._some_leg(stage) if self._can_dial(stage) else ""

        return [dialled, self._offer] if self.scenario.offer else [dialled]

    def _can_dial(self, stage: _Stage) -> bool:
        return type(stage.adapter).dial is not Adapter.dial and bool(self._dialled(stage))

    def _dial(self, stage: _Stage) -> str | None:
        """A new leg; None when the adapter refused with an error of the family, which is legal."""
        try:
            return stage.host.dial(self._dialled(stage), self.scenario.number)
        except GatewayError:
            return None

    async def _heard_of(self, stage: _Stage, leg: str) -> None:
        kinds = (LegEnded, LegRinging, LegProgressed, LegAnswered)
        await _until(
            lambda: any(stage.host.of(kind, leg=leg) for kind in kinds), self.scenario.within_s
        )
        if not any(stage.host.of(kind, leg=leg) for kind in kinds):
            raise BrokenPromise(
                "A06", f"{leg}: nothing was heard of it for {self.scenario.within_s:g} s"
            )

    async def _some_leg(self, stage: _Stage, *, answered: bool = True) -> str:
        """A leg that was dialled, and answered if anybody does that."""
        leg = stage.host.dial(self._dialled(stage), self.scenario.number)
        await self._heard_of(stage, leg)
        if answered and self.scenario.answer:
            await _call(self.scenario.answer, stage)
            await stage.host.wait_for(LegAnswered, leg=leg, within_s=self.scenario.within_s)
        return leg

    async def _offer(self, stage: _Stage, *, count: int = 1) -> str:
        assert self.scenario.offer is not None
        await _call(self.scenario.offer, stage)
        offered = await stage.host.wait_for(
            LegOffered, count=count, within_s=self.scenario.within_s
        )
        return offered.leg

    async def _ended(self, stage: _Stage, number: str, leg: str) -> None:
        try:
            await stage.host.wait_for(LegEnded, leg=leg, within_s=self.scenario.within_s)
        except TimeoutError as error:
            raise BrokenPromise(number, f"{leg} never ended: {error}") from None

    def _safe(self, stage: _Stage, when: str) -> None:
        begin = time.perf_counter()
        try:
            stage.adapter.safe_state()
        except Exception as error:
            raise BrokenPromise("A09", f"{when} it raised {error!r}") from error
        took = time.perf_counter() - begin
        if took > 1.0:
            raise BrokenPromise("A09", f"{when} it took {took:.1f} s")

    def _actions(self, stage: _Stage) -> list[tuple[str, Any]]:
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


class _Holdings:
    """What the process holds now: descriptors, threads, tasks."""

    def __init__(self) -> None:
        self._before = self._look()

    def gained(self) -> str:
        """What was added since, in words; empty for nothing."""
        now = self._look()
        return ", ".join(
            f"{kind} {what}"
            for kind, held in now.items()
            for key, what in held.items()
            if key not in self._before[kind]
        )

    @staticmethod
    def _look() -> dict[str, dict[Any, str]]:
        # A descriptor whose object is garbage is closed as soon as that is collected.
        gc.collect()
        descriptors = {}
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(f"/proc/self/fd/{name}")
                if not target.startswith("/proc/"):
                    descriptors[(name, target)] = target
        return {
            "descriptor": descriptors,
            "thread": {(t.ident, t.name): t.name for t in threading.enumerate() if not _idle(t)},
            "task": {id(t): t.get_name() for t in asyncio.all_tasks() if not t.done()},
        }


def _idle(thread: threading.Thread) -> bool:
    """A worker of the event loop's pool, which keeps it when `asyncio.to_thread` is done."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code.co_name == "_worker"


async def _until(condition: Callable[[], object], within_s: float) -> None:
    """Wait until a condition holds, at most `within_s`; the caller looks which it was."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while not condition() and loop.time() < deadline:  # noqa: ASYNC110
        # What is waited for may be a thread or the kernel: nothing that could wake us.
        await asyncio.sleep(min(0.005, within_s))


async def _call(what: Callable[[Any, Any], Awaitable[None] | None], stage: _Stage) -> None:
    found = what(stage.adapter, stage.world)
    if found is not None:
        await found
