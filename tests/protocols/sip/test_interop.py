"""Foreign programs against the agent over real sockets on loopback."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.protocols.sip.agent import SipAgent, SipConfig
from gateway.protocols.sip.auth import Authenticated, Credentials, DigestServer, ha1
from gateway.protocols.sip.events import (
    Acked,
    Answered,
    Ended,
    Event,
    How,
    Invited,
    Registered,
    RequestReceived,
)
from gateway.protocols.sip.gate import Admit, Refuse, Verdict
from gateway.protocols.sip.message import Request
from gateway.protocols.sip.registrar import Registrar
from gateway.protocols.sip.transaction import Flow
from gateway.testing import until

from .network import SDP
from .udp import UdpShim

pytestmark = pytest.mark.interop


def need(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


async def run(*command: str, cwd: Path | None = None, limit: float = 30.0) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), limit)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    return process.returncode or 0, output.decode(errors="replace")


class Exchange:
    """Registers and answers; REGISTER needs digest as bob/bobpw."""

    def __init__(self, algorithms: tuple[str, ...] = ("MD5",)) -> None:
        self.events: list[Event] = []
        self.registrar = Registrar()
        self.digest = DigestServer("pbx.test", self.lookup, algorithms=algorithms)
        self.agent = SipAgent(SipConfig(host="127.0.0.1"), self.gate)
        self.shim = UdpShim(self.agent, self.handle)

    @staticmethod
    def lookup(username: str, realm: str, algorithm: str) -> str | None:
        return ha1(algorithm, "bob", realm, "bobpw") if username == "bob" else None

    def gate(self, request: Request, flow: Flow, now: float) -> Verdict:
        if request.method != "REGISTER":
            return Admit()
        verdict = self.digest.check(request, now)
        if isinstance(verdict, Authenticated):
            return Admit(verdict.username)
        return Refuse(verdict.status, verdict.headers)

    def handle(self, event: Event, now: float) -> None:
        self.events.append(event)
        match event:
            case Invited():
                self.agent.ring(event.session, now)
                self.agent.answer(event.session, SDP, now)
            case RequestReceived() if event.message.method == "REGISTER":
                status, headers = self.registrar.process(event.message, event.flow, now)
                self.agent.respond(event.request, status, now, headers=headers)
            case RequestReceived():
                self.agent.respond(event.request, 200, now)

    def count(self, kind: type[Event]) -> int:
        return sum(isinstance(event, kind) for event in self.events)


@pytest.fixture
async def exchange() -> AsyncIterator[Exchange]:
    made = Exchange()
    await made.shim.open()
    yield made
    made.shim.close()


async def test_sipp_calls_us(exchange: Exchange, tmp_path: Path) -> None:
    code, output = await run(
        need("sipp"), "-sn", "uac", "-i", "127.0.0.1", "-m", "50", "-r", "50", "-d", "50",
        "-nostdin", "-timeout", "20s", f"127.0.0.1:{exchange.shim.port}", cwd=tmp_path,
    )  # fmt: skip
    assert code == 0, output[-3000:]
    assert exchange.count(Invited) == exchange.count(Acked) == exchange.count(Ended) == 50
    assert all(e.how is How.BYE for e in exchange.events if isinstance(e, Ended))
    assert not exchange.agent.core.sessions
    assert exchange.agent.counters["retransmitted"] == 0


async def test_we_call_sipp(exchange: Exchange, tmp_path: Path) -> None:
    probe = UdpShim(exchange.agent, exchange.handle)
    await probe.open()
    port = probe.port
    probe.close()
    callee = asyncio.create_task(
        run(
            need("sipp"),
            "-sn",
            "uas",
            "-i",
            "127.0.0.1",
            "-p",
            str(port),
            "-m",
            "10",
            "-nostdin",
            "-timeout",
            "20s",
            cwd=tmp_path,
        )
    )
    agent, shim = exchange.agent, exchange.shim
    sessions = [agent.invite(f"sip:service@127.0.0.1:{port}", SDP, shim.now) for _ in range(10)]
    shim.drain()
    await until(lambda: exchange.count(Answered) == 10, "ten calls are answered")
    for session in sessions:
        agent.hangup(session, shim.now)
    shim.drain()
    code, output = await callee
    assert code == 0, output[-3000:]
    assert exchange.count(Ended) == 10


async def test_sipsak_registers_with_digest(exchange: Exchange) -> None:
    def command(password: str) -> list[str]:
        return [
            need("sipsak"), "-U", "-i", "-H", "127.0.0.1", "-a", password, "-u", "bob",
            "-C", "sip:bob@127.0.0.1:5099", "-x", "60",
            "-s", f"sip:bob@127.0.0.1:{exchange.shim.port}",
        ]  # fmt: skip

    code, output = await run(*command("bobpw"))
    assert code == 0, output
    (binding,) = exchange.registrar.lookup("sip:bob@127.0.0.1", exchange.shim.now)
    assert binding.contact == "sip:bob@127.0.0.1:5099"
    code, output = await run(*command("wrong"))
    assert code == 2, output


async def test_sipsak_and_sofia_ask_options(exchange: Exchange) -> None:
    uri = f"sip:bob@127.0.0.1:{exchange.shim.port}"
    code, output = await run(need("sipsak"), "-vv", "-H", "127.0.0.1", "-s", uri)
    assert code == 0, output
    assert "200 OK" in output
    code, output = await run(need("sip-options"), uri)
    assert code == 0, output
    assert re.search(r"Allow: .*INVITE", output), output


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256"])
async def test_we_register_with_ourselves_over_sockets(algorithm: str) -> None:
    server = Exchange((algorithm,))
    await server.shim.open()
    client = Exchange()
    await client.shim.open()
    client.agent.register(
        f"sip:127.0.0.1:{server.shim.port}",
        "sip:bob@127.0.0.1",
        client.shim.now,
        credentials=Credentials("bob", "bobpw"),
    )
    client.shim.drain()
    await until(lambda: client.count(Registered) == 1, "it is registered")
    server.shim.close()
    client.shim.close()
