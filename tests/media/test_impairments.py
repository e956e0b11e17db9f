"""When silence, clipping and missing audio begin and end, from made-up counters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peers import listen, pace, sine, talk

from gateway.core.events import Impairment
from gateway.media.impairments import Change, Judge, Meter, Supervision
from gateway.media.shaping import mean_square
from gateway.media.streams import Direction, StreamOptions

ALL = frozenset(Impairment)
RULES = Supervision()
SECOND = (50, 50, 40, 0, 8000, -20.0, False, True)
"""Packets, frames, active and clipped frames, samples, dBm0, comfort noise, expected."""


class Line:
    """A stream whose counters go on second by second."""

    def __init__(self, rules: Supervision = RULES) -> None:
        self.judge, self.rules, self.now = Judge(), rules, 100.0
        self.sums = [0, 0, 0, 0, 0, 0.0]
        self.said: list[tuple[float, Change]] = []
        self.go(1)

    def go(
        self,
        seconds: int,
        *,
        packets: int = 50,
        frames: int = 50,
        active: int = 40,
        clipped: int = 0,
        dbm0: float = -20.0,
        noise: bool = False,
        expected: bool = True,
        judged: frozenset[Impairment] = ALL,
    ) -> list[tuple[Impairment, bool]]:
        """What it says in so many seconds of this."""
        n = len(self.said)
        for _ in range(seconds):
            samples = 160 * frames
            more = (packets, frames, active, clipped, samples, samples * mean_square(dbm0))
            self.sums = [a + b for a, b in zip(self.sums, more, strict=True)]
            self.now += 1.0
            meter = Meter(*self.sums, noise, expected)  # type: ignore[arg-type]
            for change in self.judge.look(meter, self.now, judged, self.rules):
                self.said.append((self.now, change))
        return [(change.impairment, change.began) for _, change in self.said[n:]]

    def silent(self, seconds: int, **how: object) -> list[tuple[Impairment, bool]]:
        return self.go(seconds, active=0, dbm0=-75.0, **how)  # type: ignore[arg-type]

    def dead(self, seconds: int, **how: object) -> list[tuple[Impairment, bool]]:
        return self.go(seconds, packets=0, frames=0, active=0, **how)  # type: ignore[arg-type]


def test_speech_with_pauses_is_no_impairment() -> None:
    line = Line()
    for _ in range(10):
        assert line.go(4) == []
        assert line.silent(20) == []
    assert line.judge.present == frozenset()


def test_silence_begins_late_and_ends_at_once() -> None:
    line = Line()
    assert line.silent(29) == []
    assert line.silent(5) == [(Impairment.SILENCE, True)]
    # Breath just above the threshold neither ends it nor counts as more of it.
    assert line.go(5, active=10, dbm0=-58.5) == []
    assert line.go(1) == [(Impairment.SILENCE, False)]
    (_, begun), (_, ended) = line.said
    assert begun.seconds == pytest.approx(30.0)
    assert begun.level_dbm0 == pytest.approx(-75.0, abs=0.1)
    assert ended.seconds == pytest.approx(40.0)


def test_comfort_noise_is_neither_silence_nor_missing_audio() -> None:
    line = Line()
    assert line.dead(120, noise=True) == []
    assert line.silent(120, noise=True) == []


def test_no_packets_are_one_way_audio_after_a_while() -> None:
    line = Line()
    assert line.dead(4) == []
    assert line.dead(60) == [(Impairment.ONE_WAY, True)]
    assert line.go(1) == [(Impairment.ONE_WAY, False)]


@pytest.mark.parametrize("why", ["held", "not judged"])
def test_what_is_not_expected_is_not_missed(why: str) -> None:
    line = Line()
    how: dict[str, object] = {"expected": False} if why == "held" else {"judged": frozenset()}
    assert line.dead(100, **how) == []
    assert line.silent(100, **how) == []
    assert line.go(100, clipped=30, **how) == []  # type: ignore[arg-type]
    # The time before counts for nothing afterwards.
    assert line.dead(4) == []


def test_a_hold_ends_what_there_was() -> None:
    line = Line()
    line.dead(10)
    assert line.dead(1, expected=False) == [(Impairment.ONE_WAY, False)]
    assert line.dead(4) == []
    assert line.dead(2) == [(Impairment.ONE_WAY, True)]


def test_clipping_is_a_share_of_the_speech() -> None:
    line = Line()
    assert line.go(20, clipped=3) == []  # 7.5 % of it
    assert line.go(5, clipped=0) == []
    assert line.go(1, clipped=10) == []  # a shout
    assert line.go(5, clipped=0) == []
    assert line.go(5, clipped=8) == [(Impairment.CLIPPING, True)]
    assert line.said[-1][1].percent is not None
    # Less, but not yet good.
    assert line.go(10, clipped=3) == []
    assert line.go(10, clipped=0) == [(Impairment.CLIPPING, False)]


def test_another_stream_begins_anew() -> None:
    line = Line()
    line.dead(10)
    line.sums = [0, 0, 0, 0, 0, 0.0]
    assert line.dead(1) == [(Impairment.ONE_WAY, False)]
    assert line.dead(3) == []


def test_zero_seconds_switch_a_rule_off() -> None:
    line = Line(Supervision(silence_s=0, clipping_s=0, one_way_s=0))
    assert line.dead(100) + line.silent(100) + line.go(100, clipped=40) == []


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["go", "silent", "dead"]),
            st.integers(1, 40),
            st.integers(0, 40),
            st.booleans(),
            st.booleans(),
            st.sets(st.sampled_from(list(Impairment))),
        ),
        max_size=20,
    )
)
def test_each_begin_has_one_end(
    steps: list[tuple[str, int, int, bool, bool, set[Impairment]]],
) -> None:
    line = Line()
    for what, seconds, clipped, noise, expected, judged in steps:
        getattr(line, what)(
            seconds, clipped=clipped, noise=noise, expected=expected, judged=frozenset(judged)
        )
    line.go(1, judged=frozenset())
    assert line.judge.present == frozenset()
    for impairment in Impairment:
        said = [c.began for _, c in line.said if c.impairment is impairment]
        assert said == [n % 2 == 0 for n in range(len(said))]
        assert all(c.seconds > 0 for _, c in line.said)


@pytest.mark.parametrize("how", ["relayed", "mixed"])
async def test_the_engine_counts_what_is_judged(engine, peer, leg, how) -> None:
    a, b = peer(0), peer(0)
    sa = leg(a, StreamOptions() if how == "relayed" else StreamOptions(gain_in_db=-0.01))
    sb = leg(b)
    engine.open_bridge("x")
    engine.join("x", sa)
    engine.join("x", sb)
    judge, now = Judge(), 0.0
    rules = Supervision(silence_s=2.0, clipping_s=2.0, one_way_s=2.0)

    async def go(pcm: np.ndarray | None, times: int) -> list[tuple[Impairment, bool]]:
        """Half a second of it, several times; each time the judge's clock is a second further."""
        nonlocal now
        found: list[Change] = []
        for _ in range(times):
            said = talk(a, sa.local, pcm) if pcm is not None else lambda i: None
            await pace(0.5, said, listen(b))
            now += 1.0
            found += judge.look(sa.meter(), now, ALL, rules)
        return sorted((change.impairment, change.began) for change in found)

    speech, nothing = sine(440, 1.0), np.zeros(8000, np.int16)
    # Well over the scale: its tops are cut off.
    loud = np.clip(sine(440, 1.0, level_dbm0=3.0).astype(float) * 4, -32768, 32767)
    assert await go(speech, 2) == []
    assert await go(loud.astype(np.int16), 3) == [(Impairment.CLIPPING, True)]
    found = await go(nothing, 6)
    assert found == [(Impairment.CLIPPING, False), (Impairment.SILENCE, True)]
    assert await go(speech, 2) == [(Impairment.SILENCE, False)]
    a.send(bytes([60]), sa.local, pt=13)
    assert await go(None, 5) == []
    assert await go(speech, 1) == []
    assert await go(None, 5) == [(Impairment.ONE_WAY, True)]
    held = leg(b, direction=Direction.SENDONLY)
    assert sa.meter().expected
    assert not held.meter().expected
    held.close()
    assert held.meter() is None
