/* Who hears whom: one frame tick from decoding to sending, and the plan of a bridge. */
#include "engine_impl.h"

#include <string.h>

#include "relay_bpf.h"

enum {
    /* The sender paused: keep the far end's RTP alive ourselves. A burst of losses is no pause: the
     * far end conceals it better than silence of ours would, and is to know of it. */
    RELAY_SILENT_MS = 200,
    RELAY_BURST_MS = 1000, /* timestamps further ahead than this are no burst but a jump */
    RELAY_LEVEL_EVERY = 8, /* packets per level sample of an untouched G.711 payload */
    FSK_IDLE_MS = 100,
    FSK_PAD = 0x55, /* channel seizure read as octets */
};

/* -60 dBm0 is 63.14 dB under a full-scale sine (mean square 2^29): 2^29 / 10^6.314 = 260. */
#define SILENT_MEAN_SQUARE 260.0

/* ---- plan ---- */

/* Nobody but the other side has to do with its audio. */
static int undisturbed(const ce_stream *s)
{
    const ce_options *o = &s->opt;
    return s->kind == CE_RTP && s->speaks && s->hears && s->gain_bridge == 1.0f &&
           o->gain_in == 1.0f && o->gain_out == 1.0f && !s->echo && !s->gain.config.controls &&
           !s->gain.config.gates && !o->detect_dtmf && !o->detect_fsk &&
           !o->digits_beside && !o->n_tones && !s->speech.config.on && !s->play && !s->record && !s->cn.send;
}

static int plain(const ce_stream *s)
{
    return undisturbed(s) && !s->n_digits;
}

/* Packets fit the other leg as they come: one codec, or the two laws of G.711, which differ by a
 * table, in packets of one length. */
static int packets_fit(const ce_stream *a, const ce_stream *c)
{
    if (a->ptime_ms != c->ptime_ms)
        return 0;
    return (a->codec == c->codec && a->wideband == c->wideband) ||
           (a->codec <= CE_PCMA && c->codec <= CE_PCMA && !a->wideband && !c->wideband);
}

/* The members' rates, before a tick: during one, frames of the old rates are under way. G.722 that
 * talks to 8 kHz needs its lower band only. */
static void settle(ce_bridge *b)
{
    ce_stream *a = b->members, *c = a ? a->bridge_next : NULL;
    int is_pair = b->n_members == 2 && !b->floor_mode;
    b->rate = 8000;
    for (ce_stream *s = a; s; s = s->bridge_next) {
        const ce_stream *other = s == a ? c : a;
        ce_stream_set_narrow(s, is_pair && s->codec == CE_G722 && !other->wideband &&
                                    undisturbed(s));
        if (s->rate > b->rate)
            b->rate = s->rate;
    }
}

void ce_bridge_replan(ce_bridge *b)
{
    ce_stream *a = b->members, *c = a ? a->bridge_next : NULL;
    if (a)
        a->e->replanned[b->phase] = 1;
    int relay = b->n_members == 2 && !b->floor_mode && plain(a) && plain(c) &&
                packets_fit(a, c) &&
                (!b->pass_digits || (a->te_pt == CE_NO_PT) == (c->te_pt == CE_NO_PT));
    if (relay == b->relay)
        return;
    b->relay = (uint8_t)relay;
    if (a)
        a->e->st.n_relays += relay ? 1u : -1u;
    for (ce_stream *s = b->members; s; s = s->bridge_next) {
        if (s->armed) /* a stamp costs a relay 3 % of its CPU, and tells 4 ms at most */
            ce_rtp_stamp(s->fd, !relay);
        ce_kernel_take_back(s);
        s->relayed = b->relay;
        s->relay_anchored = 0;
        s->jb.started = 0;
        s->tx_fill = 0;
        cp_plc_init(&s->plc, (int32_t)s->rate);
    }
}

static void bridge_set_phase(ce_engine *e, ce_bridge *b, int phase)
{
    if (b->phase != phase) {
        if (b->prev)
            b->prev->next = b->next;
        else
            e->bridges[b->phase] = b->next;
        if (b->next)
            b->next->prev = b->prev;
        b->prev = NULL;
        b->next = e->bridges[phase];
        if (b->next)
            b->next->prev = b;
        e->bridges[phase] = b;
        b->phase = (uint8_t)phase;
        ce_lane_give(&e->encoders, &b->common_lane);
    }
    for (ce_stream *s = b->members; s; s = s->bridge_next)
        ce_stream_set_phase(s, phase);
}

