"""Path tests at foreign far ends: SIPp that echoes, baresip as help point, lines of the card."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
from array import array
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.core.events import PathTested, PathTestKind, PathTestRequested
from gateway.lab.linecard import LineCard
from gateway.lab.softphone import Softphone, free_port
from gateway.pathtests import SECONDS, Limits, signal_of
from gateway.testing.audio import tone, write_wav
from tests.cards import needs_card
from tests.interop.peers import Box, assert_hears, box, need, phone, sipp, until

pytestmark = pytest.mark.interop
CARRIER = "127.0.2.30"
TRUNK = f"""
codecs = ["PCMU"]
[adapters.sip.trunks.carrier]
peer = "sip:{CARRIER}:{{port}}"
keepalive_s = 0
"""
HELP_POINTS = """
codecs = ["{codec}"]
digest = ["MD5"]
[adapters.sip.phones.help1]
password = "a1"
number = "201"
auto_answer = true
[adapters.sip.phones.help2]
password = "b1"
number = "202"
auto_answer = true
"""
ANALOG = """
[adapters.analog]
device_dir = "{card}"
[adapters.analog.ports.1]
kind = "fxs"
[adapters.analog.ports.2]
kind = "fxs"
[adapters.analog.ports.3]
kind = "fxo"
dial_tone_s = 0.0
dial_delay_s = 0.7
"""


async def ask(gateway: Box, endpoint: str, kind: str, **more: Any) -> PathTested:
    """Let the gateway test a path, as the command does."""
    daemon = gateway.gateway
    which = PathTestKind(kind)
    place, _, number = endpoint.partition(":")
    options = {name: more.pop(name) for name in ("expect", "baseline") if name in more}
    fields: dict[str, Any] = {
        "test": daemon.mint_id(),
        "endpoint": place,
        "number": number,
        "kind": which,
        "signal": signal_of(which, 1004.0),
        "seconds": SECONDS[which],
        "trace": daemon.mint_id(),
    }
    request = PathTestRequested(**(fields | more))
    result = await daemon.tester.test(request, limits=Limits(), **options)
    # The next test would find the line in use.
    while daemon.switchboard.legs:  # noqa: ASYNC110 (of another process)
        await asyncio.sleep(0.02)
    return result


async def ask_well(gateway: Box, *about: str, **more: Any) -> PathTested:
    """The same; again when a machine that is busy with other things has lost packets."""
    for _ in range(4):
        found = await ask(gateway, *about, **more)
        if found.figures.get("snr_db", 0.0) > 10.0:
            break
    return found


async def test_a_carrier_that_echoes_is_a_closed_loop() -> None:
    port = free_port(socket.SOCK_DGRAM)
    async with box(TRUNK.format(port=port)) as gateway:
        async with sipp(
            gateway.home / "sipp", "uas.xml", "", port=port, arguments=("-rtp_echo",)
        ) as carrier:
            await gateway.up("sip/carrier")
            found = await ask(gateway, "sip/carrier:1234", "loop")
            assert await carrier.done() == 0, carrier.said()
        legs = await gateway.legs(1)
    assert (found.ok, found.verdict) == (True, "closed"), found
    assert abs(found.figures["attenuation_db"]) < 0.5
    assert found.figures["snr_db"] > 10
    # There and back through our own jitter buffer, on one machine.
    assert 10 < found.figures["delay_ms"] < 300
    (leg,) = legs.values()
    assert (leg.called, leg.cause) == ("1234", "normal")


@contextlib.asynccontextmanager
async def help_points(
    tmp_path: Path, sound: Path | None, *extra: str, codec: str = "PCMU"
) -> AsyncIterator[Box]:
    """One baresip with two numbers; with `extra` their audio is another than the file `sound`."""
    need("baresip")
    rate = 16000 if codec == "G722" else 8000
    async with box(HELP_POINTS.format(codec=codec)) as gateway:
        accounts = "\n".join(
            f"<sip:{user}@127.0.0.1:{gateway.port}>;auth_pass={password};answermode=auto"
            f";audio_codecs={codec}/{rate}/1;regint=60{audio}"
            for user, password, audio in zip(
                ("help1", "help2"), ("a1", "b1"), extra or ("", ""), strict=True
            )
        )
        silence = tmp_path / "silence.wav"
        write_wav(silence, array("h", bytes(rate * 60)), rate=rate)
        phones = Softphone(
            accounts, sound or silence, tmp_path / "help", extra="call_hold_other_calls no"
        )
        async with phones:
            await gateway.up("sip/help1", "sip/help2")
            yield gateway


ROOM = (
    ";audio_source=aubridge,here;audio_player=aubridge,here",
    ";audio_source=aubridge,there;audio_player=aubridge,there",
)
"""Loudspeaker and microphone of each are in one room."""
NEIGHBOURS = (
    ";audio_source=aubridge,there;audio_player=aubridge,here",
    ";audio_source=aubridge,here;audio_player=aubridge,there",
)
"""Each hears the other's loudspeaker."""


