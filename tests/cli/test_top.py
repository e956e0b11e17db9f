"""top, seen through a foreign terminal (tmux) and in a pipe."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.cli.top import Line, folded, meter, window
from tests.box import Box


class Terminal:
    """A tmux of its own, 100 by 24, in which `gateway top` runs."""

    def __init__(self, box: Box) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="tmux-")
        self._socket = str(Path(self._directory.name) / "s")
        wanted = ("PYTHONPATH", "GATEWAY_CONFIG", "TZ")
        self.tmux(
            "-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "24", "-c", str(box.home),
            "env", "TERM=screen", *(f"{name}={box.environment[name]}" for name in wanted),
            *box.command("top", "--every", "0.2"),
        )  # fmt: skip

    def tmux(self, *args: str) -> str:
        """What tmux says."""
        command = ["tmux", "-S", self._socket, *args]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def wait(self, *words: str) -> str:
        """The screen as soon as it shows all of these."""
        deadline = time.monotonic() + 60.0
        screen = ""
        while time.monotonic() < deadline:
            screen = self.tmux("capture-pane", "-p")
            if all(word in screen for word in words):
                return screen
            time.sleep(0.05)
        raise AssertionError(f"{words} never came, but this:\n{screen}")

    def press(self, *keys: str) -> None:
        """Press keys, as tmux names them."""
        self.tmux("send-keys", *keys)

    def close(self) -> None:
        """End tmux and what runs in it."""
        subprocess.run(
            ["tmux", "-S", self._socket, "kill-server"], check=False, capture_output=True
        )
        self._directory.cleanup()


@pytest.fixture
def busy() -> Iterator[tuple[Box, Terminal]]:
    """A gateway with one call, and a technician who looks at it."""
    box = Box(carol='calls = "900"\nevery_s = 3600.0')
    terminal: Terminal | None = None
    try:
        box.start()
        box.wait_for_call()
        terminal = Terminal(box)
        yield box, terminal
    finally:
        if terminal is not None:
            terminal.close()
        box.close()


def test_look_dig_and_hang_up(busy: tuple[Box, Terminal]) -> None:
    box, terminal = busy
    call = box.json("calls")[0]["id"]
    screen = terminal.wait("lab running", "calls 1 (2 legs)", "loopback/carol", "loopback/bob")
    assert f"> {call[-8:]}  loopback/carol" in screen
    assert "alarms 0" in screen
    terminal.press("l")
    terminal.wait(f"call {call[-8:]}: nines", "-60 dBm0 at the left")
    terminal.press("q")
    terminal.wait("calls 1 (2 legs)")
    terminal.press("d")
    terminal.wait("gateway diag", "loopback/carol", "next: gateway")
    terminal.press("q")
    terminal.wait("q: quit")
    terminal.press("t")
    terminal.wait("gateway trace", "loopback/carol")
    terminal.press("q")
    terminal.wait("q: quit")
    terminal.press("h")
    terminal.wait(f"hang up {call[-8:]}? y")
    terminal.press("n")
    terminal.wait("q: quit")
    assert len(box.json("calls")) == 1, "no means no"
    terminal.press("h")
    terminal.wait("hang up")
    terminal.press("y")
    terminal.wait("hung up loopback/")
    terminal.press("q")
    terminal.wait("no calls")


def test_a_small_window_and_a_gateway_that_goes(busy: tuple[Box, Terminal]) -> None:
    box, terminal = busy
    terminal.wait("calls 1 (2 legs)")
    terminal.tmux("resize-window", "-x", "40", "-y", "5")
    terminal.wait("lab running", "more lines")
    terminal.tmux("resize-window", "-x", "100", "-y", "24")
    box.stop()
    terminal.wait("NO ANSWER since", "loopback/bob")
    terminal.press("q")


def test_in_a_pipe_it_is_one_look(talking: Box) -> None:
    lines = talking.ok("top").splitlines()
    assert lines[0].startswith("lab running")
    assert any("loopback/bob" in line for line in lines)
    assert "\x1b" not in "".join(lines)
    found = talking.json("top")
    assert found["status"]["calls"] == len(found["calls"]) == 1


def test_top_without_a_gateway(idle: Box) -> None:
    assert idle.run("top").returncode == 3


@pytest.mark.parametrize(
    ("dbm0", "shown"),
    [(None, " " * 14), (-96.0, f"  --{'':10}"), (-30.0, " -30#####     "), (3.0, "   3##########")],
)
def test_meter(dbm0: float | None, shown: str) -> None:
    assert meter(dbm0) == shown


def test_a_window_says_what_is_outside() -> None:
    lines = [Line(str(n)) for n in range(50)]
    shown = window(lines, 10, 30)
    assert len(shown) == 10
    assert shown[0] == Line("0")
    assert Line("30") in shown
    assert shown[-1].text == "... 41 more lines"
    assert window(lines[:10], 10, 3) == lines[:10]


def test_what_is_longer_than_the_screen_goes_on_below() -> None:
    sentence = "! far end: fxs/2#1 packets arrive, but nothing louder than -60 dBm0; let them speak"
    assert folded(sentence, 79) == [sentence[:-6], "    speak"]
    assert folded("  ok", 79) == ["  ok"]
    assert folded("", 79) == [""]
    assert max(map(len, folded("x" * 300, 30))) == 30
