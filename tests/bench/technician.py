"""What it costs to look: a technician's tools while calls are up and talk.

Usage: python -m tests.bench.technician [--calls 200] [--seconds 6] [--rounds 5] [--save]

SIPp makes the calls through a gateway to another SIPp; both send every RTP packet back, so that
each call carries 50 packets a second in all four directions. Two gateways carry them at the same
time on the same core, so that whatever else the machine does meets both alike, and what counts is
the difference, the median of several windows, quiet and looked at in turns: `plain` keeps no audio
and nobody looks at it,
`watched` keeps everybody's last half minute (`[capture] rtp_s = 30`), first while nobody looks, and
then while `gateway top` looks each second (on a terminal of 50 lines), Prometheus every 15 s,
`gateway events` and `gateway trace next` follow, and one call is captured. The trace ring and the
journal are part of both: they cost when something happens, and what they cost a call is in the
figures of ``tests.bench.sip_calls``.

`audio_ring_percent` and `all_looks_percent` are shares of one core. ``..._parts_percent`` gives of
each part of the process the median and how far the windows lie apart (half the distance of their
quartiles). The audio thread counts only where its difference is more than twice that: what a
packet costs it varies with whatever else the machine does, in either gateway, by more than all who
look cost.

Meanwhile each question of a technician is asked again and again: milliseconds until the answer is
complete at the socket (`answer_ms`), and of the whole command with the start of its interpreter
(`command_ms`), median and worst, with the processor time that the command took (`command_cpu_ms`,
median), which another program's work changes less. The command is the installed one, its bytecode
compiled as pip does it. `late_ticks` counts wakes of the audio thread more than 2 ms late in each
window. ``waited_s`` is how long the process was ready but found no core: where that is much, the
machine was busy, and only the CPU figures count.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
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
    media, ports = 6000, "20000, 39998"

    def command(self, profile: str) -> list[str]:
        found = super().command(profile)
        file = self.home / "gateway.toml"
        text = CONFIG.format(home=self.home, port=self.port, caller=self.caller, called=self.called)
        text = text.replace("20000, 60000", self.ports)
        file.write_text(f"{text}\n[capture]\nrtp_s = {self.rtp_s}\n")
        return found

    def _sipp(self, name: str, address: str, port: int, *more: str) -> subprocess.Popen[bytes]:
        more = ("-rtp_echo", "-mp", str(self.media), *more)
        return super()._sipp(name, address, port, *more)

    @property
    def client(self) -> Client:
        """Asks it."""
        return Client(str(self.home / "s"))


class Watched(Plain):
    name = "watched"
    rtp_s = 30
    media, ports = 7000, "40000, 59998"


def late(client: Client) -> float:
    """Wakes of the audio thread that were late, so far."""
    found = re.search(
        r"^crosspoint_engine_late_ticks_total\S* (\S+)", client.text("/v1/metrics"), re.M
    )
    return float(found[1]) if found else 0.0


def window(boxes: Sequence[Plain], seconds: float) -> dict[str, dict[str, float]]:
    """Shares of a core, and late wakes, of some seconds, which are the same for all."""
    before = [(late(box.client), cost(box.process.pid)) for box in boxes]
    began = time.monotonic()
    time.sleep(seconds)
    after = [cost(box.process.pid) for box in boxes]
    took = time.monotonic() - began
    found = {}
    for box, (missed, old), new in zip(boxes, before, after, strict=True):
        used = {
            f"{part}_percent": round(
                100 * (new.threads.get(part, 0.0) - old.threads.get(part, 0.0)) / took, 2
            )
            for part in ("loop", "media", "disk")
        }
        found[box.name] = used | {
            "late_ticks": late(box.client) - missed,
            "waited_s": round(new.waited_s - old.waited_s, 2),
        }
    return found


PARTS = ("loop", "disk", "media")


def more(found: dict[str, dict[str, float]], part: str) -> float:
    """How much more of a core a part of the watched one took."""
    return found["watched"][f"{part}_percent"] - found["plain"][f"{part}_percent"]


def told_apart(
    windows: Sequence[dict[str, dict[str, float]]],
    before: Sequence[dict[str, dict[str, float]]] | None = None,
) -> dict[str, list[float]]:
    """Of each part how much more of a core the watched one took, in percent: the median of the
    windows, and half of what lies between their quartiles, which is how much it is worth. before:
    windows in turns with these, whose difference is subtracted."""
    found = {}
    for part in PARTS:
        each = [more(window, part) for window in windows]
        if before is not None:
            each = [new - more(old, part) for new, old in zip(each, before, strict=True)]
        low, middle, high = statistics.quantiles(each, n=4) if len(each) > 1 else each * 3
        found[part] = [round(middle, 2), round((high - low) / 2, 2)]
    return found


def sure(found: dict[str, list[float]]) -> float:
    """All parts together, that of the audio thread only where it is more than its own noise: the
    machine's other work changes what one packet costs by more than all who look."""
    return round(sum(value for part, (value, noise) in found.items()
                     if part != "media" or value > 2 * noise), 1)  # fmt: skip


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
            ("/v1/metrics", SCRAPE_S),
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
    whole, cpu = {}, {}
    installed = Path(sys.executable).with_name("gateway")
    compiled = os.environ | {"PYTHONPYCACHEPREFIX": str(box.home / "bytecode")}
    compiled.pop("PYTHONDONTWRITEBYTECODE", None)
    for command in COMMANDS:
        taken, used = [], []
        for _ in range(1 + max(3, times // 4)):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            began = time.perf_counter()
            subprocess.run(
                [installed, "--socket", str(box.home / "s"), *command], env=compiled,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
            )  # fmt: skip
            taken.append(1000 * (time.perf_counter() - began))
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            used.append(
                1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
            )
        # The first one compiled.
        name = " ".join(command)
        whole[name] = [round(statistics.median(taken[1:])), round(max(taken[1:]))]
        cpu[name] = round(statistics.median(used[1:]))
    return {"answer_ms": at_socket, "command_ms": whole, "command_cpu_ms": cpu}


@contextlib.contextmanager
def call(boxes: Sequence[Plain], calls: int, hold_s: float) -> Iterator[None]:
    """Calls that stand, through all of them."""
    processes = [each for box in boxes for each in box.begin(calls, 40, int(1000 * hold_s))]
    try:
        due = time.monotonic() + 60
        for box in boxes:
            while len(box.client.get("/v1/calls")) < calls:
                if time.monotonic() > due:
                    raise SystemExit("the calls do not come up")
                time.sleep(0.5)
        time.sleep(2.0)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="append to history/technician.jsonl")
    chosen = parser.parse_args()
    quiet, looked_at = [], []
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        boxes = [Plain(Path(home)), Watched(Path(home))]
        try:
            for box in boxes:
                box.wait()
            hold_s = chosen.rounds * (2 * chosen.seconds + 10) + 90
            with call(boxes, chosen.calls, hold_s):
                for _ in range(chosen.rounds):
                    quiet.append(window(boxes, chosen.seconds))
                    with looking(boxes[1]):
                        looked_at.append(window(boxes, chosen.seconds))
                    print(json.dumps({"quiet": quiet[-1], "looked_at": looked_at[-1]}), flush=True)
                with looking(boxes[1]):
                    waited = answers(boxes[1], 12)
        finally:
            for box in boxes:
                box.stop()

    def median(windows: list[dict[str, dict[str, float]]], name: str, part: str) -> float:
        return round(statistics.median(each[name][part] for each in windows), 2)

    kept, looks = told_apart(quiet), told_apart(looked_at, quiet)
    summary = machine() | {
        "calls": chosen.calls,
        "plain_media_percent": median(quiet, "plain", "media_percent"),
        "audio_ring_percent": sure(kept),
        "audio_ring_parts_percent": kept,
        "all_looks_percent": sure(looks),
        "all_looks_parts_percent": looks,
        "loop_percent": median(looked_at, "watched", "loop_percent"),
        "late_ticks": [
            median(looked_at, name, "late_ticks") for name in ("plain", "watched")
        ],
        "waited_s": median(looked_at, "watched", "waited_s"),
    } | waited  # fmt: skip
    print(json.dumps(summary), flush=True)
    if chosen.save:
        if float(summary["waited_s"]) > TOO_LONG * chosen.seconds:
            raise SystemExit("the machine is too busy: these figures are not kept")
        keep("technician", summary)


if __name__ == "__main__":
    main()
