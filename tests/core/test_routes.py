"""Number patterns, hours and route matching."""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.endpoints import Endpoint, Target
from gateway.core.events import AlarmRaised, InputChanged, LegOffered, Quality, Severity
from gateway.core.hours import Hours
from gateway.core.numbers import Completeness, NumberPattern
from gateway.core.routes import CompiledRoute, Match, Route, RouteTable, Trigger
from gateway.errors import UsageError

ATOMS = {"X": "[0-9]", "Z": "[1-9]", "N": "[2-9]", ".": ".+", "5": "5", "*": r"\*", "[13]": "[13]"}
PARTS = st.lists(st.sampled_from(list(ATOMS)), min_size=1, max_size=6).filter(
    lambda parts: parts.count(".") <= 1
)
NUMBERS = st.text("0123456789*", max_size=8)


@given(PARTS, NUMBERS)
def test_patterns_match_as_the_same_regular_expression(parts: list[str], number: str) -> None:
    pattern = NumberPattern("".join(parts))
    oracle = re.compile("".join(ATOMS[part] for part in parts))
    assert (pattern.match(number) is not None) == (oracle.fullmatch(number) is not None)


@given(PARTS, NUMBERS, NUMBERS)
def test_completeness_never_lies(parts: list[str], digits: str, more: str) -> None:
    pattern = NumberPattern("".join(parts))
    state = pattern.completeness(digits)
    matches = pattern.match(digits) is not None
    assert matches == (state in (Completeness.COMPLETE, Completeness.EXTENSIBLE))
    if pattern.match(digits + more) is not None and more:
        assert state in (Completeness.PARTIAL, Completeness.EXTENSIBLE)


@given(st.text(max_size=12))
def test_any_text_is_a_pattern_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert NumberPattern(text).match("123") in (None, ("123",), ()) or "(" in text


def test_captures() -> None:
    assert NumberPattern("0(X.)").match("01234") == ("1234",)
    assert NumberPattern("*7(XX)(.)").match("*712abc") == ("12", "abc")


@pytest.mark.parametrize(
    ("when", "inside"),
    [("2026-01-05T08:00", True), ("2026-01-05T17:59", True), ("2026-01-05T18:00", False),
     ("2026-01-10T10:00", True), ("2026-01-10T12:00", False), ("2026-01-11T10:00", False)],
)  # fmt: skip
def test_hours(when: str, inside: bool) -> None:
    wall = datetime.fromisoformat(when).replace(tzinfo=UTC).timestamp()
    assert Hours("Mon-Fri 08:00-18:00, Sat 09:00-12:00").contains(wall) is inside


def test_hours_over_midnight_and_in_a_zone() -> None:
    night = Hours("Fri 22:00-06:00", "Europe/Berlin")
    # Friday 2026-07-03 23:30 in Berlin is 21:30 UTC; Saturday 05:59 is 03:59 UTC.
    for text, inside in (("03T21:30", True), ("04T03:59", True), ("04T04:00", False)):
        wall = datetime.fromisoformat(f"2026-07-{text}").replace(tzinfo=UTC).timestamp()
        assert night.contains(wall) is inside


@pytest.mark.parametrize("text", ["Foo 08:00-09:00", "08:00", "Mon 25:00-26:00", "Mon-Fri 8-18"])
def test_wrong_hours_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="hours"):
        Hours(text)


def offered(called: str, endpoint: str = "fxs/1", calling: str = "") -> LegOffered:
    return LegOffered(
        leg="x#1", endpoint=endpoint, called=called, calling=calling, trace="t", demanded_at=0.0
    )


def test_strip_add_and_fields() -> None:
    route = CompiledRoute(
        Route(name="out", called="00.", strip=2, add="+", targets=("sip/telco:{called}",))
    )
    match = route.match(offered("004930123"), 0.0)
    assert isinstance(match, Match)
    assert Target.parse(match.expand(*route.route.targets)) == Target("sip/telco", "+4930123")


def test_every_refusal_says_why() -> None:
    night = Route(name="n", on=Trigger.CALL, called="2XX", hours="Sun", source=("sip/*",))
    compiled = CompiledRoute(night)
    assert "not for fxs/1" in str(compiled.match(offered("201"), 0.0))
    assert "does not match called = 2XX" in str(compiled.match(offered("999", "sip/a"), 0.0))
    assert "outside its hours" in str(compiled.match(offered("201", "sip/a"), 0.0))


def test_alarm_by_kind_and_severity() -> None:
    compiled = CompiledRoute(
        Route(name="fire", on=Trigger.ALARM, kind=("fire", "gas"), severity="major")
    )

    def alarm(kind: str, severity: Severity) -> AlarmRaised:
        return AlarmRaised(
            endpoint="mqtt/p", alarm="a", kind=kind, severity=severity, trace="t", raised_at=0.0
        )

    assert isinstance(compiled.match(alarm("gas", Severity.CRITICAL), 0.0), Match)
    assert "below major" in str(compiled.match(alarm("gas", Severity.MINOR), 0.0))
    assert "is not fire, gas" in str(compiled.match(alarm("panic", Severity.CRITICAL), 0.0))


def test_input_by_threshold_and_quality() -> None:
    hot = CompiledRoute(Route(name="hot", on=Trigger.INPUT, input="temp*", above=60.0))
    lost = CompiledRoute(Route(name="lost", on=Trigger.INPUT, quality="stale"))

    def value(number: float, quality: Quality = Quality.GOOD) -> InputChanged:
        return InputChanged(endpoint="modbus/x", input="temp1", value=number, quality=quality)

    assert isinstance(hot.match(value(61.0), 0.0), Match)
    assert "not above 60" in str(hot.match(value(60.0), 0.0))
    # A stale reading is not a hot one, and not a cool one: it is a lost one.
    assert "quality is stale" in str(hot.match(value(99.0, Quality.STALE), 0.0))
    assert isinstance(lost.match(value(99.0, Quality.STALE), 0.0), Match)


@pytest.mark.parametrize(
    ("route", "words"),
    [
        (Route(name="a", called="2(XX"), "called"),
        (Route(name="a", targets=("nonsense",)), "nonsense"),
        (Route(name="a", called="2XX", targets=("sip/t:{1}",)), "not captured"),
        (Route(name="a", targets=("sip/t:{who}",)), "known: called"),
        (Route(name="a", priority="high"), "routine, priority, urgent, emergency"),
        (Route(name="a", on=Trigger.DIGITS), "digit pattern"),
        (Route(name="a", quality="fine"), "good, stale, bad"),
    ],
)
def test_wrong_routes_are_refused_by_name(route: Route, words: str) -> None:
    with pytest.raises(UsageError, match="route 'a'") as caught:
        RouteTable([route])
    assert words in str(caught.value)


def test_the_dial_plan_counts_the_directory() -> None:
    table = RouteTable([Route(name="out", called="0.", targets=("sip/t:{called}",))])
    directory = {"fxs/2": Endpoint(id="fxs/2", number="202")}
    states = {
        digits: table.completeness("fxs/1", digits, 0.0, directory)
        for digits in ("2", "202", "203", "0", "01", "9")
    }
    assert states == {
        "2": Completeness.PARTIAL,
        "202": Completeness.COMPLETE,
        "203": Completeness.NO,
        "0": Completeness.PARTIAL,
        "01": Completeness.EXTENSIBLE,
        "9": Completeness.NO,
    }
