"""Handles of the real-time engine: commands in, events out, counters; no policy.

Every function is called from one thread (the event loop's) and returns at once.
"""

cimport cython
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.errno cimport errno
from libc.stdint cimport int16_t, int32_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset

from random import getrandbits

PACKET = "=qHBBHH16s"
MAX_DIGITS = CE_MAX_DIGITS
DIGIT, TONE, FSK, STARTED, TIMEOUT, PLAY_ENDED, DEVICE_FAILED, BYE, SPEECH, OTHER_TYPE = range(1, 11)


cdef int _addr_set(ce_addr *a, str ip, int port) except -1:
    import socket
    cdef bytes packed
    cdef const uint8_t *p
    memset(a, 0, sizeof(ce_addr))
    if ":" in ip:
        ip, _, scope = ip.partition("%")
        packed = socket.inet_pton(socket.AF_INET6, ip)
        p = packed
        a.in6.sin6_family = AF_INET6
        a.in6.sin6_port = htons(port)
        memcpy(&a.in6.sin6_addr, p, 16)
        if scope:
            a.in6.sin6_scope_id = socket.if_nametoindex(scope)
    else:
        packed = socket.inet_pton(socket.AF_INET, ip)
        p = packed
        a.in4.sin_family = AF_INET
        a.in4.sin_port = htons(port)
        memcpy(&a.in4.sin_addr, p, 4)
    return 0


cdef object _addr_text(const ce_addr *a):
    import socket
    if a.sa.sa_family == AF_INET6:
        ip = socket.inet_ntop(socket.AF_INET6, (<const uint8_t *>&a.in6.sin6_addr)[:16])
        return f"[{ip}]:{ntohs(a.in6.sin6_port)}"
    if a.sa.sa_family == AF_INET:
        ip = socket.inet_ntop(socket.AF_INET, (<const uint8_t *>&a.in4.sin_addr)[:4])
        return f"{ip}:{ntohs(a.in4.sin_port)}"
    return ""


cdef int _rtp_config(ce_rtp_config *c, dict f) except -1:
    memset(c, 0, sizeof(ce_rtp_config))
    if f.get("remote_ip"):
        _addr_set(&c.remote, f["remote_ip"], f["remote_port"])
        c.remote_set = 1
    c.codec = f["codec"]
    c.wideband = f["wideband"]
    c.pt = f.get("pt", 0)
    te = f.get("te_pt")
    c.te_pt = CE_NO_PT if te is None else te
    c.ptime_ms = f.get("ptime_ms", 20)
    c.tx = f.get("tx", 1)
    c.rx = f.get("rx", 1)
    c.symmetric = f.get("symmetric", 0)
    c.anywhere = f.get("anywhere", 0)
    c.follow = f.get("follow", 0)
    c.latch_ms = f.get("latch_ms", 0)
    c.timeout_ms = f.get("timeout_ms", 0)
    c.jitter_min_ms = f.get("jitter_min_ms", 20)
    c.jitter_max_ms = f.get("jitter_max_ms", 200)
    c.pass_ext = f.get("pass_ext", 0)
    noise = f.get("cn_pt")
    c.cn_pt = CE_NO_PT if noise is None else noise
    c.cn_send = f.get("cn_send", 0)
    c.xr_metrics = f.get("xr_metrics", 0)
    c.xr_round_trip = f.get("xr_round_trip", 0)
    cdef Srtp key
    if "srtp_in" in f:
        key = f["srtp_in"]
        c.set_srtp_in = 1
        c.srtp_in = key.k if key is not None else NULL
    if "srtp_out" in f:
        key = f["srtp_out"]
        c.set_srtp_out = 1
        c.srtp_out = key.k if key is not None else NULL
    return 0


include "engine_given.pxi"


