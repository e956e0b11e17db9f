"""What can be wrong with registrars, brokers, analog lines and radios: one call for each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container

from gateway.adapters.loopback import Loopback
from gateway.core.endpoints import Condition
from gateway.core.events import (
    AcknowledgeRequested,
    AlarmRaised,
    HangupRequested,
    LegAnswered,
    LegOffered,
)
from gateway.lab.linecard import BUSY_TONE, Exchange, Telephone
from gateway.testing.audio import tone
from tests.interop.diag_site import Site, Verdicts, few_at_a_time


async def _loopback_calls(site: Site, name: str, n: int, number: str) -> LegOffered:
    """Somebody inside calls a number."""
    adapter = site.box.gateway.hosts["loopback"].adapter
    assert isinstance(adapter, Loopback)
    leg = adapter.call(f"t{n}", number)
    offered = await site.box.wait(LegOffered, lambda e: e.leg == leg)
    site.found[name] = Verdicts(trace=offered.trace)
    return offered


async def registrar_calls(site: Site) -> None:
    """A telephone that is not there, an account that is refused, a server that has gone."""
    box, proxy = site.box, site.proxy
    await site.ended("no route", await _loopback_calls(site, "no route", 20, "0999"))
    await site.ended("unregistered", await _loopback_calls(site, "unregistered", 20, "299"))
    await box.up("sip/refused", condition=Condition.DOWN)
    await box.up("sip/gone")
    await site.ended("refused account", await _loopback_calls(site, "refused account", 21, "0811"))
    # A number that this server does not know: it says so.
    await site.ended("refused call", await _loopback_calls(site, "refused call", 20, "0812"))
    process = proxy.process
    assert process is not None
    process.terminate()
    await process.wait()
    # The first call finds out by itself, the next one is told.
    await box.up("sip/gone", condition=Condition.DOWN)
    await site.ended("stopped server", await _loopback_calls(site, "stopped server", 21, "0812"))


async def broker_alarm(site: Site) -> None:
    """The broker of an alarm's source dies while people are told of it."""
    box, broker = site.box, site.broker
    await broker.publish("plant/hall/fire", '{"state": "ALARM"}')
    raised = await box.wait(AlarmRaised)
    site.found["stopped broker"] = Verdicts(trace=raised.trace)
    leg = await box.wait(LegAnswered, lambda e: e.leg.startswith("loopback/t22#"))
    await asyncio.to_thread(broker.kill)
    await box.up("mqtt/plant", condition=Condition.DOWN)
    await site.judge("stopped broker", leg.leg)
    box.gateway.emit(AcknowledgeRequested(endpoint="mqtt/plant", alarm=raised.alarm))


async def analog_calls(site: Site) -> None:
    """How analog lines end calls, and one that has no current."""
    await asyncio.gather(
        handset(site),
        exchange_calls(site),
        _no_current(site),
    )


async def handset(site: Site) -> None:
    gate = site.card.telephone(1)
    for name, number, seconds in (("handset", "919", 4.0), ("on hook at once", "937", 1.0)):
        try:
            offered = await _dialled(site, gate, number)
            await site.box.wait(LegAnswered, lambda e, o=offered: e.leg == o.leg)  # type: ignore[misc]
            await gate.say(tone(440.0, 6.0).tobytes())
            await asyncio.sleep(seconds)
            if seconds > 3:
                await site.judge(name, offered.leg)
        finally:
            await gate.hang_up()
        await site.ended(name, offered)
        await gate.stop()
        await asyncio.sleep(1.5)


async def _dialled(site: Site, gate: Telephone, number: str) -> LegOffered:
    """A call to a number; who was misheard because this machine stood still dials again."""
    for _ in range(3):
        skip = len(site.box.seen)
        await gate.lift()
        await asyncio.sleep(0.4)
        await gate.dial_dtmf(number)
        offered = await site.box.wait(LegOffered, lambda e: e.endpoint == "fxs/1", skip=skip)
        if offered.called == number:
            return offered
        await gate.hang_up()
        await asyncio.sleep(2.0)
    raise AssertionError(f"{offered.called} was understood for {number}")


