/* Call-progress tones: generator and frequency-plus-cadence detector, one state per stream. */
#ifndef CP_TONE_IMPL_H
#define CP_TONE_IMPL_H
#include "codec.h"

#define CP_TONE_FREQS 4
#define CP_TONE_STEPS 16     /* on/off steps of a cadence */
#define CP_TONE_PATTERNS 8   /* patterns one detector watches for */
#define CP_TONE_HOP 80       /* detector: 10 ms at 8 kHz */
#define CP_TONE_WINDOW 320   /* detector: 40 ms */

/* One step: up to four frequencies summed, or (is_am) freq[0] modulated fully by freq[1]. */
typedef struct cp_tone_step {
    float freq_hz[CP_TONE_FREQS];
    float level_dbm0; /* of each frequency; of the carrier if is_am */
    int32_t n_freqs;  /* 0: silence */
    int32_t is_am;
    int32_t duration_ms; /* 0: for ever */
} cp_tone_step;

typedef struct cp_tone_tx {
    cp_tone_step steps[CP_TONE_STEPS];
    int32_t n_steps, repeat_from; /* repeat_from -1: once */
    int32_t sample_rate, step;
    int64_t left; /* samples left of this step; -1: for ever */
    uint32_t phase[CP_TONE_FREQS], increment[CP_TONE_FREQS];
    float amplitude;
    int32_t is_over;
} cp_tone_tx;

/* What to listen for: one or two frequencies and on, off, on, off ... in ms. */
typedef struct cp_tone_pattern {
    int32_t id;       /* given back on detection */
    int32_t n_freqs;  /* 1 or 2 */
    float freq_hz[2];
    int32_t n_cadence;                  /* 0: continuous tone of at least min_ms */
    int32_t cadence_ms[CP_TONE_STEPS]; /* on first; even count */
    int32_t n_cycles;                   /* cadence cycles to see, >= 1 */
    int32_t min_ms;
} cp_tone_pattern;

typedef struct cp_tone_watch {
    cp_tone_pattern pattern;
    float cos_hz[2], sin_hz[2];
    int32_t is_on, run_hops, candidate_hops, step, n_steps_ok, is_armed;
    float on_level;
} cp_tone_watch;

typedef struct cp_tone_rx {
    float window[CP_TONE_WINDOW];
    cp_tone_watch watch[CP_TONE_PATTERNS];
    int32_t n_patterns, fill;
    int64_t n_samples;
    float min_dbm0;
} cp_tone_rx;

typedef struct cp_tone_event {
    int32_t id;
    int64_t at_sample; /* since init */
    float level_dbm0;
} cp_tone_event;

void cp_tone_setup(void);
/* CP_EINVAL: step count, frequency, duration or repeat_from out of range. */
int32_t cp_tone_tx_init(cp_tone_tx *tx, const cp_tone_step *steps, int32_t n_steps,
                        int32_t repeat_from, int32_t sample_rate);
/* Fills out with n_samples (silence once over). Returns the samples before the end. */
int32_t cp_tone_tx_read(cp_tone_tx *tx, int16_t *out, int32_t n_samples);

int32_t cp_tone_rx_init(cp_tone_rx *rx, const cp_tone_pattern *patterns, int32_t n_patterns,
                        float min_dbm0);
/* Any n_samples at 8 kHz; returns the events written. A pattern reports once, and again only
 * after it has stopped. */
int32_t cp_tone_rx_push(cp_tone_rx *rx, const int16_t *src, int32_t n_samples,
                        cp_tone_event *events, int32_t max_events);
#endif
