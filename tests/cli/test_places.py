"""``gateway adapters`` and ``gateway endpoints``."""

from __future__ import annotations

import json
import re

from tests.box import Box


def test_adapters(talking: Box) -> None:
    lines = talking.ok("adapters").splitlines()
    assert lines[0].startswith("ADAPTER   KIND      STATE  UP FOR  ENDPOINTS  LEGS  RESTARTS")
    assert re.match(r"loopback +loopback +up +\d+:\d\d +5 +2 +0 +-$", lines[1])
    (found,) = talking.json("adapters")
    assert (found["name"], found["state"], found["legs"]) == ("loopback", "up", 2)


def test_endpoints_in_a_pipe_are_plain_columns(talking: Box) -> None:
    lines = talking.ok("endpoints", "loopback/*").splitlines()
    assert len(lines) == 1 + 5
    by_name = {line.split()[0]: line for line in lines[1:]}
    call = talking.json("calls")[0]["id"][-8:]
    assert f"connected {call}" in by_name["loopback/bob"]
    assert by_name["loopback/slow"].split()[:3] == ["loopback/slow", "103", "up"]
    assert "\x1b" not in "".join(lines)


def test_endpoint_in_detail(talking: Box) -> None:
    shown = talking.ok("endpoints", "loopback/bob", "--detail")
    assert re.search(r"^can be called +yes$", shown, re.MULTILINE)
    assert re.search(r"^in use +loopback/bob#1 connected$", shown, re.MULTILINE)


def test_an_endpoint_that_does_not_exist(talking: Box) -> None:
    done = talking.run("endpoints", "loopback/bobby")
    assert done.returncode == 1
    assert "there is no endpoint loopback/bobby" in done.stderr


def test_adapters_without_a_gateway(idle: Box) -> None:
    done = idle.run("adapters")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["loopback", "loopback", "not", "running", "-"] in lines
    assert ["-", "sip", "not", "configured", "-"] in lines
    assert json.loads(idle.ok("adapters", "--json"))[0].keys() == {
        "name", "kind", "state", "reason"
    }  # fmt: skip
