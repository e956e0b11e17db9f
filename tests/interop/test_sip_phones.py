"""Telephones that are not ours, registered at a real gateway: who hears whom, and what is kept."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.core.actions import Hold, Retrieve, SendDigits
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition
from gateway.core.events import (
    DigitPressed,
    LegAnswered,
    LegEnded,
    LegHeld,
    LegRetrieved,
    LegRinging,
)
from gateway.lab.softphone import Softphone, free_port
from tests.interop.peers import (
    Box,
    Linphone,
    assert_hears,
    box,
    common_port,
    microphone,
    phone,
    pyvoip,
    raw_to_wav,
    until,
)
from tests.interop.sipp_flow import Flow, finished

pytestmark = pytest.mark.interop

PHONES = """
codecs = ["G722", "PCMA", "PCMU"]
digest = ["MD5"]
{more}
[adapters.sip.phones.anna]
password = "a1"
number = "201"
[adapters.sip.phones.bert]
password = "b1"
number = "202"
[adapters.sip.phones.carl]
password = "c1"
number = "203"
"""
TALK_S = 1.6
"""Audio to look at in a recording: baresip's own buffers come on top."""


@contextlib.asynccontextmanager
async def pair(
    tmp_path: Path, *, more: str = "", a: dict[str, object] | None = None,
    b: dict[str, object] | None = None,
) -> AsyncIterator[tuple[Box, Softphone, Softphone]]:  # fmt: skip
    """A gateway with anna (1000 Hz) and bert (440 Hz)."""
    async with (
        box(PHONES.format(more=more)) as gateway,
        phone(tmp_path, "anna", "a1", gateway, **({"hz": 1000} | (a or {}))) as anna,  # type: ignore[arg-type]
        phone(tmp_path, "bert", "b1", gateway, **({"hz": 440} | (b or {}))) as bert,  # type: ignore[arg-type]
    ):
        await gateway.up("sip/anna", "sip/bert")
        yield gateway, anna, bert


def log(of: Softphone) -> str:
    """What a phone sent and received."""
    return (of.directory / "log").read_text(errors="replace")


async def talk(gateway: Box, anna: Softphone, bert: Softphone, at: str = "") -> None:
    """Anna calls Bert, who answers; they talk for a while. `at`: where she sees the gateway."""
    await anna.dial(f"sip:202@{at}" if at else gateway.uri("202"))
    await bert.wait("CALL_INCOMING")
    await anna.wait("CALL_RINGING")
    await bert.accept()
    await anna.wait("CALL_ESTABLISHED")
    await bert.wait("CALL_ESTABLISHED")
    await asyncio.sleep(TALK_S)


@pytest.mark.parametrize(
    ("codec", "far", "transport", "hangs_up"),
    [
        ("PCMU/8000/1", "PCMU/8000/1", "udp", "anna"),
        ("PCMA/8000/1", "PCMU/8000/1", "udp", "bert"),
        ("PCMA/8000/1", "PCMA/8000/1", "tcp", "anna"),
    ],
)
async def test_two_phones_hear_each_other_and_nobody_else(
    tmp_path: Path, codec: str, far: str, transport: str, hangs_up: str
) -> None:
    ends = {"a": {"codec": codec, "transport": transport}, "b": {"codec": far}}
    async with pair(tmp_path, **ends) as (gateway, anna, bert):
        await talk(gateway, anna, bert)
        details = gateway.gateway.places["sip/anna"][0].detail
        assert details["address"].startswith(f"{transport}:127.0.0.1:")
        assert "baresip" in details["agent"]
        await (anna if hangs_up == "anna" else bert).hang_up()
        await (bert if hangs_up == "anna" else anna).wait("CALL_CLOSED")
        legs = await gateway.legs(2)
    assert_hears(anna.heard(), 440, 1000)
    assert_hears(bert.heard(), 1000, 440)
    first, second = legs["sip/anna#1"], legs["sip/bert#1"]
    assert (first.direction, first.calling, first.called) == ("in", "201", "202")
    assert second.direction == "out"
    assert {first.cause, second.cause} == {"normal"}
    assert {first.codec, second.codec} == {codec[:4], far[:4]}
    assert first.call == second.call
    assert first.packets_lost == second.packets_lost == 0
    assert min(first.packets_received, second.packets_received) > 50
    released = {"sip/anna#1": first.released, "sip/bert#1": second.released}
    assert released[f"sip/{hangs_up}#1"] == "far"


