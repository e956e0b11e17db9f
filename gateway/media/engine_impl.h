/* The real-time engine's data: one worker thread owns everything below `ce_engine`.
 *
 * Only the worker touches a stream or bridge after its OPEN command; the Python side reads
 * counters (64-bit, monotone, written by the worker alone) and waits for `dead` before it frees.
 * Internal frames are 20 ms; a stream's frame is due when tick % 20 == phase (one tick = 1 ms of
 * CLOCK_MONOTONIC, the same for all engines).
 *
 * Where a stream's audio and packets can be changed on their way: packets in at the head of
 * `ce_rtp_packet` (and `rtcp_receive`), packets out in `send_packet` (and `rtcp_send`): there SRTP
 * is taken off and put on; samples
 * in at `frame_in`, samples out at the end of `frame_out` before they are encoded.
 */
#ifndef CE_ENGINE_IMPL_H
#define CE_ENGINE_IMPL_H

#include <linux/bpf.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>

#include "cn_impl.h"
#include "codec.h"
#include "dtmf_impl.h"
#include "echo_impl.h"
#include "fsk_impl.h"
#include "g711_impl.h"
#include "g722_impl.h"
#include "gain_impl.h"
#include "mix_impl.h"
#include "plc_impl.h"
#include "resample_impl.h"
#include "rtp_impl.h"
#include "tone_impl.h"
#include "xr_impl.h"

enum { CE_PCMU, CE_PCMA, CE_G722, CE_L16, CE_NONE, CE_N_CODECS };
enum { CE_RTP, CE_DEVICE, CE_NULL };
enum { CE_SUITE_SHA1_80, CE_SUITE_SHA1_32, CE_SUITE_GCM_128, CE_SUITE_GCM_256, CE_N_SUITES };
enum {
    CE_FRAME_MS = 20,
    CE_PHASE_MS = 4, /* phases are multiples of it, so that a wake every 4 ms meets all of them */
    CE_MAX_SAMPLES = 320,  /* 20 ms at 16 kHz */
    CE_MAX_PAYLOAD = 640,  /* 20 ms of L16 at 16 kHz */
    CE_JB_TICKS = 4096,    /* RTP clock ticks the jitter ring holds */
    CE_JB_BYTES = CE_JB_TICKS * 2,
    CE_TX_BYTES = 4096,
    CE_PACK_BYTES = CE_MAX_PAYLOAD * 4,
    CE_RX_BYTES = 2048,
    CE_RX_BURST = 16,
    CE_MAX_DIGITS = 64,
    CE_COMMANDS = 1024,
    CE_EVENTS = 2048,
    CE_EVENT_BYTES = 272,
    CE_NO_PT = 255,
    CE_PT_COMFORT_NOISE = 13, /* RFC 3551 table 4 */
    CE_EXT_OCTETS = 64,       /* of a header extension's data */
    CE_EXT_PACKET = 12 + 4 + CE_EXT_OCTETS + CE_MAX_PAYLOAD * 4,
    CE_SPEECH_FRAMES = 50, /* of 20 ms: the longest echo that is told from speech */
    CE_LATE_BINS = 16,
    CE_SRTP_KEY = 46, /* octets: the longest master key with its salt */
    CE_LANE_WORDS = 160, /* the most a G.722 coder keeps for one channel, in 16-bit words */
    CE_WINDOWS = 16,       /* of a stream's clock measurement */
    CE_ECHO_TAPE = 8192,   /* samples sent that are kept: a second */
    CE_ECHO_COARSE = 2048, /* the same at a quarter of the rate */
    CE_ECHO_LAGS = 1024,   /* of them, the delays that are tried: half a second */
    CE_ECHO_FRAME = 40,    /* 20 ms of them */
    CE_TE_SILENT_MS = 120, /* RFC 4733 2.5.1.4: an end was lost after a few missing updates */
};

typedef union {
    struct sockaddr sa;
    struct sockaddr_in in4;
    struct sockaddr_in6 in6;
} ce_addr;

typedef struct ce_stream ce_stream;
typedef struct ce_bridge ce_bridge;
typedef struct ce_engine ce_engine;
typedef struct ce_uring ce_uring;
typedef struct ce_srtp ce_srtp;
typedef struct ce_echo ce_echo;
typedef struct ce_kernel ce_kernel;
typedef struct ce_kernel_share ce_kernel_share;
typedef struct ce_steer ce_steer;
typedef struct ce_steer_share ce_steer_share;

/* ---- what Python asks for ---- */

typedef struct {
    ce_addr remote;
    uint8_t remote_set, codec, pt, te_pt, ptime_ms, tx, rx, symmetric, anywhere, wideband;
    uint8_t follow; /* CE_FOLLOW_.. */
    uint32_t latch_ms, timeout_ms, jitter_min_ms, jitter_max_ms;
    uint8_t xr_metrics, xr_round_trip; /* RFC 3611, as agreed */
    uint8_t pass_ext;                  /* a relay passes header extensions on to it */
    uint8_t cn_pt, cn_send;            /* RFC 3389: agreed type; in place of our own silence */
    uint8_t set_srtp_in, set_srtp_out; /* else they stay: a key goes on with its packet count */
    ce_srtp *srtp_in, *srtp_out;       /* NULL: in the clear */
} ce_rtp_config;

