"""4: nothing passes for 8 s: no call is lost. For 40 s: each is ended at the media timeout."""

from __future__ import annotations

import asyncio
import time

from tests.reliability.invariants import Expected
from tests.reliability.lab import Lab
from tests.reliability.net import FURTHER

MEDIA_TIMEOUT_S = 20.0
TOLERANCE_S = 2.0
BACK_S = 1.0


async def run(lab: Lab) -> None:
    """All calls survive the short blackout and hear again within a second; the long one ends all,
    at both ends."""
    await lab.start(media_timeout_s=MEDIA_TIMEOUT_S)
    caller, called = lab.ends()
    await lab.warm(caller)
    pairs = await lab.talk(caller, called, lab.load)
    await lab.hear(pairs, what="before")
    lab.net.blackout(True)
    await asyncio.sleep(8.0)
    lab.net.blackout(False)
    back = time.monotonic()
    for pair in lab.sounds(pairs):
        for sound in pair:
            sound.reset()
    took = float("inf")
    while time.monotonic() - back < BACK_S and took > BACK_S:
        await asyncio.sleep(0.02)
        if all(sound.n_received for pair in lab.sounds(pairs) for sound in pair):
            took = time.monotonic() - back
    silent = [s for pair in lab.sounds(pairs) for s in pair if not s.n_received]
    lab.check(not silent, f"{len(silent)} ends hear nothing {BACK_S:g} s after the blackout")
    gone = [one for one, other in pairs if not (one.up and other.up)]
    lab.check(not gone, f"{len(gone)} calls were dropped by a blackout of 8 s")
    await lab.hear(pairs, what="after 8 s")
    lab.figure(blackout_8s_dropped=len(gone), back_after_s=round(took, 2))

    began = time.monotonic()
    lab.net.blackout(True)
    await asyncio.sleep(40.0)
    lab.net.blackout(False)
    await asyncio.sleep(5.0)
    for _, other in pairs:
        # Beyond the blackout only the far end sees when its call ended.
        at = other.ended_at - began if other.ended_at else float("inf")
        lab.check(
            abs(at - MEDIA_TIMEOUT_S) <= TOLERANCE_S and other.ended_by == "far",
            f"a call ended after {at:.1f} s of blackout, not {MEDIA_TIMEOUT_S:g}",
        )
    ends = [other.ended_at - began for _, other in pairs if other.ended_at]
    lab.figure(ended_after_s=f"{min(ends, default=0):.1f} to {max(ends, default=0):.1f}")
    released = sum(bool(one.ended_at) for one, _ in pairs)
    lab.check(released == len(pairs), f"only {released} of {len(pairs)} callers were told BYE")
    lab.expected = {
        one.calling: Expected(other.ended_at - one.answered_at, causes=frozenset({"media-timeout"}))
        for one, other in pairs
    }
    for one, _ in pairs:
        await caller.hang_up(one, within_s=2.0)
    await lab.judge(caller, lab.party("b", FURTHER[0]))
