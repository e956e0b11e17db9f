"""Asterisk as others' telephone system, where the gateway has an account like any telephone."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.core.endpoints import Condition
from gateway.core.events import (
    CallRequested,
    DigitPressed,
    InputChanged,
    LegOffered,
    MessageReceived,
)
from gateway.lab.softphone import Softphone
from gateway.testing.audio import level_at, read_wav
from tests.interop.asterisk import ADDRESS, MUSIC_HZ, Asterisk, account
from tests.interop.peers import Box, assert_hears, box, common_port, need, phone, until
from tests.interop.sipp_flow import Flow, finished, played
from tests.interop.test_sip_services import tags

pytestmark = pytest.mark.interop

SIP = """
codecs = ["PCMU"]
digest = ["MD5"]
{more}
[adapters.sip.phones.anna]
password = "a1"
number = "201"
[adapters.sip.phones.bert]
password = "b1"
number = "202"
[adapters.sip.trunks.pbx]
peer = "sip:{address}:{port}"
register = true
user = "gw"
password = "gwpw"
keepalive_s = 1.0
no_response_s = 2.0
{trunk}
"""
ROUTES = """
[[routes]]
name = "out"
called = "0(X.)"
targets = ["sip/pbx:{1}"]
[[routes]]
name = "in"
from = ["sip/pbx"]
called = "2XX"
targets = ["directory:{called}"]
ring_s = 5.0
"""
TALK_S = 2.5


class House:
    """The gateway with anna (1000 Hz), and Asterisk with dora (600 Hz)."""

    def __init__(self, gateway: Box, pbx: Asterisk, anna: Softphone, dora: Softphone) -> None:
        self.gateway, self.pbx, self.anna, self.dora = gateway, pbx, anna, dora

    def there(self, number: str) -> str:
        """A number at Asterisk, for its telephones."""
        return f"sip:{number}@{ADDRESS}:{self.pbx.port}"

    async def talk(self) -> None:
        """Anna calls dora."""
        await self.anna.dial(self.gateway.uri("0600"))
        await self.anna.wait("CALL_ESTABLISHED")
        await self.dora.wait("CALL_ESTABLISHED")
        await asyncio.sleep(TALK_S)


@contextlib.asynccontextmanager
async def house(
    tmp_path: Path,
    *,
    more: str = "",
    trunk: str = "",
    lines: tuple[str, ...] = (),
    aor: tuple[str, ...] = (),
    dialplan: str = "",
    answer: str = "auto",
    files: dict[str, str] | None = None,
) -> AsyncIterator[House]:
    """`more`, `trunk`: of the gateway's configuration; `lines`, `aor`: of its account there."""
    need("baresip")
    port = common_port()
    dialplan = "exten => 600,1,Goto(9002,1)\n" + dialplan
    async with (
        box(SIP.format(address=ADDRESS, port=port, more=more, trunk=trunk), ROUTES) as gateway,
        Asterisk(
            tmp_path / "asterisk", gateway.port, port, music=True, way="gw", dialplan=dialplan,
            pjsip=account("gw", "gwpw", *lines, aor=aor), files=files,
        ) as pbx,
        phone(tmp_path, "anna", "a1", gateway, hz=1000) as anna,
        phone(tmp_path, "dora", "d1", (ADDRESS, port), hz=600, answer=answer) as dora,
    ):  # fmt: skip
        await pbx.ready()
        await gateway.up("sip/anna", "sip/pbx")
        await until(lambda: pbx.said().count("Added contact") >= 2, "both are registered")
        yield House(gateway, pbx, anna, dora)


def turns(recording: Path, *candidates: float) -> list[float]:
    """Which tones were heard, one after the other, each for half a second at least."""
    (samples, *_), rate = read_wav(recording)
    n, found, run, last = rate // 10, [], 0, 0.0
    for start in range(0, len(samples) - n, n):
        window = samples[start : start + n]
        level, hz = max((level_at(window, hz, rate=rate), hz) for hz in candidates)
        hz = hz if level > -20.0 else 0.0
        run, last = (run + 1, hz) if hz == last else (1, hz)
        if run == 5 and hz and found[-1:] != [hz]:
            found.append(hz)
    return found


