/* Nanoseconds of CPU per 20 ms frame and channel of the codec kernels; codecs.py compiles it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "dtmf_impl.h"
#include "fsk_impl.h"
#include "g711_impl.h"
#include "g722_impl.h"
#include "mix_impl.h"
#include "plc_impl.h"
#include "resample_impl.h"
#include "rtp_impl.h"
#include "tone_impl.h"

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* Best of nine rounds of about 3 ms; prints `name ns`. */
#define BENCH(name, channels, call)                                                              \
    do {                                                                                         \
        double best = 1e18;                                                                      \
        long n = 1;                                                                              \
        for (;;) {                                                                               \
            double a = now_ns();                                                                 \
            for (long i_ = 0; i_ < n; i_++)                                                      \
                call;                                                                            \
            if (now_ns() - a > 3e6)                                                              \
                break;                                                                           \
            n *= 2;                                                                              \
        }                                                                                        \
        for (int r_ = 0; r_ < 9; r_++) {                                                         \
            double a = now_ns();                                                                 \
            for (long i_ = 0; i_ < n; i_++)                                                      \
                call;                                                                            \
            double ns = (now_ns() - a) / (double)n / (channels);                                 \
            best = ns < best ? ns : best;                                                        \
        }                                                                                        \
        printf("%s %.1f\n", name, best);                                                         \
    } while (0)

static int16_t wide[32][320], narrow[32][160], out16[32][960];
static uint8_t octets[32][160], out8[32][160];
static cp_g722_group encoder, decoder;
static cp_resampler up, down, up3, down3;
static cp_dtmf_rx dtmf;
static cp_dtmf_event events[8];
static cp_tone_rx tones;
static cp_tone_event tone_events[8];
static cp_tone_tx tone_tx;
static cp_plc plc;
static cp_level level;
static cp_fsk_rx fsk;

static void concealed(void)
{
    static int i;
    if (i++ % 20 == 19) /* 5 % loss */
        cp_plc_lost(&plc, out16[0], 160);
    else
        cp_plc_good(&plc, out16[0], 160);
}

