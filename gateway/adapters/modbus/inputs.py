"""Inputs of a device: readings to events."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from gateway.adapters.base import Host
from gateway.adapters.modbus.config import Alarm, Contact, Register, Supervised, severity
from gateway.core.events import (
    AcknowledgeRequested,
    AlarmCleared,
    AlarmRaised,
    InputChanged,
    Quality,
    Severity,
)
from gateway.protocols.modbus_points import BIT_TABLES, Debounce, Level, decode

CODES: Final = {"normal": 0.0, "alarm": 1.0, "short": 2.0, "open": 3.0, "fault": 4.0}
"""Value of a supervised loop's input for each of its states."""


class Alarms:
    """The alarms of one endpoint: each is raised once and cleared once."""

    def __init__(self, host: Host, endpoint: str) -> None:
        self.host, self.endpoint = host, endpoint
        self._active: dict[str, bool] = {}

    def raise_(
        self, alarm: str, *, kind: str, severity: Severity, text: str, trace: str, at: float
    ) -> None:
        """Something is wrong; says nothing when that is known."""
        if self._active.get(alarm):
            return
        standing = alarm not in self._active
        self._active[alarm] = True
        self.host.emit(
            AlarmRaised(
                endpoint=self.endpoint,
                alarm=alarm,
                kind=kind,
                severity=severity,
                text=text,
                trace=trace or self.host.new_trace(),
                raised_at=at,
                standing=standing,
            )
        )

    def clear(self, alarm: str) -> None:
        """It is over; says so once even if it was not raised here: it may be from before a
        restart, whose plans the gateway carries on."""
        if self._active.get(alarm) is not False:
            self._active[alarm] = False
            self.host.emit(AlarmCleared(endpoint=self.endpoint, alarm=alarm))


class Input:
    """One input. Driven by `read` and `lose`; emits what changed."""

    def __init__(self, name: str, alarms: Alarms) -> None:
        self.name, self.alarms, self.host = name, alarms, alarms.host
        self.value: float | None = None
        self.quality = Quality.GOOD

    def read(self, raw: Sequence[int], now: float) -> None:
        """The bit, or the registers, that the device answered with."""
        raise NotImplementedError

    def lose(self, quality: Quality) -> None:
        """The present value is not known any more."""
        self.forget()
        if self.value is not None:
            self.tell(self.value, quality)

    def forget(self) -> None:
        """The next reading is the first."""

    def tell(self, value: float, quality: Quality = Quality.GOOD, trace: str = "") -> None:
        """Emit a change; says nothing when nothing changed."""
        if (value, quality) == (self.value, self.quality):
            return
        standing = self.value is None
        self.value, self.quality = value, quality
        self.host.emit(
            InputChanged(
                endpoint=self.alarms.endpoint,
                input=self.name,
                value=value,
                quality=quality,
                trace=trace,
                standing=standing,
            )
        )


class ContactInput(Input):
    """One bit."""

    def __init__(self, name: str, config: Contact, alarms: Alarms) -> None:
        super().__init__(name, alarms)
        self.config = config
        self._state: Debounce[bool] = Debounce(config.debounce_ms / 1000)

    def read(self, raw: Sequence[int], now: float) -> None:
        bit = raw[0] if self.config.table in BIT_TABLES else raw[0] >> self.config.bit & 1
        before = self._state.value
        if not self._state.sample(bool(bit) is not self.config.normally_closed, now):
            return
        on = bool(self._state.value)
        trace = self.host.new_trace()
        self.tell(float(on), trace=trace)
        if self.config.alarm is not None:
            _alarm(self.alarms, self.name, self.config.alarm, on, trace, self._state.since)
        # A key that is found turned has not been turned now.
        if on and before is False:
            for endpoint in self.config.acknowledges:
                self.host.emit(
                    AcknowledgeRequested(
                        endpoint=endpoint, alarm="", by=f"{self.alarms.endpoint} {self.name}"
                    )
                )

    def forget(self) -> None:
        self._state.forget()


class RegisterInput(Input):
    """A measured value."""

    def __init__(self, name: str, config: Register, alarms: Alarms) -> None:
        super().__init__(name, alarms)
        self.config = config
        self._level = Level(config.limits, config.deadband)

    def read(self, raw: Sequence[int], now: float) -> None:
        config = self.config
        number = _number(raw, config)
        if number is None or _content(raw) in config.invalid:
            self.lose(Quality.BAD)
            return
        moved, crossed = self._level.sample(number, now)
        trace = self.host.new_trace() if crossed else ""
        if moved:
            self.tell(number, trace=trace)
        for limit, outside in crossed:
            name = f"{self.name}-{limit}"
            if outside:
                self.alarms.raise_(
                    name,
                    kind=config.kind,
                    severity=severity(
                        config.severity if limit in ("hi", "lo") else config.severity_outer
                    ),
                    text=f"{self.name} is {number:g} {config.unit}".rstrip()
                    + f" ({limit} {getattr(config, limit):g})",
                    trace=trace,
                    at=now,
                )
        for limit in self._level.inside:
            self.alarms.clear(f"{self.name}-{limit}")

    def forget(self) -> None:
        self._level.forget()


class SupervisedInput(Input):
    """A loop with end-of-line resistor."""

    def __init__(self, name: str, config: Supervised, alarms: Alarms) -> None:
        super().__init__(name, alarms)
        self.config = config
        self._state: Debounce[str] = Debounce(config.debounce_ms / 1000)

    def read(self, raw: Sequence[int], now: float) -> None:
        number = _number(raw, self.config)
        state = "fault" if number is None else self.config.bands.state(number)
        if not self._state.sample(state, now):
            return
        known = state in ("normal", "alarm")
        trace = self.host.new_trace()
        self.tell(CODES[state], Quality.GOOD if known else Quality.BAD, trace)
        if known:
            alarm = self.config.alarm
            _alarm(self.alarms, self.name, alarm, state == "alarm", trace, self._state.since)
            self.alarms.clear(f"{self.name}-fault")
        else:
            # Whether it alarms cannot be seen now: an alarm that was raised stays.
            what = {"short": "is shorted", "open": "is open"}.get(state, "reads what it cannot")
            self.alarms.raise_(
                f"{self.name}-fault",
                kind="fault",
                severity=severity(self.config.fault_severity),
                text=f"loop {self.name} {what}",
                trace=trace,
                at=self._state.since,
            )

    def forget(self) -> None:
        self._state.forget()


def _alarm(alarms: Alarms, name: str, alarm: Alarm, on: bool, trace: str, at: float) -> None:
    if not on:
        alarms.clear(name)
        return
    alarms.raise_(
        name,
        kind=alarm.kind,
        severity=severity(alarm.severity),
        text=alarm.text or name,
        trace=trace,
        at=at,
    )


def _number(raw: Sequence[int], config: Register | Supervised) -> float | None:
    number = decode(raw, config.type, word_order=config.word_order, byte_order=config.byte_order)
    number = number * config.scale + config.offset
    return number if math.isfinite(number) else None


def _content(raw: Sequence[int]) -> int:
    content = 0
    for word in raw:
        content = content << 16 | word
    return content