typedef struct {
    uint8_t detect_dtmf, mute_dtmf, detect_fsk; /* detect_fsk: 0 off, 1 bell202, 2 v23 */
    uint8_t digits_beside; /* its far end is told the other side's digits, and hears none */
    uint8_t n_tones;
    uint8_t set_echo; /* else it stays, with what it has learned */
    ce_echo *echo;    /* NULL: none */
    float gain_in, gain_out; /* linear */
    uint8_t set_gain; /* else it goes on */
    cp_gain_config gain;
} ce_options;

typedef struct {
    uint8_t on, n_echo; /* n_echo: frames after which what was sent has died away */
    uint16_t attack_ms, hang_ms;
    float threshold;  /* mean square */
    float echo_ratio; /* echo to sent, in power */
    uint32_t serial;  /* given back with each event: an older one is out of date */
} ce_speech_config;

typedef struct ce_play {
    uint32_t id;
    uint8_t is_tone;
    cp_tone_tx tone;
    const int16_t *pcm;
    uint32_t n_samples, rate, gap_samples, times; /* times 0: for ever */
    /* the worker's */
    uint32_t at, gap_at, done_times;
    cp_resampler resampler; /* where the stream has another rate */
    _Atomic int done; /* set last: Python may free it */
} ce_play;

typedef struct ce_record {
    int16_t *ring; /* frames of `channels` samples */
    uint32_t capacity;
    uint8_t channels;
    uint32_t rate;
    _Atomic uint32_t head, tail;
    _Atomic uint64_t dropped;
    _Atomic int done;
} ce_record;

enum { CE_TAP_SENT = 1, CE_TAP_RTCP = 2 };

typedef struct {
    int64_t mono_ns;
    uint16_t n; /* octets that follow */
    uint8_t flags, family;
    uint16_t port, reserved;
    uint8_t ip[16]; /* of the peer */
} ce_tap_packet;

typedef struct ce_tap {
    uint8_t *ring;
    uint32_t capacity; /* octets, a power of two */
    _Atomic uint32_t head, tail;
    uint8_t clear; /* of an encrypted stream: what was decrypted instead of what is on the wire */
    _Atomic uint64_t dropped; /* packets */
    _Atomic int done;
} ce_tap;

/* ---- streams ---- */

/* One direction's key; `done` when the worker has let go of it. */
struct ce_srtp {
    void *session;
    uint32_t n_ssrcs, ssrc[64];
    _Atomic int done;
};

/* Sums of squares over about a second of echo without near-end speech. */
typedef struct {
    uint8_t is_found;
    uint16_t delay_ms;
    double sent, received, clean, estimate;
    double passed;   /* what went on to the other side, suppressed or not */
    uint64_t blocks; /* of 10 ms */
    uint64_t audible; /* of them, with too little taken away */
} ce_echo_figures;

struct ce_echo {
    cp_echo *canceller;
    int32_t taps;
    uint8_t suppresses, is_found;
    uint32_t written, heard; /* samples, on the time lines of what is sent and received */
    uint32_t tail_seen;      /* of a device's ring */
    int32_t base;            /* newest sent sample against the received frame, at the beginning */
    int32_t offset;          /* a received sample's first echo is of the sent one so much later */
    uint32_t next;           /* sample sent that the canceller expects */
    int32_t delay, best, seen, steady, moved;
    float weight, received_last, coarse_sum, coarse_last;
    float gain, noise, expected;
    uint32_t random;
    float score[CE_ECHO_LAGS], coarse[CE_ECHO_COARSE];
    int16_t tape[CE_ECHO_TAPE];
    _Atomic int done;
};

typedef struct {
    uint8_t started;
    uint8_t cut; /* the next frame does not follow on the last one */
    uint16_t window;
    uint32_t play, end, first, jump, min_depth;
    uint8_t *data; /* CE_JB_TICKS of the codec's octets */
    uint64_t have[CE_JB_TICKS / 64];
} ce_jitter;

typedef struct {
    uint64_t elsewhere, wrong_type, send_errors;
    uint64_t frames, active_frames, clipped_frames, flat_frames;
    uint64_t event_digits, inband_digits;
    double active_squares, loudest, last_mean; /* means of frames' squares */
    ce_addr last_from;
    int32_t send_errno;
    uint8_t last_type, trail;
    /* the sender's clock against ours */
    uint32_t last_ts, n_windows, window_ms;
    int64_t begun_us, media_us, last_transit, window_begun_us;
    int64_t best_us[CE_WINDOWS], window_us[CE_WINDOWS];
} ce_health;

