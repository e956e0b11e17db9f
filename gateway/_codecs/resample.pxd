"""8, 16 and 48 kHz conversion, one state per stream."""

from libc.stdint cimport int16_t, int32_t

cdef extern from "resample_impl.h":
    enum:
        CP_RESAMPLE_TAPS
    enum:
        CP_RESAMPLE_PHASES
    enum:
        CP_RESAMPLE_MAX_MS

    ctypedef struct cp_resampler:
        int32_t up
        int32_t down
        int32_t taps
        int32_t in_per_ms
        float history[CP_RESAMPLE_PHASES][CP_RESAMPLE_TAPS]

    void cp_resample_setup() noexcept nogil
    int32_t cp_resampler_init(cp_resampler *r, int32_t from_hz, int32_t to_hz) noexcept nogil
    int32_t cp_resample(cp_resampler *r, const int16_t *src, int32_t n_in, int16_t *out,
            int32_t cap) noexcept nogil
