"""status, adapters, endpoints, calls, call: who talks to whom, and why is there no audio."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time

import pytest

from tests.box import Box


def test_status_says_that_all_is_well(talking: Box) -> None:
    shown = talking.ok("status")
    assert "box        lab" in shown
    assert "adapters   1 of 1 up" in shown
    assert "calls      1 (2 legs)" in shown
    assert "all is well" in shown
    found = talking.json("status")
    assert found["well"] is True
    assert found["wrong"] == []
    assert [store["name"] for store in found["stores"]] == ["journal", "records"]


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


def test_calls_show_who_talks_to_whom(talking: Box) -> None:
    lines = talking.ok("calls").splitlines()
    call, origin, target, number, state, _, route = lines[1].split()
    (found,) = talking.json("calls")
    assert found["id"].endswith(call)
    assert (origin, target, number) == ("loopback/carol", "loopback/bob", "900")
    assert (state, route) == ("connected", "nines")
    assert talking.json("calls", "loopback/slow") == []


def test_call_tells_route_codecs_and_packets(talking: Box) -> None:
    identity = talking.json("calls")[0]["id"]
    shown = talking.ok("call", identity[-8:])
    assert "route 'nines' matched 900 from loopback/carol" in shown
    assert re.search(r"not night: it is outside its hours", shown) or "night" in shown
    assert shown.count("codec     L16") == 2
    assert re.search(r"received  \d+ packets, 0 lost \(0\.0 %\)", shown)
    for name in (identity, "loopback/carol", "loopback/carol#1", "loopback/bob#1"):
        assert talking.json("call", name)["id"] == identity


def test_counters_of_a_call_move(talking: Box) -> None:
    def received() -> int:
        found = talking.json("call", "loopback/bob")
        return sum(leg["audio"]["packets_received"] for leg in found["legs"])

    before = received()
    deadline = time.monotonic() + 10.0
    while received() <= before:
        assert time.monotonic() < deadline, "no audio flows between two loopback ports"


def test_call_says_that_nobody_speaks(talking: Box) -> None:
    # Both ports only echo: what goes round is silence, as with two muted telephones.
    deadline = time.monotonic() + 15.0
    while not (found := talking.json("call", "loopback/bob"))["findings"]:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert any("nothing louder than -60 dBm0" in each["what"] for each in found["findings"])
    assert "let somebody speak there" in talking.ok("call", "loopback/bob")


def test_a_call_that_does_not_exist(talking: Box) -> None:
    done = talking.run("call", "0000dead")
    assert done.returncode == 1
    assert "there is no call 0000dead now" in done.stderr
    assert "gateway events --call 0000dead" in done.stderr


def test_a_watched_table_on_a_terminal_sends_only_what_changed(talking: Box) -> None:
    shown = talking.on_terminal("calls", "--watch", "--every", "0.2", until="\x1b[3A")
    assert "loopback/carol" in shown
    # The headings were sent once, although the table was drawn more often.
    assert shown.count("CALL      FROM") == 1
    assert shown.count("(Ctrl-C ends)") >= 1


def test_a_terminal_of_80_columns_has_no_longer_line(talking: Box) -> None:
    shown = talking.on_terminal("endpoints", until="slow")
    assert "loopback/slow" in shown
    for line in re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines():
        assert len(line) <= 80


def test_a_call_is_not_connected_while_the_other_side_rings(box: Box) -> None:
    box.ok("dial", "loopback/alice", "loopback/slow")
    call = box.wait_for_call("alerting")
    assert "alerting" in box.ok("calls").splitlines()[1]
    assert "waits for loopback/slow#1 to answer" in box.ok("call", call["id"][-8:])


def test_following_in_a_pipe_writes_a_document_for_each_change(box: Box) -> None:
    box.ok("dial", "loopback/alice", "loopback/bob")
    box.wait_for_call()
    follower = subprocess.Popen(
        box.command("calls", "--watch", "--every", "0.2", "--json"),
        env=box.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert follower.stdout is not None
        first = json.loads(follower.stdout.readline())
        assert [call["state"] for call in first["calls"]] == ["connected"]
        box.ok("hangup", "loopback/bob")
        for line in follower.stdout:
            if json.loads(line)["calls"] == []:
                break
    finally:
        follower.kill()
        follower.wait()


def test_adapters_without_a_gateway(idle: Box) -> None:
    done = idle.run("adapters")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["loopback", "loopback", "not", "running", "-"] in lines
    assert ["-", "sip", "not", "configured", "-"] in lines
    assert json.loads(idle.ok("adapters", "--json"))[0].keys() == {
        "name", "kind", "state", "reason"
    }  # fmt: skip


@pytest.mark.parametrize("words", ["events --last 1000", "trace last", "events", "--help"])
def test_a_reader_that_has_enough_is_no_failure(talking: Box, words: str) -> None:
    # Many lines into a pipe of which nobody reads but the first octet.
    process = subprocess.Popen(
        talking.command(*words.split()), env=talking.environment, cwd=talking.home,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    if words == "events":
        # It writes when something happens, and there is nobody any more.
        process.stdout.close()
        timer = threading.Timer(30.0, process.kill)
        timer.start()
        while process.poll() is None:
            talking.run("dial", "loopback/alice", "loopback/engaged")
        timer.cancel()
    else:
        process.stdout.close()
    errors = process.stderr.read().decode()
    process.stderr.close()
    assert (process.wait(30.0), errors) == (0, "")


def test_a_call_that_is_over_is_shown_from_its_records(box: Box) -> None:
    box.ok("dial", "loopback/alice", "loopback/bob", "--wait")
    identity = box.json("calls")[0]["id"]
    leg = next(each for each in box.json("calls")[0]["legs"] if each["endpoint"] == "loopback/bob")
    box.ok("hangup", "loopback/bob")
    box.wait_for_no_call()
    deadline = time.monotonic() + 10.0
    while box.run("call", leg["id"]).returncode:
        assert time.monotonic() < deadline, "no record of the leg"
        time.sleep(0.1)
    shown = box.ok("call", identity[-8:])
    assert len(re.findall(r"^state +over$", shown, re.MULTILINE)) == 2
    assert {each["leg"] for each in box.json("call", leg["id"])} >= {leg["id"]}
