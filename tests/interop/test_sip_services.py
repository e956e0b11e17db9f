"""The services of RFC 5359, as far as a gateway in the middle can show them, with SIPp."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.core.events import CallRequested, LegHeld, LegRetrieved, MessageReceived
from tests.interop.peers import Box, box, until
from tests.interop.sipp_flow import Flow, finished, perform, played, sdp

pytestmark = pytest.mark.interop

HOUSE = """
codecs = ["PCMU"]
digest = ["MD5"]
keepalive_s = 0
[adapters.sip.phones.anna]
password = "a1"
number = "201"
picks_up = ["sip/*"]
[adapters.sip.phones.bert]
password = "b1"
number = "202"
auto_answer = true
[adapters.sip.phones.carl]
password = "c1"
number = "203"
"""
ELSEWHERE = """
[adapters.loopback.ports.door]
number = "301"
answer_s = 0.3
[adapters.loopback.ports.busy]
number = "302"
busy = true
[[routes]]
name = "room"
called = "700"
conference = "room"
[[routes]]
name = "find me"
called = "800"
targets = ["loopback/busy", "sip/bert", "sip/carl"]
ring_s = 0.6
[[routes]]
name = "screened"
from = ["sip/carl"]
called = "201"
refuse = "rejected"
"""


def phone(gateway: Box, user: str) -> Flow:
    return Flow(user, gateway, password=f"{user[0]}1")


async def test_hold_in_both_forms(tmp_path: Path) -> None:
    """RFC 5359 section 2.1; zeros are how RFC 2543 said it."""
    async with box(HOUSE, ELSEWHERE) as gateway:
        anna = (
            phone(gateway, "anna").call("301").talks()
            .inside("INVITE", body=sdp("sendonly", version=2)).talks("a=recvonly").pause(0.2)
            .inside("INVITE", body=sdp(version=3)).talks("a=sendrecv").pause(0.2)
            .inside("INVITE", body=sdp(version=4, address="0.0.0.0")).talks().pause(0.2)
            .inside("INVITE", body=sdp(version=5)).talks("a=sendrecv").pause(0.2)
            .inside("INVITE", body=sdp("inactive", version=6)).talks("a=inactive").pause(0.2)
            .hangs_up()
        )  # fmt: skip
        await perform(tmp_path, anna)
        told = [type(e.event) for e in gateway.seen]
        assert (told.count(LegHeld), told.count(LegRetrieved)) == (3, 2)


async def test_a_hold_is_told_to_the_other_side(tmp_path: Path) -> None:
    """In both forms, as the far end's direction; 491 only delays it (RFC 3261 section 14.1)."""
    async with box(HOUSE, ELSEWHERE) as gateway:
        anna = (
            phone(gateway, "anna").call("202").talks()
            .inside("INVITE", body=sdp("sendonly", version=2)).talks("a=recvonly").pause(4.5)
            .inside("INVITE", body=sdp(version=3)).talks("a=sendrecv").pause(0.5)
            .inside("INVITE", body=sdp(version=4, address="0.0.0.0")).talks().pause(0.5)
            .inside("INVITE", body=sdp(version=5)).talks("a=sendrecv").pause(0.5)
            .inside("INVITE", body=sdp("inactive", version=6)).talks("a=inactive").pause(0.5)
            .inside("INVITE", body=sdp(version=7)).talks("a=sendrecv").pause(0.5)
            .hangs_up()
        )  # fmt: skip
        bert = phone(gateway, "bert").answers()
        bert.takes("INVITE", "a=sendonly").reply(491).takes("ACK")
        held = [("sendonly", "recvonly"), ("sendrecv", "sendrecv")] * 2
        held += [("inactive", "inactive"), ("sendrecv", "sendrecv")]
        for version, (way, back) in enumerate(held, 2):
            bert.takes("INVITE", f"a={way}").reply(200, body=sdp(back, version=version))
            bert.takes("ACK")
        await perform(tmp_path, anna, bert.is_hung_up())
        told = [(type(e.event), e.event.leg) for e in gateway.seen if isinstance(e.event, LegHeld)]
        assert told == [(LegHeld, "sip/anna#1")] * 3
        legs = await gateway.legs(2)
    assert legs["sip/bert#1"].held_s > 4.0


