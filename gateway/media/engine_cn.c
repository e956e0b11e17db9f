/* Comfort noise (RFC 3389) of one stream: noise while the far end has nothing to say, and its
 * level in place of our own silence. */
#include "engine_impl.h"

#include <stdlib.h>

enum {
    HANG_MS = 200,     /* of silence before packets stop: word ends are quiet */
    REPEAT_MS = 1000,  /* also keeps a NAT's binding and the far end's media timer alive */
    CHANGE_DB = 3,
    ORDER = 8,
};
static const double QUIET_MEAN_SQUARE = 2600.0; /* -50 dBm0 */

int ce_cn_is(const ce_stream *s, int payload_type)
{
    return payload_type != s->pt && payload_type != s->te_pt &&
           (payload_type == s->cn.pt || payload_type == CE_PT_COMFORT_NOISE);
}

/* G.722's noise goes by the clock of 8 kHz: what a spectrum means there nobody says. */
void ce_cn_receive(ce_stream *s, uint32_t ts, const uint8_t *p, int n)
{
    ce_cn *c = &s->cn;
    if (cp_cn_set(&c->noise, p, n, s->codec == CE_G722))
        return;
    c->active = 1;
    c->ts = ts;
}

void ce_cn_generate(ce_stream *s, int16_t *pcm)
{
    cp_cn_generate(&s->cn.noise, pcm, s->n_samples);
}

void ce_cn_watch(ce_stream *s, const int16_t *pcm, double mean_square)
{
    ce_cn *c = &s->cn;
    if (mean_square >= QUIET_MEAN_SQUARE) {
        c->quiet_ms = 0;
        c->told = 0;
        c->meter.n_frames = 0;
        return;
    }
    if (c->quiet_ms < HANG_MS)
        c->quiet_ms = (uint16_t)(c->quiet_ms + CE_FRAME_MS);
    cp_cn_measure(&c->meter, pcm, s->n_samples);
}

int ce_cn_suppress(ce_stream *s)
{
    ce_cn *c = &s->cn;
    uint8_t payload[CP_CN_OCTETS];
    if (c->quiet_ms < HANG_MS)
        return 0;
    int n = cp_cn_payload(&c->meter, s->codec == CE_G722 ? 0 : ORDER, payload);
    c->since_ms = (uint16_t)(c->since_ms + CE_FRAME_MS);
    if (!c->told || c->since_ms >= REPEAT_MS ||
        abs((int)payload[0] - (int)c->level) >= CHANGE_DB) {
        ce_rtp_send_noise(s, payload, n);
        c->told = 1;
        c->level = payload[0];
        c->since_ms = 0;
    }
    return 1;
}
