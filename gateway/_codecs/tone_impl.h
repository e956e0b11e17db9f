/* Call-progress tones: generator and frequency-plus-cadence detector, one state per stream. */
#ifndef CP_TONE_IMPL_H
#define CP_TONE_IMPL_H
#include "codec.h"

#define CP_TONE_FREQS 4
#define CP_TONE_STEPS 16     /* on/off steps of a cadence */
#define CP_TONE_PATTERNS 8   /* patterns one detector watches for */
#define CP_TONE_HOP 80       /* detector: 10 ms at 8 kHz */
#define CP_TONE_BINS 16      /* different frequencies of one detector */
#define CP_TONE_RUNS 48      /* on and off lengths remembered */

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

/* What to listen for (8 kHz streams): one or two frequencies and on, off, on, off ... in ms. */
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
    int32_t n_bins, bin[2];        /* of cp_tone_rx.coefficient */
    int32_t is_merged;             /* two tones too close to tell apart, watched as one */
    int32_t n_hits, n_misses, n_turns, n_loud, is_reported;
    float sum, peak;               /* power of the tone now on */
    float recent[3], inner;        /* its last three hops; all but its first and last three */
    int32_t n_inner;
    float tone_power, all_power;   /* over its hits */
    float turn_re[2], turn_im[2];  /* phase advance summed over it */
    float power_before;            /* of the tone in the hop before the first hit */
    double start_hop, end_hop;     /* when it began; when the last one ended */
    float last_peak;
    int32_t n_runs;
    int32_t run_ms[CP_TONE_RUNS];  /* lengths seen: on, off, ..., on; newest last */
} cp_tone_watch;

typedef struct cp_tone_rx {
    float freq_hz[CP_TONE_BINS], coefficient[CP_TONE_BINS];
    float end_re[CP_TONE_BINS], end_im[CP_TONE_BINS]; /* Goertzel state to spectrum */
    float hop_re[CP_TONE_BINS], hop_im[CP_TONE_BINS]; /* turn of a bin's centre in one hop, undone */
    float v1[CP_TONE_BINS], v2[CP_TONE_BINS];         /* Goertzel state of this hop */
    float x_re[CP_TONE_BINS], x_im[CP_TONE_BINS];     /* spectrum one hop ago */
    float power[4][CP_TONE_BINS], energy[4];          /* of the last four hops, newest first */
    float hop_energy;
    int32_t n_bins, n_patterns, fill;
    int64_t n_samples, n_hops, n_dropped; /* dropped: events for which the caller had no room */
    float min_power;
    cp_tone_watch watch[CP_TONE_PATTERNS];
} cp_tone_rx;

typedef struct cp_tone_event {
    int32_t id;
    int64_t at_sample; /* since init */
    float level_dbm0;
} cp_tone_event;

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
