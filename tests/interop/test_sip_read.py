"""What foreign readers make of everything that we send: tshark's experts and sngrep, on a capture
taken from the wire by dumpcap while SIPp plays calls, subscriptions and texts."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.interop.peers import Box, Program, box, mulaw, need
from tests.interop.sipp_flow import Flow, finished, perform, played, sdp
from tests.interop.test_capture import fields, tshark
from tests.interop.test_sip_details import invite_answer
from tests.interop.test_sip_services import ELSEWHERE, HOUSE, cancelled

pytestmark = pytest.mark.interop

PHONES, CARRIER = "127.0.2.46", "127.0.2.47"
"""Nobody's addresses in other tests."""
FURTHER = "".join(
    f'[adapters.sip.phones.{user}]\npassword = "{user[0]}1"\nnumber = "{number}"\n'
    "auto_answer = true\n"
    for user, number in (("dora", 204), ("emil", 205), ("fred", 206))
)
"""Each is called once: a contact that is gone is waited for."""
TRUNK = """
[adapters.sip.trunks.carrier]
peer = "sip:{address}:{port}"
keepalive_s = 0
diversion = "both"
precedence = "dsn"
identity = "rpid"
numbers = {{ country_code = "49" }}
"""
ROUTES = (
    ELSEWHERE
    + """
[[routes]]
name = "out"
called = "0X."
targets = ["sip/carrier:{called}"]
[[routes]]
name = "in"
from = ["sip/carrier"]
called = "+49301(XXX)"
targets = ["directory:{1}"]
"""
)
WARNING = 0x600000


@contextlib.asynccontextmanager
async def wire(file: Path) -> AsyncIterator[None]:
    """What passes by on the loopback interface from and to those addresses."""
    need("dumpcap", "tshark", "sngrep")
    command = [
        "dumpcap",
        "-q",
        "-i",
        "lo",
        "-f",
        f"host {PHONES} or host {CARRIER}",
        "-w",
        str(file),
    ]
    async with Program(command, file.parent / "dumpcap") as capture:
        await capture.says("File:")
        yield
        # What it has not read yet is lost when it ends.
        await asyncio.sleep(0.5)


def phone(gateway: Box, user: str) -> Flow:
    return Flow(user, gateway, password=f"{user[0]}1", address=PHONES)


def calls(gateway: Box) -> list[Flow]:
    """A call that is held both ways, one to somebody busy, one given up, one sent on, one into a
    room with the media of a desktop."""
    held = phone(gateway, "anna").call("301").talks()
    held.inside("INVITE", body=sdp("sendonly", version=2)).talks("a=recvonly")
    held.inside("UPDATE", body=sdp(version=3)).gets(200).pause(0.5)
    held.inside("INFO", body="Signal=5\nDuration=160\n", kind="application/dtmf-relay").gets(200)
    busy = phone(gateway, "anna").call("302").gets(486, maybe=(100, 180)).ack_refusal()
    rich = sdp(
        before="m=video 4000 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        after="m=image 4002 udptl t38\n",
    )
    room = phone(gateway, "carl").call("700", body=rich).talks().pause(0.3).hangs_up()
    asked = Flow("bert", gateway, address=PHONES)
    asked.send("OPTIONS", "box", "Accept: application/sdp").gets(200)
    return [held.hangs_up(), busy, room, asked]


async def test_readers_have_nothing_to_say(tmp_path: Path) -> None:
    file = tmp_path / "wire.pcapng"
    far = Flow("+49815", None, address=CARRIER)
    sip = HOUSE + FURTHER + TRUNK.format(address=CARRIER, port=far.port)
    async with wire(file), box(sip, ROUTES) as gateway:
        far.box = gateway
        for user in ("anna", "bert"):
            wrong = Flow(user, gateway, password="no", address=PHONES)
            await played(wrong.send("REGISTER", user).gets(401).program(tmp_path, f"no-{user}"))
        await perform(tmp_path, *calls(gateway))
        await events(tmp_path, gateway)
        await carriers(tmp_path, gateway, far)
        await transfers(tmp_path, gateway)
        port = gateway.port
    # What bounces back is quoted, and cut off.
    ours = f"(!icmp && ip.src == 127.0.0.1 && (udp.srcport == {port} || rtp || rtcp))"
    names = (
        "sip.Method", "sip.Status-Code", "sip.Content-Type", "rtp.ssrc", "rtcp.pt", "_ws.malformed",
        "_ws.expert.severity", "_ws.expert.message", "_ws.col.Info",
    )  # fmt: skip
    rows = [dict(zip(names, row, strict=True)) for row in fields(file, ours, names)]

    def told(name: str) -> set[str]:
        return {row[name].partition(";")[0] for row in rows if row[name]}

    assert told("sip.Method") >= {"INVITE", "ACK", "BYE", "CANCEL", "PRACK", "NOTIFY", "MESSAGE"}
    assert told("sip.Status-Code") >= {"180", "183", "200", "202", "401", "486", "487"}
    assert told("sip.Content-Type") >= {
        "application/sdp", "application/dialog-info+xml", "application/pidf+xml",
        "application/reginfo+xml", "application/simple-message-summary", "text/plain",
    }  # fmt: skip
    assert sum(bool(row["rtp.ssrc"]) for row in rows) > 20
    assert told("rtcp.pt")
    assert not [
        row for row in rows
        if row["_ws.malformed"]
        or any(int(level) >= WARNING for level in row["_ws.expert.severity"].split(",") if level)
    ]  # fmt: skip

    seen = tmp_path / "sngrep.pcap"
    await asyncio.to_thread(
        subprocess.run,
        ["sngrep", "-N", "-q", "-I", str(file), "-O", str(seen)],
        capture_output=True, timeout=60, check=True, env={"TERM": "xterm", "PATH": "/usr/bin"},
    )  # fmt: skip
    kept = tshark(seen, "-Y", f"sip && {ours}", "-T", "fields", "-e", "sip.CSeq")
    assert len(kept) == sum(bool(row["sip.Method"] or row["sip.Status-Code"]) for row in rows)