void ce_bridge_join(ce_bridge *b, ce_stream *s)
{
    ce_engine *e = s->e;
    int had_g722 = 0;
    for (ce_stream *m = b->members; m; m = m->bridge_next)
        had_g722 |= m->codec == CE_G722;
    s->bridge = b;
    s->bridge_prev = NULL;
    s->bridge_next = b->members;
    if (b->members)
        b->members->bridge_prev = s;
    b->members = s;
    b->n_members++;
    /* All members' frames fall due in one tick; G.722 members pull the bridge to a phase whose
     * vector lanes are partly used already. */
    bridge_set_phase(e, b, b->n_members == 1 || (s->codec == CE_G722 && !had_g722) ? s->phase
                                                                                   : b->phase);
    s->from_common = 0;
    ce_bridge_replan(b);
}

void ce_bridge_leave(ce_stream *s)
{
    ce_bridge *b = s->bridge;
    if (b->relay) {
        b->relay = 0;
        s->e->st.n_relays--;
        for (ce_stream *m = b->members; m; m = m->bridge_next) {
            if (m->armed)
                ce_rtp_stamp(m->fd, 1);
            m->relayed = 0;
            m->jb.started = 0;
        }
    }
    if (s->bridge_prev)
        s->bridge_prev->bridge_next = s->bridge_next;
    else
        b->members = s->bridge_next;
    if (s->bridge_next)
        s->bridge_next->bridge_prev = s->bridge_prev;
    s->bridge_prev = s->bridge_next = NULL;
    s->bridge = NULL;
    ce_stream_set_narrow(s, 0);
    b->n_members--;
    if (b->floor == s)
        b->floor = NULL;
    ce_bridge_replan(b);
}

static ce_stream *peer_of(const ce_stream *s)
{
    if (!s->bridge || s->bridge->n_members != 2)
        return NULL;
    return s->bridge_next ? s->bridge_next : s->bridge_prev;
}

static int may_speak(const ce_stream *s)
{
    return s->bridge && s->speaks && (!s->bridge->floor_mode || s->bridge->floor == s);
}

static int passes_digits(const ce_stream *s, ce_stream **peer)
{
    *peer = peer_of(s);
    return *peer && s->bridge->pass_digits && (*peer)->hears && may_speak(s);
}

/* A digit ended on `s`: an event, and in a pair bridge the same digit again on the other leg,
 * unless the relay forwarded the packets or the tone itself went through. */
void ce_digit_heard(ce_stream *s, char digit, int duration_ms, int inband)
{
    ce_stream *peer;
    ce_post(s->e, CE_EV_DIGIT, s, digit, duration_ms, inband, NULL, 0);
    if (!passes_digits(s, &peer) || s->bridge->relay || peer->opt.digits_beside)
        return;
    if (inband && peer->te_pt == CE_NO_PT && !s->opt.mute_dtmf)
        return;
    if (digit == '!' && peer->te_pt == CE_NO_PT)
        return;
    int on = duration_ms < 60 ? 60 : duration_ms > 5000 ? 5000 : duration_ms;
    ce_digits_queue(peer, &digit, 1, on, 60);
}

void ce_relay_level(ce_stream *s, const uint8_t *payload, int n)
{
    int every = s->kernel.on ? RK_SAMPLE_EVERY : RELAY_LEVEL_EVERY;
    if ((!s->kernel.on && s->relay_sample++ % RELAY_LEVEL_EVERY) || s->codec > CE_PCMA)
        return;
    int16_t pcm[CE_MAX_SAMPLES];
    if (n > CE_MAX_SAMPLES)
        n = CE_MAX_SAMPLES;
    (s->codec == CE_PCMU ? cp_ulaw_decode : cp_alaw_decode)(payload, pcm, n);
    double before = s->c.level_in.sum_squares;
    cp_level_add(&s->c.level_in, pcm, n);
    if (s->c.level_in.sum_squares - before < SILENT_MEAN_SQUARE * n)
        s->c.silent_frames += (uint64_t)every;
    else
        s->c.silent_frames = 0;
    ce_health_frame(s, pcm, n, s->c.level_in.sum_squares - before, every);
}

/* ---- in ---- */

