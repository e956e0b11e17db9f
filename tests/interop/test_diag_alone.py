"""Faults that take a gateway of their own, each injected by a foreign program, and the verdict."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gateway.adapters.pyvoip import PyVoip
from gateway.core.events import AdapterLost, LegAnswered, LegEnded, LegOffered
from gateway.diagnosis import Diagnosis
from gateway.diagnosis.faults import Code, Layer
from gateway.lab.linecard import LineCard
from gateway.lab.softphone import Softphone, free_port
from gateway.registry import GROUP, Registry
from gateway.testing.audio import read_wav, write_wav
from tests.box import Box as Daemon
from tests.cards import needs_card
from tests.interop.diag_site import said, verdict
from tests.interop.matrix_site import first_served
from tests.interop.peers import ANNA, LOOPBACK, Box, Kamailio, Program, box, need, phone, until
from tests.interop.sipp_flow import Flow, finished
from tests.lines import HARVARD, dbm0, spoken

pytestmark = pytest.mark.interop
DOOR_PAGE = Path(__file__).parents[2] / "docs" / "write-an-adapter.md"


@pytest.fixture(autouse=True)
def _before_others() -> Iterator[None]:
    with first_served():
        yield


async def until_said(gateway: Box, which: str, code: str, within_s: float = 20.0) -> Diagnosis:
    """The verdict, once it is this one: a busy machine takes its time to hear enough, and what it
    loses meanwhile is a fault as well."""
    for _ in range(round(within_s / 0.5)):
        found = await verdict(gateway.gateway, which)
        if said(found) == code:
            break
        await asyncio.sleep(0.5)
    assert said(found) == code, found
    return found


# Echo


@asynccontextmanager
async def hybrid(
    loss_db: float, speech_dbm0: float
) -> AsyncIterator[tuple[Box, Softphone, LineCard, str]]:
    """baresip speaks to an analog telephone, whose two-wire line reflects; the telephone's leg."""
    more = (
        '[adapters.analog]\ndevice_dir = "{}"\n[adapters.analog.ports.1]\nkind = "fxs"\n'
        'number = "211"\nring_ms = [400, 600]\necho_cancel_ms = 32\n'
        '[[routes]]\nname = "t"\ncalled = "211"\ntargets = ["fxs/1"]\n'
    )
    async with LineCard.start(fxs=1, fxo=0) as card:
        # The card has a canceller of its own: the gateway's takes its place.
        await card.configure()
        await card.echo(1, loss_db, 6)
        async with (
            box(ANNA, more.format(card.directory)) as gateway,
            phone(gateway.home, "anna", "a1", gateway, hz=440) as anna,
        ):
            await gateway.up("fxs/1")
            write_wav(anna.microphone, np.tile(spoken(HARVARD, level=speech_dbm0), 3).tobytes())
            await anna.registered()
            await anna.dial(gateway.uri("211"))
            await card.telephone(1).wait_for("ringing", "on")
            await card.telephone(1).lift()
            answered = await gateway.wait(LegAnswered, lambda e: e.leg.startswith("fxs/1#"))
            yield gateway, anna, card, answered.leg


