"""Deadlines: their order, and that cancelled ones leave."""

from __future__ import annotations

import random

from gateway.core.timers import _SWEEP, Timers


def test_deadlines_come_in_order_also_after_many_were_cancelled() -> None:
    timers, came, dice = Timers(), [], random.Random(1)
    kept = []
    for n in range(5 * _SWEEP):
        due = float(dice.randrange(100))
        timer = timers.at(due, lambda due=due, n=n: came.append((due, n)))  # type: ignore[misc]
        if n % 10:
            timer.cancel()
        else:
            kept.append((due, n))
    assert len(timers._heap) <= 2 * _SWEEP
    assert timers.next_due() == min(kept)[0]
    while timer := timers.pop_due(100.0):  # type: ignore[assignment]
        assert timer.act is not None
        timer.act()
    assert came == sorted(kept)
    assert timers.next_due() is None


def test_nothing_is_swept_that_is_still_to_come() -> None:
    timers = Timers()
    for n in range(3 * _SWEEP):
        timers.at(float(n), lambda: None)
    assert sum(1 for _ in iter(lambda: timers.pop_due(1e9), None)) == 3 * _SWEEP
