"""``gateway status``."""

from __future__ import annotations

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
