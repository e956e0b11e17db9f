"""The matrix: every network reaches every other, cell by cell, and the page that says so.

``python -m tests.interop.matrix --write`` plays it and writes ``docs/matrix.md``. Needs root, for
the virtual line card and a network of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gateway.core.actions import AcknowledgeAlarm, Dial
from gateway.core.causes import Cause
from gateway.core.events import LegAnswered, LegEnded, LegOffered
from gateway.records.database import Database
from tests.adapters.page_stand import Listener, Poly, Rtp, decode, own_network
from tests.interop.matrix_parties import OnTheAir, Party
from tests.interop.matrix_site import (
    ACK_KEY,
    ACK_RELAYS,
    ALARM_HZ,
    CARL_HZ,
    MEETING_NUMBER,
    NETWORKS,
    NEXT,
    PAGE_NUMBER,
    SIREN_COIL,
    Site,
    site,
)
from tests.interop.peers import until

PAGE = Path(__file__).parents[2] / "docs" / "matrix.md"
OK = "yes"
AT_ONCE = 3
"""Cells that are played at the same time."""
TALK_S = 1.3
HEARD_DBM0, STRAY_DBM0 = -25.0, -40.0
ZONES = ("hall (RTP)", "yard (Poly)", "staff (SPA)", "intercom/everywhere", "sip/carl")
SOURCES = {"m": "alarm (mqtt)", "c": "contact (modbus)", "l": "threshold (modbus)"}
OUTPUTS = ("mqtt/plant siren", "modbus/contacts siren", "intercom/b relay")
NO_HOOK = "a radio has no hook: the other side ends the call"


@dataclass
class Cell:
    """One cell: what was to be shown, and what came of it."""

    group: str
    row: str
    column: str
    says: str = "not done: not played"
    """``yes``, perhaps with what is different here, or ``not done: why``."""
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether it was shown."""
        return self.says.startswith(OK)


@dataclass
class Matrix:
    """All cells."""

    cells: list[Cell] = field(default_factory=list)
    records: str = ""
    seconds: float = 0.0

    def of(self, group: str) -> dict[tuple[str, str], str]:
        """What the cells of a group say, by row and column."""
        return {(cell.row, cell.column): cell.says for cell in self.cells if cell.group == group}

    @property
    def missing(self) -> list[Cell]:
        """Cells that were not shown."""
        return [cell for cell in self.cells if not cell.ok]


def plan() -> list[Cell]:
    """Every cell there is."""
    cells = [Cell("calls", row, column) for row in NETWORKS for column in NETWORKS]
    cells += [Cell("pages", row, zone) for row in NETWORKS for zone in ZONES]
    cells += [Cell("alarms", source, net) for source in SOURCES.values() for net in NETWORKS]
    cells += [Cell("outputs", source, output) for source in SOURCES.values() for output in OUTPUTS]
    cells += [Cell("escalations", "nobody takes it", network) for network in NETWORKS]
    cells += [Cell("conference", "hears all others", network) for network in NETWORKS]
    return cells


# What is heard


def _steady(samples: list[int], hz: float) -> float:
    """Level of a tone in dBm0: the median of windows of 0.1 s, as in
    `gateway.testing.audio.steady_level_at`, and as much faster as the gateway's thread needs."""
    n = 800
    assert len(samples) >= n, f"only {len(samples) / 8000:.2f} s were heard"
    pieces = np.array([samples[at : at + n] for at in range(0, len(samples) - n + 1, 400)])
    turns = np.hanning(n) * np.exp(-2j * np.pi * hz / 8000 * np.arange(n))
    # Twice for the other half of the spectrum, twice for the window; 32767 is 3.14 dBm0.
    peak = 4 * abs(float(np.median(np.abs(pieces @ turns)))) / n
    return 3.14 + 20 * math.log10(max(peak, 0.1) / 32767)


