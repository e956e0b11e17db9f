"""All flows of this directory; their form is told in `gateway.testing.flows`."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.testing.flows import run_flow, run_text

FLOWS = sorted(Path(__file__).parent.glob("*.flow"))


@pytest.mark.parametrize("path", FLOWS, ids=lambda path: path.stem)
def test_flow(path: Path) -> None:
    run_flow(path)


def test_there_are_flows() -> None:
    assert len(FLOWS) >= 10


@pytest.mark.parametrize(
    ("arrow", "why"),
    [
        ("", "got:"),
        ("-> Dial leg=loopback/b#2", "Dial.leg is 'loopback/b#1'"),
        ("-> Dial\n-> Ring", "got:"),
    ],
)
def test_a_flow_that_is_wrong_says_where(arrow: str, why: str) -> None:
    text = f"""\
[[routes]]
name = "all"
targets = ["loopback/b"]

[[endpoints]]
id = "loopback/b"
---
0.0  LegOffered leg=loopback/a#1 endpoint=loopback/a called=1
{arrow}
"""
    with pytest.raises(AssertionError, match=r"(?s)made\.flow:8: .*") as caught:
        run_text(text, "made.flow")
    assert why in str(caught.value)
