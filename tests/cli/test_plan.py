"""check and explain: what a configuration means, also without a gateway."""

from __future__ import annotations

import json

from tests.box import Box


def test_a_right_configuration(idle: Box) -> None:
    done = idle.run("check")
    assert done.returncode == 0
    assert done.stdout == f"{idle.config}: ok, 1 adapters, 5 endpoints, 3 routes\n"


def test_a_wrong_one_says_file_line_key_remedy_of_everything(idle: Box) -> None:
    text = idle.config.read_text().replace("drain_s", "drian_s").replace('"101"', "101")
    idle.config.write_text(text)
    lines = text.splitlines()
    done = idle.run("check")
    assert done.returncode == 4
    first, second = done.stderr.splitlines()
    line = next(n for n, each in enumerate(lines, 1) if "drian_s" in each)
    assert first.startswith(f"{idle.config}:{line}: gateway.drian_s: unknown key")
    assert "did you mean drain_s?" in first
    line = next(n for n, each in enumerate(lines, 1) if "= 101" in each)
    assert second.startswith(f"{idle.config}:{line}: adapters.loopback.ports.alice.number: ")
    document = json.loads(idle.run("check", "--json").stdout)
    assert document["ok"] is False
    assert [each["key"] for each in document["errors"]] == [
        "gateway.drian_s",
        "adapters.loopback.ports.alice.number",
    ]


def test_run_refuses_it_too(idle: Box) -> None:
    idle.config.write_text(idle.config.read_text() + "\nnonsense")
    done = idle.run("run")
    assert done.returncode == 4
    assert str(idle.config) in done.stderr
    assert not idle.socket.exists()


def test_a_missing_file(idle: Box) -> None:
    done = idle.run("check", "/nonexistent/gateway.toml")
    assert done.returncode == 4
    assert "/nonexistent/gateway.toml" in done.stderr


def test_explain_without_a_gateway(idle: Box) -> None:
    done = idle.run("explain", "loopback/alice", "911", "--at", "2026-03-04T12:00", "--json")
    found = json.loads(done.stdout)
    assert (found["by"], found["route"], found["live"]) == ("route", "nines", False)
    assert [target["target"] for target in found["targets"]] == ["loopback/bob", "loopback/slow"]
    assert {each["route"] for each in found["refusals"]} == {"night", "fire"}
    found = json.loads(
        idle.run("explain", "loopback/alice", "911", "--at", "2026-03-04T23:00", "--json").stdout
    )
    assert found["route"] == "night"
    reasons = {each["route"]: each["reason"] for each in found["refusals"]}
    assert reasons["nines"] == "it would take it too, but 'night' comes first"


def test_explain_the_directory_and_nothing(idle: Box) -> None:
    done = idle.run("explain", "loopback/alice", "102")
    assert done.returncode == 0
    assert "102 is the number of loopback/bob" in done.stdout
    done = idle.run("explain", "loopback/alice", "555")
    assert done.returncode == 1
    assert "555 is nobody's number" in done.stdout


def test_explain_an_alarm(idle: Box) -> None:
    done = idle.run("explain", "loopback/alice", "--alarm", "fire")
    assert done.returncode == 0
    assert "is acknowledged with 1" in done.stdout
    done = idle.run("explain", "loopback/alice", "--alarm", "fire", "--severity", "minor")
    assert done.returncode == 1
    assert "NOBODY IS TOLD" in done.stdout
    assert "minor is below major" in done.stdout


def test_explain_with_a_gateway_knows_what_is_in_use(talking: Box) -> None:
    found = talking.json("explain", "loopback/alice", "911", "--at", "2026-03-04T12:00")
    assert found["live"] is True
    usable = {target["target"]: target["reason"] for target in found["targets"]}
    assert usable == {"loopback/bob": "loopback/bob is in use", "loopback/slow": ""}
    done = talking.run("explain", "loopback/alise", "911")
    assert done.returncode == 1
    assert "did you mean loopback/alice" in done.stderr


def test_explain_tells_of_live_paging_keys_and_outputs(idle: Box) -> None:
    with idle.config.open("a") as file:
        file.write(
            '\n[[routes]]\nname = "hall"\ncalled = "81"\npage = ["loopback/bob"]\nlive = false\n'
            'announce = { tone = "busy" }\n'
            '[[routes]]\nname = "talk"\ncalled = "82"\npage = ["loopback/bob"]\n'
            'push_to_talk = "*#"\n'
        )
    said = idle.ok("explain", "loopback/alice", "81")
    assert "only the announcement is heard, not the caller" in said
    said = idle.ok("explain", "loopback/alice", "82")
    assert "the caller speaks to them" in said
    assert "half-duplex call with *, and gives it back with #" in said


def test_explain_digits_inputs_in_words_and_numbers_for_endpoints(box: Box) -> None:
    text = box.config.read_text()
    box.config.write_text(
        text
        + """
[[routes]]
name = "gate"
on = "digits"
digits = "*5"
from = ["loopback/alice"]
targets = ["loopback/carol"]

[[routes]]
name = "door"
on = "input"
from = ["loopback/*"]
input = "door"
value = 0
targets = ["loopback/carol"]
"""
    )
    box.ok("reload", "--now")
    for more in ((), ("--offline",)):
        found = box.json("explain", "101", "--digits", "7*5", *more)
        assert (found["route"], found["event"]) == (
            "gate", "loopback/alice presses 7*5 during a call"
        )  # fmt: skip
        done = box.run("explain", "102", "--digits", "*5", *more)
        assert (done.returncode, "it is not for loopback/bob now" in done.stdout) == (1, True)
        assert box.json("explain", "101", "102", *more)["by"] == "directory"
        found = box.json("explain", "102", "--input", "door=off", *more)
        assert found["route"] == "door"
        assert "loopback/bob has no input door: it has none" in found["why"]
    done = box.run("explain", "102", "--input", "door=ajar")
    assert (done.returncode, "write on, off or a number" in done.stderr) == (2, True)
    assert box.run("explain", "777", "102").returncode == 1
