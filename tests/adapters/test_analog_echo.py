"""Echo of a two-wire line: the virtual card's hybrid reflects, the gateway takes it away."""

from __future__ import annotations

import asyncio
import shutil
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.adapters.analog import Analog
from gateway.config import ConfigErrors
from gateway.core.events import LegAnswered, LegRinging
from gateway.media.streams import StreamStats
from gateway.testing import TestHost
from tests.cards import needs_card
from tests.lines import HARVARD, OTHER, at_level, dbm0, spoken, white

from .analog_stand import stand

pytestmark = needs_card
needs_speech = pytest.mark.skipif(
    not (shutil.which("espeak-ng") and shutil.which("sox")), reason="needs espeak-ng and sox"
)

PORT: dict[str, Any] = {"kind": "fxs", "ring_ms": (400, 600)}


async def answered(on, **fields: Any) -> tuple[str, Any]:
    """A telephone whose handset is lifted, and its stream."""
    phone = on.card.telephone(1)
    leg = on.host.dial("fxs/1", **fields)
    await on.host.wait_for(LegRinging, leg=leg)
    await phone.wait_for("ringing", "on")
    await phone.lift()
    await on.host.wait_for(LegAnswered, leg=leg)
    return leg, on.host.stream(leg)


def recorded(path: Path) -> np.ndarray:
    """Two rows: received and sent, as the engine wrote them."""
    with wave.open(str(path)) as file:
        raw = file.readframes(file.getnframes())
    return np.frombuffer(raw, np.int16).reshape(-1, 2).T.astype(float)


async def kept(stream: Any, seconds: float, path: Path) -> np.ndarray:
    """So long of both directions."""
    stream.record(str(path))
    await asyncio.sleep(seconds)
    stream.stop_record()
    for _ in range(500):  # it is written behind the engine's back
        await asyncio.sleep(0.02)
        with_header = path.stat().st_size if path.exists() else 0
        if with_header > seconds * 8000 * 4 * 0.5:
            await asyncio.sleep(0.2)
            return recorded(path)
    raise AssertionError("nothing was recorded")


async def learned(stream: Any) -> StreamStats:
    """Converged; a machine that is busy otherwise takes longer than its second."""
    for _ in range(40):
        await asyncio.sleep(0.25)
        found: StreamStats = stream.stats()
        if (found.erle_db or 0.0) > 20:
            break
    return found


@needs_speech
async def test_a_hybrids_echo_is_taken_away(tmp_path: Path) -> None:
    ports = {"1": PORT | {"echo_cancel_ms": 32, "echo_suppress": False}}
    async with stand(ports) as on:
        # The card has a canceller of its own: were it on as well, little would be left to find.
        await on.card.configure()
        await on.card.echo(1, 10, 6)
        _, stream = await answered(on)
        stream.play_samples(np.tile(spoken(HARVARD), 4).tobytes())
        for turn in range(4):  # a slip of a machine that stalls moves the echo: learned anew
            found = await learned(stream)
            heard, sent = await kept(stream, 1.5, tmp_path / f"{turn}.wav")
            gone = dbm0(sent) - dbm0(heard)
            if gone > 28:
                break
        assert dbm0(sent) > -25
        assert gone > 18, "10 dB by the hybrid, the rest by the canceller"
        assert found.erl_db == pytest.approx(10, abs=2.5)
        assert found.erle_db is not None
        assert found.erle_db > 8
        # The telephone speaks meanwhile, and is heard.
        near = spoken(OTHER, "en+f3", -16)[:9600]
        await on.card.telephone(1).say(near.tobytes())
        heard, _ = await kept(stream, 2.2, tmp_path / "b.wav")
        quarter = near[2400:4800].astype(float)
        at = int(np.argmax(np.correlate(heard, quarter, "valid")))
        assert np.corrcoef(heard[at : at + len(quarter)], quarter)[0, 1] > 0.7


async def test_without_the_option_it_comes_back(tmp_path: Path) -> None:
    async with stand({"1": PORT | {"echo_ms": 0}}) as on:
        await on.card.echo(1, 10, 6)
        _, stream = await answered(on)
        stream.play_samples(white(6).tobytes())
        heard, sent = await kept(stream, 1.5, tmp_path / "a.wav")
        assert dbm0(sent) - dbm0(heard) == pytest.approx(10, abs=2)
        found = stream.stats()
        assert (found.echo_tail_ms, found.erl_db, found.erle_db) == (0, None, None)


async def test_a_path_that_is_measured_is_left_as_it_is() -> None:
    ports = {"1": PORT | {"echo_cancel_ms": 32, "agc": {}, "gate": {}}}
    async with stand(ports) as on:
        await on.card.echo(1, 10, 6)
        leg, stream = await answered(on, clear=True)
        assert stream.stats().echo_tail_ms == 0
        assert stream.stats().agc_db is None
        assert on.host.stream(leg) is not None


async def test_a_quiet_telephone_is_made_louder_and_its_noise_is_not(tmp_path: Path) -> None:
    ports = {
        "1": PORT
        | {
            "agc": {"target_dbm0": -18, "max_gain_db": 15, "release_ms": 200},
            "gate": {"dbm0": -48, "hold_ms": 100},
        }
    }
    async with stand(ports) as on:
        _, stream = await answered(on)
        phone = on.card.telephone(1)
        tone = at_level(np.sin(2 * np.pi * 500 * np.arange(12000) / 8000), -30)
        await phone.say(np.concatenate([tone, white(1.5, -55)]).tobytes())
        heard, _ = await kept(stream, 2.6, tmp_path / "a.wav")
        levels = np.array([dbm0(heard[at : at + 160]) for at in range(0, len(heard) - 159, 160)])
        assert np.median(levels[levels > -24]) == pytest.approx(-18, abs=1.5)
        assert np.median(levels[-30:]) < -65


@pytest.mark.parametrize(
    ("port", "said"),
    [
        ({"echo_cancel_ms": 20}, "echo_cancel_ms 20 is none of 0, 16, 32, 64, 128"),
        ({"echo_cancel_ms": "long"}, r"ports\.echo_cancel_ms"),
        ({"echo_suppress": 1}, r"ports\.echo_suppress"),
        ({"agc": {"target_dbm0": 3}}, r"ports\.agc\.target_dbm0"),
        ({"agc": {"max_gain_db": 60}}, r"ports\.agc\.max_gain_db"),
        ({"agc": {"loud": 1}}, r"ports\.agc"),
        ({"gate": {"dbm0": -99}}, r"ports\.gate\.dbm0"),
        ({"gate": {"hold_ms": -1}}, r"ports\.gate\.hold_ms"),
    ],
)
def test_bad_values_are_refused_by_name(port: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigErrors, match=said):
        TestHost("analog").make(Analog, {"ports": {"1": PORT | port}})
