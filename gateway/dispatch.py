"""Dispatch: hands each action to the one who carries it out, and answers for what goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from gateway.core.actions import (
    AcknowledgeAlarm,
    Action,
    Answer,
    CloseAlarm,
    CloseBridge,
    Command,
    Dial,
    FinishPathTest,
    GiveFloor,
    Hangup,
    Hold,
    Join,
    Key,
    Leave,
    Note,
    OpenAlarm,
    OpenBridge,
    Play,
    Progress,
    Record,
    ReportTransfer,
    Retrieve,
    Ring,
    SendDigits,
    SendMessage,
    SetOutput,
    StopPlay,
    StopRecord,
    Unkey,
    WatchSpeech,
)
from gateway.core.causes import Cause
from gateway.core.events import CommandFinished, LegEnded
from gateway.errors import DeviceError, GatewayError, PeerError, Unsupported
from gateway.exchange import Exchange
from gateway.hosting import AdapterHost

RENEW_S: Final = 0.5
"""How often the lease of a keyed transmitter is renewed."""


class Dispatch:
    """Carries out actions: by the adapter that owns the leg or endpoint, or by the patchbay.

    Driven by calling it. Nothing that an adapter raises gets out: a leg that cannot be dialled,
    answered or hung up ends, everything else is logged and counted.
    """

    def __init__(
        self, exchange: Exchange, *, finish_test: Callable[[FinishPathTest], None]
    ) -> None:
        self._exchange = exchange
        self._finish_test = finish_test
        self._keyed: dict[str, Key] = {}
        """Transmitters whose lease is renewed."""
        self._do = self._handlers()

    def __call__(self, action: Action) -> None:
        self._do[type(action)](action)

    def forget(self, leg: str) -> None:
        """The leg is over."""
        self._keyed.pop(leg, None)

    def _handlers(self) -> dict[type, Callable[[Any], None]]:
        found: dict[type, Callable[[Any], None]] = {Dial: self._dial, Command: self._command}
        for kind, name in (
            (Ring, "ring"), (Progress, "progress"), (Answer, "answer"), (Hangup, "hangup"),
            (Hold, "hold"), (Retrieve, "retrieve"), (SendDigits, "send_digits"), (Key, "key"),
            (Unkey, "unkey"),
        ):  # fmt: skip
            found[kind] = self._leg_handler(name)
        found[ReportTransfer] = self._report_transfer
        found |= {
            SetOutput: self._place_handler("set_output"),
            AcknowledgeAlarm: self._place_handler("acknowledge_alarm"),
            SendMessage: self._place_handler("send_message"),
        }
        media: tuple[type, ...] = (
            OpenBridge, Join, Leave, GiveFloor, WatchSpeech, CloseBridge, Play, StopPlay, Record,
            StopRecord,
        )  # fmt: skip
        found |= dict.fromkeys(media, self._exchange.patchbay.execute)
        found[FinishPathTest] = self._finish_test
        # For the record alone, where they are already.
        found |= dict.fromkeys((Note, OpenAlarm, CloseAlarm), lambda action: None)
        return found

    def _dial(self, action: Dial) -> None:
        place = self._exchange.places.get(action.endpoint)
        if place is None:
            self._exchange.counters["dials_nowhere"] += 1
            self._exchange.accept(
                LegEnded(
                    leg=action.leg, cause=Cause.NO_ROUTE, detail=f"no endpoint {action.endpoint}"
                ),
                None,
            )
            return
        host = place[1]
        self._exchange.legs[action.leg] = host
        if not host.up:
            why = f"adapter {host.name} is down" + (f": {host.reason}" if host.reason else "")
            host.end(action.leg, Cause.OUT_OF_ORDER, why)
            return
        try:
            host.adapter.dial(action)
        except DeviceError as error:
            host.end(action.leg, Cause.OUT_OF_ORDER, str(error))
        except PeerError as error:
            host.end(action.leg, Cause.PROTOCOL_ERROR, str(error))
        except Unsupported as error:
            host.end(action.leg, Cause.FACILITY_REJECTED, str(error))
        except Exception as error:
            host.count("action_failed")
            host.log.error("dial failed", leg=action.leg, error=repr(error), exc_info=error)
            host.end(action.leg, Cause.TEMPORARY_FAILURE, f"{type(error).__name__}: {error}")

    def _leg_handler(self, name: str) -> Callable[[Any], None]:
        def carry_out(action: Any) -> None:
            host = self._exchange.legs.get(action.leg)
            if host is None:
                # The leg's end is in the queue: the switchboard does not know of it yet.
                self._exchange.counters["actions_late"] += 1
                return
            if type(action) is Key:
                self._keyed[action.leg] = action
                if len(self._keyed) == 1:
                    asyncio.get_running_loop().call_later(RENEW_S, self._renew)
            elif type(action) is Unkey:
                self._keyed.pop(action.leg, None)
            if self.ask(host, getattr(host.adapter, name), action):
                return
            if type(action) is Hangup:
                host.end(action.leg, action.cause, action.detail or "could not be hung up")
            elif type(action) is Answer:
                detail = "could not be answered"
                hangup = Hangup(leg=action.leg, cause=Cause.TEMPORARY_FAILURE, detail=detail)
                if not self.ask(host, host.adapter.hangup, hangup):
                    host.end(action.leg, Cause.TEMPORARY_FAILURE, detail)

        return carry_out

    def _report_transfer(self, action: ReportTransfer) -> None:
        """Who asked for it may have hung up, and wants to know all the same."""
        place = self._exchange.places.get(action.endpoint)
        host = self._exchange.legs.get(action.leg) or (place[1] if place else None)
        if host is None or not host.up:
            self._exchange.counters["actions_late"] += 1
        else:
            self.ask(host, host.adapter.report_transfer, action)

    def _place_handler(self, name: str) -> Callable[[Any], None]:
        def carry_out(action: Any) -> None:
            host = self._host_of(action)
            if host is not None:
                self.ask(host, getattr(host.adapter, name), action)

        return carry_out

    def _host_of(self, action: Any) -> AdapterHost | None:
        place = self._exchange.places.get(action.endpoint)
        if place is None or not place[1].up:
            self._exchange.counters["actions_nowhere"] += 1
            why = f"adapter {place[1].name} is down" if place else "no such endpoint"
            self._exchange.log.warning(
                "action not carried out",
                action=type(action).__name__,
                endpoint=action.endpoint,
                why=why,
            )
            return None
        return place[1]

    def _command(self, action: Command) -> None:
        host = self._host_of(action)
        if host is None or not self.ask(host, host.adapter.command, action):
            detail = "the device is not reachable" if host is None else "the device refused it"
            self._exchange.accept(
                CommandFinished(command=action.command, ok=False, detail=detail), host
            )

    def ask(self, host: AdapterHost, method: Callable[[Any], None], action: Any) -> bool:
        """Hand an action to an adapter; False when it raised, which is logged."""
        try:
            method(action)
        except Unsupported as error:
            host.count("unsupported")
            host.log.debug("unsupported action", why=str(error))
        except GatewayError as error:
            host.count("action_refused")
            host.log.warning("action refused", action=type(action).__name__, why=str(error))
        except Exception as error:
            host.count("action_failed")
            host.log.error(
                "action failed", action=type(action).__name__, error=repr(error), exc_info=error
            )
        else:
            return True
        return False

    def _renew(self) -> None:
        """Renew the leases of keyed transmitters; when this loop hangs, they lapse."""
        for leg, action in list(self._keyed.items()):
            host = self._exchange.legs.get(leg)
            if host is None:
                del self._keyed[leg]
            else:
                self.ask(host, host.adapter.key, action)
        if self._keyed:
            asyncio.get_running_loop().call_later(RENEW_S, self._renew)