static void swap16(const uint8_t *in, int16_t *out, int n)
{
    for (int i = 0; i < n; i++)
        out[i] = (int16_t)(in[2 * i] << 8 | in[2 * i + 1]);
}

static void decode_all(ce_engine *e)
{
    for (uint32_t i = 0; i < e->n_due; i++) {
        ce_stream *s = e->due[i];
        if (s->in_state != 1)
            continue;
        int lane = s->decoder_lane;
        switch (s->codec) {
        case CE_PCMU: cp_ulaw_decode(s->coded, s->f->pcm_in, s->n_samples); break;
        case CE_PCMA: cp_alaw_decode(s->coded, s->f->pcm_in, s->n_samples); break;
        case CE_L16:
            if (s->kind == CE_RTP)
                swap16(s->coded, s->f->pcm_in, s->n_samples);
            else
                memcpy(s->f->pcm_in, s->coded, s->frame_bytes);
            break;
        case CE_G722:
            if (lane < 0) {
                s->in_state = 0;
                break;
            }
            e->dec_src[lane] = s->coded;
            e->dec_out[lane] = s->f->pcm_in;
            e->dec_mask[lane / CP_LANES] |= 1u << (lane % CP_LANES);
            break;
        default: s->in_state = 0;
        }
    }
    for (uint32_t g = 0; g < e->decoders.n_groups; g++) {
        if (!e->dec_mask[g])
            continue;
        const cp_codec *codec = ce_lanes_codec(&e->decoders, g);
        codec->decode(e->decoders.group[g], e->dec_src + g * CP_LANES, e->dec_out + g * CP_LANES,
                      e->dec_mask[g], codec->samples_per_ms * CE_FRAME_MS);
        e->dec_mask[g] = 0;
    }
}

static void fsk_octets(ce_stream *s, const uint8_t *p, int n)
{
    uint8_t *data = s->parts.detectors->fsk_data;
    if (n)
        s->fsk_idle_ms = 0;
    else if (s->fsk_fill && (s->fsk_idle_ms = (uint16_t)(s->fsk_idle_ms + CE_FRAME_MS)) > FSK_IDLE_MS)
        s->fsk_fill = 0;
    for (int i = 0; i < n; i++) {
        if (!s->fsk_fill && (p[i] == FSK_PAD || p[i] == 0xff || !p[i]))
            continue;
        data[s->fsk_fill++] = p[i];
        /* Message type, length, that many octets, checksum. */
        if (s->fsk_fill >= 2 && s->fsk_fill == data[1] + 3) {
            ce_post(s->e, CE_EV_FSK, s, 0, 0, 0, data, s->fsk_fill);
            s->fsk_fill = 0;
        }
    }
}

static void detect(ce_stream *s)
{
    const int16_t *pcm = s->f->pcm_in;
    int16_t narrow[CE_MAX_SAMPLES];
    if (s->rate == 16000) {
        cp_resample(&s->to_detect, s->f->pcm_in, s->n_samples, narrow, CE_MAX_SAMPLES);
        pcm = narrow;
    }
    if (s->opt.detect_dtmf) {
        cp_dtmf_event ev[4];
        int n = cp_dtmf_rx_push(&s->dtmf, pcm, 160, ev, 4);
        for (int i = 0; i < n; i++) {
            s->muting = !ev[i].is_end;
            if (ev[i].is_end)
                ce_digit_heard(s, ev[i].digit, ev[i].n_samples / 8, 1);
        }
    }
    if (s->opt.n_tones) {
        cp_tone_event ev[4];
        int n = cp_tone_rx_push(&s->parts.detectors->tones, pcm, 160, ev, 4);
        for (int i = 0; i < n; i++)
            ce_post(s->e, CE_EV_TONE, s, ev[i].id, 0, 0, NULL, 0);
    }
    if (s->opt.detect_fsk) {
        uint8_t octets[16];
        int n = cp_fsk_rx_push(&s->parts.detectors->fsk, pcm, 160, octets, sizeof octets);
        fsk_octets(s, octets, n);
    }
}

