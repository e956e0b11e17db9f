/* RTP and RTCP (RFC 3550) of one stream: source check, jitter ring, relay, packets out. */
#include "engine_impl.h"

#include <errno.h>
#include <string.h>
#include <time.h>

enum {
    RTCP_MS = 5000,
    SOURCE_SILENT_MS = 1000, /* before another source may take over in a latch window */
    MAX_PAYLOAD = 1400,     /* fits any path without fragments */
    TE_OLD_MS = 5000,       /* what is said again of an earlier press comes within */
    SEQ_JUMP = 3000,        /* as cp_rtp_source_update judges; back: SEQ_LATE at most */
    SEQ_LATE = 100,
    OTHER_ROW = 3,          /* packets of another type that are a change of codec */
    OTHER_EVERY_MS = 200,   /* a change is told at most so often */
};
static const int64_t NS = 1000000000;

/* ---- addresses ---- */

static int same_ip(const ce_addr *a, const ce_addr *b)
{
    if (a->sa.sa_family != b->sa.sa_family)
        return 0;
    if (a->sa.sa_family == AF_INET)
        return a->in4.sin_addr.s_addr == b->in4.sin_addr.s_addr;
    return !memcmp(&a->in6.sin6_addr, &b->in6.sin6_addr, sizeof a->in6.sin6_addr);
}

static int same_addr(const ce_addr *a, const ce_addr *b)
{
    /* sin_port and sin6_port share their place. */
    return a->in4.sin_port == b->in4.sin_port && same_ip(a, b);
}

/* Only the signalled source may send to us. While the latch window is open a NAT's other port
 * (or, behind NAT, other address) may become the source; then it is locked until the next
 * signalling. A source that is being heard is never displaced. */
static int may_come_from(const ce_stream *s, const ce_addr *from)
{
    uint64_t tick = s->e->tick;
    if (!s->remote_set)
        return 0;
    if (same_addr(from, &s->remote))
        return 1;
    if (!s->symmetric || tick > s->latch_until)
        return 0;
    if (!s->anywhere && !same_ip(from, &s->signalled))
        return 0;
    return !s->latched || tick - s->last_rx_tick >= SOURCE_SILENT_MS;
}

/* The kernel knows both legs' addresses. */
void ce_rtp_moved(ce_stream *s, const ce_addr *to)
{
    ce_kernel_take_back_all(s->bridge);
    s->remote = *to;
    ce_steer_point(s);
}

/* Learns the address: what must prove itself has done so before. */
static int accept_source(ce_stream *s, const ce_addr *from)
{
    if (!may_come_from(s, from))
        return 0;
    if (!same_addr(from, &s->remote))
        ce_rtp_moved(s, from);
    s->latched = 1;
    return 1;
}

