"""Faults and attacks on a running gateway, and whether what must hold holds.

Usage: python -m tests.reliability [--ci | --full] [--rounds N] [NUMBER ...]

Needs root (network namespaces), cc and SIPp. Exit status 1 when anything did not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import sys
import time
import traceback
from typing import Any

from tests.bench.machine import machine
from tests.reliability.lab import Lab
from tests.reliability.net import why_not

TESTS = {
    2: ("n02_impaired", "signalling over a bad network"),
    3: ("n03_corrupted", "heavy loss, flipped bits, losses in rows"),
    4: ("n04_blackout", "blackout of 8 s, then of 40 s"),
    5: ("n05_failover", "a trunk's server dies, then the name server"),
    6: ("n06_killed", "kill -9 with calls and registrations"),
    7: ("n07_stopped", "SIGSTOP for 10 s"),
    8: ("n08_drain", "reloads under load, then drain"),
    9: ("n09_broker", "broker killed again and again"),
    10: ("n10_hostile_broker", "hostile broker"),
    11: ("n11_serial", "serial line pulled again and again, and noisy"),
    12: ("n12_records", "disk of the records full under calls"),
    13: ("n13_disk", "disk hangs, is full, is read-only, with recorded calls"),
    14: ("n14_nemesis", "records under kill -9, full, read-only and locked storage"),
    15: ("n15_clock", "wall clock set and too fast, with calls and registrations"),
    16: ("n16_flood", "flood of 3,000 requests/s"),
    17: ("n17_injection", "injected RTP, digits, RTCP BYE"),
    18: ("n18_noise", "random and mutated datagrams to media ports"),
    19: ("n19_fraud", "toll fraud, enumeration, guessing"),
    20: ("n20_digest", "digest: replay, downgrade, leak"),
    21: ("n21_slow", "slow and silent connections"),
    22: ("n22_malformed", "malformed messages"),
    23: ("n23_configuration", "wrong configurations, at the start and by reloads"),
    24: ("n24_exhaustion", "no descriptors left"),
}
CI = (2, 4, 6, 9, 12, 15, 17, 19, 20, 22, 23)
LIMIT_S = 900.0


async def run(number: int, full: bool) -> dict[str, Any]:
    """One test: what it measured, and what did not hold."""
    module = importlib.import_module(f"tests.reliability.{TESTS[number][0]}")
    began = time.monotonic()
    async with Lab(full=full) as lab:
        try:
            async with asyncio.timeout(LIMIT_S * (4 if full else 1)):
                await module.run(lab)
        except Exception as error:
            traceback.print_exc()
            lab.breaches.append(f"{type(error).__name__}: {error}")
            if hasattr(lab, "daemon"):
                print(lab.daemon.log.read_text(errors="replace")[-2000:], file=sys.stderr)
        return {
            "number": number,
            "title": TESTS[number][1],
            "passed": not lab.breaches,
            "load": round(os.getloadavg()[0], 1),
            "took_s": round(time.monotonic() - began),
            "breaches": lab.breaches,
            "figures": lab.figures,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("numbers", nargs="*", type=int, metavar="NUMBER")
    parser.add_argument("--ci", action="store_true", help=f"the short ones: {CI}")
    parser.add_argument("--full", action="store_true", help="100 calls, long faults")
    parser.add_argument("--rounds", type=int, default=1, help="each so often; all must pass")
    parser.add_argument("--json", action="store_true", help="JSON lines instead of the table")
    chosen = parser.parse_args()
    if why := why_not():
        raise SystemExit(f"not here: {why}")
    numbers = chosen.numbers or (CI if chosen.ci else sorted(TESTS))
    unknown = [number for number in numbers if number not in TESTS]
    if unknown:
        raise SystemExit(f"no test {unknown[0]}: {', '.join(map(str, sorted(TESTS)))}")
    print(json.dumps(machine() | {"calls": 100 if chosen.full else 30}), flush=True)
    results = []
    for number in numbers:
        for _ in range(chosen.rounds):
            result = asyncio.run(run(number, chosen.full))
            results.append(result)
            print(json.dumps(result) if chosen.json else line(result), flush=True)
    if not chosen.json:
        print("\n| # | fault | result | load | measured |\n| - | - | - | - | - |")
        for result in results:
            print(row(result))
    failed = [result["number"] for result in results if not result["passed"]]
    print(
        f"{len(results) - len(failed)} of {len(results)} passed"
        + (f", not {failed}" * bool(failed))
    )
    sys.exit(bool(failed))


def line(result: dict[str, Any]) -> str:
    """One result for a person, with what did not hold."""
    head = f"{result['number']:>2} {'ok  ' if result['passed'] else 'FAIL'} {result['title']}"
    facts = " ".join(f"{k}={v}" for k, v in result["figures"].items())
    return "\n     ".join([f"{head} ({result['took_s']} s) {facts}", *result["breaches"]])


def row(result: dict[str, Any]) -> str:
    """One line of the table."""
    facts = ", ".join(f"{k} {v}" for k, v in result["figures"].items())
    outcome = "pass" if result["passed"] else "; ".join(result["breaches"])
    return f"| {result['number']} | {result['title']} | {outcome} | {result['load']} | {facts} |"


if __name__ == "__main__":
    main()
