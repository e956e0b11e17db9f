/* What is wrong with what a stream receives: counted as it happens, judged by nobody here. */
#include "engine_impl.h"

#include <string.h>

enum {
    RAIL = 31500,         /* mu-law ends at 32124, A-law at 32256 */
    RAIL_SAMPLES = 4,     /* so many in a frame: its tops are flat */
    WINDOW_MS = 1000,     /* of arrivals, of which the quickest tells the path's delay */
    JUMP_US = 200000,     /* of the sender's time line: not its clock */
    TRAIL_FRAMES = 2,     /* the detector sees a digit end in the silence behind it */
};
static const double LOUD_MEAN_SQUARE = 260000.0;   /* -30 dBm0 */
static const double SILENT_MEAN_SQUARE = 260.0;    /* -60 dBm0 */

void ce_health_refused(ce_stream *s, const ce_addr *from, int payload_type)
{
    ce_health *h = &s->c.health;
    if (payload_type >= 0) {
        h->wrong_type++;
        h->last_type = (uint8_t)payload_type;
    } else {
        h->elsewhere++;
        h->last_from = *from;
    }
}

void ce_health_send_failed(ce_stream *s, int error)
{
    s->c.health.send_errors++;
    s->c.health.send_errno = error;
}

void ce_health_unsent(ce_stream *s, int error)
{
    s->c.tx_packets--;
    s->e->st.tx_packets--;
    s->e->st.send_errors++;
    ce_health_send_failed(s, error);
}

/* The quickest packet of each window: its transit grows or shrinks steadily where the two clocks
 * do not agree. When all windows are full, two become one, twice as long. */
void ce_health_arrival(ce_stream *s, uint32_t ts)
{
    ce_health *h = &s->c.health;
    int64_t now_us = s->e->rx_ns / 1000;
    int64_t media_us = h->media_us + (int64_t)(int32_t)(ts - h->last_ts) * 1000 / s->clock_ms;
    int64_t transit = now_us - h->begun_us - media_us;
    if (!h->n_windows || transit - h->last_transit > JUMP_US ||
        h->last_transit - transit > JUMP_US) {
        h->n_windows = 1;
        h->window_ms = WINDOW_MS;
        h->begun_us = now_us;
        media_us = transit = 0;
        h->best_us[0] = h->window_us[0] = h->window_begun_us = 0;
    }
    h->last_ts = ts;
    h->media_us = media_us;
    h->last_transit = transit;
    int64_t at = now_us - h->begun_us;
    uint32_t w = h->n_windows - 1;
    if (at - h->window_begun_us >= (int64_t)h->window_ms * 1000) {
        if (h->n_windows == CE_WINDOWS) {
            for (int i = 0; i < CE_WINDOWS / 2; i++) {
                int best = h->best_us[2 * i] < h->best_us[2 * i + 1] ? 2 * i : 2 * i + 1;
                h->best_us[i] = h->best_us[best];
                h->window_us[i] = h->window_us[best];
            }
            h->n_windows = CE_WINDOWS / 2;
            h->window_ms *= 2;
        }
        w = h->n_windows++;
        h->window_begun_us = at;
        h->best_us[w] = transit;
        h->window_us[w] = at;
    } else if (transit < h->best_us[w]) {
        h->best_us[w] = transit;
        h->window_us[w] = at;
    }
}

/* A key sounds steadily; most of speech does not, and costs nothing. */
static void count_digits(ce_stream *s, const int16_t *pcm, int steady)
{
    ce_health *h = &s->c.health;
    if (steady)
        h->trail = TRAIL_FRAMES;
    else if (!h->trail)
        return;
    else
        h->trail--;
    int16_t narrow[CE_MAX_SAMPLES];
    if (s->rate == 16000) {
        cp_resample(&s->to_detect, pcm, s->n_samples, narrow, CE_MAX_SAMPLES);
        pcm = narrow;
    }
    cp_dtmf_event ev[4];
    int n = cp_dtmf_rx_push(&s->dtmf, pcm, 160, ev, 4);
    for (int i = 0; i < n; i++)
        h->inband_digits += ev[i].is_end;
}

/* weight: frames that this one stands for. squares: the sum of its squared samples. */
void ce_health_frame(ce_stream *s, const int16_t *pcm, int n, double squares, int weight)
{
    ce_health *h = &s->c.health;
    double mean = squares / n;
    h->frames += (uint64_t)weight;
    if (mean > h->loudest)
        h->loudest = mean;
    if (mean < SILENT_MEAN_SQUARE) {
        int i = 1;
        while (i < n && pcm[i] == pcm[0])
            i++;
        h->flat_frames += i == n ? (uint64_t)weight : 0;
    } else {
        h->active_frames += (uint64_t)weight;
        h->active_squares += mean * weight;
    }
    int loud = mean > LOUD_MEAN_SQUARE;
    if (loud) {
        if (cp_count_beyond(pcm, n, RAIL) >= RAIL_SAMPLES)
            h->clipped_frames += (uint64_t)weight;
    }
    /* Nobody listens for digits in the audio where events were negotiated; that some come all the
     * same explains why a digit was not understood. */
    if (weight == 1 && s->kind == CE_RTP && s->te_pt != CE_NO_PT && !s->opt.detect_dtmf)
        count_digits(s, pcm, loud && mean < h->last_mean * 1.5 && mean > h->last_mean / 1.5);
    h->last_mean = mean;
}

void ce_meter_read(const ce_stream *s, ce_meter *m)
{
    const ce_counters *c = &s->c;
    m->arrived = c->rx_packets;
    m->frames = c->health.frames;
    m->active = c->health.active_frames;
    m->clipped = c->health.clipped_frames;
    m->n_samples = c->level_in.n_samples;
    m->squares = c->level_in.sum_squares;
    m->noise = s->cn.active;
    m->expected = s->kind == CE_RTP ? s->rx : s->kind == CE_DEVICE && s->readable;
}
