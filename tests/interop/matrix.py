"""The matrix: every network reaches every other, cell by cell, and the page that says so.

``python -m tests.interop.matrix --write`` plays it and writes ``docs/matrix.md``. Needs root, for
the virtual line card and a network of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path

import numpy as np

from gateway.core.actions import AcknowledgeAlarm, Dial, Hangup
from gateway.core.causes import Cause
from gateway.core.events import LegAnswered, LegEnded, LegOffered, Priority
from gateway.records.database import Database
from tests.adapters.page_stand import Listener, Poly, Rtp, decode, own_network
from tests.interop.matrix_page import (
    HEARD_DBM0,
    OK,
    OUTPUTS,
    PAGE,
    SOURCES,
    STRAY_DBM0,
    ZONE,
    ZONES,
    Cell,
    Matrix,
    plan,
    render,
)
from tests.interop.matrix_parties import OnTheAir, Party
from tests.interop.matrix_site import (
    ACK_KEY,
    ACK_RELAYS,
    ALARM_HZ,
    CARL_HZ,
    HALL_NUMBER,
    MEETING_NUMBER,
    NETWORKS,
    NEXT,
    PAGE_NUMBER,
    SIREN_COIL,
    Site,
    site,
)
from tests.interop.peers import until

AT_ONCE = 3
"""Cells that are played at the same time."""
TRIES = 3
"""How often a cell is played when the machine stood still meanwhile."""
TALK_S = 1.3
WARNING_HZ = (950.0, 1400.0, 1800.0)
"""The special information tone (ITU-T E.180 section 5): somebody more urgent needs the line."""
NO_HOOK = "a radio has no hook: the other side ends the call"


# What is heard


def _levels(samples: np.ndarray, hz: float) -> np.ndarray:
    """Levels of a tone in dBm0 in windows of 0.1 s, as `gateway.testing.audio.steady_level_at`
    takes them, and as much faster as the gateway needs, whose thread this is."""
    n = 800
    assert len(samples) >= n, f"only {len(samples) / 8000:.2f} s were heard"
    pieces = np.lib.stride_tricks.sliding_window_view(samples, n)[::400]
    turns = np.hanning(n) * np.exp(-2j * np.pi * hz / 8000 * np.arange(n))
    # Twice for the other half of the spectrum, twice for the window; 32767 is 3.14 dBm0.
    peaks = 4 * np.abs(pieces @ turns) / n
    return 3.14 + 20 * np.log10(np.maximum(peaks, 0.1) / 32767)


def check_heard(who: str, samples: list[int], hz: Iterable[float], not_hz: Iterable[float]) -> None:
    """These tones are heard, and those are not."""
    heard = np.array(samples[-8000:], float)
    for each in hz:
        wanted = float(np.median(_levels(heard, each)))
        assert wanted > HEARD_DBM0, f"{who} hears {each:g} Hz at {wanted:.1f} dBm0 only"
    for each in not_hz:
        stray = float(np.median(_levels(heard, each)))
        assert stray < STRAY_DBM0, f"{who} also hears {each:g} Hz at {stray:.1f} dBm0"


def check_warned(who: str, samples: list[int]) -> None:
    """The warning tone is heard, each of its parts at some time."""
    for hz in WARNING_HZ:
        best = float(_levels(np.array(samples, float), hz).max())
        assert best > HEARD_DBM0, f"{who} is not warned: {hz:g} Hz at {best:.1f} dBm0 at best"


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
        np.median(_levels(np.zeros(8000), 1000))  # numpy's first steps take half a second
        work: list[Awaitable[None]] = []
        cells = {(cell.group, cell.row, cell.column): cell for cell in self.matrix.cells}
        # What cannot be played beside its like goes first: the calls fill the gaps.
        for letter, source in SOURCES.items():
            for network in NETWORKS:
                shown = [cells["alarms", source, network], cells["reports", source, network]]
                work.append(self._try(shown, lambda s=letter, n=network: self._alarm(s, n)))  # type: ignore[misc]
        for network in NETWORKS:
            cell = cells["emergencies", "takes it when busy", network]
            work.append(self._try([cell], lambda n=network: self._preempt(n)))  # type: ignore[misc]
        work.append(self._try([cells["emergencies", "takes it when busy", ZONE]], self._take_hall))
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
        for letter, source in SOURCES.items():
            for network in NETWORKS:
                if (cell := cells["reports", source, network]).ok:
                    cell.says = f"{OK} ({'its topic' if letter == 'm' else 'its relay'})"
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
        for left in reversed(range(TRIES)):
            still = len(self.site.still)
            try:
                says = await play()
            except (Exception, asyncio.CancelledError) as error:
                text = " ".join(str(error).split())[:200] or type(error).__name__
                for cell in cells:
                    cell.says, cell.detail = f"not done: {text}", text
                if isinstance(error, asyncio.CancelledError):
                    raise
                # Only where the machine, not the gateway, may be the reason.
                if not left or len(self.site.still) == still:
                    return
            else:
                for cell in cells:
                    cell.says = f"{OK} ({says})" if says else OK
                return

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
        await self._on_the_air(radio)
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

    async def _on_the_air(self, radio: OnTheAir) -> None:
        """He speaks, and the gateway has noticed."""
        inputs = self.site.box.gateway.switchboard.inputs
        await radio.speak()
        await until(
            lambda: (at := inputs.get((radio.endpoint, "carrier"))) and at.value == 1.0,
            f"a carrier at {radio.endpoint}",
        )

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
        if source in "me":
            state = "ALARM" if on else "NORMAL"
            text = f'{{"state": "{state}", "kind": "{source}-{network}"}}'
            await self.site.broker.publish(f"plant/{source}-{network}/fire", text)
        elif source == "c":
            self.site.io.tell(f"di {NETWORKS.index(network)} {int(on)}")
        else:
            self.site.io.tell(f"hr {NETWORKS.index(network)} {20 * on}")

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

    # Emergencies

    async def _preempt(self, network: str) -> str:
        """An alarm needs somebody who is in a call."""
        person = self.site.callee(network)
        # The PBX is a place of two lines: a call within it takes both.
        caller = self.site.people["pyvoip/erik" if network == "pyvoip" else NEXT]
        async with self._alone(person, caller, shared="alarm") as skip:
            try:
                return await self._take_from(caller, person, skip)
            finally:
                await self._set("m", network, False)
                await self._clear(person, caller)

    async def _take_from(self, caller: Party, person: Party, skip: int) -> str:
        box = self.site.box
        await caller.call(person.number)
        legs = await self._legs(caller, person, skip)
        await person.answer()
        for leg in legs:
            await box.wait(LegAnswered, lambda e, leg=leg: e.leg == leg, skip=skip)  # type: ignore[misc]
        if isinstance(person, OnTheAir):
            await caller.press("*")
            await until(lambda: person.keyed, "it is transmitted")
        await asyncio.sleep(0.3)
        person.prepare()
        await caller.listen()
        skip = len(box.seen)
        await self._set("m", person.network, True)
        taken = await box.wait(Hangup, lambda a: a.leg == legs[1], skip=skip)
        assert taken.cause is Cause.PREEMPTED, taken
        await person.cut_off()
        dialled = await box.wait(Dial, lambda a: a.endpoint == person.endpoint, skip=skip)
        assert dialled.priority is Priority.EMERGENCY
        await person.answer()
        await box.wait(LegAnswered, lambda e: e.leg == dialled.leg, skip=skip)
        await asyncio.sleep(0.2)
        (heard,) = await _listen(person, seconds=1.0)
        check_heard(person.endpoint, heard[-7200:], [ALARM_HZ], [caller.hz])
        told = await box.wait(Hangup, lambda a: a.leg == legs[0], skip=skip)
        assert told.cause is Cause.PREEMPTED, told
        check_warned(caller.endpoint, await caller.heard())
        await caller.rest()
        if isinstance(person, OnTheAir):
            await until(lambda: not person.keyed, "the announcement is over")
            await asyncio.sleep(0.4)
            await person.speak()
        else:
            await person.press("1")
        await box.wait(AcknowledgeAlarm, skip=skip)
        await box.wait(LegEnded, lambda e: e.leg == dialled.leg, skip=skip)
        await person.rest()
        return "the caller is warned and released"

    async def _take_hall(self) -> str:
        """An alarm needs a zone in which somebody speaks: he speaks again when it is over."""
        caller = self.site.people[NEXT]
        async with self._alone(caller, shared="zones") as skip:
            try:
                with Listener("239.0.1.1", 5004) as hall:
                    return await self._speak_around(caller, hall, skip)
            finally:
                await self._set("m", "page", False)
                await self._clear(caller)

    async def _speak_around(self, caller: Party, hall: Listener, skip: int) -> str:
        box = self.site.box
        hall_legs: set[str] = set()

        async def zone(n: int) -> str:
            """The n-th leg to the hall is connected."""
            wanted = Priority.EMERGENCY if n == 2 else Priority.ROUTINE
            dialled = await box.wait(
                Dial, lambda a: a.endpoint == "page/hall" and a.leg not in hall_legs, skip=skip
            )
            hall_legs.add(dialled.leg)
            await box.wait(LegAnswered, lambda e: e.leg == dialled.leg, skip=skip)
            assert dialled.priority is wanted
            return dialled.leg

        async def heard(hz: float, not_hz: float) -> None:
            begin = len(hall.read())
            await asyncio.sleep(1.2)
            octets = b"".join(Rtp.read(each).payload for each in hall.read()[begin:])
            samples = await asyncio.to_thread(decode, octets)
            check_heard("the hall", samples, [hz], [not_hz])

        await caller.call(HALL_NUMBER)
        first = await zone(1)
        await asyncio.sleep(0.5)
        await heard(caller.hz, ALARM_HZ)
        await caller.listen()
        await self._set("m", "page", True)
        taken = await box.wait(Hangup, lambda a: a.leg == first, skip=skip)
        assert taken.cause is Cause.PREEMPTED, taken
        await zone(2)
        await heard(ALARM_HZ, caller.hz)
        await zone(3)
        check_warned(caller.endpoint, await caller.heard())
        await asyncio.sleep(0.3)
        await heard(caller.hz, ALARM_HZ)
        await caller.hang_up()
        await caller.rest()
        return "the caller is warned, and goes on afterwards"

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
                    await asyncio.sleep(0)
                    check_heard(voices[n].endpoint, heard,
                                [e.hz for e in voices if e.hz != own], [own, radio.hz])  # fmt: skip
                await self._on_the_air(radio)
                await asyncio.sleep(0.5)
                for each, heard in zip(voices, await _listen(*voices), strict=True):
                    await asyncio.sleep(0)
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
