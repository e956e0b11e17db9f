"""Device: one Modbus server out there, its polls, its points and its health."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pymodbus.pdu import ModbusPDU

from gateway.adapters.base import Host
from gateway.adapters.modbus import frames
from gateway.adapters.modbus.config import Device as DeviceConfig
from gateway.adapters.modbus.config import severity
from gateway.adapters.modbus.frames import OURS, UNREACHED
from gateway.adapters.modbus.inputs import (
    Alarms,
    ContactInput,
    Input,
    RegisterInput,
    SupervisedInput,
)
from gateway.adapters.modbus.line import Line, NoAnswer
from gateway.adapters.modbus.outputs import Output
from gateway.core.endpoints import Condition, Duplex, Endpoint
from gateway.core.events import Quality
from gateway.errors import PeerError
from gateway.protocols.modbus_points import BIT_TABLES, Batch, Liveness, Span, batches

READ_BACK_S: Final = 1.0
REFUSED_S: Final = 10.0
"""How often what the device refused is asked for again."""
FAULT: Final = "io-fault"


class _Poll:
    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.due = 0.0
        self.told = b""
        """The answer that went over the wire last."""


class Device:
    """Driven by its line through `turn`, `step` and `finish`, and by the adapter's actions."""

    def __init__(self, network: str, local: str, config: DeviceConfig, host: Host) -> None:
        self.config, self.host = config, host
        self.id = f"{network}/{local}"
        self.line: Line | None = None
        """None before and after a run."""
        self.alarms = Alarms(host, self.id)
        self.outputs = {
            name: Output(name, relay, host, wake=self._wake, report=self._report)
            for name, relay in config.relays.items()
        }
        self.inputs: dict[str, Input] = {}
        spans: list[Span] = []
        for name, contact in config.contacts.items():
            self.inputs[name] = ContactInput(name, contact, self.alarms)
            spans.append(contact.span(name, config.poll_s))
        for name, register in config.registers.items():
            self.inputs[name] = RegisterInput(name, register, self.alarms)
            spans.append(register.span(name, config.poll_s))
        for name, loop in config.supervised.items():
            self.inputs[name] = SupervisedInput(name, loop, self.alarms)
            spans.append(loop.span(name, config.poll_s))
        for name, relay in config.relays.items():
            if relay.verify:
                spans.append(relay.span(name, READ_BACK_S))
        self._polls = [
            _Poll(batch) for batch in batches(spans, gap=config.gap, maximum=config.batch)
        ]
        self._liveness = Liveness(config.missed)
        self._reason = ""
        self._refused: dict[str, str] = {}
        self._failed: dict[str, str] = {}
        self._not_before = 0.0

    # What others see

    @property
    def endpoint(self) -> Endpoint:
        """As it is now."""
        config = self.config
        condition, reason = self._condition()
        return Endpoint(
            id=self.id,
            label=config.label,
            location=config.location,
            duplex=Duplex.NONE,
            can_ring=False,
            inputs=tuple(self.inputs),
            outputs=tuple(self.outputs),
            alarm=True,
            condition=condition,
            reason=reason,
            detail={**self._refused, **self._failed},
        )

    def _condition(self) -> tuple[Condition, str]:
        if self._liveness.alive is None:
            return Condition.UNKNOWN, "not heard from yet"
        if not self._liveness.alive:
            return Condition.DOWN, self._reason
        points = {span.name for poll in self._polls for span in poll.batch.spans}
        if points and points <= self._refused.keys():
            name, why = next(iter(self._refused.items()))
            return Condition.DOWN, f"it refuses everything: {name}: {why}"
        return Condition.UP, ""

    def safe(self) -> None:
        """All outputs to their safe state."""
        for output in self.outputs.values():
            output.safe()

    def stop(self) -> None:
        """Cancel all timers."""
        for output in self.outputs.values():
            output.stop()

    # What the line asks of it

    def turn(self) -> tuple[int, float]:
        """Its class (0 for a command, 1 for a poll) and when it wants to ask something."""
        writes = [output.due for output in self._pending()]
        poll = self._next_poll()
        if not writes:
            return 1, max(poll.due if poll else float("inf"), self._not_before)
        due = max(min(writes), self._not_before)
        if due <= self.host.now() or poll is None:
            return 0, due
        return 1, min(due, max(poll.due, self._not_before))

    async def step(self) -> None:
        """Ask one thing."""
        now = self.host.now()
        for output in self._pending():
            if output.due <= now:
                await self._write(output)
                return
        poll = self._next_poll()
        if poll is not None:
            await self._poll(poll)

    async def finish(self) -> None:
        """Write what is owed, as far as the device is there."""
        for _ in range(2):
            for output in self._pending():
                if self._liveness.alive is not False:
                    await self._write(output)

    def _pending(self) -> list[Output]:
        # A lost device gets its polls; only what somebody waits for is tried between them.
        return [
            output
            for output in self.outputs.values()
            if output.dirty and (output.commanded or self._liveness.alive is not False)
        ]

    def _next_poll(self) -> _Poll | None:
        return min(self._polls, key=lambda poll: poll.due, default=None)

    def _wake(self) -> None:
        if self.line is not None:
            self.line.wake()

    async def _ask(self, request: ModbusPDU, *, told: bytes | None = None) -> ModbusPDU:
        """told: the answer that was shown last; the same again is not shown, for a device is
        polled for years."""
        assert self.line is not None
        if told is None:
            self._show(request, outward=True)
        try:
            answer = await self.line.ask(request, self.config.timeout_s)
        except (PeerError, NoAnswer) as error:
            if told is not None:
                self._show(request, outward=True)
            self.host.wire(self.endpoint.id, str(error), kind="modbus", outward=False)
            raise
        if told is None:
            self._show(answer, outward=False)
        elif _octets(answer) != told:
            self._show(request, outward=True)
            self._show(answer, outward=False)
        return answer

    def _show(self, pdu: ModbusPDU, *, outward: bool) -> None:
        octets = frames.mbap(0, self.config.unit, _octets(pdu))
        self.host.wire(self.endpoint.id, octets, kind="modbus", outward=outward, words=_words(pdu))

    # Asking

    async def _poll(self, poll: _Poll) -> None:
        batch, config = poll.batch, self.config
        began = self.host.now()
        poll.due = began + batch.poll_s
        request = frames.read(config.unit, batch.table, batch.address, batch.count)
        try:
            answer = await self._ask(request, told=poll.told)
            poll.told = _octets(answer)
        except NoAnswer as error:
            poll.told = b""
            self._missed(str(error))
        except PeerError as error:
            poll.told = b""
            if error.status not in OURS:
                self._missed(str(error))
                return
            self._answered()
            self._refuse(poll, str(error))
        else:
            self._answered()
            raw = answer.bits if batch.table in BIT_TABLES else answer.registers
            self._take(batch, [int(word) for word in raw])

    def _take(self, batch: Batch, raw: Sequence[int]) -> None:
        now = self.host.now()
        mended = False
        for span in batch.spans:
            at = span.address - batch.address
            words = list(raw[at : at + span.count])
            mended = self._refused.pop(span.name, None) is not None or mended
            if span.name in self.outputs:
                self.outputs[span.name].seen(words)
            else:
                self.inputs[span.name].read(words, now)
        if mended:
            self.announce()

    def _refuse(self, poll: _Poll, why: str) -> None:
        batch = poll.batch
        self.host.count("modbus.refused")
        if len(batch.spans) > 1:
            # One of them is not there: asked one by one the others are.
            self._polls.remove(poll)
            self._polls += [_Poll(single) for span in batch.spans for single in batches([span])]
            return
        poll.due = self.host.now() + REFUSED_S
        span = batch.spans[0]
        text = f"{why} ({batch.table} {batch.address})"
        if self._refused.get(span.name) == text:
            return
        self._refused[span.name] = text
        self.host.log.error(
            "point refused by the device", device=self.id, point=span.name, why=text
        )
        if span.name in self.inputs:
            self.inputs[span.name].lose(Quality.BAD)
        self.announce()

    async def _write(self, output: Output) -> None:
        version, config = output.version, self.config
        try:
            request = output.request(config.unit)
            await self._ask(request)
            if output.config.verify and not output.native and output.wanted is not None:
                await self._read_back(output, version)
        except NoAnswer as error:
            if output.version == version:
                output.missed(str(error))
            self._missed(str(error))
        except PeerError as error:
            if output.version == version:
                output.missed(str(error))
            if error.status in UNREACHED:
                self._missed(str(error))
            else:
                self._answered()
        else:
            self._answered()
            if output.version == version:
                output.done()

    async def _read_back(self, output: Output, version: int) -> None:
        span = output.config.span(output.name, READ_BACK_S)
        request = frames.read(self.config.unit, span.table, span.address, span.count)
        answer = await self._ask(request)
        raw = answer.bits if span.table in BIT_TABLES else answer.registers
        words = [int(word) for word in raw[: span.count]]
        if output.version == version and output.wanted is not None:
            wanted = output.words(output.wanted)
            if words != wanted:
                raise PeerError(f"it reads back as {words}, not as {wanted}")

    # Health

    def _answered(self) -> None:
        if not self._liveness.answered():
            return
        self._reason = ""
        self.host.log.info("device answers", device=self.id)
        now = self.host.now()
        for poll in self._polls:
            poll.due = min(poll.due, now)
        self.alarms.clear(FAULT)
        self.announce()

    def _missed(self, why: str) -> None:
        config, now = self.config, self.host.now()
        self.host.count("modbus.missed_polls")
        if self.line is not None and self.line.late:
            # The answer may still come, and must not be taken for the one to the next request.
            self._not_before = now + config.timeout_s
        if self._liveness.missed():
            self._reason = why
            self.host.count("modbus.devices_lost")
            self.host.log.error("device lost", device=self.id, why=why)
            for point in self.inputs.values():
                point.lose(Quality.STALE)
            for output in self.outputs.values():
                output.lapse()
            if config.fault_severity != "none":
                self.alarms.raise_(
                    FAULT,
                    kind="fault",
                    severity=severity(config.fault_severity),
                    text=f"{config.label or self.id} does not answer: {why}",
                    trace="",
                    at=now,
                )
            self.announce()
        if self._liveness.alive is False:
            for poll in self._polls:
                poll.due = max(poll.due, now + config.retry_s)

    def _report(self, name: str, why: str) -> None:
        """An output was switched, or could not be and `why`."""
        if not why:
            self.alarms.clear(f"{name}-output")
            if self._failed.pop(name, None) is not None:
                self.announce()
            return
        if name in self._failed:
            return
        self._failed[name] = f"not switched: {why}"
        if self.config.fault_severity != "none":
            self.alarms.raise_(
                f"{name}-output",
                kind="fault",
                severity=severity(self.config.fault_severity),
                text=f"{name} of {self.config.label or self.id} is not switched: {why}",
                trace="",
                at=self.host.now(),
            )
        self.announce()

    def announce(self) -> None:
        """Tell the condition; the host says nothing when nothing changed."""
        self.host.set_endpoint(self.endpoint)


def _octets(pdu: ModbusPDU) -> bytes:
    return bytes((pdu.function_code,)) + pdu.encode()


def _words(pdu: ModbusPDU) -> str:
    values = pdu.registers or [int(bit) for bit in pdu.bits]
    about = f"address {pdu.address}" if pdu.address or not values else ""
    count = f"count {pdu.count}" if pdu.count else ""
    name = type(pdu).__name__.strip("_")
    return " ".join(part for part in (name, about, count, str(values) if values else "") if part)
