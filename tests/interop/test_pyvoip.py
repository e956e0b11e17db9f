"""The pyvoip adapter at Kamailio, which registers and challenges it, with baresip behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
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
from gateway.testing.audio import level, level_at, read_wav, tone, write_wav
from tests.interop.peers import Kamailio, assert_hears, microphone, need, until

USERS = {"gw": "gwpw", "dora": "dorapw"}
LINE = "pyvoip/line"
TALK_S = 2.5


def baresip(directory: Path, proxy: Kamailio, *, codec: str = "PCMU/8000/1") -> Softphone:
    need("baresip")
    account = (
        f"<sip:dora@{proxy.address}:{proxy.port}>;auth_pass=dorapw;audio_codecs={codec}"
        ";answermode=manual;regint=60"
    )
    return Softphone(account, microphone(directory, 440), directory / "dora")


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
    media = Engine(max_streams=8, ports=(42300, 42315), realtime=False)
    await media.start()
    try:
        yield media
    finally:
        await media.stop()


@pytest.fixture(params=["407", "401"])
def challenge(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param


class Registrar(Kamailio):
    """Kamailio that challenges calls with 401, as many a PBX does."""

    def __init__(self, directory: Path, users: dict[str, str], challenge: str = "407", **more: Any):
        super().__init__(directory, users, **more)
        if challenge == "401":
            file = directory / "kamailio.cfg"
            text = file.read_text().replace("pv_proxy_authenticate", "pv_www_authenticate")
            file.write_text(text.replace("proxy_challenge", "www_challenge"))


async def test_calls_both_ways(tmp_path: Path, challenge: str) -> None:
    async with (
        Registrar(tmp_path / "kam", USERS, challenge) as proxy,
        baresip(tmp_path, proxy) as dora,
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
