"""What carriers do in the middle of calls: forks that answer late, offers in every place, media
that come and go, challenges inside dialogs, routes of proxies; each with SIPp as the carrier."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from pathlib import Path

import pytest

from gateway.core.actions import Hold, SendMessage
from gateway.core.events import HangupRequested, LegHeld, LegOffered
from gateway.lab.softphone import free_port
from tests.interop.peers import Box, box
from tests.interop.sipp_flow import TAG, Flow, finished, perform, port_at, sdp
from tests.interop.test_sip_details import CARRIER, ROUTES, STRANGE, carrier, house
from tests.interop.test_sip_services import ELSEWHERE, HOUSE, phone

pytestmark = pytest.mark.interop

PORT = free_port(socket.SOCK_DGRAM)
ACCOUNT = 'user = "gw"\npassword = "gwpw"\n'


def later(flow: Flow, status: int, *headers: str, body: str = "", tag: str = TAG) -> Flow:
    """A response to the INVITE after other requests, by the fork that `tag` names."""
    flow._first = False
    flow.reply(status, *headers, body=body, again=status >= 200)
    text = flow.steps.pop()
    flow.steps.append(
        text.replace("[last_Via:]", "Via:[$via]")
        .replace("[last_CSeq:]", "CSeq: 1 INVITE")
        .replace("[last_To:]", f"To:[$to];tag={tag}")
        .replace("[last_From:]", "From:[$from]")
    )
    return flow


def by(flow: Flow, tag: str) -> Flow:
    """What was answered last comes from the fork `tag`."""
    flow.steps[-1] = flow.steps[-1].replace(f"tag={TAG}", f"tag={tag}")
    return flow


# Forks


async def test_a_late_answer_of_another_fork(tmp_path: Path) -> None:
    """RFC 3261 section 13.2.2.4: the first 2xx has the call, another is acknowledged and ended."""
    async with box(house(PORT), ROUTES) as gateway:
        far = carrier(gateway, PORT).takes("INVITE")
        by(far.reply(183, body=sdp()), "one")
        by(far.reply(180), "two")
        by(far.reply(200, body=sdp(), again=True), "two")
        far.takes("ACK", "To:.*tag=two")
        later(far, 200, body=sdp(), tag="three")
        far.takes("ACK", "To:.*tag=three").takes("BYE", "To:.*tag=three").settled().reply(200)
        far.is_hung_up("To:.*tag=two")
        anna = phone(gateway, "anna").call("04711").talks().pause(1.0).hangs_up()
        await perform(tmp_path, far, anna)
        legs = await gateway.legs(2)
        assert gateway.counters["extra_answers"] == 1
    assert {leg.cause for leg in legs.values()} == {"normal"}


async def test_an_answer_that_crosses_our_cancel(tmp_path: Path) -> None:
    async with box(house(PORT), ROUTES) as gateway:
        far = carrier(gateway, PORT).takes("INVITE").reply(180)
        far.takes("CANCEL", "Reason: Q.850;cause=26;.*SIP;cause=200").reply(200)
        later(far, 200, body=sdp()).takes("ACK").takes("BYE").settled().reply(200)
        anna = phone(gateway, "anna").call("04711").gets(180, maybe=(100,))
        anna.cancel("04711")
        anna.steps[-1] = anna.steps[-1].replace(
            "Max-Forwards: 70", "Max-Forwards: 70\nReason: Q.850;cause=26"
        )
        anna.gets(200).gets(487).ack_refusal()
        await perform(tmp_path, far, anna)
        await gateway.legs(2)


# Offers in every place


async def test_update_while_it_rings(tmp_path: Path) -> None:
    """RFC 3311: once the answer came reliably, the callee may change the session before it
    answers."""
    async with box(house(PORT), ROUTES) as gateway:
        far = carrier(gateway, PORT).takes("INVITE")
        far.reply(183, "Require: 100rel", "RSeq: 5", "Allow: UPDATE, PRACK", body=sdp())
        far.takes("PRACK", "RAck: 5 1 INVITE").settled().reply(200)
        later(far, 180).inside("UPDATE", body=sdp("sendonly", version=2))
        far.gets(200, "a=recvonly").inside("UPDATE", body=sdp(version=3)).gets(200, "a=sendrecv")
        later(far, 200).takes("ACK").is_hung_up()
        anna = phone(gateway, "anna").call("04711").gets(183, "m=audio", maybe=(100,))
        await perform(tmp_path, far, anna.talks().pause(0.2).hangs_up())


async def test_prack_with_an_offer(tmp_path: Path) -> None:
    """RFC 3262 section 5."""
    async with box(house(PORT), ROUTES) as gateway:
        far = carrier(gateway, PORT).takes("INVITE").reply(183, body=sdp()).pause(0.8)
        far.reply(200, body=sdp(), again=True).takes("ACK").settled().is_hung_up()
        near = carrier(gateway, address=STRANGE).call("94711", "Supported: 100rel")
        near.gets(183, "RSeq: 1", "m=audio", maybe=(100, 180))
        near.inside("PRACK", "RAck: 1 1 INVITE", body=sdp(version=2)).gets(200, "m=audio")
        near._cseq = 1
        near.gets(200, absent=["m=audio"], maybe=(180,)).ack()
        near._cseq = 2
        await perform(tmp_path, far, near.pause(0.2).hangs_up())


async def test_a_change_without_an_offer(tmp_path: Path) -> None:
    """A re-INVITE that leaves the offer to us: it is in the 200, the answer in the ACK."""
    async with box(house(PORT), ROUTES) as gateway:
        flow = carrier(gateway).call("+49301301").talks()
        flow.inside("INVITE").gets(200, "m=audio", "a=sendrecv", maybe=(100,))
        flow.ack(sdp("sendonly", version=2)).pause(0.2)
        flow.inside("INVITE").gets(200, "m=audio", maybe=(100,)).ack(sdp(version=3))
        await perform(tmp_path, flow.pause(0.2).hangs_up())
        assert (await gateway.wait(LegHeld)).leg == "sip/carrier#1"


async def test_another_codec_port_and_address(tmp_path: Path) -> None:
    async with box(house(PORT).replace('["PCMU"]', '["PCMU", "PCMA"]', 1), ROUTES) as gateway:
        changed = sdp(address=STRANGE, version=2).replace("RTP/AVP 0 96", "RTP/AVP 8 101")
        changed = changed.replace("[media_port]", "[media_port+2]").replace(":96 ", ":101 ")
        flow = carrier(gateway).call("+49301301").talks("m=audio [0-9]+ RTP/AVP 0 96")
        flow.inside("INVITE", body=changed).talks("m=audio [0-9]+ RTP/AVP 8 101")
        await perform(tmp_path, flow.pause(0.2).hangs_up())
        legs = await gateway.legs(2)
    assert legs["sip/carrier#1"].codec == "PCMA"


FAX = (
    "v=0\no=s 1 2 IN IP4 [local_ip]\ns=-\nc=IN IP4 [media_ip]\nt=0 0\n"
    "m=image 4002 udptl t38\na=T38FaxVersion:0\n"
)
VIDEO = "m=video 4000 RTP/AVP 97\na=rtpmap:97 H264/90000\n"


async def test_fax_and_video_that_are_offered_during_a_call(tmp_path: Path) -> None:
    """What we do not take is refused; the call goes on as it was."""
    async with box(house(PORT), ROUTES) as gateway:
        flow = carrier(gateway).call("+49301301").talks()
        flow.inside("INVITE", body=FAX)
        flow.gets(488, "Warning: 30[45] ", maybe=(100,)).ack_refusal()
        flow.inside("INVITE", body=sdp(version=3, after="m=image 4002 udptl t38\n"))
        flow.talks("m=audio [1-9][0-9]* .*m=image 0 ")
        flow.inside("INVITE", body=sdp(version=4, after="m=image 0 udptl t38\n" + VIDEO))
        flow.talks("m=audio [1-9][0-9]* .*m=image 0 .*m=video 0 ")
        flow.inside("UPDATE", body=FAX).gets(488)
        await perform(tmp_path, flow.inside("UPDATE").gets(200).hangs_up())


async def test_our_offer_has_the_lines_of_the_peers(tmp_path: Path) -> None:
    """RFC 3264 section 8: a line once there stays, in its place, if only with port 0."""
    async with box(house(PORT), ROUTES) as gateway:
        flow = carrier(gateway).call("+49301301", body=sdp(before=VIDEO)).talks("m=video 0 ")
        flow.takes("INVITE", "m=video 0 RTP/AVP.*m=audio [1-9][0-9]* .*a=sendonly")
        gone = "m=video 0 RTP/AVP 97\n"
        flow.reply(200, body=sdp("recvonly", version=2, before=gone)).takes("ACK").hangs_up()
        async with flow.program(tmp_path) as peer:
            await gateway.connected("sip/carrier#1")
            gateway.gateway._dispatch(Hold(leg="sip/carrier#1"))
            await finished(peer)
        assert not gateway.counters["sdp_refused"]


async def test_a_hold_changes_its_direction(tmp_path: Path) -> None:
    """Music on hold begins and ends while the call is held: the other side is told."""
    async with box(HOUSE, ELSEWHERE) as gateway:
        anna = phone(gateway, "anna").call("202").talks()
        ways = ["sendonly", "inactive", "sendonly", "sendrecv"]
        backs = {"sendonly": "recvonly", "inactive": "inactive", "sendrecv": "sendrecv"}
        for version, way in enumerate(ways, 2):
            anna.inside("INVITE", body=sdp(way, version=version)).talks(f"a={backs[way]}")
            anna.pause(0.6)
        bert = phone(gateway, "bert").answers()
        for version, way in enumerate(ways, 2):
            bert.takes("INVITE", f"a={way}").reply(200, body=sdp(backs[way], version=version))
            bert.takes("ACK")
        await perform(tmp_path, anna.hangs_up(), bert.is_hung_up())
        told = [e.event.leg for e in gateway.seen if isinstance(e.event, LegHeld)]
        assert told == ["sip/anna#1"] * 3
        legs = await gateway.legs(2)
    assert legs["sip/bert#1"].held_s > 1.5


@pytest.mark.parametrize("status", [408, 481])
async def test_a_peer_that_lost_the_call(tmp_path: Path, status: int) -> None:
    """RFC 3261 section 12.2.1.2: a dialog that the peer does not know is over."""
    async with box(HOUSE, ELSEWHERE) as gateway:
        anna = phone(gateway, "anna").call("202").talks()
        anna.inside("INVITE", body=sdp("sendonly", version=2)).talks().is_hung_up()
        bert = phone(gateway, "bert").answers()
        bert.takes("INVITE").reply(status).takes("ACK")
        if status == 408:
            bert.is_hung_up()
        await perform(tmp_path, anna, bert)


# Glare of two methods


async def test_an_update_that_crosses_our_change(tmp_path: Path) -> None:
    """RFC 3311 section 5.2: 491, and ours goes on."""
    async with box(house(PORT), ROUTES) as gateway:
        flow = carrier(gateway).call("+49301301").talks()
        flow.takes("INVITE", "a=sendonly")
        # Its Via has to wait for the answer.
        flow.steps[-1] = flow.steps[-1].replace(
            "<action>",
            '<action><ereg regexp=".*" search_in="hdr" header="Via:" assign_to="via"/>'
            '<ereg regexp=".*" search_in="hdr" header="CSeq:" assign_to="seq"/>'
            '<ereg regexp=".*" search_in="hdr" header="To:" assign_to="to"/>'
            '<ereg regexp=".*" search_in="hdr" header="From:" assign_to="from"/>',
        )
        flow.inside("UPDATE", body=sdp(version=2)).gets(491)
        flow.reply(200, body=sdp("recvonly", version=3))
        for name, kept in (("Via", "via"), ("CSeq", "seq"), ("To", "to"), ("From", "from")):
            flow.steps[-1] = flow.steps[-1].replace(f"[last_{name}:]", f"{name}:[${kept}]")
        flow.steps.append('<nop><action><log message="[$via][$seq][$to][$from]"/></action></nop>')
        flow.takes("ACK").hangs_up()
        async with flow.program(tmp_path) as peer:
            await gateway.connected("sip/carrier#1")
            gateway.gateway._dispatch(Hold(leg="sip/carrier#1"))
            await finished(peer)


# Challenges inside a dialog


def challenge(nonce: str, *algorithms: str, name: str = "WWW-Authenticate") -> list[str]:
    return [
        f'{name}: Digest realm="c", nonce="{nonce}", algorithm={algorithm}, '
        'qop="auth,auth-int", opaque="o"'
        for algorithm in algorithms or ("MD5",)
    ]


def proven(flow: Flow) -> Flow:
    """What came last is proven, as SIPp computes it."""
    flow._variables += 1
    name = f"v{flow._variables}"
    check = f'<verifyauth assign_to="{name}" username="gw" password="gwpw"/>'
    flow.steps[-1] = flow.steps[-1].replace("</action>", f"{check}</action>")
    wrong = '<action><error message="that is no proof"/></action>'
    flow.steps.append(f'<nop condexec="{name}" condexec_inverse="true">{wrong}</nop>')
    return flow


async def test_a_challenge_to_a_bye_of_ours(tmp_path: Path) -> None:
    """In a call that the carrier began, too."""
    async with box(house(PORT, ACCOUNT), ROUTES) as gateway:
        flow = carrier(gateway).call("+49301301").talks()
        flow.takes("BYE", absent=["Authorization"]).reply(
            407, *challenge("n1", "SHA-256", "MD5", name="Proxy-Authenticate")
        )
        flow.takes("BYE", "Proxy-Authorization: .*nonce=.n1.*SHA-256.*qop=auth, nc=00000001")
        flow.reply(200)
        async with flow.program(tmp_path) as peer:
            await gateway.connected("sip/carrier#1")
            gateway.gateway.emit(HangupRequested(leg="sip/carrier#1", by="test"))
            await finished(peer)


async def test_challenges_in_a_call_of_ours(tmp_path: Path) -> None:
    """A nonce is good for more requests, until the peer names its next or says that it is stale."""
    async with box(house(PORT, ACCOUNT), ROUTES) as gateway:
        far = carrier(gateway, PORT).takes("INVITE").reply(401, *challenge("n1")).takes("ACK")
        proven(far.takes("INVITE", "nonce=.n1.*nc=00000001"))
        far._first = True
        far.reply(200, 'Authentication-Info: nextnonce="n2"', body=sdp(), again=True)
        far.takes("ACK").settled()
        far.takes("INVITE", "nonce=.n2.*nc=0000000[12]")
        stale = challenge("n3")[0] + ", stale=true"
        far.reply(401, stale).takes("ACK").takes("INVITE", "nonce=.n3.*nc=00000001")
        far.reply(200, body=sdp("recvonly", version=2)).takes("ACK")
        far.is_hung_up("nonce=.n3.*nc=0000000[1-9]")
        anna = phone(gateway, "anna").call("04711").talks().pause(0.3)
        anna.inside("INVITE", body=sdp("sendonly", version=2)).talks().pause(1.0).hangs_up()
        await perform(tmp_path, far, anna)


async def test_a_challenge_without_an_account_is_not_answered(tmp_path: Path) -> None:
    """Whoever asks for a proof is told nothing by whom he is not to have one from."""
    async with box(house(PORT), ROUTES) as gateway:
        far = carrier(gateway, PORT).takes("INVITE", absent=["Authorization"])
        far.reply(407, *challenge("n1", name="Proxy-Authenticate"), again=True).takes("ACK")
        anna = phone(gateway, "anna").call("04711").gets(403, maybe=(100,)).ack_refusal()
        await perform(tmp_path, far.pause(0.5), anna)


# Routes


@pytest.mark.parametrize("loose", [True, False])
async def test_two_proxies_stay_in_the_call(tmp_path: Path, loose: bool) -> None:
    """RFC 3261 section 12.2.1.1, and 16.12.1.2 for those that route strictly."""
    near, far_one = f"<sip:near@{CARRIER}:{PORT}{';lr' if loose else ''}>", "<sip:far.test;lr>"
    async with box(house(PORT), ROUTES) as gateway:
        far = carrier(gateway, PORT).takes("INVITE")
        far.reply(200, f"Record-Route: {far_one}, {near}", body=sdp(), again=True)
        if loose:
            wanted = (f"sip:.49815@.*SIP/2.0.*Route: {near}.*Route: {far_one}",)
        else:
            uri, contact = near.strip("<>"), f"<sip:.49815@{CARRIER}:{PORT}>"
            wanted = (f"^[A-Z]+ {uri} SIP/2.0.*Route: {far_one}.*Route: {contact}",)
        far.takes("ACK", *wanted).settled().is_hung_up(*wanted)
        anna = phone(gateway, "anna").call("04711").talks().pause(0.2).hangs_up()
        await perform(tmp_path, far, anna)


async def test_the_way_that_a_registrar_names(tmp_path: Path) -> None:
    """RFC 3608: calls of a registered trunk go by the Service-Route."""
    second = free_port(socket.SOCK_DGRAM)
    more = ACCOUNT + "register = true\n"
    async with box(house(PORT, more), ROUTES) as gateway:
        registrar = carrier(gateway, PORT).takes("REGISTER", "Supported: .*path")
        way = f"<sip:orig@{STRANGE}:{second};lr>"
        registrar.reply(200, f"Service-Route: {way},<sip:core.test;lr>", "Expires: 300")
        far = carrier(gateway, second, STRANGE)
        far.takes(
            "INVITE", f"Route: {way}.*Route: <sip:core.test;lr>", f"INVITE sip:4711@{CARRIER}"
        )
        far.reply(200, body=sdp(), again=True).takes("ACK").settled().is_hung_up()
        anna = phone(gateway, "anna").call("04711").talks().pause(0.2).hangs_up()
        async with registrar.program(tmp_path) as registering:
            await finished(registering)
            await gateway.up("sip/carrier")
            await perform(tmp_path, far, anna)


async def test_the_best_of_several_places(tmp_path: Path) -> None:
    """RFC 3261 section 8.1.3.4: of the Contacts of a 302 the one with the highest q."""
    async with box(HOUSE, ELSEWHERE) as gateway:
        bert = phone(gateway, "bert").takes("INVITE").reply(302, again=True).takes("ACK")
        contact = "Contact: <sip:bert@[local_ip]:[local_port]>"
        bert.steps[-2] = bert.steps[-2].replace(
            contact, "Contact: <sip:999@x>;q=0.2, <sip:203@x>;q=0.9\nContact: <sip:998@x>;q=0.5"
        )
        anna = phone(gateway, "anna").call("202").talks().pause(0.2).hangs_up()
        await perform(tmp_path, anna, bert, phone(gateway, "carl").answers().is_hung_up())


# Texts


async def test_a_text_counts_its_hops(tmp_path: Path) -> None:
    """RFC 3261 section 8.1.1.6: two gateways that route at each other do not go on for ever."""
    async with box(house(PORT), ROUTES) as gateway:
        far = carrier(gateway, PORT)
        far.takes("MESSAGE", "Max-Forwards: 8[^0-9]", "round and round").reply(200)

        def text(hops: int) -> Flow:
            near = carrier(gateway, address=STRANGE)
            near.send("MESSAGE", "94711", body="round and round", kind="text/plain")
            near.steps[-1] = near.steps[-1].replace("Forwards: 70", f"Forwards: {hops}")
            return near

        await perform(tmp_path, far, text(9).gets(202))
        await perform(tmp_path, text(1).gets(202), text(0).gets(483))
        sent = [e.action for e in gateway.seen if isinstance(e.action, SendMessage)]
        assert len(sent) == 1


async def test_texts_that_are_no_plain_text(tmp_path: Path) -> None:
    """RFC 3428 section 4: what cannot be shown is refused, a long one is not cut silently."""
    async with box(house(PORT), ROUTES) as gateway:
        parts = "--x\nContent-Type: text/plain\n\nhi\n--x--"
        mixed = carrier(gateway).send(
            "MESSAGE", "+49301201", body=parts, kind="multipart/mixed;boundary=x"
        )
        await perform(tmp_path, mixed.gets(415, "Accept: text/plain"))


# Who calls, and why

IDENTITY = [
    (["P-Asserted-Identity: <tel:+49-30-5551>, <sip:+49305552@x;user=phone>"], "+49305551", ""),
    (['P-Asserted-Identity: "O\\"Neil, \\\\J" <sip:+49305553@x>'], "+49305553", 'O"Neil, \\J'),
    (["P-Asserted-Identity: <sip:+49305554;isub=12@x;user=phone>"], "+49305554", ""),
    (["P-Asserted-Identity: <SIP:%2B49305555@EXAMPLE.test:5070;lr>"], "+49305555", ""),
    (["P-Asserted-Identity: <sip:+49305556@x>", "Privacy: none"], "+49305556", ""),
    (["P-Asserted-Identity: <sip:+49305557@x>", "Privacy: header;session;critical"], "", ""),
    (["Remote-Party-ID: <sip:+49305558@x>;party=calling;privacy=full"], "", ""),
]


@pytest.mark.parametrize(("lines", "number", "name"), IDENTITY)
async def test_who_calls_as_carriers_say_it(
    tmp_path: Path, lines: list[str], number: str, name: str
) -> None:
    async with box(house(PORT), ROUTES) as gateway:
        flow = carrier(gateway).call("+49301301", *lines).talks().hangs_up()
        await perform(tmp_path, flow)
        offered = await gateway.wait(LegOffered)
    assert (offered.calling, offered.display) == (number, name)


ODD = [
    ("sip:+49301301@", "SIP:%2B49301301@"),
    ("sip:+49301301@[remote_ip]:[remote_port]", "sip:+49301301;isup-oli=62@[remote_ip];user=phone"),
    ("sip:+49301301@[remote_ip]:[remote_port]", "tel:+49-30-1301;isub=1"),
    ("Call-ID: ", "i : "),
    ("Contact: ", "m:"),
    ('From: "+49815"', 'f: "say \\"hi\\", <you> ;tag=9"'),
    ("To: <sip:+49301301", "t:   <sip:+49301301"),
    ("Max-Forwards: 70", 'max-forwards:70\nX-Y: \xe4\nP-Charging-Vector: icid-value=1;a="b;c"'),
    ("Max-Forwards: 70", "Max-Forwards:   70  \nSupported:\nRequire: timer,, replaces"),
    ("Content-Type: application/sdp", "c: Application/SDP ; charset=utf-8"),
    ("Max-Forwards: 70", "Max-Breadth: 1"),
]


@pytest.mark.parametrize(("plain", "odd"), ODD)
async def test_odd_but_legal(tmp_path: Path, plain: str, odd: str) -> None:
    async with box(house(PORT), ROUTES) as gateway:
        flow = carrier(gateway).call("+49301301")
        assert plain in flow.steps[0]
        flow.steps[0] = flow.steps[0].replace(plain, odd, 1)
        await perform(tmp_path, flow.talks().hangs_up())
        assert (await gateway.wait(LegOffered)).called in ("+49301301",)


# Connections


class Stream:
    """A carrier's proxy over TCP, by hand: SIPp ends with its connection."""

    def __init__(self, gateway: Box) -> None:
        self.gateway = gateway
        self.came: asyncio.Queue[str] = asyncio.Queue()
        self.port = port_at(CARRIER)

    async def __aenter__(self) -> Stream:
        self.server = await asyncio.start_server(self._listen, CARRIER, self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()

    async def connect(self) -> asyncio.StreamWriter:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.gateway.port, local_addr=(CARRIER, 0)
        )
        self.reading = asyncio.create_task(self._listen(reader, writer))
        return writer

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = re.search(r"Content-Length: (\d+)", head)
                assert length
                body = await reader.readexactly(int(length[1]))
                self.came.put_nowait(head + body.decode())
                if head.startswith("BYE"):
                    kept = re.findall(r"^(?:Via|From|To|Call-ID|CSeq): .*", head, re.M)
                    answer = "\n".join(["SIP/2.0 200 OK", *kept, "Content-Length: 0", "", ""])
                    writer.write(answer.replace("\r", "").replace("\n", "\r\n").encode())

    async def message(self, start: str) -> str:
        """The next one that begins so."""
        async with asyncio.timeout(10):
            while not (found := await self.came.get()).startswith(start):
                pass
        return found

    def request(self, method: str, to_tag: str = "", body: str = "") -> bytes:
        lines = [
            f"{method} sip:+49301301@127.0.0.1 SIP/2.0",
            f"Via: SIP/2.0/TCP {CARRIER}:{self.port};branch=z9hG4bK{method}",
            "From: <sip:a@b>;tag=a", f"To: <sip:+49301301@127.0.0.1>{to_tag}",
            "Call-ID: stream", f"CSeq: 1 {method}", "Max-Forwards: 70",
            f"Contact: <sip:a@{CARRIER}:{self.port};transport=tcp>",
            *(["Content-Type: application/sdp"] if body else []),
            f"Content-Length: {len(body)}", "", body,
        ]  # fmt: skip
        return "\r\n".join(lines).encode()


