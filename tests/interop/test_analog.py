"""Analog lines through a real gateway: who hears whom, and what foreign decoders make of it."""

from __future__ import annotations

import array
import asyncio
import signal
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from gateway.adapters.analog.config import AnalogSection
from gateway.config import load
from gateway.core.actions import Hangup
from gateway.core.causes import Cause
from gateway.core.events import LegAnswered, LegEnded, LegOffered
from gateway.lab.linecard import BUSY_TONE, LineCard
from gateway.testing.audio import level_at, steady_level_at, tone
from tests.adapters.analog_stand import QUICK_FXO, stand
from tests.cards import needs_card
from tests.interop.peers import ANNA, HERE, assert_hears, box, need, phone

pytestmark = [pytest.mark.interop, needs_card]

ROOT = HERE.parents[1]
ANALOG = """
[adapters.analog]
device_dir = "{card}"

[adapters.analog.ports.1]
kind = "fxs"
number = "11"
label = "Gate"

[adapters.analog.ports.2]
kind = "fxs"
number = "12"

[adapters.analog.ports.3]
kind = "fxo"
dial_tone_s = 0.0
dial_delay_s = 0.7
answer = ["polarity"]
caller_id_window_s = 2.5

[[routes]]
name = "outside"
from = ["fxs/*", "sip/*"]
called = "0(.)"
targets = ["fxo/3:{{1}}"]

[[routes]]
name = "from outside"
from = ["fxo/3"]
targets = ["fxs/1"]
"""
TALK_S = 2.0


async def speak(line: Any, hz: float) -> None:
    """Say a tone into a line for a while."""
    await line.say(tone(hz, 20.0).tobytes())


def heard(raw: bytes) -> array.array[int]:
    """The last second of a recording."""
    return array.array("h", raw[-16000:])


