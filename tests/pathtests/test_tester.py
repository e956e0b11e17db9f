"""Tests by the timetable in a whole gateway: real calls, real recordings, alarms, memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.config import load
from gateway.control.desk import Desk
from gateway.control.questions import EndpointsQuery, Nothing
from gateway.control.shapes import PathTestRequest
from gateway.core.endpoints import Condition
from gateway.core.envelope import Envelope
from gateway.core.events import (
    AlarmCleared,
    AlarmRaised,
    CallRequested,
    PathTested,
    PathTestKind,
)
from gateway.errors import ConfigError
from gateway.pathtests import book, timetable
from gateway.reload import Reloader
from gateway.runtime import Gateway

CONFIG = """
[gateway]
name = "lab"
data_dir = "{home}/data"
drain_s = 0.2
[control]
socket = "{home}/s"
[media]
realtime = false
local_ip = "127.0.0.1"
[adapters.loopback.ports.echo]
[adapters.loopback.ports.hum]
tone_hz = 440.0
[adapters.loopback.ports.other]
"""
EVERY = 'kind = "loop"\nevery_s = 86400\nseconds = 0.5\nretry_s = 10\n'


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first time is due at once."""
    monkeypatch.setattr(timetable, "FIRST_S", 0.3)


class Run:
    """A gateway that runs, and its bus."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.seen: list[Envelope] = []

    async def follow(self) -> None:
        async for envelope in self.gateway.subscribe(100_000):
            self.seen.append(envelope)

    def of(self, kind: type) -> list[Any]:
        return [each.body for each in self.seen if type(each.body) is kind]

    async def until(self, condition: Callable[[], Any], within_s: float = 40.0) -> Any:
        async with asyncio.timeout(within_s):
            while not condition():  # noqa: ASYNC110 (what happens has no event of its own)
                await asyncio.sleep(0.02)
        return condition()


@contextlib.asynccontextmanager
async def running(home: Path, tests: str) -> AsyncIterator[Run]:
    file = home / "gateway.toml"
    file.write_text(CONFIG.format(home=home) + tests)
    run = Run(Gateway(load(file)))
    task = asyncio.create_task(run.gateway.run())
    follow = asyncio.create_task(run.follow())
    try:
        places = run.gateway.places
        await run.until(
            lambda: (
                "loopback/echo" in places and places["loopback/echo"][0].condition is Condition.UP
            )
        )
        yield run
    finally:
        run.gateway.stop()
        run.gateway.stop()
        await asyncio.wait_for(task, 20.0)
        follow.cancel()


async def test_every_endpoint_of_a_pattern_is_tested(tmp_path: Path) -> None:
    async with running(tmp_path, f'[[tests]]\nendpoint = "loopback/*"\n{EVERY}') as run:
        await run.until(lambda: len(run.of(AlarmRaised)) == 1)
        await run.until(lambda: len(run.of(PathTested)) == 4)
        results = run.of(PathTested)
        (alarm,) = run.of(AlarmRaised)
        desk = Desk(run.gateway)
        status = desk.status(Nothing())
        (hum,) = desk.endpoints(EndpointsQuery(endpoint="loopback/hum"))
        metrics = desk.metrics(Nothing()).decode()
        left = list(run.gateway.configuration.recordings_dir.rglob("*.wav"))
        # Somebody has mended it, and tries it himself.
        answer = await desk.test(
            PathTestRequest(
                endpoint="loopback/hum", kind=PathTestKind.LOOP, expect="open", seconds=0.5
            ),
            Nothing(),
            by="anna",
        )
        await run.until(lambda: run.of(AlarmCleared))
        mended = desk.status(Nothing())
    # The one that fails has had a second chance.
    assert [(each.endpoint, each.verdict) for each in results] == [
        ("loopback/echo", "closed"), ("loopback/hum", "open"), ("loopback/hum", "open"),
        ("loopback/other", "closed"),
    ]  # fmt: skip
    assert (alarm.endpoint, alarm.alarm, alarm.kind) == (
        "gateway/tests", "loopback/hum loop", "fault",
    )  # fmt: skip
    assert alarm.text.startswith("loop test of loopback/hum: open")
    assert [each.endpoint for each in status.tests_failed] == ["loopback/hum"]
    assert [(each.kind, each.ok, each.scheduled) for each in hum.tests] == [("loop", False, True)]
    line = 'crosspoint_path_test_ok{endpoint="loopback/hum",kind="loop",listen=""} 0.0'
    assert line in metrics
    assert 'path_test_figure{endpoint="loopback/echo",figure="delay_ms"' in metrics
    assert left == []
    assert answer.ok
    assert mended.tests_failed == []


async def test_what_is_known_outlives_the_daemon(tmp_path: Path) -> None:
    tests = f'[[tests]]\nendpoint = "loopback/hum"\n{EVERY}'
    async with running(tmp_path, tests) as run:
        await run.until(lambda: run.of(AlarmRaised))
    async with running(tmp_path, tests) as run:
        assert [each.tested.endpoint for each in run.gateway.tester.failed()] == ["loopback/hum"]
        # It is not due again today.
        await asyncio.sleep(0)
        assert run.of(PathTested) == []
    # Nobody tests it any more: nothing would ever clear its alarm.
    async with running(tmp_path, "") as run:
        await run.until(lambda: run.of(AlarmCleared))
        assert run.gateway.tester.failed() == []


async def test_a_call_is_not_disturbed(tmp_path: Path) -> None:
    tests = f'[[tests]]\nendpoint = "loopback/echo"\n{EVERY}'
    async with running(tmp_path, tests) as run:
        run.gateway.emit(
            CallRequested(origin="loopback/echo", target="loopback/other", trace="call")
        )
        await run.until(lambda: len(run.gateway.switchboard.legs) == 2)
        await run.until(lambda: run.of(PathTested))
        (result,) = run.of(PathTested)
        await run.until(lambda: run.gateway.tester.put_off)
        waiting = dict(run.gateway.tester.put_off)
        legs = sorted(run.gateway.switchboard.legs)
        alarms = run.of(AlarmRaised)
    assert (result.judged, result.verdict) == (False, "put off")
    assert waiting == {"loopback/echo loop": "loopback/echo is in use"}
    assert len(legs) == 2
    assert alarms == []


async def test_a_call_that_needs_the_line_gets_it(tmp_path: Path) -> None:
    tests = f'[[tests]]\nendpoint = "loopback/echo"\n{EVERY}'.replace("0.5", "20")
    async with running(tmp_path, tests) as run:
        recordings = run.gateway.configuration.recordings_dir
        await run.until(lambda: list(recordings.rglob("*.wav")))
        run.gateway.emit(
            CallRequested(origin="loopback/other", target="loopback/echo", trace="call")
        )
        await run.until(lambda: run.of(PathTested))
        (result,) = run.of(PathTested)
        await run.until(lambda: len(run.gateway.switchboard.legs) == 2)
        await run.until(lambda: not list(recordings.rglob("*.wav")))
        alarms = run.of(AlarmRaised)
    assert (result.judged, result.detail) == (False, "a call needs loopback/echo")
    assert alarms == []


async def test_a_reload_changes_the_timetable(tmp_path: Path) -> None:
    async with running(tmp_path, "") as run:
        file = tmp_path / "gateway.toml"
        file.write_text(file.read_text() + f'[[tests]]\nendpoint = "loopback/echo"\n{EVERY}')
        outcome = await Reloader(run.gateway).apply(load(file))
        await run.until(lambda: run.of(PathTested))
        (result,) = run.of(PathTested)
    assert [(each.what, each.name, each.how) for each in outcome.changes] == [
        ("test", "loopback/echo loop", "added")
    ]
    assert result.ok


@pytest.mark.parametrize(
    ("section", "why"),
    [
        ('endpoint = "loopback/ehco"\nkind = "loop"\nat = ["03:00"]', "loopback/echo"),
        ('endpoint = "loobpack/*"\nkind = "loop"\nat = ["03:00"]', "no configured endpoint"),
        ('endpoint = "loopback/echo"\nkind = "lop"\nat = ["03:00"]', "kind"),
        ('endpoint = "loopback/echo"\nkind = "loop"', "either at"),
        ('endpoint = "loopback/echo"\nkind = "loop"\nat = ["3"]', "08:00"),
        ('endpoint = "loopback/echo"\nkind = "loop"\nat = ["03:00"]\nspeed = 1', "speed"),
        (
            'endpoint = "loopback/echo"\nkind = "acoustic"\nat = ["03:00"]\nlisten = "loopback/x"',
            "no adapter defines endpoint loopback/x",
        ),
        (
            'endpoint = "loopback/echo"\nkind = "loop"\nat = ["03:00"]\n'
            '[[tests]]\nendpoint = "loopback/echo"\nkind = "loop"\nat = ["04:00"]',
            "twice",
        ),
    ],
)
def test_the_check_names_mistakes(tmp_path: Path, section: str, why: str) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(CONFIG.format(home=tmp_path) + f"[[tests]]\n{section}\n")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert why in str(caught.value)
    assert "gateway.toml:" in str(caught.value)


def test_a_spoiled_book_is_said_and_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "tests.json"
    pages = book.Book(path)
    pages.keep_baseline("fxs/1 loop", {"attenuation_db": 3.0})
    pages.write(pages.text())
    again = book.Book(path)
    again.read()
    assert again.baseline("fxs/1 loop") == {"attenuation_db": 3.0}
    path.write_bytes(b"{")
    with pytest.raises(Exception, match="set them anew"):
        book.Book(path).read()
