"""CPU microseconds per 20 ms packet: relay, transcoding, conference and page.

    python -m tests.bench.relay [--calls 100 300 500] [--rounds 3] [--only relay alaw] [--save]

Builds the RTP load generator found in ``$CROSSPOINT_BENCH/rtp`` (default: ``../shared/bench``
beside the checkout) and runs the engine in a process of its own; where rtpengine is installed it
carries the same calls in turn, in the same minutes, and the ratio of both is printed. A figure is
the CPU time of the whole process per packet that came out of it.
Conference and page are held against as many packets that are only relayed. ``--save`` appends the
results to ``tests/bench/history/relay.jsonl``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from gateway.media.engine import Engine, OpenStream  # noqa: E402
from gateway.media.streams import Codec, RtpSpec  # noqa: E402
from tests.bench.machine import keep, machine, memory_kib  # noqa: E402

CASES = {
    "relay": ("PCMU", "PCMU"),
    "alaw": ("PCMA", "PCMU"),
    "g722": ("PCMU", "G722"),
}
ROOMS = {"conference": 32, "page": 101}
"""Pairs of the generator's ports: 64 people who all speak; one speaker and 201 who listen."""

GENERATOR_PORTS = 17000
"""Above the engine's, below those the system hands out by itself."""

PAYLOAD_TYPES = {"PCMU": 0, "PCMA": 8, "G722": 9}
PATTERNS = {"relay": "tag", "alaw": "sign"}

Marks = Callable[[], dict[str, Any]]
"""Asks the engine's process for its counters."""


async def serve(case: str, calls: int, base: int, map_file: str, args: argparse.Namespace) -> None:
    """Open streams towards the generator's ports; answer each line of input with counters."""
    if (os.cpu_count() or 1) > 1 and args.threads == 1:
        os.sched_setaffinity(0, {0})  # the generator has the other one to itself
    engine = Engine(
        max_streams=2 * calls,
        ports=(4000 if args.far else 10000, GENERATOR_PORTS - 1),
        threads=args.threads,
        io_uring=not args.epoll,
        kernel=args.kernel,
        steer=args.steer,
    )
    await engine.start()
    if refused := engine.kernel_refused or engine.steer_refused:
        sys.exit(refused)
    codecs = CASES.get(case, ("PCMU", "PCMU"))
    streams: list[OpenStream] = []
    lines = []
    empty_kib = memory_kib(os.getpid())
    for call in range(calls):
        far = call * (args.far or calls) // calls
        ports = base + 4 * far, base + 4 * far + 2
        for port, codec in zip(ports, codecs, strict=True):
            spec = RtpSpec(
                local_ip="127.0.0.1",
                remote_ip="127.0.0.1",
                remote_port=port,
                codec=Codec(codec),
                payload_type=PAYLOAD_TYPES[codec],
                rate=16000 if codec == "G722" else 8000,
            )
            streams.append(engine.open(spec))
            if len(streams) % 256 == 0:
                await asyncio.sleep(0.02)  # the command ring
        a, b = (leg.local for leg in streams[-2:])
        lines.append(f"{ports[0]} {a[0]} {a[1]} {ports[1]} {b[0]} {b[1]}")
        if case in CASES:
            engine.open_bridge(str(call))
            for leg in streams[-2:]:
                engine.join(str(call), leg)
    if case in ROOMS:
        engine.open_bridge("room")
        for leg in streams:
            engine.join("room", leg, speaks=case == "conference" or leg is streams[0])
    Path(map_file).write_text("\n".join(lines) + "\n")
    await asyncio.sleep(0.2)
    if args.busy:
        threading.Thread(target=spin, daemon=True).start()
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        cpu_s = time.process_time()
        stats, legs = engine.stats(), [stream.stats() for stream in streams]
        out: dict[str, Any] = {
            "cpu_s": cpu_s,
            "media_cpu_s": stats.cpu_s,
            "kib_per_call": round((memory_kib(os.getpid()) - empty_kib) / calls, 1),
            "wakes": stats.wakes,
            "late_wakes": stats.late_ticks,
            "received": sum(leg.packets_received for leg in legs),
            "refused": sum(leg.packets_refused for leg in legs),
            "packets_sent": stats.packets_sent,
            "slips": sum(leg.slips for leg in legs),
            "late_us_p99": stats.late_us_p99,
            "worst_late_ms": stats.worst_late_ms,
            "realtime": stats.realtime,
            "io_uring": stats.io_uring,
            "skipped_ticks": stats.skipped_ticks,
            "send_errors": stats.send_errors,
            "kernel_packets": stats.kernel_packets,
            "steered_packets": stats.steered_packets,
            "steer_dropped": stats.steer_dropped,
            "late": sum(leg.packets_late for leg in legs),
            "lost": sum(leg.packets_lost for leg in legs),
            "concealed": sum(leg.frames_concealed for leg in legs),
        }
        print(json.dumps(out), flush=True)
    await engine.stop()


