"""The call flows of RFC 3666 with lines of a virtual card as the telephone network and SIPp as SIP.

The network says by tones, polarity and battery what ISUP says by messages; what SIP is told of it
is the same. The cases of one direction are played at once, each on a line of its own.
"""

from __future__ import annotations

import array
import asyncio
import cmath
import contextlib
import math
from collections.abc import Awaitable, Sequence
from pathlib import Path

import pytest

from gateway.core.events import LegAnswered, LegEnded
from gateway.lab.linecard import BUSY_TONE, LineCard
from gateway.testing.audio import level_at
from tests.cards import needs_card
from tests.interop.peers import Box, box
from tests.interop.sipp_flow import Flow, finished, sdp
from tests.interop.test_sip_services import cancelled

pytestmark = [pytest.mark.interop, needs_card]

_BLOCK = 400
USERS = [f"user{n}" for n in range(6)]
HOUSE = 'codecs = ["PCMU"]\ndigest = ["MD5"]\nkeepalive_s = 0\n' + "".join(
    f'[adapters.sip.phones.{user}]\npassword = "p"\nnumber = "20{n}"\n'
    for n, user in enumerate(USERS)
)
LINE = """
[adapters.analog.ports.{port}]
kind = "fxo"
dial_tone_s = 0.0
dial_delay_s = 0.5
answer = ["polarity"]
no_answer_s = {no_answer}
caller_id = "off"
guard_s = 0.3
ring_timeout_s = 4.0
number = "20{port}"
"""
TELEPHONE = """
[adapters.analog.ports.{port}]
kind = "fxs"
number = "1{port}"
hotline = "{calls}"
"""
OUT = """
[[routes]]
name = "line {n}"
called = "9{n}(X.)"
targets = [{targets}]
"""
IN = """
[[routes]]
name = "in"
from = ["fxo/*"]
called = "20X"
targets = ["directory:{called}"]
"""
RINGBACK = "440+480/2000,0/4000"


def routes(card: LineCard, ports: str, *out: tuple[int, str]) -> str:
    text = "".join(OUT.format(n=n, targets=targets) for n, targets in out)
    return f'[adapters.analog]\ndevice_dir = "{card.directory}"\n{ports}{text}{IN}'


def user(gateway: Box, n: int) -> Flow:
    return Flow(USERS[n], gateway, password="p")


async def together(home: Path, flows: list[Flow], *others: Awaitable[object]) -> None:
    """Let SIPp's parties act while the network does its part."""
    async with contextlib.AsyncExitStack() as stack:
        programs = [await stack.enter_async_context(flow.program(home)) for flow in flows]
        await asyncio.gather(*others)
        for program in programs:
            await finished(program)


async def test_sip_calls_the_network(tmp_path: Path) -> None:
    """Section 2: answered after early media; treated by an announcement; busy; never answered; one
    line out of order and the next one taken (overflow)."""
    async with LineCard.start(fxs=0, fxo=6) as card:
        ports = "".join(LINE.format(port=n, no_answer=4.0 if n == 4 else 60.0) for n in range(1, 7))
        ways = [(n, f'"fxo/{n}:{{1}}"') for n in range(1, 5)]
        ways.append((5, '"fxo/5:{1}", "fxo/6:{1}"'))
        async with box(HOUSE, routes(card, ports, *ways)) as gateway:
            lines = {n: card.exchange(n) for n in range(1, 7)}
            await gateway.up(*(f"fxo/{n}" for n in lines))

            async def rings(n: int, tone: str = RINGBACK) -> None:
                # What is dialled is shown elsewhere: a busy machine may lose a block of a tone.
                await lines[n].digits(1)
                await asyncio.sleep(1.5)
                await lines[n].tone(tone)

            async def answers(n: int) -> None:
                await rings(n)
                await asyncio.sleep(0.7)
                await lines[n].battery("reversed")
                await gateway.wait(LegAnswered, lambda e: e.leg.startswith(f"fxo/{n}"))
                await lines[n].stop()
                await lines[n].wait_for("released", within=15.0)

            async def overflows() -> None:
                await lines[5].battery("off")
                await gateway.up("fxo/6")
                await lines[6].digits(1)
                await asyncio.sleep(1.5)
                await lines[6].battery("reversed")
                await lines[6].wait_for("released", within=15.0)

            early = ("m=audio", "a=sendrecv")
            success = user(gateway, 0).call("91111").gets(183, *early, maybe=(100, 180)).talks()
            treated = user(gateway, 1).call("92121").gets(183, *early, maybe=(100, 180)).pause(3.0)
            treated.cancel("92121").gets(200, "CANCEL").gets(487).ack_refusal()
            busy = user(gateway, 2).call("93131")
            busy.gets(486, "Reason: Q.850;cause=17", maybe=(100, 180, 183)).ack_refusal()
            unanswered = user(gateway, 3).call("94141")
            unanswered.gets(480, "Reason: Q.850;cause=19", maybe=(100, 180, 183)).ack_refusal()
            overflow = user(gateway, 4).call("95151").gets(183, *early, maybe=(100, 180)).talks()
            await together(
                tmp_path,
                [
                    success.pause(0.5).hangs_up(), treated, busy, unanswered,
                    overflow.pause(0.5).hangs_up(),
                ],
                answers(1), rings(2, "400"), rings(3, BUSY_TONE), rings(4), overflows(),
            )  # fmt: skip
            for n in (2, 3, 4):
                await lines[n].wait_for("released", within=15.0)
            await gateway.wait(LegEnded, lambda e: e.leg.startswith("fxo/2"))


