"""The lab by hand: what a person does in it, and what a technician sees of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.lab.verbs import HELP
from tests.cards import needs_card

pytestmark = [pytest.mark.interop, needs_card]
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
        process.communicate(timeout=90)


def until(what: str, seen: object) -> None:
    assert callable(seen)
    deadline = time.monotonic() + WITHIN_S
    while not seen():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.1)


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


def test_every_network_by_hand(tmp_path: Path) -> None:
    def by_hand(*words: str) -> str:
        done = gateway(tmp_path, "lab", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with running_lab(tmp_path):
        # The button of a station rings the guard; the talk key is heard there.
        by_hand("station", "gate", "call")

        def ringing() -> bool:
            calls = json.loads(gateway(tmp_path, "--json", "calls").stdout)
            return [leg["state"] for call in calls for leg in call["legs"]] == [
                "offered",
                "alerting",
            ]

        until("the guard's telephone rings", ringing)
        by_hand("lift", "1")
        until("the gate talks", lambda: "gate talking" in by_hand("state"))
        by_hand("station", "gate", "press")
        assert loudness(by_hand("listen", "1", "0.5")) > -20.0
        by_hand("station", "gate", "release")
        by_hand("hangup", "1")
        until("the gate is idle", lambda: "gate idle" in by_hand("state"))

        # A telephone in the mobile network writes to nobody in particular, and is called.
        by_hand("mobile", "text", "+491701234567", "all", "well?")
        by_hand("dial", "2", "60170123#")
        until("the module dials", lambda: "mobile dialled" in by_hand("state"))
        by_hand("mobile", "answer")
        until("it is connected", lambda: "mobile talking" in by_hand("state"))
        by_hand("hangup", "2")
        until("it is free", lambda: "mobile idle" in by_hand("state"))
        assert by_hand("mobile", "texts") == "nothing was written yet\n"

        # A contact switches a relay; a bell is heard in the hall.
        assert by_hand("relay", "lamp") == "lamp off\n"
        by_hand("contact", "door", "close")
        until("the lamp is lit", lambda: by_hand("relay", "lamp") == "lamp on\n")
        by_hand("contact", "door", "open")
        until("the lamp is out", lambda: by_hand("relay", "lamp") == "lamp off\n")
        assert by_hand("bell", "next").count(",") == 9
        with ThreadPoolExecutor() as beside:
            heard = beside.submit(by_hand, "listen", "hall", "6")
            by_hand("bell", "ring")
        assert loudness(heard.result()) > -20.0

        # An alarm is on the air until it is cleared; the rig saw one over.
        assert by_hand("radio", "overs") == "nothing was transmitted yet\n"
        by_hand("alarm")
        until("the radio is keyed", lambda: "radio keyed" in by_hand("state"))
        assert loudness(by_hand("listen", "radio", "1.5")) > -40.0
        by_hand("calm")
        until("it is released", lambda: by_hand("radio", "overs").endswith(" s\n"))
        assert "siren off" in by_hand("relay")

        # Somebody else's carrier calls the guard.
        by_hand("radio", "carrier", "on")
        until("the guard's telephone rings", lambda: "fxs/1" in gateway(tmp_path, "calls").stdout)
        by_hand("radio", "carrier", "off")

        for wrong in (("station", "cellar", "call"), ("contact", "door"), ("relay", "pump"),
                      ("listen", "moon"), ("radio", "carrier")):  # fmt: skip
            refused = gateway(tmp_path, "lab", *wrong)
            assert refused.returncode == 1
            assert (
                "lab has" in refused.stderr
                or "usage:" in refused.stderr
                or ("not a telephone" in refused.stderr)
            )


def test_a_trace_over_two_networks(tmp_path: Path) -> None:
    with running_lab(tmp_path):
        assert gateway(tmp_path, "lab", "dial", "2", "21").returncode == 0
        until("a trace", lambda: gateway(tmp_path, "trace", "sip/anna").returncode == 0)
        found = json.loads(gateway(tmp_path, "trace", "sip/anna", "--json").stdout)
        lanes = {item["lane"] for item in found["items"]}
        assert {"fxs/2", "sip/anna"} <= lanes
        assert found["labels"]["fxs/2"] == "Workshop"
        assert gateway(tmp_path, "lab", "hangup", "2").returncode == 0


def loudness(answer: str) -> float:
    """The level in ``heard -15.3 dBm0, written to ...``."""
    return float(answer.split()[1])


def test_help_names_every_verb_with_its_arguments(tmp_path: Path) -> None:
    shown = gateway(tmp_path, "lab", "--help").stdout
    for verb, (arguments, _) in HELP.items():
        assert f"  {verb} {arguments}".rstrip() in shown


def test_without_a_lab_it_says_how_to_start_one(tmp_path: Path) -> None:
    refused = gateway(tmp_path, "lab", "state")
    assert refused.returncode == 1
    assert "make run" in refused.stderr
