#include "gain_impl.h"

#include <math.h>
#include <string.h>

enum { QUARTERS = 4 };
static const float RAIL = 32000.0f;
static const float NO_SPEECH = 0.0316f; /* 15 dB under what the greatest gain lifts to the target */

void cp_gain_init(cp_gain *g, const cp_gain_config *config)
{
    memset(g, 0, sizeof *g);
    g->config = *config;
    g->envelope = config->target;
    g->wanted = g->gain = 1.0f;
    g->open_frames = config->hold_frames;
}

static int is_open(cp_gain *g, const int16_t *pcm, int32_t n)
{
    const cp_gain_config *c = &g->config;
    if (!c->gates)
        return 1;
    n /= QUARTERS;
    for (int32_t quarter = 0; quarter < QUARTERS; quarter++, pcm += n) {
        float squares = 0.0f;
        for (int32_t i = 0; i < n; i++)
            squares += (float)pcm[i] * (float)pcm[i];
        if (squares >= c->gate * (float)n) {
            g->open_frames = c->hold_frames;
            return 1;
        }
    }
    if (!g->open_frames)
        return 0;
    g->open_frames--;
    return 1;
}

static float controlled(cp_gain *g, float mean_square)
{
    const cp_gain_config *c = &g->config;
    if (!c->controls)
        return 1.0f;
    if (mean_square > c->target / (c->most * c->most) * NO_SPEECH)
        g->envelope += (mean_square - g->envelope) *
                       (mean_square > g->envelope ? c->attack : c->release);
    return fminf(fmaxf(sqrtf(c->target / g->envelope), 1.0f / c->most), c->most);
}

void cp_gain_frame(cp_gain *g, int16_t *pcm, int32_t n)
{
    int32_t peak = 0;
    float squares = 0.0f, from = g->gain;
    for (int32_t i = 0; i < n; i++) {
        int32_t v = pcm[i] < 0 ? -pcm[i] : pcm[i];
        peak = v > peak ? v : peak;
        squares += (float)v * (float)v;
    }
    int open = is_open(g, pcm, n);
    float to = controlled(g, squares / (float)n);
    int32_t length = open && from < to / 2 ? n / QUARTERS : n;
    if (to * (float)peak > RAIL)
        to = RAIL / (float)peak;
    if (from * (float)peak > RAIL) /* the ramp ends where the scale would be left */
        for (length = 1; length < n && from * fabsf((float)pcm[length]) <= RAIL;)
            length++;
    g->wanted = to;
    if (!open)
        to = 0.0f;
    for (int32_t i = 0; i < n; i++) {
        float gain = i < length ? from + (to - from) * (float)(i + 1) / (float)length : to;
        pcm[i] = (int16_t)lrintf(fminf(fmaxf(gain * pcm[i], -32768.0f), 32767.0f));
    }
    g->gain = to;
}
