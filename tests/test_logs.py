"""Logs: a form that technicians and programs read, without secrets, within bounds."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from gateway import logs


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_text_and_json() -> None:
    out = io.StringIO()
    logs.setup(stream=out, timestamps=False)
    logs.get(adapter="fxs").warning("line lost", line=3, why="no current")
    logging.getLogger("library").warning("theirs %d", 5)
    logs.get().debug("too much")
    assert out.getvalue().splitlines() == [
        'level=warning event="line lost" adapter=fxs line=3 why="no current"',
        'level=warning event="theirs 5"',
    ]
    out = io.StringIO()
    logs.setup(stream=out, style="json", level="debug")
    logs.get(adapter="fxs").debug("line found", line=3)
    found = json.loads(out.getvalue())
    assert found.pop("time").endswith("Z")
    assert found == {"level": "debug", "event": "line found", "adapter": "fxs", "line": 3}


def test_lines_carry_the_trace_of_their_leg_or_of_what_is_handled() -> None:
    out = io.StringIO()
    logs.setup(stream=out, timestamps=False)
    before = logs.TRACES.of_leg
    logs.TRACES.of_leg = {"fxs/1#1": "0199c0de"}.get  # type: ignore[assignment]
    try:
        logs.get().warning("no audio", leg="fxs/1#1")
        logs.get().warning("no audio", leg="fxs/1#2")
        logs.TRACES.begin("0199beef")
        logs.get().warning("action refused")
        logs.get().warning("no audio", leg="fxs/1#1")
        logs.get().warning("its own", trace="0199f00d")
        logging.getLogger("library").warning("theirs")
        logs.TRACES.end()
        logs.get().warning("clock set back")
    finally:
        logs.TRACES.of_leg = before
    found = [line.partition("trace=")[2] for line in out.getvalue().splitlines()]
    assert found == ["0199c0de", "", "0199beef", "0199c0de", "0199f00d", "0199beef", ""]


def test_a_traceback_stays_one_line() -> None:
    for style in ("text", "json"):
        out = io.StringIO()
        logs.setup(stream=out, style=style)  # type: ignore[arg-type]
        try:
            raise ValueError("two\nlines")
        except ValueError as error:
            logs.get().error("broke", exc_info=error)
        assert out.getvalue().count("\n") == 1
        assert "ValueError" in out.getvalue()


def test_secrets_do_not_show() -> None:
    out = io.StringIO()
    logs.setup(stream=out)
    logs.get(password="a1b2c3").info("x", pin="a1b2c3", auth_token="a1b2c3", pins={"g": "a1b2c3"})
    assert "a1b2c3" not in out.getvalue()


def test_a_flood_is_limited_but_errors_pass() -> None:
    now = [10.0]
    limit = logs.Limit(3, clock=lambda: now[0])

    def log(method: str = "warning") -> dict[str, object] | None:
        try:
            return dict(limit(None, method, {}))
        except structlog.DropEvent:
            return None

    assert [log() for _ in range(6)] == [{}, {}, {}, None, None, None]
    assert log("error") == {}
    now[0] = 11.0
    assert log() == {"lines_dropped": 3}
    assert log() == {}


async def test_a_loop_without_descriptors_says_so_once() -> None:
    out = io.StringIO()
    logs.setup(stream=out, timestamps=False)
    loop = asyncio.get_running_loop()
    tell = logs.of_loop(logs.get())
    for _ in range(100):
        error = OSError(errno.EMFILE, "Too many open files")
        tell(loop, {"message": "socket.accept() out of system resource", "exception": error})
    (line,) = out.getvalue().splitlines()
    assert 'event="no connection can be accepted"' in line
    assert "Traceback" not in line
    # Everything else is told as ever.
    tell(loop, {"message": "a task failed", "exception": ValueError("wrong")})
    assert "ValueError: wrong" in out.getvalue()
    tell(loop, {"message": "a task failed", "exception": OSError(errno.EMFILE, "no file for it")})
    assert "no file for it" in out.getvalue()
