"""replay: a real gateway's journal through the switchboard again."""

from __future__ import annotations

import json
from pathlib import Path

from gateway.testing.flows import run_flow
from tests.box import Box


def _calls(box: Box) -> str:
    call: str = box.json("dial", "loopback/alice", "loopback/bob", "--wait")["call"]
    box.ok("hangup", call)
    box.wait_for_no_call()
    box.ok("dial", "loopback/alice", "loopback/engaged")
    box.run("dial", "loopback/alice", "loopback/slow")
    return call


def test_a_real_gateways_runs_are_the_same_again(box: Box) -> None:
    _calls(box)
    # While it runs, and after it was killed in the middle of a call, and after a clean stop.
    assert ": the same" in box.ok("replay")
    box.kill()
    box.start()
    call = _calls(box)
    box.config.write_text(box.config.read_text().replace('called = "9XX"', 'called = "8XX"'))
    box.ok("reload")
    box.ok("explain", "loopback/alice", "888")
    assert box.stop() == 0
    found = box.json("replay")
    assert [run["difference"] for run in found["runs"]] == [None, None]
    assert all(run["actions"] > 20 for run in found["runs"])
    # One file of it is a journal too.
    (file,) = (box.home / "data/journal").glob("journal-*")
    assert len(box.json("replay", str(file), "--last")["runs"]) == 1
    made = box.home / "made.flow"
    box.ok("replay", "--make-test", str(made))
    run_flow(made)
    assert "-> Dial leg=loopback/bob#1" in made.read_text()
    small = box.home / "small.flow"
    box.ok("replay", "--make-test", str(small), "--trace", call[-8:])
    run_flow(small)
    assert "loopback/bob" in small.read_text().partition("---")[2]
    assert "loopback/engaged" not in small.read_text().partition("---")[2]


def test_a_difference_is_shown_with_its_place(box: Box, tmp_path: Path) -> None:
    _calls(box)
    box.stop()
    (file,) = (box.home / "data/journal").glob("journal-*")
    spoiled = tmp_path / file.name
    lines = file.read_text().splitlines(keepends=True)
    victim = next(
        n for n, line in enumerate(lines) if '"loopback/bob#1"' in line and "Dial" in line
    )
    lines[victim] = lines[victim].replace('"endpoint":"loopback/bob"', '"endpoint":"loopback/slow"')
    spoiled.write_text("".join(lines))
    done = box.run("replay", str(spoiled))
    assert done.returncode == 1
    assert "DIFFERENT" in done.stdout
    assert f"{file.name}:{victim + 1}" in done.stdout
    assert "journal  Dial loopback/bob#1" in done.stdout
    assert "differs  endpoint" in done.stdout
    (run,) = json.loads(box.run("replay", str(spoiled), "--json").stdout)["runs"]
    assert run["difference"]["fields"] == ["endpoint"]


def test_a_changed_configuration_on_what_really_happened(talking: Box, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(
        talking.config.read_text().replace('"loopback/bob", "loopback/slow"', '"loopback/slow"')
    )
    done = talking.run("replay", "--routes", str(other))
    assert done.returncode == 1
    assert "journal  Dial loopback/bob#1" in done.stdout
    assert "replay   Dial loopback/slow#" in done.stdout


def test_what_cannot_be_replayed(idle: Box, tmp_path: Path) -> None:
    done = idle.run("replay")
    assert done.returncode == 1
    assert "is no journal" in done.stderr
    assert idle.run("replay", "--trace", "abc").returncode == 2
    (tmp_path / "nonsense").write_text("no journal at all\n")
    done = idle.run("replay", str(tmp_path / "nonsense"))
    assert done.returncode == 1
    assert "there is nothing to replay" in done.stdout
    assert "1 lines of the journal are not readable" in done.stdout
