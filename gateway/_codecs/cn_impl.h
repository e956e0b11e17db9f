/* Comfort noise (RFC 3389): a level and, optionally, the reflection coefficients of its spectrum. */
#ifndef CP_CN_IMPL_H
#define CP_CN_IMPL_H
#include "codec.h"

enum {
    CP_CN_ORDER = 10,
    CP_CN_OCTETS = 1 + CP_CN_ORDER,
    CP_CN_SILENCE = 127, /* -dBov: nothing at all */
};

typedef struct cp_cn_noise { /* a generator: an all-pole lattice fed by white noise */
    float k[CP_CN_ORDER], b[CP_CN_ORDER];
    float gain;
    int32_t order;
    uint32_t seed;
} cp_cn_noise;

typedef struct cp_cn_meter { /* what the noise is like: autocorrelation, smoothed over frames */
    float r[CP_CN_ORDER + 1];
    int32_t n_frames; /* 0: the next one is the first */
} cp_cn_meter;

/* A payload; 0 dBov is a full-scale square wave, +6.15 dBm0. Coefficients after the tenth are not
 * looked at, nor are any where `white`. 0, or CP_EINVAL for an empty one. */
int32_t cp_cn_set(cp_cn_noise *g, const uint8_t *payload, int32_t n, int32_t white);
void cp_cn_generate(cp_cn_noise *g, int16_t *pcm, int32_t n_samples);

void cp_cn_measure(cp_cn_meter *m, const int16_t *pcm, int32_t n_samples);
/* A payload with `order` (0 to CP_CN_ORDER) coefficients; returns its octets. */
int32_t cp_cn_payload(const cp_cn_meter *m, int32_t order, uint8_t *out);
#endif
