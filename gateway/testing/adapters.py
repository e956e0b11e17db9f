"""check_adapter: the promises of `gateway.adapters.base`, held against any adapter.

    async def test_door_bus():
        await check_adapter(DoorBus, {"port": "/dev/null"}, Scenario(dial="door/front"))

Each promise is checked with an adapter, a host and an outside world of its own, so that a broken
one does not spoil the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

from gateway.adapters.base import Adapter
from gateway.core import actions as act
from gateway.core.causes import Cause
from gateway.core.endpoints import Endpoint
from gateway.core.events import LegEnded, LegOffered
from gateway.errors import DeviceError, GatewayError, Unsupported
from gateway.testing.holdings import Holdings
from gateway.testing.host import TestHost
from gateway.testing.lending import Borrower, Lender
from gateway.testing.promises import PROMISES, BrokenPromise, BrokenPromises, Report, Unchecked
from gateway.testing.stage import Bench, Scenario, Stage, call, within

AT_ONCE_S: Final = 0.05
_TRIES: Final = 3
_GRACE_S: Final = 10.0


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
    bench = _Checks(adapter, config, scenario or Scenario())
    report = Report()
    broken: list[BrokenPromise] = []
    for number in promises:
        try:
            await getattr(bench, number.lower())()
        except Unchecked as why:
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


class _Checks(Bench):
    """One method for each promise."""

    async def a01(self) -> None:
        async with self.stage() as stage:
            before = Holdings()
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
                await within(lambda: stage.host.up or service.done(), self.scenario.within_s)
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

    async def _cancelled(self, stage: Stage, begin: Callable[[Stage], Awaitable[str]]) -> None:
        before = Holdings()
        run = asyncio.ensure_future(stage.adapter.run())
        try:
            await within(lambda: stage.host.up or run.done(), self.scenario.within_s)
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
        await within(lambda: not before.gained(), _GRACE_S)
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
                raise Unchecked("it offers no leg that the scenario can begin")
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
                raise Unchecked("it has no endpoint that can be called")
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
                raise Unchecked("it has no endpoint that can be called")
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
            raise Unchecked("it emitted nothing")

    async def a12(self) -> None:
        if not self.scenario.offer:
            raise Unchecked("the scenario makes nobody call: give it `offer`")
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
            raise Unchecked("the scenario sends no garbage: give it `garbage`")
        async with self.stage() as stage:
            service = asyncio.ensure_future(stage.host.serve())
            try:
                await within(lambda: stage.host.up or service.done(), self.scenario.within_s)
                counted = stage.host.counters.total()
                await call(self.scenario.garbage, stage)
                await within(
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
            before = Holdings()
            run = asyncio.ensure_future(stage.adapter.run())
            borrower = TestHost("borrower", beside=stage.host)
            asker = borrower.make(Borrower, {})
            assert isinstance(asker, Borrower)
            try:
                await within(lambda: stage.host.up or run.done(), self.scenario.within_s)
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
            await within(lambda: not before.gained(), _GRACE_S)
            if gained := before.gained():
                raise BrokenPromise("A15", f"left behind after a loan: {gained}")

    async def _lent(self, stage: Stage, asker: Borrower, place: str) -> str:
        why = ""
        deadline = asyncio.get_running_loop().time() + self.scenario.within_s
        while asyncio.get_running_loop().time() < deadline:
            try:
                return asker.borrow(place)
            except DeviceError as error:
                why = str(error)  # perhaps it needs a moment to be free again
            await asyncio.sleep(0.02)
        raise BrokenPromise("A15", f"{place} could not be borrowed: {why}")

    def _lent_for(self, stage: Stage, asker: Borrower, place: str, leg: str) -> None:
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
                    raise Unchecked("the leg that the scenario begins borrows nothing")
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
                    await call(self.scenario.answer, stage)
                await self._ended(stage, "A16", leg)
