"""Line: what FXS and FXO ports have in common, between channel, state machine and bus."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Final

import msgspec

from gateway.adapters.analog.config import AnalogSection, Fxo, Fxs, endpoint_of
from gateway.adapters.base import Host, Loan
from gateway.core.actions import Dial, Hangup
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition, Endpoint
from gateway.core.events import LegAnswered, LegEnded, MediaFlowing
from gateway.drivers.dahdi import (
    Channel,
    EventKind,
    Flush,
    Hook,
    Law,
    LineEvent,
    PortKind,
    Signalling,
)
from gateway.errors import DeviceError, Unsupported
from gateway.media.shaping import EchoCanceller
from gateway.media.streams import (
    Codec,
    DeviceFailed,
    DeviceSpec,
    MediaEvent,
    MediaStarted,
    Stream,
    StreamOptions,
)
from gateway.protocols.analog import FxoPort, FxsPort, Output, Signal

BLOCK: Final = 160
DTMF_DIGITS: Final = "0123456789*#ABCD"
_HOOK_AGAIN_S: Final = 0.3
_HOOK_TRIES: Final = 3
"""More than a battery drop and the card's own pause behind it take together."""
_SIGNALLING: Final = {int(each): each.name.lower() for each in Signalling}


@dataclass(eq=False, slots=True)
class Call:
    """The call that a line has."""

    leg: str
    trace: str = ""
    demanded_at: float = 0.0
    stream: Stream | None = None
    dialled: bool = False
    """The gateway called us; else the call began at the line."""
    offered: bool = False
    progressed: bool = False
    answered: bool = False
    lent: bool = False
    """A leg of another adapter, which has its control there."""
    clear: bool = False
    """The path is measured: no echo canceller."""
    cause: Cause | None = None
    """Why the gateway ends it."""
    detail: str = ""


