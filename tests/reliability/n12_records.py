"""12: the volume of records and journal is full while calls come and go, and is freed again."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path

from tests.reliability.invariants import Expected
from tests.reliability.lab import Lab
from tests.reliability.net import FURTHER
from tests.reliability.party import Talk
from tests.reliability.wrong import Volume

MB = 24
PER_S = 5.0
FULL_S = 30.0
ALARM_S = 5.0


async def run(lab: Lab) -> None:
    """Calls go on, the alarm is there in time, afterwards each call has its record, once."""
    with Volume(lab.home / "data", MB) as volume:
        await lab.start()
        caller, _ = lab.ends()
        probe = lab.party("b", FURTHER[0])
        await lab.warm(caller)
        enough = asyncio.Event()
        calling = asyncio.create_task(lab.churn(caller, PER_S, enough))
        await asyncio.sleep(2.0)
        volume.fill()
        began = time.monotonic()
        took = await alarmed(lab)
        lab.check(took <= ALARM_S, f"the alarm was there after {took:.1f} s")
        await asyncio.sleep((300.0 if lab.full else FULL_S) - (time.monotonic() - began))
        volume.free()
        lab.check(await stored(lab), "what waited for the disk was not stored")
        enough.set()
        talks = await calling
        refused = [talk.status for talk in talks if not talk.answered_at]
        lab.check(not refused, f"{len(refused)} calls were refused: {refused[:5]}")
        lab.expected = {talk.calling: expected(talk) for talk in talks}
        lab.figure(calls=len(talks), alarm_s=round(took, 2))
        await lab.judge(caller, probe)
        await lab.daemon.stop()
        sound(lab, volume.path)


async def alarmed(lab: Lab) -> float:
    """Seconds until a store of the gateway has an alarm; infinite: never."""
    began = time.monotonic()
    while (took := time.monotonic() - began) < 4 * ALARM_S:
        alarms = await lab.daemon.get("alarms")
        if any(alarm["alarm"] == "storage" for alarm in alarms):
            return took
        await asyncio.sleep(0.1)
    return float("inf")


async def stored(lab: Lab, within_s: float = 30.0) -> bool:
    """Whether no store has an alarm any more: what waited is on disk."""
    deadline = time.monotonic() + within_s
    while any(alarm["alarm"] == "storage" for alarm in await lab.daemon.get("alarms")):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.2)
    return True


def expected(talk: Talk) -> Expected:
    """What the record of a short call has to say."""
    if not talk.answered_at:
        return Expected(answered=False)
    if not talk.ended_at:
        return Expected()
    return Expected(talk.ended_at - talk.answered_at, max(0.0, talk.released_at - talk.ended_at))


def sound(lab: Lab, data: Path) -> None:
    """SQLite finds the databases whole."""
    files = [*data.glob("*.sqlite"), *data.glob("*.db"), *data.glob("*.sqlite3")]
    lab.check(files, "there is no database")
    for file in files:
        connection = sqlite3.connect(file)
        try:
            (said,) = connection.execute("PRAGMA integrity_check").fetchone()
        except sqlite3.DatabaseError as error:
            said = str(error)
        finally:
            connection.close()
        lab.check(said == "ok", f"{file.name}: {said}")
