"""22: RFC 4475, RFC 5118 and a thousand malformed messages, with ten calls up."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import time
from itertools import islice
from pathlib import Path
from typing import Any

from tests.interop.certificates import Authority
from tests.protocols.sip.corpora import expected, octets
from tests.protocols.sip.test_torture import judge
from tests.reliability.bombs import bombs
from tests.reliability.daemon import CALLED, CALLER, PORT
from tests.reliability.lab import Lab
from tests.reliability.malformed import message, messages
from tests.reliability.net import FURTHER, GATEWAY

CALLS = 10
TLS_PORT = 5061
CPU_S = 0.05
RSS_KB = 5 * 1024
SOURCE = "10.77.1.30"
# One lacks the empty line that ends its header, the other has less body than it says: a stream has
# to wait for the rest.
ENDLESS = ("baddn", "clerr")
OPEN = ("sessions", "transactions")
SESSIONS = 'adapter_holds{adapter="sip",what="sessions"}'
AT_ONCE = 400
"""As many calls as the malformed messages begin in the half minute that each of them lasts."""
COOL_S = 45.0
"""An ended call is known for half a minute more; what is free is given back each ten seconds."""
STRANGERS = """
[adapters.sip.trunks.strange]
peer = "sip:10.77.1.30:5060"
keepalive_s = 0
calls = 10000
"""


async def run(lab: Lab) -> None:
    """Right answers, alive after each one, no message costs more than 50 ms, nothing is kept."""
    # As a trunk its messages get through the door, to the parsers behind it.
    pem = Authority(lab.home / "ca").issue("gateway", f"IP:{GATEWAY}")
    await lab.start(
        listen=f'"udp:{GATEWAY}:{PORT}", "tcp:{GATEWAY}:{PORT}", "tls:{GATEWAY}:{TLS_PORT}"',
        trunks=CALLER + CALLED + STRANGERS,
        sip=f'requests_per_s = 10000\n[adapters.sip.tls]\ncert_file = "{pem}"\n',
        media_timeout_s=60,
        routes='[[routes]]\nname = "everybody"\nfrom = ["sip/strange"]\nconference = "room"\n'
        # Else the trace of the wires fills its 16 MB, and hides what is lost.
        "[capture]\nsignalling_mb = 1\n",
    )  # fmt: skip
    caller, called = lab.ends()
    probe = lab.party("b", FURTHER[0])
    await lab.warm(caller)
    # The first hundred malformed ones fill the bounded memories (sources, traces). Many of all of
    # them are good enough for a call, which nobody acknowledges or ends: what so many calls at once
    # take is taken by good ones first, so that what is measured is what malformed ones leave.
    sock = lab.net.udp("a", SOURCE)
    port = sock.getsockname()[1]
    good = [message(700_000 + number, SOURCE, port, {}) for number in range(AT_ONCE)]
    for data in [*(data for _, data in islice(messages(SOURCE, port), 100)), *good]:
        sock.sendto(data, (GATEWAY, 5060))
        await asyncio.sleep(0.01)
    held = await lab.daemon.held()
    lab.figure(good_calls_at_once=int(held[SESSIONS]))
    sock.close()
    await _settled(lab)
    await asyncio.sleep(COOL_S)
    rss = lab.daemon.rss_kb()
    pairs = await lab.talk(caller, called, CALLS)
    await lab.hear(pairs, what="before")
    await _torture(lab, probe)
    worst = await _generated(lab, probe)
    worst = max(worst, await _dearest(lab, probe))
    lab.check(worst[0] <= CPU_S, f"{worst[1]} cost {1000 * worst[0]:.0f} ms of CPU")
    await lab.hear(pairs, what="after")
    gone = [one for one, other in pairs if not (one.up and other.up)]
    lab.check(not gone, f"{len(gone)} of {CALLS} calls were lost")
    await lab.end(caller, pairs)
    lab.figure(worst_cpu_ms=round(1000 * worst[0], 1), worst=worst[1])
    await _settled(lab)
    await asyncio.sleep(COOL_S)
    grown = lab.daemon.rss_kb() - rss
    lab.figure(rss_over_all_mb=round(grown / 1024, 1))
    lab.check(grown <= RSS_KB, f"memory {grown / 1024:+.1f} MB over all")
    # A trusted trunk's descriptions name addresses outside, and audio goes where they say: I7 says
    # nothing here.
    lab.figure(to_described_addresses=lab.net.counts()["strays"] - lab.was.strays)
    lab.was.strays = lab.net.counts()["strays"]
    await lab.judge(caller, probe, records=False)


async def _settled(lab: Lab, standing: int = 0) -> None:
    """Until calls of strangers are over (nobody acknowledges them: 32 s); `standing` go on."""
    deadline = time.monotonic() + 75.0
    while time.monotonic() < deadline:
        held = await lab.daemon.held()
        n_open = {each: held[f'adapter_holds{{adapter="sip",what="{each}"}}'] for each in OPEN}
        if n_open["sessions"] <= standing and not n_open["transactions"]:
            return
        await asyncio.sleep(0.5)


async def _torture(lab: Lab, probe: Any) -> None:
    for corpus in ("rfc4475", "rfc5118"):
        cases = expected(corpus)
        if not cases:
            lab.figures[corpus] = "not here (CROSSPOINT_CORPORA)"
            continue
        for transport in ("udp", "tcp"):
            good = 0
            # The same octets over another transport are a retransmission while the first are known.
            await _settled(lab, 2 * CALLS)
            for name, case in sorted(cases.items()):
                data, closed = octets(corpus, name), False
                silent = case["kind"] == "response" or case["verdict"] == "drop"
                wait_s = 0.6 if silent or name in ENDLESS else 3.0
                if transport == "udp":
                    codes = await _over_udp(lab, data, case.get("reply_port") or 5060, wait_s)
                else:
                    codes, closed = await _over_tcp(lab, data, wait_s)
                if transport == "tcp" and name in ENDLESS:
                    right = not codes and not closed
                else:
                    if transport == "tcp" and name == "dblreq":
                        codes = codes[:1]
                    try:
                        judge(name, case, codes, closed)
                        right = True
                    except AssertionError:
                        right = False
                lab.check(right, f"{corpus}/{name} over {transport}: {codes}")
                lab.check(await probe.options() < 2.0, f"dead after {corpus}/{name}")
                good += right
            lab.figures[f"{corpus}_{transport}"] = f"{good}/{len(cases)}"


async def _over_udp(lab: Lab, data: bytes, port: int, wait_s: float) -> list[int]:
    """Codes that come back, up to a final one."""
    codes: list[int] = []
    with contextlib.ExitStack() as stack:
        socks: dict[int, socket.socket] = {}
        for number in {5060, port}:
            socks[number] = lab.net.udp("a", SOURCE, number)
            stack.callback(socks[number].close)
        socks[5060].sendto(data, (GATEWAY, 5060))
        ids = re.search(rb"(?im)^(?:call-id|i)\s*:\s*(\S+)", data)
        until = time.monotonic() + wait_s
        while time.monotonic() < until:
            await asyncio.sleep(0.02)
            for sock in socks.values():
                with contextlib.suppress(OSError):
                    reply = sock.recv(65535)
                    mine = ids is None or ids[1] in reply
                    found = re.match(rb"SIP/2\.0 (\d{3}) ", reply)
                    if found and mine:
                        codes.append(int(found[1]))
            if codes and codes[-1] >= 200:
                break
    return codes


async def _over_tcp(lab: Lab, data: bytes, wait_s: float) -> tuple[list[int], bool]:
    """Codes that come back, up to a final one, and whether the connection was closed."""
    sock = lab.net.tcp("a", SOURCE)
    loop = asyncio.get_running_loop()
    heard, closed = b"", False
    try:
        await loop.sock_connect(sock, (GATEWAY, 5060))
        await loop.sock_sendall(sock, data)
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(wait_s):
                while chunk := await loop.sock_recv(sock, 65535):
                    heard += chunk
                    if re.search(rb"(?m)^SIP/2\.0 [2-6]\d\d ", heard):
                        break
                else:
                    closed = True
    finally:
        sock.close()
    return [int(code) for code in re.findall(rb"(?m)^SIP/2\.0 (\d{3}) ", heard)], closed


def _loop_s(lab: Lab) -> float:
    """CPU seconds of the gateway's event loop, its first thread."""
    text = Path(f"/proc/{lab.daemon.pid}/task/{lab.daemon.pid}/schedstat").read_text()
    return int(text.split()[0]) / 1e9


