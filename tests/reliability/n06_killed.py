"""6: ``kill -9`` with calls up and telephones registered; the supervisor starts it again."""

from __future__ import annotations

import asyncio
import random
import signal
import time

from tests.reliability import invariants
from tests.reliability.invariants import Expected
from tests.reliability.lab import Lab, Pair
from tests.reliability.net import FURTHER
from tests.reliability.party import Party

PHONES = 20
SESSION_S = 90
UP_S = 3.0
CHECKPOINT_S = 5.0
ANSWER_S = 0.5
"""The bench may hear so much later of an answer than the gateway, on time as it is."""
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
        late = _Late()
        pairs = await lab.talk(caller, called, lab.load)
        await asyncio.sleep(chance.uniform(1.0, 8.0))
        late.close()
        worst = max(worst, await _kill(lab, first))
        await _after(lab, caller, pairs, registered, late.worst_s)
    lab.figure(up_again_s=round(worst, 2))
    # The restarted process is another one: what it holds is compared with its own start.
    expected = dict(lab.expected)
    was = await invariants.before(lab.daemon, lab.net)
    was.wall, was.strays = lab.was.wall, lab.was.strays
    lab.was, lab.expected = was, expected
    await lab.judge(caller, lab.party("b", FURTHER[0]))


class _Late:
    """How late the bench itself takes its turns, until `close`."""

    def __init__(self) -> None:
        self.worst_s = 0.0
        self._task = asyncio.create_task(self._watch())

    def close(self) -> None:
        self._task.cancel()

    async def _watch(self) -> None:
        while True:
            due = time.monotonic() + 0.02
            await asyncio.sleep(0.02)
            self.worst_s = max(self.worst_s, time.monotonic() - due)


def _trunks() -> str:
    from tests.reliability.daemon import CALLED, CALLER

    return CALLER + CALLED


async def _kill(lab: Lab, first: float) -> float:
    """first: seconds of a start with nothing to take up again, on this machine as busy as it is."""
    lab.figure(killed_at=time.monotonic(), killed_wall=time.time())
    lab.daemon.signal(signal.SIGKILL)
    await lab.daemon.wait(5.0)
    await asyncio.sleep(SUPERVISOR_S)
    took = await lab.daemon.start()
    # A busy machine takes longer for it; the processor time is the gateway's own.
    lab.figure(start_cpu_s=max(lab.figures.get("start_cpu_s", 0.0), round(lab.daemon.cpu_s(), 2)))
    lab.check(
        took + SUPERVISOR_S <= max(UP_S, SUPERVISOR_S + 1.5 * first),
        f"it took {took:.1f} s to answer again",
    )
    return took + SUPERVISOR_S


async def _after(
    lab: Lab, caller: Party, pairs: list[Pair], registered: list[Party], late_s: float
) -> None:
    killed, wall = lab.figures.pop("killed_at"), lab.figures.pop("killed_wall")
    # Registrations: each telephone can be called.
    talks = await asyncio.gather(
        *(caller.call(str(300 + n), lab.number(), within_s=8.0) for n in range(PHONES))
    )
    reached = [talk for talk in talks if talk.up]
    lab.check(len(reached) == PHONES, f"{len(reached)} of {PHONES} registrations are routable")
    await asyncio.gather(*(caller.hang_up(talk) for talk in reached))
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
    early, more = 0.0, 0.0
    for one, _ in pairs:
        record = records.get(one.calling)
        if not record or record["cause"] != "crashed":
            continue
        # It ends with the last sign of life, so it is short; long only where the bench itself
        # heard late of the answer.
        for off in (record["ended_at"] - wall, record["talk_s"] - (killed - one.answered_at)):
            early, more = min(early, off), max(more, off)
    limit = ANSWER_S + late_s
    lab.check(early >= -CHECKPOINT_S, f"the record of a cut call ends {-early:.1f} s too early")
    lab.check(more <= limit, f"the record of a cut call is {more:.1f} s too long")
    lab.figure(
        record_off_s=(
            round(min(early, lab.figures.get("record_off_s", (0.0, 0.0))[0]), 1),
            round(max(more, lab.figures.get("record_off_s", (0.0, 0.0))[1]), 1),
        ),
        bench_late_s=round(max(late_s, lab.figures.get("bench_late_s", 0.0)), 1),
    )
