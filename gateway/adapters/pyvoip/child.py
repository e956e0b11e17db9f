"""``python -m gateway.adapters.pyvoip.child FD``: started by the adapter, never by hand.

FD is one end of the pair that `gateway.adapters.pyvoip.messages` travel on. The process ends when
the other end is closed, when the gateway dies, and when it hangs.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import select
import signal
import socket
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING, Final

from gateway.adapters.pyvoip import messages as say

if TYPE_CHECKING:
    from gateway.adapters.pyvoip.library import Phone

ALIVE_S: Final = 1.0
BEAT_S: Final = 0.1
HANGS_S: Final = 20.0
GOODBYE_S: Final = 1.0
_PR_SET_PDEATHSIG: Final = 1


class Child:
    """Carries out what the gateway asks of the library. Driven by `serve`."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._phone: Phone | None = None
        self._ending = threading.Event()

    def serve(self) -> None:
        """Until told to end, or nobody is left to tell."""
        alive_at = 0.0
        with open(os.devnull, "w") as nowhere:
            while not self._ending.is_set():
                if select.select([self._control], [], [], BEAT_S)[0] and not self._listen():
                    break
                now = time.monotonic()
                if self._phone is not None:
                    self._phone.beat(now)
                if now >= alive_at:
                    alive_at = now + ALIVE_S
                    self.tell(say.Alive(memory_mb=_memory_mb()))
                    # Counted down outside of the interpreter: a thread of the library's that
                    # never lets go of it ends the process too.
                    faulthandler.dump_traceback_later(HANGS_S, exit=True, file=nowhere)
        self._goodbye()

    def tell(self, message: say.FromLibrary) -> None:
        """Send to the gateway, from any thread."""
        try:
            self._control.send(say.encode(message))
        except OSError:
            self._ending.set()
        if isinstance(message, say.Unregistered) and message.final:
            self._ending.set()

    def leave(self) -> None:
        """Say goodbye and end at the next beat."""
        self._ending.set()

    def _listen(self) -> bool:
        try:
            data, fds, _, _ = socket.recv_fds(self._control, say.LARGEST, 1)
        except OSError:
            data, fds = b"", []
        if not data:
            return False
        message = say.decode_to_library(data)
        wire = socket.socket(fileno=fds[0]) if fds else None
        if isinstance(message, say.Begin):
            self._begin(message)
        elif isinstance(message, say.End):
            return False
        elif self._phone is not None:
            self._carry_out(self._phone, message, wire)
        return True

    @staticmethod
    def _carry_out(phone: Phone, message: say.ToLibrary, wire: socket.socket | None) -> None:
        match message:
            case say.Place() if wire is not None:
                phone.place(message.call, message.number, wire)
            case say.Accept() if wire is not None:
                phone.take(message.call, wire)
            case say.Drop():
                phone.drop(message.call, message.status)
            case say.Press():
                phone.press(message.call, message.digits)

    def _begin(self, begin: say.Begin) -> None:
        from gateway.adapters.pyvoip.library import Phone

        try:
            self._phone = Phone(begin, self.tell)
        except OSError as error:
            self.tell(say.Unregistered(reason=f"{begin.server}: {error}", final=True))
            return
        # `start` waits for the PBX.
        threading.Thread(target=self._start, args=(self._phone,), daemon=True).start()

    def _start(self, phone: Phone) -> None:
        try:
            phone.start()
        except Exception as error:
            reason = str(error) or type(error).__name__
            self.tell(say.Unregistered(reason=reason, final=True))

    def _goodbye(self) -> None:
        if self._phone is None:
            return
        self._phone.end()
        # A call that nobody took back would go on ringing out there.
        deadline = time.monotonic() + GOODBYE_S
        while self._phone.busy and time.monotonic() < deadline:
            self._phone.beat(time.monotonic())
            time.sleep(0.01)


def _memory_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    """Say hello and serve."""
    control = socket.socket(fileno=int(sys.argv[1]))
    # The end of the socket says the same, but not to a process that hangs.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    warnings.simplefilter("ignore")
    child = Child(control)
    try:
        from gateway.adapters.pyvoip import library

        child.tell(say.Hello(version=library.VERSION))
        # The gateway is gone: hang up and leave, as when it closes the socket.
        signal.signal(signal.SIGTERM, lambda *_: child.leave())
        child.serve()
    except Exception as error:
        # Nobody reads what a child prints.
        reason = f"the library failed: {type(error).__name__}: {error}"
        child.tell(say.Unregistered(reason=reason, final=True))
    with contextlib.suppress(OSError):
        control.close()
    # The library's threads never end by themselves.
    os._exit(0)


main()
