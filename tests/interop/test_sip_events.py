"""Lamps, messages waiting, presence, registrations: SIPp subscribes as a telephone would."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.core.events import InputChanged
from tests.interop.peers import Box, box, need, until
from tests.interop.peers import phone as softphone
from tests.interop.sipp_flow import Flow, finished, played

pytestmark = pytest.mark.interop

PHONES = """
codecs = ["PCMU"]
digest = ["MD5"]
keepalive_s = 0
[adapters.sip.phones.anna]
password = "a1"
number = "201"
picks_up = ["loopback/*"]
mailbox = "loopback/door:messages"
[adapters.sip.phones.bert]
password = "b1"
number = "202"
watches = ["sip/*"]
[adapters.sip.phones.carl]
password = "c1"
number = "203"
"""
SUMMARY = "application/simple-message-summary"
ELSEWHERE = """
[adapters.loopback.ports.door]
number = "301"
answer_s = 2.0
"""


@contextlib.asynccontextmanager
async def house(more: str = "") -> AsyncIterator[Box]:
    async with box(PHONES, more) as gateway:
        yield gateway


def phone(gateway: Box, user: str) -> Flow:
    return Flow(user, gateway, password=f"{user[0]}1")


async def test_a_lamp_follows_a_call_and_goes_out(tmp_path: Path) -> None:
    async with house() as gateway:
        lamp = (
            phone(gateway, "anna").send("SUBSCRIBE", "202", "Event: dialog", "Expires: 120")
            .gets(200, "Expires: 120")
            .takes("NOTIFY", "Subscription-State: active", 'version="0"', absent=["<dialog "])
            .reply(200)
            .takes("NOTIFY", 'version="1"', 'direction="recipient"', "<state>(trying|early)")
            .reply(200)
            .takes("NOTIFY", "<state>confirmed</state>", absent=["call-id="]).reply(200)
            .takes("NOTIFY", "<state>terminated</state>").reply(200)
            .inside("SUBSCRIBE", "Event: dialog", "Expires: 0").gets(200)
            .takes("NOTIFY", "Subscription-State: terminated").reply(200)
        )  # fmt: skip
        bert = phone(gateway, "bert")
        await bert.registered(tmp_path)
        carl = phone(gateway, "carl").call("202").talks().pause(0.6).hangs_up()
        bert.answers(ring=False, after=0.5).is_hung_up()
        async with lamp.program(tmp_path) as watching, bert.program(tmp_path) as called:
            await until(lambda: gateway.sip._watchers._watches, "anna watches")
            await played(carl.program(tmp_path))
            await finished(called)
            await finished(watching)
        assert not gateway.sip._watchers._watches
        assert not gateway.sip._watchers._lines


async def test_a_call_at_another_network_is_seen_and_picked_up(tmp_path: Path) -> None:
    async with house(ELSEWHERE) as gateway:
        lamp = (
            phone(gateway, "anna").send("SUBSCRIBE", "loopback/door", "Event: dialog")
            .gets(200).takes("NOTIFY").reply(200)
            .takes("NOTIFY", "<state>early</state>", 'call-id="[0-9a-f]+"').reply(200)
            .takes("NOTIFY", "<state>terminated").reply(200)
        )  # fmt: skip
        carl = phone(gateway, "carl").call("301").gets(180, maybe=(100,)).talks().is_hung_up()
        async with lamp.program(tmp_path) as watching:
            await until(lambda: gateway.sip._watchers._watches, "anna watches")
            async with carl.program(tmp_path) as caller:
                shown = watching.directory / "messages"
                await until(lambda: "early" in shown.read_text(), "the lamp blinks")
                ids = re.findall(r'call-id="(\w+)" local-tag="(\w+)" remote-tag="(\w+)"',
                                 shown.read_text())[-1]  # fmt: skip
                named = "Replaces: {};to-tag={};from-tag={}".format(*ids)
                # Bert may watch it, but not pick up.
                thief = phone(gateway, "bert").call("301", named).gets(481, maybe=(100,))
                await played(thief.ack_refusal().program(tmp_path, "thief"))
                anna = phone(gateway, "anna").call("301", named, "Require: replaces")
                await played(anna.talks().pause(0.3).hangs_up().program(tmp_path, "pickup"))
                await finished(caller)
            await finished(watching)
        legs = await gateway.legs(3)
    assert legs["loopback/door#1"].cause == "answered-elsewhere"
    assert {legs[name].cause for name in ("sip/carl#1", "sip/anna#1")} == {"normal"}


async def test_a_watcher_finds_its_session_in_our_log(tmp_path: Path) -> None:
    """RFC 7989 outside of calls: REGISTER, OPTIONS, SUBSCRIBE to the last NOTIFY."""
    traced, nobody = "ab30317f1a784dc48ff824d0d3715d86", "0" * 32
    ours = f"Session-ID: [0-9a-f]{{32}};remote={traced}"
    session = f"Session-ID: {traced};remote={nobody}"
    async with house() as gateway:
        registers = phone(gateway, "anna").send("REGISTER", "anna", session, "Expires: 300")
        await played(registers.gets(200, ours).program(tmp_path, "register"))
        asks = Flow("anna", gateway).send("OPTIONS", "201", session).gets(200, ours)
        await played(asks.program(tmp_path, "options"))
        lamp = (
            phone(gateway, "anna").send("SUBSCRIBE", "202", session, "Event: dialog")
            .gets(200, ours).takes("NOTIFY", ours).reply(200, session)
            .inside("SUBSCRIBE", session, "Event: dialog", "Expires: 0").gets(200, ours)
            .takes("NOTIFY", "terminated", ours).reply(200)
        )  # fmt: skip
        messages = await played(lamp.program(tmp_path, "lamp"))
        halves = re.findall(rf"Session-ID: ([0-9a-f]{{32}});remote={traced}", messages)
        assert len(halves) >= 4
        assert len(set(halves)) == 1


async def test_messages_presence_and_registration(tmp_path: Path) -> None:
    async with house(ELSEWHERE) as gateway:
        mail = (
            phone(gateway, "anna")
            .send("SUBSCRIBE", "anna", "Event: message-summary", f"Accept: {SUMMARY}")
            .gets(200)
            .takes("NOTIFY", f"Content-Type: {SUMMARY}", "Messages-Waiting: no")
            .reply(200)
            .takes("NOTIFY", "Messages-Waiting: yes", "Voice-Message: 3/0").reply(200)
        )  # fmt: skip
        there = (
            phone(gateway, "anna").send("SUBSCRIBE", "202", "Event: presence").gets(200)
            .takes("NOTIFY", "<basic>closed</basic>").reply(200)
            .takes("NOTIFY", "<basic>open</basic>").reply(200)
        )  # fmt: skip
        bert = phone(gateway, "bert")
        bound = (
            phone(gateway, "bert").send("SUBSCRIBE", "bert", "Event: reg").gets(200)
            .takes("NOTIFY", 'state="init"').reply(200)
            .takes("NOTIFY", 'state="active"', f"<uri>sip:bert@127.0.2.31:{bert.port}").reply(200)
        )  # fmt: skip
        async with (
            mail.program(tmp_path) as one,
            there.program(tmp_path) as two,
            bound.program(tmp_path) as three,
        ):
            await until(lambda: len(gateway.sip._watchers._watches) == 3, "all watch")
            gateway.gateway.emit(
                InputChanged(endpoint="loopback/door", input="messages", value=3.0)
            )
            await bert.registered(tmp_path)
            for program in (one, two, three):
                await finished(program)


async def test_what_is_not_watched(tmp_path: Path) -> None:
    async with house(ELSEWHERE) as gateway:
        asked = {
            "package": phone(gateway, "anna").send("SUBSCRIBE", "202", "Event: conference")
            .gets(489, "Allow-Events: dialog, message-summary, presence, reg"),
            "nothing": phone(gateway, "anna").send("SUBSCRIBE", "202").gets(489),
            "nobody": phone(gateway, "anna").send("SUBSCRIBE", "999", "Event: dialog").gets(404),
            "mailbox": phone(gateway, "anna").send("SUBSCRIBE", "202", "Event: message-summary")
            .gets(403),
            "elsewhere": phone(gateway, "bert").send("SUBSCRIBE", "301", "Event: dialog").gets(403),
            "form": phone(gateway, "anna")
            .send("SUBSCRIBE", "202", "Event: dialog", "Accept: text/plain").gets(406),
            "stranger": Flow("anna", gateway).send("SUBSCRIBE", "202", "Event: reg").gets(401),
            "once": phone(gateway, "anna").send("SUBSCRIBE", "202", "Event: dialog", "Expires: 0")
            .gets(200, "Expires: 0").takes("NOTIFY", "State: terminated", "dialog-info")
            .reply(200),
        }  # fmt: skip
        await asyncio.gather(*(played(flow.program(tmp_path, n)) for n, flow in asked.items()))
        assert gateway.counters["watchers_refused"] == 6
        assert not gateway.sip._watchers._watches


async def test_a_phone_takes_no_more_subscriptions_than_its_share(tmp_path: Path) -> None:
    async with box("max_subscriptions = 1\n" + PHONES) as gateway:
        first = (
            phone(gateway, "anna").send("SUBSCRIBE", "202", "Event: dialog").gets(200)
            .takes("NOTIFY").reply(200).takes("NOTIFY", "reason=deactivated").reply(200)
        )  # fmt: skip
        async with first.program(tmp_path, "first") as watching:
            await until(lambda: gateway.sip._watchers._watches, "anna watches")
            second = phone(gateway, "anna").send("SUBSCRIBE", "203", "Event: dialog")
            await played(second.gets(503, "Retry-After").program(tmp_path, "second"))
            other = phone(gateway, "bert").send("SUBSCRIBE", "203", "Event: dialog")
            await played(other.gets(200).takes("NOTIFY").reply(200).program(tmp_path, "other"))
            gateway.gateway.stop()
            await finished(watching)


async def test_messages_at_a_carrier_light_a_phone(tmp_path: Path) -> None:
    far = Flow("account", None, address="127.0.2.34")
    sip = PHONES.replace("loopback/door:messages", "sip/carrier:messages") + (
        f'[adapters.sip.trunks.carrier]\npeer = "sip:{far.address}:{far.port}"\n'
        'user = "account"\nkeepalive_s = 0\nmessages = true\n'
    )
    far.takes("SUBSCRIBE", "Event: message-summary", f"Accept: {SUMMARY}")
    far.reply(200, "Expires: 600").settled()
    far.inside("NOTIFY", "Event: message-summary", "Subscription-State: active;expires=600",
               body="Messages-Waiting: yes\nVoice-Message: 2/8 (0/2)", kind=SUMMARY)  # fmt: skip
    far.gets(200)
    far.takes("SUBSCRIBE", "Expires: 0").reply(200)
    async with box(sip) as gateway:
        far.box = gateway
        mail = (
            phone(gateway, "anna").send("SUBSCRIBE", "anna", "Event: message-summary").gets(200)
            .takes("NOTIFY").reply(200).takes("NOTIFY", "Voice-Message: 2/0").reply(200)
        )  # fmt: skip
        async with mail.program(tmp_path, "anna") as watching, far.program(tmp_path) as carrier:
            told = await gateway.wait(InputChanged)
            assert (told.endpoint, told.input, told.value) == ("sip/carrier", "messages", 2.0)
            await finished(watching)
            gateway.gateway.stop()
            await finished(carrier)


BUSY = (
    '<?xml version="1.0"?>\n<presence xmlns="urn:ietf:params:xml:ns:pidf" entity="sip:202@box"'
    ' xmlns:dm="urn:ietf:params:xml:ns:pidf:data-model"'
    ' xmlns:r="urn:ietf:params:xml:ns:pidf:rpid">\n'
    '<tuple id="a"><status><basic>open</basic></status><note>back at five</note></tuple>\n'
    '<dm:person id="p"><r:activities><r:meeting/></r:activities></dm:person></presence>'
)
PIDF = "application/pidf+xml"


async def test_presence_that_a_phone_publishes(tmp_path: Path) -> None:
    """RFC 3903, SIPp as publisher: what it says is told to who watches it, until it runs out."""
    async with box("min_expires_s = 10\n" + PHONES) as gateway:
        bert = phone(gateway, "bert")
        await bert.registered(tmp_path)
        there = (
            phone(gateway, "anna").send("SUBSCRIBE", "202", "Event: presence").gets(200)
            .takes("NOTIFY", "<basic>open</basic>", absent=["<note>"]).reply(200)
            .takes("NOTIFY", "<basic>open</basic>", "<note>back at five</note>", "<rpid:meeting/>")
            .reply(200)
            .takes("NOTIFY", "<basic>open</basic>", absent=["<note>"]).reply(200)
        )  # fmt: skip
        async with there.program(tmp_path, "anna") as watching:
            shown = watching.directory / "messages"
            await until(lambda: shown.exists() and "<basic>open" in shown.read_text(), "NOTIFY")
            says = phone(gateway, "bert").send(
                "PUBLISH", "202", "Event: presence", "Expires: 600", body=BUSY, kind=PIDF
            )
            said = await played(says.gets(200, "SIP-ETag: ").program(tmp_path, "says"))
            tag = re.findall(r"SIP-ETag: (\w+)", said)[-1]
            await until(lambda: "back at five" in shown.read_text(), "it is told")
            refused = {
                "other": phone(gateway, "anna")
                .send("PUBLISH", "202", "Event: presence", body=BUSY, kind=PIDF).gets(403),
                "stale": phone(gateway, "bert")
                .send("PUBLISH", "202", "Event: presence", "SIP-If-Match: x").gets(412),
                "brief": phone(gateway, "bert")
                .send("PUBLISH", "202", "Event: presence", "Expires: 2", body=BUSY, kind=PIDF)
                .gets(423, "Min-Expires: 10"),
                "package": phone(gateway, "bert")
                .send("PUBLISH", "202", "Event: dialog", body="x", kind="text/plain").gets(489),
                "stranger": Flow("bert", gateway)
                .send("PUBLISH", "202", "Event: presence", body=BUSY, kind=PIDF).gets(401),
            }  # fmt: skip
            await asyncio.gather(
                *(played(flow.program(tmp_path, n)) for n, flow in refused.items())
            )
            ends = phone(gateway, "bert").send(
                "PUBLISH", "202", "Event: presence", f"SIP-If-Match: {tag}", "Expires: 0"
            )
            await played(ends.gets(200, "Expires: 0").program(tmp_path, "ends"))
            await finished(watching)
        assert gateway.counters["publications_refused"] == 4


async def test_baresip_publishes_and_baresip_is_told(tmp_path: Path) -> None:
    need("baresip")
    async with house() as gateway:
        await phone(gateway, "bert").registered(tmp_path)
        bert = softphone(tmp_path, "bert", "b1", gateway, hz=440, extra=";pubint=60")
        bert.extra = "module_app\t\tpresence.so\n"
        anna = softphone(tmp_path, "anna", "a1", gateway, hz=1000)
        anna.extra = "module_app\t\tpresence.so\n"
        anna.directory.mkdir(parents=True, exist_ok=True)
        contact = f'"Bert" <{gateway.uri("202")}>;presence=p2p\n'
        (anna.directory / "contacts").write_text(contact)
        async with bert, anna:
            log = anna.directory / "log"

            def told() -> list[str]:
                return re.findall(r"<basic>(\w+)</basic>", log.read_text(errors="replace"))

            await until(lambda: told()[-1:] == ["open"], "anna sees bert")
            await bert.command("presence_offline")
            await until(lambda: told()[-1:] == ["closed"], "anna sees that bert is away")
            await bert.command("presence_online")
            await until(lambda: told()[-1:] == ["open"], "anna sees bert again")
        assert "PUBLISH sip:" in (bert.directory / "log").read_text(errors="replace")
        assert not gateway.counters["publications_refused"]
