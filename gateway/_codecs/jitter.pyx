"""Adaptive jitter buffer: a fixed ring keyed by sequence number."""

from collections import namedtuple

from libc.stdlib cimport free, malloc

from gateway._codecs.edge cimport octets, u8
from gateway.errors import UsageError




JitterFrame = namedtuple("JitterFrame", "kind payload timestamp seq payload_type marker duration")
JitterStats = namedtuple(
    "JitterStats",
    "n_received n_played n_lost n_late n_duplicate n_reordered n_overflow n_shrunk n_empty "
    "n_restarts n_stray n_too_long depth_ms target_ms jitter_ms ptime_ms")
FRAME, LOST, PAUSE, EMPTY, WAITING = (
    CP_JITTER_FRAME, CP_JITTER_LOST, CP_JITTER_PAUSE, CP_JITTER_EMPTY, CP_JITTER_WAITING)
STORED, RESTARTED, DUPLICATE, LATE, TOO_LONG, STRAY = (
    CP_JITTER_STORED, CP_JITTER_RESTARTED, CP_JITTER_DUPLICATE, CP_JITTER_LATE,
    CP_JITTER_TOO_LONG, CP_JITTER_STRAY)


def size_of(int32_t n_slots=64, int32_t slot_bytes=960) -> int:
    """Octets of one buffer; 0 if the limits are out of range."""
    return cp_jitter_size(n_slots, slot_bytes)


cdef class JitterBuffer:
    """One received stream. Packet in, packet out; the caller paces `get` by its audio clock."""

    cdef cp_jitter *state

    def __cinit__(self, *, int32_t clock_rate=8000, int32_t min_ms=20, int32_t max_ms=200,
                  int32_t n_slots=64, int32_t slot_bytes=960):
        cdef size_t size = cp_jitter_size(n_slots, slot_bytes)
        if size == 0:
            raise UsageError(f"jitter buffer of {n_slots} slots of {slot_bytes} octets: a power of "
                             "two from 8 to 1024, 1 to 65535 octets")
        self.state = <cp_jitter *>malloc(size)
        if self.state is NULL:
            raise MemoryError
        if cp_jitter_init(self.state, n_slots, slot_bytes, clock_rate, min_ms, max_ms) < 0:
            raise UsageError(f"jitter buffer {min_ms} to {max_ms} ms at {clock_rate} Hz: "
                             "0 <= min <= max <= 2000, 1000 to 192000 Hz")

    def __dealloc__(self):
        free(self.state)

    def reset(self):
        """Forget the stream; limits and counters stay."""
        cp_jitter_reset(self.state)

    def put(self, uint16_t seq, uint32_t timestamp, payload, double now, *, uint32_t ssrc=1,
            uint8_t payload_type=0, bint marker=False) -> int:
        """File one packet that arrived at `now` seconds; says what became of it (STORED ...)."""
        cdef bytes data = octets(payload)
        return cp_jitter_put(self.state, seq, timestamp, ssrc, payload_type, marker, u8(data),
                             <int32_t>len(data), <int64_t>(now * 1e9))

    def skip(self, uint16_t seq, uint32_t ssrc=1):
        """This sequence number carried no audio: pass it over."""
        cp_jitter_skip(self.state, seq, ssrc)

    def get(self, double now):
        """What to play next, for `duration` timestamp units."""
        cdef cp_jitter_frame frame
        kind = cp_jitter_get(self.state, <int64_t>(now * 1e9), &frame)
        payload = None
        if kind == CP_JITTER_FRAME:
            payload = <bytes>frame.payload[:frame.payload_len]
        return JitterFrame(kind, payload, frame.timestamp, frame.seq, frame.payload_type,
                           bool(frame.marker), frame.duration)

    @property
    def stats(self):
        cdef cp_jitter_stats s
        cp_jitter_read_stats(self.state, &s)
        return JitterStats(s.n_received, s.n_played, s.n_lost, s.n_late, s.n_duplicate,
                           s.n_reordered, s.n_overflow, s.n_shrunk, s.n_empty, s.n_restarts,
                           s.n_stray, s.n_too_long, s.depth_ms, s.target_ms, s.jitter_ms,
                           s.ptime_ms)
