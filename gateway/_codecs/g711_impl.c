#include "g711_impl.h"

#include <string.h>

/* Both laws ignore the low bits of a sample, which keeps the encoder tables inside the L1 cache. */
static uint8_t ulaw_of[1 << 14], alaw_of[1 << 12];
static int16_t ulaw_to_linear[256], alaw_to_linear[256];
static uint8_t ulaw_as_alaw[256], alaw_as_ulaw[256];

static uint8_t ulaw_compress(int16_t sample)
{
    /* One's complement of negative samples, as in G.191; most other encoders negate, and differ. */
    int32_t magnitude = ((sample < 0 ? ~sample : sample) >> 2) + 33;
    if (magnitude > 0x1fff)
        magnitude = 0x1fff;
    int32_t segment = 1;
    for (int32_t rest = magnitude >> 6; rest; rest >>= 1)
        segment++;
    uint8_t code = (uint8_t)(((8 - segment) << 4) | (15 - ((magnitude >> segment) & 15)));
    return sample >= 0 ? code | 0x80 : code;
}

static uint8_t alaw_compress(int16_t sample)
{
    int32_t magnitude = (sample < 0 ? ~sample : sample) >> 4;
    if (magnitude > 15) {
        int32_t exponent = 1;
        while (magnitude > 31) {
            magnitude >>= 1;
            exponent++;
        }
        magnitude += (exponent << 4) - 16;
    }
    return (uint8_t)((sample >= 0 ? magnitude | 0x80 : magnitude) ^ 0x55);
}

static int16_t ulaw_expand(uint8_t code)
{
    int32_t bits = ~code & 0xff;
    int32_t magnitude = ((((bits & 15) << 1) + 33) << ((bits >> 4) & 7)) - 33;
    return (int16_t)(bits & 0x80 ? -(magnitude << 2) : magnitude << 2);
}

static int16_t alaw_expand(uint8_t code)
{
    int32_t bits = code ^ 0x55, exponent = (bits >> 4) & 7;
    int32_t magnitude = ((bits & 15) << 4) + 8;
    if (exponent)
        magnitude = (magnitude + 0x100) << (exponent - 1);
    return (int16_t)(bits & 0x80 ? magnitude : -magnitude);
}

void cp_g711_setup(void)
{
    for (int32_t i = 0; i < 1 << 14; i++)
        ulaw_of[i] = ulaw_compress((int16_t)(uint16_t)(i << 2));
    for (int32_t i = 0; i < 1 << 12; i++)
        alaw_of[i] = alaw_compress((int16_t)(uint16_t)(i << 4));
    for (int32_t code = 0; code < 256; code++) {
        ulaw_to_linear[code] = ulaw_expand((uint8_t)code);
        alaw_to_linear[code] = alaw_expand((uint8_t)code);
        ulaw_as_alaw[code] = alaw_compress(ulaw_to_linear[code]);
        alaw_as_ulaw[code] = ulaw_compress(alaw_to_linear[code]);
    }
}

void cp_ulaw_decode(const uint8_t *src, int16_t *out, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        out[i] = ulaw_to_linear[src[i]];
}

void cp_ulaw_encode(const int16_t *src, uint8_t *out, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        out[i] = ulaw_of[(uint16_t)src[i] >> 2];
}

void cp_alaw_decode(const uint8_t *src, int16_t *out, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        out[i] = alaw_to_linear[src[i]];
}

void cp_alaw_encode(const int16_t *src, uint8_t *out, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        out[i] = alaw_of[(uint16_t)src[i] >> 4];
}

void cp_ulaw_to_alaw(const uint8_t *src, uint8_t *out, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        out[i] = ulaw_as_alaw[src[i]];
}

void cp_alaw_to_ulaw(const uint8_t *src, uint8_t *out, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        out[i] = alaw_as_ulaw[src[i]];
}

static void no_state(void *group, uint32_t mask)
{
    (void)group, (void)mask;
}

#define CODEC(law, table)                                                                        \
    static int32_t law##_decode_lanes(void *group, const uint8_t *const *src,                    \
                                      int16_t *const *out, uint32_t mask, int32_t n_samples)     \
    {                                                                                            \
        (void)group;                                                                             \
        if (!cp_codec_frame_ok(&table, n_samples))                                               \
            return CP_EINVAL;                                                                    \
        for (; mask; mask &= mask - 1)                                                           \
            cp_##law##_decode(src[__builtin_ctz(mask)], out[__builtin_ctz(mask)], n_samples);    \
        return n_samples;                                                                        \
    }                                                                                            \
    static int32_t law##_encode_lanes(void *group, const int16_t *const *src,                    \
                                      uint8_t *const *out, uint32_t mask, int32_t n_samples)     \
    {                                                                                            \
        (void)group;                                                                             \
        if (!cp_codec_frame_ok(&table, n_samples))                                               \
            return CP_EINVAL;                                                                    \
        for (; mask; mask &= mask - 1)                                                           \
            cp_##law##_encode(src[__builtin_ctz(mask)], out[__builtin_ctz(mask)], n_samples);    \
        return n_samples;                                                                        \
    }

CODEC(ulaw, cp_pcmu)
CODEC(alaw, cp_pcma)

const cp_codec cp_pcmu = {
    .name = "PCMU", .payload_type = 0, .clock_rate = 8000, .sample_rate = 8000,
    .samples_per_ms = 8, .octets_per_ms = 8, .lanes = CP_LANES,
    .init_decoder = no_state, .init_encoder = no_state,
    .decode = ulaw_decode_lanes, .encode = ulaw_encode_lanes,
};
const cp_codec cp_pcma = {
    .name = "PCMA", .payload_type = 8, .clock_rate = 8000, .sample_rate = 8000,
    .samples_per_ms = 8, .octets_per_ms = 8, .lanes = CP_LANES,
    .init_decoder = no_state, .init_encoder = no_state,
    .decode = alaw_decode_lanes, .encode = alaw_encode_lanes,
};