void ce_rtp_apply(ce_stream *s, const ce_rtp_config *c, int first)
{
    ce_engine *e = s->e;
    uint32_t ts = first ? (uint32_t)ce_engine_random(e) : ce_rtp_now_ts(s);
    if (first) {
        s->seq_out = (uint16_t)(ce_engine_random(e) & 0x7fff);
        s->rtcp_due = e->tick + RTCP_MS / 2 + ce_engine_random(e) % RTCP_MS;
    }
    if (first || c->codec != s->codec || c->wideband != s->wideband) {
        ce_stream_set_codec(s, c->codec, c->wideband);
        s->jb.started = 0;
    }
    s->ts_base = ts;
    s->tick_base = e->tick;
    s->pt = c->pt;
    s->te_pt = c->te_pt;
    s->ptime_ms = c->ptime_ms;
    if (s->ptime_ms * s->clock_ms * s->bytes_per_tick > MAX_PAYLOAD)
        s->ptime_ms = CE_FRAME_MS;
    s->tx_fill = 0;
    if (c->set_srtp_in)
        ce_srtp_set(&s->srtp_in, c->srtp_in);
    if (c->set_srtp_out)
        ce_srtp_set(&s->srtp_out, c->srtp_out);
    s->pass_ext = c->pass_ext;
    s->cn.pt = c->cn_pt;
    s->cn.send = c->cn_send && c->cn_pt != CE_NO_PT;
    s->xr.metrics = c->xr_metrics;
    s->xr.round_trip = c->xr_round_trip;
    s->rx = c->rx;
    s->tx = c->tx;
    s->symmetric = c->symmetric;
    s->anywhere = c->anywhere;
    s->follow = c->follow;
    s->timeout_ms = c->timeout_ms;
    uint32_t deepest = CE_JB_TICKS / s->clock_ms - 3 * CE_FRAME_MS;
    uint32_t max = c->jitter_max_ms < deepest ? c->jitter_max_ms : deepest;
    uint32_t min = c->jitter_min_ms < max ? c->jitter_min_ms : max;
    s->jitter_min = min * s->clock_ms;
    s->jitter_max = max * s->clock_ms;
    if (s->target < s->jitter_min || s->target > s->jitter_max)
        s->target = s->jitter_min;
    if (!c->remote_set) {
        s->remote_set = 0;
        return;
    }
    if (!s->remote_set || !same_addr(&c->remote, &s->signalled)) {
        s->remote = s->signalled = c->remote;
        s->addr_len = c->remote.sa.sa_family == AF_INET6 ? sizeof c->remote.in6
                                                         : sizeof c->remote.in4;
        s->latched = 0;
        s->rx_seen = 0;
        s->te_known = s->te_active = 0;
    }
    s->remote_set = 1;
    s->latch_until = e->tick + c->latch_ms;
    s->last_rx_tick = e->tick;
    s->timed_out = 0;
}

/* ---- packets in ---- */

void ce_rtp_stamp(int fd, int on)
{
    if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on)) { /* see rx_ns */
    }
}

void ce_rtp_arrived(ce_engine *e, const uint8_t *control, size_t n)
{
    struct cmsghdr c;
    struct timespec t;
    e->rx_ns = e->now_ns;
    if (n < CMSG_LEN(sizeof t))
        return;
    memcpy(&c, control, sizeof c);
    if (c.cmsg_level != SOL_SOCKET || c.cmsg_type != SCM_TIMESTAMPNS ||
        c.cmsg_len != CMSG_LEN(sizeof t))
        return;
    memcpy(&t, control + CMSG_LEN(0), sizeof t);
    int64_t at = t.tv_sec * NS + t.tv_nsec - e->unix_ns;
    if (at > e->now_ns - NS && at < e->now_ns) /* else it came just now, or the clock was set */
        e->rx_ns = at;
}

static void te_finish(ce_stream *s)
{
    static const char names[] = "0123456789*#ABCD!";
    s->te_active = 0;
    s->c.health.event_digits++;
    ce_digit_heard(s, names[s->te_event], (int)(s->te_duration / s->clock_ms), 0);
}

/* Of a press before the last one: a packet out of order, or an end said again behind the next
 * press. Timestamps alone do not tell: after 2^31 ticks, or on another time line, new ones are
 * "less" too. */
static int te_is_old(const ce_stream *s, uint32_t ts, int newest)
{
    int32_t later = (int32_t)(ts - s->te_ts);
    if (!s->te_known || later >= 0)
        return 0;
    return !newest || (later > -(int32_t)(TE_OLD_MS * s->clock_ms) &&
                       s->e->tick - s->te_tick < TE_OLD_MS);
}

/* RFC 4733 2.5: one press is one timestamp; updates and repeated ends carry the same. */
static void te_receive(ce_stream *s, uint32_t ts, int newest, const uint8_t *p, int n)
{
    cp_rtp_dtmf ev;
    if (cp_rtp_dtmf_parse(p, n, &ev) || ev.event > 16) {
        s->c.refused++;
        return;
    }
    if (te_is_old(s, ts, newest))
        return;
    s->te_tick = s->e->tick;
    if (s->te_known && ts == s->te_ts) {
        if (!s->te_active)
            return;
    } else if (s->te_active && ev.event == s->te_event && ts == s->te_ts + 0xffff) {
        s->te_ts = ts; /* 2.5.1.3: a long event goes on in another segment */
        s->te_before += 0xffff;
    } else {
        if (s->te_active)
            te_finish(s);
        s->te_active = s->te_known = 1;
        s->te_ts = ts;
        s->te_event = ev.event;
        s->te_before = s->te_duration = 0;
    }
    if (s->te_before + ev.duration > s->te_duration)
        s->te_duration = s->te_before + ev.duration;
    if (ev.end)
        te_finish(s);
}

