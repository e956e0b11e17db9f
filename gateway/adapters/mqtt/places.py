"""The endpoints behind the broker: what is known of each, and what of it becomes an event.

Everything here runs in the event loop. A change of state is emitted at once as long as the place
stays within its rate; beyond it the latest value is held back and emitted when there is room, so
one flooding device cannot starve the others. Raising an alarm is never held back: it happens only
after the clearing before it was emitted, and clearing counts.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import msgspec

from gateway.adapters.base import Host
from gateway.adapters.mqtt.config import SEVERITY, Config, Device, Output, Panel
from gateway.adapters.mqtt.link import Outbound
from gateway.core.endpoints import Condition, Duplex, Endpoint
from gateway.core.events import (
    AlarmAcknowledged,
    AlarmCleared,
    AlarmRaised,
    Event,
    InputChanged,
    PanelChanged,
    Quality,
    Severity,
)
from gateway.protocols.alarms import (
    EXPECTED,
    Acknowledged,
    Available,
    Cleared,
    Meaning,
    Raised,
    Reading,
    State,
    fill,
)

ALARMS_MAXIMUM = 1000
HELD_MAXIMUM = 512
_CALM = -1
_TRACE = re.compile(r"[0-9A-Za-z_-]{1,64}")


class Line:
    """What a place needs of the adapter."""

    def __init__(
        self, host: Host, publish: Callable[[Outbound], bool], wall: Callable[[], float]
    ) -> None:
        self.host, self.publish, self.wall = host, publish, wall


class _Lull(msgspec.Struct, frozen=True):
    """A clearing that may be held back, and how severe the alarm was."""

    event: AlarmCleared
    severity: int


class Place:
    """An endpoint. Driven by `hear` (what its messages mean), `link_changed` and time."""

    def __init__(
        self, endpoint: Endpoint, config: Panel | Device, section: Config, line: Line
    ) -> None:
        self.endpoint, self.config, self.section, self.line = endpoint, config, section, line
        self.local = endpoint.id.partition("/")[2]
        self.linked = False
        self.reason = "not connected yet"
        self.online: bool | None = None
        self.heard = False
        self.outputs = {
            name: Switch(endpoint.id, name, output, section, line)
            for name, output in config.outputs.items()
        }
        self._inputs: dict[str, tuple[float, Quality]] = {}
        self._alarms: dict[str, int] = {}
        """Severity of each alarm that was seen; `_CALM` when it is over."""
        self._held: dict[tuple[str, str], Event | _Lull] = {}
        self._tokens = float(section.burst)
        self._filled = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # What is heard

    def hear(self, meaning: Meaning, trace: str, *, standing: bool = False) -> None:
        """Something was said about this place.

        standing: the first that is heard of something says how it is, not what it became.
        """
        if isinstance(meaning, Available):
            self.online = meaning.online
            if not meaning.online:
                self._distrust()
        else:
            self.heard = True
        endpoint = self.endpoint.id
        match meaning:
            case Raised():
                self._raise(meaning, trace, standing=standing)
            case Cleared():
                self._clear(meaning.alarm)
            case Acknowledged():
                self._tell(
                    ("acknowledged", meaning.alarm),
                    AlarmAcknowledged(endpoint=endpoint, alarm=meaning.alarm, by=meaning.by),
                )
            case Reading():
                self._read(meaning, trace, standing=standing)
            case State():
                self._change(meaning.state, trace, standing=standing)
            case Available():
                pass
        self.announce()

    def _change(self, state: str, trace: str, *, standing: bool) -> None:
        raise NotImplementedError

    def _raise(self, alarm: Raised, trace: str, *, standing: bool) -> None:
        severity = SEVERITY.get(alarm.severity, Severity.MAJOR)
        standing = standing and alarm.alarm not in self._alarms
        unsaid = self._held.pop(("alarm", alarm.alarm), None)
        if isinstance(unsaid, _Lull):
            self._alarms[alarm.alarm] = unsaid.severity
        elif unsaid is not None:
            self._emit(unsaid)
        # A worse one is news, the same again is not.
        if severity <= self._alarms.get(alarm.alarm, _CALM):
            self.line.host.count("mqtt.repeated")
            return
        if not self._room(alarm.alarm):
            self.line.host.count("mqtt.alarms_overflowed")
            alarm = Raised(
                "too-many-alarms", "fault", "critical", f"more than {ALARMS_MAXIMUM} alarms"
            )
            severity = Severity.CRITICAL
            if self._alarms.get(alarm.alarm, _CALM) == severity:
                return
        self._alarms[alarm.alarm] = severity
        host = self.line.host
        host.emit(
            AlarmRaised(
                endpoint=self.endpoint.id,
                alarm=alarm.alarm,
                kind=alarm.kind,
                severity=severity,
                text=alarm.text,
                trace=trace if _TRACE.fullmatch(trace) else host.new_trace(),
                raised_at=host.now(),
                standing=standing,
            )
        )

    def _clear(self, alarm: str) -> None:
        # An alarm that we never saw raised is cleared all the same, once: it may have been
        # raised before a restart, and the gateway carries its plan on.
        severity = self._alarms.get(alarm)
        if severity == _CALM or not self._room(alarm):
            return
        self._alarms[alarm] = _CALM
        cleared = AlarmCleared(endpoint=self.endpoint.id, alarm=alarm)
        self._tell(("alarm", alarm), cleared if severity is None else _Lull(cleared, severity))

    def _room(self, alarm: str) -> bool:
        if alarm in self._alarms or len(self._alarms) < ALARMS_MAXIMUM:
            return True
        for name, severity in self._alarms.items():
            if severity == _CALM and ("alarm", name) not in self._held:
                del self._alarms[name]
                return True
        return False

    def _read(self, reading: Reading, trace: str, *, standing: bool) -> None:
        known = (reading.value, Quality.GOOD)
        standing = standing and reading.input not in self._inputs
        if self._inputs.get(reading.input) == known:
            return
        if reading.input not in self._inputs and len(self._inputs) >= HELD_MAXIMUM:
            self.line.host.count("mqtt.inputs_overflowed")
            return
        self._inputs[reading.input] = known
        self._tell(
            ("input", reading.input),
            InputChanged(
                endpoint=self.endpoint.id,
                input=reading.input,
                value=reading.value,
                trace=trace if _TRACE.fullmatch(trace) else "",
                standing=standing,
            ),
        )

    def _distrust(self) -> None:
        for name, (value, quality) in list(self._inputs.items()):
            if quality is Quality.GOOD:
                self._inputs[name] = (value, Quality.STALE)
                self._held.pop(("input", name), None)
                self.line.host.emit(
                    InputChanged(
                        endpoint=self.endpoint.id, input=name, value=value, quality=Quality.STALE
                    )
                )

    # The rate

    def _tell(self, key: tuple[str, str], event: Event | _Lull) -> None:
        # What is held back already must not be overtaken.
        if not self._held and self._spend():
            self._emit(event)
            return
        if self._held.pop(key, None) is None and len(self._held) >= HELD_MAXIMUM:
            self.line.host.count("mqtt.rate_dropped")
            return
        self.line.host.count("mqtt.rate_limited")
        self._held[key] = event
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(
                1.0 / self.section.rate, self._release
            )

    def _emit(self, event: Event | _Lull) -> None:
        self.line.host.emit(event.event if isinstance(event, _Lull) else event)

    def _spend(self) -> bool:
        now = self.line.host.now()
        self._tokens = min(
            self._tokens + (now - self._filled) * self.section.rate, float(self.section.burst)
        )
        self._filled = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def _release(self) -> None:
        self._timer = None
        while self._held and self._spend():
            key = next(iter(self._held))
            self._emit(self._held.pop(key))
        if self._held:
            self._timer = asyncio.get_running_loop().call_later(
                1.0 / self.section.rate, self._release
            )

    # Condition

    def link_changed(self, up: bool, reason: str) -> None:
        """The broker came or went."""
        if self.linked and not up:
            self.online, self.heard = None, False
            self._distrust()
        self.linked, self.reason = up, reason
        if up:
            for switch in self.outputs.values():
                switch.reconnect()
        self.announce()

    def announce(self) -> None:
        """Tell the condition; the host says nothing when nothing changed."""
        condition, reason = self.condition()
        self.endpoint = msgspec.structs.replace(self.endpoint, condition=condition, reason=reason)
        self.line.host.set_endpoint(self.endpoint)

    def condition(self) -> tuple[Condition, str]:
        """Whether the place can be used, and why not."""
        if not self.linked:
            return Condition.DOWN, self.reason
        if self.online is False:
            return Condition.DOWN, "reports itself offline"
        if self.config.availability is not None:
            if self.online is None:
                return Condition.UNKNOWN, "has not said whether it is online"
            return Condition.UP, ""
        if self.waits and not self.heard:
            return Condition.UNKNOWN, "not heard from yet"
        return Condition.UP, ""

    @property
    def waits(self) -> bool:
        """Whether it is unknown as long as it has said nothing."""
        return isinstance(self.config, Device) and bool(self.config.topics)

    def stop(self) -> None:
        """Stop all timers."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for switch in self.outputs.values():
            switch.stop()


