"""What can be wrong with a SIP call: one call for each fault, or for two at once.

SIPp calls with an SDP of its own, FFmpeg sends the audio that it promised, the kernel's packet
filter loses some of it, and baresip is who is called.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import subprocess
from collections.abc import Container, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gateway.core.events import LegAnswered, LegHeld, LegOffered
from tests.interop import ffmpeg
from tests.interop.diag_site import CARRIER, OTHER, SEALED, Site, few_at_a_time
from tests.interop.peers import Box, Program, need, phone, sipp
from tests.interop.sipp_flow import Flow, finished, sdp

KEY = base64.b64encode(bytes(range(30))).decode()
WRONG_KEY = base64.b64encode(bytes(range(30, 60))).decode()
# Nobody's, public, and out of reach from a network of its own.
NOWHERE = "192.88.98.7"
PRIVATE = "10.99.99.99"
LOSSY, FORBIDDEN, LOSSY_AND_LOW = 10, 42, 45
"""Ports whose callers this machine's packet filter takes packets from."""
RECORDED = Path("/usr/share/sip-tester/g711a.pcap")
"""Speech in packets of 30 ms, which SIPp brings with it."""


def spoil_network() -> None:
    """Let this network's packet filter lose what it is to lose of known callers."""
    _drop("OUTPUT", "-d", CARRIER, "--dport", str(_media(FORBIDDEN)))
    for n in (LOSSY, LOSSY_AND_LOW):
        _drop("INPUT", "-s", CARRIER, "--sport", str(_media(n)), every=8)


def _drop(chain: str, *which: str, every: int = 1) -> None:
    need("iptables")
    rule = ["-p", "udp", *which]
    if every > 1:
        rule += ["-m", "statistic", "--mode", "nth", "--every", str(every), "--packet", "0"]
    command = ["iptables", "-w", "10", "-A", chain, *rule, "-j", "DROP"]
    subprocess.run(command, check=True, timeout=20)


def _media(n: int) -> int:
    """A caller's audio port, below those that the system gives to whoever asks for any."""
    return 20000 + 2 * n


def carrier_sipp(
    home: Path,
    to: Box,
    number: str,
    media: int,
    *,
    seconds: float,
    address: str = CARRIER,
    caddr: str = "",
    family: str = "IP4",
    way: str = "sendrecv",
    profile: str = "AVP",
    more: str = "ptime:20",
) -> Program:
    """SIPp calls a number; where its audio comes from, if at all, is what its SDP says alone."""
    keys = {
        "caddr": caddr or address, "family": family, "mport": str(media), "way": way,
        "profile": profile, "more": more,
    }  # fmt: skip
    words = [word for key, value in keys.items() for word in ("-key", key, value)]
    arguments = ("-s", number, *words, "-d", str(round(seconds * 1000)))
    where = f"127.0.0.1:{to.port}"
    return sipp(home, "diag.xml", where, address=address, arguments=arguments)


async def carrier_calls(
    site: Site,
    name: str,
    n: int,
    *,
    number: str = "",
    source: str | None = CARRIER,
    seconds: float = 5.0,
    judge: bool = True,
    sound: str = "speech",
    described: Mapping[str, str] = MappingProxyType({}),
    **audio: Any,
) -> None:
    """SIPp calls port `n`, or a number; the audio that it promised comes from `source`, if at
    all. `described` as `carrier_sipp` takes it, `audio` as `ffmpeg.rtp` does."""
    number, skip = number or f"9{n:02}", len(site.box.seen)
    async with contextlib.AsyncExitStack() as stack:
        caller = await stack.enter_async_context(carrier_sipp(
            site.home / f"sipp-{n}", site.box, number, _media(n), seconds=seconds, **described,
        ))  # fmt: skip
        offered = await site.box.wait(LegOffered, lambda e: e.called == number, skip=skip)
        await site.box.wait(LegAnswered, lambda e: e.leg == offered.leg)
        if source:
            stream = site.box.gateway.patchbay.stream(offered.leg)
            assert stream is not None
            await stack.enter_async_context(ffmpeg.rtp(
                site.home / f"ffmpeg-{n}", site.sounds[sound], (source, _media(n)), stream.local,
                seconds - 0.5, **audio,
            ))  # fmt: skip
        if judge:
            await asyncio.sleep(seconds - 1.8)
            await site.judge(name, offered.leg)
        await site.ended(name, offered)
        assert await caller.done(40) == 0, caller.said()


