# What Python makes and gives to the worker: keys, cancellers, plays, recordings, taps. Part of
# `_engine.pyx`.

def srtp_suites(str file="libsrtp2.so.1"):
    """Which suites work (numbers as in `Srtp`), and why not if none does.

    The first call loads the library; the answer never changes afterwards.
    """
    cdef const char *why = NULL
    cdef bytes name = file.encode()
    cdef uint32_t found = ce_srtp_load(name, &why)
    return tuple(i for i in range(CE_N_SUITES) if found >> i & 1), why.decode("utf-8", "replace")


cdef class Srtp:
    """One direction's key and packet count; kept alive until `is_done`.

    Suites: 0 AES_CM_128_HMAC_SHA1_80, 1 AES_CM_128_HMAC_SHA1_32, 2 AEAD_AES_128_GCM,
    3 AEAD_AES_256_GCM; the key is the master key and its salt. A stream takes it for good.
    """
    cdef ce_srtp *k

    def __cinit__(self, int suite, const uint8_t[::1] key, bint sends):
        srtp_suites()
        if key.shape[0]:
            self.k = ce_srtp_new(suite, &key[0], <int>key.shape[0], sends)
        if self.k == NULL:
            raise ValueError("libsrtp2 does not take this suite or length of key")

    def __dealloc__(self):
        ce_srtp_free(self.k)

    def is_done(self):
        """True once the worker has let go of it."""
        return ce_is_set(&self.k.done) != 0


cdef class Echo:
    """A line echo canceller; kept alive until `is_done`. A stream takes it for good.

    tail_ms: 16, 32, 64 or 128; suppress: take the rest away too.
    """
    cdef ce_echo *e

    def __cinit__(self, int tail_ms, bint suppress):
        if tail_ms not in (16, 32, 64, 128):
            raise ValueError(f"tail_ms {tail_ms}; use 16, 32, 64 or 128")
        self.e = ce_echo_new(tail_ms, suppress)
        if self.e == NULL:
            raise MemoryError

    def __dealloc__(self):
        ce_echo_free(self.e)

    def is_done(self):
        """True once the worker has let go of it."""
        return ce_is_set(&self.e.done) != 0


cdef class Play:
    """A tone (`steps`) or samples prepared for the worker; kept alive until `is_done`."""
    cdef ce_play *p
    cdef object samples
    cdef readonly str name
    cdef readonly uint32_t id

    def __cinit__(self, uint32_t id, str name, *, steps=None, int repeat_from=-1,
                  samples=None, uint32_t rate=8000, uint32_t times=1, uint32_t gap_samples=0):
        cdef cp_tone_step st[16]
        cdef const int16_t[::1] view
        cdef int i, k
        self.p = <ce_play *>PyMem_Calloc(1, sizeof(ce_play))
        if self.p == NULL:
            raise MemoryError
        self.name, self.id = name, id
        self.p.id = id
        self.p.rate = rate
        if steps is not None:
            if not 0 < len(steps) <= CP_TONE_STEPS:
                raise ValueError(f"a tone has 1 to {CP_TONE_STEPS} steps, not {len(steps)}")
            memset(st, 0, sizeof(st))
            for i, (freqs, level, am, ms) in enumerate(steps):
                st[i].n_freqs = len(freqs)
                for k in range(len(freqs)):
                    st[i].freq_hz[k] = freqs[k]
                st[i].level_dbm0 = level
                st[i].is_am = am
                st[i].duration_ms = ms
            self.p.is_tone = 1
            if cp_tone_tx_init(&self.p.tone, st, len(steps), repeat_from, rate) < 0:
                raise ValueError("tone out of range")
        else:
            self.samples = samples
            if len(samples):
                view = memoryview(samples).cast("B").cast("h")
                self.p.pcm = &view[0]
                self.p.n_samples = len(samples) // 2
            self.p.times = times
            self.p.gap_samples = gap_samples

    def __dealloc__(self):
        PyMem_Free(self.p)

    def is_done(self):
        """True once the worker has let go of it."""
        return ce_is_set(&self.p.done) != 0


cdef class Recording:
    """Ring between the worker and the thread that writes the file."""
    cdef ce_record *r
    cdef readonly int channels
    cdef readonly int rate

    def __cinit__(self, int channels, int rate, double seconds):
        self.channels, self.rate = channels, rate
        self.r = <ce_record *>PyMem_Calloc(1, sizeof(ce_record))
        if self.r == NULL:
            raise MemoryError
        self.r.capacity = <uint32_t>(rate * seconds)
        # A power of two, so that the free-running indices may wrap at 2^32.
        cdef uint32_t n = 1
        while n < self.r.capacity:
            n *= 2
        self.r.capacity = n
        self.r.channels = channels
        self.r.rate = rate
        self.r.ring = <int16_t *>PyMem_Calloc(n * channels, sizeof(int16_t))
        if self.r.ring == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.r != NULL:
            PyMem_Free(self.r.ring)
            PyMem_Free(self.r)

    def read(self):
        """Interleaved samples (bytes) recorded since the last call."""
        cdef uint32_t n = ce_record_fill(self.r)
        cdef bytearray out = bytearray(n * self.channels * 2)
        cdef uint8_t[::1] view = out
        if n:
            ce_record_take(self.r, <int16_t *>&view[0], n)
        return bytes(out)

    def is_done(self):
        """True once the worker has let go of it."""
        return ce_is_set(&self.r.done) != 0

    @property
    def dropped(self):
        """Samples lost because the writer was too slow."""
        return self.r.dropped


cdef class Tap:
    """Ring of copied packets between the worker and whoever captures.

    A packet is a `PACKET` (struct format: CLOCK_MONOTONIC ns, octets, flags, 4 or 6, the peer's
    port, reserved, its address) and its octets, RTP or RTCP as RFC 3550 has them. Flags: 1 we sent
    it, 2 it went over the RTCP socket. Of an SRTP stream they are as on the wire, with `clear` as
    before encryption and after decryption.
    """
    cdef ce_tap *t

    def __cinit__(self, uint32_t octets, bint clear=False):
        cdef uint32_t n = 4096
        while n < octets:
            n *= 2
        self.t = <ce_tap *>PyMem_Calloc(1, sizeof(ce_tap))
        if self.t == NULL:
            raise MemoryError
        self.t.capacity = n
        self.t.clear = clear
        self.t.ring = <uint8_t *>PyMem_Calloc(n, 1)
        if self.t.ring == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.t != NULL:
            PyMem_Free(self.t.ring)
            PyMem_Free(self.t)

    def read(self):
        """Packets (bytes) since the last call."""
        cdef uint32_t n = ce_tap_fill(self.t)
        cdef bytearray out = bytearray(n)
        cdef uint8_t[::1] view = out
        if n:
            ce_tap_take(self.t, &view[0], n)
        return bytes(out)

    def is_done(self):
        """True once the worker has let go of it."""
        return ce_is_set(&self.t.done) != 0

    @property
    def dropped(self):
        """Packets lost because nobody read in time."""
        return self.t.dropped
