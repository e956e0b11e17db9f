"""SIP policy: who may come in and how much, what numbers look like, what looks like fraud."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.adapters.sip import Sip
from gateway.adapters.sip.config import Fraud, Identity, Numbers, parse_nameserver
from gateway.adapters.sip.door import Door
from gateway.adapters.sip.fraud import ALARM, Watchman
from gateway.adapters.sip.identity import Caller, asserted, caller_of, dialled, e164
from gateway.adapters.sip.quota import Quota, source_of
from gateway.adapters.sip.tls import Keys
from gateway.core.actions import Dial, SendMessage
from gateway.core.causes import Cause
from gateway.core.events import (
    AlarmCleared,
    AlarmRaised,
    LegEnded,
    LegOffered,
    MessageReceived,
)
from gateway.errors import DeviceError
from gateway.protocols.sip.auth import Credentials, DigestClient
from gateway.protocols.sip.gate import Admit, Drop, Refuse
from gateway.protocols.sip.message import Request, Response
from gateway.protocols.sip.transaction import Flow
from gateway.testing import TestHost
from tests.adapters.sip_stand import SDP, Peer, flow, request, section, up
from tests.interop.peers import until

GERMANY = Numbers(country_code="49")


# Numbers and names towards a trunk


@pytest.mark.parametrize(
    ("rules", "number", "written"),
    [
        (Numbers(), "0301234", "0301234"),
        (Numbers(strip=1, prefix="+49"), "0301234", "+49301234"),
        (GERMANY, "0301234", "+49301234"),
        (GERMANY, "0015551234", "+15551234"),
        (GERMANY, "+49301234", "+49301234"),
        (GERMANY, "112", "112"),
        (GERMANY, "anna", "anna"),
        (Numbers(country_code="39", national_prefix=""), "0612345678", "+390612345678"),
        (Numbers(country_code="39", national_prefix=""), "201", "201"),
        (Numbers(strip=1, country_code="49"), "90301234", "+49301234"),
    ],
)
def test_numbers(rules: Numbers, number: str, written: str) -> None:
    assert dialled(number, rules) == written
    assert e164(written, rules) == written


def test_identity_is_said_as_the_trunk_wants_it() -> None:
    caller = Caller("+491", "Anna")
    pai = [("P-Asserted-Identity", '"Anna" <sip:+491@box>')]
    assert asserted("box", caller) == pai
    assert asserted("box", caller, Identity.PPI)[0][0] == "P-Preferred-Identity"
    assert asserted("box", caller, Identity.FROM) == []
    ((name, value),) = asserted("box", caller, Identity.RPID)
    # What we write we also read.
    asked = request("INVITE", "sip:1@box", f"{name}: {value}")
    assert caller_of(asked, trusted=True) == caller
    hidden = dict(asserted("box", Caller("", ""), Identity.RPID))
    asked = request("INVITE", "sip:1@box", f"Remote-Party-ID: {hidden['Remote-Party-ID']}")
    assert caller_of(asked, trusted=True) == Caller("", "")


# The door


def door(**fields: Any) -> tuple[Door, TestHost]:
    host = TestHost("sip")
    phones = {"anna": {"password": "secret"}}
    trunks = {"carrier": {"peer": "sip:192.0.2.7"}}
    found = Door(section(phones=phones, trunks=trunks, **fields), host.count, host.log)
    found.peers["carrier"] = frozenset(["192.0.2.7"])
    return found, host


def test_networks_are_allowed_and_denied() -> None:
    gate, _ = door(allow=["198.51.100.0/24", "2001:db8::/32"], deny=["198.51.100.66"])
    assert gate.admits("198.51.100.1")
    assert gate.admits("2001:db8::1")
    assert not gate.admits("198.51.100.66")
    assert not gate.admits("203.0.113.1")
    assert not gate.admits("not an address")
    assert gate.admits("192.0.2.7"), "a trunk may always"
    assert door()[0].admits("203.0.113.1")


def test_one_source_cannot_take_the_gates_whole_time() -> None:
    gate, host = door(requests_per_s=10)
    verdicts = [gate(request(), flow("192.0.2.9"), 0.0) for _ in range(60)]
    assert isinstance(verdicts[49], Refuse)
    assert verdicts[50] == Drop()
    assert host.counters["rate_limited"] == 10
    assert isinstance(gate(request(), flow("192.0.2.10"), 0.0), Refuse)
    assert gate(request(), flow("192.0.2.7"), 0.0) == Admit("carrier")
    assert isinstance(gate(request(), flow("192.0.2.9"), 20.0), Refuse)


def test_a_whole_network_of_ipv6_is_one_source() -> None:
    assert source_of("2001:db8:1:2:3:4:5:6") == source_of("2001:db8:1:2::9")
    assert source_of("2001:db8:1:2::9") != source_of("2001:db8:1:3::9")
    # Zeros are left out where most of them are in a row: in one network now here, now there.
    assert source_of("fd00:0:0:1::9") == source_of("fd00::1:2:3:4:5")
    assert source_of("fd00::1:2:3:4:5") != source_of("fd00::2:2:3:4:5")
    assert source_of("2001:db8::1") == source_of("2001:db8:0:0:1::") == "2001:db8::/64"
    assert source_of("fe80::1%eth0") == source_of("fe80::2")
    assert source_of("192.0.2.1") == "192.0.2.1"
    assert source_of("::1") != source_of("2001:db8::1")


def test_nonces_of_before_a_restart_shut_nobody_out() -> None:
    """All phones of a site come back at once, each with what the last run gave it."""
    before, _ = door()
    after, host = door(lockout_failures=3)
    for n in range(20):
        asked = request("REGISTER", "sip:box")
        verdict = before(asked, flow("192.0.2.9"), float(n))
        assert isinstance(verdict, Refuse)
        client = DigestClient(Credentials("anna", "secret"))
        client.challenged(Response(401, "", {k.lower(): [v] for k, v in verdict.headers}))
        for name, value in client.headers("REGISTER", "sip:box", b""):
            asked.headers[name.lower()] = [value]
        again = after(asked, flow("192.0.2.9"), float(n))
        assert isinstance(again, Refuse)
        assert "stale" not in again.headers[0][1]
    assert host.counters["wrong_password"] == 0


def test_sips_needs_tls() -> None:
    gate, _ = door()
    asked = request("INVITE", "sips:201@box")
    found = gate(asked, flow("192.0.2.7"), 0.0)
    assert isinstance(found, Refuse)
    assert found.status == 403
    secure = Flow("tls", "192.0.2.7", 5061, 1, ("127.0.0.1", 5061))
    assert gate(asked, secure, 0.0) == Admit("carrier")


def test_a_stranger_cannot_tell_users_apart_by_time() -> None:
    """The work is the same, so the fastest of many rounds is nearly the same."""
    gate, _ = door(digest=["SHA-256"], requests_per_s=1e6, lockout_failures=10**9)

    def ask(user: str) -> Request:
        asked = request("REGISTER", "sip:box", user=user)
        verdict = gate(asked, flow("192.0.2.9"), 0.0)
        assert isinstance(verdict, Refuse)
        client = DigestClient(Credentials(user, "guess"))
        client.challenged(Response(401, "", {k.lower(): [v] for k, v in verdict.headers}))
        for name, value in client.headers("REGISTER", "sip:box", b""):
            asked.headers[name.lower()] = [value]
        return asked

    fastest = {"anna": 1.0, "nobody": 1.0}
    asked = {user: ask(user) for user in fastest}
    for _ in range(400):
        for user in fastest:
            began = time.perf_counter()
            gate(asked[user], flow("192.0.2.9"), 0.0)
            fastest[user] = min(fastest[user], time.perf_counter() - began)
    assert 0.7 < fastest["anna"] / fastest["nobody"] < 1.4


def test_quota_lets_bursts_through_and_recovers() -> None:
    quota = Quota(10.0, 20.0)
    assert [quota.take("a", 10.0, 0.0) for _ in range(3)] == [0.0, 0.0, 1.0]
    assert quota.take("b", 1.0, 0.0) == 0.0
    # However much it sent, it is welcome again after a known time.
    for _ in range(100):
        quota.take("a", 1000.0, 0.0)
    assert quota.take("a", 0.0, 4.0) == 0.0


def test_nameservers() -> None:
    assert parse_nameserver("192.0.2.1") == ("192.0.2.1", 53)
    assert parse_nameserver("192.0.2.1:5353") == ("192.0.2.1", 5353)
    assert parse_nameserver("2001:db8::1") == ("2001:db8::1", 53)
    assert parse_nameserver("[2001:db8::1]:54") == ("2001:db8::1", 54)


def test_missing_certificates_are_named(tmp_path: Path) -> None:
    tls = {"cert_file": str(tmp_path / "none.pem")}
    keys = Keys(section(tls=tls, listen=["tls:127.0.0.1:0"]), TestHost("sip"))
    with pytest.raises(DeviceError, match=r"none\.pem"):
        keys.load()


# Toll fraud


def watchman(**fields: Any) -> tuple[Watchman, TestHost]:
    host = TestHost("sip")
    phones = {"anna": {"password": "x"}, "bert": {"password": "x"}}
    host.make(Sip, {"listen": ["udp:127.0.0.1:0"], "phones": phones})
    return Watchman("sip", Fraud(**fields), host), host


def test_a_burst_of_calls_raises_one_alarm_and_blocks() -> None:
    guard, host = watchman(calls=5, window_s=60.0, block_s=30.0)
    for n in range(10):
        guard.began("anna", "100", float(n))
    (alarm,) = host.of(AlarmRaised)
    assert (alarm.endpoint, alarm.alarm) == ("sip/anna", ALARM)
    assert "6 calls within 60 s" in alarm.text
    assert not guard.admits("anna", 20.0)
    assert guard.admits("bert", 20.0)
    assert guard.admits("anna", 40.0)
    guard.beat(50.0)
    assert not host.of(AlarmCleared)
    guard.beat(70.0)
    assert host.of(AlarmCleared)


def test_guesses_are_told_and_block_nobody() -> None:
    guard, host = watchman(window_s=60.0, block_s=30.0)
    for n in range(3):
        guard.guessed("anna", "192.0.2.9", float(n))
    (alarm,) = host.of(AlarmRaised)
    assert (alarm.endpoint, alarm.alarm) == ("sip/anna", ALARM)
    assert "192.0.2.9" in alarm.text
    assert guard.admits("anna", 3.0)
    guard.beat(61.0)
    assert not host.of(AlarmCleared)
    guard.beat(62.5)
    assert host.of(AlarmCleared)


def test_many_numbers_that_lead_nowhere() -> None:
    guard, host = watchman(failed=3)
    for n in range(20):
        guard.began("anna", "100", float(n))
        guard.ended("anna", "100", float(n), Cause.UNALLOCATED)
        guard.ended("anna", str(n), float(n), Cause.BUSY)
    assert not host.of(AlarmRaised), "one wrong number again and again is a person"
    for n in range(4):
        guard.began("anna", str(n), 20.0)
        guard.ended("anna", str(n), 20.0, Cause.UNALLOCATED)
    assert len(host.of(AlarmRaised)) == 1
    assert guard.admits("anna", 20.0), "blocked only where that is configured"


def test_costly_numbers_and_the_night(monkeypatch: pytest.MonkeyPatch) -> None:
    noon, midnight = (time.struct_time((2026, 1, 1, h, 30, 0, 3, 1, 0)) for h in (12, 23))
    here = noon
    monkeypatch.setattr("gateway.adapters.sip.fraud.time.localtime", lambda: here)
    guard, host = watchman(prefixes=("00", "+"), costly=2, night="22:00-06:00")
    guard.began("anna", "0044", 0.0)
    guard.began("anna", "+44", 0.0)
    guard.began("bert", "030", 0.0)
    assert not host.of(AlarmRaised)
    guard.began("anna", "+44", 0.0)
    assert [alarm.endpoint for alarm in host.of(AlarmRaised)] == ["sip/anna"]
    here = midnight
    guard.began("bert", "030", 0.0)
    assert len(host.of(AlarmRaised)) == 1
    guard.began("bert", "00881", 0.0)
    assert "at night" in host.of(AlarmRaised)[1].text


# Limits of a trunk


async def test_a_trunk_brings_no_more_calls_than_agreed() -> None:
    peer = Peer()
    host = TestHost("sip")
    far = {"peer": f"sip:127.0.0.1:{peer.port}", "keepalive_s": 0, "calls": 2}
    adapter = host.make(Sip, {"listen": ["udp:127.0.0.1:0"], "trunks": {"far": far}})
    assert isinstance(adapter, Sip)
    try:
        async with host.running():
            await up(host)
            for n in range(3):
                peer.send(adapter, peer.invite(f"c{n}", body=SDP.format(codec="0")))
            refusal = await peer.expect(503)
            assert int(refusal.get("retry-after") or 0) > 0
            assert host.counters["calls_refused"] == 1
            assert len(host.of(LegOffered)) == 2
    finally:
        peer.close()


async def test_a_trunk_takes_calls_no_faster_than_agreed_and_numbers_as_agreed() -> None:
    peer = Peer()
    host = TestHost("sip")
    far = {
        "peer": f"sip:127.0.0.1:{peer.port}", "keepalive_s": 0, "calls_per_s": 0.1,
        "codecs": ["PCMU"], "identity": "rpid", "dtmf": "inband", "numbers": {"country_code": "49"},
        "proxy": f"sip:127.0.0.1:{peer.port};lr",
    }  # fmt: skip
    adapter = host.make(Sip, {"listen": ["udp:127.0.0.1:0"], "trunks": {"far": far}})
    try:
        async with host.running():
            await up(host)
            legs = [host.begin_leg("sip/far") for _ in range(2)]
            for leg in legs:
                adapter.dial(
                    Dial(
                        leg=leg, endpoint="sip/far", number="0301", calling="089200", trace="t",
                        call="c",
                    )
                )  # fmt: skip
            ended = await host.wait_for(LegEnded, leg=legs[1])
            assert ended.cause is Cause.CONGESTION
            invite = await peer.receive()
            assert isinstance(invite, Request)
            assert invite.uri.user == "+49301"
            assert "sip:+4989200@" in (invite.get("remote-party-id") or "")
            assert invite.get("p-asserted-identity") is None
            assert invite.all("route") == [f"<sip:127.0.0.1:{peer.port};lr>"]
            offer = invite.body.decode()
            assert "RTP/AVP 0\r\n" in offer
            assert "telephone-event" not in offer
    finally:
        peer.close()


async def test_texts_over_a_trunk_are_no_faster_than_calls() -> None:
    peer = Peer()
    host = TestHost("sip")
    far = {"peer": f"sip:127.0.0.1:{peer.port}", "keepalive_s": 0, "calls_per_s": 0.1}
    adapter = host.make(Sip, {"listen": ["udp:127.0.0.1:0"], "trunks": {"far": far}})
    assert isinstance(adapter, Sip)
    try:
        async with host.running():
            await up(host)
            for n, status in enumerate((202, 503)):
                text = peer.invite(f"c{n}", method="MESSAGE", body="hello")
                peer.send(adapter, text.replace("application/sdp", "text/plain"))
                await peer.expect(status)
            assert len(host.of(MessageReceived)) == 1
            action = SendMessage(endpoint="sip/far", recipient="0301", text="hi", trace="t")
            adapter.send_message(action)
            with pytest.raises(DeviceError, match=r"0\.1 texts and calls"):
                adapter.send_message(action)
            assert host.counters["messages_refused"] == 2
    finally:
        peer.close()


async def test_who_sends_too_much_is_slowed_down_or_not_heard() -> None:
    host = TestHost("sip")
    config = {"listen": ["udp:127.0.0.1:0", "tcp:127.0.0.1:0"], "max_bytes_per_s": 10_000}
    adapter = host.make(Sip, config)
    assert isinstance(adapter, Sip)
    async with host.running():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as noisy:
            noisy.bind(("127.0.2.1", 0))
            for _ in range(100):
                noisy.sendto(b"x" * 1000, ("127.0.0.1", adapter.ports["udp"]))
        await until(lambda: host.counters["flooded"] >= 60, "some are not heard")
        assert host.counters["garbage"] == 40
        _, writer = await asyncio.open_connection(
            "127.0.0.1", adapter.ports["tcp"], local_addr=("127.0.2.2", 0)
        )
        writer.write(b"OPTIONS sip:box SIP/2.0\r\n" + b"X: y\r\n" * 9000)
        await until(lambda: host.counters["slowed"], "it is slowed down")
        writer.close()