@pytest.mark.parametrize("codec", ["PCMU", "G722"])
async def test_a_help_point_hears_itself(tmp_path: Path, codec: str) -> None:
    async with help_points(tmp_path, None, *ROOM, codec=codec) as gateway:
        first = await ask_well(gateway, "sip/help1", "acoustic", baseline=True)
        again = await ask_well(gateway, "sip/help1", "acoustic", level_dbm0=-13.0)
    assert (first.ok, first.verdict) == (True, "ok"), first
    assert abs(first.figures["attenuation_db"]) < 3.0
    assert (again.ok, again.verdict) == (True, "ok"), again
    # It is the path that is compared, not the level.
    assert abs(again.figures["change_db"]) < 1.5, (first, again)


async def test_the_neighbour_listens(tmp_path: Path) -> None:
    async with help_points(tmp_path, None, *NEIGHBOURS) as gateway:
        found = await ask_well(gateway, "sip/help1", "acoustic", listen="sip/help2")
    assert (found.ok, found.verdict, found.listen) == (True, "ok", "sip/help2"), found


HALL = """
[adapters.page]
interface = "127.0.0.1"
[adapters.page.calendar]
clock = "ignore"
[adapters.page.zones.hall]
group = "{group}:{port}"
"""


async def test_a_zone_is_heard_by_the_microphone_in_the_hall(tmp_path: Path) -> None:
    """socat is the hall: it takes what is sent to the horns' multicast group to the telephone."""
    need("socat", "sipsak", "sipp")
    group, port = f"239.255.{os.getpid() % 250}.71", free_port(socket.SOCK_DGRAM)
    sip = free_port(socket.SOCK_DGRAM)
    zone = HALL.format(group=group, port=port)
    async with box(HELP_POINTS.format(codec="PCMU"), zone) as gateway:
        # From the port at which SIPp is called afterwards.
        register = ["sipsak", "-U", "--symmetric", "--local-port", str(sip), "-u", "help1"]
        register += ["-a", "a1", "-x", "600", "-C", f"sip:help1@127.0.0.1:{sip}"]
        register += ["-s", f"sip:help1@127.0.0.1:{gateway.port}"]
        registered = await asyncio.create_subprocess_exec(*register, stdout=subprocess.DEVNULL)
        assert await registered.wait() == 0
        await gateway.up("sip/help1", "page/hall")
        daemon = gateway.gateway
        sips = sipp(
            gateway.home / "sipp", "uas.xml", "", address="127.0.0.1", port=sip, calls=9,
            arguments=("-timeout", "90s"),
        )  # fmt: skip
        # SIPp is the telephone's signalling, its microphone is in the hall.
        scenario, media = sips.directory / "uas.xml", free_port(socket.SOCK_DGRAM)
        scenario.write_text(scenario.read_text().replace("[media_port]", str(media)))
        async with sips:
            for _ in range(4):
                # The hall's end of the telephone's audio is known when the call stands.
                testing = asyncio.create_task(ask(gateway, "page/hall", "acoustic", **LISTEN))
                async with hall(daemon, media, group, port):
                    found = await testing
                if found.ok:
                    break
            dead = await ask(gateway, "page/hall", "acoustic", **LISTEN)
    assert (found.ok, found.verdict, found.listen) == (True, "ok", "sip/help1"), found
    assert abs(found.figures["attenuation_db"]) < 3.0
    # Without the hall between them nothing gets from one to the other.
    assert (dead.ok, dead.verdict) == (False, "microphone silent"), dead


LISTEN = {"listen": "sip/help1"}


@contextlib.asynccontextmanager
async def hall(daemon: Any, media: int, group: str, port: int) -> AsyncIterator[None]:
    """As soon as the telephone listens: what the horns play comes back from where it sends."""

    def stream() -> Any:
        legs = [leg for leg in daemon.legs if leg.startswith("sip/help1#")]
        return daemon.patchbay.stream(legs[0]) if legs else None

    await until(lambda: stream() is not None, "the telephone's call")
    horns = f"UDP4-RECV:{port},bind={group},reuseaddr,ip-add-membership={group}:127.0.0.1"
    microphone = f"UDP4-DATAGRAM:127.0.0.1:{stream().local[1]},bind=127.0.0.1:{media},reuseaddr"
    walls = await asyncio.create_subprocess_exec("socat", "-u", horns, microphone)
    try:
        yield
    finally:
        walls.terminate()
        await walls.wait()