static void send_packet(ce_stream *s, uint8_t *packet, int n)
{
    uint8_t room[CE_EXT_PACKET], *clear;
    int n_media = n - 12, n_clear;
    if ((s->ext_out.set || s->ext_pass) && (clear = ce_ext_attach(s, packet, &n, room)) != NULL)
        packet = clear;
    n_clear = n;
    clear = packet;
    if (s->srtp_out && !(packet = ce_srtp_protect(s, packet, &n))) {
        s->e->st.send_errors++;
        return;
    }
    /* MSG_DONTWAIT: a full socket buffer costs this packet, never the tick. */
    if (ce_steer_send(s, packet, n) && (!s->e->uring || ce_uring_send(s, packet, n)) &&
        sendto(s->fd, packet, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL, &s->remote.sa,
               s->addr_len) < 0) {
        s->e->st.send_errors++;
        ce_health_send_failed(s, errno);
        return;
    }
    if (s->tap)
        ce_tap_put(s, s->tap->clear ? clear : packet, s->tap->clear ? n_clear : n, &s->remote,
                   CE_TAP_SENT);
    s->c.tx_packets++;
    s->c.tx_octets += (uint64_t)n_media;
    s->e->st.tx_packets++;
}

/* Forwards in place: the payload stays (or goes from one law of G.711 to the other), the header
 * becomes ours (own SSRC, sequence and time line; gaps of the sender stay visible as gaps). */
static void relay(ce_stream *s, ce_stream *to, uint8_t *packet, int offset, int len, uint8_t pt,
                  uint8_t marker, uint16_t seq, uint32_t ts)
{
    if (!to->remote_set || !to->tx || !s->rx)
        return;
    if (!s->relay_anchored) {
        uint32_t now = ce_rtp_now_ts(to);
        /* A packet of ours that has just left has used this time already. */
        uint32_t packet_ticks = to->ptime_ms * to->clock_ms, used = to->last_ts + packet_ticks - now;
        if (to->sent_any && used <= packet_ticks)
            now += used;
        s->relay_ts_off = now - ts;
        s->relay_seq_off = (uint16_t)(to->seq_out - seq);
        s->relay_anchored = 1;
        marker |= pt != s->te_pt;
    }
    uint16_t out = (uint16_t)(seq + s->relay_seq_off);
    if ((int16_t)(out - to->seq_out) >= 0)
        to->seq_out = (uint16_t)(out + 1);
    uint8_t *h = packet + offset - 12;
    if (s->codec != to->codec && pt == s->pt)
        (s->codec == CE_PCMU ? cp_ulaw_to_alaw : cp_alaw_to_ulaw)(packet + offset,
                                                                  packet + offset, len);
    int out_pt = pt == s->te_pt ? to->te_pt : pt == s->pt ? to->pt : to->cn.pt;
    cp_rtp_header(h, (uint8_t)out_pt, marker, out, ts + s->relay_ts_off,
                  to->ssrc_out);
    to->sent_any = 1;
    to->last_ts = ts + s->relay_ts_off;
    send_packet(to, h, len + 12);
}

static int in_window(ce_stream *s, uint16_t seq)
{
    int16_t d = (int16_t)(seq - s->window_seq);
    if (d > 0) {
        ce_xr_advance(s, d);
        s->seq_window = d >= 64 ? 0 : s->seq_window << d;
        s->seq_window |= 1;
        s->window_seq = seq;
        return 0;
    }
    if (d <= -64) {
        return 0; /* a jump: cp_rtp_source_update judges it */
    }
    uint64_t m = 1ull << -d;
    int seen = (s->seq_window & m) != 0;
    s->seq_window |= m;
    return seen;
}

