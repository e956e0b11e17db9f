"""Relays in the kernel, beside the same in user space and rtpengine (user space), in the same run.

In a network namespace of its own, where the program at tc ingress sees nobody else's packets. What
the kernel relays costs the gateway nothing, and whoever sends to it the more: on loopback the
packet is passed on in the sender's time. So two figures: the gateway's CPU time per packet, and
that of the gateway and the generator together, of which only the difference between two lines
says what is saved. ``--save`` appends to ``tests/bench/history/kernel.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.machine import keep, machine
from tests.bench.relay import ROOT, Bench
from tests.media.kernel_net import namespace

SYSTEMS = ("user space", "kernel", "bare", "rtpengine")
"""bare: `floor.c`, which does nothing but receive and send."""
_BASE, _OWN = 17000, 10000


class Alone(Bench):
    """The system's own CPU time."""

    def bare(self, case: str, calls: int) -> dict[str, Any] | None:
        """One run of the program that does nothing."""
        program, map_file = self.tmp / "floor", self.tmp / "bare.map"
        subprocess.run(
            ["gcc", "-O2", "-o", program, Path(__file__).with_name("floor.c")], check=True
        )
        lines = [
            f"{there} 127.0.0.1 {here} {there + 2} 127.0.0.1 {here + 2}"
            for there, here in zip(
                range(_BASE, _BASE + 4 * calls, 4), range(_OWN, _OWN + 4 * calls, 4), strict=True
            )
        ]
        map_file.write_text("\n".join(lines) + "\n")
        command = [program, str(calls), str(_BASE), str(_OWN)]
        served = subprocess.Popen(
            [*self.ahead, "taskset", "-c", "0", *command], stdout=subprocess.PIPE
        )
        try:
            assert served.stdout is not None
            if served.stdout.readline().strip() != b"ready":
                return None
            good = self.loaded(self.load("relay", served.pid, map_file))
        finally:
            served.kill()
            served.wait()
        return self.figures() if good else None


class Together(Alone):
    """The generator's own CPU time counts too."""

    def watching(self, command: list[Any]) -> list[Any]:
        """By the number of the process that becomes the generator."""
        return ["sh", "-c", 'exec "$@" --pid $$', "sh", *command]


def measure(system: str, case: str, calls: int, args: argparse.Namespace, tmp: Path) -> Any:
    """Medians over the windows of a run with each way of counting."""
    args.kernel = system == "kernel"
    found: dict[str, Any] = {"system": system}
    for name, kind in (("gateway_us", Alone), ("together_us", Together)):
        bench = kind(args.tools, tmp, args)
        run = {"rtpengine": bench.rtpengine, "bare": bench.bare}.get(system, bench.ours)
        for _ in range(3):
            if (one := run(case, calls)) is not None:
                break
        else:
            sys.exit(f"{system}, {case}, {calls} calls: three attempts failed")
        found[name] = one["us_per_packet"]
        found |= {key: one[key] for key in ("came_back", "delay_p50_ms", "delay_p99_ms")}
        if "kernel_packets" in one:
            found["in_kernel"] = round(one["kernel_packets"] / one["packets_sent"], 3)
    return found


def main() -> None:
    """Measure each system in turn, some rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, nargs="+", default=[100, 500])
    parser.add_argument("--only", nargs="+", choices=["relay", "alaw"], default=["relay", "alaw"])
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    args.threads, args.epoll, args.busy, args.kernel, args.steer = 1, False, False, False, False
    args.tools = Path(os.environ.get("CROSSPOINT_BENCH", ROOT.parent / "shared" / "bench")) / "rtp"
    systems = [s for s in SYSTEMS if s != "rtpengine" or shutil.which(s)]
    print(json.dumps(machine()), flush=True)
    with tempfile.TemporaryDirectory() as tmp, namespace():
        for case in args.only:
            for calls in args.calls:
                runs = [
                    measure(system, case, calls, args, Path(tmp))
                    for _ in range(args.rounds)
                    for system in systems
                ]
                for system in systems:
                    report(system, case, calls, [r for r in runs if r["system"] == system], args)


def report(
    system: str, case: str, calls: int, runs: list[dict[str, Any]], args: argparse.Namespace
) -> None:
    """Print, and keep if wanted, one system's medians."""
    line = {"case": case, "calls": calls, "system": system}
    for key in ("gateway_us", "together_us"):
        line[key] = round(statistics.median(w for run in runs for w in run[key]), 2)
    for key in runs[0].keys() - line.keys():
        line[key] = statistics.median(run[key] for run in runs)
    print(json.dumps(line), flush=True)
    if args.save:
        keep("kernel", {**machine(), **line})


if __name__ == "__main__":
    main()
