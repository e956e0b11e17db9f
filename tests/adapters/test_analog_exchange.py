"""Exchange lines on the virtual line card: who calls, what answers a call, what ends it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.core.actions import Answer, Hangup, SendDigits
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition
from gateway.core.events import (
    DigitPressed,
    LegAnswered,
    LegEnded,
    LegOffered,
    LegProgressed,
    LegRinging,
)
from gateway.lab.linecard import BUSY_TONE, CONGESTION_TONE
from gateway.testing import until
from tests.cards import needs_card

from .analog_stand import QUICK_FXO, stand

pytestmark = needs_card


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
