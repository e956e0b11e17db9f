"""The analog adapter on the virtual line card: its promises, mishaps and configuration."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.adapters.analog import Analog
from gateway.config import ConfigErrors
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition
from gateway.core.events import (
    LegEnded,
    LegOffered,
    LegRinging,
)
from gateway.drivers.dahdi import LineEvent
from gateway.lab.linecard import LineCard
from gateway.media.engine import Engine
from gateway.testing import PROMISES, Scenario, TestHost, check_adapter, until
from tests.cards import needs_card

from .analog_stand import QUICK_FXO, stand

pytestmark = needs_card


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    made = Engine(max_streams=16, ports=(31300, 31399), realtime=False)
    await made.start()
    yield made
    await made.stop()


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
