"""A far end that agreed on several codecs, and changes among them without a word (RFC 3264 5.1):
SIPp answers, FFmpeg speaks in its place, baresip hears."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest

from gateway.core.events import LegAnswered, LegOffered
from gateway.lab.softphone import free_port
from gateway.testing.audio import read_wav, steady_level_at
from tests.interop import ffmpeg
from tests.interop.peers import box, microphone, phone
from tests.interop.sipp_flow import finished, port_at, sdp
from tests.interop.test_sip_details import CARRIER, ROUTES, carrier, house

pytestmark = pytest.mark.interop

PORT = free_port(socket.SOCK_DGRAM)
BOTH = "RTP/AVP 0 8 96\na=rtpmap:0 PCMU/8000\na=rtpmap:8 PCMA/8000"


def _heard(recording: Path, hz: float) -> float:
    """The greatest level of a tone in half a second, dBm0."""
    (samples, *_), rate = read_wav(recording)
    half = rate // 2
    return max(
        steady_level_at(samples[at : at + half], hz, rate=rate)
        for at in range(0, max(1, len(samples) - half), half // 2)
    )


@pytest.mark.parametrize("agreed", [True, False])
async def test_a_far_end_changes_the_codec_in_mid_call(tmp_path: Path, agreed: bool) -> None:
    """To one that was agreed on it is followed, and is sent that one too; another is refused."""
    described = sdp().replace("[media_port]", str(media := port_at(CARRIER, 2)))
    if agreed:
        described = described.replace("RTP/AVP 0 96", BOTH)
    settings = house(PORT).replace('codecs = ["PCMU"]', 'codecs = ["PCMU", "PCMA"]')
    async with box(settings, ROUTES) as gateway, contextlib.AsyncExitStack() as stack:
        far = carrier(gateway, PORT).takes("INVITE", "m=audio .* RTP/AVP 0 8")
        far.reply(200, body=described, again=True).takes("ACK").is_hung_up()
        signals = await stack.enter_async_context(far.program(tmp_path))
        anna = await stack.enter_async_context(phone(tmp_path, "anna", "a1", gateway, hz=300.0))
        await gateway.up("sip/anna")
        await anna.dial("04711")
        await gateway.wait(LegOffered, lambda e: e.called == "04711")
        leg = (await gateway.wait(LegAnswered, lambda e: e.leg.startswith("sip/carrier"))).leg
        stream = gateway.gateway.patchbay.stream(leg)
        assert stream is not None
        for hz, codec in ((500.0, "pcm_mulaw"), (800.0, "pcm_alaw")):
            home = tmp_path / codec
            speaks = ffmpeg.rtp(
                home, microphone(home, hz), (CARRIER, media), stream.local, 2.5, codec=codec
            )
            async with speaks:
                assert await speaks.done() == 0, speaks.said()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear:
            ear.bind((CARRIER, media))
            ear.settimeout(10.0)
            packet = await asyncio.to_thread(ear.recv, 2048)
        assert packet[1] & 0x7F == (8 if agreed else 0)
        await anna.hang_up()
        await finished(signals)
        assert gateway.counters["codec_changes"] == int(agreed)
        sent = stream.stats()
    assert _heard(anna.heard(), 500.0) > -16.0
    assert (_heard(anna.heard(), 800.0) > -16.0) is agreed
    assert (sent.packets_wrong_type > 50) is not agreed