cdef class Handle:
    """One open stream."""
    cdef ce_stream *s
    cdef readonly uint32_t id

    def __cinit__(self):
        self.s = NULL

    def counters(self):
        """Snapshot of the worker's counters as a dict; levels are running sums."""
        if self.s == NULL:
            return None
        cdef ce_counters *c = &self.s.c
        return {
            "rx_packets": c.rx_packets, "tx_packets": c.tx_packets, "refused": c.refused,
            "late": c.late, "duplicate": c.duplicate, "concealed": c.concealed,
            "srtp_failed": c.srtp_failed, "srtp_replayed": c.srtp_replayed,
            "lost": c.lost, "expected": c.expected, "slips": c.slips,
            "dropped_digits": c.dropped_digits,
            "jitter_ms": c.jitter / self.s.clock_ms if self.s.clock_ms else 0.0,
            "buffer_ms": c.buffer_ms,
            "sum_in": c.level_in.sum_squares, "n_in": c.level_in.n_samples,
            "sum_out": c.level_out.sum_squares, "n_out": c.level_out.n_samples,
            "silent_s": c.silent_frames * 0.02,
            "remote_loss": c.remote_fraction_lost * 100.0 / 256.0,
            "round_trip_ms": c.rtt_us / 1000.0 if c.have_rtt else None,
            "remote": _addr_text(&self.s.remote) if self.s.remote_set else "",
            "kernel_packets": c.kernel_packets,
            "ext_received": c.ext_received, "ext_refused": c.ext_refused, "moved": c.moved,
            "echo_found": c.echo.is_found != 0, "echo_delay_ms": c.echo.delay_ms,
            "echo_sent": c.echo.sent, "echo_received": c.echo.received,
            "echo_clean": c.echo.clean, "echo_estimate": c.echo.estimate,
            "echo_blocks": c.echo.blocks, "echo_audible": c.echo.audible,
            "agc": self.s.gain.wanted,
            **_health(&c.health),
        }

    def meter(self):
        """The few counters that tell whether speech arrives, as a dict; None when it is closed."""
        cdef ce_meter m
        if self.s == NULL:
            return None
        ce_meter_read(self.s, &m)
        return m

    def extension(self):
        """Profile and octets of the last header extension received, or None."""
        cdef ce_extension x
        if self.s == NULL or not ce_ext_read(self.s, &x):
            return None
        return x.profile, (<const uint8_t *>x.data)[:x.n]

    def metrics(self):
        """VoIP metrics (RFC 3611 4.7, its units) of what came, and what the far end reported."""
        cdef cp_voip_metrics m
        if self.s == NULL or self.s.kind != CE_RTP:
            return None, None
        here = None
        if self.s.rx_seen:
            ce_xr_metrics(self.s, &m)
            here = m
        return here, self.s.xr.there if self.s.xr.have_there else None

    def is_dead(self):
        """True once the worker has let go of it."""
        return self.s == NULL or ce_is_set(&self.s.dead) != 0

    def free(self):
        """Close the descriptors and free the memory; only when `is_dead` or stopped."""
        if self.s != NULL:
            ce_stream_free(self.s)
            self.s = NULL


cdef dict _health(ce_health *h):
    cdef int i, n = h.n_windows
    return {
        "elsewhere": h.elsewhere, "from": _addr_text(&h.last_from) if h.elsewhere else "",
        "wrong_type": h.wrong_type, "last_type": h.last_type if h.wrong_type else None,
        "send_errors": h.send_errors, "send_errno": h.send_errno,
        "frames": h.frames, "active": h.active_frames, "clipped": h.clipped_frames,
        "flat": h.flat_frames, "active_squares": h.active_squares, "loudest": h.loudest,
        "event_digits": h.event_digits, "inband_digits": h.inband_digits,
        # The last window is not over.
        "transits": [(h.window_us[i], h.best_us[i]) for i in range(n - 1)],
    }


cdef class BridgeHandle:
    cdef ce_bridge *b

    def __cinit__(self):
        self.b = ce_bridge_new()
        if self.b == NULL:
            raise MemoryError

    def is_dead(self):
        """True once the worker has let go of it."""
        return self.b == NULL or ce_is_set(&self.b.dead) != 0

    def free(self):
        """Free the memory; only when `is_dead` or stopped."""
        ce_bridge_free(self.b)
        self.b = NULL


