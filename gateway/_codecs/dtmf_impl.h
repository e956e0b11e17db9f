/* DTMF (ITU-T Q.23, Q.24) at 8 kHz, one state per stream. */
#ifndef CP_DTMF_IMPL_H
#define CP_DTMF_IMPL_H
#include "codec.h"

#define CP_DTMF_HOP 64     /* 8 ms */
#define CP_DTMF_WINDOW 128 /* 16 ms */

typedef struct cp_dtmf_event {
    int64_t start_sample; /* since init; good to about 2 ms */
    int32_t n_samples;    /* duration so far (begin) or in all (end) */
    float level_dbm0;     /* of the stronger tone */
    char digit;           /* 0123456789*#ABCD */
    uint8_t is_end;       /* 0: digit confirmed while still on; 1: it has ended */
} cp_dtmf_event;

typedef struct cp_dtmf_rx {
    float window[CP_DTMF_WINDOW];
    float x_re[8], x_im[8]; /* spectrum of the previous hop */
    int64_t n_samples;
    int64_t start_sample;
    float sum, peak, level;      /* amplitude seen in the candidate, for its duration */
    float turn_re[2], turn_im[2]; /* phase advance summed over the candidate */
    int32_t fill;                /* samples of the current hop */
    int32_t candidate;           /* row * 4 + column, or -1 */
    int32_t previous;            /* pair seen in the previous hop, or -1 */
    int32_t tail;                /* pair that ended and still dies away, or -1 */
    float tail_amplitude;
    int32_t n_hits, n_misses;
    int32_t n_turns, confirmed;
    int64_t n_dropped; /* events for which the caller had no room */
} cp_dtmf_rx;

typedef struct cp_dtmf_tx {
    uint32_t phase[2], step[2];
    float amplitude[2];
} cp_dtmf_tx;

void cp_dtmf_setup(void); /* tables; once */
void cp_dtmf_rx_init(cp_dtmf_rx *rx);
/* Any n_samples; returns the events written to events (each digit gives a begin and an end). */
int32_t cp_dtmf_rx_push(cp_dtmf_rx *rx, const int16_t *src, int32_t n_samples,
                        cp_dtmf_event *events, int32_t max_events);
/* level of each tone; twist_db: column minus row. CP_EINVAL for a character that is no digit. */
int32_t cp_dtmf_tx_init(cp_dtmf_tx *tx, char digit, int32_t sample_rate, float level_dbm0,
                        float twist_db);
void cp_dtmf_tx_read(cp_dtmf_tx *tx, int16_t *out, int32_t n_samples);
#endif
