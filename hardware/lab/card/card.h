/* The virtual line card: what its files share.

   A port is one channel of the card. A line is the pair of wires at a port. At the far end of an
   FXS port's line is a telephone, of an FXO port's line an exchange: the "outside", worked by the
   control socket. A cable joins an FXS port's line to an FXO port instead, and no outside is there.

   Everything moves in steps of one millisecond, eight samples, as in the driver. */
#ifndef CARD_H
#define CARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>
#include <time.h>
#include "dahdi.h"

enum { CHUNK = 8, MAX_PORTS = 64, MAX_HANDLES = 256, MAX_EVENTS = 64, MAX_QUEUE = 32768 };

/* ---- audio ---- */
int16_t law_decode(int law, uint8_t code);
uint8_t law_encode(int law, int16_t sample);

struct queue { int16_t *data; unsigned size, head, count; };
void queue_resize(struct queue *q, unsigned size);
unsigned queue_put(struct queue *q, const int16_t *samples, unsigned n); /* how many fitted */
unsigned queue_take(struct queue *q, int16_t *samples, unsigned n);

enum { MAX_SEGMENTS = 40 };
struct segment { double f1, f2, level1, level2; int n_samples, next; bool modulate; };
struct tone { int count, first; struct segment seg[MAX_SEGMENTS]; };
struct player { const struct tone *tone; int seg, left; double phase1, phase2; };
bool tone_parse(struct tone *tone, const char *spec, double dbm0);
void player_start(struct player *p, const struct tone *tone, int seg);
bool player_step(struct player *p, int16_t *out, int n);
bool dtmf_pair(char digit, double *low, double *high);
double dbm0_amplitude(double dbm0);

struct dtmf_detector { int16_t block[104]; int fill; char last, reported; };
char dtmf_step(struct dtmf_detector *d, const int16_t *samples, int n); /* digit or 0 */

/* ---- zones ---- */
struct zone { bool loaded; int cadence[MAX_CADENCE]; char name[40]; struct segment seg[256]; int first[MAX_TONE]; int count; };
enum { MAX_ZONES = 128 };

/* ---- lines, ports ---- */
struct line {
	bool battery, reversed, ringing, closed;
	bool onhook_audio; /* the feeding end passes audio although the loop is open */
	int16_t from_feed[CHUNK], from_loop[CHUNK];
};

enum phase {
	IDLE, RING_ON, RING_OFF, SEIZE, AFTER_SEIZE, SETTLE, ACTIVE, PRE_WINK, WINK, PRE_FLASH, FLASHING,
	DROP, AFTER_DROP, PULSE_BREAK, PULSE_MAKE, PULSE_AFTER,
};

struct handle;
struct outside;

struct port {
	int number, span, position;
	bool fxs;
	int sig, sigcap, law_default;
	struct line *line, own_line;
	struct outside *outside; /* NULL while cabled */
	struct port *cabled;
	struct handle *handle; /* who has it open */
	bool failed;
	struct dahdi_params set; /* only the timings */

	enum phase phase;
	int phase_ms;
	/* receiving side */
	bool was_closed, seized, hung_up_in_drop;
	int break_ms, break_limit_ms, pulses, pulse_ms;
	bool was_ringing, had_battery, was_reversed;
	int guard_ms, trailer_ms, battery_ms, battery_alarm_ms, polarity_ms;
	unsigned alarms;
	bool sensed_battery, sensed_reversed;

	int cadence[MAX_CADENCE], cadence_at;
	int zone;
	bool polarity, linear, buffer_events;
	int onhook_ms, mwi, mwi_type;
	int law, echo_taps;
	char echocan[16];
	bool gains_set;
	struct dahdi_gains gains;
	double hw_rx, hw_tx;
	double erl_gain;
	int erl_delay;
	int16_t echo_history[512];
	unsigned echo_at;

	struct tone tone_now;
	struct player tone;
	char dial[MAX_DIAL];
	bool dialing, pulse_mode;
	int dial_on_ms, dial_off_ms, pulses_left;
	double dtmf_phase1, dtmf_phase2, dtmf_low, dtmf_high;

