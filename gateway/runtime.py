"""Gateway: the daemon. It builds every part, opens them in order, and closes them in order.

Every event takes one way: an adapter emits it, its host checks it (`hosting`), it waits its turn
in one queue (`inbox`), is journalled and goes to the switchboard (`turns`), and the actions that
come out are handed to the adapter that owns the leg or endpoint, or to the patchbay (`dispatch`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from typing import Any, Final

from gateway import listening, logs, spoken
from gateway.adapters.base import Log
from gateway.config import Configuration
from gateway.core.actions import CloseAlarm, Hangup
from gateway.core.causes import Cause
from gateway.core.endpoints import Endpoint
from gateway.core.events import (
    AlarmRaised,
    Event,
    InputChanged,
    LegOffered,
    StopRequested,
)
from gateway.core.numbers import Completeness
from gateway.core.switchboard import Switchboard
from gateway.dispatch import Dispatch
from gateway.exchange import Exchange
from gateway.hosting import AdapterHost
from gateway.inbox import Inbox
from gateway.journal import InHand, Journal, StorageState
from gateway.media.engine import Engine
from gateway.media.patchbay import MediaEngine, Patchbay
from gateway.media.speech import Synthesiser
from gateway.media.streams import RecordEnded, StreamStats
from gateway.metrics.tally import Tally
from gateway.notify import notify, watchdog_s
from gateway.pathtests import Tester
from gateway.records import Recorder, Store
from gateway.records.ops import StoreOp
from gateway.supervision import Supervision
from gateway.timeline.export import HepExport
from gateway.timeline.redact import Redactor, secrets_of
from gateway.timeline.taps import Taps
from gateway.timeline.wire import Ring
from gateway.troubles import Troubles
from gateway.turns import Turns

RESUME_S: Final = 5.0
"""How long alarms of before a restart wait for the adapters that are to tell people."""
GOODBYE_S: Final = 3.0
"""How long adapters get to say goodbye to their far ends after the drain limit."""


class Gateway(Exchange):
    """The daemon. Driven by `run`; `stop` ends it, `gateway.reload` changes its configuration.

    `engine` and `log` replace the real ones in tests.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        engine: MediaEngine | None = None,
        log: Log | None = None,
    ) -> None:
        """Build everything, open nothing. Raises `ConfigError` where an adapter refuses."""
        self.configuration = configuration
        self.generation = 1
        """Counts the configurations that were applied."""
        self.started_at = 0.0
        self.stopping = False
        own_log: Log = log or logs.get()
        box = configuration.gateway
        media = configuration.media
        self.box = box.name
        self._loop: asyncio.AbstractEventLoop | None = None
        self.engine: Any = engine or Engine(
            max_streams=media.max_streams,
            ports=media.ports,
            realtime=media.realtime,
            threads=media.threads,
            io_uring=media.io_uring,
            kernel=media.kernel,
            steer=media.steer,
        )
        self._synthesiser = Synthesiser(box.synthesiser, configuration.data_dir / "speech")
        self.taps = Taps(
            keep_s=configuration.capture.rtp_s,
            maximum_bytes=configuration.capture.rtp_mb << 20,
        )
        """Copies of RTP."""
        self.tester = Tester(
            self,
            data_dir=configuration.data_dir,
            recordings_dir=configuration.recordings_dir,
        )
        patchbay = Patchbay(
            self.engine,
            log=own_log,
            sounds_dir=configuration.sounds_dir,
            recordings_dir=configuration.recordings_dir,
            synthesiser=self._synthesiser,
            on_opened=self.taps.opened,
            on_closed=self._stream_closed,
            on_recorded=self._recorded,
        )
        wires = Ring(
            keep_s=configuration.capture.keep_s,
            maximum_bytes=configuration.capture.signalling_mb << 20,
        )
        super().__init__(patchbay, wires=wires, log=own_log)
        self.journal = Journal(
            configuration.journal_dir,
            total_bytes=configuration.journal.total_mb << 20,
            keep_digits=configuration.journal.keep_digits,
            on_state=self._storage_from_thread,
        )
        self.store = Store(
            configuration.records_url,
            spill=configuration.data_dir / "records.spill",
            keep_days=configuration.records.retention_days or None,
            on_state=self._storage_from_thread,
        )
        self.tally = Tally()
        self.recorder = Recorder(self.box, self._keep_records, run=self.store.run)
        self.switchboard = Switchboard(
            configuration.table(), new_leg=self.mint_leg, new_id=self.mint_id
        )
        self.supervision = Supervision(
            self,
            data_dir=configuration.data_dir / "adapters",
            log=log,
            watched=self._watched,
        )
        self._fault: BaseException | None = None
        """What ended a task of ours that must never end."""
        for name, section in configuration.adapters.items():
            self.hosts[name] = self.supervision.make(section)
        self.inbox = Inbox(self)
        self.export: HepExport | None = None
        if configuration.capture.hep:
            self.export = HepExport(
                configuration.capture.collector(),
                redactor=lambda: self.redactor,
                capture_id=configuration.capture.hep_id,
                node=self.box,
                password=configuration.capture.hep_password.reveal(),
            )
            self.wires.copies.append(self.export.put)
        self.redactor = _redactor(configuration)
        """Through which everybody looks at it."""
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._listening = listening.Listening(self)
        self._troubles = Troubles(self)
        self._dispatch = Dispatch(self, finish_test=self.tester.finish)
        self.turns = Turns(self, self._dispatch)
        self.turns.pins = any(route.pins for route in configuration.routes)

    @property
    def hosts(self) -> dict[str, AdapterHost]:
        """The adapters by name."""
        return self.supervision.hosts

    # The exchange: what adapters' hosts use

    def now(self) -> float:
        """Monotonic seconds: the event loop's."""
        return self._loop.time() if self._loop else 0.0

    def known(self) -> dict[str, tuple[Endpoint, str]]:
        """The adapters' endpoints by id, each with the kind of its adapter."""
        return {name: (place, host.adapter.kind) for name, (place, host) in self.places.items()}

    def completeness(self, endpoint: str, digits: str) -> Completeness:
        """Whether digits dialled on an endpoint are a whole number."""
        board = self.switchboard
        return board.table.completeness(endpoint, digits, time.time(), board.endpoints)

    def emit(self, event: Event) -> None:
        """Put a person's event on the bus: `CallRequested`, `HangupRequested`..."""
        self.accept(event, None)

    def accept(self, event: Event, host: AdapterHost | None) -> None:
        """Queue an event for the switchboard."""
        self.inbox.put(event, host)

    # The gateway: what the inbox uses

    def begins(self, event: InputChanged) -> bool:
        """Whether an input would begin an alarm."""
        return self.switchboard.alarming.begins(event, time.time())

    def taken_by(self, event: InputChanged) -> str:
        """The route that takes an input now; empty: none."""
        return self.switchboard.alarming.taken_by(event, time.time())

    def write_down(self, event: AlarmRaised | InputChanged, adapter: str) -> tuple[str, Any]:
        """Journal an alarm before it acts."""
        envelope = self.turns.envelope(self.now(), time.time(), event.trace, "", adapter, event)
        return envelope.id, self.journal.append_durable(envelope)

    def refuse_call(self, event: LegOffered, host: AdapterHost) -> None:
        """There is no room for this call."""
        self.counters["calls_refused_overload"] += 1
        refusal = Hangup(leg=event.leg, cause=Cause.CONGESTION, detail="event queue is full")
        self._dispatch.ask(host, host.adapter.hangup, refusal)

    def alarm_lost(
        self, event: AlarmRaised | InputChanged | CloseAlarm, envelope: str = ""
    ) -> None:
        """There was no room for an alarm, which waited under this envelope."""
        self._troubles.alarm_lost(event, envelope)

    def wake(self) -> None:
        """There is something in the inbox."""
        self.turns.wake()

    def _trace_of_leg(self, leg: str) -> str:
        known = self.switchboard.legs.get(leg)
        return known.call.trace if known is not None else ""

    def _keep_records(self, ops: tuple[StoreOp, ...]) -> None:
        self.tally.store(ops)
        self.store.put(ops)

    @property
    def waiting(self) -> int:
        """Events that the switchboard has not seen yet."""
        return len(self.inbox)

    def _stream_closed(self, leg: str, stats: StreamStats, stream: int) -> None:
        self.tally.stream(leg, stats)
        self.recorder.media(leg, stats, stream=stream)

    # Running

    async def run(self) -> None:
        """Open everything and serve until `stop`; then leave every output in its safe state.

        Raises `DeviceError` when the engine cannot be started.
        """
        self._loop = loop = asyncio.get_running_loop()
        self.started_at = loop.time()
        self.turns.start(loop)
        logs.TRACES.of_leg = self._trace_of_leg
        tasks: list[asyncio.Task[None]] = []
        try:
            for host in self.hosts.values():
                self.supervision.prepare(host)
            await self._start_engine()
            carried = self.journal.open(now=loop.time(), at=time.time())
            self._journal_plan()
            self.store.open(self.box, self.journal.earlier)
            self._troubles.announce()
            carried = self._troubles.of_others(carried)
            self.inbox.remember(each for each in self.journal.in_hand if self._stands(each))
            self.tester.use(self.configuration.tests, self.configuration.gateway.zone)
            await self.tester.open()
            for host in self.hosts.values():
                for endpoint in host.adapter.endpoints():
                    host.set_endpoint(endpoint)
            for host in self.hosts.values():
                self.supervision.run(host)
            tasks.append(self._watched(loop.create_task(self._beat(), name="beat")))
            tasks.append(self._watched(loop.create_task(self.tester.run(), name="tests")))
            if carried:
                self.inbox.carry(carried)
                tasks.append(loop.create_task(self._carry_on(), name="carry on alarms"))
            self.log.info("gateway is running", box=self.box, adapters=len(self.hosts))
            notify("READY=1")
            spoken.prepare(self._synthesiser, self.configuration, self.log)
            await self._stop.wait()
            if self._fault is not None:
                raise self._fault
            notify("STOPPING=1")
            await self._quiesce()
        finally:
            # Whatever happened: first the outputs, then everything else.
            self.stopping = True
            tasks += self.supervision.close()
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
            self.turns.finish()
            await self._close()
            self.log.info("gateway has stopped", box=self.box)

    def stop(self) -> None:
        """Let calls finish within the drain limit, then end `run`. The second time: at once."""
        if self._stop.is_set():
            self._stop_now.set()
        self._stop.set()

    def handle_signals(self) -> None:
        """SIGTERM and SIGINT stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)

    # What a reload uses

    def use(self, configuration: Configuration) -> None:
        """Decide by another configuration's routes from the next event on."""
        self.configuration = configuration
        self.supervision.order(list(configuration.adapters))
        self.switchboard.replace_routes(configuration.table())
        self.tester.use(configuration.tests, configuration.gateway.zone)
        self.turns.pins = any(route.pins for route in configuration.routes)
        self.redactor = _redactor(configuration)
        self._journal_plan()
        spoken.prepare(self._synthesiser, configuration, self.log)

    def match_again(self) -> None:
        """Give alarms that no route took to the present routes."""
        now, wall = self.now(), time.time()
        self._journal_plan((now, wall))
        self.turns.match_again(now, wall)

    def _journal_plan(self, asked: tuple[float, float] | None = None) -> None:
        """Let the journal tell by which routes its events were answered."""
        configuration = self.configuration
        self.journal.plan(configuration.routes, configuration.gateway.zone, asked)

    def _watched(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        """A task of ours that ends by itself is a fault of ours and ends us."""

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and self._fault is None:
                self._fault = task.exception() or AssertionError(f"{task.get_name()} has ended")
                self._stop.set()

        task.add_done_callback(ended)
        return task

    async def _quiesce(self) -> None:
        self.stopping = self.supervision.closed = True
        drain_s = self.configuration.gateway.drain_s
        self.log.info("gateway stops", calls=len(self.switchboard.calls), drain_s=drain_s)
        if not self.switchboard.legs:
            self.turns.idle.set()
        self.accept(StopRequested(deadline_s=drain_s), None)
        loop = self._running_loop()
        waits = [loop.create_task(each.wait()) for each in (self.turns.idle, self._stop_now)]
        await asyncio.wait(waits, timeout=drain_s + GOODBYE_S, return_when=asyncio.FIRST_COMPLETED)
        if not self.turns.idle.is_set():
            self.accept(StopRequested(deadline_s=0.0), None)
            await asyncio.wait(waits[:1], timeout=GOODBYE_S)
        for wait in waits:
            wait.cancel()
        # One turn for what the last events caused.
        await asyncio.sleep(0)

    async def _beat(self) -> None:
        """Once a second: checkpoint records, listen to calls, tell systemd that the loop turns."""
        period = min(1.0, (watchdog_s() or 2.0) / 2)
        while True:
            self.recorder.tick(self.now(), time.time())
            self._listening.sweep(self.now())
            self._troubles.calm()
            notify("WATCHDOG=1")
            await asyncio.sleep(period)

    def _stands(self, known: InHand) -> bool:
        """Whether an acknowledged alarm stood when its source was seen last."""
        return known.last is None or self.begins(known.last)

    async def _carry_on(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RESUME_S):
                await self.turns.all_up.wait()
        self.inbox.carry_on(
            lambda alarm: self.log.warning(
                "alarm carried on", endpoint=alarm.endpoint, alarm=alarm.alarm
            )
        )

    def _storage_from_thread(self, state: StorageState) -> None:
        self._troubles.storage_from(self._loop, state)

    def _recorded(self, event: RecordEnded) -> None:
        self.tester.recorded(event)
        self._troubles.recorded(event)
        reason = event.error or ("the disk is too slow" if event.dropped_s else "")
        if reason:
            file = os.path.relpath(event.path, self.configuration.recordings_dir.absolute())
            lost = f"{event.dropped_s:.1f} s lost: " if event.dropped_s else ""
            self.recorder.incomplete(file, f"{lost}{reason}")

    async def _start_engine(self) -> None:
        start = getattr(self.engine, "start", None)
        if start is not None:
            await start()
        if refused := getattr(self.engine, "kernel_refused", ""):
            self.log.error(
                "media.kernel is refused, or a part of it: those relays stay in user space",
                reason=refused,
            )
        if refused := getattr(self.engine, "steer_refused", ""):
            self.log.error(
                "media.steer is refused: each leg's own socket carries its packets", reason=refused
            )

    async def _close(self) -> None:
        self._troubles.closed = True
        self.turns.close()
        await self._synthesiser.close()
        self.taps.close()
        if self.export is not None:
            self.export.close()
        self.tester.close()
        stop = getattr(self.engine, "stop", None)
        if stop is not None:
            await stop()
        loop = self._running_loop()
        for closing in (self.journal, self.store):
            if not await loop.run_in_executor(None, closing.close):
                self.log.error("not everything could be stored", store=closing.state.name)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        assert self._loop is not None, "the gateway is not running"
        return self._loop


def _redactor(configuration: Configuration) -> Redactor:
    """Hides what is secret in this configuration."""
    routes = [route for route in configuration.table().routes if route.route.pins]
    adapters = [section.config for section in configuration.adapters.values()]
    pins = [pin for route in configuration.routes for pin in route.pins.values()]

    def shown(number: str) -> str:
        return next((each for route in routes if (each := route.shown(number)) != number), number)

    secrets = [*secrets_of(adapters), *secrets_of(configuration.capture), *pins]
    # A person who dials a PIN does so with the keys that everybody uses for everything.
    digits = configuration.journal.keep_digits and not pins
    return Redactor(secrets, shown=shown if routes else None, digits=digits)