def spin() -> None:
    """A Python thread that never rests."""
    while True:
        sum(range(1000))


def ahead(priority: int = 10) -> list[str]:
    """Begins the command line of a program at real-time priority, where that is permitted.

    Like the engine's: others who load the machine must not make the generator late, or it
    measures itself, nor rtpengine, or it loses packets.
    """
    words = ["chrt", "-f", str(priority)]
    refused = subprocess.run([*words, "true"], capture_output=True, check=False).returncode
    return [] if refused else words


@contextmanager
def served(
    case: str, calls: int, map_file: Path, args: argparse.Namespace
) -> Iterator[tuple[int, Marks]]:
    """The engine in a process of its own with these calls open: its number, and its counters."""
    base = GENERATOR_PORTS + random.randrange(2000) * 4
    command = [
        sys.executable, __file__, "--serve", case, "--calls", str(calls), "--base", str(base),
        "--map", map_file, "--threads", str(args.threads), "--far", str(getattr(args, "far", 0)),
    ]  # fmt: skip
    command += ["--kernel"] * getattr(args, "kernel", False)
    command += ["--steer"] * getattr(args, "steer", False)
    command += ["--epoll"] * args.epoll + ["--busy"] * args.busy
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert server.stdin is not None

    def mark() -> Any:
        server.stdin.write("\n")
        server.stdin.flush()
        return json.loads(server.stdout.readline())

    try:
        if server.stdout.readline().strip() != "ready":
            sys.exit("the engine did not start")
        yield server.pid, mark
    finally:
        server.stdin.close()
        server.wait(20)


class Bench:
    """The generator, and where it and the systems under test put their files."""

    def __init__(self, tools: Path, tmp: Path, args: argparse.Namespace) -> None:
        self.tools, self.tmp, self.args = tools, tmp, args
        self.rtpload = tmp / "rtpload"
        subprocess.run(
            ["gcc", "-O2", "-w", "-o", self.rtpload, tools / "rtpload.c", "-lm"], check=True
        )
        self.ahead = ahead()

    def loaded(self, generator: subprocess.Popen[bytes]) -> bool:
        """Wait for the generator; False when another program has one of its ports."""
        return generator.wait() == 0 and (self.tmp / "out.json").exists()

    def load(self, case: str, pid: int, map_file: Path) -> subprocess.Popen[bytes]:
        """Start the generator on the calls of `map_file`."""
        a, b = CASES.get(case, ("PCMU", "PCMU"))
        (self.tmp / "out.json").unlink(missing_ok=True)
        command = [
            self.rtpload, "--map", map_file, "--pid", str(pid), "--cpu",
            str(min(1, (os.cpu_count() or 1) - 1)), "--pt",
            f"{PAYLOAD_TYPES[a]},{PAYLOAD_TYPES[b]}", "--pattern", PATTERNS.get(case, "noise"),
            "--align", "first", "--warmup", "2", "--windows", str(self.args.windows),
            "--duration", str(self.args.seconds), "--json", self.tmp / "out.json", "--quiet",
        ]  # fmt: skip
        return subprocess.Popen([*self.ahead, *self.watching(command)])

    def watching(self, command: list[Any]) -> list[Any]:
        """The generator's command line: it reads the CPU time of who is under test."""
        return command

    def figures(self) -> dict[str, Any]:
        """What the generator saw: CPU per packet in each window, and delays."""
        seen = json.loads((self.tmp / "out.json").read_text())
        # What came back matched or not: an engine with a time line of its own cannot be matched.
        came = (seen["received"] + seen["dup"] + seen["unmatched"]) / seen["sent"]
        windows = [1e6 * w["cpu_s"] / (w["sent"] * min(came, 1.0)) for w in seen["windows"]]
        return {
            "us_per_packet": windows,
            "sent": seen["sent"],
            "came_back": round(came, 4),
            "delay_p50_ms": seen["delay_us"]["p50"] / 1000,
            "delay_p99_ms": seen["delay_us"]["p99"] / 1000,
            "generator_late": seen["gen_late_ticks"],
        }

    def ours(self, case: str, calls: int) -> dict[str, Any] | None:
        """One run of the engine."""
        map_file = self.tmp / "ours.map"
        marks = []
        with served(case, calls, map_file, self.args) as (pid, mark):
            generator = self.load(case, pid, map_file)
            time.sleep(1.5)
            marks.append(mark())
            time.sleep(self.args.windows * self.args.seconds)
            marks.append(mark())
            good = self.loaded(generator)
        if not good:
            return None
        found = self.figures()
        first, last = marks
        for key in (
            "late",
            "lost",
            "concealed",
            "skipped_ticks",
            "send_errors",
            "packets_sent",
            "kernel_packets",
            "steered_packets",
            "steer_dropped",
        ):
            found[key] = last[key] - first[key]
        for key in ("late_us_p99", "worst_late_ms", "realtime", "io_uring"):
            found[key] = last[key]
        return found

    def rtpengine(self, case: str, calls: int) -> dict[str, Any] | None:
        """One run of rtpengine in user space."""
        map_file, log = self.tmp / "rtpengine.map", self.tmp / "rtpengine.log"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            control = f"127.0.0.1:{probe.getsockname()[1]}"
        command = [
            *self.ahead, "taskset", "-c", "0", "rtpengine",
            "--foreground", "--log-stderr", "--log-level=3",
            "--table=-1", "--interface=127.0.0.1", f"--listen-ng={control}", "--port-min=40000",
            "--port-max=60900", "--config-file=none", f"--pidfile={self.tmp}/rtpengine.pid",
        ]  # fmt: skip
        a, b = CASES[case]
        base = GENERATOR_PORTS + random.randrange(2000) * 4
        with log.open("wb") as errors:
            peer = subprocess.Popen(command, stderr=errors)
        try:
            time.sleep(1.5)
            driver = [
                sys.executable, self.tools / "ngdriver.py", "--calls", str(calls), "--a", a,
                "--b", b, "--ng", control, "--lbase", str(base), "--map", map_file,
            ]  # fmt: skip
            if subprocess.run(driver, check=False).returncode:
                print(log.read_text()[-400:], file=sys.stderr)
                return None
            good = self.loaded(self.load(case, peer.pid, map_file))
        finally:
            peer.terminate()
            peer.wait(10)
        return self.figures() if good else None

    def compare(self, case: str, calls: int) -> dict[str, Any]:
        """Both in turn, `rounds` times; medians over all windows."""
        ours, theirs = [], []
        other = shutil.which("rtpengine") is not None and case in CASES and not self.args.alone
        for _ in range(self.args.rounds):
            ours.append(_insist(self.ours, case, calls))
            if case in ROOMS:  # as many packets, only relayed
                theirs.append(_insist(self.ours, "relay", calls))
            elif other:
                theirs.append(_insist(self.rtpengine, case, calls))
        kept = "threads", "epoll", "busy", "steer", "rounds"
        settings = {k: getattr(self.args, k) for k in kept}
        result: dict[str, Any] = {"case": case, "calls": calls, **settings, **_merged(ours)}
        if theirs:
            against = _merged(theirs)
            result["against"] = "own relay" if case in ROOMS else "rtpengine"
            result["against_us_per_packet"] = against["us_per_packet"]
            result["against_delay_p99_ms"] = against["delay_p99_ms"]
            result["against_came_back"] = against["came_back"]
            result["ratio"] = round(result["us_per_packet"] / against["us_per_packet"], 3)
        return result


