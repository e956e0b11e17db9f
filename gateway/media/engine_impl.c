/* The worker thread, its rings, the phase buckets and the G.722 lanes. */
#include "engine_impl.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
    TICK_NS = 1000000,
    CATCH_UP_TICKS = 60,  /* further behind: what was missed is skipped, not played in a burst */
    RT_PRIORITY = 20,
    /* A wake costs some 15 us of CPU, as much as two packets: with fewer packets than this in a
     * wake the thread sleeps two ticks and works off both. */
    BUSY_PACKETS = 24,
    EPOLL_BATCH = 256,
};

static int64_t mono_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

void *ce_zeroed(size_t n)
{
    void *p = NULL;
    n = (n + CP_ALIGN - 1) / CP_ALIGN * CP_ALIGN;
    if (posix_memalign(&p, CP_ALIGN, n))
        return NULL;
    memset(p, 0, n);
    return p;
}

/* ---- phases: streams spread over the 20 ticks, G.722 packed so that lanes fill ---- */

int ce_choose_phase(ce_engine *e, int g722)
{
    if (g722) {
        for (uint32_t g = 0; g < e->encoders.n_groups; g++)
            if (e->encoders.used[g] && e->encoders.used[g] != UINT32_MAX)
                return e->encoders.phase[g];
    }
    int best = 0;
    for (int p = 1; p < CE_FRAME_MS; p++)
        if (e->bucket_load[p] < e->bucket_load[best])
            best = p;
    return best;
}

static void bucket_remove(ce_stream *s)
{
    ce_engine *e = s->e;
    if (s->prev)
        s->prev->next = s->next;
    else
        e->bucket[s->phase] = s->next;
    if (s->next)
        s->next->prev = s->prev;
    e->bucket_load[s->phase]--;
}

static void bucket_add(ce_stream *s, int phase)
{
    ce_engine *e = s->e;
    s->phase = (uint8_t)phase;
    s->prev = NULL;
    s->next = e->bucket[phase];
    if (s->next)
        s->next->prev = s;
    e->bucket[phase] = s;
    e->bucket_load[phase]++;
}

void ce_stream_set_phase(ce_stream *s, int phase)
{
    if (s->phase == phase)
        return;
    bucket_remove(s);
    bucket_add(s, phase);
    ce_lane_move(&s->e->decoders, &s->decoder_lane, phase);
    ce_lane_move(&s->e->encoders, &s->encoder_lane, phase);
}

void ce_stream_set_codec(ce_stream *s, int codec, int wideband)
{
    ce_engine *e = s->e;
    ce_lane_give(&e->decoders, &s->decoder_lane);
    ce_lane_give(&e->encoders, &s->encoder_lane);
    s->codec = (uint8_t)codec;
    s->wideband = (uint8_t)(wideband || codec == CE_G722);
    s->rate = s->wideband ? 16000 : 8000;
    s->n_samples = (uint16_t)(s->rate / 50);
    s->bytes_per_tick = codec == CE_L16 || codec == CE_NONE ? 2 : 1;
    s->clock_ms = codec == CE_L16 && s->wideband ? 16 : 8;
    s->frame_ticks = (uint16_t)(s->clock_ms * CE_FRAME_MS);
    s->frame_bytes = (uint16_t)(s->frame_ticks * s->bytes_per_tick);
    if (codec == CE_G722) {
        s->decoder_lane = ce_lane_take(&e->decoders, s->phase);
        s->encoder_lane = ce_lane_take(&e->encoders, s->phase);
    }
    cp_plc_init(&s->plc, (int32_t)s->rate);
    cp_resampler_init(&s->to_detect, (int32_t)s->rate, 8000);
    cp_resampler_init(&s->to_bridge, 8000, 16000);
    cp_resampler_init(&s->from_bridge, 16000, 8000);
    s->tx_fill = 0;
}

/* ---- rings ---- */

void ce_post(ce_engine *e, int type, ce_stream *s, int32_t a, int32_t b, int32_t c,
             const void *data, int n)
{
    uint32_t head = atomic_load_explicit(&e->ev_head, memory_order_relaxed);
    if (head - atomic_load_explicit(&e->ev_tail, memory_order_acquire) >= CE_EVENTS) {
        e->st.dropped_events++;
        return;
    }
    ce_event *v = &e->events[head % CE_EVENTS];
    v->type = (uint8_t)type;
    v->stream = s->id;
    v->a = a, v->b = b, v->c = c;
    v->n_data = (uint16_t)n;
    if (n)
        memcpy(v->data, data, (size_t)n);
    atomic_store_explicit(&e->ev_head, head + 1, memory_order_release);
    e->ev_posted = 1;
}