static void frame_in(ce_stream *s)
{
    int n = s->n_samples;
    if (s->in_state == 1) {
        cp_plc_good(&s->plc, s->f->pcm_in, n);
    } else if (s->in_state == 2) {
        cp_plc_lost(&s->plc, s->f->pcm_in, n);
        s->c.concealed++;
    } else if (s->in_state == 3) {
        ce_cn_generate(s, s->f->pcm_in);
        cp_plc_good(&s->plc, s->f->pcm_in, n);
    } else {
        memset(s->f->pcm_in, 0, (size_t)n * sizeof *s->f->pcm_in);
    }
    if (s->echo)
        ce_echo_heard(s, s->f->pcm_in);
    if (s->opt.gain_in != 1.0f)
        cp_apply_gain(s->f->pcm_in, s->f->pcm_in, n, s->opt.gain_in);
    double before = s->c.level_in.sum_squares;
    cp_level_add(&s->c.level_in, s->f->pcm_in, n);
    if (s->c.level_in.sum_squares - before < SILENT_MEAN_SQUARE * n)
        s->c.silent_frames++;
    else
        s->c.silent_frames = 0;
    if (s->in_state == 1)
        ce_health_frame(s, s->f->pcm_in, n, s->c.level_in.sum_squares - before, 1);
    if (s->opt.detect_dtmf | s->opt.n_tones | s->opt.detect_fsk)
        detect(s);
    if (s->speech.config.on)
        ce_speech_in(s, (s->c.level_in.sum_squares - before) / n);
    /* Last, so that all that is measured and detected is what came. */
    if (s->gain.config.controls | s->gain.config.gates)
        cp_gain_frame(&s->gain, s->f->pcm_in, n);
}

/* What the others hear of `s`: detected digits are kept out. The one-frame delay covers the time
 * the detector needs, so that no burst long enough to count as a digit slips through. */
static const int16_t *frame_for_bridge(ce_stream *s)
{
    ce_stream *peer;
    size_t bytes = s->n_samples * sizeof *s->f->pcm_in;
    const int16_t *pcm = s->f->pcm_in;
    int apart = passes_digits(s, &peer) && (peer->te_pt != CE_NO_PT || peer->opt.digits_beside);
    int mute_digits = s->opt.detect_dtmf && (s->opt.mute_dtmf || apart);
    if (mute_digits) {
        int16_t *delay = s->parts.pcm_delay;
        if (s->muting) {
            memset(s->f->pcm_in, 0, bytes);
            memset(delay, 0, bytes);
        }
        int16_t now[CE_MAX_SAMPLES];
        memcpy(now, s->f->pcm_in, bytes);
        memcpy(s->f->pcm_in, delay, bytes);
        memcpy(delay, now, bytes);
    } else if (s->te_active) {
        memset(s->f->pcm_in, 0, bytes);
    }
    if (s->rate < s->bridge->rate) {
        cp_resample(&s->to_bridge, s->f->pcm_in, s->n_samples, s->f->pcm_mix, CE_MAX_SAMPLES);
        pcm = s->f->pcm_mix;
    }
    return pcm;
}

/* ---- mix ---- */

/* Two people who talk to each other hear each other's samples as they are. */
static int mix_pair(ce_bridge *b)
{
    ce_stream *a = b->members, *c = a->bridge_next;
    if (b->n_members != 2 || b->floor_mode || !(a->speaks && a->hears && c->speaks && c->hears) ||
        a->gain_bridge != 1.0f || c->gain_bridge != 1.0f)
        return 0;
    a->from_common = c->from_common = 0;
    c->bus = frame_for_bridge(a);
    a->bus = frame_for_bridge(c);
    return 1;
}

static void mix(ce_engine *e, ce_bridge *b)
{
    if (mix_pair(b))
        return;
    int n = (int)(b->rate / 50), k = 0, listeners = 0;
    for (ce_stream *s = b->members; s; s = s->bridge_next) {
        s->from_common = 0;
        if (may_speak(s)) {
            e->mix_src[k] = frame_for_bridge(s);
            e->mix_gain[k] = s->gain_bridge;
            e->mix_out[k] = s->hears ? s->f->pcm_bus : NULL;
            s->bus = s->f->pcm_bus;
            k++;
        } else if (s->hears) {
            s->from_common = 1;
            listeners++;
        }
    }
    if (k)
        cp_mix_minus_one(e->mix_src, e->mix_gain, e->mix_out, k, n);
    if (listeners) {
        int wide = b->rate == 16000;
        ce_common *c = b->common;
        if (c->rate != b->rate) {
            c->rate = b->rate;
            cp_resampler_init(&c->down, 16000, 8000);
        }
        if (k)
            cp_mix_sum(e->mix_src, e->mix_gain, c->pcm[wide], k, n);
        else
            memset(c->pcm[wide], 0, sizeof c->pcm[wide]);
        if (wide)
            cp_resample(&c->down, c->pcm[1], n, c->pcm[0], CE_MAX_SAMPLES);
        memset(c->done, 0, sizeof c->done);
    }
}

