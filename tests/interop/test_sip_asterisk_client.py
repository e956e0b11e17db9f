"""Asterisk behind the gateway: it registers with us as a telephone and is called as one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.core.endpoints import Condition
from gateway.lab.softphone import Softphone
from tests.interop.asterisk import ADDRESS, Asterisk, endpoint
from tests.interop.certificates import Authority
from tests.interop.peers import Box, assert_hears, box, common_port, need, phone, until
from tests.interop.test_sip_srtp import spoken
from tests.interop.test_sip_tls import secure

pytestmark = pytest.mark.interop

SIP = """
codecs = ["G722", "PCMA", "PCMU"]
digest = {digest}
keepalive_s = 1.0
[adapters.sip.phones.anna]
password = "a1"
number = "201"
[adapters.sip.phones.house]
password = "h1"
number = "300"
srtp = "{srtp}"
"""
TALK_S = 2.5


def client(to: str, transport: str, algorithms: str, *lines: str) -> str:
    """Its side: an account `house` with us; what is called there is the extension `house`."""
    return endpoint(
        "house", "outbound_auth=house", "from_user=house", "contact_user=house",
        f"transport={transport}", "allow=!all,g722,ulaw,alaw", *lines,
    ) + (
        f"[house]\ntype=aor\ncontact={to}\n"
        "[house]\ntype=auth\nauth_type=digest\nusername=house\npassword=h1\n"
        f"supported_algorithms_uac={algorithms}\n"
        f"[house]\ntype=registration\nserver_uri={to}\n"
        f"client_uri={to.replace('sip:', 'sip:house@')}\n"
        f"contact_user=house\noutbound_auth=house\ntransport={transport}\nexpiration=60\n"
        "retry_interval=1\nforbidden_retry_interval=1\nfatal_retry_interval=1\nline=yes\n"
        "endpoint=house\nmax_retries=1000\n"
    )  # fmt: skip


DIALPLAN = """exten => house,1,Dial(PJSIP/dora,20)
exten => 201,1,Dial(PJSIP/201@house,20)
"""


@contextlib.asynccontextmanager
async def house(
    tmp_path: Path,
    *,
    digest: str = '["MD5"]',
    algorithms: str = "MD5",
    transport: str = "udp",
    codec: str = "PCMU/8000/1",
    hz: tuple[int, int] = (1000, 600),
    rate: int = 8000,
    dialplan: str = DIALPLAN,
) -> AsyncIterator[tuple[Box, Asterisk, Softphone, Softphone]]:
    """The gateway with anna, and Asterisk with dora, registered there."""
    need("baresip")
    port, tls, way = common_port(), None, ""
    begin, lines = "", ("allow=!all,g722,ulaw,alaw",)
    if transport == "tls":
        authority = Authority(tmp_path / "ca")
        ours = authority.issue("box", "DNS:localhost", "IP:127.0.0.1")
        theirs = authority.issue("pbx", "URI:sip:pbx.test", f"IP:{ADDRESS}")
        tls = (theirs, authority.certificate)
        begin = secure(ours, authority, "optional")
        lines = (*lines, "media_encryption=sdes")
    srtp = "required" if tls else "never"
    async with box(begin + SIP.format(digest=digest, srtp=srtp)) as gateway:
        way = f";transport={transport}" if transport != "udp" else ""
        to = f"sip:127.0.0.1:{gateway.sip.ports[transport]}{way}"
        there = codec, rate
        async with (
            Asterisk(
                tmp_path / "asterisk", gateway.port, port, tls=tls, dialplan=dialplan,
                pjsip=client(to, transport, algorithms, *lines),
            ) as pbx,
            phone(
                tmp_path, "anna", "a1", gateway, hz=hz[0], codec=there[0], rate=there[1],
                register="MD5" in digest, answer="auto",
            ) as anna,
            phone(
                tmp_path, "dora", "d1", (ADDRESS, port), hz=hz[1], codec=there[0], rate=there[1],
                answer="auto",
            ) as dora,
        ):  # fmt: skip
            await pbx.ready()
            await gateway.up("sip/house")
            await until(lambda: "Added contact" in pbx.said(), "dora is registered")
            if "MD5" in digest:
                await gateway.up("sip/anna")
            yield gateway, pbx, anna, dora


async def both_ways(
    gateway: Box, pbx: Asterisk, anna: Softphone, dora: Softphone, hz: tuple[int, int]
) -> None:
    """Anna calls Asterisk's account, where dora answers; then dora calls anna."""
    await anna.dial(gateway.uri("300"))
    await anna.wait("CALL_ESTABLISHED")
    await spoken(gateway)
    await anna.hang_up()
    await dora.wait("CALL_CLOSED")
    await gateway.legs(2)
    assert_hears(anna.heard(), hz[1], hz[0])
    assert_hears(dora.heard(), hz[0], hz[1])
    seen = len(dora.events)
    await dora.dial(f"sip:201@{ADDRESS}:{pbx.port}")
    await dora.wait("CALL_ESTABLISHED", skip=seen)
    await spoken(gateway)
    await dora.hang_up()
    legs = await gateway.legs(4)
    assert_hears(anna.heard(), hz[1], hz[0])
    assert_hears(dora.heard(), hz[0], hz[1])
    assert {leg.cause for leg in legs.values()} == {"normal"}


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_it_registers_with_us_and_calls_both_ways(tmp_path: Path, transport: str) -> None:
    async with house(tmp_path, transport=transport) as (gateway, pbx, anna, dora):
        details = gateway.gateway.places["sip/house"][0].detail
        assert details["address"].startswith(f"{transport}:{ADDRESS}:")
        assert "Asterisk" in details["agent"]
        await both_ways(gateway, pbx, anna, dora, (1000, 600))


