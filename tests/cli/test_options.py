"""Moments and spans as people type them."""

from __future__ import annotations

import time
from datetime import datetime
from types import SimpleNamespace

import click
import pytest

from gateway.cli import options
from gateway.cli.options import past, until, when


@pytest.mark.parametrize(
    ("text", "clock"),
    [
        ("14:30", "14:30"), ("3pm", "15:00"), ("3 PM", "15:00"), ("12am", "00:00"),
        ("12:05pm", "12:05"), ("9:15am", "09:15"),
    ],
)  # fmt: skip
def test_a_time_of_day(text: str, clock: str) -> None:
    before, found, after = time.localtime(), time.localtime(when(text)), time.localtime()
    assert time.strftime("%H:%M", found) == clock
    # It may have struck twelve meanwhile.
    assert found.tm_yday in (before.tm_yday, after.tm_yday)


def test_a_time_of_day_that_is_to_come_was_yesterday() -> None:
    now = time.time()
    for hour in range(24):
        found = past(f"{hour:02}:00")
        assert now - 90_000 < found <= now + 1
        assert time.localtime(found).tm_min == 0
    # A whole date is meant as it is written.
    assert past("2999-01-01") == when("2999-01-01") > now


def _now(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    now = datetime.fromisoformat(text).timestamp()
    monkeypatch.setattr(options, "time", SimpleNamespace(time=lambda: now))


def test_yesterday_may_have_had_another_number_of_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        for day, before in (("2026-03-29", "2026-03-28"), ("2026-10-25", "2026-10-24")):
            _now(monkeypatch, f"{day} 13:00")
            assert past("14:00") == datetime.fromisoformat(f"{before} 14:00").timestamp()
            assert past("12:00") == datetime.fromisoformat(f"{day} 12:00").timestamp()
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("now", "args", "span"),
    [
        ("13:00", "--since 14:00 --until 16:00", ("21 14:00", "21 16:00")),
        ("13:00", "--until 16:00 --since 14:00", ("21 14:00", "21 16:00")),
        ("15:00", "--since 14:00 --until 16:00", ("22 14:00", "22 16:00")),
        ("17:00", "--since 14:00 --until 16:00", ("22 14:00", "22 16:00")),
        ("13:00", "--since 23:00 --until 01:00", ("21 23:00", "22 01:00")),
        ("00:30", "--since 23:00 --until 01:00", ("21 23:00", "22 01:00")),
        ("13:00", "--since 2h --until 1h", ("22 11:00", "22 12:00")),
        ("13:00", "--since 2026-11-01 --until 2026-11-30", ("01 00:00", "30 00:00")),
        ("13:00", "--until 16:00", (None, "21 16:00")),
    ],
)
def test_two_times_of_day_are_a_span(
    monkeypatch: pytest.MonkeyPatch, now: str, args: str, span: tuple[str | None, str]
) -> None:
    @click.command()
    @click.option("--since", type=past, is_eager=True)
    @click.option("--until", callback=until)
    def ask(**given: float | None) -> dict[str, float | None]:
        return given

    _now(monkeypatch, f"2026-11-22 {now}")
    given = ask.main(args.split(), standalone_mode=False)
    expected = [each and datetime.fromisoformat(f"2026-11-{each}").timestamp() for each in span]
    assert [given["since"], given["until"]] == expected


@pytest.mark.parametrize("text", ["13pm", "0am", "3:75pm", "noon", "", "pm"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write 2h"):
        past(text)