async def test_wideband_is_wideband(tmp_path: Path) -> None:
    wide = {"codec": "G722/16000/1", "rate": 16000}
    async with pair(tmp_path, a=wide | {"hz": 5000}, b=wide | {"hz": 3000}) as (gateway, a, b):
        await talk(gateway, a, b)
        await a.hang_up()
        await b.wait("CALL_CLOSED")
        legs = await gateway.legs(2)
    assert_hears(b.heard(), 5000, 3000)
    assert_hears(a.heard(), 3000, 5000)
    assert {leg.codec for leg in legs.values()} == {"G722"}


async def test_wideband_and_narrowband_understand_each_other(tmp_path: Path) -> None:
    wide = {"codec": "G722/16000/1", "rate": 16000}
    async with pair(tmp_path, a=wide) as (gateway, anna, bert):
        await talk(gateway, anna, bert)
        await bert.hang_up()
        await anna.wait("CALL_CLOSED")
        legs = await gateway.legs(2)
    assert_hears(anna.heard(), 440, 1000)
    assert_hears(bert.heard(), 1000, 440)
    assert (legs["sip/anna#1"].codec, legs["sip/bert#1"].codec) == ("G722", "PCMU")


async def test_hold_and_retrieve(tmp_path: Path) -> None:
    async with pair(tmp_path) as (gateway, anna, bert):
        await talk(gateway, anna, bert)
        await anna.command("hold")
        await gateway.wait(LegHeld, lambda e: e.leg == "sip/anna#1")
        await anna.command("resume")
        await gateway.wait(LegRetrieved, lambda e: e.leg == "sip/anna#1")
        await asyncio.sleep(TALK_S)
        await anna.hang_up()
        await bert.wait("CALL_CLOSED")
        legs = await gateway.legs(2)
    assert legs["sip/anna#1"].held_s > 0
    assert_hears(bert.heard(), 1000, 440)
    assert_hears(anna.heard(), 440, 1000)


async def test_the_gateway_puts_a_phone_on_hold(tmp_path: Path) -> None:
    async with pair(tmp_path) as (gateway, anna, bert):
        await talk(gateway, anna, bert)
        gateway.gateway._dispatch(Hold(leg="sip/bert#1"))
        await until(lambda: "a=sendonly" in log(bert), "sendonly")
        await until(lambda: "a=recvonly" in log(bert), "recvonly")
        n = log(bert).count("a=sendrecv")
        gateway.gateway._dispatch(Retrieve(leg="sip/bert#1"))
        await until(lambda: log(bert).count("a=sendrecv") >= n + 2, "sendrecv again")
        # The far end does as we say: that is no hold of its own.
        assert not [e for e in gateway.seen if isinstance(e.event, LegHeld)]
        await anna.hang_up()
        await gateway.legs(2)


async def test_digits_go_both_ways_once_each(tmp_path: Path) -> None:
    async with pair(tmp_path) as (gateway, anna, bert):
        await talk(gateway, anna, bert)
        await anna.press("5#")
        await bert.wait("CALL_DTMF_START", skip=0)
        await until(
            lambda: (
                [e["param"] for e in bert.events if e["type"] == "CALL_DTMF_START"] == ["5", "#"]
            ),
            "bert hears 5 and #",
        )
        await bert.press("7")
        await anna.wait("CALL_DTMF_START")
        assert [e["param"] for e in anna.events if e["type"] == "CALL_DTMF_START"] == ["7"]
        pressed = [e.event for e in gateway.seen if isinstance(e.event, DigitPressed)]
        assert [(e.leg, e.via) for e in pressed] == [
            ("sip/anna#1", "rfc4733"), ("sip/anna#1", "rfc4733"), ("sip/bert#1", "rfc4733"),
        ]  # fmt: skip
        await anna.hang_up()
        await gateway.legs(2)


