/* Extended reports (RFC 3611) of one stream: how its packets came, told to the far end and to us. */
#include "engine_impl.h"

#include <math.h>
#include <string.h>

enum {
    DEPTH = 32,          /* packets behind the newest: what has not come by then is lost */
    MAX_JUMP = 3000,     /* RFC 3550 A.1: further on is another time line, not a loss */
    WAKE_MS = CE_PHASE_MS,
    PLC_ENHANCED = 2 << 6, BUFFER_ADAPTIVE = 3 << 4,
    BUFFER_QUICK = 15,   /* it takes a packet's delay at once */
};
static const double G711_BPL = 25.1; /* G.113 Appendix I: G.711 with Appendix I concealment */

/* One sequence number is judged when it is DEPTH behind the newest. */
static void judge(ce_xr *x, int at, uint64_t arrived)
{
    int what = !(arrived >> at & 1) ? CP_XR_LOST
               : x->discarded >> at & 1 ? CP_XR_DISCARDED : CP_XR_GOOD;
    cp_bursts_add(&x->bursts, what);
}

void ce_xr_advance(ce_stream *s, int n)
{
    ce_xr *x = &s->xr;
    if (n > MAX_JUMP) {
        x->known = 1;
        x->discarded = 0;
        return;
    }
    for (int at = DEPTH - 1; at >= DEPTH - n && at >= 0; at--)
        if (at < x->known)
            judge(x, at, s->seq_window);
    for (int i = DEPTH; i < n; i++)
        cp_bursts_add(&x->bursts, CP_XR_LOST);
    x->discarded = n >= 64 ? 0 : x->discarded << n;
    x->known = (uint8_t)(x->known + n > DEPTH ? DEPTH : x->known + n);
}

void ce_xr_discarded(ce_stream *s, uint16_t seq)
{
    uint16_t back = (uint16_t)(s->window_seq - seq);
    if (back < DEPTH)
        s->xr.discarded |= 1ull << back;
}

/* Its packets are another time line: what was open is forgotten, what was counted stays. */
void ce_xr_restart(ce_stream *s)
{
    s->xr.known = 0;
    s->xr.discarded = 0;
    s->xr.bursts.run = s->xr.bursts.lost = 0;
}

static uint8_t tenths(double mos)
{
    return (uint8_t)(mos * 10.0 + 0.5);
}

void ce_xr_metrics(const ce_stream *s, cp_voip_metrics *m)
{
    const ce_xr *x = &s->xr;
    const ce_health *h = &s->c.health;
    memset(m, 0, sizeof *m);
    double octets_ms = s->bytes_per_tick * (double)s->clock_ms;
    double packet_ms = s->c.rx_packets && octets_ms > 0
                           ? (double)s->c.rx_octets / (double)s->c.rx_packets / octets_ms
                           : CE_FRAME_MS;
    cp_bursts_metrics(&x->bursts, packet_ms, m);
    m->ssrc = s->source.ssrc;
    int relayed = s->relayed;
    uint32_t buffer = relayed ? 0 : s->c.buffer_ms;
    uint32_t deepest = s->clock_ms ? s->jitter_max / s->clock_ms : 0;
    uint32_t here = (uint32_t)(packet_ms + 0.5) + WAKE_MS + buffer;
    uint32_t trip = s->c.have_rtt ? s->c.rtt_us / 1000 : 0;
    m->round_trip_ms = (uint16_t)(trip > 65535 ? 65535 : trip);
    m->end_system_ms = (uint16_t)here;
    m->buffer_ms = (uint16_t)buffer;
    if (!relayed) {
        m->config = PLC_ENHANCED | BUFFER_ADAPTIVE | BUFFER_QUICK;
        m->buffer_max_ms = m->buffer_abs_max_ms = (uint16_t)deepest;
    }
    m->signal_dbm0 = m->noise_dbm0 = CP_XR_UNKNOWN;
    m->echo_loss_db = m->external_r = m->r_factor = m->mos_lq = m->mos_cq = CP_XR_UNKNOWN;
    if (h->active_frames) {
        double mean = h->active_squares / (double)h->active_frames;
        double dbm0 = 10.0 * log10(mean / (32768.0 * 32768.0 / 2.0)) + 3.14;
        m->signal_dbm0 = (int8_t)lrint(dbm0 < -99 ? -99 : dbm0);
    }
    if (s->codec != CE_PCMU && s->codec != CE_PCMA)
        return; /* G.107 is about the telephone band, and its tables about its codecs */
    uint32_t there = x->have_there ? x->there.end_system_ms : here;
    double bad = x->bursts.n
                     ? 100.0 * (x->bursts.n_lost + x->bursts.n_discarded) / x->bursts.n : 0.0;
    double one_way = (trip + here + there) / 2.0; /* RFC 3611 4.7.3 */
    double r = cp_e_model(0.0, G711_BPL, bad, one_way);
    m->r_factor = (uint8_t)(r + 0.5);
    m->mos_lq = tenths(cp_e_model_mos(cp_e_model(0.0, G711_BPL, bad, 0.0)));
    m->mos_cq = tenths(cp_e_model_mos(r));
}

