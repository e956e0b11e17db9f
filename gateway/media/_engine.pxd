# C face of the engine (engine_impl.h) as the handles use it.
from gateway._codecs.xr cimport cp_voip_metrics
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "<netinet/in.h>":
    enum: AF_INET, AF_INET6
    uint16_t htons(uint16_t n) nogil
    uint16_t ntohs(uint16_t n) nogil
    cdef struct in_addr:
        uint32_t s_addr
    cdef struct in6_addr:
        uint8_t s6_addr[16]
    cdef struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    cdef struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    cdef struct sockaddr:
        uint16_t sa_family

cdef extern from "engine_impl.h" nogil:
    enum: CE_N_SUITES
    enum: CE_RTP, CE_DEVICE, CE_NULL, CE_NONE, CE_MAX_DIGITS, CE_NO_PT, CE_FRAME_MS
    enum: CP_TONE_STEPS, CP_TONE_FREQS, CP_TONE_PATTERNS
    enum: CE_CMD_OPEN, CE_CMD_CLOSE, CE_CMD_UPDATE, CE_CMD_CONFIGURE, CE_CMD_PLAY
    enum: CE_CMD_STOP_PLAY, CE_CMD_DIGITS, CE_CMD_RECORD, CE_CMD_STOP_RECORD
    enum: CE_CMD_BRIDGE_OPEN, CE_CMD_BRIDGE_CLOSE, CE_CMD_JOIN, CE_CMD_LEAVE, CE_CMD_FLOOR
    enum: CE_CMD_TAP, CE_CMD_SPEECH, CE_SPEECH_FRAMES
    enum: CE_CMD_EXTENSION, CE_EXT_OCTETS
    enum: CE_CMD_RELEASE, CE_CMD_ADOPT, CE_LATE_BINS

    ctypedef struct ce_addr:
        sockaddr sa
        sockaddr_in in4
        sockaddr_in6 in6
    ctypedef struct cp_level:
        double sum_squares
        int64_t n_samples
    ctypedef struct cp_tone_step:
        float freq_hz[4]
        float level_dbm0
        int32_t n_freqs
        int32_t is_am
        int32_t duration_ms
    ctypedef struct cp_tone_tx:
        int32_t sample_rate
    int32_t cp_tone_tx_init(cp_tone_tx *tx, const cp_tone_step *steps, int32_t n_steps,
                            int32_t repeat_from, int32_t sample_rate)
    ctypedef struct cp_tone_pattern:
        int32_t id
        int32_t n_freqs
        float freq_hz[2]
        int32_t n_cadence
        int32_t cadence_ms[16]
        int32_t n_cycles
        int32_t min_ms
    ctypedef struct cp_resampler:
        pass
    void cp_resample_setup()
    int32_t cp_resampler_init(cp_resampler *r, int32_t from_hz, int32_t to_hz)
    int32_t cp_resample(cp_resampler *r, const int16_t *src, int32_t n_in, int16_t *out,
                        int32_t cap)

    ctypedef struct ce_srtp:
        int done
    ctypedef struct ce_rtp_config:
        ce_addr remote
        uint8_t remote_set, codec, pt, te_pt, ptime_ms, tx, rx, symmetric, anywhere, wideband
        uint8_t follow
        uint32_t latch_ms, timeout_ms, jitter_min_ms, jitter_max_ms
        uint8_t xr_metrics, xr_round_trip
        uint8_t pass_ext, cn_pt, cn_send
        uint8_t set_srtp_in, set_srtp_out
        ce_srtp *srtp_in
        ce_srtp *srtp_out
    ctypedef struct ce_extension:
        uint8_t set, n
        uint16_t profile
        uint8_t data[64]
    ctypedef struct ce_echo:
        int done
    ctypedef struct ce_echo_figures:
        uint8_t is_found
        uint16_t delay_ms
        double sent, received, clean, estimate, passed
        uint64_t blocks, audible
    ctypedef struct cp_gain_config:
        uint8_t controls, gates
        uint16_t hold_frames
        float target, most, attack, release, gate
    ctypedef struct cp_gain:
        float wanted
    ctypedef struct ce_options:
        uint8_t detect_dtmf, mute_dtmf, detect_fsk, digits_beside, n_tones, set_echo, set_gain
        ce_echo *echo
        float gain_in, gain_out
        cp_gain_config gain
    ctypedef struct ce_speech_config:
        uint8_t on, n_echo
        uint16_t attack_ms, hang_ms
        float threshold, echo_ratio
        uint32_t serial
    ctypedef struct ce_play:
        uint32_t id
        uint8_t is_tone
        cp_tone_tx tone
        const int16_t *pcm
        uint32_t n_samples, rate, gap_samples, times
        int done
    ctypedef struct ce_record:
        int16_t *ring
        uint32_t capacity
        uint8_t channels
        uint32_t rate
        uint32_t head, tail
        uint64_t dropped
        int done
    ctypedef struct ce_tap:
        uint8_t *ring
        uint32_t capacity
        uint8_t clear
        uint64_t dropped
        int done
    ctypedef struct ce_health:
        uint64_t elsewhere, wrong_type, send_errors
        uint64_t frames, active_frames, clipped_frames, flat_frames
        uint64_t event_digits, inband_digits
        double active_squares, loudest
        ce_addr last_from
        int32_t send_errno
        uint8_t last_type
        uint32_t n_windows
        int64_t best_us[16]
        int64_t window_us[16]
    ctypedef struct ce_counters:
        uint64_t rx_packets, rx_octets, tx_packets, tx_octets
        uint64_t refused, late, duplicate, concealed, dropped_blocks, slips, dropped_digits
        uint64_t srtp_failed, srtp_replayed
        uint64_t ext_received, ext_refused, moved
        uint64_t kernel_packets
        int64_t expected, lost
        cp_level level_in, level_out
        uint64_t silent_frames
        double jitter
        uint32_t buffer_ms
        uint8_t remote_fraction_lost, have_remote, have_rtt
        uint32_t rtt_us
        ce_addr source
        ce_health health
        ce_echo_figures echo
    ctypedef struct ce_meter:
        uint64_t arrived, frames, active, clipped, n_samples
        double squares
        int noise, expected
    void ce_meter_read(const ce_stream *s, ce_meter *m)
    ctypedef struct ce_xr:
        uint8_t have_there
        cp_voip_metrics there
    ctypedef struct ce_stream:
        int fd, fd_rtcp
        uint8_t kind, rx_seen
        ce_xr xr
        uint32_t ssrc_out
        uint8_t paced, readable, writable
        uint16_t block_bytes
        ce_counters c
        ce_options opt
        uint32_t clock_ms
        cp_gain gain
        ce_addr remote
        uint8_t remote_set
        int dead
        uint32_t moves
    ctypedef struct ce_bridge:
        uint8_t pass_digits
        int dead
    ctypedef struct _Digits:
        char digits[64]
        uint8_t n
        uint16_t on_ms, off_ms
    ctypedef struct _Join:
        uint8_t speaks, hears
        float gain
    ctypedef struct _Configure:
        ce_options options
        cp_tone_pattern tone[8]
    ctypedef struct _CommandUnion:
        ce_rtp_config rtp
        _Configure configure
        ce_speech_config speech
        ce_play *play
        ce_record *record
        ce_tap *tap
        ce_extension extension
        _Digits digits
        _Join join
        uint32_t move
    ctypedef struct ce_command:
        uint8_t type
        ce_stream *s
        ce_bridge *b
        _CommandUnion u
    ctypedef struct ce_event:
        uint8_t type
        uint32_t stream
        int32_t a, b, c
        uint16_t n_data
        uint8_t data[272]
    ctypedef struct ce_engine_stats:
        uint64_t ticks, late_ticks, skipped_ticks, dropped_events, send_errors
        uint64_t rx_packets, tx_packets
        int64_t worst_late_ns
        uint64_t kernel_packets, steered_packets, steer_dropped
        uint32_t n_streams, n_bridges, n_relays, n_kernel, n_steered
        uint64_t late_bins[16]
        uint8_t realtime, locked, running, uring, kernel, steer
        double cpu_s
    ctypedef struct ce_engine:
        int event_fd
    ce_engine *ce_engine_new(uint32_t max_streams, int realtime, int uring, const char *cname)
    int ce_engine_start(ce_engine *e)
    void ce_engine_stop(ce_engine *e)
    void ce_engine_free(ce_engine *e)
    int ce_engine_push(ce_engine *e, const ce_command *c)
    uint32_t ce_engine_room(ce_engine *e)
    int ce_engine_pop(ce_engine *e, ce_event *out)
    void ce_engine_stats_get(ce_engine *e, ce_engine_stats *out)
    ctypedef struct ce_kernel:
        pass
    ce_kernel *ce_kernel_new(uint32_t n, const char **what)
    int ce_kernel_attach(ce_kernel *k, int interface)
    void ce_kernel_free(ce_kernel *k)
    int ce_kernel_share_new(ce_engine *e, ce_kernel *k, uint32_t first, uint32_t n)
    ctypedef struct ce_steer:
        pass
    ce_steer *ce_steer_new(int n_engines, int sockets_each, const char **what)
    void ce_steer_free(ce_steer *k)
    int ce_steer_share_new(ce_engine *e, ce_steer *k, int number)
    ce_stream *ce_stream_new(ce_engine *e, uint32_t id, int kind)
    void ce_stream_free(ce_stream *s)
    ce_bridge *ce_bridge_new()
    void ce_bridge_free(ce_bridge *b)
    uint32_t ce_record_fill(ce_record *r)
    void ce_record_take(ce_record *r, int16_t *out, uint32_t n)
    uint32_t ce_tap_fill(ce_tap *t)
    void ce_tap_take(ce_tap *t, uint8_t *out, uint32_t n)
    int ce_is_set(const void *flag)
    int ce_ext_read(ce_stream *s, ce_extension *out)
    void ce_xr_metrics(const ce_stream *s, cp_voip_metrics *m)
    uint32_t ce_srtp_load(const char *file, const char **why)
    ce_srtp *ce_srtp_new(int suite, const uint8_t *key, int n, int sends)
    void ce_srtp_free(ce_srtp *k)
    ce_echo *ce_echo_new(int tail_ms, int suppresses)
    void ce_echo_free(ce_echo *e)

    void cp_g711_setup()
    void cp_ulaw_decode(const uint8_t *src, int16_t *out, int32_t n)
    void cp_alaw_decode(const uint8_t *src, int16_t *out, int32_t n)
