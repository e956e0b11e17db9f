"""The shipped profiles against frames that were published or captured by others."""

from __future__ import annotations

import pytest

from gateway.adapters.intercom.config import profile, shipped
from gateway.protocols.intercom.link import Done, Heard, Link, Trouble
from gateway.protocols.intercom.profile import Means

ACDP = [
    (
        "014101FF2118410015003632018002=54",
        [(Means.INPUT, "8002", "busy", "1")],
    ),
    (
        "014101FF2119410016003632018009=5D",
        [(Means.INPUT, "8009", "busy", "1")],
    ),
    (
        "014101FF211A410017004007D706070B1A2D32018002320180090201=76",
        [(Means.CALL, "8002", "", "")],
    ),
    (
        "014101FF211B410018004107D706070B1A2D01043201800232018009=7F",
        [(Means.ANSWER, "8002", "", "")],
    ),
]
"""Test vectors of the simple link layer."""

VECTORS = [
    ("touchline", "102", b"0200 102\r\n", [("input", "busy", "1")]),
    ("touchline", "102", b"0200102\r", [("input", "busy", "1")]),
    ("touchline", "102", b"0201 102\r\n", [("input", "busy", "0"), ("end", "", "")]),
    ("touchline", "102", b"02A7 102\r\n", [("digit", "7", "")]),
    ("touchline", "102", b"02D0 102\r\n", [("digit", "0", "")]),
    ("touchline", "102", b"02C3 102\r\n", [("input", "dak3", "1")]),
    ("touchline", "102", b"02E3 102\r\n", [("input", "dak3", "0")]),
    ("touchline", "102", b"020C 102\r\n", [("input", "hook", "0")]),
    ("touchline", "102", b"020E 102\r\n", [("floor", "", "1")]),
    ("touchline", "102", b"020D 102\r\n", [("floor", "", "0")]),
    ("touchline", "102", b"053F 102 1\r\n", [("call", "", "")]),
    ("fermax", "1", bytes.fromhex("FB11001C"), [("call", "", "")]),
    ("fermax", "1", bytes.fromhex("FB12011E"), [("input", "lock", "1")]),
    ("fermax", "1", bytes.fromhex("FB13001E"), [("end", "", "")]),
    ("kocom", "0200", bytes.fromhex("aa557a9d020200ffffffff31ffffff0101a4550d0d"),
     [("call", "", "")]),
    ("kocom", "0200", bytes.fromhex("aa557a9d020800ffffffffffffffff010187840d0d"),
     [("input", "gate_call", "1")]),
    ("tcsbus", "3", b"\x01$08ABCD83\x04", [("call", "", "")]),
    ("tcsbus", "0", b"\x01$1200\x04", [("input", "light", "1")]),
    ("tcsbus", "2", b"\x01$1102\x04", [("input", "opener", "1")]),
    ("tcsbus", "0", b"\x01$3080\x04", [("end", "", "")]),
    ("tcsbus", "0", b"\x01$38ABCD80\x04", [("answer", "", "")]),
    ("openwebnet", "21", b"*8*1#1#4#21*10##", [("call", "", "")]),
    ("openwebnet", "20", b"*8*19*20##", [("input", "lock", "1")]),
    ("openwebnet", "20", b"*8*20*20##", [("input", "lock", "0")]),
    ("openwebnet", "1", b"*5*15*#1##", [("alarm", "intrusion", "")]),
]  # fmt: skip


def opened(name: str, *stations: str) -> Link:
    """An engine that is past any setup."""
    link = Link(profile(name), stations)
    link.start(0.0)
    for step in profile(name).setup:
        link.receive(bytes.fromhex(step.expect), 0.0)
    link.advance(1.0)
    link.take()
    return link


def heard(link: Link, data: bytes) -> list[tuple[str, str, str]]:
    """What a frame means: meaning, what about, value."""
    found = []
    for each in link.receive(data, 2.0):
        assert not isinstance(each, Trouble), each
        if isinstance(each, Heard):
            rule = each.rule
            about = each.text(rule.input) or each.text(rule.digit) or each.text(rule.alarm)
            found.append((str(each.means), about, each.text(rule.value)))
    return found


