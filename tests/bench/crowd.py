"""How many calls one core carries clean: `crowd.c` sends, hears and judges on the other core.

    python -m tests.bench.crowd [--codec relay alaw g722] [--calls 500 1000] [--most STEP] [--steer]
                                [--seconds 8] [--save]

The far ends of all calls of a side are behind a few sockets, so that the generator brings the whole
load: every leg speaks a tone of its own in each 20 ms. A run is *clean* when no packet was lost
in either direction, none was concealed, 99 % of the engine's wakes were at most 2 ms late, and the
calls that were listened to (decoded by FFmpeg) heard their own far end and nobody else. Where the
generator was late, dropped or had no time left, the run says nothing, and is said to.

``--most`` goes up from the first of ``--calls`` in steps, as long as one run of three is clean.
Needs gcc, numpy and ffmpeg; real-time scheduling for both, where permitted, and a network namespace
of its own. ``--save`` appends to ``tests/bench/history/crowd.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.machine import keep, machine
from tests.bench.relay import CASES, PAYLOAD_TYPES, ahead, served
from tests.media.kernel_net import namespace
from tests.media.peers import g711_decode, g711_encode, sine, usual_level_at

HZ = [307 + 53 * k + k % 7 for k in range(55)]
"""What the talkers say: whole numbers, so that a second goes round, and none of them another's
harmonic. An odd number of them: both sides of all calls in turn."""
LEVEL_DBM0 = -13.0
ELSEWHERE_DBM0 = -50.0
LISTENED = 24
"""Calls of which both ends are decoded."""
WARM_S, TAIL_S = 2.0, 1.5
MOST_SOCKETS = 2
"""Of one side."""
GENERATOR_CORE = 1
PRIORITY = 30
"""Above other gateways' audio, if there are any on its core."""
RECORD = np.dtype([("leg", "<u4"), ("seq", "<u2"), ("n", "<u2"), ("octets", "u1", 160)])

PROMISES: dict[str, Callable[[dict[str, Any]], bool]] = {
    "all that was sent reached the engine": lambda r: r["lost_in"] == 0,
    "all that the engine sent came": lambda r: r["lost_out"] == 0,
    "none came twice or behind the next": lambda r: r["reordered"] == 0,
    "nobody heard less than the others": lambda r: r["least_heard"] >= 50 * r["seconds"] - 2,
    "nothing concealed, late or slipped": lambda r: r["concealed"] + r["late"] + r["slips"] == 0,
    "no tick skipped": lambda r: r["skipped_ticks"] == 0,
    "nothing refused or unsent": lambda r: r["refused"] + r["send_errors"] + r["strange"] == 0,
    "99 % of wakes at most 2 ms late": lambda r: r["late_wakes_percent"] <= 1,
    "one source, of the agreed type": lambda r: r["ssrc_changes"] + r["other_type"] == 0,
    "each hears its own far end": lambda r: r["wrong_voices"] == 0,
}
GENERATOR: dict[str, Callable[[dict[str, Any]], bool]] = {
    "all was sent": lambda r: r["unsent"] == 0,
    "none of what came was dropped": lambda r: r["generator_overflowed"] == 0,
    "99 % at most 1 ms late": lambda r: r["generator_late_ms_p99"] <= 1,
    "never 10 ms late": lambda r: r["generator_late_ms_worst"] <= 10,
    "a twentieth of its core left": lambda r: r["generator_core_percent"] <= 95,
}


def _ffmpeg(arguments: str, octets: bytes) -> bytes:
    command = ["ffmpeg", "-v", "error", *arguments.split(), "-"]
    return subprocess.run(command, input=octets, capture_output=True, check=True).stdout


def speech(codec: str) -> bytes:
    """A second of each talker, encoded by somebody else."""
    if codec != "G722":
        pt = PAYLOAD_TYPES[codec]
        return b"".join(g711_encode(sine(hz, 1.0, 8000, LEVEL_DBM0), pt) for hz in HZ)
    # Of two seconds the second: by then the coder's state is what it is at the end.
    pcm = np.concatenate([sine(hz, 2.0, 16000, LEVEL_DBM0) for hz in HZ])
    coded = _ffmpeg("-f s16le -ar 16000 -ac 1 -i - -c:a g722 -f g722", pcm.tobytes())
    return b"".join(coded[at + 8000 : at + 16000] for at in range(0, len(coded), 16000))


