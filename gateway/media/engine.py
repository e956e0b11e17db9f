"""asyncio face of the media engine: opens streams and bridges, hands events to the loop.

Driven by its callers (all on the event loop's thread) and by the real-time thread's event
descriptor. Samples never pass through here. Every call returns at once: it queues a command
that the real-time thread carries out within its next millisecond tick.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import math
import os
import random
import socket
from collections.abc import Callable
from typing import Any

import msgspec

from gateway.errors import DeviceError, UsageError
from gateway.media import _engine, tones, wav
from gateway.media.offer import RATES
from gateway.media.streams import (
    ByeReceived,
    Codec,
    DeviceFailed,
    DeviceSpec,
    DigitDetected,
    Direction,
    FskReceived,
    MediaEvent,
    MediaStarted,
    MediaTimeout,
    NullSpec,
    PlayEnded,
    RecordEnded,
    RtpSpec,
    StreamOptions,
    StreamSpec,
    StreamStats,
    ToneDetected,
)

_CODECS = {Codec.PCMU: 0, Codec.PCMA: 1, Codec.G722: 2, Codec.L16: 3}
_NO_CODEC = 4
_PTIMES = (10, 20, 30, 40, 50, 60)
_FSK = {None: 0, "bell202": 1, "v23": 2}
_DIGITS = "0123456789*#ABCD"
_FULL_SCALE_DBM0 = 3.14
_RECORD_RING_S = 4.0
_REAP_S = 0.02


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of the real-time thread since it started."""

    running: bool
    realtime: bool
    """Scheduled SCHED_FIFO."""
    memory_locked: bool
    streams: int
    bridges: int
    relays: int
    """Bridges whose packets pass untouched."""
    ticks: int
    late_ticks: int
    """Ticks that began more than 2 ms late."""
    skipped_ticks: int
    """Ticks given up after a stop of more than 60 ms."""
    worst_late_ms: float
    dropped_events: int
    send_errors: int
    packets_received: int
    packets_sent: int
    cpu_s: float
    bytes_per_stream: int
    """Memory of one stream, without the kernel's socket buffers."""


def _ratio(db: float) -> float:
    return float(10.0 ** (db / 20.0))


def _wideband(codec: Codec, rate: int, what: str) -> bool:
    if rate not in RATES[codec]:
        legal = " or ".join(str(r) for r in RATES[codec])
        raise UsageError(f"{what}: {codec.value} at {rate} Hz; use {legal} Hz")
    return rate == 16000


def _rtp_config(spec: RtpSpec) -> dict[str, Any]:
    if not spec.local_ip:
        raise UsageError("RtpSpec.local_ip is empty; name the address to bind")
    if spec.ptime_ms not in _PTIMES:
        raise UsageError(f"ptime_ms {spec.ptime_ms}; use one of {_PTIMES}")
    if spec.remote_ip and not 1 <= spec.remote_port <= 65535:
        raise UsageError(f"remote_port {spec.remote_port} for {spec.remote_ip}; use 1 to 65535")
    if not 0 <= spec.payload_type <= 127:
        raise UsageError(f"payload_type {spec.payload_type}; use 0 to 127")
    if spec.telephone_event is not None and not 0 <= spec.telephone_event <= 127:
        raise UsageError(f"telephone_event {spec.telephone_event}; use 0 to 127")
    if not 0 <= spec.jitter_min_ms <= spec.jitter_max_ms:
        raise UsageError("jitter_min_ms must be 0 to jitter_max_ms")
    wideband = _wideband(spec.codec, spec.rate if spec.codec is not Codec.G722 else 16000, "RTP")
    if spec.remote_ip:
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                socket.inet_pton(family, spec.remote_ip.partition("%")[0])
            except OSError:
                continue
            break
        else:
            raise UsageError(f"remote_ip {spec.remote_ip!r} is not an IP address")
        if (":" in spec.remote_ip) != (":" in spec.local_ip):
            raise UsageError(f"{spec.local_ip} cannot send to {spec.remote_ip}: IPv4 and IPv6")
    return {
        "remote_ip": spec.remote_ip,
        "remote_port": spec.remote_port,
        "codec": _CODECS[spec.codec],
        "wideband": wideband,
        "pt": spec.payload_type,
        "te_pt": spec.telephone_event,
        "ptime_ms": spec.ptime_ms,
        "tx": spec.direction in (Direction.SENDRECV, Direction.SENDONLY),
        "rx": spec.direction in (Direction.SENDRECV, Direction.RECVONLY),
        "symmetric": spec.symmetric,
        "anywhere": spec.latch_anywhere,
        "latch_ms": spec.latch_ms,
        "timeout_ms": round(spec.media_timeout_s * 1000),
        "jitter_min_ms": spec.jitter_min_ms,
        "jitter_max_ms": spec.jitter_max_ms,
    }