typedef struct {
    uint64_t rx_packets, rx_octets, tx_packets, tx_octets;
    uint64_t refused, late, duplicate, concealed, dropped_blocks, slips, dropped_digits;
    uint64_t srtp_failed, srtp_replayed;
    uint64_t ext_received, ext_refused, moved;
    uint64_t kernel_packets; /* of those received: relayed by the kernel */
    int64_t expected, lost;
    cp_level level_in, level_out;
    uint64_t silent_frames;
    double jitter; /* RTP ticks */
    uint32_t buffer_ms;
    uint8_t remote_fraction_lost, have_remote, have_rtt;
    uint32_t rtt_us;
    ce_addr source;
    ce_health health;
    ce_echo_figures echo;
} ce_counters;

typedef struct { /* what tells whether speech arrives: sums since the stream was opened */
    uint64_t arrived; /* packets or blocks */
    uint64_t frames, active, clipped;
    uint64_t n_samples;
    double squares;
    int noise;    /* comfort noise stands for silence */
    int expected; /* the far end may send */
} ce_meter;

typedef struct { /* extended reports; see engine_xr.c */
    uint8_t metrics, round_trip; /* what we send */
    uint8_t asked, have_there, known;
    cp_bursts bursts;
    uint64_t discarded; /* like seq_window: came, and could not be played */
    uint32_t asked_ssrc, asked_at;
    int64_t asked_ns;
    cp_voip_metrics there; /* what the far end says of us */
} ce_xr;

typedef struct { /* an RTP header extension */
    uint8_t set, n;
    uint16_t profile;
    uint8_t data[CE_EXT_OCTETS];
} ce_extension;

typedef struct { /* comfort noise; see engine_cn.c */
    uint8_t pt, send;
    uint8_t active; /* received: noise until audio comes that is newer than `ts` */
    uint8_t told, level; /* sent */
    uint16_t quiet_ms, since_ms;
    uint32_t ts;
    uint64_t alive_tick; /* a report of its sender while it has nothing to say */
    cp_cn_noise noise;
    cp_cn_meter meter;
} ce_cn;

typedef struct {
    uint8_t speaking;
    uint32_t ms;
} ce_speech_side;

typedef struct {
    ce_speech_config config;
    ce_speech_side side[2]; /* received, sent */
    float sent[CE_SPEECH_FRAMES]; /* mean square of the last frames */
    uint8_t at;
} ce_speech;

typedef struct { /* the packets received are relayed in the kernel; see engine_kernel.c */
    uint8_t on;
    uint32_t at, place[3];
    uint64_t state, packets, octets; /* as they were read last */
    uint64_t after;                  /* tick of the next attempt */
} ce_kernel_side;

typedef struct { /* its packets come by a shared socket and leave by another; see engine_steer.c */
    uint8_t in, out, tos, ttl;
    uint16_t own_port; /* network byte order, as `own` */
    uint32_t own;
} ce_steer_side;

/* What looks for call-progress tones and caller ID. */
typedef struct {
    cp_tone_rx tones;
    cp_fsk_rx fsk;
    uint8_t fsk_data[CE_EVENT_BYTES];
} ce_detectors;

/* What not every stream needs. `ce_engine_push` makes each part before it queues the command
 * that first uses it, once; the stream keeps it to its end, so that the worker never allocates. */
typedef struct {
    uint8_t *jitter[2];      /* CE_JB_TICKS of 1 and of 2 octets; of a device: its input ring */
    uint8_t *out_ring;       /* CE_TX_BYTES: devices */
    cp_plc *out_plc;         /* devices */
    uint8_t *tx_pack;        /* CE_PACK_BYTES: packets of another length than a frame's */
    ce_detectors *detectors;
    int16_t *pcm_delay; /* CE_MAX_SAMPLES: what keeps digits out of what the others hear */
    int16_t (*carried)[CE_LANE_WORDS]; /* the lanes' state between two engines: 2 */
} ce_parts;

/* One stream's samples during one frame tick. The frames of a tick lie side by side and are used
 * again by the next one, so that they stay in the cache. */
typedef struct {
    int16_t pcm_in[CE_MAX_SAMPLES], pcm_out[CE_MAX_SAMPLES];
    int16_t pcm_mix[CE_MAX_SAMPLES], pcm_bus[CE_MAX_SAMPLES]; /* to and from the bridge, its rate */
    uint8_t payload_in[CE_MAX_PAYLOAD], payload_out[CE_MAX_PAYLOAD];
} ce_frame;

