"""2: calls set up over a bad network (5 % lost, 40 +- 10 ms, 2 % doubled, 2 % out of order)."""

from __future__ import annotations

import asyncio

from tests.reliability import invariants
from tests.reliability.invariants import Expected
from tests.reliability.lab import Lab
from tests.reliability.net import FURTHER, Impairment
from tests.reliability.sippers import called, caller

BAD = Impairment(loss=5, delay_ms=40, jitter_ms=10, duplicate=2, reorder=2)
RATE = 20.0


async def run(lab: Lab) -> None:
    """All calls succeed; the far end sees each once; each has one record."""
    await lab.start(media_timeout_s=0)
    await storm(lab, BAD, 300 if lab.full else 100, "")


async def storm(lab: Lab, how: Impairment, n: int, name: str, may_fail: int = 0) -> None:
    """So many calls of SIPp over a bad network, and everything that must hold of them."""
    home = lab.home / f"sipp{name}"
    answering = called(lab.net, home)
    await asyncio.sleep(0.5)
    warming = caller(lab.net, home / "warm", 10, 10, 200)
    await warming.done(30)
    probe = lab.party("b", FURTHER[0])
    lab.was = await invariants.before(lab.daemon, lab.net)
    earlier = answering.figures()
    lab.net.impair(how)
    calling = caller(lab.net, home, n, RATE, 1000)
    await calling.done(n / RATE + 75)
    lab.net.impair()
    await asyncio.sleep(9.5)  # the far end's own wait for doubled BYEs
    mine, theirs = calling.figures(), answering.figures()
    answered = theirs["TotalCallCreated"] - earlier["TotalCallCreated"]
    lab.check(
        mine["SuccessfulCall(C)"] >= n - may_fail,
        f"{mine['SuccessfulCall(C)']} of {n} calls succeeded",
    )
    if not may_fail:
        lab.check(answered == n, f"the far end saw {answered} calls, not {n}")
        lab.check(theirs["FailedCall(C)"] == 0, f"far end: {theirs['FailedCall(C)']} failed")
    slow = sum(v for k, v in mine.items() if k.startswith("ResponseTimeRepartition1_>=8000"))
    slow += sum(mine.get(f"ResponseTimeRepartition1_<{ms}", 0) for ms in (4000, 8000))
    lab.check(slow <= 0.05 * n + may_fail, f"{slow} of {n} calls took more than 2.5 s to set up")
    lab.figure(**{
        f"calls{name}": mine["SuccessfulCall(C)"], f"sent_again{name}": mine["Retransmissions(C)"]
    })  # fmt: skip
    if not may_fail:
        lab.expected |= {f"7{number}": Expected() for number in range(1, n + 1)}
    await answering.stop()
    # The fresh call of I1 is a telephone's, with its own far end.
    one, _ = lab.ends()
    await lab.judge(one, probe, records=not may_fail)