/* The same sender with other numbers: what was counted stays, and no number has been seen yet. */
static void renumbered(ce_stream *s, uint16_t seq)
{
    s->expected_before += cp_rtp_source_expected(&s->source);
    s->lost_before += cp_rtp_source_lost(&s->source);
    s->window_seq = seq;
    s->seq_window = 1;
    ce_xr_restart(s);
}

static void new_source(ce_stream *s, uint32_t ssrc, uint16_t seq)
{
    ce_kernel_take_back(s);
    s->expected_before = s->c.expected;
    s->lost_before = s->c.lost;
    cp_rtp_source_init(&s->source, ssrc, seq, s->clock_ms * 1000u, 0);
    s->window_seq = (uint16_t)(seq - 1);
    s->seq_window = 0;
    ce_xr_restart(s);
    s->cn.active = 0;
    s->has_probation = 0;
    s->jb.started = 0;
    s->te_known = s->te_active = 0;
    s->relay_anchored = 0;
}

/* Who agreed on several codecs may change among them at any packet (RFC 3264 section 5.1). Some in a
 * row, with none of the present type between, are a change. */
static void other_type(ce_stream *s, int pt, const ce_addr *from)
{
    uint64_t tick = s->e->tick;
    if (!s->remote_set || !same_addr(from, &s->remote))
        return;
    if (pt != s->other_pt || s->last_rx_tick > s->other_tick) {
        s->other_pt = (uint8_t)pt;
        s->other_tick = tick;
        s->n_other = 0;
    }
    if (s->n_other == OTHER_ROW)
        return;
    if (s->n_other < OTHER_ROW - 1) {
        s->n_other++;
    } else if (tick - s->other_told >= OTHER_EVERY_MS) {
        s->n_other = OTHER_ROW;
        s->other_told = tick;
        ce_post(s->e, CE_EV_OTHER_TYPE, s, pt, 0, 0, NULL, 0);
    }
}

static void rtcp_receive(ce_stream *s, uint8_t *p, int n, const ce_addr *from, int flags);

