"""``gateway calls``."""

from __future__ import annotations

import json
import re
import subprocess

from tests.box import Box


def test_calls_show_who_talks_to_whom(talking: Box) -> None:
    lines = talking.ok("calls").splitlines()
    call, origin, target, number, state, _, route = lines[1].split()
    (found,) = talking.json("calls")
    assert found["id"].endswith(call)
    assert (origin, target, number) == ("loopback/carol", "loopback/bob", "900")
    assert (state, route) == ("connected", "nines")
    assert talking.json("calls", "loopback/slow") == []


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
