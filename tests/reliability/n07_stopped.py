"""7: SIGSTOP for 10 s, as a host that swaps or a hypervisor that sleeps; then SIGCONT."""

from __future__ import annotations

import asyncio
import signal
import time

from tests.reliability.invariants import Expected
from tests.reliability.lab import Lab
from tests.reliability.net import FURTHER
from tests.reliability.sound import PTIME_S

STOPPED_S = 10.0
COPIES = 7
BURST = 25
"""Packets at once: a jitter buffer of half a second. Ten seconds are 500."""


async def run(lab: Lab) -> None:
    """No call is lost, old audio is not sent after, nothing is repeated more than seven times."""
    await lab.start(media_timeout_s=20)
    caller, called = lab.ends()
    await lab.warm(caller)
    pairs = await lab.talk(caller, called, lab.load)
    await lab.hear(pairs, what="before")
    lab.daemon.signal(signal.SIGSTOP)
    # Messages in the middle of it: a BYE, an INVITE, OPTIONS.
    ended = asyncio.create_task(caller.hang_up(pairs[0][0]))
    wanted = lab.number()
    new = asyncio.create_task(caller.call("1000", wanted))
    await asyncio.sleep(STOPPED_S)
    for pair in lab.sounds(pairs[1:]):
        for sound in pair:
            sound.reset()
    lab.daemon.signal(signal.SIGCONT)
    continued = time.monotonic()
    await asyncio.sleep(1.0)
    # Counted against the clock: a bench that was late itself reads many at once.
    due = (time.monotonic() - continued) / PTIME_S
    burst = round(max(sound.n_received for pair in lab.sounds(pairs[1:]) for sound in pair) - due)
    lab.check(burst <= BURST, f"{burst} packets of old audio after the stop")
    lab.check(await ended == 200, "the BYE of a stopped gateway was not answered")
    talk = await new
    lab.check(talk.up, f"the INVITE of a stopped gateway: {talk.status}")
    gone = [one for one, other in pairs[1:] if not (one.up and other.up)]
    lab.check(not gone, f"{len(gone)} calls were dropped")
    await lab.hear(pairs[1:], what="after")
    copies = max([*caller.copies.values(), *called.copies.values()], default=0)
    lab.check(copies <= COPIES, f"a message came {copies} times")
    lab.figure(burst_packets=burst, most_copies=copies, dropped=len(gone))
    talk_began = talk.answered_at
    await caller.hang_up(talk)
    await lab.end(caller, pairs[1:])
    # The ends disagree by the stop itself.
    lab.expected[pairs[0][0].calling] = Expected()
    lab.expected[wanted] = Expected(talk.ended_at - talk_began)
    await lab.judge(caller, lab.party("b", FURTHER[0]))