int ce_engine_pop(ce_engine *e, ce_event *out)
{
    uint32_t tail = atomic_load_explicit(&e->ev_tail, memory_order_relaxed);
    if (tail == atomic_load_explicit(&e->ev_head, memory_order_acquire))
        return 0;
    *out = e->events[tail % CE_EVENTS];
    atomic_store_explicit(&e->ev_tail, tail + 1, memory_order_release);
    return 1;
}

int ce_engine_push(ce_engine *e, const ce_command *c)
{
    uint32_t head = atomic_load_explicit(&e->cmd_head, memory_order_relaxed);
    if (head - atomic_load_explicit(&e->cmd_tail, memory_order_acquire) >= CE_COMMANDS)
        return -1;
    e->commands[head % CE_COMMANDS] = *c;
    atomic_store_explicit(&e->cmd_head, head + 1, memory_order_seq_cst);
    if (atomic_load_explicit(&e->idle, memory_order_seq_cst)) {
        uint64_t one = 1;
        if (write(e->wake_fd, &one, sizeof one) < 0) { /* full: it is awake already */
        }
    }
    return 0;
}

/* ---- commands ---- */

static void watch(ce_engine *e, int fd, ce_stream *s, uintptr_t tag)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = (uintptr_t)s | tag};
    if (fd >= 0 && epoll_ctl(e->epfd, EPOLL_CTL_ADD, fd, &ev) && tag == 2)
        s->readable = 0; /* a regular file or a write-only descriptor cannot be watched */
}

static void stream_open(ce_engine *e, ce_stream *s, const ce_rtp_config *c)
{
    bucket_add(s, ce_choose_phase(e, c->codec == CE_G722));
    s->decoder_lane = s->encoder_lane = -1;
    s->tick_base = e->tick;
    if (s->kind == CE_RTP) {
        ce_rtp_apply(s, c, 1);
        watch(e, s->fd, s, 0);
        watch(e, s->fd_rtcp, s, 1);
    } else {
        ce_stream_set_codec(s, c->codec, c->wideband);
        if (s->kind == CE_DEVICE && s->readable)
            watch(e, s->fd, s, 2);
    }
    s->opened = 1;
    e->st.n_streams++;
}

static void stream_close(ce_engine *e, ce_stream *s)
{
    if (s->bridge)
        ce_bridge_leave(s);
    if (s->kind == CE_RTP) {
        ce_rtp_bye(s);
        epoll_ctl(e->epfd, EPOLL_CTL_DEL, s->fd, NULL);
        epoll_ctl(e->epfd, EPOLL_CTL_DEL, s->fd_rtcp, NULL);
    } else if (s->kind == CE_DEVICE) {
        epoll_ctl(e->epfd, EPOLL_CTL_DEL, s->fd, NULL);
    }
    ce_play_end(s, 0);
    if (s->record)
        atomic_store(&s->record->done, 1);
    ce_tap_set(s, NULL);
    ce_lane_give(&e->decoders, &s->decoder_lane);
    ce_lane_give(&e->encoders, &s->encoder_lane);
    bucket_remove(s);
    e->st.n_streams--;
    atomic_store_explicit(&s->dead, 1, memory_order_release);
}

static void stream_configure(ce_stream *s, const ce_options *o)
{
    s->opt = *o;
    cp_dtmf_rx_init(&s->dtmf);
    if (o->n_tones)
        cp_tone_rx_init(&s->tones, o->tone, o->n_tones, -38.0f);
    if (o->detect_fsk)
        cp_fsk_rx_init(&s->fsk, o->detect_fsk == 2 ? CP_FSK_V23 : CP_FSK_BELL202, 8000);
    s->fsk_fill = 0;
}

