"""The contract between an adapter and the gateway.

An adapter is one kind of outside world. It turns what happens there into events (`Host.emit`) and
carries out actions (one method each). It sees neither other adapters nor calls nor routes, and
never a sample of audio: it hands the engine a socket address or a descriptor.

The promises, checked by `gateway.testing.check_adapter`:

A01  the constructor opens nothing: no file, socket, thread or task
A02  `endpoints` can be called before `run` and names what the configuration defines
A03  `run` opens, emits `AdapterReady` through `Host.ready`, and serves until it is cancelled
A04  cancelling `run` ends every leg, closes every stream and leaves no task or descriptor behind
A05  a leg ends exactly once: one `LegEnded` for each `new_leg` or `dial`, nothing after it
A06  a dialled leg ends, rings, or is answered; an unknown or busy endpoint ends with a cause
A07  `hangup` in any state ends the leg; on an unknown or ended leg it does nothing
A08  actions return at once (under 50 ms): slow work goes into a task or thread
A09  `safe_state` may be called at any time, twice, and before `run`
A10  an action that the adapter does not do raises `Unsupported` and changes nothing
A11  events name only endpoints the adapter owns and legs it was given or made
A12  an offered leg carries a trace and the time of the first human or physical event
A13  `run` can be started again after it ended, with the same result
A14  garbage from the outside ends in a count, never in an exception out of `run`
A15  an endpoint that is lent is busy and says for whom, until it is released or recalled
A16  a leg that borrowed gives back at its end, and ends when what it borrowed is recalled
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import msgspec

from gateway.core.actions import (
    AcknowledgeAlarm,
    Answer,
    Command,
    Dial,
    Hangup,
    Hold,
    Key,
    Progress,
    ReportTransfer,
    Retrieve,
    Ring,
    SendDigits,
    SendMessage,
    SetOutput,
    Unkey,
)
from gateway.core.causes import Cause
from gateway.core.endpoints import Endpoint
from gateway.core.envelope import Envelope
from gateway.core.events import Event
from gateway.core.numbers import Completeness
from gateway.errors import Unsupported
from gateway.media.streams import MediaEvent, Stream, StreamOptions, StreamSpec


class Log(Protocol):
    """Structured logger: an event in plain words and key=value facts."""

    def debug(self, event: str, **facts: Any) -> Any: ...
    def info(self, event: str, **facts: Any) -> Any: ...
    def warning(self, event: str, **facts: Any) -> Any: ...
    def error(self, event: str, **facts: Any) -> Any: ...


class Subscription(Protocol):
    """The bus as seen by a publisher: bounded, oldest dropped first, drops counted."""

    dropped: int

    def __aiter__(self) -> AsyncIterator[Envelope]: ...

    def close(self) -> None: ...


class Loan(msgspec.Struct, frozen=True, kw_only=True):
    """The audio of an endpoint, as its adapter lends it to a leg of another adapter."""

    spec: StreamSpec
    """A `DeviceSpec`'s descriptor stays the lender's, open until `Adapter.release`."""
    options: StreamOptions = StreamOptions()
    """Gains, country and detectors that suit the endpoint."""
    on_event: Callable[[MediaEvent], bool] | None = None
    """Sees what the engine detects before the borrower does; True: the lender dealt with it."""


class Host(Protocol):
    """What the gateway gives an adapter. Callable only from the event loop's thread."""

    log: Log
    data_dir: Path
    """A directory of the adapter's own that survives restarts; exists."""

    def now(self) -> float:
        """Monotonic seconds; the only clock that goes into events."""

    def emit(self, event: Event) -> None:
        """Put an event on the bus. From another thread: `emit_threadsafe`."""

    def emit_threadsafe(self, event: Event) -> None:
        """As `emit`, from any thread."""

    def ready(self) -> None:
        """Everything is open: the adapter counts as up."""

    def new_leg(self, endpoint: str) -> str:
        """Mint the id of a leg that begins outside, such as ``fxs/1#18``."""

    def new_trace(self) -> str:
        """Mint a trace id, at the first physical or human event of something new."""

    def completeness(self, endpoint: str, digits: str) -> Completeness:
        """Whether digits dialled so far on an endpoint are a whole number, by the dial plan."""

    def set_endpoint(self, endpoint: Endpoint) -> None:
        """Announce an endpoint or its new condition; says nothing when nothing changed."""

    def remove_endpoint(self, endpoint: str, reason: str = "") -> None:
        """An endpoint is gone for good."""

    def open_stream(
        self,
        leg: str,
        spec: StreamSpec,
        options: StreamOptions | None = None,
        on_event: Callable[[MediaEvent], bool] | None = None,
    ) -> Stream:
        """Give the leg its audio. Digits, tones, media loss and the ends of announcements become
        bus events by themselves, unless `on_event` returns True: then the adapter dealt with it.

        The stream is closed with the leg. Raises `DeviceError` when no port or stream is free.
        """

    def borrow_stream(
        self,
        leg: str,
        endpoint: str,
        options: StreamOptions | None = None,
        on_event: Callable[[MediaEvent], bool] | None = None,
    ) -> Stream:
        """Give the leg the audio of another adapter's endpoint, for a leg whose control goes one
        way and whose speech another. As `open_stream` otherwise; `options`: the lender's.

        It is given back with the end of the leg. When the lender takes it back first, the leg gets
        a `Hangup` with the cause. Raises `DeviceError`: there is no such endpoint, it does not
        lend, is down or in use.
        """

    def recall(self, leg: str, cause: Cause, detail: str = "") -> None:
        """Take back what `Adapter.lend` lent to a leg: the device is gone, the exchange has
        released. Ends the leg; there is no `Adapter.release`. Nothing happens when it is back."""

    def count(self, name: str, n: int = 1) -> None:
        """Add to a counter that `gateway endpoints --counters` and the metrics show."""

    def wire(
        self,
        about: str,
        data: bytes | str,
        *,
        kind: str,
        outward: bool,
        key: str = "",
        words: str = "",
        ends: tuple[str, tuple[str, int], tuple[str, int]] | None = None,
    ) -> None:
        """Keep what went over the wire for `gateway trace` and `capture`, some minutes in memory.

        about: the leg it concerns, else an endpoint, else empty. data: what was sent (`outward`) or
        received, **without secrets**: no password, key, code or digit. SIP alone is given as it is,
        in octets: what is secret in it is hidden when somebody reads it. kind: the protocol, one
        lower-case word. key: ties messages of one dialogue (a Call-ID, a trace id) to the leg that
        one of them, or `tie`, names. words: what octets mean, for people. ends: transport, our
        address and the peer's, if it is a network.
        """

    def tie(self, leg: str, key: str) -> None:
        """Say that the dialogue `key` (a Call-ID) is a leg's."""

    def create_task(self, work: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """Run a task that is cancelled with the adapter; its failure makes `run` fail."""

    def subscribe(self, *, maximum: int = 10_000) -> Subscription:
        """Follow the bus."""

    def directory(self) -> tuple[Endpoint, ...]:
        """Every endpoint of the gateway, of whatever adapter, as last announced."""

    def open_legs(self) -> tuple[str, ...]:
        """The ids of all legs that have begun and not ended, of whatever adapter."""


class Adapter:
    """Base class. Leave out what your world cannot do: it then raises `Unsupported`.

    Class attributes: `kind` names the adapter in the configuration; `Config` types its section.
    """

    kind: ClassVar[str]
    Config: ClassVar[type[msgspec.Struct]]
    creates_endpoints: ClassVar[bool] = False
    """Endpoints appear at run time too (discovery): a route may name what is not configured."""

    def __init__(self, name: str, config: Any, host: Host) -> None:
        """Keep what is given; open nothing (A01).

        `name` is the section's name: ``[adapters.<name>]``.
        """
        self.name = name
        self.config = config
        self.host = host

    def endpoints(self) -> Iterable[Endpoint]:
        """Endpoints known from the configuration alone (A02)."""
        return ()

    def borrows(self) -> Iterable[tuple[str, str]]:
        """Key in our section, and the endpoint of another adapter whose audio it asks for; known
        from the configuration alone, checked by ``gateway check``."""
        return ()

    def doubts(self) -> Iterable[tuple[tuple[str, ...], str, str]]:
        """What is probably not meant in the configuration: key below the section, what, remedy."""
        return ()

    def holds(self) -> Mapping[str, int]:
        """How much of what is open inside, by name (transactions, dialogs...). After the last call
        each must be again what it was before the first one. Called at any time."""
        return {}

    async def run(self) -> None:
        """Open, call `Host.ready`, serve until cancelled, end every leg (A03, A04).

        Raise `DeviceError` when the device is missing or breaks: the gateway starts the adapter
        again, after 1 s at first and at most 60 s.
        """
        raise NotImplementedError(f"{type(self).__name__}.run")

    def safe_state(self) -> None:
        """Unkey, open relays, hang up lines: at once, without waiting for anything (A09)."""

    # One method for each action; all return at once (A08).

    def dial(self, action: Dial) -> None:
        """Begin a leg to one of our endpoints."""
        raise self._cannot(action)

    def ring(self, action: Ring) -> None:
        """Tell the caller on this leg that the called side alerts."""

    def report_transfer(self, action: ReportTransfer) -> None:
        """Tell the far end how the transfer that it asked for goes."""

    def progress(self, action: Progress) -> None:
        """Open the caller's audio path before the answer."""

    def answer(self, action: Answer) -> None:
        """Answer an offered leg; emit `LegAnswered` when done."""
        raise self._cannot(action)

    def hangup(self, action: Hangup) -> None:
        """End a leg in any state; emit `LegEnded` when done."""
        raise self._cannot(action)

    def hold(self, action: Hold) -> None:
        """Tell the far end that its partner put the call on hold; nothing where it cannot be
        told: it hears so."""

    def retrieve(self, action: Retrieve) -> None:
        """Tell the far end that it is off hold."""

    def send_digits(self, action: SendDigits) -> None:
        """Send DTMF to the far end."""
        raise self._cannot(action)

    def key(self, action: Key) -> None:
        """Key the transmitter; the lease lapses when it is not renewed."""
        raise self._cannot(action)

    def unkey(self, action: Unkey) -> None:
        """Release the transmitter."""
        raise self._cannot(action)

    def set_output(self, action: SetOutput) -> None:
        """Switch an output."""
        raise self._cannot(action)

    def acknowledge_alarm(self, action: AcknowledgeAlarm) -> None:
        """Tell the alarm's source that it was taken in hand."""
        raise self._cannot(action)

    def command(self, action: Command) -> None:
        """Command a panel or device; emit `CommandFinished` when the outcome is known."""
        raise self._cannot(action)

    def send_message(self, action: SendMessage) -> None:
        """Send a text message."""
        raise self._cannot(action)

    # For legs of other adapters, which have their control there and their speech here.

    def lend(self, endpoint: str, leg: str) -> Loan:
        """Lend an endpoint's audio to a leg of another adapter, until `release` or `Host.recall`.

        Meanwhile the endpoint is in use: calls to it end with *busy* and say for whom (A15).
        Raises `DeviceError` when it is in use or down, `Unsupported` when it never lends.
        """
        raise Unsupported(
            f"{endpoint}: an adapter of kind {self.kind} does not lend its audio "
            "(fxs, fxo and loopback endpoints do)"
        )

    def release(self, endpoint: str, leg: str) -> None:
        """The leg needs the endpoint no more; harmless when it is not lent to that leg."""

    def _cannot(self, action: object) -> Unsupported:
        return Unsupported(f"{self.kind} does not do {type(action).__name__}")
