"""13: the volume of journal, records and recordings hangs, is full, is read-only; calls go on."""

from __future__ import annotations

import asyncio
import shutil
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.reliability.daemon import CALLED, CALLER
from tests.reliability.invariants import Expected
from tests.reliability.lab import Lab, Pair
from tests.reliability.net import FURTHER
from tests.reliability.party import Party
from tests.reliability.wrong import Faults, Volume

MB = 96
HUNG_S = 5.0
OPTIONS_S = 0.1
ALARM_S = 3.0
WRITTEN_S = 0.1
FULL_S = 5.0
GUARD = f"""
[adapters.sip.trunks.guard]
peer = "sip:{FURTHER[1]}:5060"
keepalive_s = 0
"""
ACCOUNTS = 3
PHONES = "".join(
    f'[adapters.sip.phones.user{n}]\npassword = "right{n}"\nnumber = "{300 + n}"\n'
    for n in range(ACCOUNTS)
)
ROUTES = """
record = true
[[routes]]
name = "alarm"
on = "alarm"
from = ["sip/user*", "gateway/*"]
targets = ["sip/guard:911"]
"""


async def run(lab: Lab) -> None:
    """Calls and their audio do not notice, alarms act, what was written can be heard."""
    lab.faults = faults = Faults(lab.home)
    with Volume(lab.home / "data", MB) as volume:
        await _run(lab, volume, faults)
        await lab.daemon.stop()


async def _run(lab: Lab, volume: Volume, faults: Faults) -> None:
    await lab.start(
        trunks=CALLER + CALLED + GUARD + PHONES, routes=ROUTES, media_timeout_s=0,
        sip="[adapters.sip.fraud]\nfailed = 1\n",
    )  # fmt: skip
    caller, called = lab.ends()
    guard = lab.party("b", FURTHER[1], first_hz=2500)
    probe = lab.party("b", FURTHER[0])
    users = [
        lab.party("a", f"10.77.1.{n + 1}", port=5070, user=f"user{n}", password=f"right{n}")
        for n in range(ACCOUNTS)
    ]
    await lab.warm(caller)
    # What was recorded so far is no part of it.
    known = set(_recordings(lab))

    pairs = await lab.talk(caller, called, lab.load)
    await lab.hear(pairs, what="before")
    with faults.hung(volume.path):
        await _fault(lab, "hung", pairs, caller, guard, users[0], probe, HUNG_S)
    lab.check(faults.n_waited, "nothing has had to wait for the disk")
    # All of it arrives, though it had to wait.
    await lab.end(caller, pairs)
    await asyncio.sleep(1.0)
    lab.figure(hung_recordings=_heard(lab, set(_recordings(lab)) - known, pairs, whole=True))
    known = set(_recordings(lab))

    for what, user, on, off in (
        ("full", users[1], volume.fill, volume.free),
        ("read_only", users[2], lambda: volume.writable(False), lambda: volume.writable(True)),
    ):
        pairs = await lab.talk(caller, called, lab.load)
        await asyncio.sleep(2.0)
        on()
        await _fault(lab, what, pairs, caller, guard, user, probe, FULL_S)
        files = set(_recordings(lab)) - known
        lab.check(len(files) == len(pairs), f"{what}: {len(files)} recordings of {len(pairs)}")
        # They end where the disk did, and open.
        lab.figure(**{f"{what}_recordings": _heard(lab, files, pairs, whole=False)})
        off()
        known = set(_recordings(lab))
        await lab.hear(pairs, what=f"after {what}")
        await lab.end(caller, pairs)
        # A recording of a new call is whole again.
        again = await lab.talk(caller, called, 1)
        await asyncio.sleep(2.0)
        await lab.end(caller, again)
        await asyncio.sleep(1.0)
        _heard(lab, set(_recordings(lab)) - known, again, whole=True)
        known = set(_recordings(lab))
    await _partial(lab)
    for party in users:
        lab.unknown |= {f"user{users.index(party)}", str(300 + users.index(party))}
    lab.unknown |= {"", "fraud"}
    await lab.judge(caller, probe)


