"""Metrics: judged by Prometheus' own tool, and by counting what really happened."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.metrics.tally import Histogram
from tests.box import Box

MONITORING = Path(__file__).parents[2] / "hardware" / "monitoring"
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)"
)


def fetch(box: Box) -> str:
    """What the control socket answers."""
    connection = http.client.HTTPConnection("localhost", timeout=90)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.sock.connect(str(box.socket))
        connection.request("GET", "/v1/metrics")
        response = connection.getresponse()
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return response.read().decode()
    finally:
        connection.close()


def figures(text: str) -> dict[str, float]:
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            found[name] = float(value)
    return found


def promtool(*arguments: str, given: str = "") -> None:
    done = subprocess.run(
        ["promtool", *arguments], input=given, capture_output=True, text=True, timeout=90,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def busy() -> Any:
    """A gateway with a port for metrics that has had an answered and a refused call."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    box = Box(control=f'\n[metrics]\nlisten = "127.0.0.1:{port}"')
    try:
        box.start()
        call = box.json("dial", "loopback/alice", "loopback/bob", "--wait")["call"]
        box.ok("hangup", call)
        box.wait_for_no_call()
        box.ok("dial", "loopback/alice", "loopback/engaged")
        deadline = time.monotonic() + 60.0
        while len(box.json("records")) < 2:
            assert time.monotonic() < deadline
        yield box, port
    finally:
        box.close()


def test_what_happened_is_counted(busy: Any) -> None:
    box, _ = busy
    found = figures(fetch(box))
    assert found["crosspoint_calls_up"] == 0
    finished = 'crosspoint_calls_finished_total{kind="requested",network="loopback",outcome='
    assert found[finished + '"answered"}'] == 1
    assert found[finished + '"failed"}'] == 1
    ended = {name: n for name, n in found.items() if "legs_finished_total" in name}
    assert sum(ended.values()) == 4
    assert found['crosspoint_legs_answered_total{network="loopback"}'] == 3
    assert found['crosspoint_call_wait_seconds_count{network="loopback"}'] == 2
    assert found['crosspoint_adapter_up{adapter="loopback",kind="loopback"}'] == 1
    assert found['crosspoint_endpoints{condition="up",network="loopback"}'] == 5
    assert found["crosspoint_engine_ticks_total"] > 10
    assert found["crosspoint_engine_running"] == 1
    assert found['crosspoint_audio_packets_total{fate="received",network="loopback"}'] > 0
    assert found['crosspoint_store_degraded{store="journal"}'] == 0
    assert found['crosspoint_alarms{state="active"}'] == 0
    assert found['crosspoint_bus_messages_total{kind="event"}'] > 10
    assert found["process_resident_memory_bytes"] > 1e6
    assert 3 <= found["crosspoint_tasks"] < 50


@needs_promtool
def test_promtool_finds_nothing_to_complain_of(busy: Any) -> None:
    promtool("check", "metrics", given=fetch(busy[0]))


@needs_promtool
def test_the_examples_are_right() -> None:
    promtool("check", "rules", str(MONITORING / "alerts.yml"))
    promtool("check", "config", str(MONITORING / "prometheus.yml"))


def _dashboard() -> list[str]:
    document = json.loads((MONITORING / "dashboard.json").read_text())
    return [target["expr"] for panel in document["panels"] for target in panel["targets"]]


@needs_promtool
def test_every_question_of_the_dashboard_can_be_asked(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{n}", "expr": expr.replace("$box", ".*")}
        for n, expr in enumerate(_dashboard())
    ]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(file))


def test_everything_that_is_asked_for_exists(busy: Any) -> None:
    there = {re.split(r"[{ ]", line)[0] for line in fetch(busy[0]).splitlines()}
    there |= {line.split()[2] for line in fetch(busy[0]).splitlines() if line.startswith("# TYPE")}
    asked = (MONITORING / "alerts.yml").read_text() + "\n".join(_dashboard())
    names = set(re.findall(r"\b((?:crosspoint|process)_[a-z_]+)", asked))
    assert len(names) > 15
    assert names <= there, names - there


def test_the_port_gives_the_same(busy: Any) -> None:
    box, port = busy
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=90) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        found = figures(answer.read().decode())
    assert set(found) >= {name for name in figures(fetch(box)) if name.startswith("crosspoint_")}
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/status", timeout=90)


def test_a_port_that_is_taken_does_not_stop_a_gateway() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        box = Box(control=f'\n[metrics]\nlisten = "127.0.0.1:{taken.getsockname()[1]}"')
        try:
            box.start()
            assert "metrics cannot be fetched" in box.log.read_text()
        finally:
            box.close()


@pytest.mark.parametrize("listen", ["9477", "localhost:9477", "127.0.0.1:x", "127.0.0.1:70000"])
def test_an_address_that_is_none(idle: Box, listen: str) -> None:
    idle.config.write_text(idle.config.read_text() + f'\n[metrics]\nlisten = "{listen}"\n')
    done = idle.run("check")
    assert done.returncode == 4
    assert "metrics.listen" in done.stderr
    assert "127.0.0.1:9477" in done.stderr


@given(st.lists(st.floats(0, 1000)))
def test_a_histogram_counts_every_value_once(values: list[float]) -> None:
    histogram = Histogram((1.0, 10.0))
    for value in values:
        histogram.add(value)
    expected = [sum(value <= bound for value in values) for bound in (1.0, 10.0, float("inf"))]
    assert [n for _, n in histogram.buckets()] == expected
    assert histogram.buckets()[-1][0] == "+Inf"