cdef extern from *:
    """
    static size_t ce_sizeof_stream(void) { return sizeof(ce_stream) + CE_JB_TICKS; }
    """
    size_t sizeof_stream "ce_sizeof_stream" ()


def stream_bytes():
    """Memory of one stream of G.711 or G.722 that detects nothing, in octets, without the kernel's
    socket buffers."""
    return sizeof_stream()


include "engine_kernel.pxi"


@cython.no_gc_clear  # the worker uses the kernel's memory until it has been joined
cdef class Core:
    """The worker thread. `push` methods return False when the command ring is full."""
    cdef ce_engine *e
    cdef Kernel kernel
    cdef Steer steer

    def __cinit__(self, uint32_t max_streams, bint realtime, bint uring, str cname):
        cdef bytes name = cname.encode()
        self.e = ce_engine_new(max_streams, realtime, uring, name)
        if self.e == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.e != NULL:
            with nogil:
                ce_engine_stop(self.e)
                ce_engine_free(self.e)

    def relay_in(self, Kernel kernel, uint32_t first, uint32_t n_streams):
        """Let the kernel carry relays, in places of its own from `first` on; before `start`."""
        from os import strerror
        cdef int r = ce_kernel_share_new(self.e, kernel.k, first, n_streams)
        if r:
            raise OSError(r, strerror(r), "socket(AF_NETLINK)")
        self.kernel = kernel

    def steer_by(self, Steer steer, int number):
        """Let packets go by shared sockets; `number` is this core's; before `start`."""
        from os import strerror
        cdef int r = ce_steer_share_new(self.e, steer.k, number)
        if r:
            raise OSError(r, strerror(r), "socket(SOCK_RAW)")
        self.steer = steer

    def start(self):
        """Start the thread; raises OSError."""
        cdef int r = ce_engine_start(self.e)
        if r:
            import os
            raise OSError(r, os.strerror(r))

    def stop(self):
        """Join the thread; handles may be freed afterwards."""
        with nogil:
            ce_engine_stop(self.e)
        self.steer = None

    @property
    def event_fd(self):
        """Readable when events wait."""
        return self.e.event_fd

    def events(self, int most=256):
        """Up to `most` events as (type, stream, a, b, c, data); data is text for STARTED."""
        cdef ce_event v
        out = []
        while len(out) < most and ce_engine_pop(self.e, &v):
            if v.type == STARTED:
                data = _addr_text(<const ce_addr *>v.data) if v.n_data else ""
            else:
                data = v.data[:v.n_data]
            out.append((v.type, v.stream, v.a, v.b, v.c, data))
        return out

    def stats(self):
        """Counters of the thread."""
        cdef ce_engine_stats s
        ce_engine_stats_get(self.e, &s)
        return s

    cdef bint _push(self, ce_command *c):
        return ce_engine_push(self.e, c) == 0

    def open_rtp(self, uint32_t id, int fd, int fd_rtcp, dict config):
        """A handle that owns the two bound sockets, or None when the ring is full."""
        cdef Handle h = Handle()
        cdef ce_command c
        memset(&c, 0, sizeof(c))
        _rtp_config(&c.u.rtp, config)
        h.s = ce_stream_new(self.e, id, CE_RTP)
        if h.s == NULL:
            raise MemoryError
        h.id = id
        h.s.fd, h.s.fd_rtcp = fd, fd_rtcp
        h.s.ssrc_out = getrandbits(32)
        c.type, c.s = CE_CMD_OPEN, h.s
        if not self._push(&c):
            h.s.fd = h.s.fd_rtcp = -1
            h.free()
            return None
        return h

    def open_other(self, uint32_t id, int fd, int codec, bint wideband, int block_bytes,
                   bint paced, bint readable, bint writable):
        """A handle for a descriptor (owned from here on), or for nothing when fd is -1."""
        cdef Handle h = Handle()
        cdef ce_command c
        memset(&c, 0, sizeof(c))
        h.s = ce_stream_new(self.e, id, CE_NULL if fd < 0 else CE_DEVICE)
        if h.s == NULL:
            raise MemoryError
        h.id = id
        h.s.fd = fd
        h.s.block_bytes = block_bytes
        h.s.paced, h.s.readable, h.s.writable = paced, readable, writable
        c.type, c.s = CE_CMD_OPEN, h.s
        c.u.rtp.codec, c.u.rtp.wideband = codec, wideband
        if not self._push(&c):
            h.s.fd = -1
            h.free()
            return None
        return h

    def open_bridge(self, bint pass_digits):
        """A bridge handle, or None when the ring is full."""
        cdef BridgeHandle b = BridgeHandle()
        cdef ce_command c
        memset(&c, 0, sizeof(c))
        b.b.pass_digits = pass_digits
        c.type, c.b = CE_CMD_BRIDGE_OPEN, b.b
        if not self._push(&c):
            b.free()
            return None
        return b

    def close_bridge(self, BridgeHandle b):
        """Members leave; free it once dead."""
        cdef ce_command c
        memset(&c, 0, sizeof(c))
        c.type, c.b = CE_CMD_BRIDGE_CLOSE, b.b
        return self._push(&c)

    def close(self, Handle h):
        """Leave any bridge, say BYE; free it once dead."""
        cdef ce_command c
        memset(&c, 0, sizeof(c))
        c.type, c.s = CE_CMD_CLOSE, h.s
        return self._push(&c)

    def has_room(self, uint32_t n):
        """Whether `n` more commands can be queued; only the caller's own thread queues any."""
        return ce_engine_room(self.e) >= n

    def move(self, Handle h, Core to):
        """Let another core take over a stream; ask both for room first. It leaves its bridge."""
        cdef ce_command c
        memset(&c, 0, sizeof(c))
        c.type, c.s = CE_CMD_RELEASE, h.s
        if not self._push(&c):
            return False
        h.s.moves += 1
        c.type, c.u.move = CE_CMD_ADOPT, h.s.moves
        return to._push(&c)

    def update(self, Handle h, dict config):
        """New remote, codec, payload types or direction."""
        cdef ce_command c
        memset(&c, 0, sizeof(c))
        _rtp_config(&c.u.rtp, config)
        c.type, c.s = CE_CMD_UPDATE, h.s
        return self._push(&c)

    def configure(self, Handle h, bint detect_dtmf, bint mute_dtmf, bint digits_beside, int fsk,
                  float gain_in, float gain_out, list patterns, dict gain, bint set_gain,
                  bint set_echo, Echo echo):
        """Detection and gains (linear); patterns are (id, freqs, cadence_ms,
        cycles, min_ms). gain: fields of `cp_gain_config`, `target` with control, `gate` with a
        gate. What is not `set` goes on as it is."""
        cdef ce_command c
        cdef int i, k
        memset(&c, 0, sizeof(c))
        c.type, c.s = CE_CMD_CONFIGURE, h.s
        c.u.configure.options.detect_dtmf = detect_dtmf
        c.u.configure.options.mute_dtmf = mute_dtmf
        c.u.configure.options.digits_beside = digits_beside
        c.u.configure.options.detect_fsk = fsk
        c.u.configure.options.gain_in = gain_in
        c.u.configure.options.gain_out = gain_out
        c.u.configure.options.gain.controls = "target" in gain
        c.u.configure.options.gain.gates = "gate" in gain
        c.u.configure.options.gain.target = gain.get("target", 1.0)
        c.u.configure.options.gain.most = gain.get("most", 1.0)
        c.u.configure.options.gain.attack = gain.get("attack", 1.0)
        c.u.configure.options.gain.release = gain.get("release", 1.0)
        c.u.configure.options.gain.gate = gain.get("gate", 0.0)
        c.u.configure.options.gain.hold_frames = gain.get("hold_frames", 0)
        c.u.configure.options.set_gain = set_gain
        c.u.configure.options.set_echo = set_echo
        c.u.configure.options.echo = echo.e if echo is not None else NULL
        if len(patterns) > CP_TONE_PATTERNS:
            raise ValueError(f"at most {CP_TONE_PATTERNS} tones at once")
        c.u.configure.options.n_tones = len(patterns)
        for i, (id, freqs, cadence, cycles, min_ms) in enumerate(patterns):
            c.u.configure.tone[i].id = id
            c.u.configure.tone[i].n_freqs = len(freqs)
            for k in range(len(freqs)):
                c.u.configure.tone[i].freq_hz[k] = freqs[k]
            c.u.configure.tone[i].n_cadence = len(cadence)
            for k in range(len(cadence)):
                c.u.configure.tone[i].cadence_ms[k] = cadence[k]
            c.u.configure.tone[i].n_cycles = cycles
            c.u.configure.tone[i].min_ms = min_ms
        return self._push(&c)

    def watch_speech(self, Handle h, bint on, double threshold, int attack_ms, int hang_ms,
                     double echo_ratio, int echo_ms, uint32_t serial):
        """Report speech in both directions; threshold is a mean square, echo_ratio of powers."""
        cdef ce_command c
        memset(&c, 0, sizeof(c))
        c.type, c.s = CE_CMD_SPEECH, h.s
        c.u.speech.on = on
        c.u.speech.threshold, c.u.speech.echo_ratio = threshold, echo_ratio
        c.u.speech.attack_ms, c.u.speech.hang_ms = attack_ms, hang_ms
        c.u.speech.n_echo = min(echo_ms // CE_FRAME_MS, CE_SPEECH_FRAMES)
        c.u.speech.serial = serial
        return self._push(&c)

    def play(self, Handle h, Play p):
        """Replace what the leg hears."""
        cdef ce_command c
        memset(&c, 0, sizeof(c))
        c.type, c.s, c.u.play = CE_CMD_PLAY, h.s, p.p
        return self._push(&c)

    def stop_play(self, Handle h):
        """The bridge is heard again."""
        cdef ce_command c
        memset(&c, 0, sizeof(c))
        c.type, c.s = CE_CMD_STOP_PLAY, h.s
        return self._push(&c)

    def send_digits(self, Handle h, bytes digits, int on_ms, int off_ms):
        """At most 64 digits wait; more are dropped, newest first."""
        cdef ce_command c
        cdef int i
        memset(&c, 0, sizeof(c))
        c.type, c.s = CE_CMD_DIGITS, h.s
        c.u.digits.n = min(len(digits), CE_MAX_DIGITS)
        for i in range(c.u.digits.n):
            c.u.digits.digits[i] = digits[i]
        c.u.digits.on_ms, c.u.digits.off_ms = on_ms, off_ms
        return self._push(&c)

    def record(self, Handle h, Recording r):
        """Frames go to the recording's ring from the next frame on."""
        cdef ce_command c
        memset(&c, 0, sizeof(c))
        c.type, c.s, c.u.record = CE_CMD_RECORD, h.s, r.r
        return self._push(&c)

    def stop_record(self, Handle h):
        """The recording becomes done."""
        cdef ce_command c
        memset(&c, 0, sizeof(c))
        c.type, c.s = CE_CMD_STOP_RECORD, h.s
        return self._push(&c)

    def tap(self, Handle h, Tap t):
        """Copies of the stream's packets go to the tap from now on; None: to nobody."""
        cdef ce_command c
        memset(&c, 0, sizeof(c))
        c.type, c.s = CE_CMD_TAP, h.s
        c.u.tap = t.t if t is not None else NULL
        return self._push(&c)

    def extension(self, Handle h, int profile, const uint8_t[::1] octets):
        """Attach a header extension (whole words) to what is sent; a negative profile: none."""
        cdef ce_command c
        memset(&c, 0, sizeof(c))
        if octets.shape[0] > CE_EXT_OCTETS or octets.shape[0] % 4:
            raise ValueError(f"a header extension has 0 to {CE_EXT_OCTETS} octets, in words")
        c.type, c.s = CE_CMD_EXTENSION, h.s
        if profile >= 0:
            c.u.extension.set = 1
            c.u.extension.profile = profile
            c.u.extension.n = octets.shape[0]
            if octets.shape[0]:
                memcpy(c.u.extension.data, &octets[0], octets.shape[0])
        return self._push(&c)

    def join(self, BridgeHandle b, Handle h, bint speaks, bint hears, float gain):
        """gain is linear."""
        cdef ce_command c
        memset(&c, 0, sizeof(c))
        c.type, c.s, c.b = CE_CMD_JOIN, h.s, b.b
        c.u.join.speaks, c.u.join.hears, c.u.join.gain = speaks, hears, gain
        return self._push(&c)

    def leave(self, BridgeHandle b, Handle h):
        """Harmless when it is not a member."""
        cdef ce_command c
        memset(&c, 0, sizeof(c))
        c.type, c.s, c.b = CE_CMD_LEAVE, h.s, b.b
        return self._push(&c)

    def set_floor(self, BridgeHandle b, Handle h):
        """h None: nobody is heard."""
        cdef ce_command c
        memset(&c, 0, sizeof(c))
        c.type, c.b = CE_CMD_FLOOR, b.b
        c.s = h.s if h is not None else NULL
        return self._push(&c)


def resample(samples, int from_hz, int to_hz):
    """16-bit mono samples (bytes) at another rate: 8000, 16000 or 48000 Hz."""
    cdef cp_resampler *r
    cdef const int16_t[::1] src
    cdef bytearray out
    cdef int16_t[::1] dst
    cdef int n, at = 0, k, put = 0, step = from_hz // 50
    cp_resample_setup()
    n = len(samples) // 2
    pad = (step - n % step) % step  # with C division -n % step is negative
    src = memoryview(bytes(samples) + bytes(2 * pad)).cast("h")
    out = bytearray((n + pad) * 2 * to_hz // from_hz)
    if not n:
        return b""
    dst = memoryview(out).cast("h")
    r = <cp_resampler *>PyMem_Calloc(1, sizeof_resampler())
    if r == NULL:
        raise MemoryError
    try:
        if cp_resampler_init(r, from_hz, to_hz) < 0:
            raise ValueError(f"cannot resample {from_hz} to {to_hz} Hz")
        while at < n + pad:
            k = cp_resample(r, &src[at], step, &dst[put], len(dst) - put)
            if k < 0:
                raise ValueError("resampling failed")
            at += step
            put += k
    finally:
        PyMem_Free(r)
    return bytes(out[:n * to_hz // from_hz * 2])


cdef extern from *:
    """
    static size_t ce_sizeof_resampler(void) { return sizeof(cp_resampler); }
    """
    size_t sizeof_resampler "ce_sizeof_resampler" ()




def decode_g711(const uint8_t[::1] octets, bint alaw):
    """16-bit samples (bytes) of G.711 octets."""
    cdef int n = <int>octets.shape[0]
    cdef bytearray out = bytearray(2 * n)
    cdef int16_t[::1] dst
    cp_g711_setup()
    if n:
        dst = memoryview(out).cast("h")
        if alaw:
            cp_alaw_decode(&octets[0], &dst[0], n)
        else:
            cp_ulaw_decode(&octets[0], &dst[0], n)
    return bytes(out)


def to_mono(samples, int channels):
    """Average of interleaved 16-bit channels (bytes in, bytes out)."""
    cdef const int16_t[::1] src = memoryview(samples).cast("h")
    cdef int n = <int>(src.shape[0] // channels), i, k
    cdef int32_t total
    cdef bytearray out = bytearray(2 * n)
    cdef int16_t[::1] dst
    if n:
        dst = memoryview(out).cast("h")
        for i in range(n):
            total = 0
            for k in range(channels):
                total += src[i * channels + k]
            dst[i] = <int16_t>(total // channels)
    return bytes(out)
