"""Calls in which much happens and nothing is wrong: none of it may be called a fault."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway.core.events import LegAnswered, LegEnded, LegHeld, LegOffered, LegRetrieved
from gateway.diagnosis.verdict import CLEAN
from gateway.lab.softphone import Softphone
from gateway.media.streams import StreamStats
from tests.adapters.page_stand import own_network
from tests.interop import ffmpeg
from tests.interop.diag_sip import RECORDED, carrier_sipp
from tests.interop.diag_site import CARRIER, said, verdict
from tests.interop.matrix_site import first_served
from tests.interop.peers import Box, box, need, phone, until
from tests.interop.sipp_flow import Flow, finished, port_at, sdp

pytestmark = pytest.mark.interop
SLOW = "127.0.2.33"
"""Who lets a caller hear something before he answers."""
USERS = 60
HOUSE = f"""
digest = ["MD5"]
codecs = ["PCMU", "PCMA", "G722"]
comfort_noise = true
[adapters.sip.trunks.carrier]
peer = "sip:{CARRIER}:5060"
keepalive_s = 0
[adapters.sip.trunks.slow]
peer = "sip:{SLOW}:{{port}}"
keepalive_s = 0
""" + "".join(
    f'[adapters.sip.phones.u{n}]\npassword = "p"\nnumber = "{200 + n}"\n' for n in range(USERS)
)  # fmt: skip
ROUTES = """
[adapters.loopback.ports.t]
number = "900"
tone_hz = 425.0
[adapters.loopback.ports.u]
number = "901"
tone_hz = 425.0
[[routes]]
name = "room"
called = "800"
conference = "room"
[[routes]]
name = "phones"
called = "(2XX)"
targets = ["directory:{1}"]
[[routes]]
name = "t"
called = "900"
targets = ["loopback/t"]
[[routes]]
name = "u"
called = "901"
targets = ["loopback/u"]
[[routes]]
name = "slow"
called = "77"
targets = ["sip/slow:77"]
"""


@dataclass(eq=False)
class House:
    """The gateway, telephones that are switched on as they are needed, and what was said."""

    box: Box
    home: Path
    slow: Flow
    wrong: dict[str, str] = field(default_factory=dict)
    """Scenario: the fault that was said."""
    stalled: dict[str, str] = field(default_factory=dict)
    stats: dict[str, StreamStats | None] = field(default_factory=dict)
    _n_users: int = 0

    @contextlib.asynccontextmanager
    async def phones(self, *answers: str, codec: str = "PCMU") -> AsyncIterator[list[Softphone]]:
        """One telephone for each way to answer (``auto``, ``manual``), registered."""
        async with contextlib.AsyncExitStack() as stack:
            found = []
            for answer in answers:
                user = f"u{self._n_users}"
                self._n_users += 1
                rate = 16000 if codec == "G722" else 8000
                one = phone(
                    self.home, user, "p", self.box, hz=440 + 20 * self._n_users, rate=rate,
                    codec=f"{codec}/{rate}/1", answer=answer,
                )  # fmt: skip
                found.append(await stack.enter_async_context(one))
                await one.registered()
            yield found

    def number(self, one: Softphone) -> str:
        return self.box.uri(str(200 + int(one.directory.name.removeprefix("u"))))

    async def answered(self, one: Softphone, skip: int = 0) -> str:
        """The leg of a telephone that talks."""
        name = f"sip/{one.directory.name}#"
        return (await self.box.wait(LegAnswered, lambda e: e.leg.startswith(name), skip=skip)).leg

    async def ended(self, leg: str) -> None:
        await self.box.wait(LegEnded, lambda e: e.leg == leg)

    async def clean(self, leg: str) -> None:
        """Fails when a fault is said of a call."""
        found = await verdict(self.box.gateway, leg)
        assert said(found) == CLEAN, found
        if found.fault:
            raise StalledError(found.sentence)


class StalledError(Exception):
    """This program stood still, or its phones: what that does to audio is a fault indeed."""


async def hold(house: House) -> str:
    """Put on hold, and taken back."""
    async with house.phones("manual", "auto") as (anna, bert):
        await anna.dial(house.number(bert))
        leg = await house.answered(anna)
        await asyncio.sleep(1.0)
        await anna.command("hold")
        await house.box.wait(LegHeld, lambda e: e.leg == leg)
        await asyncio.sleep(3.0)
        await anna.command("resume")
        await house.box.wait(LegRetrieved, lambda e: e.leg == leg)
        await asyncio.sleep(2.5)
        await house.clean(leg)
        await anna.hang_up()
        await house.ended(leg)
    return leg


async def transfer(house: House) -> str:
    """Given to a third as soon as it is known what he wants."""
    async with house.phones("manual", "auto", "auto") as (anna, bert, carl):
        await anna.dial(house.number(bert))
        gone, leg = await house.answered(anna), await house.answered(bert)
        await asyncio.sleep(1.5)
        await anna.command("transfer", house.number(carl))
        await house.answered(carl)
        await house.ended(gone)
        await asyncio.sleep(4.0)
        await house.clean(leg)
        await carl.hang_up()
        await house.ended(leg)
    return leg


async def conference(house: House) -> str:
    """Three meet; one listens more than he says, one leaves early."""
    async with house.phones("manual", "manual", "manual") as three:
        legs = []
        for one in three:
            await one.dial(house.box.uri("800"))
            legs.append(await house.answered(one))
        await asyncio.sleep(1.0)
        await three[1].command("mute")
        await asyncio.sleep(3.0)
        await three[1].command("mute")
        await asyncio.sleep(1.0)
        for leg in legs:
            await house.clean(leg)
        for one, leg in zip(three, legs, strict=True):
            await one.hang_up()
            await house.ended(leg)
    return legs[0]


async def wideband(house: House) -> str:
    """G.722 from end to end."""
    async with house.phones("manual", "auto", codec="G722") as (anna, bert):
        await anna.dial(house.number(bert))
        leg = await house.answered(anna)
        await asyncio.sleep(5.0)
        await house.clean(leg)
        house.stats["G.722"] = house.box.gateway.patchbay.stats(leg)
        await bert.hang_up()
        await house.ended(leg)
    return leg


async def digits(house: House) -> str:
    """Keys pressed quickly, as RFC 4733 events, to somebody who takes them."""
    async with house.phones("manual") as (anna,):
        await anna.dial(house.box.uri("900"))
        leg = await house.answered(anna)
        await asyncio.sleep(1.0)
        await anna.press("1234567890*#")
        await asyncio.sleep(3.0)
        await house.clean(leg)
        house.stats["digits"] = house.box.gateway.patchbay.stats(leg)
        await anna.hang_up()
        await house.ended(leg)
    return leg


async def short(house: House) -> str:
    """A few words."""
    async with house.phones("manual", "auto") as (anna, bert):
        await anna.dial(house.number(bert))
        leg = await house.answered(anna)
        await asyncio.sleep(3.3)
        await anna.hang_up()
        await house.ended(leg)
    return leg


async def given_up(house: House) -> str:
    """Nobody answers, and the caller gives up; then the called one does not want to."""
    async with house.phones("manual", "manual") as (anna, bert):
        leg = ""
        for gives_up in (anna, bert):
            skip = len(house.box.seen)
            await anna.dial(house.number(bert))
            leg = (await house.box.wait(LegOffered, _from(anna), skip=skip)).leg
            await bert.wait("CALL_INCOMING")
            await asyncio.sleep(1.0)
            await gives_up.hang_up()
            await house.ended(leg)
            if gives_up is anna:
                bert.events.clear()
                await house.clean(leg)
    return leg


def _from(one: Softphone) -> Callable[[LegOffered], bool]:
    return lambda e: e.endpoint == f"sip/{one.directory.name}"


async def early_media(house: House) -> str:
    """The carrier speaks before somebody answers there."""
    pcma = sdp().replace(" 0 96", " 8 96")
    house.slow.steps.clear()
    flow = house.slow.takes("INVITE").reply(183, body=pcma)
    flow.steps.append(f'<nop><action><exec play_pcap_audio="{RECORDED}"/></action></nop>')
    flow.pause(2.0).reply(200, body=pcma, again=True).takes("ACK").settled().is_hung_up()
    async with house.phones("manual") as (anna,), flow.program(house.home, "slow") as program:
        await anna.dial(house.box.uri("77"))
        leg = await house.answered(anna)
        await asyncio.sleep(3.5)
        await house.clean(leg)
        await anna.hang_up()
        await house.ended(leg)
        await finished(program)
    return leg


async def silence_that_is_not_sent(house: House) -> str:
    """A caller with silence suppression (RFC 3551 section 4.1) who says little."""
    skip, home = len(house.box.seen), house.home / "says-little"
    media = port_at(CARRIER, n=2)
    async with carrier_sipp(home, house.box, "901", media, seconds=8.0) as caller:
        offered = await house.box.wait(LegOffered, lambda e: e.called == "901", skip=skip)
        await house.box.wait(LegAnswered, lambda e: e.leg == offered.leg)
        stream = house.box.gateway.patchbay.stream(offered.leg)
        assert stream is not None
        speech = await asyncio.to_thread(ffmpeg.sound, house.home, "speech")
        async with ffmpeg.rtp(
            home / "ffmpeg",
            speech,
            (CARRIER, media),
            stream.local,
            7.5,
            pauses="lt(mod(t,2),0.8)",
        ):
            await asyncio.sleep(6.0)
            try:
                await house.clean(offered.leg)
            finally:
                house.stats["silence"] = house.box.gateway.patchbay.stats(offered.leg)
                assert await caller.done(40) == 0, caller.said()
        await house.ended(offered.leg)
    return offered.leg


SCENARIOS: dict[str, Callable[[House], Awaitable[str]]] = {
    "hold": hold, "transfer": transfer, "conference": conference, "G.722": wideband,
    "digits": digits, "short": short, "given up": given_up, "early media": early_media,
    "silence": silence_that_is_not_sent,
}  # fmt: skip


async def _played(house: House, name: str) -> None:
    """Play a scenario, judge it while it is up and when it is over. Where this machine stalls the
    programs are late, and much is rightly said: once more, twice at most."""
    for _ in range(3):
        try:
            leg = await SCENARIOS[name](house)
            await until(lambda leg=leg: not _talks(house, leg), "its call is over")  # type: ignore[misc]
            await house.clean(leg)
            house.stalled.pop(name, None)
            house.wrong.pop(name, None)
            return
        except StalledError as stalled:
            house.stalled[name] = str(stalled)
        except Exception as error:
            house.wrong[name] = repr(error)


def _talks(house: House, leg: str) -> bool:
    calls = house.box.gateway.switchboard.calls.values()
    return any(leg in (each.id for each in call.legs) for call in calls)


async def _all(home: Path) -> House:
    slow = Flow("slow", None, address=SLOW)
    async with box(HOUSE.format(port=slow.port), ROUTES) as gateway:
        slow.box = gateway
        house = House(gateway, home, slow)
        free = asyncio.Semaphore(3)

        async def one(name: str) -> None:
            async with free:
                await _played(house, name)

        await asyncio.gather(*map(one, SCENARIOS))
    return house


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    """All scenarios, played."""
    need("baresip", "ffmpeg", "sipp", "sox")
    with tempfile.TemporaryDirectory(prefix="clean-") as home, first_served(), own_network():
        yield asyncio.run(_all(Path(home)))


@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_is_wrong(house: House, name: str) -> None:
    if name in house.stalled:
        pytest.skip(f"this machine stalls: {house.stalled[name]}")
    assert name not in house.wrong, house.wrong[name]


def test_it_was_played_as_it_should_be(house: House) -> None:
    for name, field_, low, high in (
        ("silence", "packets_received", 50, 250),  # of 300: silent most of the time
        ("digits", "event_digits", 12, 12),
    ):
        stats = house.stats.get(name)
        if not {name} & {*house.stalled, *house.wrong}:
            assert low <= getattr(stats, field_) <= high, stats
    assert house.stats["G.722"] is None or house.stats["G.722"].codec == "G722"