struct ce_stream {
    ce_engine *e;
    uint32_t id;
    uint8_t kind, codec, pt, te_pt, ptime_ms, tx, rx, wideband;
    uint8_t relayed; /* as its bridge, which is not in the cache */
    uint8_t narrow; /* G.722's lower band alone, at 8 kHz: nobody it talks to has more */
    uint8_t phase, failed;
    uint8_t armed, leaving; /* the ring receives for it; CE_CLOSES or CE_MOVES */
    _Atomic uint32_t releases; /* by engines that had it; adoption n waits for release n */
    uint32_t moves;            /* Python's count of them */
    int fd, fd_rtcp;
    uint32_t rate, clock_ms; /* audio rate in Hz; RTP ticks per ms */
    uint16_t n_samples, frame_bytes, frame_ticks, bytes_per_tick;
    ce_stream *prev, *next, *bridge_prev, *bridge_next;
    ce_bridge *bridge;
    uint8_t speaks, hears;
    float gain_bridge;
    ce_counters c;
    /* where from, where to */
    ce_addr remote, signalled;
    socklen_t addr_len;
    uint8_t remote_set, symmetric, anywhere, latched, follow;
    struct {
        ce_addr from;
        uint16_t seq;
        uint8_t n; /* packets in sequence from there */
    } moving;
    uint32_t latch_ms, timeout_ms;
    uint64_t latch_until, last_rx_tick, ready_wake;
    uint8_t rx_seen, timed_out;
    /* receive */
    cp_rtp_source source;
    uint32_t probation_ssrc;
    uint16_t probation_seq, window_seq;
    uint8_t has_probation;
    uint8_t other_pt, n_other; /* another type than agreed, and so many of it in a row, */
    uint64_t other_tick, other_told; /* since then; when that was told last */
    uint64_t seq_window; /* bit i: window_seq - i has arrived */
    int64_t expected_before, lost_before; /* of earlier SSRCs */
    uint32_t jitter_min, jitter_max, target; /* RTP ticks */
    /* RFC 4733 in */
    uint32_t te_ts, te_before, te_duration; /* before: of the segments that have ended */
    uint8_t te_active, te_event, te_known;
    uint64_t te_tick;
    /* transmit */
    uint32_t ssrc_out, ts_base, last_ts;
    uint64_t tick_base;
    uint16_t seq_out;
    uint8_t sent_any, gap;
    uint16_t tx_fill;
    uint32_t tx_pack_ts;
    /* relay (this stream is the receiver of the packets) */
    uint8_t relay_anchored, relay_sample;
    uint32_t relay_ts_off;
    uint16_t relay_seq_off;
    /* RTCP */
    uint64_t rtcp_due;
    uint8_t bye_seen;
    ce_kernel_side kernel;
    ce_steer_side steer;
    ce_tap *tap;
    ce_srtp *srtp_in, *srtp_out; /* NULL: in the clear */
    const ce_extension *ext_pass; /* of the packet that is being relayed to it */
    ce_extension ext_out;
    ce_xr xr;
    ce_cn cn;
    /* header extensions */
    uint8_t pass_ext;
    _Atomic uint32_t ext_serial;
    ce_extension ext_in;
    /* devices */
    uint8_t paced, readable, writable;
    uint16_t block_bytes, since_write, starved;
    uint8_t in_running;
    uint32_t in_head, in_tail, out_head, out_tail;
    /* plays, digits, recording */
    ce_play *play;
    ce_record *record;
    ce_echo *echo;
    cp_gain gain;
    uint8_t n_digits, digit_started, digit_ends;
    uint16_t digit_ms;
    uint32_t digit_ts;
    _Atomic int dead;
    /* processing; what every frame touches stands together, what few streams use stands last */
    uint8_t in_state; /* 0 nothing, 1 a frame, 2 lost, 3 comfort noise */
    uint8_t muting, from_common;
    int16_t decoder_lane, encoder_lane; /* G.722; -1: none */
    const int16_t *bus;                 /* what the others say, at the bridge's rate */
    const uint8_t *coded, *send_payload; /* the frame received, sent */
    ce_speech speech;
    ce_options opt;
    cp_plc plc;
    union {
        cp_resampler to_bridge; /* of 8 kHz */
        cp_resampler to_detect; /* of 16 kHz */
    };
    cp_resampler from_bridge;
    _Alignas(CP_ALIGN) ce_frame *f; /* in one line with the head of: */
    ce_jitter jb;
    cp_dtmf_rx dtmf;
    cp_dtmf_tx dtmf_tx;
    uint16_t fsk_fill, fsk_idle_ms;
    char digits[CE_MAX_DIGITS];
    uint16_t digit_on[CE_MAX_DIGITS], digit_off[CE_MAX_DIGITS];
    uint8_t locked; /* it and its parts */
    ce_parts parts;
};

/* What one packet or frame touches, fetched while another one is at work: with some hundred calls
 * no stream is in the cache any more when its next packet comes. */
static inline void ce_prefetch(const ce_stream *s)
{
    uintptr_t at = (uintptr_t)s; /* no pointer: there may be no stream */
    for (size_t i = 0; i < offsetof(ce_stream, c.health.best_us); i += 64)
        __builtin_prefetch((const void *)(at + i), 1);
    for (size_t i = offsetof(ce_stream, remote); i < offsetof(ce_stream, cn.noise); i += 64)
        __builtin_prefetch((const void *)(at + i), 1);
    __builtin_prefetch((const void *)(at + offsetof(ce_stream, jb)), 1);
}

