/* Integer-ratio sample-rate conversion by polyphase FIR, one state per stream. */
#ifndef CP_RESAMPLE_IMPL_H
#define CP_RESAMPLE_IMPL_H
#include "codec.h"

#define CP_RESAMPLE_TAPS 32    /* most taps per phase */
#define CP_RESAMPLE_PHASES 6   /* 8 <-> 48 kHz */
#define CP_RESAMPLE_MAX_MS 120 /* longest block of one call */

typedef struct cp_resampler {
    int32_t up, down; /* one of them is 1 */
    int32_t taps;     /* per phase */
    int32_t in_per_ms;
    float history[CP_RESAMPLE_PHASES][CP_RESAMPLE_TAPS];
} cp_resampler;

void cp_resample_setup(void); /* computes the filters; once, before anything else */
/* 8<->16, 16<->48, 8<->48 kHz and equal rates; CP_EINVAL otherwise. */
int32_t cp_resampler_init(cp_resampler *r, int32_t from_hz, int32_t to_hz);
/* n_in samples: a multiple of the decimation ratio, at most CP_RESAMPLE_MAX_MS. Returns the
 * samples written (n_in * up / down) or CP_EINVAL. src and out must not overlap. */
int32_t cp_resample(cp_resampler *r, const int16_t *src, int32_t n_in, int16_t *out, int32_t cap);
#endif
