"""DAHDI channels: analog ports through their character devices, by ioctl. No policy.

``Channel.open`` gives one port; ``EventPoll`` says which ports have events. Audio is read from and
written to ``Channel.fileno()`` by whoever carries it (the media engine); everything else is an
ioctl here. All descriptors are non-blocking. Nothing waits: ringing, flashing and dialling are
started, and an event tells when they are done.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from gateway.drivers.dahdi_abi import (
    EVENT_PENDING,
    MAX_CADENCE,
    MAX_DIAL,
    PARAMS,
    SPAN,
    TIMINGS,
    Alarm,
    Buffers,
    EventKind,
    Flush,
    Hook,
    Io,
    Law,
    LineEvent,
    Params,
    PortKind,
    Signalling,
    Span,
    Tone,
    Voltages,
    c_text,
    read_params,
)
from gateway.errors import DeviceError, Unsupported

__all__ = [
    "DIRECTORY",
    "SAMPLE_RATE",
    "Alarm",
    "Buffers",
    "Channel",
    "EventKind",
    "EventPoll",
    "Flush",
    "Hook",
    "Law",
    "LineEvent",
    "Params",
    "PortKind",
    "Signalling",
    "Span",
    "Tone",
    "Voltages",
    "channels",
    "spans",
]

DIRECTORY: Final = "/dev/dahdi"
SAMPLE_RATE: Final = 8000
# 20 ms blocks, the frame of a telephone call, and 80 ms of slack
DEFAULT_BUFFERS: Final = Buffers(4, 160)


class Channel:
    """One open port.

    The port is on hook when opened and is put on hook by the kernel when the descriptor closes,
    also if the process is killed. Every method raises ``DeviceError`` when the port is gone and
    ``Unsupported`` when this card cannot do what is asked.
    """

    def __init__(self, fd: int, number: int, path: str) -> None:
        self._fd, self.number, self.path = fd, number, path
        self.kind = PortKind.OTHER

    @classmethod
    def open(
        cls,
        number: int,
        *,
        directory: str | os.PathLike[str] = DIRECTORY,
        buffers: Buffers = DEFAULT_BUFFERS,
        law: Law = Law.DEFAULT,
        linear: bool = False,
    ) -> Channel:
        """Open port ``number`` for audio in blocks of ``buffers.block`` samples.

        Raises DeviceError: no such node, no permission, not configured, already open.
        """
        generic, own = Path(directory, "channel"), Path(directory, str(number))
        # Without udev only the generic node is sure to exist.
        path, specify = (generic, True) if generic.exists() else (own, False)
        fd = _open_node(path)
        channel = cls(fd, number, str(own))
        try:
            if specify:
                channel._set(Io.SPECIFY, number)
            channel.set_buffers(buffers)
            channel.set_law(law)
            channel.set_linear(linear)
            channel.kind = channel.params().kind
        except BaseException:
            channel.close()
            raise
        return channel

    def fileno(self) -> int:
        """The descriptor that carries the port's audio; -1 when closed."""
        return self._fd

    def close(self) -> None:
        """Close the port, which hangs it up. May be called twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    # -- events ------------------------------------------------------------------------------

    def event(self) -> LineEvent | None:
        """The next event, or None when there is none."""
        code = self._get(Io.GETEVENT)
        return LineEvent.of(code) if code else None

    def events(self, limit: int = 64) -> Iterator[LineEvent]:
        """Events until there are none, at most ``limit`` (the kernel's queue holds 64)."""
        for _ in range(limit):
            event = self.event()
            if event is None:
                return
            yield event

    def set_buffer_events(self, on: bool) -> None:
        """Report audio overruns and underruns as events."""
        self._set(Io.BUFFER_EVENTS, int(on))

    # -- line state ----------------------------------------------------------------------------

    def params(self) -> Params:
        """State and timing now."""
        return read_params(self._ioctl(Io.GET_PARAMS, bytes(PARAMS.size)))

    def set_timing(self, **times_ms: int) -> None:
        """Change timings by the names in ``Params``, e.g. ``rx_flash_ms=800``; until close."""
        raw = bytearray(self._ioctl(Io.GET_PARAMS, bytes(PARAMS.size)))
        for name, value in times_ms.items():
            if name not in TIMINGS:
                raise DeviceError(f"{self.path}: no timing {name!r} (one of {', '.join(TIMINGS)})")
            struct.pack_into("=i", raw, TIMINGS[name], value)
        self._ioctl(Io.SET_PARAMS, bytes(raw))

    def hook(self, action: Hook) -> None:
        """Start a hook action; WINK, FLASH and START end with a HOOK_COMPLETE event.

        Raises DeviceError with ``busy`` in its text while an earlier action forbids this one:
        off hook within 0.8 s of a battery drop, ring or flash in the wrong state.
        """
        try:
            self._raw(Io.HOOK, struct.pack("=i", action))
        except OSError as error:
            if error.errno != errno.EINPROGRESS:  # the normal answer to a non-blocking start
                raise self._error(f"hook {action.name}", error) from error

    def ring(self, cadence_ms: Sequence[int]) -> None:
        """Ring an FXS port: on, off, on, off ... in milliseconds, again and again."""
        self.set_cadence(cadence_ms)
        self.hook(Hook.RING)

    def set_cadence(self, cadence_ms: Sequence[int]) -> None:
        """Ringing cadence for the next ``Hook.RING``: up to 8 on/off pairs in milliseconds."""
        if not cadence_ms or len(cadence_ms) % 2 or len(cadence_ms) > MAX_CADENCE:
            raise DeviceError(f"{self.path}: cadence {list(cadence_ms)} is not 1 to 8 on/off pairs")
        if min(cadence_ms) <= 0:
            raise DeviceError(f"{self.path}: cadence {list(cadence_ms)} has a time that is not > 0")
        padded = [*cadence_ms, *[0] * (MAX_CADENCE - len(cadence_ms))]
        self._ioctl(Io.SETCADENCE, struct.pack("=16i", *padded))

    def set_polarity(self, reversed_: bool) -> None:
        """Reverse an FXS port's battery."""
        self._set(Io.SETPOLARITY, int(reversed_))

    def on_hook_transfer(self, ms: int) -> None:
        """Pass audio to a telephone on hook for ``ms``: caller ID between rings."""
        self._set(Io.ONHOOKTRANSFER, ms)

    def message_waiting(self, count: int) -> None:
        """Show ``count`` messages waiting, in the way ``message_lamp`` chose."""
        self._set(Io.VMWI, count)

    def message_lamp(
        self, *, reversal: bool = False, hvdc: bool = False, hvac: bool = False
    ) -> None:
        """How a port shows messages waiting: line reversal, high-voltage DC or AC (neon lamp)."""
        self._set(Io.VMWI_CONFIG, reversal | hvdc << 1 | hvac << 2)

    def voltages(self) -> Voltages:
        """Line voltages as the card measures them."""
        tip, ring, battery = struct.unpack("=3i", self._ioctl(Io.WCTDM_GET_STATS, bytes(12)))
        return Voltages(tip / 1000, ring / 1000, battery / 1000)

    # -- tones and dialling --------------------------------------------------------------------

    def tone(self, tone: Tone) -> None:
        """Play a tone of the zone until STOP, a hook action, or audio written to the port."""
        self._set(Io.SENDTONE, tone)

    def set_tone_zone(self, zone: int) -> None:
        """Choose a zone that dahdi_cfg has loaded; -1 is the default zone."""
        self._set(Io.SETTONEZONE, zone)

    def dial(self, digits: str, *, pulse: bool = False) -> None:
        """Dial, ending with a DIAL_COMPLETE event; ``w`` pauses half a second."""
        text = ("P" if pulse else "T") + digits
        allowed = "0123456789w" if pulse else "0123456789*#ABCDw"
        if not digits or len(text) > MAX_DIAL or any(c not in allowed for c in digits):
            raise DeviceError(f"{self.path}: cannot dial {digits!r} (1 to 254 of {allowed})")
        self._ioctl(Io.DIAL, struct.pack("=i256s", 2, text.encode("ascii")))

    def cancel_dial(self) -> None:
        """Stop dialling."""
        self._ioctl(Io.DIAL, struct.pack("=i256s", 3, b""))

    def dialing(self) -> bool:
        """Whether digits are still going out."""
        return bool(self._get(Io.DIALING))

    # -- audio ---------------------------------------------------------------------------------

    def set_law(self, law: Law) -> None:
        """Companding of reads and writes, until close."""
        self._set(Io.SETLAW, law)

    def set_linear(self, on: bool) -> None:
        """Read and write signed 16-bit samples instead of companded octets."""
        self._set(Io.SETLINEAR, int(on))

    def buffers(self) -> Buffers:
        """Depth of the queues now."""
        tx, rx, count, size, _, _ = struct.unpack("=6i", self._ioctl(Io.GET_BUFINFO, bytes(24)))
        return Buffers(count, size, tx, rx)

    def set_buffers(self, b: Buffers) -> None:
        """Set the depth of the queues, and empty them."""
        packed = struct.pack("=6i", b.tx_policy, b.rx_policy, b.count, b.block, 0, 0)
        self._ioctl(Io.SET_BUFINFO, packed)

    def flush(self, which: Flush = Flush.ALL) -> None:
        """Throw away what is queued."""
        self._set(Io.FLUSH, which)

    def echo_cancel(self, taps: int) -> None:
        """Echo canceller of ``taps`` samples (32 to 1024), 0 for off."""
        self._set(Io.ECHOCANCEL, taps)

    def echo_train(self, ms: int) -> None:
        """Train the echo canceller after ``ms``."""
        self._set(Io.ECHOTRAIN, ms)

    def set_gain(self, *, rx_db: float | None = None, tx_db: float | None = None) -> None:
        """Analog gain of the card's codec."""
        for db, tx in ((rx_db, 0), (tx_db, 1)):
            if db is not None:
                self._ioctl(Io.SET_HWGAIN, struct.pack("=iI", round(db * 10), tx))

    def read(self, n: int = 8192) -> bytes | None:
        """At most one block; None when no block is ready or an event waits."""
        try:
            return os.read(self._fd, n)
        except OSError as error:
            self._not_now("read", error)
            return None

    def write(self, data: bytes) -> int | None:
        """Octets taken, at most one block; None when no buffer is free or an event waits."""
        try:
            return os.write(self._fd, data)
        except OSError as error:
            self._not_now("write", error)
            return None

    # -- ioctl ---------------------------------------------------------------------------------

    def _not_now(self, what: str, error: OSError) -> None:
        if error.errno not in (errno.EAGAIN, EVENT_PENDING):
            raise self._error(what, error) from error

    def _raw(self, request: Io, argument: bytes) -> bytes:
        if self._fd < 0:
            raise DeviceError(f"{self.path}: closed")
        return fcntl.ioctl(self._fd, request, argument)

    def _ioctl(self, request: Io, argument: bytes) -> bytes:
        try:
            return self._raw(request, argument)
        except OSError as error:
            raise self._error(request.name, error) from error

    def _set(self, request: Io, value: int) -> None:
        self._ioctl(request, struct.pack("=i", value))

    def _get(self, request: Io) -> int:
        return int(struct.unpack("=i", self._ioctl(request, bytes(4)))[0])

    def _error(self, what: str, error: OSError) -> DeviceError | Unsupported:
        if error.errno in (errno.ENOTTY, errno.ENOSYS) and what != Io.SPECIFY.name:
            return Unsupported(f"{self.path}: this card cannot do {what}")
        remedy = {
            errno.ENXIO: "not configured: add it to /etc/dahdi/system.conf and run dahdi_cfg",
            errno.EINVAL: "no such channel, or its signalling does not allow this",
            errno.EBUSY: "busy: another process has it open, or an earlier action is not over",
            errno.ENODATA: "no tone zone: add loadzone to /etc/dahdi/system.conf, run dahdi_cfg",
            errno.ENODEV: "the card is gone",
        }.get(error.errno or 0, "see the kernel log")
        return DeviceError(f"{self.path}: {what}: {error.strerror} ({remedy})")


class EventPoll:
    """Which channels have events. Its ``fileno`` is readable when one has, so an event loop that
    knows no POLLPRI can watch it: ``loop.add_reader(poll.fileno(), ...)``."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._channels: dict[int, Channel] = {}

    def fileno(self) -> int:
        """The descriptor to watch."""
        return self._epoll.fileno()

    def add(self, channel: Channel) -> None:
        """Watch a channel."""
        self._epoll.register(channel.fileno(), select.EPOLLPRI)
        self._channels[channel.fileno()] = channel

    def remove(self, channel: Channel) -> None:
        """Watch a channel no more; call before closing it. Unknown channels are ignored."""
        fd = next((fd for fd, known in self._channels.items() if known is channel), None)
        if fd is None:
            return
        del self._channels[fd]
        try:
            self._epoll.unregister(fd)
        except OSError:  # closed already: the kernel has forgotten it
            pass

    def ready(self, timeout: float = 0.0) -> list[Channel]:
        """Channels with an event, or gone (methods then raise), within ``timeout`` seconds."""
        return [self._channels[fd] for fd, _ in self._epoll.poll(timeout) if fd in self._channels]

    def close(self) -> None:
        """Close; the channels stay open."""
        self._epoll.close()
        self._channels.clear()


def spans(directory: str | os.PathLike[str] = DIRECTORY) -> list[Span]:
    """The cards of this machine; empty when the driver is loaded without any.

    Raises DeviceError: no driver, no permission.
    """
    fd = _open_node(Path(directory, "ctl"))
    try:
        found: list[Span] = []
        for number in range(1, 129):
            request = struct.pack("=i", number).ljust(SPAN.size, b"\0")
            try:
                raw = fcntl.ioctl(fd, Io.SPANSTAT, request)
            except OSError:
                break
            v = SPAN.unpack(raw)
            name, description, kind = (c_text(v[i]) for i in (1, 2, -1))
            found.append(Span(number, name, description, kind, Alarm(v[3] & 0x13F), v[18], v[15]))
        return found
    finally:
        os.close(fd)


def channels(directory: str | os.PathLike[str] = DIRECTORY) -> list[Params]:
    """Every channel of every card, open or not.

    Raises DeviceError: no driver, no permission.
    """
    total = sum(span.channels for span in spans(directory))
    fd = _open_node(Path(directory, "ctl"))
    try:
        found: list[Params] = []
        for number in range(1, total + 1):
            request = struct.pack("=i", number).ljust(PARAMS.size, b"\0")
            try:
                found.append(read_params(fcntl.ioctl(fd, Io.GET_PARAMS, request)))
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENXIO):
                    raise DeviceError(f"{directory}/ctl: channel {number}: {error}") from error
        return found
    finally:
        os.close(fd)


def _open_node(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise DeviceError(
            f"{path}: no such device (is the dahdi module loaded? modprobe dahdi; lsdahdi)"
        ) from None
    except PermissionError:
        raise DeviceError(
            f"{path}: permission denied (add the user to the group of the node, usually dialout)"
        ) from None
    except OSError as error:
        remedy = "run dahdi_cfg" if error.errno == errno.ENXIO else "see the kernel log"
        raise DeviceError(f"{path}: {error.strerror} ({remedy})") from error
