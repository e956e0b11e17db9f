"""Station: one radio. Joins its leg, its transmitter, its carrier, its audio and its guard."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

import msgspec

from gateway.adapters.base import Host
from gateway.adapters.radio.config import (
    Radio,
    RigctldCarrier,
    Tone,
    UdpAudio,
    VoxCarrier,
    address,
)
from gateway.adapters.radio.guardian import Guardian, proof_file
from gateway.adapters.radio.links import Link, UsrpLink, open_audio, resolved
from gateway.adapters.radio.pump import Pump
from gateway.adapters.radio.reflector import ReflectorLink
from gateway.adapters.radio.rig import follow_carrier
from gateway.core.causes import Cause
from gateway.core.endpoints import Condition, Duplex, Endpoint
from gateway.core.events import (
    AlarmCleared,
    AlarmRaised,
    FloorReleased,
    FloorRequested,
    InputChanged,
    LegAnswered,
    LegEnded,
    LegOffered,
    Quality,
    Severity,
)
from gateway.errors import DeviceError, GatewayError
from gateway.media.streams import Codec, DeviceSpec, StreamOptions
from gateway.protocols.radio.carrier import Carrier, CarrierTiming
from gateway.protocols.radio.speech import beep, frame_bytes
from gateway.protocols.radio.transmitter import Phase, Timing, Transmitter

ALARM: Final = "transmitter"
FIRST_RETRY_S: Final = 0.25
LONGEST_RETRY_S: Final = 30.0
SETTLED_S: Final = 10.0
"""After so long a service the next failure is a new one."""


class Station:
    """One radio. Driven by the adapter's actions, its guard, its pump, and its own timer."""

    def __init__(self, endpoint: str, config: Radio, host: Host) -> None:
        self.id = endpoint
        self.config = config
        self.guardian: Guardian | None = None
        self._host = host
        self._local = endpoint.partition("/")[2]
        self._transmitter = Transmitter(
            Timing(
                lead_in_s=(config.lead_in_ms or 0) / 1000,
                tail_s=config.tail_ms / 1000,
                time_out_s=config.time_out_s,
                penalty_s=config.penalty_s,
                reset_s=config.reset_s,
            )
        )
        self._carrier = self._new_carrier()
        self._link: Link | None = None
        self._pump: Pump | None = None
        self._leg = ""
        self._connected = False
        self._from_air = False
        """The leg began with a carrier."""
        self._offered = False
        """The present carrier has already been offered as a call."""
        self._active_at = 0.0
        self._floor = False
        self._floor_due: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._up = False
        self._guarded = False
        """The guard has the key line and has seen it off."""
        self._reason = "not started"
        self._silent_key = ""
        """Leg that was told that transmitting is switched off."""
        self._line = False
        """Whether the guard was last told to key."""
        self._inputs: dict[str, float] = {}
        self._phase = Phase.IDLE
        self._timed_out = 0
        self._alarmed = False
        self._lost: asyncio.Future[str] | None = None

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint as it is now."""
        config = self.config
        detail = {"transmit": "enabled" if config.transmit else "disabled"}
        if config.key is not None:
            detail["key"] = str(type(config.key).__struct_config__.tag)
        return Endpoint(
            id=self.id,
            label=config.label,
            location=config.location,
            number=config.number,
            duplex=Duplex.HALF,
            inputs=("carrier", "ptt"),
            alarm=True,
            condition=Condition.UP if self._up else
            Condition.UNKNOWN if self._reason == "not started" else Condition.DOWN,
            reason="" if self._up or self._reason == "not started" else self._reason,
            detail=detail,
        )  # fmt: skip

    async def serve(self) -> None:
        """Open, serve, open again after a failure, until cancelled."""
        host, retry_s = self._host, FIRST_RETRY_S
        try:
            while True:
                begun = host.now()
                try:
                    reason = await self._session()
                except (OSError, GatewayError) as error:
                    reason = str(error)
                self._down(reason)
                if host.now() - begun > SETTLED_S:
                    retry_s = FIRST_RETRY_S
                await asyncio.sleep(retry_s)
                retry_s = min(LONGEST_RETRY_S, retry_s * 2)
        finally:
            self.end(self._leg, Cause.SHUTDOWN)

    async def _session(self) -> str:
        """Serve until something breaks; what."""
        config = self.config
        self._carrier = self._new_carrier()
        self._lost = asyncio.get_running_loop().create_future()
        async with contextlib.AsyncExitStack() as stack:
            tasks: list[asyncio.Task[str]] = []
            stack.push_async_callback(_put_away, tasks)
            stack.callback(self._close)
            guarded = self._guarded_by_process()
            # First of all the key line: whatever else is missing, it is off. A network's guard
            # has nothing to hold before there is a login.
            if guarded and config.audio is not None:
                self._start_guard(stack, tasks)
            self._link = link = await self._open_link()
            self._pump = pump = self._new_pump(link)
            pump.start()
            if guarded and config.audio is None:
                self._start_guard(stack, tasks)
            if isinstance(link, ReflectorLink):
                tasks.append(asyncio.create_task(link.serve(), name=f"{self.id} reflector"))
            if isinstance(config.carrier, RigctldCarrier):
                tasks.append(
                    asyncio.create_task(
                        follow_carrier(config.carrier, self._signal, self._show),
                        name=f"{self.id} carrier",
                    )
                )
            if link.fileno() >= 0 and self.guardian is not None:
                self.guardian.wire(link.fileno())
            self._guarded = self._guarded or not guarded
            self._open()
            done, _ = await asyncio.wait([*tasks, self._lost], return_when=asyncio.FIRST_COMPLETED)
            return "; ".join(each.result() for each in done)

    def _guarded_by_process(self) -> bool:
        config = self.config
        by_guard = config.carrier is not None and not isinstance(
            config.carrier, (RigctldCarrier, VoxCarrier)
        )
        return config.key is not None or config.audio is None or by_guard

    def _start_guard(
        self, stack: contextlib.AsyncExitStack, tasks: list[asyncio.Task[str]]
    ) -> None:
        self.guardian = guardian = Guardian(self._guard_config(), self._guard_says, self._release)
        guardian.start()
        stack.push_async_callback(_leave, guardian, self._close)
        tasks.append(asyncio.create_task(guardian.serve(), name=f"{self.id} guard"))

    async def _open_link(self) -> Link:
        config = self.config
        if config.reflector is not None:
            link = ReflectorLink(config.reflector)
            link.told = self._show
            try:
                await link.login()
            except BaseException:
                link.close()
                raise
            return link
        if config.usrp is not None:
            host, _ = address(await resolved(f"{config.usrp.host}:{config.usrp.port}"))
            return UsrpLink(msgspec.structs.replace(config.usrp, host=host))
        audio = config.audio
        assert audio is not None
        if isinstance(audio, UdpAudio):
            audio = msgspec.structs.replace(
                audio, listen=await resolved(audio.listen), send=await resolved(audio.send)
            )
        return open_audio(audio)

    def _new_pump(self, link: Link) -> Pump:
        config = self.config
        vox = config.carrier
        return Pump(
            link,
            tail_s=(config.squelch_tail_ms or 0) / 1000,
            look_back_s=(config.debounce_ms or 0) / 1000,
            vox=(vox.dbm0, vox.hang_ms / 1000) if isinstance(vox, VoxCarrier) else None,
            courtesy=_tone(config.courtesy, link.rate),
            carrier=self._signal,
            drained=self._drained,
            failed=self._failed,
            count=self._host.count,
        )

    def _new_carrier(self) -> Carrier:
        config = self.config
        timing = CarrierTiming(
            debounce_s=(config.debounce_ms or 0) / 1000,
            hang_s=(config.hang_ms or 0) / 1000,
            turnaround_s=(config.turnaround_ms or 0) / 1000,
        )
        networked = config.audio is None
        return Carrier(timing, heed_while_transmitting=config.full_duplex or networked)

    def _guard_config(self) -> dict[str, Any]:
        config = self.config
        carrier = config.carrier
        if isinstance(carrier, (RigctldCarrier, VoxCarrier)):
            carrier = None
        return {
            "name": self.id,
            "lease_ms": config.lease_ms,
            "proof": str(proof_file(self._host.data_dir, self._local)),
            "key": msgspec.to_builtins(config.key),
            "carrier": msgspec.to_builtins(carrier),
        }

    def _release(self) -> bytes:
        return self._link.release() if self._link is not None else b""

    # What the others tell

    def _show(self, data: bytes | str, outward: bool) -> None:
        """Let it be seen what goes between us and the radio."""
        self._host.wire(self._leg or self.id, data, kind="radio", outward=outward)

    def _guard_says(self, message: dict[str, Any]) -> None:
        now = self._host.now()
        said = (str(message[name]) for name in ("is", "on", "why", "read_back") if name in message)
        self._show(" ".join(said), outward=False)
        match message["is"]:
            case "ready":
                self._host.log.info(
                    "transmitter is off", radio=self.id, read_back=message["read_back"]
                )
                self._input("ptt", 0.0)
                self._safe_again()
                self._guarded = True
                self._open()
            case "keyed":
                self._input("ptt", 1.0)
                self._transmitter.keyed(now)
            case "unkeyed":
                self._unkeyed(message, now)
            case "carrier":
                self._carrier.signal(message["on"], now)
            case "fault":
                self._fault(message["why"])
        self._apply()

    def _unkeyed(self, message: dict[str, Any], now: float) -> None:
        self._input("ptt", 0.0)
        self._safe_again()
        self._host.log.info(
            "transmitter released", radio=self.id, why=message["why"],
            read_back=message["read_back"], took_ms=message["took_ms"],
        )  # fmt: skip
        if self._transmitter.line:
            # Not by our wish: the lease was not renewed in time.
            self._host.count("unkeyed_by_guard")
            if self.guardian is not None:
                self.guardian.lapsed()
            if self._link is not None:
                self._link.released()
            self._transmitter.unkeyed(now)
        self._open()

    def _fault(self, why: str) -> None:
        self._host.count("line_faults")
        self._transmitter.stop(self._host.now())
        self._down(why)
        if not self._alarmed:
            self._alarmed = True
            at_risk = self._inputs.get("ptt", 0.0) != 0.0
            self._host.emit(
                AlarmRaised(
                    endpoint=self.id,
                    alarm=ALARM,
                    kind="fault",
                    severity=Severity.CRITICAL if at_risk else Severity.MAJOR,
                    text=f"{self.config.label or self.id}: {why}",
                    trace=self._host.new_trace(),
                    raised_at=self._host.now(),
                )
            )

    def _safe_again(self) -> None:
        if self._alarmed:
            self._alarmed = False
            self._host.emit(AlarmCleared(endpoint=self.id, alarm=ALARM))

    def _signal(self, on: bool) -> None:
        self._carrier.signal(on, self._host.now())
        self._apply()

    def _drained(self) -> None:
        self._transmitter.drained(self._host.now())
        self._apply()

    def _failed(self, why: str) -> None:
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(why)

    # Condition

    def _open(self) -> None:
        if not self._up and self._link is not None and self._guarded:
            self._up, self._reason = True, ""
            self._host.set_endpoint(self.endpoint)

    def _down(self, reason: str) -> None:
        if self._up or self._reason != reason:
            self._host.log.warning("radio is down", radio=self.id, why=reason)
            self._host.count("losses")
        self._up, self._reason = False, reason
        self._host.set_endpoint(self.endpoint)
        if "carrier" in self._inputs:
            self._input("carrier", 0.0, Quality.STALE)
        self.end(self._leg, Cause.OUT_OF_ORDER, reason)

    def _close(self) -> None:
        if self.guardian is not None:
            self.guardian.unkey("the radio is closed")
            self.guardian = None
        self._transmitter.unkeyed(self._host.now())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._pump is not None:
            self._pump.stop()
        elif self._link is not None:
            self._link.close()
        self._pump = self._link = None
        self._guarded = False

    # The leg

    def dial(self, leg: str) -> None:
        """A telephone calls the radio: it is connected at once."""
        if not self._up:
            raise DeviceError(f"{self.id} is down: {self._reason}")
        if self._leg:
            self._host.emit(LegEnded(leg=leg, cause=Cause.BUSY))
            return
        self._leg, self._from_air = leg, False
        self._connect()

    def answer(self, leg: str) -> None:
        """The call that began on the air is taken."""
        if leg == self._leg and not self._connected:
            self._connect()

    def _connect(self) -> None:
        assert self._pump is not None
        config, leg = self.config, self._leg
        rate = self._pump.link.rate
        with self._pump.connect() as near:
            spec = DeviceSpec(
                fd=near.fileno(), codec=Codec.L16, rate=rate, block_bytes=frame_bytes(rate),
                paced_by_device=False,
            )  # fmt: skip
            options = StreamOptions(
                detect_dtmf=config.detect_dtmf,
                gain_in_db=config.gain_in_db,
                gain_out_db=config.gain_out_db,
                agc=config.agc,
                gate=config.gate,
            )
            try:
                self._host.open_stream(leg, spec, options)
            except DeviceError as error:
                self.end(leg, Cause.RESOURCE_UNAVAILABLE, str(error))
                return
        self._connected = True
        self._active_at = self._host.now()
        self._host.emit(LegAnswered(leg=leg))
        self._apply()

    def end(self, leg: str, cause: Cause, detail: str = "") -> None:
        """The leg is over; nothing when it was."""
        if not leg or leg != self._leg:
            return
        self._leg, self._connected, self._floor, self._floor_due = "", False, False, None
        self._transmitter.release(self._host.now())
        self._host.emit(LegEnded(leg=leg, cause=cause, detail=detail))
        self._apply()

    def key(self, leg: str) -> None:
        """Somebody else has the floor; again while he has."""
        if leg != self._leg or not self._connected:
            return
        if not self.config.transmit:
            if self._silent_key != leg:
                self._silent_key = leg
                self._host.count("transmit_disabled")
                self._host.log.warning(
                    "not transmitted: transmitting is disabled",
                    radio=self.id,
                    remedy="transmit = true",
                )
            return
        self._transmitter.request(self._host.now())
        self._apply()

    def unkey(self, leg: str) -> None:
        """Nobody has it any more."""
        if leg == self._leg:
            self._transmitter.release(self._host.now())
            self._apply()

    def safe(self) -> None:
        """Off at once; who speaks now must let go before it is keyed again."""
        self._transmitter.stop(self._host.now())
        self._apply()

    # What follows

    def _apply(self) -> None:
        now, transmitter, carrier = self._host.now(), self._transmitter, self._carrier
        transmitter.poll(now)
        carrier.transmitting(transmitter.line, now)
        carrier.poll(now)
        self._note_phase()
        if (pump := self._pump) is not None:
            pump.listening = transmitter.listening
            pump.ending = transmitter.phase in (Phase.DRAIN, Phase.TAIL)
            pump.speaking = transmitter.speaking or transmitter.phase is Phase.TAIL
            pump.squelch = carrier.open
        if self.guardian is not None:
            if transmitter.line != self._line:
                self._line = transmitter.line
                self._show("key" if self._line else f"unkey: {self._why()}", outward=True)
            if transmitter.line:
                self.guardian.key()
            else:
                self.guardian.unkey(self._why())
        self._give_floor(now)
        self._arm(now)

    def _note_phase(self) -> None:
        phase = self._transmitter.phase
        if phase is self._phase:
            return
        self._phase = phase
        if self._transmitter.timed_out != self._timed_out:
            self._timed_out = self._transmitter.timed_out
            self._host.count("time_outs")
            self._host.log.warning(
                "transmitted for too long", radio=self.id, time_out_s=self.config.time_out_s
            )
        if phase is not Phase.IDLE:
            self._active_at = self._host.now()

    def _why(self) -> str:
        return "time-out or safe state" if self._transmitter.phase is Phase.PENALTY else "released"

    def _give_floor(self, now: float) -> None:
        carrier, config = self._carrier, self.config
        if self._link is None:
            return
        self._input("carrier", float(carrier.busy))
        if carrier.busy:
            self._active_at, self._floor_due = now, None
            if not self._leg and config.calls and not self._offered and self._up:
                self._offer(now)
            if self._connected and not self._floor:
                self._floor = True
                self._host.emit(FloorRequested(leg=self._leg))
            return
        self._offered = False
        if self._floor and self._floor_due is None:
            tone = _tone(config.go_ahead, self._link.rate)
            if tone and self._pump is not None:
                self._pump.go_ahead(tone)
            # The floor is what lets the telephone hear the tone.
            self._floor_due = now + (config.go_ahead.ms / 1000 + 0.04 if config.go_ahead else 0.0)
        if self._floor_due is not None and now >= self._floor_due:
            self._floor, self._floor_due = False, None
            self._host.emit(FloorReleased(leg=self._leg))

    def _offer(self, now: float) -> None:
        self._offered, self._from_air = True, True
        self._leg = self._host.new_leg(self.id)
        self._host.emit(
            LegOffered(
                leg=self._leg,
                endpoint=self.id,
                called=self.config.calls,
                calling=self.config.number,
                display=self._link.talker if isinstance(self._link, ReflectorLink) else "",
                trace=self._host.new_trace(),
                demanded_at=now,
            )
        )

    def _input(self, name: str, value: float, quality: Quality = Quality.GOOD) -> None:
        known = value if quality is Quality.GOOD else -1.0
        before = self._inputs.get(name)
        if before != known:
            self._inputs[name] = known
            self._show(f"{name} {value:g}" if known >= 0 else f"{name} is lost", outward=False)
            self._host.emit(
                InputChanged(
                    endpoint=self.id, input=name, value=value, quality=quality,
                    standing=before is None,
                )
            )  # fmt: skip

    def _idle_due(self) -> float | None:
        quiet = not self._carrier.busy and self._transmitter.phase is Phase.IDLE
        if self._leg and self._connected and self._from_air and self.config.idle_s and quiet:
            return self._active_at + self.config.idle_s
        return None

    def _arm(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._idle_due()
        if due is not None and now >= due:
            self.end(self._leg, Cause.NORMAL, "nobody speaks")
            return
        dues = [
            self._transmitter.next_timeout(), self._carrier.next_timeout(), self._floor_due, due,
        ]  # fmt: skip
        known = [each for each in dues if each is not None]
        if known and self._link is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, min(known) - now), self._apply)


def _tone(tone: Tone | None, rate: int) -> bytes:
    return beep(tone.hz, tone.ms / 1000, rate, tone.dbm0) if tone else b""


async def _leave(guardian: Guardian, close: Callable[[], None]) -> None:
    close()  # says why; then the guard may go
    await guardian.stop()


async def _put_away(tasks: list[asyncio.Task[str]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
