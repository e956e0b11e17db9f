"""The call flows of RFC 3665 (SIP) and RFC 3666 (SIP and the telephone network), with SIPp.

The telephone network is the loopback adapter here: what counts is what SIP is told of it.
"""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from gateway.adapters.loopback import Loopback
from gateway.core.actions import Hangup
from gateway.core.endpoints import Condition
from gateway.core.events import LegRinging
from gateway.lab.softphone import free_port
from tests.interop.peers import Box, box
from tests.interop.sipp_flow import Flow, finished, perform, played, sdp
from tests.interop.test_sip_services import ELSEWHERE, cancelled, phone
from tests.interop.test_sip_services import HOUSE as PHONES

pytestmark = pytest.mark.interop

CARRIER = "127.0.2.35"
PORT = free_port(socket.SOCK_DGRAM)
HOUSE = (
    PHONES
    + f"""
[adapters.sip.trunks.carrier]
peer = "sip:{CARRIER}:{PORT}"
user = "gw"
password = "gwpw"
md5 = true
keepalive_s = 0
no_response_s = 1.0
"""
)
ROUTES = (
    ELSEWHERE
    + """
[adapters.loopback.ports.silent]
number = "303"
answer_s = 30.0
[adapters.loopback.ports.short]
number = "304"
talk_s = 0.4
[[routes]]
name = "out"
called = "0(X.)"
targets = ["sip/carrier:{1}"]
[[routes]]
name = "nobody there"
called = "303"
targets = ["loopback/silent"]
ring_s = 0.6
"""
)


def carrier(gateway: Box) -> Flow:
    flow = Flow("+49815", gateway, address=CARRIER)
    flow.port = PORT
    return flow


def exchange(gateway: Box) -> Loopback:
    adapter = gateway.gateway.hosts["loopback"].adapter
    assert isinstance(adapter, Loopback)
    return adapter


# RFC 3665 section 2: registration


def contact(n: int) -> str:
    return f"sip:anna@127.0.2.31:{4000 + n}"


async def test_registrations(tmp_path: Path) -> None:
    """Sections 2.1 to 2.4: new, one more, asked for, and taken back."""
    async with box(HOUSE, ROUTES) as gateway:
        for name, headers, wanted, absent in (
            ("new", [f"Contact: <{contact(1)}>", "Expires: 300"], [contact(1)], []),
            ("more", [f"Contact: <{contact(2)}>;expires=300"], [contact(1), contact(2)], []),
            ("ask", [], [contact(1), contact(2)], []),
            ("one less", [f"Contact: <{contact(1)}>;expires=0"], [contact(2)], [contact(1)]),
            ("cancel", ["Contact: *", "Expires: 0"], [], ["Contact: <"]),
        ):
            flow = phone(gateway, "anna")
            flow.contact = False
            flow.send("REGISTER", "anna", *headers).gets(200, *wanted, absent=absent)
            await played(flow.program(tmp_path, name))
        await gateway.up("sip/anna", condition=Condition.DOWN)


async def test_registration_with_the_wrong_password(tmp_path: Path) -> None:
    """Section 2.5: challenged again, and nothing is registered."""
    async with box(HOUSE, ROUTES) as gateway:
        flow = Flow("anna", gateway, password="wrong")
        flow.send("REGISTER", "anna", "Expires: 300").gets(401)
        await played(flow.program(tmp_path))
        assert gateway.counters["wrong_password"] == 1


# RFC 3665 section 3: sessions


async def test_session_ended_by_the_callee(tmp_path: Path) -> None:
    """Section 3.1."""
    async with box(HOUSE, ROUTES) as gateway:
        anna = phone(gateway, "anna").call("202").gets(180, maybe=(100,)).talks().is_hung_up()
        bert = phone(gateway, "bert").answers(after=0.1).pause(0.3).hangs_up()
        await perform(tmp_path, anna, bert)


async def test_session_with_proxy_authentication(tmp_path: Path) -> None:
    """Sections 3.2 and 3.3: we are challenged in turn, and prove ourselves."""
    async with box(HOUSE, ROUTES) as gateway:
        anna = phone(gateway, "anna").call("04711").talks().pause(0.2).hangs_up()
        far = carrier(gateway).takes("INVITE", absent=["Proxy-Authorization"])
        far.reply(407, 'Proxy-Authenticate: Digest realm="c", nonce="abc", algorithm=MD5',
                  again=True).takes("ACK")  # fmt: skip
        far.takes("INVITE", 'Proxy-Authorization: Digest username="gw", realm="c"', "CSeq: 2 ")
        far._first = True
        far.reply(200, body=sdp(), again=True).takes("ACK").settled().is_hung_up()
        await perform(tmp_path, anna, far)


