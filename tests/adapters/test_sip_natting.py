"""Which way of a phone was given up for which other by its REGISTER."""

from __future__ import annotations

from gateway.adapters.sip.natting import moves
from gateway.protocols.sip.registrar import Binding
from gateway.protocols.sip.transaction import Flow

A, B, C = (Flow("udp", "198.51.100.7", port) for port in (4001, 4002, 4003))
CONTACT = "sip:anna@10.0.0.2:5060"


def bound(flow: Flow, reg_id: int = 0, contact: str = CONTACT) -> Binding:
    return Binding(
        contact=contact,
        expires_at=60.0,
        call_id="c",
        cseq=1,
        flow=flow,
        instance="<urn:uuid:1>" if reg_id else "",
        reg_id=reg_id,
    )


def test_a_phone_moves_to_the_flow_it_registered_over() -> None:
    assert moves({"sip:1@x": [bound(A)]}, {"sip:1@x": [bound(B)]}, B) == [(A, B)]
    assert moves({"sip:1@x": [bound(A)]}, {"sip:1@x": [bound(A)]}, A) == []
    assert moves({}, {"sip:1@x": [bound(A)]}, A) == []
    other = bound(B, contact="sip:anna@10.0.0.3:5060")
    assert moves({"sip:1@x": [bound(A)]}, {"sip:1@x": [bound(A), other]}, B) == []


def test_a_second_flow_of_a_phone_is_no_move() -> None:
    one, two = bound(A, 1), bound(B, 2)
    assert moves({"sip:1@x": [one]}, {"sip:1@x": [one, two]}, B) == []
    assert moves({"sip:1@x": [one, two]}, {"sip:1@x": [two, one]}, A) == []
    assert moves({"sip:1@x": [one, two]}, {"sip:1@x": [two, bound(C, 1)]}, C) == [(A, C)]


def test_a_flow_moves_with_its_contact() -> None:
    moved = bound(B, 1, "sip:anna@10.0.0.9:5060")
    assert moves({"sip:1@x": [bound(A, 1)]}, {"sip:1@x": [moved]}, B) == [(A, B)]


def test_a_phone_with_two_addresses_of_record_moves_each_for_itself() -> None:
    before = {"sip:1@x": [bound(A)], "sip:2@x": [bound(B)]}
    assert moves(before, before, B) == []
    assert moves(before, {"sip:1@x": [bound(A)], "sip:2@x": [bound(C)]}, C) == [(B, C)]
