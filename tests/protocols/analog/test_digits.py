"""Dial plans and digit collection."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ConfigError
from gateway.protocols.analog.digits import DialPlan, DigitCollector, Match

PLAN = DialPlan(("0", "112", "[2-5]xx", "9zxxxxx.", "*8x"))


@pytest.mark.parametrize(
    ("dialled", "match"),
    [
        ("", Match.PARTIAL),
        ("0", Match.FINAL),
        ("1", Match.PARTIAL),
        ("112", Match.FINAL),
        ("113", Match.NONE),
        ("23", Match.PARTIAL),
        ("234", Match.FINAL),
        ("2345", Match.NONE),
        ("6", Match.NONE),
        ("90", Match.NONE),
        ("912345", Match.PARTIAL),
        ("9123456", Match.FULL),
        ("912345678901", Match.FULL),
        ("*81", Match.FINAL),
    ],
)
def test_matching(dialled: str, match: Match) -> None:
    assert PLAN.match(dialled) is match


def test_a_number_that_begins_another() -> None:
    plan = DialPlan(("11", "11xx"))
    assert plan.match("11") is Match.FULL
    assert plan.match("1123") is Match.FINAL


@pytest.mark.parametrize("pattern", ["", "[", "[]", "[5-2]", "[a]", "1.2", ".", "1y", "12 3"])
def test_bad_patterns_are_told(pattern: str) -> None:
    with pytest.raises(ConfigError, match="dial plan"):
        DialPlan((pattern,))


@given(st.text("0123456789", max_size=9))
def test_agrees_with_regular_expressions(dialled: str) -> None:
    complete = [r"0", r"112", r"[2-5]\d\d", r"9[1-9]\d\d\d\d\d+"]
    full = any(re.fullmatch(pattern, dialled) for pattern in complete)
    assert (PLAN.match(dialled) in (Match.FULL, Match.FINAL)) == full


def collect(plan: DialPlan, digits: str) -> DigitCollector:
    collector = DigitCollector(plan)
    for digit in digits:
        collector.digit(digit)
    return collector


def test_waits() -> None:
    collector = DigitCollector(PLAN)
    assert collector.wait() == 15.0
    assert collector.digit("9") == 4.0
    for digit in "12345":
        assert collector.digit(digit) == 4.0
    assert collector.digit("6") == 2.0
    collector.timed_out()
    assert collector.done
    assert collector.complete
    assert collector.dialled == "9123456"


def test_terminator() -> None:
    assert collect(PLAN, "9123456#").complete
    assert collect(PLAN, "9123456#").dialled == "9123456"
    early = collect(PLAN, "91#")
    assert early.done
    assert not early.complete
    assert collect(DialPlan(), "77#").dialled == "77"
    assert collect(DialPlan(("#1",)), "#1").complete


def test_no_plan_takes_anything_but_not_for_ever() -> None:
    collector = collect(DialPlan(), "1" * 40)
    assert collector.done
    assert len(collector.dialled) == 32


def test_rejected_at_the_first_impossible_digit() -> None:
    collector = collect(PLAN, "6")
    assert collector.done
    assert not collector.complete


@given(st.text(max_size=50))
def test_any_digits(text: str) -> None:
    collector = collect(PLAN, text)
    collector.timed_out()
    assert collector.done
