"""Page: a timeline as one HTML file that needs nothing else, to be sent to whoever helps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from html import escape
from typing import Final

from gateway.timeline.items import Item
from gateway.timeline.ladder import GATEWAY, networks

_STYLE: Final = """
body{font:14px/1.4 system-ui,sans-serif;margin:1.5em;color:#222;background:#fff}
h1{font-size:1.2em}dl{display:grid;grid-template-columns:max-content 1fr;gap:0 1em}
dt{color:#666}dd{margin:0}
table{border-collapse:collapse;margin-top:1em}
th{text-align:left;font-weight:600;padding:.2em .6em;border-bottom:2px solid #444;
vertical-align:bottom}
tr.networks th{border-bottom:0;border-left:1px solid #ccc;font-size:1.1em}
td{padding:.1em .6em;vertical-align:top;white-space:nowrap}
td.lane{border-left:1px solid #ccc;min-width:7em;color:#06c}
td.lane.action,td.lane.out{color:#a50}td.lane.own{color:#555}
td.words{white-space:normal;max-width:60em;color:#444}
tr:hover{background:#f4f7fb}pre{white-space:pre-wrap;margin:.3em 0;background:#f6f6f6;padding:.5em}
time{color:#777}summary{cursor:pointer}
@media (prefers-color-scheme:dark){body{background:#161616;color:#ddd}td.words{color:#bbb}
td.lane{color:#7bf;border-color:#444}td.lane.action,td.lane.out{color:#fb7}tr:hover{background:#222}
pre{background:#222}}
"""
_ARROWS: Final = {"event": "&rarr;", "in": "&rarr;", "action": "&larr;", "out": "&larr;"}


def page(
    items: list[Item], lanes: list[str], *, trace: str, facts: dict[str, str], notes: list[str]
) -> str:
    """The document. facts: named above the table; notes: sentences under it."""
    return "\n".join(_lines(items, lanes, trace, facts, notes))


def _lines(
    items: list[Item], lanes: list[str], trace: str, facts: dict[str, str], notes: list[str]
) -> Iterator[str]:
    title = f"Trace {escape(trace)}"
    yield "<!DOCTYPE html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    # No script, no picture, nothing from elsewhere: also what a name from the network may try.
    yield (
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    )
    yield f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1><dl>"
    for name, value in facts.items():
        yield f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
    yield '</dl><table><thead><tr class="networks"><th></th><th></th>'
    for name, of in networks(lanes):
        yield f'<th colspan="{len(of)}">{escape(name)}</th>'
    yield "<th></th></tr><tr><th>Time</th><th>After</th>"
    for lane in lanes:
        yield f"<th>{escape(lane.partition('/')[2])}</th>"
    yield "<th></th></tr></thead><tbody>"
    began = items[0].at if items else 0.0
    for item in items:
        yield _row(item, lanes, began)
    yield "</tbody></table>"
    for note in notes:
        yield f"<p>{escape(note)}</p>"
    yield "</body></html>"


def _row(item: Item, lanes: list[str], began: float) -> str:
    clock = time.strftime("%H:%M:%S", time.localtime(item.at))
    cells = [
        f"<td><time>{clock}.{int(item.at * 1000) % 1000:03}</time></td>",
        f"<td>{item.at - began:+.3f}&nbsp;s</td>",
    ]
    for lane in lanes:
        if lane != item.lane:
            cells.append('<td class="lane"></td>')
            continue
        kind = "own" if lane == GATEWAY else item.kind
        arrow = "" if lane == GATEWAY else _ARROWS[item.kind] + " "
        cells.append(f'<td class="lane {kind}">{arrow}{escape(item.name)}</td>')
    words = item.text.splitlines()
    text = escape(words[0]) if words else ""
    if len(words) > 1:
        text = f"<details><summary>{text}</summary><pre>{escape(item.text)}</pre></details>"
    return f'<tr>{"".join(cells)}<td class="words">{text}</td></tr>'
