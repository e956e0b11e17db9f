"""Items: what belongs to a trace, and what does not any more."""

from __future__ import annotations

from gateway.core.actions import Leave
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition, Endpoint
from gateway.core.envelope import Envelope
from gateway.core.events import (
    AlarmCleared,
    AlarmRaised,
    EndpointChanged,
    LegEnded,
    LegOffered,
    Severity,
)
from gateway.timeline.items import Picker

TRACE = "0199c0de-0000-7000-8000-000000000001"


def test_what_becomes_of_an_endpoint_long_after_a_call_is_not_of_the_call() -> None:
    picker = Picker(TRACE)

    def taken(at: float, *, trace: str = "", **body: object) -> int:
        envelope = Envelope(id="x", box="b", at=at, mono=at, trace=trace, **body)  # type: ignore[arg-type]
        return len(picker.take(envelope))

    offered = LegOffered(leg="sip/a#1", endpoint="sip/a", called="1", trace=TRACE, demanded_at=0.0)
    up = EndpointChanged(endpoint=Endpoint(id="sip/a", label="", condition=Condition.UP))
    assert taken(10.0, trace=TRACE, event=offered) == 1
    assert taken(100.0, event=up) == 1, "the call is up"
    ended = LegEnded(leg="sip/a#1", cause=Cause.NORMAL)
    assert taken(200.0, trace=TRACE, event=ended) == 1
    # It leaves its bridge after its end, which does not make it live again.
    assert taken(200.0, action=Leave(leg="sip/a#1", bridge="b")) == 1
    assert taken(203.0, event=up) == 1, "perhaps because of it"
    assert taken(215.0, event=up) == 0


def test_what_becomes_of_other_alarms_of_a_panel_is_not_of_this_one() -> None:
    picker, other = Picker(TRACE), TRACE.replace("1", "2")

    def taken(trace: str, event: AlarmRaised | AlarmCleared) -> int:
        envelope = Envelope(id="x", box="b", at=1.0, mono=1.0, trace=trace, event=event)
        return len(picker.take(envelope))

    def raised(alarm: str, trace: str) -> AlarmRaised:
        return AlarmRaised(
            endpoint="mqtt/house",
            alarm=alarm,
            kind="fire",
            severity=Severity.MAJOR,
            trace=trace,
            raised_at=1.0,
        )

    assert taken(TRACE, raised("hall", TRACE)) == 1
    assert taken(other, raised("yard", other)) == 0
    assert taken("", AlarmCleared(endpoint="mqtt/house", alarm="yard")) == 0
    assert taken("", AlarmCleared(endpoint="mqtt/house", alarm="hall")) == 1
    assert taken(other, raised("hall", other)) == 0
    assert taken("", AlarmCleared(endpoint="mqtt/house", alarm="hall")) == 0
