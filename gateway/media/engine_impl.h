/* The real-time engine's data: one worker thread owns everything below `cp_engine`.
 *
 * Only the worker touches a stream or bridge after its OPEN command; the Python side reads
 * counters (64-bit, monotone, written by the worker alone) and waits for `dead` before it frees.
 * Internal frames are 20 ms; a stream's frame is due when tick % 20 == phase (one tick = 1 ms).
 */
#ifndef CP_ENGINE_IMPL_H
#define CP_ENGINE_IMPL_H

#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>

#include "engine_kernels.h"

enum { CP_PCMU, CP_PCMA, CP_G722, CP_L16, CP_NONE, CP_N_CODECS };
enum { CP_RTP, CP_DEVICE, CP_NULL };
enum {
    CP_FRAME_MS = 20,
    CP_MAX_SAMPLES = 320,  /* 20 ms at 16 kHz */
    CP_MAX_PAYLOAD = 640,  /* 20 ms of L16 at 16 kHz */
    CP_JB_TICKS = 4096,    /* RTP clock ticks the jitter ring holds */
    CP_JB_BYTES = CP_JB_TICKS * 2,
    CP_TX_BYTES = 4096,
    CP_RX_BYTES = 2048,
    CP_RX_BURST = 16,
    CP_MAX_DIGITS = 64,
    CP_MAX_SEGMENTS = 24,
    CP_MAX_DETECT = 8,
    CP_COMMANDS = 1024,
    CP_EVENTS = 2048,
    CP_EVENT_BYTES = 272,
    CP_NO_PT = 255,
};

typedef union {
    struct sockaddr sa;
    struct sockaddr_in in4;
    struct sockaddr_in6 in6;
} cp_addr;

typedef struct cp_stream cp_stream;
typedef struct cp_bridge cp_bridge;
typedef struct cp_engine cp_engine;

/* ---- what Python asks for ---- */

typedef struct {
    cp_addr remote;
    uint8_t remote_set, codec, pt, te_pt, ptime_ms, tx, rx, symmetric, anywhere, wideband;
    uint32_t latch_ms, timeout_ms, jitter_min_ms, jitter_max_ms;
} cp_rtp_config;

typedef struct {
    uint8_t detect_dtmf, mute_dtmf, detect_fsk; /* detect_fsk: 0 off, 1 bell202, 2 v23 */
    uint8_t n_tones;
    float gain_in, gain_out; /* linear */
    struct cp_tone_pattern {
        uint8_t id, n_freqs, n_cadence;
        float freq[3];
        uint16_t cadence_ms[8]; /* on, off, on, off...; none: continuous */
    } tone[CP_MAX_DETECT];
} cp_options;

typedef struct {
    float freq[4], amp[4]; /* Hz, linear peak in sample units */
    uint8_t n, am;         /* am: freq[1] modulates freq[0] */
    uint32_t ms;           /* 0: for ever */
} cp_segment;

typedef struct cp_play {
    uint32_t id;
    uint8_t is_tone, repeat_tone;
    uint16_t n_segments, loop_from;
    cp_segment seg[CP_MAX_SEGMENTS];
    const int16_t *pcm;
    uint32_t n_samples, rate, gap_samples, times; /* times 0: for ever */
    /* the worker's */
    uint32_t at, gap_at, done_times;
    uint16_t seg_at;
    double phase[4];
    _Atomic int done; /* set last: Python may free it */
} cp_play;

typedef struct cp_record {
    int16_t *ring; /* frames of `channels` samples */
    uint32_t capacity;
    uint8_t channels;
    uint32_t rate;
    _Atomic uint32_t head, tail;
    _Atomic uint64_t dropped;
    _Atomic int done;
} cp_record;

/* ---- streams ---- */

typedef struct {
    uint8_t started;
    uint32_t play, end, jump, min_depth;
    uint16_t window;
    uint64_t have[CP_JB_TICKS / 64];
    uint8_t data[CP_JB_BYTES];
} cp_jitter;

typedef struct {
    uint64_t rx_packets, rx_octets, tx_packets, tx_octets;
    uint64_t refused, late, duplicate, concealed, dropped_blocks, slips;
    uint64_t expected, unique;
    double energy_in, energy_out;
    uint64_t n_in, n_out;
    uint64_t silent_frames;
    uint32_t jitter_q4, buffer_ms; /* RFC 3550 A.8 scaled by 16, in RTP ticks */
    uint8_t remote_fraction_lost, have_remote, have_rtt;
    uint32_t rtt_us;
    cp_addr source;
} cp_counters;

