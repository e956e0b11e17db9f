"""Turn the clock of a port: run its timers in order up to a moment, collect what it says."""

from __future__ import annotations

from gateway.protocols.analog import FxoPort, FxsPort, Output


class Clock:
    """A port and its time, in seconds."""

    def __init__(self, port: FxsPort | FxoPort) -> None:
        self.port = port
        self.now = 100.0

    def wait(self, seconds: float) -> list[Output]:
        """Let time pass, waking the port exactly when it asks; returns what it said."""
        end = self.now + seconds
        said: list[Output] = self.said()
        while (due := self.port.next_timeout()) is not None and due <= end:
            assert due >= self.now - 1e-9, "a deadline in the past was not taken"
            self.now = max(self.now, due)
            self.port.tick(self.now)
            said += self.said()
        self.now = end
        return said

    def said(self) -> list[Output]:
        """What the port has said since."""
        found: list[Output] = []
        while (output := self.port.next_output()) is not None:
            found.append(output)
        return found
