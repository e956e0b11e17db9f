/* Jitter buffer of one stream: octets by RTP timestamp, one bit per tick says what has arrived.
 *
 * All our codecs have a constant number of octets per tick, so packets of any ptime go in and
 * 20 ms frames come out; order, duplicates and overlaps need no bookkeeping. Playout begins
 * `target` behind the first packet, moves back when packets come later than that, and skips a
 * frame when the buffer has been deeper than needed for a while (also what absorbs clock drift).
 */
#include "engine_impl.h"

#include <string.h>

enum { SHRINK_FRAMES = 100 }; /* too deep for 2 s before it shrinks; a quarter when very deep */

static void bits(uint64_t *have, uint32_t at, uint32_t n, int set)
{
    while (n) {
        uint32_t o = at % 64, k = 64 - o < n ? 64 - o : n;
        uint64_t m = (k == 64 ? ~0ull : ((1ull << k) - 1)) << o;
        uint64_t *w = &have[at / 64 % (CE_JB_TICKS / 64)];
        *w = set ? *w | m : *w & ~m;
        at += k, n -= k;
    }
}

static int bits_full(const uint64_t *have, uint32_t at, uint32_t n)
{
    while (n) {
        uint32_t o = at % 64, k = 64 - o < n ? 64 - o : n;
        uint64_t m = (k == 64 ? ~0ull : ((1ull << k) - 1)) << o;
        if ((have[at / 64 % (CE_JB_TICKS / 64)] & m) != m)
            return 0;
        at += k, n -= k;
    }
    return 1;
}

static void jitter_start(ce_stream *s, uint32_t ts)
{
    ce_jitter *j = &s->jb;
    memset(j->have, 0, sizeof j->have);
    j->started = 1;
    j->cut = 0;
    j->first = j->end = ts;
    j->play = ts - (s->target + s->frame_ticks - 1u) / s->frame_ticks * s->frame_ticks;
    j->window = 0;
    j->min_depth = UINT32_MAX;
    j->jump = ts - 1;
}

void ce_jitter_put(ce_stream *s, uint32_t ts, const uint8_t *p, int n)
{
    ce_jitter *j = &s->jb;
    uint32_t bpt = s->bytes_per_tick, ticks = (uint32_t)n / bpt;
    if (!ticks)
        return;
    if (!j->started)
        jitter_start(s, ts);
    int32_t d = (int32_t)(ts - j->play);
    if (d > CE_JB_TICKS - (int32_t)ticks || d < -(int32_t)s->jitter_max - 4000) {
        /* A jump in the timestamps: two packets that follow each other make it the new timeline. */
        if (j->jump != ts) {
            j->jump = ts + ticks;
            s->c.late++;
            return;
        }
        jitter_start(s, ts);
        d = (int32_t)(ts - j->play);
    }
    if (d < 0) {
        if (d + (int32_t)ticks <= 0)
            s->c.late++;
        if (j->end - ts <= s->jitter_max) {
            /* Later than we waited: wait longer from here on rather than lose the next ones. */
            j->play = ts;
            j->cut = 1;
            d = 0;
        } else if (d + (int32_t)ticks > 0) {
            p += (uint32_t)-d * bpt;
            ticks -= (uint32_t)-d;
            ts = j->play;
        } else {
            return;
        }
    }
    uint32_t at = ts % CE_JB_TICKS, k = CE_JB_TICKS - at < ticks ? CE_JB_TICKS - at : ticks;
    memcpy(j->data + at * bpt, p, k * bpt);
    memcpy(j->data, p + k * bpt, (ticks - k) * bpt);
    bits(j->have, at, k, 1);
    bits(j->have, 0, ticks - k, 1);
    if ((int32_t)(ts + ticks - j->end) > 0)
        j->end = ts + ticks;
    if (j->end - j->play > s->jitter_max + 2u * s->frame_ticks) {
        /* A burst after a stall: what is older than the deepest buffer is given up. */
        uint32_t drop = (j->end - j->play - s->target) / s->frame_ticks * s->frame_ticks;
        bits(j->have, j->play % CE_JB_TICKS, drop, 0);
        j->play += drop;
        j->cut = 1;
        s->c.slips += drop / s->frame_ticks;
    }
}

/* One frame of 20 ms: 1 there, 2 lost, 3 comfort noise, 0 the sender is silent. */
void ce_rtp_fetch(ce_stream *s)
{
    ce_jitter *j = &s->jb;
    uint32_t f = s->frame_ticks, bpt = s->bytes_per_tick;
    s->in_state = s->cn.active ? 3 : 0;
    if (!j->started)
        return;
    int32_t depth = (int32_t)(j->end - j->play);
    if (depth < -(int32_t)s->jitter_max) {
        j->started = 0; /* nothing for long: the next packet starts afresh */
        return;
    }
    if (depth < (int32_t)f && (s->cn.active || s->e->tick - s->te_tick < CE_TE_SILENT_MS)) {
        /* Audio gives way to telephone events or to silence: nothing is lost. */
        bits(j->have, j->play % CE_JB_TICKS, f, 0);
        j->play += f;
        return;
    }
    uint32_t slack = depth > (int32_t)f ? (uint32_t)depth - f : 0;
    if (slack < j->min_depth)
        j->min_depth = slack;
    if (++j->window >= (slack > 3 * f ? SHRINK_FRAMES / 4 : SHRINK_FRAMES)) {
        uint32_t keep = s->jitter_min > f ? s->jitter_min - f : s->clock_ms * 4u;
        if (j->min_depth >= f + keep) {
            bits(j->have, j->play % CE_JB_TICKS, f, 0);
            j->play += f;
            j->cut = 1;
        }
        j->window = 0;
        j->min_depth = UINT32_MAX;
    }
    uint32_t at = j->play % CE_JB_TICKS;
    if (bits_full(j->have, at, f)) {
        uint32_t k = CE_JB_TICKS - at < f ? CE_JB_TICKS - at : f;
        s->coded = j->data + at * bpt; /* what comes next goes elsewhere */
        if (k < f) {
            memcpy(s->f->payload_in, s->coded, k * bpt);
            memcpy(s->f->payload_in + k * bpt, j->data, (f - k) * bpt);
            s->coded = s->f->payload_in;
        }
        s->in_state = 1;
        if (j->cut)
            cp_plc_cut(&s->plc);
        if ((int32_t)(j->play + f - s->cn.ts) > 0)
            s->cn.active = 0;
    } else if (!s->cn.active) {
        s->in_state = (int32_t)(j->play - j->first) < 0 ? 0 : 2;
    }
    j->cut = 0;
    bits(j->have, at, f, 0);
    j->play += f;
    s->c.buffer_ms = depth > 0 ? (uint32_t)depth / s->clock_ms : 0;
}