async def test_session_moves_to_another_address(tmp_path: Path) -> None:
    """Section 3.7: a re-INVITE with a new Contact; what follows goes there."""
    async with box(HOUSE, ROUTES) as gateway:
        anna = phone(gateway, "anna").call("304").talks()
        anna.inside("INVITE", body=sdp(version=2, address="127.0.2.99")).talks()
        await perform(tmp_path, anna.is_hung_up())


async def test_caller_gives_up(tmp_path: Path) -> None:
    """Section 3.8."""
    async with box(HOUSE, ROUTES) as gateway:
        anna = phone(gateway, "anna").call("202").gets(180, maybe=(100,)).pause(0.2)
        anna.cancel("202").gets(200, "CANCEL").gets(487).ack_refusal()
        bert = phone(gateway, "bert").takes("INVITE").reply(180).takes("CANCEL").reply(200)
        bert.steps.append(cancelled(bert))
        await perform(tmp_path, anna, bert.takes("ACK"))


@pytest.mark.parametrize(("status", "cause"), [(486, 17), (480, 18), (600, 17)])
async def test_callee_refuses(tmp_path: Path, status: int, cause: int) -> None:
    """Sections 3.9 and 3.11."""
    heard = {600: 486, 480: 408}.get(status, status)
    async with box(HOUSE, ROUTES) as gateway:
        anna = phone(gateway, "anna").call("202")
        anna.gets(heard, f"Reason: Q.850;cause={cause}", maybe=(100, 180)).ack_refusal()
        bert = phone(gateway, "bert").takes("INVITE").reply(180).reply(status, again=True)
        await perform(tmp_path, anna, bert.takes("ACK"))


async def test_nobody_responds(tmp_path: Path) -> None:
    """Section 3.10: a carrier that says nothing at all."""
    async with box(HOUSE, ROUTES) as gateway:
        anna = phone(gateway, "anna").call("04711").gets(408, "cause=18", maybe=(100,))
        await perform(tmp_path, anna.ack_refusal())


# RFC 3666 section 2: SIP to the telephone network


@pytest.mark.parametrize(
    ("number", "status", "cause"), [("302", 486, 17), ("303", 480, 19), ("999", 404, 1)]
)
async def test_calls_to_the_network_that_fail(
    tmp_path: Path, number: str, status: int, cause: int
) -> None:
    """Busy, no answer, no such number."""
    async with box(HOUSE, ROUTES) as gateway:
        anna = phone(gateway, "anna").call(number)
        anna.gets(status, f"Reason: Q.850;cause={cause}", maybe=(100, 180)).ack_refusal()
        await perform(tmp_path, anna)


async def test_the_network_hangs_up_first(tmp_path: Path) -> None:
    async with box(HOUSE, ROUTES) as gateway:
        anna = phone(gateway, "anna").call("304").talks().is_hung_up("Reason: Q.850;cause=16")
        await perform(tmp_path, anna)


async def test_caller_of_the_network_gives_up(tmp_path: Path) -> None:
    async with box(HOUSE, ROUTES) as gateway:
        anna = phone(gateway, "anna").call("303").gets(180, maybe=(100,))
        anna.cancel("303").gets(200, "CANCEL").gets(487).ack_refusal()
        await perform(tmp_path, anna)
        legs = await gateway.legs(2)
    assert legs["loopback/silent#1"].cause == "cancelled"


# RFC 3666 section 3: the telephone network to SIP


async def test_the_network_calls(tmp_path: Path) -> None:
    async with box(HOUSE, ROUTES) as gateway:
        bert = phone(gateway, "bert").answers("From: .*sip:301@", after=0.2).pause(0.3).hangs_up()
        await bert.registered(tmp_path)
        async with bert.program(tmp_path) as called:
            exchange(gateway).call("door", "202")
            await finished(called)
        legs = await gateway.legs(2)
    assert {leg.cause for leg in legs.values()} == {"normal"}


@pytest.mark.parametrize(("status", "cause"), [(486, "busy"), (404, "unallocated")])
async def test_calls_of_the_network_that_are_refused(
    tmp_path: Path, status: int, cause: str
) -> None:
    async with box(HOUSE, ROUTES) as gateway:
        bert = phone(gateway, "bert").takes("INVITE").reply(180).reply(status, again=True)
        bert.takes("ACK")
        await bert.registered(tmp_path)
        async with bert.program(tmp_path) as called:
            exchange(gateway).call("door", "202")
            await finished(called)
        legs = await gateway.legs(2)
    assert {leg.cause for leg in legs.values()} == {cause}


async def test_the_network_gives_up(tmp_path: Path) -> None:
    async with box(HOUSE, ROUTES) as gateway:
        bert = phone(gateway, "bert").takes("INVITE").reply(180).takes("CANCEL").reply(200)
        bert.steps.append(cancelled(bert))
        bert.takes("ACK")
        await bert.registered(tmp_path)
        async with bert.program(tmp_path) as called:
            leg = exchange(gateway).call("door", "202")
            await gateway.wait(LegRinging)
            exchange(gateway).hangup(Hangup(leg=leg))
            await finished(called)
