"""What people see: tables that read without colours, in 80 columns, and in a pipe.

Columns two blanks apart, no lines, no cell cut off: `awk` and `grep` find what they look for, and a
slow line carries little. On a narrow terminal free text moves below its row. A table library would
draw more, need ten times the octets, and break words to fit.
"""

from __future__ import annotations

import os
import sys
import time

from gateway.cli.brief import echo, style

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, Final

_COLOURS: Final = {
    "up": "green", "connected": "green", "running": "green",
    "down": "red", "active": "red", "exhausted": "red", "critical": "red", "major": "red",
    "unknown": "yellow", "alerting": "yellow", "offered": "yellow", "initiated": "yellow",
    "held": "yellow", "closing": "yellow", "stopping": "yellow", "minor": "yellow",
}  # fmt: skip


class Column:
    """A heading and how its cells behave on a narrow terminal.

    right: numbers stand at the right. fold: it may move to a line of its own below the row when the
    terminal is too narrow.
    """

    __slots__ = ("fold", "right", "title")

    def __init__(self, title: str, right: bool = False, fold: bool = False) -> None:
        self.title, self.right, self.fold = title, right, fold


def terminal() -> bool:
    """Whether a person looks at a terminal."""
    return sys.stdout.isatty()


def size() -> os.terminal_size:
    """Columns and lines of the terminal."""
    # Not shutil's, whose import takes as long as the rest of a command: the environment first, as
    # there, then the terminal.
    try:
        columns, lines = os.get_terminal_size(sys.__stdout__.fileno() if sys.__stdout__ else 1)
    except (OSError, ValueError):
        columns, lines = 0, 0
    named = [os.environ.get(name, "") for name in ("COLUMNS", "LINES")]
    wide, high = (int(text) if text.isdecimal() else 0 for text in named)
    return os.terminal_size((wide or columns or 80, high or lines or 24))


def emit_json(value: Any) -> None:
    """One JSON document: indented for a person, one line in a pipe."""
    import json

    echo(json.dumps(value, indent=2 if terminal() else None, ensure_ascii=False))


def table(columns: Sequence[Column], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """Show rows; `empty` says in words that there are none."""
    found = list(rows)
    if not found:
        echo(empty, err=not terminal())
        return
    width = size().columns if terminal() else None
    echo("\n".join(layout(columns, found, width=width, colour=colours())))


def colours() -> bool:
    """Whether to colour words; never needed to understand them. https://no-color.org"""
    return terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def layout(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    *,
    width: int | None = None,
    colour: bool = False,
) -> list[str]:
    """The lines of a table, headings first; an empty cell is ``-``.

    width: of the terminal; columns that may fold move below their row until the rest fits.
    """
    cells = [[clean(cell) for cell in row] for row in rows]
    widths = [
        max([len(column.title), *(len(row[n] or "-") for row in cells)])
        for n, column in enumerate(columns)
    ]
    beside = list(range(len(columns)))
    below: list[int] = []
    while width is not None and sum(widths[n] + 2 for n in beside) - 2 > width:
        movable = [n for n in beside if columns[n].fold]
        if not movable:
            break
        beside.remove(movable[-1])
        below.insert(0, movable[-1])

    def line(texts: Sequence[str], *, style: Callable[[str], str]) -> str:
        parts = []
        for n in beside:
            text = texts[n] or "-"
            blanks = " " * (widths[n] - len(text))
            shown = style(text)
            parts.append(blanks + shown if columns[n].right else shown + blanks)
        return "  ".join(parts).rstrip()

    lines = [line([column.title for column in columns], style=lambda text: text)]
    for row in cells:
        lines.append(line(row, style=_coloured if colour else lambda text: text))
        lines += [f"    {columns[n].title.lower()}: {row[n]}" for n in below if row[n]]
    return lines


def _coloured(text: str) -> str:
    colour = _COLOURS.get(text)
    return style(text, fg=colour) if colour else text


class Live:
    """A table that is drawn over itself; only lines that changed are sent."""

    def __init__(self) -> None:
        self._shown: list[str] = []

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines in place of the ones before."""
        rows = size().lines
        new = list(lines)
        if len(new) > rows - 1:
            new = [*new[: rows - 2], f"... {len(new) - rows + 2} more lines"]
        out = [f"\x1b[{len(self._shown)}A"] if self._shown else []
        for n, text in enumerate(new):
            if n < len(self._shown) and self._shown[n] == text:
                out.append("\n")
            else:
                out.append(f"\r{text}\x1b[K\n")
        # What is left of a longer table.
        out.append("\x1b[J")
        sys.stdout.write("".join(out))
        sys.stdout.flush()
        self._shown = new


def facts(pairs: Iterable[tuple[str, str]]) -> None:
    """Names and values, one a line; those without a value are left out."""
    given = [(name, clean(value)) for name, value in pairs if value]
    width = max((len(name) for name, _ in given), default=0)
    for name, value in given:
        echo(f"{name.ljust(width)}  {_coloured(value) if colours() else value}")


def clean(text: str) -> str:
    """Without control characters: names come from the network, a terminal obeys escapes."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else "�" for sign in text)


def short(identity: str) -> str:
    """The end of a UUIDv7: its beginning is a time and alike in neighbours."""
    return identity[-8:]


def duration(seconds: float | None) -> str:
    """``0:07``, ``3:25``, ``2h03``, ``5d04h``; empty for None."""
    if seconds is None:
        return ""
    whole = int(max(0.0, seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes_rest = divmod(minutes, 60)
    days, hours_rest = divmod(hours, 24)
    if days:
        return f"{days}d{hours_rest:02}h"
    if hours:
        return f"{hours}h{minutes_rest:02}"
    return f"{minutes}:{rest:02}"


def clock(at: float | None, *, date: bool = False) -> str:
    """Local wall-clock time; with the date when asked for."""
    if at is None:
        return ""
    return time.strftime("%Y-%m-%d %H:%M:%S" if date else "%H:%M:%S", time.localtime(at))


def number(value: float | None, digits: int = 0, *, none: str = "") -> str:
    """A number with so many decimals."""
    return none if value is None else f"{value:.{digits}f}"


def level(dbm0: float | None) -> str:
    """A level in dBm0; the meter's floor is ``silence``."""
    if dbm0 is None:
        return ""
    return "silence" if dbm0 <= -90.0 else f"{dbm0:+.0f}"


def emit_line(value: Any) -> None:
    """One JSON document in one line, at once: for those who follow."""
    import json

    echo(json.dumps(value, ensure_ascii=False))
    sys.stdout.flush()
