"""What must hold after every fault, whatever it was. A breach of any is a failed test.

I1 live: OPTIONS p99 at most 50 ms, and a fresh call within 5 s.
I2 conserved: at most 40 s after the last call everything that was opened is closed again.
I3 records: exactly one of each call, none of others, and they say how long it was, to a second.
I4 memory at most 20 MB above the start, no traceback, no core, at most 100 lines of log a second.
I5 media: each hears its partner's tone and nobody else's (50 dB), at most 0.5 % lost.
I6 safe outputs: no line is held and no transmitter keyed (`gateway status`).
I7 no packet leaves to an address outside the bench.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.reliability.daemon import Daemon
from tests.reliability.net import Netlab
from tests.reliability.party import Party
from tests.reliability.sound import Sound

CONSERVED_S = 40.0
FORGOTTEN_S = 75.0
"""What belongs to no call any more: an answer that nobody acknowledged ends its call after 32 s,
and what its last messages carry is known for as long again."""
OPTIONS_P99_S = 0.05
FRESH_CALL_S = 5.0
RSS_KB = 20 * 1024
LINES_PER_S = 100
STRAY_DB = 50.0
OWN_DBM0 = -16.0
OWN_DB = 6.0
"""A stray that the speaker sends itself may come out so much stronger: after a packet is lost."""
LOSS = 0.005
DURATION_S = 1.0


_CALLS_ONLY = re.compile(r'what="(transactions|dialogs|sessions|pending)"')


@dataclass
class Expected:
    """A call as its caller saw it."""

    talk_s: float | None = None
    """Answer to end; None when nobody can say it to a second."""
    spare_s: float = 0.0
    """By how much it may be longer: from our BYE to the answer to it."""
    answered: bool = True
    causes: frozenset[str] = frozenset()
    """Causes of which the record must have one; empty: any."""


@dataclass
class Before:
    """What the gateway held before the fault."""

    held: dict[str, float]
    rss_kb: int
    wall: float
    strays: int
    log_at: int
    began: float


async def before(daemon: Daemon, net: Netlab) -> Before:
    """Take note of what is held, after everything of before is gone."""
    held: dict[str, float] = {}
    deadline = time.monotonic() + CONSERVED_S
    # Transactions outlive their calls by half a minute; without calls there are none: no need to
    # wait for that.
    steady = 0
    while steady < 4 and time.monotonic() < deadline:
        await asyncio.sleep(0.5)
        now = {n: v for n, v in (await daemon.held()).items() if not _CALLS_ONLY.search(n)}
        steady = steady + 1 if now == held and not now["calls_up"] else 0
        held = now
    return Before(
        held, daemon.rss_kb(), time.time(), net.counts()["strays"], daemon.log.stat().st_size,
        time.monotonic(),
    )  # fmt: skip


async def live(probe: Party, probes: int = 100) -> tuple[list[str], dict[str, Any]]:
    """I1. probe: a party that nothing impairs."""
    breaches: list[str] = []
    p99 = float("inf")
    for _ in range(3):
        # A busy neighbour on the machine is no fault of the gateway's; thrice in a row is one.
        took = []
        for _ in range(probes):
            took.append(await probe.options())
            await asyncio.sleep(0.01)
        p99 = min(p99, sorted(took)[int(0.99 * len(took)) - 1])
        if p99 <= OPTIONS_P99_S:
            break
    if p99 > OPTIONS_P99_S:
        breaches.append(f"I1 OPTIONS p99 {1000 * p99:.0f} ms")
    return breaches, {"options_p99_ms": round(1000 * p99, 1)}


async def fresh_call(caller: Party) -> list[str]:
    """I1: a call goes through within 5 s."""
    began = time.monotonic()
    talk = await caller.call("1000", "79999", within_s=FRESH_CALL_S)
    took = time.monotonic() - began
    if not talk.up:
        return [f"I1 a fresh call: status {talk.status} after {took:.1f} s"]
    await asyncio.sleep(0.3)
    await caller.hang_up(talk)
    return []


async def conserved(daemon: Daemon, was: Before, allowed: Sequence[str] = ()) -> list[str]:
    """I2. allowed: figures that may differ, such as a connection's of the test itself."""
    began = time.monotonic()
    while True:
        now = await daemon.held()
        different = {
            name: (was.held.get(name, 0.0), value)
            for name, value in now.items()
            if value != was.held.get(name, 0.0)
            and name not in allowed
            # A thread of a pool that was not needed before stays; each is bounded by its pool.
            and not (name in ("threads", "descriptors") and value <= was.held[name] + 2)
        }
        if not different:
            return []
        calls_gone = all('what="pending"' in name for name in different)
        if time.monotonic() - began > (FORGOTTEN_S if calls_gone else CONSERVED_S):
            return [f"I2 {name}: {a:g} before, {b:g} after" for name, (a, b) in different.items()]
        await asyncio.sleep(0.5)


