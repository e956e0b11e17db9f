"""Bridged calls: SIPp, a whole gateway, SIPp; Crosspoint and Sippy's B2BUA in one run.

Usage: python -m tests.bench.sip_calls [--only crosspoint] [--rates 50,100,200] [--seconds 8]
       [--rounds 3] [--held 300] [--save] [--profile FILE]

Each call is INVITE, 180, 200, ACK, half a second, BYE on both sides: 6 messages in, 7 out. For
Crosspoint it goes through trunk, switchboard, journal and records, with two media ports open, on
which it sends silence while the call stands; Sippy (PyPI ``sippy``, installed by ``make bench``
into ``build/bench``) only signals. The rounds of the two take turns.

Prints JSON lines: milliseconds of CPU per call at the first rate, the highest rate without a
failed call and with at most 2 % of messages sent again, KiB per held call. ``waited_s`` is how
long the process was ready but found no core: where that is much, the machine was busy and only
the CPU figures count. With ``--profile`` Crosspoint runs under cProfile, and its figures say
nothing.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from gateway.lab.softphone import free_port
from tests.bench.machine import ROOT, cost, keep, machine, memory_kib

SCENARIOS = Path(__file__).parent / "sipp"
SIPPY = ROOT / "build/bench/bin/b2bua_simple"
CALLER, BOX, CALLED = "127.0.2.10", "127.0.2.20", "127.0.2.30"
HOLD_MS = 500
TOO_LONG = 0.5
"""Share of a run for which a system may have waited for a core, if its figures are to be kept."""
CONFIG = """\
[gateway]
name = "bench"
data_dir = "{home}/data"
drain_s = 0
log_level = "warning"
[control]
socket = "{home}/s"
[media]
realtime = false
ports = [20000, 60000]
max_streams = 8000
[adapters.sip]
listen = ["udp:127.0.2.20:{port}"]
codecs = ["PCMU"]
media_timeout_s = 0
[adapters.sip.trunks.caller]
peer = "sip:127.0.2.10:{caller}"
keepalive_s = 0
calls = 10000
[adapters.sip.trunks.called]
peer = "sip:127.0.2.30:{called}"
keepalive_s = 0
calls = 10000
[[routes]]
name = "through"
from = ["sip/caller"]
called = "1000"
targets = ["sip/called:1000"]
"""


class Box:
    """A system between two SIPps."""

    name: ClassVar[str] = ""

    def __init__(self, home: Path, profile: str = "") -> None:
        self.home = home / self.name
        self.home.mkdir()
        self.port, self.caller, self.called = (free_port(socket.SOCK_DGRAM) for _ in range(3))
        with (self.home / "log").open("wb") as log:
            self.process = subprocess.Popen(
                self.command(profile), stdout=log, stderr=log, env=os.environ | self.environment()
            )

    def command(self, profile: str) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {}

    def wait(self) -> None:
        """Until it listens. The server gets one core, SIPp the other ones."""
        deadline = time.monotonic() + 20.0
        while self.process.poll() is None and time.monotonic() < deadline:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                try:
                    probe.bind((BOX, self.port))
                except OSError:
                    time.sleep(0.5)
                    _pin(self.process.pid, {max(os.sched_getaffinity(0))})
                    return
            time.sleep(0.05)
        raise SystemExit(f"{self.name} does not start:\n{(self.home / 'log').read_text()}")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _sipp(self, name: str, address: str, port: int, *more: str) -> subprocess.Popen[bytes]:
        command = [
            "sipp", "-sf", str(SCENARIOS / f"{name}.xml"), "-i", address, "-p", str(port),
            "-mi", address, "-nostdin", "-trace_stat", "-stf", str(self.home / f"{name}.csv"),
            "-fd", "1", "-timer_resol", "2", "-buff_size", "4000000", *more,
        ]  # fmt: skip
        process = subprocess.Popen(
            command, cwd=self.home, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        cores = os.sched_getaffinity(0)
        _pin(process.pid, cores - {max(cores)} or cores)
        return process

    def begin(self, n: int, rate: int, hold_ms: int) -> list[subprocess.Popen[bytes]]:
        """The called SIPp and the calling one, which makes `n` calls."""
        for file in self.home.glob("*.csv"):
            file.unlink()
        called = self._sipp("uas", CALLED, self.called)
        time.sleep(0.3)
        limit = n / rate + hold_ms / 1000 + 30
        caller = self._sipp(
            "uac", CALLER, self.caller, "-s", "1000", "-m", str(n), "-r", str(rate),
            "-d", str(hold_ms), "-l", str(n), "-recv_timeout", str(hold_ms + 10_000),
            "-timeout", str(int(limit)), f"{BOX}:{self.port}",
        )  # fmt: skip
        return [called, caller]

    def last(self, name: str) -> dict[str, int]:
        """The last counters that a SIPp has written."""
        with (self.home / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file, delimiter=";"))
        return {key: int(value) for key, value in rows[-1].items() if key and value.isdigit()}

    def run(self, rate: int, seconds: float) -> dict[str, Any]:
        """Figures of one rate."""
        n, pid = int(rate * seconds), self.process.pid
        before, began = cost(pid), time.monotonic()
        called, caller = self.begin(n, rate, HOLD_MS)
        caller.wait()
        took = time.monotonic() - began
        time.sleep(0.5)
        after = cost(pid)
        called.send_signal(signal.SIGTERM)
        called.wait()
        mine, theirs = self.last("uac"), self.last("uas")
        done = mine["SuccessfulCall(C)"]
        again = mine["Retransmissions(C)"] + theirs["Retransmissions(C)"]
        cpu = after.cpu_s - before.cpu_s
        parts = {
            name: round(1000 * (used - before.threads.get(name, 0.0)) / max(done, 1), 3)
            for name, used in after.threads.items()
        }
        return {
            "system": self.name,
            "rate": rate,
            "calls": done,
            "failed": n - done,
            "sent_again": again,
            "cpu_ms_per_call": round(1000 * cpu / max(done, 1), 3),
            "of_which_ms": parts,
            "core_percent": round(100 * cpu / took, 1),
            "waited_s": round(after.waited_s - before.waited_s, 2),
            "clean": done == n and again <= 0.02 * n,
        }

    def hold(self, n: int, rate: int) -> dict[str, Any]:
        """Memory of `n` calls that stand at once; a first few have been made and ended before."""
        before = memory_kib(self.process.pid)
        called, caller = self.begin(n, rate, int(n / rate * 1000) + 8000)
        time.sleep(n / rate + 4)
        standing = self.last("uac").get("CurrentCall", 0)
        held = memory_kib(self.process.pid)
        caller.wait()
        called.send_signal(signal.SIGTERM)
        called.wait()
        return {
            "system": self.name,
            "held": standing,
            "kib_per_held_call": round((held - before) / max(standing, 1), 1),
            "held_failed": n - self.last("uac")["SuccessfulCall(C)"],
        }


class Crosspoint(Box):
    name = "crosspoint"

    def command(self, profile: str) -> list[str]:
        file = self.home / "gateway.toml"
        file.write_text(
            CONFIG.format(home=self.home, port=self.port, caller=self.caller, called=self.called)
        )
        tool = ["-m", "cProfile", "-o", profile] if profile else []
        return [sys.executable, *tool, "-m", "gateway", "run", "--config", str(file)]


class Sippy(Box):
    name = "sippy"

    def command(self, profile: str) -> list[str]:
        where = ["-l", BOX, "-p", str(self.port), "-n", f"{CALLED}:{self.called}"]
        return [str(SIPPY), "-f", *where]

    def environment(self) -> dict[str, str]:
        return {"SIPLOG_BEND": "none"}


def _pin(pid: int, cores: set[int]) -> None:
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            os.sched_setaffinity(int(task.name), cores)
        except ProcessLookupError:
            pass


def compare(
    boxes: Sequence[Box], rates: list[int], seconds: float, rounds: int, held: int
) -> Iterator[dict[str, Any]]:
    """Figures of each system, round by round; printed as they come. Yields the summaries."""
    first = rates[0]
    found: dict[str, dict[str, Any]] = {}
    runs: dict[str, list[dict[str, Any]]] = {box.name: [] for box in boxes}
    for box in boxes:
        box.run(first, 0.5)
        # Before thousands of calls have left memory behind that the next ones can use.
        found[box.name] = box.hold(held, first) if held else {"system": box.name}
        box.run(first, 2.0)
    for _ in range(rounds):
        for box in boxes:
            figures = box.run(first, seconds)
            print(json.dumps(figures), flush=True)
            runs[box.name].append(figures)
    for box in boxes:
        mine = sorted(runs[box.name], key=lambda run: float(run["cpu_ms_per_call"]))
        median = mine[len(mine) // 2]
        best, there = 0, 0.0
        for rate in rates:
            figures = box.run(rate, seconds)
            print(json.dumps(figures), flush=True)
            if not figures["clean"]:
                break
            best, there = rate, figures["cpu_ms_per_call"]
        yield found[box.name] | {
            "rate": first,
            "hold_ms": HOLD_MS,
            "cpu_ms_per_call": median["cpu_ms_per_call"],
            "of_which_ms": median["of_which_ms"],
            "waited_s": median["waited_s"],
            "highest_clean_rate": best,
            "cpu_ms_per_call_there": there,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", choices=["crosspoint", "sippy"])
    parser.add_argument("--rates", default="50,100,150,200,300,400")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--held", type=int, default=300)
    parser.add_argument("--save", action="store_true", help="append to history/sip_calls.jsonl")
    parser.add_argument("--profile", default="")
    chosen = parser.parse_args()
    rates = [int(text) for text in chosen.rates.split(",")]
    kinds: list[type[Box]] = [
        kind for kind in (Crosspoint, Sippy) if chosen.only in (None, kind.name)
    ]
    if Sippy in kinds and not SIPPY.exists():
        raise SystemExit(
            f"{SIPPY} is missing: make {SIPPY.relative_to(ROOT)}, or --only crosspoint"
        )
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        boxes = [kind(Path(home), chosen.profile) for kind in kinds]
        try:
            for box in boxes:
                box.wait()
            done = []
            for summary in compare(boxes, rates, chosen.seconds, chosen.rounds, chosen.held):
                done.append(machine() | summary)
                print(json.dumps(done[-1]), flush=True)
            if len(done) == 2:
                ratio = done[0]["cpu_ms_per_call"] / done[1]["cpu_ms_per_call"]
                print(json.dumps({"cpu_crosspoint_to_sippy": round(ratio, 3)}))
            if chosen.save and not chosen.profile:
                # All or none: a busy minute must not flatter one of them.
                if any(each["waited_s"] > TOO_LONG * chosen.seconds for each in done):
                    raise SystemExit("the machine is too busy: these figures are not kept")
                for each in done:
                    keep("sip_calls", each)
        finally:
            for box in boxes:
                box.stop()


if __name__ == "__main__":
    main()