async def test_a_late_answer_to_a_hold_that_is_over_is_no_hold(tmp_path: Path) -> None:
    """He who is slow to say that he is held does not hold: nobody is told that he does."""
    async with box(HOUSE, ELSEWHERE) as gateway:
        anna = (
            phone(gateway, "anna").call("202").talks()
            .inside("INVITE", body=sdp("inactive", version=2)).talks("a=inactive").pause(0.2)
            .inside("INVITE", body=sdp(version=3)).talks("a=sendrecv").pause(1.5)
            .hangs_up()
        )  # fmt: skip
        bert = phone(gateway, "bert").answers()
        bert.takes("INVITE", "a=inactive").pause(0.8)
        bert.reply(200, body=sdp("inactive", version=2)).takes("ACK")
        bert.takes("INVITE", "a=sendrecv").reply(200, body=sdp(version=3)).takes("ACK")
        await perform(tmp_path, anna, bert.is_hung_up())
        held = [e.event.leg for e in gateway.seen if isinstance(e.event, LegHeld)]
    assert held == ["sip/anna#1"]


async def test_consultation_hold(tmp_path: Path) -> None:
    """Section 2.2: the first call is held while the second is made, and comes back."""
    async with box(HOUSE, ELSEWHERE) as gateway:
        first = (
            phone(gateway, "anna").call("202").talks()
            .inside("INVITE", body=sdp("sendonly", version=2)).talks("a=recvonly").pause(1.5)
            .inside("INVITE", body=sdp(version=3)).talks().pause(0.7).hangs_up()
        )  # fmt: skip
        bert = phone(gateway, "bert").answers()
        for version, (way, back) in enumerate([("sendonly", "recvonly"), ("sendrecv",) * 2], 2):
            bert.takes("INVITE", f"a={way}").reply(200, body=sdp(back, version=version))
            bert.takes("ACK")
        bert.is_hung_up()
        second = phone(gateway, "anna").call("301").talks().pause(0.2).hangs_up()
        await bert.registered(tmp_path)
        async with bert.program(tmp_path) as called, first.program(tmp_path) as caller:
            await gateway.wait(LegHeld)
            await played(second.program(tmp_path))
            await finished(caller)
            await finished(called)


async def test_unattended_transfer_to_another_network(tmp_path: Path) -> None:
    """Section 2.4, the target being no SIP telephone: the news is what really happens there."""
    async with box(HOUSE, ELSEWHERE) as gateway:
        anna = phone(gateway, "anna").call("202").talks().pause(0.2)
        anna.inside("REFER", "Refer-To: <sip:301@[remote_ip]>", "Referred-By: <sip:x@y>").gets(202)
        anna.takes("NOTIFY", "SIP/2.0 100", "Event: refer").reply(200)
        anna.takes("NOTIFY", "SIP/2.0 180", "State: active").reply(200)
        anna.takes("NOTIFY", "SIP/2.0 200", "State: terminated").reply(200).is_hung_up()
        bert = phone(gateway, "bert").answers().pause(1.5).hangs_up()
        await perform(tmp_path, anna, bert)
        legs = await gateway.legs(3)
    assert legs["loopback/door#1"].call == legs["sip/bert#1"].call


async def test_a_transfer_to_somebody_busy_gives_the_partner_back(tmp_path: Path) -> None:
    async with box(HOUSE, ELSEWHERE) as gateway:
        anna = phone(gateway, "anna").call("202").talks().pause(0.2)
        anna.inside("REFER", "Refer-To: <sip:302@[remote_ip]>").gets(202)
        anna.takes("NOTIFY", "SIP/2.0 100").reply(200)
        anna.takes("NOTIFY", "SIP/2.0 486", "State: terminated").reply(200)
        anna.pause(0.3).hangs_up()
        bert = phone(gateway, "bert").answers().is_hung_up()
        await perform(tmp_path, anna, bert)


async def test_a_transfer_to_a_phone_names_who_asked(tmp_path: Path) -> None:
    """RFC 3892, in our words: not what the one who refers says of himself."""
    async with box(HOUSE, ELSEWHERE) as gateway:
        anna = phone(gateway, "anna").call("202").talks().pause(0.2)
        anna.inside("REFER", "Refer-To: <sip:203@[remote_ip]>", "Referred-By: <sip:x@y>").gets(202)
        anna.takes("NOTIFY").reply(200).takes("NOTIFY", "SIP/2.0 180").reply(200)
        anna.takes("NOTIFY", "SIP/2.0 200").reply(200).is_hung_up()
        bert = phone(gateway, "bert").answers().is_hung_up()
        carl = phone(gateway, "carl").answers("Referred-By: <sip:201@", after=0.2)
        await perform(tmp_path, anna, bert, carl.pause(0.5).hangs_up())


async def test_a_transfer_does_not_name_who_is_not_shown(tmp_path: Path) -> None:
    """RFC 3323: nor in what is said of the transfer."""
    async with box(HOUSE, ELSEWHERE) as gateway:
        anna = phone(gateway, "anna").call("202", "Privacy: id").talks().pause(0.2)
        anna.inside("REFER", "Refer-To: <sip:203@[remote_ip]>").gets(202)
        anna.takes("NOTIFY").reply(200).takes("NOTIFY", "SIP/2.0 180").reply(200)
        anna.takes("NOTIFY", "SIP/2.0 200").reply(200).is_hung_up()
        bert = phone(gateway, "bert").answers().is_hung_up()
        carl = phone(gateway, "carl").takes("INVITE", absent=["Referred-By", "sip:201", "anna"])
        carl.reply(180).pause(0.2).reply(200, body=sdp(), again=True).takes("ACK")
        await perform(tmp_path, anna, bert, carl.pause(0.5).hangs_up())