/* The same of the jitter buffer, around the RTP time `at`. */
static inline void ce_jitter_prefetch(const ce_jitter *j, uint32_t at)
{
    if (!j->started)
        return;
    const uint8_t *octets = j->data + at % CE_JB_TICKS; /* of L16 it is the wrong place */
    __builtin_prefetch(&j->have[at % CE_JB_TICKS / 64], 1);
    for (int i = 0; i < CE_MAX_SAMPLES / 2; i += 64)
        __builtin_prefetch(octets + i, 1);
}

/* What listeners who say nothing hear: encoded once per codec. */
typedef struct {
    uint8_t done[CE_N_CODECS * 2];
    int16_t pcm[2][CE_MAX_SAMPLES];
    uint8_t payload[CE_N_CODECS * 2][CE_MAX_PAYLOAD];
    cp_resampler down;
    uint32_t rate; /* of the bridge when `down` began */
} ce_common;

struct ce_bridge {
    ce_bridge *prev, *next;
    ce_stream *members;
    uint32_t n_members, rate;
    uint8_t phase, relay, pass_digits, floor_mode;
    uint8_t locked; /* `common` */
    ce_stream *floor;
    ce_common *common; /* made before a member joins who only listens, or there is a floor */
    int16_t common_lane;
    _Atomic int dead;
};

/* G.722 lanes: a group of CP_LANES belongs to one phase, so that one call serves many streams, and
 * to the streams of that phase that are narrow or to those that are not. */
typedef struct {
    void **group;
    uint32_t *used; /* lanes taken */
    uint8_t *phase, *narrow;
    uint32_t n_groups;
    int encode;
} ce_lanes;

/* ---- rings ---- */

enum {
    CE_CMD_OPEN, CE_CMD_CLOSE, CE_CMD_UPDATE, CE_CMD_CONFIGURE, CE_CMD_PLAY, CE_CMD_STOP_PLAY,
    CE_CMD_DIGITS, CE_CMD_RECORD, CE_CMD_STOP_RECORD, CE_CMD_BRIDGE_OPEN, CE_CMD_BRIDGE_CLOSE,
    CE_CMD_JOIN, CE_CMD_LEAVE, CE_CMD_FLOOR, CE_CMD_TAP, CE_CMD_SPEECH, CE_CMD_RELEASE,
    CE_CMD_ADOPT, CE_CMD_EXTENSION,
};
enum { CE_CLOSES = 1, CE_MOVES };
enum { CE_RESTS = 1, CE_BLOCKED }; /* what a thread does that `wake_fd` ends */

typedef struct {
    uint8_t type;
    ce_stream *s;
    ce_bridge *b;
    union {
        ce_rtp_config rtp;
        struct {
            ce_options options;
            cp_tone_pattern tone[CP_TONE_PATTERNS];
        } configure;
        ce_speech_config speech;
        ce_play *play;
        ce_record *record;
        ce_tap *tap;
        ce_extension extension;
        struct { char digits[CE_MAX_DIGITS]; uint8_t n; uint16_t on_ms, off_ms; } digits;
        struct { uint8_t speaks, hears; float gain; } join;
        uint32_t move; /* CE_CMD_ADOPT */
    } u;
} ce_command;

enum {
    CE_EV_DIGIT = 1, CE_EV_TONE, CE_EV_FSK, CE_EV_STARTED, CE_EV_TIMEOUT, CE_EV_PLAY_ENDED,
    CE_EV_DEVICE_FAILED, CE_EV_BYE, CE_EV_SPEECH, CE_EV_OTHER_TYPE,
};

typedef struct {
    uint8_t type;
    uint32_t stream;
    int32_t a, b, c;
    uint16_t n_data;
    _Alignas(ce_addr) uint8_t data[CE_EVENT_BYTES]; /* CE_EV_STARTED: an address, read in place */
} ce_event;

typedef struct {
    uint64_t ticks, late_ticks, skipped_ticks, dropped_events, send_errors;
    uint64_t rx_packets, tx_packets;
    int64_t worst_late_ns;
    uint64_t kernel_packets, steered_packets, steer_dropped;
    uint32_t n_streams, n_bridges, n_relays, n_kernel, n_steered;
    uint64_t late_bins[CE_LATE_BINS]; /* wakes by lateness: under 1 us, 2, 4 ... and the rest */
    uint8_t realtime, locked, running, uring, kernel, steer;
    double cpu_s;
} ce_engine_stats;

