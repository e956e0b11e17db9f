"""The engine: time is turned by hand."""

from __future__ import annotations

import binascii
from itertools import pairwise

from gateway.adapters.intercom.config import profile
from gateway.protocols.intercom.link import Done, Happening, Heard, Link, Presence, Trouble
from gateway.protocols.intercom.profile import Means, parse


def sealed(*octets: int, data: bytes = b"") -> bytes:
    body = bytes((*octets, len(data))) + data
    return b"\xaa\x55" + body + binascii.crc_hqx(body, 0).to_bytes(2)


class Wire:
    """A link and its clock."""

    def __init__(self, link: Link) -> None:
        self.link, self.now = link, 0.0
        self.found: list[Happening] = list(link.start(0.0))
        self.sent: list[tuple[float, bytes]] = []
        self._take()

    def _take(self) -> None:
        if data := self.link.take():
            self.sent.append((self.now, data))

    def until(self, end: float) -> None:
        """Turn the clock as the event loop would."""
        turns = 0
        while (due := max(self.link.due(), self.now)) <= end:
            self.now = due
            self.found += self.link.advance(due)
            self._take()
            turns += 1
            assert turns < 100_000, "the engine spins"
        self.now = end

    def hear(self, data: bytes) -> None:
        self.found += self.link.receive(data, self.now)
        self._take()

    def of(self, kind: type) -> list[Happening]:
        return [each for each in self.found if type(each) is kind]


def bus(*stations: str, rate: float = 0.0) -> Wire:
    return Wire(Link(profile("callpoint"), stations, rate=rate, chance=lambda: 0.5))


def test_a_command_is_repeated_until_it_is_confirmed() -> None:
    wire = bus("3")
    number = wire.link.request("ring", "3", wire.now)
    wire.link.take()
    wire.until(0.05)
    rings = [data for _, data in wire.sent if data[3] == 3]
    assert len(rings) == 2
    assert len(set(rings)) == 1, "a repetition has the same sequence"
    wire.hear(sealed(3, 0x87, rings[0][4] ^ 1, data=b"\0"))
    assert not wire.of(Done), "the answer to another command"
    wire.hear(sealed(3, 0x87, rings[0][4], data=b"\0"))
    assert wire.of(Done) == [Done(number, True)]


def test_a_command_without_an_answer_fails_after_its_retries() -> None:
    wire = bus("3")
    number = wire.link.request("ring", "3", wire.now)
    wire.until(1.0)
    assert wire.of(Done) == [Done(number, False, "no reply")]
    assert wire.link.counts["retries"] == 5
    assert [each.station for each in wire.of(Trouble)] == ["3"]  # type: ignore[attr-defined]


def test_a_repeated_event_counts_once_and_is_confirmed_each_time() -> None:
    wire = bus("3")
    for _ in range(3):
        wire.hear(sealed(3, 0x83, 9, data=b"\x00600"))
        wire.until(wire.now + 0.06)
    calls = [each for each in wire.of(Heard) if each.means is Means.CALL]  # type: ignore[attr-defined]
    assert [each.text("{number}") for each in calls] == ["600"]  # type: ignore[attr-defined]
    assert [data[4] for _, data in wire.sent if data[3] == 7] == [9, 9, 9]


def test_the_gateway_gives_a_sign_of_life_every_50_ms() -> None:
    wire = bus("3")
    wire.until(5.0)
    times = [at for at, _ in wire.sent]
    assert max(b - a for a, b in pairwise(times)) <= 0.0751


def test_a_silent_station_is_missed_and_polled_less() -> None:
    wire = bus("3", "4")
    for _ in range(60):
        wire.until(wire.now + 0.05)
        wire.hear(sealed(4, 0x81, 1, data=b"\0"))
    assert [(p.station, p.there) for p in wire.of(Presence)] == [("4", True), ("3", False)]  # type: ignore[attr-defined]
    begin = len(wire.sent)
    for _ in range(100):
        wire.until(wire.now + 0.05)
        wire.hear(sealed(4, 0x81, 1, data=b"\0"))
    polled = [data[2] for _, data in wire.sent[begin:] if data[3] == 1]
    assert polled.count(3) <= polled.count(4) / 3
    wire.hear(sealed(3, 0x81, 1, data=b"\0"))
    assert wire.of(Presence)[-1] == Presence("3", True)


def test_nothing_is_sent_into_an_answer_or_before_the_line_is_free() -> None:
    wire = bus("3", "4", rate=115200)
    wire.until(0.3)
    octet_s = 10 / 115200
    for (at, data), (later, _) in pairwise(wire.sent):
        assert later - at >= len(data) * octet_s - 1e-9


def test_speech_does_not_pile_up() -> None:
    wire = bus("3", rate=115200)
    for _ in range(50):
        wire.link.speak("3", wire.now, bytes(160))
        wire.until(wire.now + 0.005)
    spoken = [data for _, data in wire.sent if data[3] == 2]
    assert len(spoken) <= 250 / 14


CONTENTION = """
title = "contention"
[line]
echo = true
backoff_ms = 10
[framing]
end = "0D"
encoding = "text"
[[rules]]
name = "ok"
pattern = "OK (?P<station>.)"
[[rules]]
name = "hello"
means = "alive"
pattern = "HELLO (?P<station>.)"
[commands.go]
send = "GO {station}"
done = ["ok"]
retries = 1
"""


def test_a_collision_is_seen_in_the_echo_and_waited_out() -> None:
    wire = Wire(Link(parse(CONTENTION, "c"), ["1"], chance=lambda: 0.5))
    number = wire.link.request("go", "1", 0.0)
    wire.hear(b"")
    assert wire.sent[-1][1] == b"GO 1\r"
    wire.hear(b"GO")
    wire.hear(b"\xff\xfe")
    assert [each.kind for each in wire.of(Trouble)] == ["collision"]  # type: ignore[attr-defined]
    wire.until(0.019)
    assert len(wire.sent) == 1
    wire.until(0.021)
    assert len(wire.sent) == 2, "one unit, and half of two more"
    wire.hear(b"GO 1\rOK 1\r")
    assert wire.of(Done) == [Done(number, True)]


def test_collisions_without_end_fail_the_command() -> None:
    wire = Wire(Link(parse(CONTENTION, "c"), ["1"], chance=lambda: 1.0))
    number = wire.link.request("go", "1", 0.0)
    wire.hear(b"")
    for n in range(9):
        assert len(wire.sent) == n + 1
        wire.hear(b"?")
        while len(wire.sent) == n + 1 and wire.now < 5.0:
            wire.until(wire.now + 0.01)
    assert wire.of(Done) == [Done(number, False, "collisions")]


def test_a_missing_echo_is_a_trouble_and_no_deadlock() -> None:
    wire = Wire(Link(parse(CONTENTION, "c"), ["1"]))
    number = wire.link.request("go", "1", 0.0)
    wire.until(1.0)
    assert "echo" in [each.kind for each in wire.of(Trouble)]  # type: ignore[attr-defined]
    assert wire.of(Done) == [Done(number, False, "no reply")]