async def _generated(lab: Lab, probe: Any) -> tuple[float, str]:
    """The highest cost of one message over what an OPTIONS costs, and which it was."""
    sock = lab.net.udp("a", SOURCE)
    port = sock.getsockname()[1]
    suspects: list[tuple[float, str, bytes]] = []
    for name, data in messages(SOURCE, port):
        before = _loop_s(lab)
        with contextlib.suppress(OSError):
            sock.sendto(data, (GATEWAY, 5060))
        # It is done with it when it answers what came behind.
        if not lab.check(await probe.options() < 2.0, f"dead after {name}"):
            break
        suspects.append((_loop_s(lab) - before, name, data))
        with contextlib.suppress(OSError):
            while True:
                sock.recv(65535)
    # What else was to be done in that moment, such as storing records, is not the message's.
    worst = (0.0, "")
    for _, name, data in sorted(suspects, reverse=True)[:10]:
        costs = []
        for again in range(3):
            fresh = data.replace(b"z9hG4bK", b"z9hG4bK%d" % again).replace(b"bad", b"b%dd" % again)
            before = _loop_s(lab)
            sock.sendto(fresh[:65000], (GATEWAY, 5060))
            await probe.options()
            costs.append(_loop_s(lab) - before)
        worst = max(worst, (min(costs), name))
    sock.close()
    lab.figure(messages=len(suspects))
    await _streams(lab, probe)
    return worst


