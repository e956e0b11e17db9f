"""Diversion and History-Info: read, written, and read again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.adapters.sip.config import Diverting, Numbers, Phone, Trunk
from gateway.adapters.sip.diverting import (
    MOST,
    believed,
    diversions,
    diverted_of,
    outward,
    sent_on,
)
from gateway.core.events import Diversion
from gateway.protocols.sip.events import Ended, How
from gateway.protocols.sip.message import Request, Response, parse_datagram


def invite(*lines: str) -> Request:
    text = [
        "INVITE sip:1@b SIP/2.0", "Via: SIP/2.0/UDP h;branch=z9hG4bK1", "From: <sip:a@b>;tag=1",
        "To: <sip:a@b>", "Call-ID: c", "CSeq: 1 INVITE", *lines,
    ]  # fmt: skip
    message = parse_datagram(("\r\n".join(text) + "\r\n\r\n").encode("utf-8", "surrogateescape"))
    assert isinstance(message, Request)
    return message


def one(number: str, reason: str) -> Diversion:
    return Diversion(number=number, reason=reason)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["Diversion: <sip:202@x>;reason=user-busy"], (one("202", "user-busy"),)),
        (
            ['Diversion: "B" <sip:3@x>;reason=no-answer;counter=1, <sip:2@x>;reason="deflection"'],
            (one("3", "no-answer"), one("2", "deflection")),
        ),
        (["Diversion: <sip:2@x>;reason=user-busy;privacy=full"], (one("", "user-busy"),)),
        (["Diversion: <sip:2@x>;reason=because"], (one("2", "unknown"),)),
        (["Diversion: <<"], ()),
        # RFC 7044: bob busy, then office no answer, then home.
        (
            [
                "History-Info: <sip:bob@x>;index=1, <sip:office@x;cause=486>;index=1.1;mp=1",
                "History-Info: <sip:home@x;cause=408>;index=1.1.1;mp=1.1",
            ],
            (one("office", "no-answer"), one("bob", "user-busy")),
        ),
        (
            [
                "History-Info: <sip:bob@x?Privacy=history>;index=1",
                "History-Info: <sip:o@x;cause=302>;index=1.1;rc=1",
            ],
            (one("", "unconditional"),),
        ),
        (["History-Info: <sip:o@x;cause=302>;index=1.1.9"], ()),
        ([], ()),
    ],
)
def test_what_is_read(lines: list[str], told: tuple[Diversion, ...]) -> None:
    assert diverted_of(invite(*lines)) == told


_NUMBERS = st.sampled_from(["", "202", "+4930123", "bob"])
_REASONS = st.sampled_from(["user-busy", "no-answer", "unconditional", "deflection", "unknown"])
_CHAINS = st.lists(st.builds(one, _NUMBERS, _REASONS), min_size=1, max_size=MOST)


@given(_CHAINS, st.sampled_from([Diverting.DIVERSION, Diverting.HISTORY_INFO]))
def test_what_is_written_is_read_again(chain: list[Diversion], how: Diverting) -> None:
    lines = [f"{name}: {value}" for name, value in diversions("box", chain, how, "sip:9@c")]
    assert diverted_of(invite(*lines)) == tuple(chain)


def test_nobody_is_told_without_a_policy() -> None:
    chain = [one("202", "user-busy")]
    assert diversions("box", chain, Diverting.NONE, "sip:9@c") == []
    told = dict(diversions("box", chain, Diverting.BOTH, "sip:9@c"))
    assert told["Diversion"] == "<sip:202@box>;reason=user-busy"
    assert told["History-Info"] == "<sip:9@c;cause=486>;index=1.1;mp=1"
    asked = invite("Diversion: <sip:2@x>;reason=user-busy")
    assert believed(asked, None) == believed(asked, Trunk(peer="sip:c")) == ()
    trunk = Trunk(peer="sip:c", diversion=Diverting.BOTH, numbers=Numbers(country_code="49"))
    assert outward([one("030123", "unknown")], trunk) == (one("+4930123", "unknown"),)
    hides = Trunk(peer="sip:c", number="+49300", diversion=Diverting.BOTH)
    assert outward(chain, hides) == (one("+49300", "user-busy"),)
    assert outward([one("", "unknown")], hides) == (one("", "unknown"),)


@pytest.mark.parametrize(
    ("privacy", "number"),
    [("history", ""), ("id; Header", ""), ("session;critical", ""), ("none", "2"), ("id", "2")],
)
def test_who_wants_to_be_hidden_is(privacy: str, number: str) -> None:
    trunk = Trunk(peer="sip:c", diversion=Diverting.BOTH)
    for line in (
        "Diversion: <sip:2@x>;reason=unconditional",
        "History-Info: <sip:2@x>;index=1, <sip:3@x;cause=302>;index=1.1;mp=1",
    ):
        asked = invite(line, f"Privacy: {privacy}")
        assert believed(asked, trunk) == (one(number, "unconditional"),)


def moved(*lines: str) -> Ended:
    text = [
        "SIP/2.0 302 Moved", "Via: SIP/2.0/UDP h;branch=z9hG4bK1", "From: <sip:a@b>;tag=1",
        "To: <sip:a@b>;tag=2", "Call-ID: c", "CSeq: 1 INVITE", "Contact: <sip:203@x>", *lines,
    ]  # fmt: skip
    message = parse_datagram(("\r\n".join(text) + "\r\n\r\n").encode())
    assert isinstance(message, Response)
    return Ended(session=1, how=How.REJECTED, status=302, reasons=(), message=message)


def test_why_a_call_is_sent_on() -> None:
    phone = Phone(password="secret")
    busy = moved("Diversion: <sip:202@x>;reason=user-busy")
    echoed = moved("History-Info: <sip:2@x>;index=1, <sip:202@x;cause=486>;index=1.1;mp=1")
    assert sent_on(busy, phone, None) == ("203", "user-busy")
    assert sent_on(echoed, phone, None) == ("203", "unconditional")
    for how, why in [
        (Diverting.NONE, "unconditional"),
        (Diverting.HISTORY_INFO, "unconditional"),
        (Diverting.DIVERSION, "user-busy"),
        (Diverting.BOTH, "user-busy"),
    ]:
        trunk = Trunk(peer="sip:c", redirects=True, diversion=how)
        assert sent_on(busy, None, trunk) == ("203", why)
        assert sent_on(echoed, None, trunk) == ("203", "unconditional")


@given(st.text(max_size=60), st.sampled_from(["Diversion", "History-Info"]))
def test_garbage(value: str, name: str) -> None:
    clean = value.replace("\r", " ").replace("\n", " ").encode("utf-8", "replace").decode()
    for each in diverted_of(invite(f"{name}: {clean}", f"{name}: <sip:{clean}@x>;index=1")):
        assert each.number.isprintable()
