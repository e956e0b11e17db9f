"""The lab as a stranger meets it: the tour, then a call by hand and a look at it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.lab import linecard

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(linecard.why_not() is not None, reason=str(linecard.why_not())),
]
WITHIN_S = 90


def environment(place: Path) -> dict[str, str]:
    return {**os.environ, "CROSSPOINT_LAB": str(place), "GATEWAY_CONFIG": str(place / "none")}


def gateway(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway", *words],
        env=environment(place),
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )


@contextlib.contextmanager
def running_lab(place: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "gateway", "lab", "run", "--no-tour"],
        env=environment(place),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if "The lab is up" in line:
                break
        else:
            pytest.fail("the lab did not come up")
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def until(what: str, seen: object) -> None:
    assert callable(seen)
    deadline = time.monotonic() + WITHIN_S
    while not seen():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.1)


def test_the_tour_is_measured_and_passes(tmp_path: Path) -> None:
    done = gateway(tmp_path, "lab", "run", "--leave")
    assert done.returncode == 0, done.stdout + done.stderr
    for claim in (
        "ok  the telephone heard the softphone",
        "ok  the softphone heard the telephone",
        "ok  telephone 2 is lifted and hears the dial tone",
        "ok  the announcement was heard",
        "ok  pressing 1 acknowledged it, and the panel was told (by fxs/1)",
    ):
        assert claim in done.stdout


def test_a_call_by_hand_is_seen_by_the_technician(tmp_path: Path) -> None:
    with running_lab(tmp_path):
        assert gateway(tmp_path, "lab", "dial", "2", "11").returncode == 0

        def ringing() -> bool:
            calls = json.loads(gateway(tmp_path, "--json", "calls").stdout)
            return any(len(call["legs"]) == 2 for call in calls)

        until("telephone 2's call has two legs", ringing)
        assert gateway(tmp_path, "lab", "lift", "1").returncode == 0

        def connected() -> bool:
            calls = json.loads(gateway(tmp_path, "--json", "calls").stdout)
            return all(leg["state"] == "connected" for call in calls for leg in call["legs"])

        until("both are connected", connected)
        assert "fxs/2" in gateway(tmp_path, "calls").stdout
        heard = gateway(tmp_path, "lab", "listen", "1", "0.3")
        assert "dBm0, written to" in heard.stdout
        for phone in ("1", "2"):
            assert gateway(tmp_path, "lab", "hangup", phone).returncode == 0

        def recorded() -> bool:
            rows = json.loads(gateway(tmp_path, "--json", "records", "--legs").stdout)
            return sorted(row["endpoint"] for row in rows) == ["fxs/1", "fxs/2"]

        until("two records", recorded)
        refused = gateway(tmp_path, "lab", "lift", "9")
        assert refused.returncode == 1
        assert "the lab has 1 and 2" in refused.stderr


def test_without_a_lab_it_says_how_to_start_one(tmp_path: Path) -> None:
    refused = gateway(tmp_path, "lab", "state")
    assert refused.returncode == 1
    assert "make run" in refused.stderr
