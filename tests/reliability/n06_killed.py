"""6: ``kill -9`` with calls up and telephones registered; the supervisor starts it again."""

from __future__ import annotations

import asyncio
import random
import signal
import time

from tests.reliability import invariants
from tests.reliability.invariants import Expected
from tests.reliability.lab import Lab
from tests.reliability.net import FURTHER

PHONES = 20
SESSION_S = 90
UP_S = 3.0
CHECKPOINT_S = 5.0
SUPERVISOR_S = 0.1
"""As systemd's RestartSec."""


async def run(lab: Lab) -> None:
    """Up again within 3 s, registrations kept, records of the cut calls, both far ends free."""
    phones = "".join(
        f'[adapters.sip.phones.user{n}]\npassword = "secret{n}"\nnumber = "{300 + n}"\n'
        for n in range(PHONES)
    )
    routes = "".join(
        f'[[routes]]\nname = "to{n}"\nfrom = ["sip/caller"]\ncalled = "{300 + n}"\n'
        f'targets = ["sip/user{n}"]\n'
        for n in range(PHONES)
    )
    await lab.start(
        trunks=_trunks() + phones, routes=routes, session_expires_s=SESSION_S, media_timeout_s=60
    )
    caller, called = lab.ends(expires_s=SESSION_S)
    registered = [
        lab.party("a", f"10.77.1.{n + 1}", port=5070, first_hz=2000) for n in range(PHONES)
    ]
    await lab.warm(caller)
    first = lab.figures["start_s"]
    chance = random.Random(6)
    worst = 0.0
    for _ in range(10 if lab.full else 1):
        codes = await asyncio.gather(
            *(party.register(f"user{n}", f"secret{n}") for n, party in enumerate(registered))
        )
        lab.check(set(codes) == {200}, f"registrations: {codes}")
        pairs = await lab.talk(caller, called, lab.load)
        await asyncio.sleep(chance.uniform(1.0, 8.0))
        worst = max(worst, await _kill(lab, first))
        await _after(lab, caller, pairs, registered)
    lab.figure(up_again_s=round(worst, 2))
    # The restarted process is another one: what it holds is compared with its own start.
    expected = dict(lab.expected)
    was = await invariants.before(lab.daemon, lab.net)
    was.wall, was.strays = lab.was.wall, lab.was.strays
    lab.was, lab.expected = was, expected
    await lab.judge(caller, lab.party("b", FURTHER[0]))


def _trunks() -> str:
    from tests.reliability.daemon import CALLED, CALLER

    return CALLER + CALLED


async def _kill(lab: Lab, first: float) -> float:
    """first: seconds of a start with nothing to take up again, on this machine as busy as it is."""
    lab.daemon.signal(signal.SIGKILL)
    await lab.daemon.wait(5.0)
    lab.figure(killed_at=time.monotonic(), killed_wall=time.time())
    await asyncio.sleep(SUPERVISOR_S)
    took = await lab.daemon.start()
    # A busy machine takes longer for it; the processor time is the gateway's own.
    lab.figure(start_cpu_s=max(lab.figures.get("start_cpu_s", 0.0), round(lab.daemon.cpu_s(), 2)))
    lab.check(
        took + SUPERVISOR_S <= max(UP_S, SUPERVISOR_S + 1.5 * first),
        f"it took {took:.1f} s to answer again",
    )
    return took + SUPERVISOR_S


async def _after(lab: Lab, caller: object, pairs: list, registered: list) -> None:  # type: ignore[type-arg]
    killed, wall = lab.figures.pop("killed_at"), lab.figures.pop("killed_wall")
    # Registrations: each telephone can be called.
    talks = await asyncio.gather(
        *(caller.call(str(300 + n), lab.number(), within_s=8.0) for n in range(PHONES))  # type: ignore[attr-defined]
    )
    reached = [talk for talk in talks if talk.up]
    lab.check(len(reached) == PHONES, f"{len(reached)} of {PHONES} registrations are routable")
    await asyncio.gather(*(caller.hang_up(talk) for talk in reached))  # type: ignore[attr-defined]
    for talk in talks:
        lab.expected[talk.calling] = Expected(answered=talk.up or bool(talk.answered_at))
    # Both far ends: their session timers find nobody who refreshes.
    deadline = killed + SESSION_S
    while time.monotonic() < deadline and any(one.up or other.up for one, other in pairs):
        await asyncio.sleep(0.5)
    held = sum(one.up + other.up for one, other in pairs)
    lab.check(not held, f"{held} far ends are held {SESSION_S} s after the kill")
    ends = [talk.ended_at - killed for pair in pairs for talk in pair if talk.ended_at]
    lab.figure(far_ends_free_after_s=round(max(ends, default=0.0)))
    for one, _ in pairs:
        lab.expected[one.calling] = Expected(causes=frozenset({"crashed"}))
    records = {r["calling"]: r for r in await lab.daemon.records(lab.was.wall)}
    for one, _ in pairs:
        record = records.get(one.calling)
        if record and record["cause"] == "crashed":
            # Not from when the bench heard of the answer: it may have been late itself.
            off = record["ended_at"] - wall
            lab.check(abs(off) <= CHECKPOINT_S, f"the record of a cut call is {off:+.1f} s off")
