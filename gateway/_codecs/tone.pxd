"""Call-progress tones: generator and detector."""

from libc.stdint cimport int16_t, int32_t, int64_t, uint32_t

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
        CP_TONE_BINS
    enum:
        CP_TONE_RUNS

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
        int32_t n_bins
        int32_t bin[2]
        int32_t is_merged
        int32_t n_hits
        int32_t n_misses
        int32_t n_turns
        int32_t n_loud
        int32_t is_reported
        float sum
        float peak
        float recent[3]
        float inner
        int32_t n_inner
        float tone_power
        float all_power
        float turn_re[2]
        float turn_im[2]
        float power_before
        double start_hop
        double end_hop
        float last_peak
        int32_t n_runs
        int32_t run_ms[CP_TONE_RUNS]

    ctypedef struct cp_tone_rx:
        float freq_hz[CP_TONE_BINS]
        float coefficient[CP_TONE_BINS]
        float end_re[CP_TONE_BINS]
        float end_im[CP_TONE_BINS]
        float hop_re[CP_TONE_BINS]
        float hop_im[CP_TONE_BINS]
        float v1[CP_TONE_BINS]
        float v2[CP_TONE_BINS]
        float x_re[CP_TONE_BINS]
        float x_im[CP_TONE_BINS]
        float power[4][CP_TONE_BINS]
        float energy[4]
        float hop_energy
        int32_t n_bins
        int32_t n_patterns
        int32_t fill
        int64_t n_samples
        int64_t n_hops
        int64_t n_dropped
        float min_power
        cp_tone_watch watch[CP_TONE_PATTERNS]

    ctypedef struct cp_tone_event:
        int32_t id
        int64_t at_sample
        float level_dbm0

    int32_t cp_tone_tx_init(cp_tone_tx *tx, const cp_tone_step *steps, int32_t n_steps,
            int32_t repeat_from, int32_t sample_rate) noexcept nogil
    int32_t cp_tone_tx_read(cp_tone_tx *tx, int16_t *out, int32_t n_samples) noexcept nogil
    int32_t cp_tone_rx_init(cp_tone_rx *rx, const cp_tone_pattern *patterns, int32_t n_patterns,
            float min_dbm0) noexcept nogil
    int32_t cp_tone_rx_push(cp_tone_rx *rx, const int16_t *src, int32_t n_samples,
            cp_tone_event *events, int32_t max_events) noexcept nogil
