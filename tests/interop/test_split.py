"""Split legs: a station's control on the serial line, its speech on a port of the line card."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.core.actions import Note, Play
from gateway.core.causes import Cause
from gateway.core.events import (
    AudioBorrowed,
    CallRequested,
    LegAnswered,
    LegEnded,
    LegOffered,
    MediaFlowing,
    Priority,
)
from gateway.core.lines import WARNING_TONE
from gateway.lab.linecard import LineCard, Outside
from gateway.lab.softphone import Softphone
from gateway.testing.audio import level_at, steady_level_at, tone
from gateway.testing.wires import SerialLine
from tests.cards import needs_card
from tests.interop.peers import ANNA, Box, assert_hears, box, need, phone, until

pytestmark = [pytest.mark.interop, needs_card]

REST = """
[adapters.analog]
device_dir = "{card}"
[adapters.analog.ports.1]
kind = "fxs"
number = "11"
[adapters.analog.ports.2]
kind = "fxo"
use = "lent"
[adapters.exchange]
kind = "intercom"
port = "{acdp}"
profile = "acdp"
[adapters.exchange.stations.km3]
address = "8002"
number = "103"
audio = "fxo/2"
via = "8009"
duplex = "full"
[adapters.door]
kind = "intercom"
port = "{kocom}"
profile = "kocom"
[adapters.door.stations.flat]
address = "0200"
calls = "201"
audio = "fxs/1"
duplex = "full"
"""
TWO_PHONES = (
    ANNA
    + """
[adapters.sip.phones.bert]
password = "b1"
number = "202"
"""
)
SHARED = """
[adapters.analog]
device_dir = "{card}"
[adapters.analog.ports.1]
kind = "fxs"
[adapters.door]
kind = "intercom"
port = "{door}"
profile = "kocom"
[adapters.door.stations.flat]
address = "0200"
calls = "201"
audio = "fxs/1"
duplex = "full"
[adapters.tunnel]
kind = "intercom"
port = "{tunnel}"
profile = "kocom"
[adapters.tunnel.stations.km3]
address = "0200"
calls = "202"
audio = "fxs/1"
duplex = "full"
[[routes]]
name = "help"
from = ["tunnel/km3"]
priority = "emergency"
targets = ["sip/bert"]
"""
CONNECTED = b"014101FF211B410018004107D706070B1A2D01043201800232018009=7F\r\n"
DOOR_CALLS = bytes.fromhex("aa557a9d020200ffffffff31ffffff0101a4550d0d")
DOOR_TALKS = bytes.fromhex("aa5579bc02020031ffffff61ffffff030008d30d0d")
HZ, PHONE_HZ = 440, 1000


@asynccontextmanager
async def world(
    tmp_path: Path,
) -> AsyncIterator[tuple[Box, LineCard, SerialLine, SerialLine, Softphone]]:
    with SerialLine() as acdp, SerialLine() as kocom:
        async with LineCard.start(fxs=1, fxo=1) as card:
            more = REST.format(card=card.directory, acdp=acdp.path, kocom=kocom.path)
            async with (
                box(ANNA, more) as gateway,
                phone(tmp_path, "anna", "a1", gateway, hz=PHONE_HZ) as anna,
            ):
                await gateway.up("sip/anna", "fxs/1", "fxo/2", "exchange/km3", "door/flat")
                yield gateway, card, acdp, kocom, anna


def sox_frequency(raw: Path) -> float:
    """What sox takes the frequency of the last second for."""
    need("sox")
    shape = ["-t", "raw", "-r", "8000", "-e", "signed", "-b", "16", "-c", "1"]
    done = subprocess.run(
        ["sox", *shape, str(raw), "-n", "reverse", "trim", "0", "1", "stat"],
        capture_output=True, text=True, check=True, timeout=20,
    )  # fmt: skip
    found = re.search(r"Rough\s+frequency:\s+(\d+)", done.stderr)
    assert found, done.stderr
    return float(found[1])


async def talk(line: Outside) -> None:
    """Speak into the line for a while; what is heard there is the phone's tone alone."""
    await line.say(tone(HZ, 20.0).tobytes())
    raw = await line.record()
    await asyncio.sleep(2.5)
    heard = memoryview(await line.recorded()).cast("h")[-8000:]
    assert steady_level_at(heard, PHONE_HZ) > -20
    assert level_at(heard, HZ) < -45
    assert sox_frequency(raw) == pytest.approx(PHONE_HZ, abs=80)


async def test_a_phone_talks_to_a_station_over_the_exchange_line(tmp_path: Path) -> None:
    async with world(tmp_path) as (gateway, card, acdp, _, anna):
        line = card.exchange(2)
        await anna.dial(gateway.uri("103"))
        assert await acdp.read(18) == b"$CONN L8002 L8009\r"
        # The exchange connects the station with the line that it has us on, and rings that.
        await line.ring()
        await asyncio.sleep(0.6)
        acdp.write(CONNECTED)
        await line.wait_for("seized")
        await anna.wait("CALL_ESTABLISHED")
        await talk(line)
        # It is one call with one leg for the station, and the line says whose it is.
        (call,) = gateway.gateway.switchboard.calls.values()
        assert sorted(leg.endpoint for leg in call.legs) == ["exchange/km3", "sip/anna"]
        place = gateway.gateway.places["fxo/2"][0]
        assert place.detail["lent to"] == "exchange/km3#1"
        await anna.hang_up()
        await line.wait_for("released")
        await until(
            lambda: "lent to" not in gateway.gateway.places["fxo/2"][0].detail, "it is free again"
        )
        legs = await gateway.legs(2)
        assert legs["exchange/km3#1"].codec == "PCMU"
        assert {leg.cause for leg in legs.values()} == {"normal"}
        assert_hears(anna.heard(), HZ, PHONE_HZ)
        # Again, and now the exchange releases the line (battery drop).
        since = len(card.facts)
        await anna.dial(gateway.uri("103"))
        await acdp.read(26)  # the end of the last call, and the next
        acdp.write(CONNECTED)
        await gateway.wait(LegAnswered, lambda e: e.leg == "exchange/km3#2")
        await line.wait_for("seized", since=since)  # after the exchange's guard time
        await asyncio.sleep(1.0)
        await line.drop(600)
        ended = await gateway.wait(LegEnded, lambda e: e.leg == "exchange/km3#2")
        assert (ended.cause, ended.detail) == (Cause.NORMAL, "audio of fxo/2: cpc")
        await anna.wait("CALL_CLOSED")


