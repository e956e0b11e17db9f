"""Payloads of panels and sensors: RFC 6901's own vectors, paho's topic matcher, and garbage."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from gateway.errors import PeerError
from gateway.protocols import alarms
from gateway.protocols.alarms import (
    MISSING,
    Acknowledged,
    AlarmRule,
    Cleared,
    InputRule,
    Raised,
    Reading,
    Rules,
    Template,
    TopicFilter,
)

# RFC 6901 section 5.
DOCUMENT = {
    "foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, 'k"l': 6,
    " ": 7, "m~n": 8,
}  # fmt: skip
POINTERS = {
    "": DOCUMENT, "/foo": ["bar", "baz"], "/foo/0": "bar", "/": 0, "/a~1b": 1, "/c%d": 2,
    "/e^f": 3, "/g|h": 4, "/i\\j": 5, '/k"l': 6, "/ ": 7, "/m~0n": 8,
}  # fmt: skip


@pytest.mark.parametrize("path", POINTERS)
def test_pointer_vectors(path: str) -> None:
    assert alarms.pointer(DOCUMENT, path) == POINTERS[path]


@pytest.mark.parametrize("path", ["/no", "/foo/2", "/foo/-", "/foo/x", "/foo/0/0", "/foo/²"])
def test_pointer_to_nothing(path: str) -> None:
    assert alarms.pointer(DOCUMENT, path) is MISSING


level = st.sampled_from(["a", "b", "", "$SYS", "+", "x.y", "a b"])
sub_level = st.sampled_from(["a", "b", "", "$SYS", "+", "x.y", "#"])


@given(st.lists(sub_level, min_size=1, max_size=4), st.lists(level, min_size=1, max_size=4))
def test_topics_match_as_in_paho(filter_levels: list[str], levels: list[str]) -> None:
    if "#" in filter_levels:
        filter_levels = filter_levels[: filter_levels.index("#") + 1]
    text, topic = "/".join(filter_levels), "/".join(levels).replace("+", "p")
    if not text or not topic:
        return
    ours = TopicFilter(text).match(topic) is not None
    assert ours == topic_matches_sub(text, topic)


def test_captures() -> None:
    topics = TopicFilter("plant/{zone}/+/smoke/#")
    assert topics.subscription == "plant/+/+/smoke/#"
    assert topics.match("plant/hall/7/smoke/a/b") == {"zone": "hall", "rest": "a/b"}
    assert topics.match("plant/hall/7/smoke") == {"zone": "hall", "rest": ""}
    assert topics.match("plant/hall/7/heat/a") is None
    assert TopicFilter("{a}/x").match("$SYS/x") is None


@pytest.mark.parametrize(
    "text", ["", "a/#/b", "a+", "#b", "{a}/{a}", "{A}", "{rest}", "x{a}", "\0"]
)
def test_bad_filters(text: str) -> None:
    with pytest.raises(ValueError, match=r"topic|name"):
        TopicFilter(text)


def test_templates() -> None:
    fill = Template("{zone}-{/a/0}: {/missing}{none}!").fill
    assert fill({"zone": "hall"}, {"a": [True]}, 50) == "hall-true: !"
    assert fill({"zone": "x\x1b[31m\n" * 50}, {}, 20).isprintable()
    with pytest.raises(ValueError, match="fields"):
        Template("a { b")


def test_rules() -> None:
    rules = Rules(
        [
            AlarmRule(
                alarm="{zone}",
                path="/state",
                raised=("FIRE", "true"),
                cleared=("OK",),
                acknowledged=("ACK",),
                kind_path="/type",
                kinds={"2": "gas"},
                kind="fire",
                severity="minor",
                severity_path="/sev",
                severities={"hi": "critical"},
                text="{/msg} in {zone}",
                by="{/who}",
            )
        ],
        [InputRule(input="t", path="/t", scale=0.1, offset=-10)],
    )

    def read(document: Any) -> list[alarms.Meaning]:
        return rules.read(json.dumps(document).encode(), {"zone": "z1"})

    assert read({"state": "FIRE", "type": 2, "sev": "hi", "msg": "CO"}) == [
        Raised("z1", "gas", "critical", "CO in z1")
    ]
    assert read({"state": True}) == [Raised("z1", "fire", "minor", "in z1")]
    assert read({"state": "OK", "t": "315"}) == [Cleared("z1"), Reading("t", 21.5)]
    assert read({"state": "ACK", "who": "porter"}) == [Acknowledged("z1", "porter")]
    for wrong in ({"state": "?"}, {}, [], 3, {"t": "warm"}, {"t": None}, {"t": 1e308 * 10}):
        with pytest.raises(PeerError):
            read(wrong)


def test_thresholds_with_hysteresis() -> None:
    rule = AlarmRule(alarm="hot", path="/t", above=70, below=-10, hysteresis=5)
    rules = Rules([rule], [])

    def read(value: Any) -> list[str]:
        return [type(m).__name__ for m in rules.read(json.dumps({"t": value}).encode(), {})]

    said = {71: "Raised", 70: "", 66: "", 65: "Cleared", -11: "Raised", -6: "", -5: "Cleared"}
    for value, meaning in said.items():
        assert read(value) == ([meaning] if meaning else []), value
    with pytest.raises(PeerError):
        read("hot")


@pytest.mark.parametrize(
    "fields",
    [
        {"alarm": "a"},
        {"alarm": "a", "path": "x", "raised": ["1"]},
        {"alarm": "a{", "raised": ["1"]},
        {"alarm": "a", "raised": ["1"], "severity": "bad"},
    ],
)
def test_rules_that_cannot_work(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"never|begin|fields|none of"):
        AlarmRule(**fields)


def test_panel_states() -> None:
    for state in alarms.STATES:
        assert alarms.decode_state(state.encode()) == state
    assert alarms.decode_state(b"None") == "unknown"
    assert alarms.decode_state(b'{"s":{"m":4}}', "/s/m", {"4": "armed_away"}) == "armed_away"
    for wrong in (b"", b"ARMED", b"\xff", b"null!"):
        with pytest.raises(PeerError):
            alarms.decode_state(wrong)
    with pytest.raises(PeerError):
        alarms.decode_state(b"{}", "/s")


def test_every_command_has_its_state() -> None:
    assert set(alarms.EXPECTED) == {
        "ARM_HOME", "ARM_AWAY", "ARM_NIGHT", "ARM_VACATION", "ARM_CUSTOM_BYPASS", "DISARM",
        "TRIGGER",
    }  # fmt: skip
    assert set().union(*alarms.EXPECTED.values()) <= alarms.STATES


@given(st.text(), st.text())
def test_command_template_cannot_be_broken_out_of(code: str, by: str) -> None:
    template = '{"action":"{{ action }}","code":"{{code}}","by":"{{ by }}","at":{{ time }}}'
    values = {"action": "DISARM", "code": code, "by": by, "time": 12.5}
    try:
        payload = alarms.fill(template, values)
    except UnicodeEncodeError:
        return
    assert json.loads(payload) == {"action": "DISARM", "code": code, "by": by, "at": 12.5}


def test_requests() -> None:
    assert alarms.decode_request(b"ARM_AWAY") == alarms.Request("ARM_AWAY")
    request = alarms.decode_request(
        b'{"action":"DISARM","code":1234,"time":1700000000000,"ttl_ms":2000,"by":"anna"}'
    )
    assert request == alarms.Request("DISARM", "1234", "anna", 1.7e9, 2.0)
    assert "1234" not in repr(request)
    assert not request.stale(1.7e9 + 1.9, 10.0)
    assert request.stale(1.7e9 + 2.1, 10.0)
    assert request.stale(1.7e9 - 11, 10.0), "a clock that runs ahead is no licence"
    assert not alarms.Request("DISARM").stale(0.0, 10.0)
    for wrong in (b"OPEN", b"{}", b'{"action":1}', b'{"action":"DISARM","time":"soon"}',
                  b'{"action":"DISARM","ttl_ms":-1}', b"\xff", b"{"):  # fmt: skip
        with pytest.raises(PeerError):
            alarms.decode_request(wrong)


def test_acknowledgement_round_trip() -> None:
    payload = alarms.encode_acknowledgement("fire", "guard", "t-1", 1.5)
    assert json.loads(payload) == {"alarm": "fire", "by": "guard", "trace": "t-1", "time": 1.5}
    assert alarms.decode_acknowledgement(payload) == Acknowledged("fire", "guard")


@pytest.mark.parametrize("code", [False, True])
def test_discovery_is_what_home_assistant_takes(code: bool) -> None:
    document = alarms.panel_discovery(
        box="b", panel="p", label="", base="gw/b", verbs=["ARM_AWAY", "DISARM"], code=code,
        version="1",
    )  # fmt: skip
    assert document["supported_features"] == ["arm_away"], "disarm is none of the features"
    assert document["unique_id"] == "b_p"
    assert document["device"]["identifiers"]
    assert ("code" in document) is code
    sent = (
        document["command_template"]
        .replace("{{ action }}", "ARM_AWAY")
        .replace("{{ code }}", "None" if not code else "4711")
        .replace("{{ as_timestamp(now()) }}", "1700000000.25")
    )
    request = alarms.decode_request(sent.encode())
    assert request == alarms.Request("ARM_AWAY", "4711" if code else "", "", 1700000000.25)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["state", "t", "alarm", "by", "action", "code", "time", "ttl_ms", "x"]),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)
payloads = (
    st.binary(max_size=200)
    | json_values.map(lambda value: json.dumps(value).encode("utf-8", "replace"))
    | st.sampled_from([b"[" * 5000, b'{"a":' * 3000, b"9" * 5000, b'"\\ud800"', b"1e999", b"-0"])
)
RULES = [
    Rules(
        [
            AlarmRule(alarm="{z}{/alarm}", path="/state", raised=("*",), text="{/x}", by="{/by}",
                      kind_path="/x", severity_path="/t"),
            AlarmRule(alarm="a", path="/t", above=1, hysteresis=1),
            AlarmRule(alarm="b", raised=("1",), cleared=("0",)),
        ],
        [InputRule(input="{/x}", path="/t", scale=1e300)],
        json=is_json,
    )
    for is_json in (True, False)
]  # fmt: skip


@given(payloads)
def test_garbage_never_does_more_than_it_says(payload: bytes) -> None:
    decoders = [
        *(lambda p, r=rules: r.read(p, {"z": "1"}) for rules in RULES),
        alarms.decode_state,
        lambda p: alarms.decode_state(p, "/state/x", {"1": "disarmed"}),
        alarms.decode_available,
        alarms.decode_request,
        alarms.decode_acknowledgement,
    ]
    for decoder in decoders:
        with contextlib.suppress(PeerError):
            decoder(payload)


@given(st.text())
def test_any_text_is_a_filter_or_an_error(text: str) -> None:
    try:
        topics = TopicFilter(text)
    except (ValueError, UnicodeEncodeError):
        return
    topics.match(text)
