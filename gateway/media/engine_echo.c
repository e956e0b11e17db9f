/* Line echo cancellation of one stream (ITU-T G.168): what was sent into a two-wire line is taken
 * out of what comes back of it.
 *
 * Between the frame that we send and its echo lie our own buffers, the device's or the network's. So
 * the delay is looked for first: what was sent is correlated with what is received, at a quarter
 * of the rate, over half a second. Until one delay stands out, as it does of speech and noise but
 * not of a tone, nothing is changed. Then the canceller works around that delay.
 *
 * A `ce_echo` is made and freed by Python; in between it belongs to the worker.
 */
#include "engine_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    COARSE = 4,                     /* samples per step of the search */
    SPAN = CE_ECHO_LAGS * COARSE,   /* samples that are searched */
    LEAD = 40,          /* the echo may begin so much before its strongest point: 5 ms */
    NEIGHBOURS = 24,    /* steps: speech resembles itself within its pitch, 12 ms */
    SEEN_FRAMES = 10,   /* of audio in both directions before a delay counts */
    STEADY_FRAMES = 6,  /* for which it must have been the same */
    MOVED_FRAMES = 25,  /* elsewhere, before it is believed that the echo has moved */
    LOST_FRAMES = 6,    /* the same where the canceller has nothing to lose */
    ASTRAY = 1600,      /* samples by which the two time lines may shift: 200 ms */
    RAMP = 40,          /* samples: 5 ms */
};
static const float SCORE_KEPT = 0.95f; /* per frame: 0.4 s */
static const float STANDS_OUT = 1.8f;
static const float ALIKE = 0.15f;      /* least correlation */
static const float QUIET_SQUARE = 64.0f;
static const float ERLE_KEPT = 0.99f;  /* per 10 ms: a second */
static const float LOUD_ENOUGH = 300.0f;
static const double AUDIBLE = 0.0025;   /* of the power sent: 26 dB below it (G.131) */
static const float EXPLAINED = 0.25f;  /* share of the echo in a block that tells about it */
static const float RESIDUAL = 4.0f;    /* this many times the usual one: somebody speaks */

ce_echo *ce_echo_new(int tail_ms, int suppresses)
{
    int32_t taps = tail_ms * 8;
    ce_echo *e = ce_zeroed(sizeof *e);
    if (!e)
        return NULL;
    e->canceller = ce_zeroed(cp_echo_bytes(taps));
    if (!e->canceller || cp_echo_init(e->canceller, taps)) {
        ce_echo_free(e);
        return NULL;
    }
    e->taps = taps;
    e->suppresses = (uint8_t)suppresses;
    return e;
}

void ce_echo_free(ce_echo *e)
{
    if (!e)
        return;
    free(e->canceller);
    free(e);
}

static void search_again(ce_echo *e)
{
    memset(e->score, 0, sizeof e->score);
    e->weight = 0.0f;
    e->seen = e->steady = e->moved = e->best = 0;
    e->base = (int32_t)(e->written - e->heard) & ~(COARSE - 1);
}

static void begin(ce_stream *s)
{
    ce_echo *e = s->echo;
    e->written = e->heard = 0;
    e->tail_seen = s->in_tail;
    e->is_found = 0;
    e->gain = 1.0f;
    search_again(e);
}

void ce_echo_set(ce_stream *s, ce_echo *e)
{
    if (s->echo)
        atomic_store_explicit(&s->echo->done, 1, memory_order_release);
    s->echo = e;
    memset(&s->c.echo, 0, sizeof s->c.echo);
    if (e)
        begin(s);
}

/* ---- what was sent ---- */

static void tape_put(ce_echo *e, const int16_t *pcm, int n)
{
    for (int i = 0; i < n; i++) {
        e->tape[e->written % CE_ECHO_TAPE] = pcm[i];
        e->coarse_sum += pcm[i];
        if (++e->written % COARSE == 0) {
            e->coarse[e->written / COARSE % CE_ECHO_COARSE] = e->coarse_sum - e->coarse_last;
            e->coarse_last = e->coarse_sum;
            e->coarse_sum = 0.0f;
        }
    }
}

/* Octets as they left; NULL: silence. */
void ce_echo_sent(ce_stream *s, const uint8_t *octets, int n)
{
    int16_t pcm[CE_MAX_SAMPLES];
    if (s->rate != 8000)
        return;
    int bytes = s->bytes_per_tick; /* per sample, at this rate */
    for (n /= bytes; n > 0;) {
        int k = n < CE_MAX_SAMPLES ? n : CE_MAX_SAMPLES;
        if (!octets)
            memset(pcm, 0, sizeof pcm);
        else if (s->codec == CE_PCMU)
            cp_ulaw_decode(octets, pcm, k);
        else if (s->codec == CE_PCMA)
            cp_alaw_decode(octets, pcm, k);
        else if (s->kind == CE_RTP)
            for (int i = 0; i < k; i++)
                pcm[i] = (int16_t)(octets[2 * i] << 8 | octets[2 * i + 1]);
        else
            memcpy(pcm, octets, (size_t)k * sizeof *pcm);
        tape_put(s->echo, pcm, k);
        octets = octets ? octets + k * bytes : NULL;
        n -= k;
    }
}

