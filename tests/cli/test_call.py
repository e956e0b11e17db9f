"""``gateway call``."""

from __future__ import annotations

import re

from tests.box import Box, wait_until


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
    wait_until(lambda: received() > before, "audio flows between two loopback ports")


def test_call_says_that_nobody_speaks(talking: Box) -> None:
    # Both ports only echo: what goes round is silence, as with two muted telephones.
    found = wait_until(lambda: talking.json("call", "loopback/bob")["findings"], "it is found")
    assert any("nothing louder than -60 dBm0" in each["what"] for each in found)
    assert "let somebody speak there" in talking.ok("call", "loopback/bob")


def test_a_call_that_does_not_exist(talking: Box) -> None:
    done = talking.run("call", "0000dead")
    assert done.returncode == 1
    assert "there is no call 0000dead now" in done.stderr
    assert "gateway trace 0000dead" in done.stderr


def test_a_call_that_is_over_is_shown_from_its_records(box: Box) -> None:
    box.ok("dial", "loopback/alice", "loopback/bob", "--wait")
    identity = box.json("calls")[0]["id"]
    leg = next(each for each in box.json("calls")[0]["legs"] if each["endpoint"] == "loopback/bob")
    box.ok("hangup", "loopback/bob")
    box.wait_for_no_call()
    wait_until(lambda: box.run("call", leg["id"]).returncode == 0, "the leg is on record")
    shown = box.ok("call", identity[-8:])
    assert len(re.findall(r"^state +over$", shown, re.MULTILINE)) == 2
    assert {each["leg"] for each in box.json("call", leg["id"])} >= {leg["id"]}
