"""24: no descriptor left: what is too much is refused, in words."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections import Counter
from pathlib import Path

from tests.reliability.invariants import Expected
from tests.reliability.lab import Lab
from tests.reliability.net import FURTHER
from tests.reliability.party import Party

ATTEMPTS = 100
SPARE = 20
"""Descriptors left over what is in use."""
CPU = 0.3
"""Of one core, when nothing can be opened and nobody calls."""
RELIEF_S = 5.0


async def run(lab: Lab) -> None:
    """Refused calls get a final answer at once, the others stand, and relief is felt at once."""
    await lab.start()
    caller, called = lab.ends()
    await lab.warm(caller)
    pairs = await lab.talk(caller, called, 10)
    pid = lab.daemon.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    limit = len(os.listdir(f"/proc/{pid}/fd")) + SPARE
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, hard))
    await _too_many(lab, caller)
    # A listener that cannot accept must not try again and again.
    silent = [lab.net.tcp("a", f"10.77.1.{n % 50 + 1}") for n in range(100)]
    for sock in silent:
        sock.connect_ex(caller.gateway)
    await asyncio.sleep(1.0)
    began, used = time.monotonic(), lab.daemon.cpu_s()
    await asyncio.sleep(5.0)
    share = (lab.daemon.cpu_s() - used) / (time.monotonic() - began)
    lab.check(share <= CPU, f"{100 * share:.0f} % of a core while nothing can be opened")
    for sock in silent:
        sock.close()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    relieved = time.monotonic()
    await asyncio.sleep(1.0)
    more = await lab.talk(caller, called, 20)
    took = time.monotonic() - relieved
    lab.check(len(more) == 20 and took <= RELIEF_S, f"20 calls took {took:.1f} s after relief")
    lab.figure(cpu_percent=round(100 * share), relief_s=round(took, 1))
    await lab.hear(pairs, what="after")
    await lab.end(caller, [*pairs, *more])
    log = Path(lab.daemon.log).read_text(errors="replace")
    lab.check(log.count("\n") < 2000, "the log is flooded")
    await lab.judge(caller, lab.party("b", FURTHER[0]))


async def _too_many(lab: Lab, caller: Party) -> None:
    async def one(at: int) -> tuple[int, float]:
        await asyncio.sleep(at / 20)
        number = lab.number()
        talk = await caller.call("1000", number, within_s=10.0)
        lab.expected[number] = Expected(answered=talk.up)
        if talk.up:
            await asyncio.sleep(0.5)
            await caller.hang_up(talk)
        return talk.status, talk.setup_s

    found = await asyncio.gather(*(one(at) for at in range(ATTEMPTS)))
    codes = Counter(status for status, _ in found)
    lab.figure(attempts=dict(sorted(codes.items())))
    lab.check(not codes[0], f"{codes[0]} calls got no answer at all")
    wrong = sorted(code for code in codes if code not in (0, 200, 480, 500, 502, 503))
    lab.check(not wrong, f"refused with {wrong}")
    lab.check(codes[200] < ATTEMPTS, "the limit was not felt")