/* Whether sample `at` of the tape is still or already on it. */
static int on_tape(const ce_echo *e, uint32_t at)
{
    return e->written - at - 1 < CE_ECHO_TAPE - COARSE;
}

static void take(const ce_echo *e, uint32_t from, int16_t *out, int n)
{
    for (int i = 0; i < n; i++, from++)
        out[i] = on_tape(e, from) ? e->tape[from % CE_ECHO_TAPE] : 0;
}

/* ---- the delay ---- */

CP_CLONES static void correlate(float *score, const float *sent, const float *received)
{
    for (int k = 0; k < CE_ECHO_LAGS; k++)
        score[k] *= SCORE_KEPT;
    for (int i = 0; i < CE_ECHO_FRAME; i++) {
        float by = received[i];
        for (int k = 0; k < CE_ECHO_LAGS; k++)
            score[k] += by * sent[i + k];
    }
}

/* The step whose score stands out, or -1. */
static int outstanding(const ce_echo *e)
{
    int best = 0;
    float most = 0.0f, next = 0.0f;
    for (int k = 0; k < CE_ECHO_LAGS; k++)
        if (fabsf(e->score[k]) > most) {
            most = fabsf(e->score[k]);
            best = k;
        }
    for (int k = 0; k < CE_ECHO_LAGS; k++)
        if (k < best - NEIGHBOURS || k > best + NEIGHBOURS)
            next = fmaxf(next, fabsf(e->score[k]));
    return most > ALIKE * e->weight && most > STANDS_OUT * next ? best : -1;
}

static void search(ce_echo *e, const int16_t *pcm)
{
    float sent[CE_ECHO_LAGS + CE_ECHO_FRAME], received[CE_ECHO_FRAME];
    float sent_energy = 0.0f, received_energy = 0.0f, piece = 0.0f;
    for (int i = 0; i < CE_ECHO_FRAME; i++) {
        float sum = 0.0f;
        for (int k = 0; k < COARSE; k++)
            sum += pcm[i * COARSE + k];
        received[i] = sum - e->received_last;
        e->received_last = sum;
        received_energy += received[i] * received[i];
    }
    uint32_t from = e->heard + (uint32_t)(e->base - SPAN);
    for (int k = 0; k < CE_ECHO_LAGS + CE_ECHO_FRAME; k++, from += COARSE) {
        /* A step is filed under the sample behind it. */
        sent[k] = on_tape(e, from + COARSE - 1)
                      ? e->coarse[(from + COARSE) / COARSE % CE_ECHO_COARSE] : 0.0f;
        piece += sent[k] * sent[k];
        if (k % CE_ECHO_FRAME == CE_ECHO_FRAME - 1) { /* the loudest 20 ms count */
            sent_energy = fmaxf(sent_energy, piece);
            piece = 0.0f;
        }
    }
    float quiet = QUIET_SQUARE * CE_ECHO_FRAME;
    if (sent_energy < quiet || received_energy < quiet)
        return;
    /* Every frame counts the same: a loud tone before a voice would drown it for a second. */
    float by = 1.0f / sqrtf(sent_energy * received_energy);
    for (int i = 0; i < CE_ECHO_FRAME; i++)
        received[i] *= by;
    correlate(e->score, sent, received);
    e->weight = SCORE_KEPT * e->weight + 1.0f;
    e->seen++;
    int best = outstanding(e);
    int is_same = best >= 0 && abs(best - e->best) <= 2;
    e->steady = is_same ? e->steady + 1 : 0;
    e->best = best;
    if (best < 0 || e->seen < SEEN_FRAMES || e->steady < STEADY_FRAMES)
        return;
    int32_t at = e->base - SPAN + best * COARSE, offset = at + LEAD;
    if (offset > e->base - CE_ECHO_FRAME * COARSE)
        offset = e->base - CE_ECHO_FRAME * COARSE;
    if (e->is_found) {
        int covered = at <= e->offset && at > e->offset - e->taps + LEAD / 2;
        e->moved = covered ? 0 : e->moved + 1;
        int is_learned = e->canceller->leak < 0.5f;
        if (e->moved < (is_learned ? MOVED_FRAMES : LOST_FRAMES))
            return;
    }
    e->moved = 0;
    e->is_found = 1;
    e->offset = offset;
    e->delay = e->base - at;
    e->next = e->heard + (uint32_t)offset + 1; /* not what comes: the past is to be loaded */
    cp_echo_forget(e->canceller);
}

/* ---- what is left of it ---- */

