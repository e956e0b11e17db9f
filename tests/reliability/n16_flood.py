"""16: 3,000 requests a second of strangers, from one source and from fifty; calls go on."""

from __future__ import annotations

import asyncio
import time

from tests.reliability import invariants
from tests.reliability.invariants import Expected
from tests.reliability.lab import Lab
from tests.reliability.net import FURTHER

RATE = 3000
LIMITED_S = 5.0
NORMAL_S = 10.0
RSS_KB = 50 * 1024


async def run(lab: Lab) -> None:
    """No call is lost, 99 % of a trusted trunk's new ones succeed, the source is limited."""
    lab.rss_kb = RSS_KB
    await lab.start(users="*")
    caller, called = lab.ends()
    await lab.warm(caller)
    pairs = await lab.talk(caller, called, lab.load)
    await lab.hear(pairs, what="before")
    seconds = 60.0 if lab.full else 12.0
    for n_sources in (1, 50):
        name = f"{n_sources} source" + "s" * (n_sources > 1)
        limited, cpu = await lab.daemon.counter("rate_limited"), lab.daemon.cpu_s()
        attacker = await lab.attack(
            "flood", "--rate", str(RATE), "--seconds", f"{seconds:g}", "--sources", str(n_sources)
        )
        began = time.monotonic()
        listening = asyncio.create_task(lab.hear(pairs, 3.0, f"flood from {name}"))
        fresh = []
        while time.monotonic() - began < seconds - 1.0:
            fresh.append(asyncio.create_task(short(lab, caller)))
            await asyncio.sleep(0.5)
            if n_sources == 1 and time.monotonic() - began > LIMITED_S:
                limited_now = await lab.daemon.counter("rate_limited")
                lab.check(limited_now > limited, "one source is not limited after 5 s")
        reached = sum(await asyncio.gather(*fresh))
        await listening
        out, _ = await attacker.communicate()
        ended = time.monotonic()
        used = (lab.daemon.cpu_s() - cpu) / (ended - began)
        lab.check(reached >= 0.99 * len(fresh), f"{reached} of {len(fresh)} new calls ({name})")
        gone = [one for one, other in pairs if not (one.up and other.up)]
        lab.check(not gone, f"{len(gone)} calls were lost to the flood from {name}")
        lab.figure(**{
            f"sent_{n_sources}": int(out), f"new_calls_{n_sources}": f"{reached}/{len(fresh)}",
            f"cpu_percent_{n_sources}": round(100 * used),
        })  # fmt: skip
        normal = float("inf")
        while time.monotonic() - ended < NORMAL_S and normal > invariants.OPTIONS_P99_S:
            normal = await called.options()
        lab.check(normal <= invariants.OPTIONS_P99_S, f"not normal 10 s after the flood ({name})")
    await lab.end(caller, pairs)
    await lab.judge(caller, lab.party("b", FURTHER[0]))


async def short(lab: Lab, caller: object) -> bool:
    """A call of the trusted trunk."""
    talk = await caller.call("1000", lab.number(), within_s=10.0)  # type: ignore[attr-defined]
    if talk.up:
        began = talk.answered_at
        await asyncio.sleep(1.0)
        await caller.hang_up(talk)  # type: ignore[attr-defined]
        lab.expected[talk.calling] = Expected(
            talk.ended_at - began, talk.released_at - talk.ended_at
        )
        return True
    lab.unknown.add(talk.calling)
    return False
