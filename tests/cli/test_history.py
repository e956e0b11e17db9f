"""events, records, stats: what has happened."""

from __future__ import annotations

import json
import subprocess
import tarfile
import threading
import time

from tests.box import Box


def _one_call(box: Box) -> str:
    call: str = box.json("dial", "loopback/alice", "loopback/bob", "--wait")["call"]
    box.ok("hangup", call)
    box.wait_for_no_call()
    return call


def test_history_of_a_call(box: Box) -> None:
    call = _one_call(box)
    lines = box.ok("events", "--call", call[-8:], "--last", "1000").splitlines()
    assert all(line.endswith(f"[{call[-8:]}]") for line in lines)
    names = [line.split()[1].lstrip(">") or line.split()[2] for line in lines]
    assert names.index("Dial") < names.index("LegAnswered") < names.index("LegEnded")
    assert any(" > Hangup " in line for line in lines)


def test_history_as_cloudevents(box: Box) -> None:
    call = _one_call(box)
    text = box.ok("events", "--call", call, "--type", "Leg*", "--since", "5m", "--json")
    found = [json.loads(line) for line in text.splitlines()]
    assert {each["specversion"] for each in found} == {"1.0"}
    assert {each["call"] for each in found} == {call}
    assert [each["type"] for each in found].count("crosspoint.event.LegEnded") == 2
    assert [each["id"] for each in found] == sorted(each["id"] for each in found)


def test_filters(box: Box) -> None:
    _one_call(box)
    text = box.ok("events", "--endpoint", "loopback/b*", "--last", "1000", "--json")
    assert text
    for line in text.splitlines():
        assert "loopback/b" in line
    assert box.ok("events", "--adapter", "nobody", "--last", "1000") == ""
    done = box.run("events", "--type", "Keyy", "--last", "1000")
    assert (done.returncode, "called Keyy: did you mean Key?" in done.stderr) == (1, True)
    last = box.ok("events", "--last", "3").splitlines()
    assert len(last) == 3


def test_following_gives_what_happens_after_history_without_a_gap(box: Box) -> None:
    _one_call(box)
    follower = subprocess.Popen(
        box.command("events", "--type", "LegAnswered", "--since", "5m", "-f", "--json"),
        env=box.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    timer = threading.Timer(90.0, follower.kill)
    timer.start()
    try:
        assert follower.stdout is not None
        past = [json.loads(follower.stdout.readline()) for _ in range(2)]
        _one_call(box)
        new = [json.loads(follower.stdout.readline()) for _ in range(2)]
        assert [each["data"]["leg"] for each in past] == ["loopback/alice#1", "loopback/bob#1"]
        assert [each["data"]["leg"] for each in new] == ["loopback/alice#2", "loopback/bob#2"]
    finally:
        timer.cancel()
        follower.kill()
        follower.wait()


def test_a_follower_says_when_the_gateway_stops(box: Box) -> None:
    follower = subprocess.Popen(
        box.command("events", "--since", "5m", "-f"),
        env=box.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert follower.stdout is not None
    assert follower.stdout.readline()
    assert box.stop() == 0
    out, err = follower.communicate(timeout=90)
    assert follower.returncode == 3
    assert "StopRequested" in out
    assert "the gateway has stopped" in err


def test_the_journal_of_a_gateway_that_was_killed_can_be_read(box: Box) -> None:
    call = _one_call(box)
    box.kill()
    done = box.run("events", "--call", call[-8:], "--last", "100")
    assert done.returncode == 0
    assert "LegEnded" in done.stdout
    assert "read from its journal" in done.stderr
    # Following a gateway that does not run is no history.
    assert box.run("events").returncode == 3


def test_a_reader_that_closes_the_pipe_is_no_error(box: Box) -> None:
    _one_call(box)
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$0" -m gateway events --last 1000 | head -1',
         box.command()[0]],
        env=box.environment, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1


def test_records_and_stats(box: Box) -> None:
    call = _one_call(box)
    deadline = time.monotonic() + 60.0
    while not (found := box.json("records")):
        assert time.monotonic() < deadline
    assert [each["call"] for each in found] == [call]
    shown = box.ok("records").splitlines()
    assert "loopback/alice" in shown[1]
    assert "answered" in shown[1]
    legs = box.json("records", "--legs", "--endpoint", "loopback/bob")
    assert [leg["endpoint"] for leg in legs] == ["loopback/bob"]
    (row,) = box.json("stats", "--by", "network,route", "--since", "1h")
    assert row["group"] == {"network": "loopback", "route": "operator"}
    assert (row["offered"], row["answered"]) == (1, 1)
    lines = box.ok("stats", "--interval", "hour", "--since", "1h").splitlines()
    assert lines[0].split()[:4] == ["FROM", "TIME", "NETWORK", "OFF"]
    done = box.run("stats", "--by", "weather")
    assert done.returncode == 1
    assert "cannot group by 'weather'" in done.stderr


def test_records_and_stats_of_a_gateway_that_was_killed(box: Box) -> None:
    _one_call(box)
    deadline = time.monotonic() + 60.0
    while not (calls := box.json("records")):
        assert time.monotonic() < deadline
    legs, stats = box.json("records", "--legs"), box.ok("stats")
    trace = calls[0]["trace"]
    box.kill()
    done = box.run("records")
    assert (done.returncode, "read from its records" in done.stderr) == (0, True)
    assert box.json("records", "--trace", trace[-8:]) == calls
    assert box.json("records", "--trace", f"{trace[-8:]}x") == []
    assert box.json("records", "--legs") == legs
    assert box.ok("stats") == stats


def test_what_happened_is_told_also_where_the_configuration_has_become_wrong(box: Box) -> None:
    _one_call(box)
    box.stop()
    text = box.config.read_text()
    box.config.write_text(text.replace("[gateway]", "[gateway]\npassword_of_nobody = 1", 1))
    assert box.run("check").returncode == 4
    for command in ("events --since 5m", "records", "trace last"):
        done = box.run(*command.split())
        assert done.returncode == 0, done.stderr
        assert "alice" in done.stdout
        assert "is wrong: gateway check; this is by configuration 1" in done.stderr
    box.ok("support-bundle", "help.tar.gz")
    with tarfile.open(box.home / "help.tar.gz") as bundle:
        check = bundle.extractfile("help/check.txt")
        assert check is not None
        assert b"password_of_nobody: unknown key" in check.read()
    # What is asked about the file itself is not answered by another one.
    assert box.run("explain", "loopback/alice", "102").returncode == 4


def test_a_time_that_is_none(box: Box) -> None:
    done = box.run("events", "--since", "yesterday")
    assert done.returncode == 2
    assert "'yesterday' is no time" in done.stderr