def hears_itself_db(anna: Softphone) -> float:
    """How much weaker her own voice comes back to her, by her own recording: the louder half."""
    (heard, *_), rate = read_wav(anna.heard())
    (said, *_), _ = read_wav(anna.microphone)
    pieces = [heard[at : at + rate // 5] for at in range(2 * rate, len(heard), rate // 5)]
    loud = sorted(dbm0(np.array(piece)) for piece in pieces)[len(pieces) // 2 :]
    return dbm0(np.array(said)) - float(np.median(loud))


@needs_card
async def test_an_echo_that_never_stands_still() -> None:
    """As of a second canceller on the line, or a path that changes."""
    need("espeak-ng", "sox")
    async with hybrid(3, -18) as (gateway, anna, card, leg):
        moves = asyncio.create_task(_move(card))
        try:
            up = await until_said(gateway, leg, Code.ECHO)
            await anna.hang_up()
            await gateway.wait(LegEnded, lambda e: e.leg == leg)
        finally:
            moves.cancel()
        (fault,) = [each for each in up.legs[1].faults if each.code is Code.ECHO]
        assert (fault.layer, fault.leg) == (Layer.LINE, leg)
        assert "ERLE" in fault.what
        assert "fxotune" in fault.remedy
        over = await verdict(gateway.gateway, leg)
        assert (said(over), over.live) == (Code.ECHO, False)
        assert hears_itself_db(anna) < 20


async def _move(card: LineCard) -> None:
    while True:
        for delay_ms in (6, 16):
            await card.echo(1, 3, delay_ms)
            await asyncio.sleep(0.4)


@needs_card
async def test_an_echo_that_is_taken_away_is_none() -> None:
    need("espeak-ng", "sox")
    gone_db, wrong = 0.0, None
    for _ in range(4):  # where this program stalls, the echo moves, and is heard
        async with hybrid(10, -15) as (gateway, anna, _, leg):
            await asyncio.sleep(8.0)
            up = await verdict(gateway.gateway, leg)
            stats = gateway.gateway.patchbay.stats(leg)
            await anna.hang_up()
            await gateway.wait(LegEnded, lambda e, leg=leg: e.leg == leg)  # type: ignore[misc]
            over = await verdict(gateway.gateway, leg)
            gone_db = hears_itself_db(anna)
        assert stats is not None
        if gone_db > 30 and stats.erl_db is not None:
            wrong = next((each for each in (up, over) if said(each) != "clean"), None)
            if wrong is None:
                return
    assert wrong is None, wrong
    pytest.skip(f"this machine stalls: the echo was only {gone_db:.0f} dB weaker")


# Digits


def _keys(home: Path, seconds: int) -> Path:
    """A microphone at a DTMF generator, by sox."""
    need("sox")
    parts = []
    for low, high in ((697, 1209), (770, 1336), (852, 1477)):
        parts.append(str(home / f"{low}.wav"))
        subprocess.run(
            ["sox", "-D", "-n", "-r", "8000", "-b", "16", "-c", "1", parts[-1], "synth", "0.15",
             "sine", str(low), "synth", "sine", "mix", str(high), "vol", "0.3", "pad", "0", "0.35"],
            check=True, timeout=20, capture_output=True,
        )  # fmt: skip
    out = home / "keys.wav"
    subprocess.run(["sox", *parts, str(out), "repeat", str(seconds)], check=True, timeout=20)
    return out


async def test_a_telephone_that_sends_each_digit_as_event_and_as_tone(tmp_path: Path) -> None:
    keys = _keys(tmp_path, 30)
    async with (
        box(ANNA, LOOPBACK) as gateway,
        phone(gateway.home, "anna", "a1", gateway, hz=440) as anna,
    ):
        await anna.registered()
        await anna.dial(gateway.uri("301"))
        offered = await gateway.wait(LegOffered)
        await anna.wait("CALL_ESTABLISHED")
        await anna.command("ausrc", f"aufile,{keys}")
        await anna.press("123")
        await asyncio.sleep(4.0)  # who hangs up sooner has not talked
        up = await until_said(gateway, offered.leg, Code.DTMF_DOUBLED)
        (fault,) = [each for each in up.legs[0].faults if each.code is Code.DTMF_DOUBLED]
        assert fault.layer is Layer.DIGITS
        assert "as RFC 4733 events and" in fault.what
        await anna.hang_up()
        await gateway.wait(LegEnded, lambda e: e.leg == offered.leg)
        assert said(await verdict(gateway.gateway, offered.leg)) == Code.DTMF_DOUBLED


async def test_a_telephone_that_sends_each_digit_as_event_and_by_info(tmp_path: Path) -> None:
    async with box(ANNA, LOOPBACK) as gateway:
        anna = Flow("anna", gateway, password="a1").call("301").talks().pause(2.5)
        for digit in "123":
            anna.steps.append(f'<nop><action><exec play_dtmf="{digit}"/></action></nop>')
            anna.inside(
                "INFO", body=f"Signal={digit}\nDuration=100\n", kind="application/dtmf-relay"
            ).gets(200).pause(1.0)
        anna.pause(1.0).hangs_up()
        async with anna.program(tmp_path) as program:
            offered = await gateway.wait(LegOffered)
            await finished(program)
        await gateway.wait(LegEnded, lambda e: e.leg == offered.leg)
        over = await verdict(gateway.gateway, offered.leg)
    faults = {fault.code: fault for fault in (*over.others, *over.legs[0].faults)}
    assert Code.DTMF_DOUBLED in faults, over
    assert "info and rfc4733" in faults[Code.DTMF_DOUBLED].what


# What is lost


async def test_the_library_of_a_line_dies_in_a_call(tmp_path: Path) -> None:
    pytest.importorskip("pyVoIP")
    need("kamailio", "baresip")
    users = {"gw": "gwpw", "dora": "dorapw"}
    async with Kamailio(tmp_path / "kam", users) as proxy:
        low = min(free_port(socket.SOCK_DGRAM), 64000)
        more = (
            f'[adapters.pyvoip]\nserver = "{proxy.address}"\nport = {proxy.port}\nuser = "gw"\n'
            f'password = "gwpw"\nlocal_ip = "127.0.0.1"\nrtp_ports = [{low}, {low + 60}]\n'
            '[[routes]]\nname = "t"\ncalled = "262"\ntargets = ["pyvoip/line:dora"]\n'
        )
        async with (
            box(ANNA, more) as gateway,
            phone(gateway.home, "anna", "a1", gateway, hz=440) as anna,
            phone(tmp_path, "dora", "dorapw", proxy.at, hz=440, answer="auto") as dora,
        ):  # fmt: skip
            await gateway.up("pyvoip/line")
            await anna.registered()
            await dora.registered()
            await anna.dial(gateway.uri("262"))
            answered = await gateway.wait(LegAnswered, lambda e: e.leg.startswith("pyvoip/"))
            await asyncio.sleep(1.0)
            adapter = gateway.gateway.hosts["pyvoip"].adapter
            assert isinstance(adapter, PyVoip)
            assert adapter.pid is not None
            os.kill(adapter.pid, signal.SIGKILL)
            await gateway.wait(LegEnded, lambda e: e.leg == answered.leg)
            await gateway.legs(2)
            over = await verdict(gateway.gateway, answered.leg)
    assert (over.code, over.layer, over.leg) == (Code.ADAPTER_LOST, Layer.GATEWAY, answered.leg)
    assert over.next == "gateway adapters"


# An adapter of somebody else's


@pytest.fixture
def door(tmp_path: Path) -> Iterator[ModuleType]:
    """The adapter that the documentation shows, as an integrator would install it."""
    blocks = re.findall(r"^```python\n# (\S+)\n(.*?)^```$", DOOR_PAGE.read_text(), re.M | re.S)
    for name, code in blocks:
        (tmp_path / name).write_text(code)
    sys.path.insert(0, str(tmp_path))
    try:
        yield importlib.import_module("door")
    finally:
        sys.path.remove(str(tmp_path))
        for name, _ in blocks:
            sys.modules.pop(name.removesuffix(".py"), None)


@asynccontextmanager
async def door_station(
    door: ModuleType, home: Path
) -> AsyncIterator[tuple[Box, Any, Program, str]]:
    """A door whose station has no audio device calls; socat is its serial line."""
    need("socat")
    near, far = home / "near", home / "far"
    line = Program(
        ["socat", f"pty,raw,echo=0,link={near}", f"pty,raw,echo=0,link={far}"], home / "socat"
    )
    points = [point for point in entry_points(group=GROUP) if point.name in ("sip", "loopback")]
    registry = Registry([*points, EntryPoint("door", "door:DoorBus", GROUP)])
    more = (
        f'[adapters.door]\nport = "{near}"\ndoors = {{ front = 3 }}\n'
        '[adapters.loopback.ports.t]\nnumber = "301"\ntone_hz = 425.0\n'
        '[[routes]]\nname = "door"\nfrom = ["door/front"]\ntargets = ["loopback/t"]\n'
    )
    async with line:
        await until(lambda: near.exists() and far.exists(), "the line is there")
        async with box(ANNA, more, registry=registry) as gateway:
            await gateway.up("door/front", "loopback/t")
            with far.open("r+b", buffering=0) as station:
                frame = sys.modules["door_frames"].frame
                station.write(frame(3, "CALL"))
                offered = await gateway.wait(LegOffered)
                await gateway.wait(LegAnswered, lambda e: e.leg.startswith("loopback/t#"))
                station.write(frame(3, "TALK"))
                await gateway.wait(LegAnswered, lambda e: e.leg == offered.leg)
                yield gateway, station, line, offered.leg


async def test_a_station_without_audio(door: ModuleType, tmp_path: Path) -> None:
    async with door_station(door, tmp_path) as (gateway, station, _, leg):
        up = await until_said(gateway, leg, Code.NO_STREAM)
        assert (up.layer, up.leg) == (Layer.MEDIA, leg)
        station.write(sys.modules["door_frames"].frame(3, "BYE"))
        await gateway.wait(LegEnded, lambda e: e.leg == leg)


async def test_the_line_of_an_adapter_is_pulled_in_a_call(door: ModuleType, tmp_path: Path) -> None:
    async with door_station(door, tmp_path) as (gateway, _, line, leg):
        assert line.process is not None
        line.process.terminate()
        await gateway.wait(AdapterLost)
        await gateway.wait(LegEnded, lambda e: e.leg == leg)
        await gateway.legs(2)
        over = await verdict(gateway.gateway, leg)
    assert (over.code, over.layer, over.leg) == (Code.ADAPTER_LOST, Layer.GATEWAY, leg)
    assert "door bus: " in over.sentence


def test_the_gateway_dies_in_a_call() -> None:
    daemon = Daemon()
    try:
        daemon.start()
        daemon.ok("dial", "loopback/alice", "loopback/bob", "--wait")
        daemon.wait_for_call()
        daemon.kill()
        daemon.start()
        found = json.loads(daemon.run("diag", "last", "--json").stdout)
    finally:
        daemon.close()
    assert (found["code"], found["layer"]) == (Code.CRASHED, Layer.GATEWAY)
    assert found["next"] == "gateway support-bundle"
