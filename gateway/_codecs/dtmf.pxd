"""DTMF receiver and generator at 8 kHz, one state per stream."""

from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint32_t

cdef extern from "dtmf_impl.h":
    enum:
        CP_DTMF_HOP
    enum:
        CP_DTMF_WINDOW

    ctypedef struct cp_dtmf_event:
        int64_t start_sample
        int32_t n_samples
        float level_dbm0
        char digit
        uint8_t is_end

    ctypedef struct cp_dtmf_rx:
        float window[CP_DTMF_WINDOW]
        float x_re[8]
        float x_im[8]
        int64_t n_samples
        int64_t start_sample
        float sum
        float peak
        float level
        float turn_re[2]
        float turn_im[2]
        int32_t fill
        int32_t candidate
        int32_t previous
        int32_t n_hits
        int32_t n_misses
        int32_t n_turns
        int32_t confirmed
        int64_t n_dropped

    ctypedef struct cp_dtmf_tx:
        uint32_t phase[2]
        uint32_t step[2]
        float amplitude[2]

    void cp_dtmf_setup() noexcept nogil
    void cp_dtmf_rx_init(cp_dtmf_rx *rx) noexcept nogil
    int32_t cp_dtmf_rx_push(cp_dtmf_rx *rx, const int16_t *src, int32_t n_samples,
            cp_dtmf_event *events, int32_t max_events) noexcept nogil
    int32_t cp_dtmf_tx_init(cp_dtmf_tx *tx, char digit, int32_t sample_rate, float level_dbm0,
            float twist_db) noexcept nogil
    void cp_dtmf_tx_read(cp_dtmf_tx *tx, int16_t *out, int32_t n_samples) noexcept nogil