def tags(gateway: Box, leg: str) -> tuple[str, str, str]:
    """Call-ID, our tag and theirs of a leg's dialog."""
    agent = gateway.sip._calls.agent
    session = agent.core.sessions[gateway.sip._calls._legs[leg].sessions[0]]
    assert session.dialog is not None
    return session.dialog.key


async def test_attended_transfer(tmp_path: Path) -> None:
    """Section 2.5: both partners of anna's calls are joined, one of them not in SIP."""
    async with box(HOUSE, ELSEWHERE) as gateway:
        consult = phone(gateway, "anna").call("301").talks().is_hung_up()
        async with consult.program(tmp_path, "consult") as consulting:
            await gateway.connected("sip/anna#1")
            call_id, ours, theirs = tags(gateway, "sip/anna#1")
            named = f"{call_id}%3Bto-tag%3D{ours}%3Bfrom-tag%3D{theirs}".replace("@", "%40")
            anna = phone(gateway, "anna").call("202").talks().pause(0.2)
            anna.inside("REFER", f"Refer-To: <sip:301@[remote_ip]?Replaces={named}>").gets(202)
            anna.takes("NOTIFY", "SIP/2.0 100").reply(200)
            anna.takes("NOTIFY", "SIP/2.0 200").reply(200).is_hung_up()
            bert = phone(gateway, "bert").answers().pause(1.0).hangs_up()
            await perform(tmp_path, anna, bert)
            await finished(consulting)


async def test_a_phone_takes_over_a_call_by_replaces(tmp_path: Path) -> None:
    """Section 2.5 seen from the target's gateway: the INVITE with Replaces comes to us."""
    async with box(HOUSE, ELSEWHERE) as gateway:
        anna = phone(gateway, "anna").call("301").talks().is_hung_up()
        async with anna.program(tmp_path, "anna") as replaced:
            await gateway.connected("sip/anna#1")
            call_id, ours, theirs = tags(gateway, "sip/anna#1")
            named = f"Replaces: {call_id};to-tag={ours};from-tag={theirs}"
            wrong = phone(gateway, "carl").call("301", named.replace(ours, "x"))
            await played(wrong.gets(481, maybe=(100,)).ack_refusal().program(tmp_path, "wrong"))
            carl = phone(gateway, "carl").call("301", named).talks().pause(0.3).hangs_up()
            await played(carl.program(tmp_path, "carl"))
            await finished(replaced)
        legs = await gateway.legs(3)
    assert legs["loopback/door#1"].cause == "normal"


@pytest.mark.parametrize("status", [301, 302])
async def test_forwarding_by_the_phone(tmp_path: Path, status: int) -> None:
    """Section 2.7: bert sends his calls to carl."""
    async with box(HOUSE, ELSEWHERE) as gateway:
        anna = phone(gateway, "anna").call("202").talks().pause(0.2).hangs_up()
        bert = phone(gateway, "bert").takes("INVITE")
        bert.reply(status, again=True).takes("ACK")
        bert.steps[-2] = bert.steps[-2].replace("sip:bert@[local_ip]:[local_port]", "sip:203@x.y")
        carl = phone(gateway, "carl").answers().is_hung_up()
        await perform(tmp_path, anna, bert, carl)


async def test_forwarding_by_routes_finds_somebody(tmp_path: Path) -> None:
    """Sections 2.8, 2.9 and 2.12: busy, then no answer, then somebody."""
    async with box(HOUSE, ELSEWHERE) as gateway:
        anna = phone(gateway, "anna").call("800").gets(180, maybe=(100,)).talks().hangs_up()
        bert = phone(gateway, "bert").takes("INVITE").reply(180).takes("CANCEL").reply(200)
        bert.steps.append(cancelled(bert))
        bert.takes("ACK")
        carl = phone(gateway, "carl").answers().is_hung_up()
        await perform(tmp_path, anna, bert, carl)


def cancelled(flow: Flow) -> str:
    """487 to the INVITE, after its CANCEL: that one's Via and tags, but the INVITE's CSeq."""
    flow.reply(487, again=True)
    return re.sub(r"\[last_CSeq:\]", "CSeq: 1 INVITE", flow.steps.pop())


