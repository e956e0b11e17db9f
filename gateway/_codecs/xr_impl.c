#include "xr_impl.h"

#include <string.h>

static inline uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static inline uint32_t get32(const uint8_t *p)
{
    return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static inline void put16(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 8), p[1] = (uint8_t)v;
}

static inline void put32(uint8_t *p, uint32_t v)
{
    put16(p, v >> 16), put16(p + 2, v);
}

int32_t cp_xr_next(const uint8_t *body, int32_t len, int32_t *at, cp_xr_block *out)
{
    if (*at < 4 || len - *at < 4)
        return *at == len ? 0 : CP_RTCP_LENGTH;
    out->type = body[*at];
    out->specific = body[*at + 1];
    out->offset = *at + 4;
    out->len = 4 * get16(body + *at + 2);
    if (out->len > len - out->offset)
        return CP_RTCP_LENGTH;
    *at = out->offset + out->len;
    return 1;
}

int32_t cp_xr_rrtr_parse(const uint8_t *p, int32_t n, uint32_t *middle)
{
    if (n < 8)
        return CP_RTP_SHORT;
    *middle = get32(p + 2);
    return 0;
}

int32_t cp_xr_dlrr_find(const uint8_t *p, int32_t n, uint32_t ssrc, uint32_t *last,
                        uint32_t *delay)
{
    for (; n >= 12; p += 12, n -= 12) {
        if (get32(p) != ssrc)
            continue;
        *last = get32(p + 4);
        *delay = get32(p + 8);
        return 1;
    }
    return 0;
}

int32_t cp_xr_voip_parse(const uint8_t *p, int32_t n, cp_voip_metrics *m)
{
    if (n < CP_XR_VOIP_OCTETS - 4)
        return CP_RTP_SHORT;
    m->ssrc = get32(p);
    m->loss_rate = p[4], m->discard_rate = p[5];
    m->burst_density = p[6], m->gap_density = p[7];
    m->burst_ms = get16(p + 8), m->gap_ms = get16(p + 10);
    m->round_trip_ms = get16(p + 12), m->end_system_ms = get16(p + 14);
    m->signal_dbm0 = (int8_t)p[16], m->noise_dbm0 = (int8_t)p[17];
    m->echo_loss_db = p[18], m->gmin = p[19];
    m->r_factor = p[20], m->external_r = p[21];
    m->mos_lq = p[22], m->mos_cq = p[23];
    m->config = p[24];
    m->buffer_ms = get16(p + 26), m->buffer_max_ms = get16(p + 28);
    m->buffer_abs_max_ms = get16(p + 30);
    return 0;
}

static void block(uint8_t *p, uint8_t type, int32_t len)
{
    p[0] = type;
    p[1] = 0;
    put16(p + 2, (uint32_t)(len / 4 - 1));
}

int32_t cp_xr_begin(uint8_t *p, int32_t cap, uint32_t ssrc)
{
    if (cap < 8)
        return CP_RTCP_NO_SPACE;
    p[0] = 0x80;
    p[1] = CP_RTCP_XR;
    put16(p + 2, 1);
    put32(p + 4, ssrc);
    return 8;
}

void cp_xr_end(uint8_t *p, int32_t len)
{
    put16(p + 2, (uint32_t)(len / 4 - 1));
}

int32_t cp_xr_rrtr(uint8_t *p, int32_t cap, uint32_t ntp_sec, uint32_t ntp_frac)
{
    if (cap < 12)
        return CP_RTCP_NO_SPACE;
    block(p, CP_XR_RRTR, 12);
    put32(p + 4, ntp_sec);
    put32(p + 8, ntp_frac);
    return 12;
}

int32_t cp_xr_dlrr(uint8_t *p, int32_t cap, uint32_t ssrc, uint32_t last, uint32_t delay)
{
    if (cap < 16)
        return CP_RTCP_NO_SPACE;
    block(p, CP_XR_DLRR, 16);
    put32(p + 4, ssrc);
    put32(p + 8, last);
    put32(p + 12, delay);
    return 16;
}