void ce_rtp_packet(ce_stream *s, uint8_t *p, int n, const ce_addr *from)
{
    ce_engine *e = s->e;
    cp_rtp h;
    e->st.rx_packets++;
    ce_kernel_sync(s);
    if (s->srtp_in) {
        /* Nothing is read, nor anything learned, of a packet that has not proved itself. */
        if (n >= 12 && (p[1] & 0x7f) >= 64 && (p[1] & 0x7f) <= 95) { /* RFC 5761 section 4 */
            rtcp_receive(s, p, n, from, 0);
            return;
        }
        if (s->tap && !s->tap->clear)
            ce_tap_put(s, p, n, from, 0);
        if (n < 12 || !(may_come_from(s, from) || ce_follow_may(s, from))) {
            s->c.refused++;
            ce_health_refused(s, from, -1);
            return;
        }
        if ((n = ce_srtp_unprotect(s, p, n)) < 0)
            return;
    }
    if (s->tap && (s->tap->clear || !s->srtp_in))
        ce_tap_put(s, p, n, from, 0);
    if (n >= 12 && p[0] == 0x80) { /* the usual header: nothing optional */
        h.marker = p[1] >> 7;
        h.payload_type = p[1] & 0x7f;
        h.seq = (uint16_t)(p[2] << 8 | p[3]);
        h.timestamp = (uint32_t)p[4] << 24 | (uint32_t)p[5] << 16 | (uint32_t)p[6] << 8 | p[7];
        h.ssrc = (uint32_t)p[8] << 24 | (uint32_t)p[9] << 16 | (uint32_t)p[10] << 8 | p[11];
        h.payload_offset = 12;
        h.payload_len = n - 12;
        h.has_extension = 0;
        if (h.payload_type >= 72 && h.payload_type <= 76) {
            rtcp_receive(s, p, n, from, 0);
            return;
        }
    } else {
        int r = cp_rtp_parse(p, n, &h);
        if (r == CP_RTP_IS_RTCP) {
            rtcp_receive(s, p, n, from, 0);
            return;
        }
        if (r) {
            s->c.refused++;
            return;
        }
    }
    int is_te = h.payload_type == s->te_pt;
    int is_cn = ce_cn_is(s, h.payload_type);
    int wrong_type = h.payload_type != s->pt && !is_te && !is_cn;
    if (wrong_type || h.payload_len < 1 ||
        !(accept_source(s, from) || ce_follow(s, from, &h))) {
        s->c.refused++;
        ce_health_refused(s, from, wrong_type ? h.payload_type : -1);
        if (wrong_type)
            other_type(s, h.payload_type, from);
        return;
    }
    if (!s->rx_seen || h.ssrc != s->source.ssrc) {
        /* A new SSRC must show two packets in sequence before it takes over. */
        if (s->rx_seen && !(s->has_probation && s->probation_ssrc == h.ssrc &&
                            (uint16_t)(s->probation_seq + 1) == h.seq)) {
            s->has_probation = 1;
            s->probation_ssrc = h.ssrc;
            s->probation_seq = h.seq;
            s->c.refused++;
            return;
        }
        new_source(s, h.ssrc, h.seq);
        if (!s->rx_seen) {
            s->rx_seen = 1;
            s->c.source = *from;
            ce_post(e, CE_EV_STARTED, s, 0, 0, 0, from, sizeof *from);
        }
    }
    uint16_t ahead = (uint16_t)(h.seq - s->source.max_seq);
    if (ahead >= SEQ_JUMP && ahead <= 65536 - SEQ_LATE) {
        if (h.seq == s->source.bad_seq) /* the second in sequence; the first is refused below */
            renumbered(s, h.seq);
    } else if (in_window(s, h.seq)) {
        s->c.duplicate++;
        return;
    }
    uint32_t transit = s->source.transit;
    double jitter = s->source.jitter;
    if (!cp_rtp_source_update(&s->source, h.seq, h.timestamp, e->rx_ns)) {
        s->c.refused++;
        return;
    }
    if (s->kernel.on) {
        if (ce_kernel_has_seen(s, h.seq)) { /* when it came */
            s->source.transit = transit;
            s->source.jitter = jitter;
        }
        ce_kernel_passed_by(s);
    }
    s->has_probation = 0;
    s->last_rx_tick = e->tick;
    s->timed_out = 0;
    s->c.source = *from;
    s->c.rx_packets++;
    s->c.rx_octets += (uint64_t)h.payload_len;
    if (h.has_extension)
        ce_ext_receive(s, p + h.extension_offset, h.extension_len, h.extension_profile);
    if (is_cn)
        ce_cn_receive(s, h.timestamp, p + h.payload_offset, h.payload_len);
    else if (!is_te && !s->kernel.on)
        ce_health_arrival(s, h.timestamp);
    if (is_te) {
        te_receive(s, h.timestamp, h.seq == s->source.max_seq, p + h.payload_offset,
                   h.payload_len);
        if (!s->relayed || !s->bridge->pass_digits)
            return;
    }
    if (s->relayed) {
        ce_stream *to = s->bridge_next ? s->bridge_next : s->bridge_prev;
        if (is_cn && to->cn.pt == CE_NO_PT)
            return; /* it is sent our noise instead */
        if (!is_cn && !is_te) {
            s->cn.active = 0;
            ce_relay_level(s, p + h.payload_offset, h.payload_len);
        }
        to->ext_pass = to->pass_ext && h.has_extension && h.extension_len <= CE_EXT_OCTETS
                           ? &s->ext_in : NULL;
        relay(s, to, p, h.payload_offset, h.payload_len, h.payload_type, h.marker, h.seq,
              h.timestamp);
        to->ext_pass = NULL;
    } else if (s->rx && !is_cn) {
        uint64_t late = s->c.late;
        ce_jitter_put(s, h.timestamp, p + h.payload_offset,
                   h.payload_len < CE_MAX_PAYLOAD * 3 ? h.payload_len : CE_MAX_PAYLOAD * 3);
        if (s->c.late != late)
            ce_xr_discarded(s, h.seq);
    }
}

