"""What foreign telephones send: digital silence, clipped speech, nothing; what is said of it."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.control.metrics import exposition
from gateway.control.views import calls
from gateway.core.actions import Hold
from gateway.core.events import (
    AlarmCleared,
    AlarmRaised,
    AudioImpaired,
    AudioRestored,
    Impairment,
    LegAnswered,
    MediaFlowing,
)
from gateway.lab.softphone import Softphone
from tests.interop.peers import Box, box, need, phone, sipp, until

pytestmark = pytest.mark.interop

SITE = """
digest = ["MD5"]
codecs = ["PCMU"]
comfort_noise = true
{phones}
[adapters.sip.trunks.carrier]
peer = "sip:127.0.2.30:5060"
keepalive_s = 0
[supervision]
silence_s = 2.0
clipping_s = 2.0
one_way_s = 2.0
alarms = ["one-way"]
[adapters.loopback]
[adapters.loopback.ports.t1]
number = "901"
tone_hz = 425.0
[adapters.loopback.ports.t2]
number = "902"
tone_hz = 425.0
[adapters.loopback.ports.t3]
number = "903"
tone_hz = 425.0
[adapters.loopback.ports.t4]
number = "904"
tone_hz = 425.0
[[routes]]
name = "from carrier"
from = ["sip/carrier"]
called = "904"
targets = ["loopback/t4"]
[[routes]]
name = "bad audio"
on = "alarm"
from = ["gateway/audio"]
kind = ["audio"]
targets = ["loopback/t3"]
"""
USERS = ("quiet", "loud", "normal")


def sox(path: Path, *arguments: str) -> Path:
    """A WAV file of 30 s at 8 kHz, made by a foreign program."""
    subprocess.run(
        ["sox", "-n", "-r", "8000", "-b", "16", "-c", "1", str(path), *arguments],
        check=True, timeout=20, capture_output=True,
    )  # fmt: skip
    return path


def microphones(home: Path) -> dict[str, Path]:
    """Nothing at all; a tone far over the scale; syllables of noise with pauses."""
    words = ["synth", "0.25", "pinknoise", "vol", "0.4", "pad", "0", "0.15", "repeat", "4"]
    pauses = ["pad", "0", "1.2", "repeat", "10"]
    return {
        "quiet": sox(home / "quiet.wav", "synth", "30", "sine", "440", "vol", "0"),
        "loud": sox(home / "loud.wav", "synth", "30", "sine", "440", "gain", "12"),
        "normal": sox(home / "normal.wav", *words, *pauses),
    }


@contextlib.asynccontextmanager
async def site(home: Path) -> AsyncIterator[tuple[Box, dict[str, Softphone]]]:
    """The gateway, and telephones that speak so."""
    need("baresip", "sox")
    phones = "".join(
        f'[adapters.sip.phones.{user}]\npassword = "p"\nnumber = "20{n}"\n'
        for n, user in enumerate(USERS)
    )
    microphone = microphones(home)
    async with contextlib.AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(box(SITE.format(phones=phones)))
        found = {}
        for user in USERS:
            one = phone(home, user, "p", gateway, hz=440)
            one.microphone = microphone[user]
            found[user] = await stack.enter_async_context(one)
        await gateway.up(*(f"sip/{user}" for user in USERS))
        yield gateway, found


def told(gateway: Box, leg: str) -> list[tuple[str, str]]:
    """What was said of a leg."""
    return [
        (type(e.event).__name__, str(e.event.impairment))
        for e in gateway.seen
        if isinstance(e.event, AudioImpaired | AudioRestored) and e.event.leg == leg
    ]


async def test_silence_and_clipping_of_telephones_and_nothing_of_a_normal_call(
    tmp_path: Path,
) -> None:
    async with site(tmp_path) as (gateway, phones):
        legs = {}
        for user, number in zip(USERS, ("901", "902", "903"), strict=True):
            await phones[user].dial(gateway.uri(number))
            answered = await gateway.wait(
                LegAnswered, lambda e, u=user: e.leg.startswith(f"sip/{u}#")
            )
            legs[user] = answered.leg
        silent = await gateway.wait(AudioImpaired, lambda e: e.leg == legs["quiet"])
        clipped = await gateway.wait(AudioImpaired, lambda e: e.leg == legs["loud"])
        assert silent.impairment is Impairment.SILENCE
        assert silent.level_dbm0 is not None
        assert silent.level_dbm0 < -60
        assert clipped.impairment is Impairment.CLIPPING
        assert clipped.percent is not None
        assert clipped.percent > 50
        impaired = {
            leg.id: leg.impaired for call in await calls(gateway.gateway) for leg in call.legs
        }
        assert impaired[legs["quiet"]] == ["silence"]
        assert impaired[legs["loud"]] == ["clipping"]
        figures = exposition(gateway.gateway, "0").decode()
        for name in ("audio_impairments_total", "legs_impaired"):
            for what in ("clipping", "silence"):
                line = f'crosspoint_{name}{{impairment="{what}",network="sip"}} 1.0'
                assert line in figures, figures
        # On hold nobody has to speak: it is over.
        host = gateway.gateway.hosts["sip"]
        host.adapter.hold(Hold(leg=legs["quiet"]))
        restored = await gateway.wait(AudioRestored, lambda e: e.leg == legs["quiet"])
        assert restored.lasted_s >= silent.seconds
        flowing = await gateway.wait(MediaFlowing, lambda e: e.leg == legs["normal"])
        assert flowing
        assert told(gateway, legs["normal"]) == []
        loopback = [e for e in gateway.seen if getattr(e.event, "leg", "").startswith("loopback/")]
        assert loopback
        assert not [e for e in loopback if isinstance(e.event, AudioImpaired)]


async def test_a_caller_who_sends_nothing_is_one_way_audio_and_an_alarm(tmp_path: Path) -> None:
    async with site(tmp_path) as (gateway, _):
        caller = sipp(
            tmp_path / "sipp", "diag.xml", f"127.0.0.1:{gateway.port}", port=5060,
            arguments=("-s", "904", "-key", "family", "IP4", "-key", "caddr", "127.0.2.30",
                       "-key", "mport", "20000",
                       "-key", "way", "sendrecv", "-key", "profile", "AVP", "-key", "more", "x",
                       "-d", "8000"),
        )  # fmt: skip
        async with caller:
            found = await gateway.wait(AudioImpaired, lambda e: e.leg.startswith("sip/carrier#"))
            assert found.impairment is Impairment.ONE_WAY
            assert found.level_dbm0 is None
            raised = await gateway.wait(AlarmRaised)
            assert (raised.endpoint, raised.alarm) == ("gateway/audio", "sip/carrier one-way")
            # The route tells somebody; the alarm is over with the call.
            await gateway.wait(LegAnswered, lambda e: e.leg.startswith("loopback/t3#"))
            assert await caller.done() == 0
        cleared = await gateway.wait(AlarmCleared)
        assert cleared.alarm == raised.alarm
        await until(lambda: not gateway.gateway.switchboard.calls, "no call any more")