async def test_digits_in_info_are_heard_by_the_other_phone(tmp_path: Path) -> None:
    async with (
        box(PHONES.format(more="")) as gateway,
        phone(tmp_path, "bert", "b1", gateway, hz=440, answer="auto") as bert,
    ):
        await gateway.up("sip/bert")
        anna = Flow("anna", gateway, password="a1").call("202").talks()
        for digit in "5#":
            body = f"Signal={digit}\nDuration=100\n"
            anna.pause(0.5).inside("INFO", body=body, kind="application/dtmf-relay").gets(200)
        anna.pause(1.5).hangs_up()
        async with anna.program(tmp_path) as program:
            await finished(program)
        await gateway.legs(2)
    pressed = [e.event for e in gateway.seen if isinstance(e.event, DigitPressed)]
    assert [(e.leg, e.via) for e in pressed] == [("sip/anna#1", "info")] * 2
    heard = [e["param"] for e in bert.events if e["type"] == "CALL_DTMF_START"]
    assert heard == ["5", "#"]


async def test_digits_to_a_phone_that_wants_info(tmp_path: Path) -> None:
    info = PHONES.format(more="") + 'dtmf = "info"\n'
    async with (
        box(info) as gateway,
        phone(tmp_path, "anna", "a1", gateway, hz=1000) as anna,
        phone(tmp_path, "carl", "c1", gateway, hz=440, answer="auto") as carl,
    ):
        await gateway.up("sip/anna", "sip/carl")
        await anna.dial(gateway.uri("203"))
        await anna.wait("CALL_ESTABLISHED")
        await carl.wait("CALL_ESTABLISHED")
        gateway.gateway._dispatch(SendDigits(leg="sip/carl#1", digits="4"))
        await until(lambda: "Signal=4" in log(carl), "INFO to carl")
        # What anna presses is an event of RFC 4733; it reaches carl as INFO, once.
        await anna.press("7")
        await until(lambda: "Signal=7" in log(carl), "anna's digit as INFO to carl")
        await asyncio.sleep(0.5)
        assert log(carl).count("Signal=7") == 1
        await anna.hang_up()
        await gateway.legs(2)


def told(someone: Softphone) -> str:
    """The first lines of all message/sipfrag bodies that it got, one below the other."""
    return "\n".join(re.findall(r"sipfrag.*?\r?\n\r?\n(SIP/2\.0 \d{3})", log(someone), re.DOTALL))


async def test_blind_transfer(tmp_path: Path) -> None:
    async with (
        pair(tmp_path) as (gateway, anna, bert),
        phone(tmp_path, "carl", "c1", gateway, hz=600) as carl,
    ):
        await gateway.up("sip/carl")
        await talk(gateway, anna, bert)
        await anna.command("transfer", gateway.uri("203"))
        await carl.wait("CALL_INCOMING")
        # She is told what is true, RFC 3515 section 2.4.5: it rings, and nobody has answered yet.
        await until(lambda: "SIP/2.0 180" in told(anna), "anna is told that it rings")
        assert told(anna).index("SIP/2.0 100") < told(anna).index("SIP/2.0 180")
        assert "SIP/2.0 200" not in told(anna)
        await carl.accept()
        await carl.wait("CALL_ESTABLISHED")
        await anna.wait("CALL_CLOSED")
        await until(lambda: "SIP/2.0 200" in told(anna), "anna is told that he has answered")
        await asyncio.sleep(TALK_S + 0.5)
        await carl.hang_up()
        await bert.wait("CALL_CLOSED")
        legs = await gateway.legs(3)
    assert_hears(carl.heard(), 440, 1000, 600)
    assert len({leg.call for leg in legs.values()}) == 1
    assert {leg.cause for leg in legs.values()} == {"normal"}


async def test_a_transfer_that_is_declined_is_told(tmp_path: Path) -> None:
    async with (
        pair(tmp_path) as (gateway, anna, bert),
        phone(tmp_path, "carl", "c1", gateway, hz=600) as carl,
    ):
        await gateway.up("sip/carl")
        await talk(gateway, anna, bert)
        await anna.command("transfer", gateway.uri("203"))
        await carl.wait("CALL_INCOMING")
        await carl.hang_up()
        await until(lambda: "SIP/2.0 486" in told(anna), "anna is told that he is busy")
        assert "SIP/2.0 200" not in told(anna)
        await bert.wait("CALL_CLOSED")
        await gateway.legs(3)


