"""The door of the SIP adapter: who comes in as whom, and who does not."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.adapters.sip.door import Door
from gateway.protocols.sip.auth import Credentials, DigestClient
from gateway.protocols.sip.gate import Admit, Drop, Refuse
from gateway.protocols.sip.message import Request, Response, parse_datagram
from gateway.testing import TestHost

from .sip_stand import flow, request, section


def door(**fields: Any) -> tuple[Door, TestHost]:
    host = TestHost("sip")
    phones = {"anna": {"password": "secret", "number": "201"}}
    trunks = {"carrier": {"peer": "sip:192.0.2.7", "allow": ["198.51.100.0/24"]}}
    config = section(phones=phones, trunks=trunks, digest=["MD5"], **fields)
    found = Door(config, host.count, host.log)
    found.peers["carrier"] = frozenset(["192.0.2.7"])
    return found, host


def proven(to: Door, asked: Request, user: str, password: str, host: str, now: float = 0.0) -> Any:
    """Ask, and ask again with credentials."""
    verdict = to(asked, flow(host), now)
    assert isinstance(verdict, Refuse)
    client = DigestClient(Credentials(user, password))
    lines = [f"{name}: {value}" for name, value in verdict.headers]
    challenge = parse_datagram(
        "\r\n".join(
            [
                "SIP/2.0 401 Unauthorized", "Via: SIP/2.0/UDP x;branch=z9hG4bKx",
                "From: <sip:a@b>;tag=1", "To: <sip:a@b>", "Call-ID: c", "CSeq: 1 INVITE", *lines,
                "", "",
            ]
        ).encode()
    )  # fmt: skip
    assert isinstance(challenge, Response)
    assert client.challenged(challenge)
    for name, value in client.headers(asked.method, asked.target, asked.body):
        asked.headers[name.lower()] = [value]
    return to(asked, flow(host), now)


def test_trunks_come_in_by_address_and_register_nowhere() -> None:
    gate, _ = door()
    assert gate(request(), flow("192.0.2.7"), 0.0) == Admit("carrier")
    assert gate(request(), flow("198.51.100.9"), 0.0) == Admit("carrier")
    assert isinstance(gate(request(), flow("192.0.2.8"), 0.0), Refuse)
    assert isinstance(gate(request("REGISTER", "sip:box"), flow("192.0.2.7"), 0.0), Refuse)


def test_phones_prove_who_they_are_and_are_nobody_else() -> None:
    gate, host = door()
    assert proven(gate, request(), "anna", "secret", "192.0.2.9") == Admit("anna")
    assert proven(gate, request(user="201"), "anna", "secret", "192.0.2.9") == Admit("anna")
    assert proven(gate, request(user="202"), "anna", "secret", "192.0.2.9") == Refuse(403)
    assert host.counters["identity_mismatch"] == 1


@pytest.mark.parametrize(
    ("method", "address", "wanted"),
    [
        ("INVITE", "anonymous@anonymous.invalid", Admit("anna")),
        ("INVITE", "Anonymous@ANONYMOUS.invalid", Admit("anna")),
        ("INVITE", "+49110@anonymous.invalid", Refuse(403)),
        ("INVITE", "anonymous@box", Refuse(403)),
        ("MESSAGE", "anonymous@anonymous.invalid", Refuse(403)),
    ],
)
def test_nobody_is_somebody_else_at_the_anonymous_host(
    method: str, address: str, wanted: Admit | Refuse
) -> None:
    gate, host = door()
    asked = request(method)
    asked.headers["from"] = [f'"Boss" <sip:{address}>;tag=1']
    assert proven(gate, asked, "anna", "secret", "192.0.2.9") == wanted
    assert host.counters["identity_mismatch"] == isinstance(wanted, Refuse)


def test_unknown_users_look_like_wrong_passwords() -> None:
    gate, _ = door()
    wrong = proven(gate, request(), "anna", "guess", "192.0.2.9")
    unknown = proven(gate, request(user="eve"), "eve", "guess", "192.0.2.9")
    assert wrong.status == unknown.status == 401
    assert [name for name, _ in wrong.headers] == [name for name, _ in unknown.headers]


def test_guessers_meet_silence_but_trunks_at_their_address_do_not() -> None:
    gate, host = door(lockout_failures=2, lockout_s=60.0)
    for _ in range(2):
        proven(gate, request("REGISTER", "sip:box"), "anna", "guess", "192.0.2.7")
    assert gate(request("REGISTER", "sip:box"), flow("192.0.2.7"), 1.0) == Drop()
    assert gate(request(), flow("192.0.2.7"), 1.0) == Admit("carrier")
    assert list(gate.locked_out(1.0)) == ["192.0.2.7"]
    assert isinstance(gate(request("REGISTER", "sip:box"), flow("192.0.2.7"), 61.0), Refuse)
    assert host.counters["locked_out"] == 1


def test_who_mistypes_once_a_month_is_no_guesser() -> None:
    """A gateway runs for years: the tenth wrong password since then shut a whole house out."""
    gate, host = door(lockout_failures=2, lockout_s=60.0)
    for n in range(12):
        at = n * 30 * 86_400.0
        verdict = proven(gate, request("REGISTER", "sip:box"), "anna", "typo", "192.0.2.9", at)
        assert isinstance(verdict, Refuse), n
    assert host.counters["wrong_password"] == 12
    proven(gate, request("REGISTER", "sip:box"), "anna", "typo", "192.0.2.9", at + 3600.0)
    assert gate(request("REGISTER", "sip:box"), flow("192.0.2.9"), at + 3601.0) == Drop()