void ce_rtp_readable(ce_engine *e, ce_stream *s)
{
    e->rx_ns = e->now_ns;
    int rounds = s->ready_wake + 1 >= e->wakes || e->flush_rx ? 4 : 1;
    s->ready_wake = e->wakes;
    if (rounds == 1) {
        ce_addr from;
        socklen_t len = sizeof from;
        ssize_t n = recvfrom(s->fd, e->rx_buf[0], CE_RX_BYTES, MSG_DONTWAIT, &from.sa, &len);
        if (n >= 0)
            ce_rtp_packet(s, e->rx_buf[0], (int)n, &from);
        return;
    }
    /* Ready again at once: a burst or a flood, taken in batches; what a wake does not take stays
     * in the socket buffer, which bounds it. */
    struct mmsghdr m[CE_RX_BURST];
    struct iovec v[CE_RX_BURST];
    ce_addr from[CE_RX_BURST];
    memset(m, 0, sizeof m);
    for (int i = 0; i < CE_RX_BURST; i++) {
        v[i] = (struct iovec){e->rx_buf[i], CE_RX_BYTES};
        m[i].msg_hdr.msg_iov = &v[i];
        m[i].msg_hdr.msg_iovlen = 1;
        m[i].msg_hdr.msg_name = &from[i];
    }
    if (e->flush_rx)
        rounds = 64;
    while (rounds--) {
        for (int i = 0; i < CE_RX_BURST; i++)
            m[i].msg_hdr.msg_namelen = sizeof from[i];
        int n = recvmmsg(s->fd, m, CE_RX_BURST, MSG_DONTWAIT, NULL);
        if (n <= 0)
            return;
        for (int i = 0; i < n; i++) {
            if (e->flush_rx)
                s->c.late++;
            else
                ce_rtp_packet(s, e->rx_buf[i], (int)m[i].msg_len, &from[i]);
        }
        if (n < CE_RX_BURST)
            return;
    }
}

/* ---- packets out ---- */

uint32_t ce_rtp_now_ts(const ce_stream *s)
{
    return s->ts_base + (uint32_t)(s->e->tick - s->tick_base) * s->clock_ms;
}

static void send_media(ce_stream *s, const uint8_t *payload, int n, uint32_t ts)
{
    uint8_t packet[12 + CE_MAX_PAYLOAD * 4];
    cp_rtp_header(packet, s->pt, s->gap || !s->sent_any, s->seq_out++, ts, s->ssrc_out);
    memcpy(packet + 12, payload, (size_t)n);
    s->gap = 0;
    s->sent_any = 1;
    s->last_ts = ts;
    send_packet(s, packet, n + 12);
}

void ce_rtp_skip_frame(ce_stream *s)
{
    s->gap = 1;
    s->tx_fill = 0;
}

void ce_rtp_send_noise(ce_stream *s, const uint8_t *payload, int n)
{
    uint8_t packet[12 + CP_CN_OCTETS];
    cp_rtp_header(packet, s->cn.pt, 0, s->seq_out++, ce_rtp_now_ts(s), s->ssrc_out);
    memcpy(packet + 12, payload, (size_t)n);
    s->sent_any = 1;
    send_packet(s, packet, n + 12);
}

void ce_rtp_send_frame(ce_stream *s, const uint8_t *payload)
{
    if (!s->remote_set || !s->tx || (s->cn.send && ce_cn_suppress(s))) {
        ce_rtp_skip_frame(s);
        return;
    }
    uint32_t ts = ce_rtp_now_ts(s);
    if (s->ptime_ms == CE_FRAME_MS) {
        send_media(s, payload, s->frame_bytes, ts);
        return;
    }
    uint32_t n = (uint32_t)s->ptime_ms * s->clock_ms * s->bytes_per_tick, at = 0;
    if (!s->tx_fill)
        s->tx_pack_ts = ts;
    if (s->tx_fill + s->frame_bytes > CE_PACK_BYTES)
        s->tx_fill = 0;
    memcpy(s->parts.tx_pack + s->tx_fill, payload, s->frame_bytes);
    s->tx_fill = (uint16_t)(s->tx_fill + s->frame_bytes);
    while (s->tx_fill - at >= n) {
        send_media(s, s->parts.tx_pack + at, (int)n, s->tx_pack_ts);
        s->tx_pack_ts += (uint32_t)s->ptime_ms * s->clock_ms;
        at += n;
    }
    if (at) {
        s->tx_fill = (uint16_t)(s->tx_fill - at);
        memmove(s->parts.tx_pack, s->parts.tx_pack + at, s->tx_fill);
    }
}

