"""SRTP with foreign phones: keys over TLS, audio measured, and what is not allowed refused."""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path

import pytest

from gateway.lab.softphone import Softphone, free_port
from gateway.media.streams import RtpSpec
from tests.interop.certificates import Authority
from tests.interop.peers import (
    Box,
    Kamailio,
    assert_hears,
    box,
    phone,
    rtpengine,
    until,
)
from tests.interop.test_capture import command, controlled, fields
from tests.interop.test_sip_tls import CALLS, TALK_S, secure

pytestmark = pytest.mark.interop

MODULE = "module\t\t\tsrtp.so\n"


def phones(anna: str, bert: str, extra: str = "") -> str:
    return (
        f'codecs = ["PCMA", "PCMU"]\ndigest = ["MD5"]\n{extra}\n'
        f'[adapters.sip.phones.anna]\npassword = "a1"\nnumber = "201"\nsrtp = "{anna}"\n'
        f'[adapters.sip.phones.bert]\npassword = "b1"\nnumber = "202"\nsrtp = "{bert}"\n'
    )


def srtp_phone(
    home: Path, user: str, to: Box, *, hz: float, mode: str, answer: str = "manual"
) -> Softphone:
    """A baresip over TLS; mode: srtp (RTP/AVP with keys), srtp-mand (RTP/SAVP), or empty."""
    media = f";mediaenc={mode}" if mode else ""
    return phone(
        home, user, f"{user[0]}1", to, hz=hz, answer=answer, transport="tls", extra=media,
        modules=MODULE,
    )  # fmt: skip


async def spoken(gateway: Box) -> None:
    """Long enough to be judged: by what arrived, for a busy machine speaks slowly."""
    await asyncio.sleep(TALK_S)
    streams = [leg.audio.stream for leg in gateway.sip._calls._legs.values()]

    def heard() -> bool:
        found = [stream.stats() for stream in streams if stream is not None]
        return all(min(s.packets_received, s.packets_sent) > 75 for s in found)

    await until(heard, "audio both ways")


async def talk(gateway: Box, anna: Softphone, bert: Softphone, to: str = "") -> dict[str, object]:
    """One call; the suite of each phone's leg while it stood."""
    await gateway.up("sip/anna", "sip/bert")
    await anna.dial(to or f"sip:202@127.0.0.1:{gateway.sip.ports['tls']};transport=tls")
    await anna.wait("CALL_ESTABLISHED")
    await spoken(gateway)
    found = {}
    for leg in gateway.sip._calls._legs.values():
        assert leg.audio.stream is not None
        spec, stats = leg.audio.stream.spec, leg.audio.stream.stats()
        assert isinstance(spec, RtpSpec)
        # baresip begins with an empty packet in the clear, to open a way through a NAT.
        assert stats.srtp_failed <= 1
        assert stats.srtp_replayed == 0
        assert stats.packets_received > 40
        found[leg.user] = spec.srtp and spec.srtp.suite.value
    await anna.hang_up()
    await bert.wait("CALL_CLOSED")
    legs = await gateway.legs(2)
    assert {leg.cause for leg in legs.values()} == {"normal"}
    return found


@pytest.mark.parametrize(
    ("ours", "mode"),
    [
        ("required", "srtp-mand"),
        ("required", "srtp"),
        ("offered", "srtp-mand"),
        ("offered", "srtp"),
    ],
)
async def test_srtp_on_one_leg_and_rtp_on_the_other(tmp_path: Path, ours: str, mode: str) -> None:
    authority = Authority(tmp_path / "ca")
    certificate = authority.issue("box", "DNS:box.test", "IP:127.0.0.1")
    async with (
        box(secure(certificate, authority) + phones(ours, "never"), CALLS) as gateway,
        srtp_phone(tmp_path, "anna", gateway, hz=1000, mode=mode) as anna,
        phone(tmp_path, "bert", "b1", gateway, hz=440, answer="auto") as bert,
    ):
        found = await talk(gateway, anna, bert)
    assert found["anna"]
    assert found["bert"] is None
    assert_hears(anna.heard(), 440, 1000)
    assert_hears(bert.heard(), 1000, 440)


