"""What carriers do around calls: registrations on their terms, servers that fail, transfers across
trunks, subscriptions, messages too large for UDP; each with SIPp as the carrier."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from gateway.core.events import CallRequested, HangupRequested, LegHeld
from gateway.lab.softphone import free_port
from gateway.testing import until
from tests.interop.certificates import Authority
from tests.interop.peers import Program, box, need
from tests.interop.sipp_flow import finished, perform, played, sdp
from tests.interop.test_sip_carrier import ACCOUNT, later
from tests.interop.test_sip_details import CARRIER, ROUTES, STRANGE, carrier, house
from tests.interop.test_sip_services import ELSEWHERE, HOUSE, phone, tags
from tests.interop.test_sip_tls import secure
from tests.name_server import name_server

pytestmark = pytest.mark.interop

PORT = free_port(socket.SOCK_DGRAM)


# Registrations


async def test_a_registrar_has_its_own_terms(tmp_path: Path) -> None:
    """423 asks for longer, the 200 grants less, and a border shows it by a Contact of its own."""
    more = ACCOUNT + "register = true\nexpires_s = 90\n"
    async with box(house(PORT, more), ROUTES) as gateway:
        far = carrier(gateway, PORT).takes("REGISTER", "Expires: 90")
        far.reply(423, "Min-Expires: 120").takes("REGISTER", "Expires: 120")
        far.reply(200)
        far.steps[-1] = far.steps[-1].replace(
            "Contact: <sip:+49815@[local_ip]:[local_port]>",
            "Contact: <sip:gw@192.0.2.9:1024>;expires=3",
        )
        far.takes("REGISTER", "Expires: 120").reply(200, "Expires: 120")
        async with far.program(tmp_path) as registrar:
            await finished(registrar)
            await gateway.up("sip/carrier")


# Servers


async def test_a_server_that_cannot_and_one_that_can(tmp_path: Path) -> None:
    """RFC 3263 section 4.3: several addresses of one name; 503 leads to the next."""
    first, second = CARRIER, STRANGE
    zone = (
        f"srv-host=_sip._udp.many.test,a.many.test,{PORT},10,1",
        f"host-record=a.many.test,{first}",
        f"srv-host=_sip._udp.many.test,b.many.test,{PORT},20,1",
        f"host-record=b.many.test,{second}",
    )
    async with name_server(tmp_path / "dns", *zone) as names:
        sip = f'nameservers = ["127.0.0.1:{names.port}"]\n' + HOUSE
        sip += '[adapters.sip.trunks.carrier]\npeer = "sip:many.test"\nkeepalive_s = 0\n'
        routes = (
            ELSEWHERE + '[[routes]]\nname = "o"\ncalled = "0(X.)"\ntargets = ["sip/carrier:{1}"]\n'
        )
        async with box(sip, routes) as gateway:
            await gateway.up("sip/carrier")
            one = carrier(gateway, PORT).takes("INVITE", "INVITE sip:4711@many.test")
            one.reply(503, "Retry-After: 30").takes("ACK")
            two = carrier(gateway, PORT, STRANGE)
            two.user = "+49816"
            two.takes("INVITE", "INVITE sip:4711@many.test")
            two.reply(200, body=sdp(), again=True).takes("ACK").settled().is_hung_up()
            anna = phone(gateway, "anna").call("04711").talks().pause(0.2).hangs_up()
            await perform(tmp_path, one, two, anna)
            assert gateway.counters["failovers"] == 1


async def test_a_carrier_that_wants_tls_first(tmp_path: Path) -> None:
    """RFC 3263 section 4.1: NAPTR says which transport, openssl what it was asked over."""
    need("openssl")
    authority = Authority(tmp_path / "ca")
    ours, theirs = (authority.issue(n, f"DNS:{n}.test") for n in ("box", "carrier"))
    port = free_port()
    zone = (
        "naptr-record=carrier.test,20,50,S,SIP+D2U,,_sip._udp.carrier.test",
        "naptr-record=carrier.test,10,50,S,SIPS+D2T,,_sips._tcp.carrier.test",
        f"srv-host=_sips._tcp.carrier.test,a.carrier.test,{port},10,1",
        f"srv-host=_sip._udp.carrier.test,a.carrier.test,{PORT},10,1",
        f"host-record=a.carrier.test,{CARRIER}",
    )
    command = ["openssl", "s_server", "-accept", f"{CARRIER}:{port}", "-cert", str(theirs)]
    command += ["-key", str(theirs)]
    async with name_server(tmp_path / "dns", *zone) as names:
        sip = secure(ours, authority) + f'nameservers = ["127.0.0.1:{names.port}"]\n'
        sip += '[adapters.sip.trunks.carrier]\npeer = "sip:carrier.test"\nkeepalive_s = 0.5\n'
        async with (
            Program(command, tmp_path / "server", server_port=port) as server,
            box(sip) as gateway,
        ):
            await server.says("OPTIONS sip:carrier.test")
            assert "Via: SIP/2.0/TLS" in server.said()
            shown = gateway.gateway.places["sip/carrier"][0].detail["address"]
            assert shown == f"tls:{CARRIER}:{port}"
            assert not gateway.counters["certificates_refused"]


async def test_the_way_that_a_registrar_names_is_checked(tmp_path: Path) -> None:
    """RFC 3608 over TLS: whose certificate it is to be, the Service-Route says; openssl has it."""
    need("openssl")
    authority = Authority(tmp_path / "ca")
    ours, theirs = (authority.issue(n, f"DNS:{n}.test") for n in ("box", "edge"))
    port = free_port()
    command = ["openssl", "s_server", "-accept", f"127.0.2.34:{port}", "-cert", str(theirs)]
    command += ["-key", str(theirs)]
    async with name_server(tmp_path / "dns", "host-record=edge.test,127.0.2.34") as names:
        sip = secure(ours, authority) + f'nameservers = ["127.0.0.1:{names.port}"]\n'
        sip += house(PORT, ACCOUNT + "register = true\n")
        async with (
            Program(command, tmp_path / "server", server_port=port) as server,
            box(sip, ROUTES) as gateway,
        ):
            far = carrier(gateway, PORT).takes("REGISTER")
            far.reply(200, f"Service-Route: <sip:edge.test:{port};transport=tls;lr>")
            async with far.program(tmp_path) as registrar:
                await finished(registrar)
                await gateway.up("sip/carrier")
            state = gateway.sip._trunks._states["carrier"]
            await until(lambda: bool(state.ways), "the way is known")
            gateway.gateway.emit(
                CallRequested(origin="sip/carrier:1", target="sip/carrier:1", trace="t1")
            )
            await server.says("INVITE sip:1@")
            assert not gateway.counters["certificates_refused"]


async def test_what_is_too_large_for_udp_goes_over_tcp(tmp_path: Path) -> None:
    """RFC 3261 section 18.1.1, and so do the requests after it that are."""
    async with box("tcp_above = 500\n" + house(PORT), ROUTES) as gateway:
        far = carrier(gateway, PORT).takes("INVITE", "Via: SIP/2.0/TCP ")
        far.reply(200, body=sdp(), again=True).takes("ACK").settled()
        far.is_hung_up("Via: SIP/2.0/TCP ")
        far.steps = [step.replace("_port]>", "_port];transport=tcp>") for step in far.steps]
        program = far.program(tmp_path)
        program.command[1:1] = ["-t", "t1"]
        async with program:
            anna = phone(gateway, "anna").call("04711").talks().pause(0.2).hangs_up()
            await played(anna.program(tmp_path))
            await finished(program)


async def test_an_interval_that_is_too_short_for_the_carrier(tmp_path: Path) -> None:
    """RFC 4028 section 7.3."""
    async with box(house(PORT), ROUTES) as gateway:
        far = carrier(gateway, PORT).takes("INVITE", "Session-Expires: 1800", "Min-SE: 90")
        far.reply(422, "Min-SE: 3600", again=True).takes("ACK")
        far.takes("INVITE", "Session-Expires: 3600", "Min-SE: 3600", "CSeq: 2 INVITE")
        far._first = True
        far.reply(
            200, "Session-Expires: 3600;refresher=uac", "Require: timer", body=sdp(), again=True
        )
        far.takes("ACK").settled().is_hung_up()
        anna = phone(gateway, "anna").call("04711").talks().pause(0.2).hangs_up()
        await perform(tmp_path, far, anna)


# Races and losses


async def test_a_prack_that_nobody_answers(tmp_path: Path) -> None:
    async with box(house(PORT), ROUTES) as gateway:
        far = carrier(gateway, PORT).takes("INVITE")
        far.reply(183, "Require: 100rel", "RSeq: 9", body=sdp()).takes("PRACK").settled()
        later(far, 200, body=sdp()).takes("ACK").is_hung_up()
        anna = phone(gateway, "anna").call("04711").talks(maybe=(100, 183)).pause(0.2).hangs_up()
        await perform(tmp_path, far, anna)


async def test_both_hang_up_at_once(tmp_path: Path) -> None:
    async with box(house(PORT), ROUTES) as gateway:
        flow = carrier(gateway).call("+49301301").talks().takes("BYE")
        kept = {"Via": "via", "CSeq": "seq", "To": "to", "From": "from"}
        notes = "".join(
            f'<ereg regexp=".*" search_in="hdr" header="{name}:" assign_to="{value}"/>'
            for name, value in kept.items()
        )
        flow.steps[-1] = flow.steps[-1].replace("<action>", f"<action>{notes}")
        flow.inside("BYE").gets(481).reply(200)
        for name, value in kept.items():
            flow.steps[-1] = flow.steps[-1].replace(f"[last_{name}:]", f"{name}:[${value}]")
        flow.steps.append('<nop><action><log message="[$via][$seq][$to][$from]"/></action></nop>')
        async with flow.program(tmp_path) as peer:
            await gateway.connected("sip/carrier#1")
            gateway.gateway.emit(HangupRequested(leg="sip/carrier#1", by="test"))
            await finished(peer)
        legs = await gateway.legs(2)
    assert {leg.cause for leg in legs.values()} == {"normal"}


async def test_both_forms_of_hold_at_once(tmp_path: Path) -> None:
    async with box(HOUSE, ELSEWHERE) as gateway:
        anna = phone(gateway, "anna").call("202").talks()
        both = sdp("inactive", version=2, address="0.0.0.0")
        anna.inside("INVITE", body=both).talks("a=inactive").pause(0.5)
        anna.inside("INVITE", body=sdp(version=3)).talks("a=sendrecv").pause(0.5)
        bert = phone(gateway, "bert").answers()
        for version, (way, back) in enumerate([("inactive",) * 2, ("sendrecv",) * 2], 2):
            bert.takes("INVITE", f"a={way}").reply(200, body=sdp(back, version=version))
            bert.takes("ACK")
        await perform(tmp_path, anna.hangs_up(), bert.is_hung_up())
        held = [e.event.leg for e in gateway.seen if isinstance(e.event, LegHeld)]
    assert held == ["sip/anna#1"]


# Transfers


async def test_who_transfers_hangs_up_at_once(tmp_path: Path) -> None:
    """RFC 5589 section 6.1: many telephones say BYE behind their REFER; the transfer goes on, and
    they are still told (RFC 3515 section 2.4.4)."""
    async with box(HOUSE, ELSEWHERE) as gateway:
        anna = phone(gateway, "anna").call("202").talks().pause(0.2)
        anna.inside("REFER", "Refer-To: <sip:203@[remote_ip]>").gets(202)
        anna.takes("NOTIFY", "SIP/2.0 100").reply(200)
        anna.hangs_up()
        anna.takes("NOTIFY", "SIP/2.0 200", "terminated").reply(200)
        bert = phone(gateway, "bert").answers().is_hung_up()
        carl = phone(gateway, "carl").answers(after=0.5, ring=False).pause(0.5).hangs_up()
        await perform(tmp_path, anna, bert, carl)


async def test_attended_transfer_between_two_trunks(tmp_path: Path) -> None:
    """RFC 5589 section 7: a telephone joins a caller of one network with somebody of another."""
    async with box(house(PORT), ROUTES) as gateway:
        caller = carrier(gateway, address=STRANGE).call("+49301202").talks().is_hung_up()
        bert = phone(gateway, "bert").answers().pause(1.2)
        far = carrier(gateway, PORT).takes("INVITE").reply(200, body=sdp(), again=True)
        far.takes("ACK").settled().pause(2.5).hangs_up()
        await bert.registered(tmp_path)
        second = phone(gateway, "bert").call("04711").talks().is_hung_up()
        async with far.program(tmp_path, "far") as away:
            async with second.program(tmp_path, "second") as consulting:
                await gateway.connected("sip/bert#1")
                call_id, ours, theirs = tags(gateway, "sip/bert#1")
                named = f"{call_id}%3Bto-tag%3D{ours}%3Bfrom-tag%3D{theirs}".replace("@", "%40")
                refer = f"Refer-To: <sip:4711@[remote_ip]?Replaces={named}&Require=replaces>"
                bert.inside("REFER", refer).gets(202).takes("NOTIFY").reply(200)
                bert.takes("NOTIFY", "SIP/2.0 200").reply(200).is_hung_up()
                async with bert.program(tmp_path, "bert") as first:
                    await played(caller.program(tmp_path, "caller"))
                    await finished(first)
                await finished(consulting)
            await finished(away)
        legs = await gateway.legs(4)
    assert {leg.cause for leg in legs.values()} == {"normal"}


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["Refer-To: <tel:203;phone-context=x>"], 202),
        (["Refer-To: sip:203@x.test"], 202),
        (["r: <sip:203@x.test;method=INVITE>", "Refer-Sub: false"], 202),
        (["Refer-To: <mailto:a@b>"], 416),
        (["Refer-To: <sip:203@x>, <sip:204@x>"], 400),
        ([], 400),
    ],
)
async def test_refer_in_every_form(tmp_path: Path, lines: list[str], status: int) -> None:
    async with box(house(PORT), ROUTES) as gateway:
        anna = phone(gateway, "anna").call("202").talks().pause(0.2)
        anna.inside("REFER", *lines).gets(status, *(["Refer-Sub: false"] if len(lines) > 1 else []))
        bert = phone(gateway, "bert").answers().is_hung_up()
        if status != 202:
            await perform(tmp_path, anna.hangs_up(), bert)
            return
        if len(lines) < 2:
            anna.takes("NOTIFY", "SIP/2.0 100").reply(200)
            anna.takes("NOTIFY", "SIP/2.0 200").reply(200)
        carl = phone(gateway, "carl").answers(ring=False).pause(0.5).hangs_up()
        await perform(tmp_path, anna.is_hung_up(), bert, carl)


async def test_news_of_a_transfer_for_longer_or_no_more(tmp_path: Path) -> None:
    """RFC 3515 section 2.4.4: the subscription that a REFER makes is one."""
    async with box(HOUSE, ELSEWHERE) as gateway:
        anna = phone(gateway, "anna").call("202").talks().pause(0.2)
        anna.inside("SUBSCRIBE", "Event: refer", "Expires: 60").gets(481)
        anna.inside("SUBSCRIBE", "Event: kpml").gets(489, "Allow-Events: refer")
        anna.inside("REFER", "Refer-To: <sip:203@[remote_ip]>").gets(202)
        refer = anna._cseq
        anna.takes("NOTIFY", "SIP/2.0 100").reply(200)
        anna.inside("SUBSCRIBE", f"Event: refer;id={refer}", "Expires: 60")
        anna.gets(200, "Expires: 60").takes("NOTIFY", "active;expires=60", "SIP/2.0 100").reply(200)
        anna.inside("SUBSCRIBE", f"Event: refer;id={refer + 7}", "Expires: 60").gets(481)
        anna.inside("SUBSCRIBE", "Event: refer", "Expires: 0").gets(200, "Expires: 0")
        anna.takes("NOTIFY", "terminated;reason=timeout").reply(200).is_hung_up()
        bert = phone(gateway, "bert").answers().is_hung_up()
        carl = phone(gateway, "carl").answers(after=2.0, ring=False).pause(0.5).hangs_up()
        await perform(tmp_path, anna, bert, carl)


# Subscriptions


async def test_a_subscription_goes_on_and_ends(tmp_path: Path) -> None:
    """RFC 6665 sections 4.1.2.2 and 4.1.2.3."""
    async with box(HOUSE, ELSEWHERE) as gateway:
        anna = phone(gateway, "anna").send("SUBSCRIBE", "202", "Event: dialog", "Expires: 600")
        anna.gets(200, "Expires: 600")
        anna.takes("NOTIFY", "active;expires=").reply(200)
        anna.inside("SUBSCRIBE", "Event: dialog", "Expires: 300").gets(200, "Expires: 300")
        anna.takes("NOTIFY", "active;expires=", 'state="full"').reply(200)
        anna.inside("SUBSCRIBE", "Event: presence", "Expires: 300").gets(489)
        anna.inside("SUBSCRIBE", "Event: dialog", "Expires: 0").gets(200, "Expires: 0")
        anna.takes("NOTIFY", "terminated;reason=timeout").reply(200)
        await perform(tmp_path, anna.inside("SUBSCRIBE", "Event: dialog").gets(481))


async def test_a_watcher_that_is_gone(tmp_path: Path) -> None:
    """RFC 6665 section 4.2.2: 481 ends its subscription."""
    async with box(HOUSE, ELSEWHERE) as gateway:
        anna = phone(gateway, "anna").send("SUBSCRIBE", "202", "Event: dialog").gets(200)
        anna.takes("NOTIFY").reply(481)
        await perform(tmp_path, anna.pause(0.3).inside("SUBSCRIBE", "Event: dialog").gets(481))
        assert gateway.sip.holds()["subscriptions"] == 0


async def test_no_hops_left(tmp_path: Path) -> None:
    async with box(house(PORT), ROUTES) as gateway:
        flow = carrier(gateway).call("+49301301").gets(483, maybe=(100,)).ack_refusal()
        flow.steps[0] = flow.steps[0].replace("Max-Forwards: 70", "Max-Forwards: 0")
        await perform(tmp_path, flow)
