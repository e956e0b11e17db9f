"""Lender and Borrower: the other side of a loan, for checking an adapter that lends or borrows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec

from gateway.adapters.base import Adapter, Host, Loan
from gateway.core.actions import Hangup
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition, Endpoint
from gateway.core.events import LegEnded
from gateway.errors import DeviceError
from gateway.media.streams import NullSpec


class _Places(msgspec.Struct, frozen=True, kw_only=True):
    places: tuple[str, ...] = ()


class Lender(Adapter):
    """Lends silence. `lent` says which endpoint which leg has; with `refuses` it lends nothing."""

    kind = "lender"
    Config = _Places

    def __init__(self, name: str, config: _Places, host: Host) -> None:
        super().__init__(name, config, host)
        self.lent: dict[str, str] = {}
        self.refuses = False

    def endpoints(self) -> Iterable[Endpoint]:
        for place in dict.fromkeys(self.config.places):
            yield Endpoint(id=place, condition=Condition.UP)

    async def run(self) -> None:
        self.host.ready()
        await asyncio.Event().wait()

    def lend(self, endpoint: str, leg: str) -> Loan:
        if self.refuses or endpoint in self.lent:
            raise DeviceError(f"{endpoint} is in use: lent to {self.lent.get(endpoint, 'another')}")
        self.lent[endpoint] = leg
        return Loan(spec=NullSpec())

    def release(self, endpoint: str, leg: str) -> None:
        if self.lent.get(endpoint) == leg:
            del self.lent[endpoint]


class Borrower(Adapter):
    """Has legs that it gives whatever audio it is told to (`borrow`)."""

    kind = "borrower"
    Config = _Places

    def endpoints(self) -> Iterable[Endpoint]:
        yield Endpoint(id="borrower/leg", capacity=None, condition=Condition.UP)

    async def run(self) -> None:
        self.host.ready()
        await asyncio.Event().wait()

    def borrow(self, endpoint: str) -> str:
        """A new leg with the audio of an endpoint. Raises `DeviceError`."""
        leg = self.host.new_leg("borrower/leg")
        try:
            self.host.borrow_stream(leg, endpoint)
        except BaseException:
            self.host.emit(LegEnded(leg=leg, cause=Cause.RESOURCE_UNAVAILABLE))
            raise
        return leg

    def hangup(self, action: Hangup) -> None:
        self.host.emit(LegEnded(leg=action.leg, cause=action.cause, detail=action.detail))
