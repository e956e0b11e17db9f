"""dial, hangup, alarms ack, safe-state, reload, stop."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.box import Box, wait_until


@pytest.fixture
def broken() -> Iterator[Box]:
    """A gateway whose records cannot be stored: that is an alarm of its own."""
    made = Box(records='[records]\nurl = "sqlite:////proc/crosspoint/records.sqlite"')
    try:
        made.start()
        wait_until(lambda: made.json("alarms"), "it is told of")
        yield made
    finally:
        made.close()


def test_dial_and_hang_up(box: Box) -> None:
    short = box.ok("dial", "loopback/alice", "loopback/bob", "--wait").strip()
    (call,) = box.json("calls")
    assert call["id"].endswith(short)
    assert call["why"].startswith("asked for by ")
    assert [leg["endpoint"] for leg in call["legs"]] == ["loopback/alice", "loopback/bob"]
    assert box.json("hangup", short)["legs"] == [leg["id"] for leg in call["legs"]]
    box.wait_for_no_call()
    done = box.run("hangup", short)
    assert done.returncode == 1
    assert "there is no call" in done.stderr


def test_hang_up_one_leg(box: Box) -> None:
    box.ok("dial", "loopback/alice", "loopback/bob", "--wait")
    assert box.ok("hangup", "loopback/bob#1") == "hung up loopback/bob#1\n"
    box.wait_for_no_call()
    assert box.run("hangup", "loopback/bob#1").returncode == 1


def test_an_answer_that_does_not_come_is_a_failure(box: Box) -> None:
    done = box.run("dial", "loopback/alice", "loopback/engaged", "--wait")
    assert done.returncode == 1
    assert "ended without an answer" in done.stderr


def test_dial_to_a_place_that_does_not_exist(box: Box) -> None:
    done = box.run("dial", "loopback/alise", "loopback/bob")
    assert done.returncode == 1
    assert "there is no endpoint loopback/alise" in done.stderr
    assert "did you mean loopback/alice" in done.stderr
    done = box.run("dial", "alice", "loopback/bob")
    assert done.returncode == 1
    assert "'alice' is not network/local" in done.stderr


def test_who_asked_is_in_the_journal(box: Box) -> None:
    box.ok("dial", "loopback/alice", "loopback/bob", "--wait")
    box.ok("hangup", "loopback/bob")
    box.wait_for_no_call()
    shown = box.ok("events", "--last", "100", "--type", "*Requested")
    assert "CallRequested" in shown
    assert "HangupRequested" in shown
    assert shown.count("by=root") == 2 or "by=" in shown


def test_alarms_are_listed_and_acknowledged(broken: Box) -> None:
    shown = broken.ok("alarms", "--active").splitlines()
    assert shown[1].split()[:4] == ["gateway/records", "storage", "major", "active"]
    assert "NONE" in shown[1]
    assert broken.ok("alarms", "ack", "gateway/records") == (
        "acknowledged gateway/records storage\n"
    )
    (alarm,) = broken.json("alarms")
    assert alarm["state"] == "acknowledged"
    assert alarm["by"]
    assert broken.json("alarms", "--active") == []
    done = broken.run("alarms", "ack", "gateway/records")
    assert done.returncode == 1
    assert "storage is acknowledged" in done.stderr


def test_status_says_what_is_not_well(broken: Box) -> None:
    done = broken.run("status")
    assert done.returncode == 1
    assert "! records does not reach the disk: " in done.stdout
    assert "! 1 alarm is active: gateway alarms" in done.stdout
    assert "all is well" not in done.stdout
    # Asking for what cannot be read says why, and is no crash.
    done = broken.run("records")
    assert done.returncode == 1
    assert "the records cannot be read" in done.stderr


def test_safe_state(box: Box) -> None:
    assert box.ok("safe-state") == "safe loopback\n"
    assert box.json("safe-state", "loopback") == {"safe": ["loopback"], "failed": {}}
    done = box.run("safe-state", "radio")
    assert done.returncode == 1
    assert "there is no adapter radio" in done.stderr


def test_reload_takes_new_routes_and_refuses_wrong_ones(box: Box) -> None:
    text = box.config.read_text()
    assert box.run("explain", "loopback/alice", "55").returncode == 1
    box.config.write_text(
        text + '\n[[routes]]\nname = "fives"\ncalled = "5X"\ntargets = ["loopback/bob"]\n'
    )
    said = box.ok("reload")
    assert said.splitlines() == [
        "+ route fives added",
        "in use: 4 routes, configuration 2 since the start",
    ]
    assert box.json("explain", "loopback/alice", "55")["route"] == "fives"
    box.config.write_text(text.replace('called = "9XX"', 'caled = "9XX"', 1))
    done = box.run("reload")
    assert done.returncode == 1
    assert "unknown key" in done.stderr
    assert "did you mean called?" in done.stderr
    assert box.json("explain", "loopback/alice", "55")["route"] == "fives"


def test_what_a_reload_changed_is_told_and_undone_also_without_a_gateway(box: Box) -> None:
    text = box.config.read_text()
    assert box.ok("reload", "--changes") == "nothing has changed\n"
    done = box.run("reload", "--changes", "1")
    assert (done.returncode, "is not kept" in done.stderr) == (1, True)
    box.config.write_text(text.replace('number = "102"', 'number = "107"'))
    box.ok("reload", "--now")
    told = ["~ adapter loopback changed", '    ports.bob.number: "102" -> "107"']
    assert box.ok("reload", "--changes").splitlines() == told
    assert [item["number"] for item in box.json("reload", "--kept")] == [1, 2]
    box.ok("stop", "--now")
    assert box.daemon is not None
    box.daemon.wait(10)
    # What is asked for when the newest configuration does not even start.
    box.config.write_text("[gateway\n")
    done = box.run("reload", "--restore", "1")
    assert done.returncode == 1
    assert "is not kept" in done.stderr, "where the data are is not known any more"
    box.config.write_text(text + "[adapters.gone]\n")
    assert box.ok("reload", "--changes").splitlines() == told
    assert "as configuration 1 was" in box.ok("reload", "--restore", "1")
    assert box.config.read_text() == text
    assert box.run("check").returncode == 0


def test_stop(box: Box) -> None:
    box.ok("dial", "loopback/alice", "loopback/bob", "--wait")
    assert box.ok("stop", "--now").startswith("stopping: 1 calls")
    assert box.daemon is not None
    assert box.daemon.wait(10) == 0
    assert not box.socket.exists()
    assert box.run("status").returncode == 3
