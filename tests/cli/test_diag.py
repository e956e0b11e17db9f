"""diag: one verdict, its evidence and its exit code; with and without a gateway."""

from __future__ import annotations

import json

from tests.box import Box, wait_until


def _talked(box: Box, origin: str, target: str) -> str:
    """A call that was up for a while, and is over; its id."""
    box.ok("dial", origin, target)
    call = str(box.wait_for_call()["id"])

    def talked_s() -> float:
        return min(leg["answered_s"] or 0.0 for leg in box.json("call", call)["legs"])

    wait_until(lambda: talked_s() >= 3.2, "they have talked")  # who hangs up sooner has not
    return call


def test_a_good_call_up_and_over_and_without_a_gateway(box: Box) -> None:
    call = _talked(box, "loopback/alice", "loopback/bob")
    up = box.ok("diag", call[-8:])
    assert "up now" in up
    assert "no fault" in up
    box.ok("hangup", call)
    box.wait_for_no_call()
    over = box.json("diag", "last")
    assert (over["fault"], over["code"], over["layer"], over["live"]) == (
        False, "clean", "none", False,
    )  # fmt: skip
    assert {leg["endpoint"] for leg in over["legs"]} == {"loopback/alice", "loopback/bob"}
    assert all(any("received" in fact for fact in leg["facts"]) for leg in over["legs"])
    assert box.json("diag", over["legs"][0]["leg"]) == over
    box.stop()
    done = box.run("diag", "loopback/alice", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == over
    assert "judged by its journal and records" in done.stderr


def test_a_fault_is_exit_code_1(box: Box) -> None:
    # Both ports only echo: what goes round is digital silence, as with two muted telephones.
    call = _talked(box, "loopback/bob", "loopback/carol")
    wait_until(lambda: box.run("diag", call[-8:]).returncode == 1, "the silence is judged")
    lines = box.run("diag", call[-8:]).stdout.splitlines()
    assert lines[2].startswith("! far end: loopback/")
    assert "digital silence" in lines[2]
    assert lines[-1].startswith("next: gateway ")
    box.ok("hangup", call)
    box.wait_for_no_call()
    # The streams' counters come after the call's end.
    wait_until(lambda: len(box.json("records", "--legs")) == 2, "both legs are on record")
    box.kill()
    done = box.run("diag", "last", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["code"] == "muted"


def test_the_gateway_died_in_the_call(box: Box) -> None:
    _talked(box, "loopback/alice", "loopback/bob")
    box.kill()
    assert "the gateway died and has not run since" in box.run("diag", "last").stdout
    box.start()
    wait_until(lambda: box.run("diag", "last").returncode, "the call is judged")
    judged = box.run("diag", "last").stdout
    assert "! gateway: loopback/alice#1 the gateway died in the call" in judged


def test_nothing_to_judge(box: Box) -> None:
    done = box.run("diag", "0000dead")
    assert done.returncode == 1
    assert "the journal has nothing of 0000dead" in done.stderr
    done = box.run("diag", "no such thing")
    assert "is no trace, call, leg or endpoint" in done.stderr
