"""asyncio face of the media engine: opens streams and bridges, hands events to the loop.

Driven by its callers (all on the event loop's thread) and by the real-time thread's event
descriptor. Samples never pass through here. Every call returns at once: it queues a command
that the real-time thread carries out within its next millisecond tick.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import random
import resource
import socket
from collections.abc import Callable
from typing import Any

import msgspec

from gateway.errors import DeviceError, UsageError
from gateway.media import _engine, _ports, in_kernel, srtp, steering, wav
from gateway.media.open_stream import CODECS, PLAIN, OpenStream, ratio, rtp_config, wideband_of
from gateway.media.streams import (
    ByeReceived,
    DeviceFailed,
    DeviceSpec,
    DigitDetected,
    FskReceived,
    MediaEvent,
    MediaStarted,
    MediaTimeout,
    OtherPayload,
    PlayEnded,
    RecordEnded,
    RtpSpec,
    SpeechChanged,
    StreamOptions,
    StreamSpec,
    ToneDetected,
)

_NO_CODEC = 4
_REAP_S = 0.02


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of the real-time thread since it started."""

    running: bool
    realtime: bool
    """Scheduled SCHED_FIFO."""
    memory_locked: bool
    streams: int
    bridges: int
    threads: int
    io_uring: bool
    """Packets go through io_uring; without it (the kernel decides) through epoll, for more CPU."""
    steer: bool
    """Packets of known far ends come and go by shared sockets (`Engine.steer_refused`)."""
    steered_streams: int
    """Streams whose packets come by shared sockets now."""
    steered_packets: int
    """Of the packets received: by shared sockets."""
    steer_dropped: int
    """By the kernel, because a shared socket's buffer was full."""
    kernel: bool
    """Relays may be handed to the kernel (`Engine.kernel_refused` says why not)."""
    kernel_streams: int
    """Streams whose packets are relayed by the kernel now."""
    kernel_packets: int
    """Of the packets received and sent: by the kernel."""
    relays: int
    """Bridges whose packets pass without a jitter buffer (one codec, or the two laws of G.711)."""
    ticks: int
    wakes: int
    """Turns of the threads; each does one or more ticks."""
    late_ticks: int
    """Wakes that began more than 2 ms late."""
    skipped_ticks: int
    """Ticks given up after a stop of more than 60 ms."""
    worst_late_ms: float
    late_us_p99: int
    """99 % of all wakes were less late than this (a power of two)."""
    dropped_events: int
    send_errors: int
    packets_received: int
    packets_sent: int
    cpu_s: float
    bytes_per_stream: int
    """Memory of one stream, without the kernel's socket buffers."""