async def test_three_way_conference(tmp_path: Path) -> None:
    """Section 2.10, the mixer being here."""
    async with box(HOUSE, ELSEWHERE) as gateway:
        everybody = [
            phone(gateway, user).call("700").talks().pause(0.8).hangs_up()
            for user in ("anna", "bert", "carl")
        ]
        await perform(tmp_path, *everybody)
        legs = await gateway.legs(3)
    assert {leg.cause for leg in legs.values()} == {"normal"}


async def test_call_pickup(tmp_path: Path) -> None:
    """Section 2.16: anna sees that it rings at bert's, and takes the call."""
    async with box(HOUSE, ELSEWHERE) as gateway:
        lamp = phone(gateway, "anna").send("SUBSCRIBE", "202", "Event: dialog").gets(200)
        lamp.takes("NOTIFY").reply(200).takes("NOTIFY", "call-id=").reply(200)
        bert = phone(gateway, "bert").takes("INVITE").reply(180)
        bert.takes("CANCEL", "cause=26").reply(200)
        bert.steps.append(cancelled(bert))
        bert.takes("ACK")
        carl = phone(gateway, "carl").call("202").talks().is_hung_up()
        await bert.registered(tmp_path)
        async with lamp.program(tmp_path, "lamp") as watching, bert.program(tmp_path) as rings:
            await until(lambda: gateway.sip._watchers._watches, "anna watches")
            async with carl.program(tmp_path) as caller:
                shown = (await finished(watching)).replace("\r", "")
                ids = re.findall(r'call-id="(\w+)" local-tag="(\w+)" remote-tag="(\w+)"', shown)[-1]
                named = "Replaces: {};to-tag={};from-tag={};early-only".format(*ids)
                anna = phone(gateway, "anna").call("202", named).talks().pause(0.3).hangs_up()
                await played(anna.program(tmp_path, "pickup"))
                await finished(caller)
            await finished(rings)


async def test_automatic_answer(tmp_path: Path) -> None:
    """RFC 5373: asked by the caller, allowed by the called phone's entry."""
    async with box(HOUSE, ELSEWHERE) as gateway:
        anna = phone(gateway, "anna").call("202", "Answer-Mode: Auto").talks().hangs_up()
        wanted = ("Answer-Mode: Auto", "Call-Info: .*answer-after=0", "Alert-Info: .*autoanswer")
        bert = phone(gateway, "bert").answers(*wanted, ring=False).is_hung_up()
        await perform(tmp_path, anna, bert)
        carl = phone(gateway, "carl").takes("INVITE", absent=["Answer-Mode"]).reply(180)
        carl.reply(200, body=sdp(), again=True).takes("ACK").settled().is_hung_up()
        again = phone(gateway, "anna").call("203", "Alert-Info: <http://x>;info=alert-autoanswer")
        await perform(tmp_path, again.talks().hangs_up(), carl)


async def test_click_to_dial(tmp_path: Path) -> None:
    """Section 2.18: what `gateway dial` asks for."""
    async with box(HOUSE, ELSEWHERE) as gateway:
        bert = phone(gateway, "bert").answers().pause(0.8).hangs_up()
        await bert.registered(tmp_path)
        async with bert.program(tmp_path) as called:
            gateway.gateway.emit(
                CallRequested(origin="sip/bert", target="loopback/door", by="desk", trace="t")
            )
            await finished(called)
        legs = await gateway.legs(2)
    assert {leg.cause for leg in legs.values()} == {"normal"}


async def test_screening(tmp_path: Path) -> None:
    """Sections 2.13 and 2.14: a route refuses."""
    async with box(HOUSE, ELSEWHERE) as gateway:
        carl = phone(gateway, "carl").call("201").gets(403, "cause=21", maybe=(100,))
        await perform(tmp_path, carl.ack_refusal())


async def test_texts_go_from_phone_to_phone(tmp_path: Path) -> None:
    """RFC 3428, by way of the bus, under the id that its writer gave it (RFC 7989)."""
    traced = "ab30317f1a784dc48ff824d0d3715d86"
    async with box(HOUSE, ELSEWHERE) as gateway:
        session = f"Session-ID: {traced};remote={'0' * 32}"
        anna = phone(gateway, "anna").send(
            "MESSAGE", "202", session, body="hello bert", kind="text/plain"
        )
        bert = Flow("bert", gateway, password="b1")
        await bert.registered(tmp_path)
        bert.takes("MESSAGE", "hello bert", "From: .*sip:201@", f"Session-ID: {traced}").reply(200)
        async with bert.program(tmp_path) as there:
            await played(anna.gets(202).program(tmp_path, "anna"))
            await finished(there)
        (received,) = [e.event for e in gateway.seen if isinstance(e.event, MessageReceived)]
        assert received.trace.replace("-", "") == traced
        assert not gateway.counters["messages_failed"]
