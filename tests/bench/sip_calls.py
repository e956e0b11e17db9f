"""Calls a second through a whole gateway: SIPp, trunk, switchboard, records, trunk, SIPp.

Usage: python -m tests.bench.sip_calls [--rates 50,100,150,200] [--seconds 8] [--profile FILE]

Each call is INVITE, 180, 200, ACK, half a second, BYE on both sides (about 14 messages in and 14
out). Prints milliseconds of CPU of the gateway's process per call and the highest rate without a
failed call and with at most 2 % of messages sent again. With ``--profile`` the gateway runs under
cProfile and its figures are not comparable.
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
from pathlib import Path

from gateway.lab.softphone import free_port

SCENARIOS = Path(__file__).parent / "sipp"
HOLD_MS = 500
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


class Bench:
    """One gateway, and SIPp on both sides of it."""

    def __init__(self, home: Path, profile: str) -> None:
        self.home = home
        self.port, self.caller, self.called = (free_port(socket.SOCK_DGRAM) for _ in range(3))
        (home / "gateway.toml").write_text(
            CONFIG.format(home=home, port=self.port, caller=self.caller, called=self.called)
        )
        tool = ["-m", "cProfile", "-o", profile] if profile else []
        command = [sys.executable, *tool, "-m", "gateway", "run"]
        command += ["--config", str(home / "gateway.toml")]
        with (home / "log").open("wb") as log:
            self.gateway = subprocess.Popen(command, stdout=log, stderr=log)

    def wait(self) -> None:
        """Until it listens."""
        deadline = time.monotonic() + 20.0
        while self.gateway.poll() is None and time.monotonic() < deadline:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                try:
                    probe.bind(("127.0.2.20", self.port))
                except OSError:
                    time.sleep(0.5)
                    return
            time.sleep(0.05)
        raise SystemExit(f"the gateway does not start:\n{(self.home / 'log').read_text()}")

    def cpu_s(self, *, loop: bool = False) -> float:
        """CPU seconds of the gateway so far, or of its event loop's thread alone."""
        process = f"/proc/{self.gateway.pid}"
        file = Path(f"{process}/task/{self.gateway.pid}/stat" if loop else f"{process}/stat")
        fields = file.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def sipp(self, name: str, address: str, port: int, *more: str) -> subprocess.Popen[bytes]:
        command = [
            "sipp", "-sf", str(SCENARIOS / f"{name}.xml"), "-i", address, "-p", str(port),
            "-mi", address, "-nostdin", "-trace_stat", "-stf", str(self.home / f"{name}.csv"),
            "-fd", "1", "-timer_resol", "2", "-buff_size", "4000000", *more,
        ]  # fmt: skip
        return subprocess.Popen(
            command, cwd=self.home, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def run(self, rate: int, seconds: float) -> dict[str, float]:
        """Figures of one rate."""
        for file in self.home.glob("*.csv"):
            file.unlink()
        n = int(rate * seconds)
        called = self.sipp("uas", "127.0.2.30", self.called)
        time.sleep(0.3)
        before, loop, began = self.cpu_s(), self.cpu_s(loop=True), time.monotonic()
        caller = self.sipp(
            "uac", "127.0.2.10", self.caller, "-s", "1000", "-m", str(n), "-r", str(rate),
            "-d", str(HOLD_MS), "-l", str(n), "-recv_timeout", "10000",
            "-timeout", str(int(seconds + 30)), f"127.0.2.20:{self.port}",
        )  # fmt: skip
        caller.wait()
        took = time.monotonic() - began
        time.sleep(0.5)
        cpu, loop = self.cpu_s() - before, self.cpu_s(loop=True) - loop
        called.send_signal(signal.SIGTERM)
        called.wait()
        mine, theirs = self.last("uac"), self.last("uas")
        done, failed = mine["SuccessfulCall(C)"], mine["FailedCall(C)"]
        again = mine["Retransmissions(C)"] + theirs["Retransmissions(C)"]
        return {
            "rate": rate,
            "calls": done,
            "failed": failed + n - done - failed,
            "sent_again": again,
            "cpu_ms_per_call": round(1000 * cpu / max(done, 1), 3),
            "of_which_loop": round(1000 * loop / max(done, 1), 3),
            "core_percent": round(100 * cpu / took, 1),
            "clean": float(done == n and again <= 0.02 * n),
        }

    def last(self, name: str) -> dict[str, int]:
        with (self.home / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file, delimiter=";"))
        return {key: int(value) for key, value in rows[-1].items() if key and value.isdigit()}

    def stop(self) -> None:
        self.gateway.send_signal(signal.SIGTERM)
        self.gateway.wait(20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rates", default="50,100,150,200,250")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--profile", default="")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        bench = Bench(Path(home), chosen.profile)
        best = 0
        try:
            bench.wait()
            for rate in (int(text) for text in chosen.rates.split(",")):
                figures = bench.run(rate, chosen.seconds)
                print(json.dumps(figures), flush=True)
                if not figures["clean"]:
                    break
                best = rate
        finally:
            bench.stop()
        print(json.dumps({"highest_clean_rate": best}))


if __name__ == "__main__":
    main()