def check_heard(who: str, samples: list[int], hz: Iterable[float], not_hz: Iterable[float]) -> None:
    """These tones are heard, and those are not."""
    samples = samples[-8000:]
    for each in hz:
        wanted = _steady(samples, each)
        assert wanted > HEARD_DBM0, f"{who} hears {each:g} Hz at {wanted:.1f} dBm0 only"
    for each in not_hz:
        stray = _steady(samples, each)
        assert stray < STRAY_DBM0, f"{who} also hears {each:g} Hz at {stray:.1f} dBm0"


async def _listen(*parties: Party, seconds: float = TALK_S) -> list[list[int]]:
    for each in parties:
        await each.listen()
    await asyncio.sleep(seconds)
    return [await each.heard() for each in parties]


# Play


class Play:
    """Plays the cells of a matrix on a site."""

    def __init__(self, found: Site, matrix: Matrix) -> None:
        self.site, self.matrix = found, matrix
        self._changed = asyncio.Condition()
        self._used: set[object] = set()
        self._playing = 0
        self.calls: list[tuple[str, str]] = []
        """The legs of every call between two networks."""

    async def all(self) -> None:
        """Play everything."""
        begin = time.monotonic()
        work: list[Awaitable[None]] = []
        cells = {(cell.group, cell.row, cell.column): cell for cell in self.matrix.cells}
        # What cannot be played beside its like goes first: the calls fill the gaps.
        for letter, source in SOURCES.items():
            for network in NETWORKS:
                shown = [cells["alarms", source, network]]
                work.append(self._try(shown, lambda s=letter, n=network: self._alarm(s, n)))  # type: ignore[misc]
        for network in NETWORKS:
            cell = cells["escalations", "nobody takes it", network]
            work.append(self._try([cell], lambda n=network: self._escalate(n)))  # type: ignore[misc]
        for row in NETWORKS:
            zones = [cells["pages", row, zone] for zone in ZONES]
            work.append(self._try(zones, lambda r=row: self._page(r)))  # type: ignore[misc]
        for n, (row, column) in enumerate((a, b) for a in NETWORKS for b in NETWORKS):
            cell = cells["calls", row, column]
            work.append(self._try([cell], lambda r=row, c=column, n=n: self._call(r, c, n)))  # type: ignore[misc]
        await asyncio.gather(*work)
        for source in SOURCES.values():
            # Each of these alarms was raised, seen at every output, and taken.
            taken = all(cells["alarms", source, network].ok for network in NETWORKS)
            for output in OUTPUTS:
                says = OK if taken else "not done: see the alarms above"
                cells["outputs", source, output].says = says
        meeting = [cells["conference", "hears all others", network] for network in NETWORKS]
        await self._try(meeting, self._meet)
        await until(lambda: not self.site.box.gateway.switchboard.calls, "no call any more")
        self.matrix.records = await self._records()
        self.matrix.seconds = time.monotonic() - begin

    async def _try(self, cells: list[Cell], play: Callable[[], Awaitable[str]]) -> None:
        try:
            says = await play()
        except (Exception, asyncio.CancelledError) as error:
            text = " ".join(str(error).split())[:200] or type(error).__name__
            for cell in cells:
                cell.says, cell.detail = f"not done: {text}", text
            if isinstance(error, asyncio.CancelledError):
                raise
        else:
            for cell in cells:
                cell.says = f"{OK} ({says})" if says else OK

    @contextlib.asynccontextmanager
    async def _alone(self, *parties: Party, shared: str = "") -> AsyncIterator[int]:
        """Nobody else uses these, nor what is shared; how much has been seen so far."""
        wanted = {shared, *(each.endpoint for each in parties), *map(id, parties)} - {""}
        async with self._changed:
            await self._changed.wait_for(
                lambda: self._playing < AT_ONCE and not wanted & self._used
            )
            self._playing += 1
            self._used |= wanted
        try:
            for each in parties:
                each.prepare()
            yield len(self.site.box.seen)
        finally:
            async with self._changed:
                self._playing -= 1
                self._used -= wanted
                self._changed.notify_all()

    async def _legs(self, caller: Party, callee: Party, skip: int) -> tuple[str, str]:
        box = self.site.box
        offered = await box.wait(LegOffered, lambda e: e.endpoint == caller.endpoint, skip=skip)
        dialled = await box.wait(
            Dial, lambda a: a.endpoint == callee.endpoint and a.leg != offered.leg, skip=skip
        )
        return offered.leg, dialled.leg

    # Calls

    async def _call(self, row: str, column: str, n: int) -> str:
        callee = self.site.callee(column, row)
        caller = self.site.caller(row, callee.number)
        async with self._alone(caller, callee) as skip:
            try:
                return await self._converse(caller, callee, skip, by_caller=n % 2 == 0)
            finally:
                await self._clear(caller, callee)

    async def _converse(self, caller: Party, callee: Party, skip: int, *, by_caller: bool) -> str:
        box = self.site.box
        await caller.call(callee.number)
        legs = await self._legs(caller, callee, skip)
        await callee.answer()
        for leg in legs:
            await box.wait(LegAnswered, lambda e, leg=leg: e.leg == leg, skip=skip)  # type: ignore[misc]
        await asyncio.sleep(0.3)
        if caller.half or callee.half:
            await self._in_turns(caller, callee)
        else:
            await caller.speak()
            await callee.speak()
            heard = await _listen(caller, callee)
            check_heard(caller.endpoint, heard[0], [callee.hz], [caller.hz])
            check_heard(callee.endpoint, heard[1], [caller.hz], [callee.hz])
        note = ""
        if callee.half and not by_caller:
            by_caller, note = True, NO_HOOK
        ending = caller if by_caller else callee
        if ending.half:
            note = "ended by silence on the air"
        await ending.hang_up()
        for leg in legs:
            ended = await box.wait(LegEnded, lambda e, leg=leg: e.leg == leg, skip=skip)  # type: ignore[misc]
            assert ended.cause is Cause.NORMAL, f"{leg} ended with {ended.cause}: {ended.detail}"
        for each in (caller, callee):
            await each.rest()
        self.calls.append(legs)
        return note

    async def _in_turns(self, caller: Party, callee: Party) -> None:
        """Who is on the air speaks; then the other side takes the floor."""
        sides = (caller, callee) if caller.half else (callee, caller)
        radio, other = sides
        assert isinstance(radio, OnTheAir)
        if not other.half:
            await other.speak()
        await radio.speak()
        await asyncio.sleep(0.5)
        heard = await _listen(radio, other)
        check_heard(other.endpoint, heard[1], [radio.hz], [other.hz])
        assert not heard[0], f"{radio.endpoint} transmits while it receives"
        await radio.be_quiet()
        await asyncio.sleep(0.4)
        if isinstance(other, OnTheAir):
            await other.speak()
        else:
            await other.press("*")
        await until(lambda: radio.keyed, f"{radio.endpoint} is keyed", 5.0)
        await asyncio.sleep(0.5)
        heard = await _listen(radio, other)
        check_heard(radio.endpoint, heard[0], [other.hz], [radio.hz])
        if isinstance(other, OnTheAir):
            await other.be_quiet()
        else:
            await other.press("#")
        await until(lambda: not radio.keyed, f"{radio.endpoint} is released", 5.0)

    async def _clear(self, *parties: Party) -> None:
        """After a failure: let everybody go, so that the other cells can be played."""
        mine = {each.endpoint for each in parties}
        board = self.site.box.gateway.switchboard

        def busy() -> bool:
            return any(leg.endpoint in mine for leg in board.legs.values())

        if not busy():
            return
        for each in parties:
            with contextlib.suppress(Exception):
                await each.hang_up()
        for each in parties:
            with contextlib.suppress(Exception):
                await each.rest()
        with contextlib.suppress(AssertionError):
            await until(lambda: not busy(), "the lines are free", 10.0)

    # Pages

    async def _page(self, row: str) -> str:
        caller = self.site.caller(row, PAGE_NUMBER)
        station = self.site.people["intercom/b"]
        async with self._alone(caller, station, shared="zones") as skip:
            try:
                await self._speak_to_zones(caller, station, skip)
            finally:
                await self._clear(caller)
        return ""

    async def _speak_to_zones(self, caller: Party, station: Party, skip: int) -> None:
        box, carl = self.site.box, self.site.carl
        seen = len(carl.events)
        with (
            Listener("239.0.1.1", 5004) as hall,
            Listener("224.0.1.116", 5001) as yard,
            Listener("239.0.1.2", 5006) as staff,
        ):
            await caller.call(PAGE_NUMBER)
            offered = await box.wait(LegOffered, lambda e: e.endpoint == caller.endpoint, skip=skip)
            await carl.wait("CALL_ESTABLISHED", skip=seen)
            for zone in ("page/hall", "page/yard", "page/staff", "intercom/everywhere"):
                await box.wait(LegAnswered, lambda e, z=zone: e.leg.startswith(f"{z}#"), skip=skip)  # type: ignore[misc]
            await asyncio.sleep(0.3)
            await caller.speak()
            await asyncio.sleep(0.4)
            await station.listen()
            await asyncio.sleep(TALK_S)
            in_station = await station.heard()
            data = carl.heard().read_bytes()[44:]
            frames = [Poly.read(data) for data in yard.read()]
            packets = {ZONES[0]: hall.read(), ZONES[2]: staff.read()}
            await caller.hang_up()
            await box.wait(LegEnded, lambda e: e.leg == offered.leg, skip=skip)
            await caller.rest()
            await carl.wait("CALL_CLOSED", skip=seen)
        pieces = {zone: [Rtp.read(each).payload for each in found if each[0] == 0x80]
                  for zone, found in packets.items()}  # fmt: skip
        pieces[ZONES[1]] = [frame.audio[-160:] for frame in frames if frame.operation == 0x10]
        for zone, octets in pieces.items():
            samples = await asyncio.to_thread(decode, b"".join(octets))
            check_heard(zone, samples, [caller.hz], [station.hz, CARL_HZ])
        check_heard(ZONES[3], in_station, [caller.hz], [CARL_HZ])
        in_carl = list(memoryview(data[: len(data) & ~1]).cast("h"))
        check_heard(ZONES[4], in_carl, [caller.hz], [CARL_HZ])

    # Alarms

    async def _set(self, source: str, network: str, on: bool) -> None:
        at = NETWORKS.index(network)
        if source in "me":
            state = "ALARM" if on else "NORMAL"
            text = f'{{"state": "{state}", "kind": "{source}-{network}"}}'
            await self.site.broker.publish(f"plant/{source}-{network}/fire", text)
        elif source == "c":
            self.site.io.tell(f"di {at} {int(on)}")
        else:
            self.site.io.tell(f"hr {at} {20 * on}")

    async def _alarm(self, source: str, network: str) -> str:
        person = self.site.callee(network)
        b = self.site.people["intercom/b"]
        async with self._alone(person, b, shared="alarm") as skip:
            try:
                return await self._take(source, network, person, skip)
            finally:
                await self._set(source, network, False)
                await self._clear(person)

    async def _take(self, source: str, network: str, person: Party, skip: int) -> str:
        box, io, station = self.site.box, self.site.io, self.site.listener_station
        n_told, n_asked = len(self.site.told.lines), len(io.asked)
        await self._set(source, network, True)
        dialled = await box.wait(Dial, lambda a: a.endpoint == person.endpoint, skip=skip)
        await person.answer()
        await box.wait(LegAnswered, lambda e: e.leg == dialled.leg, skip=skip)
        await asyncio.sleep(0.2)
        (heard,) = await _listen(person, seconds=1.0)
        check_heard(person.endpoint, heard[-7200:], [ALARM_HZ], [person.hz])
        await io.coil_is(SIREN_COIL, True)
        await self.site.broker.shows("plant/siren/set", "ON")
        await until(lambda: station.outputs.get(1), "the station's relay is on")
        if source == "m":
            by, note = person.endpoint, "digit"
            if isinstance(person, OnTheAir):
                await until(lambda: not person.keyed, "the announcement is over")
                await asyncio.sleep(0.4)
                await person.speak()
                note = "talk key"
            else:
                await person.press("1")
        elif source == "c":
            by, note = "modbus/contacts key", "contact"
            io.tell(f"di {ACK_KEY} 1")
        else:
            by, note = "intercom/b/a", "key switch"
            station.contacts = 1
        done = await box.wait(AcknowledgeAlarm, skip=skip)
        io.tell(f"di {ACK_KEY} 0")
        station.contacts = 0
        assert done.by == by, f"acknowledged by {done.by}"
        if source == "m":
            await self.site.told.wait(n_told + 1)
            assert f'"{by}"' in self.site.told.lines[-1], self.site.told.lines[-1]
        else:
            relay = ACK_RELAYS["contacts" if source == "c" else "levels"]
            written = f"fc 5 addr {relay}"
            await until(lambda: written in io.asked[n_asked:], "the device was told")
        await box.wait(LegEnded, lambda e: e.leg == dialled.leg, skip=skip)
        await person.rest()
        await io.coil_is(SIREN_COIL, False)
        await self.site.broker.shows("plant/siren/set", "OFF")
        await until(lambda: not station.outputs.get(1), "the station's relay is off")
        return note

    async def _escalate(self, network: str) -> str:
        """Nobody takes it in hand there: the next one is called."""
        first, next_one = self.site.callee(network), self.site.people[NEXT]
        async with self._alone(first, next_one, shared="alarm") as skip:
            try:
                await self._set("e", network, True)
                box = self.site.box
                dialled = await box.wait(Dial, lambda a: a.endpoint == first.endpoint, skip=skip)
                await next_one.answer()
                ended = await box.wait(LegEnded, lambda e: e.leg == dialled.leg, skip=skip)
                assert ended.cause in (Cause.NO_ANSWER, Cause.NORMAL, Cause.CANCELLED), ended
                await asyncio.sleep(0.3)
                await next_one.press("1")
                done = await box.wait(AcknowledgeAlarm, skip=skip)
                assert done.by == next_one.endpoint, done
                await box.wait(LegEnded, lambda e: e.leg.startswith(f"{done.by}#"), skip=skip)
                await first.rest()
                await next_one.rest()
                return f"to {next_one.endpoint}"
            finally:
                await self._set("e", network, False)
                await self._clear(first, next_one)

    # The conference

    async def _meet(self) -> str:
        people = [self.site.callee(network) for network in NETWORKS]
        caller, *called, radio = people
        assert isinstance(radio, OnTheAir)
        async with self._alone(*people) as skip:
            try:
                await caller.call(MEETING_NUMBER)
                await asyncio.gather(*(each.answer() for each in called))
                for each in people:
                    await self.site.box.wait(
                        LegAnswered,
                        lambda e, each=each: e.leg.startswith(f"{each.endpoint}#"),  # type: ignore[misc]
                        skip=skip,
                    )
                voices = [caller, *called]
                await asyncio.gather(*(each.speak() for each in called))
                await asyncio.sleep(0.5)
                for n, heard in enumerate(await _listen(*voices)):
                    own = voices[n].hz
                    check_heard(voices[n].endpoint, heard,
                                [e.hz for e in voices if e.hz != own], [own, radio.hz])  # fmt: skip
                await radio.speak()
                await asyncio.sleep(0.5)
                for each, heard in zip(voices, await _listen(*voices), strict=True):
                    check_heard(each.endpoint, heard, [radio.hz], [each.hz])
                await radio.be_quiet()
                await asyncio.sleep(0.4)
                await caller.press("*")
                await until(lambda: radio.keyed, "the radio is keyed")
                await asyncio.sleep(0.5)
                (heard,) = await _listen(radio)
                wanted = [each.hz for each in voices]
                check_heard(radio.endpoint, heard, wanted, [radio.hz])
                await caller.press("#")
                await until(lambda: not radio.keyed, "the radio is released")
                for each in voices:
                    await each.hang_up()
                for each in people:
                    await each.rest()
            finally:
                await self._clear(*people)
        return ""

    # Records

    async def _records(self) -> str:
        database = Database(self.site.box.gateway.configuration.records_url, read_only=True)
        try:
            wanted = {leg for pair in self.calls for leg in pair}
            await until(lambda: wanted <= {leg.leg for leg in database.legs()}, "all records")
            found = {leg.leg: leg for leg in database.legs()}
            for pair in self.calls:
                for leg, way in zip(pair, ("in", "out"), strict=True):
                    record = found[leg]
                    fine = record.direction == way and record.cause == "normal"
                    if not fine or not record.answered_at:
                        return f"not done: the record of {leg} is {record}"
        finally:
            database.close()
        return OK