struct ce_engine {
    pthread_t thread;
    int epfd, event_fd, wake_fd;
    _Atomic int quit, idle;
    int want_realtime, want_uring;
    ce_uring *uring; /* NULL: epoll */
    ce_kernel_share *kernel; /* NULL: every packet comes up */
    ce_steer_share *steer;   /* NULL: every leg's own socket carries its packets */
    uint64_t tick, wakes;
    int64_t now_ns;
    int64_t rx_ns; /* when the packet at hand came, if the kernel says it, else when it was read */
    int64_t unix_ns; /* CLOCK_REALTIME less CLOCK_MONOTONIC */
    uint8_t last_stride;
    uint32_t n_devices;
    uint32_t n_leaving; /* streams the ring has not let go of yet */
    ce_stream *bucket[CE_FRAME_MS];
    ce_bridge *bridges[CE_FRAME_MS];
    uint16_t bucket_load[CE_FRAME_MS];
    uint8_t replanned[CE_FRAME_MS]; /* bridges of this phase: see `settle` */
    _Atomic uint32_t cmd_head, cmd_tail, ev_head, ev_tail;
    ce_command *commands;
    ce_event *events;
    uint8_t ev_posted, flush_rx;
    uint64_t seen_packets;
    ce_engine_stats st;
    uint64_t rng;
    char cname[64];
    uint8_t rx_buf[CE_RX_BURST][CE_RX_BYTES];
    _Alignas(16) uint8_t srtp_buf[CE_RX_BYTES + 32];
    /* scratch of one frame tick: every stream due, in codec batches */
    ce_stream **due;
    ce_frame *frames;
    uint32_t due_capacity, n_due;
    const uint8_t **dec_src; /* CP_LANES pointers per G.722 group */
    int16_t **dec_out;
    const int16_t **enc_src;
    uint8_t **enc_out;
    uint32_t *dec_mask, *enc_mask;
    const int16_t **mix_src;
    int16_t **mix_out;
    float *mix_gain;
    ce_stream **mix_who;
    ce_lanes decoders, encoders;
};

/* engine_impl.c: thread, rings; called by Python unless said otherwise */
ce_engine *ce_engine_new(uint32_t max_streams, int realtime, int uring, const char *cname);
int ce_engine_start(ce_engine *e); /* 0 or an errno */
void ce_engine_stop(ce_engine *e); /* joins the thread */
void ce_engine_free(ce_engine *e);
int ce_engine_push(ce_engine *e, const ce_command *c); /* 0, or -1: ring full or no memory */
uint32_t ce_engine_room(ce_engine *e); /* commands that can be queued */
int ce_engine_pop(ce_engine *e, ce_event *out);        /* 1 when there was one */
void ce_engine_stats_get(ce_engine *e, ce_engine_stats *out);
ce_stream *ce_stream_new(ce_engine *e, uint32_t id, int kind);
ce_bridge *ce_bridge_new(void);
void ce_stream_free(ce_stream *s);
void ce_bridge_free(ce_bridge *b);
uint32_t ce_record_fill(ce_record *r); /* frames waiting */
void ce_record_take(ce_record *r, int16_t *out, uint32_t n);
int ce_is_set(const _Atomic int *flag); /* `dead` or `done`, with acquire order */
/* the worker's */
uint64_t ce_engine_random(ce_engine *e);
void ce_post(ce_engine *e, int type, ce_stream *s, int32_t a, int32_t b, int32_t c,
             const void *data, int n);
void ce_stream_set_codec(ce_stream *s, int codec, int wideband);
void ce_stream_set_phase(ce_stream *s, int phase);
void ce_stream_set_narrow(ce_stream *s, int narrow); /* if there are lanes for it */
int ce_choose_phase(ce_engine *e, int g722);

void ce_bucket_add(ce_stream *s, int phase);
void ce_bucket_remove(ce_stream *s);

/* engine_room.c: zeroed, 64-byte aligned; NULL when there is no memory */
void *ce_zeroed(size_t n); /* free() */
void *ce_room_new(size_t n, int locked);
void ce_room_free(void *p, size_t n, int locked); /* as it was made */

/* engine_commands.c */
void ce_commands_drain(ce_engine *e);
int ce_commands_wait(ce_engine *e);
void ce_stream_watch_plain(ce_stream *s); /* its RTP socket by epoll */
void ce_stream_gone(ce_stream *s);        /* do not touch it afterwards */

/* engine_uring.c; -1 from watch and send: do it the plain way */
int ce_uring_open(ce_engine *e); /* 0 or an errno */
void ce_uring_close(ce_engine *e);
int ce_uring_watch(ce_stream *s);
void ce_uring_unwatch(ce_stream *s);
int ce_uring_send(ce_stream *s, const uint8_t *packet, int n); /* copies; leaves with the flush */
void ce_uring_flush(ce_engine *e);
void ce_uring_drain(ce_engine *e);

/* engine_bpf.c: descriptors, or -1 with errno */
enum { CE_BPF_MOST = 512 }; /* instructions */
typedef struct { /* a program names its maps by number; the kernel wants their descriptors */
    int n, number[3], fd[3];
} ce_bpf_maps;
int ce_bpf(int command, union bpf_attr *a);
void ce_bpf_clear(union bpf_attr *a); /* before anything is put in */
int ce_bpf_map(int type, uint32_t key, uint32_t value, uint32_t n, uint32_t flags);
int ce_bpf_set(int fd, const void *key, const void *value); /* 0 */
int ce_bpf_program(int type, int attach, const char *name, const uint64_t *words, int n,
                   const ce_bpf_maps *maps);

