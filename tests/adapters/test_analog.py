"""The analog adapter on the virtual line card: its promises, and what telephones live through."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from gateway.adapters.analog import Analog
from gateway.adapters.analog.telephone import BusPlan
from gateway.config import ConfigErrors
from gateway.core.actions import Answer, Hangup, Progress, Ring, SendDigits
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition
from gateway.core.events import (
    DigitPressed,
    LegAnswered,
    LegEnded,
    LegFlashed,
    LegOffered,
    LegProgressed,
    LegRinging,
    Priority,
)
from gateway.core.numbers import Completeness, NumberPattern, combine
from gateway.drivers.dahdi import Channel, LineEvent
from gateway.errors import DeviceError
from gateway.lab.linecard import BUSY_TONE, CONGESTION_TONE, LineCard
from gateway.media.engine import Engine
from gateway.protocols.analog.digits import DigitCollector
from gateway.testing import PROMISES, Scenario, TestHost, check_adapter, until
from gateway.testing.audio import level_at
from tests.cards import needs_card

from .analog_stand import QUICK_FXO, samples, stand

pytestmark = needs_card


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    made = Engine(max_streams=16, ports=(31300, 31399), realtime=False)
    await made.start()
    yield made
    await made.stop()


def loudest(raw: bytes, hz: float) -> float:
    """The level of a tone that comes and goes, in the 50 ms in which it is loudest."""
    heard = samples(raw)
    return max(level_at(heard[n : n + 400], hz) for n in range(0, len(heard) - 400, 200))


# -- promises --------------------------------------------------------------------------------------


async def _exchange_answers(_: Analog, card: LineCard) -> None:
    line = card.exchange(3)
    await line.digits(2)
    await asyncio.sleep(0.2)
    normal = not (await line.state())["reversed"]
    await line.battery("reversed" if normal else "on")


async def _telephone_calls(_: Analog, card: LineCard) -> None:
    phone = card.telephone(1)
    await phone.hang_up()
    await asyncio.sleep(0.6)
    await phone.lift()


async def _noise(_: Analog, card: LineCard) -> None:
    exchange = card.exchange(3)
    await asyncio.sleep(2.1)  # the driver reports no ringing so soon after opening
    await exchange.ring((100, 400), 3)
    await exchange.battery("reversed")
    await card.telephone(1).dial_pulse("0", pause_ms=300)
    await asyncio.sleep(0.5)


async def test_promises_of_an_exchange_line(engine: Engine) -> None:
    scenario = Scenario(
        dial="fxo/3",
        number="42",
        world=lambda: LineCard.start(fxs=2, fxo=2),
        configure=lambda card: {"device_dir": str(card.directory)},
        offer=_telephone_calls,
        answer=_exchange_answers,
        garbage=_noise,
        engine=engine,
    )
    ports = {"1": {"kind": "fxs", "hotline": "600", "flash_ms": 300}, "3": QUICK_FXO}
    report = await check_adapter(Analog, {"ports": ports}, scenario)
    assert set(report.kept) == set(PROMISES)


async def test_promises_of_a_telephone(engine: Engine) -> None:
    async def lift(_: Analog, card: LineCard) -> None:
        await asyncio.sleep(0.2)
        await card.telephone(1).lift()

    scenario = Scenario(
        dial="fxs/desk",
        world=lambda: LineCard.start(fxs=2, fxo=2),
        configure=lambda card: {"device_dir": str(card.directory)},
        answer=lift,
        engine=engine,
    )
    ports = {"1": {"kind": "fxs", "name": "desk", "caller_id": "off"}}
    checked = ("A04", "A05", "A06", "A07", "A08", "A09", "A15")
    report = await check_adapter(Analog, {"ports": ports}, scenario, promises=checked)
    assert set(report.kept) == set(checked)


# -- telephones ------------------------------------------------------------------------------------


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


# -- exchange lines --------------------------------------------------------------------------------


async def test_the_exchange_calls() -> None:
    ports = {
        "3": {**QUICK_FXO, "number": "5550"},
        "4": {**QUICK_FXO, "caller_id": "bell202", "ring_timeout_s": 2.0, "hotline": "11"},
        "5": {**QUICK_FXO, "caller_id": "v23", "caller_id_window_s": 2.5},
        "6": {**QUICK_FXO, "caller_id": "dtmf", "caller_id_when": "before_ring"},
    }
    async with stand(ports, fxo=4) as on:
        host, adapter, card = on.host, on.adapter, on.card
        await asyncio.sleep(2.1)

        async def plain() -> None:
            exchange = card.exchange(3)
            begin = host.now()
            await exchange.ring((800, 800))
            offered = await host.wait_for(LegOffered, endpoint="fxo/3")
            assert (offered.called, offered.calling) == ("5550", "")
            assert begin <= offered.demanded_at < begin + 0.7
            second = host.dial("fxo/3", "1")
            assert host.of(LegEnded, leg=second)[0].cause is Cause.BUSY
            adapter.answer(Answer(leg=offered.leg))
            await host.wait_for(LegAnswered, leg=offered.leg)
            await exchange.wait_for("seized")
            adapter.hangup(Hangup(leg=offered.leg))
            await exchange.wait_for("released")

        async def gives_up() -> None:
            exchange = card.exchange(4)
            await exchange.ring((800, 4000), 1)
            await exchange.wait_for("rung")
            await asyncio.sleep(0.4)
            await exchange.send_caller_id("5551234567", "GATEWAY TEST")
            offered = await host.wait_for(LegOffered, endpoint="fxo/4")
            assert (offered.called, offered.calling) == ("11", "5551234567")
            assert offered.display == "GATEWAY TEST"
            ended = await host.wait_for(LegEnded, leg=offered.leg)
            assert (ended.cause, ended.detail) == (Cause.CANCELLED, "ring stopped")

        async def garbled() -> None:
            exchange = card.exchange(5)
            await exchange.ring((800, 4000), 1)
            await exchange.wait_for("rung")
            await asyncio.sleep(0.4)
            # The other standard's frequencies: nothing that could be read.
            await exchange.tone("1300/7,2100/9")
            offered = await host.wait_for(LegOffered, endpoint="fxo/5")
            assert offered.calling == ""
            adapter.hangup(Hangup(leg=offered.leg, cause=Cause.REJECTED))
            assert host.of(LegEnded, leg=offered.leg)[0].cause is Cause.REJECTED

        async def before_ring() -> None:
            exchange = card.exchange(6)
            await exchange.battery("reversed")
            await asyncio.sleep(0.4)
            await exchange.dial_dtmf("A0401234C", on_ms=70, off_ms=70)
            await exchange.ring((800, 2000), 1)
            offered = await host.wait_for(LegOffered, endpoint="fxo/6")
            assert offered.calling == "0401234"

        async with asyncio.TaskGroup() as group:
            for part in (plain, gives_up, garbled, before_ring):
                group.create_task(part())


async def test_calls_over_the_exchange_and_what_answers_them() -> None:
    ports = {
        "3": {**QUICK_FXO, "answer": ["polarity"]},
        "4": {**QUICK_FXO, "answer": ["timer"], "answer_timer_s": 0.5},
        "5": {**QUICK_FXO, "answer": ["immediate"], "dial_tone_s": 4.0},
        "6": {**QUICK_FXO, "dialling": "pulse", "answer": ["polarity"], "no_answer_s": 1.5},
        "7": {**QUICK_FXO, "dial_tone_s": 0.8, "dial_without_tone": False},
        "8": {**QUICK_FXO, "answer": ["voice"]},
    }
    async with stand(ports, fxo=6) as on:
        host, adapter, card = on.host, on.adapter, on.card

        async def polarity() -> None:
            leg = host.dial("fxo/3", "55 51-2w9")
            await card.exchange(3).digits(6)
            await host.wait_for(LegProgressed, leg=leg)
            assert host.of(LegAnswered, leg=leg) == []
            await card.exchange(3).battery("reversed")
            await host.wait_for(LegAnswered, leg=leg)
            since = len(card.facts)
            adapter.send_digits(SendDigits(leg=leg, digits="7#"))
            assert await card.exchange(3).digits(2, since=since) == "7#"
            adapter.send_digits(SendDigits(leg=leg, digits="!"))
            flashed = await card.exchange(3).wait_for("flash")
            assert int(flashed.value) == pytest.approx(300, abs=5)
            adapter.hangup(Hangup(leg=leg))
            await card.exchange(3).wait_for("released")
            assert host.of(DigitPressed, leg=leg) == []

        async def timer() -> None:
            leg = host.dial("fxo/4", "12")
            await host.wait_for(LegProgressed, leg=leg)
            dialled = host.now()
            await host.wait_for(LegAnswered, leg=leg)
            assert 0.35 < host.now() - dialled < 3.0

        async def dial_tone() -> None:
            leg = host.dial("fxo/5", "34")
            await card.exchange(5).wait_for("seized")
            await card.exchange(5).tone("350+440")
            begin = host.now()
            assert await card.exchange(5).digits(1) == "3"
            assert 0.9 < host.now() - begin < 3.5  # a second of it is a dial tone
            await card.exchange(5).stop()
            await host.wait_for(LegAnswered, leg=leg)

        async def pulse() -> None:
            leg = host.dial("fxo/6", "31")
            assert await card.exchange(6).digits(2) == "31"
            await host.wait_for(LegProgressed, leg=leg)
            await card.exchange(6).tone("1000")
            await asyncio.sleep(0.6)
            assert host.stream(leg).stats().level_in_dbm0 > -20  # the audio is back
            ended = await host.wait_for(LegEnded, leg=leg)
            assert (ended.cause, ended.detail) == (Cause.NO_ANSWER, "no answer")

        async def no_dial_tone() -> None:
            leg = host.dial("fxo/7", "1")
            ended = await host.wait_for(LegEnded, leg=leg)
            assert (ended.cause, ended.detail) == (Cause.NETWORK_OUT_OF_ORDER, "no dial tone")
            second = host.dial("fxo/7", "1x")
            ended = await host.wait_for(LegEnded, leg=second)
            assert ended.cause is Cause.UNALLOCATED

        async def voice() -> None:
            leg = host.dial("fxo/8", "1")
            await card.exchange(8).digits(1)
            await card.exchange(8).tone("440+480/2000,0/4000")
            await host.wait_for(LegRinging, leg=leg, within_s=15)
            await asyncio.sleep(6.5)  # another whole ringback is not an answer
            assert host.of(LegAnswered, leg=leg) == []
            await card.exchange(8).tone("700/300,0/150,900/500,0/350,650/250,0/600")
            await host.wait_for(LegAnswered, leg=leg, within_s=30)

        async with asyncio.TaskGroup() as group:
            for part in (polarity, timer, dial_tone, pulse, no_dial_tone, voice):
                group.create_task(part())


async def test_what_ends_a_call_over_the_exchange() -> None:
    answered: dict[str, Any] = {**QUICK_FXO, "answer": ["immediate"]}
    ports = {
        "3": answered,
        "4": {**answered, "answer": ["polarity"]},
        "5": answered,
        "6": answered,
        "7": {**answered, "silence_s": 2.0},
        "8": {**answered, "max_call_s": 3.0},
        "9": {**answered, "hangup": ["busy"]},
        "10": answered,
    }
    async with stand(ports, fxo=8) as on:
        host, card = on.host, on.card
        legs = {port: host.dial(f"fxo/{port}", "1") for port in map(int, ports)}

        async def ends(port: int, cause: Cause, detail: str) -> None:
            ended = await host.wait_for(LegEnded, leg=legs[port], within_s=30)
            assert (ended.cause, ended.detail) == (cause, detail)
            await card.exchange(port).wait_for("released")

        await card.exchange(4).digits(1)
        await host.wait_for(LegProgressed, leg=legs[4])
        await card.exchange(4).battery("reversed")
        for leg in legs.values():
            await host.wait_for(LegAnswered, leg=leg)
        await asyncio.sleep(0.3)
        await card.exchange(3).drop(400)
        await card.exchange(4).battery("on")
        await card.exchange(5).tone(BUSY_TONE)
        await card.exchange(6).tone(CONGESTION_TONE)
        await card.exchange(7).tone("!1000/1000")
        await card.exchange(9).drop(400)
        await card.exchange(10).drop(150)  # shorter than a release
        began = host.now()
        await ends(3, Cause.NORMAL, "cpc")
        await ends(4, Cause.NORMAL, "polarity")
        await ends(6, Cause.NORMAL, "congestion tone, 3 cycles")
        await ends(5, Cause.NORMAL, "busy tone, 3 cycles")
        await ends(8, Cause.TIMER_EXPIRED, "max call")
        await ends(7, Cause.MEDIA_TIMEOUT, "silence")
        assert host.now() - began > 2.5
        assert set(host.legs) == {legs[9], legs[10]}

        # Busy before the answer is the called person's; the line is free again after its guard.
        leg = host.dial("fxo/4", "2")
        await card.exchange(4).digits(1, since=len(card.facts))
        await card.exchange(4).tone(BUSY_TONE)
        ended = await host.wait_for(LegEnded, leg=leg)
        assert (ended.cause, ended.detail) == (Cause.BUSY, "busy tone, 3 cycles")


async def test_glare_and_an_unplugged_line() -> None:
    async with stand({"3": {**QUICK_FXO, "dial_delay_s": 3.0}, "4": QUICK_FXO}) as on:
        host, card = on.host, on.card
        await asyncio.sleep(2.1)
        await card.exchange(3).ring((1000, 1000))
        await asyncio.sleep(0.1)
        leg = host.dial("fxo/3", "1")  # it rings, although nobody knows of a call yet
        ended = host.of(LegEnded, leg=leg)[0]
        assert (ended.cause, ended.detail) == (Cause.NO_CIRCUIT, "the line rings")

        await card.exchange(4).battery("off")
        await until(lambda: host.endpoints["fxo/4"].condition is Condition.DOWN, "it is seen")
        assert host.endpoints["fxo/4"].reason == "no battery on the line"
        leg = host.dial("fxo/4", "1")
        assert host.of(LegEnded, leg=leg)[0].cause is Cause.OUT_OF_ORDER
        await card.exchange(4).battery("on")
        await until(lambda: host.endpoints["fxo/4"].condition is Condition.UP, "it is back")


# -- mishaps ---------------------------------------------------------------------------------------


async def test_one_port_breaks_and_is_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.adapters.analog.adapter._BRING_BACK_S", 0.2)
    async with stand({"1": {"kind": "fxs", "hotline": "1"}, "2": {"kind": "fxs"}}) as on:
        host, card = on.host, on.card
        await card.telephone(1).lift()
        offered = await host.wait_for(LegOffered)
        await card.fail(1)
        ended = await host.wait_for(LegEnded, leg=offered.leg)
        assert ended.cause is Cause.OUT_OF_ORDER
        assert host.endpoints["fxs/1"].condition is Condition.DOWN
        assert host.endpoints["fxs/2"].condition is Condition.UP
        await card.telephone(1).hang_up()
        await card.mend(1)
        await until(lambda: host.endpoints["fxs/1"].condition is Condition.UP, "it is mended")
        leg = host.dial("fxs/1")
        await host.wait_for(LegRinging, leg=leg)


async def test_the_whole_card_is_gone(engine: Engine) -> None:
    async with LineCard.start(fxs=2, fxo=2) as card:
        host = TestHost("analog", engine=engine)
        ports = {"1": {"kind": "fxs", "hotline": "1"}, "3": QUICK_FXO}
        host.make(Analog, {"device_dir": str(card.directory), "ports": ports})
        service = asyncio.create_task(host.serve())
        await card.telephone(1).lift()
        offered = await host.wait_for(LegOffered)
        os.kill(card.pid, 9)
        reason = await asyncio.wait_for(service, 30)
        assert str(card.directory) in reason or "gone" in reason
        assert host.of(LegEnded, leg=offered.leg)[0].cause is Cause.OUT_OF_ORDER
        assert {place.condition for place in host.endpoints.values()} == {Condition.DOWN}
        again = await asyncio.wait_for(host.serve(), 30)
        assert "no such device" in again or "Transport endpoint" in again


async def test_a_port_of_the_other_kind_and_one_that_is_not_there(engine: Engine) -> None:
    async with LineCard.start(fxs=2, fxo=2) as card:
        host = TestHost("analog", engine=engine)
        ports = {"1": {"kind": "fxs"}, "3": {"kind": "fxs"}, "9": {"kind": "fxo"}}
        host.make(Analog, {"device_dir": str(card.directory), "ports": ports})
        async with host.running():
            assert host.endpoints["fxs/1"].condition is Condition.UP
            detail = host.endpoints["fxs/1"].detail
            assert detail == {"port": "channel 1, FXS port, signalled fxo_ks"}
            wrong, missing = host.endpoints["fxs/3"], host.endpoints["fxo/9"]
            assert (wrong.condition, missing.condition) == (Condition.DOWN, Condition.DOWN)
            assert "an FXO port (fxsks in /etc/dahdi/system.conf)" in wrong.reason
            assert "no such channel" in missing.reason
            leg = host.dial("fxs/1")
            await host.wait_for(LegRinging, leg=leg)


async def test_random_events_are_survived() -> None:
    async with stand({"1": {"kind": "fxs"}, "3": QUICK_FXO}) as on:
        rng = random.Random(8)
        lines = list(on.adapter._lines.values())
        for turn in range(600):
            flag = rng.choice((0, 0, 0, 1 << 16, 1 << 17, 1 << 18, 1 << 20))
            line = rng.choice(lines)
            line.take_event(LineEvent.of(flag | rng.randrange(1, 60)))
            line.pump()
            if turn % 20 == 0:
                await asyncio.sleep(0.01)
        assert on.host.counters["unknown_event"] > 50
        assert on.host.counters["ignored_signals"] > 20
        await asyncio.sleep(0.1)
        took = []
        for _ in range(5):
            started = time.perf_counter()
            on.adapter.safe_state()
            took.append(time.perf_counter() - started)
        assert min(took) < 0.1  # the others say who else used the machine


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


# -- configuration ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"ports": {}}, "ports"),
        ({"ports": {"x": {"kind": "fxs"}}}, "ports"),
        ({"ports": {"1": {"kind": "fax"}}}, "kind"),
        ({"ports": {"1": {"kind": "fxs", "dial_delay_s": 1}}}, "dial_delay_s"),
        ({"ports": {"1": {"kind": "fxs", "flash_ms": 100}}}, "flash_ms must be 250"),
        ({"ports": {"1": {"kind": "fxs", "ring_ms": [400]}}}, "a time too many"),
        ({"ports": {"1": {"kind": "fxo", "answer": ["prayer"]}}}, "answer"),
        ({"ports": {"1": {"kind": "fxs"}}, "country": "zz"}, "country 'zz' is none of"),
        (
            {"ports": {"1": {"kind": "fxs", "name": "a"}, "2": {"kind": "fxs", "name": "a"}}},
            "ports 1 and 2 are both fxs/a",
        ),
    ],
)
def test_what_is_wrong_in_the_configuration(section: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigErrors, match=words):
        TestHost("analog").make(Analog, section)
