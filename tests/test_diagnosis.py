"""Verdicts on evidence in small changes that no program can bring about at will; each verdict is
also played in `tests/interop/test_diag.py` or `test_diag_alone.py`."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.diagnosis import CallEvidence, LegEvidence, diagnose
from gateway.diagnosis.faults import RANK, Code
from gateway.media.streams import StreamStats

GOOD = StreamStats(
    codec="PCMU", local="192.0.2.1:16384", remote="192.0.2.9:4000", signalled="192.0.2.9:4000",
    packets_received=1000, packets_sent=1000, jitter_ms=2.0, heard_s=20.0, active_s=9.0,
    active_dbm0=-20.0, loudest_dbm0=-12.0, direction="sendrecv", payload_type=0,
)  # fmt: skip


def _call(*, live: bool = False, **changed: Any) -> CallEvidence:
    """Two legs that talked for 20 s; `changed` is of the first."""
    legs = [
        LegEvidence(id="sip/a#1", endpoint="sip/a", direction="in", answered=1.0, streams=[GOOD]),
        LegEvidence(id="sip/b#1", endpoint="sip/b", direction="out", answered=1.0, streams=[GOOD]),
    ]
    if not live:
        for leg in legs:
            leg.ended, leg.cause, leg.detail = 21.0, "normal", "BYE"
        legs[1].hangup, legs[1].hangup_at = ("normal", "BYE"), 20.9
    for name, value in changed.items():
        setattr(legs[0], name, value)
    return CallEvidence(trace="t", live=live, now=21.0, legs={leg.id: leg for leg in legs})


def _stats(**changed: Any) -> list[StreamStats]:
    return [msgspec.structs.replace(GOOD, **changed)]


@pytest.mark.parametrize("live", [True, False])
def test_a_good_call(live: bool) -> None:
    found = diagnose(_call(live=live))
    assert (found.code, found.fault, found.others) == ("clean", False, [])


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"cause": "adapter-lost", "detail": "the card is gone"}, Code.ADAPTER_LOST),
        ({"cause": "crashed", "detail": ""}, Code.CRASHED),
        ({"cause": "out-of-order", "detail": "port alarm"}, Code.DEVICE_DOWN),
        ({"cause": "timer-expired", "detail": "expired"}, Code.CUT_OFF),
        ({"streams": _stats(packets_sent=0)}, Code.NOT_SENT),
        ({"streams": _stats(digits_dropped=3)}, Code.DTMF_DROPPED),
        ({"streams": _stats(echo_tail_ms=16, erl_db=8.0, erle_db=5.0, echo_s=7.0,
                            echo_heard_s=6.0)}, Code.ECHO),
        ({"streams": _stats(packets_received=0, heard_s=0.0, active_s=0.0, local="", remote="",
                            signalled="")}, Code.NO_PACKETS),
    ],
)  # fmt: skip
def test_faults(changed: dict[str, Any], code: Code) -> None:
    found = diagnose(_call(**changed))
    assert (found.code, found.leg) == (code, "sip/a#1")


def test_audio_that_goes_with_its_device() -> None:
    call = _call(hangup=("media-timeout", "no audio arrived"), hangup_at=20.0)
    assert diagnose(call).code == Code.CUT_OFF
    call.conditions["sip/a"] = "down", "the cable is pulled"
    assert diagnose(call).code == Code.DEVICE_DOWN


def test_a_leg_without_a_stream() -> None:
    assert diagnose(_call(live=True, streams=[])).code == Code.NO_STREAM


@pytest.mark.parametrize(
    "changed",
    [
        # Somebody else's packets do no harm while ours come.
        {"streams": _stats(packets_refused=300, packets_elsewhere=300)},
        # The canceller learns the line anew when the call ends.
        {
            "streams": _stats(
                echo_tail_ms=16, erl_db=6.0, erle_db=8.0, echo_s=30.0, echo_heard_s=3.0
            )
        },
        # He spoke, and listens now.
        {"streams": _stats(silent_s=8.0, flat_s=8.0)},
        # A telephone that is silent between words ever was.
        {"streams": _stats(silent_s=12.0, flat_s=19.0)},
        {"held_s": 10.0},
    ],
)
def test_what_is_no_fault(changed: dict[str, Any]) -> None:
    assert diagnose(_call(**changed)).code == "clean"


@pytest.mark.parametrize("cause", ["busy", "no-answer", "cancelled"])
def test_nobody_at_home_is_no_fault(cause: str) -> None:
    call = _call(answered=None, hangup=(cause, ""), hangup_at=20.0)
    del call.legs["sip/b#1"].streams[:]
    call.legs["sip/b#1"].answered = call.legs["sip/b#1"].hangup = None
    call.legs["sip/b#1"].cause, call.legs["sip/b#1"].detail = cause, "486 Busy Here"
    assert diagnose(call).code == "clean"


def test_what_explains_the_others_comes_first() -> None:
    stats = _stats(packets_lost=200, packets_sent=0)
    found = diagnose(_call(streams=stats))
    codes = [found.code, *(fault.code for fault in found.others)]
    assert codes == sorted(codes, key=lambda code: RANK[Code(code)])
    assert codes == [Code.NOT_SENT, Code.LOSS]
