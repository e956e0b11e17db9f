"""Stolen accounts and trunks that are too busy, played by SIPp: what raises an alarm, and what is
refused."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from gateway.core.events import AlarmRaised, HangupRequested, TransferRequested
from gateway.lab.softphone import free_port
from tests.interop.peers import Box, box
from tests.interop.sipp_flow import Flow, finished, perform, played
from tests.interop.test_sip_services import ELSEWHERE, HOUSE, phone

pytestmark = pytest.mark.interop

CARRIER = "127.0.2.36"
PORT = free_port(socket.SOCK_DGRAM)
TRUNK = f"""
[adapters.sip.trunks.carrier]
peer = "sip:{CARRIER}:{PORT}"
keepalive_s = 0
"""
ROUTES = (
    ELSEWHERE
    + """
[[routes]]
name = "abroad"
called = "00X."
targets = ["loopback/busy"]
[[routes]]
name = "in"
from = ["sip/carrier"]
called = "+49301(XXX)"
targets = ["directory:{1}"]
"""
)


def watched(fraud: str) -> str:
    return f"{HOUSE}\n[adapters.sip.fraud]\n{fraud}\n"


async def many(flow: Flow, home: Path, n: int, rate: int, *more: str) -> str:
    """Play one flow `n` times at `rate` calls a second; its messages."""
    program = flow.program(home, "many")
    at = program.command.index("-m")
    program.command[at + 1 : at + 2] = [str(n), "-r", str(rate), *more]
    return await played(program)


async def alarm(gateway: Box) -> AlarmRaised:
    raised = await gateway.wait(AlarmRaised)
    assert (raised.endpoint, raised.alarm) == ("sip/anna", "toll-fraud")
    assert sum(isinstance(e.event, AlarmRaised) for e in gateway.seen) == 1
    return raised


async def test_a_burst_of_calls_is_seen_and_stopped(tmp_path: Path) -> None:
    async with box(watched("calls = 5\nblock_s = 60.0"), ROUTES) as gateway:
        burst = phone(gateway, "anna").call("302")
        burst.gets(486, maybe=(100, 180)).ack_refusal()
        await many(burst, tmp_path, 6, 10)
        assert "6 calls within" in (await alarm(gateway)).text
        stopped = phone(gateway, "anna").call("302").gets(403, "cause=55", maybe=(100,))
        other = phone(gateway, "bert").call("302").gets(486, maybe=(100, 180)).ack_refusal()
        await perform(tmp_path, stopped.ack_refusal(), other)
        assert gateway.counters["fraud_blocked"] == 1


async def test_texts_to_outside_count_and_are_stopped_too(tmp_path: Path) -> None:
    async with box(watched("calls = 2\nblock_s = 60.0"), ROUTES) as gateway:
        text = {"body": "hello", "kind": "text/plain"}
        burst = phone(gateway, "anna").send("MESSAGE", "00491701234", **text).gets(202)
        await many(burst, tmp_path, 3, 10)
        assert "3 calls within" in (await alarm(gateway)).text
        stopped = phone(gateway, "anna").send("MESSAGE", "00491701234", **text).gets(403)
        call = phone(gateway, "anna").call("302").gets(403, "cause=55", maybe=(100,))
        await perform(tmp_path, stopped, call.ack_refusal())
        assert gateway.counters["messages_refused"] == 1


async def test_numbers_tried_one_after_the_other(tmp_path: Path) -> None:
    async with box(watched("failed = 3"), ROUTES) as gateway:

        def tries(number: str) -> Flow:
            flow = phone(gateway, "anna").call(number)
            return flow.gets(404, maybe=(100,)).ack_refusal()

        await perform(tmp_path, *(tries("99") for _ in range(5)))
        assert not [e for e in gateway.seen if isinstance(e.event, AlarmRaised)], "a person"
        await perform(tmp_path, *(tries(f"99{n}") for n in range(4)))
        assert "numbers that lead nowhere" in (await alarm(gateway)).text


@pytest.mark.parametrize(("night", "n"), [("", 3), ("00:00-23:59", 1)])
async def test_costly_numbers(tmp_path: Path, night: str, n: int) -> None:
    fraud = f'prefixes = ["00"]\ncostly = 2\nnight = "{night}"'
    async with box(watched(fraud), ROUTES) as gateway:
        calls = phone(gateway, "anna").call("0088212345").gets(486, maybe=(100, 180))
        await many(calls.ack_refusal(), tmp_path, n, 10)
        assert "0088212345" in (await alarm(gateway)).text


async def test_costly_numbers_by_transfer(tmp_path: Path) -> None:
    """Whoever holds the account does not call himself: he has his partner connected."""
    async with box(watched('prefixes = ["00"]\ncostly = 1\nblock_s = 60.0'), ROUTES) as gateway:
        anna = phone(gateway, "anna").call("202").talks().pause(0.2)
        for _ in range(2):
            anna.inside("REFER", "Refer-To: <sip:0088212345@[remote_ip]>").gets(202)
            anna.takes("NOTIFY", "SIP/2.0 100").reply(200)
            anna.takes("NOTIFY", "SIP/2.0 486", "State: terminated").reply(200)
        anna.inside("REFER", "Refer-To: <sip:301@[remote_ip]>").gets(403)
        bert = phone(gateway, "bert").answers().is_hung_up()
        await perform(tmp_path, anna.hangs_up(), bert)
        assert "2 calls like 0088212345" in (await alarm(gateway)).text


async def test_costly_numbers_by_forwarding(tmp_path: Path) -> None:
    async with box(watched('prefixes = ["00"]\nnight = "00:00-23:59"'), ROUTES) as gateway:
        anna = phone(gateway, "anna").takes("INVITE")
        anna.reply(302, again=True).takes("ACK")
        away = "sip:0088212345@x.y"
        anna.steps[-2] = anna.steps[-2].replace("sip:anna@[local_ip]:[local_port]", away)
        bert = phone(gateway, "bert").call("201").gets(486, maybe=(100, 180)).ack_refusal()
        await perform(tmp_path, bert, anna)
        assert "0088212345" in (await alarm(gateway)).text


async def test_a_call_is_forwarded_once_whatever_number_of_contacts_say_so(tmp_path: Path) -> None:
    async with box(watched('prefixes = ["00"]\ncostly = 1\nblock_s = 60.0'), ROUTES) as gateway:
        contacts = []
        for _ in range(2):
            anna = phone(gateway, "anna").takes("INVITE").reply(302, again=True).takes("ACK")
            away = "sip:0088212345@x.y"
            anna.steps[-2] = anna.steps[-2].replace("sip:anna@[local_ip]:[local_port]", away)
            contacts.append(anna)
        bert = phone(gateway, "bert").call("201").gets(486, maybe=(100, 180)).ack_refusal()
        await perform(tmp_path, bert, *contacts)
        assert not [e for e in gateway.seen if isinstance(e.event, AlarmRaised)]


async def test_nobody_goes_round_the_routes(tmp_path: Path) -> None:
    """An endpoint named in place of a number: by REFER, by 302, and by calling it."""
    hidden = "loopback%2Fdoor%3A0088212345"
    async with box(HOUSE, ROUTES) as gateway:
        anna = phone(gateway, "anna").call("202").talks().pause(0.2)
        anna.inside("REFER", f"Refer-To: <sip:{hidden}@[remote_ip]>").gets(403)
        bert = phone(gateway, "bert").answers().is_hung_up()
        carl = phone(gateway, "carl").takes("INVITE")
        carl.reply(302, again=True).takes("ACK")
        carl.steps[-2] = carl.steps[-2].replace(
            "sip:carl@[local_ip]:[local_port]", f"sip:{hidden}@x.y"
        )
        dora = phone(gateway, "anna").call("203").gets(410, maybe=(100, 180))
        direct = phone(gateway, "anna").call(hidden.replace("%", "%25"))
        await perform(tmp_path, anna.hangs_up(), bert, carl, dora.ack_refusal())
        assert not [e for e in gateway.seen if isinstance(e.event, TransferRequested)]
        assert gateway.counters["transfers_refused"] == 1
        await perform(tmp_path, direct.gets(404, maybe=(100,)).ack_refusal())
        legs = await gateway.legs(5)
    assert not [leg for leg in legs if leg.startswith("loopback/")]


# Trunks


def carrier(gateway: Box) -> Flow:
    flow = Flow("+49815", gateway, address=CARRIER)
    flow.port = PORT
    return flow


async def test_a_trunk_has_as_many_calls_as_agreed(tmp_path: Path) -> None:
    async with box(f"{HOUSE}{TRUNK}calls = 2\n", ROUTES) as gateway:
        standing = carrier(gateway).call("700").talks().is_hung_up()
        program = standing.program(tmp_path, "standing")
        at = program.command.index("-m")
        program.command[at + 1 : at + 2] = ["2", "-r", "20"]
        async with program:
            await gateway.connected("sip/carrier#1")
            await gateway.connected("sip/carrier#2")
            third = Flow("+49815", gateway, address=CARRIER).call("+49301301")
            third.gets(503, "Retry-After: [1-9]", "cause=42", maybe=(100,))
            await perform(tmp_path, third.ack_refusal())
            for leg in list(gateway.gateway.switchboard.legs):
                gateway.gateway.emit(HangupRequested(leg=leg, by="desk"))
            await finished(program)
        assert gateway.counters["calls_refused"] == 1


async def test_a_trunk_calls_no_faster_than_agreed(tmp_path: Path) -> None:
    async with box(f"{HOUSE}{TRUNK}calls_per_s = 0.2\n", ROUTES) as gateway:
        first = carrier(gateway).call("+49301302").gets(486, maybe=(100, 180)).ack_refusal()
        await perform(tmp_path, first)
        rest = carrier(gateway).call("+49301302").gets(503, "Retry-After: [1-9]", maybe=(100,))
        await many(rest.ack_refusal(), tmp_path, 5, 20)
        assert gateway.counters["calls_refused"] == 5