async def sip_calls(site: Site, only: Container[str] | None = None, at_once: int = 7) -> None:
    """What can be wrong with the audio of a SIP call; `only` these."""
    calls: dict[str, tuple[int, dict[str, Any]]] = {}

    def call(name: str, n: int, **how: Any) -> None:
        calls[name] = n, how

    sealed: dict[str, Any] = {
        "source": SEALED,
        "described": {
            "address": SEALED, "profile": "SAVP", "more": f"crypto:1 {ffmpeg.SUITE} inline:{KEY}",
        },
    }  # fmt: skip
    # The long one first; the machine has other things to do.
    call("slow clock", 12, pace=0.999, seconds=16.0)
    call("good", 0)
    call("private address", 1, described={"caddr": PRIVATE}, source=None)
    call("private address behind NAT", 2, described={"caddr": PRIVATE})
    call("no packets", 3, source=None)
    call("from elsewhere", 4, source=OTHER)
    call("wrong payload type", 5, codec="pcm_alaw")
    call("no RTP", 40, bare=True)
    call("unencrypted", 38, **sealed)
    call("encrypted", 25, key=KEY, **sealed)
    call("wrong key", 26, key=WRONG_KEY, **sealed)
    call("address without a route", 27, described={"caddr": NOWHERE}, source=None)
    call("muted", 6, sound="digital silence")
    call("silence", 7, sound="noise")
    call("clipped", 8, sound="clipped")
    call("low", 9, sound="low")
    call("lossy", LOSSY)
    call("starved", 11, n_samples=7200)
    call("keys in the audio", 13, sound="keys")
    call("hung up at once", 15, source=None, seconds=0.7, judge=False)
    call("put on hold from the start", 16, described={"way": "sendonly"})
    call("no address", 41, described={"caddr": "::", "family": "IP6"}, source=None)
    call("own firewall", FORBIDDEN)
    # Two at once: what explains the other comes first.
    call("lossy and low", LOSSY_AND_LOW, sound="low")
    call("muted, from elsewhere", 46, source=OTHER, sound="digital silence")
    call("clipped, from a private address", 47, described={"caddr": PRIVATE}, sound="clipped")
    each = {
        name: carrier_calls(site, name, n, **how)
        for name, (n, how) in calls.items() if only is None or name in only
    }  # fmt: skip
    if only is None or "jitter" in only:
        each["jitter"] = _jitter(site)
    await few_at_a_time(at_once, each.values())


async def _jitter(site: Site) -> None:
    """SIPp plays speech of which every other packet was held up on its way."""
    recorded = await asyncio.to_thread(_held_up, site.home)
    await _flow(site, "jitter", "944", _speaker(site, "944", recorded).pause(6.0).hangs_up(), 4.5)


def _speaker(site: Site, number: str, recorded: Path) -> Flow:
    """SIPp calls a number, and plays what was recorded."""
    caller = Flow("4711", site.box, address=CARRIER)
    caller.call(number, body=sdp().replace(" 0 96", " 8 96")).talks()
    caller.steps.append(f'<nop><action><exec play_pcap_audio="{recorded}"/></action></nop>')
    return caller