/* Whether the block tells about the echo. */
static int measure(ce_stream *s, const cp_echo_block *b)
{
    ce_echo_figures *f = &s->c.echo;
    float rms = sqrtf(b->received / CP_ECHO_BLOCK);
    if (b->loudest < LOUD_ENOUGH || rms > 0.7f * b->loudest ||
        b->received < QUIET_SQUARE * CP_ECHO_BLOCK || b->estimate < EXPLAINED * b->received)
        return 0;
    f->received = ERLE_KEPT * f->received + b->received;
    f->clean = ERLE_KEPT * f->clean + b->clean;
    f->estimate = ERLE_KEPT * f->estimate + b->estimate;
    f->sent = ERLE_KEPT * f->sent + b->sent;
    f->blocks++;
    return 1;
}

/* What the other side gets to hear of its own voice. */
static void measure_passed(ce_stream *s, const int16_t *pcm)
{
    ce_echo_figures *f = &s->c.echo;
    double power = 0.0;
    for (int i = 0; i < CP_ECHO_BLOCK; i++)
        power += (double)pcm[i] * pcm[i];
    f->passed = ERLE_KEPT * f->passed + power;
    f->audible += f->passed > AUDIBLE * f->sent;
}

/* What the filter leaves is taken away where it is no louder than it usually is, and replaced by
 * noise like the line's own: silence would sound like a broken line. */
static void suppress(ce_stream *s, const cp_echo_block *b, int16_t *pcm)
{
    ce_echo *e = s->echo;
    const ce_echo_figures *f = &s->c.echo;
    float clean = b->clean / CP_ECHO_BLOCK;
    int is_active = b->loudest > LOUD_ENOUGH / 2;
    if (!is_active || clean < e->noise)
        e->noise += (clean - e->noise) * (clean < e->noise ? 0.3f : 0.02f);
    e->expected = fmaxf(0.7f * e->expected, b->estimate);
    float leak = f->received > 0.0 ? (float)(f->clean / f->received) : 1.0f;
    int is_echo = is_active && f->blocks > 10 &&
                  b->clean < RESIDUAL * fminf(leak, 0.25f) * e->expected +
                                 QUIET_SQUARE * CP_ECHO_BLOCK / 4;
    float from = e->gain, to = is_echo ? 0.0f : 1.0f;
    if (from == 1.0f && to == 1.0f)
        return;
    float level = sqrtf(fminf(e->noise, 4.0f * QUIET_SQUARE) * 3.0f);
    for (int i = 0; i < CP_ECHO_BLOCK; i++) {
        float g = i < RAMP ? from + (to - from) * (float)(i + 1) / RAMP : to;
        e->random = e->random * 1664525u + 1013904223u;
        float noise = level * ((float)(int32_t)e->random / 2147483648.0f);
        pcm[i] = (int16_t)lrintf(g * pcm[i] + (1.0f - g) * noise);
    }
    e->gain = to;
}

static void cancel(ce_stream *s, int16_t *pcm)
{
    ce_echo *e = s->echo;
    int16_t sent[CP_ECHO_BLOCK];
    uint32_t first = e->heard + (uint32_t)e->offset;
    if (first != e->next) { /* found just now, or frames were missing */
        int16_t past[CP_ECHO_MOST_TAPS];
        take(e, first - (uint32_t)e->taps, past, e->taps);
        cp_echo_past(e->canceller, past);
    }
    e->next = first + CE_ECHO_FRAME * COARSE;
    for (int at = 0; at < CE_ECHO_FRAME * COARSE; at += CP_ECHO_BLOCK) {
        cp_echo_block block;
        take(e, first + (uint32_t)at, sent, CP_ECHO_BLOCK);
        cp_echo_cancel(e->canceller, sent, pcm + at, pcm + at, &block);
        int tells = measure(s, &block);
        if (e->suppresses)
            suppress(s, &block, pcm + at);
        if (tells)
            measure_passed(s, pcm + at);
    }
}

/* One frame of 20 ms, as it was decoded. */
void ce_echo_heard(ce_stream *s, int16_t *pcm)
{
    ce_echo *e = s->echo;
    if (s->rate != 8000)
        return;
    uint32_t from = e->heard;
    if (s->kind == CE_DEVICE) {
        /* Counted by what was read: a frame that was made up moves nothing. */
        uint32_t n = (s->in_tail - e->tail_seen) / s->bytes_per_tick;
        e->tail_seen = s->in_tail;
        e->heard += n;
        from = e->heard - s->n_samples;
        if (!n)
            return;
    } else {
        e->heard += s->n_samples;
    }
    if (s->in_state != 1)
        return;
    uint32_t after = e->heard;
    e->heard = from;
    int32_t shift = (int32_t)(e->written - from) - e->base;
    if (shift > ASTRAY || shift < -ASTRAY) {
        e->is_found = 0;
        search_again(e);
    }
    search(e, pcm);
    if (e->is_found)
        cancel(s, pcm);
    e->heard = after;
    s->c.echo.is_found = e->is_found;
    s->c.echo.delay_ms = (uint16_t)(e->is_found ? e->delay / 8 : 0);
}