async def test_calls_both_ways_by_an_account(tmp_path: Path) -> None:
    async with house(tmp_path) as at:
        await at.talk()
        await at.dora.hang_up()
        await at.anna.wait("CALL_CLOSED")
        await at.gateway.legs(2)
        assert_hears(at.anna.heard(), 600, 1000)
        assert_hears(at.dora.heard(), 1000, 600)
        # Her own number, not the account's, is what dora is shown.
        assert "sip:201@" in (at.dora.directory / "log").read_text(errors="replace")
        seen, n = len(at.anna.events), len(at.dora.events)
        await at.dora.dial(at.there("201"))
        await at.anna.wait("CALL_INCOMING", skip=seen)
        await at.anna.accept()
        await at.dora.wait("CALL_ESTABLISHED", skip=n)
        await asyncio.sleep(TALK_S)
        await at.anna.hang_up()
        await at.dora.wait("CALL_CLOSED", skip=n)
        legs = await at.gateway.legs(4)
        offered = await at.gateway.wait(LegOffered, lambda e: e.endpoint == "sip/pbx")
        assert_hears(at.anna.heard(), 600, 1000)
        assert_hears(at.dora.heard(), 1000, 600)
    assert (offered.called, offered.calling, offered.display) == ("201", "600", "Dora")
    assert {leg.cause for leg in legs.values()} == {"normal"}


@pytest.mark.parametrize("holder", ["dora", "anna"])
async def test_who_is_held_hears_its_music(tmp_path: Path, holder: str) -> None:
    """When dora holds, Asterisk plays to us without a word; when anna does, we tell Asterisk."""
    async with house(tmp_path) as at:
        await at.talk()
        holds, held, hz = (
            (at.dora, at.anna, 600.0) if holder == "dora" else (at.anna, at.dora, 1000.0)
        )
        await holds.command("hold")
        await asyncio.sleep(TALK_S)
        await holds.command("resume")
        await asyncio.sleep(TALK_S)
        await at.anna.hang_up()
        legs = await at.gateway.legs(2)
        assert turns(held.heard(), 600, MUSIC_HZ, 1000) == [hz, MUSIC_HZ, hz]
    assert {leg.cause for leg in legs.values()} == {"normal"}


@pytest.mark.parametrize("kind", ["blind", "attended"])
async def test_it_transfers_by_its_own_features(tmp_path: Path, kind: str) -> None:
    """Dora presses a code of Asterisk's, and anna goes on with bert, by way of Asterisk."""
    async with (
        house(tmp_path) as at,
        phone(tmp_path, "bert", "b1", at.gateway, hz=440, answer="auto") as bert,
    ):
        await at.gateway.up("sip/bert")
        await at.talk()
        await at.dora.press("*1" if kind == "blind" else "*2")
        await at.pbx.says("Playing 'pbx-transfer", 15.0)
        await at.dora.press("202")
        await bert.wait("CALL_ESTABLISHED", within_s=25.0)
        await asyncio.sleep(TALK_S)
        if kind == "attended":
            await at.dora.hang_up()
        await at.dora.wait("CALL_CLOSED")
        await asyncio.sleep(TALK_S + 1.0)
        await at.anna.hang_up()
        await bert.wait("CALL_CLOSED")
        legs = await at.gateway.legs(4)
        before = [600.0] if kind == "attended" else []
        assert turns(bert.heard(), 600, MUSIC_HZ, 1000) == [*before, 1000.0]
        assert turns(at.anna.heard(), 440, 600, MUSIC_HZ)[-1] == 440.0
    assert {leg.cause for leg in legs.values()} == {"normal"}


async def test_our_telephone_sends_its_partner_on(tmp_path: Path) -> None:
    """Anna's REFER to us: dora goes on with another number of Asterisk's."""
    async with house(tmp_path) as at:
        await at.talk()
        await at.anna.command("transfer", at.gateway.uri("09000"))
        await at.anna.wait("CALL_CLOSED")
        await asyncio.sleep(TALK_S)
        await at.dora.hang_up()
        legs = await at.gateway.legs(3)
        # The echo at 9000.
        assert turns(at.dora.heard(), 600, 1000, MUSIC_HZ)[-1] == 600.0
    assert {leg.cause for leg in legs.values()} == {"normal"}


async def test_our_telephone_joins_its_partners(tmp_path: Path) -> None:
    """Attended: dora held, the echo consulted, then REFER with Replaces."""
    async with house(tmp_path) as at:
        consult = Flow("anna", at.gateway, password="a1").call("09000").talks().is_hung_up()
        async with consult.program(tmp_path, "consult") as consulting:
            await at.gateway.connected("sip/pbx#1")
            await at.gateway.connected("sip/anna#1")
            call_id, ours, theirs = tags(at.gateway, "sip/anna#1")
            named = f"{call_id}%3Bto-tag%3D{ours}%3Bfrom-tag%3D{theirs}".replace("@", "%40")
            anna = Flow("anna", at.gateway, password="a1").call("0600").talks().pause(0.5)
            anna.inside("REFER", f"Refer-To: <sip:9000@[remote_ip]?Replaces={named}>").gets(202)
            anna.takes("NOTIFY", "SIP/2.0 100").reply(200)
            anna.takes("NOTIFY", "SIP/2.0 200").reply(200).is_hung_up()
            async with anna.program(tmp_path, "anna") as transfers:
                await finished(transfers)
            await finished(consulting)
            await asyncio.sleep(TALK_S)
            await at.dora.hang_up()
            legs = await at.gateway.legs(4)
        assert turns(at.dora.heard(), 600, 1000, MUSIC_HZ)[-1] == 600.0
    assert {leg.cause for leg in legs.values()} == {"normal"}