async def recorded(
    daemon: Daemon, was: Before, expected: dict[str, Expected], others: Iterable[str] = ()
) -> list[str]:
    """I3. expected: by calling number. others: calling numbers of which nothing is known."""
    skip = {"79999", *others}
    for _ in range(10):
        found = [r for r in await daemon.records(was.wall - 0.5) if r["calling"] not in skip]
        if len(found) >= len(expected):
            break
        await asyncio.sleep(0.5)
    breaches: list[str] = []
    times = Counter(record["calling"] for record in found)
    missing = expected.keys() - times.keys()
    phantom = times.keys() - expected.keys()
    twice = [calling for calling, n in times.items() if n > 1]
    for what, which in (("no record of", missing), ("record of no call:", phantom)):
        if which:
            breaches.append(f"I3 {what} {len(which)} ({', '.join(sorted(which)[:3])})")
    if twice:
        breaches.append(f"I3 two records of {len(twice)} ({', '.join(sorted(twice)[:3])})")
    wrong = []
    for record in found:
        want = expected.get(record["calling"])
        if want is None:
            continue
        if (record["outcome"] == "answered") != want.answered:
            wrong.append(f"{record['calling']} is {record['outcome']}")
        elif want.talk_s is not None and not (
            -DURATION_S <= record["talk_s"] - want.talk_s <= want.spare_s + DURATION_S
        ):
            wrong.append(f"{record['calling']} {record['talk_s']:.1f} s, was {want.talk_s:.1f}")
        elif want.causes and record["cause"] not in want.causes:
            wrong.append(f"{record['calling']} cause {record['cause']}")
    if wrong:
        breaches.append(f"I3 {len(wrong)} records are wrong: {'; '.join(wrong[:3])}")
    return breaches


def healthy(daemon: Daemon, was: Before, allowed_kb: int = RSS_KB) -> tuple[list[str], int]:
    """I4; also by how many kB memory has grown."""
    breaches = []
    grown = daemon.rss_kb() - was.rss_kb
    if grown > allowed_kb:
        breaches.append(f"I4 memory {grown / 1024:+.1f} MB")
    with daemon.log.open("rb") as file:
        file.seek(was.log_at)
        text = file.read().decode(errors="replace")
    for wrong in ("Traceback", "never retrieved", "Segmentation", "switchboard failed",
                  "event failed"):  # fmt: skip
        if wrong in text:
            at = text.index(wrong)
            last = text[at : at + 1500].strip().splitlines()
            breaches.append(f"I4 log: {wrong}: {next((x for x in last if 'Error' in x), last[0])}")
    per_second = Counter(re.findall(r"(?m)^\S*T?(\d\d:\d\d:\d\d)", text))
    if per_second and max(per_second.values()) > LINES_PER_S:
        breaches.append(f"I4 log: {max(per_second.values())} lines in a second")
    if list(daemon.home.glob("core*")):
        breaches.append("I4 a core was dumped")
    return breaches, grown


def tones(pairs: Sequence[tuple[Sound, Sound]], since: float = 0.0) -> list[str]:
    """I5, which tone is heard: both ends of each call."""
    every = sorted({sound.hz for pair in pairs for sound in pair})
    breaches = []
    silent, crossed = [], []
    for one, other in pairs:
        for listener, speaker in ((one, other), (other, one)):
            levels = listener.levels(every, since)
            sent = speaker.own_levels(every)
            if not levels or levels[speaker.hz] < OWN_DBM0:
                silent.append(speaker.hz)
                continue
            # The window's own width: neighbours are 7 Hz away, beyond its main lobe.
            stray = max(
                (v for hz, v in levels.items() if hz != speaker.hz and v > sent[hz] + OWN_DB),
                default=-99.0,
            )
            if stray > levels[speaker.hz] - STRAY_DB:
                crossed.append(f"{speaker.hz} Hz: {levels[speaker.hz] - stray:.0f} dB")
    if silent:
        breaches.append(f"I5 {len(silent)} of {2 * len(pairs)} hear nothing ({silent[:3]} Hz)")
    if crossed:
        breaches.append(f"I5 {len(crossed)} hear others ({crossed[:3]})")
    return breaches


def delivered(pairs: Sequence[tuple[Sound, Sound]], late: int) -> tuple[list[str], float]:
    """I5, how much is lost: what was sent against what came, since `Sound.reset`."""
    received = sum(sound.n_received for pair in pairs for sound in pair)
    lost = sum(sound.lost() for pair in pairs for sound in pair)
    share = lost / max(1, lost + received)
    if share > LOSS:
        more = f" (the bench itself was late {late} times)" if late else ""
        return [f"I5 {100 * share:.2f} % of the packets are lost{more}"], share
    return [], share


async def safe(daemon: Daemon) -> list[str]:
    """I6: after the last call no leg holds a line, no transmitter is keyed."""
    figures = await daemon.metrics()
    held = [
        name
        for name, value in figures.items()
        if name.startswith(("crosspoint_transmitters_keyed", "crosspoint_legs{")) and value
    ]
    return [f"I6 still held: {held}"] if held else []


def inside(net: Netlab, was: Before) -> list[str]:
    """I7."""
    strays = net.counts()["strays"] - was.strays
    return [f"I7 {strays} packets to addresses outside the bench"] if strays else []