async def _fault(
    lab: Lab,
    what: str,
    pairs: list[Pair],
    caller: Party,
    guard: Party,
    user: Party,
    probe: Party,
    seconds: float,
) -> None:
    """While the disk is as it is: audio, answers, a new call, an alarm."""
    began = time.monotonic()
    alarmed = asyncio.create_task(_alarm(guard, user))
    listening = asyncio.create_task(lab.hear(pairs, 1.0, what))
    calling = lab.number()
    fresh = asyncio.create_task(caller.call("1000", calling, within_s=4.0))
    took = []
    while time.monotonic() - began < seconds:
        took.append(await probe.options())
        await asyncio.sleep(0.02)
    talk, alarm_s = await fresh, await alarmed
    await listening
    lab.check(talk.up, f"{what}: a new call got {talk.status}")
    lab.check(alarm_s <= ALARM_S, f"{what}: an alarm called somebody after {alarm_s:.1f} s")
    p99 = sorted(took)[int(0.99 * len(took)) - 1]
    lab.check(p99 <= OPTIONS_S, f"{what}: OPTIONS p99 {1000 * p99:.0f} ms")
    gone = sum(not (one.up and other.up) for one, other in pairs)
    lab.check(not gone, f"{what}: {gone} calls were lost")
    lab.figure(
        **{f"{what}_alarm_s": round(alarm_s, 2), f"{what}_options_p99_ms": round(1000 * p99, 1)}
    )
    if talk.up:
        lab.expected[calling] = Expected()
        await caller.hang_up(talk)


async def _alarm(guard: Party, user: Party) -> float:
    """Seconds from what raises an account's alarm to the call that it makes; infinite: never."""
    for n in range(2):
        await user.call(f"55{n}", user._user, audio=False, within_s=4.0)
    began, known = time.monotonic(), guard.seen["INVITE"]
    while guard.seen["INVITE"] == known:
        if time.monotonic() - began > 2 * ALARM_S:
            return float("inf")
        await asyncio.sleep(0.02)
    return time.monotonic() - began


def _recordings(lab: Lab) -> list[Path]:
    return list((lab.home / "data" / "recordings").rglob("*.wav"))


def _heard(lab: Lab, files: set[Path], pairs: list[Pair], whole: bool) -> str:
    """Whether SoX opens each, and each is as long as its call, or as what was written of it."""
    lengths = []
    for file in files:
        # SoX says the length by the header; that more follows is no error, that less does is one.
        with file.open("rb") as opened:
            copy = lab.home / "copy.wav"
            with copy.open("wb") as out:
                shutil.copyfileobj(opened, out)
        done = subprocess.run(
            ["sox", str(copy), "-n", "stat"], capture_output=True, text=True, timeout=20,
            check=False,
        )  # fmt: skip
        found = [row for row in done.stderr.splitlines() if row.startswith("Length")]
        if not lab.check(found and not done.returncode, f"sox: {done.stderr.strip()[:200]}"):
            continue
        length = float(found[0].split(":")[1])
        lengths.append(length)
        written = (copy.stat().st_size - 44) / 32000
        lab.check(
            abs(written - length) <= WRITTEN_S,
            f"{file.name}: {length:.2f} s by its header, {written:.2f} s written",
        )
    if whole and lengths:
        talked = [one.ended_at - one.answered_at for one, _ in pairs if one.ended_at]
        off = abs(statistics.median(lengths) - statistics.median(talked))
        lab.check(off <= 0.5, f"recordings of {off:.2f} s more or less than their calls")
        lab.check(len(files) >= len(pairs), f"{len(files)} recordings of {len(pairs)} calls")
    return f"{len(lengths)} of {statistics.median(lengths):.1f} s" if lengths else "none"


async def _partial(lab: Lab) -> None:
    """Who looks for a recording is told that it is not whole."""
    alarms: list[dict[str, Any]] = await lab.daemon.get("alarms")
    text = lab.daemon.log.read_text(errors="replace")
    lab.check("recording is incomplete" in text, "the log does not say what is incomplete")
    lab.figure(alarms=sorted({alarm["alarm"] for alarm in alarms}))