static void execute(ce_engine *e, const ce_command *c)
{
    ce_stream *s = c->s;
    ce_bridge *b = c->b;
    switch (c->type) {
    case CE_CMD_OPEN: stream_open(e, s, &c->u.rtp); return;
    case CE_CMD_CLOSE: stream_close(e, s); return;
    case CE_CMD_UPDATE: ce_rtp_apply(s, &c->u.rtp, 0); break;
    case CE_CMD_CONFIGURE: stream_configure(s, &c->u.options); break;
    case CE_CMD_SPEECH: ce_speech_watch(s, &c->u.speech); break;
    case CE_CMD_PLAY:
        ce_play_end(s, 0);
        s->play = c->u.play;
        if (s->play->rate == 16000 || s->play->rate == 8000)
            cp_resampler_init(&s->from_play, (int32_t)s->play->rate, (int32_t)s->rate);
        break;
    case CE_CMD_STOP_PLAY: ce_play_end(s, 0); break;
    case CE_CMD_DIGITS:
        ce_digits_queue(s, c->u.digits.digits, c->u.digits.n, c->u.digits.on_ms,
                        c->u.digits.off_ms);
        break;
    case CE_CMD_RECORD:
        if (s->record)
            atomic_store(&s->record->done, 1);
        s->record = c->u.record;
        break;
    case CE_CMD_STOP_RECORD:
        if (s->record)
            atomic_store(&s->record->done, 1);
        s->record = NULL;
        break;
    case CE_CMD_TAP: ce_tap_set(s, c->u.tap); return;
    case CE_CMD_BRIDGE_OPEN:
        b->phase = (uint8_t)ce_choose_phase(e, 0);
        b->common_lane = -1;
        b->rate = 8000;
        b->prev = NULL;
        b->next = e->bridges[b->phase];
        if (b->next)
            b->next->prev = b;
        e->bridges[b->phase] = b;
        e->st.n_bridges++;
        return;
    case CE_CMD_BRIDGE_CLOSE:
        while (b->members)
            ce_bridge_leave(b->members);
        ce_lane_give(&e->encoders, &b->common_lane);
        if (b->prev)
            b->prev->next = b->next;
        else
            e->bridges[b->phase] = b->next;
        if (b->next)
            b->next->prev = b->prev;
        e->st.n_bridges--;
        atomic_store_explicit(&b->dead, 1, memory_order_release);
        return;
    case CE_CMD_JOIN:
        if (s->bridge)
            ce_bridge_leave(s);
        s->speaks = c->u.join.speaks;
        s->hears = c->u.join.hears;
        s->gain_bridge = c->u.join.gain;
        ce_bridge_join(b, s);
        return;
    case CE_CMD_LEAVE:
        if (s->bridge == b)
            ce_bridge_leave(s);
        return;
    case CE_CMD_FLOOR:
        b->floor_mode = 1;
        b->floor = s;
        ce_bridge_replan(b);
        return;
    }
    if (s->bridge)
        ce_bridge_replan(s->bridge);
}

static void drain_commands(ce_engine *e)
{
    uint32_t tail = atomic_load_explicit(&e->cmd_tail, memory_order_relaxed);
    uint32_t head = atomic_load_explicit(&e->cmd_head, memory_order_acquire);
    while (tail != head) {
        execute(e, &e->commands[tail % CE_COMMANDS]);
        atomic_store_explicit(&e->cmd_tail, ++tail, memory_order_release);
    }
}

/* ---- the loop ---- */

static void drain_sockets(ce_engine *e)
{
    struct epoll_event ev[EPOLL_BATCH];
    int n;
    for (int round = 0; round < 8; round++) {
        n = epoll_wait(e->epfd, ev, EPOLL_BATCH, 0);
        for (int i = 0; i < n; i++) {
            uintptr_t tag = ev[i].data.u64 & 3;
            ce_stream *s = (ce_stream *)(uintptr_t)(ev[i].data.u64 & ~(uint64_t)3);
            if (tag == 0)
                ce_rtp_readable(e, s);
            else if (tag == 1)
                ce_rtcp_readable(e, s);
            else
                ce_device_readable(e, s);
        }
        if (n < EPOLL_BATCH)
            return;
    }
}

static void sleep_until(ce_engine *e, int64_t due_ns)
{
    struct timespec t = {due_ns / 1000000000, due_ns % 1000000000};
    (void)e;
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) {
    }
}

/* Nothing is open: block on the wake descriptor instead of ticking. */
static void sleep_idle(ce_engine *e)
{
    atomic_store_explicit(&e->idle, 1, memory_order_seq_cst);
    if (atomic_load_explicit(&e->cmd_head, memory_order_seq_cst) ==
            atomic_load_explicit(&e->cmd_tail, memory_order_relaxed) &&
        !atomic_load(&e->quit)) {
        uint64_t n;
        if (read(e->wake_fd, &n, sizeof n) < 0) { /* EINTR: look again */
        }
    }
    atomic_store_explicit(&e->idle, 0, memory_order_seq_cst);
    e->now_ns = mono_ns();
    e->t0_ns = e->now_ns - (int64_t)e->tick * TICK_NS;
}

