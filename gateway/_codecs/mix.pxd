"""Mixing, gain and level."""

from libc.stdint cimport int16_t, int32_t, int64_t

cdef extern from "mix_impl.h":
    const float CP_FULL_SCALE_DBM0
    const float CP_SILENCE_DBM0

    ctypedef struct cp_level:
        double sum_squares
        int64_t n_samples
        int64_t n_clipped
        int32_t peak

    int64_t cp_mix_minus_one(const int16_t *const *src, const float *gain, int16_t *const *out,
            int32_t n_streams, int32_t n_samples) noexcept nogil
    int64_t cp_mix_sum(const int16_t *const *src, const float *gain, int16_t *out,
            int32_t n_streams, int32_t n_samples) noexcept nogil
    int64_t cp_apply_gain(const int16_t *src, int16_t *out, int32_t n_samples,
            float gain) noexcept nogil
    float cp_gain_from_db(float db) noexcept nogil
    void cp_level_reset(cp_level *level) noexcept nogil
    void cp_level_add(cp_level *level, const int16_t *src, int32_t n_samples) noexcept nogil
    float cp_level_rms_dbm0(const cp_level *level) noexcept nogil
    float cp_level_peak_dbm0(const cp_level *level) noexcept nogil
