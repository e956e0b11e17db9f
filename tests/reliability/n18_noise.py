"""18: random datagrams and mutated RTP, RTCP, SRTP and STUN to every media port."""

from __future__ import annotations

import asyncio
import time

from tests.reliability.lab import Lab
from tests.reliability.net import FURTHER

CPU = 0.15
"""Of one core, more than without."""


async def run(lab: Lab) -> None:
    """Audio is as before, and it costs little."""
    await lab.start()
    caller, called = lab.ends()
    await lab.warm(caller)
    pairs = await lab.talk(caller, called, lab.load)
    await lab.hear(pairs, what="before")
    quiet = await _cpu(lab, 5.0)
    ports = [
        port + at
        for one, _ in pairs
        if one.sound and one.sound.remote
        for port in [one.sound.remote[1]]
        for at in (0, 1)
    ]
    seconds = 60.0 * len(ports) / 20 if lab.full else 20.0
    attacker = await lab.attack(
        "noise", "--rate", "1000", "--seconds", f"{seconds:g}", "--ports",
        ",".join(map(str, ports)),
    )  # fmt: skip
    await asyncio.sleep(1.0)
    noisy = await _cpu(lab, 5.0)
    await lab.hear(pairs, 4.0, "under noise")
    out, _ = await attacker.communicate()
    lab.check(noisy - quiet <= CPU, f"noise costs {100 * (noisy - quiet):.0f} % of a core")
    unknown = await _unknown(lab)
    lab.check(unknown > 0, "unknown packets are not counted")
    lab.figure(
        sent=int(out), cpu_more_percent=round(100 * (noisy - quiet)), counted_unknown=unknown
    )
    await lab.hear(pairs, what="after")
    await lab.end(caller, pairs)
    await lab.judge(caller, lab.party("b", FURTHER[0]))


async def _cpu(lab: Lab, seconds: float) -> float:
    began, used = time.monotonic(), lab.daemon.cpu_s()
    await asyncio.sleep(seconds)
    return (lab.daemon.cpu_s() - used) / (time.monotonic() - began)


async def _unknown(lab: Lab) -> int:
    """Packets that streams have refused."""
    n = 0
    for call in (await lab.daemon.get("calls"))[:5]:
        detail = await lab.daemon.get(f"calls/{call['id']}")
        n += sum((leg["audio"] or {}).get("packets_refused", 0) for leg in detail["legs"])
    return n