static void *worker(void *arg)
{
    ce_engine *e = arg;
    pthread_setname_np(pthread_self(), "media");
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL); /* signals belong to the thread that runs asyncio */
    e->now_ns = mono_ns();
    e->t0_ns = e->now_ns - (int64_t)e->tick * TICK_NS;
    while (!atomic_load_explicit(&e->quit, memory_order_acquire)) {
        if (!e->st.n_streams && !e->st.n_bridges) {
            sleep_idle(e);
        } else {
            uint64_t packets = e->st.rx_packets - e->seen_packets;
            int64_t stride = packets < BUSY_PACKETS ? 2 : 1;
            int64_t due = e->t0_ns + ((int64_t)e->tick + stride) * TICK_NS;
            e->seen_packets = e->st.rx_packets;
            sleep_until(e, due);
            e->now_ns = mono_ns();
            int64_t late = e->now_ns - due;
            if (late > e->st.worst_late_ns)
                e->st.worst_late_ns = late;
            if (late > 2 * TICK_NS)
                e->st.late_ticks++;
        }
        uint64_t until = (uint64_t)((e->now_ns - e->t0_ns) / TICK_NS);
        if (until > e->tick + CATCH_UP_TICKS) {
            e->st.skipped_ticks += until - e->tick - 1;
            e->tick = until - 1;
            e->flush_rx = 1; /* what queued up meanwhile is stale */
        }
        drain_commands(e);
        drain_sockets(e);
        e->flush_rx = 0;
        while (e->tick < until) {
            e->tick++;
            e->st.ticks++;
            ce_frames(e, (int)(e->tick % CE_FRAME_MS));
        }
        if (e->ev_posted) {
            uint64_t one = 1;
            e->ev_posted = 0;
            if (write(e->event_fd, &one, sizeof one) < 0) { /* counter full: reader is woken */
            }
        }
    }
    drain_commands(e);
    return NULL;
}

/* ---- life ---- */

uint64_t ce_engine_random(ce_engine *e)
{
    /* xorshift64*: SSRC, first sequence number and timestamp (RFC 3550 5.1); seeded by the OS. */
    e->rng ^= e->rng >> 12;
    e->rng ^= e->rng << 25;
    e->rng ^= e->rng >> 27;
    return e->rng * 2685821657736338717ull;
}

ce_engine *ce_engine_new(uint32_t max_streams, int realtime, const char *cname)
{
    ce_engine *e = ce_zeroed(sizeof *e);
    if (!e)
        return NULL;
    cp_g711_setup();
    cp_resample_setup();
    cp_dtmf_setup();
    e->epfd = e->event_fd = e->wake_fd = -1;
    e->want_realtime = realtime;
    snprintf(e->cname, sizeof e->cname, "%s", cname);
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    e->rng = (uint64_t)t.tv_nsec << 32 ^ (uint64_t)t.tv_sec ^ (uintptr_t)e;
    FILE *f = fopen("/dev/urandom", "rb");
    if (f) {
        uint64_t r;
        if (fread(&r, sizeof r, 1, f) == 1)
            e->rng ^= r;
        fclose(f);
    }
    if (!e->rng)
        e->rng = 1;
    e->due_capacity = max_streams;
    e->commands = ce_zeroed(CE_COMMANDS * sizeof *e->commands);
    e->events = ce_zeroed(CE_EVENTS * sizeof *e->events);
    e->due = ce_zeroed(max_streams * sizeof *e->due);
    e->mix_src = ce_zeroed(max_streams * sizeof *e->mix_src);
    e->mix_out = ce_zeroed(max_streams * sizeof *e->mix_out);
    e->mix_gain = ce_zeroed(max_streams * sizeof *e->mix_gain);
    e->mix_who = ce_zeroed(max_streams * sizeof *e->mix_who);
    uint32_t groups = (max_streams + CP_LANES - 1) / CP_LANES * 2 + CE_FRAME_MS;
    e->dec_src = ce_zeroed(groups * CP_LANES * sizeof *e->dec_src);
    e->dec_out = ce_zeroed(groups * CP_LANES * sizeof *e->dec_out);
    e->enc_src = ce_zeroed(groups * CP_LANES * sizeof *e->enc_src);
    e->enc_out = ce_zeroed(groups * CP_LANES * sizeof *e->enc_out);
    e->dec_mask = ce_zeroed(groups * sizeof *e->dec_mask);
    e->enc_mask = ce_zeroed(groups * sizeof *e->enc_mask);
    if (!e->dec_src || !e->dec_out || !e->enc_src || !e->enc_out || !e->dec_mask || !e->enc_mask ||
        ce_lanes_new(&e->decoders, groups, 0) ||
        ce_lanes_new(&e->encoders, groups, 1) || !e->commands ||
        !e->events || !e->due || !e->mix_src || !e->mix_out || !e->mix_gain || !e->mix_who) {
        ce_engine_free(e);
        return NULL;
    }
    return e;
}