def _insist(
    run: Callable[[str, int], dict[str, Any] | None], case: str, calls: int
) -> dict[str, Any]:
    for _ in range(5):
        if (found := run(case, calls)) is not None:
            return found
    sys.exit(f"{case} with {calls} calls: five attempts failed")


def _merged(runs: list[dict[str, Any]]) -> dict[str, Any]:
    windows = [w for run in runs for w in run["us_per_packet"]]
    out: dict[str, Any] = {
        "us_per_packet": round(statistics.median(windows), 2),
        "us_min": round(min(windows), 2),
        "us_max": round(max(windows), 2),
    }
    for key in runs[0]:
        if key not in out:
            values = [run[key] for run in runs]
            out[key] = values[0] if isinstance(values[0], bool) else statistics.median(values)
    return out


def wanted(args: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Each case with its number of calls."""
    for case in args.only or [*CASES, *ROOMS]:
        for calls in [ROOMS[case]] if case in ROOMS else args.calls:
            yield case, calls


def main() -> None:
    """Parse the command line; serve or measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, nargs="+", default=[100, 300, 500])
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=[*CASES, *ROOMS])
    parser.add_argument("--alone", action="store_true", help="without rtpengine")
    parser.add_argument("--epoll", action="store_true", help="without io_uring")
    parser.add_argument("--busy", action="store_true", help="beside a busy Python thread")
    parser.add_argument("--steer", action="store_true", help="by shared sockets (root)")
    parser.add_argument("--kernel", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--serve", choices=[*CASES, *ROOMS], help=argparse.SUPPRESS)
    parser.add_argument("--base", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--map", help=argparse.SUPPRESS)
    parser.add_argument("--far", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        asyncio.run(serve(args.serve, args.calls[0], args.base, args.map, args))
        return
    tools = Path(os.environ.get("CROSSPOINT_BENCH", ROOT.parent / "shared" / "bench")) / "rtp"
    if not (tools / "rtpload.c").exists():
        sys.exit(f"{tools}/rtpload.c is missing: set CROSSPOINT_BENCH to the folder with rtp/")
    print(json.dumps(machine()), flush=True)
    with tempfile.TemporaryDirectory() as tmp:
        bench = Bench(tools, Path(tmp), args)
        for case, calls in wanted(args):
            line = {**machine(), **bench.compare(case, calls)}
            print(json.dumps({k: line[k] for k in list(line)[6:]}), flush=True)
            if args.save:
                keep("relay", line)


if __name__ == "__main__":
    main()
