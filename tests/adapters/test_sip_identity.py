"""Who calls whom, as a request says it, and what of that may be believed and shown."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.adapters.sip.identity import (
    Caller,
    asserted,
    called_of,
    caller_of,
    clean,
    from_value,
    half_of,
    number_of,
    wants_auto_answer,
)
from gateway.protocols.sip.sessionid import session_id, session_id_of
from gateway.protocols.sip.uri import parse_uri

from .sip_stand import request


@pytest.mark.parametrize(
    ("uri", "number"),
    [
        ("sip:+49301234@host", "+49301234"),
        ("sip:+49-30-(1234)@host;user=phone", "+49301234"),
        ("tel:+49.30.1234;phone-context=x", "+49301234"),
        ("sip:+49301234;npdi@host", "+49301234"),
        ("sip:anna-maria@host", "anna-maria"),
        ("sip:%23%2A1@host", "#*1"),
        ("sip:%FF1@host", "1"),
        ("sip:host", ""),
    ],
)
def test_number_of(uri: str, number: str) -> None:
    assert number_of(parse_uri(uri)) == number


@given(st.text(max_size=300))
def test_cleaned_text_can_be_stored(text: str) -> None:
    cleaned = clean(text)
    assert msgspec.json.decode(msgspec.json.encode(cleaned)) == cleaned
    assert len(cleaned) <= 128
    assert cleaned.isprintable()


def test_asserted_identity_counts_only_from_trusted_peers() -> None:
    asked = request("INVITE", "sip:1@box", 'P-Asserted-Identity: "Real" <sip:+491@c>')
    assert caller_of(asked, trusted=True) == Caller("+491", "Real")
    assert caller_of(asked, trusted=False) == Caller("anna", "Anna")


def test_private_callers_are_not_shown() -> None:
    lines = ("P-Asserted-Identity: <sip:+491@c>", "Privacy: id;critical")
    assert caller_of(request("INVITE", "sip:1@box", *lines), trusted=True) == Caller("", "")
    assert "anonymous.invalid" in from_value("box", Caller("", "x"))
    assert asserted("box", Caller("", "")) == [("Privacy", "id")]


def test_called_number_of_an_account_is_in_to() -> None:
    asked = request("INVITE", "sip:gw@box")
    asked.headers["to"] = ["<sip:+49301@carrier>"]
    assert called_of(asked, "gw") == "+49301"
    assert called_of(asked, "") == "gw"


def test_session_id_round_trip() -> None:
    trace = "01a20061-c25b-7000-81f6-3c81e08ec020"
    name, value = session_id(half_of(trace), "a" * 32)
    assert value == f"{trace.replace('-', '')};remote={'a' * 32}"
    asked = request("INVITE", "sip:1@box", f"{name}: {value}")
    assert session_id_of(asked) == trace.replace("-", "")
    assert session_id_of(request()) == ""
    for wrong in ("0" * 32, "A" * 32, "a" * 31, "a" * 33, "", "x;remote=" + "a" * 32):
        assert session_id_of(request("INVITE", "sip:1@box", f"Session-ID: {wrong}")) == "", wrong


def test_a_trace_of_any_form_makes_a_half() -> None:
    # A trace from a broker may be any word.
    assert session_id_of(request("INVITE", "sip:1@box", f"Session-ID: {half_of('t1')}"))
    assert half_of("t1") != half_of("t2")


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("Answer-Mode: Auto", True),
        ("Call-Info: <sip:x>;answer-after=0", True),
        ("Alert-Info: <http://x>;info=alert-autoanswer", True),
        ("Alert-Info: <http://x/ring.wav>", False),
    ],
)
def test_auto_answer(line: str, wanted: bool) -> None:
    assert wants_auto_answer(request("INVITE", "sip:1@box", line)) is wanted
