"""Charts of the history of benchmarks: ``python -m tests.bench.chart`` writes docs/figures/*.svg.

Plain SVG from ``tests/bench/history/*.jsonl``; no figure is typed in here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from tests.bench.machine import ROOT

HISTORY = Path(__file__).parent / "history"
FIGURES = ROOT / "docs" / "figures"
COLOURS = ("#1b6ca8", "#c0392b", "#2e8b57", "#8e44ad", "#d68910", "#16808a", "#7f8c8d")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 380, 60, 190, 44, 64

Point = tuple[float, float]


def history(name: str) -> list[dict[str, Any]]:
    """The lines of one history, oldest first; none where there is no file."""
    file = HISTORY / f"{name}.jsonl"
    if not file.exists():
        return []
    found = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
    return sorted(found, key=lambda line: str(line["at"]))


def _text(x: float, y: float, words: str, anchor: str = "start", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(words)}</text>'


def _frame(title: str, body: Iterable[str], height: int = HEIGHT) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="12" fill="#222">\n'
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>\n'
        + _text(LEFT, 22, title, more='font-size="15" font-weight="bold"')
        + "\n"
        + "\n".join(body)
        + "\n</svg>\n"
    )


def lines(
    title: str, series: dict[str, list[Point]], *, x_label: str, y_label: str,
    ticks: Sequence[tuple[float, str]], low: float = 0.0, high: float | None = None,
) -> str:  # fmt: skip
    """A chart of lines; `ticks` are places on the x axis with their words."""
    ys = [y for points in series.values() for _, y in points]
    high = high if high is not None else max(ys, default=1.0) * 1.1
    xs = [x for x, _ in ticks]
    left, right = min(xs), max(xs)

    def at(x: float, y: float) -> Point:
        across = (x - left) / ((right - left) or 1.0)
        up = (y - low) / ((high - low) or 1.0)
        return (
            LEFT + across * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM),
        )

    body = []
    step = 10 ** math.floor(math.log10(high - low))
    step = step / 5 if (high - low) / step < 2 else step / 2 if (high - low) / step < 5 else step
    for k in range(math.ceil(low / step), math.floor(high / step) + 1):
        x, y = at(left, k * step)
        body.append(
            f'<line x1="{x:.1f}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
        )
        body.append(_text(x - 8, y + 4, f"{k * step:g}", "end"))
    for x, words in ticks:
        body.append(_text(at(x, low)[0], HEIGHT - BOTTOM + 18, words, "middle"))
    body.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, x_label, "middle"))
    body.append(_text(14, TOP - 6, y_label))
    for n, (name, points) in enumerate(series.items()):
        colour = COLOURS[n % len(COLOURS)]
        path = " ".join("{:.1f},{:.1f}".format(*at(*point)) for point in points)
        body.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, y in (at(*point) for point in points):
            body.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')
        y = TOP + 14 + 20 * n
        body.append(
            f'<line x1="{WIDTH - RIGHT + 14}" x2="{WIDTH - RIGHT + 34}" y1="{y}" y2="{y}" '
            f'stroke="{colour}" stroke-width="3"/>'
        )
        body.append(_text(WIDTH - RIGHT + 40, y + 4, name))
    return _frame(title, body)


def bars(title: str, rows: Sequence[tuple[str, float]], label: str) -> str:
    """Horizontal bars."""
    height = TOP + 26 * len(rows) + 40
    most = max((value for _, value in rows), default=1.0)
    body = []
    for n, (name, value) in enumerate(rows):
        y = TOP + 26 * n
        width = value / most * (WIDTH - 330)
        body.append(_text(240, y + 13, name, "end"))
        body.append(f'<rect x="250" y="{y}" width="{width:.1f}" height="18" fill="{COLOURS[0]}"/>')
        body.append(_text(256 + width, y + 13, f"{value:.1f}"))
    body.append(_text(250, height - 14, label))
    return _frame(title, body, height)


def relay() -> str | None:
    """CPU per packet as a share of rtpengine's, run by run."""
    found = [
        line
        for line in history("relay")
        if line.get("against") == "rtpengine"
        and line.get("threads", 1) == 1
        and not line.get("epoll")
        and not line.get("busy")
        and not line.get("steer")
    ]
    if not found:
        return None
    runs = list(dict.fromkeys(str(line["commit"]).partition("-")[0] for line in found))
    series: dict[str, dict[float, float]] = {}
    for line in found:
        run = float(runs.index(str(line["commit"]).partition("-")[0]))
        series.setdefault(f"{line['case']}, {line['calls']} calls", {})[run] = line["ratio"]
    ticks = [(float(n), run) for n, run in enumerate(runs)]
    if len(ticks) == 1:
        ticks.append((1.0, ""))
    return lines(
        "CPU per packet, rtpengine in the same run = 1",
        {name: sorted(points.items()) for name, points in sorted(series.items())},
        x_label="commit", y_label="ratio (less is better)", ticks=ticks, high=1.0,
    )  # fmt: skip


