"""Bells ring by the calendar, once, and what became of each is written down."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Coroutine
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.adapters.page import Page
from gateway.adapters.page.bells import Bells
from gateway.core.actions import AcknowledgeAlarm, CloseAlarm, Dial, Note, OpenAlarm, SetOutput
from gateway.core.causes import Cause
from gateway.core.envelope import Envelope
from gateway.core.events import AlarmCleared, AlarmRaised, InputChanged, LegAnswered, LegEnded
from gateway.errors import DeviceError
from gateway.testing import Scenario, TestHost, check_adapter
from gateway.testing.clock import run_turned

BELLS: dict[str, Any] = {
    "calendar": {"time_zone": "UTC", "holidays": ["2026-03-10"]},
    "bells": {
        "lesson": {"times": ["Mon-Fri 08:00", "Mon-Fri 08:45"], "gain_db": -6},
        "noon": {"times": ["12:00"], "on": {"holiday": ["12:00"]}, "late_s": 300, "max_s": 20},
    },
}


class School:
    """A place with bells, and a route that carries them out; `begin` is the wall time."""

    def __init__(self, begin: str, directory: Path, config: dict[str, Any] = BELLS) -> None:
        self.begin = datetime.fromisoformat(begin + "+00:00").timestamp()
        self.host = TestHost("page", data_dir=directory)
        self.adapter = self.host.make(Page, config)
        assert isinstance(self.adapter, Page)
        assert self.adapter.bells is not None
        self.bells: Bells = self.adapter.bells
        self.shift = 0.0
        self.started: float | None = None
        self.bells.wall = self.wall
        self.synchronised: bool | None = True
        self.bells.synchronised = lambda: self.synchronised
        self.takes = self.plays = True
        self.lasts_s = 5.0

    def wall(self) -> float:
        now = self.host.now()
        if self.started is None:
            self.started = now
        return self.begin + self.shift + now - self.started

    def publish(self, trace: str, **body: Any) -> None:
        envelope = Envelope(id="1", box="b", at=0.0, mono=0.0, trace=trace, **body)
        self.host.publish(envelope)

    async def route(self) -> None:
        """What the switchboard says on the bus when a route takes the bell."""
        for count in itertools.count(1):
            event = await self.host.wait_for(InputChanged, value=1.0, count=count, within_s=1e9)
            if self.takes:
                self.host.create_task(self.play(event), name="play")

    async def play(self, event: InputChanged) -> None:
        trace, leg = event.trace, f"page/hall#{event.trace}"
        alarm = {"endpoint": event.endpoint, "alarm": event.input, "trace": trace}
        self.publish(trace, action=OpenAlarm(route="r", **alarm))
        self.publish(trace, action=Note(text="cannot page page/gym: down", trace=trace))
        self.publish(trace, action=Dial(leg=leg, endpoint="page/hall", trace=trace, call="c"))
        if self.plays:
            self.publish(trace, event=LegAnswered(leg=leg))
        await asyncio.sleep(self.lasts_s)
        cause = Cause.NORMAL if self.plays else Cause.OUT_OF_ORDER
        self.publish(trace, action=CloseAlarm(outcome="delivered", **alarm))
        self.publish(trace, event=LegEnded(leg=leg, cause=cause, detail="5.0 s on the air"))

    @property
    def book(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.host.data_dir / "bells.json").read_text())
        return found

    @property
    def detail(self) -> dict[str, str]:
        return self.host.endpoints["page/bells"].detail


def school(
    begin: str,
    directory: Path,
    do: Callable[[School], Coroutine[Any, Any, None]],
    config: dict[str, Any] = BELLS,
) -> School:
    """Run a place with bells on a turned clock."""
    made: list[School] = []

    async def main() -> None:
        place = School(begin, directory, config)
        made.append(place)
        async with place.host.running():
            place.host.create_task(place.route(), name="route")
            await do(place)
        assert place.host.refused == []

    # Nothing outside is waited for: a short grace makes a day pass quickly.
    run_turned(main(), grace_s=0.0002)
    return made[0]


def until(hours: float) -> Callable[[School], Coroutine[Any, Any, None]]:
    async def do(place: School) -> None:
        await asyncio.sleep(hours * 3600)

    return do


def outcomes(place: School) -> list[tuple[str, str, str]]:
    return [
        (f"{datetime.fromtimestamp(p['due']).astimezone().timestamp() - place.begin:.0f}",
         p["bell"], p["outcome"])
        for p in place.book["proofs"]
    ]  # fmt: skip


def test_a_day_rings_by_its_table_and_leaves_proof(tmp_path: Path) -> None:
    async def do(place: School) -> None:
        await asyncio.sleep(0.5)
        assert place.detail["next 01"] == "Mon 2026-03-09 08:00:00 lesson"
        assert place.detail["next 04"] == "Tue 2026-03-10 12:00:00 noon"  # a holiday
        assert len([name for name in place.detail if name.startswith("next")]) == 10
        await asyncio.sleep(5 * 3600 + 600)
        assert place.detail["last 01"].startswith("Mon 2026-03-09 12:00:00 noon rung; delivered")
        assert "page/hall played: 5.0 s on the air" in place.detail["last 01"]
        assert "cannot page page/gym" in place.detail["last 01"]
        assert place.detail["next 01"] == "Tue 2026-03-10 12:00:00 noon"

    place = school("2026-03-09T07:00", tmp_path, do)
    assert outcomes(place) == [
        ("3600", "lesson", "rung"), ("6300", "lesson", "rung"), ("18000", "noon", "rung"),
    ]  # fmt: skip
    for proof in place.book["proofs"]:
        assert proof["rung_at"] - proof["due"] < 0.05
    # The input goes back when the bell is over, not before.
    values = [(event.input, event.value) for event in place.host.of(InputChanged)]
    assert values == [("lesson", 1), ("lesson", 0)] * 2 + [("noon", 1), ("noon", 0)]


def test_what_was_missed_while_the_gateway_was_down(tmp_path: Path) -> None:
    school("2026-03-09T07:00", tmp_path, until(0.5))
    # It comes back 4 minutes after noon: noon may be that late, lessons may not.
    place = school("2026-03-09T12:04", tmp_path, until(0.1))
    assert [outcome for _, _, outcome in outcomes(place)] == ["missed", "missed", "rung"]
    assert "s too late" in place.book["proofs"][0]["detail"]
    assert place.host.counters["bells_missed"] == 2
    # Nothing is told twice, after another restart either.
    again = school("2026-03-09T12:20", tmp_path, until(0.1))
    assert again.book["proofs"] == place.book["proofs"]


def test_the_first_start_knows_of_no_past(tmp_path: Path) -> None:
    assert school("2026-03-09T12:04", tmp_path, until(0.1)).book["proofs"] == []


def test_a_bell_that_nobody_takes_or_that_no_zone_plays_has_failed(tmp_path: Path) -> None:
    async def do(place: School) -> None:
        place.takes = False
        await asyncio.sleep(3600 + 60)
        assert "failed; no route took it" in place.detail["last 01"]
        place.takes, place.plays = True, False
        await asyncio.sleep(3600)
        assert "page/hall not played: 5.0 s on the air" in place.detail["last 01"]
        place.plays, place.lasts_s = True, 1000.0
        await asyncio.sleep(3 * 3600 + 60)

    place = school("2026-03-09T07:00", tmp_path, do)
    assert [proof["outcome"] for proof in place.book["proofs"]] == ["failed", "failed", "rung"]
    assert "not over after 20 s" in place.book["proofs"][2]["detail"]
    assert place.host.counters["bells_failed"] == 2


def test_muted_until_midnight_also_over_a_restart(tmp_path: Path) -> None:
    async def do(place: School) -> None:
        await asyncio.sleep(0.1)
        place.adapter.set_output(SetOutput(endpoint="page/bells", output="mute_today", value=1))
        await asyncio.sleep(3700)
        assert place.detail["muted"] == "2026-03-09, until midnight"

    school("2026-03-09T07:00", tmp_path, do)
    school("2026-03-09T08:40", tmp_path, until(0.2))
    place = school("2026-03-10T11:55", tmp_path, until(0.2))
    assert [proof["outcome"] for proof in place.book["proofs"]] == [
        "muted", "muted", "missed", "rung",
    ]  # fmt: skip
    assert "muted" not in place.detail


def test_by_hand(tmp_path: Path) -> None:
    async def do(place: School) -> None:
        await asyncio.sleep(0.1)
        ring = SetOutput(endpoint="page/bells", output="lesson", value=1)
        place.adapter.set_output(ring)
        await asyncio.sleep(1)
        place.adapter.set_output(ring)  # still ringing
        trace = place.host.of(InputChanged)[0].trace
        assert place.bells.gain_db(trace) == -6
        assert place.bells.gain_db("another") == 0
        await asyncio.sleep(10)
        assert place.bells.gain_db(trace) == 0
        with pytest.raises(DeviceError, match="no bell"):
            place.adapter.set_output(SetOutput(endpoint="page/bells", output="gong", value=1))

    place = school("2026-03-09T07:00", tmp_path, do)
    proofs = place.book["proofs"]
    assert [(proof["by"], proof["outcome"]) for proof in proofs] == [
        ("hand", "failed"), ("hand", "rung"),
    ]  # fmt: skip


def test_a_clock_that_is_set_back_rings_nothing_twice(tmp_path: Path) -> None:
    async def do(place: School) -> None:
        await asyncio.sleep(3600 + 60)
        place.shift = -600.0
        await asyncio.sleep(3600)

    place = school("2026-03-09T07:00", tmp_path, do)
    assert [offset for offset, _, _ in outcomes(place)] == ["3600", "6300"]


def test_a_clock_that_nothing_keeps_right_is_an_alarm(tmp_path: Path) -> None:
    async def do(place: School) -> None:
        place.synchronised = False
        await asyncio.sleep(3700)
        place.adapter.acknowledge_alarm(
            AcknowledgeAlarm(endpoint="page/bells", alarm="clock", by="x")
        )
        place.synchronised = True
        await asyncio.sleep(60)

    place = school("2026-03-09T07:00", tmp_path, do)
    alarm = place.host.of(AlarmRaised)[0]
    assert (alarm.alarm, alarm.kind) == ("clock", "fault")
    assert len(place.host.of(AlarmRaised)) == len(place.host.of(AlarmCleared)) == 1
    assert [outcome for _, _, outcome in outcomes(place)] == ["rung"]


def test_bells_are_held_while_the_clock_has_lost_its_time(tmp_path: Path) -> None:
    async def do(place: School) -> None:
        await asyncio.sleep(9 * 3600)
        assert place.host.of(InputChanged) == []
        assert "bells are held" in place.host.of(AlarmRaised)[0].text
        begin = datetime.fromisoformat("2026-03-09T07:00+00:00").timestamp()
        place.shift = begin - place.wall() + place.shift
        await asyncio.sleep(3700)

    place = school("2000-01-01T05:00", tmp_path, do)
    last = place.book["proofs"][-1]
    assert (last["bell"], last["outcome"]) == ("lesson", "rung")
    assert [event.input for event in place.host.of(InputChanged, value=1.0)] == ["lesson"]


def test_hold_is_configurable(tmp_path: Path) -> None:
    async def do(place: School) -> None:
        place.synchronised = False
        await asyncio.sleep(2 * 3600)

    config = BELLS | {"calendar": BELLS["calendar"] | {"clock": "hold"}}
    assert school("2026-03-09T07:00", tmp_path, do, config).host.of(InputChanged) == []
    other = tmp_path / "other"
    other.mkdir()
    config = BELLS | {"calendar": BELLS["calendar"] | {"clock": "ignore"}}
    place = school("2026-03-09T07:00", other, do, config)
    assert place.host.of(AlarmRaised) == []
    assert len(place.host.of(InputChanged, value=1.0)) == 2


@pytest.mark.parametrize("junk", [b"", b"{", b'{"since": "x"}', bytes(100)])
def test_a_broken_file_costs_the_past_and_not_the_bells(tmp_path: Path, junk: bytes) -> None:
    (tmp_path / "bells.json").write_bytes(junk)
    place = school("2026-03-09T07:00", tmp_path, until(1.1))
    assert [outcome for _, _, outcome in outcomes(place)] == ["rung"]
    assert any(line[1] == "bells.json cannot be read" for line in place.host.logged.lines)


async def test_promises() -> None:
    report = await check_adapter(Page, BELLS, Scenario())
    assert {"A01", "A02", "A03", "A04", "A08", "A09", "A10", "A11", "A13"} <= set(report.kept)