@pytest.mark.parametrize("mode", ["rfc4733", "info", "inband"])
async def test_digits_both_ways(tmp_path: Path, mode: str) -> None:
    dialplan = (
        "exten => 9010,1,Answer()\n same => n,Wait(1)\n same => n,SendDTMF(159#,250,150)\n"
        " same => n,Read(x,,4,,1,20)\n same => n,Verbose(1,it read ${x})\n same => n,Hangup()\n"
    )
    async with house(
        tmp_path, lines=(f"dtmf_mode={mode}",), dialplan=dialplan,
        trunk='dtmf = "info"' if mode == "info" else "",
    ) as at:  # fmt: skip
        await at.anna.dial(at.gateway.uri("09010"))
        await at.anna.wait("CALL_ESTABLISHED")

        def pressed() -> list[DigitPressed]:
            found = [e.event for e in at.gateway.seen]
            return [e for e in found if isinstance(e, DigitPressed) and "pbx" in e.leg]

        await until(lambda: len(pressed()) >= 4, "its digits")
        await at.pbx.says("Accepting a maximum of 4 digits")
        await at.anna.press("4711")
        await at.pbx.says("it read 4711", 30.0)
        await at.anna.wait("CALL_CLOSED")
        await at.gateway.legs(2)
    assert [(e.digit, e.via) for e in pressed()] == [(digit, mode) for digit in "159#"]
    pressed_there = [e["param"] for e in at.anna.events if e["type"] == "CALL_DTMF_START"]
    assert pressed_there == list("159#")


async def test_refusals_keep_their_meaning(tmp_path: Path) -> None:
    """Both ways: by status (RFC 3398) and by the Reason header that both write."""
    dialplan = "exten => _91XX,1,Hangup(${EXTEN:2})\n"
    there = {
        "09101": "unallocated", "09117": "busy", "09119": "no-answer", "09121": "rejected",
        "0555": "unallocated", "09134": "no-circuit",
    }  # fmt: skip
    async with house(tmp_path, dialplan=dialplan, answer="manual") as at:
        found = {}
        for number in there:
            seen = len(at.anna.events)
            await at.anna.dial(at.gateway.uri(number))
            await at.anna.wait("CALL_CLOSED", skip=seen)
        legs = await at.gateway.legs(2 * len(there))
        for leg in legs.values():
            if leg.leg.startswith("sip/pbx"):
                found[f"0{leg.called}"] = leg.cause
        assert found == there
        # The other way: busy, nobody there, does not answer.
        for number, told in (
            ("201", "ended BUSY 17"), ("299", "ended CHANUNAVAIL 1"), ("201", "ended NOANSWER 19"),
        ):  # fmt: skip
            seen, n = len(at.anna.events), len(at.dora.events)
            await at.dora.dial(at.there(number))
            if told == "ended BUSY 17":
                await at.anna.wait("CALL_INCOMING", skip=seen)
                await at.anna.hang_up()
            await at.dora.wait("CALL_CLOSED", skip=n, within_s=20.0)
            assert told in at.pbx.said(), re.findall("ended .*", at.pbx.said())


async def test_callers_who_give_up(tmp_path: Path) -> None:
    async with house(tmp_path, answer="manual") as at:
        await at.anna.dial(at.gateway.uri("0600"))
        await at.dora.wait("CALL_INCOMING")
        await at.anna.wait("CALL_RINGING")
        await at.anna.hang_up()
        await at.dora.wait("CALL_CLOSED")
        seen = len(at.anna.events)
        await at.dora.dial(at.there("201"))
        await at.anna.wait("CALL_INCOMING", skip=seen)
        await at.dora.hang_up()
        await at.anna.wait("CALL_CLOSED", skip=seen)
        legs = await at.gateway.legs(4)
    assert {legs[name].cause for name in ("sip/anna#1", "sip/pbx#2")} == {"cancelled"}
    assert all(leg.answered_at is None for leg in legs.values())


