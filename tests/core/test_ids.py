"""UUIDv7: the form of RFC 9562 section 5.7, judged by the standard library, and the order."""

from __future__ import annotations

import random
import uuid

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.ids import Ids


@given(st.floats(0, 2**40 / 1000), st.integers(0, 2**32))
def test_the_form(wall: float, seed: int) -> None:
    text = Ids(random.Random(seed).getrandbits).uuid7(wall)
    found = uuid.UUID(text)
    assert str(found) == text
    assert found.variant == uuid.RFC_4122
    assert found.version == 7
    assert found.int >> 80 == int(wall * 1000)


@given(st.lists(st.floats(1e9, 1e9 + 0.002), min_size=2, max_size=50))
def test_they_grow_also_when_the_clock_stands_or_goes_back(walls: list[float]) -> None:
    ids = Ids()
    found = [ids.uuid7(wall) for wall in walls]
    assert found == sorted(set(found))


def test_more_in_one_millisecond_than_the_counter_holds() -> None:
    ids = Ids(random.Random(1).getrandbits)
    found = [ids.uuid7(1e9) for _ in range(10_000)]
    assert found == sorted(set(found))
    assert {uuid.UUID(text).version for text in found} == {7}


def test_the_example_of_the_rfc() -> None:
    # RFC 9562 appendix A.6: 017F22E2-79B0-7CC3-98C4-DC0C0C07398F at 2022-02-22 19:22:22 UTC.
    rand_b = 0x18C4DC0C0C07398F
    ids = Ids(lambda bits: rand_b)
    ids._last = (0x017F22E279B0 << 12) | 0xCC2
    assert ids.uuid7(1645557742.0).upper() == "017F22E2-79B0-7CC3-98C4-DC0C0C07398F"


def test_random_bits_are_drawn_anew_for_each_millisecond() -> None:
    ids = Ids(random.Random(1).getrandbits)
    first, second, later = (ids.uuid7(wall) for wall in (1e9, 1e9, 1e9 + 0.001))
    assert first[-18:] == second[-18:], "the counter tells these two apart"
    assert later[-18:] != first[-18:]
    assert Ids(random.Random(2).getrandbits).uuid7(1e9) != first, "another box"