int ce_xr_build(ce_stream *s, uint8_t *p, int cap, uint64_t ntp)
{
    ce_xr *x = &s->xr;
    cp_voip_metrics m;
    if (!x->metrics && !x->round_trip)
        return 0;
    int n = cp_xr_begin(p, cap, s->ssrc_out), k = n;
    if (k > 0 && x->round_trip && (k = cp_xr_rrtr(p + n, cap - n, (uint32_t)(ntp >> 32),
                                                  (uint32_t)ntp)) > 0)
        n += k;
    if (k > 0 && x->round_trip && x->asked) {
        uint64_t delay = (uint64_t)(s->e->now_ns - x->asked_ns) * 65536u / 1000000000u;
        if ((k = cp_xr_dlrr(p + n, cap - n, x->asked_ssrc, x->asked_at, (uint32_t)delay)) > 0)
            n += k;
        x->asked = 0;
    }
    if (k > 0 && x->metrics && s->rx_seen) {
        ce_xr_metrics(s, &m);
        if ((k = cp_xr_voip(p + n, cap - n, &m)) > 0)
            n += k;
    }
    if (k < 0 || n <= 8)
        return 0;
    cp_xr_end(p, n);
    return n;
}

void ce_xr_receive(ce_stream *s, const uint8_t *body, int len, uint32_t ssrc, uint32_t ntp_middle)
{
    ce_xr *x = &s->xr;
    int32_t at = 4;
    int r;
    cp_xr_block b;
    if (len < 4 || (s->rx_seen && ssrc != s->source.ssrc)) {
        s->c.refused++;
        return;
    }
    while ((r = cp_xr_next(body, len, &at, &b)) == 1) {
        const uint8_t *p = body + b.offset;
        uint32_t last, delay;
        cp_voip_metrics m;
        if (b.type == CP_XR_RRTR && x->round_trip && !cp_xr_rrtr_parse(p, b.len, &last)) {
            x->asked = 1;
            x->asked_ssrc = ssrc;
            x->asked_at = last;
            x->asked_ns = s->e->rx_ns;
        } else if (b.type == CP_XR_DLRR && x->round_trip &&
                   cp_xr_dlrr_find(p, b.len, s->ssrc_out, &last, &delay) && last) {
            ce_rtcp_round_trip(s, ntp_middle - last - delay);
        } else if (b.type == CP_XR_VOIP && !cp_xr_voip_parse(p, b.len, &m) &&
                   m.ssrc == s->ssrc_out) {
            x->there = m;
            x->have_there = 1;
        }
    }
    if (r < 0)
        s->c.refused++;
}
