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
        with tempfile.TemporaryDirectory(prefix="quality-") as home:
            asyncio.run(measure(report, Path(home), quick=args.quick))
        report.say(f"({time.monotonic() - began:.0f} s)")
    sys.exit(report.end(save=args.save))


if __name__ == "__main__":
    main()
