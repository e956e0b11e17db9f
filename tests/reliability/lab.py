"""What each test gets: the network, a gateway in it, load, and a place for findings."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.reliability import invariants
from tests.reliability.daemon import PORT, ROOT, Daemon
from tests.reliability.invariants import Before, Expected
from tests.reliability.net import CLIENT, FAR, GATEWAY, Netlab
from tests.reliability.party import Party, Talk
from tests.reliability.sound import Mixer, Sound
from tests.reliability.wrong import Faults

Pair = tuple[Talk, Talk]


class Lab:
    """One run of one test. A context manager."""

    def __init__(self, *, full: bool) -> None:
        self.full = full
        self.breaches: list[str] = []
        """What did not hold."""
        self.figures: dict[str, Any] = {}
        """What was measured."""
        self._directory = tempfile.TemporaryDirectory(prefix="rel-")
        self.home = Path(self._directory.name)
        self.net = Netlab(self.home)
        self.mixer = Mixer()
        self.expected: dict[str, Expected] = {}
        """Calls of which there must be a record, by calling number."""
        self.unknown: set[str] = set()
        """Calling numbers of attackers and others of whom nothing is expected."""
        self.may_differ: tuple[str, ...] = ()
        """Names of `Daemon.held` that the test itself keeps open."""
        self.rss_kb = invariants.RSS_KB
        self.faults: Faults | None = None
        """What the gateway's process sees of disk and clock, when a test wants to say that."""
        self.parties: list[Party] = []
        self._numbers = iter(range(710000, 799990))
        self.daemon: Daemon
        self.was: Before

    @property
    def load(self) -> int:
        """Calls at a time."""
        return 100 if self.full else 30

    async def __aenter__(self) -> Lab:
        self.net.__enter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            for party in self.parties:
                party.close()
            if hasattr(self, "daemon"):
                await self.daemon.stop()
        finally:
            self.mixer.close()
            self.net.__exit__()
            self._directory.cleanup()

    async def start(self, **settings: Any) -> None:
        """Start a gateway; settings: fields of `daemon.CONFIG`."""
        self.daemon = Daemon(self.net, self.home, **settings)
        if self.faults is not None:
            self.daemon.environment = self.faults.environment
        self.figures["start_s"] = round(await self.daemon.start(), 2)

    def check(self, holds: object, what: str) -> bool:
        """Take note of what does not hold."""
        if not holds:
            self.breaches.append(what)
        return bool(holds)

    def figure(self, **figures: Any) -> None:
        self.figures |= figures

    # Load

    def party(self, space: str, address: str, **more: Any) -> Party:
        party = Party(self.net, space, address, (GATEWAY, PORT), self.mixer, **more)
        self.parties.append(party)
        return party

    def ends(self, **more: Any) -> tuple[Party, Party]:
        """Caller beyond the bad network, called one beside the gateway."""
        return (
            self.party("a", CLIENT, first_hz=400, **more),
            self.party("b", FAR, first_hz=1103, **more),
        )

    def number(self) -> str:
        """A calling number that nobody has had."""
        return str(next(self._numbers))

    async def warm(self, caller: Party, n: int = 10) -> None:
        """Some calls before anything is measured: what is made once is made then."""
        for talk in await asyncio.gather(*(caller.call("1000", self.number()) for _ in range(n))):
            await caller.hang_up(talk)
        await asyncio.sleep(0.5)
        self.was = await invariants.before(self.daemon, self.net)

    async def talk(self, caller: Party, called: Party, n: int) -> list[Pair]:
        """So many calls that stand, with both ends of each."""
        known = set(called.calls)
        numbers = [self.number() for _ in range(n)]

        async def one(at: int, calling: str) -> Talk:
            await asyncio.sleep(at / 20)
            return await caller.call("1000", calling)

        talks = await asyncio.gather(*(one(at, calling) for at, calling in enumerate(numbers)))
        by_calling = {t.calling: t for call_id, t in called.calls.items() if call_id not in known}
        refused = [talk.status for talk in talks if not talk.up]
        self.check(not refused, f"{len(refused)} of {n} calls were refused: {refused[:5]}")
        for talk in talks:
            if talk.up:
                self.expected[talk.calling] = Expected()
        return [(t, by_calling[t.calling]) for t in talks if t.up and t.calling in by_calling]

    @staticmethod
    def sounds(pairs: Sequence[Pair]) -> list[tuple[Sound, Sound]]:
        return [
            (one.sound, other.sound)
            for one, other in pairs
            if one.sound is not None and other.sound is not None
        ]

    async def end(self, caller: Party, pairs: Sequence[Pair]) -> None:
        """Hang up what still stands, and expect records of it."""
        standing = [pair for pair in pairs if pair[0].up]
        began = {one: one.answered_at for one, _ in standing}
        await asyncio.gather(*(caller.hang_up(one) for one, _ in standing))
        for one, _ in standing:
            self.expected[one.calling] = Expected(
                one.ended_at - began[one], one.released_at - one.ended_at
            )

    async def churn(
        self, caller: Party, per_s: float, enough: asyncio.Event, talk_s: float = 1.0
    ) -> list[Talk]:
        """Short calls one after the other until `enough`; all of them, when the last is over, each
        with the status of its BYE, 0 when nobody answered that."""
        tasks = []

        async def one() -> Talk:
            talk = await caller.call("1000", self.number())
            await asyncio.sleep(talk_s)
            if talk.up:
                talk.status = await caller.hang_up(talk)
            return talk

        while not enough.is_set():
            tasks.append(asyncio.create_task(one()))
            await asyncio.sleep(1 / per_s)
        return list(await asyncio.gather(*tasks))

    async def hear(self, pairs: Sequence[Pair], seconds: float = 2.0, what: str = "") -> None:
        """I5 over the next seconds."""
        sounds = self.sounds(pairs)
        for _ in range(3):
            # What a stall of this process spoils is listened to again.
            for pair in sounds:
                for sound in pair:
                    sound.reset()
            late, began = self.mixer.n_late, time.monotonic()
            await asyncio.sleep(seconds)
            late = self.mixer.n_late - late
            lost, share = invariants.delivered(sounds, late)
            breaches = invariants.tones(sounds, began) + lost
            self.figures["rtp_lost_percent"] = round(100 * share, 3)
            if not breaches:
                return
        self.breaches += [f"{what}: {breach}" if what else breach for breach in breaches]

    async def attack(self, *arguments: str) -> asyncio.subprocess.Process:
        """An attacker beyond the bad network; it prints its figure at its end."""
        return await asyncio.create_subprocess_exec(
            *self.net.command("a", sys.executable, "-m", "tests.reliability.attack", *arguments),
            stdout=asyncio.subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip

    # The end

    async def judge(self, caller: Party | None, probe: Party, *, records: bool = True) -> None:
        """I1 to I4, I6 and I7, after the fault and after the calls."""
        if not self.check(self.daemon.alive, "the gateway has ended"):
            return
        if caller is not None:
            self.breaches += await invariants.fresh_call(caller)
        breaches, figures = await invariants.live(probe)
        self.breaches += breaches
        self.figures |= figures
        self.breaches += await invariants.conserved(self.daemon, self.was, self.may_differ)
        if records:
            self.breaches += await invariants.recorded(
                self.daemon, self.was, self.expected, self.unknown
            )
        breaches, grown = invariants.healthy(self.daemon, self.was, self.rss_kb)
        self.breaches += breaches
        self.figures["grown_mb"] = round(grown / 1024, 1)
        self.breaches += await invariants.safe(self.daemon)
        self.breaches += invariants.inside(self.net, self.was)