int main(void)
{
    const int16_t *wide_in[32], *narrow_in[32];
    const uint8_t *octets_in[32];
    int16_t *pcm_out[32];
    uint8_t *octets_out[32];
    cp_g711_setup();
    cp_resample_setup();
    cp_dtmf_setup();
    srand(1);
    for (int l = 0; l < 32; l++) {
        for (int i = 0; i < 320; i++)
            wide[l][i] = (int16_t)(6000 * sin(i * (0.05 + l * 0.01)) + rand() % 2000 - 1000);
        for (int i = 0; i < 160; i++) {
            narrow[l][i] = wide[l][2 * i];
            octets[l][i] = (uint8_t)rand();
        }
        wide_in[l] = wide[l], narrow_in[l] = narrow[l], octets_in[l] = octets[l];
        pcm_out[l] = out16[l], octets_out[l] = out8[l];
    }
    BENCH("copy-320-octets", 32, for (int l = 0; l < 32; l++) memcpy(out16[l], narrow[l], 320));
    BENCH("g711-encode", 32, cp_pcmu.encode(NULL, narrow_in, octets_out, ~0u, 160));
    BENCH("g711-decode", 32, cp_pcmu.decode(NULL, octets_in, pcm_out, ~0u, 160));
    cp_g722_64.init_encoder(&encoder, ~0u);
    cp_g722_64.init_decoder(&decoder, ~0u);
    static const char *const units[] = {"baseline", "avx2", "avx512"};
    for (int u = 0; u < 3; u++) {
        char name[40];
        if (cp_g722_select(u) != u)
            continue;
        snprintf(name, sizeof name, "g722-encode-%s", units[u]);
        BENCH(name, 32, cp_g722_64.encode(&encoder, wide_in, octets_out, ~0u, 320));
        snprintf(name, sizeof name, "g722-decode-%s", units[u]);
        BENCH(name, 32, cp_g722_64.decode(&decoder, octets_in, pcm_out, ~0u, 320));
    }
    cp_resampler_init(&up, 8000, 16000), cp_resampler_init(&down, 16000, 8000);
    cp_resampler_init(&up3, 16000, 48000), cp_resampler_init(&down3, 48000, 16000);
    BENCH("resample-8-16", 1, cp_resample(&up, narrow[0], 160, out16[0], 960));
    BENCH("resample-16-8", 1, cp_resample(&down, wide[0], 320, out16[0], 960));
    BENCH("resample-16-48", 1, cp_resample(&up3, wide[0], 320, out16[0], 960));
    BENCH("resample-48-16", 1, cp_resample(&down3, wide[0], 960, out16[0], 960));
    BENCH("mix-3", 3, cp_mix_minus_one(narrow_in, NULL, pcm_out, 3, 160));
    BENCH("mix-32", 32, cp_mix_minus_one(narrow_in, NULL, pcm_out, 32, 160));
    BENCH("level", 1, cp_level_add(&level, narrow[0], 160));
    cp_dtmf_rx_init(&dtmf);
    BENCH("dtmf-receive", 1, cp_dtmf_rx_push(&dtmf, narrow[0], 160, events, 8));
    cp_tone_pattern patterns[2] = {{1, 2, {480, 620}, 2, {500, 500}, 2, 0},
                                   {2, 1, {425}, 2, {480, 480}, 2, 0}};
    cp_tone_rx_init(&tones, patterns, 2, -40);
    BENCH("tone-detect", 1, cp_tone_rx_push(&tones, narrow[0], 160, tone_events, 8));
    cp_tone_step step = {{350, 440}, -13, 2, 0, 0};
    cp_tone_tx_init(&tone_tx, &step, 1, 0, 8000);
    BENCH("tone-generate", 1, cp_tone_tx_read(&tone_tx, out16[0], 160));
    cp_plc_init(&plc, 8000);
    BENCH("conceal-5-percent", 1, concealed());
    cp_fsk_rx_init(&fsk, CP_FSK_BELL202, 8000);
    BENCH("fsk-receive", 1, cp_fsk_rx_push(&fsk, narrow[0], 160, out8[0], 160));

    void *lib = dlopen("libspandsp.so.2", RTLD_NOW);
    if (!lib)
        return 0;
    void *(*make722)(void *, int, int) = (void *(*)(void *, int, int))dlsym(lib, "g722_encode_init");
    int (*encode722)(void *, uint8_t *, const int16_t *, int) =
        (int (*)(void *, uint8_t *, const int16_t *, int))dlsym(lib, "g722_encode");
    void *(*make722d)(void *, int, int) = (void *(*)(void *, int, int))dlsym(lib, "g722_decode_init");
    int (*decode722)(void *, int16_t *, const uint8_t *, int) =
        (int (*)(void *, int16_t *, const uint8_t *, int))dlsym(lib, "g722_decode");
    void *(*make_dtmf)(void *, void *, void *) = (void *(*)(void *, void *, void *))dlsym(lib, "dtmf_rx_init");
    int (*dtmf_rx)(void *, const int16_t *, int) = (int (*)(void *, const int16_t *, int))dlsym(lib, "dtmf_rx");
    void *(*make_plc)(void *) = (void *(*)(void *))dlsym(lib, "plc_init");
    int (*plc_rx)(void *, int16_t *, int) = (int (*)(void *, int16_t *, int))dlsym(lib, "plc_rx");
    int (*plc_fill)(void *, int16_t *, int) = (int (*)(void *, int16_t *, int))dlsym(lib, "plc_fillin");
    void *e = make722(NULL, 64000, 0), *d = make722d(NULL, 64000, 0);
    void *t = make_dtmf(NULL, NULL, NULL), *p = make_plc(NULL);
    int k = 0;
    BENCH("spandsp:g722-encode", 1, encode722(e, out8[0], wide[0], 320));
    BENCH("spandsp:g722-decode", 1, decode722(d, out16[0], octets[0], 160));
    BENCH("spandsp:dtmf-receive", 1, dtmf_rx(t, narrow[0], 160));
    BENCH("spandsp:conceal-5-percent", 1,
          k++ % 20 == 19 ? plc_fill(p, out16[0], 160) : plc_rx(p, out16[0], 160));
    return 0;
}