def crowd() -> str | None:
    """Share of a core over calls, of clean runs: the latest of each."""
    found = [line for line in history("crowd") if not line["broken"] + line["generator_broken"]]
    if not found:
        return None
    series: dict[str, dict[float, float]] = {}
    for line in found:
        name = f"{line['case']}{', shared' if line['steer'] else ''}"
        series.setdefault(name, {})[float(line["calls"])] = line["core_percent"]
    calls = sorted({0.0, *(float(line["calls"]) for line in found)})
    return lines(
        "Calls that one core carries clean",
        {name: sorted(points.items()) for name, points in sorted(series.items())},
        x_label="calls", y_label="% of the core", ticks=[(n, f"{n:g}") for n in calls], high=100.0,
    )  # fmt: skip


def codecs() -> str | None:
    """How many times as fast as foreign libraries the kernels are: the last run."""
    found = history("codecs")
    if not found:
        return None
    ns: dict[str, float] = found[-1]["ns"]
    rows = []
    for name, theirs in ns.items():
        if ":" not in name:
            continue
        library, kernel = name.split(":")
        ours = {mine: value for mine, value in ns.items() if mine.startswith(kernel)}
        if ours:
            best = min(ours, key=ours.__getitem__)
            rows.append((f"{best} / {library}", theirs / ours[best]))
    return bars(
        f"Codec kernels in a full batch, {found[-1]['commit']}", rows,
        "times as fast per channel and 20 ms frame as the other library (1 = equal)",
    )  # fmt: skip


def quality() -> str | None:
    """MOS over loss, of the last run of a transcoded path."""
    found = [
        line
        for line in history("quality")
        if line.get("path") == "PCMU to G722" and "jitter" not in line["weather"]
        and "bursts" not in line["weather"]
    ]  # fmt: skip
    if not found:
        return None
    last = [line for line in found if line["at"] == found[-1]["at"]]

    def loss(line: dict[str, Any]) -> float:
        words = str(line["weather"])
        return float(words.split(" %")[0]) if "%" in words else 0.0

    series = {
        name: [(loss(line), line[key]) for line in last if line.get(key) is not None]
        for name, key in (
            ("Crosspoint", "mos"), ("rtpengine", "rtpengine"),
            ("plain repetition", "repetition"), ("the codecs alone", "ceiling"),
        )
    }  # fmt: skip
    return lines(
        f"Speech through PCMU to G.722, {found[-1]['commit']}",
        {name: points for name, points in series.items() if points},
        x_label="packets lost, %", y_label="MOS-LQO (PESQ)",
        ticks=[(loss(line), f"{loss(line):g}") for line in last], low=1.0, high=4.5,
    )  # fmt: skip


CHARTS: dict[str, Callable[[], str | None]] = {
    "relay": relay,
    "crowd": crowd,
    "codecs": codecs,
    "quality": quality,
}


def main() -> None:
    """Write each chart of which there is a history."""
    FIGURES.mkdir(exist_ok=True)
    for name, draw in CHARTS.items():
        drawn = draw()
        if drawn is None:
            print(f"{name}: no history: see docs/figures.md")
            continue
        (FIGURES / f"{name}.svg").write_text(drawn)
        print(f"docs/figures/{name}.svg")


if __name__ == "__main__":
    main()
