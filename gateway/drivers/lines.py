"""Lines that key a transmitter and lines that tell of a carrier: serial, GPIO, CM108, PTY.

Every line is off when it has been opened. What the kernel does with it when the process that
holds it dies is said at each class. All raise `OSError` when the device is missing or breaks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib
import os
import struct
import termios
import tty
from typing import Any, Final, Protocol

from gateway.errors import DeviceError

OUTPUTS: Final = {"rts": termios.TIOCM_RTS, "dtr": termios.TIOCM_DTR}
INPUTS: Final = {
    "cts": termios.TIOCM_CTS, "dsr": termios.TIOCM_DSR, "dcd": termios.TIOCM_CD,
    "ri": termios.TIOCM_RI,
}  # fmt: skip
_HIDIOCGINPUT_5: Final = 0xC005480A
"""``HIDIOCGINPUT(5)`` of linux/hidraw.h: fetch an input report of four octets and its number."""


class KeyLine(Protocol):
    """A line that keys a transmitter."""

    def set(self, on: bool) -> None:
        """Key or release."""

    def get(self) -> bool | None:
        """What the line says itself; None when it cannot be read back."""

    def close(self) -> None:
        """Release it and let go of the device; harmless when repeated."""


class CarrierLine(Protocol):
    """A line that tells of a carrier."""

    def get(self) -> bool:
        """Whether there is a carrier."""

    def close(self) -> None:
        """Let go of the device; harmless when repeated."""


class SerialPort:
    """Control lines of a serial port (``man 2 ioctl_tty``), shared by those who use them.

    Opening one raises RTS and DTR for the moment until this drops them: the kernel does that.
    With HUPCL set, the kernel drops both when the last descriptor closes, also by SIGKILL.
    """

    def __init__(self, device: str) -> None:
        self.fd = os.open(device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self.change(OUTPUTS["rts"] | OUTPUTS["dtr"], on=False)
            settings = termios.tcgetattr(self.fd)
            settings[0] = settings[1] = settings[3] = 0
            settings[2] |= termios.HUPCL | termios.CLOCAL
            settings[2] &= ~getattr(termios, "CRTSCTS", 0)
            termios.tcsetattr(self.fd, termios.TCSANOW, settings)
            fcntl.ioctl(self.fd, termios.TIOCEXCL)
            self.change(OUTPUTS["rts"] | OUTPUTS["dtr"], on=False)
        except BaseException as error:
            self.close()
            if isinstance(error, termios.error):
                raise OSError(*error.args) from error
            raise

    def change(self, bits: int, *, on: bool) -> None:
        """Raise or drop outputs."""
        request = termios.TIOCMBIS if on else termios.TIOCMBIC
        fcntl.ioctl(self.fd, request, struct.pack("i", bits))

    def read(self) -> int:
        """All lines as TIOCM bits."""
        (bits,) = struct.unpack("i", fcntl.ioctl(self.fd, termios.TIOCMGET, bytes(4)))
        return int(bits)

    def close(self) -> None:
        """Drop both outputs and close."""
        if self.fd >= 0:
            with contextlib.suppress(OSError):
                self.change(OUTPUTS["rts"] | OUTPUTS["dtr"], on=False)
            os.close(self.fd)
            self.fd = -1


class SerialKey:
    """RTS or DTR. When the process dies the kernel drops it: not keyed, unless `inverted`."""

    def __init__(self, port: SerialPort, line: str, *, inverted: bool = False) -> None:
        self._port, self._bit, self._inverted = port, OUTPUTS[line], inverted
        self.set(False)

    def set(self, on: bool) -> None:
        self._port.change(self._bit, on=on is not self._inverted)

    def get(self) -> bool:
        return bool(self._port.read() & self._bit) is not self._inverted

    def close(self) -> None:
        self._port.close()


class SerialCarrier:
    """CTS, DSR, DCD or RI."""

    def __init__(self, port: SerialPort, line: str, *, inverted: bool = False) -> None:
        self._port, self._bit, self._inverted = port, INPUTS[line], inverted

    def get(self) -> bool:
        return bool(self._port.read() & self._bit) is not self._inverted

    def close(self) -> None:
        self._port.close()


class Gpio:
    """One line of a GPIO chip, through libgpiod's Python package, version 1 or 2.

    When the process dies the kernel releases the line; many chips then leave the pin as it was,
    so a relay needs a pull-down and the board's page must say what the pin does.
    """

    def __init__(self, chip: str, line: int, *, output: bool, inverted: bool = False) -> None:
        try:
            gpiod: Any = importlib.import_module("gpiod")
        except ImportError:
            raise DeviceError(
                "GPIO needs the Python package gpiod, which is not installed"
                " (pip install 'crosspoint-gateway[gpio]', or Debian's python3-libgpiod)"
            ) from None
        path = chip if chip.startswith("/") else f"/dev/{chip}"
        self._offset = line
        self._output = output
        self._request: Any = None
        self._chip: Any = None
        if hasattr(gpiod, "request_lines"):
            kinds = gpiod.line
            self._on, self._off = kinds.Value.ACTIVE, kinds.Value.INACTIVE
            settings = gpiod.LineSettings(
                direction=kinds.Direction.OUTPUT if output else kinds.Direction.INPUT,
                active_low=inverted,
                **({"output_value": self._off} if output else {}),
            )
            self._request = gpiod.request_lines(
                path, consumer="crosspoint", config={line: settings}
            )
        else:
            self._chip = gpiod.Chip(path)
            self._request = self._chip.get_line(line)
            self._on, self._off = 1, 0
            flags = gpiod.LINE_REQ_FLAG_ACTIVE_LOW if inverted else 0
            kind = gpiod.LINE_REQ_DIR_OUT if output else gpiod.LINE_REQ_DIR_IN
            values = {"default_val": 0} if output else {}
            self._request.request(consumer="crosspoint", type=kind, flags=flags, **values)

    def set(self, on: bool) -> None:
        value = self._on if on else self._off
        if self._chip is None:
            self._request.set_value(self._offset, value)
        else:
            self._request.set_value(value)

    def get(self) -> bool:
        value = self._request.get_value(*(() if self._chip else (self._offset,)))
        return bool(value == self._on)

    def close(self) -> None:
        if self._request is None:
            return
        with contextlib.suppress(OSError):
            if self._output:
                self.set(False)
        self._request.release()
        if self._chip is not None:
            self._chip.close()
        self._request = None


class Cm108:
    """GPIO pins and buttons of a C-Media CM108, CM119 or compatible USB sound chip, by hidraw.

    When the process dies the chip keeps its pin as it is: only unplugging drops it.
    """

    def __init__(self, device: str) -> None:
        self.fd = os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def write(self, data: int, mask: int) -> None:
        """Drive the pins of `mask` to `data`; bit 0 is GPIO1."""
        report = bytes((0, 0, data, mask, 0))
        if os.write(self.fd, report) != len(report):
            raise OSError(errno.EIO, "the CM108 took only part of a report")

    def read(self) -> bytes:
        """The four octets of an input report: buttons, pins, two others."""
        return bytes(fcntl.ioctl(self.fd, _HIDIOCGINPUT_5, bytes(5)))[1:5]

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Cm108Key:
    """A GPIO pin, 1 to 8; high is keyed."""

    def __init__(self, chip: Cm108, pin: int, *, inverted: bool = False) -> None:
        self._chip, self._bit, self._inverted = chip, 1 << (pin - 1), inverted
        self.set(False)

    def set(self, on: bool) -> None:
        high = on is not self._inverted
        self._chip.write(self._bit if high else 0, self._bit)

    def get(self) -> bool:
        return bool(self._chip.read()[1] & self._bit) is not self._inverted

    def close(self) -> None:
        if self._chip.fd >= 0:
            with contextlib.suppress(OSError):
                self.set(False)
            self._chip.close()


class Cm108Carrier:
    """The VOL DN or VOL UP button input, or a GPIO pin; a clear bit is a carrier."""

    def __init__(self, chip: Cm108, source: str, *, inverted: bool = False) -> None:
        """source: ``volume-down``, ``volume-up`` or ``gpio1`` to ``gpio8``."""
        self._chip, self._inverted = chip, inverted
        self._octet, self._bit = {"volume-up": (0, 1), "volume-down": (0, 2)}.get(
            source, (1, 1 << (int(source[-1]) - 1) if source[-1].isdigit() else 0)
        )

    def get(self) -> bool:
        return bool(self._chip.read()[self._octet] & self._bit) is self._inverted

    def close(self) -> None:
        self._chip.close()


class PtyKey:
    """The squelch PTY of an SvxLink receiver (``SQL_DET=PTY``): it takes O and Z.

    It cannot be read back, and nothing releases it when the process dies.
    """

    def __init__(self, path: str) -> None:
        self._fd = _open_pty(path)
        self.set(False)

    def set(self, on: bool) -> None:
        os.write(self._fd, b"O" if on else b"Z")

    def get(self) -> None:
        return None

    def close(self) -> None:
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                self.set(False)
            os.close(self._fd)
            self._fd = -1


class PtyCarrier:
    """The PTT PTY of an SvxLink transmitter (``PTT_TYPE=PTY``): it gives T and R."""

    def __init__(self, path: str) -> None:
        self._fd = _open_pty(path)
        self._on = False

    def get(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            while True:
                heard = os.read(self._fd, 256)
                if not heard:
                    raise OSError(errno.EIO, "the other end of the PTY is gone")
                for octet in heard:
                    self._on = octet == ord("T") if octet in b"TR" else self._on
        return self._on

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _open_pty(path: str) -> int:
    fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        tty.setraw(fd, termios.TCSANOW)
    except termios.error as error:
        os.close(fd)
        raise OSError(*error.args) from error
    return fd
