"""Services of RFC 5359 in which the gateway is the far end of the telephone's own doing: music,
parking, calling back, conferences of a phone; with SIPp."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from gateway.core.events import HangupRequested, LegHeld, LegRetrieved
from gateway.lab.softphone import free_port
from tests.interop import peers
from tests.interop.peers import Box, assert_hears, box, mulaw
from tests.interop.sipp_flow import Flow, finished, perform, played, sdp
from tests.interop.test_sip_services import ELSEWHERE, HOUSE, phone, tags

pytestmark = pytest.mark.interop

CARRIER, MUSIC = "127.0.2.39", "127.0.2.38"
PORT = free_port(socket.SOCK_DGRAM)
TRUNK = f"""
[adapters.sip.trunks.carrier]
peer = "sip:{CARRIER}:{PORT}"
keepalive_s = 0
redirects = true
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
from = ["sip/carrier"]
called = "+49301(XXX)"
targets = ["directory:{1}"]
"""
)


async def test_music_on_hold(tmp_path: Path) -> None:
    """Section 2.3: a re-INVITE without offer, and in the ACK the address of a music server, which
    is heard."""
    (tmp_path / "bert").mkdir()
    mulaw(tmp_path / "bert", 1000)
    music = sdp("sendonly", version=2)
    async with (
        box(HOUSE.replace('"a1"', '"a1"\ntells_hold = false'), ELSEWHERE) as gateway,
        peers.phone(tmp_path, "anna", "a1", gateway, hz=440) as anna,
    ):
        bert = phone(gateway, "bert").answers(body=sdp(address="127.0.2.31"))
        # SIPp's audio comes from the server's address all the time.
        bert.steps.append('<nop><action><exec rtp_stream="tone.ul,-1,0,PCMU/8000"/></action></nop>')
        bert.pause(1.0).inside("INVITE").gets(200, "m=audio", maybe=(100,)).ack(music).pause(2.0)
        bert.inside("INVITE", body=sdp(version=3, address="127.0.2.31")).talks().pause(0.3)
        bert.hangs_up()
        await bert.registered(tmp_path)
        await gateway.up("sip/anna", "sip/bert")
        program = bert.program(tmp_path, "bert")
        program.command[program.command.index("-mi") + 1] = MUSIC
        async with program:
            await anna.dial(gateway.uri("202"))
            await gateway.wait(LegHeld, lambda e: e.leg.startswith("sip/bert"))
            await gateway.wait(LegRetrieved, lambda e: e.leg.startswith("sip/bert"))
            await finished(program)
            await anna.wait("CALL_CLOSED")
    assert_hears(anna.heard(), 1000)


async def test_transfer_by_a_text(tmp_path: Path) -> None:
    """Section 2.6: anna writes to bert where her partner is, and bert takes her place."""
    async with box(HOUSE, ELSEWHERE) as gateway:
        anna = phone(gateway, "anna").call("203").talks().is_hung_up()
        carl = phone(gateway, "carl").answers().is_hung_up()
        await carl.registered(tmp_path)
        async with carl.program(tmp_path) as called, anna.program(tmp_path) as caller:
            await gateway.connected("sip/anna#1")
            call_id, ours, theirs = tags(gateway, "sip/anna#1")
            named = f"{call_id};to-tag={ours};from-tag={theirs}"
            reader = Flow("bert", gateway, password="b1")
            await reader.registered(tmp_path)
            reader.takes("MESSAGE", f"Replaces={call_id}").reply(200)
            text = f"sip:203@box?Replaces={named}"
            writer = phone(gateway, "anna")
            writer.send("MESSAGE", "202", body=text, kind="text/plain").gets(202)
            async with reader.program(tmp_path, "reader") as reads:
                await played(writer.program(tmp_path, "writer"))
                await finished(reads)
            bert = phone(gateway, "bert").call("203", f"Replaces: {named}").talks()
            await played(bert.pause(0.3).hangs_up().program(tmp_path, "takes"))
            await finished(caller)
            await finished(called)


async def test_a_phone_makes_the_conference(tmp_path: Path) -> None:
    """Section 2.10: it mixes, says so in its Contact, and calls the third."""
    async with box(HOUSE, ELSEWHERE) as gateway:
        anna = phone(gateway, "anna").call("202").talks().pause(1.0)
        anna.inside("INVITE", body=sdp("sendonly", version=2)).talks("a=recvonly").pause(0.5)
        anna.inside("INVITE", body=sdp(version=3))
        focus = "[local_port];isfocus>"
        anna.steps[-1] = anna.steps[-1].replace("[local_port]>", focus)
        anna.talks("a=sendrecv").pause(0.5).hangs_up()
        third = phone(gateway, "anna").call("203").talks().pause(1.0).hangs_up()
        third.steps[:] = [step.replace("[local_port]>", focus) for step in third.steps]
        bert = phone(gateway, "bert").answers()
        for version, (way, back) in enumerate([("sendonly", "recvonly"), ("sendrecv",) * 2], 2):
            bert.takes("INVITE", f"a={way}").reply(200, body=sdp(back, version=version))
            bert.takes("ACK")
        bert.is_hung_up()
        carl = phone(gateway, "carl").answers().is_hung_up()
        await perform(tmp_path, anna, third, bert, carl)
        legs = await gateway.legs(4)
    assert {leg.cause for leg in legs.values()} == {"normal"}


async def test_joining_is_refused_where_it_is_required(tmp_path: Path) -> None:
    """Section 2.11 asks for RFC 3911, which is not served: a room is."""
    async with box(HOUSE, ELSEWHERE) as gateway:
        carl = phone(gateway, "carl")
        carl.call("202", "Join: a;to-tag=b;from-tag=c", "Require: join")
        carl.gets(420, "Unsupported: join").ack_refusal()
        await perform(tmp_path, carl)


async def test_call_park(tmp_path: Path) -> None:
    """Section 2.15: bert sends his partner to a room and hangs up; carl finds her there."""
    async with box(HOUSE, ELSEWHERE) as gateway:
        anna = phone(gateway, "anna").call("202").talks().is_hung_up()
        bert = phone(gateway, "bert").answers().pause(0.2)
        bert.inside("REFER", "Refer-To: <sip:700@[remote_ip]>").gets(202)
        bert.takes("NOTIFY", "SIP/2.0 100").reply(200)
        bert.takes("NOTIFY", "SIP/2.0 200", "State: terminated").reply(200).is_hung_up()
        await bert.registered(tmp_path)
        async with bert.program(tmp_path) as parks, anna.program(tmp_path) as parked:
            await finished(parks)
            carl = phone(gateway, "carl").call("700").talks().pause(0.5).hangs_up()
            await played(carl.program(tmp_path, "carl"))
            gateway.gateway.emit(HangupRequested(leg="sip/anna#1", by="desk"))
            await finished(parked)
        legs = await gateway.legs(3)
    assert {leg.cause for leg in legs.values()} == {"normal"}


async def test_automatic_redial(tmp_path: Path) -> None:
    """Section 2.17: bert is busy; anna is told when he is not, and calls again."""
    async with box(HOUSE, ELSEWHERE) as gateway:
        talking = phone(gateway, "bert").call("301").talks().is_hung_up()
        async with talking.program(tmp_path, "talking") as talks:
            await gateway.connected("sip/bert#1")
            busy = phone(gateway, "bert").takes("INVITE").reply(486, again=True).takes("ACK")
            first = phone(gateway, "anna").call("202").gets(486, maybe=(100,)).ack_refusal()
            await perform(tmp_path, first, busy)
            watch = phone(gateway, "anna").send("SUBSCRIBE", "202", "Event: dialog").gets(200)
            watch.takes("NOTIFY", "<state>confirmed</state>").reply(200)
            watch.takes("NOTIFY", absent=["<state>confirmed"]).reply(200)
            async with watch.program(tmp_path, "watch") as watching:
                seen = watching.directory / "messages"
                await peers.until(
                    lambda: seen.exists() and "confirmed" in seen.read_text(), "she is told"
                )
                gateway.gateway.emit(HangupRequested(leg="sip/bert#1", by="desk"))
                await finished(talks)
                await finished(watching)
        again = phone(gateway, "anna").call("202").talks().hangs_up()
        await perform(tmp_path, again, phone(gateway, "bert").answers().is_hung_up())


def carrier(gateway: Box, port: int = 0) -> Flow:
    flow = Flow("+49815", gateway, address=CARRIER)
    flow.port = port or flow.port
    return flow


async def test_a_redirected_call_with_the_answer_in_the_ack(tmp_path: Path) -> None:
    """RFC 3665 section 3.6: no offer in the INVITE, 302 on the way, the description in the ACK."""
    async with box(HOUSE + TRUNK, ROUTES) as gateway:
        moved = carrier(gateway, PORT).takes("INVITE", "sip:4711@")
        moved.reply(302, again=True).takes("ACK")
        moved.steps[-2] = moved.steps[-2].replace(
            "sip:+49815@[local_ip]:[local_port]", "sip:202@elsewhere.test"
        )
        bert = phone(gateway, "bert").answers().is_hung_up()
        anna = phone(gateway, "anna").call("04711", body="").gets(200, "m=audio", maybe=(100, 180))
        await perform(tmp_path, anna.ack(sdp()).pause(0.3).hangs_up(), moved, bert)
        legs = await gateway.legs(3)
    assert legs["sip/bert#1"].cause == "normal"


async def test_one_of_two_contacts_sends_the_call_on(tmp_path: Path) -> None:
    """What the one says counts when the other has refused, too."""
    async with box(HOUSE, ELSEWHERE) as gateway:
        anna = phone(gateway, "anna").call("202").gets(180, maybe=(100,)).talks().hangs_up()
        sends = phone(gateway, "bert").takes("INVITE").reply(302, again=True).takes("ACK")
        sends.steps[-2] = sends.steps[-2].replace(
            "sip:bert@[local_ip]:[local_port]", "sip:203@elsewhere.test"
        )
        busy = phone(gateway, "bert").takes("INVITE").reply(180).pause(0.5)
        busy.reply(486, again=True).takes("ACK")
        carl = phone(gateway, "carl").answers().is_hung_up()
        await perform(tmp_path, anna, sends, busy, carl)


# Answering by itself (RFC 5373 and the makers' dialects)


@pytest.mark.parametrize(
    "asks",
    [
        "Answer-Mode: Auto", "Priv-Answer-Mode: Auto;require", "Require: answermode",
        "Call-Info: <sip:box>;answer-after=0", "Alert-Info: info=alert-autoanswer;delay=0",
        "Alert-Info: <http://x>;info=alert-autoanswer", "Alert-Info: Auto Answer",
        "Alert-Info: Ring Answer", "Alert-Info: intercom=true", "P-Auto-Answer: normal",
    ],
)  # fmt: skip
async def test_dialects_of_answering_by_itself(tmp_path: Path, asks: str) -> None:
    """Whoever asks in whatever way, bert is told in every way; not so if the asker may not."""
    more = ["Answer-Mode: Auto"] if asks.startswith("Require") else []
    told = (
        "Answer-Mode: Auto", "Call-Info: <sip:[^>]*>;answer-after=0",
        "Alert-Info: <http://[^>]*>;info=alert-autoanswer",
    )  # fmt: skip
    async with box(HOUSE + TRUNK, ROUTES) as gateway:
        anna = phone(gateway, "anna").call("202", asks, *more).talks().hangs_up()
        bert = phone(gateway, "bert").answers(*told, ring=False).is_hung_up()
        await perform(tmp_path, anna, bert)
        stranger = carrier(gateway).call("+49301202", asks, *more).talks().hangs_up()
        bert = phone(gateway, "bert")
        bert.takes("INVITE", absent=["Answer-Mode", "answer-after", "autoanswer"]).reply(180)
        bert.reply(200, body=sdp(), again=True).takes("ACK").settled().is_hung_up()
        await perform(tmp_path, stranger, bert)
