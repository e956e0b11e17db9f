"""Tables for people, lines of JSON for the history, and whether each target was met."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.bench.machine import keep, machine


class Report:
    """Collects what was measured; prints as it comes."""

    def __init__(self) -> None:
        self.about = machine()
        self.rows: list[dict[str, Any]] = []
        self.missed = 0
        self.met = 0
        self.stall_s = 0.0
        """How long this program, of which gateway and stations are a part, stood still at worst."""
        self._header: list[str] = []

    def take(self, part: Report) -> None:
        """What a part has measured counts."""
        self.rows += part.rows
        self.met += part.met
        self.missed += part.missed

    def say(self, text: str) -> None:
        """A remark."""
        print(text, flush=True)
        self._header = []

    def add(self, part: str, row: dict[str, Any], targets: Sequence[tuple[str, bool]]) -> None:
        """One line: what was measured, and what it was to be."""
        self.rows.append({"part": part, **row, "targets": dict(targets)})
        self.met += sum(ok for _, ok in targets)
        self.missed += sum(not ok for _, ok in targets)
        if list(row) != self._header:
            self._header = list(row)
            print("\n" + "  ".join(_cell(key, key.replace("_", " ")) for key in row))
        words = "; ".join(f"{'ok' if ok else 'MISSED'}: {what}" for what, ok in targets)
        print("  ".join(_cell(key, value) for key, value in row.items()), "", words, flush=True)

    def end(self, *, save: bool) -> int:
        """The verdict; the exit status."""
        total = self.met + self.missed
        if self.missed:
            print(f"\n{self.missed} of {total} targets MISSED", flush=True)
        else:
            print(f"\nall {total} targets met", flush=True)
        if save:
            for row in self.rows:
                keep("quality", {**self.about, **row})
        return int(self.missed > 0)


def _cell(key: str, value: Any) -> str:
    text = "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    width = max(len(key), {"path": 26, "weather": 24, "file": 22}.get(key, 7))
    return f"{text:<{width}}" if key in ("path", "weather", "file") else f"{text:>{width}}"