class Line(ABC):
    """One port. Driven by `take` (the channel's events), the media engine's events, actions, and
    a timer of its own; tells the host."""

    kind: ClassVar[PortKind]
    signals: ClassVar[dict[EventKind, Signal]]
    port: FxsPort | FxoPort

    def __init__(self, channel: str, section: AnalogSection, host: Host) -> None:
        self.number = int(channel)
        self.section = section
        self.host = host
        self.endpoint = endpoint_of(channel, section.ports[channel])
        self.channel: Channel | None = None
        self.call: Call | None = None
        self.pending: Dial | None = None
        """A call that waits until the line is free after the last one."""
        self.reason = ""
        """Why the port cannot be used."""
        self.on_lost: Callable[[Line, str], None] = lambda line, reason: None
        self._timer: asyncio.TimerHandle | None = None
        self._timers: set[asyncio.TimerHandle] = set()
        self._pumping = self._off = False
        self._signalling = ""

    @property
    @abstractmethod
    def config(self) -> Fxs | Fxo: ...

    def described(self, condition: Condition | None = None, reason: str = "") -> Endpoint:
        """The endpoint as it is announced."""
        kind = self.kind.value
        return Endpoint(
            id=self.endpoint,
            label=self.config.label,
            location=self.config.location,
            number=self.config.number if kind == "fxs" else "",
            takes_number=kind == "fxo",
            condition=condition or Condition.UNKNOWN,
            reason=reason,
            detail={"port": f"channel {self.number}, {kind.upper()} port{self._signalling}"}
            | ({"lent to": self.call.leg} if self.call is not None and self.call.lent else {}),
        )

    def announce(self, reason: str = "") -> None:
        """Tell whether the port can be used; `reason`: why not."""
        if reason and reason != self.reason:
            self.host.log.warning("port is down", endpoint=self.endpoint, reason=reason)
        elif self.reason and not reason:
            self.host.log.info("port is up", endpoint=self.endpoint, was=self.reason)
        self.reason = reason
        condition = Condition.DOWN if reason else Condition.UP
        self.host.set_endpoint(self.described(condition, reason))

    # -- opening and closing -------------------------------------------------------------------

    def open(self) -> Channel:
        """Open the channel and begin.

        Raises DeviceError: no such channel, in use, or of the other kind.
        """
        channel = Channel.open(self.number, directory=self.section.device_dir)
        try:
            if channel.kind is not self.kind:
                raise DeviceError(_other_kind(channel, self.kind))
            name = _SIGNALLING.get(channel.params().signalling)
            self._signalling = f", signalled {name}" if name else ""
            self._set_up(channel)
        except BaseException:
            channel.close()
            raise
        self.channel = channel
        self.call = self.pending = None
        self._begin(channel)
        return channel

    def stop(self, cause: Cause, detail: str = "") -> None:
        """End everything, put the line on hook, close the channel."""
        if self.pending is not None:
            self.host.emit(LegEnded(leg=self.pending.leg, cause=cause, detail=detail))
            self.pending = None
        if self.channel is not None and self.call is not None:
            self.call.cause, self.call.detail = cause, detail
        if self.channel is not None:
            self.port.stop(self.now)
            self.pump()
        self._forget()
        if self.call is not None:
            self.end_call(cause, detail)
        self.safe_state()
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        channel, self.channel = self.channel, None
        if channel is not None:
            channel.close()

    def safe_state(self) -> None:
        """On hook, not ringing; never raises."""
        if self.channel is None:
            return
        ringing = (Hook.RING_OFF,) if self.kind is PortKind.FXS else ()
        for action in (*ringing, Hook.ON_HOOK):
            with contextlib.suppress(DeviceError, Unsupported):
                self.channel.hook(action)

    def lost(self, reason: str) -> None:
        """The port is gone."""
        if self.channel is None:
            return
        self.stop(Cause.OUT_OF_ORDER, reason)
        self.announce(reason)
        self.on_lost(self, reason)

    @abstractmethod
    def _set_up(self, channel: Channel) -> None:
        """Prepare the channel."""

    @abstractmethod
    def _begin(self, channel: Channel) -> None:
        """Look at the line as it is now, and announce the endpoint."""

    def _forget(self) -> None:  # noqa: B027 (only telephones have such a thing)
        """End what is besides the call."""

    # -- time ----------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        return self.host.now()

    def later(self, seconds: float, what: Callable[..., Any], *arguments: Any) -> None:
        """Call in so many seconds, unless the line is closed before."""

        def due() -> None:
            self._timers.discard(timer)
            what(*arguments)
            self.pump()

        timer = asyncio.get_running_loop().call_later(max(0.0, seconds), due)
        self._timers.add(timer)

    def _tick(self) -> None:
        self._timer = None
        self.port.tick(self.now)
        self.pump()

    # -- the line ------------------------------------------------------------------------------

    def take(self, limit: int = 64) -> None:
        """Fetch the channel's events."""
        if self.channel is None:
            return
        try:
            for event in self.channel.events(limit):
                if event.kind is EventKind.REMOVED:
                    raise DeviceError(f"{self.channel.path}: the card is gone")
                self.take_event(event)
        except DeviceError as error:
            self.lost(str(error))
            return
        self.pump()

    def take_event(self, event: LineEvent) -> None:
        """Put one event to use."""
        name = event.kind.name.lower() if event.kind is not None else str(event)
        self._show(f"{name} ?" if event.digit else name, outward=False)
        signal = self.signals.get(event.kind) if event.kind is not None else None
        if event.kind is EventKind.PULSE_DIGIT and event.digit and isinstance(self.port, FxsPort):
            self.port.digit(event.digit, self.now)
        elif signal is not None:
            self.port.signal(signal, self.now)
        elif event.kind not in _MEANINGLESS:
            self.host.count("unknown_event")

    def pump(self) -> None:
        """Carry out what the state machine says, then set its timer."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self.channel is not None and (output := self.port.next_output()) is not None:
                self.do(output)
        finally:
            self._pumping = False
        self._count_ignored()
        due = self.port.next_timeout() if self.channel is not None else None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer = asyncio.get_running_loop().call_at(
                asyncio.get_running_loop().time() + max(0.0, due - self.now), self._tick
            )

    def _count_ignored(self) -> None:
        if self.port.ignored:
            self.host.count("ignored_signals", self.port.ignored.total())
            self.host.log.debug(
                "signals ignored", endpoint=self.endpoint, what=", ".join(self.port.ignored)
            )
            self.port.ignored.clear()

    @abstractmethod
    def do(self, output: Output) -> None:
        """Carry out one command or indication of the state machine."""

    def order(self, do: Callable[..., None], *arguments: Any) -> bool:
        """Tell the channel to do something; False when it does not."""
        self._show(_order(do, arguments), outward=True)
        try:
            do(*arguments)
        except Unsupported as error:
            self.host.count("unsupported_by_card")
            self._show(f"the card cannot do this: {error}", outward=False)
            self.host.log.debug("card cannot do this", endpoint=self.endpoint, why=str(error))
            return False
        except DeviceError as error:
            self._show(f"refused: {error}", outward=False)
            if self._gone():
                # Not now: whoever gave the order is in the middle of something.
                asyncio.get_running_loop().call_soon(self.lost, str(error))
            else:
                self.host.count("refused_by_card")
                self.host.log.warning("card refused", endpoint=self.endpoint, why=str(error))
            return False
        return True

    def _show(self, text: str, *, outward: bool) -> None:
        """Let it be seen what goes between us and the card; digits never are."""
        about = self.call.leg if self.call is not None else self.endpoint
        self.host.wire(about, text, kind="dahdi", outward=outward)

    def set_hook(self, off: bool) -> None:
        """Off hook or on hook; tried again while the card is still busy with a battery drop."""
        if self.channel is None:
            return
        self._off = off
        action = Hook.OFF_HOOK if off else Hook.ON_HOOK
        if not self.order(self.channel.hook, action) and self.channel is not None and off:
            self.later(_HOOK_AGAIN_S, self._hook_again, _HOOK_TRIES)
        if self.config.echo_ms and self.channel is not None:
            cancel = off and not (self.call is not None and self.call.clear)
            cancel = cancel and not self.config.echo_cancel_ms  # two in a row spoil each other
            self.order(self.channel.echo_cancel, self.config.echo_ms * 8 if cancel else 0)

    def _hook_again(self, tries: int) -> None:
        if self.channel is None or not self._off or self.order(self.channel.hook, Hook.OFF_HOOK):
            return
        if tries > 1 and self.channel is not None:
            self.later(_HOOK_AGAIN_S, self._hook_again, tries - 1)

    def _gone(self) -> bool:
        try:
            return self.channel is None or self.channel.params() is None
        except (DeviceError, Unsupported):
            return True

    # -- the call ------------------------------------------------------------------------------

    def open_audio(self, call: Call, options: StreamOptions) -> None:
        """Give the call its stream. Raises DeviceError."""
        loan = self._audio(call, options)
        call.stream = self.host.open_stream(call.leg, loan.spec, loan.options, loan.on_event)

    def _audio(self, call: Call, options: StreamOptions) -> Loan:
        """What the stream of a call is opened with. Raises DeviceError."""
        if self.channel is None:
            raise DeviceError(f"{self.endpoint} is closed")
        self.channel.flush(Flush.READ | Flush.WRITE)
        law = self.channel.params().law
        # The card plays a block as soon as it is written: without one in hand, every block that is
        # a little later than the one before would be a click.
        self.channel.write((b"\xd5" if law == Law.A else b"\xff") * BLOCK)
        spec = DeviceSpec(
            fd=self.channel.fileno(),
            codec=Codec.PCMA if law == Law.A else Codec.PCMU,
            block_bytes=BLOCK,
        )

        def report(event: MediaEvent) -> bool:
            if isinstance(event, DeviceFailed):
                if self._gone():
                    self.lost("the card is gone")
                return False
            if isinstance(event, MediaStarted):
                return not call.lent  # the device's clock, not somebody's voice
            done = self.heard(call, event)
            self.pump()
            return done

        return Loan(spec=spec, options=options, on_event=report)

    @abstractmethod
    def heard(self, call: Call, event: MediaEvent) -> bool:
        """The engine detected something; True when that is dealt with."""

    def options(self, **fields: Any) -> StreamOptions:
        """Stream options of this port."""
        config = self.config
        base = StreamOptions(
            country=self.section.country,
            gain_in_db=config.gain_in_db,
            gain_out_db=config.gain_out_db,
        )
        if self.call is None or not self.call.clear:
            tail_ms = config.echo_cancel_ms
            echo = EchoCanceller(tail_ms=tail_ms, suppress=config.echo_suppress)
            base = msgspec.structs.replace(
                base, echo=echo if tail_ms else None, agc=config.agc, gate=config.gate
            )
        return msgspec.structs.replace(base, **fields)

    def dial(self, action: Dial) -> None:
        """The gateway calls this port."""
        if self.channel is None:
            raise DeviceError(f"{self.endpoint}: {self.reason or 'not open'}")
        if self.call is not None or self.pending is not None:
            self.host.emit(LegEnded(leg=action.leg, cause=Cause.BUSY, detail=self._use))
        elif self.waits(action):
            self.pending = action
        else:
            self.start(action)
            self.pump()

    # -- lent ----------------------------------------------------------------------------------

    def lend(self, leg: str) -> Loan:
        """Lend the line's audio to a leg of another adapter. Raises DeviceError."""
        if self.channel is None:
            raise DeviceError(f"{self.endpoint}: {self.reason or 'not open'}")
        if self.call is not None or self.pending is not None:
            raise DeviceError(f"{self.endpoint} is in use: {self._use}")
        if not self._connect():
            raise DeviceError(f"{self.endpoint} cannot be lent now: {self._state}")
        call = self.call = Call(leg, answered=True, lent=True)
        try:
            loan = self._audio(call, self.lent_options())
        except BaseException:
            self.release_loan(leg)
            raise
        self.announce(self.reason)
        self.pump()
        return loan

    def release_loan(self, leg: str) -> None:
        """The leg needs the line no more."""
        if self.call is None or not self.call.lent or self.call.leg != leg:
            return
        self.call = None
        self.port.release(self.now)
        self.announce(self.reason)
        self.pump()

    @property
    def _use(self) -> str:
        call = self.call
        return f"lent to {call.leg}" if call is not None and call.lent else "in a call"

    @property
    def _state(self) -> str:
        return str(self.port.state).replace("_", " ")

    @abstractmethod
    def _connect(self) -> bool:
        """Let the line's audio through, without a call; False when that cannot be."""

    @abstractmethod
    def lent_options(self) -> StreamOptions:
        """Stream options of a leg that the line is lent to."""

    @abstractmethod
    def waits(self, action: Dial) -> bool:
        """The line is not free yet, and the call waits until it is."""

    @abstractmethod
    def start(self, action: Dial) -> None:
        """Begin a call that the gateway asked for."""

    def idle(self) -> None:
        """The port is free."""
        self.announce()
        pending, self.pending = self.pending, None
        if pending is not None:
            self.start(pending)

    def hangup(self, action: Hangup) -> None:
        """The gateway ends this port's call, or the one that waits."""
        if self.pending is not None and self.pending.leg == action.leg:
            self.pending = None
            self.host.emit(LegEnded(leg=action.leg, cause=action.cause, detail=action.detail))
        elif self.call is not None and self.call.leg == action.leg:
            self.call.cause, self.call.detail = action.cause, action.detail
            self.release(action.cause)
            self.pump()

    @abstractmethod
    def release(self, cause: Cause) -> None:
        """Tell the state machine to end the call."""

    def connected(self, rule: str = "") -> None:
        """The call is answered."""
        if self.call is None or self.call.answered:
            return
        self.call.answered = True
        self.host.emit(LegAnswered(leg=self.call.leg))
        self.host.emit(MediaFlowing(leg=self.call.leg, source=f"channel {self.number}"))
        if rule:
            self.host.log.debug("answered", endpoint=self.endpoint, rule=rule)

    def end_call(self, cause: Cause, detail: str = "") -> None:
        """The call is over."""
        call, self.call = self.call, None
        if call is not None and call.lent:
            self.announce(self.reason)
            self.host.recall(call.leg, cause, detail)
        elif call is not None:
            if call.stream is not None:
                call.stream.close()
            self.host.emit(LegEnded(leg=call.leg, cause=cause, detail=detail))


