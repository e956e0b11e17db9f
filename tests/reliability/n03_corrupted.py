"""3: heavy loss with flipped bits, losses in rows, and audio over such a network."""

from __future__ import annotations

import asyncio

from tests.reliability.lab import Lab
from tests.reliability.n02_impaired import storm
from tests.reliability.net import FURTHER, Impairment

BITS = Impairment(loss=10, delay_ms=100, jitter_ms=30, duplicate=2, reorder=5, corrupt=1)
ROWS = Impairment(loss=5, burst=6, delay_ms=20)
LONGEST_WAY_S = 0.15
OVER = 0.01


async def run(lab: Lab) -> None:
    """99.7 % of the calls succeed; no wrong number is called; audio loses what the network does."""
    await lab.start(media_timeout_s=0)
    n = 300 if lab.full else 100
    for name, how in (("_bits", BITS), ("_rows", ROWS)):
        # A bit that flips in the last message of a call can cost that call: one in 300.
        await storm(lab, how, n, name, may_fail=max(1, n // 300))
        for record in await lab.daemon.records(lab.was.wall):
            lab.check(
                record["called"] == "1000" or record["outcome"] != "answered",
                f"a wrong number was called: {record['called']}",
            )
        for party in lab.parties:
            party.close()
        lab.parties.clear()
    caller, called = lab.ends()
    await lab.warm(caller, 3)
    lab.expected.clear()
    pairs = await lab.talk(caller, called, lab.load)
    lab.net.impair(ROWS)
    sounds = lab.sounds(pairs)
    for pair in sounds:
        for sound in pair:
            sound.reset()
    before = lab.net.counts()
    await asyncio.sleep(10.0)
    after = lab.net.counts()
    injected = (after["lost"] - before["lost"]) / max(1, after["seen"] - before["seen"])
    got = sum(sound.n_received for pair in sounds for sound in pair)
    lost = sum(sound.lost() for pair in sounds for sound in pair)
    over = lost / max(1, lost + got) - injected
    lab.figure(injected_percent=round(100 * injected, 2), added_percent=round(100 * over, 2))
    lab.check(over <= OVER, f"{100 * over:.2f} % more than injected are lost")
    lab.net.impair()
    await asyncio.sleep(0.5)
    await lab.hear(pairs)
    await lab.end(caller, pairs)
    await lab.judge(caller, lab.party("b", FURTHER[0]))
