/* Conference mixing, gain and level. 0 dBm0: see CP_FULL_SCALE_DBM0. */
#ifndef CP_MIX_IMPL_H
#define CP_MIX_IMPL_H
#include "codec.h"

/* A sine of peak 32768 is +3.14 dBm0 (the A-law overload of G.711; mu-law's is +3.17, 0.03 dB
 * above, and both laws use this one scale here). */
#define CP_FULL_SCALE_DBM0 3.14f
#define CP_SILENCE_DBM0 (-96.0f)

typedef struct cp_level {
    double sum_squares;
    int64_t n_samples;
    int64_t n_clipped; /* samples at +32767 or -32768 */
    int32_t peak;      /* largest magnitude, 0..32768 */
} cp_level;

/* out[i] = saturate(sum over j != i of gain[j]*src[j]). src[i] NULL: silent. out[i] NULL: not
 * wanted. gain NULL: all 1. out[i] may be src[i] only if no other out or src shares it.
 * Returns the output samples that saturated. */
int64_t cp_mix_minus_one(const int16_t *const *src, const float *gain, int16_t *const *out,
                         int32_t n_streams, int32_t n_samples);
/* out = saturate(sum of all): announcements, recording, one to many. Returns saturated samples. */
int64_t cp_mix_sum(const int16_t *const *src, const float *gain, int16_t *out, int32_t n_streams,
                   int32_t n_samples);
/* Samples of at least `limit` either way. */
int32_t cp_count_beyond(const int16_t *src, int32_t n_samples, int16_t limit);
/* in place or not; linear gain; returns saturated samples. */
int64_t cp_apply_gain(const int16_t *src, int16_t *out, int32_t n_samples, float gain);
float cp_gain_from_db(float db);

void cp_level_reset(cp_level *level);
void cp_level_add(cp_level *level, const int16_t *src, int32_t n_samples);
float cp_level_rms_dbm0(const cp_level *level);
float cp_level_peak_dbm0(const cp_level *level); /* of a sine with this peak */
#endif
