"""Call-progress tones: generator and detector."""

from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t

cdef extern from "tone_impl.h":
    enum:
        CP_TONE_FREQS
    enum:
        CP_TONE_STEPS
    enum:
        CP_TONE_PATTERNS
    enum:
        CP_TONE_HOP
    enum:
        CP_TONE_WINDOW

    ctypedef struct cp_tone_step:
        float freq_hz[CP_TONE_FREQS]
        float level_dbm0
        int32_t n_freqs
        int32_t is_am
        int32_t duration_ms

    ctypedef struct cp_tone_tx:
        cp_tone_step steps[CP_TONE_STEPS]
        int32_t n_steps
        int32_t repeat_from
        int32_t sample_rate
        int32_t step
        int64_t left
        uint32_t phase[CP_TONE_FREQS]
        uint32_t increment[CP_TONE_FREQS]
        float amplitude
        int32_t is_over

    ctypedef struct cp_tone_pattern:
        int32_t id
        int32_t n_freqs
        float freq_hz[2]
        int32_t n_cadence
        int32_t cadence_ms[CP_TONE_STEPS]
        int32_t n_cycles
        int32_t min_ms

    ctypedef struct cp_tone_watch:
        cp_tone_pattern pattern
        float cos_hz[2]
        float sin_hz[2]
        int32_t is_on
        int32_t run_hops
        int32_t candidate_hops
        int32_t step
        int32_t n_steps_ok
        int32_t is_armed
        float on_level

    ctypedef struct cp_tone_rx:
        float window[CP_TONE_WINDOW]
        cp_tone_watch watch[CP_TONE_PATTERNS]
        int32_t n_patterns
        int32_t fill
        int64_t n_samples
        float min_dbm0

    ctypedef struct cp_tone_event:
        int32_t id
        int64_t at_sample
        float level_dbm0

cdef int32_t tone_tx_init(cp_tone_tx *tx, const cp_tone_step *steps, int32_t n_steps,
        int32_t repeat_from, int32_t sample_rate) noexcept nogil
cdef int32_t tone_tx_read(cp_tone_tx *tx, int16_t *out, int32_t n_samples) noexcept nogil
cdef int32_t tone_rx_init(cp_tone_rx *rx, const cp_tone_pattern *patterns, int32_t n_patterns,
        float min_dbm0) noexcept nogil
cdef int32_t tone_rx_push(cp_tone_rx *rx, const int16_t *src, int32_t n_samples,
        cp_tone_event *events, int32_t max_events) noexcept nogil