struct cp_stream {
    cp_engine *e;
    uint32_t id;
    uint8_t kind, codec, pt, te_pt, ptime_ms, tx, rx, wideband;
    uint8_t phase, opened, failed;
    int fd, fd_rtcp;
    uint32_t rate, clock_ms; /* audio rate in Hz; RTP ticks per ms */
    uint16_t n_samples, frame_bytes, frame_ticks, bytes_per_tick;
    cp_stream *prev, *next, *bridge_prev, *bridge_next;
    cp_bridge *bridge;
    uint8_t speaks, hears;
    float gain_bridge;
    cp_counters c;
    /* where from, where to */
    cp_addr remote, signalled;
    socklen_t addr_len;
    uint8_t remote_set, symmetric, anywhere, latched;
    uint32_t latch_ms, timeout_ms;
    uint64_t latch_until, last_rx_tick;
    uint8_t rx_seen, timed_out;
    /* receive */
    uint32_t ssrc_in, probation_ssrc, transit;
    uint16_t max_seq, base_seq, probation_seq, bad_seq;
    uint8_t has_bad_seq, has_probation;
    uint32_t cycles;
    uint64_t seq_window;
    uint64_t expected_base;
    uint32_t jitter_min, jitter_max, target; /* RTP ticks */
    /* RFC 4733 in */
    uint32_t te_ts, te_duration;
    uint8_t te_active, te_event, te_known;
    uint64_t te_tick;
    /* transmit */
    uint32_t ssrc_out, ts_base, last_ts;
    uint64_t tick_base;
    uint16_t seq_out;
    uint8_t sent_any, gap;
    uint16_t tx_fill;
    uint32_t tx_pack_ts;
    uint8_t tx_pack[CP_MAX_PAYLOAD * 4];
    /* relay (this stream is the receiver of the packets) */
    uint8_t relay_anchored, relay_sample;
    uint32_t relay_ts_off;
    uint16_t relay_seq_off;
    /* RTCP */
    uint64_t rtcp_due;
    uint32_t lsr;
    uint64_t lsr_tick;
    uint32_t prior_expected, prior_received;
    uint8_t bye_seen;
    /* devices */
    uint8_t paced, readable, writable;
    uint16_t block_bytes, partial_fill, out_partial;
    uint8_t in_running;
    uint32_t in_head, in_tail, out_head, out_tail;
    uint8_t out_ring[CP_TX_BYTES];
    /* processing */
    cp_options opt;
    cp_kernels k;
    uint8_t in_state; /* 0 nothing, 1 a frame, 2 lost */
    uint8_t mute_frames, heard;
    int16_t pcm_in[CP_MAX_SAMPLES], pcm_delay[CP_MAX_SAMPLES], pcm_out[CP_MAX_SAMPLES];
    int16_t pcm_mix[CP_MAX_SAMPLES]; /* pcm_in at the bridge's rate */
    uint8_t payload_in[CP_MAX_PAYLOAD], payload_out[CP_MAX_PAYLOAD];
    const uint8_t *send_payload;
    /* plays, digits, recording */
    cp_play *play;
    char digits[CP_MAX_DIGITS];
    uint16_t digit_on[CP_MAX_DIGITS], digit_off[CP_MAX_DIGITS];
    uint8_t n_digits;
    uint16_t digit_ms;
    uint8_t digit_phase, digit_ends, digit_inband;
    uint32_t digit_ts;
    double digit_ph[2];
    cp_record *record;
    _Atomic int dead;
    cp_jitter jb; /* last: the biggest; device streams use jb.data as their input ring */
};

struct cp_bridge {
    cp_bridge *prev, *next;
    cp_stream *members;
    uint32_t n_members, rate;
    uint8_t phase, relay, pass_digits, floor_mode;
    cp_stream *floor;
    int32_t sum[CP_MAX_SAMPLES];
    /* what listeners who say nothing hear: encoded once per codec */
    uint8_t common_done[CP_N_CODECS * 2];
    int16_t common_pcm[2][CP_MAX_SAMPLES];
    uint8_t common_pcm_done[2];
    uint8_t common_payload[CP_N_CODECS * 2][CP_MAX_PAYLOAD];
    cp_bridge_kernels k;
    _Atomic int dead;
};

/* ---- rings ---- */

enum {
    CP_CMD_OPEN, CP_CMD_CLOSE, CP_CMD_UPDATE, CP_CMD_CONFIGURE, CP_CMD_PLAY, CP_CMD_STOP_PLAY,
    CP_CMD_DIGITS, CP_CMD_RECORD, CP_CMD_STOP_RECORD, CP_CMD_BRIDGE_OPEN, CP_CMD_BRIDGE_CLOSE,
    CP_CMD_JOIN, CP_CMD_LEAVE, CP_CMD_FLOOR,
};

typedef struct {
    uint8_t type;
    cp_stream *s;
    cp_bridge *b;
    union {
        cp_rtp_config rtp;
        cp_options options;
        cp_play *play;
        cp_record *record;
        struct { char digits[CP_MAX_DIGITS]; uint8_t n; uint16_t on_ms, off_ms; } digits;
        struct { uint8_t speaks, hears; float gain; } join;
    } u;
} cp_command;