class Pending:
    """A command under way to a panel."""

    def __init__(self, verb: str, done: Callable[[bool, str], None]) -> None:
        self.verb, self.done = verb, done
        self.timer: asyncio.TimerHandle | None = None
        self.extended = False


class PanelPlace(Place):
    """A panel out there."""

    config: Panel

    def __init__(self, endpoint: Endpoint, config: Panel, section: Config, line: Line) -> None:
        super().__init__(endpoint, config, section, line)
        self.state = "unknown"
        self._pending: Pending | None = None

    @property
    def shown(self) -> str:
        """The state as shown to Home Assistant."""
        return "None" if self.state == "unknown" else self.state

    @property
    def waits(self) -> bool:
        return True

    def _change(self, state: str, trace: str, *, standing: bool) -> None:
        config = self.config
        changed, self.state = state != self.state, state
        if state == "triggered":
            raised = Raised(config.alarm, config.kind, config.severity, config.text)
            self._raise(raised, trace, standing=standing)
        elif state != "unknown":
            self._clear(config.alarm)
        if changed:
            self._tell(("state", ""), PanelChanged(endpoint=self.endpoint.id, state=state))
        pending = self._pending
        if pending is None:
            return
        if state in EXPECTED[pending.verb]:
            self._finish(True, state)
        elif state in ("arming", "pending", "disarming") and not pending.extended:
            # The exit delay is not a failure.
            pending.extended = True
            self._deadline(pending, config.arming_timeout_s)

    def command(
        self,
        verb: str,
        *,
        code: str,
        by: str,
        trace: str,
        command: str,
        done: Callable[[bool, str], None],
    ) -> None:
        """Tell the panel; `done` is called once, with success and detail."""
        if self._pending is not None:
            self._finish(False, f"superseded by {verb}")
        if self.state in EXPECTED[verb]:
            done(True, f"already {self.state}")
            return
        config = self.config
        action = config.commands.get(verb, verb)
        payload = fill(
            config.command_payload or "{{ action }}",
            {
                "action": action,
                "code": code,
                "command": command,
                "by": by,
                "trace": trace,
                "time": round(self.line.wall(), 3),
            },
        )
        sent = self.line.publish(
            Outbound(
                config.command_topic,
                payload,
                trace=trace,
                expires_s=max(1, round(self.section.command_ttl_s)),
            )
        )
        if not sent:
            done(False, "no connection to the broker")
            return
        self._pending = Pending(verb, done)
        self._deadline(self._pending, config.command_timeout_s)

    def _deadline(self, pending: Pending, seconds: float) -> None:
        if pending.timer is not None:
            pending.timer.cancel()
        pending.timer = asyncio.get_running_loop().call_later(
            seconds, lambda: self._finish(False, f"still {self.state} after {seconds:g} s")
        )

    def _finish(self, ok: bool, detail: str) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            if pending.timer is not None:
                pending.timer.cancel()
            pending.done(ok, detail)

    def stop(self) -> None:
        """Stop all timers; a command under way has failed."""
        self._finish(False, "the gateway stopped")
        super().stop()


