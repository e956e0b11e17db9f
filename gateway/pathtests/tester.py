"""Tester: carries out what tests of paths need besides calls: files, thought, time, memory."""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Protocol

from gateway.core.actions import FinishPathTest, Outcome
from gateway.core.endpoints import Condition, Duplex, Endpoint, Target
from gateway.core.events import (
    AlarmCleared,
    AlarmRaised,
    EndpointChanged,
    Event,
    PathTested,
    PathTestRequested,
    Severity,
)
from gateway.core.pathtest import CARRIER
from gateway.errors import DeviceError, GatewayError
from gateway.media.streams import RecordEnded
from gateway.pathtests.book import Book, Result, key_of
from gateway.pathtests.judge import Question, Verdict, judge
from gateway.pathtests.section import SECONDS, Limits, ScheduledTest, signal_of
from gateway.pathtests.timetable import Timetable

PLACE: Final = "gateway/tests"
"""Whose alarms those of failed tests are."""
FILES_S: Final = 3.0
"""So long it is waited for the recordings to be complete."""
PATIENCE_S: Final = 60.0
"""Beyond ringing and playing: a test that has not come to an end by then never will."""
LOOK_S: Final = 60.0
"""At the latest so often the wall clock is looked at: it may jump."""
TWO_WIRE: Final = frozenset({"analog"})
"""Kinds of adapters whose ports join both directions in a hybrid."""


class Exchange(Protocol):
    """What the tester needs of the gateway."""

    log: Any

    def now(self) -> float: ...
    def mint_id(self) -> str: ...
    def emit(self, event: Event) -> None: ...

    def known(self) -> dict[str, tuple[Endpoint, str]]:
        """Endpoints by id, each with the kind of its adapter."""


class _Run:
    """A test that is under way."""

    def __init__(
        self,
        request: PathTestRequested,
        question: Question,
        baseline: bool,
        severity: Severity | None,
    ) -> None:
        self.request, self.question, self.baseline = request, question, baseline
        self.severity = severity
        """Of the alarm when it fails; None: whoever asked sees it himself."""
        self.result: asyncio.Future[PathTested] = asyncio.get_running_loop().create_future()


