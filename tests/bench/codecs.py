"""Nanoseconds of CPU per 20 ms frame and channel of the codec kernels, beside foreign libraries.

    python -m tests.bench.codecs [--save]

Needs gcc. spandsp, libg722 (PyPI G722) and libavcodec (ffmpeg) are compared where present; trust
the ratios of one run, not the absolute figures. ``--save`` appends to
``tests/bench/history/codecs.jsonl``.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.machine import keep, machine

ROOT = Path(__file__).parents[2]


def kernels() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "codecs"
        sources = sorted((ROOT / "gateway/_codecs").glob("*_impl.c"))
        flags = ["-std=gnu11", "-O3", "-fno-strict-aliasing", "-w", "-D_GNU_SOURCE"]
        flags += ["-I", ROOT / "gateway/_codecs", "-o", program]
        mine = Path(__file__).with_suffix(".c")
        subprocess.run(["gcc", *flags, mine, *sources, "-lm", "-ldl"], check=True)
        text = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    return {name: float(ns) for name, ns in (line.split() for line in text.splitlines())}


def libg722() -> dict[str, float]:
    try:
        from G722 import G722
    except ImportError:
        return {}
    codec, frame = G722(16000, 64000), [(i * 37) % 8000 - 4000 for i in range(16000)]
    code = bytes(codec.encode(frame))
    found = {}
    for name, call in (
        ("encode", lambda: codec.encode(frame)),
        ("decode", lambda: codec.decode(code)),
    ):
        best = 1e18
        for _ in range(7):
            start = time.process_time_ns()
            call()
            best = min(best, (time.process_time_ns() - start) / 50)
        found[f"libg722:g722-{name}"] = best
    return found


def libavcodec() -> dict[str, float]:
    """ffmpeg's own user time for 600 s of audio, less what copying the same audio takes."""
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        return {}

    def seconds(*arguments: str) -> float:
        command = [ffmpeg, "-v", "info", "-benchmark", "-threads", "1", *arguments]
        text = subprocess.run(
            [*command, "-f", "null", "-"], capture_output=True, text=True, check=True
        ).stderr
        found = re.search(r"utime=([\d.]+)s", text)
        assert found is not None
        return float(found[1])

    with tempfile.TemporaryDirectory() as folder:
        wav, coded = f"{folder}/x.wav", f"{folder}/x.g722"
        make = ["-f", "lavfi", "-i", "anoisesrc=r=16000:d=600:a=0.2", "-ac", "1"]
        subprocess.run([ffmpeg, "-v", "error", *make, wav], check=True)
        subprocess.run([ffmpeg, "-v", "error", "-i", wav, "-c:a", "g722", coded], check=True)
        plain = min(seconds("-i", wav, "-c:a", "pcm_s16le") for _ in range(3))
        encode = min(seconds("-i", wav, "-c:a", "g722") for _ in range(3)) - plain
        decode = min(seconds("-i", coded, "-c:a", "pcm_s16le") for _ in range(3)) - plain
    return {
        "libavcodec:g722-encode": encode / 30000 * 1e9,
        "libavcodec:g722-decode": decode / 30000 * 1e9,
    }


def main() -> None:
    about = machine()
    figures = kernels() | libg722() | libavcodec()
    foreign = {name: ns for name, ns in figures.items() if ":" in name}
    for name, ns in figures.items():
        if ":" in name:
            continue
        ratios = [
            f"{other.split(':')[0]} {theirs:.0f} = {theirs / ns:.1f}x"
            for other, theirs in foreign.items()
            if name.startswith(other.split(":")[1])
        ]
        print(f"{name:24}{ns:9.1f} ns   {'   '.join(ratios)}")
    if "--save" in sys.argv[1:]:
        keep("codecs", {**about, "ns": {name: round(ns, 1) for name, ns in figures.items()}})


if __name__ == "__main__":
    main()
