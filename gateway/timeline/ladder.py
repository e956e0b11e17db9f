"""Ladder: a timeline as text, a narrow lane for each endpoint and the words beside them.

    00:03:27.571  +0.001  *  |  |  Note route 'nines' matched 900
    00:03:27.571  +0.001  |  |  <  Dial number=900
    00:03:27.583  +0.013  |  |  >  LegRinging

``>`` came from that endpoint, ``<`` the gateway did there, ``*`` it decided by itself. All plain
ASCII and at most one line each, so that it can be sent over a slow line and searched with grep.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from gateway.timeline.items import GATEWAY, Item


def head(lanes: list[str], labels: dict[str, str]) -> Iterator[str]:
    """The lines that name the lanes."""
    indent = " " * 23
    for n, lane in enumerate(lanes):
        label = labels.get(lane, "")
        yield f"{indent}{'|  ' * n}{lane}{f' ({label})' if label else ''}"


def lanes_of(items: Iterable[Item]) -> list[str]:
    """The gateway and then every endpoint, in the order of appearance."""
    return list(dict.fromkeys([GATEWAY, *(item.lane for item in items)]))


def line(item: Item, lanes: list[str], began: float) -> str:
    """One item. lanes: must hold its lane; began: wall clock of the first item."""
    mark = {"event": ">", "in": ">", "action": "<", "out": "<"}[item.kind]
    if item.lane == GATEWAY:
        mark = "*"
    marks = "  ".join(mark if lane == item.lane else "|" for lane in lanes)
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