class OpenStream:
    """A stream of the engine; see `gateway.media.streams.Stream`."""

    def __init__(
        self,
        engine: Engine,
        handle: _engine.Handle,
        spec: StreamSpec,
        local: tuple[str, int],
        on_event: Callable[[MediaEvent], None] | None,
    ) -> None:
        self._engine, self._handle, self._spec, self._local = engine, handle, spec, local
        self._on_event = on_event
        self._options = StreamOptions()
        self._play: _engine.Play | None = None
        self._closed = False
        self._bridge: str | None = None
        self._levels = (0.0, 0, 0.0, 0)
        self._last = StreamStats()

    def __repr__(self) -> str:
        return f"<stream {self.id} {type(self._spec).__name__} {self._local[0]}:{self._local[1]}>"

    @property
    def id(self) -> int:
        """Engine's number of this stream, unique while the engine lives."""
        return self._handle.id

    @property
    def local(self) -> tuple[str, int]:
        """Bound address and port (RTP); ``("", 0)`` for other kinds."""
        return self._local

    @property
    def closed(self) -> bool:
        """True after `close`, or when the engine stopped."""
        return self._closed

    @property
    def _rate(self) -> int:
        spec = self._spec
        return 16000 if isinstance(spec, RtpSpec) and spec.codec is Codec.G722 else spec.rate

    def _core(self) -> _engine.Core:
        if self._closed:
            raise UsageError(f"stream {self.id} is closed")
        return self._engine._running()

    def update(self, spec: RtpSpec) -> None:
        """Apply a new remote, codec, payload type or direction without losing the port.

        Opens the latch window again: this is the signalling that lets a source change.
        Raises `UsageError` on a closed or non-RTP stream, or when `local_ip` changes.
        """
        core = self._core()
        if not isinstance(self._spec, RtpSpec):
            raise UsageError(f"stream {self.id} is no RTP stream")
        if spec.local_ip != self._spec.local_ip:
            raise UsageError("local_ip cannot change while the stream is open")
        config = _rtp_config(spec)
        self._engine._do(core.update, self._handle, config)
        self._spec = spec

    def configure(self, options: StreamOptions) -> None:
        """Replace the stream's options. `UsageError` for unknown tones, country or FSK name."""
        core = self._core()
        if options.detect_fsk not in _FSK:
            raise UsageError(f"detect_fsk {options.detect_fsk!r}; use 'bell202' or 'v23'")
        patterns = []
        for index, name in enumerate(options.detect_tones):
            tone = tones.tone(options.country, name)
            step = next(step for step in tone.steps if step.frequencies_hz)
            frequencies = step.frequencies_hz[: 1 if step.modulated else 2]
            patterns.append((index, frequencies, tone.cadence_ms, 1000))
        if len(patterns) > 8:
            raise UsageError("at most 8 tones can be detected at once")
        self._engine._do(
            core.configure,
            self._handle,
            options.detect_dtmf,
            options.mute_dtmf,
            _FSK[options.detect_fsk],
            _ratio(options.gain_in_db),
            _ratio(options.gain_out_db),
            patterns,
        )
        self._options = options

    def play_tone(self, tone: str, *, play: str = "", repeat: bool = True) -> None:
        """Play a call-progress tone to this leg instead of what its bridge says.

        With `repeat` off the cadence is played once. Unknown tone: `UsageError`.
        """
        core = self._core()
        found = tones.tone(self._options.country, tone)
        steps = [
            (step.frequencies_hz, step.level_dbm0, step.modulated, step.duration_ms)
            for step in found.steps
        ]
        self._start(
            core,
            _engine.Play(
                self._engine._next_id(),
                play or tone,
                steps=steps,
                repeat_from=found.repeat_from if repeat else -1,
                rate=self._rate,
            ),
        )

    def play_file(self, path: str, *, play: str = "", repeat: int = 1, gap_s: float = 0.0) -> None:
        """Play a WAV file to this leg instead of its bridge, `repeat` times (0: for ever).

        Raises `DeviceError` when the file is missing or not 8/16/48 kHz 16-bit PCM or G.711.
        """
        core = self._core()
        samples = self._engine._load(path, self._rate)
        if not samples:
            raise DeviceError(f"{path}: no audio in this WAV file")
        self._start(
            core,
            _engine.Play(
                self._engine._next_id(),
                play or path,
                samples=samples,
                rate=self._rate,
                times=repeat,
                gap_samples=round(gap_s * self._rate),
            ),
        )

    def play_samples(self, samples: bytes, *, rate: int = 8000, play: str = "") -> None:
        """Play signed 16-bit mono samples once (caller ID bursts, synthesised speech).

        Raises `UsageError` for an odd length or a rate other than 8000, 16000 or 48000 Hz.
        """
        core = self._core()
        if not samples or len(samples) % 2:
            raise UsageError("samples must be a whole, positive number of 16-bit words")
        if rate not in (8000, 16000, 48000):
            raise UsageError(f"rate {rate} Hz; use 8000, 16000 or 48000")
        if rate != self._rate:
            samples = _engine.resample(samples, rate, self._rate)
        self._start(
            core,
            _engine.Play(self._engine._next_id(), play, samples=bytes(samples), rate=self._rate),
        )

    def _start(self, core: _engine.Core, play: _engine.Play) -> None:
        self._engine._keep(play)
        self._engine._do(core.play, self._handle, play)
        self._play = play

    def stop_play(self) -> None:
        """Stop whatever plays; the bridge is heard again."""
        if not self._closed and self._play is not None:
            self._engine._do(self._core().stop_play, self._handle)
            self._engine._arm()
            self._play = None

    def send_digits(self, digits: str, *, on_ms: int = 100, off_ms: int = 100) -> None:
        """Send DTMF: as RFC 4733 where negotiated, else in-band. `UsageError` on a bad digit.

        At most 64 digits wait on a stream; what does not fit is dropped.
        """
        core = self._core()
        digits = digits.upper()
        for digit in digits:
            if digit not in _DIGITS:
                raise UsageError(f"{digit!r} is no DTMF digit; use {_DIGITS}")
        if not (20 <= on_ms <= 5000 and 20 <= off_ms <= 5000):
            raise UsageError("on_ms and off_ms must be 20 to 5000")
        if digits:
            self._engine._do(core.send_digits, self._handle, digits.encode(), on_ms, off_ms)

    def record(self, path: str, *, both: bool = True) -> None:
        """Record to a WAV file: received left, sent right (`both`), or received only.

        `RecordEnded` follows when it is complete. `DeviceError` when the file cannot be made.
        """
        core = self._core()
        recording = _engine.Recording(2 if both else 1, self._rate, _RECORD_RING_S)
        self._engine._record(path, recording, self.id)
        self._engine._do(core.record, self._handle, recording)

    def stop_record(self) -> None:
        """Finish the file; harmless when nothing is recorded."""
        if not self._closed:
            self._engine._do(self._core().stop_record, self._handle)

    def stats(self) -> StreamStats:
        """Present counters; after `close`, the last ones."""
        c = None if self._closed else self._handle.counters()
        if c is None:
            return self._last
        before, now = self._levels, (c["sum_in"], c["n_in"], c["sum_out"], c["n_out"])
        self._levels = now
        spec = self._spec
        self._last = StreamStats(
            codec="" if isinstance(spec, NullSpec) else spec.codec.value,
            local=f"{self._local[0]}:{self._local[1]}" if self._local[1] else "",
            remote=c["remote"],
            packets_received=c["rx_packets"],
            packets_sent=c["tx_packets"],
            packets_lost=max(0, c["lost"]),
            packets_late=c["late"],
            packets_duplicate=c["duplicate"],
            packets_refused=c["refused"],
            frames_concealed=c["concealed"],
            jitter_ms=c["jitter_ms"],
            buffer_ms=c["buffer_ms"],
            level_in_dbm0=_level(now[0] - before[0], now[1] - before[1]),
            level_out_dbm0=_level(now[2] - before[2], now[3] - before[3]),
            remote_loss_percent=c["remote_loss"],
            round_trip_ms=c["round_trip_ms"],
            silent_s=c["silent_s"],
        )
        return self._last

    def close(self) -> None:
        """Free port or descriptor and leave any bridge. Later calls do nothing."""
        self._engine._close(self)


