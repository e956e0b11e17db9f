"""8: SIGHUP every few seconds under load, then SIGTERM: calls finish, new ones hear 503."""

from __future__ import annotations

import asyncio
import signal
import time

from tests.reliability import invariants
from tests.reliability.lab import Lab
from tests.reliability.net import FURTHER
from tests.reliability.sippers import called, caller

DRAIN_S = 15.0


async def run(lab: Lab) -> None:
    """No call fails through reloads; the drain refuses new calls and lets the others finish."""
    settings = {"drain_s": DRAIN_S}
    await lab.start(**settings)
    answering = called(lab.net, lab.home / "sipp")
    await asyncio.sleep(0.5)
    await caller(lab.net, lab.home / "warm", 10, 10, 200).done(30)
    lab.was = await invariants.before(lab.daemon, lab.net)
    seconds, every = (300.0, 10.0) if lab.full else (30.0, 3.0)
    n = int(5 * seconds)
    calling = caller(lab.net, lab.home / "sipp", n, 5, 6000)
    generation = (await lab.daemon.get("status"))["generation"]
    reloads = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await asyncio.sleep(every)
        reloads += 1
        lab.daemon.configure(
            **settings,
            routes=f'[[routes]]\nname = "other{reloads}"\nfrom = ["sip/caller"]\n'
            'called = "1001"\ntargets = ["sip/called:1001"]\n',
        )
        lab.daemon.signal(signal.SIGHUP)
    await calling.done(40)
    applied = (await lab.daemon.get("status"))["generation"] - generation
    figures = calling.figures()
    lab.check(figures["FailedCall(C)"] == 0, f"{figures['FailedCall(C)']} calls failed")
    lab.check(figures["SuccessfulCall(C)"] == n, f"{figures['SuccessfulCall(C)']} of {n} calls")
    lab.check(applied == reloads, f"{applied} of {reloads} reloads were applied")
    lab.figure(calls=figures["SuccessfulCall(C)"], reloads=applied)
    lab.expected = {f"7{number}": invariants.Expected() for number in range(1, n + 1)}
    await answering.stop()
    one, other = lab.ends()
    await lab.judge(one, lab.party("b", FURTHER[0]))

    pairs = await lab.talk(one, other, lab.load)
    began = time.monotonic()
    lab.daemon.signal(signal.SIGTERM)
    await asyncio.sleep(0.5)
    refused = await one.call("1000", lab.number(), audio=False)
    lab.check(refused.status == 503, f"a new call while stopping: {refused.status}")
    lab.check(one.last_retry_after, "503 without Retry-After")
    await asyncio.sleep(2.0)
    lab.check(all(a.up and b.up for a, b in pairs), "calls were cut by the drain")
    await lab.hear(pairs, what="while draining")
    half = len(pairs) // 2
    await asyncio.gather(*(one.hang_up(talk) for talk, _ in pairs[:half]))
    # The other half stays: the limit ends them, with BYE at both ends.
    code = await lab.daemon.wait(DRAIN_S + 10.0)
    took = time.monotonic() - began
    lab.check(code == 0, f"exit code {code}")
    lab.check(DRAIN_S - 2 <= took <= DRAIN_S + 5.0, f"the drain took {took:.1f} s")
    told = sum(a.ended_by == "far" and b.ended_by == "far" for a, b in pairs[half:])
    lab.check(
        told == len(pairs) - half, f"{told} of {len(pairs) - half} calls got BYE at the limit"
    )
    lab.figure(drain_s=round(took, 1))