async def _dearest(lab: Lab, probe: Any) -> tuple[float, str]:
    """The same of messages that are made to cost as much as one can, over UDP, TCP and TLS."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    udp = lab.net.udp("a", SOURCE)
    worst: dict[str, tuple[float, str]] = {}
    for transport in ("UDP", "TCP", "TLS"):
        for name, data in bombs(SOURCE, udp.getsockname()[1]):
            costs = []
            for again in range(3):
                fresh = data.replace(b"z9hG4bK", b"z9hG4bK%d" % again)
                fresh = fresh.replace(b"bad", b"b%dd" % again)[:65000]
                costs.append(await _cost(lab, probe, transport, fresh, udp, context))
            worst[transport] = max(worst.get(transport, (0.0, "")), (min(costs), name))
            if not lab.check(await probe.options() < 2.0, f"dead after {name} over {transport}"):
                break
    udp.close()
    lab.figure(dearest_ms={t: f"{1000 * s:.1f} ({name})" for t, (s, name) in worst.items()})
    return max(worst.values())


async def _cost(
    lab: Lab, probe: Any, transport: str, data: bytes, udp: socket.socket, context: ssl.SSLContext
) -> float:
    """CPU seconds of one message."""
    if transport == "UDP":
        before = _loop_s(lab)
        udp.sendto(data, (GATEWAY, PORT))
        await probe.options()
        return _loop_s(lab) - before
    sock = lab.net.tcp("a", SOURCE)
    tls = transport == "TLS"
    await asyncio.get_running_loop().sock_connect(sock, (GATEWAY, TLS_PORT if tls else PORT))
    reader, writer = await asyncio.open_connection(
        sock=sock, ssl=context if tls else None, server_hostname=GATEWAY if tls else None
    )
    # Neither the connection nor the handshake is the message's.
    await probe.options()
    before = _loop_s(lab)
    writer.write(data)
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(1.0):
            await reader.read(1)
    await probe.options()
    cost = _loop_s(lab) - before
    writer.transport.abort()
    return cost


async def _streams(lab: Lab, probe: Any) -> None:
    """Some of them over TCP, each on its own connection, and more than a message may hold."""
    loop = asyncio.get_running_loop()
    every = list(messages(SOURCE, 5060))[::7]
    first = b"INVITE sip:1000@10.77.0.2 SIP/2.0\r\n"
    bombs = [
        ("a header without end", first + b"X: " + b"a" * 3_000_000),
        ("a body of 2 GB", first + b"Content-Length: 2000000000\r\n\r\n" + b"b" * 3_000_000),
        ("empty lines", b"\r\n" * 1_000_000),
    ]  # fmt: skip
    for name, data in [*every, *bombs]:
        sock = lab.net.tcp("a", SOURCE)
        try:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(3.0):
                    await loop.sock_connect(sock, (GATEWAY, 5060))
                    await loop.sock_sendall(sock, data)
        finally:
            sock.close()
        lab.check(await probe.options() < 2.0, f"dead after {name} over TCP")