async def test_transfer_to_nobody_is_told(tmp_path: Path) -> None:
    async with pair(tmp_path) as (gateway, anna, bert):
        await talk(gateway, anna, bert)
        await anna.command("transfer", gateway.uri("999"))
        await until(
            lambda: "SIP/2.0 404" in log(anna).partition("sipfrag")[2],
            "anna is told that there is no 999",
        )
        # That is where baresip hangs up.
        await bert.wait("CALL_CLOSED")
        await gateway.legs(2)


async def test_caller_gives_up_while_it_rings(tmp_path: Path) -> None:
    async with pair(tmp_path) as (gateway, anna, bert):
        await anna.dial(gateway.uri("202"))
        await bert.wait("CALL_INCOMING")
        await anna.wait("CALL_RINGING")
        await anna.hang_up()
        await bert.wait("CALL_CLOSED")
        legs = await gateway.legs(2)
    assert legs["sip/anna#1"].cause == "cancelled"
    assert legs["sip/anna#1"].answered_at is None
    assert legs["sip/bert#1"].ringing_at is not None


async def test_called_phone_declines(tmp_path: Path) -> None:
    async with pair(tmp_path) as (gateway, anna, bert):
        await anna.dial(gateway.uri("202"))
        await bert.wait("CALL_INCOMING")
        await bert.hang_up()
        closed = await anna.wait("CALL_CLOSED")
        legs = await gateway.legs(2)
    assert "486" in closed["param"]
    assert legs["sip/bert#1"].cause == "busy"
    assert legs["sip/bert#1"].detail.startswith("486")
    assert legs["sip/anna#1"].cause == "busy"


async def test_nobody_answers(tmp_path: Path) -> None:
    route = '[[routes]]\nname = "short"\ncalled = "202"\ntargets = ["sip/bert"]\nring_s = 1.0\n'
    async with (
        box(PHONES.format(more=""), route) as gateway,
        phone(tmp_path, "anna", "a1", gateway, hz=1000) as anna,
        phone(tmp_path, "bert", "b1", gateway, hz=440) as bert,
    ):
        await gateway.up("sip/anna", "sip/bert")
        await anna.dial(gateway.uri("202"))
        await bert.wait("CALL_CLOSED")
        closed = await anna.wait("CALL_CLOSED")
        legs = await gateway.legs(2)
    assert "480" in closed["param"]
    assert {leg.cause for leg in legs.values()} == {"no-answer"}


async def test_numbers_that_lead_nowhere(tmp_path: Path) -> None:
    async with (
        box(PHONES.format(more="")) as gateway,
        phone(tmp_path, "anna", "a1", gateway, hz=1000) as anna,
    ):
        await gateway.up("sip/anna")
        await gateway.up("sip/carl", condition=Condition.DOWN)
        await anna.dial(gateway.uri("999"))
        assert "404" in (await anna.wait("CALL_CLOSED"))["param"]
        seen = len(anna.events)
        await anna.dial(gateway.uri("203"))
        # Not registered is not broken: RFC 3261 section 21.4.18.
        assert "480" in (await anna.wait("CALL_CLOSED", skip=seen))["param"]
        legs = await gateway.legs(2)
    assert legs["sip/anna#1"].cause == Cause.UNALLOCATED
    assert legs["sip/anna#2"].detail == "sip/carl is down: not registered"


async def test_wrong_password_stays_outside(tmp_path: Path) -> None:
    """A user that exists and one that does not get the same answers."""
    async with (
        box(PHONES.format(more="lockout_failures = 1000000")) as gateway,
        phone(tmp_path, "anna", "wrong", gateway, hz=1000) as anna,
        phone(tmp_path, "nobody", "x", gateway, hz=440) as nobody,
    ):
        for stranger in (anna, nobody):
            await until(lambda s=stranger: log(s).count(" 401 ") > 2, "it is refused")  # type: ignore[misc]
        replies = [re.findall(r"SIP/2.0 (\d+ .*)", log(s))[:2] for s in (anna, nobody)]
        assert replies == [["401 Unauthorized"] * 2] * 2
        names = [
            re.findall(r"^([A-Za-z-]+):", log(s).partition(" 401 ")[2], re.MULTILINE)[:8]
            for s in (anna, nobody)
        ]
        assert names[0] == names[1]
        assert gateway.gateway.places["sip/anna"][0].condition is Condition.DOWN