async def test_the_network_calls_sip(tmp_path: Path) -> None:
    """Section 3: answered after ringing, and at once; abandoned; never acknowledged by SIP."""
    async with LineCard.start(fxs=0, fxo=3) as card:
        ports = "".join(LINE.format(port=n, no_answer=60.0) for n in range(1, 4))
        async with box(HOUSE, routes(card, ports)) as gateway:
            lines = {n: card.exchange(n) for n in range(1, 4)}
            await gateway.up(*(f"fxo/{n}" for n in lines))
            ringing = user(gateway, 1).answers(after=0.5).is_hung_up("Reason: Q.850;cause=16")
            fast = user(gateway, 2).answers(ring=False).pause(0.5).hangs_up()
            abandoned = user(gateway, 3).takes("INVITE").reply(180).takes("CANCEL").reply(200)
            abandoned.steps.append(cancelled(abandoned))
            abandoned.takes("ACK")
            for flow in (ringing, fast, abandoned):
                await flow.registered(tmp_path)

            async def calls(n: int, *, leaves: bool) -> None:
                await lines[n].ring((800, 3000))
                await gateway.wait(LegAnswered, lambda e: e.leg.startswith(f"sip/user{n}"))
                await lines[n].wait_for("seized", within=15.0)
                if leaves:
                    await asyncio.sleep(1.5)
                    await lines[n].drop(500)
                await lines[n].wait_for("released", within=15.0)

            async def gives_up() -> None:
                await lines[3].ring((800, 1500), 2)

            await together(
                tmp_path, [ringing, fast, abandoned],
                calls(1, leaves=True), calls(2, leaves=False), gives_up(),
            )  # fmt: skip


async def test_what_a_telephone_hears_of_refusals(tmp_path: Path) -> None:
    """Sections 3.4 to 3.6: busy is busy tone, an error is congestion tone, both of the country."""
    async with LineCard.start(fxs=2, fxo=0) as card:
        ports = "".join(TELEPHONE.format(port=n, calls=f"20{n}") for n in (1, 2))
        async with box(HOUSE, routes(card, ports)) as gateway:
            await gateway.up("fxs/1", "fxs/2")
            busy = user(gateway, 1).takes("INVITE", "From: .*sip:11@").reply(180)
            broken = user(gateway, 2).takes("INVITE", "From: .*sip:12@")
            for flow, status in ((busy, 486), (broken, 500)):
                flow.reply(status, again=True).takes("ACK")
                await flow.registered(tmp_path)

            async def dials(n: int, on_ms: int) -> None:
                telephone = card.telephone(n)
                await telephone.lift()
                await gateway.wait(LegEnded, lambda e: e.leg.startswith(f"sip/user{n}"))
                # The far end's release is a drop of the battery first.
                await asyncio.sleep(1.0)
                await telephone.record()
                await asyncio.sleep(4.0)
                samples = array.array("h", await telephone.recorded())
                loud = [
                    level_at(samples[k : k + _BLOCK], 480.0) > -30.0
                    for k in range(0, len(samples) - _BLOCK, _BLOCK)
                ]
                assert 0.3 < sum(loud) / len(loud) < 0.7
                assert (rate(loud, 2.0) > rate(loud, 1.0)) == (on_ms == 250), (n, loud)
                await telephone.hang_up()

            await together(tmp_path, [busy, broken], dials(1, 500), dials(2, 250))


def rate(loud: Sequence[bool], hz: float) -> float:
    """How much of that rate is in the cadence; a block that a busy machine loses is nothing."""
    turn = 2j * math.pi * hz * _BLOCK / 8000
    return abs(sum((on - 0.5) * cmath.exp(turn * k) for k, on in enumerate(loud)))


async def test_network_to_network(tmp_path: Path) -> None:
    """Section 4: from a line to a carrier with reliable early media, which is heard in the line."""
    async with LineCard.start(fxs=1, fxo=0) as card:
        ports = TELEPHONE.format(port=1, calls="0301234")
        way = '[[routes]]\nname = "far"\ncalled = "0X."\ntargets = ["sip/far:{called}"]\n'
        far = Flow("+49815", None, address="127.0.2.37")
        sip = (
            f'{HOUSE}[adapters.sip.trunks.far]\npeer = "sip:127.0.2.37:{far.port}"\n'
            'keepalive_s = 0\nnumbers = { country_code = "49" }\n'
        )
        async with box(sip, routes(card, ports) + way) as gateway:
            far.box = gateway
            await gateway.up("fxs/1", "sip/far")
            far.takes("INVITE", r"INVITE sip:\+49301234@", "Supported: .*100rel")
            far.reply(183, "Require: 100rel", "RSeq: 9", body=sdp())
            far.takes("PRACK", "RAck: 9 1 INVITE").settled().reply(200).pause(0.5)
            far._first = False
            far.reply(200, again=True)
            answer = far.steps.pop().replace("[last_Via:]", "Via:[$via]")
            answer = answer.replace("[last_CSeq:]", "CSeq: 1 INVITE")
            far.steps.append(answer)
            far.takes("ACK").is_hung_up("Reason: Q.850;cause=16")

            async def dials() -> None:
                telephone = card.telephone(1)
                await telephone.lift()
                await gateway.wait(LegAnswered, lambda e: e.leg.startswith("sip/far"))
                await asyncio.sleep(0.5)
                await telephone.hang_up()

            await together(tmp_path, [far], dials())
            legs = await gateway.legs(2)
        assert {leg.cause for leg in legs.values()} == {"normal"}
