"""CPU microseconds per forwarded 20 ms packet: relay and transcoding of many calls.

    python tests/bench/relay.py [--calls 100] [--seconds 3] [--windows 5] [--only relay]

Builds the RTP load generator found in ``$CROSSPOINT_BENCH/rtp`` (default: ``../shared/bench``
beside the checkout), runs the engine in a process of its own and prints the generator's figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from gateway.media.engine import Engine  # noqa: E402
from gateway.media.streams import Codec, RtpSpec  # noqa: E402

CASES = {
    "relay": (Codec.PCMU, 0, Codec.PCMU, 0),
    "alaw": (Codec.PCMA, 8, Codec.PCMU, 0),
    "g722": (Codec.PCMU, 0, Codec.G722, 9),
}


async def serve(case: str, calls: int, base: int, map_file: str) -> None:
    """Open `calls` pair bridges towards the generator's ports and wait for end of input."""
    a_codec, a_pt, b_codec, b_pt = CASES[case]
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {0})  # the generator has the other one to itself
    engine = Engine(max_streams=2 * calls)
    await engine.start()
    lines = []
    for call in range(calls):
        ports = base + 4 * call, base + 4 * call + 2
        legs = [
            engine.open(
                RtpSpec(
                    local_ip="127.0.0.1",
                    remote_ip="127.0.0.1",
                    remote_port=port,
                    codec=codec,
                    payload_type=pt,
                    rate=16000 if codec is Codec.G722 else 8000,
                )
            )
            for port, codec, pt in ((ports[0], a_codec, a_pt), (ports[1], b_codec, b_pt))
        ]
        engine.open_bridge(str(call))
        for leg in legs:
            engine.join(str(call), leg)
        a, b = (leg.local for leg in legs)
        lines.append(f"{ports[0]} {a[0]} {a[1]} {ports[1]} {b[0]} {b[1]}")
    Path(map_file).write_text("\n".join(lines) + "\n")
    await asyncio.sleep(0.1)
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    print(json.dumps({f: getattr(engine.stats(), f) for f in (
        "realtime", "relays", "ticks", "late_ticks", "skipped_ticks", "worst_late_ms",
        "send_errors", "cpu_s")}), flush=True)  # fmt: skip
    await engine.stop()


def measure(case: str, calls: int, seconds: float, windows: int, rtpload: str, tmp: str) -> None:
    """Run one case and print its line."""
    base = 34000 + random.randrange(500) * 4
    map_file, out = f"{tmp}/{case}.map", f"{tmp}/{case}.json"
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve", case, "--calls", str(calls), "--base", str(base),
         "--map", map_file],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    assert server.stdin is not None
    try:
        if server.stdout.readline().strip() != "ready":
            sys.exit("the engine did not start")
        pattern = {"relay": "tag", "alaw": "sign", "g722": "noise"}[case]
        pts = f"{CASES[case][1]},{CASES[case][3]}"
        subprocess.run(
            [rtpload, "--map", map_file, "--pid", str(server.pid), "--cpu",
             str(min(1, (os.cpu_count() or 1) - 1)), "--pt", pts,
             "--pattern", pattern, "--align", "first", "--windows", str(windows),
             "--duration", str(seconds), "--json", out, "--quiet"],
            check=False,
        )  # fmt: skip
        server.stdin.close()
        own = json.loads(server.stdout.readline())
    finally:
        server.stdin.close()
        server.wait(10)
    r = json.loads(Path(out).read_text())
    cpu = r["cpu_us_per_packet"]
    delay = r["delay_us"]
    print(
        f"{case:6} {calls:4} calls: {cpu['median']:6.2f} us/packet (min {cpu['min']:.2f} "
        f"max {cpu['max']:.2f}), lost {r['lost']} of {r['sent']}, delay p50 {delay['p50']:.0f} "
        f"p99 {delay['p99']:.0f} us, generator overflow {r['gen_rx_overflow']} "
        f"late {r['gen_late_ticks']} | engine {own}",
        flush=True,
    )


def main() -> None:
    """Parse the command line; serve or measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--only", choices=sorted(CASES))
    parser.add_argument("--serve", choices=sorted(CASES), help=argparse.SUPPRESS)
    parser.add_argument("--base", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--map", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        asyncio.run(serve(args.serve, args.calls, args.base, args.map))
        return
    source = Path(os.environ.get("CROSSPOINT_BENCH", ROOT.parent / "shared" / "bench"))
    source = source / "rtp" / "rtpload.c"
    if not source.exists():
        sys.exit(
            f"{source} is missing: set CROSSPOINT_BENCH to the folder that holds rtp/rtpload.c"
        )
    with tempfile.TemporaryDirectory() as tmp:
        rtpload = f"{tmp}/rtpload"
        subprocess.run(["gcc", "-O2", "-w", "-o", rtpload, str(source), "-lm"], check=True)
        model = next(
            (
                line.partition(":")[2].strip()
                for line in Path("/proc/cpuinfo").read_text().splitlines()
                if "model name" in line
            ),
            platform.machine(),
        )
        print(
            f"machine: {model}, {os.cpu_count()} CPUs, Linux {platform.release()}, "
            f"load {os.getloadavg()[0]:.1f}"
        )
        for case in [args.only] if args.only else CASES:
            measure(case, args.calls, args.seconds, args.windows, rtpload, tmp)


if __name__ == "__main__":
    main()
