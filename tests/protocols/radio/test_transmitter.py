"""When the line is keyed: the clock is turned by hand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.protocols.radio.transmitter import KEYING_S, Phase, Timing, Transmitter

TIMING = Timing(lead_in_s=0.2, tail_s=0.1, time_out_s=10.0, penalty_s=5.0, lease_s=1.5)


def keyed(now: float = 0.0, timing: Timing = TIMING) -> Transmitter:
    it = Transmitter(timing)
    it.request(now)
    it.keyed(now)
    return it


def run(it: Transmitter, start: float, end: float, *, renew: bool = True) -> None:
    """Let time pass as the gateway does: renewals each half second, every timeout in order."""
    now = start
    while now < end:
        now = min(end, now + 0.5, it.next_timeout() or end)
        it.poll(now)
        if renew:
            it.request(now)
        if it.next_timeout() is not None and it.next_timeout() <= now:  # type: ignore[operator]
            it.poll(now)


def test_an_over() -> None:
    it = Transmitter(TIMING)
    assert not it.line
    it.request(0.0)
    assert it.line
    assert it.listening
    assert not it.speaking
    it.keyed(0.05)
    it.poll(0.24)
    assert it.phase is Phase.LEAD_IN
    it.poll(0.25)
    assert it.phase is Phase.ON_AIR
    assert it.speaking
    it.release(1.0)
    assert it.phase is Phase.DRAIN
    assert it.line
    assert not it.listening
    it.drained(1.3)
    assert it.phase is Phase.TAIL
    it.poll(1.39)
    assert it.line
    it.poll(1.41)
    assert it.phase is Phase.IDLE


def test_a_word_shorter_than_the_lead_in_still_goes_out() -> None:
    it = keyed()
    it.release(0.1)
    assert it.line
    it.poll(0.2)
    assert it.phase is Phase.DRAIN


def test_a_line_that_never_confirms() -> None:
    it = Transmitter(TIMING)
    it.request(0.0)
    it.request(1.0)
    it.request(KEYING_S - 0.1)
    it.poll(KEYING_S)
    assert it.phase is Phase.IDLE


def test_speech_that_never_drains_does_not_hold_the_line() -> None:
    it = keyed()
    it.poll(0.2)
    it.release(1.0)
    it.poll(1.0 + TIMING.drain_s + TIMING.tail_s)
    assert it.phase is Phase.IDLE


def test_the_next_speaker_takes_over_a_keyed_transmitter() -> None:
    it = keyed()
    it.poll(0.2)
    it.release(1.0)
    it.request(1.1)
    assert it.phase is Phase.ON_AIR


def test_a_request_that_is_not_renewed_lapses() -> None:
    it = keyed()
    it.poll(0.2)
    it.poll(1.4)
    assert it.phase is Phase.ON_AIR
    assert it.next_timeout() == 1.5
    it.poll(1.5)
    assert it.phase is Phase.DRAIN


def test_time_out_and_penalty() -> None:
    it = keyed()
    run(it, 0.0, 9.99)
    assert it.line
    run(it, 9.99, 10.0)
    assert it.phase is Phase.PENALTY
    assert not it.line
    assert it.timed_out == 1
    run(it, 10.0, 60.0)
    assert it.phase is Phase.PENALTY, "who does not let go stays off"
    it.release(60.0)
    it.request(62.0)
    assert it.phase is Phase.PENALTY, "who comes back too early waits again"
    it.release(63.0)
    it.poll(67.9)
    assert it.phase is Phase.PENALTY
    it.poll(68.0)
    assert it.phase is Phase.IDLE
    it.request(68.1)
    assert it.line


def test_the_time_out_strikes_while_the_rest_drains_too() -> None:
    it = keyed(timing=Timing(time_out_s=1.0, drain_s=5.0, penalty_s=1.0))
    it.poll(0.2)
    it.release(0.9)
    it.poll(1.0)
    assert not it.line


def test_a_short_pause_does_not_reset_the_time_out() -> None:
    timing = Timing(lead_in_s=0.0, time_out_s=10.0, reset_s=1.0, lease_s=100.0)
    it = keyed(timing=timing)
    it.release(6.0)
    it.drained(6.0)
    assert it.phase is Phase.IDLE
    it.request(6.5)
    it.keyed(6.5)
    it.poll(10.4)
    assert it.line
    it.poll(10.5)
    assert it.phase is Phase.PENALTY
    fresh = keyed(timing=timing)
    fresh.release(6.0)
    fresh.drained(6.0)
    fresh.request(7.0)
    fresh.keyed(7.0)
    fresh.poll(16.9)
    assert fresh.line


def test_a_line_that_was_taken_away_is_keyed_by_the_next_renewal() -> None:
    it = keyed()
    it.unkeyed(1.0)
    assert not it.line
    it.request(1.2)
    assert it.phase is Phase.KEYING


def test_stop_holds_until_released() -> None:
    it = keyed()
    it.stop(1.0)
    assert not it.line
    it.request(1.2)
    assert not it.line
    it.release(2.0)
    it.poll(7.0)
    it.request(7.1)
    assert it.line
    idle = Transmitter(TIMING)
    idle.stop(0.0)
    idle.request(0.1)
    assert idle.line


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["request", "release", "keyed", "unkeyed", "drained", "stop", "poll"]),
            st.floats(0.0, 3.0),
        ),
        max_size=60,
    )
)
def test_never_longer_than_the_time_out_and_never_without_a_lease(
    steps: list[tuple[str, float]],
) -> None:
    it = Transmitter(TIMING)
    now, keyed_since, asked = 0.0, None, -100.0
    for name, pause in steps:
        until = now + pause
        while (due := it.next_timeout()) is not None and due <= until:
            now = max(now, due)
            it.poll(now)
            assert it.next_timeout() is None or it.next_timeout() > due or it.next_timeout() == due
            if it.next_timeout() == due:
                it.poll(now)
                break
        now = until
        it.poll(now)
        getattr(it, name)(now)
        if name == "request":
            asked = now
        keyed_since = None if not it.line else now if keyed_since is None else keyed_since
        if it.line:
            assert now - asked <= TIMING.lease_s + TIMING.drain_s + TIMING.tail_s + KEYING_S + 0.21
            assert now - keyed_since <= TIMING.time_out_s + KEYING_S + 1e-6 or name == "request"
        assert not (it.speaking and not it.line)