async def test_guessing_passwords_ends_in_silence(tmp_path: Path) -> None:
    async with (
        box(PHONES.format(more="lockout_failures = 3")) as gateway,
        phone(tmp_path, "anna", "wrong", gateway, hz=1000) as anna,
    ):
        await until(lambda: gateway.counters["locked_out"], "the address is ignored")
        assert gateway.counters["wrong_password"] == 3
        assert log(anna).count("SIP/2.0 401") >= 1


async def test_first_of_two_telephones_to_answer_has_the_call(tmp_path: Path) -> None:
    async with (
        pair(tmp_path) as (gateway, anna, bert),
        phone(tmp_path, "bert", "b1", gateway, hz=600, name="bert2") as second,
    ):
        await until(lambda: "contacts" in gateway.gateway.places["sip/bert"][0].detail, "contacts")
        await anna.dial(gateway.uri("202"))
        await bert.wait("CALL_INCOMING")
        await second.wait("CALL_INCOMING")
        await second.accept()
        await second.wait("CALL_ESTABLISHED")
        await bert.wait("CALL_CLOSED")
        await anna.wait("CALL_ESTABLISHED")
        await asyncio.sleep(TALK_S)
        await anna.hang_up()
        await second.wait("CALL_CLOSED")
        legs = await gateway.legs(2)
    assert_hears(second.heard(), 1000, 600, 440)
    assert_hears(anna.heard(), 600, 440)
    assert {leg.cause for leg in legs.values()} == {"normal"}


