/* The worker thread, its rings and the phase buckets. */
#include "engine_impl.h"

#include <errno.h>
#include <poll.h>
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
    /* A wake costs some 15 us of CPU, as much as two or three packets, and what others left in the
     * caches: the thread sleeps as long as packets may wait, unless too many would. */
    MOST_A_WAKE = 64,
    MOST_STEERED = 112, /* larger batches are colder than they save */
    LONGEST_STRIDE = CE_PHASE_MS,
    FULL_PHASE = 128,     /* streams of one tick before another tick is used: a burst of some 1 ms */
    COMMANDS_WAKE = CE_COMMANDS / 4, /* do not let the ring fill up while the thread sleeps long */
    EPOLL_BATCH = 256,
};

static int64_t clock_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int64_t mono_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

/* ---- phases: as few of the 20 ticks as carry the streams, G.722 packed so that lanes fill ---- */

int ce_choose_phase(ce_engine *e, int g722)
{
    if (g722) {
        for (uint32_t g = 0; g < e->encoders.n_groups; g++)
            if (e->encoders.used[g] && e->encoders.used[g] != UINT32_MAX)
                return e->encoders.phase[g];
    }
    int best = 0;
    for (int p = 0; p < CE_FRAME_MS; p += CE_PHASE_MS) {
        if (e->bucket_load[p] < FULL_PHASE)
            return p;
        if (e->bucket_load[p] < e->bucket_load[best])
            best = p;
    }
    return best;
}

void ce_bucket_remove(ce_stream *s)
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

void ce_bucket_add(ce_stream *s, int phase)
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
    ce_bucket_remove(s);
    ce_bucket_add(s, phase);
    ce_lane_move(&s->e->decoders, &s->decoder_lane, phase, s->narrow);
    ce_lane_move(&s->e->encoders, &s->encoder_lane, phase, s->narrow);
}

static void set_rate(ce_stream *s)
{
    s->rate = s->wideband && !s->narrow ? 16000 : 8000;
    s->n_samples = (uint16_t)(s->rate / 50);
    cp_plc_init(&s->plc, (int32_t)s->rate);
    if (s->parts.out_plc)
        cp_plc_init(s->parts.out_plc, (int32_t)s->rate);
    if (s->rate == 16000)
        cp_resampler_init(&s->to_detect, 16000, 8000);
    else
        cp_resampler_init(&s->to_bridge, 8000, 16000);
    cp_resampler_init(&s->from_bridge, 16000, 8000);
    if (s->digit_started && s->te_pt == CE_NO_PT)
        ce_digit_tone(s);
}

void ce_stream_set_narrow(ce_stream *s, int narrow)
{
    ce_engine *e = s->e;
    if (s->narrow == narrow || ce_lane_move(&e->decoders, &s->decoder_lane, s->phase, narrow))
        return;
    if (ce_lane_move(&e->encoders, &s->encoder_lane, s->phase, narrow)) {
        ce_lane_move(&e->decoders, &s->decoder_lane, s->phase, s->narrow); /* where it was */
        return;
    }
    s->narrow = (uint8_t)narrow;
    set_rate(s);
}

