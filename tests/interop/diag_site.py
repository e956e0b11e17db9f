"""Calls with one fault each, injected by foreign programs, all at the same time on one gateway.

`run` gives for each of them the verdict while it was up, and the verdict that journal and records
give when the gateway does not run any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.control import diagnosis
from gateway.core.events import HangupRequested, LegAnswered, LegEnded, LegOffered
from gateway.diagnosis import Diagnosis, diagnose, gather
from gateway.lab.softphone import free_port
from tests.interop.peers import HERE, Box, Program, box, need, phone, sipp, until

CARRIER = "127.0.2.30"
OTHER = "127.0.2.31"
PRIVATE = "10.99.99.99"
N_PORTS = 24

SIP = f"""
digest = ["MD5"]
codecs = ["PCMU"]
[adapters.sip.phones.anna]
password = "a1"
number = "201"
[adapters.sip.phones.bert]
password = "b1"
number = "202"
[adapters.sip.phones.nobody]
password = "n1"
number = "299"
[adapters.sip.trunks.carrier]
peer = "sip:{CARRIER}:5060"
keepalive_s = 0
calls = 60
"""
LOOPBACK = "[adapters.loopback]\n" + "".join(
    f"[adapters.loopback.ports.t{n}]\nnumber = \"9{n:02}\"\ntone_hz = 425.0\n"
    for n in range(N_PORTS)
)  # fmt: skip
ROUTES = "".join(
    f'[[routes]]\nname = "{n}"\ncalled = "9{n:02}"\ntargets = ["loopback/t{n}"]\n'
    for n in range(N_PORTS)
)  # fmt: skip
ROUTES += '[[routes]]\nname = "unregistered"\ncalled = "299"\ntargets = ["sip/nobody"]\n'


@dataclass
class Verdicts:
    """Of one call."""

    up: Diagnosis | None = None
    over: Diagnosis | None = None
    trace: str = ""


@dataclass(eq=False)
class Site:
    """The gateway, and what is needed to call it."""

    box: Box
    home: Path
    sounds: dict[str, Path]
    sender: Program
    found: dict[str, Verdicts] = field(default_factory=dict)

    def send(self, **wish: Any) -> None:
        """Let a stream be sent."""
        wish = {
            "octets": str(self.sounds["speech"]), "type": 0, "seconds": 4.0, "interval_s": 0.02,
            "lose": 0, "stall_s": 0.0, "digits": "",
        } | wish  # fmt: skip
        process = self.sender.process
        assert process is not None
        assert process.stdin is not None
        process.stdin.write(json.dumps(wish).encode() + b"\n")

    async def judge(self, name: str, leg: str) -> None:
        """Note the verdict on a call that is up."""
        self.found[name] = known = self.found.get(name) or Verdicts()
        known.up = await diagnosis.of_call(self.box.gateway, leg)
        known.trace = known.up.trace

    async def ended(self, name: str, offered: LegOffered) -> None:
        """Note a call, and wait for its end."""
        await self.box.wait(LegEnded, lambda e: e.leg == offered.leg, within_s=40)
        known = self.found.setdefault(name, Verdicts())
        known.trace = offered.trace


def octets(home: Path) -> dict[str, Path]:
    """Sounds as mu-law octets, made by a foreign encoder."""
    need("sox")
    home.mkdir(parents=True, exist_ok=True)
    wishes = {
        # Bursts of a tone with pauses, on a floor of noise: as lively as speech.
        "speech": "synth 0.6 sine 500 vol 0.25 : synth 0.4 whitenoise vol 0.004",
        "digital silence": "trim 0 1",
        "noise": "synth 1 whitenoise vol 0.0003",
        "clipped": "synth 1 sine 500 gain 12",
        "low": "synth 0.6 sine 500 vol 0.003 : synth 0.4 sine 500 vol 0.0015",
    }  # fmt: skip
    found = {}
    for name, effects in wishes.items():
        found[name] = home / f"{name}.ul"
        parts = []
        for n, effect in enumerate(effects.split(" : ")):
            part = home / f"{name}-{n}.wav"
            source = ["-n", "-r", "8000", "-b", "16", "-c", "1"]
            subprocess.run(
                ["sox", "-D", *source, str(part), *effect.split()], check=True, timeout=20
            )
            parts.append(str(part))
        subprocess.run(["sox", "-D", *parts, "-t", "ul", str(found[name])], check=True, timeout=20)
    found["digital silence"].write_bytes(b"\xff" * 8000)
    found["keys"] = home / "keys.ul"
    pairs = [(697, 1209), (770, 1336), (852, 1477), (941, 1336)]
    parts = []
    for n, (low, high) in enumerate(pairs):
        part = home / f"key-{n}.wav"
        subprocess.run(
            ["sox", "-D", "-n", "-r", "8000", "-b", "16", "-c", "1", str(part), "synth", "0.15",
             "sine", str(low), "synth", "sine", "mix", str(high), "vol", "0.3", "pad", "0", "0.35"],
            check=True, timeout=20, capture_output=True,
        )  # fmt: skip
        parts.append(str(part))
    parts += [str(home / f"speech-{n}.wav") for n in range(2)]
    subprocess.run(["sox", "-D", *parts, "-t", "ul", str(found["keys"])], check=True, timeout=20)
    return found


@contextlib.asynccontextmanager
async def site(home: Path, more: str = "") -> AsyncIterator[Site]:
    """A gateway and the sender of RTP."""
    sounds = octets(home / "sounds")
    sender = Program([sys.executable, str(HERE / "rtp_sender.py")], home / "sender")
    async with box(SIP, LOOPBACK + more + ROUTES, home=home) as gateway, sender:
        await gateway.up("loopback/t0", "sip/carrier")
        yield Site(gateway, home, sounds, sender)


# One call each


async def carrier_calls(
    site: Site,
    name: str,
    n: int,
    *,
    caddr: str = CARRIER,
    source: str | None = CARRIER,
    way: str = "sendrecv",
    seconds: float = 4.5,
    judge: bool = True,
    **wish: Any,
) -> None:
    """SIPp calls port `n`; the audio that it promised comes from `source`, or not at all."""
    media = free_port(socket.SOCK_DGRAM)
    number = f"9{n:02}"
    async with sipp(
        site.home / f"sipp-{n}", "diag.xml", f"127.0.0.1:{site.box.port}", address=CARRIER,
        arguments=("-s", number, "-key", "caddr", caddr, "-key", "mport", str(media),
                   "-key", "way", way, "-d", str(round(seconds * 1000))),
    ) as caller:  # fmt: skip
        offered = await site.box.wait(LegOffered, lambda e: e.called == number)
        await site.box.wait(LegAnswered, lambda e: e.leg == offered.leg)
        stream = site.box.gateway.patchbay.stream(offered.leg)
        assert stream is not None
        if source:
            site.send(**{"from": [source, media], "to": list(stream.local), "seconds": seconds - 0.3}
                      | wish)  # fmt: skip
        if judge:
            await asyncio.sleep(seconds - 1.0)
            await site.judge(name, offered.leg)
        await site.ended(name, offered)
        assert await caller.done(40) == 0, caller.said()


async def sip_calls(site: Site) -> None:
    """What can be wrong with the audio of a SIP call."""
    sounds = {name: str(path) for name, path in site.sounds.items()}
    call = carrier_calls
    await asyncio.gather(
        call(site, "good", 0),
        call(site, "private address", 1, caddr=PRIVATE, source=None),
        call(site, "private address behind NAT", 2, caddr=PRIVATE),
        call(site, "no packets", 3, source=None),
        call(site, "from elsewhere", 4, source=OTHER),
        call(site, "wrong payload type", 5, type=8),
        call(site, "muted", 6, octets=sounds["digital silence"]),
        call(site, "silence", 7, octets=sounds["noise"]),
        call(site, "clipped", 8, octets=sounds["clipped"]),
        call(site, "low", 9, octets=sounds["low"]),
        call(site, "lossy", 10, lose=8),
        call(site, "starved", 11, stall_s=0.45),
        call(site, "slow clock", 12, interval_s=0.02002, seconds=16.0),
        call(site, "keys in the audio", 13, octets=sounds["keys"]),
        call(site, "keys twice", 14, octets=sounds["keys"], digits="123"),
        call(site, "hung up at once", 15, seconds=1.0, judge=False),
        call(site, "put on hold from the start", 16, way="sendonly"),
    )


CALLS: tuple[Callable[[Site], Awaitable[None]], ...] = (sip_calls,)


async def run(home: Path) -> dict[str, Verdicts]:
    """All calls."""
    async with site(home) as found:
        await asyncio.gather(*(calls(found) for calls in CALLS))
        await until(lambda: not found.box.gateway.switchboard.calls, "no call any more", 20)
        configuration = found.box.gateway.configuration
    for verdicts in found.found.values():
        call, _ = gather.past(configuration.journal_dir, verdicts.trace)
        missing = gather.recorded(configuration.records_url, call)
        assert not missing, missing
        verdicts.over = diagnose(call)
    return found.found
