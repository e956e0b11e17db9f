"""A real gateway in a process of its own, driven by the real command line."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gateway

_ROOT = Path(gateway.__file__).parent.parent

CONFIG = """\
[gateway]
name = "lab"
data_dir = "{home}/data"
drain_s = 0.5
zone = "UTC"

[control]
socket = "control.sock"
{control}

[media]
local_ip = "127.0.0.1"
realtime = false

{records}

[adapters.loopback.ports.alice]
number = "101"
tone_hz = 440.0

[adapters.loopback.ports.bob]
number = "102"

[adapters.loopback.ports.slow]
number = "103"
answer_s = 60.0

[adapters.loopback.ports.engaged]
number = "104"
busy = true

[adapters.loopback.ports.carol]
number = "105"
{carol}

[[routes]]
name = "night"
called = "9XX"
hours = "Mon-Fri 22:00-06:00"
targets = ["loopback/slow"]

[[routes]]
name = "nines"
called = "9XX"
targets = ["loopback/bob", "loopback/slow"]

[[routes]]
name = "fire"
on = "alarm"
kind = ["fire"]
severity = "major"
targets = ["loopback/bob"]
acknowledge = "1"
"""


def wait_until(found: Callable[[], Any], what: str, within_s: float = 60.0) -> Any:
    """What `found` gives as soon as it is true: of another process no event tells."""
    deadline = time.monotonic() + within_s
    while not (result := found()):
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(0.05)
    return result


class Box:
    """A configuration, and the daemon that runs it."""

    def __init__(self, *, control: str = "", records: str = "", carol: str = "") -> None:
        # Not below pytest's own directory: a socket's path may have 107 octets.
        self.home = Path(tempfile.mkdtemp(prefix="box-"))
        self.home.chmod(0o755)
        self.config = self.home / "gateway.toml"
        self.config.write_text(
            CONFIG.format(home=self.home, control=control, records=records, carol=carol)
        )
        self.socket = self.home / "control.sock"
        self.log = self.home / "log"
        self.environment = {
            **{name: value for name, value in os.environ.items() if "GATEWAY" not in name},
            "PYTHONPATH": str(_ROOT),
            "GATEWAY_CONFIG": str(self.config),
            "TZ": "UTC",
        }
        self.daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        with self.log.open("ab") as log:
            self.daemon = subprocess.Popen(
                self.command("run"), env=self.environment, stdout=log, stderr=log, cwd=self.home
            )
        deadline = time.monotonic() + 60.0
        while time.monotonic() < deadline and self.daemon.poll() is None:
            # The file first: a command that fails takes the processor from the daemon it asks.
            if self._asked() and self.run("endpoints", "loopback/alice").stdout.count(" up"):
                return
            time.sleep(0.05)
        raise AssertionError(f"the gateway does not start:\n{self.log.read_text()}")

    def _asked(self) -> bool:
        """Whether somebody listens on its socket."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def stop(self) -> int:
        """Stop the daemon as systemd would; its exit code."""
        if self.daemon is None:
            return 0
        self.daemon.send_signal(signal.SIGTERM)
        code = self.daemon.wait(45)
        self.daemon = None
        return code

    def kill(self) -> None:
        """End the daemon as a crash would."""
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait(30)
        self.daemon = None

    def close(self) -> None:
        """Stop it and forget its files."""
        try:
            self.stop()
        finally:
            if self.daemon is not None:
                self.kill()
            shutil.rmtree(self.home)

    def command(self, *arguments: str) -> list[str]:
        """The command line of a command."""
        return [sys.executable, "-m", "gateway", *arguments]

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.command(*arguments),
            env=self.environment | environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    def ok(self, *arguments: str) -> str:
        """What a command writes that must succeed."""
        done = self.run(*arguments)
        assert done.returncode == 0, f"{arguments}: {done.returncode} {done.stdout} {done.stderr}"
        return done.stdout

    def json(self, *arguments: str) -> Any:
        """The JSON that a command writes that must succeed."""
        return json.loads(self.ok(*arguments, "--json"))

    def journal(self) -> str:
        """What is written in its journal."""
        return "".join(each.read_text() for each in self.home.rglob("journal-*.jsonl"))

    def wait_for_call(self, state: str = "connected") -> dict[str, Any]:
        """The first call that gets so far."""

        def found() -> dict[str, Any] | None:
            calls = (each for each in self.json("calls") if len(each["legs"]) == 2)
            return next((each for each in calls if each["state"] == state), None)

        call: dict[str, Any] = wait_until(found, f"a call is {state}")
        return call

    def wait_for_no_call(self) -> None:
        """Until all calls are over."""
        wait_until(lambda: not self.json("calls"), "all calls are over")

    def on_terminal(self, *arguments: str, until: str, columns: int = 80) -> str:
        """What a command shows on a terminal until `until` appears; then Ctrl-C."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.environ.clear()
            os.environ.update(self.environment | {"TERM": "xterm", "COLUMNS": str(columns)})
            os.execv(sys.executable, self.command(*arguments))
        shown = b""
        deadline = time.monotonic() + 60.0
        try:
            while until.encode() not in shown and time.monotonic() < deadline:
                if select.select([terminal], [], [], 0.1)[0]:
                    try:
                        shown += os.read(terminal, 65536)
                    except OSError:
                        break
            os.write(terminal, b"\x03")
            while True:
                try:
                    more = os.read(terminal, 65536)
                except OSError:
                    break
                if not more:
                    break
                shown += more
        finally:
            os.close(terminal)
            os.waitpid(pid, 0)
        return shown.decode()
