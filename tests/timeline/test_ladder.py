"""Ladder: what is named above the lanes."""

from __future__ import annotations

from gateway.timeline import ladder


def test_who_follows_is_told_of_new_lanes_only() -> None:
    lanes: list[str] = []
    told = []
    for lane in ("gateway", "fxs/1", "fxs/2", "sip/a", "fxs/3"):
        above, lanes = lanes, ladder.grouped([*lanes, lane])
        told.append([line.strip() for line in ladder.head(lanes, {"fxs/2": "Cell"}, above)])
    assert told[:4] == [
        ["gateway"],
        ["gateway  fxs", "|        fxs/1"],
        ["|        |  fxs/2 (Cell)"],
        ["gateway  fxs   sip", "|        |  |  sip/a"],
    ]
    # Between the others: theirs move, so all are named again.
    assert told[4] == [line.strip() for line in ladder.head(lanes, {"fxs/2": "Cell"})]
    assert len(told[4]) == len(lanes)