	int16_t last_rx[CHUNK], last_tx[CHUNK]; /* for monitors */
};

struct outside {
	struct port *port;
	/* loop end (telephone) */
	bool up;
	struct { int ms; bool closed; } script[256];
	int script_at, script_len, script_ms;
	/* feeding end (exchange) */
	bool battery, reversed;
	int drop_ms;
	int cadence[MAX_CADENCE], cadence_at, cadence_ms, rings_left;
	bool ringing_on;
	bool was_closed, seized;
	int break_ms, pulses, pulse_ms;
	struct dtmf_detector dtmf;
	/* both */
	bool saw_ringing, saw_battery, saw_reversed;
	int16_t *clip;
	unsigned clip_len, clip_at;
	struct tone tone_now;
	struct player tone;
	FILE *record;
};

struct handle {
	bool used;
	enum node { NODE_CTL, NODE_TIMER, NODE_CHANNEL, NODE_PSEUDO, NODE_PORT } node;
	int flags;
	struct port *port;
	struct queue rx, tx;
	int block, numbufs, txpolicy, rxpolicy;
	bool tx_held, linear, overrun, underrun;
	int law;
	int events[MAX_EVENTS];
	unsigned ev_in, ev_out;
	struct dahdi_conf conf;
	int timer_samples, timer_left, timer_due;
	bool timer_ping;
	uint64_t poll_kh;
	unsigned poll_armed;
	bool poll_known;
	struct { uint64_t unique; unsigned size; bool want_sample; } read;
	struct { uint64_t unique; unsigned size; uint8_t data[2 * 8192]; } write;
	struct { uint64_t unique; int nr, mask; } wait;
};

struct card {
	struct port ports[MAX_PORTS + 1];
	struct outside outsides[MAX_PORTS + 1];
	struct handle handles[MAX_HANDLES];
	struct zone zones[MAX_ZONES];
	int n_fxs, n_fxo, default_zone;
	struct dahdi_dialparams dialparams;
	uint64_t now_ms, late_ticks;
	struct { int lbo, lineconfig; bool started; } spans[3];
};
extern struct card card;

static inline int n_ports(void) { return card.n_fxs + card.n_fxo; }
static inline struct port *port_get(int n) { return n >= 1 && n <= n_ports() ? &card.ports[n] : NULL; }

void port_init(struct port *p, int number);
void port_reset(struct port *p);     /* as the driver does at every open */
void port_configure(struct port *p, int sig, int law);
void port_hangup(struct port *p);
int port_hook(struct port *p, int value, bool nonblock); /* 0 or -errno */
bool port_hook_busy(const struct port *p);
int port_tone(struct port *p, int tone);
int port_dial(struct port *p, const struct dahdi_dial *d);
void port_event(struct port *p, int event);
void port_drive(struct port *p);
void port_sense(struct port *p);
int port_rx_state(const struct port *p);
int port_tx_state(const struct port *p);
void port_stats(const struct port *p, struct dahdi_stats *s);

void outside_init(struct outside *o, struct port *p);
void outside_drive(struct outside *o);
void outside_sense(struct outside *o);
bool outside_play(struct outside *o, const char *path);
void outside_play_dtmf(struct outside *o, const char *digits, int on_ms, int off_ms, double dbm0);

/* ---- the device directory (FUSE) ---- */
int device_mount(const char *directory);
void device_serve(int fd);
void device_unmount(void);
void device_tick(void);   /* move samples between handles, answer who waits */
void handle_event(struct handle *h, int event);
int handle_buffers(struct handle *h, int block, int numbufs); /* 0 or -errno */
int handle_attach(struct handle *h, int number);              /* 0 or -errno */
static inline bool event_ready(const struct handle *h) { return h->ev_in != h->ev_out; }

/* ---- ioctls ---- */
int handle_ioctl(struct handle *h, unsigned cmd, void *a, pid_t pid, uint64_t arg); /* 0 or -errno; in and out in `a` */

/* ---- control ---- */
int control_open(const char *path);
void control_accept(int fd);
bool control_serve(int fd);          /* false: the connection is gone */
void control_tell(int port, const char *format, ...) __attribute__((format(printf, 2, 3)));
#endif
