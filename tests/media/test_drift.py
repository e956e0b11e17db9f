"""How a sender's clock is told from a path that became longer."""

from __future__ import annotations

import pytest

from gateway.media.open_stream import drift

SECOND = 1_000_000


@pytest.mark.parametrize("ppm", [-1000, -300, 0, 50, 1000])
def test_a_steady_clock(ppm: int) -> None:
    found = drift([(n * SECOND, n * ppm + (n % 3) * 200) for n in range(12)])
    assert found is not None
    assert found == pytest.approx(ppm, abs=60)


def test_a_path_that_became_longer_is_no_clock() -> None:
    assert drift([(n * SECOND, 30_000 * (n > 6)) for n in range(12)]) is None


def test_a_short_call_tells_nothing() -> None:
    assert drift([(n * SECOND, n * 1000) for n in range(5)]) is None
    assert drift([]) is None
