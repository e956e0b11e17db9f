"""The lab's own journal, with telephones, SIP and an alarm in it, is the same again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.lab import linecard
from tests.lab.test_lab import gateway, running_lab, until

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(linecard.why_not() is not None, reason=str(linecard.why_not())),
]


def test_the_tours_journal_is_the_same_again(tmp_path: Path) -> None:
    # Digits are hidden in it: pressing 1 acknowledged the alarm, and that has to be guessed.
    done = gateway(tmp_path, "lab", "run", "--leave")
    assert done.returncode == 0, done.stdout + done.stderr
    done = gateway(tmp_path, "replay", str(tmp_path / "data" / "journal"), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = json.loads(done.stdout)["runs"]
    assert run["difference"] is None
    assert run["actions"] >= 25
    assert run["guessed"] >= 1
    flow = tmp_path / "tour.flow"
    done = gateway(tmp_path, "replay", str(tmp_path / "data" / "journal"), "--make-test", str(flow))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "-> CloseAlarm endpoint=mqtt/house" in flow.read_text()


def test_a_trace_over_two_networks(tmp_path: Path) -> None:
    with running_lab(tmp_path):
        assert gateway(tmp_path, "lab", "dial", "2", "21").returncode == 0
        until("a trace", lambda: gateway(tmp_path, "trace", "sip/anna").returncode == 0)
        found = json.loads(gateway(tmp_path, "trace", "sip/anna", "--json").stdout)
        lanes = {item["lane"] for item in found["items"]}
        assert {"fxs/2", "sip/anna"} <= lanes
        assert found["labels"]["fxs/2"] == "Workshop"
        assert gateway(tmp_path, "lab", "hangup", "2").returncode == 0
