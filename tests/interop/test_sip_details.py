"""What carriers ask about: reliable ringing, UPDATE, glare, session timers, many media, precedence,
overlap, and what is refused; each with SIPp as the peer."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from gateway.core.actions import Hold
from gateway.core.events import LegHeld, LegOffered, LegProgressed, LegRetrieved, Priority
from gateway.lab.softphone import free_port
from tests.interop.peers import Box, box
from tests.interop.sipp_flow import TAG, Flow, finished, perform, played, sdp
from tests.interop.test_sip_services import ELSEWHERE, HOUSE, phone

pytestmark = pytest.mark.interop

CARRIER = "127.0.2.32"
STRANGE = "127.0.2.33"
TRUNKS = """
[adapters.sip.trunks.carrier]
peer = "sip:{carrier}:{port}"
allow = ["{carrier}"]
keepalive_s = 0
{more}
[adapters.sip.trunks.other]
peer = "sip:{strange}"
keepalive_s = 0
"""
ROUTES = (
    ELSEWHERE
    + """
[[routes]]
name = "out"
called = "0(X.)"
targets = ["sip/carrier:{1}"]
[[routes]]
name = "in"
from = ["sip/carrier", "sip/other"]
called = "+49301(XXX)"
targets = ["directory:{1}"]
[[routes]]
name = "through"
from = ["sip/other"]
called = "9(X.)"
targets = ["sip/carrier:{1}"]
"""
)


def house(flow_port: int, more: str = "") -> str:
    return HOUSE + TRUNKS.format(carrier=CARRIER, strange=STRANGE, port=flow_port, more=more)


def carrier(gateway: Box, port: int = 0, address: str = CARRIER) -> Flow:
    flow = Flow("+49815", gateway, address=address)
    flow.port = port or flow.port
    return flow


PORT = free_port(socket.SOCK_DGRAM)
OFFER_LATER = "Supported: 100rel"


async def test_a_caller_that_requires_reliable_ringing(tmp_path: Path) -> None:
    """RFC 3262: RSeq, PRACK, and no answer before it."""
    async with box(house(PORT), ROUTES) as gateway:
        flow = carrier(gateway).call("+49301301", "Require: 100rel")
        flow.gets(180, "Require: .*100rel", "RSeq: 1", maybe=(100,))
        flow.inside("PRACK", "RAck: 1 1 INVITE").gets(200)
        flow._cseq = 1
        flow.gets(200, "m=audio").ack()
        flow._cseq = 2
        await perform(tmp_path, flow.pause(0.2).hangs_up())


async def test_a_carrier_that_rings_reliably_with_early_media(tmp_path: Path) -> None:
    async with box(house(PORT), ROUTES) as gateway:
        far = carrier(gateway, PORT).takes("INVITE", "Supported: .*100rel")
        far.reply(183, "Require: 100rel", "RSeq: 77", body=sdp())
        far.takes("PRACK", "RAck: 77 1 INVITE").settled().reply(200)
        far.pause(0.3)
        far.steps.append(invite_answer(far))
        far.takes("ACK").is_hung_up()
        anna = phone(gateway, "anna").call("04711").gets(183, "m=audio", maybe=(100,))
        await perform(tmp_path, far, anna.talks().pause(0.2).hangs_up())
        await gateway.wait(LegProgressed)


def invite_answer(flow: Flow, body: str = "") -> str:
    """200 to the INVITE after other requests: its Via and CSeq were kept."""
    flow._first = False
    flow.reply(200, body=body, again=True)
    text = flow.steps.pop()
    return (
        text.replace("[last_Via:]", "Via:[$via]")
        .replace("[last_CSeq:]", "CSeq: 1 INVITE")
        .replace("[last_To:]", f"To:[$to];tag={TAG}")
        .replace("[last_From:]", "From:[$from]")
    )


async def test_an_offer_in_reliable_ringing(tmp_path: Path) -> None:
    """A delayed offer with early media: our offer in the 183, the answer in the PRACK."""
    async with box(house(PORT), ROUTES) as gateway:
        far = carrier(gateway, PORT).takes("INVITE")
        far.reply(183, body=sdp()).pause(0.5).reply(200, body=sdp(), again=True)
        far.takes("ACK").settled().is_hung_up()
        near = carrier(gateway, address=STRANGE).call("94711", OFFER_LATER, body="")
        near.gets(183, "Require: .*100rel", "m=audio", maybe=(100, 180))
        near.inside("PRACK", "RAck: 1 1 INVITE", body=sdp()).gets(200)
        near._cseq = 1
        near.gets(200, absent=["m=audio"]).ack()
        near._cseq = 2
        await perform(tmp_path, far, near.pause(0.2).hangs_up())


async def test_a_caller_without_an_offer_and_without_reliability_hears_ringing(
    tmp_path: Path,
) -> None:
    async with box(house(PORT), ROUTES) as gateway:
        far = carrier(gateway, PORT).takes("INVITE")
        far.reply(183, body=sdp()).pause(0.3).reply(200, body=sdp(), again=True)
        far.takes("ACK").settled().is_hung_up()
        near = carrier(gateway, address=STRANGE).call("94711", body="")
        near.gets(180, maybe=(100,), absent=["m=audio"]).gets(200, "m=audio").ack(sdp())
        await perform(tmp_path, far, near.pause(0.2).hangs_up())


async def test_ringing_without_early_media_is_plain(tmp_path: Path) -> None:
    """Local ringback is the caller's business: 180 without a description."""
    async with box(house(PORT), ROUTES) as gateway:
        far = carrier(gateway, PORT).answers(after=0.2).is_hung_up()
        anna = phone(gateway, "anna").call("04711")
        anna.gets(180, maybe=(100,), absent=["m=audio", "Require:"]).talks().hangs_up()
        await perform(tmp_path, far, anna)