void ce_rtp_send_event(ce_stream *s, int event, int end, uint32_t duration, uint32_t ts, int marker)
{
    if (!s->remote_set || !s->tx || s->te_pt == CE_NO_PT)
        return;
    uint8_t packet[16];
    cp_rtp_dtmf ev = {.event = (uint8_t)event, .end = (uint8_t)end, .volume = 10,
                      .duration = (uint16_t)(duration > 0xffff ? 0xffff : duration)};
    cp_rtp_header(packet, s->te_pt, (uint8_t)marker, s->seq_out++, ts, s->ssrc_out);
    cp_rtp_dtmf_build(packet + 12, &ev);
    s->sent_any = 1;
    s->gap = 1; /* the next audio packet starts a talkspurt */
    send_packet(s, packet, sizeof packet);
}

/* ---- RTCP ---- */

static uint64_t ntp_of(int64_t unix_ns)
{
    return ((uint64_t)(unix_ns / NS) + 2208988800ull) << 32 | ((uint64_t)(unix_ns % NS) << 32) / NS;
}

static uint64_t ntp_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return ntp_of(t.tv_sec * NS + t.tv_nsec);
}

void ce_rtcp_round_trip(ce_stream *s, uint32_t trip)
{
    if (trip >= 0x80000000u)
        return;
    s->c.rtt_us = (uint32_t)((uint64_t)trip * 1000000u >> 16);
    s->c.have_rtt = 1;
}

static void rtcp_send(ce_stream *s, int bye)
{
    ce_engine *e = s->e;
    if (s->fd_rtcp < 0 || !s->remote_set || (!s->sent_any && !s->rx_seen))
        return;
    uint8_t clear[384], *p = clear;
    cp_report_block block;
    cp_rtcp_packet sr = {0};
    uint64_t ntp = ntp_now();
    sr.ntp_sec = (uint32_t)(ntp >> 32);
    sr.ntp_frac = (uint32_t)ntp;
    sr.rtp_timestamp = ce_rtp_now_ts(s);
    sr.n_packets = (uint32_t)s->c.tx_packets;
    sr.n_octets = (uint32_t)s->c.tx_octets;
    if (s->rx_seen)
        cp_rtp_source_report(&s->source, &block, e->now_ns);
    int n = cp_rtcp_build_report(p, sizeof clear, s->ssrc_out, s->sent_any ? &sr : NULL, &block,
                                 s->rx_seen);
    int k = cp_rtcp_build_sdes(p + n, (int)sizeof clear - n, s->ssrc_out, (const uint8_t *)e->cname,
                               (int)strlen(e->cname));
    n += k > 0 ? k : 0;
    n += ce_xr_build(s, p + n, (int)sizeof clear - n, ntp);
    if (bye) {
        k = cp_rtcp_build_bye(p + n, (int)sizeof clear - n, s->ssrc_out, NULL, 0);
        n += k > 0 ? k : 0;
    }
    ce_addr to = s->remote;
    to.in4.sin_port = htons((uint16_t)(ntohs(to.in4.sin_port) + 1));
    int n_clear = n;
    if ((s->srtp_out && !(p = ce_srtp_protect_rtcp(s, clear, &n))) ||
        sendto(s->fd_rtcp, p, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL, &to.sa, s->addr_len) < 0)
        e->st.send_errors++;
    else if (s->tap)
        ce_tap_put(s, s->tap->clear ? clear : p, s->tap->clear ? n_clear : n, &to,
                   CE_TAP_SENT | CE_TAP_RTCP);
}

void ce_rtp_bye(ce_stream *s)
{
    rtcp_send(s, 1);
}

