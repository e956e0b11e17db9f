"""What it costs to look: a technician's tools while calls are up and talk.

Usage: python -m tests.bench.technician [--calls 200] [--seconds 15] [--rounds 3] [--save]

SIPp makes the calls through a gateway to another SIPp; both send every RTP packet back, so that
each call carries 50 packets a second in all four directions. Two gateways take turns: `plain`
keeps no audio, `watched` keeps everybody's last half minute (`[capture] rtp_s = 30`). Of the
second one the CPU is measured once while nobody looks, and once while `gateway top` looks each
second (on a terminal of 50 lines), Prometheus every 15 s, `gateway events` and `gateway trace next`
follow, and one call is captured. Of several rounds the cheapest counts: what other programs on the
machine do can only add. The trace ring and the journal are part of both: they cost when something happens, and
what they cost a call is in the figures of ``tests.bench.sip_calls``.

Meanwhile each question of a technician is asked again and again: milliseconds until the answer is
complete at the socket (`answer_ms`), and of the whole command with the start of its interpreter
(`command_ms`), median and worst. `late_ticks` counts wakes of the audio thread more than 2 ms late
in each window. ``waited_s`` is how long the process was ready but found no core: where that is
much, the machine was busy, and only the CPU figures count.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway.client import Client
from tests.bench.machine import cost, keep, machine
from tests.bench.sip_calls import CONFIG, TOO_LONG, Crosspoint

TOP_S = 1.0
SCRAPE_S = 15.0
QUESTIONS: dict[str, tuple[str, ...]] = {
    "status": ("/v1/status",),
    "calls": ("/v1/calls",),
    "endpoints": ("/v1/endpoints",),
    "call last": ("/v1/calls/{call}",),
    "explain": ("/v1/explain?source=sip/caller&called=1000",),
    "diag last": ("/v1/diagnosis?id=last",),
    "trace last": ("/v1/trace?id=last",),
    "records": ("/v1/records/calls",),
}
COMMANDS = (
    ("status",),
    ("calls",),
    ("endpoints",),
    ("explain", "sip/caller", "1000"),
    ("diag", "last"),
    ("trace", "last"),
)


class Plain(Crosspoint):
    name = "plain"
    rtp_s = 0

    def command(self, profile: str) -> list[str]:
        found = super().command(profile)
        file = self.home / "gateway.toml"
        text = CONFIG.format(home=self.home, port=self.port, caller=self.caller, called=self.called)
        file.write_text(f"{text}\n[capture]\nrtp_s = {self.rtp_s}\n")
        return found

    def _sipp(self, name: str, address: str, port: int, *more: str) -> subprocess.Popen[bytes]:
        return super()._sipp(name, address, port, "-rtp_echo", *more)

    @property
    def client(self) -> Client:
        """Asks it."""
        return Client(str(self.home / "s"))


class Watched(Plain):
    name = "watched"
    rtp_s = 30


def late(client: Client) -> float:
    """Wakes of the audio thread that were late, so far."""
    found = re.search(
        r"^crosspoint_engine_late_ticks_total\S* (\S+)", client.text("/v1/metrics"), re.M
    )
    return float(found[1]) if found else 0.0


def window(box: Plain, seconds: float) -> dict[str, float]:
    """Share of a core, and late wakes, of some seconds."""
    pid, client = box.process.pid, box.client
    missed, before, began = late(client), cost(pid), time.monotonic()
    time.sleep(seconds)
    after, took = cost(pid), time.monotonic() - began
    return {
        "core_percent": round(100 * (after.cpu_s - before.cpu_s) / took, 1),
        "loop_percent": round(
            100 * (after.threads.get("loop", 0) - before.threads.get("loop", 0)) / took, 1
        ),
        "media_percent": round(
            100 * (after.threads.get("media", 0) - before.threads.get("media", 0)) / took, 1
        ),
        "late_ticks": late(client) - missed,
        "waited_s": round(after.waited_s - before.waited_s, 2),
    }


@contextlib.contextmanager
def looking(box: Plain) -> Iterator[None]:
    """Everything that a technician may have open, at once."""
    client, done = box.client, threading.Event()

    def again(path: str, every_s: float) -> None:
        while not done.is_set():
            client.text(path)
            done.wait(every_s)

    tool = [sys.executable, "-m", "gateway", "--socket", str(box.home / "s")]
    call = client.get("/v1/calls")[0]["id"]
    watchers = [
        subprocess.Popen(
            [*tool, *command], cwd=box.home, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for command in (
            ("events", "--follow"),
            ("trace", "next", "--follow"),
            ("capture", call, "--follow", "-o", str(box.home / "call.pcapng")),
        )
    ]  # fmt: skip
    threads = [
        threading.Thread(target=again, args=question)
        for question in (
            ("/v1/status", TOP_S), ("/v1/calls?limit=50", TOP_S), ("/v1/alarms", TOP_S),
            ("/v1/endpoints", TOP_S), ("/v1/adapters", TOP_S), ("/v1/metrics", SCRAPE_S),
        )
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    try:
        time.sleep(2.0)  # they have all begun
        yield
    finally:
        done.set()
        for watcher in watchers:
            watcher.terminate()
        for watcher in watchers:
            watcher.wait()
        for thread in threads:
            thread.join()


def answers(box: Plain, times: int) -> dict[str, Any]:
    """How long a technician waits."""
    client = box.client
    call = client.get("/v1/calls")[0]["id"]
    at_socket = {}
    for name, (path,) in QUESTIONS.items():
        taken = []
        for _ in range(times):
            began = time.perf_counter()
            client.text(path.format(call=call))
            taken.append(1000 * (time.perf_counter() - began))
        at_socket[name] = [round(statistics.median(taken), 1), round(max(taken), 1)]
    whole = {}
    for command in COMMANDS:
        taken = []
        for _ in range(max(3, times // 4)):
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "gateway", "--socket", str(box.home / "s"), *command],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
            )  # fmt: skip
            taken.append(1000 * (time.perf_counter() - began))
        whole[" ".join(command)] = [round(statistics.median(taken)), round(max(taken))]
    return {"answer_ms": at_socket, "command_ms": whole}


def measure(box: Plain, calls: int, seconds: float) -> dict[str, Any]:
    """One gateway with its calls up."""
    hold_s = 4 * seconds + 90
    called, caller = box.begin(calls, 40, int(1000 * hold_s))
    try:
        due = time.monotonic() + 60
        while len(box.client.get("/v1/calls")) < calls:
            if time.monotonic() > due:
                raise SystemExit("the calls do not come up")
            time.sleep(0.5)
        time.sleep(2.0)
        found: dict[str, Any] = {"box": box.name, "calls": calls, "quiet": window(box, seconds)}
        if isinstance(box, Watched):
            with looking(box):
                found["looked_at"] = window(box, seconds)
                found |= answers(box, 12)
        return found
    finally:
        for process in (caller, called):
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="append to history/technician.jsonl")
    chosen = parser.parse_args()
    runs: dict[str, list[dict[str, Any]]] = {"plain": [], "watched": []}
    for _ in range(chosen.rounds):
        for kind in (Plain, Watched):
            with tempfile.TemporaryDirectory(prefix="bench-") as home:
                box = kind(Path(home))
                try:
                    box.wait()
                    found = measure(box, chosen.calls, chosen.seconds)
                finally:
                    box.stop()
            print(json.dumps(found), flush=True)
            runs[kind.name].append(found)

    def least(name: str, what: str) -> float:
        return min(float(run[what]["core_percent"]) for run in runs[name])

    plain, ring = least("plain", "quiet"), least("watched", "quiet")
    summary = machine() | {
        "calls": chosen.calls,
        "plain_core_percent": plain,
        "audio_ring_core_percent": round(ring - plain, 1),
        "all_looks_core_percent": round(least("watched", "looked_at") - plain, 1),
        "answer_ms": runs["watched"][-1]["answer_ms"],
        "command_ms": runs["watched"][-1]["command_ms"],
        "late_ticks": [run["looked_at"]["late_ticks"] for run in runs["watched"]],
        "waited_s": max(run["looked_at"]["waited_s"] for run in runs["watched"]),
    }
    print(json.dumps(summary), flush=True)
    if chosen.save:
        if summary["waited_s"] > TOO_LONG * chosen.seconds:
            raise SystemExit("the machine is too busy: these figures are not kept")
        keep("technician", summary)


if __name__ == "__main__":
    main()