def _held_up(home: Path) -> Path:
    """SIPp's recording, with every other packet 50 ms later, by Wireshark's tools."""
    need("editcap", "mergecap")
    parts = []
    for first, later in ((1, "0"), (2, "0.05")):
        parts.append(str(home / f"part-{first}.pcap"))
        numbers = [str(number) for number in range(first, 237, 2)]
        command = ["editcap", "-F", "pcap", "-t", later, "-r", str(RECORDED), parts[-1], *numbers]
        subprocess.run(command, check=True, timeout=20, capture_output=True)
    out = home / "held-up.pcap"
    command = ["mergecap", "-F", "pcap", "-w", str(out), *parts]
    subprocess.run(command, check=True, timeout=20, capture_output=True)
    return out


async def _many_keys(site: Site) -> None:
    """SIPp presses keys by INFO as quick as they are taken."""
    caller = _speaker(site, "203", RECORDED).pause(1.0)
    for digit in "0123456789" * 10:
        body = f"Signal={digit}\nDuration=100\n"
        caller.inside("INFO", body=body, kind="application/dtmf-relay").gets(200)
    await _flow(site, "too many keys", "203", caller.pause(3.0).hangs_up(), 0.0)


async def _flow(site: Site, name: str, number: str, caller: Flow, judged_after_s: float) -> None:
    skip = len(site.box.seen)
    async with caller.program(site.home, f"sipp-{number}") as program:
        offered = await site.box.wait(LegOffered, lambda e: e.called == number, skip=skip)
        if judged_after_s:
            await asyncio.sleep(judged_after_s)
            await site.judge(name, offered.leg)
        await site.ended(name, offered)
        await finished(program)


async def softphone_calls(site: Site) -> None:
    """baresip on hold and muted, and at the other end of a call whose caller does nothing wrong."""
    box = site.box
    await asyncio.gather(
        _hold(site, box), _mute(site, box), _silent_callee(site, box), _loses(site, box)
    )


async def _hold(site: Site, box: Box) -> None:
    async with phone(site.home, "anna", "a1", box, hz=440) as anna:
        await box.up("sip/anna")
        await anna.dial(box.uri("917"))
        offered = await box.wait(LegOffered, lambda e: e.called == "917")
        await anna.wait("CALL_ESTABLISHED")
        await asyncio.sleep(1.0)
        await anna.command("hold")
        await box.wait(LegHeld, lambda e: e.leg == offered.leg)
        await asyncio.sleep(1.5)
        await site.judge("hold", offered.leg)
        await anna.hang_up()
        await site.ended("hold", offered)


async def _mute(site: Site, box: Box) -> None:
    async with phone(site.home, "bert", "b1", box, hz=440) as bert:
        await box.up("sip/bert")
        await bert.dial(box.uri("918"))
        offered = await box.wait(LegOffered, lambda e: e.called == "918")
        await bert.wait("CALL_ESTABLISHED")
        await asyncio.sleep(1.0)
        await bert.command("mute")
        await asyncio.sleep(13.0)
        await site.judge("softphone muted", offered.leg)
        await bert.hang_up()
        await site.ended("softphone muted", offered)


async def _silent_callee(site: Site, box: Box) -> None:
    silent = phone(site.home, "dora", "d1", box, hz=440, answer="auto")
    silent.microphone = site.sounds["digital silence"]
    async with silent:
        await box.up("sip/dora")
        await carrier_calls(site, "other end muted", 44, number="204", seconds=6.0)


async def _loses(site: Site, box: Box) -> None:
    """The network loses a quarter of what baresip is sent, which it reports by RTCP."""
    async with phone(site.home, "carl", "c1", box, hz=440, answer="auto") as carl:
        await box.up("sip/carl")
        call = asyncio.create_task(
            carrier_calls(site, "lossy there", 28, number="203", seconds=12.0)
        )
        try:
            answered = await box.wait(LegAnswered, lambda e: e.leg.startswith("sip/carl#"))
            stream = box.gateway.patchbay.stats(answered.leg)
            assert stream is not None
            port = stream.signalled.rpartition(":")[2]
            _drop("INPUT", "-d", "127.0.0.1", "--dport", port, every=4)
        finally:
            await call
        await carl.wait("CALL_CLOSED")
        await _many_keys(site)
