"""A radio tested with another one: hamlib keys it, and SoX hears what went over the air."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from array import array
from collections.abc import AsyncIterator
from pathlib import Path
from random import randrange
from typing import Any

import pytest

from gateway.core.events import InputChanged, LegOffered, PathTested
from tests.interop.matrix_parties import TransceiverUser
from tests.interop.peers import Box, box, need, until
from tests.interop.test_pathtest import ask
from tests.interop.test_radio import Rig

pytestmark = pytest.mark.interop

RATE = 16000


class Air:
    """What one radio sends while hamlib says that it is keyed, the other one receives."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.here = TransceiverUser("radio/a", "", 500)
        self.there = TransceiverUser("radio/b", "", 600)
        self.heard = bytearray()
        """All that was on the air, 16 kHz."""
        self.keyings = 0
        self.aerial = True
        self.microphone = True

    async def be(self) -> None:
        """Until cancelled."""
        keyed = False
        while True:
            before, keyed = keyed, await asyncio.to_thread(self.rig.keyed) is True
            if keyed != before:
                self.keyings += keyed
                if self.aerial:
                    os.write(self.there.carrier[0], b"T" if keyed else b"R")
            for _ in range(4):
                self._carry(keyed)
                await asyncio.sleep(0.01)

    def _carry(self, keyed: bool) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                piece = self.here._audio.recv(65536)
                if keyed and self.aerial:
                    # What a receiver makes of a carrier alone.
                    piece = piece if self.microphone else _noise(len(piece))
                    self.heard += piece
                    self.there._audio.sendto(piece, ("127.0.0.1", self.there.port))

    def config(self) -> str:
        """Both radios; only the first may transmit."""
        key = {"by": "rigctld", "port": self.rig.port}
        return "".join(
            f"[adapters.radio.radios.{name}]\n"
            + "".join(f"{field} = {_toml(value)}\n" for field, value in fields.items())
            for name, fields in {
                "a": self.here.config | {"key": key, "transmit": True},
                "b": self.there.config | {"transmit": False, "calls": "0900"},
            }.items()
        )


def _noise(n_bytes: int) -> bytes:
    """16-bit noise at about -56 dBFS."""
    return array("h", (randrange(-100, 100) for _ in range(n_bytes // 2))).tobytes()


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_toml(each)}" for name, each in value.items()) + " }"
    return str(value).lower() if isinstance(value, bool | int) else f'"{value}"'


@contextlib.asynccontextmanager
async def site(home: Path) -> AsyncIterator[tuple[Box, Air]]:
    need("rigctld", "sox")
    (home / "box").mkdir()
    async with Rig(home / "rig", "-P", "RIG") as rig:
        air = Air(rig)
        running = asyncio.create_task(air.be())
        try:
            async with box("", air.config(), home=home / "box") as gateway:
                await gateway.up("radio/a", "radio/b")
                yield gateway, air
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            air.here.close()
            air.there.close()


def level_db(file: Path, band: str) -> float:
    """What SoX measures of a band of a recording, dB of full scale."""
    done = subprocess.run(
        ["sox", "-t", "raw", "-r", str(RATE), "-e", "signed", "-b", "16", "-c", "1", str(file),
         "-n", "sinc", band, "stats"],
        check=True, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    (line,) = (text for text in done.stderr.splitlines() if text.startswith("RMS lev dB"))
    return float(line.split()[-1])


async def tried(gateway: Box, verdict: str) -> PathTested:
    """A test of one radio by the other; of a busy machine the best of some."""
    for _ in range(4):
        found = await ask(gateway, "radio/a", "acoustic", listen="radio/b", transmit=True)
        if found.verdict == verdict:
            break
    return found


async def test_what_one_radio_sends_another_one_receives(tmp_path: Path) -> None:
    async with site(tmp_path) as (gateway, air):
        refused = await ask(gateway, "radio/a", "acoustic", listen="radio/b")
        assert "would transmit" in refused.detail
        refused = await ask(gateway, "radio/b", "acoustic", listen="radio/a", transmit=True)
        assert "transmitting is disabled on radio/b" in refused.detail
        assert (air.keyings, air.heard) == (0, b"")
        found = await tried(gateway, "ok")
        assert (found.ok, found.verdict) == (True, "ok"), found
        await until(lambda: air.rig.keyed() is False, "released")
        assert abs(found.figures["attenuation_db"]) < 6.0
        assert not [event for event in gateway.seen if isinstance(event, LegOffered)]
        file = tmp_path / "air.raw"
        file.write_bytes(air.heard)
    # The sweep, and little beside its band: what a busy machine loses makes clicks.
    assert level_db(file, "200-3400") > -30
    assert level_db(file, "4500-7000") < level_db(file, "200-3400") - 10


async def test_nothing_is_received_or_nothing_but_a_carrier(tmp_path: Path) -> None:
    async with site(tmp_path) as (gateway, air):
        air.aerial = False
        found = await tried(gateway, "not received")
        assert (found.ok, found.verdict) == (False, "not received"), found
        assert air.keyings
        air.aerial, air.microphone = True, False
        found = await tried(gateway, "no modulation")
        assert (found.ok, found.verdict) == (False, "no modulation"), found


@pytest.mark.parametrize("at", ["radio/a", "radio/b"])
async def test_nobody_is_transmitted_over(tmp_path: Path, at: str) -> None:
    async with site(tmp_path) as (gateway, air):
        user = air.here if at == "radio/a" else air.there
        os.write(user.carrier[0], b"T")
        await gateway.wait(
            InputChanged, lambda e: (e.endpoint, e.input, e.value) == (at, "carrier", 1.0)
        )
        found = await ask(gateway, "radio/a", "acoustic", listen="radio/b", transmit=True)
        assert (found.verdict, found.detail) == ("put off", f"the channel of {at} is busy")
        assert air.keyings == 0