/* engine_steer.c */
ce_steer *ce_steer_new(int n_engines, int sockets_each, const char **what); /* Python's; or NULL */
void ce_steer_free(ce_steer *k);           /* Python's, when the engines stopped */
int ce_steer_share_new(ce_engine *e, ce_steer *k, int number); /* Python's; 0 or an errno */
void ce_steer_share_free(ce_steer_share *h);
uint64_t ce_steer_dropped(const ce_steer_share *h); /* by the kernel: a shared buffer was full */
void ce_steer_point(ce_stream *s);  /* its far end is known, or has moved */
void ce_steer_let_go(ce_stream *s); /* what has come for it is at work before this returns */
int ce_steer_send(ce_stream *s, const uint8_t *packet, int n); /* copies; -1: another way */
void ce_steer_flush(ce_engine *e);
void ce_steer_drain(ce_engine *e);

/* engine_kernel.c */
ce_kernel *ce_kernel_new(uint32_t n, const char **what); /* Python's; NULL: errno, of what */
int ce_kernel_attach(ce_kernel *k, int interface);       /* Python's; 0 or an errno */
void ce_kernel_free(ce_kernel *k);                       /* Python's, when the engines stopped */
int ce_kernel_share_new(ce_engine *e, ce_kernel *k, uint32_t first, uint32_t n);
void ce_kernel_share_free(ce_kernel_share *h);
void ce_kernel_sync(ce_stream *s);      /* its counters, time line and source are up to date */
void ce_kernel_consider(ce_stream *s);  /* hands it over if nobody here needs its packets */
void ce_kernel_take_back(ce_stream *s); /* the next packet comes up */
void ce_kernel_take_back_all(const ce_bridge *b);
int ce_kernel_has_seen(const ce_stream *s, uint16_t seq); /* not of another line of numbers */
void ce_kernel_passed_by(ce_stream *s);
void ce_kernel_look_again(ce_stream *s);

/* engine_lanes.c */
int ce_lanes_new(ce_lanes *l, uint32_t n_groups, int encode); /* 0 or -1 */
void ce_lanes_free(ce_lanes *l);
int16_t ce_lane_take(ce_lanes *l, int phase, int narrow); /* -1: none left */
void ce_lane_give(ce_lanes *l, int16_t *lane);
int ce_lane_move(ce_lanes *l, int16_t *lane, int phase, int narrow); /* -1: it stays */
const cp_codec *ce_lanes_codec(const ce_lanes *l, uint32_t group);
void ce_lane_save(const ce_lanes *l, int16_t lane, int16_t *words);
void ce_lane_load(ce_lanes *l, int16_t lane, const int16_t *words);

/* engine_srtp.c */
uint32_t ce_srtp_load(const char *file, const char **why); /* Python's; bit per suite that works */
ce_srtp *ce_srtp_new(int suite, const uint8_t *key, int n, int sends); /* Python's; or NULL */
void ce_srtp_free(ce_srtp *k);                                         /* Python's; NULL is fine */
void ce_srtp_set(ce_srtp **place, ce_srtp *k);
int ce_srtp_unprotect(ce_stream *s, uint8_t *p, int n); /* in place: octets left, or -1 (counted) */
int ce_srtp_unprotect_rtcp(ce_stream *s, uint8_t *p, int n);
uint8_t *ce_srtp_protect(ce_stream *s, const uint8_t *p, int *n); /* a copy; NULL: do not send */
uint8_t *ce_srtp_protect_rtcp(ce_stream *s, const uint8_t *p, int *n);

/* engine_jitter.c */
void ce_jitter_put(ce_stream *s, uint32_t ts, const uint8_t *p, int n);
void ce_rtp_fetch(ce_stream *s); /* sets in_state */

/* engine_rtp.c */
void ce_rtp_apply(ce_stream *s, const ce_rtp_config *c, int first);
void ce_rtp_moved(ce_stream *s, const ce_addr *to);
void ce_rtp_readable(ce_engine *e, ce_stream *s);
void ce_rtp_packet(ce_stream *s, uint8_t *p, int n, const ce_addr *from);
void ce_rtcp_readable(ce_engine *e, ce_stream *s);
void ce_rtp_stamp(int fd, int on); /* the kernel is to say when packets came */
void ce_rtp_arrived(ce_engine *e, const uint8_t *control, size_t n); /* sets rx_ns */
void ce_rtp_send_frame(ce_stream *s, const uint8_t *payload);
void ce_rtp_skip_frame(ce_stream *s);
void ce_rtp_send_noise(ce_stream *s, const uint8_t *payload, int n);
void ce_rtp_send_event(ce_stream *s, int event, int end, uint32_t duration, uint32_t ts, int marker);
void ce_rtp_timers(ce_stream *s);
void ce_rtp_bye(ce_stream *s);
uint32_t ce_rtp_now_ts(const ce_stream *s);
void ce_rtcp_round_trip(ce_stream *s, uint32_t trip); /* 1/65536 s; beyond half the range: none */

