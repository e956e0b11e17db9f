"""Why is there no audio: each finding by the counters that mean it, and none on a good call."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.control.diagnosis import findings
from gateway.control.shapes import CallView, LegView
from gateway.core.calls import LegState
from gateway.media.streams import StreamStats

GOOD = StreamStats(
    codec="PCMU",
    local="192.0.2.1:16384",
    remote="192.0.2.9:4000",
    packets_received=1000,
    packets_sent=1000,
    jitter_ms=2.0,
    level_in_dbm0=-20.0,
    level_out_dbm0=-20.0,
)


def _leg(name: str, audio: StreamStats | None, **other: Any) -> LegView:
    fields: dict[str, Any] = {
        "id": name, "endpoint": name.partition("#")[0], "direction": "out",
        "state": LegState.CONNECTED, "number": "", "calling": "", "display": "", "age_s": 20.0,
        "answered_s": 20.0, "early": False, "bridge": "b", "floor": False, "keyed": False,
        "cause": "", "detail": "", "audio": audio,
    }  # fmt: skip
    return LegView(**(fields | other))


def _call(*legs: LegView, bridge: str = "pair") -> CallView:
    return CallView(
        id="01a20055-e9c0-7001-a2ef-08b0edee5891", trace="t", state="connected", route="", why="",
        priority="routine", age_s=20.0, answered_s=20.0, bridge=bridge, room="", legs=list(legs),
    )  # fmt: skip


def _what(*legs: LegView, bridge: str = "pair") -> list[str]:
    return [each.what for each in findings(_call(*legs, bridge=bridge))]


def test_a_good_call_has_none() -> None:
    assert _what(_leg("sip/a#1", GOOD), _leg("sip/b#1", GOOD)) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"packets_received": 0, "level_in_dbm0": -99.0}, "nothing has arrived from 192.0.2.9"),
        ({"packets_refused": 900}, "900 packets refused"),
        ({"packets_sent": 0}, "we send nothing"),
        ({"silent_s": 12.0}, "nothing louder than -60 dBm0 for 12 s"),
        ({"packets_lost": 100}, "9.1 % of the packets are lost"),
        ({"remote_loss_percent": 5.0}, "the far end loses 5.0 %"),
        ({"packets_late": 50}, "50 packets came too late"),
        ({"jitter_ms": 80.0}, "jitter is 80 ms"),
        ({"level_in_dbm0": 2.0}, "overloaded: +2 dBm0"),
    ],
)
def test_counters(changed: dict[str, Any], words: str) -> None:
    (found,) = findings(_call(_leg("sip/a#1", msgspec.structs.replace(GOOD, **changed))))
    assert words in found.what
    assert found.leg == "sip/a#1"
    assert found.remedy


def test_what_has_not_arrived_names_the_port_to_listen_on() -> None:
    (found,) = findings(_call(_leg("sip/a#1", msgspec.structs.replace(GOOD, packets_received=0))))
    assert "tcpdump -n udp port 16384" in found.remedy


def test_a_leg_that_was_just_answered_is_not_judged() -> None:
    audio = msgspec.structs.replace(GOOD, packets_received=0, packets_sent=0)
    assert _what(_leg("sip/a#1", audio, answered_s=1.0)) == []


def test_states() -> None:
    assert "before it is answered" in _what(
        _leg("sip/a#1", None, state=LegState.ALERTING, answered_s=None)
    )[0]  # fmt: skip
    assert "on hold" in _what(_leg("sip/a#1", GOOD, state=LegState.HELD))[0]
    assert "joined with nobody" in _what(_leg("sip/a#1", GOOD, bridge=""))[0]
    assert "no audio stream" in _what(_leg("sip/a#1", None))[0]


def test_a_caller_who_waits_for_an_answer() -> None:
    first, second = findings(
        _call(
            _leg("sip/a#1", GOOD, bridge=""),
            _leg("sip/b#1", None, state=LegState.ALERTING, answered_s=None, bridge=""),
        )
    )
    assert first.what == "waits for sip/b#1 to answer"
    assert "before it is answered" in second.what


def test_half_duplex() -> None:
    radio, phone = _leg("radio/n#1", GOOD), _leg("sip/a#1", GOOD)
    assert all("nobody has the floor" in each for each in _what(radio, phone, bridge="floor"))
    phone.floor = True
    (only,) = findings(_call(radio, phone, bridge="floor"))
    assert (only.leg, "only sip/a#1 is heard" in only.what) == ("radio/n#1", True)


def test_a_paging_zone_is_not_expected_to_speak() -> None:
    zone = msgspec.structs.replace(GOOD, packets_received=0)
    assert _what(_leg("page/hall#1", zone), bridge="page") == []