async def played(home: Path) -> Matrix:
    """Play everything; call it in a network of its own."""
    matrix = Matrix(plan())
    async with site(home) as found:
        await Play(found, matrix).all()
    return matrix


# The page


def render(matrix: Matrix) -> str:
    """The page. It holds nothing that differs from one run to the next."""
    parts = [_HEAD]
    for group, title, text in _GROUPS:
        says = matrix.of(group)
        rows = list(dict.fromkeys(row for row, _ in says))
        columns = list(dict.fromkeys(column for _, column in says))
        lines = [f"| {'from / to' if group == 'calls' else ''} | " + " | ".join(columns) + " |"]
        lines.append("|---" * (len(columns) + 1) + "|")
        lines += [
            f"| **{row}** | " + " | ".join(says[row, column] for column in columns) + " |"
            for row in rows
        ]
        parts.append(f"## {title}\n\n{text}\n\n" + "\n".join(lines))
    parts.append(f"## Records\n\n{_RECORDS}\n\n{matrix.records or 'not done: not looked at'}")
    done = len(matrix.cells) - len(matrix.missing)
    parts.append(f"{done} of {len(matrix.cells)} cells are shown.")
    return "\n\n".join(parts) + "\n"


_HEAD = f"""\
# Who reaches whom

Written by `python -m tests.interop.matrix --write` from what it measured;
`tests/interop/test_matrix.py` plays it again and compares. One gateway with every adapter, on
loopback, and around it: baresip (`sip`), Kamailio with two baresip (`pyvoip`), the virtual line
card's telephones and exchange lines (`fxs`, `fxo`), call points on a bus (`intercom`), transceivers
with key, carrier and audio on pseudo-terminals and UDP (`radio`), multicast receivers, mosquitto, a
device made of libmodbus.

*yes*: each side sent a frequency of its own, the other was heard above {HEARD_DBM0:g} dBm0 and the
own one was below {STRAY_DBM0:g} dBm0 (Goertzel). What could not be shown says so, and why."""
_GROUPS = (
    ("calls", "Calls",
     "Every ordered pair, hung up by either side in turn. With a radio the sides speak in turn, and"
     " a telephone takes the floor with `*` and gives it back with `#`."),
    ("pages", "Pages", "Each network speaks live to five zones at once."),
    ("alarms", "Alarms to people",
     "Each source calls each network, the announcement is heard, and it is acknowledged as the cell"
     " says; the source is told: on the acknowledgement topic, or by a relay of the device."),
    ("outputs", "Alarms to outputs",
     "Each source switches each output on when it is raised, and off when it is acknowledged."),
    ("escalations", "Nobody takes it",
     "Nobody answers there (or, on the air, nobody presses the key): the next person is called,"
     " and acknowledges with a digit."),
    ("conference", "Conference",
     "One leg of every network in one room. Everybody hears all others, and not himself; the radio"
     " by floor. The mixer adds and does not scale: each voice keeps its level."),
)  # fmt: skip
_RECORDS = "Each call above left one record for each of its legs: answered, cause *normal*."


def main() -> None:
    """Play, and print or write the page."""
    parser = argparse.ArgumentParser(description="play the matrix of networks")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE}")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="matrix-") as home, own_network():
        matrix = asyncio.run(played(Path(home)))
    text = render(matrix)
    if arguments.write:
        PAGE.write_text(text)
    else:
        sys.stdout.write(text)
    for cell in matrix.missing:
        sys.stderr.write(f"{cell.group}: {cell.row} -> {cell.column}: {cell.says}\n")
    sys.stderr.write(f"played in {matrix.seconds:.0f} s\n")


if __name__ == "__main__":
    main()
