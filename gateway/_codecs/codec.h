/* A codec as a small table of C functions over a batch of streams.
 *
 * A group holds CP_LANES streams of one codec and one direction. Bit i of a mask is lane i; a
 * lane whose bit is clear has no frame in this tick: its pointers are not looked at and its
 * state stays as it was. Group memory belongs to the caller and is 64-byte aligned.
 */
#ifndef CP_CODEC_H
#define CP_CODEC_H

#include <stddef.h>
#include <stdint.h>

#define CP_LANES 32
#define CP_ALIGN 64
#define CP_MAX_FRAME_MS 120
#define CP_MAX_FRAME_OCTETS 960 /* 120 ms at 64 kbit/s */
#define CP_MAX_FRAME_SAMPLES 1920 /* 120 ms at 16 kHz */

#define CP_EINVAL (-1)

typedef struct cp_codec {
    const char *name;       /* encoding name of RFC 3551: "PCMU", "PCMA", "G722" */
    int32_t payload_type;   /* static RTP payload type */
    int32_t clock_rate;     /* Hz of the RTP timestamp (8000 for G.722: RFC 3551 4.5.2) */
    int32_t sample_rate;    /* Hz of the PCM side */
    int32_t samples_per_ms; /* PCM samples in 1 ms */
    int32_t octets_per_ms;  /* payload octets in 1 ms */
    int32_t lanes;          /* CP_LANES */
    size_t decoder_bytes;   /* one decoder group; 0: no state, pass NULL */
    size_t encoder_bytes;   /* one encoder group; 0: no state, pass NULL */
    void (*init_decoder)(void *group, uint32_t mask); /* (re)start the lanes in mask */
    void (*init_encoder)(void *group, uint32_t mask);
    /* One frame of n_samples PCM samples (whole milliseconds, at most CP_MAX_FRAME_MS) for every
     * lane in mask. decode returns n_samples, encode the octets written per lane; CP_EINVAL if
     * n_samples is not a whole number of milliseconds in 1..CP_MAX_FRAME_MS. */
    int32_t (*decode)(void *group, const uint8_t *const *src, int16_t *const *out, uint32_t mask,
                      int32_t n_samples);
    int32_t (*encode)(void *group, const int16_t *const *src, uint8_t *const *out, uint32_t mask,
                      int32_t n_samples);
} cp_codec;

static inline int cp_codec_frame_ok(const cp_codec *codec, int32_t n_samples)
{
    return n_samples > 0 && n_samples % codec->samples_per_ms == 0 &&
           n_samples / codec->samples_per_ms <= CP_MAX_FRAME_MS;
}

/* Run-time choice among vector units: only where the loader has ifunc (glibc on x86-64) and the
 * compiler asks for features rather than for Intel's model numbers (GCC 12). */
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12 && \
    !defined(__SANITIZE_ADDRESS__)
#define CP_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define CP_CLONES
#endif

#endif
