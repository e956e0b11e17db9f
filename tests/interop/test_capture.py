"""Captures of real calls, as tshark and sngrep read them; traces that peers began."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from gateway.control.desk import Desk
from gateway.control.server import Control
from gateway.core.events import DigitPressed, LegEnded, LegOffered
from gateway.lab.softphone import free_port
from gateway.testing.audio import read_wav, steady_level_at
from tests.interop.peers import ANNA, LOOPBACK, Box, box, mulaw, phone, sipp, until
from tests.interop.sipp_flow import Flow, finished, sdp

pytestmark = pytest.mark.interop

CARRIER = "127.0.2.30"
PASSWORD = "correct-horse-battery"
THEIRS = "01234567-89ab-cdef-0123-456789abcdef"
"""What `sipp/uac.xml` sends as its half of the Session-ID."""
SIP = f"""
codecs = ["PCMU"]
digest = ["MD5"]
[adapters.sip.phones.anna]
password = "{PASSWORD}"
number = "201"
[adapters.sip.trunks.carrier]
peer = "sip:{CARRIER}:{{port}}"
keepalive_s = 0
"""
IN = """
[[routes]]
name = "in"
from = ["sip/carrier"]
called = "+49301(XXX)"
targets = ["sip/anna"]
record = true
"""
KEPT = "[capture]\nrtp_s = 60\n"
"""Everybody's audio of the last minute is remembered."""


@contextlib.asynccontextmanager
async def controlled(gateway: Box) -> AsyncIterator[Desk]:
    """The control socket of a box, for the real commands."""
    desk = Desk(gateway.gateway)
    control = Control(desk, gateway.home / "s", log=gateway.gateway.log)
    await control.start()
    try:
        yield desk
    finally:
        await control.stop()


