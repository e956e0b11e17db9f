"""The pyvoip adapter at Kamailio, which registers and challenges it, with baresip behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.adapters.pyvoip import PyVoip
from gateway.core.actions import Answer, Hangup, SendDigits
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition
from gateway.core.events import (
    DigitPressed,
    LegAnswered,
    LegEnded,
    LegOffered,
    LegRinging,
)
from gateway.lab.softphone import Softphone, free_port
from gateway.media.engine import Engine
from gateway.testing import PROMISES, Scenario, TestHost, check_adapter
from gateway.testing.audio import tone, write_wav
from tests.interop.peers import Kamailio, assert_hears, phone, until

USERS = {"gw": "gwpw", "dora": "dorapw"}
LINE = "pyvoip/line"
TALK_S = 2.5


def baresip(directory: Path, proxy: Kamailio, *, codec: str = "PCMU/8000/1") -> Softphone:
    return phone(directory, "dora", "dorapw", proxy.at, hz=440, codec=codec)


def section(proxy: Kamailio, **more: Any) -> dict[str, Any]:
    ports = free_port(socket.SOCK_DGRAM)
    low = min(ports, 64000)
    return {
        "server": proxy.address, "port": proxy.port, "user": "gw", "password": "gwpw",
        "local_ip": "127.0.0.1", "rtp_ports": [low, low + 60], "expires_s": 10,
        "no_response_s": 1.0,
    } | more  # fmt: skip


async def registered(host: TestHost, condition: Condition = Condition.UP) -> None:
    await until(
        lambda: host.endpoints[LINE].condition is condition,
        f"{LINE} {condition}: {host.endpoints.get(LINE)}",
    )


@contextlib.asynccontextmanager
async def engine() -> AsyncIterator[Engine]:
    media = Engine(max_streams=8, ports=(32300, 32399), realtime=False)
    await media.start()
    try:
        yield media
    finally:
        await media.stop()


class Registrar(Kamailio):
    """Kamailio that challenges calls with 401, as many a PBX does."""

    def __init__(self, directory: Path, users: dict[str, str], challenge: str = "407", **more: Any):
        super().__init__(directory, users, **more)
        if challenge == "401":
            file = directory / "kamailio.cfg"
            text = file.read_text().replace("pv_proxy_authenticate", "pv_www_authenticate")
            file.write_text(text.replace("proxy_challenge", "www_challenge"))


@pytest.mark.parametrize(("challenge", "codec"), [("407", "PCMU"), ("401", "PCMA")])
async def test_calls_both_ways(tmp_path: Path, challenge: str, codec: str) -> None:
    async with (
        Registrar(tmp_path / "kam", USERS, challenge) as proxy,
        baresip(tmp_path, proxy, codec=f"{codec}/8000/1") as dora,
        engine() as media,
    ):
        await dora.registered()
        host = TestHost("pyvoip", engine=media)
        adapter = host.make(PyVoip, section(proxy))
        async with host.running():
            await registered(host)
            speech = write_wav(tmp_path / "speech.wav", tone(1000, 30))
            # We call, we hang up.
            leg = host.dial(LINE, "dora")
            await dora.wait("CALL_INCOMING")
            await host.wait_for(LegRinging, leg=leg)
            await dora.accept()
            await host.wait_for(LegAnswered, leg=leg)
            await talk(host, leg, speech, tmp_path / "first.wav")
            seen = len(dora.events)
            adapter.hangup(Hangup(leg=leg))
            await dora.wait("CALL_CLOSED", skip=seen)
            assert_hears(dora.heard(), 1000, 440)
            assert_hears(tmp_path / "first.wav", 440, 1000)
            # We are called, they hang up.
            seen = len(dora.events)
            await dora.dial(f"sip:9201@{proxy.address}:{proxy.port}")
            offered = await host.wait_for(LegOffered)
            assert (offered.endpoint, offered.called, offered.calling) == (LINE, "9201", "dora")
            adapter.answer(Answer(leg=offered.leg))
            await host.wait_for(LegAnswered, leg=offered.leg)
            await dora.wait("CALL_ESTABLISHED", skip=seen)
            await talk(host, offered.leg, speech, tmp_path / "second.wav")
            await dora.hang_up()
            ended = await host.wait_for(LegEnded, leg=offered.leg)
            assert (ended.cause, ended.detail) == (Cause.NORMAL, "BYE")
            assert_hears(dora.heard(), 1000, 440)
            assert_hears(tmp_path / "second.wav", 440, 1000)
        for each in (leg, offered.leg):
            assert len(host.of(LegEnded, leg=each)) == 1
        assert host.refused == []


async def talk(host: TestHost, leg: str, speech: Path, record: Path) -> None:
    stream = host.stream(leg)
    stream.play_file(str(speech))
    stream.record(str(record), both=False)
    await asyncio.sleep(TALK_S)
    stream.stop_record()
    await asyncio.sleep(0.2)


async def test_digits_both_ways(tmp_path: Path) -> None:
    async with (
        Kamailio(tmp_path / "kam", USERS) as proxy,
        baresip(tmp_path, proxy) as dora,
        engine() as media,
    ):
        await dora.registered()
        host = TestHost("pyvoip", engine=media)
        adapter = host.make(PyVoip, section(proxy))
        async with host.running():
            await registered(host)
            leg = host.dial(LINE, "dora")
            await dora.wait("CALL_INCOMING")
            await dora.accept()
            await host.wait_for(LegAnswered, leg=leg)
            await asyncio.sleep(0.5)
            await dora.press("159#")
            await until(lambda: len(host.of(DigitPressed)) >= 4, "four digits")
            adapter.send_digits(SendDigits(leg=leg, digits="2580*"))
            await until(lambda: len(pressed(dora)) >= 5, f"five digits: {dora.events}")
            await asyncio.sleep(0.5)
            assert "".join(e.digit for e in host.of(DigitPressed)) == "159#"
            assert pressed(dora) == "2580*"


def pressed(dora: Softphone) -> str:
    """The keys that baresip heard, by its events."""
    return "".join(e.get("param", "") for e in dora.events if e.get("type") == "CALL_DTMF_START")


async def test_who_gives_up_and_who_refuses(tmp_path: Path) -> None:
    async with Kamailio(tmp_path / "kam", USERS) as proxy, baresip(tmp_path, proxy) as dora:
        await dora.registered()
        host = TestHost("pyvoip")
        adapter = host.make(PyVoip, section(proxy))
        async with host.running():
            await registered(host)
            # We give up while it rings: they stop ringing.
            leg = host.dial(LINE, "dora")
            await dora.wait("CALL_INCOMING")
            await host.wait_for(LegRinging, leg=leg)
            seen = len(dora.events)
            adapter.hangup(Hangup(leg=leg))
            await dora.wait("CALL_CLOSED", skip=seen)
            # They refuse.
            seen = len(dora.events)
            leg = host.dial(LINE, "dora")
            await dora.wait("CALL_INCOMING", skip=seen)
            await dora.hang_up()
            ended = await host.wait_for(LegEnded, leg=leg)
            assert (ended.cause, ended.detail) == (Cause.BUSY, "486 Busy Here")
            # Nobody is there.
            leg = host.dial(LINE, "nobody")
            ended = await host.wait_for(LegEnded, leg=leg)
            assert (ended.cause, ended.detail) == (Cause.UNALLOCATED, "404 Not Found")
            # They give up: we stop ringing, and nothing is answered.
            seen = len(dora.events)
            await dora.dial(f"sip:9201@{proxy.address}:{proxy.port}")
            offered = await host.wait_for(LegOffered)
            await dora.wait("CALL_RINGING", skip=seen)
            await dora.hang_up()
            ended = await host.wait_for(LegEnded, leg=offered.leg)
            assert ended.cause is Cause.CANCELLED
            # We refuse.
            seen = len(dora.events)
            await dora.dial(f"sip:9201@{proxy.address}:{proxy.port}")
            offered = await host.wait_for(LegOffered, count=2)
            adapter.hangup(Hangup(leg=offered.leg, cause=Cause.BUSY))
            closed = await dora.wait("CALL_CLOSED", skip=seen)
            assert "486" in str(closed)
        assert host.refused == []
        assert len(host.of(LegEnded)) == 5


async def test_a_wrong_password_is_said(tmp_path: Path) -> None:
    async with Kamailio(tmp_path / "kam", USERS) as proxy:
        host = TestHost("pyvoip")
        host.make(PyVoip, section(proxy, password="wrong"))
        async with host.running():
            await registered(host, Condition.DOWN)
            place = host.endpoints[LINE]
            assert place.reason == "registration refused: wrong user or password"
            assert "wrong" not in str(place.detail)
            leg = host.dial(LINE, "dora")
            assert host.of(LegEnded, leg=leg)[0].cause is Cause.NETWORK_OUT_OF_ORDER


async def test_the_pbx_goes_and_comes_back(tmp_path: Path) -> None:
    port = free_port(socket.SOCK_DGRAM)
    async with contextlib.AsyncExitStack() as stack:
        host = TestHost("pyvoip")
        async with Kamailio(tmp_path / "one", USERS, port=port) as proxy:
            host.make(PyVoip, section(proxy))
            await stack.enter_async_context(host.running())
            await registered(host)
        await registered(host, Condition.DOWN)
        assert host.endpoints[LINE].reason == "no answer to REGISTER"
        async with Kamailio(tmp_path / "two", USERS, port=port) as proxy:
            await registered(host)
            assert "aor: gw" in (await proxy.contacts()).lower()
            # And when we stop we take the registration back.
            await stack.aclose()
            assert "aor: gw" not in (await proxy.contacts()).lower()


async def test_the_library_dies_in_a_call(tmp_path: Path) -> None:
    async with (
        Kamailio(tmp_path / "kam", USERS) as proxy,
        baresip(tmp_path, proxy) as dora,
        engine() as media,
    ):
        await dora.registered()
        host = TestHost("pyvoip", engine=media)
        adapter = host.make(PyVoip, section(proxy))
        assert isinstance(adapter, PyVoip)
        async with host.running():
            await registered(host)
            leg = host.dial(LINE, "dora")
            await dora.wait("CALL_INCOMING")
            await dora.accept()
            await host.wait_for(LegAnswered, leg=leg)
            assert adapter.pid is not None
            os.kill(adapter.pid, signal.SIGKILL)
            ended = await host.wait_for(LegEnded, leg=leg)
            assert ended.cause is Cause.ADAPTER_LOST
            assert host.endpoints[LINE].reason == "the library's process died of SIGKILL"
            await registered(host)
            seen = len(dora.events)
            leg = host.dial(LINE, "dora")
            with contextlib.suppress(TimeoutError):
                await host.wait_for(LegRinging, leg=leg)
            assert not host.of(LegEnded, leg=leg), host.of(LegEnded, leg=leg)
            await dora.wait("CALL_INCOMING", skip=seen)
        assert host.counters["library_restarts"] == 1
        assert host.refused == []


async def test_promises(tmp_path: Path) -> None:
    async with Kamailio(tmp_path / "kam", USERS) as proxy, baresip(tmp_path, proxy) as dora:
        await dora.registered()

        async def offer(adapter: Any, world: object) -> None:
            await dora.dial(f"sip:9201@{proxy.address}:{proxy.port}")

        async def answer(adapter: Any, world: object) -> None:
            await dora.accept()

        def garbage(adapter: Any, world: object) -> None:
            address, port = next(iter(adapter.endpoints())).detail["local"].split(":")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                for data in (b"\xff\x00 nonsense", b"INVITE\r\n\r\n", b"SIP/2.0 200\r\n\r\n"):
                    sender.sendto(data, (address, int(port)))

        scenario = Scenario(
            name="pyvoip", number="dora", offer=offer, answer=answer, garbage=garbage, within_s=10,
        )  # fmt: skip
        report = await check_adapter(PyVoip, section(proxy), scenario)
        assert report.kept == list(PROMISES), str(report)