class Tester:
    """Tests for people and by the timetable, one of the latter at a time.

    Driven by `test` (a person), `run` (the timetable), `finish` (the switchboard's action) and
    `recorded` (the engine).
    """

    def __init__(self, exchange: Exchange, *, data_dir: Path, recordings_dir: Path) -> None:
        self._exchange = exchange
        # As recordings' ends tell their paths.
        self._recordings = recordings_dir.absolute()
        self.book = Book(data_dir / "tests.json")
        self.scheduled: tuple[ScheduledTest, ...] = ()
        self.put_off: dict[str, str] = {}
        """Paths whose scheduled test waits for another try, and why."""
        self._zone = "UTC"
        self._timetable: Timetable | None = None
        self._changed = asyncio.Event()
        self._runs: dict[str, _Run] = {}
        self._complete: dict[str, asyncio.Event] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._worker = ThreadPoolExecutor(1, "path-tests")

    # Configuration

    def use(self, tests: Iterable[ScheduledTest], zone: str) -> None:
        """Carry out these from now on."""
        self.scheduled, self._zone = tuple(tests), zone
        self._timetable = None
        self._changed.set()
        if self.scheduled:
            self._exchange.emit(EndpointChanged(endpoint=place()))

    async def open(self) -> None:
        """Read what is known, and forget recordings of a run that broke off."""
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._worker, self._open)
        except DeviceError as error:
            self._exchange.log.error("path tests", why=str(error))
        if self.book.alarms:
            self._exchange.emit(EndpointChanged(endpoint=place()))

    def _open(self) -> None:
        with contextlib.suppress(OSError):
            for left in (self._recordings / "tests").glob("*.wav"):
                left.unlink()
        self.book.read()

    def close(self) -> None:
        """Nothing more is judged."""
        for task in list(self._tasks):
            task.cancel()
        for run in self._runs.values():
            run.result.cancel()
        self._worker.shutdown(wait=False, cancel_futures=True)

    # One test

    async def test(
        self,
        request: PathTestRequested,
        *,
        limits: Limits,
        expect: str = "",
        baseline: bool = False,
        severity: Severity | None = None,
    ) -> PathTested:
        """Carry out one test to its end.

        baseline: what is found is good, and later tests are held to it. severity: of the alarm
        when it fails; None raises none. Raises `DeviceError` when
        the gateway does not come to an end with it.
        """
        known = self._exchange.known()
        ends = known.get(request.endpoint)
        listener = known.get(request.listen)
        key = key_of(request.endpoint, request.kind.value, request.listen)
        question = Question(
            kind=request.kind,
            signal=request.signal,
            limits=limits,
            expect=expect,
            two_wire=ends is not None and ends[1] in TWO_WIRE,
            one_way=ends is not None and ends[0].duplex is Duplex.LISTEN,
            air=listener is not None and CARRIER in listener[0].inputs,
            baseline=None if baseline else self.book.baseline(key),
        )
        run = self._runs[request.test] = _Run(request, question, baseline, severity)
        self._exchange.emit(request)
        try:
            async with asyncio.timeout(request.ring_s + request.seconds + PATIENCE_S):
                return await run.result
        except TimeoutError:
            raise DeviceError(f"the test of {request.endpoint} came to no end") from None
        finally:
            self._runs.pop(request.test, None)

    def finish(self, action: FinishPathTest) -> None:
        """Judge what was recorded, or say why there is nothing; does not wait."""
        run = self._runs.get(action.test)
        if run is None:
            return  # whoever asked has given up
        task = asyncio.get_running_loop().create_task(self._finish(run, action), name="path test")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def recorded(self, event: RecordEnded) -> None:
        """A recording is complete."""
        file = Path(event.path)
        if file.stem.removesuffix("-heard") in self._runs:
            self._written(event.path).set()

    def _written(self, path: str) -> asyncio.Event:
        return self._complete.setdefault(path, asyncio.Event())

    async def _finish(self, run: _Run, action: FinishPathTest) -> None:
        request = run.request
        try:
            verdict = await self._verdict(run, action)
        finally:
            for name in (f"{request.test}.wav", f"{request.test}-heard.wav"):
                file = self._recordings / "tests" / name
                self._complete.pop(str(file), None)
                with contextlib.suppress(OSError):
                    file.unlink()
        result = PathTested(
            test=request.test,
            endpoint=request.endpoint,
            kind=request.kind,
            ok=verdict.ok,
            judged=action.outcome is not Outcome.PUT_OFF,
            verdict=verdict.verdict,
            detail=verdict.detail,
            figures=verdict.figures,
            listen=request.listen,
            scheduled=request.scheduled,
            trace=request.trace,
        )
        if result.judged:
            key = key_of(request.endpoint, request.kind.value, request.listen)
            self.book.keep(key, Result(at=time.time(), tested=result))
            if run.baseline and verdict.ok and "attenuation_db" in verdict.figures:
                self.book.keep_baseline(key, verdict.figures)
            self._tell(key, result, run.severity)
            await self._write()
        self._exchange.emit(result)
        if not run.result.done():
            run.result.set_result(result)

    async def _verdict(self, run: _Run, action: FinishPathTest) -> Verdict:
        if action.outcome is not Outcome.HEARD:
            words = {
                Outcome.PUT_OFF: "put off",
                Outcome.REFUSED: "not possible",
                Outcome.UNANSWERED: "no answer",
                Outcome.FAILED: "broken off",
            }
            return Verdict(ok=False, verdict=words[action.outcome], detail=action.detail)
        files = [self._recordings / name for name in (action.sent, action.heard) if name]
        try:
            # A disk that hangs leaves what there is to be judged.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FILES_S):
                    for file in files:
                        await self._written(str(file)).wait()
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(
                self._worker, judge, run.question, files[0], files[1] if len(files) > 1 else None
            )
        except GatewayError as error:
            return Verdict(ok=False, verdict="not measured", detail=str(error))

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._worker, self.book.write, self.book.text())
        except DeviceError as error:
            self._exchange.log.error("results of path tests are not kept", why=str(error))

    # The timetable

    async def run(self) -> None:
        """Carry out what is due, for ever."""
        while True:
            if self._timetable is None:
                self._changed.clear()
                self._timetable = Timetable(
                    self.scheduled, self._zone, time.time(), last=self.book.carried_out
                )
                self._forget()
            table = self._timetable
            due = table.next_due
            wait_s = LOOK_S if due is None else min(LOOK_S, max(0.0, due - time.time()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
                    continue
            for test, only in table.take(time.time()):
                for endpoint in [only] if only else self._endpoints(test):
                    if self._timetable is not table:
                        break
                    await self._scheduled(table, test, endpoint)
                self.book.carried_out[test.name] = time.time()

    def _endpoints(self, test: ScheduledTest) -> list[str]:
        if not test.pattern:
            return [test.endpoint]
        known = self._exchange.known()
        return sorted(
            name
            for name, (found, _) in known.items()
            if fnmatch.fnmatchcase(name, test.endpoint) and found.can_ring and found.has_audio
        )

    async def _scheduled(self, table: Timetable, test: ScheduledTest, place: str) -> None:
        try:
            # Packets lost at the wrong moment are no fault of the path: it has a second chance.
            result = await self._once(test, place, None)
            if result.judged and not result.ok:
                result = await self._once(test, place, Severity[test.severity.upper()])
        except DeviceError as error:
            self._exchange.log.error("path test", test=test.name, why=str(error))
            return
        key = key_of(result.endpoint, result.kind.value, result.listen)
        self.put_off.pop(key, None)
        if not result.judged:
            again = table.put_off(test, place, time.time())
            self.put_off[key] = result.detail
            self._exchange.log.info(
                "path test put off", test=key, why=result.detail,
                again_s=None if again is None else round(again - time.time()),
            )  # fmt: skip

    async def _once(self, test: ScheduledTest, place: str, severity: Severity | None) -> PathTested:
        target = Target.parse(place)
        request = PathTestRequested(
            test=self._exchange.mint_id(),
            endpoint=target.endpoint,
            number=target.number,
            kind=test.kind,
            signal=signal_of(test.kind, test.tone_hz),
            level_dbm0=test.level_dbm0,
            seconds=test.seconds or SECONDS[test.kind],
            listen=test.listen,
            transmit=test.transmit,
            ring_s=test.ring_s,
            scheduled=True,
            by="the timetable",
            trace=self._exchange.mint_id(),
        )
        return await self.test(request, limits=test.limits, expect=test.expect, severity=severity)

    def _tell(self, key: str, result: PathTested, severity: Severity | None) -> None:
        if result.ok:
            self._clear(key)
        if result.ok or severity is None:
            return
        self.book.alarms.add(key)
        text = f"{result.kind} test of {result.endpoint}: {result.verdict}"
        self._exchange.emit(
            AlarmRaised(
                endpoint=PLACE,
                alarm=key,
                kind="fault",
                severity=severity,
                text=f"{text}: {result.detail}" if result.detail else text,
                trace=result.trace,
                raised_at=self._exchange.now(),
            )
        )

    def _clear(self, key: str) -> None:
        if key in self.book.alarms:
            self.book.alarms.discard(key)
            self._exchange.emit(AlarmCleared(endpoint=PLACE, alarm=key))

    def _forget(self) -> None:
        """Nobody tests these any more: nothing would ever clear their alarms."""
        for key in sorted(self.book.alarms):
            result = self.book.results.get(key)
            if result is None or not any(
                self._covers(test, result.tested) for test in self.scheduled
            ):
                self._clear(key)

    def configured(self, request: PathTestRequested) -> ScheduledTest | None:
        """The section that tests the same path."""
        return next((test for test in self.scheduled if self._covers(test, request)), None)

    def _covers(self, test: ScheduledTest, result: PathTested | PathTestRequested) -> bool:
        return (
            fnmatch.fnmatchcase(result.endpoint, test.endpoint.partition(":")[0])
            and test.kind is result.kind
            and test.listen == result.listen
        )

    def failed(self) -> list[Result]:
        """Scheduled tests that failed when they were carried out last."""
        return [
            result
            for result in self.book.results.values()
            if result.tested.scheduled
            and not result.tested.ok
            and any(self._covers(test, result.tested) for test in self.scheduled)
        ]


def place() -> Endpoint:
    """The place that speaks for the tests."""
    return Endpoint(
        id=PLACE,
        label="path tests",
        duplex=Duplex.NONE,
        can_ring=False,
        alarm=True,
        condition=Condition.UP,
    )