async def test_over_tls_with_encrypted_audio(tmp_path: Path) -> None:
    """Each checks the other's certificate, and SRTP is required of it."""
    async with house(tmp_path, transport="tls") as (gateway, _, anna, dora):
        await anna.dial(gateway.uri("300"))
        await anna.wait("CALL_ESTABLISHED")
        await spoken(gateway)
        suites = {
            leg.user: leg.audio.stream.stats().srtp_suite
            for leg in gateway.sip._calls._legs.values()
        }  # type: ignore[union-attr]
        assert suites == {"anna": "", "house": "AES_CM_128_HMAC_SHA1_80"}
        await anna.hang_up()
        await dora.wait("CALL_CLOSED")
        await gateway.legs(2)
        assert_hears(anna.heard(), 600, 1000)
        assert_hears(dora.heard(), 1000, 600)


async def test_it_proves_itself_by_sha256(tmp_path: Path) -> None:
    """Where MD5 is not offered; its calls are challenged too."""
    dialplan = DIALPLAN + (
        "exten => 9030,1,Dial(PJSIP/999@house,20)\n same => n,Verbose(1,ended ${HANGUPCAUSE})\n"
    )
    async with house(
        tmp_path, digest='["SHA-256"]', algorithms="SHA-256", dialplan=dialplan
    ) as (gateway, pbx, _, dora):  # fmt: skip
        await dora.dial(f"sip:9030@{ADDRESS}:{pbx.port}")
        # Let in by its password, and told that there is no 999.
        await pbx.says("ended 1")
        legs = await gateway.legs(1)
        assert [leg.cause for leg in legs.values()] == ["unallocated"]
        assert not gateway.counters["wrong_password"]


async def test_wideband_both_ways(tmp_path: Path) -> None:
    hz = 5000, 3000
    async with house(tmp_path, codec="G722/16000/1", hz=hz, rate=16000) as (
        gateway, pbx, anna, dora,
    ):  # fmt: skip
        await both_ways(gateway, pbx, anna, dora, hz)
        legs = await gateway.legs(4)
    assert {leg.codec for leg in legs.values()} == {"G722"}


async def test_it_changes_the_codec_in_mid_call(tmp_path: Path) -> None:
    """A re-INVITE of its own with another codec; and its RTCP tells the round trip."""
    dialplan = (
        "exten => house,1,Answer()\n same => n,Set(PJSIP_MEDIA_OFFER(audio)=alaw)\n"
        " same => n,Wait(2)\n same => n,Set(PJSIP_SEND_SESSION_REFRESH()=invite)\n"
        " same => n,Echo()\n"
    )
    async with house(tmp_path, dialplan=dialplan) as (gateway, _, anna, _):
        await anna.dial(gateway.uri("300"))
        await anna.wait("CALL_ESTABLISHED")
        leg = next(x for x in gateway.sip._calls._legs.values() if x.user == "house")

        def stats():  # type: ignore[no-untyped-def]
            assert leg.audio.stream is not None
            return leg.audio.stream.stats()

        first = stats().codec
        await until(lambda: stats().codec == "PCMA", f"PCMA instead of {first}")
        await until(lambda: stats().round_trip_ms is not None, "its receiver report")
        await asyncio.sleep(TALK_S)
        await anna.hang_up()
        legs = await gateway.legs(2)
        assert_hears(anna.heard(), 1000)
    assert first == "G722"
    assert {leg.cause for leg in legs.values()} == {"normal"}


async def test_it_is_killed_and_comes_back(tmp_path: Path) -> None:
    async with house(tmp_path) as (gateway, pbx, anna, dora):
        places = gateway.gateway.places
        await until(lambda: "rtt_ms" in places["sip/house"][0].detail, "it answers OPTIONS")
        await pbx.killed()
        await gateway.up("sip/house", condition=Condition.DOWN)
        async with pbx:
            await pbx.ready()
            await gateway.up("sip/house")
            await both_ways(gateway, pbx, anna, dora, (1000, 600))
