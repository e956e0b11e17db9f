"""14: the storage of records suffers at random while calls come and go: `kill -9` of the gateway, a
full or read-only volume, a database that somebody else has locked."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import time
from collections import Counter

from tests.reliability import invariants
from tests.reliability.lab import Lab
from tests.reliability.n12_records import sound
from tests.reliability.net import FURTHER
from tests.reliability.party import Party, Talk
from tests.reliability.wrong import Faults, Volume

MB = 24
PER_S = 10.0
TALK_S = 3.0
LOCK_S = 10.0
UP_S = 3.0
FAULTS = ("kill", "full", "locked", "read only")


async def run(lab: Lab) -> None:
    """Every call whose BYE was answered has its record, none has two, nobody else has one."""
    lab.faults = faults = Faults(lab.home)
    with Volume(lab.home / "data", MB) as volume:
        await lab.start()
        first = lab.figures["start_s"]
        caller, _ = lab.ends()
        probe = lab.party("b", FURTHER[0])
        await lab.warm(caller)
        began = time.time()
        enough = asyncio.Event()
        calling = asyncio.create_task(lab.churn(caller, PER_S, enough, TALK_S))
        await _nemesis(lab, volume, faults, first)
        enough.set()
        talks = await calling
        await asyncio.sleep(3.0)
        await _history(lab, caller, talks, began)
        # The process is another one than at the start.
        was = await invariants.before(lab.daemon, lab.net)
        was.strays = lab.was.strays
        lab.was = was
        await lab.judge(caller, probe, records=False)
        await lab.daemon.stop()
        sound(lab, volume.path)


async def _nemesis(lab: Lab, volume: Volume, faults: Faults, first: float) -> None:
    chance = random.Random(14)
    suffered: Counter[str] = Counter()
    deadline = time.monotonic() + (1800.0 if lab.full else 90.0)
    worst = 0.0
    while time.monotonic() < deadline:
        await asyncio.sleep(chance.uniform(5.0, 20.0 if lab.full else 8.0))
        # Each at least once, then by chance.
        fault = FAULTS[suffered.total()] if suffered.total() < 4 else chance.choice(FAULTS)
        suffered[fault] += 1
        if fault == "kill":
            lab.daemon.signal(signal.SIGKILL)
            await lab.daemon.wait(5.0)
            sound(lab, volume.path)
            took = await lab.daemon.start()
            worst = max(worst, took)
            lab.check(took <= max(UP_S, 1.5 * first), f"it took {took:.1f} s to answer again")
        elif fault == "full":
            volume.fill()
            await asyncio.sleep(5.0)
            volume.free()
        elif fault == "locked":
            file = volume.path / "records.sqlite"
            await asyncio.to_thread(_lock, str(file))
        else:
            faults.refuse(volume.path)
            await asyncio.sleep(5.0)
            faults.refuse(None)
    lab.figure(suffered=dict(suffered), up_again_s=round(worst, 2))


def _lock(file: str) -> None:
    connection = sqlite3.connect(file, isolation_level=None, timeout=5.0)
    try:
        connection.execute("BEGIN EXCLUSIVE")
        time.sleep(LOCK_S)
        connection.execute("ROLLBACK")
    finally:
        connection.close()


async def _history(lab: Lab, caller: Party, talks: list[Talk], began: float) -> None:
    acknowledged = {
        talk.calling for talk in talks if talk.ended_by == "here" and talk.status == 200
    }
    tried = {talk.calling for talk in talks}
    for _ in range(20):
        records = [r for r in await lab.daemon.records(began - 0.5) if r["calling"] != "79999"]
        missing = acknowledged - {record["calling"] for record in records}
        if not missing:
            break
        await asyncio.sleep(1.0)
    times = Counter(record["calling"] for record in records)
    # Who was ringing when the gateway was killed repeats the INVITE, which the next process takes
    # for a call of its own: that one was cut is said, and is no second record of the other.
    whole = Counter(record["calling"] for record in records if record["cause"] != "crashed")
    twice = [calling for calling, n in whole.items() if n > 1]
    phantoms = times.keys() - tried
    lab.check(
        not missing, f"no record of {len(missing)} calls that were over: {sorted(missing)[:3]}"
    )
    lab.check(not twice, f"two records of {len(twice)} calls: {twice[:3]}")
    lab.check(not phantoms, f"records of {len(phantoms)} calls that were none")
    lab.check(len(acknowledged) > len(talks) / 3, f"only {len(acknowledged)} of {len(talks)} calls")
    lab.figure(calls=len(talks), acknowledged=len(acknowledged), records=len(records))
