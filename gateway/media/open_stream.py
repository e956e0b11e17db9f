"""An open stream of the engine, and the check of what is asked of it."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.core.actions import Vox
from gateway.errors import DeviceError, UsageError
from gateway.media import _engine, shaping, srtp, tones
from gateway.media.impairments import Meter
from gateway.media.offer import RATES
from gateway.media.quality import metrics
from gateway.media.shaping import level_dbm0
from gateway.media.streams import (
    Codec,
    Direction,
    Follow,
    HeaderExtension,
    MediaEvent,
    NullSpec,
    RtpSpec,
    StreamOptions,
    StreamSpec,
    StreamStats,
)

if TYPE_CHECKING:
    from gateway.media.engine import Engine

CODECS = {Codec.PCMU: 0, Codec.PCMA: 1, Codec.G722: 2, Codec.L16: 3}
"""Numbers of the codecs in `engine_impl.h`."""

PLAIN = StreamOptions()
_PTIMES = (10, 20, 30, 40, 50, 60)
_FSK = {None: 0, "bell202": 1, "v23": 2}
_FOLLOW = {follow: number for number, follow in enumerate(Follow)}
_SENDS = frozenset((Direction.SENDRECV, Direction.SENDONLY))
_RECEIVES = frozenset((Direction.SENDRECV, Direction.RECVONLY))
_DIGITS = "0123456789*#ABCD"
_ECHO_BLOCK_S = 0.01
_ECHO_BLOCKS = 10
"""Blocks that are needed for a figure."""
_RECORD_RING_S = 8.0
_FRAME_S = 0.02
_DRIFT_SPANS = 8
_DRIFT_NOISE_US = 3000
"""How far the quickest packet of a second may lie from where a steady clock would have it."""


def ratio(db: float) -> float:
    """Linear gain of decibels."""
    return float(10.0 ** (db / 20.0))


def wideband_of(codec: Codec, rate: int, what: str) -> bool:
    """Whether the codec runs at 16 kHz; `UsageError` for a rate it does not have."""
    if rate not in RATES[codec]:
        legal = " or ".join(str(r) for r in RATES[codec])
        raise UsageError(f"{what}: {codec.value} at {rate} Hz; use {legal} Hz")
    return rate == 16000


@lru_cache(maxsize=256)
def _is_address(text: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, text.partition("%")[0])
        except (OSError, ValueError):  # what cannot be encoded, or holds a zero octet
            continue
        return True
    return False


def rtp_config(spec: RtpSpec) -> dict[str, Any]:
    """A checked spec as the worker takes it; `UsageError` names what makes no sense."""
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
    if spec.comfort_noise is not None and not 0 <= spec.comfort_noise <= 127:
        raise UsageError(f"comfort_noise {spec.comfort_noise}; use 0 to 127")
    if not 0 <= spec.jitter_min_ms <= spec.jitter_max_ms:
        raise UsageError("jitter_min_ms must be 0 to jitter_max_ms")
    wideband = wideband_of(spec.codec, spec.rate if spec.codec is not Codec.G722 else 16000, "RTP")
    if spec.remote_ip:
        if not _is_address(spec.remote_ip):
            raise UsageError(f"remote_ip {spec.remote_ip!r} is not an IP address")
        if (":" in spec.remote_ip) != (":" in spec.local_ip):
            raise UsageError(f"{spec.local_ip} cannot send to {spec.remote_ip}: IPv4 and IPv6")
    return {
        "remote_ip": spec.remote_ip,
        "remote_port": spec.remote_port,
        "codec": CODECS[spec.codec],
        "wideband": wideband,
        "pt": spec.payload_type,
        "te_pt": spec.telephone_event,
        "ptime_ms": spec.ptime_ms,
        "tx": spec.direction in _SENDS,
        "rx": spec.direction in _RECEIVES,
        "symmetric": spec.symmetric,
        "anywhere": spec.latch_anywhere,
        "follow": _FOLLOW[spec.follow],
        "latch_ms": spec.latch_ms,
        "timeout_ms": round(spec.media_timeout_s * 1000),
        "jitter_min_ms": spec.jitter_min_ms,
        "jitter_max_ms": spec.jitter_max_ms,
        "pass_ext": spec.pass_extensions,
        "cn_pt": spec.comfort_noise,
        "cn_send": spec.suppress_silence,
        "xr_metrics": spec.xr_metrics,
        "xr_round_trip": spec.xr_round_trip,
    }


def _cycles(tone: str) -> int:
    """Cycles whose tones the detector must hear: the tone after a pause shows that it was one."""
    return tones.ENDING_CYCLES + 1 if tone in tones.ENDING else 2


class OpenStream:
    """A stream of the engine; see `gateway.media.streams.Stream`."""

    def __init__(
        self,
        engine: Engine,
        handle: _engine.Handle,
        home: _engine.Core,
        spec: StreamSpec,
        local: tuple[str, int],
        on_event: Callable[[MediaEvent], None] | None,
    ) -> None:
        self._engine, self._handle, self._spec, self._local = engine, handle, spec, local
        self._home = home
        """The thread that carries it."""
        self._on_event = on_event
        self._options = PLAIN
        self._play: _engine.Play | None = None
        self._closed = False
        self._bridge: str | None = None
        self._watch = 0
        self._levels = (0.0, 0, 0.0, 0)
        self._shown = f"{local[0]}:{local[1]}" if local[1] else ""
        self._last: StreamStats | None = None

    def __repr__(self) -> str:
        return f"<stream {self.id} {type(self._spec).__name__} {self._local[0]}:{self._local[1]}>"

    @property
    def id(self) -> int:
        """Engine's number of this stream, unique while the engine lives."""
        return self._handle.id

    @property
    def spec(self) -> StreamSpec:
        """As last updated."""
        return self._spec

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
        return self._home

    def update(self, spec: RtpSpec) -> None:
        """Apply a new remote, codec, payload type or direction without losing the port.

        Opens the latch window again: this is the signalling that lets a source change.
        Raises `UsageError` on a closed or non-RTP stream, or when `local_ip` changes; `DeviceError`
        for SRTP without libsrtp2.
        """
        core = self._core()
        if not isinstance(self._spec, RtpSpec):
            raise UsageError(f"stream {self.id} is no RTP stream")
        if spec.local_ip != self._spec.local_ip:
            raise UsageError("local_ip cannot change while the stream is open")
        config = rtp_config(spec)
        told = srtp.change(self._spec.srtp, spec.srtp)
        self._engine._do(core.update, self._handle, config | told)
        self._engine._keep_keys(srtp.handles(told))
        self._spec = spec

    def configure(self, options: StreamOptions) -> None:
        """Replace the stream's options.

        `UsageError` for unknown tones, country or FSK name, and for a canceller, gain control or
        gate that is out of range or does not fit the stream's rate.
        """
        core = self._core()
        if not (options.detect_tones or options.detect_fsk) and options == msgspec.structs.replace(
            self._options, country=options.country
        ):
            # The worker knows no countries, and would only begin to listen for digits anew.
            self._options = options
            return
        if options.detect_fsk not in _FSK:
            raise UsageError(f"detect_fsk {options.detect_fsk!r}; use 'bell202' or 'v23'")
        patterns = []
        for index, name in enumerate(options.detect_tones):
            tone = tones.tone(options.country, name)
            step = next(step for step in tone.steps if step.frequencies_hz)
            frequencies = step.frequencies_hz[: 1 if step.modulated else 2]
            patterns.append((index, frequencies, tone.cadence_ms, _cycles(name), 1000))
        if len(patterns) > 8:
            raise UsageError("at most 8 tones can be detected at once")
        gain = shaping.gain(options.agc, options.gate)
        set_echo = options.echo != self._options.echo
        echo = shaping.canceller(options.echo, self._rate) if set_echo else None
        self._engine._do(
            core.configure,
            self._handle,
            options.detect_dtmf,
            options.mute_dtmf,
            options.digits_beside,
            _FSK[options.detect_fsk],
            ratio(options.gain_in_db),
            ratio(options.gain_out_db),
            patterns,
            gain,
            (options.agc, options.gate) != (self._options.agc, self._options.gate),
            set_echo,
            echo,
        )
        if echo is not None:
            self._engine._keep_canceller(echo)
        self._options = options

    def watch_speech(self, vox: Vox | None) -> None:
        """Report `SpeechChanged` from now on, silence being assumed; None: no more."""
        core = self._core()
        watch = self._engine._next_id()
        found = vox or Vox()
        self._engine._do(
            core.watch_speech,
            self._handle,
            vox is not None,
            shaping.mean_square(found.dbm0),
            found.attack_ms,
            found.hang_ms,
            10 ** (-found.echo_loss_db / 10),
            found.echo_ms,
            watch,
        )
        self._watch = watch if vox is not None else 0

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
        samples = self._engine._load_file(path, self._rate)
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

        At most 64 digits wait on a stream, and as many are taken at a time (`UsageError`). What
        does not fit is dropped, the newest, and counted (`StreamStats.digits_dropped`).
        """
        core = self._core()
        digits = digits.upper()
        for digit in digits:
            if digit not in _DIGITS:
                raise UsageError(f"{digit!r} is no DTMF digit; use {_DIGITS}")
        if len(digits) > _engine.MAX_DIGITS:
            raise UsageError(f"{len(digits)} digits at once; send at most {_engine.MAX_DIGITS}")
        if not (20 <= on_ms <= 5000 and 20 <= off_ms <= 5000):
            raise UsageError("on_ms and off_ms must be 20 to 5000")
        if digits:
            self._engine._do(core.send_digits, self._handle, digits.encode(), on_ms, off_ms)

    def record(self, path: str, *, both: bool = True) -> None:
        """Record to a WAV file: received left, sent right (`both`), or received only.

        A file that is there already is left alone: it is `path` with -2, -3... then. `RecordEnded`
        follows when it is complete, ends early or cannot be made. Raises `DeviceError` when too
        many wait for a disk that hangs.
        """
        self._core()
        recording = _engine.Recording(2 if both else 1, self._rate, _RECORD_RING_S)
        self._engine._record(path, recording, self)

    def stop_record(self) -> None:
        """Finish the file; harmless when nothing is recorded."""
        if not self._closed:
            self._engine._do(self._core().stop_record, self._handle)

    def attach_extension(self, extension: HeaderExtension | None) -> None:
        """Attach a header extension to every packet from the next one on, also to those that are
        relayed; None: to none. `UsageError` on a stream that is not RTP, and for a bad length.
        """
        core = self._core()
        if not isinstance(self._spec, RtpSpec):
            raise UsageError(f"stream {self.id} is no RTP stream")
        profile, data = (extension.profile, extension.data) if extension else (-1, b"")
        if extension is not None and not (
            0 <= profile <= 0xFFFF and len(data) <= 64 and len(data) % 4 == 0
        ):
            raise UsageError(
                f"header extension {profile:#x} of {len(data)} octets; use a profile of 16 bits "
                "and at most 64 octets in whole words"
            )
        self._engine._do(core.extension, self._handle, profile, data)

    def received_extension(self) -> HeaderExtension | None:
        """The last header extension that came; None: none so far, or the stream is closed."""
        found = None if self._closed else self._handle.extension()
        return HeaderExtension(*found) if found else None

    def tap(self, octets: int, *, clear: bool = False) -> _engine.Tap:
        """Copy its packets, both ways, into a ring of so many octets until `untap` or the end.

        One at a time: another one takes over from the first. Of an SRTP stream they are encrypted,
        unless `clear`.
        """
        tap = _engine.Tap(octets, clear)
        self._engine._tap(self, tap)
        return tap

    def untap(self) -> None:
        """Copy no more; harmless when nothing is copied."""
        if not self._closed:
            self._engine._tap(self, None)

    def meter(self) -> Meter | None:
        """What tells whether speech arrives, cheaply; None: closed."""
        found = None if self._closed else self._handle.meter()
        return Meter(**found) if found else None

    def stats(self) -> StreamStats:
        """Present counters; after `close`, the last ones."""
        c = None if self._closed else self._handle.counters()
        if c is None:
            return self._last or StreamStats()
        here, there = self._handle.metrics()
        before, now = self._levels, (c["sum_in"], c["n_in"], c["sum_out"], c["n_out"])
        self._levels = now
        spec, options = self._spec, self._options
        rtp = spec if isinstance(spec, RtpSpec) else None
        found = self._last = StreamStats(
            codec="" if isinstance(spec, NullSpec) else spec.codec.value,
            local=self._shown,
            remote=c["remote"],
            packets_received=c["rx_packets"],
            packets_sent=c["tx_packets"],
            packets_lost=max(0, c["lost"]),
            packets_late=c["late"],
            packets_duplicate=c["duplicate"],
            packets_refused=c["refused"],
            packets_in_kernel=c["kernel_packets"],
            moves=c["moved"],
            srtp_suite=rtp.srtp.suite.value if rtp and rtp.srtp else "",
            srtp_failed=c["srtp_failed"],
            srtp_replayed=c["srtp_replayed"],
            frames_concealed=c["concealed"],
            digits_dropped=c["dropped_digits"],
            jitter_ms=c["jitter_ms"],
            buffer_ms=c["buffer_ms"],
            level_in_dbm0=level_dbm0(now[0] - before[0], now[1] - before[1]),
            level_out_dbm0=level_dbm0(now[2] - before[2], now[3] - before[3]),
            remote_loss_percent=c["remote_loss"],
            round_trip_ms=c["round_trip_ms"],
            extensions_received=c["ext_received"],
            extensions_refused=c["ext_refused"],
            quality=metrics(here) if here else None,
            remote_quality=metrics(there) if there else None,
            silent_s=c["silent_s"],
            signalled=_signalled(rtp) if rtp else "",
            direction=rtp.direction.value if rtp else "",
            payload_type=rtp.payload_type if rtp else None,
            telephone_event=rtp is not None and rtp.telephone_event is not None,
            packets_elsewhere=c["elsewhere"],
            elsewhere=c["from"],
            packets_wrong_type=c["wrong_type"],
            wrong_type=c["last_type"],
            send_errors=c["send_errors"],
            send_error=os.strerror(c["send_errno"]) if c["send_errno"] else "",
            heard_s=c["frames"] * _FRAME_S,
            active_s=c["active"] * _FRAME_S,
            active_dbm0=level_dbm0(c["active_squares"], c["active"]),
            loudest_dbm0=level_dbm0(c["loudest"], 1),
            clipped_s=c["clipped"] * _FRAME_S,
            flat_s=c["flat"] * _FRAME_S,
            event_digits=c["event_digits"],
            inband_digits=c["inband_digits"],
            slips=c["slips"],
            drift_ppm=drift(c["transits"]),
            echo_tail_ms=options.echo.tail_ms if options.echo else 0,
            echo_delay_ms=c["echo_delay_ms"] if c["echo_found"] else None,
            erl_db=_loss(c["echo_sent"], c["echo_received"], c["echo_blocks"]),
            erle_db=_loss(c["echo_received"], c["echo_clean"], c["echo_blocks"]),
            echo_s=c["echo_blocks"] * _ECHO_BLOCK_S,
            echo_heard_s=c["echo_audible"] * _ECHO_BLOCK_S,
            agc_db=20 * math.log10(c["agc"]) if options.agc and c["agc"] > 0 else None,
        )
        return found

    def close(self) -> None:
        """Free port or descriptor and leave any bridge. Later calls do nothing."""
        self._engine._close(self)


def _signalled(spec: RtpSpec) -> str:
    if spec.remote_ip is None:
        return ""
    host = f"[{spec.remote_ip}]" if ":" in spec.remote_ip else spec.remote_ip
    return f"{host}:{spec.remote_port}"


def drift(transits: Sequence[tuple[int, int]]) -> float | None:
    """How much slower a sender's clock is, in millionths, from the quickest packets of some spans.

    transits: when each came and how long it took more than the first, in microseconds. None while
    there are too few, or when they do not lie on a line: a path that became longer is no clock.
    """
    if len(transits) < _DRIFT_SPANS:
        return None
    n = len(transits)
    mean_at = sum(at for at, _ in transits) / n
    mean = sum(transit for _, transit in transits) / n
    squares = sum((at - mean_at) ** 2 for at, _ in transits)
    if not squares:
        return None
    slope = sum((at - mean_at) * (transit - mean) for at, transit in transits) / squares
    worst = max(abs(transit - mean - slope * (at - mean_at)) for at, transit in transits)
    shift = abs(slope) * (transits[-1][0] - transits[0][0])
    if worst > max(_DRIFT_NOISE_US, shift / 5):
        return None
    return slope * 1e6


def _loss(before: float, after: float, n_blocks: int) -> float | None:
    if n_blocks < _ECHO_BLOCKS or before <= 0:
        return None
    return 10.0 * math.log10(before / max(after, 1.0))