/* engine_cn.c */
int ce_cn_is(const ce_stream *s, int payload_type);
void ce_cn_receive(ce_stream *s, uint32_t ts, const uint8_t *p, int n);
void ce_cn_generate(ce_stream *s, int16_t *pcm); /* one frame */
void ce_cn_watch(ce_stream *s, const int16_t *pcm, double mean_square); /* what we would send */
int ce_cn_suppress(ce_stream *s); /* 1: it is silent, and its level told where needed */

/* engine_follow.c: a far end whose NAT moves it in mid-call */
enum { CE_FOLLOW_NEVER, CE_FOLLOW_LEARNED, CE_FOLLOW_ALWAYS };
int ce_follow_may(const ce_stream *s, const ce_addr *from); /* worth looking at: it proves itself? */
int ce_follow(ce_stream *s, const ce_addr *from, const cp_rtp *h); /* 1: it has moved there */

/* engine_ext.c */
/* The packet with its extension, in room for CE_EXT_PACKET octets; NULL: it has none. */
uint8_t *ce_ext_attach(ce_stream *s, const uint8_t *packet, int *n, uint8_t *room);
void ce_ext_receive(ce_stream *s, const uint8_t *data, int n, uint16_t profile);
int ce_ext_read(ce_stream *s, ce_extension *out); /* Python's; 1: there is one */

/* engine_xr.c */
void ce_xr_advance(ce_stream *s, int n); /* before the sequence window moves by n */
void ce_xr_discarded(ce_stream *s, uint16_t seq);
void ce_xr_restart(ce_stream *s);
void ce_xr_metrics(const ce_stream *s, cp_voip_metrics *m);
int ce_xr_build(ce_stream *s, uint8_t *p, int cap, uint64_t ntp); /* octets; 0: nothing to say */
void ce_xr_receive(ce_stream *s, const uint8_t *body, int len, uint32_t ssrc, uint32_t ntp_middle);

/* engine_health.c */
void ce_health_refused(ce_stream *s, const ce_addr *from, int payload_type); /* -1: its source */
void ce_health_send_failed(ce_stream *s, int error); /* an errno */
void ce_health_unsent(ce_stream *s, int error);      /* of a packet that has been counted as sent */
void ce_health_arrival(ce_stream *s, uint32_t ts);
void ce_health_frame(ce_stream *s, const int16_t *pcm, int n, double squares, int weight);
void ce_meter_read(const ce_stream *s, ce_meter *m);

/* engine_device.c */
void ce_device_start(ce_stream *s);
void ce_device_readable(ce_engine *e, ce_stream *s);
void ce_device_fetch(ce_stream *s);
void ce_device_send(ce_stream *s, const uint8_t *payload);

/* engine_play.c */
void ce_play_end(ce_stream *s, int report);
int ce_play_frame(ce_stream *s, int16_t *out); /* 1 when the stream's play filled `out` */
int ce_digit_tone(ce_stream *s); /* of the first digit, from its beginning; 0 */
int ce_digit_frame(ce_stream *s, int16_t *out); /* 0 none, 1 `out` filled, 2 sent as RFC 4733 */
void ce_digits_queue(ce_stream *s, const char *digits, int n, int on_ms, int off_ms);
void ce_record_frame(ce_stream *s, const int16_t *in, const int16_t *out);

/* engine_tap.c: `put` and `set` are the worker's */
void ce_tap_put(ce_stream *s, const uint8_t *p, int n, const ce_addr *peer, int flags);
void ce_tap_set(ce_stream *s, ce_tap *t); /* NULL: none any more */
uint32_t ce_tap_fill(ce_tap *t);          /* octets waiting */
void ce_tap_take(ce_tap *t, uint8_t *out, uint32_t n);

/* engine_echo.c; of a stream that has one, at 8 kHz */
ce_echo *ce_echo_new(int tail_ms, int suppresses); /* Python's; or NULL */
void ce_echo_free(ce_echo *e);                     /* Python's; NULL is fine */
void ce_echo_set(ce_stream *s, ce_echo *e);
void ce_echo_sent(ce_stream *s, const uint8_t *octets, int n); /* NULL: silence */
void ce_echo_heard(ce_stream *s, int16_t *pcm);

/* engine_speech.c */
void ce_speech_watch(ce_stream *s, const ce_speech_config *c);
void ce_speech_in(ce_stream *s, double mean_square);
void ce_speech_out(ce_stream *s, double mean_square);

/* engine_bridge.c */
void ce_bridge_join(ce_bridge *b, ce_stream *s);
void ce_bridge_leave(ce_stream *s);
void ce_bridge_replan(ce_bridge *b);
void ce_digit_heard(ce_stream *s, char digit, int duration_ms, int inband);
void ce_frames(ce_engine *e, int phase);
void ce_relay_level(ce_stream *s, const uint8_t *payload, int n);

#endif
