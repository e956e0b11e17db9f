"""``gateway test`` as a technician types it."""

from __future__ import annotations

from tests.box import Box


def test_a_loop_a_tone_and_a_baseline(box: Box) -> None:
    shown = box.ok("test", "loopback/bob", "--seconds", "0.5")
    assert "verdict          closed\n" in shown
    assert "delay" in shown
    kept = box.json("test", "loopback/bob", "--acoustic", "--baseline")
    assert (kept["ok"], kept["baseline"]) == (True, True)
    bad = box.run("test", "loopback/alice", "--seconds", "0.5")
    assert bad.returncode == 1
    assert "open (NOT GOOD)" in bad.stdout
    assert "gateway trace" in bad.stdout
    tone = box.json("test", "loopback/bob", "--tone", "1020", "--seconds", "1.5")
    assert tone["figures"]["tone_dbm0"] > -11
    detail = box.ok("endpoints", "loopback/bob", "--detail")
    assert "test loop" in detail
    assert "test acoustic" in detail
    # Nobody has asked for these tests in the configuration: nothing is wrong with the box.
    assert "all is well" in box.ok("status")
    events = box.ok("events", "--last", "200", "--type", "PathTest*", "--no-follow")
    assert events.count("PathTestRequested") == 4
    assert events.count("PathTested") == 4
    assert "test" not in box.ok("stats", "--since", "1h").split("\n")[-1]


def test_what_cannot_be_tested_says_why(box: Box) -> None:
    busy = box.run("test", "loopback/engaged")
    assert (busy.returncode, "(not tested)" in busy.stdout) == (1, True)
    silent = box.run("test", "loopback/slow", "--ring", "1")
    assert "did not answer within 1 s" in silent.stdout
    assert "did you mean" in box.run("test", "loopback/bbo").stderr
    wrong = box.run("test", "loopback/bob", "--loop", "--tone", "1004")
    assert (wrong.returncode, "one at a time" in wrong.stderr) == (2, True)
    assert box.run("test", "loopback/bob", "--listen", "loopback/alice").returncode == 2