class Engine:
    """The media engine. Opens nothing until `start`; not thread-safe: use it on one loop.

    `max_streams` bounds memory and CPU, `ports` is the inclusive UDP range for RTP (even ports;
    RTCP takes the odd one above). `realtime` asks for SCHED_FIFO and locked memory, `io_uring`
    for packets in batches; it goes on without them when not permitted: `stats` tells.

    With several `threads`, streams and bridges are spread over them; a bridge lives in one, and a
    stream that joins it moves there.

    With `kernel`, what is only relayed is handed to a program at its tc ingress (Linux 6.6,
    CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON). It is taken back as soon as anybody here needs the
    packets. With `steer`, packets of known far ends come by shared sockets and leave by a raw one
    (Linux 5.9, CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW), for less CPU.
    """

    def __init__(
        self,
        *,
        max_streams: int = 512,
        ports: tuple[int, int] = (16384, 32766),
        realtime: bool = True,
        threads: int = 1,
        io_uring: bool = True,
        kernel: bool = False,
        steer: bool = False,
    ) -> None:
        low, high = ports[0] + ports[0] % 2, ports[1]
        if not 1 <= max_streams <= 65536:
            raise UsageError(f"max_streams {max_streams}; use 1 to 65536")
        if not (1024 <= low < high <= 65535):
            raise UsageError(f"ports {ports}; use a range within 1024 to 65535")
        if not 1 <= threads <= 64:
            raise UsageError(f"threads {threads}; use 1 to 64")
        self._max_streams, self._realtime = max_streams, realtime
        self._threads, self._io_uring = threads, io_uring
        self._kernel, self._steer = kernel, steer
        self.kernel_refused = ""
        """Why nothing, or not everything, is handed to the kernel although it was asked for."""
        self.steer_refused = ""
        """Why there are no shared sockets although they were asked for."""
        self._low, self._pairs = low, (high + 1 - low) // 2
        self._cores: list[_engine.Core] = []
        self._load: dict[_engine.Core, int] = {}
        """Streams of each core."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._streams: dict[int, OpenStream] = {}
        self._bridges: dict[str, tuple[_engine.BridgeHandle, _engine.Core]] = {}
        self._seats: dict[str, dict[int, OpenStream]] = {}
        """Streams by bridge and number."""
        self._unclosed: list[Callable[[], bool]] = []
        """Streams and bridges whose thread has not been told yet that they are closed."""
        self._dying: list[_engine.Handle | _engine.BridgeHandle] = []
        self._plays: dict[int, _engine.Play] = {}
        self._recordings: list[_engine.Recording] = []
        self._cut: list[_engine.Recording] = []
        """Of which nothing is written any more, but the worker still has a pointer."""
        self._taps: list[_engine.Tap] = []
        """Of which the worker may still have a pointer."""
        self._keys: list[_engine.Srtp] = []
        """The same."""
        self._cancellers: list[_engine.Echo] = []
        """The same."""
        self.on_recorded: list[Callable[[RecordEnded], None]] = []
        """Each is told, on the loop, of every recording's end: its stream mostly is closed then."""
        # While the disk hangs, as many more may wait as can be recorded at once.
        self._writer = wav.Writer(2 * max_streams)
        self._files: dict[tuple[str, int, int, int], bytes] = {}
        self._last_id = 0
        self._cursor = 0
        self._reaper: asyncio.TimerHandle | None = None

    # -- life

    async def start(self) -> None:
        """Start the real-time threads. Raises `DeviceError` when the system refuses."""
        if self._cores:
            raise UsageError("the engine is running already")
        _allow_descriptors(2 * self._max_streams + 256)
        name = f"gateway@{socket.gethostname()}"
        cores: list[_engine.Core] = []
        try:
            for _ in range(self._threads):
                core = _engine.Core(self._max_streams, self._realtime, self._io_uring, name)
                cores.append(core)
            if self._kernel:
                self.kernel_refused = in_kernel.share(cores, self._max_streams)
            if self._steer:
                self.steer_refused = steering.share(cores, self._max_streams)
            for core in cores:
                core.start()
        except OSError as error:
            for core in cores:
                core.stop()
            raise DeviceError(f"media thread: {error.strerror}") from error
        self._cores = cores
        self._load = dict.fromkeys(cores, 0)
        self._cursor = random.randrange(self._pairs)
        self._loop = asyncio.get_running_loop()
        for core in cores:
            self._loop.add_reader(core.event_fd, self._on_readable, core)

    async def stop(self) -> None:
        """Close every stream and bridge, finish recordings, end the threads.

        A disk that hangs holds it up for `wav.STOP_S`; what waits for it is cut off.
        """
        loop = self._loop
        if not self._cores or loop is None:
            return
        for stream in list(self._streams.values()):
            await _room(stream._home)
            stream.close()
        for bridge, (_, core) in list(self._bridges.items()):
            await _room(core)
            self.close_bridge(bridge)
        for core in self._cores:
            loop.remove_reader(core.event_fd)
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        for core in self._cores:
            core.stop()
        for handle in self._dying:
            handle.free()
        self._dying.clear()
        self._unclosed.clear()
        await loop.run_in_executor(None, self._writer.stop)
        self._plays.clear()
        self._recordings.clear()
        self._cut.clear()
        self._taps.clear()
        self._keys.clear()
        self._cancellers.clear()
        self._files.clear()
        self._cores, self._load, self._loop = [], {}, None

    def _least_loaded(self) -> _engine.Core:
        if not self._cores:
            raise UsageError("the engine is not running; await start() first")
        return min(self._cores, key=self._load.__getitem__)

    def _do(self, command: Callable[..., Any], *args: Any) -> Any:
        """Queue a command; a core's ring holds 1024 and is emptied every few milliseconds."""
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
        options: StreamOptions = PLAIN,
        on_event: Callable[[MediaEvent], None] | None = None,
    ) -> OpenStream:
        """Open a stream; `on_event` is called on the loop.

        Raises `DeviceError` when streams or ports are used up or the address cannot be bound,
        `UsageError` for a spec that makes no sense.
        """
        core = self._least_loaded()
        if len(self._streams) >= self._max_streams:
            raise DeviceError(
                f"all {self._max_streams} media streams are in use; raise max_streams or end calls"
            )
        self._reap()
        local = ("", 0)
        if isinstance(spec, RtpSpec):
            told = srtp.change(None, spec.srtp)
            config = rtp_config(spec) | told
            rtp, rtcp, port = self._bind(spec)
            local = (spec.local_ip, port)
            try:
                handle = self._do(core.open_rtp, self._next_id(), rtp, rtcp, config)
            except BaseException:
                os.close(rtp)
                os.close(rtcp)
                raise
            self._keep_keys(srtp.handles(told))
        elif isinstance(spec, DeviceSpec):
            handle = self._open_device(core, spec)
        else:
            if spec.rate not in (8000, 16000):
                raise UsageError(f"NullSpec.rate {spec.rate}; use 8000 or 16000")
            handle = self._do(
                core.open_other, self._next_id(), -1, _NO_CODEC, spec.rate == 16000, 0, 0, 0, 0
            )
        stream = OpenStream(self, handle, core, spec, local, on_event)
        self._streams[stream.id] = stream
        self._load[core] += 1
        if options != PLAIN:
            try:
                stream.configure(options)
            except BaseException:
                stream.close()
                raise
        return stream

    def _open_device(self, core: _engine.Core, spec: DeviceSpec) -> _engine.Handle:
        wideband = wideband_of(spec.codec, spec.rate, "DeviceSpec")
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
                CODECS[spec.codec],
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

    def _bind(self, spec: RtpSpec) -> tuple[int, int, int]:
        for _ in range(self._pairs):
            port = self._low + 2 * self._cursor
            self._cursor = (self._cursor + 1) % self._pairs
            try:
                pair = _ports.open_pair(spec.local_ip, port, spec.dscp << 2, spec.multicast_ttl)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    raise DeviceError(
                        "no file descriptor is left for an RTP socket; raise LimitNOFILE of the "
                        "service (two for each stream) or lower max_streams"
                    ) from error
                raise DeviceError(
                    f"RTP socket on {spec.local_ip}: {error.strerror or error}"
                ) from error
            return *pair, port
        last = self._low + 2 * self._pairs - 1
        raise DeviceError(
            f"no free RTP port pair in {self._low} to {last} on {spec.local_ip}; "
            "widen the port range or end calls"
        )

    def _close(self, stream: OpenStream) -> None:
        if stream._closed:
            return
        stream.stats()
        self._tell_closed(lambda: stream._home.close(stream._handle))
        stream._closed = True
        # It is told nothing any more; whoever listened mostly knows the stream: a cycle.
        stream._on_event = None
        self._unseat(stream)
        self._load[stream._home] -= 1
        del self._streams[stream.id]
        self._bury(stream._handle)

    # -- bridges

    def open_bridge(self, bridge: str, *, pass_digits: bool = True) -> None:
        """Open an empty bridge. With `pass_digits`, a digit that one leg of a pair sends is sent
        to the other (RFC 4733 where negotiated, else in-band) and its own tone is kept out.
        Raises `UsageError` when the id is taken."""
        core = self._least_loaded()
        if bridge in self._bridges:
            raise UsageError(f"bridge {bridge!r} is open already")
        self._bridges[bridge] = self._do(core.open_bridge, pass_digits), core
        self._seats[bridge] = {}

    def close_bridge(self, bridge: str) -> None:
        """Close a bridge; its members stay open and hear silence. Harmless when unknown."""
        if bridge not in self._bridges:
            return
        handle, core = self._bridges.pop(bridge)
        self._tell_closed(lambda: core.close_bridge(handle))
        for stream in self._seats.pop(bridge).values():
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
        handle, core = self._find(bridge)
        if stream._core() is not core:
            self._move(stream, core)
        self._do(core.join, handle, stream._handle, speaks, hears, ratio(gain_db))
        self._unseat(stream)
        self._seats[bridge][stream.id] = stream
        stream._bridge = bridge

    def _unseat(self, stream: OpenStream) -> None:
        if stream._bridge is not None:
            self._seats[stream._bridge].pop(stream.id, None)
            stream._bridge = None

    def _move(self, stream: OpenStream, core: _engine.Core) -> None:
        old = stream._home
        if not (old.has_room(1) and core.has_room(2)):
            raise DeviceError("the media engine takes no commands (1024 are waiting)")
        self._do(old.move, stream._handle, core)
        self._load[old] -= 1
        self._load[core] += 1
        stream._home = core

    def leave(self, bridge: str, stream: OpenStream) -> None:
        """Take a stream out of a bridge; harmless when it is not in it."""
        if stream._closed or bridge not in self._bridges:
            return
        handle, core = self._find(bridge)
        # Elsewhere it cannot be a member, and its core would not know the bridge.
        if stream._home is core:
            self._do(core.leave, handle, stream._handle)
        if stream._bridge == bridge:
            self._unseat(stream)

    def set_floor(self, bridge: str, stream: OpenStream | None) -> None:
        """Give the floor to one member: only it is heard; None: nobody is.

        The first call makes the bridge half duplex for the rest of its life.
        """
        handle, core = self._find(bridge)
        if stream is not None and stream._bridge != bridge:
            raise UsageError(f"{stream!r} is not in bridge {bridge!r}")
        floor = stream._handle if stream is not None else None
        self._do(core.set_floor, handle, floor)

    def _find(self, bridge: str) -> tuple[_engine.BridgeHandle, _engine.Core]:
        found = self._bridges.get(bridge)
        if found is None:
            raise UsageError(f"no bridge {bridge!r} is open")
        return found

    def stats(self) -> EngineStats:
        """Present counters, of all threads together; all zero when the engine is not running."""
        each = [core.stats() for core in self._cores]

        def total(name: str) -> Any:
            return sum(s[name] for s in each)

        def everywhere(name: str) -> bool:
            return bool(each) and all(s[name] for s in each)

        return EngineStats(
            running=everywhere("running"),
            realtime=everywhere("realtime"),
            memory_locked=everywhere("locked"),
            threads=len(each),
            io_uring=everywhere("uring"),
            streams=len(self._streams),
            bridges=len(self._bridges),
            steer=everywhere("steer"),
            steered_streams=total("n_steered"),
            steered_packets=total("steered_packets"),
            steer_dropped=total("steer_dropped"),
            kernel=everywhere("kernel"),
            kernel_streams=total("n_kernel"),
            kernel_packets=total("kernel_packets"),
            relays=total("n_relays"),
            ticks=total("ticks"),
            wakes=sum(sum(s["late_bins"]) for s in each),
            late_ticks=total("late_ticks"),
            skipped_ticks=total("skipped_ticks"),
            worst_late_ms=max((s["worst_late_ns"] for s in each), default=0) / 1e6,
            late_us_p99=_bin_of_p99(
                [sum(bins) for bins in zip(*(s["late_bins"] for s in each), strict=True)]
            ),
            dropped_events=total("dropped_events"),
            send_errors=total("send_errors"),
            packets_received=total("rx_packets"),
            packets_sent=total("tx_packets"),
            cpu_s=total("cpu_s"),
            bytes_per_stream=_engine.stream_bytes(),
        )

    # -- what the worker gives back

    def _keep(self, play: _engine.Play) -> None:
        self._plays[play.id] = play
        self._arm()

    def _tap(self, stream: OpenStream, tap: _engine.Tap | None) -> None:
        self._taps = [each for each in self._taps if not each.is_done()]
        self._do(stream._core().tap, stream._handle, tap)
        if tap is not None:
            self._taps.append(tap)

    def _keep_keys(self, keys: list[_engine.Srtp]) -> None:
        if keys:
            self._keys = [each for each in self._keys if not each.is_done()] + keys

    def _keep_canceller(self, canceller: _engine.Echo) -> None:
        kept = [each for each in self._cancellers if not each.is_done()]
        self._cancellers = [*kept, canceller]

    def _bury(self, handle: _engine.Handle | _engine.BridgeHandle) -> None:
        self._dying.append(handle)
        self._arm()

    def _tell_closed(self, close: Callable[[], bool]) -> None:
        # Its leg is over all the same: a full ring is no reason to keep it open.
        if not close():
            self._unclosed.append(close)
            self._arm()

    def _arm(self) -> None:
        if self._reaper is None and self._loop is not None:
            self._reaper = self._loop.call_later(_REAP_S, self._reap_later)

    def _reap_later(self) -> None:
        self._reaper = None
        self._unclosed = [close for close in self._unclosed if not close()]
        for core in self._cores:
            self._on_readable(core)
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

    def _load_file(self, path: str, rate: int) -> bytes:
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

    def _record(self, path: str, recording: _engine.Recording, stream: OpenStream) -> None:
        loop = self._loop
        assert loop is not None
        stream_id = stream.id
        self._writer.check_room()
        self._do(stream._core().record, stream._handle, recording)

        def ended(path: str, seconds: float, lost: float, error: str) -> None:
            event = RecordEnded(path=path, duration_s=seconds, dropped_s=lost, error=error)
            try:
                loop.call_soon_threadsafe(self._recorded, recording, stream_id, event)
            except RuntimeError:
                pass  # the loop has gone; the file is complete all the same

        self._cut = [each for each in self._cut if not each.is_done()]
        self._recordings.append(recording)
        self._writer.add(path, recording, ended)

    def _recorded(self, recording: _engine.Recording, stream_id: int, event: RecordEnded) -> None:
        if recording not in self._recordings:
            return  # told at the stop, when the disk hung
        self._recordings.remove(recording)
        if event.error and not recording.is_done():
            self._cut.append(recording)
        for told in self.on_recorded:
            told(event)
        self._tell(stream_id, event)

    def _tell(self, stream_id: int, event: MediaEvent) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None and stream._on_event is not None:
            stream._on_event(event)

    def _on_readable(self, core: _engine.Core) -> None:
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
        if kind == _engine.SPEECH:
            # What an earlier watch said is out of date.
            return SpeechChanged(speaking=bool(a), sent=bool(b)) if c == stream._watch else None
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
        if kind == _engine.OTHER_TYPE:
            return OtherPayload(payload_type=a)
        return None


async def _room(core: _engine.Core) -> None:
    while not core.has_room(1):  # noqa: ASYNC110 (the worker reports no taking of commands)
        await asyncio.sleep(0.005)


def _allow_descriptors(wanted: int) -> None:
    """Raise the process's soft limit as far as the hard one lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _bin_of_p99(bins: list[int]) -> int:
    """Upper edge in microseconds of the bin 99 % lie below: bin n ends at 2^n."""
    seen, wanted = 0, 0.99 * sum(bins)
    for exponent, n in enumerate(bins):
        seen += n
        if n and seen >= wanted:
            return 1 << exponent
    return 0
