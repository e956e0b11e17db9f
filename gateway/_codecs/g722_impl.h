/* ITU-T G.722 for CP_LANES streams at once, int16 lanes, structure of arrays. */
#ifndef CP_G722_IMPL_H
#define CP_G722_IMPL_H
#include "codec.h"

/* Sub-band ADPCM state, one array entry per lane (names of G.722 clause 3). The quantised
 * differences d and the reconstructed signal r are kept doubled and saturated, as the filters
 * use them. */
typedef struct cp_g722_band {
    int16_t s[CP_LANES], sz[CP_LANES], det[CP_LANES], nb[CP_LANES];
    int16_t a1[CP_LANES], a2[CP_LANES], r1[CP_LANES], p1[CP_LANES], p2[CP_LANES];
    int16_t b[6][CP_LANES], d[6][CP_LANES];
} cp_g722_band;

typedef struct cp_g722_group {
    cp_g722_band low, high;
    int16_t even[11][CP_LANES], odd[11][CP_LANES]; /* QMF memory, oldest first */
} __attribute__((aligned(CP_ALIGN))) cp_g722_group;

extern const cp_codec cp_g722_64, cp_g722_56, cp_g722_48; /* encode is always 64 kbit/s */

/* The lower band alone, whose signal is that of 8 kHz: what a far end of narrow band can say and
 * hear, without resampling. The higher band is sent as silence; its part of a lane is not touched. */
extern const cp_codec cp_g722_narrow;
void cp_g722_clear_high(void *group, uint32_t mask); /* it and the filters of both start anew */

/* The two band coders without the QMF (conformance sequences of G.722 Appendix II): sample pairs
 * are (lower, higher) band samples. */
int32_t cp_g722_encode_bands(void *group, const int16_t *const *src, uint8_t *const *out,
                             uint32_t mask, int32_t n_samples);
int32_t cp_g722_decode_bands(void *group, const uint8_t *const *src, int16_t *const *out,
                             uint32_t mask, int32_t n_samples, int32_t mode);

/* Vector unit: -1 the best this CPU has, 0 baseline (SSE2, NEON), 1 AVX2, 2 AVX-512. Returns the one in use. */
int32_t cp_g722_select(int32_t unit);
#endif
