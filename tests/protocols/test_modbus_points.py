"""Points with a clock that is turned; numbers against Python's own struct and known vectors."""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocols.modbus_points import (
    WORDS,
    Bands,
    Debounce,
    Level,
    Limits,
    Liveness,
    Span,
    batches,
    decode,
    encode,
)
from gateway.testing.clock import Clock

_words = st.integers(0, 0xFFFF)
_orders = st.sampled_from(("big", "little"))


@pytest.mark.parametrize(
    ("words", "kind", "word_order", "byte_order", "value"),
    [
        ([0xFF9C], "int16", "big", "big", -100),
        ([0x9CFF], "int16", "big", "little", -100),
        ([0x0001, 0x86A0], "uint32", "big", "big", 100_000),
        ([0x86A0, 0x0001], "uint32", "little", "big", 100_000),
        # IEEE 754: 123.456 is 42F6E979.
        ([0x42F6, 0xE979], "float32", "big", "big", 123.456),
        ([0xE979, 0x42F6], "float32", "little", "big", 123.456),
        ([0xF642, 0x79E9], "float32", "big", "little", 123.456),
        ([0x79E9, 0xF642], "float32", "little", "little", 123.456),
        ([0xFFFF, 0xFFFE], "int32", "big", "big", -2),
        ([0x405E, 0xDD2F, 0x1A9F, 0xBE77], "float64", "big", "big", 123.456),
    ],
)
def test_known_numbers(
    words: list[int], kind: str, word_order: str, byte_order: str, value: float
) -> None:
    found = decode(words, kind, word_order=word_order, byte_order=byte_order)
    assert found == pytest.approx(value, rel=1e-6)
    assert encode(value, kind, word_order=word_order, byte_order=byte_order) == words


@given(st.sampled_from(sorted(WORDS)), st.lists(_words, min_size=4, max_size=4), _orders, _orders)
def test_numbers_survive_the_way_there_and_back(
    kind: str, words: list[int], word_order: str, byte_order: str
) -> None:
    words = words[: WORDS[kind]]
    value = decode(words, kind, word_order=word_order, byte_order=byte_order)
    if not math.isfinite(value):
        with pytest.raises(ValueError, match="no number"):
            encode(value, kind, word_order=word_order, byte_order=byte_order)
        return
    again = encode(value, kind, word_order=word_order, byte_order=byte_order)
    assert decode(again, kind, word_order=word_order, byte_order=byte_order) == value


@given(st.sampled_from(sorted(WORDS)), st.floats())
def test_a_value_is_written_as_it_is_or_refused(kind: str, value: float) -> None:
    try:
        words = encode(value, kind)
    except ValueError:
        return
    found = decode(words, kind)
    if kind == "float32":
        assert found == struct.unpack(">f", struct.pack(">f", value))[0]
    else:
        assert found == (value if kind == "float64" else round(value))


def test_wrong_words_are_refused() -> None:
    with pytest.raises(ValueError, match="takes 2"):
        decode([1], "int32")
    with pytest.raises(ValueError, match="16-bit"):
        decode([70_000], "int16")


def test_a_contact_that_bounces_changes_once() -> None:
    clock, contact = Clock(), Debounce[bool](0.1)
    assert not contact.sample(False, clock.now())
    assert contact.sample(False, clock.advance(0.1))
    begin = clock.advance(5.0)
    assert not contact.sample(True, begin)
    assert not contact.sample(False, clock.advance(0.05))  # bounce: starts anew
    second = clock.advance(0.02)
    assert not contact.sample(True, second)
    assert not contact.sample(True, clock.advance(0.09))
    assert contact.sample(True, clock.advance(0.01))
    assert contact.value is True
    assert contact.since == second
    assert not contact.sample(True, clock.advance(100.0))


def test_a_contact_that_was_lost_must_hold_again() -> None:
    clock, contact = Clock(), Debounce[bool](0.1)
    contact.sample(True, clock.now())
    assert contact.sample(True, clock.advance(0.1))
    contact.forget()
    assert contact.value is None
    assert not contact.sample(True, clock.advance(10.0))
    assert contact.sample(True, clock.advance(0.1))


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0.001, 0.3)), max_size=60),
    st.floats(0.0, 0.5),
)
def test_no_change_is_younger_than_the_debounce(
    readings: list[tuple[bool, float]], hold_s: float
) -> None:
    clock, contact = Clock(0.0), Debounce[bool](hold_s)
    history: list[tuple[float, bool]] = []
    for value, wait_s in readings:
        now = clock.advance(wait_s)
        history.append((now, value))
        if contact.sample(value, now):
            held = [v for at, v in history if at >= contact.since]
            assert set(held) == {contact.value}
            assert now - contact.since >= hold_s - 1e-6