def assert_only(raw: bytes, hz: float, *others: float) -> None:
    """The recording holds this tone and none of the others.

    In quarters of a second, of which the middle one counts: a machine that is busy with other
    things may make an unscheduled card slip once.
    """
    samples = heard(raw)
    assert len(samples) == 8000
    for frequency, bounds in ((hz, (-13.0, -7.0)), *((each, (-99.0, -35.0)) for each in others)):
        levels = sorted(level_at(samples[n : n + 2000], frequency) for n in range(0, 6001, 500))
        low, high = bounds
        assert low <= levels[len(levels) // 2] <= high, (frequency, levels)


async def decode(command: str, raw: bytes) -> str:
    """What a foreign decoder makes of raw samples (8 kHz)."""
    process = await asyncio.create_subprocess_shell(
        command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    out, _ = await asyncio.wait_for(process.communicate(raw), 20)
    return out.decode(errors="replace")


_SOX = "sox -t raw -r 8000 -e signed -b 16 -c 1 -"
MULTIMON = _SOX + " -t raw -r 22050 -e signed -b 16 -c 1 - | multimon-ng -q -t raw -a {} -"
MINIMODEM = _SOX + " -r 48000 {path} && minimodem --rx callerid {more} -f {path}"


# -- through the gateway ---------------------------------------------------------------------------


async def test_a_telephone_and_a_softphone_call_each_other(tmp_path: Path) -> None:
    async with (
        LineCard.start(fxs=2, fxo=1) as card,
        box(ANNA, ANALOG.format(card=card.directory)) as gateway,
        phone(tmp_path, "anna", "a1", gateway, hz=1000) as anna,
    ):
        await gateway.up("fxs/1", "sip/anna")
        gate = card.telephone(1)
        await gate.lift()
        await asyncio.sleep(0.3)
        await gate.dial_dtmf("201")
        await anna.wait("CALL_INCOMING")
        await anna.accept()
        await anna.wait("CALL_ESTABLISHED")
        await speak(gate, 440)
        await gate.record()
        await asyncio.sleep(TALK_S)
        assert_only(await gate.recorded(), 1000, 440)
        await anna.hang_up()
        ended = await gateway.wait(LegEnded, lambda e: e.leg == "fxs/1#1")
        assert ended.cause is Cause.NORMAL
        assert_hears(anna.heard(), 440, 1000)
        await gate.wait_for("battery", "off")  # the far end's release
        await gate.hang_up()
        await asyncio.sleep(1.5)

        skip = len(gateway.seen)
        await anna.dial(gateway.uri("11"))
        await gate.wait_for_ring()
        await anna.wait("CALL_RINGING")
        await gate.lift()
        await gateway.wait(LegAnswered, lambda e: e.leg.startswith("fxs/1"), skip=skip)
        await speak(gate, 440)
        await gate.record()
        await asyncio.sleep(TALK_S)
        assert_only(await gate.recorded(), 1000, 440)
        await anna.press("7")
        await gate.hang_up()
        await anna.wait("CALL_CLOSED", skip=len(anna.events) - 3)
        assert_hears(anna.heard(), 440, 1000)
        records = await gateway.legs(4)
        assert {leg.cause for leg in records.values()} == {"normal"}


async def test_telephone_to_telephone_and_over_the_exchange(tmp_path: Path) -> None:
    async with (
        LineCard.start(fxs=2, fxo=1) as card,
        box(ANNA, ANALOG.format(card=card.directory)) as gateway,
    ):
        await gateway.up("fxs/1", "fxs/2", "fxo/3")
        gate, desk, exchange = card.telephone(1), card.telephone(2), card.exchange(3)
        await gate.lift()
        await asyncio.sleep(0.3)
        await gate.dial_dtmf("12")
        await desk.wait_for_ring()
        await desk.lift()
        await gateway.wait(LegAnswered, lambda e: e.leg == "fxs/1#1")
        await speak(gate, 440)
        await speak(desk, 700)
        await gate.record()
        await desk.record()
        await asyncio.sleep(TALK_S)
        assert_only(await gate.recorded(), 700, 440)
        assert_only(await desk.recorded(), 440, 700)
        await desk.hang_up()
        ended = await gateway.wait(LegEnded, lambda e: e.leg == "fxs/1#1")
        assert ended.cause is Cause.NORMAL
        await gate.hang_up()
        await asyncio.sleep(1.5)

        # Out over the exchange: early audio, then the answer by polarity.
        skip = len(gateway.seen)
        await gate.lift()
        await asyncio.sleep(0.3)
        await exchange.record()
        await gate.dial_dtmf("05612#")
        assert await exchange.digits(4) == "5612"
        await asyncio.sleep(0.3)
        need("multimon-ng", "sox")
        digits = await decode(MULTIMON.format("DTMF"), await exchange.recorded())
        # A block that a busy machine loses splits a tone, and the decoder then says it twice.
        assert [digit for digit, _ in groupby(digits.split()[1::2])] == [*"5612"]
        await exchange.tone("440+480/2000,0/4000")
        await gate.record()
        await asyncio.sleep(1.5)
        assert (
            steady_level_at(heard(await gate.recorded()), 480) > -20
        )  # the exchange's own ringback
        await exchange.battery("reversed")
        await gateway.wait(LegAnswered, lambda e: e.leg == "fxo/3#1", skip=skip)
        await exchange.stop()
        await speak(exchange, 900)
        await speak(gate, 440)
        await gate.record()
        await exchange.record()
        await asyncio.sleep(TALK_S)
        assert_only(await gate.recorded(), 900, 440)
        assert_only(await exchange.recorded(), 440, 900)
        await exchange.stop()
        await exchange.tone(BUSY_TONE)
        ended = await gateway.wait(LegEnded, lambda e: e.leg == "fxo/3#1", skip=skip)
        assert ended.detail == "busy tone, 3 cycles"
        await exchange.stop()
        await exchange.battery("on")
        await gate.hang_up()
        await exchange.wait_for("released")
        await asyncio.sleep(2.2)

        # In from the exchange, with the caller ID of another sender.
        skip = len(gateway.seen)
        await exchange.ring((800, 3000))
        await asyncio.sleep(1.3)
        await exchange.say(_foreign_caller_id(tmp_path, "bell202", "5551234567", "KIM LEE"))
        offered = await gateway.wait(LegOffered, lambda e: e.endpoint == "fxo/3", skip=skip)
        assert (offered.calling, offered.display) == ("5551234567", "KIM LEE")
        await gate.wait_for_ring()
        await gate.lift()
        await gateway.wait(LegAnswered, lambda e: e.leg.startswith("fxo/3"), skip=skip)
        await speak(exchange, 900)
        await speak(gate, 440)
        await gate.record()
        await exchange.record()
        await asyncio.sleep(TALK_S)
        assert_only(await gate.recorded(), 900, 440)
        assert_only(await exchange.recorded(), 440, 900)
        await exchange.drop(500)
        ended = await gateway.wait(LegEnded, lambda e: e.leg.startswith("fxo/3"), skip=skip)
        assert ended.detail == "cpc"
        await gate.hang_up()
        records = await gateway.legs(6)
        assert {leg.detail for leg in records.values()} >= {"cpc", "busy tone, 3 cycles"}


def _foreign_caller_id(directory: Path, standard: str, number: str, name: str) -> Path:
    """A caller ID burst of a modem that is not ours: minimodem's, with marks of sox."""
    need("minimodem", "sox")
    mark, space = ("1200", "2200") if standard == "bell202" else ("1300", "2100")
    body = b"".join(
        bytes((kind, len(text))) + text
        for kind, text in ((1, b"11211930"), (2, number.encode()), (7, name.encode()))
    )
    message = bytes((0x80, len(body))) + body
    message += bytes((-sum(message) & 0xFF,))
    seizure, marks, rest, whole = (directory / f"{part}.wav" for part in "abcd")
    modem = ("minimodem", "--tx", "1200", "-M", mark, "-S", space, "-R", "8000", "-f")
    # An octet 0x55 between start and stop bit is the alternation of a channel seizure.
    subprocess.run([*modem, str(seizure)], input=b"\x55" * 30, check=True, timeout=10)
    subprocess.run([*modem, str(rest)], input=message, check=True, timeout=10)
    sox = ("sox", "-n", "-r", "8000", "-b", "16", "-c", "1", str(marks), "synth", "0.15")
    subprocess.run([*sox, "sine", mark], check=True, timeout=10)
    parts = (str(part) for part in (seizure, marks, rest, whole))
    subprocess.run(["sox", *parts, "pad", "0", "0.1", "vol", "0.3"], check=True, timeout=10)
    return whole


# -- caller ID out ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("standard", "when"),
    [
        ("bell202", "after_first_ring"),
        ("v23", "after_first_ring"),
        ("v23", "before_ring"),
        ("dtmf", "before_ring"),
    ],
)
async def test_foreign_decoders_read_the_caller_id(
    tmp_path: Path, standard: str, when: str
) -> None:
    need("minimodem", "multimon-ng", "sox")
    port = {"kind": "fxs", "caller_id": standard, "caller_id_when": when, "ring_ms": (800, 3000)}
    more = "-M 1300 -S 2100" if standard == "v23" else ""
    async with stand({"1": port}, fxs=1, fxo=1) as on:
        telephone = on.card.telephone(1)
        # A busy machine may lose a block of audio, and with it a message without redundancy.
        for _ in range(3):
            since = len(on.card.facts)
            await telephone.record()
            leg = on.host.dial("fxs/1", calling="0401234567", display="Alice Höll")
            first = await telephone.wait_for("ringing", "on", since=since)
            if when == "after_first_ring":
                await telephone.wait_for("ringing", "on", since=on.card.facts.index(first) + 1)
            raw = await telephone.recorded()
            on.adapter.hangup(Hangup(leg=leg, cause=Cause.CANCELLED))
            if standard == "dtmf":
                found = await decode(MULTIMON.format("DTMF"), raw)
                if "".join(found.split()[1::2]) == "A0401234567C":
                    return
                continue
            found = await decode(MULTIMON.format("CLIPFSK"), raw)
            other = await decode(MINIMODEM.format(path=tmp_path / "heard.wav", more=more), raw)
            both = "CID=0401234567" in found and "CNT=Alice H" in found
            if both and "0401234567" in other.replace("-", ""):
                return
    pytest.fail(f"not decoded: {found!r}")


@pytest.mark.parametrize("standard", ["bell202", "v23"])
async def test_a_foreign_modems_caller_id_is_read(tmp_path: Path, standard: str) -> None:
    burst = _foreign_caller_id(tmp_path, standard, "09123456", "OUTSIDE")
    port = {**QUICK_FXO, "caller_id": standard, "caller_id_window_s": 3.0}
    async with stand({"2": port}, fxs=1, fxo=1) as on:
        await asyncio.sleep(2.1)
        exchange = on.card.exchange(2)
        await exchange.ring((800, 4000), 1)
        await exchange.wait_for("rung")
        await asyncio.sleep(0.4)
        await exchange.say(burst)
        offered = await on.host.wait_for(LegOffered)
        assert (offered.calling, offered.display) == ("09123456", "OUTSIDE")


# -- killed ----------------------------------------------------------------------------------------


async def test_lines_are_on_hook_when_the_gateway_is_killed(tmp_path: Path) -> None:
    async with LineCard.start(fxs=2, fxo=1) as card:
        file = tmp_path / "gateway.toml"
        file.write_text(
            f'[gateway]\nname = "lab"\ndata_dir = "{tmp_path}/data"\n'
            f'[control]\nsocket = "{tmp_path}/s"\n[media]\nrealtime = false\n'
            + ANALOG.format(card=card.directory)
        )
        since = len(card.facts)  # dahdi_cfg opens the ports, too
        with (tmp_path / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gateway", "--config", str(file), "run"),
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
        try:
            exchange, desk = card.exchange(3), card.telephone(2)
            await card.wait_for(3, "open", since=since, within=20)
            await card.telephone(1).lift()
            await asyncio.sleep(0.5)
            await card.telephone(1).dial_dtmf("01")
            await exchange.wait_for("seized", within=30)
            assert (await exchange.state())["closed"] == 1
            since = len(card.facts)
            process.send_signal(signal.SIGKILL)
            await exchange.wait_for("released", since=since)
            await card.wait_for(3, "close", since=since)
            await card.wait_for(1, "close", since=since)
            assert (await exchange.state())["closed"] == 0
            assert (await desk.state())["ringing"] == 0
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


# -- the example -----------------------------------------------------------------------------------


def test_the_example_is_a_configuration() -> None:
    configuration = load(ROOT / "hardware" / "examples" / "analog.toml")
    section = configuration.adapters["analog"].config
    assert isinstance(section, AnalogSection)
    assert len(section.ports) >= 4