async def test_texts_both_ways(tmp_path: Path) -> None:
    dialplan = (
        "[texts]\nexten => _X.,1,Verbose(1,text ${MESSAGE(body)} of ${MESSAGE(from)})\n"
        "exten => s,1,Set(MESSAGE(body)=hello anna)\n"
        ' same => n,MessageSend(pjsip:gw,"Dora" <sip:600@pbx>,sip:201@127.0.0.1)\n'
        " same => n,Verbose(1,sent ${MESSAGE_SEND_STATUS})\n"
    )
    async with house(tmp_path, dialplan=dialplan) as at:
        await at.pbx.console("channel originate Local/s@texts application Wait 1")
        received = await at.gateway.wait(MessageReceived)
        assert (received.endpoint, received.text) == ("sip/pbx", "hello anna")
        log = at.anna.directory / "log"
        await until(lambda: "hello anna" in log.read_text(errors="replace"), "anna has it")
        await at.pbx.says("sent SUCCESS")
        says = Flow("anna", at.gateway, password="a1").send(
            "MESSAGE", "0600", body="hello dora", kind="text/plain"
        )
        await played(says.gets(202).program(tmp_path, "says"))
        await at.pbx.says("text hello dora of ")
        assert "sip:201@" in at.pbx.said().partition("text hello dora of ")[2]
        assert not at.gateway.counters["messages_failed"]


async def test_a_voice_mail_lights_a_lamp(tmp_path: Path) -> None:
    """Somebody speaks into Asterisk's mailbox; our telephone is told (RFC 3842)."""
    dialplan = "exten => 9020,1,Voicemail(100@default,s)\n"
    files = {"voicemail.conf": "[general]\nformat=wav\nminsecs=1\n[default]\n100 => 1,Gw\n"}
    async with house(
        tmp_path, aor=("mailboxes=100@default",), dialplan=dialplan, files=files,
        trunk="messages = true",
    ) as at:  # fmt: skip
        await at.dora.dial(at.there("9020"))
        await at.dora.wait("CALL_ESTABLISHED")
        await asyncio.sleep(4.0)
        await at.dora.hang_up()
        told = await at.gateway.wait(InputChanged, lambda e: e.value == 1.0)
        assert (told.endpoint, told.input) == ("sip/pbx", "messages")


async def test_each_sees_whether_the_other_is_there(tmp_path: Path) -> None:
    """OPTIONS both ways; an Asterisk that is killed comes back with an account that knows us."""
    aor = "qualify_frequency=1", "qualify_timeout=1"
    async with house(tmp_path, aor=aor) as at:

        async def shows(what: str) -> None:
            for _ in range(60):
                if re.search(
                    rf"gw/sip:\S+ +\S+ +{what}", said := await at.pbx.console("pjsip show contacts")
                ):
                    return
                await asyncio.sleep(0.25)
            raise AssertionError(said)

        await shows("Avail")
        await at.pbx.killed()
        await at.gateway.up("sip/pbx", condition=Condition.DOWN)
        (tmp_path / "asterisk/db/astdb.sqlite3").unlink()
        async with Asterisk(
            tmp_path / "asterisk", at.gateway.port, at.pbx.port, music=True, way="gw",
            pjsip=account("gw", "gwpw", aor=aor), dialplan="exten => 600,1,Goto(9000,1)\n",
        ) as again:  # fmt: skip
            at.pbx = again
            await again.ready()
            await at.gateway.up("sip/pbx")
            await shows("Avail")
            seen = len(at.anna.events)
            await at.anna.dial(at.gateway.uri("09000"))
            await at.anna.wait("CALL_ESTABLISHED", skip=seen)
            await asyncio.sleep(TALK_S)
            await at.anna.hang_up()
            assert_hears(at.anna.heard(), 1000)
            await at.gateway.legs(2)
            at.gateway.gateway.stop()
            await at.gateway.run
            # It took its registration back: nobody there to call any more.
            assert "gw/sip:" not in await again.console("pjsip show contacts")


async def test_session_timers_refreshed_by_either(tmp_path: Path) -> None:
    """RFC 4028 at its shortest interval, beyond its half: we refresh one call, and it another."""
    lines = "timers=always", "timers_sess_expires=90", "timers_min_se=90"
    port = (
        "[adapters.loopback.ports.t]\ntone_hz = 425.0\n"
        "[adapters.loopback.ports.u]\ntone_hz = 425.0\n"
        '[[routes]]\nname = "t"\ncalled = "301"\ntargets = ["loopback/t"]\n'
    )
    async with house(tmp_path, lines=lines, more="session_expires_s = 90", trunk=port) as at:
        await at.pbx.console("pjsip set logger on")
        at.gateway.gateway.emit(
            CallRequested(origin="sip/pbx:9000", target="loopback/u", trace="t1")
        )
        await at.gateway.connected("sip/pbx#1")
        await at.pbx.console("channel originate PJSIP/301@gw application Echo")
        await at.gateway.connected("sip/pbx#2")

        def refreshes(way: str) -> int:
            return len(re.findall(rf"<--- {way} SIP request [^\n]*\nUPDATE sip", at.pbx.said()))

        await until(lambda: refreshes("Received"), "we refresh", 70.0)
        await until(lambda: refreshes("Transmitting"), "it refreshes", 70.0)
        legs = at.gateway.gateway.switchboard.legs
        assert all(legs[name].connected for name in ("sip/pbx#1", "sip/pbx#2"))
