"""Automatic gain control and noise gate of a leg: levels before and after, by numpy."""

from __future__ import annotations

import numpy as np
import pytest
from peers import Peer, listen, pace, sine, talk

from gateway.errors import UsageError
from gateway.media.shaping import GainControl, NoiseGate
from gateway.media.streams import NullSpec, StreamOptions, StreamStats
from tests.lines import dbm0, white

SILENT = -65.0
"""A-law has no zero: its smallest value lies at -66 dBm0."""


def levels(pcm: np.ndarray, n: int = 160) -> np.ndarray:
    """dBm0 of each 20 ms."""
    return np.array([dbm0(pcm[at : at + n]) for at in range(0, len(pcm) - n + 1, n)])


async def through(engine, peer, leg, pcm: np.ndarray, **options) -> tuple[np.ndarray, StreamStats]:
    """What an RTP peer hears of another one whose leg has these options, and the counters of that
    leg while the signal still comes."""
    a, b = peer(8), peer(8)
    sa, sb = leg(a, StreamOptions(**options)), leg(b)
    engine.open_bridge("x")
    engine.join("x", sa)
    engine.join("x", sb)
    signal = talk(a, sa.local, pcm)
    gains: list[StreamStats] = []

    def look(i: int) -> None:
        if i == round(len(pcm) / 160) - 10:
            gains.append(sa.stats())

    await pace(len(pcm) / 8000, signal, look, listen(b))
    await pace(0.2, listen(b))
    return b.pcm().astype(float), gains[0]


@pytest.mark.parametrize(
    ("before", "after"), [(-28.0, -18.0), (-8.0, -18.0), (-18.0, -18.0), (-38.0, -26.0)]
)
async def test_talkers_are_brought_to_one_level(engine, peer, leg, before, after):
    agc = GainControl(target_dbm0=-18, max_gain_db=12, attack_ms=40, release_ms=200)
    heard, found = await through(engine, peer, leg, sine(1009, 1.6, level_dbm0=before), agc=agc)
    assert np.median(levels(heard)[-40:-15]) == pytest.approx(after, abs=1.0)
    assert found.loudest_dbm0 == pytest.approx(before, abs=0.5), "measured as it came"
    assert found.agc_db == pytest.approx(after - before, abs=2.0)


async def test_the_gate_is_silent_where_nobody_speaks(engine, peer, leg):
    pcm = np.concatenate([white(0.8, -50), sine(700, 0.6, level_dbm0=-28), white(1.0, -50)])
    heard, _ = await through(
        engine, peer, leg, pcm, agc=GainControl(max_gain_db=12, attack_ms=40, release_ms=100),
        gate=NoiseGate(dbm0=-42, hold_ms=100),
    )  # fmt: skip
    found = levels(heard)
    loud = found > -25
    assert 12 <= loud.sum() <= 50, "the word, 600 ms"
    assert np.median(found[loud]) == pytest.approx(-18, abs=1.5)
    assert np.median(found[10:35]) < SILENT
    assert np.median(found[-35:-10]) < SILENT


async def test_a_relayed_pair_is_shaped_all_the_same(engine, peer, leg):
    a: Peer = peer(8)
    b: Peer = peer(8)
    sa, sb = leg(a), leg(b)
    engine.open_bridge("x")
    engine.join("x", sa)
    engine.join("x", sb)
    tone = talk(a, sa.local, sine(500, 1.0, level_dbm0=-28))
    await pace(0.4, tone, listen(b))
    assert engine.stats().relays == 1
    sa.configure(StreamOptions(agc=GainControl(release_ms=100)))
    await pace(0.8, tone, listen(b))
    assert engine.stats().relays == 0
    assert np.median(levels(b.pcm().astype(float))[-20:-5]) == pytest.approx(-18, abs=1)
    sa.configure(StreamOptions())
    await pace(0.2, tone, listen(b))
    assert engine.stats().relays == 1
    assert sa.stats().agc_db is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"agc": GainControl(target_dbm0=3)}, r"agc: .*<= -6.*target_dbm0"),
        ({"agc": GainControl(max_gain_db=31)}, r"agc: .*<= 30.*max_gain_db"),
        ({"agc": GainControl(attack_ms=0)}, r"agc: .*>= 1.*attack_ms"),
        ({"gate": NoiseGate(dbm0=-90)}, r"gate: .*>= -70.*dbm0"),
        ({"gate": NoiseGate(hold_ms=9999)}, r"gate: .*<= 5000.*hold_ms"),
    ],
)
async def test_what_is_out_of_range_is_refused_by_name(engine, options, said):
    with pytest.raises(UsageError, match=said):
        engine.open(NullSpec(), StreamOptions(**options))
    assert engine.stats().streams == 0