/* ---- out ---- */

static void encode(ce_stream *s, const int16_t *pcm, uint8_t *out)
{
    switch (s->codec) {
    case CE_PCMU: cp_ulaw_encode(pcm, out, s->n_samples); break;
    case CE_PCMA: cp_alaw_encode(pcm, out, s->n_samples); break;
    case CE_L16:
        if (s->kind == CE_RTP)
            for (int i = 0; i < s->n_samples; i++) {
                out[2 * i] = (uint8_t)((uint16_t)pcm[i] >> 8);
                out[2 * i + 1] = (uint8_t)pcm[i];
            }
        else
            memcpy(out, pcm, s->frame_bytes);
        break;
    default: break;
    }
}

static void encode_later(ce_engine *e, int lane, const int16_t *pcm, uint8_t *out)
{
    e->enc_src[lane] = pcm;
    e->enc_out[lane] = out;
    e->enc_mask[lane / CP_LANES] |= 1u << (lane % CP_LANES);
}

/* Listeners who say nothing share one encoding per codec (a page to many). */
static const uint8_t *common_payload(ce_stream *s, const int16_t *pcm)
{
    ce_bridge *b = s->bridge;
    int key = s->codec * 2 + s->wideband;
    if (s->codec == CE_L16 && s->kind != CE_RTP)
        key = CE_NONE * 2 + s->wideband; /* another byte order */
    uint8_t *out = b->common->payload[key];
    if (b->common->done[key])
        return out;
    if (s->codec == CE_G722) {
        if (b->common_lane < 0)
            b->common_lane = ce_lane_take(&s->e->encoders, b->phase, 0);
        if (b->common_lane < 0)
            return NULL;
        encode_later(s->e, b->common_lane, pcm, out);
    } else {
        encode(s, pcm, out);
    }
    b->common->done[key] = 1;
    return out;
}

static void frame_out(ce_engine *e, ce_stream *s)
{
    int n = s->n_samples, sent;
    ce_bridge *b = s->bridge;
    const int16_t *pcm = s->f->pcm_out;
    ce_stream *peer;
    int common = 0;
    s->send_payload = s->f->payload_out;
    if ((sent = ce_digit_frame(s, s->f->pcm_out)) != 0) {
        if (sent == 2) {
            s->send_payload = NULL;
            memset(s->f->pcm_out, 0, sizeof s->f->pcm_out);
        }
    } else if (ce_play_frame(s, s->f->pcm_out)) {
    } else if (b && !b->relay && s->from_common) {
        pcm = b->common->pcm[s->wideband];
        common = s->opt.gain_out == 1.0f;
    } else if (b && !b->relay && s->hears && may_speak(s)) {
        if (s->rate < b->rate) {
            cp_resample(&s->from_bridge, s->bus, (int)(b->rate / 50), s->f->pcm_out,
                        CE_MAX_SAMPLES);
        } else {
            pcm = s->bus;
        }
    } else if (b && b->relay && (peer = peer_of(s)) != NULL && peer->cn.active) {
        ce_cn_generate(peer, s->f->pcm_out); /* it cannot be told the level */
    } else {
        memset(s->f->pcm_out, 0, sizeof s->f->pcm_out);
    }
    if (s->opt.gain_out != 1.0f) {
        cp_apply_gain(pcm, s->f->pcm_out, n, s->opt.gain_out);
        pcm = s->f->pcm_out;
    }
    double before = s->c.level_out.sum_squares;
    cp_level_add(&s->c.level_out, pcm, n);
    if (s->cn.send)
        ce_cn_watch(s, pcm, (s->c.level_out.sum_squares - before) / n);
    if (s->speech.config.on)
        ce_speech_out(s, (s->c.level_out.sum_squares - before) / n);
    if (s->record)
        ce_record_frame(s, s->f->pcm_in, pcm);
    if (!s->send_payload || s->codec == CE_NONE)
        return;
    if (common && (s->send_payload = common_payload(s, pcm)) != NULL)
        return;
    s->send_payload = s->f->payload_out;
    if (s->codec != CE_G722) {
        encode(s, pcm, s->f->payload_out);
    } else if (s->encoder_lane >= 0) {
        encode_later(e, s->encoder_lane, pcm, s->f->payload_out);
    } else {
        s->send_payload = NULL;
    }
}

