"""Samples on their way: nothing of speech is cut off, nothing of noise gets through."""

from __future__ import annotations

import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocols.radio.speech import FromAir, ToAir, beep, frame_bytes, level_dbm0
from gateway.testing.audio import level_at, tone

RATE = 8000
FRAME = frame_bytes(RATE)


def word(n: int) -> bytes:
    return array.array("h", [n] * (FRAME // 2)).tobytes()


def test_the_tail_is_cut_off() -> None:
    it = FromAir(RATE, tail_s=0.1)
    it.squelch(True)
    heard = b""
    for n in range(1, 21):
        it.push(word(n))
        heard += it.take()
    it.squelch(False)
    heard += it.take()
    played = [n for n in memoryview(heard).cast("h") if n]
    assert sorted(set(played)) == list(range(1, max(played) + 1))
    assert max(played) <= 15


def test_what_was_said_before_the_squelch_opened_is_kept() -> None:
    it = FromAir(RATE, tail_s=0.0, look_back_s=0.06)
    for n in range(1, 11):
        it.push(word(n))
        it.take()
    it.squelch(True)
    it.push(word(11))
    heard = b"".join(it.take() for _ in range(4))
    assert sorted(set(memoryview(heard).cast("h"))) == [8, 9, 10, 11]


def test_too_fast_a_source_is_cut_short() -> None:
    it = FromAir(RATE, tail_s=0.1)
    it.squelch(True)
    for n in range(1000):
        it.push(word(n))
    assert it.lost > 900


@given(st.lists(st.one_of(st.binary(max_size=2000), st.booleans()), max_size=50))
def test_whatever_comes_a_frame_goes_on(steps: list[bytes | bool]) -> None:
    it = FromAir(RATE, tail_s=0.1, look_back_s=0.03)
    for step in steps:
        if isinstance(step, bool):
            it.squelch(step)
        else:
            it.push(step)
        assert len(it.take()) == FRAME


def test_to_air_keeps_order_and_forgets_the_oldest() -> None:
    it = ToAir(RATE, longest_s=0.1)
    for n in range(1, 8):
        it.push(word(n))
    assert it.lost == 2
    assert [memoryview(it.take()).cast("h")[0] for _ in range(5)] == [3, 4, 5, 6, 7]
    assert not it


def test_to_air_waits_for_two_frames_unless_these_are_the_last() -> None:
    it = ToAir(RATE)
    it.push(word(5))
    assert it.take() == bytes(FRAME)
    assert it.take(last=True) == word(5)


@pytest.mark.parametrize("dbm0", [-30.0, -12.0, 0.0])
def test_beep_and_level(dbm0: float) -> None:
    samples = beep(1000, 0.5, RATE, dbm0)
    assert len(samples) == 25 * FRAME
    words = memoryview(samples).cast("h")
    assert level_at(words[400:3600], 1000) == pytest.approx(dbm0, abs=0.1)
    assert level_dbm0(tone(700, 0.5, dbm0=dbm0).tobytes()) == pytest.approx(dbm0, abs=0.1)
    assert level_dbm0(bytes(320)) == -99.0
    assert level_dbm0(b"") == -99.0
