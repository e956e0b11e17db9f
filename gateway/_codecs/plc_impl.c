#include "plc_impl.h"

#include <string.h>

#include "sine.h"

/* Times of G.711 Appendix I, except the last two: there they are 10 and 60 ms, which sounds worse
 * (PESQ) where several packets of 20 ms are lost in a row, and no better where single ones are. */
#define PITCH_MIN_MS 5    /* 200 Hz */
#define PITCH_MAX_MS 15   /* 66 Hz */
#define CORRELATE_MS 20
#define KEEP_MS 20        /* full level this long, and one more period every KEEP_MS */
#define SILENT_MS 160

int32_t cp_plc_init(cp_plc *plc, int32_t sample_rate)
{
    memset(plc, 0, sizeof *plc);
    if (sample_rate != 8000 && sample_rate != 16000)
        return CP_EINVAL;
    plc->sample_rate = sample_rate;
    plc->n_history = sample_rate / 1000 * 50;
    return 0;
}

/* A ring: in a call without losses it is written and never read. */
static void remember(cp_plc *plc, const int16_t *pcm, int32_t n)
{
    if (n > plc->n_history) {
        pcm += n - plc->n_history;
        n = plc->n_history;
    }
    int32_t k = plc->n_history - plc->oldest < n ? plc->n_history - plc->oldest : n;
    memcpy(plc->history + plc->oldest, pcm, (size_t)k * sizeof *pcm);
    memcpy(plc->history, pcm + k, (size_t)(n - k) * sizeof *pcm);
    plc->oldest += n;
    if (plc->oldest >= plc->n_history)
        plc->oldest -= plc->n_history;
}

typedef float f4 __attribute__((vector_size(16), aligned(4), may_alias));

static inline float product(const float *a, const float *b, int32_t n)
{
    f4 sum[4] = {{0}};
    for (int32_t i = 0; i < n; i += 16)
        for (int32_t k = 0; k < 4; k++)
            sum[k] += *(const f4 *)(a + i + 4 * k) * *(const f4 *)(b + i + 4 * k);
    sum[0] += sum[1] + sum[2] + sum[3];
    return sum[0][0] + sum[0][1] + sum[0][2] + sum[0][3];
}

/* The lag of the largest normalised correlation; every other lag first, then its neighbours. */
CP_CLONES static int32_t find_pitch(const cp_plc *plc)
{
    int32_t per_ms = plc->sample_rate / 1000, n = CORRELATE_MS * per_ms;
    int32_t longest = PITCH_MAX_MS * per_ms, shortest = PITCH_MIN_MS * per_ms;
    float x[CP_PLC_HISTORY], best = -1.0f;
    const float *end = x + plc->n_history - n;
    int32_t pitch = shortest;
    for (int32_t i = 0; i < plc->n_history; i++)
        x[i] = plc->frozen[i];
    int32_t from = shortest, to = longest, stride = 2;
    for (int32_t pass = 0; pass < 2; pass++) {
        for (int32_t lag = from; lag <= to; lag += stride) {
            float p = product(end, end - lag, n);
            float score = p <= 0.0f ? 0.0f : p * p / (product(end - lag, end - lag, n) + (float)n);
            if (score > best) {
                best = score;
                pitch = lag;
            }
        }
        from = pitch > shortest ? pitch - 1 : shortest;
        to = pitch < longest ? pitch + 1 : longest;
        stride = 1;
    }
    return pitch;
}

static void begin(cp_plc *plc)
{
    size_t older = (size_t)(plc->n_history - plc->oldest) * sizeof *plc->history;
    memcpy(plc->frozen, plc->history + plc->oldest, older);
    memcpy((uint8_t *)plc->frozen + older, plc->history,
           (size_t)plc->oldest * sizeof *plc->history);
    plc->pitch = plc->n_cycle = find_pitch(plc);
    plc->overlap = plc->pitch / 4;
    plc->position = 0;
    const int16_t *end = plc->frozen + plc->n_history;
    plc->step = (float)(end[-1] - end[-1 - plc->pitch]);
}

/* n samples of the repeated stretch, not yet attenuated by what follows the loss. */
static void repeat(cp_plc *plc, float *out, int32_t n)
{
    int32_t per_ms = plc->sample_rate / 1000;
    const int16_t *end = plc->frozen + plc->n_history;
    for (int32_t i = 0; i < n; i++) {
        int32_t t = plc->n_lost++, into = plc->position - (plc->n_cycle - plc->overlap);
        float v = end[plc->position - plc->n_cycle];
        if (into >= 0) {
            /* The end of a cycle fades into what came before its beginning, so it can wrap. */
            float w = (float)(into + 1) / (float)(plc->overlap + 1);
            v += w * ((float)end[plc->position - 2 * plc->n_cycle] - v);
        }
        if (t < plc->overlap)
            v += plc->step * (1.0f - (float)(t + 1) / (float)(plc->overlap + 1));
        float gain = 1.0f - (float)(t - KEEP_MS * per_ms) / (float)((SILENT_MS - KEEP_MS) * per_ms);
        out[i] = v * (gain > 1.0f ? 1.0f : gain < 0.0f ? 0.0f : gain);
        if (++plc->position < plc->n_cycle)
            continue;
        int32_t periods = 1 + plc->n_lost / (KEEP_MS * per_ms);
        periods = periods > 3 ? 3 : periods;
        plc->position = 0;
        if (periods * plc->pitch > plc->n_cycle &&
            periods * plc->pitch + plc->overlap <= plc->n_history) {
            /* Same place in the longer stretch: its last period follows on seamlessly. */
            plc->n_cycle = periods * plc->pitch;
            plc->position = plc->n_cycle - plc->pitch;
        }
    }
}

void cp_plc_cut(cp_plc *plc)
{
    if (plc->n_lost)
        return;
    begin(plc);
    plc->n_lost = 1;
}

void cp_plc_lost(cp_plc *plc, int16_t *pcm, int32_t n_samples)
{
    float v[160];
    int32_t silent = SILENT_MS * plc->sample_rate / 1000;
    plc->n_concealed += n_samples;
    if (plc->n_lost == 0 && n_samples > 0)
        begin(plc);
    for (int32_t at = 0; at < n_samples;) {
        int32_t n = n_samples - at < 160 ? n_samples - at : 160;
        if (plc->n_lost >= silent) {
            memset(pcm + at, 0, (size_t)n * sizeof *pcm);
        } else {
            repeat(plc, v, n);
            for (int32_t i = 0; i < n; i++)
                pcm[at + i] = cp_round16(v[i]);
        }
        remember(plc, pcm + at, n);
        at += n;
    }
}

void cp_plc_good(cp_plc *plc, int16_t *pcm, int32_t n_samples)
{
    if (n_samples <= 0)
        return;
    if (plc->n_lost) {
        /* Longer losses have drifted further: 4 ms more overlap per 10 ms, at most 10 ms. */
        float v[160];
        int32_t per_ms = plc->sample_rate / 1000;
        int32_t n = plc->overlap + plc->n_lost * 4 / 10;
        n = n > 10 * per_ms ? 10 * per_ms : n;
        n = n > n_samples ? n_samples : n;
        repeat(plc, v, n);
        for (int32_t i = 0; i < n; i++) {
            float w = (float)(i + 1) / (float)(n + 1);
            pcm[i] = cp_round16(v[i] + w * ((float)pcm[i] - v[i]));
        }
        plc->n_lost = 0;
    }
    remember(plc, pcm, n_samples);
}
