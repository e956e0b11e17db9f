"""The heap of deadlines against a sorted list."""

from __future__ import annotations

import gc
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocols.sip.timers import Timers

DUE = st.integers(0, 40).map(float)


@given(st.lists(st.tuples(DUE, st.booleans()), max_size=80), st.lists(DUE, max_size=6))
def test_what_is_due_fires_in_order_and_what_is_stopped_never(
    started: list[tuple[float, bool]], times: list[float]
) -> None:
    timers, fired = Timers(), []
    expected: list[tuple[float, int]] = []
    for number, (due, stopped) in enumerate(started):
        timer = timers.start(due, lambda now, number=number: fired.append(number))
        assert timer.due == due
        if stopped:
            timer.stop()
            assert timer.action is None
        else:
            expected.append((due, number))
    expected.sort()
    for now in sorted(times):
        assert len(timers) == len(expected)
        assert timers.next_due() == (expected[0][0] if expected else None)
        n_before = len(fired)
        n = timers.run(now)
        due_now = [number for due, number in expected if due <= now]
        assert fired[n_before:] == due_now
        assert n == len(due_now)
        expected = expected[n:]


def test_an_event_is_handed_to_the_action() -> None:
    timers, seen = Timers(), []
    timers.start(1.0, lambda event, now: seen.append((event, now)), "A")
    timers.run(3.0)
    assert seen == [("A", 3.0)]


def test_a_timer_started_while_firing_waits_for_the_next_turn() -> None:
    timers, seen = Timers(), []

    def again(now: float) -> None:
        seen.append(now)
        timers.start(now - 1.0, again)

    timers.start(0.0, again)
    assert timers.run(5.0) == 1
    assert timers.run(6.0) == 1
    assert seen == [5.0, 6.0]


def test_an_action_may_stop_another_that_is_due() -> None:
    timers, seen = Timers(), []
    timers.start(1.0, lambda now: second.stop())
    second = timers.start(2.0, seen.append)
    assert timers.run(9.0) == 1
    assert seen == []


def test_what_failed_does_not_come_again() -> None:
    timers = Timers()

    def fail(now: float) -> None:
        raise ValueError("fails")

    timers.start(1.0, fail)
    with pytest.raises(ValueError, match="fails"):
        timers.run(1.0)
    assert timers.run(2.0) == 0


class Owner:
    def act(self, now: float) -> None:
        raise AssertionError(f"a stopped timer fired at {now}")


def test_a_stopped_timer_keeps_nothing_alive() -> None:
    timers, owner = Timers(), Owner()
    timer = timers.start(1.0, owner.act)
    gone = weakref.ref(owner)
    del owner
    assert gone() is not None
    timer.stop()
    gc.collect()
    assert gone() is None
    assert timers.next_due() is None


def test_stopped_timers_do_not_pile_up() -> None:
    timers, fired = Timers(), []
    kept = [timers.start(100.0 + i, fired.append) for i in range(50)]
    for i in range(20_000):
        timers.start(50.0 + i % 7, fired.append).stop()
    gc.collect()
    before = len(gc.get_objects())
    for i in range(20_000):
        timers.start(50.0 + i % 7, fired.append).stop()
    assert len(gc.get_objects()) - before < 3000
    assert len(timers) == len(kept)
    assert timers.next_due() == 100.0
    assert timers.run(124.5) == 25


def test_timers_in_a_cycle_are_collected() -> None:
    timers, owner = Timers(), Owner()
    owner.timer = timers.start(1.0, owner.act)  # type: ignore[attr-defined]
    gone = weakref.ref(owner)
    del owner, timers
    gc.collect()
    assert gone() is None
