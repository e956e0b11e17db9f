"""line_truth.py DIRECTORY A B: what the two ends of an analog line see, as JSON.

A is an FXS port, B an FXO port, and they are wired together. The same script runs on the real
driver in the guest and on the virtual line card; the test compares what it prints. Each step is a
list of ``[seconds since the step began, "A" or "B", event]``.
"""

from __future__ import annotations

import json
import math
import struct
import sys
import time
from collections.abc import Callable

from gateway.drivers.dahdi import (
    Channel,
    EventPoll,
    Flush,
    Hook,
    LineEvent,
    Tone,
)

Seen = list[tuple[float, str, str]]


class Line:
    """Both ports, and what they see."""

    def __init__(self, directory: str, a: int, b: int) -> None:
        self.a = Channel.open(a, directory=directory, linear=True)
        self.b = Channel.open(b, directory=directory, linear=True)
        self.poll = EventPoll()
        self.poll.add(self.a)
        self.poll.add(self.b)
        self.steps: dict[str, Seen] = {}
        self.audio: dict[str, float] = {}

    def step(self, name: str, seconds: float, *actions: Callable[[], object]) -> None:
        """Act, then watch both ports for some seconds."""
        seen: Seen = []
        start = time.monotonic()
        for action in actions:
            action()
        while (left := start + seconds - time.monotonic()) > 0:
            for channel in self.poll.ready(left):
                for event in channel.events():
                    at = round(time.monotonic() - start, 3)
                    seen.append((at, "A" if channel is self.a else "B", describe(event)))
        self.steps[name] = seen

    def send_tone(self, name: str, source: Channel, sink: Channel, frequency: float) -> None:
        """Send a tone one way; note its amplitude at the other end."""
        source.flush(Flush.READ | Flush.WRITE)
        sink.flush(Flush.READ | Flush.WRITE)
        sent, heard = 0, bytearray()
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            turn = [2 * math.pi * frequency * (sent + i) / 8000 for i in range(160)]
            block = struct.pack("<160h", *(round(8000 * math.sin(t)) for t in turn))
            sent += (source.write(block) or 0) // 2
            heard += sink.read() or b""
            time.sleep(0.002)
        samples = struct.unpack(f"<{len(heard) // 2}h", heard)[len(heard) // 4 :]
        angle = 2 * math.pi * frequency / 8000
        real = sum(x * math.cos(angle * i) for i, x in enumerate(samples))
        imaginary = sum(x * math.sin(angle * i) for i, x in enumerate(samples))
        self.audio[name] = round(2 * math.hypot(real, imaginary) / max(1, len(samples)), 1)


def describe(event: LineEvent) -> str:
    """An event as one word."""
    name = event.kind.name if event.kind else f"code {event.code}"
    return f"{name} {event.digit}" if event.digit else name


def truth(directory: str, a: int, b: int) -> dict[str, object]:
    """Go through a telephone's day."""
    line = Line(directory, a, b)
    a_, b_ = line.a, line.b
    line.step("idle", 2.2)
    line.step("ring", 2.5, lambda: a_.ring([800, 1200]))
    line.step("answer", 1.5, lambda: b_.hook(Hook.OFF_HOOK))
    line.step("a answers", 1.0, lambda: a_.hook(Hook.OFF_HOOK))
    line.send_tone("a to b", a_, b_, 1000)
    line.send_tone("b to a", b_, a_, 440)
    line.step("flash", 1.5, lambda: b_.hook(Hook.FLASH))
    line.step("dtmf", 1.2, lambda: a_.dial("15"))
    line.step("b hangs up", 2.0, lambda: b_.hook(Hook.ON_HOOK))
    line.step("a hangs up", 1.5, lambda: a_.hook(Hook.ON_HOOK))
    line.step("seize", 1.2, lambda: b_.hook(Hook.OFF_HOOK))
    line.step("dial tone", 0.5, lambda: a_.tone(Tone.DIAL))
    line.step("pulse", 3.0, lambda: a_.tone(Tone.STOP), lambda: b_.dial("13", pulse=True))
    line.step("release", 1.8, lambda: b_.hook(Hook.ON_HOOK))
    line.step("seize again", 1.2, lambda: b_.hook(Hook.OFF_HOOK))
    line.step("a off hook", 1.2, lambda: a_.hook(Hook.OFF_HOOK))
    line.step("battery drop", 1.2, lambda: a_.hook(Hook.ON_HOOK))
    line.a.close()
    line.b.close()
    return {"steps": line.steps, "audio": line.audio}


if __name__ == "__main__":
    json.dump(truth(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])), sys.stdout)
    print()