async def test_update(tmp_path: Path) -> None:
    """RFC 3311: with a description it changes the session, without it refreshes."""
    async with box(house(PORT), ROUTES) as gateway:
        flow = carrier(gateway).call("+49301301").talks("Allow: .*UPDATE")
        flow.inside("UPDATE", body=sdp("sendonly", version=2)).gets(200, "a=recvonly")
        flow.inside("UPDATE", body=sdp(version=3)).gets(200, "a=sendrecv")
        flow.inside("UPDATE").gets(200, absent=["m=audio"])
        await perform(tmp_path, flow.hangs_up())
        await gateway.wait(LegHeld)
        await gateway.wait(LegRetrieved)


async def test_glare(tmp_path: Path) -> None:
    """RFC 3261 section 14.1: 491 makes us wait and try again."""
    async with box(house(PORT), ROUTES) as gateway:
        flow = carrier(gateway).call("+49301301").talks()
        flow.takes("INVITE", "a=sendonly").reply(491).takes("ACK")
        flow.takes("INVITE", "a=sendonly").reply(200, body=sdp("recvonly", version=2))
        flow.takes("ACK").hangs_up()
        async with flow.program(tmp_path) as peer:
            await gateway.wait(LegOffered)
            leg = "sip/carrier#1"
            await gateway.connected(leg)
            gateway.gateway._dispatch(Hold(leg=leg))
            await finished(peer)


async def test_session_timer(tmp_path: Path) -> None:
    """RFC 4028: too short is 422, else the caller refreshes as it says."""
    async with box(house(PORT), ROUTES) as gateway:
        short = carrier(gateway).call("+49301301", "Session-Expires: 60", "Supported: timer")
        short.gets(422, "Min-SE: 90", maybe=(100,)).ack_refusal()
        flow = carrier(gateway).call(
            "+49301301", "Session-Expires: 90;refresher=uac", "Supported: timer"
        )
        flow.talks("Session-Expires: 90;refresher=uac", "Require: .*timer")
        flow.inside("UPDATE", "Session-Expires: 90;refresher=uac", "Supported: timer")
        flow.gets(200, "Session-Expires: 90;refresher=uac")
        await perform(tmp_path, short, flow.hangs_up())


async def test_media_that_we_do_not_take(tmp_path: Path) -> None:
    """RFC 3264 section 6: as many m-lines as were offered, port 0 for what is not wanted."""
    async with box(house(PORT), ROUTES) as gateway:
        body = sdp(
            before="m=video 4000 RTP/AVP 96\na=rtpmap:96 H264/90000\nm=audio 0 RTP/AVP 0\n",
            after="m=image 4002 udptl t38\nm=application 4004 TCP/BFCP *\n",
        )
        flow = (
            carrier(gateway)
            .call("+49301301", body=body)
            .talks(
                "m=video 0 RTP/AVP 96.*m=audio 0 RTP/AVP.*m=audio [1-9][0-9]+ RTP/AVP"
                ".*m=image 0 udptl t38.*m=application 0 TCP/BFCP"
            )
        )
        await perform(tmp_path, flow.hangs_up())


# Precedence


@pytest.mark.parametrize(
    ("header", "priority"),
    [
        ("Resource-Priority: dsn.flash", Priority.EMERGENCY),
        ("Resource-Priority: wps.0, dsn.priority", Priority.PRIORITY),
        ("Resource-Priority: wps.0", Priority.ROUTINE),
    ],
)
async def test_precedence_comes_in_from_who_is_trusted(
    tmp_path: Path, header: str, priority: Priority
) -> None:
    async with box(house(PORT, 'precedence = "dsn"'), ROUTES) as gateway:
        trusted = carrier(gateway).call("+49301301", header).talks().hangs_up()
        await perform(tmp_path, trusted)
        assert (await gateway.wait(LegOffered)).priority == priority
        seen = len(gateway.seen)
        other = carrier(gateway, address=STRANGE).call("+49301301", header).talks().hangs_up()
        await perform(tmp_path, other)
        assert (await gateway.wait(LegOffered, skip=seen)).priority == Priority.ROUTINE