enum {
    CP_EV_DIGIT = 1, CP_EV_TONE, CP_EV_FSK, CP_EV_STARTED, CP_EV_TIMEOUT, CP_EV_PLAY_ENDED,
    CP_EV_DEVICE_FAILED, CP_EV_BYE,
};

typedef struct {
    uint8_t type;
    uint32_t stream;
    int32_t a, b, c;
    uint16_t n_data;
    uint8_t data[CP_EVENT_BYTES];
} cp_event;

typedef struct {
    uint64_t ticks, late_ticks, skipped_ticks, dropped_events, send_errors;
    uint64_t rx_packets, tx_packets;
    int64_t worst_late_ns;
    uint32_t n_streams, n_bridges, n_relays;
    uint8_t realtime, locked, running;
    double cpu_s;
} cp_engine_stats;

struct cp_engine {
    pthread_t thread;
    int epfd, event_fd, wake_fd;
    _Atomic int quit, idle;
    int want_realtime;
    uint64_t tick;
    int64_t t0_ns, now_ns;
    cp_stream *bucket[CP_FRAME_MS];
    cp_bridge *bridges[CP_FRAME_MS];
    uint16_t bucket_load[CP_FRAME_MS];
    _Atomic uint32_t cmd_head, cmd_tail, ev_head, ev_tail;
    cp_command *commands;
    cp_event *events;
    uint8_t ev_posted, flush_rx;
    cp_engine_stats st;
    uint64_t rng;
    char cname[64];
    uint8_t rx_buf[CP_RX_BURST][CP_RX_BYTES];
    /* scratch of one frame tick: every stream due, in codec batches */
    cp_stream **due;
    uint32_t due_capacity, n_due;
    cp_batch batch;
};

/* engine_impl.c: thread, rings; called by Python unless said otherwise */
cp_engine *cp_engine_new(uint32_t max_streams, int realtime, const char *cname);
int cp_engine_start(cp_engine *e); /* 0 or an errno */
void cp_engine_stop(cp_engine *e); /* joins the thread */
void cp_engine_free(cp_engine *e);
int cp_engine_push(cp_engine *e, const cp_command *c); /* 0, or -1 when the ring is full */
int cp_engine_pop(cp_engine *e, cp_event *out);        /* 1 when there was one */
void cp_engine_stats_get(cp_engine *e, cp_engine_stats *out);
cp_stream *cp_stream_new(cp_engine *e, uint32_t id, int kind);
void cp_stream_free(cp_stream *s);
uint64_t cp_engine_random(cp_engine *e);
/* the worker's */
void cp_post(cp_engine *e, int type, cp_stream *s, int32_t a, int32_t b, int32_t c,
             const void *data, int n);
void cp_stream_set_codec(cp_stream *s, int codec, int wideband);

/* rtp_impl.c */
void cp_rtp_apply(cp_stream *s, const cp_rtp_config *c, int first);
void cp_rtp_readable(cp_engine *e, cp_stream *s);
void cp_rtcp_readable(cp_engine *e, cp_stream *s);
void cp_rtp_fetch(cp_stream *s);
void cp_rtp_send_frame(cp_stream *s, const uint8_t *payload);
void cp_rtp_skip_frame(cp_stream *s);
void cp_rtp_send_event(cp_stream *s, int event, int end, uint32_t duration, uint32_t ts, int marker);
void cp_rtp_timers(cp_stream *s);
void cp_rtp_bye(cp_stream *s);
uint32_t cp_rtp_now_ts(const cp_stream *s);

/* device_impl.c */
void cp_device_readable(cp_engine *e, cp_stream *s);
void cp_device_fetch(cp_stream *s);
void cp_device_send(cp_stream *s, const uint8_t *payload);

/* play_impl.c */
void cp_play_end(cp_stream *s, int report);
int cp_play_frame(cp_stream *s, int16_t *out); /* 1 when the stream's play filled `out` */
int cp_digit_frame(cp_stream *s, int16_t *out); /* 0 none, 1 `out` filled, 2 sent as RFC 4733 */
void cp_digits_queue(cp_stream *s, const char *digits, int n, int on_ms, int off_ms);
void cp_record_frame(cp_stream *s, const int16_t *in, const int16_t *out);

/* bridge_impl.c */
void cp_bridge_join(cp_bridge *b, cp_stream *s);
void cp_bridge_leave(cp_stream *s);
void cp_bridge_replan(cp_bridge *b);
void cp_digit_heard(cp_stream *s, char digit, int duration_ms, int inband);
void cp_frames(cp_engine *e, int phase);
int cp_relay_to(cp_stream *s, cp_stream **peer);

#endif