async def test_stop_says_goodbye(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(box(PHONES.format(more="")))
        phones = contextlib.AsyncExitStack()
        try:
            anna = await phones.enter_async_context(phone(tmp_path, "anna", "a1", gateway, hz=1000))
            bert = await phones.enter_async_context(phone(tmp_path, "bert", "b1", gateway, hz=440))
            await gateway.up("sip/anna", "sip/bert")
            await talk(gateway, anna, bert)
            gateway.gateway.stop()
            await anna.wait("CALL_CLOSED")
            await bert.wait("CALL_CLOSED")
            await asyncio.wait_for(asyncio.shield(gateway.run), 10.0)
        finally:
            await phones.aclose()
        ended = [e.event for e in gateway.seen if isinstance(e.event, LegEnded)]
        assert sorted(e.leg for e in ended) == ["sip/anna#1", "sip/bert#1"]
        assert {e.cause for e in ended} == {Cause.SHUTDOWN}


async def test_bindings_survive_a_restart(tmp_path: Path) -> None:
    port = common_port()
    more = f'listen = ["udp:127.0.0.1:{port}", "tcp:127.0.0.1:{port}"]'
    home = tmp_path / "box"
    home.mkdir()
    async with contextlib.AsyncExitStack() as stack:
        async with box(PHONES.format(more=more), home=home) as gateway:
            anna = await stack.enter_async_context(phone(tmp_path, "anna", "a1", gateway, hz=1000))
            bert = await stack.enter_async_context(
                phone(tmp_path, "bert", "b1", gateway, hz=440, transport="tcp", answer="auto")
            )
            await gateway.up("sip/anna", "sip/bert")
        async with box(PHONES.format(more=more), home=home) as gateway:
            # At once, before anybody registers again; the TCP connection of bert is gone.
            await gateway.up("sip/anna", "sip/bert")
            await anna.dial(gateway.uri("202"))
            await bert.wait("CALL_ESTABLISHED")
            await gateway.wait(LegAnswered, lambda e: e.leg == "sip/anna#1")
            await bert.hang_up()
            await anna.wait("CALL_CLOSED")


@contextlib.asynccontextmanager
async def linphone_with_bert(
    tmp_path: Path, home: Path
) -> AsyncIterator[tuple[Box, Softphone, Linphone]]:
    """linphone, registered as anna, has called bert: both speak and record."""
    port, heard = free_port(socket.SOCK_DGRAM), home / "heard.wav"
    wav = microphone(tmp_path, 600)
    async with (
        box(PHONES.format(more="")) as gateway,
        phone(tmp_path, "bert", "b1", gateway, hz=440, answer="auto") as bert,
        Linphone(home, port, wav, heard) as linphone,
    ):
        await linphone.tell(
            "soundcard use files", "ipv6 disable", f"play {wav}", f"record {heard}",
            f"register sip:anna@127.0.0.1:{gateway.port} sip:127.0.0.1:{gateway.port} a1",
        )  # fmt: skip
        await gateway.up("sip/anna", "sip/bert")
        await linphone.tell(f"call {gateway.uri('202')}")
        await bert.wait("CALL_ESTABLISHED")
        # Before its streams run, these make it crash.
        await linphone.says("connected")
        await linphone.tell(f"play {wav}", f"record {heard}")
        yield gateway, bert, linphone


async def test_linphone_calls_and_is_called(tmp_path: Path) -> None:
    home = tmp_path / "lin"
    async with linphone_with_bert(tmp_path, home) as (gateway, bert, linphone):
        await asyncio.sleep(TALK_S + 1.0)
        await linphone.tell("terminate")
        await bert.wait("CALL_CLOSED")
        await gateway.legs(2)
        assert_hears(bert.heard(), 600, 440)
        await until((home / "heard.wav").exists, "linphone's recording")
        assert_hears(home / "heard.wav", 440, 600)
        seen, events = len(gateway.seen), len(bert.events)
        await bert.dial(gateway.uri("201"))
        await gateway.wait(LegRinging, skip=seen)
        await linphone.tell("answer")
        await bert.wait("CALL_ESTABLISHED", skip=events)
        await asyncio.sleep(TALK_S)
        await bert.hang_up()
        legs = await gateway.legs(4)
    assert {leg.cause for leg in legs.values()} == {"normal"}
    assert legs["sip/bert#2"].direction == "in"


async def test_linphone_reports_voice_quality_and_takes_ours(tmp_path: Path) -> None:
    """Its RTP library makes extended reports of its own: RFC 3611 in both directions."""
    home = tmp_path / "lin"
    async with linphone_with_bert(tmp_path, home) as (gateway, bert, linphone):

        def told() -> bool:
            stats = gateway.gateway.patchbay.stats("sip/anna#1")
            return stats is not None and stats.remote_quality is not None

        await until(told, "its report", 25.0)
        stats = gateway.gateway.patchbay.stats("sip/anna#1")
        await linphone.tell("terminate")
        await bert.wait("CALL_CLOSED")
        await gateway.legs(2)
    assert stats is not None
    assert stats.quality is not None
    assert stats.remote_quality is not None
    assert stats.quality.r_factor is not None
    assert stats.quality.r_factor >= 60
    assert stats.remote_quality.loss_percent < 20
    log = (home / "log").read_text(errors="replace")
    assert "rtcp-xr" in log
    assert "voip-metrics" in log


async def test_pyvoip_calls(tmp_path: Path) -> None:
    home = tmp_path / "py"
    out = home / "heard.raw"
    async with (
        box(PHONES.format(more="require_qop = false\nkeepalive_s = 0.2")) as gateway,
        phone(tmp_path, "bert", "b1", gateway, hz=440) as bert,
        pyvoip(home, gateway, "anna", "a1", "202", microphone(tmp_path, 1000), out) as caller,
    ):
        await gateway.up("sip/anna", "sip/bert")
        await bert.wait("CALL_INCOMING")
        await bert.accept()
        await caller.says("ANSWERED")
        await caller.says("HUNG UP")
        await bert.wait("CALL_CLOSED")
        legs = await gateway.legs(2)
        # It answers no OPTIONS at all, which is not held against it.
        assert gateway.gateway.places["sip/anna"][0].condition is Condition.UP
    assert_hears(bert.heard(), 1000, 440)
    assert_hears(raw_to_wav(out), 440, 1000)
    assert {leg.cause for leg in legs.values()} == {"normal"}