async def test_a_door_calls_over_a_telephone_line_whose_card_is_then_pulled(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as (gateway, card, _, kocom, anna):
        line = card.telephone(1)
        kocom.write(DOOR_CALLS)
        await anna.wait("CALL_INCOMING")
        await anna.accept()
        assert await kocom.read(21) == DOOR_TALKS
        await gateway.wait(LegAnswered, lambda e: e.leg == "door/flat#1")
        await line.lift()  # the station closes the loop
        await talk(line)
        # Who calls the telephone line meanwhile is told who has it; its hook begins no call.
        gateway.gateway.emit(CallRequested(origin="fxs/1", target="sip/anna", trace="t"))
        await gateway.wait(Note, lambda a: "fxs/1 is lent to door/flat#1" in a.text)
        assert not [e for e in gateway.seen if isinstance(e.event, LegOffered)
                    and e.event.endpoint == "fxs/1"]  # fmt: skip
        await card.fail(1)
        ended = await gateway.wait(LegEnded, lambda e: e.leg == "door/flat#1")
        assert ended.cause is Cause.OUT_OF_ORDER
        assert ended.detail.startswith("audio of fxs/1: ")
        await until(lambda: not gateway.gateway.switchboard.calls, "no call any more")
        assert not gateway.gateway.loans
        await anna.wait("CALL_CLOSED")
        assert_hears(anna.heard(), HZ, PHONE_HZ)


async def test_an_emergency_takes_a_lent_line_from_a_door(tmp_path: Path) -> None:
    async with world(tmp_path) as (gateway, card, _, kocom, anna):
        line = card.telephone(1)
        kocom.write(DOOR_CALLS)
        await anna.wait("CALL_INCOMING")
        await anna.accept()
        await gateway.wait(LegAnswered, lambda e: e.leg == "door/flat#1")
        await line.lift()
        await gateway.wait(MediaFlowing, lambda e: e.leg == "sip/anna#1")
        since = len(card.facts)
        urgent = CallRequested(
            origin="fxs/1", target="sip/anna", trace="t", priority=Priority.EMERGENCY
        )
        gateway.gateway.emit(urgent)
        await line.hang_up()
        ended = await gateway.wait(LegEnded, lambda e: e.leg == "door/flat#1")
        assert ended.cause is Cause.PREEMPTED
        await line.wait_for("ringing", "on", since=since)
        await line.lift()
        await gateway.wait(LegAnswered, lambda e: e.leg == "fxs/1#1")
        assert not gateway.gateway.loans


async def test_an_emergency_from_a_station_takes_the_line_from_a_door(tmp_path: Path) -> None:
    """Two buses speak over one telephone line; who speaks over it is told, and gives way."""
    with SerialLine() as kocom, SerialLine() as tunnel:
        async with (
            LineCard.start(fxs=1, fxo=0) as card,
            box(
                TWO_PHONES,
                SHARED.format(card=card.directory, door=kocom.path, tunnel=tunnel.path),
            ) as gateway,
            phone(tmp_path, "anna", "a1", gateway, hz=PHONE_HZ) as anna,
            phone(tmp_path, "bert", "b1", gateway, hz=PHONE_HZ) as bert,
        ):
            await gateway.up("sip/anna", "sip/bert", "fxs/1", "door/flat", "tunnel/km3")
            line = card.telephone(1)
            kocom.write(DOOR_CALLS)
            await anna.wait("CALL_INCOMING")
            await anna.accept()
            await gateway.wait(LegAnswered, lambda e: e.leg == "door/flat#1")
            await line.lift()  # the station closes the loop
            await talk(line)
            # While the other one only rings, nobody loses anything.
            tunnel.write(DOOR_CALLS)
            await bert.wait("CALL_INCOMING")
            assert gateway.gateway.loans.keys() == {"door/flat#1"}
            await bert.accept()
            ended = await gateway.wait(LegEnded, lambda e: e.leg == "door/flat#1")
            assert ended.cause is Cause.PREEMPTED
            await gateway.wait(Play, lambda a: (a.leg, a.tone) == ("sip/anna#1", WARNING_TONE))
            assert await tunnel.read(21) == DOOR_TALKS
            await gateway.wait(AudioBorrowed, lambda e: e.leg == "tunnel/km3#1")
            await gateway.wait(LegAnswered, lambda e: e.leg == "tunnel/km3#1")
            assert gateway.gateway.loans.keys() == {"tunnel/km3#1"}
            await anna.wait("CALL_CLOSED")
            # The loop is closed still: they talk when the battery is back.
            await talk(line)
            await bert.hang_up()
            await until(lambda: not gateway.gateway.switchboard.calls, "no call any more")
            assert not gateway.gateway.loans
            assert_hears(bert.heard(), HZ, PHONE_HZ)
