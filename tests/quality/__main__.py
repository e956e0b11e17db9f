"""Speech quality, delay and digits of calls through a running gateway.

    python -m tests.quality [rtp line intercom radio dtmf] [--quick] [--save]

Speech is synthesised (flite), sent by a program that loses and delays the same packets each time,
and judged by PESQ (ITU-T P.862, mapped to MOS-LQO by P.862.1) against its source: beside
rtpengine, beside plain repetition of the last packet, and beside the codecs alone. The exit status
is 1 where a target was missed. ``--save`` appends to ``tests/bench/history/quality.jsonl``.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
import sys
import tempfile
import time
from pathlib import Path

import structlog

from tests.quality.report import Report

TRIES = 3
STALL_S = 0.03
"""Lines, stations and radios share a program with the gateway: a part that missed its targets
while that stood still says nothing, and is measured again."""
PARTS = ("dtmf", "rtp", "line", "intercom", "radio")


def main() -> None:
    """Measure the named parts, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART")
    parser.add_argument("--quick", action="store_true", help="without bursts and jitter")
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    report = Report()
    for part in args.parts or PARTS:
        began = time.monotonic()
        report.say(f"\n== {part}: python -m tests.quality {part}")
        measure = importlib.import_module(f"tests.quality.{part}").measure
        for again in range(TRIES):
            found = Report()
            with tempfile.TemporaryDirectory(prefix="quality-") as home:
                asyncio.run(measure(found, Path(home), quick=args.quick))
            if not found.missed or found.stall_s < STALL_S or again == TRIES - 1:
                break
            report.say(f"the machine stood still for {found.stall_s:.2f} s: once more")
        report.take(found)
        report.say(f"({time.monotonic() - began:.0f} s)")
    sys.exit(report.end(save=args.save))


if __name__ == "__main__":
    main()