def _level(sum_squares: float, n: int) -> float:
    if n <= 0 or sum_squares <= 0:
        return -99.0
    mean = sum_squares / n / (32768.0**2 / 2)
    return max(-99.0, 10.0 * math.log10(mean) + _FULL_SCALE_DBM0)


class Engine:
    """The media engine. Opens nothing until `start`; not thread-safe: use it on one loop.

    `max_streams` bounds memory and CPU, `ports` is the inclusive UDP range for RTP (even ports;
    RTCP takes the odd one above). `realtime` asks for SCHED_FIFO and locked memory and goes on
    without them when not permitted: `stats` tells.
    """

    def __init__(
        self,
        *,
        max_streams: int = 512,
        ports: tuple[int, int] = (16384, 32766),
        realtime: bool = True,
    ) -> None:
        low, high = ports[0] + ports[0] % 2, ports[1]
        if not 1 <= max_streams <= 65536:
            raise UsageError(f"max_streams {max_streams}; use 1 to 65536")
        if not (1024 <= low < high <= 65535):
            raise UsageError(f"ports {ports}; use a range within 1024 to 65535")
        self._max_streams, self._realtime = max_streams, realtime
        self._low, self._pairs = low, (high + 1 - low) // 2
        self._core: _engine.Core | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._streams: dict[int, OpenStream] = {}
        self._bridges: dict[str, _engine.BridgeHandle] = {}
        self._dying: list[_engine.Handle | _engine.BridgeHandle] = []
        self._plays: dict[int, _engine.Play] = {}
        self._recordings: list[_engine.Recording] = []
        self._writer = wav.Writer()
        self._files: dict[tuple[str, int, int, int], bytes] = {}
        self._last_id = 0
        self._cursor = 0
        self._reaper: asyncio.TimerHandle | None = None

    # -- life

    async def start(self) -> None:
        """Start the real-time thread. Raises `DeviceError` when the system refuses."""
        if self._core is not None:
            raise UsageError("the engine is running already")
        core = _engine.Core(self._max_streams, self._realtime, f"gateway@{socket.gethostname()}")
        try:
            core.start()
        except OSError as error:
            raise DeviceError(f"media thread: {error.strerror}") from error
        self._core = core
        self._cursor = random.randrange(self._pairs)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(core.event_fd, self._on_readable)

    async def stop(self) -> None:
        """Close every stream and bridge, finish recordings, end the thread."""
        core, loop = self._core, self._loop
        if core is None or loop is None:
            return
        for stream in list(self._streams.values()):
            stream.close()
        for bridge in list(self._bridges):
            self.close_bridge(bridge)
        loop.remove_reader(core.event_fd)
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        core.stop()
        for handle in self._dying:
            handle.free()
        self._dying.clear()
        await loop.run_in_executor(None, self._writer.stop)
        self._plays.clear()
        self._recordings.clear()
        self._files.clear()
        self._core = self._loop = None

    def _running(self) -> _engine.Core:
        if self._core is None:
            raise UsageError("the engine is not running; await start() first")
        return self._core

    def _do(self, command: Callable[..., Any], *args: Any) -> Any:
        """Queue a command; the ring holds 1024 and is emptied every millisecond."""
        done = command(*args)
        if done is None or done is False:
            raise DeviceError("the media engine takes no commands (1024 are waiting)")
        return done

    def _next_id(self) -> int:
        self._last_id = self._last_id % 0x7FFFFFFF + 1
        return self._last_id

    # -- streams

    def open(
        self,
        spec: StreamSpec,
        options: StreamOptions = StreamOptions(),  # noqa: B008 (frozen)
        on_event: Callable[[MediaEvent], None] | None = None,
    ) -> OpenStream:
        """Open a stream; `on_event` is called on the loop.

        Raises `DeviceError` when streams or ports are used up or the address cannot be bound,
        `UsageError` for a spec that makes no sense.
        """
        core = self._running()
        if len(self._streams) >= self._max_streams:
            raise DeviceError(
                f"all {self._max_streams} media streams are in use; raise max_streams or end calls"
            )
        self._reap()
        local = ("", 0)
        if isinstance(spec, RtpSpec):
            config = _rtp_config(spec)
            rtp, rtcp, port = self._bind(spec)
            local = (spec.local_ip, port)
            try:
                handle = self._do(
                    core.open_rtp, self._next_id(), rtp.fileno(), rtcp.fileno(), config
                )
            except BaseException:
                rtp.close()
                rtcp.close()
                raise
            rtp.detach()
            rtcp.detach()
        elif isinstance(spec, DeviceSpec):
            handle = self._open_device(core, spec)
        else:
            if spec.rate not in (8000, 16000):
                raise UsageError(f"NullSpec.rate {spec.rate}; use 8000 or 16000")
            handle = self._do(
                core.open_other, self._next_id(), -1, _NO_CODEC, spec.rate == 16000, 0, 0, 0, 0
            )
        stream = OpenStream(self, handle, spec, local, on_event)
        self._streams[stream.id] = stream
        if options != StreamOptions():
            try:
                stream.configure(options)
            except BaseException:
                stream.close()
                raise
        return stream

    def _open_device(self, core: _engine.Core, spec: DeviceSpec) -> _engine.Handle:
        wideband = _wideband(spec.codec, spec.rate, "DeviceSpec")
        if not 2 <= spec.block_bytes <= 2560:
            raise UsageError(f"block_bytes {spec.block_bytes}; use 2 to 2560")
        try:
            fd = os.dup(spec.fd)
        except OSError as error:
            raise DeviceError(f"descriptor {spec.fd}: {error.strerror}") from error
        try:
            os.set_blocking(fd, False)
            mode = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
            readable, writable = mode != os.O_WRONLY, mode != os.O_RDONLY
            handle: _engine.Handle = self._do(
                core.open_other,
                self._next_id(),
                fd,
                _CODECS[spec.codec],
                wideband,
                spec.block_bytes,
                spec.paced_by_device and readable,
                readable,
                writable,
            )
        except BaseException:
            os.close(fd)
            raise
        return handle

    def _bind(self, spec: RtpSpec) -> tuple[socket.socket, socket.socket, int]:
        family = socket.AF_INET6 if ":" in spec.local_ip else socket.AF_INET
        for _ in range(self._pairs):
            port = self._low + 2 * self._cursor
            self._cursor = (self._cursor + 1) % self._pairs
            pair: list[socket.socket] = []
            try:
                for number in (port, port + 1):
                    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
                    pair.append(sock)
                    self._set_up(sock, spec, family)
                    sock.bind((spec.local_ip, number))
            except OSError as error:
                for sock in pair:
                    sock.close()
                if error.errno == errno.EADDRINUSE:
                    continue
                raise DeviceError(
                    f"RTP socket on {spec.local_ip}: {error.strerror or error}"
                ) from error
            return pair[0], pair[1], port
        last = self._low + 2 * self._pairs - 1
        raise DeviceError(
            f"no free RTP port pair in {self._low} to {last} on {spec.local_ip}; "
            "widen the port range or end calls"
        )

    def _set_up(self, sock: socket.socket, spec: RtpSpec, family: int) -> None:
        tos = spec.dscp << 2
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, spec.multicast_ttl)
        else:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, spec.multicast_ttl)
            if not spec.local_ip.startswith("0."):
                sock.setsockopt(
                    socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(spec.local_ip)
                )

    def _close(self, stream: OpenStream) -> None:
        if stream._closed:
            return
        stream.stats()
        core = self._running()
        self._do(core.close, stream._handle)
        stream._closed = True
        del self._streams[stream.id]
        self._bury(stream._handle)

    # -- bridges

    def open_bridge(self, bridge: str, *, pass_digits: bool = True) -> None:
        """Open an empty bridge. With `pass_digits`, a digit that one leg of a pair sends is sent
        to the other (RFC 4733 where negotiated, else in-band) and its own tone is kept out.
        Raises `UsageError` when the id is taken."""
        core = self._running()
        if bridge in self._bridges:
            raise UsageError(f"bridge {bridge!r} is open already")
        self._bridges[bridge] = self._do(core.open_bridge, pass_digits)

    def close_bridge(self, bridge: str) -> None:
        """Close a bridge; its members stay open and hear silence. Harmless when unknown."""
        handle = self._bridges.pop(bridge, None)
        if handle is None:
            return
        self._do(self._running().close_bridge, handle)
        for stream in self._streams.values():
            if stream._bridge == bridge:
                stream._bridge = None
        self._bury(handle)

    def join(
        self,
        bridge: str,
        stream: OpenStream,
        *,
        speaks: bool = True,
        hears: bool = True,
        gain_db: float = 0.0,
    ) -> None:
        """Put a stream into a bridge (out of the one it was in), or change how it takes part.

        `gain_db` applies to what the others hear of it. `UsageError` for an unknown bridge.
        """
        handle = self._find(bridge)
        core = stream._core()
        self._do(core.join, handle, stream._handle, speaks, hears, _ratio(gain_db))
        stream._bridge = bridge

    def leave(self, bridge: str, stream: OpenStream) -> None:
        """Take a stream out of a bridge; harmless when it is not in it."""
        if stream._closed or bridge not in self._bridges:
            return
        self._do(self._running().leave, self._find(bridge), stream._handle)
        if stream._bridge == bridge:
            stream._bridge = None

    def set_floor(self, bridge: str, stream: OpenStream | None) -> None:
        """Give the floor to one member: only it is heard; None: nobody is.

        The first call makes the bridge half duplex for the rest of its life.
        """
        handle = self._find(bridge)
        if stream is not None and stream._bridge != bridge:
            raise UsageError(f"{stream!r} is not in bridge {bridge!r}")
        floor = stream._handle if stream is not None else None
        self._do(self._running().set_floor, handle, floor)

    def _find(self, bridge: str) -> _engine.BridgeHandle:
        handle = self._bridges.get(bridge)
        if handle is None:
            raise UsageError(f"no bridge {bridge!r} is open")
        return handle

    def stats(self) -> EngineStats:
        """Present counters; all zero when the engine is not running."""
        s = self._core.stats() if self._core is not None else {}
        return EngineStats(
            running=bool(s.get("running", False)),
            realtime=bool(s.get("realtime", False)),
            memory_locked=bool(s.get("locked", False)),
            streams=len(self._streams),
            bridges=len(self._bridges),
            relays=s.get("n_relays", 0),
            ticks=s.get("ticks", 0),
            late_ticks=s.get("late_ticks", 0),
            skipped_ticks=s.get("skipped_ticks", 0),
            worst_late_ms=s.get("worst_late_ns", 0) / 1e6,
            dropped_events=s.get("dropped_events", 0),
            send_errors=s.get("send_errors", 0),
            packets_received=s.get("rx_packets", 0),
            packets_sent=s.get("tx_packets", 0),
            cpu_s=s.get("cpu_s", 0.0),
            bytes_per_stream=_engine.stream_bytes(),
        )

    # -- what the worker gives back

    def _keep(self, play: _engine.Play) -> None:
        self._plays[play.id] = play
        self._arm()

    def _bury(self, handle: _engine.Handle | _engine.BridgeHandle) -> None:
        self._dying.append(handle)
        self._arm()

    def _arm(self) -> None:
        if self._reaper is None and self._loop is not None:
            self._reaper = self._loop.call_later(_REAP_S, self._reap_later)

    def _reap_later(self) -> None:
        self._reaper = None
        self._on_readable()
        if self._dying:
            self._arm()

    def _reap(self) -> None:
        """Free what the worker has let go of."""
        if self._dying:
            still = []
            for handle in self._dying:
                if handle.is_dead():
                    handle.free()
                else:
                    still.append(handle)
            self._dying = still

    def _load(self, path: str, rate: int) -> bytes:
        try:
            info = os.stat(path)
        except OSError as error:
            raise DeviceError(f"{path}: {error.strerror}") from error
        key = (path, rate, info.st_mtime_ns, info.st_size)
        samples = self._files.pop(key, None)
        if samples is None:
            samples = wav.load(path, rate)
        self._files[key] = samples  # least recently used go first
        while len(self._files) > 1 and sum(map(len, self._files.values())) > 64 << 20:
            del self._files[next(iter(self._files))]
        return samples

    def _record(self, path: str, recording: _engine.Recording, stream_id: int) -> None:
        loop = self._loop
        assert loop is not None

        def ended(path: str, seconds: float, lost: float, error: str) -> None:
            event = RecordEnded(path=path, duration_s=seconds, dropped_s=lost, error=error)
            try:
                loop.call_soon_threadsafe(self._recorded, recording, stream_id, event)
            except RuntimeError:
                pass  # the loop has gone; the file is complete all the same

        self._recordings.append(recording)
        try:
            self._writer.add(path, recording, ended)
        except DeviceError:
            self._recordings.remove(recording)
            raise

    def _recorded(self, recording: _engine.Recording, stream_id: int, event: RecordEnded) -> None:
        if recording in self._recordings and (not event.error or recording.is_done()):
            self._recordings.remove(recording)
        self._tell(stream_id, event)

    def _tell(self, stream_id: int, event: MediaEvent) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None and stream._on_event is not None:
            stream._on_event(event)

    def _on_readable(self) -> None:
        core = self._core
        if core is None:
            return
        try:
            os.read(core.event_fd, 8)
        except BlockingIOError:
            pass
        # A play's end is posted before it counts as done: its name is needed until then.
        done = [play for play in self._plays.values() if play.is_done()]
        while events := core.events():
            for kind, stream_id, a, b, c, data in events:
                event = self._event(kind, stream_id, a, b, c, data)
                if event is not None:
                    self._tell(stream_id, event)
        for play in done:
            self._plays.pop(play.id, None)
        self._reap()

    def _event(
        self, kind: int, stream_id: int, a: int, b: int, c: int, data: Any
    ) -> MediaEvent | None:
        stream = self._streams.get(stream_id)
        if stream is None:
            return None
        if kind == _engine.DIGIT:
            via = "inband" if c else "rfc4733"
            return DigitDetected(digit=chr(a), duration_ms=b, via=via)
        if kind == _engine.TONE:
            names = stream._options.detect_tones
            return ToneDetected(tone=names[a]) if a < len(names) else None
        if kind == _engine.FSK:
            return FskReceived(data=data)
        if kind == _engine.STARTED:
            return MediaStarted(source=data)
        if kind == _engine.TIMEOUT:
            return MediaTimeout()
        if kind == _engine.PLAY_ENDED:
            play = self._plays.get(a)
            if play is None:
                return None
            if stream._play is play:
                stream._play = None
            return PlayEnded(play=play.name)
        if kind == _engine.DEVICE_FAILED:
            return DeviceFailed(errno=a)
        if kind == _engine.BYE:
            return ByeReceived()
        return None
