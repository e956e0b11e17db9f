"""Codec choice: a table of offers."""

from __future__ import annotations

import pytest

from gateway.media.offer import Choice, Format, choose
from gateway.media.streams import Codec

PCMU, PCMA, G722, L16 = Codec.PCMU, Codec.PCMA, Codec.G722, Codec.L16
TE = Format(101, "telephone-event", 8000)


@pytest.mark.parametrize(
    ("ours", "offered", "chosen"),
    [
        ([PCMU, PCMA], [Format(8), Format(0)], Choice(PCMU, 0, 8000, 8000, None)),
        ([PCMA], [Format(0), Format(8), TE], Choice(PCMA, 8, 8000, 8000, 101)),
        ([G722, PCMU], [Format(0), Format(9, "g722", 8000), TE], Choice(G722, 9, 16000, 8000, 101)),
        ([G722], [Format(9, "G722", 16000)], None),
        ([PCMU], [Format(97, "PCMU", 8000)], Choice(PCMU, 97, 8000, 8000, None)),
        ([PCMU], [Format(0, "PCMU", 8000, 2)], None),
        ([PCMU], [Format(18), TE], None),
        (
            [L16],
            [
                Format(96, "L16", 8000),
                Format(97, "L16", 16000),
                Format(98, "telephone-event", 16000),
                TE,
            ],
            Choice(L16, 96, 8000, 8000, 101),
        ),
        ([L16], [Format(97, "L16", 44100)], None),
        ([PCMU], [], None),
    ],
)
def test_choice(ours, offered, chosen):
    assert choose(ours, offered) == chosen


def test_their_order_when_asked():
    offered = [Format(8), Format(0)]
    choice = choose([PCMU, PCMA], offered, prefer_theirs=True)
    assert choice is not None
    assert choice.codec is PCMA