def test_a_level_has_hysteresis_a_delay_and_a_dead_band() -> None:
    clock = Clock()
    level = Level(Limits(hi=80.0, lo=10.0, hysteresis=5.0, delay_s=2.0), deadband=1.0)

    def sample(value: float, wait_s: float = 1.0) -> tuple[bool, list[tuple[str, bool]]]:
        return level.sample(value, clock.advance(wait_s))

    assert sample(50.0) == (True, [])
    assert sample(50.9) == (False, [])
    assert sample(51.1) == (True, [])
    assert sample(81.0) == (True, [])
    assert sample(81.0) == (False, [])
    assert sample(81.0) == (True, [("hi", True)])
    assert sample(76.0) == (True, [])  # inside, but not by the hysteresis
    assert sample(76.0, 10.0) == (False, [])
    assert sample(74.0) == (True, [])
    assert sample(74.0, 2.0) == (True, [("hi", False)])
    assert level.inside == ["lo", "hi"]
    assert sample(9.0)[1] == []
    assert sample(9.0, 2.0)[1] == [("lo", True)]
    assert level.active == {"lo"}
    level.forget()
    # Still low when it comes back: the same alarm.
    assert sample(9.0)[0]
    assert sample(9.0, 2.0)[1] == []
    assert level.active == {"lo"}


def test_bands() -> None:
    bands = Bands(normal=(400, 600), alarm=(800, 1000), short=(0, 100), open=(2000, 65536))
    found = [bands.state(v) for v in (0, 99.9, 100, 400, 599, 600, 900, 65535)]
    assert found == ["short", "short", "fault", "normal", "normal", "fault", "alarm", "open"]
    with pytest.raises(ValueError, match="overlap"):
        Bands(normal=(0, 10), alarm=(9, 20))
    with pytest.raises(ValueError, match="empty"):
        Bands(normal=(10, 10), alarm=(11, 20))


def test_neighbours_share_a_request_and_others_do_not() -> None:
    spans = [
        Span(name="a", table="holding", address=0),
        Span(name="b", table="holding", address=1, count=2),
        Span(name="c", table="holding", address=4),
        Span(name="d", table="holding", address=3, poll_s=1.0),
        Span(name="e", table="input", address=3),
    ]

    def shape(gap: int) -> set[tuple[str, int, int, str]]:
        return {
            (b.table, b.address, b.count, "".join(s.name for s in b.spans))
            for b in batches(spans, gap=gap)
        }

    alone = {("holding", 3, 1, "d"), ("input", 3, 1, "e")}
    assert shape(0) == alone | {("holding", 0, 3, "ab"), ("holding", 4, 1, "c")}
    assert shape(1) == alone | {("holding", 0, 5, "abc")}


@given(
    st.lists(
        st.builds(
            Span,
            name=st.text("xyz", max_size=2),
            table=st.sampled_from(("coil", "discrete", "holding", "input")),
            address=st.integers(0, 3000),
            count=st.sampled_from((1, 2, 4)),
            poll_s=st.sampled_from((0.1, 1.0)),
        ),
        max_size=40,
    ),
    st.integers(0, 125),
    st.integers(4, 2000),
)
def test_every_point_is_read_by_one_legal_request(
    spans: list[Span], gap: int, maximum: int
) -> None:
    found = batches(spans, gap=gap, maximum=maximum)
    assert sorted((s for b in found for s in b.spans), key=repr) == sorted(spans, key=repr)
    for batch in found:
        assert 1 <= batch.count <= (2000 if batch.table in ("coil", "discrete") else 125)
        assert batch.count <= maximum
        for span in batch.spans:
            assert (span.table, span.poll_s) == (batch.table, batch.poll_s)
            assert batch.address <= span.address
            assert span.address + span.count <= batch.address + batch.count


def test_three_missed_and_it_is_lost_once() -> None:
    life = Liveness(3)
    assert life.alive is None
    assert [life.missed() for _ in range(5)] == [False, False, True, False, False]
    assert life.answered()
    assert not life.answered()
    assert [life.missed(), life.missed(), life.answered()] == [False, False, False]
    assert [life.missed() for _ in range(3)] == [False, False, True]
