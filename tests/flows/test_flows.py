"""Flows: what happens, and what is then to be done, written like a log.

A ``.flow`` file holds routes and endpoints (TOML) above a line of dashes, and the log below it:

    0.0  LegOffered leg=sip/telco#1 endpoint=sip/telco called=201
         -> Dial leg=fxs/1#1 endpoint=fxs/1
    5.0  (time passes)

Each line with a time is an event (or just time passing). The arrows under it are the actions that
must come out, in this order and no others; named fields must be equal, unnamed ones are free.
Notes (why a route was taken) are left out unless the flow asks for them.
"""

from __future__ import annotations

import shlex
import tomllib
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.core import actions, events
from gateway.core.endpoints import Condition, Endpoint
from gateway.core.events import EndpointChanged
from gateway.core.routes import Route, RouteTable
from gateway.core.switchboard import Switchboard

FLOWS = sorted(Path(__file__).parent.glob("*.flow"))
# A Monday, 10:00 UTC, so that hours in routes mean something.
MONDAY = 1_767_607_200.0


def board_for(setup: str) -> Switchboard:
    """A switchboard with the routes and endpoints of a flow."""
    document = tomllib.loads(setup)
    legs: dict[str, count[int]] = {}
    ids = count(1)
    board = Switchboard(
        RouteTable(msgspec.convert(document.get("routes", []), list[Route])),
        new_leg=lambda endpoint: f"{endpoint}#{next(legs.setdefault(endpoint, count(1)))}",
        new_id=lambda: f"id-{next(ids)}",
    )
    for raw in document.get("endpoints", []):
        endpoint = msgspec.convert({"condition": "up", **raw}, Endpoint)
        board.receive(EndpointChanged(endpoint=endpoint), 0.0, MONDAY)
    return board


def read_event(text: str) -> Any:
    """``Name key=value ...`` as the event of that name."""
    name, *pairs = shlex.split(text)
    kind = getattr(events, name)
    fields = dict(pair.split("=", 1) for pair in pairs)
    for key in ("trace", "demanded_at", "raised_at"):
        if key in kind.__struct_fields__:
            fields.setdefault(key, "0" if key.endswith("_at") else "t1")
    return msgspec.convert(fields, kind, strict=False)


def steps(log: str) -> list[tuple[int, float, str, list[str]]]:
    """Line number, time, event text and expected actions of each step."""
    found: list[tuple[int, float, str, list[str]]] = []
    for number, line in enumerate(log.splitlines(), 1):
        text = line.split(" ;", 1)[0].strip()
        if not text or text.startswith(";"):
            continue
        if text.startswith("->"):
            found[-1][3].append(text.removeprefix("->").strip())
        else:
            at, _, rest = text.partition(" ")
            found.append((number, float(at), rest.strip(), []))
    return found


def run_flow(path: Path) -> None:
    """Play one flow; the first difference fails with its line."""
    setup, _, log = path.read_text().partition("\n---\n")
    board = board_for(setup)
    offset = setup.count("\n") + 2
    for number, at, text, expected in steps(log):
        where = f"{path.name}:{number + offset}"
        if text.startswith("("):
            out = board.tick(at, MONDAY + at)
        else:
            out = board.receive(read_event(text), at, MONDAY + at)
        wanted = [shlex.split(line) for line in expected]
        if not any(words[0] == "Note" for words in wanted):
            out = [action for action in out if not isinstance(action, actions.Note)]
        got = [f"{type(action).__name__} {msgspec.to_builtins(action)}" for action in out]
        assert [type(action).__name__ for action in out] == [words[0] for words in wanted], (
            f"{where}: {text}\n  got:\n    " + "\n    ".join(got)
        )
        for action, (_, *pairs) in zip(out, wanted, strict=True):
            for pair in pairs:
                key, value = pair.split("=", 1)
                field = msgspec.to_builtins(getattr(action, key))
                shown = str(field).lower() if isinstance(field, bool) else str(field)
                assert shown == value, f"{where}: {type(action).__name__}.{key} is {shown!r}"


@pytest.mark.parametrize("path", FLOWS, ids=lambda path: path.stem)
def test_flow(path: Path) -> None:
    run_flow(path)


def test_there_are_flows() -> None:
    assert len(FLOWS) >= 10
    assert Condition.UP == "up"
