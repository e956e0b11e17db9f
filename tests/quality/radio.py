"""RTP to transmitters: one with a sound device in datagrams, and SvxLink behind its reflector."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from pathlib import Path

import numpy as np

from gateway.core.events import LegAnswered
from tests.interop.matrix_parties import TransceiverUser
from tests.interop.peers import until
from tests.interop.svxlink import Node, reflector
from tests.quality.judge import PCMU, RATES, Weather, chain
from tests.quality.networks import Heard, play, site
from tests.quality.report import Report
from tests.quality.speech import Material, resample, run

ROUTE = """
[[routes]]
name = "to {name}"
called = "{number}"
targets = ["radio/{name}"]
push_to_talk = "*#"
"""


class _Air(bytearray):
    """What is received, with the times at which it came."""

    def __init__(self) -> None:
        super().__init__()
        self.listened = Heard()

    def __iadd__(self, data: object) -> _Air:  # type: ignore[override,misc]
        if isinstance(data, bytes) and data:
            self.extend(data)
            self.listened.add(np.zeros(len(data) // 4, np.int16))
        return self


class Listener:
    """Somebody with a radio, near a transmitter whose audio is 16 kHz."""

    def __init__(self, number: str, air: _Air) -> None:
        self.number, self.air = number, air
        self._from = 0

    async def answer(self) -> None:
        """A radio is connected by itself."""

    async def listen(self) -> None:
        """From now on."""
        self._from = len(self.air)
        self.air.listened.on = True

    async def heard(self) -> Heard:
        """At 8 kHz, with the times at which the pieces came."""
        found = self.air.listened
        found.on = False
        raw = bytes(self.air[self._from :])
        pcm = resample(np.frombuffer(raw[: len(raw) & ~1], np.int16), 16000, 8000)
        ends = np.cumsum([len(piece) for piece in found.pieces])
        found.pieces = np.split(pcm[: ends[-1]], ends[:-1]) if len(ends) else []
        return found

    async def hang_up(self) -> None:
        """There is no hook."""


def _toml(name: str, config: dict[str, object]) -> str:
    def value(each: object) -> str:
        if isinstance(each, dict):
            return "{ " + ", ".join(f"{k} = {value(v)}" for k, v in each.items()) + " }"
        return json.dumps(each)

    lines = "".join(f"{key} = {value(each)}\n" for key, each in config.items())
    return f"[adapters.radio.radios.{name}]\ntransmit = true\n{lines}"


def _opus(material: Material) -> np.ndarray:
    """The trunk's codec, then Opus as the reflector's network uses it, by libopus."""
    pcm = resample(chain(material, PCMU, PCMU, Weather()), 8000, 16000)
    raw = ("-f", "s16le", "-ar", "16000", "-ac", "1")
    coded = run("ffmpeg", "-v", "error", *raw, "-i", "-", "-c:a", "libopus", "-b:a", "20000",
                "-application", "voip", "-frame_duration", "20", "-f", "ogg", "-",
                data=pcm.tobytes())  # fmt: skip
    out = run("ffmpeg", "-v", "error", "-i", "-", "-ar", "8000", "-f", "s16le", "-", data=coded)
    return np.frombuffer(out, np.int16)


async def measure(report: Report, home: Path, *, quick: bool = False) -> None:
    """A transmitter for each weather, and the node in good weather."""
    material = Material(home)
    await _transceivers(report, home / "sound", material, (RATES[0], RATES[2]) if quick else RATES)
    if not shutil.which("svxlink") or not shutil.which("svxreflector"):
        report.say("not measured: svxlink and svxreflector are not installed")
        return
    await _node(report, home / "node", material)


async def _transceivers(
    report: Report, home: Path, material: Material, weathers: tuple[Weather, ...]
) -> None:
    home.mkdir()
    async with contextlib.AsyncExitStack() as stack:
        places, text = [], ""
        for n, weather in enumerate(weathers):
            radio = TransceiverUser(f"radio/r{n}", f"1{n}", 1000)
            radio.received = _Air()
            stack.callback(radio.close)
            air = asyncio.create_task(radio.air())
            stack.callback(air.cancel)
            places.append((Listener(f"1{n}", radio.received), weather))
            text += _toml(f"r{n}", radio.config)
        text += "".join(ROUTE.format(name=f"r{n}", number=f"1{n}") for n in range(len(weathers)))
        gateway, trunk = await stack.enter_async_context(site(home, text))
        await gateway.up(*(f"radio/r{n}" for n in range(len(weathers))))
        await play(report, "radio", "PCMU to a transmitter", gateway, trunk, places, material,
                   None, home, press="*")  # fmt: skip


async def _node(report: Report, home: Path, material: Material) -> None:
    home.mkdir()
    async with Node(home / "svx") as node:
        node.heard = _Air()
        text = _toml("north", {"reflector": reflector(node)})
        text += ROUTE.format(name="north", number="10")
        async with site(home, text) as (gateway, trunk):
            await gateway.up("radio/north")
            places = [(Listener("10", node.heard), Weather())]
            await play(report, "radio", "PCMU to SvxLink", gateway, trunk, places, material,
                       _opus(material), home, press="*")  # fmt: skip
            await gateway.wait(LegAnswered)
            await until(lambda: node.ptt != "", "the node has transmitted")
