"""Caller-identification FSK."""

from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint32_t

cdef extern from "fsk_impl.h":
    enum:
        CP_FSK_MESSAGE
    enum:
        CP_FSK_WINDOW
    enum:
        CP_FSK_BELL202
        CP_FSK_V23

    ctypedef struct cp_fsk_tx:
        uint8_t message[CP_FSK_MESSAGE]
        int32_t n_message
        int32_t n_seizure
        int32_t n_mark
        int32_t n_tail
        int32_t bit
        int32_t sample_rate
        uint32_t baud_phase
        uint32_t baud_step
        uint32_t phase
        uint32_t step[2]
        float amplitude

    ctypedef struct cp_fsk_rx:
        float ring[CP_FSK_WINDOW][4]
        float energy[CP_FSK_WINDOW]
        uint32_t osc[2]
        uint32_t step[2]
        int32_t at
        int32_t window
        int32_t sample_rate
        float min_energy
        float samples_per_bit
        float until_bit
        float slice
        float tone_power
        float all_power
        int32_t bit_index
        uint32_t shift
        int32_t last_bit
        int32_t n_mark
        int32_t n_idle
        int32_t has_carrier
        int32_t in_message
        int64_t n_framing
        int64_t n_dropped

    int32_t cp_fsk_tx_init(cp_fsk_tx *tx, int32_t standard, int32_t sample_rate,
            float level_dbm0) noexcept nogil
    int32_t cp_fsk_tx_start(cp_fsk_tx *tx, const uint8_t *message, int32_t len,
            int32_t seizure_bits, int32_t mark_bits, int32_t tail_bits) noexcept nogil
    int32_t cp_fsk_tx_read(cp_fsk_tx *tx, int16_t *out, int32_t n_samples) noexcept nogil
    int32_t cp_fsk_rx_init(cp_fsk_rx *rx, int32_t standard, int32_t sample_rate) noexcept nogil
    int32_t cp_fsk_rx_push(cp_fsk_rx *rx, const int16_t *src, int32_t n_samples, uint8_t *out,
            int32_t cap) noexcept nogil
