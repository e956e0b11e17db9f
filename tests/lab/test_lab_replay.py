"""The lab's own journal, with telephones, SIP and an alarm in it, is the same again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.lab import linecard, pbx
from tests.lab.test_lab import gateway, running_lab, until

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(linecard.why_not() is not None, reason=str(linecard.why_not())),
]


def test_the_tours_journal_is_the_same_again(tmp_path: Path) -> None:
    # Digits are hidden in it: what was pressed has to be guessed from what followed.
    done = gateway(tmp_path, "lab", "run", "--leave")
    assert done.returncode == 0, done.stdout + done.stderr
    journal = tmp_path / "data" / "journal"
    written = [json.loads(line) for file in journal.glob("*.jsonl") for line in file.open()]
    actions = [line["action"] for line in written if "action" in line]
    # Every call of the tour, and no other: by its steps, then the alarm's all at once.
    dialled = [action["endpoint"] for action in actions if action["type"] == "Dial"]
    account = [] if pbx.why_not() else ["pyvoip/line"]
    steps = ["fxs/1", "sip/anna", "fxs/1", "fxs/1", "fxs/1", "page/hall", "page/hall", *account]
    assert dialled[: len(steps)] == steps
    assert dialled[len(steps) :] == ["page/hall", "intercom/all", "radio/north", "fxs/1"]

    done = gateway(tmp_path, "replay", str(journal), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = json.loads(done.stdout)["runs"]
    assert run["difference"] is None
    assert run["actions"] == len(actions), "everything that was written is done again"
    assert run["unwritten"] == 0, "and nothing else"
    assert run["guessed"] == len("*#1")
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
