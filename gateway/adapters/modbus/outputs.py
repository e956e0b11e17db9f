"""Outputs of a device: what each should be, what is owed, and what could not be done.

The newest command counts. One that cannot be carried out is tried until its deadline, then
reported; from then on the output is owed its safe value, which has no deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pymodbus.pdu import ModbusPDU

from gateway.adapters.base import Host
from gateway.adapters.modbus import frames
from gateway.adapters.modbus.config import Relay
from gateway.errors import UsageError
from gateway.protocols.modbus_points import encode

AGAIN_S = 0.2
NATIVE_SLACK_S = 0.3


class Output:
    """One relay or register. Driven by `set` and `safe`, and by the device that writes it."""

    def __init__(
        self,
        name: str,
        config: Relay,
        host: Host,
        *,
        wake: Callable[[], None],
        report: Callable[[str, str], None],
    ) -> None:
        """report: called with the output's name and why a command failed; empty: it works."""
        self.name, self.config, self.host = name, config, host
        self.wanted: float | None = None if config.keep else config.safe
        """None: never commanded, left as it is."""
        self.dirty = not config.keep
        """Has to be written."""
        self.version = 0
        """Grows with everything that makes a write under way outdated."""
        self.due = 0.0
        """Not to be tried before."""
        self.commanded = False
        """Somebody waits for this, until the deadline."""
        self.native = False
        """The pulse under way is the device's own."""
        self._rest = self.wanted
        self._pulse_ms = 0
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._wake, self._report = wake, report

    # What is wanted

    def set(self, value: float, pulse_ms: int = 0) -> None:
        """Command it. Raises `UsageError` for a value that the register cannot hold."""
        self.words(value)
        if self.dirty and self.commanded:
            self.host.count("modbus.outputs_superseded")
        self._stop_timer()
        self.native = False
        if pulse_ms:
            if self._rest is None:
                self._rest = self.config.safe
        else:
            self._rest = value
        self._pulse_ms = pulse_ms
        self._want(value, commanded=True)

    def safe(self) -> None:
        """Nobody commands it any more."""
        self._stop_timer()
        pulsing, self._pulse_ms = bool(self._pulse_ms), 0
        self.native = False
        if not self.config.keep:
            self._rest = self.config.safe
        elif not pulsing:
            return
        assert self._rest is not None
        self._want(self._rest, commanded=False)

    def lapse(self) -> None:
        """The device was lost; what it does now is not known."""
        if self.dirty and self.commanded:
            return  # still has until its deadline
        if self.wanted not in (None, self.config.safe) and not self.config.keep:
            self.host.log.warning(
                "output lapsed to its safe value", output=self.name, value=self.wanted
            )
        self.safe()
        if self.wanted is not None:
            self._want(self.wanted, commanded=False)

    def stop(self) -> None:
        """Cancel the timer."""
        self._stop_timer()

    # What the device does about it

    def request(self, unit: int) -> ModbusPDU:
        """What to write now."""
        assert self.wanted is not None
        words = self.words(self.wanted)
        if self.config.table == "holding":
            return frames.write_registers(unit, self.config.address, words)
        native = self.config.pulse
        word = native.word(self._pulse_ms) if native and self._pulse_ms and words[0] else None
        if native is not None and word is not None:
            self.native = True
            return frames.write_coil(unit, native.address, word)
        return frames.write_coil(unit, self.config.address, 0xFF00 if words[0] else 0)

    def words(self, value: float) -> list[int]:
        """What the register, or the coil, holds for a value. Raises `UsageError`."""
        config = self.config
        if config.table == "coil":
            return [int(bool(value))]
        try:
            return encode(
                (value - config.offset) / config.scale,
                config.type,
                word_order=config.word_order,
                byte_order=config.byte_order,
            )
        except ValueError as error:
            raise UsageError(f"output {self.name}: {error}") from None

    def done(self) -> None:
        """It was written as wanted."""
        self.dirty = False
        self.commanded = False
        self._report(self.name, "")
        if self._pulse_ms and self._timer is None:
            loop = asyncio.get_running_loop()
            # The device's clock is not ours.
            after_s = self._pulse_ms / 1000 + (NATIVE_SLACK_S if self.native else 0.0)
            self._timer = loop.call_later(after_s, self._end_pulse)

    def missed(self, why: str) -> None:
        """It could not be written."""
        now = self.host.now()
        self.due = now + AGAIN_S
        if now < self._deadline:
            return
        self._report(self.name, why)
        if self.commanded:
            # Too late to be carried out when the device comes back.
            self.host.count("modbus.outputs_failed")
            self.host.log.error("output not switched", output=self.name, value=self.wanted, why=why)
            self._pulse_ms = 0
            if self.config.keep:
                self.wanted = self._rest = None
                self.dirty = self.commanded = False
            else:
                self._rest = self.config.safe
                self._want(self._rest, commanded=False)
        self.due = now + AGAIN_S
        self._deadline = now + self.config.deadline_s

    def seen(self, words: list[int]) -> None:
        """Its position was read."""
        if self.dirty or self.native or self.wanted is None or words == self.words(self.wanted):
            return
        self.host.count("modbus.outputs_reverted")
        self.host.log.warning("output is not as it was left", output=self.name, wanted=self.wanted)
        self._want(self.wanted, commanded=False)

    def _want(self, value: float, *, commanded: bool) -> None:
        self.wanted, self.commanded, self.dirty = value, commanded, True
        self.version += 1
        self.due = 0.0
        self._deadline = self.host.now() + self.config.deadline_s
        self._wake()

    def _end_pulse(self) -> None:
        self._timer = None
        native, self.native, self._pulse_ms = self.native, False, 0
        assert self._rest is not None
        if native:
            # The device ends it by itself; reading its position back shows whether it did.
            self.wanted = self._rest
            return
        self._want(self._rest, commanded=False)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
