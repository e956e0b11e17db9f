"""Telephones on the virtual line card: they call, are called, and are left off the hook."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gateway.adapters.analog.telephone import BusPlan
from gateway.core.actions import Answer, Hangup, Progress, Ring, SendDigits
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition
from gateway.core.events import (
    DigitPressed,
    LegAnswered,
    LegEnded,
    LegFlashed,
    LegOffered,
    LegRinging,
    Priority,
)
from gateway.core.numbers import Completeness, NumberPattern, combine
from gateway.drivers.dahdi import Channel
from gateway.errors import DeviceError
from gateway.protocols.analog.digits import DigitCollector
from gateway.testing import until
from gateway.testing.audio import level_at
from tests.cards import needs_card

from .analog_stand import loudest, samples, stand

pytestmark = needs_card


def _plan(endpoint: str, digits: str) -> Completeness:
    """Three digits beginning with 1."""
    if digits[0] != "1" or len(digits) > 3:
        return Completeness.NO
    return Completeness.COMPLETE if len(digits) == 3 else Completeness.PARTIAL


async def test_a_telephone_calls() -> None:
    async with stand({"1": {"kind": "fxs", "number": "11", "label": "Gate"}}) as on:
        host, adapter, phone = on.host, on.adapter, on.card.telephone(1)
        host.dial_plan = _plan
        assert host.endpoints["fxs/1"].condition is Condition.UP
        lifted = host.now()
        await phone.lift()
        await asyncio.sleep(0.3)
        await phone.record()
        await asyncio.sleep(0.5)
        heard = await phone.recorded()
        assert loudest(heard, 350) == pytest.approx(-13, abs=1.5)
        assert loudest(heard, 440) == pytest.approx(-13, abs=1.5)
        dials = host.now()
        await phone.dial_dtmf("123")
        dialled = host.now()
        offered = await host.wait_for(LegOffered)
        assert host.now() - dialled < 3.0  # complete: nothing to wait for
        assert (offered.called, offered.calling, offered.display) == ("123", "11", "Gate")
        assert offered.endpoint == "fxs/1"
        assert lifted <= offered.demanded_at < dials
        leg = offered.leg

        adapter.ring(Ring(leg=leg))
        await asyncio.sleep(0.2)
        await phone.record()
        await asyncio.sleep(0.5)
        heard = await phone.recorded()
        assert loudest(heard, 480) > -16
        assert level_at(samples(heard), 350) < -35
        adapter.progress(Progress(leg=leg))
        await asyncio.sleep(0.2)
        await phone.record()
        await asyncio.sleep(0.3)
        assert level_at(samples(await phone.recorded()), 480) < -40

        adapter.answer(Answer(leg=leg))
        await host.wait_for(LegAnswered, leg=leg)
        await phone.flash(400)
        await host.wait_for(LegFlashed, leg=leg)
        await phone.dial_dtmf("5")
        pressed = await host.wait_for(DigitPressed, leg=leg)
        assert (pressed.digit, pressed.via) == ("5", "inband")
        await phone.dial_pulse("3", pause_ms=400)
        pulsed = await host.wait_for(DigitPressed, leg=leg, digit="3")
        assert pulsed.via == "pulse"

        since = len(on.card.facts)
        adapter.hangup(Hangup(leg=leg, cause=Cause.NORMAL, detail="far end"))
        ended = host.of(LegEnded, leg=leg)[0]
        assert (ended.cause, ended.detail) == (Cause.NORMAL, "far end")
        assert host.legs == []
        await phone.wait_for("battery", "off", since=since)
        await phone.wait_for("battery", "on", since=since)
        await asyncio.sleep(0.6)
        await phone.record()
        await asyncio.sleep(1.0)
        heard = await phone.recorded()
        assert loudest(heard, 480) > -18
        assert loudest(heard, 620) > -18
        second = host.dial("fxs/1")
        assert host.of(LegEnded, leg=second)[0].cause is Cause.BUSY
        await phone.hang_up()
        await until(lambda: not host.legs and not on.engine.stats().streams, "nothing is left")


async def test_pulse_digits_a_wrong_number_and_no_number() -> None:
    ports = {
        "1": {"kind": "fxs"},
        "2": {"kind": "fxs"},
        "3": {"kind": "fxs", "first_digit_s": 0.5, "flash_ms": 0},
        "4": {"kind": "fxs", "inter_digit_s": 1.0},
    }
    async with stand(ports, fxs=4) as on:
        host, card = on.host, on.card
        host.dial_plan = _plan
        for port in (1, 2, 3, 4):
            await card.telephone(port).lift()
        await asyncio.sleep(0.3)
        # A 0 lasts longer than the time between digits: it counts from the first pulse on.
        rotary = asyncio.create_task(card.telephone(4).dial_pulse("100", pause_ms=700))
        await card.telephone(1).dial_pulse("120", pause_ms=500)
        offered = await host.wait_for(LegOffered, endpoint="fxs/1")
        assert offered.called == "120"

        await card.telephone(2).dial_dtmf("9")
        offered = await host.wait_for(LegOffered, endpoint="fxs/2")
        ended = await host.wait_for(LegEnded, leg=offered.leg)
        assert (offered.called, ended.cause) == ("9", Cause.UNALLOCATED)
        await asyncio.sleep(0.2)
        second = card.telephone(2)
        await second.record()
        await asyncio.sleep(0.6)
        assert loudest(await second.recorded(), 620) > -18

        ended = await host.wait_for(LegEnded, leg="fxs/3#1")
        assert (ended.cause, ended.detail) == (Cause.ADDRESS_INCOMPLETE, "no digit")
        assert host.of(LegOffered, endpoint="fxs/3") == []
        await card.telephone(3).hang_up()
        await host.wait_for(LegEnded, leg="fxs/3#2", within_s=0.6)  # no recall key: quick

        await card.telephone(1).hang_up()
        ended = await host.wait_for(LegEnded, leg="fxs/1#1")
        assert (ended.cause, ended.detail) == (Cause.CANCELLED, "on hook")
        await rotary
        offered = await host.wait_for(LegOffered, endpoint="fxs/4")
        assert offered.called == "100"


async def test_hotlines() -> None:
    ports = {
        "1": {"kind": "fxs", "hotline": "600"},
        "2": {"kind": "fxs", "hotline": "601", "hotline_delay_s": 1.0},
        "3": {"kind": "fxs", "hotline": "602", "hotline_delay_s": 3.0},
    }
    async with stand(ports, fxs=3) as on:
        host, card = on.host, on.card
        host.dial_plan = _plan
        begin = host.now()
        await card.telephone(1).lift()
        offered = await host.wait_for(LegOffered, endpoint="fxs/1")
        assert offered.called == "600"
        assert host.now() - begin < 0.9
        begin = host.now()
        await card.telephone(2).lift()
        await card.telephone(3).lift()
        await card.telephone(3).dial_dtmf("111")
        offered = await host.wait_for(LegOffered, endpoint="fxs/2")
        assert offered.called == "601"
        assert host.now() - begin == pytest.approx(1.75, abs=1.0)
        assert (await host.wait_for(LegOffered, endpoint="fxs/3")).called == "111"


async def test_a_telephone_is_called() -> None:
    ports = {"1": {"kind": "fxs", "ring_ms": (400, 600), "answer_reversal": True}}
    async with stand(ports) as on:
        host, adapter, phone = on.host, on.adapter, on.card.telephone(1)
        leg = host.dial("fxs/1", calling="77")
        await host.wait_for(LegRinging, leg=leg)
        on_at = await phone.wait_for("ringing", "on")
        off_at = await phone.wait_for("ringing", "off")
        again = await phone.wait_for("ringing", "on", since=on.card.facts.index(off_at))
        assert off_at.ms - on_at.ms == pytest.approx(400, abs=5)
        assert again.ms - off_at.ms == pytest.approx(600, abs=5)
        busy = host.dial("fxs/1")
        assert host.of(LegEnded, leg=busy)[0].cause is Cause.BUSY
        await phone.lift()
        await host.wait_for(LegAnswered, leg=leg)
        await phone.wait_for("polarity", "reversed")
        await phone.record()
        adapter.send_digits(SendDigits(leg=leg, digits="1"))
        await asyncio.sleep(0.5)
        assert loudest(await phone.recorded(), 697) > -20
        await phone.hang_up()
        ended = await host.wait_for(LegEnded, leg=leg)
        assert (ended.cause, ended.detail) == (Cause.NORMAL, "on hook")
        # At once again: it waits until the line may ring.
        leg = host.dial("fxs/1")
        assert host.of(LegEnded, leg=leg) == []
        await host.wait_for(LegRinging, leg=leg)
        adapter.hangup(Hangup(leg=leg, cause=Cause.CANCELLED))
        assert host.of(LegEnded, leg=leg)[0].cause is Cause.CANCELLED
        await asyncio.sleep(0.1)
        assert (await phone.state())["ringing"] == 0


async def test_a_call_right_after_both_ends_hung_up_rings() -> None:
    """The handset goes down just before the card is told to drop the battery: the card reports it
    while it still does, and then refuses to ring."""
    async with stand({"1": {"kind": "fxs", "flash_ms": 0, "caller_id": "off"}}) as on:
        host, adapter, phone = on.host, on.adapter, on.card.telephone(1)
        first = host.dial("fxs/1")
        await phone.wait_for("ringing", "on")
        await phone.lift()
        await host.wait_for(LegAnswered, leg=first)
        await asyncio.sleep(0.3)
        await phone.hang_up()
        await asyncio.sleep(0.05)
        adapter.hangup(Hangup(leg=first, cause=Cause.NORMAL))
        since = len(on.card.facts)
        dialled = [host.dial("fxs/1")]

        def taken() -> bool:
            if host.of(LegEnded, leg=dialled[-1]):
                dialled.append(host.dial("fxs/1"))  # the card still said off hook
            return not host.of(LegEnded, leg=dialled[-1])

        await until(taken, "the handset is down")
        second = dialled[-1]
        await host.wait_for(LegRinging, leg=second)
        await phone.wait_for("ringing", "on", since=since)
        assert host.counters["refused_by_card"] == 0


async def test_a_card_that_does_not_ring_is_asked_again_and_then_told_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with stand({"1": {"kind": "fxs", "caller_id": "off"}}) as on:
        host, refusals = on.host, [True, False, True, True, True, True]
        ring = Channel.ring

        def refused(channel: Channel, cadence_ms: Sequence[int]) -> None:
            if refusals.pop(0):
                raise DeviceError("busy")
            ring(channel, cadence_ms)

        monkeypatch.setattr(Channel, "ring", refused)
        first = host.dial("fxs/1")
        assert not host.of(LegRinging)
        await host.wait_for(LegRinging, leg=first)
        on.adapter.hangup(Hangup(leg=first, cause=Cause.NORMAL))
        second = host.dial("fxs/1")
        ended = await host.wait_for(LegEnded, leg=second)
        assert ended.cause is Cause.TEMPORARY_FAILURE
        assert not host.of(LegRinging, leg=second)
        assert not refusals


async def test_a_handset_left_off_hook() -> None:
    ports = {"1": {"kind": "fxs", "hotline": "600", "busy_s": 0.6, "howler_s": 0.8}}
    async with stand(ports) as on:
        host, phone = on.host, on.card.telephone(1)
        await phone.lift()
        offered = await host.wait_for(LegOffered)
        on.adapter.hangup(Hangup(leg=offered.leg, cause=Cause.NO_CIRCUIT))
        await phone.record()
        await until(lambda: host.endpoints["fxs/1"].condition is Condition.DOWN, "it is given up")
        assert host.endpoints["fxs/1"].reason == "the handset was left off hook"
        assert loudest(await phone.recorded(), 2060) > -18
        assert host.legs == []
        await phone.hang_up()
        await until(lambda: host.endpoints["fxs/1"].condition is Condition.UP, "it is back")
        # One that is up when we start is served.
        await phone.lift()
        await host.wait_for(LegOffered, count=2)


async def test_an_urgent_call_waits_for_a_handset_to_be_put_down() -> None:
    """Its user lost a call for it, or listens to dial tone: refused, it would be lost."""
    ports = {"1": {"kind": "fxs", "number": "11"},
             "2": {"kind": "fxs", "number": "12", "busy_s": 0.4, "howler_s": 0.4}}  # fmt: skip
    async with stand(ports) as on:
        host, phone, left = on.host, on.card.telephone(1), on.card.telephone(2)
        first = host.dial("fxs/1")
        await host.wait_for(LegRinging, leg=first)
        await phone.lift()
        await host.wait_for(LegAnswered, leg=first)
        on.adapter.hangup(Hangup(leg=first, cause=Cause.PREEMPTED))
        await host.wait_for(LegEnded, leg=first)
        routine = host.dial("fxs/1")
        assert host.of(LegEnded, leg=routine)[0].cause is Cause.BUSY
        urgent = host.dial("fxs/1", priority=Priority.EMERGENCY)
        await asyncio.sleep(0.3)
        assert host.of(LegEnded, leg=urgent) == []
        await phone.hang_up()
        await host.wait_for(LegRinging, leg=urgent)
        await phone.lift()
        await host.wait_for(LegAnswered, leg=urgent)
        on.adapter.hangup(Hangup(leg=urgent))
        await phone.hang_up()
        # Dial tone gives way.
        await asyncio.sleep(1.2)
        await phone.lift()
        await asyncio.sleep(0.3)
        urgent = host.dial("fxs/1", priority=Priority.PRIORITY)
        assert host.of(LegEnded, leg=urgent) == []
        await phone.hang_up()
        await host.wait_for(LegRinging, leg=urgent)
        on.adapter.hangup(Hangup(leg=urgent, cause=Cause.CANCELLED))
        # Who leaves it off the hook is not waited for without end.
        await left.lift()
        await asyncio.sleep(0.3)
        urgent = host.dial("fxs/2", priority=Priority.EMERGENCY)
        ended = await host.wait_for(LegEnded, leg=urgent)
        assert (ended.cause, ended.detail) == (Cause.BUSY, "the handset was left off hook")
        await left.hang_up()
        assert host.refused == []


@pytest.mark.parametrize(
    ("patterns", "dialled", "called"),
    [
        (["0."], "0123#", "0123"),
        (["0123", "0."], "0123#", "0123"),
        (["*21*.", "9X"], "*21*55#", "*21*55"),
        (["*1#", "0."], "*1#", "*1#"),
        (["X#X"], "1#2", "1#2"),
    ],
)
def test_the_terminator_ends_open_numbers(patterns: list[str], dialled: str, called: str) -> None:
    found = [NumberPattern(pattern) for pattern in patterns]
    plan = BusPlan(lambda digits: combine([each.completeness(digits) for each in found]), "#")
    collector = DigitCollector(plan)
    waits = [collector.digit(digit) for digit in dialled]
    assert waits[-1] is None
    assert None not in waits[:-1]
    assert (collector.dialled, collector.complete) == (called, True)