def heard(octets: bytes, codec: str, own: int) -> tuple[float, float]:
    """Levels in dBm0 of what a far end received: of its own talker, and of the loudest other."""
    if codec == "G722":
        pcm = np.frombuffer(_ffmpeg("-f g722 -i - -ar 16000 -f s16le", octets), np.int16)
        rate = 16000
    else:
        pcm, rate = g711_decode(octets, PAYLOAD_TYPES[codec]), 8000
    pcm = pcm[rate // 2 :]  # a decoder that begins in the middle has to find its way
    seconds = len(pcm) // rate
    pcm = pcm[: seconds * rate]
    window = np.hanning(len(pcm))
    lines = np.abs(np.fft.rfft(pcm * window)) / (window.sum() / 2)
    # A talker's tone is whole in its line; the last bit is there in silence too.
    loudest = max(lines[hz * seconds] for hz in HZ if hz != own)
    return usual_level_at(pcm, own, rate), 20 * np.log10(max(loudest, 1) / 32768) + 3.14


def wrong_voices(capture: Path, codecs: tuple[str, str]) -> tuple[int, int, float]:
    """Legs that were listened to; those that heard too little of their own far end or anything of
    others; and the loudest of others in dBm0."""
    records = np.fromfile(capture, RECORD)
    wrong, loudest, legs = 0, -120.0, np.unique(records["leg"])
    for leg in legs:
        mine = records[records["leg"] == leg]
        order = np.argsort((mine["seq"].astype(int) - int(mine["seq"][0]) + 32768) & 0xFFFF)
        octets, talker = mine["octets"][order].tobytes(), HZ[(leg ^ 1) % len(HZ)]
        own, others = heard(octets, codecs[leg % 2], talker)
        loudest = max(loudest, others)
        wrong += bool(abs(own - LEVEL_DBM0) > 1 or others > ELSEWHERE_DBM0)
    return len(legs), wrong, round(float(loudest), 1)


def _stolen() -> list[int]:
    """Milliseconds in which each core was somebody else's: the hypervisor's."""
    lines = Path("/proc/stat").read_text().splitlines()[1 : 1 + (os.cpu_count() or 1)]
    return [int(line.split()[8]) * 1000 // os.sysconf("SC_CLK_TCK") for line in lines]


def _backlog() -> int:
    """Packets that the kernel has dropped before any socket."""
    lines = Path("/proc/net/softnet_stat").read_text().splitlines()
    return sum(int(line.split()[1], 16) for line in lines)


def run(codec: str, calls: int, args: argparse.Namespace, tmp: Path) -> dict[str, Any]:
    """One run: what was measured, and what of it was not clean."""
    codecs = CASES[codec]
    map_file, capture = tmp / "crowd.map", tmp / "crowd.heard"
    files = [tmp / f"{name}.speech" for name in codecs]
    for name, file in zip(codecs, files, strict=True):
        if not file.exists():
            file.write_bytes(speech(name))
    args.far = min(MOST_SOCKETS, calls)
    with served(codec, calls, map_file, args) as (_, mark):
        stolen, backlog = _stolen(), _backlog()
        command = [
            *ahead(PRIORITY), tmp / "crowd", map_file, str(args.far), str(GENERATOR_CORE),
            *(str(PAYLOAD_TYPES[name]) for name in codecs), *files, capture, str(LISTENED),
            str(WARM_S), str(args.seconds), str(TAIL_S),
        ]  # fmt: skip
        generator = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        marks = []
        try:
            assert generator.stdout is not None
            for word in ("begin", "end"):
                if generator.stdout.readline().strip() != word:
                    sys.exit("the generator did not run")
                marks.append(mark())
            seen = json.loads(generator.stdout.readline())
        finally:
            generator.kill()
            generator.wait()
        last = mark()
    found: dict[str, Any] = {"case": codec, "calls": calls, "steer": args.steer}
    found |= {"seconds": args.seconds} | seen
    for key in ("packets_sent", "concealed", "late", "slips", "skipped_ticks", "steer_dropped"):
        found[key] = marks[1][key] - marks[0][key]
    for key in ("realtime", "io_uring", "kib_per_call", "refused", "send_errors", "late_us_p99"):
        found[key] = last[key]
    found["worst_late_ms"] = round(last["worst_late_ms"], 2)
    wakes = marks[1]["wakes"] - marks[0]["wakes"]
    late = marks[1]["late_wakes"] - marks[0]["late_wakes"]
    found["late_wakes_percent"] = round(100 * late / max(wakes, 1), 2)
    for name, key in (("us_per_packet", "cpu_s"), ("media_us_per_packet", "media_cpu_s")):
        found[name] = round(1e6 * (marks[1][key] - marks[0][key]) / found["packets_sent"], 2)
    found["core_percent"] = round(100 * (marks[1]["cpu_s"] - marks[0]["cpu_s"]) / args.seconds, 1)
    found["lost_in"], found["lost_out"] = seen["sent"] - last["received"], found.pop("lost")
    found["kernel_backlog_dropped"] = _backlog() - backlog
    found["stolen_ms"] = sum(b - a for a, b in zip(stolen, _stolen(), strict=True))
    voices = wrong_voices(capture, codecs)
    found |= zip(("legs_decoded", "wrong_voices", "others_dbm0"), voices, strict=True)
    found["broken"] = [words for words, kept in PROMISES.items() if not kept(found)]
    found["generator_broken"] = [words for words, kept in GENERATOR.items() if not kept(found)]
    return found


def say(found: dict[str, Any]) -> bool:
    """A line for people; whether the run was clean."""
    broken = [f"NOT {words}" for words in found["broken"]]
    if found["generator_broken"]:
        verdict = "says nothing, the generator: NOT " + ", NOT ".join(found["generator_broken"])
        verdict += "; " + ", ".join(broken) if broken else ""
    else:
        verdict = ", ".join(broken) or "clean"
    late_ms = f"{found['generator_late_ms_p99']} ms, worst {found['generator_late_ms_worst']}"
    print(
        f"{found['case']:6}{' steer' if found['steer'] else '':6}{found['calls']:5} calls: "
        f"{found['us_per_packet']:5.2f} us a packet, {found['core_percent']:5.1f} % of the core, "
        f"{found['kib_per_call']} KiB a call, wakes 99 % within {found['late_us_p99']} us, worst "
        f"{found['worst_late_ms']} ms; lost {found['lost_in']} in, {found['lost_out']} out, "
        f"concealed {found['concealed']}; a packet each {found['gap_ms_p50']:.1f} ms (99 %: "
        f"{found['gap_ms_p99']:.1f}); {found['legs_decoded']} legs decoded, others at most "
        f"{found['others_dbm0']} dBm0; generator {found['generator_core_percent']} % of its core, "
        f"99 % within {late_ms}; stolen {found['stolen_ms']} ms: {verdict}",
        flush=True,
    )
    return verdict == "clean"


def measure(codec: str, args: argparse.Namespace, tmp: Path) -> None:
    """Each number of calls, or upwards until no run is clean."""

    def one(calls: int) -> bool:
        about = machine()
        found = run(codec, calls, args, tmp)
        if args.save:
            keep("crowd", about | found)
        return say(found)

    if not args.most:
        for calls in args.calls:
            one(calls)
        return
    calls, most = args.calls[0], 0
    while any(one(calls) for _ in range(3)):
        most, calls = calls, calls + args.most
    print(f"{codec}{' steer' if args.steer else ''}: {most} calls are clean, {calls} are not")


def main() -> None:
    """Parse the command line; measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--codec", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--calls", type=int, nargs="+", default=[500, 1000])
    parser.add_argument("--most", type=int, default=0, metavar="STEP")
    parser.add_argument("--steer", action="store_true", help="by shared sockets (root)")
    parser.add_argument("--epoll", action="store_true", help="without io_uring")
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    args.threads, args.busy = 1, False
    if (os.cpu_count() or 1) <= GENERATOR_CORE:
        sys.exit("two cores: one for the engine, one for the generator")
    print(json.dumps(machine()), flush=True)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        tmp = Path(name)
        source = Path(__file__).with_suffix(".c")
        subprocess.run(["gcc", "-O2", "-Wall", "-o", tmp / "crowd", source], check=True)
        try:
            stack.enter_context(namespace())
        except PermissionError:
            print("no network namespace of its own: other programs' packets are about", flush=True)
        for codec in args.codec:
            measure(codec, args, tmp)


if __name__ == "__main__":
    main()
