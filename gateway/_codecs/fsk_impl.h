/* 1200 baud FSK of caller identification (Bell 202 in GR-30, V.23 in ETSI EN 300 659-1), one state
 * per stream: start bit 0, eight data bits least significant first, stop bit 1. */
#ifndef CP_FSK_IMPL_H
#define CP_FSK_IMPL_H
#include "codec.h"

enum { CP_FSK_BELL202 = 0, CP_FSK_V23 = 1 };
#define CP_FSK_MESSAGE 320 /* longest message, octets */
#define CP_FSK_WINDOW 64   /* most samples of one bit (48 kHz: 40) */

typedef struct cp_fsk_tx {
    uint8_t message[CP_FSK_MESSAGE];
    int32_t n_message, n_seizure, n_mark, n_tail; /* octets, then bits */
    int32_t bit;           /* index of the bit being sent */
    int32_t sample_rate;
    uint32_t baud_phase, baud_step, phase, step[2];
    float amplitude;
} cp_fsk_tx;

typedef struct cp_fsk_rx {
    float ring[CP_FSK_WINDOW][4]; /* last bit's worth of products with both tones, in quadrature */
    float energy[CP_FSK_WINDOW];
    uint32_t osc[2], step[2];
    int32_t at, window, sample_rate;
    float min_energy, samples_per_bit, until_bit, slice, tone_power, all_power;
    int32_t bit_index; /* of the octet being read; -1: waiting for a start bit */
    uint32_t shift;
    int32_t last_bit;
    int32_t n_mark, n_idle;          /* samples of steady mark; without carrier */
    int32_t has_carrier, in_message; /* in_message: enough mark has been seen */
    int64_t n_framing; /* stop bits that were not 1 */
    int64_t n_dropped; /* octets for which the caller had no room */
} cp_fsk_rx;

int32_t cp_fsk_tx_init(cp_fsk_tx *tx, int32_t standard, int32_t sample_rate, float level_dbm0);
/* seizure: bits 0101..., mark: bits of 1 before, tail: bits of 1 after the message. */
int32_t cp_fsk_tx_start(cp_fsk_tx *tx, const uint8_t *message, int32_t len, int32_t seizure_bits,
                        int32_t mark_bits, int32_t tail_bits);
/* Returns the samples written: n_samples, fewer at the end, then 0. */
int32_t cp_fsk_tx_read(cp_fsk_tx *tx, int16_t *out, int32_t n_samples);

int32_t cp_fsk_rx_init(cp_fsk_rx *rx, int32_t standard, int32_t sample_rate);
/* Octets that follow a stretch of mark (the channel seizure gives none): decoded from n_samples, at most cap; n_samples / 60 + 1 always suffices at 8 kHz. */
int32_t cp_fsk_rx_push(cp_fsk_rx *rx, const int16_t *src, int32_t n_samples, uint8_t *out,
                       int32_t cap);
#endif