@pytest.mark.parametrize(
    ("ours", "mode", "encrypted"),
    [("required", "srtp-mand", True), ("offered", "srtp", True), ("offered", "", False)],
)
async def test_the_called_phone_gets_keys(
    tmp_path: Path, ours: str, mode: str, encrypted: bool
) -> None:
    authority = Authority(tmp_path / "ca")
    certificate = authority.issue("box", "DNS:box.test", "IP:127.0.0.1")
    async with (
        box(secure(certificate, authority) + phones("required", ours), CALLS) as gateway,
        srtp_phone(tmp_path, "anna", gateway, hz=1000, mode="srtp-mand") as anna,
        srtp_phone(tmp_path, "bert", gateway, hz=440, mode=mode, answer="auto") as bert,
    ):
        found = await talk(gateway, anna, bert)
    assert found["anna"]
    assert bool(found["bert"]) is encrypted
    assert_hears(anna.heard(), 440, 1000)
    assert_hears(bert.heard(), 1000, 440)


async def test_required_refuses_a_phone_without_srtp(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    certificate = authority.issue("box", "DNS:box.test", "IP:127.0.0.1")
    async with (
        box(secure(certificate, authority) + phones("required", "never"), CALLS) as gateway,
        srtp_phone(tmp_path, "anna", gateway, hz=1000, mode="") as anna,
        phone(tmp_path, "bert", "b1", gateway, hz=440, answer="auto"),
    ):
        await gateway.up("sip/anna", "sip/bert")
        await anna.dial(f"sip:202@127.0.0.1:{gateway.sip.ports['tls']};transport=tls")
        closed = await anna.wait("CALL_CLOSED")
        assert "488" in str(closed)
        legs = await gateway.legs(2)
    assert any("SRTP cannot be agreed on" in leg.detail for leg in legs.values())


@pytest.mark.parametrize(("extra", "encrypted"), [("", False), ('srtp_over = "any"', True)])
async def test_keys_do_not_go_over_udp_unless_they_may(
    tmp_path: Path, extra: str, encrypted: bool
) -> None:
    async with box(phones("offered", "never", extra), CALLS) as gateway:
        anna = phone(tmp_path, "anna", "a1", gateway, hz=1000, extra=";mediaenc=srtp")
        anna.extra = MODULE
        async with anna, phone(tmp_path, "bert", "b1", gateway, hz=440, answer="auto") as bert:
            found = await talk(gateway, anna, bert, gateway.uri("202"))
    assert bool(found["anna"]) is encrypted
    assert_hears(anna.heard(), 440, 1000)
    assert_hears(bert.heard(), 1000, 440)


@pytest.mark.parametrize("decrypted", [False, True])
async def test_a_capture_holds_no_key_and_decrypted_audio_only_when_asked(
    tmp_path: Path, decrypted: bool
) -> None:
    authority = Authority(tmp_path / "ca")
    certificate = authority.issue("box", "DNS:box.test", "IP:127.0.0.1")
    file = tmp_path / "call.pcapng"
    words = ["--decrypted"] if decrypted else []
    async with (
        box(secure(certificate, authority) + phones("required", "never"), CALLS) as gateway,
        controlled(gateway) as desk,
        srtp_phone(tmp_path, "anna", gateway, hz=1000, mode="srtp-mand") as anna,
        phone(tmp_path, "bert", "b1", gateway, hz=440, answer="auto") as bert,
    ):
        await gateway.up("sip/anna", "sip/bert")
        follower = await command(gateway, "capture", "next", "-f", *words, "-o", str(file))
        await until(lambda: desk._feeds, "somebody follows")
        await talk(gateway, anna, bert)
        _, said = await asyncio.wait_for(follower.communicate(), 30.0)
    assert (b"in the clear" in said) is decrypted
    written = file.read_bytes()
    ports = set(re.findall(rb"m=audio (\d+) RTP/SAVP", written))
    assert len(ports) == 2  # of the offer, which is sent again after 401, and of our answer
    assert set(re.findall(rb"inline:(\*?)", written)) == {b"*"}
    places = " || ".join(f"udp.port == {port.decode()}" for port in ports)
    which = f"udp && ({places}) && !rtcp"
    sizes = {int(length) for (length,) in fields(file, which, ["udp.length"])}
    assert sizes
    assert (8 + 12 + 160 in sizes) is decrypted


@pytest.mark.parametrize("suite", ["AEAD_AES_128_GCM", "AEAD_AES_256_GCM"])
async def test_gcm_with_a_foreign_implementation(tmp_path: Path, suite: str) -> None:
    """RFC 7714 with baresip, whose library has AES-GCM of its own. It answers it, but offers
    AES_CM alone."""
    authority = Authority(tmp_path / "ca")
    certificate = authority.issue("box", "DNS:box.test", "IP:127.0.0.1")
    sip = secure(certificate, authority) + phones("never", "required")
    async with (
        box(f'srtp_suites = ["{suite}"]\n' + sip, CALLS) as gateway,
        phone(tmp_path, "anna", "a1", gateway, hz=1000) as anna,
        srtp_phone(tmp_path, "bert", gateway, hz=440, mode="srtp-mand", answer="auto") as bert,
    ):
        found = await talk(gateway, anna, bert, gateway.uri("202"))
    assert found == {"anna": None, "bert": suite}
    assert_hears(anna.heard(), 440, 1000)
    assert_hears(bert.heard(), 1000, 440)


@pytest.mark.parametrize("suite", ["AEAD_AES_256_GCM", "AES_CM_128_HMAC_SHA1_80"])
async def test_a_trunk_of_srtp_and_phones_of_rtp(tmp_path: Path, suite: str) -> None:
    """Kamailio with rtpengine as the exchange: TLS and SRTP between us, RTP at both ends."""
    authority = Authority(tmp_path / "ca")
    ours = authority.issue("box", "DNS:box.test")
    theirs = authority.issue("kam", "URI:sip:pbx.test")
    users = {"gw": "gwpw", "4711": "d1"}
    media = free_port(socket.SOCK_DGRAM)
    async with (
        rtpengine(tmp_path / "rtpengine", media),
        Kamailio(
            tmp_path / "kam", users, tls=(theirs, authority.certificate), media=media
        ) as proxy,
    ):
        trunk = (
            f'[adapters.sip.trunks.carrier]\npeer = "sip:{proxy.address}:{proxy.tls_port}'
            ';transport=tls"\ntls_name = "pbx.test"\nregister = true\nuser = "gw"\n'
            'password = "gwpw"\nsrtp = "required"\n'
        )
        async with (
            box(
                f'srtp_suites = ["{suite}"]\n'
                + secure(ours, authority) + phones("never", "never") + trunk,
                '[[routes]]\nname = "out"\ncalled = "0(X.)"\ntargets = ["sip/carrier:{1}"]\n'
                '[[routes]]\nname = "in"\nfrom = ["sip/carrier"]\ntargets = ["sip/anna"]\n',
            ) as gateway,
            phone(tmp_path, "anna", "a1", gateway, hz=1000, answer="auto") as anna,
            phone(tmp_path, "4711", "d1", proxy.at, hz=440, answer="auto") as dora,
        ):  # fmt: skip
            await dora.registered()
            await gateway.up("sip/anna", "sip/carrier")
            await anna.dial(gateway.uri("04711"))
            await anna.wait("CALL_ESTABLISHED")
            await spoken(gateway)
            _encrypted(gateway, suite)
            await anna.hang_up()
            await dora.wait("CALL_CLOSED")
            assert_hears(anna.heard(), 440, 1000)
            assert_hears(dora.heard(), 1000, 440)
            # And the other way round: the exchange offers.
            await dora.dial(f"sip:9201@{proxy.address}:{proxy.port}")
            await dora.wait("CALL_ESTABLISHED")
            await spoken(gateway)
            _encrypted(gateway, suite)
            await dora.hang_up()
            await gateway.legs(4)
            assert_hears(anna.heard(), 440, 1000)
            assert_hears(dora.heard(), 1000, 440)


def _encrypted(gateway: Box, suite: str) -> None:
    """The trunk's leg is, with nothing wrong; the phone's is not."""
    found = {}
    for leg in gateway.sip._calls._legs.values():
        assert leg.audio.stream is not None
        stats = leg.audio.stream.stats()
        assert stats.packets_received > 40
        assert stats.srtp_replayed == 0
        found[leg.user] = stats.srtp_suite
    assert found == {"anna": "", "carrier": suite}