async def exchange_calls(site: Site, only: Container[str] | None = None) -> None:
    """How an exchange ends calls; `only` these."""
    calls = {
        "dropped current": (3, _drop), "busy tone": (4, _busy), "silence rule": (5, _nothing),
        "timer": (6, _talk_on), "reversed battery": (8, _reverse),
    }  # fmt: skip
    await asyncio.gather(
        *(_exchange_calls(site, name, *calls[name]) for name in calls if not only or name in only)
    )


async def _exchange_calls(
    site: Site, name: str, port: int, act: Callable[[Exchange], Awaitable[None]]
) -> None:
    exchange, skip = site.card.exchange(port), len(site.box.seen)
    await exchange.ring((800, 1200))
    offered = await site.box.wait(LegOffered, lambda e: e.endpoint == f"fxo/{port}", skip=skip)
    await site.box.wait(LegAnswered, lambda e: e.leg == offered.leg)
    await exchange.stop_ring()
    await act(exchange)
    await site.ended(name, offered)
    await exchange.stop()


async def _drop(exchange: Exchange) -> None:
    await exchange.say(tone(440.0, 3.0).tobytes())
    await asyncio.sleep(1.0)
    await exchange.drop(600)


async def _reverse(exchange: Exchange) -> None:
    await exchange.say(tone(440.0, 3.0).tobytes())
    await asyncio.sleep(1.0)
    await exchange.battery("reversed")


async def _busy(exchange: Exchange) -> None:
    await exchange.tone(BUSY_TONE)


async def _nothing(exchange: Exchange) -> None:
    await exchange.say(tone(440.0, 1.0).tobytes())


async def _talk_on(exchange: Exchange) -> None:
    await exchange.say(tone(440.0, 10.0).tobytes())


async def _no_current(site: Site) -> None:
    await site.card.exchange(7).battery("off")
    await site.box.up("fxo/7", condition=Condition.DOWN)
    await site.ended("no current", await _loopback_calls(site, "no current", 23, "0827"))


async def radio_calls(site: Site) -> None:
    """Nobody on the air, and two who speak at once."""
    await asyncio.gather(_quiet(site), _doubling(site))


async def _quiet(site: Site) -> None:
    offered = await _loopback_calls(site, "no carrier", 24, "0831")
    leg = await site.box.wait(LegAnswered, lambda e: e.leg.startswith("radio/quiet#"))
    await asyncio.sleep(6.0)
    await site.judge("no carrier", leg.leg)
    site.box.gateway.emit(HangupRequested(leg=leg.leg))
    await site.ended("no carrier", offered)


async def _doubling(site: Site) -> None:
    first, second = site.radios["first"], site.radios["second"]
    await first.speak()
    offered = await site.box.wait(LegOffered, lambda e: e.endpoint == "radio/first")
    leg = await site.box.wait(LegAnswered, lambda e: e.leg.startswith("radio/second#"))
    await asyncio.sleep(0.5)
    await second.speak()
    await asyncio.sleep(1.5)
    await second.be_quiet()
    await asyncio.sleep(0.3)
    await site.judge("floor held", leg.leg)
    await first.be_quiet()
    await site.ended("floor held", offered)


async def pulled_plugs(site: Site) -> None:
    """A transceiver whose cables are pulled during a call, and one that is called without them."""
    radio = site.radios["quiet"]
    skip = len(site.box.seen)
    offered = await _loopback_calls(site, "plug pulled", 29, "0831")
    await site.box.wait(LegAnswered, lambda e: e.leg.startswith("radio/quiet#"), skip=skip)
    await asyncio.sleep(1.0)
    radio.close()
    await site.box.up("radio/quiet", condition=Condition.DOWN)
    await site.ended("plug pulled", offered)
    await site.ended("no plug", await _loopback_calls(site, "no plug", 30, "0831"))


async def card_gone(site: Site) -> None:
    """The line card vanishes during a call."""
    offered = await _loopback_calls(site, "card gone", 31, "211")
    skip = len(site.box.seen)
    await site.card.telephone(1).lift()
    await site.box.wait(LegAnswered, lambda e: e.leg.startswith("fxs/1#"), skip=skip)
    await asyncio.sleep(1.0)
    await site.card.stop()
    await site.ended("card gone", offered)


async def calls(site: Site) -> None:
    """All but those in which a device vanishes for good."""
    each = (registrar_calls(site), radio_calls(site), analog_calls(site), broker_alarm(site))
    await few_at_a_time(2, each)
