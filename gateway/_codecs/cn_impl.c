#include "cn_impl.h"

#include <math.h>
#include <string.h>

static const float SMOOTH = 0.25f;       /* of a new frame in the measurement */
static const float CORRECTION = 1.0005f; /* white noise that keeps the filter stable */
static const float MAX_K = 0.99f;

int32_t cp_cn_set(cp_cn_noise *g, const uint8_t *payload, int32_t n, int32_t white)
{
    if (n < 1)
        return CP_EINVAL;
    int32_t level = payload[0] & 0x7f, order = white ? 0 : n - 1;
    if (order > CP_CN_ORDER)
        order = CP_CN_ORDER;
    if (order != g->order)
        memset(g->b, 0, sizeof g->b);
    g->order = order;
    double left = 1.0; /* power of the excitation in that of the output */
    for (int32_t i = 0; i < order; i++) {
        float k = 258.0f * (float)(payload[1 + i] - 127) / 32768.0f; /* RFC 3389 3.2 */
        g->k[i] = k > MAX_K ? MAX_K : k < -MAX_K ? -MAX_K : k;
        left *= 1.0 - (double)g->k[i] * g->k[i];
    }
    double rms = level == CP_CN_SILENCE ? 0.0 : 32768.0 * pow(10.0, -level / 20.0);
    /* An even distribution of +-1 has a variance of a third. */
    g->gain = (float)(rms * sqrt(3.0 * left));
    if (!g->seed)
        g->seed = 0x2545f491u;
    return 0;
}

void cp_cn_generate(cp_cn_noise *g, int16_t *pcm, int32_t n_samples)
{
    for (int32_t at = 0; at < n_samples; at++) {
        g->seed = g->seed * 1664525u + 1013904223u;
        float f = (float)(int32_t)g->seed * (g->gain / 2147483648.0f);
        for (int32_t i = g->order; i-- > 0;) {
            f -= g->k[i] * g->b[i];
            if (i + 1 < g->order)
                g->b[i + 1] = g->b[i] + g->k[i] * f;
        }
        g->b[0] = f;
        pcm[at] = (int16_t)(f > 32767.0f ? 32767.0f : f < -32768.0f ? -32768.0f : f);
    }
}

void cp_cn_measure(cp_cn_meter *m, const int16_t *pcm, int32_t n_samples)
{
    float share = m->n_frames ? SMOOTH : 1.0f;
    m->n_frames = 1;
    for (int32_t lag = 0; lag <= CP_CN_ORDER; lag++) {
        float sum = 0.0f;
        for (int32_t i = lag; i < n_samples; i++)
            sum += (float)pcm[i] * (float)pcm[i - lag];
        m->r[lag] += share * (sum / (float)n_samples - m->r[lag]);
    }
}

int32_t cp_cn_payload(const cp_cn_meter *m, int32_t order, uint8_t *out)
{
    double level = m->r[0] < 1e-3f ? CP_CN_SILENCE
                                   : -10.0 * log10(m->r[0] / (32768.0 * 32768.0));
    out[0] = (uint8_t)(level < 0 ? 0 : level > CP_CN_SILENCE ? CP_CN_SILENCE : level + 0.5);
    if (order > CP_CN_ORDER)
        order = CP_CN_ORDER;
    /* Levinson and Durbin. */
    double a[CP_CN_ORDER + 1] = {1.0}, error = (double)m->r[0] * CORRECTION;
    for (int32_t i = 1; i <= order; i++) {
        double sum = m->r[i];
        for (int32_t j = 1; j < i; j++)
            sum += a[j] * m->r[i - j];
        double k = error > 1e-6 ? -sum / error : 0.0;
        k = k > MAX_K ? MAX_K : k < -MAX_K ? -MAX_K : k;
        for (int32_t j = 1; 2 * j <= i; j++) {
            double left = a[j], right = a[i - j];
            a[j] = left + k * right;
            if (2 * j != i)
                a[i - j] = right + k * left;
        }
        a[i] = k;
        error *= 1.0 - k * k;
        double index = k * 32768.0 / 258.0 + 127.0;
        out[i] = (uint8_t)(index < 0 ? 0 : index > 254 ? 254 : index + 0.5);
    }
    return 1 + order;
}