async def command(gateway: Box, *words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "--socket", str(gateway.home / "s"), *words,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


async def said(gateway: Box, *words: str) -> str:
    process = await command(gateway, *words)
    out, errors = await asyncio.wait_for(process.communicate(), 30.0)
    assert process.returncode == 0, errors.decode()
    return out.decode() + errors.decode()


def tshark(file: Path, *words: str) -> list[str]:
    done = subprocess.run(
        ["tshark", "-r", str(file), *words], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.splitlines()


def fields(file: Path, which: str, names: Sequence[str]) -> list[list[str]]:
    wanted = [word for name in names for word in ("-e", name)]
    return [line.split("\t") for line in tshark(file, "-Y", which, "-T", "fields", *wanted)]


def heard(file: Path, home: Path) -> list[int]:
    """The tone in each stream of a capture, as tshark finds its packets and SoX plays them."""
    home.mkdir()
    streams: dict[str, bytes] = {}
    for source, payload in fields(file, "rtp.p_type == 0", ["rtp.ssrc", "rtp.payload"]):
        streams[source] = streams.get(source, b"") + bytes.fromhex(payload.replace(":", ""))
    found = []
    for source, octets in streams.items():
        (home / f"{source}.ul").write_bytes(octets)
        wav = home / f"{source}.wav"
        subprocess.run(
            ["sox", "-r", "8000", "-c", "1", str(wav.with_suffix(".ul")),
             "-e", "signed", "-b", "16", str(wav)],
            capture_output=True, timeout=20, check=True,
        )  # fmt: skip
        (samples, *_), rate = read_wav(wav)
        levels = {hz: steady_level_at(samples, hz, rate=rate) for hz in (440, 1000)}
        found.append(max(levels, key=levels.__getitem__))
        assert levels[found[-1]] > -16, levels
    return found


def sngrep(file: Path) -> int:
    """How many messages sngrep reads from a capture, and writes again."""
    seen = file.with_suffix(".sngrep.pcap")
    subprocess.run(
        ["sngrep", "-N", "-q", "-I", str(file), "-O", str(seen)],
        capture_output=True, timeout=60, check=True, env={"TERM": "xterm", "PATH": "/usr/bin"},
    )  # fmt: skip
    return len(tshark(seen, "-Y", "sip"))


async def test_a_call_as_tshark_and_sngrep_see_it(tmp_path: Path) -> None:
    port = free_port(socket.SOCK_DGRAM)
    file, told = tmp_path / "call.pcapng", ""
    async with (
        box(SIP.format(port=port), IN + KEPT) as gateway,
        controlled(gateway) as desk,
        phone(tmp_path, "anna", PASSWORD, gateway, hz=440, answer="auto") as anna,
    ):
        await gateway.up("sip/anna", "sip/carrier")
        follower = await command(gateway, "capture", "next", "--follow", "-o", str(file))
        await until(lambda: desk._feeds, "somebody follows")
        (tmp_path / "sipp").mkdir()
        mulaw(tmp_path / "sipp", 1000)
        async with sipp(
            tmp_path / "sipp", "uac.xml", f"127.0.0.1:{gateway.port}", port=port,
            arguments=("-s", "+49301201", "-key", "user", "4711"),
        ) as carrier:  # fmt: skip
            assert await carrier.done() == 0, carrier.said()
        offered = await gateway.wait(LegOffered)
        await gateway.wait(DigitPressed)
        await gateway.wait(LegEnded)
        await anna.wait("CALL_CLOSED")
        out, errors = await asyncio.wait_for(follower.communicate(), 30.0)
        assert follower.returncode == 0, errors.decode()
        for words in (
            ("trace", "last"), ("trace", "last", "--json"), ("events", "--last", "100"),
            ("records", "--json"), ("explain", "sip/carrier", "+49301201"),
        ):  # fmt: skip
            told += await said(gateway, *words)
        page, later = tmp_path / "page.html", tmp_path / "later.pcapng"
        afterwards = tmp_path / "afterwards.pcapng"
        told += await said(gateway, "trace", THEIRS, "--html", str(page))
        told += await said(gateway, "capture", "--last", "5m", "-o", str(later))
        told += await said(gateway, "capture", "last", "-o", str(afterwards))
        ladder = json.loads(await said(gateway, "trace", "last", "--json"))
        records = json.loads(await said(gateway, "records", "--json"))
        legs = json.loads(await said(gateway, "records", "--legs", "--json"))
        rows = [
            json.loads(line)
            for line in (
                await said(gateway, "events", "--trace", THEIRS, "--since", "1h", "--json")
            ).splitlines()
        ]
        recordings = gateway.gateway.configuration.recordings_dir
        await until(lambda: list(recordings.glob(f"{THEIRS}-*.wav")), "a recording")
    # It goes with records, journal and recordings.
    assert {record["trace"] for record in [*records, *legs]} == {THEIRS}
    kinds = {str(row["type"]).rpartition(".")[2] for row in rows}
    assert {"LegOffered", "Dial", "LegAnswered", "Record", "LegEnded"} <= kinds
    assert b"call.pcapng: " in out
    # The trace is the peer's, on every leg and line.
    assert offered.trace == ladder["trace"] == THEIRS
    wires = [item for item in ladder["items"] if item["kind"] in ("in", "out")]
    assert {item["leg"] for item in wires} == {"sip/carrier#1", "sip/anna#1"}
    assert any(item["text"].startswith("200 OK to BYE") for item in wires)

    for each in (file, later, afterwards):
        assert not tshark(each, "-Y", "_ws.malformed")
        sip = fields(each, "sip", ["sip.Method", "sip.Status-Code", "sip.Session-ID"])
        methods = {method for method, _, _ in sip if method}
        assert {"INVITE", "ACK", "INFO", "BYE"} <= methods
    assert "REGISTER" in {row[0] for row in fields(later, "sip", ["sip.Method"])}
    # Whatever we say in the call names both halves; RFC 7989 section 5.
    theirs, nil = THEIRS.replace("-", ""), "0" * 32
    ours = fields(
        file, "sip && frame.packet_flags_direction == 2 && !(sip.Status-Code == 100)",
        ["sip.CSeq.method", "sip.msg_hdr"],
    )  # fmt: skip
    halves = set()
    for method, head in ours:
        (value,) = [
            line.partition(": ")[2]
            for line in head.replace("\\r\\n", "\n").splitlines()
            if line.startswith("Session-ID")
        ]
        halves.add((method, *value.split(";remote=")))
    assert {half[1] for half in halves if half[2] == theirs} != {theirs}
    assert ("INVITE", theirs, nil) in halves
    assert {half[0] for half in halves} >= {"INVITE", "ACK", "BYE", "INFO"}

    # What was not captured as it came was remembered, and can be heard.
    for each in (file, later, afterwards):
        streams = [line.split() for line in tshark(each, "-q", "-z", "rtp,streams")]
        streams = [line for line in streams if "g711U" in line]
        assert len(streams) == 4
        assert all(int(line[line.index("g711U") + 1]) > 80 for line in streams), streams
        assert sorted(heard(each, tmp_path / each.stem)) == [440, 440, 1000, 1000]
    assert fields(file, "rtcp", ["rtcp.pt"])
    comments = "\n".join(tshark(file, "-T", "fields", "-e", "frame.comment"))
    assert "leg sip/carrier#1" in comments
    assert f"sip, sip/anna#1, trace {THEIRS}" in comments

    for each in (file, afterwards):
        assert sngrep(each) == len(tshark(each, "-Y", "sip"))

    # What nobody may read is nowhere: neither password nor its digest, nor the digit.
    everything = told.encode() + b"".join(
        each.read_bytes() for each in (file, later, afterwards, page)
    )
    assert PASSWORD.encode() not in everything
    assert b"Signal=7" not in everything
    assert b"Signal=?" in everything
    proofs = fields(later, "sip.auth.digest.response", ["sip.auth.digest.response"])
    assert proofs
    assert {sign for (proof,) in proofs for sign in proof.replace(",", "")} <= set('*"')


async def test_a_call_in_which_much_is_said_as_sngrep_reads_it(tmp_path: Path) -> None:
    """On hold and off again, and keys by INFO, over and over; saved when it is over."""
    async with box(ANNA, LOOPBACK + KEPT) as gateway, controlled(gateway):
        anna = Flow("anna", gateway, password="a1").call("301").talks()
        for n in range(1, 13):
            for way in ("sendonly", "sendrecv"):
                anna.inside("INVITE", body=sdp(way, version=2 * n)).gets(200, maybe=(100,)).ack()
            for digit in "1234":
                body = f"Signal={digit}\nDuration=100\n"
                anna.inside("INFO", body=body, kind="application/dtmf-relay").gets(200)
        anna.hangs_up()
        async with anna.program(tmp_path) as program:
            await finished(program)
        await gateway.wait(LegEnded, lambda e: e.leg.startswith("sip/"))
        file = tmp_path / "long.pcapng"
        await said(gateway, "capture", "last", "-o", str(file))
    methods = [row[0] for row in fields(file, "sip.Request-Line", ["sip.Method"])]
    assert methods.count("INVITE") >= 25
    assert methods.count("INFO") == 48
    assert len({row[0] for row in fields(file, "sip", ["sip.Call-ID"])}) == 1
    assert sngrep(file) == len(tshark(file, "-Y", "sip")) > 170
    assert not tshark(file, "-Y", "_ws.malformed")