static void rtcp_receive(ce_stream *s, uint8_t *p, int n, const ce_addr *from, int flags)
{
    int from_peer = s->remote_set && same_ip(from, &s->remote);
    if (s->srtp_in) {
        if (s->tap && !s->tap->clear)
            ce_tap_put(s, p, n, from, flags);
        if (from_peer && n >= 8 && (n = ce_srtp_unprotect_rtcp(s, p, n)) < 0)
            return;
        if (s->tap && s->tap->clear && from_peer)
            ce_tap_put(s, p, n, from, flags);
    }
    if (!from_peer || cp_rtcp_check(p, n) < 0) {
        s->c.refused++;
        return;
    }
    /* How long it has waited for us is no part of a round trip. */
    uint32_t arrived = (uint32_t)(ntp_of(s->e->unix_ns + s->e->rx_ns) >> 16);
    int32_t at = 0;
    cp_rtcp_packet k;
    int r;
    while ((r = cp_rtcp_next(p, n, &at, &k)) != 0) {
        if (r < 0)
            continue;
        if (k.type <= CP_RTCP_RR && s->rx_seen && k.ssrc == s->source.ssrc)
            s->cn.alive_tick = s->e->tick;
        if (k.type == CP_RTCP_SR && s->rx_seen && k.ssrc == s->source.ssrc)
            cp_rtp_source_sr(&s->source, k.ntp_sec, k.ntp_frac, s->e->rx_ns);
        if (k.type == CP_RTCP_SR || k.type == CP_RTCP_RR) {
            cp_report_block b;
            for (int i = 0; i < k.n_reports; i++) {
                if (cp_rtcp_report(p, &k, i, &b) || b.ssrc != s->ssrc_out)
                    continue;
                s->c.remote_fraction_lost = b.fraction_lost;
                s->c.have_remote = 1;
                if (b.last_sr)
                    ce_rtcp_round_trip(s, arrived - b.last_sr - b.delay_since_sr);
            }
        }
        if (k.type == CP_RTCP_XR)
            ce_xr_receive(s, p + k.offset, k.len, k.ssrc, arrived);
        if (k.type == CP_RTCP_BYE && !s->bye_seen && s->rx_seen && k.ssrc == s->source.ssrc) {
            s->bye_seen = 1;
            ce_post(s->e, CE_EV_BYE, s, 0, 0, 0, NULL, 0);
        }
    }
}

void ce_rtcp_readable(ce_engine *e, ce_stream *s)
{
    for (int i = 0; i < 4; i++) {
        ce_addr from;
        uint8_t control[CMSG_SPACE(sizeof(struct timespec))];
        struct iovec v = {e->rx_buf[0], CE_RX_BYTES};
        struct msghdr m = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &v,
                           .msg_iovlen = 1, .msg_control = control,
                           .msg_controllen = sizeof control};
        ssize_t n = recvmsg(s->fd_rtcp, &m, MSG_DONTWAIT);
        if (n < 0)
            return;
        ce_rtp_arrived(e, control, m.msg_controllen);
        if (s->tap && !s->srtp_in)
            ce_tap_put(s, e->rx_buf[0], (int)n, &from, CE_TAP_RTCP);
        rtcp_receive(s, e->rx_buf[0], (int)n, &from, CE_TAP_RTCP);
    }
}

/* Once a frame. */
void ce_rtp_timers(ce_stream *s)
{
    uint64_t tick = s->e->tick;
    ce_kernel_sync(s);
    ce_kernel_consider(s);
    if (s->te_active && tick - s->te_tick > CE_TE_SILENT_MS)
        te_finish(s);
    if (s->timeout_ms && s->rx && s->remote_set && !s->timed_out &&
        tick - s->last_rx_tick > s->timeout_ms &&
        !(s->cn.active && tick - s->cn.alive_tick <= s->timeout_ms)) {
        s->timed_out = 1;
        ce_post(s->e, CE_EV_TIMEOUT, s, 0, 0, 0, NULL, 0);
    }
    if (s->rx_seen) {
        s->c.expected = s->expected_before + cp_rtp_source_expected(&s->source);
        s->c.lost = s->lost_before + cp_rtp_source_lost(&s->source);
        s->c.jitter = s->source.jitter;
    }
    if (tick >= s->rtcp_due) {
        ce_kernel_look_again(s);
        rtcp_send(s, 0);
        s->rtcp_due = tick + RTCP_MS;
    }
}