def test_every_profile_is_read() -> None:
    assert shipped() == [
        "acdp", "callpoint", "fermax", "kocom", "openwebnet", "tcsbus", "touchline",
    ]  # fmt: skip
    for name in shipped():
        assert profile(name).title


@pytest.mark.parametrize(("name", "station", "data", "expected"), VECTORS)
def test_a_published_frame_means_what_was_published(
    name: str, station: str, data: bytes, expected: list[tuple[str, str, str]]
) -> None:
    assert heard(opened(name, station), data) == expected


@pytest.mark.parametrize(("frame", "expected"), ACDP)
def test_acdp(frame: str, expected: list[tuple[Means, str, str, str]]) -> None:
    link = opened("acdp", "8002", "8009")
    found = [each for each in link.receive(frame.encode() + b"\r\n", 2.0) if type(each) is Heard]
    assert [
        (each.means, each.station, each.rule.input, each.rule.value) for each in found
    ] == expected
    spoiled = frame[:-1] + ("0" if frame[-1] != "0" else "1")
    troubles = link.receive(spoiled.encode() + b"\r", 2.1)
    assert [each.kind for each in troubles if isinstance(each, Trouble)] == ["checksum"]


@pytest.mark.parametrize(
    ("name", "station", "command", "values", "expected"),
    [
        ("touchline", "101", "dial", {"digits": "102"}, b"H 101 102\r"),
        ("acdp", "8002", "dial", {"digits": "123"}, b"$DD L8002 L123\r"),
        ("acdp", "101", "setup", {"number": "102"}, b"$CONN L101 L102\r"),
        ("fermax", "1", "unlock", {}, bytes.fromhex("FB12011E")),
        ("kocom", "0200", "pick_up", {},
         bytes.fromhex("aa5579bc02020031ffffff61ffffff030008d30d0d")),
        ("kocom", "0200", "open", {},
         bytes.fromhex("aa5579bc02020031ffffff61ffffff240097a20d0d")),
        ("kocom", "0200", "leave", {},
         bytes.fromhex("aa5579bc02020031ffffff61ffffff040091440d0d")),
        ("openwebnet", "20", "lock_open", {}, b"*8*19*20##"),
        ("tcsbus", "2", "open", {}, b"\x01 1102\x04"),
        ("tcsbus", "0", "talk", {"serial": "8ABCD"}, b"\x01 38ABCD80\x04"),
    ],
)  # fmt: skip
def test_a_command_is_the_published_frame(
    name: str, station: str, command: str, values: dict[str, str], expected: bytes
) -> None:
    assert opened(name, station).urgent(command, station, **values) == expected


def test_tcs_says_its_greeting_first() -> None:
    link = Link(profile("tcsbus"), ["0"])
    link.start(0.0)
    assert link.take() == b"(01"
    link.receive(b"#", 0.1)
    assert link.take() == b".3F"
    assert [type(each).__name__ for each in link.receive(b".222222222", 0.2)] == ["Opened"]
    silent = Link(profile("tcsbus"), ["0"])
    silent.start(0.0)
    assert silent.due() <= 2.0
    assert [type(each).__name__ for each in silent.advance(2.0)] == ["Failed"]


def test_commands_of_openwebnet_are_confirmed_or_refused() -> None:
    link = opened("openwebnet", "20")
    first = link.request("lock_open", "20", 3.0)
    assert link.take() == b"*8*19*20##"
    assert Done(first, True) in link.receive(b"*#*1##", 3.1)
    second = link.request("lock_open", "20", 3.2)
    assert Done(second, False, "the station refuses it") in link.receive(b"*#*0##", 3.3)
    third = link.request("lock_open", "20", 4.0)
    assert [each for each in link.advance(5.01) if isinstance(each, Done)] == [
        Done(third, False, "no reply")
    ]
