"""``gateway top``: the box on one screen, live, over a slow line.

The screen is made of plain lines by functions that know no terminal; curses sends what changed.
"""

from __future__ import annotations

import contextlib
import curses
import io
import os
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from gateway.cli import Settings, show
from gateway.cli import lazily as click
from gateway.cli.brief import Done
from gateway.cli.options import json_option
from gateway.cli.status import troubles
from gateway.client import Client, CommandError

_BAR: Final = 10
_FLOOR_DBM0: Final = -60.0
_KEYS: Final = "up/down: choose  l: levels  d: diag  t: trace  h: hang up  a: alarms  q: quit"


class Line(NamedTuple):
    """A line of the screen."""

    text: str
    style: str = ""
    """``""``, ``head``, ``chosen``, ``bad``, ``warn``, ``dim``."""


@dataclass
class Snapshot:
    """What the gateway answered at one moment."""

    at: float = 0.0
    """Wall clock, seconds since 1970."""
    status: dict[str, Any] = field(default_factory=dict)
    calls: list[dict[str, Any]] = field(default_factory=list)
    alarms: list[dict[str, Any]] = field(default_factory=list)
    adapters: list[dict[str, Any]] = field(default_factory=list)
    endpoints: list[dict[str, Any]] = field(default_factory=list)
    lost: str = ""
    """Why there is no newer one."""


def look(client: Client, n_calls: int = 0, *, whole: bool = True) -> Snapshot:
    """Ask for everything that is shown, of calls the first so many, 0: all. Not `whole`: without
    what the screen has no use for. Raises `CommandError` when nobody answers."""
    status = client.get("/v1/status")
    # Asked for each second: of endpoints that are all up there is nothing to say.
    unfit = status["endpoints_down"] or status["endpoints_unknown"]
    return Snapshot(
        time.time(),
        status,
        client.get("/v1/calls", hints={"limit": n_calls} if n_calls else None),
        client.get("/v1/alarms"),
        client.get("/v1/adapters") if whole else [],
        client.get("/v1/endpoints") if whole or unfit else [],
    )


@click.command()
@json_option
@click.option("--every", type=click.FloatRange(0.2, 60), default=1.0, show_default=True,
              metavar="SECONDS", help="How often to look again.")  # fmt: skip
@click.pass_obj
def top(settings: Settings, every: float) -> None:
    """The box on one screen: health, alarms, calls, levels, who holds the floor.

    Choose a call with the arrow keys; l shows its levels, d what is wrong with it, Enter all about
    it, t its trace, h hangs it up after a question, q leaves. In a pipe, or with --json: once, and
    the end.
    """
    client = settings.client()
    found = look(client, whole=settings.as_json)
    if settings.as_json:
        show.emit_json({name: value for name, value in vars(found).items() if name != "lost"})
    elif not show.terminal():
        click.echo("\n".join(line.text for line in overview(found, "", 120)))
    else:
        curses.wrapper(lambda screen: _Top(screen, settings, client, found, every).run())


def overview(found: Snapshot, chosen: str, width: int) -> list[Line]:
    """The main screen: what is wrong first, then alarms, then calls with a line for each leg."""
    lines = [Line(_headline(found), "head")]
    if found.lost:
        lines.append(Line(f"NO ANSWER since {show.clock(found.at)}: {found.lost}", "bad"))
    lines += [Line(f"! {text}", "bad") for text in troubles(found.status)]
    lines += [
        Line(f"  {place['id']}: {place['condition']}: {place['reason'] or 'no reason'}", "warn")
        for place in found.endpoints
        if place["condition"] != "up"
    ]  # fmt: skip
    lines += alarms(found, active=True)
    lines.append(Line(""))
    lines += _calls(found, chosen)
    return [Line(show.clean(line.text)[:width], line.style) for line in lines]


