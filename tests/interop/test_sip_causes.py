"""Causes between SIP and the telephone network (RFC 3398), as SIPp is told of them.

One SIPp refuses with whatever status, or Q.850 cause in a Reason header, the dialled number names;
another one calls and sees what comes of it. What should is the RFC's own tables.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway.lab.softphone import free_port
from tests.core.test_causes import OPEN, OWN, TABLES, needs_tables
from tests.interop.peers import Program, box, need
from tests.interop.sipp_flow import Flow, played

pytestmark = [pytest.mark.interop, needs_tables]

CALLER, CARRIER = "127.0.2.43", "127.0.2.44"
SIP = """
[adapters.sip.trunks.caller]
peer = "sip:{caller}:{caller_port}"
keepalive_s = 0
[adapters.sip.trunks.carrier]
peer = "sip:{carrier}:{port}"
keepalive_s = 0
[[routes]]
name = "through"
from = ["sip/caller"]
called = "X."
targets = ["sip/carrier:{{called}}"]
"""
TAKES = """<?xml version="1.0" encoding="UTF-8"?>
<scenario name="refuses"><recv request="INVITE"><action>
<ereg regexp="INVITE sip:0*([0-9]+)@" search_in="msg" check_it="true" assign_to="all,wanted"/>
<todouble assign_to="number" variable="wanted"/>
</action></recv>
{choices}{responses}
<label id="1"/>
<recv request="ACK"/>
<Reference variables="all,number"/></scenario>
"""
CHOICE = """<nop next="{0}" test="is"><action>
<test assign_to="is" variable="number" compare="equal" value="{0}"/></action></nop>
"""
REFUSES = """<label id="{0}"/><send next="1"><![CDATA[
SIP/2.0 {0} Refused
[last_Via:]
[last_From:]
[last_To:];tag=[pid]r[call_number]
[last_Call-ID:]
[last_CSeq:]
{1}Content-Length: 0

]]></send>
"""
SEEN = (*range(400, 410), 410, 413, 414, 415, 416, 420, 421, 423, *range(480, 489), 500, 501,
            502, 503, 504, 513, 600, 603, 604, 606)  # fmt: skip


def carrier(home: Path, port: int, statuses: Sequence[int], reason: str) -> Program:
    """Refuses with one status, or with that of several which is dialled."""
    home.mkdir()
    choices = "".join(map(CHOICE.format, statuses)) if len(statuses) > 1 else ""
    responses = "".join(REFUSES.format(status, reason) for status in statuses)
    (home / "flow.xml").write_text(TAKES.format(choices=choices, responses=responses))
    return Program(
        ["sipp", "-sf", "flow.xml", "-i", CARRIER, "-p", str(port), "-nostdin", "-trace_err",
         "-error_file", "errors"],
        home, server_port=port,
    )  # fmt: skip


async def refused(
    tmp_path: Path, wanted: Sequence[int], statuses: Sequence[int], reason: str = ""
) -> dict[int, str]:
    """The response that a call of each number gets."""
    need("sipp")
    port = free_port(socket.SOCK_DGRAM)
    flow = Flow("4711", None, address=CALLER)
    sip = SIP.format(caller=CALLER, caller_port=flow.port, carrier=CARRIER, port=port)
    async with carrier(tmp_path / "carrier", port, statuses, reason), box(sip) as gateway:
        flow.box = gateway
        flow.call("[field0]")
        # Which one comes is what is asked here.
        any_of = [f'<recv response="{code}" optional="true" next="1"/>' for code in SEEN]
        flow.steps += [
            '<recv response="100" optional="true"/>', *any_of, '<recv response="699" next="1"/>',
            '<label id="1"/>',
        ]  # fmt: skip
        flow.ack_refusal()
        caller = flow.program(tmp_path, "caller")
        numbers = "".join(f"{number:03}\n" for number in wanted)
        (caller.directory / "numbers").write_text(f"SEQUENTIAL\n{numbers}")
        at = caller.command.index("-m")
        often = [str(len(wanted)), "-l", "1", "-r", "50", "-inf", "numbers"]
        caller.command[at + 1 : at + 2] = often
        shown = await played(caller)
    finals = re.findall(r"\n(SIP/2\.0 [3-6]\d\d .*?To: <sip:(\d+)@.*?)\n\r?\n", shown, re.DOTALL)
    told = {int(number): text for text, number in finals}
    assert sorted(told) == sorted(wanted)
    return told


def cause_of(text: str) -> int:
    found = re.search(r"Reason: Q\.850;cause=(\d+)", text)
    assert found, text
    return int(found[1])


async def test_what_a_status_means(tmp_path: Path) -> None:
    """Section 8.2.6.1, and back by 7.2.4.1 to the caller."""
    tables = json.loads(TABLES.read_text())
    # 503 says that the server is away: last.
    wanted = sorted(map(int, tables["sip_to_cause"]), key=lambda status: (status == 503, status))
    told = await refused(tmp_path, wanted, wanted)
    for status, text in told.items():
        cause = cause_of(text)
        if status not in OPEN:
            assert cause in {row["cause"] for row in tables["sip_to_cause"][str(status)]}, status
        rows = {row["sip"] for row in tables["cause_to_sip"].get(str(cause), [])}
        if cause not in OWN and rows:
            assert int(text[8:11]) in rows, (status, text)


async def test_what_a_cause_becomes(tmp_path: Path) -> None:
    """Section 7.2.4.1: a network that says why in Reason, whatever status goes with it."""
    tables = json.loads(TABLES.read_text())
    wanted = sorted(map(int, tables["cause_to_sip"]))
    told = await refused(tmp_path, wanted, [480], "Reason: Q.850;cause=[$wanted]\n")
    for cause, text in told.items():
        assert cause_of(text) == cause
        if cause not in OWN:
            rows = {row["sip"] for row in tables["cause_to_sip"][str(cause)]}
            assert int(text[8:11]) in rows, (cause, text)
