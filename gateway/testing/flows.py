"""Flows: what happens, and what is then to be done, written like a log.

A ``.flow`` file holds routes and endpoints (TOML) above a line of dashes, and the log below it:

    0.0  LegOffered leg=sip/telco#1 endpoint=sip/telco called=201
         -> Dial leg=fxs/1#1 endpoint=fxs/1
    5.0  (time passes)

Each line with a time is an event (or just time passing). The arrows under it are the actions that
must come out, in this order and no others; named fields must be equal, unnamed ones are free.
Notes (why a route was taken) are left out unless the flow asks for them. The clock begins on a
Monday at 10:00 UTC unless the setup says ``begins = <seconds since 1970>``.
"""

from __future__ import annotations

import shlex
import tomllib
from itertools import count
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway.core import actions, events
from gateway.core.endpoints import Endpoint
from gateway.core.events import EndpointChanged
from gateway.core.routes import Route, RouteTable
from gateway.core.switchboard import Switchboard

MONDAY: Final = 1_767_607_200.0
"""A Monday, 10:00 UTC, so that hours in routes mean something."""


def run_flow(path: Path) -> None:
    """Play one flow file. Raises `AssertionError` with the line of the first difference."""
    run_text(path.read_text(), path.name)


def run_text(text: str, name: str) -> None:
    """Play a flow; see `run_flow`. name: what the lines are said to be of."""
    setup, _, log = text.partition("\n---\n")
    document = tomllib.loads(setup)
    begins = float(document.get("begins", MONDAY))
    board = _board(document, begins)
    offset = setup.count("\n") + 2
    for number, at, event, expected in _steps(log):
        where = f"{name}:{number + offset}"
        if event.startswith("("):
            out = board.tick(at, begins + at)
        else:
            out = board.receive(_event(event), at, begins + at)
        _compare(where, event, out, [shlex.split(line) for line in expected])


def _board(document: dict[str, Any], begins: float) -> Switchboard:
    """A switchboard with the routes and endpoints of a flow."""
    legs: dict[str, count[int]] = {}
    ids = count(1)
    board = Switchboard(
        RouteTable(
            msgspec.convert(document.get("routes", []), list[Route]), document.get("zone", "UTC")
        ),
        new_leg=lambda endpoint: f"{endpoint}#{next(legs.setdefault(endpoint, count(1)))}",
        new_id=lambda: f"id-{next(ids)}",
    )
    for raw in document.get("endpoints", []):
        endpoint = msgspec.convert({"condition": "up", **raw}, Endpoint)
        board.receive(EndpointChanged(endpoint=endpoint), 0.0, begins)
    return board


def _event(text: str) -> Any:
    """``Name key=value ...`` as the event of that name; a value in braces is JSON."""
    name, *pairs = shlex.split(text)
    kind = getattr(events, name)
    fields: dict[str, Any] = dict(pair.split("=", 1) for pair in pairs)
    for key in ("trace", "demanded_at", "raised_at"):
        # An input has the time of its alarm only when the gateway has given it one.
        if key in kind.__struct_fields__ and (key, name) != ("raised_at", "InputChanged"):
            fields.setdefault(key, "0" if key.endswith("_at") else "t1")
    for key, value in fields.items():
        if value.startswith("{"):
            fields[key] = msgspec.json.decode(value)
    return msgspec.convert(fields, kind, strict=False)


def _steps(log: str) -> list[tuple[int, float, str, list[str]]]:
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


def _compare(where: str, text: str, out: list[Any], wanted: list[list[str]]) -> None:
    if not any(words[0] == "Note" for words in wanted):
        out = [action for action in out if not isinstance(action, actions.Note)]
    got = [f"{type(action).__name__} {msgspec.to_builtins(action)}" for action in out]
    if [type(action).__name__ for action in out] != [words[0] for words in wanted]:
        raise AssertionError(f"{where}: {text}\n  got:\n    " + "\n    ".join(got))
    for action, (_, *pairs) in zip(out, wanted, strict=True):
        for pair in pairs:
            key, value = pair.split("=", 1)
            found = shown(getattr(action, key))
            if found != value:
                raise AssertionError(f"{where}: {type(action).__name__}.{key} is {found!r}")


def shown(value: object) -> str:
    """A field of an action as a flow writes it."""
    plain = msgspec.to_builtins(value)
    return str(plain).lower() if isinstance(plain, bool) else str(plain)
