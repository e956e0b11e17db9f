"""Turns: one event after the other goes to the switchboard, and what comes out is carried out.

Each event is journalled and recorded, then so are the actions it led to, in order. All of that
happens on the event loop, without waiting for anything; so does the switchboard's timer.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Final, Protocol

import msgspec

from gateway import logs
from gateway.adapters.base import Log
from gateway.core.actions import Action, CloseAlarm, Command, Hangup
from gateway.core.causes import Cause
from gateway.core.endpoints import Endpoint
from gateway.core.envelope import Envelope
from gateway.core.events import AdapterReady, DigitPressed, Event, LegEnded, LegOffered
from gateway.core.switchboard import Switchboard
from gateway.dispatch import Dispatch
from gateway.errors import GatewayError
from gateway.exchange import Feed
from gateway.hosting import AdapterHost
from gateway.inbox import Inbox
from gateway.journal import Journal
from gateway.media.patchbay import Patchbay
from gateway.records import Recorder

BATCH: Final = 100
"""Events processed before sockets get their turn again."""


class _Gateway(Protocol):
    box: str
    stopping: bool
    counters: Counter[str]
    feeds: set[Feed]
    inbox: Inbox
    journal: Journal
    legs: dict[str, AdapterHost]
    log: Log
    patchbay: Patchbay
    places: dict[str, tuple[Endpoint, AdapterHost]]
    recorder: Recorder
    switchboard: Switchboard

    @property
    def hosts(self) -> dict[str, AdapterHost]: ...

    def now(self) -> float: ...

    def mint_id(self, wall: float | None = None) -> str: ...

    def publish(self, envelope: Envelope) -> None: ...

    def alarm_lost(self, event: CloseAlarm) -> None:
        """There was no room for this alarm."""


class Turns:
    """Driven by `wake` (there is something in the inbox) and by the switchboard's timer."""

    def __init__(self, gateway: _Gateway, dispatch: Dispatch) -> None:
        self._gateway = gateway
        self._dispatch = dispatch
        self.handled = {"event": 0, "action": 0}
        """How many of each the switchboard has taken or given."""
        self.pins = False
        """Whether numbers that are dialled may hold a PIN."""
        self.idle = asyncio.Event()
        """The gateway stops and no leg is left."""
        self.all_up = asyncio.Event()
        """Every adapter has been ready."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due: float | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on events are taken."""
        self._loop = loop

    def wake(self) -> None:
        """Take what is in the inbox, soon."""
        if not self._scheduled and self._loop is not None:
            self._scheduled = True
            self._loop.call_soon(self._drain)

    def finish(self) -> None:
        """Take all that is left, at once."""
        inbox = self._gateway.inbox
        inbox.let_go()
        while (taken := inbox.take()) is not None:
            self._process(*taken)
            inbox.let_go()

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def match_again(self, now: float, wall: float) -> None:
        """Give alarms that no route took to the present routes."""
        for action in self._gateway.switchboard.match_again(now, wall):
            self.carry_out(action, now, wall)
        self._arm()

    def envelope(
        self,
        now: float,
        wall: float,
        trace: str,
        call: str,
        adapter: str,
        event: Event | None = None,
        action: Action | None = None,
    ) -> Envelope:
        """An event or action with whose it is and when."""
        return Envelope(
            id=self._gateway.mint_id(wall),
            box=self._gateway.box,
            at=wall,
            mono=now,
            trace=trace,
            call=call,
            adapter=adapter,
            event=event,
            action=action,
        )

    def _drain(self) -> None:
        self._scheduled = False
        inbox = self._gateway.inbox
        for _ in range(BATCH):
            taken = inbox.take()
            if taken is None:
                break
            self._process(*taken)
        if len(inbox):
            self.wake()
        self._arm()

    def _process(self, event: Event, name: str, journalled: str) -> None:
        gateway = self._gateway
        now, wall, board = gateway.now(), time.time(), gateway.switchboard
        kind = type(event)
        shown = event
        if kind is DigitPressed or (kind is LegOffered and self.pins):
            shown = board.shown(event)
        if journalled:
            gateway.journal.taken(journalled, now=now, at=wall)
        call, trace = board.call_of(event)
        logs.TRACES.begin(trace)
        if kind is LegEnded:
            self._dispatch.forget(event.leg)  # type: ignore[union-attr]
            try:
                gateway.patchbay.close_leg(event.leg)  # type: ignore[union-attr]
            except GatewayError as error:
                # The leg is over, whatever its audio still says.
                gateway.counters["actions_failed"] += 1
                gateway.log.warning("audio not closed in order", error=str(error))
        try:
            actions = board.receive(event, now, wall)
        except Exception as error:
            self._failed(event, error)
            actions = []
        if not call:
            # The event began it: an offered leg has its call only now.
            call, trace = board.call_of(event)
        envelope = self.envelope(now, wall, trace, call, name, shown)
        self.handled["event"] += 1
        if not journalled:
            gateway.journal.append(envelope)
        self._record(envelope)
        for action in actions:
            self.carry_out(action, now, wall)
        logs.TRACES.end()
        if kind is LegEnded:
            if gateway.stopping and not board.legs:
                self.idle.set()
        elif kind is AdapterReady and all(host.up for host in gateway.hosts.values()):
            self.all_up.set()

    def _failed(self, event: Event, error: Exception) -> None:
        """A fault of ours in deciding on one event must not touch the other calls."""
        gateway = self._gateway
        gateway.counters["switchboard_failed"] += 1
        gateway.log.error(
            "switchboard failed", type=type(event).__name__, error=repr(error), exc_info=error
        )
        gateway.switchboard.tick(gateway.now(), time.time())
        leg = getattr(event, "leg", "")
        host = gateway.legs.get(leg)
        if host is not None:
            detail = f"fault of the gateway: {type(error).__name__}"
            action = Hangup(leg=leg, cause=Cause.TEMPORARY_FAILURE, detail=detail)
            self._dispatch.ask(host, host.adapter.hangup, action)

    def _tick(self) -> None:
        gateway = self._gateway
        now = max(gateway.now(), self._timer_due or 0.0)
        self._timer = self._timer_due = None
        wall = time.time()
        try:
            actions = gateway.switchboard.tick(now, wall)
        except Exception as error:
            gateway.counters["switchboard_failed"] += 1
            gateway.log.error("switchboard failed in a timer", error=repr(error), exc_info=error)
            actions = []
        for action in actions:
            self.carry_out(action, now, wall)
        if gateway.stopping and not gateway.switchboard.legs:
            self.idle.set()
        self._arm()

    def _arm(self) -> None:
        due, armed = self._gateway.switchboard.next_timeout(), self._timer_due
        # One too early finds nothing to do and asks again: that costs less than moving it.
        if due == armed or (due is not None and armed is not None and due > armed):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_due = None, due
        if due is not None:
            assert self._loop is not None, "the gateway is not running"
            self._timer = self._loop.call_at(due, self._tick)

    def _record(self, envelope: Envelope) -> None:
        gateway = self._gateway
        gateway.recorder.receive(envelope)
        if gateway.feeds:
            gateway.publish(envelope)

    def carry_out(self, action: Action, now: float, wall: float) -> None:
        """Put an action on record and hand it to whoever carries it out."""
        gateway = self._gateway
        kind = type(action)
        if kind is CloseAlarm:
            outcome = action.outcome  # type: ignore[union-attr]
            if gateway.stopping and outcome == "exhausted":
                # Nobody could be told because we stop: it stays open, the next run carries on.
                return
            if outcome == "dropped":
                gateway.alarm_lost(action)  # type: ignore[arg-type]
        call, trace = gateway.switchboard.call_of(action)
        leg = getattr(action, "leg", "")
        host = gateway.legs.get(leg) if leg else None
        if host is None and (known := gateway.places.get(getattr(action, "endpoint", ""))):
            host = known[1]
        shown = action
        if kind is Command and action.code:  # type: ignore[union-attr]
            shown = msgspec.structs.replace(action, code="")
        envelope = self.envelope(now, wall, trace, call, host.name if host else "", action=shown)
        self.handled["action"] += 1
        gateway.journal.append(envelope)
        self._record(envelope)
        logs.TRACES.begin(trace)
        try:
            self._dispatch(action)
        except Exception as error:
            gateway.counters["actions_failed"] += 1
            gateway.log.error(
                "action failed", action=type(action).__name__, error=repr(error), exc_info=error
            )
        finally:
            logs.TRACES.end()