void ce_stream_set_codec(ce_stream *s, int codec, int wideband)
{
    ce_engine *e = s->e;
    ce_lane_give(&e->decoders, &s->decoder_lane);
    ce_lane_give(&e->encoders, &s->encoder_lane);
    s->codec = (uint8_t)codec;
    s->wideband = (uint8_t)(wideband || codec == CE_G722);
    s->narrow = 0;
    s->bytes_per_tick = codec == CE_L16 || codec == CE_NONE ? 2 : 1;
    s->clock_ms = codec == CE_L16 && s->wideband ? 16 : 8;
    s->frame_ticks = (uint16_t)(s->clock_ms * CE_FRAME_MS);
    s->frame_bytes = (uint16_t)(s->frame_ticks * s->bytes_per_tick);
    if (codec == CE_G722) {
        s->decoder_lane = ce_lane_take(&e->decoders, s->phase, 0);
        s->encoder_lane = ce_lane_take(&e->encoders, s->phase, 0);
    }
    set_rate(s);
    s->jb.data = s->parts.jitter[s->bytes_per_tick == 2];
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

uint32_t ce_engine_room(ce_engine *e)
{
    return CE_COMMANDS - (atomic_load_explicit(&e->cmd_head, memory_order_relaxed) -
                          atomic_load_explicit(&e->cmd_tail, memory_order_acquire));
}

/* Room for what the command's stream will need; 0 when there is no memory. The worker looks at a
 * part only after a command that was queued when it was there. */
static int part(const ce_stream *s, void *place, size_t n)
{
    void **p = place;
    return *p || (*p = ce_room_new(n, s->locked)) != NULL;
}

static int common(ce_engine *e, ce_bridge *b)
{
    if (b->common)
        return 1;
    b->locked = e->st.locked;
    return (b->common = ce_room_new(sizeof *b->common, b->locked)) != NULL;
}

static int equip(ce_engine *e, const ce_command *c)
{
    ce_stream *s = c->s;
    int wide = c->u.rtp.codec == CE_L16 || c->u.rtp.codec == CE_NONE;
    const ce_options *o = &c->u.configure.options;
    switch (c->type) {
    case CE_CMD_OPEN:
        if (s->kind == CE_NULL)
            return 1;
        if (s->kind == CE_DEVICE)
            return part(s, &s->parts.jitter[1], CE_JB_BYTES) &&
                   part(s, &s->parts.out_ring, CE_TX_BYTES) &&
                   part(s, &s->parts.out_plc, sizeof *s->parts.out_plc);
        /* fall through */
    case CE_CMD_UPDATE:
        return part(s, &s->parts.jitter[wide], wide ? CE_JB_BYTES : CE_JB_TICKS) &&
               (c->u.rtp.ptime_ms == CE_FRAME_MS || part(s, &s->parts.tx_pack, CE_PACK_BYTES));
    case CE_CMD_CONFIGURE:
        return (!o->detect_dtmf ||
                part(s, &s->parts.pcm_delay, CE_MAX_SAMPLES * sizeof *s->parts.pcm_delay)) &&
               (!(o->n_tones | o->detect_fsk) ||
                part(s, &s->parts.detectors, sizeof *s->parts.detectors));
    case CE_CMD_RELEASE:
        return part(s, &s->parts.carried, 2 * sizeof *s->parts.carried);
    case CE_CMD_JOIN:
        if (c->u.join.speaks || !c->u.join.hears)
            return 1;
        /* fall through */
    case CE_CMD_FLOOR:
        return common(e, c->b);
    default:
        return 1;
    }
}

int ce_engine_push(ce_engine *e, const ce_command *c)
{
    uint32_t head = atomic_load_explicit(&e->cmd_head, memory_order_relaxed);
    if (head - atomic_load_explicit(&e->cmd_tail, memory_order_acquire) >= CE_COMMANDS ||
        !equip(e, c))
        return -1;
    e->commands[head % CE_COMMANDS] = *c;
    atomic_store_explicit(&e->cmd_head, head + 1, memory_order_seq_cst);
    int idle = atomic_load_explicit(&e->idle, memory_order_seq_cst);
    /* A stream between two threads hears nothing. */
    if (idle == CE_BLOCKED || (idle == CE_RESTS && (c->type == CE_CMD_RELEASE ||
                                                    c->type == CE_CMD_ADOPT ||
                                                    ce_engine_room(e) == CE_COMMANDS - COMMANDS_WAKE))) {
        uint64_t one = 1;
        if (write(e->wake_fd, &one, sizeof one) < 0) { /* full: it is awake already */
        }
    }
    return 0;
}

/* ---- the loop ---- */

static void drain_sockets(ce_engine *e)
{
    struct epoll_event ev[EPOLL_BATCH];
    int n;
    if (e->steer)
        ce_steer_drain(e);
    if (e->uring)
        ce_uring_drain(e);
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

static void sleep_until(int64_t due_ns)
{
    struct timespec t = {due_ns / 1000000000, due_ns % 1000000000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) {
    }
}

/* Longer than commands should wait in any case. */
static void rest_until(ce_engine *e, int64_t due_ns)
{
    atomic_store_explicit(&e->idle, CE_RESTS, memory_order_seq_cst);
    int64_t left = due_ns - mono_ns();
    if (left > 0 && !ce_commands_wait(e)) {
        struct pollfd p = {.fd = e->wake_fd, .events = POLLIN};
        struct timespec t = {left / 1000000000, left % 1000000000};
        uint64_t n;
        if (ppoll(&p, 1, &t, NULL) > 0 && read(e->wake_fd, &n, sizeof n) < 0) { /* EINTR */
        }
    }
    atomic_store_explicit(&e->idle, 0, memory_order_seq_cst);
}

/* Nothing is open: block on the wake descriptor instead of ticking. */
static void sleep_idle(ce_engine *e)
{
    atomic_store_explicit(&e->idle, CE_BLOCKED, memory_order_seq_cst);
    if (atomic_load_explicit(&e->cmd_head, memory_order_seq_cst) ==
            atomic_load_explicit(&e->cmd_tail, memory_order_relaxed) &&
        !atomic_load(&e->quit)) {
        uint64_t n;
        if (read(e->wake_fd, &n, sizeof n) < 0) { /* EINTR: look again */
        }
    }
    atomic_store_explicit(&e->idle, 0, memory_order_seq_cst);
    e->now_ns = mono_ns();
    e->tick = (uint64_t)(e->now_ns / TICK_NS);
}

/* Ticks to the next wake: 1, 2 or 4, never across a phase. Where every packet waits for its frame
 * anyway and the kernel says when it came, the next wake is that of the next frames. */
static int64_t stride(ce_engine *e)
{
    uint64_t packets = e->st.rx_packets - e->seen_packets, n = e->last_stride;
    e->seen_packets = e->st.rx_packets;
    int waits = !e->st.n_relays; /* in a jitter buffer, whenever it is taken from the socket */
    uint64_t most = e->steer ? MOST_STEERED : MOST_A_WAKE;
    if (packets > most && !waits && n > 1)
        n /= 2;
    else if ((packets < most / 2 || waits) && n < LONGEST_STRIDE)
        n *= 2;
    if (e->n_devices && n > 2)
        n = 2; /* a card's blocks wait for us at both ends */
    if (waits && e->uring && !e->n_devices && !e->n_leaving && !ce_commands_wait(e)) {
        int64_t far = 1;
        while (far < CE_FRAME_MS && !e->bucket[(e->tick + (uint64_t)far) % CE_FRAME_MS])
            far++;
        return far;
    }
    e->last_stride = (uint8_t)n;
    return (int64_t)(n - e->tick % n);
}

static void note_lateness(ce_engine *e, int64_t late)
{
    if (late > e->st.worst_late_ns)
        e->st.worst_late_ns = late;
    if (late > 2 * TICK_NS)
        e->st.late_ticks++;
    int bin = late < 1000 ? 0 : 64 - __builtin_clzll((uint64_t)late / 1000);
    e->st.late_bins[bin < CE_LATE_BINS ? bin : CE_LATE_BINS - 1]++;
}

static void *worker(void *arg)
{
    ce_engine *e = arg;
    pthread_setname_np(pthread_self(), "media");
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL); /* signals belong to the thread that runs asyncio */
    if (e->want_uring)
        ce_uring_open(e); /* only the thread that opens a ring may use it */
    e->st.uring = e->uring != NULL;
    e->now_ns = mono_ns();
    e->tick = (uint64_t)(e->now_ns / TICK_NS);
    e->last_stride = 1;
    while (!atomic_load_explicit(&e->quit, memory_order_acquire)) {
        uint64_t planned = 1;
        if (!e->st.n_streams && !e->st.n_bridges && !e->n_leaving && !ce_commands_wait(e)) {
            sleep_idle(e);
        } else {
            int64_t ticks = stride(e);
            int64_t due = ((int64_t)e->tick + ticks) * TICK_NS;
            planned = (uint64_t)ticks;
            if (ticks > LONGEST_STRIDE)
                rest_until(e, due);
            else
                sleep_until(due);
            e->now_ns = mono_ns();
            if (e->now_ns >= due)
                note_lateness(e, e->now_ns - due);
        }
        uint64_t until = (uint64_t)(e->now_ns / TICK_NS);
        if (until > e->tick + planned - 1 + CATCH_UP_TICKS) {
            e->st.skipped_ticks += until - e->tick - 1;
            e->tick = until - 1;
            e->flush_rx = 1; /* what queued up meanwhile is stale */
        }
        e->unix_ns = clock_ns(CLOCK_REALTIME) - e->now_ns;
        e->wakes++;
        ce_commands_drain(e);
        drain_sockets(e);
        e->flush_rx = 0;
        while (e->tick < until) {
            e->tick++;
            e->st.ticks++;
            ce_frames(e, (int)(e->tick % CE_FRAME_MS));
        }
        if (e->steer)
            ce_steer_flush(e);
        if (e->uring)
            ce_uring_flush(e);
        if (e->ev_posted) {
            uint64_t one = 1;
            e->ev_posted = 0;
            if (write(e->event_fd, &one, sizeof one) < 0) { /* counter full: reader is woken */
            }
        }
    }
    /* The ring lets go of its sockets before the thread ends, so that their ports are free. */
    for (int i = 0; i < 100 && (ce_commands_wait(e) || e->n_leaving); i++) {
        ce_commands_drain(e);
        if (e->uring)
            ce_uring_drain(e);
        if (ce_commands_wait(e)) /* for another engine's release */
            sleep_until(mono_ns() + TICK_NS);
    }
    ce_uring_close(e);
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

ce_engine *ce_engine_new(uint32_t max_streams, int realtime, int uring, const char *cname)
{
    ce_engine *e = ce_zeroed(sizeof *e);
    if (!e)
        return NULL;
    cp_g711_setup();
    cp_resample_setup();
    cp_dtmf_setup();
    e->epfd = e->event_fd = e->wake_fd = -1;
    e->want_realtime = realtime;
    e->want_uring = uring;
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
    e->frames = mmap(NULL, max_streams * sizeof *e->frames, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    e->mix_src = ce_zeroed(max_streams * sizeof *e->mix_src);
    e->mix_out = ce_zeroed(max_streams * sizeof *e->mix_out);
    e->mix_gain = ce_zeroed(max_streams * sizeof *e->mix_gain);
    e->mix_who = ce_zeroed(max_streams * sizeof *e->mix_who);
    uint32_t groups = (max_streams + CP_LANES - 1) / CP_LANES * 2 + 2 * CE_FRAME_MS / CE_PHASE_MS;
    e->dec_src = ce_zeroed(groups * CP_LANES * sizeof *e->dec_src);
    e->dec_out = ce_zeroed(groups * CP_LANES * sizeof *e->dec_out);
    e->enc_src = ce_zeroed(groups * CP_LANES * sizeof *e->enc_src);
    e->enc_out = ce_zeroed(groups * CP_LANES * sizeof *e->enc_out);
    e->dec_mask = ce_zeroed(groups * sizeof *e->dec_mask);
    e->enc_mask = ce_zeroed(groups * sizeof *e->enc_mask);
    if (e->frames == MAP_FAILED || !e->dec_src || !e->dec_out || !e->enc_src || !e->enc_out || !e->dec_mask || !e->enc_mask ||
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

static void close_descriptors(ce_engine *e)
{
    int *fds[] = {&e->epfd, &e->event_fd, &e->wake_fd};
    for (int i = 0; i < 3; i++) {
        if (*fds[i] >= 0)
            close(*fds[i]);
        *fds[i] = -1;
    }
}

/* Not at the end of the last who knows the engine: a box has so many descriptors. */
static void close_shared(ce_engine *e)
{
    ce_steer_share_free(e->steer);
    e->steer = NULL;
}

void ce_engine_stop(ce_engine *e)
{
    if (!e->st.running) {
        close_shared(e);
        return;
    }
    atomic_store_explicit(&e->quit, 1, memory_order_release);
    uint64_t one = 1;
    if (write(e->wake_fd, &one, sizeof one) < 0) { /* it is awake */
    }
    pthread_join(e->thread, NULL);
    e->st.running = 0;
    close_shared(e);
    close_descriptors(e);
}

void ce_engine_free(ce_engine *e)
{
    close_descriptors(e);
    ce_kernel_share_free(e->kernel);
    close_shared(e);
    ce_lanes_free(&e->decoders);
    ce_lanes_free(&e->encoders);
    if (e->frames && e->frames != MAP_FAILED)
        munmap(e->frames, e->due_capacity * sizeof *e->frames);
    free(e->commands), free(e->events), free(e->due);
    free(e->dec_src), free(e->dec_out), free(e->enc_src), free(e->enc_out);
    free(e->dec_mask), free(e->enc_mask);
    free(e->mix_src), free(e->mix_out), free(e->mix_gain), free(e->mix_who);
    free(e);
}

void ce_engine_stats_get(ce_engine *e, ce_engine_stats *out)
{
    *out = e->st;
    out->steer_dropped = ce_steer_dropped(e->steer);
    clockid_t c;
    struct timespec t;
    if (e->st.running && !pthread_getcpuclockid(e->thread, &c) && !clock_gettime(c, &t))
        out->cpu_s = (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

ce_stream *ce_stream_new(ce_engine *e, uint32_t id, int kind)
{
    ce_stream *s = ce_room_new(sizeof *s, e->st.locked);
    if (!s)
        return NULL;
    s->e = e;
    s->locked = e->st.locked;
    s->id = id;
    s->kind = (uint8_t)kind;
    s->fd = s->fd_rtcp = -1;
    s->te_pt = CE_NO_PT;
    s->opt.gain_in = s->opt.gain_out = 1.0f;
    return s;
}

void ce_stream_free(ce_stream *s)
{
    if (s->fd >= 0)
        close(s->fd);
    if (s->fd_rtcp >= 0)
        close(s->fd_rtcp);
    ce_parts *p = &s->parts;
    int locked = s->locked;
    ce_room_free(p->jitter[0], CE_JB_TICKS, locked);
    ce_room_free(p->jitter[1], CE_JB_BYTES, locked);
    ce_room_free(p->out_ring, CE_TX_BYTES, locked);
    ce_room_free(p->out_plc, sizeof *p->out_plc, locked);
    ce_room_free(p->tx_pack, CE_PACK_BYTES, locked);
    ce_room_free(p->detectors, sizeof *p->detectors, locked);
    ce_room_free(p->pcm_delay, CE_MAX_SAMPLES * sizeof *p->pcm_delay, locked);
    ce_room_free(p->carried, 2 * sizeof *p->carried, locked);
    ce_room_free(s, sizeof *s, locked);
}

ce_bridge *ce_bridge_new(void)
{
    return ce_zeroed(sizeof(ce_bridge));
}

void ce_bridge_free(ce_bridge *b)
{
    if (b)
        ce_room_free(b->common, sizeof *b->common, b->locked);
    free(b);
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
