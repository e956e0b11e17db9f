/* What Python asks of the worker: streams and bridges come, change and go. */
#include "engine_impl.h"

#include <sys/epoll.h>

static void watch(ce_engine *e, int fd, ce_stream *s, uintptr_t tag)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = (uintptr_t)s | tag};
    if (fd >= 0 && epoll_ctl(e->epfd, EPOLL_CTL_ADD, fd, &ev) && tag == 2)
        s->readable = 0; /* a regular file or a write-only descriptor cannot be watched */
}

void ce_stream_watch_plain(ce_stream *s)
{
    watch(s->e, s->fd, s, 0);
}

static void stream_watch(ce_engine *e, ce_stream *s)
{
    if (s->kind == CE_RTP) {
        if (!e->uring || ce_uring_watch(s))
            ce_stream_watch_plain(s);
        ce_rtp_stamp(s->fd_rtcp, 1);
        watch(e, s->fd_rtcp, s, 1);
    } else if (s->kind == CE_DEVICE && s->readable && !s->failed) {
        watch(e, s->fd, s, 2);
    }
}

static void stream_open(ce_engine *e, ce_stream *s, const ce_rtp_config *c)
{
    ce_bucket_add(s, ce_choose_phase(e, c->codec == CE_G722));
    s->decoder_lane = s->encoder_lane = -1;
    s->tick_base = e->tick;
    if (s->kind == CE_RTP)
        ce_rtp_apply(s, c, 1);
    else
        ce_stream_set_codec(s, c->codec, c->wideband);
    if (s->kind == CE_DEVICE)
        ce_device_start(s);
    stream_watch(e, s);
    ce_steer_point(s);
    e->st.n_streams++;
    e->n_devices += s->kind == CE_DEVICE;
}

void ce_stream_gone(ce_stream *s)
{
    s->e->n_leaving--;
    if (s->leaving == CE_MOVES)
        atomic_fetch_add_explicit(&s->releases, 1, memory_order_release);
    else
        atomic_store_explicit(&s->dead, 1, memory_order_release);
}

/* Off this engine; `ce_stream_gone` as soon as the kernel has let go of it too. */
static void stream_leave(ce_engine *e, ce_stream *s, int how)
{
    ce_steer_let_go(s);
    if (s->bridge)
        ce_bridge_leave(s);
    if (s->kind == CE_RTP && how == CE_CLOSES)
        ce_rtp_bye(s);
    if (s->fd >= 0)
        epoll_ctl(e->epfd, EPOLL_CTL_DEL, s->fd, NULL);
    if (s->fd_rtcp >= 0)
        epoll_ctl(e->epfd, EPOLL_CTL_DEL, s->fd_rtcp, NULL);
    if (how == CE_MOVES) {
        ce_lane_save(&e->decoders, s->decoder_lane, s->parts.carried[0]);
        ce_lane_save(&e->encoders, s->encoder_lane, s->parts.carried[1]);
    } else {
        ce_play_end(s, 0);
        if (s->record)
            atomic_store(&s->record->done, 1);
        ce_tap_set(s, NULL);
        ce_srtp_set(&s->srtp_in, NULL);
        ce_srtp_set(&s->srtp_out, NULL);
        ce_echo_set(s, NULL);
    }
    ce_lane_give(&e->decoders, &s->decoder_lane);
    ce_lane_give(&e->encoders, &s->encoder_lane);
    ce_bucket_remove(s);
    e->st.n_streams--;
    e->n_devices -= s->kind == CE_DEVICE;
    e->n_leaving++;
    s->leaving = (uint8_t)how;
    if (s->armed)
        ce_uring_unwatch(s);
    else
        ce_stream_gone(s);
}

/* A stream another engine has let go of: all engines count the same ticks, so its timers and time
 * line go on. */
static void stream_adopt(ce_engine *e, ce_stream *s)
{
    s->e = e;
    s->leaving = 0;
    ce_bucket_add(s, ce_choose_phase(e, s->codec == CE_G722));
    if (s->codec == CE_G722) {
        s->decoder_lane = ce_lane_take(&e->decoders, s->phase, s->narrow);
        s->encoder_lane = ce_lane_take(&e->encoders, s->phase, s->narrow);
        ce_lane_load(&e->decoders, s->decoder_lane, s->parts.carried[0]);
        ce_lane_load(&e->encoders, s->encoder_lane, s->parts.carried[1]);
    }
    stream_watch(e, s);
    ce_steer_point(s);
    e->st.n_streams++;
    e->n_devices += s->kind == CE_DEVICE;
}

static void stream_configure(ce_stream *s, const ce_options *o, const cp_tone_pattern *tone)
{
    s->opt = *o;
    if (o->set_echo)
        ce_echo_set(s, o->echo);
    if (o->set_gain)
        cp_gain_init(&s->gain, &o->gain);
    cp_dtmf_rx_init(&s->dtmf);
    if (o->n_tones)
        cp_tone_rx_init(&s->parts.detectors->tones, tone, o->n_tones, -38.0f);
    if (o->detect_fsk)
        cp_fsk_rx_init(&s->parts.detectors->fsk,
                       o->detect_fsk == 2 ? CP_FSK_V23 : CP_FSK_BELL202, 8000);
    s->fsk_fill = 0;
}

static void execute(ce_engine *e, const ce_command *c)
{
    ce_stream *s = c->s;
    ce_bridge *b = c->b;
    if (e->kernel) { /* whatever it is: what the kernel was told may not be true any more */
        ce_kernel_take_back_all(s ? s->bridge : NULL);
        ce_kernel_take_back_all(b);
    }
    switch (c->type) {
    case CE_CMD_OPEN: stream_open(e, s, &c->u.rtp); return;
    case CE_CMD_CLOSE: stream_leave(e, s, CE_CLOSES); return;
    case CE_CMD_RELEASE: stream_leave(e, s, CE_MOVES); return;
    case CE_CMD_ADOPT: stream_adopt(e, s); return;
    case CE_CMD_UPDATE:
        ce_rtp_apply(s, &c->u.rtp, 0);
        ce_steer_point(s);
        break;
    case CE_CMD_CONFIGURE:
        stream_configure(s, &c->u.configure.options, c->u.configure.tone);
        break;
    case CE_CMD_SPEECH: ce_speech_watch(s, &c->u.speech); break;
    case CE_CMD_PLAY:
        ce_play_end(s, 0);
        s->play = c->u.play;
        if (s->play->rate == 16000 || s->play->rate == 8000)
            cp_resampler_init(&s->play->resampler, (int32_t)s->play->rate, (int32_t)s->rate);
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
    case CE_CMD_EXTENSION: s->ext_out = c->u.extension; return;
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

int ce_commands_wait(ce_engine *e)
{
    return atomic_load_explicit(&e->cmd_tail, memory_order_relaxed) !=
           atomic_load_explicit(&e->cmd_head, memory_order_acquire);
}

void ce_commands_drain(ce_engine *e)
{
    uint32_t tail = atomic_load_explicit(&e->cmd_tail, memory_order_relaxed);
    uint32_t head = atomic_load_explicit(&e->cmd_head, memory_order_acquire);
    while (tail != head) {
        ce_command *c = &e->commands[tail % CE_COMMANDS];
        if (c->type == CE_CMD_ADOPT) {
            /* What comes after may be about this stream. Two engines cannot wait for each other:
             * a release is always queued before its adoption. */
            if (atomic_load_explicit(&c->s->releases, memory_order_acquire) != c->u.move)
                return;
        }
        execute(e, c);
        atomic_store_explicit(&e->cmd_tail, ++tail, memory_order_release);
    }
}