class Kept(msgspec.Struct):
    """What a panel of ours remembers over a restart."""

    base: str = "disarmed"
    triggered: bool = False


class HostedPanel(Place):
    """The gateway as a panel. `mirrored` are alarms of other endpoints that it shows."""

    config: Panel

    def __init__(self, endpoint: Endpoint, config: Panel, section: Config, line: Line) -> None:
        super().__init__(endpoint, config, section, line)
        self.kept = Kept()
        self.mirrored: dict[tuple[str, str], None] = {}
        self._told = ""

    @property
    def shown(self) -> str:
        """The state as shown to Home Assistant."""
        return "triggered" if self.kept.triggered or self.mirrored else self.kept.base

    def restore(self, text: str) -> None:
        """Take up the state of an earlier run; an alarm of then is still one."""
        try:
            self.kept = msgspec.json.decode(text, type=Kept)
        except msgspec.DecodeError:
            self.kept = Kept()
        if self.kept.triggered:
            self._trigger("", standing=True)
        self.tell_state()

    def _trigger(self, trace: str, *, standing: bool = False) -> None:
        config = self.config
        self.kept.triggered = True
        raised = Raised(config.alarm, config.kind, config.severity, config.text)
        self._raise(raised, trace, standing=standing)

    def obey(self, verb: str, trace: str) -> tuple[bool, str]:
        """Carry a command out; success and detail."""
        if verb == "TRIGGER":
            self._trigger(trace)
        elif verb == "DISARM":
            self.kept = Kept()
            self._clear(self.config.alarm)
        elif self.kept.triggered:
            return False, "triggered: disarm first"
        else:
            (self.kept.base,) = EXPECTED[verb]
        self.tell_state()
        return True, self.shown

    def mirror(self, endpoint: str, alarm: str, active: bool) -> None:
        """An alarm of another endpoint began or ended."""
        if active and len(self.mirrored) < ALARMS_MAXIMUM:
            self.mirrored[endpoint, alarm] = None
        elif not active:
            self.mirrored.pop((endpoint, alarm), None)
        self.tell_state()

    def tell_state(self) -> None:
        """Emit the state when it changed."""
        if self.shown != self._told:
            self._told = self.shown
            self._tell(("state", ""), PanelChanged(endpoint=self.endpoint.id, state=self.shown))