# Events that say what we know from elsewhere, or what only concerns the card's own audio path.
_MEANINGLESS: Final = frozenset(
    {
        EventKind.RINGER_ON,
        EventKind.RINGER_OFF,
        EventKind.HOOK_COMPLETE,
        EventKind.DIAL_COMPLETE,
        EventKind.PULSE_START,
        EventKind.ECHO_CANCELLER_DISABLED,
        EventKind.NLP_OFF,
        EventKind.NLP_ON,
        EventKind.TX_CED,
        EventKind.RX_CED,
        EventKind.TX_CNG,
        EventKind.RX_CNG,
        EventKind.READ_OVERRUN,
        EventKind.WRITE_UNDERRUN,
    }
)


def _order(do: Callable[..., None], arguments: tuple[Any, ...]) -> str:
    """An order in words: ``hook ring``, ``dial ????``."""
    words = [getattr(do, "__name__", "order").strip("_")]
    for each in arguments:
        if isinstance(each, Enum):
            words.append(str(each.name).lower())
        else:
            words.append("?" * len(each) if isinstance(each, str) else str(each))
    return " ".join(words)


def _other_kind(channel: Channel, wanted: PortKind) -> str:
    found = channel.kind
    if found is PortKind.OTHER:
        return f"{channel.path}: neither an FXS nor an FXO port (see /etc/dahdi/system.conf)"
    # The trap: system.conf names the signalling, which has the other port's name.
    line = "fxoks" if found is PortKind.FXS else "fxsks"
    return (
        f"{channel.path}: an {found.value.upper()} port ({line} in /etc/dahdi/system.conf), but "
        f'configured as kind = "{wanted.value}"'
    )
