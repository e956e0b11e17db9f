"""Adaptive jitter buffer."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t

cdef extern from "jitter_impl.h":
    enum:
        CP_JITTER_FRAME
        CP_JITTER_LOST
        CP_JITTER_PAUSE
        CP_JITTER_EMPTY
        CP_JITTER_WAITING
    enum:
        CP_JITTER_STORED
        CP_JITTER_RESTARTED
        CP_JITTER_DUPLICATE
        CP_JITTER_LATE
        CP_JITTER_TOO_LONG
        CP_JITTER_STRAY

    ctypedef struct cp_jitter_frame:
        const uint8_t *payload
        int32_t payload_len
        uint32_t timestamp
        uint16_t seq
        uint8_t payload_type
        uint8_t marker
        int32_t duration

    ctypedef struct cp_jitter_stats:
        int64_t n_received
        int64_t n_played
        int64_t n_lost
        int64_t n_late
        int64_t n_duplicate
        int64_t n_reordered
        int64_t n_overflow
        int64_t n_shrunk
        int64_t n_empty
        int64_t n_restarts
        int64_t n_stray
        int64_t n_too_long
        float depth_ms
        float target_ms
        float jitter_ms
        float ptime_ms

    ctypedef struct cp_jitter:
        pass

    size_t cp_jitter_size(int32_t n_slots, int32_t slot_bytes) noexcept nogil
    int32_t cp_jitter_init(cp_jitter *j, int32_t n_slots, int32_t slot_bytes, int32_t clock_rate,
            int32_t min_ms, int32_t max_ms) noexcept nogil
    void cp_jitter_reset(cp_jitter *j) noexcept nogil
    int32_t cp_jitter_put(cp_jitter *j, uint16_t seq, uint32_t timestamp, uint32_t ssrc,
            uint8_t payload_type, uint8_t marker, const uint8_t *payload, int32_t len,
            int64_t arrival_ns) noexcept nogil
    void cp_jitter_skip(cp_jitter *j, uint16_t seq, uint32_t ssrc) noexcept nogil
    int32_t cp_jitter_get(cp_jitter *j, int64_t now_ns, cp_jitter_frame *out) noexcept nogil
    void cp_jitter_read_stats(const cp_jitter *j, cp_jitter_stats *out) noexcept nogil