class Switch:
    """An output: a value that is published, and its way back to safety."""

    def __init__(
        self, endpoint: str, name: str, config: Output, section: Config, line: Line
    ) -> None:
        self.endpoint, self.name = endpoint, name
        self.config, self.section, self.line = config, section, line
        self.value = self._back = config.safe
        self._wanted_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def message(self, value: float) -> Outbound:
        """What is published for a value."""
        config = self.config
        text = config.payload or (config.on if value else config.off)
        return Outbound(
            config.topic,
            fill(text, {"value": value}),
            retain=config.retain,
            expires_s=max(1, round(self.section.command_ttl_s)),
        )

    def set(self, value: float, pulse_ms: int) -> None:
        """Publish a value, and after a pulse the former one."""
        former = self._back if self.pulsing else self.value
        self.value = value
        self.stop()
        self._publish(value)
        if pulse_ms > 0:
            self._back = former if former != value else self.config.safe
            self._timer = asyncio.get_running_loop().call_later(
                pulse_ms / 1000, lambda: self.set(self._back, 0)
            )

    def rest(self) -> Outbound:
        """Back to the safe value; what is published for it."""
        self.stop()
        self.value, self._wanted_at = self.config.safe, None
        return self.message(self.value)

    def owe(self) -> None:
        """Publish the present value as soon as the broker is back."""
        self._wanted_at = self.line.host.now()

    @property
    def pulsing(self) -> bool:
        """Whether a pulse is under way."""
        return self._timer is not None

    def _publish(self, value: float) -> None:
        sent = self.line.publish(self.message(value))
        self._wanted_at = None if sent else self.line.host.now()

    def reconnect(self) -> None:
        """Publish what could not be published, unless it is too late for it to be wanted."""
        if self._wanted_at is None:
            return
        late = self.line.host.now() - self._wanted_at > self.section.command_ttl_s
        if late and self.value != self.config.safe:
            self.line.host.count("mqtt.outputs_expired")
            self.line.host.log.warning(
                "output not switched: the broker was away too long",
                endpoint=self.endpoint,
                output=self.name,
            )
            self.value, self._wanted_at = self.config.safe, None
            return
        self._publish(self.value)

    def stop(self) -> None:
        """Forget a pulse under way."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def panel_endpoint(name: str, local: str, config: Panel) -> Endpoint:
    """The endpoint of a panel."""
    return Endpoint(
        id=f"{name}/{local}",
        label=config.label,
        location=config.location,
        duplex=Duplex.NONE,
        can_ring=False,
        capacity=0,
        outputs=tuple(config.outputs),
        alarm=True,
    )


def device_endpoint(name: str, local: str, config: Device) -> Endpoint:
    """The endpoint of a device."""
    return Endpoint(
        id=f"{name}/{local}",
        label=config.label,
        location=config.location,
        duplex=Duplex.NONE,
        can_ring=False,
        capacity=0,
        inputs=config.inputs,
        outputs=tuple(config.outputs),
        alarm=any(topic.alarms for topic in config.topics),
    )
