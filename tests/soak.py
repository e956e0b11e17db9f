"""Soak: a gateway that carries calls for a long time, and what it holds on to.

Usage: python -m tests.soak [--minutes 60] [--per-second 5]

Loopback ports call through a real daemon without pause. Every ten seconds memory, descriptors and
threads are read from /proc; after a warm-up of a quarter of the time memory must not grow by more
than 20 MB, and at the end nothing may be left open. Exit status 1 when something grew.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ALLOWED_KB = 20 * 1024
CONFIG = """\
[gateway]
name = "soak"
data_dir = "{home}/data"
log_level = "warning"
[control]
socket = "{home}/s"
[adapters.loopback.ports.tone]
number = "1"
tone_hz = 440.0
talk_s = 2.0
"""
CALLER = """\
[adapters.loopback.ports.caller{n}]
calls = "{to}"
every_s = {every}
talk_s = 1.0
[adapters.loopback.ports.called{n}]
number = "{to}"
"""


def held(pid: int) -> dict[str, int]:
    """Resident memory in kB, descriptors and threads of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return {
        "rss_kb": int(fields["VmRSS"].split()[0]),
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": int(fields["Threads"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--per-second", type=float, default=5.0)
    options = parser.parse_args()
    pairs = max(1, round(options.per_second * 2))
    with tempfile.TemporaryDirectory(prefix="soak-") as home:
        file = Path(home) / "gateway.toml"
        every = pairs / options.per_second
        file.write_text(
            CONFIG.format(home=home)
            + "".join(CALLER.format(n=n, to=100 + n, every=every) for n in range(pairs))
        )
        command = [sys.executable, "-m", "gateway", "--config", str(file)]
        daemon = subprocess.Popen([*command, "run"])
        try:
            sys.exit(watch(daemon, command, options.minutes * 60))
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(60)


def watch(daemon: subprocess.Popen[bytes], command: list[str], seconds: float) -> int:
    """Sample until the time is over; 1 when something grew."""
    began = time.monotonic()
    settled: dict[str, int] = {}
    now: dict[str, int] = {}
    while (age := time.monotonic() - began) < seconds:
        time.sleep(min(10.0, seconds / 12))
        if daemon.poll() is not None:
            print(f"the gateway ended with {daemon.returncode}")
            return 1
        now = held(daemon.pid)
        print(f"{age:8.0f} s  " + "  ".join(f"{k} {v}" for k, v in now.items()), flush=True)
        if not settled and age > seconds / 4:
            settled = now
    rows = subprocess.run(
        [*command, "--json", "stats", "--since", "24h"], capture_output=True, text=True, check=True
    )
    for row in json.loads(rows.stdout):
        print(row)
    grown = now["rss_kb"] - settled["rss_kb"]
    print(f"memory after the warm-up: {grown:+} kB (allowed {ALLOWED_KB})")
    # Calls come and go, so descriptors move by a few; a leak of one a call would be hundreds.
    leaked = now["descriptors"] > settled["descriptors"] + 40 or now["threads"] > settled["threads"]
    return int(grown > ALLOWED_KB or leaked)


if __name__ == "__main__":
    main()