static void encode_batches(ce_engine *e)
{
    for (uint32_t g = 0; g < e->encoders.n_groups; g++) {
        if (!e->enc_mask[g])
            continue;
        const cp_codec *codec = ce_lanes_codec(&e->encoders, g);
        codec->encode(e->encoders.group[g], e->enc_src + g * CP_LANES, e->enc_out + g * CP_LANES,
                      e->enc_mask[g], codec->samples_per_ms * CE_FRAME_MS);
        e->enc_mask[g] = 0;
    }
}

/* Relayed legs need a frame of ours only while the other side sends nothing. A sender may also
 * send a good deal at once and then wait: what it sent lasts as long as its timestamps say. */
static int relay_rests(ce_stream *s)
{
    ce_stream *from = peer_of(s);
    ce_kernel_sync(from);
    if (s->e->tick - from->last_rx_tick <= RELAY_SILENT_MS && from->rx_seen)
        return 1;
    if (from->cn.active && s->cn.pt != CE_NO_PT)
        return 1; /* it was told the level */
    int32_t clock = (int32_t)s->clock_ms;
    int32_t left = (int32_t)(s->last_ts + s->frame_ticks - ce_rtp_now_ts(s));
    if (from->relay_anchored && left > (CE_FRAME_MS - RELAY_SILENT_MS) * clock &&
        left < RELAY_BURST_MS * clock)
        return 1;
    ce_kernel_take_back(from);
    from->relay_anchored = 0;
    return 0;
}

/* What a frame touches beside what a packet does. */
static void prefetch_frame(const ce_stream *s)
{
    uintptr_t at = (uintptr_t)s; /* no pointer: there may be no stream */
    __builtin_prefetch((const void *)(at + offsetof(ce_stream, play)));
    __builtin_prefetch((const void *)(at + offsetof(ce_stream, in_state)), 1);
    __builtin_prefetch((const void *)(at + offsetof(ce_stream, opt)));
    __builtin_prefetch((const void *)(at + offsetof(ce_stream, plc.sample_rate)), 1);
}

void ce_frames(ce_engine *e, int phase)
{
    e->n_due = 0;
    if (e->replanned[phase])
        for (ce_bridge *b = e->bridges[phase]; b; b = b->next)
            settle(b);
    e->replanned[phase] = 0;
    for (ce_stream *s = e->bucket[phase]; s; s = s->next) {
        ce_prefetch(s->next);
        prefetch_frame(s->next);
        if (s->kind == CE_RTP)
            ce_rtp_timers(s);
        if (s->relayed && relay_rests(s))
            continue;
        s->f = &e->frames[e->n_due];
        e->due[e->n_due++] = s;
    }
    if (!e->n_due)
        return;
    for (uint32_t i = 0; i < e->n_due; i++) {
        ce_stream *s = e->due[i];
        if (i + 1 < e->n_due)
            ce_jitter_prefetch(&e->due[i + 1]->jb, e->due[i + 1]->jb.play);
        s->in_state = 0;
        if (s->kind == CE_RTP)
            ce_rtp_fetch(s);
        else if (s->kind == CE_DEVICE)
            ce_device_fetch(s);
    }
    decode_all(e);
    for (uint32_t i = 0; i < e->n_due; i++) {
        if (i + 1 < e->n_due)
            cp_plc_prefetch(&e->due[i + 1]->plc, e->due[i + 1]->n_samples);
        __builtin_prefetch(e->due[i]->bridge);
        frame_in(e->due[i]);
    }
    for (ce_bridge *b = e->bridges[phase]; b; b = b->next)
        if (!b->relay && b->members)
            mix(e, b);
    for (uint32_t i = 0; i < e->n_due; i++)
        frame_out(e, e->due[i]);
    encode_batches(e);
    for (uint32_t i = 0; i < e->n_due; i++) {
        ce_stream *s = e->due[i];
        if (s->kind == CE_RTP) {
            if (s->send_payload)
                ce_rtp_send_frame(s, s->send_payload);
            if (s->echo)
                ce_echo_sent(s, s->send_payload, s->frame_bytes);
        } else if (s->kind == CE_DEVICE && s->send_payload) {
            ce_device_send(s, s->send_payload);
        }
    }
}