def folded(text: str, width: int) -> list[str]:
    """A line in as many as it takes, what goes on further in: none of it is cut off."""
    indent = " " * min(len(text) - len(text.lstrip()) + 4, width // 2)
    return textwrap.wrap(text, max(20, width), subsequent_indent=indent) or [""]


def _headline(found: Snapshot) -> str:
    status = found.status
    n_down = len(status["endpoints_down"])
    return (
        f"{status['box']} {status['state']} {show.duration(status['up_s'])}  "
        f"{show.clock(found.at)}  calls {status['calls']} ({status['legs']} legs)  "
        f"alarms {status['alarms_active']}  adapters {status['adapters_up']} up "
        f"{len(status['adapters_down'])} down  endpoints {status['endpoints_up']} up {n_down} down"
    )


def alarms(found: Snapshot, *, active: bool) -> list[Line]:
    """A line for each alarm, the newest last."""
    lines = []
    for alarm in found.alarms:
        if active and alarm["state"] != "active":
            continue
        told = "people are being told" if alarm["being_told"] else alarm["state"]
        if not alarm["route"]:
            told = "NO ROUTE: nobody is told"
        by = f" by {alarm['by']}" if alarm["by"] else ""
        lines.append(
            Line(
                f"ALARM {alarm['severity']} {alarm['endpoint']} {alarm['alarm']} "
                f"{show.duration(alarm['age_s'])} {told}{by}: {alarm['text']}",
                "bad" if alarm["state"] == "active" else "dim",
            )
        )
    return lines


def _calls(found: Snapshot, chosen: str) -> list[Line]:
    if not found.calls:
        return [Line("no calls", "dim")]
    bar = _BAR + 4
    lines = [
        Line(
            f"  {'CALL':8}  {'LEG':22}{'STATE':10}{'TIME':>6}  {'IN dBm0':{bar}} {'OUT dBm0':{bar}}"
            f"{'LOSS %':>7}{'JIT ms':>7}  NOTES",
            "head",
        )
    ]
    for call in found.calls:
        style = "chosen" if call["id"] == chosen else ""
        for n, leg in enumerate(call["legs"]):
            mark = ">" if style and n == 0 else " "
            name = show.short(call["id"]) if n == 0 else ""
            lines.append(Line(f"{mark} {name:8}  {_leg(call, leg)}", style))
    if (n_more := found.status["calls"] - len(found.calls)) > 0:
        lines.append(Line(f"... {n_more} more calls: arrow down", "dim"))
    return lines


def _leg(call: dict[str, Any], leg: dict[str, Any]) -> str:
    audio = leg["audio"]
    notes = [word for word in ("floor", "keyed", "early") if leg[word]]
    notes += [word.upper() for word in leg.get("impaired", ())]
    if call["priority"] != "routine":
        notes.append(call["priority"])
    text = f"{leg['endpoint']:21} {leg['state']:10}{show.duration(leg['age_s']):>6}  "
    if audio is None:
        blank = " " * (2 * (_BAR + 4) + 1)
        return f"{text}{blank}{'':14}  {' '.join([*notes, 'no audio'])}".rstrip()
    expected = audio["packets_received"] + audio["packets_lost"]
    loss = 100.0 * audio["packets_lost"] / expected if expected else 0.0
    if audio["silent_s"] >= 1:
        notes.append(f"silent {audio['silent_s']:.0f} s")
    return (
        f"{text}{meter(audio['level_in_dbm0'])} {meter(audio['level_out_dbm0'])}"
        f"{loss:7.1f}{audio['jitter_ms']:7.1f}  {' '.join(notes)}"
    ).rstrip()


def meter(dbm0: float | None) -> str:
    """A level as a bar from -60 to 0 dBm0 and a number."""
    if dbm0 is None:
        return " " * (_BAR + 4)
    n = round(_BAR * (min(0.0, max(_FLOOR_DBM0, dbm0)) - _FLOOR_DBM0) / -_FLOOR_DBM0)
    value = "  --" if dbm0 <= -90 else f"{dbm0:4.0f}"
    return f"{value}{'#' * n:{_BAR}}"


def levels(found: Snapshot, chosen: str, width: int) -> list[Line]:
    """One call's meters, wide: what a technician watches while somebody speaks."""
    call = next((call for call in found.calls if call["id"] == chosen), None)
    if call is None:
        return [Line("this call is over", "warn")]
    n_wide = max(10, width - 12)
    lines = [Line(f"call {show.short(chosen)}: {call['route'] or 'no route'}", "head")]
    for leg in call["legs"]:
        lines += [Line(""), Line(f"{leg['endpoint']} {leg['state']} {'floor' * leg['floor']}")]
        for title, key in (("in", "level_in_dbm0"), ("out", "level_out_dbm0")):
            dbm0 = leg["audio"][key] if leg["audio"] else None
            share = 0.0 if dbm0 is None else 1 - max(_FLOOR_DBM0, min(0.0, dbm0)) / _FLOOR_DBM0
            style = "bad" if dbm0 is not None and dbm0 > 0 else ""
            bar = "#" * round(share * n_wide)
            lines.append(Line(f"{title:>4} {show.level(dbm0) or 'none':>7} {bar}", style))
    lines += [Line(""), Line("-60 dBm0 at the left, 0 dBm0 at the right edge", "dim")]
    return lines


def window(lines: Sequence[Line], height: int, around: int) -> list[Line]:
    """The head and the part of a long screen that holds line `around`; says how much is outside."""
    if len(lines) <= height:
        return list(lines)
    n_shown = max(0, height - 2)
    begin = max(1, min(around - n_shown // 2, len(lines) - n_shown))
    n_outside = len(lines) - 1 - n_shown
    return [lines[0], *lines[begin : begin + n_shown], Line(f"... {n_outside} more lines", "dim")]


def _size() -> tuple[int, int]:
    """Lines and columns of the terminal; a serial one does not say how many it has."""
    width, height = os.get_terminal_size(sys.stdout.fileno())
    return height or 24, width or 80


class _Top:
    """Keys and what they do; every second a new look."""

    def __init__(
        self,
        screen: curses.window,
        settings: Settings,
        client: Client,
        found: Snapshot,
        every: float,
    ) -> None:
        self._screen, self._settings, self._client = screen, settings, client
        self._found, self._every = found, every
        self._chosen = ""
        self._page = "overview"
        self._at = 0
        """First line of a text that is scrolled."""
        self._text: list[Line] = []
        self._question = ""
        self._size = self._screen.getmaxyx()
        with contextlib.suppress(curses.error):
            curses.curs_set(0)
            curses.start_color()
            curses.use_default_colors()
            curses.init_pair(1, curses.COLOR_RED, -1)
            curses.init_pair(2, curses.COLOR_YELLOW, -1)
        self._styles = {
            "head": curses.A_BOLD,
            "chosen": curses.A_REVERSE,
            "bad": curses.A_BOLD | (curses.color_pair(1) if curses.has_colors() else 0),
            "warn": curses.color_pair(2) if curses.has_colors() else 0,
            "dim": curses.A_DIM,
        }

    def run(self) -> None:
        due = time.monotonic() + self._every
        while True:
            self._draw()
            self._screen.timeout(max(1, round(1000 * (due - time.monotonic()))))
            try:
                key = self._screen.getch()
            except KeyboardInterrupt:
                return  # one of the ways to leave it, as q is
            if key != -1:
                if not self._pressed(key):
                    return
                continue
            due = time.monotonic() + self._every
            try:
                self._found = look(self._client, self._n_calls(), whole=False)
            except CommandError as error:
                self._found.lost = error.what

    def _n_calls(self) -> int:
        """No more calls than are on this screen and the next: each costs the gateway time."""
        ids = [call["id"] for call in self._found.calls]
        at = ids.index(self._chosen) if self._chosen in ids else 0
        return int(at + self._screen.getmaxyx()[0])

    def _pressed(self, key: int) -> bool:
        """Whether to go on."""
        if key == curses.KEY_RESIZE:
            return True
        if self._question:
            self._question = ""
            if key in (ord("y"), ord("Y")):
                self._show(["hangup", self._chosen])
            return True
        if key == ord("q"):
            if self._page == "overview":
                return False
            self._page = "overview"
        elif key == 27:
            self._page = "overview"
        elif key in (curses.KEY_UP, curses.KEY_DOWN, curses.KEY_PPAGE, curses.KEY_NPAGE):
            self._move(key)
        elif key == ord("a"):
            self._page, self._text, self._at = "text", [], 0
            self._text = alarms(self._found, active=False) or [Line("no alarms", "dim")]
        elif self._call():
            if key == ord("l"):
                self._page = "levels"
            elif key == ord("d"):
                self._show(["diag", self._chosen])
            elif key in (10, curses.KEY_ENTER):
                self._show(["call", self._chosen])
            elif key == ord("t"):
                self._show(["trace", self._chosen])
            elif key == ord("h"):
                self._question = f"hang up {show.short(self._chosen)}? y: yes, any other key: no"
        return True

    def _call(self) -> bool:
        """Whether a call is chosen; the first one is when none was."""
        ids = [call["id"] for call in self._found.calls]
        if self._chosen not in ids and self._page == "overview":
            self._chosen = ids[0] if ids else ""
        return bool(self._chosen)

    def _move(self, key: int) -> None:
        if self._page == "text":
            height = self._screen.getmaxyx()[0] - 2
            step = {curses.KEY_UP: -1, curses.KEY_DOWN: 1, curses.KEY_PPAGE: -height}.get(
                key, height
            )
            self._at = max(0, min(self._at + step, len(self._text) - height))
            return
        ids = [call["id"] for call in self._found.calls]
        if self._call():
            step = -1 if key in (curses.KEY_UP, curses.KEY_PPAGE) else 1
            at = ids.index(self._chosen) if self._chosen in ids else 0
            self._chosen = ids[max(0, min(at + step, len(ids) - 1))]

    def _show(self, args: list[str]) -> None:
        """Run another command and page through what it says."""
        from gateway.cli.group import gateway

        said = io.StringIO()
        before = ["--socket", self._client.path]
        try:
            with contextlib.redirect_stdout(said):
                gateway.main([*before, *args], "gateway", standalone_mode=False)
        except Done:
            pass
        except (CommandError, click.ClickException) as error:
            said.write(f"{error}\n")
        width = _size()[1] - 1
        lines = [
            Line(part)
            for text in said.getvalue().splitlines()
            for part in folded(show.clean(text), width)
        ]
        self._page, self._at = "text", 0
        # Ids as the tables show them: on a small screen the whole one leaves no room.
        words = " ".join(show.short(each) if each == self._chosen else each for each in args)
        self._text = [Line(f"gateway {words}", "head"), *lines]

    def _draw(self) -> None:
        # Asked every time: of two changes that come together the signal tells only the first.
        height, width = _size()
        if (height, width) != self._size:
            self._size = height, width
            curses.resizeterm(height, width)
            self._screen.clear()
        self._call()
        if self._page == "overview":
            lines = overview(self._found, self._chosen, width - 1)
            at = next((n for n, line in enumerate(lines) if line.style == "chosen"), 0)
            lines = window(lines, height - 1, at)
        elif self._page == "levels":
            lines = levels(self._found, self._chosen, width - 1)[: height - 1]
        else:
            lines = self._text[self._at : self._at + height - 1]
        self._screen.erase()
        for n, line in enumerate(lines):
            self._put(n, line.text[: width - 1], self._styles.get(line.style, 0))
        keys = _KEYS if self._page == "overview" else "up/down: scroll  q: back"
        foot, style = (self._question, "bad") if self._question else (keys, "dim")
        self._put(height - 1, foot[: width - 1], self._styles[style])
        self._screen.refresh()

    def _put(self, row: int, text: str, style: int) -> None:
        # A terminal that has just become smaller has no such place.
        with contextlib.suppress(curses.error):
            self._screen.addstr(row, 0, text, style)
