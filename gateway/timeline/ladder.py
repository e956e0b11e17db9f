"""Ladder: a timeline as text, networks as columns, a lane for each endpoint, words beside them.

                           gateway  loopback
                           |        loopback/carol
                           |        |  loopback/bob
    00:03:27.571  +0.001   *        |  |      Note route 'nines' matched 900
    00:03:27.571  +0.001   |        |  <      Dial number=900
    00:03:27.583  +0.013   |        |  >      LegRinging

``>`` came from that endpoint, ``<`` the gateway did there, ``*`` it decided by itself. All plain
ASCII and at most one line each, so that it can be sent over a slow line and searched with grep.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Final, Protocol

    class Said(Protocol):
        """What a line needs of an `Item`: who only shows one does not load all that makes one."""

        @property
        def at(self) -> float: ...
        @property
        def lane(self) -> str: ...
        @property
        def kind(self) -> str: ...
        @property
        def name(self) -> str: ...
        @property
        def text(self) -> str: ...


GATEWAY: Final = "gateway"
"""The lane of what the gateway does by itself."""


def head(lanes: list[str], labels: dict[str, str], above: Iterable[str] = ()) -> Iterator[str]:
    """The lines that name the networks, and under them the endpoints.

    above: lanes that have been named already. Where they keep their columns, only what is new is.
    """
    indent = " " * 23
    groups = networks(lanes)
    old, new = _columns(grouped(above)) if above else {}, _columns(lanes)
    if any(new.get(lane) != column for lane, column in old.items()):
        old = {}
    if not {name for name, _ in groups} <= {lane.partition("/")[0] for lane in old}:
        yield indent + "  ".join(name.ljust(_width(name, of)) for name, of in groups).rstrip()
    for n, lane in enumerate(lanes):
        if lane == GATEWAY or lane in old:
            continue
        label = labels.get(lane, "")
        marks = ["|"] * n + [f"{lane}{f' ({label})' if label else ''}"]
        yield indent + _row(marks + [""] * (len(lanes) - n - 1), groups)


def lanes_of(items: Iterable[Said]) -> list[str]:
    """The gateway and then every endpoint, network by network, in the order of appearance."""
    return grouped(item.lane for item in items)


def grouped(lanes: Iterable[str]) -> list[str]:
    """Lanes in the order of their networks, the gateway's the first, none twice."""
    found = dict.fromkeys([GATEWAY, *lanes])
    return [lane for _, of in networks(found) for lane in of]


def networks(lanes: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Each network and its lanes: what stands before the slash of an endpoint's id."""
    found: dict[str, list[str]] = {}
    for lane in lanes:
        found.setdefault(lane.partition("/")[0], []).append(lane)
    return list(found.items())


def _columns(lanes: Iterable[str]) -> dict[str, int]:
    """Where the mark of each lane stands."""
    found: dict[str, int] = {}
    begin = 0
    for name, of in networks(lanes):
        found |= {lane: begin + 3 * n for n, lane in enumerate(of)}
        begin += _width(name, of) + 2
    return found


def _width(name: str, lanes: list[str]) -> int:
    return max(len(name), 3 * len(lanes) - 2)


def _row(marks: list[str], groups: list[tuple[str, list[str]]]) -> str:
    """One mark for each lane, those of a network beside each other, the networks further apart."""
    parts, n = [], 0
    for name, of in groups:
        parts.append("  ".join(marks[n : n + len(of)]).ljust(_width(name, of)))
        n += len(of)
    return "  ".join(parts).rstrip()


def line(item: Said, lanes: list[str], began: float) -> str:
    """One item. lanes: must hold its lane; began: wall clock of the first item."""
    mark = {"event": ">", "in": ">", "action": "<", "out": "<"}[item.kind]
    if item.lane == GATEWAY:
        mark = "*"
    groups = networks(lanes)
    marks = _row([mark if lane == item.lane else "|" for lane in lanes], groups)
    # The words of all lines begin in the same column.
    marks = marks.ljust(sum(_width(name, of) + 2 for name, of in groups) - 2)
    words = item.text.splitlines() or [""]
    more = f" (+{len(words) - 1} lines)" if len(words) > 1 else ""
    name = f"{item.name}:" if item.kind in ("in", "out") else item.name
    return (
        f"{_clock(item.at)} {_elapsed(item.at - began)}  {marks}  {name} {words[0]}{more}".rstrip()
    )


def _clock(at: float) -> str:
    return f"{time.strftime('%H:%M:%S', time.localtime(at))}.{int(at * 1000) % 1000:03}"


def _elapsed(seconds: float) -> str:
    return f"{seconds:+.3f}".rjust(8)
