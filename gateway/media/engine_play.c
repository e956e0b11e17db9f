/* What a stream plays instead of its bridge, the digits it sends, and its recording. */
#include "engine_impl.h"

#include <string.h>

enum { DIGIT_ENDS = 3 }; /* RFC 4733 2.5.1.4: the last packet goes out three times */

void ce_play_end(ce_stream *s, int report)
{
    ce_play *p = s->play;
    if (!p)
        return;
    if (report)
        ce_post(s->e, CE_EV_PLAY_ENDED, s, (int32_t)p->id, 0, 0, NULL, 0);
    s->play = NULL;
    atomic_store_explicit(&p->done, 1, memory_order_release);
    if (s->bridge)
        ce_bridge_replan(s->bridge);
}

/* n samples at the play's own rate; 0 when it is over. */
static int pcm_read(ce_play *p, int16_t *out, uint32_t n)
{
    uint32_t got = 0;
    while (got < n) {
        if (p->at < p->n_samples) {
            uint32_t k = p->n_samples - p->at < n - got ? p->n_samples - p->at : n - got;
            memcpy(out + got, p->pcm + p->at, k * sizeof *out);
            p->at += k, got += k;
            continue;
        }
        if (p->times && p->done_times + 1 >= p->times) {
            memset(out + got, 0, (n - got) * sizeof *out);
            return got > 0;
        }
        if (p->gap_at < p->gap_samples) {
            uint32_t k = p->gap_samples - p->gap_at < n - got ? p->gap_samples - p->gap_at : n - got;
            memset(out + got, 0, k * sizeof *out);
            p->gap_at += k, got += k;
            continue;
        }
        p->gap_at = p->at = 0;
        p->done_times++;
    }
    return 1;
}

int ce_play_frame(ce_stream *s, int16_t *out)
{
    ce_play *p = s->play;
    int n = s->n_samples;
    if (!p)
        return 0;
    if (p->is_tone) {
        if ((uint32_t)p->tone.sample_rate == s->rate) {
            if (cp_tone_tx_read(&p->tone, out, n) < n)
                ce_play_end(s, 1);
            return 1;
        }
    } else if (p->rate == s->rate) {
        if (!pcm_read(p, out, (uint32_t)n)) {
            ce_play_end(s, 1);
            return 0;
        }
        return 1;
    }
    /* The codec changed while it played. */
    int16_t raw[CE_MAX_SAMPLES];
    int from = (int)(p->is_tone ? (uint32_t)p->tone.sample_rate : p->rate) / 50, more;
    const cp_resampler *r = &p->resampler;
    if (r->in_per_ms != from / CE_FRAME_MS ||
        r->in_per_ms * r->up / r->down != (int32_t)s->rate / 1000)
        cp_resampler_init(&p->resampler, from * 50, (int32_t)s->rate);
    more = p->is_tone ? cp_tone_tx_read(&p->tone, raw, from) == from
                      : pcm_read(p, raw, (uint32_t)from);
    cp_resample(&p->resampler, raw, from, out, CE_MAX_SAMPLES);
    if (!more)
        ce_play_end(s, 1);
    return 1;
}

void ce_digits_queue(ce_stream *s, const char *digits, int n, int on_ms, int off_ms)
{
    for (int i = 0; i < n; i++) {
        if (s->n_digits >= CE_MAX_DIGITS) {
            /* The newest: what is under way keeps its beginning and its order. */
            s->c.dropped_digits += n - i;
            break;
        }
        s->digits[s->n_digits] = digits[i];
        s->digit_on[s->n_digits] = (uint16_t)on_ms;
        s->digit_off[s->n_digits] = (uint16_t)off_ms;
        s->n_digits++;
    }
    if (s->bridge)
        ce_bridge_replan(s->bridge);
}

static void digit_next(ce_stream *s)
{
    s->n_digits--;
    memmove(s->digits, s->digits + 1, s->n_digits);
    memmove(s->digit_on, s->digit_on + 1, s->n_digits * sizeof s->digit_on[0]);
    memmove(s->digit_off, s->digit_off + 1, s->n_digits * sizeof s->digit_off[0]);
    s->digit_started = 0;
    if (!s->n_digits && s->bridge)
        ce_bridge_replan(s->bridge);
}

static int event_code(char digit)
{
    const char *names = "0123456789*#ABCD!", *at = strchr(names, digit);
    return at ? (int)(at - names) : 0;
}

int ce_digit_tone(ce_stream *s)
{
    /* Q.23 levels of a telephone set: -6 dBm0 column, -8 dBm0 row. */
    return cp_dtmf_tx_init(&s->dtmf_tx, s->digits[0], (int32_t)s->rate, -7.0f, 2.0f);
}

int ce_digit_frame(ce_stream *s, int16_t *out)
{
    if (!s->n_digits)
        return 0;
    int on = s->digit_on[0], off = s->digit_off[0];
    if (!s->digit_started) {
        s->digit_started = 1;
        s->digit_ms = 0;
        s->digit_ends = 0;
        s->digit_ts = s->kind == CE_RTP ? ce_rtp_now_ts(s) : 0;
        if (s->te_pt == CE_NO_PT && ce_digit_tone(s)) {
            digit_next(s);
            return 0;
        }
    }
    int at = s->digit_ms;
    s->digit_ms = (uint16_t)(at + CE_FRAME_MS);
    if (s->te_pt == CE_NO_PT) {
        memset(out, 0, s->n_samples * sizeof *out);
        if (at < on) {
            int k = (on - at < CE_FRAME_MS ? on - at : CE_FRAME_MS) * (int)s->rate / 1000;
            cp_dtmf_tx_read(&s->dtmf_tx, out, k);
        } else if (at >= on + off) {
            digit_next(s);
            return s->n_digits ? ce_digit_frame(s, out) : 0;
        }
        return 1;
    }
    int code = event_code(s->digits[0]);
    if (at + CE_FRAME_MS < on) {
        ce_rtp_send_event(s, code, 0, (uint32_t)s->digit_ms * s->clock_ms, s->digit_ts, at == 0);
        return 2;
    }
    if (s->digit_ends < DIGIT_ENDS) {
        ce_rtp_send_event(s, code, 1, (uint32_t)on * s->clock_ms, s->digit_ts, at == 0);
        s->digit_ends++;
        return 2;
    }
    if (at >= on + off) {
        digit_next(s);
        return s->n_digits ? ce_digit_frame(s, out) : 0;
    }
    memset(out, 0, s->n_samples * sizeof *out);
    return 1;
}

/* One frame into the recording's ring; a full ring loses the frame and counts it. */
void ce_record_frame(ce_stream *s, const int16_t *in, const int16_t *out)
{
    ce_record *r = s->record;
    uint32_t n = r->rate / 50, head = atomic_load_explicit(&r->head, memory_order_relaxed);
    uint32_t room = r->capacity - (head - atomic_load_explicit(&r->tail, memory_order_acquire));
    if (room < n) {
        atomic_fetch_add_explicit(&r->dropped, n, memory_order_relaxed);
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint32_t k = i * s->n_samples / n; /* the codec may have changed rate meanwhile */
        int16_t *f = r->ring + (head + i) % r->capacity * r->channels;
        f[0] = in[k];
        if (r->channels == 2)
            f[1] = out[k];
    }
    atomic_store_explicit(&r->head, head + n, memory_order_release);
}
