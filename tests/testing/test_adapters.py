"""The conformance suite finds each broken promise: one deliberately broken adapter for each."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import pytest

from gateway.adapters.base import Adapter, Loan
from gateway.core.actions import Answer, Command, Dial, Hangup, SetOutput
from gateway.core.causes import Cause
from gateway.core.endpoints import Endpoint
from gateway.core.events import InputChanged, LegAnswered, LegEnded, LegOffered, LegRinging
from gateway.errors import DeviceError, Unsupported
from gateway.media.streams import NullSpec
from gateway.testing import PROMISES, BrokenPromises, Scenario, check_adapter


class Door(Adapter):
    """Keeps every promise; the broken ones below each change one thing."""

    kind = "door"

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        pass

    def __init__(self, name: str, config: Any, host: Any) -> None:
        super().__init__(name, config, host)
        self.talking: set[str] = set()

    def endpoints(self) -> Iterable[Endpoint]:
        return [Endpoint(id="door/front", outputs=("latch",))]

    async def run(self) -> None:
        try:
            self.host.ready()
            await asyncio.Event().wait()
        finally:
            for leg in list(self.talking):
                self.end(leg)

    def end(self, leg: str, cause: Cause = Cause.NORMAL) -> None:
        if leg in self.talking:
            self.talking.discard(leg)
            self.host.emit(LegEnded(leg=leg, cause=cause))

    def dial(self, action: Dial) -> None:
        if action.endpoint != "door/front":
            raise DeviceError("no such door")
        busy = bool(self.talking)
        self.talking.add(action.leg)
        if busy:
            self.end(action.leg, Cause.BUSY)
        else:
            self.host.emit(LegRinging(leg=action.leg))

    def pressed(self) -> None:
        leg = self.host.new_leg("door/front")
        self.talking.add(leg)
        self.host.emit(
            LegOffered(
                leg=leg, endpoint="door/front", trace=self.host.new_trace(),
                demanded_at=self.host.now(),
            )
        )  # fmt: skip

    def opened(self) -> None:
        for leg in self.talking:
            self.host.emit(LegAnswered(leg=leg))

    def answer(self, action: Answer) -> None:
        if action.leg in self.talking:
            self.host.emit(LegAnswered(leg=action.leg))

    def hangup(self, action: Hangup) -> None:
        self.end(action.leg)

    def set_output(self, action: SetOutput) -> None:
        if action.output != "latch":
            raise Unsupported("the door has a latch, nothing else")

    def noise(self) -> None:
        self.host.count("garbage")


class Socket(Door):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.socket = socket.socket()

    def __del__(self) -> None:
        self.socket.close()


class Thread(Door):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        threading.Thread(target=time.sleep, args=(5.0,), daemon=True).start()


class OtherEndpointsEachTime(Door):
    n = 0

    def endpoints(self) -> Iterable[Endpoint]:
        type(self).n += 1
        yield Endpoint(id=f"door/n{self.n}")


class EndpointsNeedRun(Door):
    def endpoints(self) -> Iterable[Endpoint]:
        return self.found  # type: ignore[attr-defined, no-any-return]


class NeverReady(Door):
    async def run(self) -> None:
        await asyncio.Event().wait()


class Returns(Door):
    async def run(self) -> None:
        self.host.ready()
        await asyncio.sleep(0.01)


class ForgetsItsLegs(Door):
    async def run(self) -> None:
        self.host.ready()
        await asyncio.Event().wait()


class LeavesATask(Door):
    async def run(self) -> None:
        self.task = asyncio.ensure_future(asyncio.sleep(100))
        await super().run()


class LeavesADescriptor(Door):
    async def run(self) -> None:
        self.fds = os.pipe()
        await super().run()


class IgnoresCancel(Door):
    async def run(self) -> None:
        try:
            await super().run()
        except asyncio.CancelledError:
            await asyncio.sleep(0.6)


class EndsTwice(Door):
    def hangup(self, action: Hangup) -> None:
        for _ in range(2):
            self.host.emit(LegEnded(leg=action.leg, cause=Cause.NORMAL))
        self.talking.discard(action.leg)


class SpeaksAfterTheEnd(Door):
    def end(self, leg: str, cause: Cause = Cause.NORMAL) -> None:
        super().end(leg, cause)
        self.host.emit(LegAnswered(leg=leg))


class NobodyHearsTheBell(Door):
    def dial(self, action: Dial) -> None:
        self.talking.add(action.leg)


class EveryDoorIsTheFront(Door):
    def dial(self, action: Dial) -> None:
        self.talking.add(action.leg)
        self.host.emit(LegRinging(leg=action.leg))


class WillNotHangUp(Door):
    def hangup(self, action: Hangup) -> None:
        pass


class HangupNeedsALeg(Door):
    def hangup(self, action: Hangup) -> None:
        self.talking.remove(action.leg)
        self.host.emit(LegEnded(leg=action.leg, cause=Cause.NORMAL))


class Waits(Door):
    def set_output(self, action: SetOutput) -> None:
        time.sleep(0.6)


class UnsafeBeforeRun(Door):
    def safe_state(self) -> None:
        self.latch.off()  # type: ignore[attr-defined]


class SafeOnlyOnce(Door):
    def safe_state(self) -> None:
        del self.talking


class UnsupportedTooLate(Door):
    def set_output(self, action: SetOutput) -> None:
        self.host.emit(InputChanged(endpoint="door/front", input="latch", value=action.value))
        raise Unsupported("after all")


class NotImplementedYet(Door):
    def command(self, action: Command) -> None:
        raise NotImplementedError


class TripsOverAction(Door):
    def command(self, action: Command) -> None:
        {}[action.verb]


class SpeaksForOthers(Door):
    def dial(self, action: Dial) -> None:
        super().dial(action)
        self.host.emit(InputChanged(endpoint="gate/front", input="open", value=1))


class NoTrace(Door):
    def pressed(self) -> None:
        leg = self.host.new_leg("door/front")
        self.talking.add(leg)
        now = self.host.now()
        self.host.emit(LegOffered(leg=leg, endpoint="door/front", trace="", demanded_at=now))


class WallClock(Door):
    def pressed(self) -> None:
        leg = self.host.new_leg("door/front")
        self.talking.add(leg)
        trace, now = self.host.new_trace(), time.time()
        self.host.emit(LegOffered(leg=leg, endpoint="door/front", trace=trace, demanded_at=now))


class OneTraceForAll(Door):
    def pressed(self) -> None:
        leg = self.host.new_leg("door/front")
        self.talking.add(leg)
        now = self.host.now()
        self.host.emit(LegOffered(leg=leg, endpoint="door/front", trace="t", demanded_at=now))


class RunsOnce(Door):
    ran = False

    async def run(self) -> None:
        if self.ran:
            raise DeviceError("the port is still open")
        self.ran = True
        await super().run()


class DiesOfNoise(Door):
    def noise(self) -> None:
        async def parse() -> None:
            b"\xff".decode()

        self.host.create_task(parse(), name="parse")


class SaysNothingOfNoise(Door):
    def noise(self) -> None:
        pass


class Lends(Door):
    lent = ""

    def lend(self, endpoint: str, leg: str) -> Loan:
        if self.lent:
            raise DeviceError(f"lent to {self.lent}")
        self.lent = leg
        return Loan(spec=NullSpec())

    def release(self, endpoint: str, leg: str) -> None:
        if self.lent == leg:
            self.lent = ""

    def dial(self, action: Dial) -> None:
        if self.lent:
            detail = f"lent to {self.lent}"
            self.host.emit(LegEnded(leg=action.leg, cause=Cause.BUSY, detail=detail))
        else:
            super().dial(action)

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            leg, self.lent = self.lent, ""
            self.host.recall(leg, Cause.SHUTDOWN)


class LendsTwice(Lends):
    def lend(self, endpoint: str, leg: str) -> Loan:
        return Loan(spec=NullSpec())


class KeepsItSecret(Lends):
    def lend(self, endpoint: str, leg: str) -> Loan:
        if self.lent:
            raise DeviceError("lent to somebody")
        return super().lend(endpoint, leg)


class RingsWhileLent(Lends):
    dial = Door.dial


class NeverRecalls(Lends):
    run = Door.run


class Borrows(Door):
    def borrows(self) -> Iterable[tuple[str, str]]:
        yield "audio", "card/1"

    def opened(self) -> None:
        for leg in list(self.talking):
            try:
                self.host.borrow_stream(leg, "card/1")
            except DeviceError:
                self.end(leg, Cause.RESOURCE_UNAVAILABLE)
            else:
                self.host.emit(LegAnswered(leg=leg))

    def hangup(self, action: Hangup) -> None:
        self.end(action.leg, action.cause)


class EndsForAnotherReason(Borrows):
    def hangup(self, action: Hangup) -> None:
        self.end(action.leg)


def _call(method: str) -> Callable[[Any, Any], None]:
    return lambda adapter, world: getattr(adapter, method)()


SCENARIO = Scenario(
    offer=_call("pressed"),
    answer=_call("opened"),
    garbage=_call("noise"),
    within_s=0.3,
    settle_s=0.02,
)


@pytest.mark.parametrize("adapter", [Door, Lends, Borrows])
async def test_a_good_adapter_keeps_all(adapter: type[Adapter]) -> None:
    # What a door borrows can only be had where somebody lends: that is A16's stage.
    promises = ["A15", "A16"] if adapter is Borrows else PROMISES
    report = await check_adapter(adapter, {}, SCENARIO, promises=promises)
    if adapter is Borrows:
        assert report.kept == promises
        return
    assert report.kept == list(PROMISES)
    assert report.unchecked == {}


@pytest.mark.parametrize(
    ("adapter", "number", "why"),
    [
        (LendsTwice, "A15", "door/front was lent twice"),
        (KeepsItSecret, "A15", "it does not say for whom: lent to somebody"),
        (RingsWhileLent, "A15", "a call to door/front while it is lent: []"),
        (NeverRecalls, "A15", "run ended and did not recall door/front from borrower/leg#"),
        (EndsForAnotherReason, "A16", "its end does not have the cause of the recall"),
        (Socket, "A01", "it opened descriptor socket:"),
        (Thread, "A01", "it opened thread"),
        (OtherEndpointsEachTime, "A02", "the second call gives other endpoints"),
        (EndpointsNeedRun, "A02", "AttributeError"),
        (NeverReady, "A03", "not ready after 0.3 s"),
        (Returns, "A03", "run ended by itself: run returned"),
        (ForgetsItsLegs, "A04", "legs that did not end: door/front#1"),
        (LeavesATask, "A04", "left behind: task"),
        (LeavesADescriptor, "A04", "left behind: descriptor pipe:"),
        (IgnoresCancel, "A04", "run goes on after its cancellation"),
        (EndsTwice, "A05", "a second LegEnded for door/front#1, which has ended"),
        (SpeaksAfterTheEnd, "A05", "LegAnswered for door/front#1, which has ended"),
        (NobodyHearsTheBell, "A06", "door/front#1: nothing was heard of it for 0.3 s"),
        (EveryDoorIsTheFront, "A06", "door/no-such-place#1 never ended"),
        (WillNotHangUp, "A07", "door/front#1 never ended"),
        (HangupNeedsALeg, "A07", "KeyError"),
        (Waits, "A08", "set_output took 6"),
        (UnsafeBeforeRun, "A09", "before run it raised AttributeError"),
        (SafeOnlyOnce, "A09", "before run, again it raised AttributeError"),
        (UnsupportedTooLate, "A10", "set_output raised Unsupported but changed something"),
        (NotImplementedYet, "A10", "command raises NotImplementedError, not Unsupported"),
        (TripsOverAction, "A10", "KeyError"),
        (SpeaksForOthers, "A11", "endpoint gate/front is not this adapter's"),
        (NoTrace, "A12", "the trace is empty"),
        (WallClock, "A12", "demanded_at is"),
        (OneTraceForAll, "A12", "two calls have the same trace"),
        (RunsOnce, "A13", "the port is still open"),
        (DiesOfNoise, "A14", "run ended: UnicodeDecodeError"),
        (SaysNothingOfNoise, "A14", "nothing was counted"),
    ],
)
async def test_each_broken_promise_is_found(
    adapter: type[Adapter], number: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is left behind for good is so after a second.
    monkeypatch.setattr("gateway.testing.adapters._GRACE_S", 1.0)
    with pytest.raises(BrokenPromises) as caught:
        await check_adapter(adapter, {}, SCENARIO, promises=[number])
    (broken,) = caught.value.broken
    assert broken.number == number
    assert str(broken).startswith(f"{number}: {PROMISES[number]}: ")
    assert why in broken.why
    for name in ("fds",):
        for fd in getattr(adapter, name, ()):
            os.close(fd)


async def test_all_that_is_broken_is_told_at_once() -> None:
    with pytest.raises(BrokenPromises) as caught:
        await check_adapter(HangupNeedsALeg, {}, SCENARIO)
    assert {each.number for each in caught.value.broken} >= {"A05", "A07", "A08", "A10"}
    assert str(caught.value).count("\n") == len(caught.value.broken)


async def test_what_the_scenario_cannot_check_is_not_called_kept() -> None:
    report = await check_adapter(Door, {}, Scenario(settle_s=0.01))
    assert set(report.unchecked) == {"A12", "A14"}
    assert "A12: not checked: the scenario makes nobody call" in str(report)


async def test_a_configuration_that_is_wrong_is_an_error_of_its_own() -> None:
    with pytest.raises(BrokenPromises, match="unknown key"):
        await check_adapter(Door, {"prot": 1}, SCENARIO, promises=["A02"])
