#include "mix_impl.h"

#include <math.h>
#include <string.h>

#define CHUNK 256 /* samples whose sums stay in the L1 cache */

static inline int16_t saturate(int32_t v)
{
    return (int16_t)(v > 32767 ? 32767 : v < -32768 ? -32768 : v);
}

static inline int16_t scale(int16_t sample, float gain)
{
    float v = (float)sample * gain;
    v = v > 32767.0f ? 32767.0f : v < -32768.0f ? -32768.0f : v;
    return (int16_t)(int32_t)(v + (v < 0.0f ? -0.5f : 0.5f));
}

CP_CLONES static void add(int32_t *sum, const int16_t *src, float gain, int32_t n)
{
    if (gain == 1.0f)
        for (int32_t i = 0; i < n; i++)
            sum[i] += src[i];
    else
        for (int32_t i = 0; i < n; i++)
            sum[i] += scale(src[i], gain);
}

CP_CLONES static int64_t subtract(const int32_t *sum, const int16_t *src, float gain, int16_t *out,
                                  int32_t n)
{
    int32_t clipped = 0;
    for (int32_t i = 0; i < n; i++) {
        int32_t v = sum[i] - (gain == 1.0f ? src[i] : scale(src[i], gain));
        int16_t o = saturate(v);
        clipped += o != v;
        out[i] = o;
    }
    return clipped;
}

CP_CLONES static int64_t store(const int32_t *sum, int16_t *out, int32_t n)
{
    int32_t clipped = 0;
    for (int32_t i = 0; i < n; i++) {
        int16_t o = saturate(sum[i]);
        clipped += o != sum[i];
        out[i] = o;
    }
    return clipped;
}

static void sum_chunk(const int16_t *const *src, const float *gain, int32_t *sum,
                      int32_t n_streams, int32_t at, int32_t n)
{
    memset(sum, 0, (size_t)n * sizeof *sum);
    for (int32_t s = 0; s < n_streams; s++)
        if (src[s])
            add(sum, src[s] + at, gain ? gain[s] : 1.0f, n);
}

int64_t cp_mix_minus_one(const int16_t *const *src, const float *gain, int16_t *const *out,
                         int32_t n_streams, int32_t n_samples)
{
    int32_t sum[CHUNK];
    int64_t clipped = 0;
    for (int32_t at = 0; at < n_samples; at += CHUNK) {
        int32_t n = n_samples - at < CHUNK ? n_samples - at : CHUNK;
        sum_chunk(src, gain, sum, n_streams, at, n);
        for (int32_t s = 0; s < n_streams; s++) {
            if (!out[s])
                continue;
            if (src[s])
                clipped += subtract(sum, src[s] + at, gain ? gain[s] : 1.0f, out[s] + at, n);
            else
                clipped += store(sum, out[s] + at, n);
        }
    }
    return clipped;
}

int64_t cp_mix_sum(const int16_t *const *src, const float *gain, int16_t *out, int32_t n_streams,
                   int32_t n_samples)
{
    int32_t sum[CHUNK];
    int64_t clipped = 0;
    for (int32_t at = 0; at < n_samples; at += CHUNK) {
        int32_t n = n_samples - at < CHUNK ? n_samples - at : CHUNK;
        sum_chunk(src, gain, sum, n_streams, at, n);
        clipped += store(sum, out + at, n);
    }
    return clipped;
}

CP_CLONES int64_t cp_apply_gain(const int16_t *src, int16_t *out, int32_t n_samples, float gain)
{
    int32_t clipped = 0;
    for (int32_t i = 0; i < n_samples; i++) {
        float v = (float)src[i] * gain;
        clipped += v > 32767.5f || v < -32768.5f;
        out[i] = scale(src[i], gain);
    }
    return clipped;
}

CP_CLONES int32_t cp_count_beyond(const int16_t *src, int32_t n_samples, int16_t limit)
{
    int32_t n = 0;
    for (int32_t i = 0; i < n_samples; i++)
        n += (src[i] >= limit) | (src[i] <= -limit);
    return n;
}

float cp_gain_from_db(float db)
{
    return powf(10.0f, db / 20.0f);
}

void cp_level_reset(cp_level *level)
{
    memset(level, 0, sizeof *level);
}

CP_CLONES void cp_level_add(cp_level *level, const int16_t *src, int32_t n_samples)
{
    int64_t squares = 0;
    int32_t low = 0, high = 0, clipped = 0;
    for (int32_t i = 0; i < n_samples; i++) {
        int32_t v = src[i];
        squares += (uint32_t)(v * v);
        low = v < low ? v : low;
        high = v > high ? v : high;
        clipped += v == 32767 || v == -32768;
    }
    int32_t peak = -low > high ? -low : high;
    level->sum_squares += (double)squares;
    level->n_samples += n_samples;
    level->n_clipped += clipped;
    if (peak > level->peak)
        level->peak = peak;
}

float cp_level_rms_dbm0(const cp_level *level)
{
    /* A full-scale sine has a mean square of 32768^2 / 2. */
    if (level->n_samples <= 0 || level->sum_squares <= 0.0)
        return CP_SILENCE_DBM0;
    double mean = level->sum_squares / (double)level->n_samples;
    float db = (float)(10.0 * log10(mean / (32768.0 * 32768.0 / 2.0))) + CP_FULL_SCALE_DBM0;
    return db < CP_SILENCE_DBM0 ? CP_SILENCE_DBM0 : db;
}

float cp_level_peak_dbm0(const cp_level *level)
{
    if (level->peak <= 0)
        return CP_SILENCE_DBM0;
    return 20.0f * log10f((float)level->peak / 32768.0f) + CP_FULL_SCALE_DBM0;
}