async def test_precedence_that_is_required_but_unknown(tmp_path: Path) -> None:
    async with box(house(PORT, 'precedence = "dsn"'), ROUTES) as gateway:
        flow = carrier(gateway).call(
            "+49301301", "Resource-Priority: my.own", "Require: resource-priority"
        )
        flow.gets(417, "Accept-Resource-Priority: dsn.routine, dsn.priority", maybe=(100,))
        await perform(tmp_path, flow.ack_refusal())


async def test_precedence_goes_out(tmp_path: Path) -> None:
    sip = house(PORT, 'precedence = "q735"').replace(
        'number = "201"', 'number = "201"\npriority = "urgent"'
    )
    async with box(sip, ROUTES) as gateway:
        far = carrier(gateway, PORT).answers("Resource-Priority: q735.2").is_hung_up()
        # More than it may is cut down to what it may.
        anna = phone(gateway, "anna").call("04711", "Resource-Priority: dsn.flash-override")
        await perform(tmp_path, far, anna.talks().hangs_up())


async def test_a_routine_call_makes_room(tmp_path: Path) -> None:
    """RFC 4411: it is told why."""
    async with box(house(PORT, 'precedence = "ets"'), ROUTES) as gateway:
        anna = phone(gateway, "anna").call("301").talks()
        anna.is_hung_up("Reason: Q.850;cause=8", "Reason: preemption;cause=1")
        async with anna.program(tmp_path) as displaced:
            await gateway.connected("sip/anna#1")
            urgent = carrier(gateway).call("+49301301", "Resource-Priority: ets.0")
            await played(urgent.talks().pause(0.2).hangs_up().program(tmp_path))
            await finished(displaced)
        legs = await gateway.legs(4)
    assert legs["sip/anna#1"].cause == "preempted"


# What is refused


async def test_numbers_that_need_more_digits(tmp_path: Path) -> None:
    """RFC 3578: 484 asks for them, 404 says that no digit will help."""
    async with box(house(PORT), ROUTES) as gateway:
        partial = carrier(gateway).call("+4930130").gets(484, "cause=28", maybe=(100,))
        hopeless = carrier(gateway).call("+4940").gets(404, "cause=1", maybe=(100,))
        await perform(tmp_path, partial.ack_refusal(), hopeless.ack_refusal())


async def test_what_is_not_served_is_said(tmp_path: Path) -> None:
    async with box(house(PORT), ROUTES) as gateway:

        def ask() -> Flow:
            return carrier(gateway)

        await perform(
            tmp_path,
            ask().call("+49301301", "Require: foo, 100rel").gets(420, "Unsupported: foo")
            .ack_refusal(),
            ask().send("FETCH", "+49301301").gets(501, "Allow: .*INVITE"),
            ask().send("PUBLISH", "+49301301", "Event: presence").gets(403),
            ask().send("INVITE", "+49301301", body="<x/>", kind="text/xml")
            .gets(415, "Accept: application/sdp").ack_refusal(),
            ask().send("MESSAGE", "+49301301", body="<x/>", kind="text/xml")
            .gets(415, "Accept: text/plain"),
            ask().send("BYE", "+49301301").gets(481),
            ask().call("+49301301", "Content-Encoding: gzip").gets(415).ack_refusal(),
        )  # fmt: skip
        assert not [e for e in gateway.seen if isinstance(e.event, LegOffered)]


async def test_the_same_call_by_two_ways_is_merged(tmp_path: Path) -> None:
    """RFC 3261 section 8.2.2.2: the second is 482, the first goes on."""
    async with box(house(PORT), ROUTES) as gateway:
        flow = carrier(gateway).call("+49301301")
        again = flow.steps[-1]
        flow.gets(180, maybe=(100,))
        flow.steps.append(again.replace("branch=[branch]", "branch=z9hG4bK-another"))
        flow.gets(482, maybe=(100,))
        flow._message(
            ["ACK sip:+49301301@[remote_ip]:[remote_port] SIP/2.0", "[last_Via:]", "[last_From:]",
             "[last_To:]", "[last_Call-ID:]", "CSeq: 1 ACK", "Max-Forwards: 70"],
            "", "", again=False,
        )  # fmt: skip
        flow.talks().hangs_up()
        await perform(tmp_path, flow)
        assert sum(isinstance(e.event, LegOffered) for e in gateway.seen) == 1
