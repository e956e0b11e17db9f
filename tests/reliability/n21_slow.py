"""21: requests that never end, connections that say nothing, handshakes that stall."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import time
from typing import Any

from tests.interop.certificates import Authority
from tests.reliability.daemon import PORT
from tests.reliability.lab import Lab
from tests.reliability.net import FURTHER, GATEWAY
from tests.reliability.party import Party

TLS_PORT = 5061
REQUEST_S, HANDSHAKE_S = 30.0, 10.0
PER_ADDRESS, MOST = 50, 1000
CONNECT_S = 1.0
AGAIN_KB = 5 * 1024


async def run(lab: Lab) -> None:
    """They are closed in time, an address has no more than its share, others get in at once."""
    authority = Authority(lab.home / "ca")
    pem = authority.issue("gateway", f"IP:{GATEWAY}")
    await lab.start(
        listen=f'"udp:{GATEWAY}:{PORT}", "tcp:{GATEWAY}:{PORT}", "tls:{GATEWAY}:{TLS_PORT}"',
        sip=f'[adapters.sip.tls]\ncert_file = "{pem}"\n',
        # Else the trace of the wires fills its 16 MB, and hides what is lost.
        routes="[capture]\nsignalling_mb = 1\n",
    )
    context = ssl.create_default_context(cafile=str(authority.certificate))
    caller, called = lab.ends()
    probe = lab.party("b", FURTHER[0])
    await lab.warm(caller)
    pairs = await lab.talk(caller, called, lab.load)
    await lab.hear(pairs, what="before")
    await _closed_in_time(lab)
    # What a thousand connections have left goes back; a second time must not take more.
    rss = []
    for _ in range(2):
        await _besieged(lab, context, probe)
        rss.append(await _calm(lab))
    lab.figure(second_time_mb=round((rss[1] - rss[0]) / 1024, 1))
    lab.check(rss[1] - rss[0] <= AGAIN_KB, f"memory {(rss[1] - rss[0]) / 1024:+.1f} MB once more")
    gone = [one for one, other in pairs if not (one.up and other.up)]
    lab.check(not gone, f"{len(gone)} calls were lost")
    await lab.hear(pairs, what="after")
    await lab.end(caller, pairs)
    await lab.judge(caller, probe)


async def _calm(lab: Lab, within_s: float = 30.0) -> int:
    """Memory when what the siege has left has gone back, in kB, or at the end of that time."""
    deadline = time.monotonic() + within_s
    while (held := lab.daemon.rss_kb()) > lab.was.rss_kb + lab.rss_kb // 2:
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(0.5)
    return held


async def _besieged(lab: Lab, context: ssl.SSLContext, probe: Party) -> None:
    n_slow, n_hog = 500, 2000
    began, refused = time.monotonic(), await lab.daemon.counter("connections_refused")
    attackers = [
        await lab.attack("slow", "--n", str(n_slow), "--seconds", "20", "--sources", "1"),
        await lab.attack(
            "slow", "--n", str(n_slow), "--seconds", "20", "--sources", "10",
            "--port", str(TLS_PORT),
        ),
        await lab.attack("hog", "--n", str(n_hog), "--seconds", "20", "--sources", "40"),
    ]  # fmt: skip
    await asyncio.sleep(4.0)
    connects, slowest, most = 0, 0.0, 0
    while time.monotonic() - began < 60 and any(a.returncode is None for a in attackers):
        took = await _connect(lab, context, "10.77.1.51")
        connects += took is not None
        slowest = max(slowest, took if took is not None else 99.0)
        most = max(most, len(os.listdir(f"/proc/{lab.daemon.pid}/fd")))
        options = min([await probe.options() for _ in range(3)])
        lab.check(options <= 0.05, f"OPTIONS took {1000 * options:.0f} ms under it")
        await asyncio.sleep(1.0)
    lab.check(slowest <= CONNECT_S, f"a rightful TLS connection took {slowest:.1f} s (99: none)")
    lab.check(most <= MOST + 300, f"{most} descriptors")
    refused = await lab.daemon.counter("connections_refused") - refused
    lab.check(refused > n_slow - PER_ADDRESS - 1, f"only {refused} connections were refused")
    for attacker in attackers:
        await attacker.communicate()
    lab.figure(
        tls_connects=connects, slowest_ms=round(1000 * slowest), descriptors=most, refused=refused
    )


async def _connect(lab: Lab, context: ssl.SSLContext, source: str) -> float | None:
    """Seconds of a TLS connection that is answered an OPTIONS; None when it is not."""
    loop = asyncio.get_running_loop()
    sock = lab.net.tcp("a", source)
    began = time.monotonic()
    try:
        async with asyncio.timeout(5.0):
            await loop.sock_connect(sock, (GATEWAY, TLS_PORT))
            reader, writer = await asyncio.open_connection(
                sock=sock, ssl=context, server_hostname=GATEWAY
            )
            took = time.monotonic() - began
            writer.write(
                f"OPTIONS sip:{GATEWAY} SIP/2.0\r\nVia: SIP/2.0/TLS {source}:1;branch=z9hG4bK"
                f"{time.monotonic_ns()}\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:b>\r\n"
                f"Call-ID: {time.monotonic_ns()}\r\nCSeq: 1 OPTIONS\r\nMax-Forwards: 5\r\n"
                "Content-Length: 0\r\n\r\n".encode()
            )
            answer = await reader.readline()
            writer.close()
            return took if answer.startswith(b"SIP/2.0 200") else None
    except (OSError, TimeoutError):
        sock.close()
        return None


async def _closed_in_time(lab: Lab) -> None:
    """One of each kind, and when it was closed."""
    from tests.reliability.attack import request

    whole = request("OPTIONS", "10.77.1.50", 1, 1)
    found: dict[str, Any] = dict(zip(
        ("request", "body", "silence", "handshake"),
        await asyncio.gather(
            _until_closed(lab, PORT, whole[:60]),
            _until_closed(lab, PORT, whole[:-23] + b"Content-Length: 500\r\n\r\nhalf"),
            _until_closed(lab, PORT, b""),
            _until_closed(lab, TLS_PORT, b"\x16\x03\x01\x02"),
        ),
        strict=True,
    ))  # fmt: skip
    for name, seconds in found.items():
        limit = HANDSHAKE_S if name == "handshake" else REQUEST_S
        lab.check(seconds <= limit + 1.0, f"an unfinished {name} was open for {seconds:.0f} s")
    lab.figure(closed_after_s={name: round(s) for name, s in found.items()})


async def _until_closed(lab: Lab, port: int, data: bytes) -> float:
    loop = asyncio.get_running_loop()
    sock = lab.net.tcp("a", "10.77.1.50")
    try:
        await loop.sock_connect(sock, (GATEWAY, port))
        began = time.monotonic()
        await loop.sock_sendall(sock, data)
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(45.0):
                while await loop.sock_recv(sock, 4096):
                    pass
        return time.monotonic() - began
    finally:
        sock.close()