BODY = (
    f"v=0\r\no=- 1 1 IN IP4 {CARRIER}\r\ns=-\r\nc=IN IP4 {CARRIER}\r\nt=0 0\r\n"
    "m=audio 40000 RTP/AVP 0\r\n"
)


@pytest.mark.parametrize("when", ["while it rings", "while they talk"])
async def test_a_connection_that_breaks(tmp_path: Path, when: str) -> None:
    """RFC 3261 sections 18.2.2 and 12.2.1.1: answers go to where Via says, over a new connection,
    and requests to the Contact."""
    async with box(house(PORT), ROUTES) as gateway, Stream(gateway) as far:
        writer = await far.connect()
        writer.write(far.request("INVITE", body=BODY))
        if when == "while it rings":
            await far.message("SIP/2.0 100")
            writer.close()
        answer = await far.message("SIP/2.0 200")
        tag = re.search(r"^To: .*(;tag=\w+)", answer, re.M)
        assert tag
        if when == "while it rings":
            writer = await far.connect()
        writer.write(far.request("ACK", tag[1]))
        await gateway.connected("sip/carrier#1")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        gateway.gateway.emit(HangupRequested(leg="sip/carrier#1", by="test"))
        await far.message("BYE sip:a@")
        legs = await gateway.legs(2)
    assert {leg.cause for leg in legs.values()} == {"normal"}
