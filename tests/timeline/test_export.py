"""SIP for a Homer collector, as tshark takes it apart."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocols import hep
from gateway.timeline.export import HepExport
from gateway.timeline.redact import Redactor
from gateway.timeline.wire import Ends, WireEntry
from tests.box import wait_until

TRACE = "0123456789abcdef0123456789abcdef"
INVITE = (
    "INVITE sip:200@192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.2;branch=z9hG4bK1\r\n"
    "From: <sip:201@192.0.2.2>;tag=a\r\nTo: <sip:200@192.0.2.1>\r\nCall-ID: c1\r\n"
    'CSeq: 1 INVITE\r\nAuthorization: Digest username="anna", response="6629fae49393a053"\r\n'
    f"Session-ID: {TRACE};remote={'0' * 32}\r\nContent-Length: 0\r\n\r\n"
).encode()


def entry(data: bytes, ends: Ends, *, outward: bool = False) -> WireEntry:
    return WireEntry(
        mono=time.monotonic(), at=1_700_000_000.25, adapter="sip", about="", outward=outward,
        kind="sip", data=data, ends=ends,
    )  # fmt: skip


@pytest.mark.interop
@pytest.mark.parametrize("password", ["", "geheim"])
async def test_a_collector_gets_each_message_once_and_no_proof(
    tmp_path: Path, password: str
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    file = tmp_path / "collected.pcap"
    collector = await asyncio.create_subprocess_exec(
        "sngrep", "-N", "-q", "-L", f"udp:127.0.0.1:{port}", "-O", str(file),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={"TERM": "xterm", "PATH": os.environ["PATH"], "HOME": str(tmp_path)},
    )  # fmt: skip
    try:
        await asyncio.to_thread(wait_until, lambda: _listens(port), "the collector listens")
        export = HepExport(
            ("127.0.0.1", port), redactor=Redactor, capture_id=77, node="box", password=password
        )
        udp: Ends = ("udp", ("192.0.2.1", 5060), ("192.0.2.2", 5062))
        tcp: Ends = ("tcp", ("192.0.2.1", 5061), ("192.0.2.3", 5063))
        export.put(entry(INVITE, udp))
        # A stream cuts where it likes, and joins.
        other = INVITE.replace(b"Call-ID: c1", b"Call-ID: c2")
        export.put(entry(other[:100], tcp, outward=True))
        export.flush()
        export.put(entry(other[100:] + other.replace(b": c2", b": c3"), tcp, outward=True))
        export.close()
        assert (export.sent, export.dropped) == (3, 0)
        # It reads one datagram after the other, and writes as it goes.
        await asyncio.to_thread(
            wait_until, lambda: file.stat().st_size > 3 * len(INVITE), "it has written"
        )
    finally:
        collector.send_signal(signal.SIGINT)
        await asyncio.wait_for(collector.wait(), 20.0)
    wanted = ("ip.src", "ip.dst", "udp.srcport", "udp.dstport", "frame.time_epoch", "sip.Call-ID")
    done = await asyncio.to_thread(
        subprocess.run,
        ["tshark", "-r", file, "-d", "udp.port==5061,sip", "-Y", "sip", "-T", "fields"]
        + [word for name in wanted for word in ("-e", name)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert [line.split("\t") for line in done.stdout.splitlines()] == [
        ["192.0.2.2", "192.0.2.1", "5062", "5060", "1700000000.250000000", "c1"],
        ["192.0.2.1", "192.0.2.3", "5061", "5063", "1700000000.250000000", "c2"],
        ["192.0.2.1", "192.0.2.3", "5061", "5063", "1700000000.250000000", "c3"],
    ]
    assert b"6629fae4" not in file.read_bytes()


def _listens(port: int) -> bool:
    lines = Path("/proc/net/udp").read_text().splitlines()[1:]
    return any(line.split()[1].endswith(f":{port:04X}") for line in lines)


@given(st.binary(max_size=2000), st.text(max_size=300), st.floats(0, 4e9))
def test_any_message_fits(data: bytes, correlation: str, at: float) -> None:
    found = hep.encode(
        data, transport="udp", source=("192.0.2.1", 1), destination=("192.0.2.2", 2), at=at,
        capture_id=1, correlation=correlation,
    )  # fmt: skip
    assert int.from_bytes(found[4:6]) == len(found)
    assert not data or data in found
