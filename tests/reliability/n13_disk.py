"""13: the volume of journal, records and recordings hangs, is full, is read-only; calls go on."""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from pathlib import Path
from typing import Any

from tests.reliability import invariants
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
WRITTEN_S = 0.15
"""The header is brought up to date each 0.1 s."""
WHOLE_S = 0.5
QUIET_DBM0, QUIET = -16.0, 0.02
"""Packets of a tone of -10 dBm0 with less power than this; which share of them there may be."""
HEARD = 0.8
"""Share of the packets that must come to each end: the time is this busy machine's."""
HEADER, OCTETS_PER_S = 44, 32000
"""Of a recording: two channels of 16 bits at 8 kHz."""
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
    await _flows(lab, "before", pairs, 2.0)
    with faults.hung(volume.path):
        await _fault(lab, "hung", pairs, caller, guard, users[0], probe, HUNG_S)
    waited, loops = faults.waited
    lab.check(waited, "nothing has had to wait for the disk")
    lab.check(not loops, f"the event loop has waited for the disk {loops} times")
    # All of it arrives, though it had to wait.
    await lab.end(caller, pairs)
    await asyncio.sleep(1.0)
    await _heard(lab, "hung", set(_recordings(lab)) - known, pairs, whole=True)
    known = set(_recordings(lab))

    for what, user, on, off in (
        ("full", users[1], volume.fill, volume.free),
        ("read_only", users[2], lambda: faults.refuse(volume.path), lambda: faults.refuse(None)),
    ):
        pairs = await lab.talk(caller, called, lab.load)
        await asyncio.sleep(2.0)
        on()
        await _fault(lab, what, pairs, caller, guard, user, probe, FULL_S)
        files = set(_recordings(lab)) - known
        # They end where the disk did, and open.
        await _heard(lab, what, files, pairs, whole=False)
        off()
        known = set(_recordings(lab))
        await lab.end(caller, pairs)
        # A recording of a new call is whole again.
        again = await lab.talk(caller, called, 1)
        await asyncio.sleep(2.0)
        await lab.end(caller, again)
        await asyncio.sleep(1.0)
        await _heard(lab, f"after {what}", set(_recordings(lab)) - known, again, whole=True)
        known = set(_recordings(lab))
    await _partial(lab)
    for n in range(ACCOUNTS):
        lab.unknown |= {f"user{n}", str(300 + n)}
    # The calls that alarms made.
    lab.unknown |= {f"gateway/{place}" for place in ("journal", "records", "recordings")}
    lab.unknown |= {f"sip/user{n}" for n in range(ACCOUNTS)} | {""}
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
    registering = asyncio.create_task(user.register(user._user, user._password))
    listening = asyncio.create_task(_flows(lab, what, pairs, seconds - 1.0))
    calling = lab.number()
    fresh = asyncio.create_task(caller.call("1000", calling, within_s=4.0))
    took = []
    while time.monotonic() - began < seconds:
        took.append(await probe.options())
        await asyncio.sleep(0.02)
    talk, alarm_s = await fresh, await alarmed
    lab.check(await registering == 200, f"{what}: a registration was refused")
    await listening
    lab.check(talk.up, f"{what}: a new call got {talk.status}")
    lab.check(alarm_s <= ALARM_S, f"{what}: an alarm called somebody after {alarm_s:.1f} s")
    p99 = sorted(took)[int(0.99 * len(took)) - 1]
    if what == "hung":
        lab.check(p99 <= OPTIONS_S, f"{what}: OPTIONS p99 {1000 * p99:.0f} ms")
    gone = sum(not (one.up and other.up) for one, other in pairs)
    lab.check(not gone, f"{what}: {gone} calls were lost")
    lab.figure(
        **{f"{what}_alarm_s": round(alarm_s, 2), f"{what}_options_p99_ms": round(1000 * p99, 1)}
    )
    if talk.up:
        lab.expected[calling] = Expected()
        await caller.hang_up(talk)


async def _flows(lab: Lab, what: str, pairs: list[Pair], seconds: float) -> None:
    """Audio without gaps. What is recorded goes through the jitter buffers and the mixer, so that
    one late packet of a busy bench moves the tones of `invariants.tones`: loudness is judged."""
    sounds = [sound for pair in lab.sounds(pairs) for sound in pair]
    best = (1.0, 0.0, ["not judged"])
    for _ in range(3):
        # What a stall of this process spoils is listened to again, as in `Lab.hear`.
        for sound in sounds:
            sound.reset()
        late = lab.mixer.n_late
        await asyncio.sleep(seconds / 3)
        lost, _ = invariants.delivered(lab.sounds(pairs), lab.mixer.n_late - late)
        found = [sound.quiet(QUIET_DBM0) for sound in sounds]
        share = statistics.median(quiet / max(1, n) for quiet, n in found)
        came = statistics.median(n for _, n in found) * 3 / (seconds * 50)
        best = min(best, (share, -came, lost))
    share, came, lost = best
    lab.breaches += [f"{what}: {each}" for each in lost]
    lab.check(share <= QUIET, f"{what}: {100 * share:.1f} % of the packets are quiet")
    lab.check(-came >= HEARD, f"{what}: {-100 * came:.0f} % of the packets came")
    lab.figure(**{f"{what}_quiet_percent": round(100 * share, 1)})


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


async def _heard(lab: Lab, what: str, files: set[Path], pairs: list[Pair], *, whole: bool) -> None:
    """Whether SoX opens each, and each is as long as its call, or as what was written of it."""
    lengths = []
    for file in files:
        # The header is brought up to date behind the audio: both of one moment.
        data = await asyncio.to_thread(file.read_bytes)
        copy = lab.home / "copy.wav"
        copy.write_bytes(data)
        done = await asyncio.create_subprocess_exec(
            "sox", str(copy), "-n", "stat", stderr=asyncio.subprocess.PIPE
        )
        _, said = await done.communicate()
        found = re.search(rb"Length \(seconds\): +([\d.]+)", said)
        if not lab.check(found, f"{what}: sox: {said.decode(errors='replace').strip()[:200]}"):
            continue
        assert found is not None
        lengths.append(float(found[1]))
        written = (len(data) - HEADER) / OCTETS_PER_S
        lab.check(
            abs(written - lengths[-1]) <= WRITTEN_S,
            f"{what}: {lengths[-1]:.2f} s by the header, {written:.2f} s written",
        )
    wanted = len(pairs)
    lab.check(len(lengths) >= wanted, f"{what}: {len(lengths)} recordings of {wanted} calls")
    if not lengths:
        return
    if whole:
        talked = statistics.median(one.ended_at - one.answered_at for one, _ in pairs)
        off = abs(statistics.median(lengths) - talked)
        lab.check(off <= WHOLE_S, f"{what}: recordings {off:.2f} s off their calls")
    lab.figure(**{f"{what.replace(' ', '_')}_s": round(statistics.median(lengths), 1)})


async def _partial(lab: Lab) -> None:
    """Who looks for a recording is told that it is not whole."""
    alarms: list[dict[str, Any]] = await lab.daemon.get("alarms")
    text = lab.daemon.log.read_text(errors="replace")
    lab.check("recording is incomplete" in text, "the log does not say what is incomplete")
    lab.figure(alarms=sorted({alarm["alarm"] for alarm in alarms}))