async def events(home: Path, gateway: Box) -> None:
    """Four packages, and a text."""
    watchers = []
    for package, whom in (
        ("dialog", "202"), ("presence", "202"), ("message-summary", "anna"), ("reg", "anna"),
    ):  # fmt: skip
        flow = phone(gateway, "anna").send("SUBSCRIBE", whom, f"Event: {package}").gets(200)
        flow.takes("NOTIFY", "Subscription-State: active").reply(200)
        flow.inside("SUBSCRIBE", f"Event: {package}", "Expires: 0")
        flow.gets(200).takes("NOTIFY", "Subscription-State: terminated").reply(200)
        watchers.append(flow)
    await perform(home, *watchers)
    emil = phone(gateway, "emil")
    await emil.registered(home)
    emil.takes("MESSAGE", "hello").reply(200)
    async with emil.program(home, "reads") as reads:
        text = phone(gateway, "anna").send("MESSAGE", "205", body="hello", kind="text/plain")
        await played(text.gets(202).program(home, "writes"))
        await finished(reads)


async def transfers(home: Path, gateway: Box) -> None:
    """Referred to another network; given up while it rings; answered by itself, with audio."""
    anna = phone(gateway, "anna").call("202").talks().pause(0.2)
    anna.inside("REFER", "Refer-To: <sip:301@[remote_ip]>").gets(202)
    for status in (100, 180, 200):
        anna.takes("NOTIFY", f"SIP/2.0 {status}").reply(200)
    bert = phone(gateway, "bert").answers().pause(1.2).hangs_up()
    await perform(home, anna.is_hung_up(), bert)
    gone = phone(gateway, "anna").call("203").gets(180, maybe=(100,))
    gone.cancel("203").gets(200, "CANCEL").gets(487).ack_refusal()
    rings = phone(gateway, "carl").takes("INVITE").reply(180).takes("CANCEL").reply(200)
    rings.steps.append(cancelled(rings))
    await perform(home, gone, rings.takes("ACK"))
    speaks = phone(gateway, "anna").call("206", "Answer-Mode: Auto").talks()
    speaks.steps.append('<nop><action><exec rtp_stream="tone.ul,1,0,PCMU/8000"/></action></nop>')
    speaks.pause(1.0).hangs_up()
    answers = phone(gateway, "fred").answers(ring=False).is_hung_up()
    await answers.registered(home)
    program = speaks.program(home, "speaks")
    mulaw(program.directory, 1000)
    async with answers.program(home) as called:
        await played(program)
        await finished(called)


async def carriers(home: Path, gateway: Box, far: Flow) -> None:
    """Sent on by a phone to a carrier that rings reliably, with precedence."""
    sends = phone(gateway, "dora").takes("INVITE").reply(302, again=True).takes("ACK")
    sends.steps[-2] = sends.steps[-2].replace(
        "sip:dora@[local_ip]:[local_port]", "sip:04711@elsewhere.test"
    )
    far.takes("INVITE", "Diversion:", "History-Info:", "Remote-Party-ID:", "Resource-Priority:")
    far.reply(183, "Require: 100rel", "RSeq: 5", body=sdp()).takes("PRACK").settled().reply(200)
    far.steps.append(invite_answer(far))
    anna = phone(gateway, "anna").call("204").gets(183, "m=audio", maybe=(100,))
    await perform(home, far.takes("ACK").is_hung_up(), sends, anna.talks().pause(0.3).hangs_up())