int32_t cp_xr_voip(uint8_t *p, int32_t cap, const cp_voip_metrics *m)
{
    if (cap < CP_XR_VOIP_OCTETS)
        return CP_RTCP_NO_SPACE;
    block(p, CP_XR_VOIP, CP_XR_VOIP_OCTETS);
    p += 4;
    put32(p, m->ssrc);
    p[4] = m->loss_rate, p[5] = m->discard_rate;
    p[6] = m->burst_density, p[7] = m->gap_density;
    put16(p + 8, m->burst_ms), put16(p + 10, m->gap_ms);
    put16(p + 12, m->round_trip_ms), put16(p + 14, m->end_system_ms);
    p[16] = (uint8_t)m->signal_dbm0, p[17] = (uint8_t)m->noise_dbm0;
    p[18] = m->echo_loss_db, p[19] = m->gmin;
    p[20] = m->r_factor, p[21] = m->external_r;
    p[22] = m->mos_lq, p[23] = m->mos_cq;
    p[24] = m->config, p[25] = 0;
    put16(p + 26, m->buffer_ms), put16(p + 28, m->buffer_max_ms);
    put16(p + 30, m->buffer_abs_max_ms);
    return CP_XR_VOIP_OCTETS;
}

void cp_bursts_add(cp_bursts *b, int32_t what)
{
    if (++b->n >= 1u << 30) { /* most of a year: radio links stay open so long, shares remain */
        uint32_t *all[] = {&b->c11, &b->c13, &b->c14, &b->c22, &b->c23, &b->c33, &b->run, &b->n,
                           &b->n_lost, &b->n_discarded};
        for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
            *all[i] /= 2;
    }
    if (what == CP_XR_GOOD) {
        b->run++;
        return;
    }
    if (what == CP_XR_LOST)
        b->n_lost++;
    else
        b->n_discarded++;
    if (b->run >= CP_XR_GMIN) {
        if (b->lost == 1)
            b->c14++;
        else
            b->c13++;
        b->lost = 1;
        b->c11 += b->run;
    } else {
        b->lost++;
        if (b->run == 0) {
            b->c33++;
        } else {
            b->c23++;
            b->c22 += b->run - 1;
        }
    }
    b->run = 0;
}

static uint8_t share(double part, double whole)
{
    double r = whole > 0 ? part * 256.0 / whole : 0.0;
    return (uint8_t)(r > 255.0 ? 255.0 : r);
}

static uint16_t whole_ms(double ms)
{
    return (uint16_t)(ms < 0 ? 0 : ms > 65535.0 ? 65535.0 : ms + 0.5);
}

void cp_bursts_metrics(const cp_bursts *b, double packet_ms, cp_voip_metrics *m)
{
    m->loss_rate = share(b->n_lost, b->n);
    m->discard_rate = share(b->n_discarded, b->n);
    m->gmin = CP_XR_GMIN;
    m->burst_density = m->gap_density = 0;
    m->burst_ms = 0;
    m->gap_ms = whole_ms(b->n * packet_ms);
    if (!b->n_lost && !b->n_discarded)
        return;
    double c11 = (double)b->c11 + b->run, c13 = b->c13, c14 = b->c14, c22 = b->c22, c23 = b->c23,
           c33 = b->c33, c31 = c13, c32 = c23;
    if (c23 + c33 <= 0) { /* bad packets were far from each other: no burst */
        m->gap_density = share(c13 + c14, c11 + c13 + c14);
        return;
    }
    m->gap_density = share(c14, c11 + c14);
    double p32 = c32 / (c31 + c32 + c33);
    double p23 = c22 + c23 < 1 ? 1.0 : 1.0 - c22 / (c22 + c23);
    m->burst_density = share(p23, p23 + p32);
    double bursts = c13 < 1 ? 1 : c13;
    double gap_ms = (c11 + c14 + c13) * packet_ms / bursts;
    double all_ms = (c11 + c14 + c13 + c22 + c23 + c31 + c32 + c33) * packet_ms / bursts;
    m->gap_ms = whole_ms(gap_ms);
    m->burst_ms = whole_ms(all_ms - gap_ms);
}

double cp_e_model(double ie, double bpl, double loss_percent, double one_way_ms)
{
    double delay = 0.024 * one_way_ms;
    if (one_way_ms > 177.3)
        delay += 0.11 * (one_way_ms - 177.3);
    double r = 93.2 - delay - ie - (95.0 - ie) * loss_percent / (loss_percent + bpl);
    return r < 0 ? 0 : r > 100 ? 100 : r;
}

double cp_e_model_mos(double r)
{
    if (r <= 0)
        return 1.0;
    double mos = 1.0 + 0.035 * r + r * (r - 60.0) * (100.0 - r) * 7e-6;
    return mos < 1.0 ? 1.0 : mos; /* the polynomial dips below 1 for R under 6.5 */
}