int ce_engine_start(ce_engine *e)
{
    e->epfd = epoll_create1(EPOLL_CLOEXEC);
    e->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    e->wake_fd = eventfd(0, EFD_CLOEXEC);
    if (e->epfd < 0 || e->event_fd < 0 || e->wake_fd < 0)
        return errno;
    atomic_store(&e->quit, 0);
    pthread_attr_t a;
    pthread_attr_init(&a);
    pthread_attr_setstacksize(&a, 512 * 1024);
    struct sched_param p = {.sched_priority = RT_PRIORITY};
    int r = EPERM;
    if (e->want_realtime) {
        pthread_attr_setinheritsched(&a, PTHREAD_EXPLICIT_SCHED);
        pthread_attr_setschedpolicy(&a, SCHED_FIFO);
        pthread_attr_setschedparam(&a, &p);
        r = pthread_create(&e->thread, &a, worker, e);
        e->st.realtime = r == 0;
    }
    if (r) {
        pthread_attr_setinheritsched(&a, PTHREAD_INHERIT_SCHED);
        r = pthread_create(&e->thread, &a, worker, e);
    }
    pthread_attr_destroy(&a);
    if (r)
        return r;
    e->st.locked = e->want_realtime && mlock(e, sizeof *e) == 0;
    e->st.running = 1;
    return 0;
}

void ce_engine_stop(ce_engine *e)
{
    if (!e->st.running)
        return;
    atomic_store_explicit(&e->quit, 1, memory_order_release);
    uint64_t one = 1;
    if (write(e->wake_fd, &one, sizeof one) < 0) { /* it is awake */
    }
    pthread_join(e->thread, NULL);
    e->st.running = 0;
}

void ce_engine_free(ce_engine *e)
{
    if (e->epfd >= 0)
        close(e->epfd);
    if (e->event_fd >= 0)
        close(e->event_fd);
    if (e->wake_fd >= 0)
        close(e->wake_fd);
    ce_lanes_free(&e->decoders);
    ce_lanes_free(&e->encoders);
    free(e->commands), free(e->events), free(e->due);
    free(e->dec_src), free(e->dec_out), free(e->enc_src), free(e->enc_out);
    free(e->dec_mask), free(e->enc_mask);
    free(e->mix_src), free(e->mix_out), free(e->mix_gain), free(e->mix_who);
    free(e);
}

void ce_engine_stats_get(ce_engine *e, ce_engine_stats *out)
{
    *out = e->st;
    clockid_t c;
    struct timespec t;
    if (e->st.running && !pthread_getcpuclockid(e->thread, &c) && !clock_gettime(c, &t))
        out->cpu_s = (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

ce_stream *ce_stream_new(ce_engine *e, uint32_t id, int kind)
{
    ce_stream *s = ce_zeroed(sizeof *s);
    if (!s)
        return NULL;
    s->e = e;
    s->id = id;
    s->kind = (uint8_t)kind;
    s->fd = s->fd_rtcp = -1;
    s->te_pt = CE_NO_PT;
    s->opt.gain_in = s->opt.gain_out = 1.0f;
    if (e->st.locked)
        mlock(s, sizeof *s);
    return s;
}

void ce_stream_free(ce_stream *s)
{
    if (s->fd >= 0)
        close(s->fd);
    if (s->fd_rtcp >= 0)
        close(s->fd_rtcp);
    free(s);
}

int ce_is_set(const _Atomic int *flag)
{
    return atomic_load_explicit(flag, memory_order_acquire);
}

uint32_t ce_record_fill(ce_record *r)
{
    return atomic_load_explicit(&r->head, memory_order_acquire) -
           atomic_load_explicit(&r->tail, memory_order_relaxed);
}

void ce_record_take(ce_record *r, int16_t *out, uint32_t n)
{
    uint32_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed), at = tail % r->capacity;
    uint32_t k = r->capacity - at < n ? r->capacity - at : n;
    memcpy(out, r->ring + at * r->channels, k * r->channels * sizeof *out);
    memcpy(out + k * r->channels, r->ring, (n - k) * r->channels * sizeof *out);
    atomic_store_explicit(&r->tail, tail + n, memory_order_release);
}
