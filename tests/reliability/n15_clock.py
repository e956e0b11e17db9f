"""15: the wall clock is set and runs too fast, with calls and registrations; time goes on."""

from __future__ import annotations

import asyncio
import time

from tests.reliability.daemon import CALLED, CALLER
from tests.reliability.invariants import Expected
from tests.reliability.lab import Lab, Pair
from tests.reliability.net import FURTHER, GATEWAY
from tests.reliability.party import Party, proof
from tests.reliability.wrong import Faults

SESSION_S = 90
"""Refreshed after half of it (RFC 4028 section 7.2)."""
BRIEF_S = 60
LATE_S = 2.0
PHONES = 50
BRIEF = 10
"""Of the telephones, that register for a minute and do not come back."""
EACH_S = 7.0
YEAR_S = 365.25 * 86400
STEPS: tuple[tuple[str, float, float], ...] = (
    ("an hour ahead", 3600.0, 0.0),
    ("two hours back", -3600.0, 0.0),
    ("ten years ahead", 10 * YEAR_S, 0.0),
    ("a second more each second", 0.0, 1.0),
    ("a second twice", -1.0, 0.0),
    ("right again", 0.0, 0.0),
)


async def run(lab: Lab) -> None:
    """Calls, their records, registrations and session timers go by the time that has passed."""
    lab.faults = faults = Faults(lab.home)
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
        trunks=CALLER + CALLED + phones, routes=routes, session_expires_s=SESSION_S,
        media_timeout_s=20,
    )  # fmt: skip
    caller, called = lab.ends(expires_s=SESSION_S)
    registered = [
        lab.party("a", f"10.77.1.{n + 1}", port=5070, first_hz=2000) for n in range(PHONES)
    ]
    await lab.warm(caller)
    # The records' wall time jumps too: all of them count, but for those of before.
    lab.unknown |= {talk.calling for talk in caller.calls.values()}
    lab.was.wall = 0.0

    codes = await asyncio.gather(
        *(
            party.register(f"user{n}", f"secret{n}", BRIEF_S if n < BRIEF else 600)
            for n, party in enumerate(registered)
        )
    )
    at = time.monotonic()
    lab.check(set(codes) == {200}, f"registrations: {codes}")
    offer = await registered[-1].challenge(f"user{PHONES - 1}")
    pairs = await lab.talk(caller, called, lab.load)
    await lab.hear(pairs, what="before")
    before_s = 0.0
    for what, ahead_s, slew in STEPS:
        calling = lab.number()
        spanning = await caller.call("1000", calling)
        lab.check(spanning.up, f"{what}: a new call got {spanning.status}")
        faults.clock(ahead_s, slew)
        began = time.monotonic()
        await lab.hear(pairs, what=what)
        await asyncio.sleep(max(0.0, EACH_S - (time.monotonic() - began)))
        if spanning.up:
            answered = spanning.answered_at
            await caller.hang_up(spanning)
            lab.expected[calling] = Expected(spanning.ended_at - answered)
            step_s, wanted_s = await _step(lab, calling), ahead_s - before_s + slew * EACH_S
            lab.check(
                abs(step_s - wanted_s) < 3.0,
                f"{what}: its record says a step of {step_s:.0f} s, it was {wanted_s:.0f} s",
            )
        before_s = ahead_s + slew * EACH_S
    await _sessions(lab, pairs)
    stale = await _again(lab, registered[-1], offer)
    await asyncio.sleep(max(0.0, at + BRIEF_S - LATE_S - 1.0 - time.monotonic()))
    if time.monotonic() < at + BRIEF_S - LATE_S:
        lab.check(await _reached(lab, caller, 0), "a registration has ended early")
    await asyncio.sleep(max(0.0, at + BRIEF_S + LATE_S - time.monotonic()))
    late = [n for n in range(1, BRIEF) if await _reached(lab, caller, n)]
    lab.check(not late, f"{len(late)} of {BRIEF} registrations have not ended")
    kept = [await _reached(lab, caller, n) for n in range(BRIEF, PHONES)]
    lab.check(all(kept), f"{sum(kept)} of {len(kept)} registrations are routable")
    gone = [one for one, other in pairs if not (one.up and other.up)]
    lab.check(not gone, f"{len(gone)} of {len(pairs)} calls were lost")
    await lab.hear(pairs, what="after")
    await lab.end(caller, pairs)
    await asyncio.sleep(1.0)
    await _order(lab)
    lab.figure(registrations=sum(kept), ended_in_time=BRIEF - len(late), stale=stale)
    await lab.judge(caller, lab.party("b", FURTHER[0]))


async def _step(lab: Lab, calling: str) -> float:
    """How far the wall clock was set during a call, by its record."""
    for _ in range(20):
        legs = await lab.daemon.get("records/legs", limit=100000)
        if found := [leg["clock_step_s"] for leg in legs if leg["calling"] == calling]:
            return float(found[0])
        await asyncio.sleep(0.1)
    return float("nan")


async def _sessions(lab: Lab, pairs: list[Pair]) -> None:
    """Each end of each call is refreshed once, after half the interval."""
    deadline = max(one.answered_at for one, _ in pairs) + SESSION_S / 2 + LATE_S
    await asyncio.sleep(max(0.0, deadline - time.monotonic()))
    ends = [talk for pair in pairs for talk in pair if talk.up]
    after = [talk.refreshed_at - talk.answered_at for talk in ends if talk.n_refreshes]
    lab.check(len(after) == len(ends), f"{len(after)} of {len(ends)} ends were refreshed")
    often = [talk for talk in ends if talk.n_refreshes > 1]
    lab.check(not often, f"{len(often)} ends were refreshed more than once")
    wrong = [each for each in after if abs(each - SESSION_S / 2) > LATE_S]
    lab.check(not wrong, f"refreshed after {[round(each, 1) for each in wrong[:5]]} s")
    if after:
        lab.figure(refreshed_s=f"{min(after):.1f} to {max(after):.1f}")


async def _again(lab: Lab, phone: Party, offer: str) -> int:
    """The nonce of before all this: good still, or called stale, and that once."""
    user = f"user{PHONES - 1}"
    stale, status = 0, 0
    for count in (1, 2):
        line = proof(offer, user, f"secret{PHONES - 1}", "REGISTER", f"sip:{GATEWAY}", count=count)
        answer = await phone.register_once(user, line)
        if answer is None:
            continue
        status = answer.status
        if answer.status == 401:
            offer = answer["www-authenticate"]
            stale += "stale=true" in offer.lower()
            lab.check("stale=true" in offer.lower(), "a nonce of ours is refused as another's")
    lab.check(status == 200, f"a registration with a known nonce: {status}")
    lab.check(stale <= 1, f"stale={stale}")
    return stale


async def _reached(lab: Lab, caller: Party, n: int) -> bool:
    """Whether a telephone can be called."""
    calling = lab.number()
    talk = await caller.call(str(300 + n), calling, within_s=8.0)
    reached = talk.up
    lab.expected[calling] = Expected(answered=reached)
    if reached:
        await caller.hang_up(talk)
    return reached


async def _order(lab: Lab) -> None:
    """Times of a record stand in their order, also where the clock was set back in between."""
    wrong = [
        record["calling"]
        for record in await lab.daemon.records(0.0)
        if record["answered_at"] is not None
        and not record["demanded_at"] <= record["answered_at"] <= record["ended_at"]
    ]
    lab.check(not wrong, f"{len(wrong)} records end before they begin: {wrong[:3]}")
