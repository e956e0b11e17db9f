"""AdapterHost: what one adapter gets of the gateway, and what keeps it within its contract."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway.adapters.base import Adapter, Log
from gateway.core.actions import Hangup
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition, Endpoint
from gateway.core.events import (
    AcknowledgeRequested,
    AdapterLost,
    AdapterReady,
    AlarmAcknowledged,
    AlarmCleared,
    AlarmRaised,
    AnnouncementEnded,
    AudioBorrowed,
    AudioImpaired,
    AudioRestored,
    AudioReturned,
    CallRequested,
    CommandFinished,
    DigitPressed,
    EndpointChanged,
    EndpointRemoved,
    Event,
    FloorReleased,
    FloorRequested,
    HangupRequested,
    InputChanged,
    LegAnswered,
    LegEnded,
    LegFlashed,
    LegHeld,
    LegOffered,
    LegProgressed,
    LegRetrieved,
    LegRinging,
    MediaFlowing,
    MediaLost,
    MessageReceived,
    PageDelivered,
    PanelChanged,
    PathTested,
    PathTestRequested,
    StopRequested,
    ToneHeard,
    TransferRequested,
)
from gateway.core.numbers import Completeness
from gateway.errors import DeviceError, GatewayError, Unsupported, UsageError
from gateway.exchange import Borrowed, Exchange, Feed
from gateway.media.streams import DeviceFailed, MediaEvent, Stream, StreamOptions, StreamSpec
from gateway.timeline.wire import Ends

CANCEL_S: Final = 5.0
"""How long an adapter may take to end its legs when it is cancelled."""

_OF_LEG: Final = frozenset(
    (
        LegRinging, LegProgressed, LegAnswered, LegHeld, LegRetrieved, LegFlashed,
        TransferRequested, LegEnded, PageDelivered, DigitPressed, FloorRequested, FloorReleased,
        AudioBorrowed, AudioReturned, MediaFlowing, MediaLost, AudioImpaired, AudioRestored,
        ToneHeard, AnnouncementEnded,
    )
)  # fmt: skip
_OF_PLACE: Final = frozenset(
    (InputChanged, AlarmRaised, AlarmCleared, AlarmAcknowledged, PanelChanged, MessageReceived)
)
_OF_ANYONE: Final = frozenset(
    (CommandFinished, CallRequested, HangupRequested, AcknowledgeRequested)
)


class AdapterHost:
    """The `Host` of one adapter: checks what it emits, owns its tasks, runs it once or again.

    Driven by the adapter's calls and by `serve`; hands accepted events to its `Exchange`.
    """

    adapter: Adapter

    def __init__(self, name: str, exchange: Exchange, *, log: Log, data_dir: Path) -> None:
        self.name = name
        self.log = log
        self.data_dir = data_dir
        self.counters: Counter[str] = Counter()
        self.up = False
        """Whether the adapter has reported ready and still runs."""
        self.up_since = 0.0
        self.served_s = 0.0
        """How long the last run was ready, once it is over."""
        self.restarts = 0
        self.reason = ""
        """Why it is down; empty while it is not."""
        self.farewell = "the gateway stopped"
        """Why its legs end when it is cancelled."""
        self._inherited: set[str] = set()
        """Endpoints of a predecessor that this one has not spoken of yet."""
        self._exchange = exchange
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._run: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._downed: set[str] = set()
        self._stopping = False
        """The gateway itself ends the adapter."""

    # What the adapter calls

    def now(self) -> float:
        return self._exchange.now()

    def emit(self, event: Event) -> None:
        kind = type(event)
        exchange = self._exchange
        if kind in _OF_LEG:
            leg: str = event.leg  # type: ignore[union-attr]
            if exchange.legs.get(leg) is not self:
                self._refuse_leg(event, leg)
                return
            if isinstance(event, LegEnded):
                del exchange.legs[leg]
                self._give_back(leg)
                event = self._truly_ended(event)
        elif isinstance(event, LegOffered):
            if (
                exchange.legs.get(event.leg) is not self
                or event.leg.rpartition("#")[0] != event.endpoint
            ):
                self._refuse_leg(event, event.leg)
                return
        elif kind in _OF_PLACE:
            endpoint: str = event.endpoint  # type: ignore[union-attr, assignment]
            if not self.owns(endpoint):
                self._refuse(event, f"endpoint {endpoint} is not this adapter's")
                return
        elif isinstance(event, EndpointChanged):
            self.set_endpoint(event.endpoint)
            return
        elif isinstance(event, EndpointRemoved):
            self.remove_endpoint(event.endpoint, event.reason)
            return
        elif kind not in _OF_ANYONE:
            self._refuse(event, "only the gateway says that")
            return
        exchange.accept(event, self)

    def emit_threadsafe(self, event: Event) -> None:
        if self._loop is None:
            raise UsageError("emit_threadsafe before run")
        self._loop.call_soon_threadsafe(self.emit, event)

    def ready(self) -> None:
        if self.up:
            return
        self.up = True
        self.up_since = self.now()
        self._exchange.accept(AdapterReady(adapter=self.name), self)
        if self.reason:
            self.log.info("adapter is back", was_down=self.reason)
            self.reason = ""
        for endpoint in self.adapter.endpoints():
            if endpoint.id in self._downed:
                self.set_endpoint(endpoint)
        self._downed.clear()

    def new_leg(self, endpoint: str) -> str:
        if not self.owns(endpoint):
            raise UsageError(f"{endpoint} is not an endpoint of {self.name}: set_endpoint first")
        leg = self._exchange.mint_leg(endpoint)
        self._exchange.legs[leg] = self
        return leg

    def new_trace(self) -> str:
        return self._exchange.mint_id()

    def completeness(self, endpoint: str, digits: str) -> Completeness:
        return self._exchange.completeness(endpoint, digits)

    def set_endpoint(self, endpoint: Endpoint) -> None:
        known = self._exchange.places.get(endpoint.id)
        if known is not None:
            if known[1] is not self:
                self._refuse(
                    EndpointChanged(endpoint=endpoint),
                    f"endpoint {endpoint.id} belongs to {known[1].name}",
                )
                return
            if known[0] == endpoint:
                return
        self._downed.discard(endpoint.id)
        self._inherited.discard(endpoint.id)
        self._exchange.places[endpoint.id] = (endpoint, self)
        self._exchange.accept(EndpointChanged(endpoint=endpoint), self)

    def remove_endpoint(self, endpoint: str, reason: str = "") -> None:
        event = EndpointRemoved(endpoint=endpoint, reason=reason)
        if not self.owns(endpoint):
            self._refuse(event, f"endpoint {endpoint} is not this adapter's")
            return
        del self._exchange.places[endpoint]
        self._exchange.accept(event, self)

    def open_stream(
        self,
        leg: str,
        spec: StreamSpec,
        options: StreamOptions | None = None,
        on_event: Callable[[MediaEvent], bool] | None = None,
    ) -> Stream:
        if self._exchange.legs.get(leg) is not self:
            raise UsageError(f"open_stream: {leg} is not an open leg of {self.name}")
        return self._exchange.patchbay.open_stream(
            leg, spec, options or StreamOptions(), on_event, self.emit
        )

    def borrow_stream(
        self,
        leg: str,
        endpoint: str,
        options: StreamOptions | None = None,
        on_event: Callable[[MediaEvent], bool] | None = None,
    ) -> Stream:
        if self._exchange.legs.get(leg) is not self:
            raise UsageError(f"borrow_stream: {leg} is not an open leg of {self.name}")
        if leg in self._exchange.loans:
            self._give_back(leg)
            self.emit(AudioReturned(leg=leg))
        lender = self._lender(endpoint)
        try:
            loan = lender.adapter.lend(endpoint, leg)
        except Unsupported as error:
            raise DeviceError(str(error)) from error
        except GatewayError:
            raise
        except Exception as error:
            lender.count("lend_failed")
            lender.log.error("lend failed", endpoint=endpoint, error=repr(error), exc_info=error)
            raise DeviceError(f"{endpoint}: {type(error).__name__}: {error}") from error

        def report(event: MediaEvent) -> bool:
            if loan.on_event is not None and loan.on_event(event):
                return True
            if leg not in self._exchange.loans:
                return True  # recalled over it
            if isinstance(event, DeviceFailed):
                why = os.strerror(event.errno) if event.errno else "end of file"
                self._give_back(leg)
                self._lose(leg, Cause.OUT_OF_ORDER, f"audio of {endpoint}: {why}")
                return True
            return on_event is not None and on_event(event)

        try:
            stream = self.open_stream(leg, loan.spec, options or loan.options, report)
        except BaseException:
            lender.take_back(endpoint, leg)
            raise
        self._exchange.loans[leg] = Borrowed(endpoint, lender, self, stream)
        self.emit(AudioBorrowed(leg=leg, endpoint=endpoint))
        return stream

    def _lender(self, endpoint: str) -> AdapterHost:
        place = self._exchange.places.get(endpoint)
        if place is None:
            raise DeviceError(
                f"no adapter has an endpoint {endpoint} whose audio could be borrowed "
                "(see: gateway endpoints)"
            )
        known, lender = place
        if not lender.up:
            why = f": {lender.reason}" if lender.reason else ""
            raise DeviceError(f"{endpoint}: adapter {lender.name} is down{why}")
        if known.condition is Condition.DOWN:
            raise DeviceError(f"{endpoint} is down: {known.reason or 'no reason is given'}")
        return lender

    def recall(self, leg: str, cause: Cause, detail: str = "") -> None:
        loan = self._exchange.loans.get(leg)
        if loan is None or loan.lender is not self:
            return
        del self._exchange.loans[leg]
        loan.stream.close()
        if cause is Cause.SHUTDOWN and not self._stopping:
            cause = Cause.ADAPTER_LOST  # it stops, but the gateway goes on
        why = f"audio of {loan.endpoint}: {detail}" if detail else f"{loan.endpoint} was taken back"
        loan.borrower._lose(leg, cause, why)

    def count(self, name: str, n: int = 1) -> None:
        self.counters[name] += n

    def wire(
        self,
        about: str,
        data: bytes | str,
        *,
        kind: str,
        outward: bool,
        key: str = "",
        words: str = "",
        ends: Ends | None = None,
    ) -> None:
        self._exchange.wire(self.name, about, data, kind, outward, key, words, ends)

    def tie(self, leg: str, key: str) -> None:
        self._exchange.tie(leg, key)

    def create_task(self, work: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name=f"{self.name}: {name}")
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def subscribe(self, *, maximum: int = 10_000) -> Feed:
        return self._exchange.subscribe(maximum)

    def directory(self) -> tuple[Endpoint, ...]:
        return tuple(endpoint for endpoint, _ in self._exchange.places.values())

    def open_legs(self) -> tuple[str, ...]:
        return tuple(self._exchange.legs)

    # What the gateway calls

    def owns(self, endpoint: str) -> bool:
        """Whether an endpoint is this adapter's."""
        known = self._exchange.places.get(endpoint)
        return known is not None and known[1] is self

    def places(self) -> Iterator[Endpoint]:
        """The adapter's endpoints as last announced."""
        for endpoint, host in list(self._exchange.places.values()):
            if host is self:
                yield endpoint

    def end(self, leg: str, cause: Cause, detail: str) -> None:
        """End a leg in the adapter's stead; does nothing when it has ended."""
        if self._exchange.legs.get(leg) is self:
            self.emit(LegEnded(leg=leg, cause=cause, detail=detail))

    def take_back(self, endpoint: str, leg: str) -> None:
        """A leg needs this adapter's endpoint no more."""
        try:
            self.adapter.release(endpoint, leg)
        except Exception as error:
            self.counters["release_failed"] += 1
            self.log.error("release failed", endpoint=endpoint, error=repr(error), exc_info=error)

    def _give_back(self, leg: str) -> None:
        loan = self._exchange.loans.pop(leg, None)
        if loan is not None:
            # First the stream: two on one device would share its blocks between them.
            loan.stream.close()
            loan.lender.take_back(loan.endpoint, leg)

    def _lose(self, leg: str, cause: Cause, detail: str) -> None:
        """A leg has no audio any more: it ends, on the wire too."""
        self.counters["loans_lost"] += 1
        try:
            self.adapter.hangup(Hangup(leg=leg, cause=cause, detail=detail))
        except Exception as error:
            self.counters["action_failed"] += 1
            self.log.error("hangup failed", leg=leg, error=repr(error), exc_info=error)
            self.end(leg, cause, detail)

    async def serve(self) -> str:
        """Run the adapter until it stops by itself; why it did.

        Afterwards, also when cancelled: no task of it is left, it is in its safe state and all
        its legs have ended.
        """
        self._loop = asyncio.get_running_loop()
        self._failure = None
        self._stopping = False
        self._run = self._loop.create_task(self.adapter.run(), name=f"{self.name}: run")
        reason = ""
        cause = Cause.SHUTDOWN
        try:
            await asyncio.wait({self._run})
            reason, cause = self._why(self._run), Cause.ADAPTER_LOST
            return reason
        except asyncio.CancelledError:
            self._stopping = True
            raise
        finally:
            await self._put_away(self._run)
            self.served_s = self.now() - self.up_since if self.up else 0.0
            self.up = False
            self.safe_state()
            for leg in [leg for leg, host in self._exchange.legs.items() if host is self]:
                self.end(leg, cause, reason or self.farewell)
            for leg in [leg for leg, loan in self._exchange.loans.items() if loan.lender is self]:
                self.recall(leg, cause, reason or self.farewell)

    def inherit(self, old: AdapterHost, why: str) -> None:
        """Take over the endpoints of an ended predecessor: down, but never gone.

        Taking them away would also forget their alarms.
        """
        for endpoint in list(old.places()):
            down = msgspec.structs.replace(
                endpoint, condition=Condition.DOWN, reason=why, absent=False
            )
            self._exchange.places[endpoint.id] = (endpoint, self)
            self.set_endpoint(down)
            self._inherited.add(endpoint.id)
            self._downed.add(endpoint.id)

    def forget_inherited(self) -> None:
        """Take away the endpoints of the predecessor that this one does not have."""
        mine = {endpoint.id for endpoint in self.adapter.endpoints()}
        for endpoint in sorted(self._inherited - mine):
            self.remove_endpoint(endpoint, "it is no longer configured")
        self._inherited.clear()

    def lost(self, reason: str) -> None:
        """Announce that the adapter is gone and none of its endpoints can be used."""
        self.reason = reason
        self._exchange.accept(AdapterLost(adapter=self.name, reason=reason), self)
        for endpoint in self.places():
            if endpoint.condition is not Condition.DOWN:
                self.set_endpoint(
                    msgspec.structs.replace(endpoint, condition=Condition.DOWN, reason=reason)
                )
                self._downed.add(endpoint.id)

    def safe_state(self) -> None:
        """Put the adapter's outputs to rest, whatever it thinks of that."""
        try:
            self.adapter.safe_state()
        except Exception as error:
            self.counters["safe_state_failed"] += 1
            self.log.error("safe_state failed", error=str(error) or type(error).__name__)

    async def _put_away(self, run: asyncio.Task[None]) -> None:
        # Tasks first get to know of the end through `run`, which may still need them to say
        # goodbye to its far ends; what is left after that is cancelled too.
        await self._cancel({run})
        await self._cancel(self._tasks)

    async def _cancel(self, tasks: set[asyncio.Task[Any]]) -> None:
        tasks = set(tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=CANCEL_S)
            for task in left:
                self.counters["tasks_abandoned"] += 1
                self.log.error("a task ignores its cancellation", task=task.get_name())

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is None:
            return
        if self._failure is None:
            self._failure = task.exception()
        if self._run is not None:
            self._run.cancel()

    def _why(self, run: asyncio.Task[None]) -> str:
        failure = self._failure
        if failure is None and not run.cancelled():
            failure = run.exception()
        if failure is None:
            return "run returned"
        if not _is_ours(failure):
            kind = type(failure).__name__
            self.log.error("adapter failed", error=f"{kind}: {failure}", exc_info=failure)
        return _in_words(failure)

    def _truly_ended(self, event: LegEnded) -> LegEnded:
        """An adapter that ends because something failed takes its legs with it, as at a stop: it
        does not know that the gateway goes on."""
        if (
            event.cause is not Cause.SHUTDOWN
            or self._stopping
            or self._run is None
            or self._run is not _current_task()
        ):
            return event
        failure = self._failure or sys.exception()
        if failure is None or isinstance(failure, asyncio.CancelledError):
            return event
        return LegEnded(leg=event.leg, cause=Cause.ADAPTER_LOST, detail=_in_words(failure))

    def _refuse_leg(self, event: Event, leg: str) -> None:
        if leg not in self._exchange.legs and self._exchange.minted(leg):
            # Not a fault of the adapter alone: a digit may cross with our hangup.
            name = "ended_twice" if isinstance(event, LegEnded) else "after_end"
            self.counters[name] += 1
            self.log.debug("event of an ended leg dropped", leg=leg, type=type(event).__name__)
            return
        self._refuse(event, f"leg {leg} is not this adapter's")

    def _refuse(self, event: Event, why: str) -> None:
        self.counters["foreign_events"] += 1
        if self.counters["foreign_events"] == 1:
            self.log.error("event refused", type=type(event).__name__, why=why)


_ALL: Final = (
    _OF_LEG | _OF_PLACE | _OF_ANYONE
    | {LegOffered, EndpointChanged, EndpointRemoved, AdapterReady, AdapterLost, StopRequested}
    | {PathTestRequested, PathTested}
)  # fmt: skip
assert set(_ALL) == set(Event.__args__), "an event that no host knows how to check"


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None  # no event loop runs: a test's own clock


def _is_ours(failure: BaseException) -> bool:
    return type(failure).__module__ == "gateway.errors"


def _in_words(failure: BaseException) -> str:
    text, kind = str(failure), type(failure).__name__
    if _is_ours(failure):
        return text or kind
    return f"{kind}: {text}" if text else kind