async def test_a_help_point_with_a_dead_loudspeaker(tmp_path: Path) -> None:
    noise = tmp_path / "hum.wav"
    write_wav(noise, tone(440.0, 30.0), rate=8000)
    async with help_points(tmp_path, noise) as gateway:
        loudspeaker = await ask(gateway, "sip/help1", "acoustic")
        loop = await ask(gateway, "sip/help1", "loop")
    assert (loudspeaker.ok, loudspeaker.verdict) == (False, "loudspeaker silent")
    assert (loop.ok, loop.verdict) == (False, "open")
    assert "something else" in loop.detail


async def test_a_help_point_that_answers_with_silence(tmp_path: Path) -> None:
    async with help_points(tmp_path, None) as gateway:
        microphone = await ask(gateway, "sip/help1", "acoustic")
        loop = await ask(gateway, "sip/help1", "loop")
        open_end = await ask(gateway, "sip/help1", "loop", expect="open")
        quiet = await ask(gateway, "sip/help1", "tone", seconds=2.0)
    assert (microphone.ok, microphone.verdict) == (False, "microphone silent")
    assert (loop.ok, loop.verdict, loop.detail) == (False, "open", "nothing comes back")
    assert (open_end.ok, open_end.verdict) == (True, "open")
    assert (quiet.ok, quiet.verdict) == (False, "silent")


async def test_the_tone_arrives_and_hum_is_found(tmp_path: Path) -> None:
    hum = tmp_path / "hum.wav"
    need("sox")
    command = ["sox", "-n", "-r", "8000", "-b", "16", "-c", "1", str(hum)]
    command += ["synth", "30", "sine", "50", "gain", "-30"]
    subprocess.run(command, check=True)  # noqa: ASYNC221 (before anything runs)
    sip = HELP_POINTS.format(codec="PCMU")
    async with (
        box(sip) as gateway,
        phone(tmp_path, "help1", "a1", gateway, hz=1000, answer="auto") as plain,
    ):
        await gateway.up("sip/help1")
        await ask(gateway, "sip/help1", "tone", seconds=4.0)
        heard = plain.heard()
    assert_hears(heard, 1004)
    async with help_points(tmp_path, hum) as gateway:
        found = await ask(gateway, "sip/help1", "tone", seconds=3.0)
    assert (found.ok, found.verdict) == (False, "hum"), found
    assert found.figures["hum_hz"] == 50.0
    assert found.figures["hum_dbm0"] == pytest.approx(-27.0, abs=1.5)


async def lifted(gateway: Box, lines: LineCard, port: int) -> PathTested:
    """A test of a telephone that somebody lifts when it rings."""
    telephone = lines.telephone(port)
    while True:
        since = len(lines.facts)
        testing = asyncio.create_task(ask(gateway, f"fxs/{port}", "loop"))
        ringing = asyncio.create_task(telephone.wait_for("ringing", since=since, within=20))
        await asyncio.wait((testing, ringing), return_when=asyncio.FIRST_COMPLETED)
        if ringing.done():
            break
        # The port is still busy with the call before.
        ringing.cancel()
        assert not testing.result().judged, testing.result()
    await telephone.lift()
    found = await testing
    await telephone.hang_up()
    return found


@needs_card
async def test_a_telephone_line(tmp_path: Path) -> None:
    async with (
        LineCard.start(fxs=2, fxo=1) as lines,
        box('codecs = ["PCMU"]', ANALOG.format(card=lines.directory)) as gateway,
    ):
        await gateway.up("fxs/1", "fxs/2", "fxo/3")
        # On hook: it rings, and nobody is there.
        nobody = await ask(gateway, "fxs/1", "loop", ring_s=3.0)
        rung = [fact for fact in lines.facts if (fact.port, fact.what) == (1, "ringing")]
        # A good hybrid, a bad one, a perfect one: somebody lifts the handset.
        found = {}
        for loss_db in (14.0, 2.0, None):
            await lines.echo(1, loss_db, 3)
            found[loss_db] = await lifted(gateway, lines, 1)
        # Off hook by himself: it is his line.
        await lines.telephone(2).lift()
        for _ in range(5):
            taken = await ask(gateway, "fxs/2", "loop", ring_s=1.0)
            if not taken.judged:
                break
    assert (nobody.ok, nobody.verdict) == (False, "no answer")
    assert rung
    assert (taken.judged, taken.verdict) == (False, "put off"), taken
    assert (found[14.0].ok, found[14.0].verdict) == (True, "hybrid echo"), found[14.0]
    assert found[14.0].figures["erl_db"] == pytest.approx(14.0, abs=1.0)
    assert (found[2.0].ok, found[2.0].verdict) == (False, "wrong level"), found[2.0]
    assert found[2.0].figures["erl_db"] == pytest.approx(2.0, abs=1.0)
    assert (found[None].ok, found[None].verdict) == (False, "open"), found[None]
