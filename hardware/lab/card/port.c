/* One port of the card: hook, ringing, supervision and dialling, with the event order and the
   timings that the driver's core and its analog cards show (tests/guest compares the two).

   A port drives its line, then senses it, once a millisecond. An FXS port feeds (battery, ringing)
   and senses the loop; an FXO port closes the loop and senses battery and ringing. */
#include <errno.h>
#include <math.h>
#include <string.h>
#include "card.h"

enum {
	RING_GUARD_MS = 2000,   /* no ring events this long after a hang-up or open */
	RING_TRAILER_MS = 50,   /* silence that ends a burst of ringing */
	AFTER_SEIZE_MS = 500,
	DROP_MS = 500, AFTER_DROP_MS = 300,
	PULSE_MIN_MS = 15, PULSE_MAX_MS = 200, PULSE_DIGIT_MS = 250,
	RING_OFF_MS = 4000,
	/* analog cards only (not on a cable): line state counts after this long */
	LINE_DEBOUNCE_MS = 64, BATTERY_ALARM_MS = 1000,
	ONHOOK_AUDIO_MS = 6000, /* a card passes audio to a phone on hook after each ring */
};

static bool supervised(const struct port *p) { /* kewl start: hang-up is told by a battery drop */
	return p->sig == SIG_FXOKS || p->sig == SIG_FXSKS;
}

void port_event(struct port *p, int event) {
	if (p->handle) handle_event(p->handle, event);
}

static void enter(struct port *p, enum phase phase, int ms) {
	p->phase = phase;
	p->phase_ms = ms;
}

void port_init(struct port *p, int number) {
	memset(p, 0, sizeof *p);
	p->number = number;
	p->fxs = number <= card.n_fxs;
	p->span = p->fxs ? 1 : 2;
	p->position = p->fxs ? number : number - card.n_fxs;
	p->sigcap = p->fxs ? SIG_FXOKS | SIG_FXOLS | SIG_CLEAR
	                   : SIG_FXSKS | SIG_FXSLS | SIG_CLEAR;
	p->law_default = LAW_MU;
	p->line = &p->own_line;
	p->hw_rx = p->hw_tx = 1;
	p->sensed_battery = !p->fxs; /* the exchange feeds from the start */
	port_reset(p);
}

void port_reset(struct port *p) {
	p->set = (struct dahdi_params){ .prewink = 50, .preflash = 50, .wink = 150, .flash = 750,
		.start = p->fxs ? 2000 : 1500, .rxwink = 300, .rxflash = 1250, .debounce = 600,
		.pulsebreak = 50, .pulsemake = 50, .pulseafter = 750 };
	p->seized = p->linear = p->buffer_events = p->gains_set = p->polarity = false;
	p->law = p->law_default;
	p->echo_taps = 0;
	p->zone = card.default_zone;
	port_hangup(p);
	if (p->zone >= 0) memcpy(p->cadence, card.zones[p->zone].cadence, sizeof p->cadence);
	else {
		memset(p->cadence, 0, sizeof p->cadence);
		p->cadence[0] = p->set.start;
		p->cadence[1] = RING_OFF_MS;
	}
}

void port_configure(struct port *p, int sig, int law) {
	p->sig = sig;
	p->law_default = law ? law : LAW_MU;
	p->law = p->law_default;
	p->phase = IDLE;
	p->seized = false;
}

static void dial_cancel(struct port *p) {
	p->tone.tone = NULL;
	p->dialing = false;
	p->dial[0] = 0;
	p->dial_on_ms = p->dial_off_ms = p->pulses_left = 0;
}

void port_hangup(struct port *p) {
	p->hung_up_in_drop = false;
	if (!p->fxs) p->guard_ms = RING_GUARD_MS;
	if (p->sig == SIG_FXOKS && p->phase != IDLE && (p->line->closed || p->break_ms))
		enter(p, DROP, DROP_MS);
	else
		enter(p, IDLE, 0);
	dial_cancel(p);
	p->cadence_at = 0;
	if (p->handle) {
		p->handle->rx.count = p->handle->tx.count = 0;
		p->handle->tx_held = p->handle->txpolicy != POLICY_IMMEDIATE;
	}
}

bool port_hook_busy(const struct port *p) {
	return p->phase == PRE_WINK || p->phase == WINK || p->phase == PRE_FLASH || p->phase == FLASHING;
}

int port_hook(struct port *p, int value, bool nonblock) {
	if (!p->sig || p->sig == SIG_CLEAR) return -EINVAL;
	dial_cancel(p);
	switch (value) {
	case HOOK_ON:
		port_hangup(p);
		return 0;
	case HOOK_OFF:
		if (p->phase == DROP || p->phase == AFTER_DROP) return -EBUSY;
		enter(p, SETTLE, p->set.debounce);
		return 0;
	case HOOK_START:
	case HOOK_RING:
		if (p->zone < 0) return -ENODATA;
		if (p->phase != IDLE) return -EBUSY;
		p->cadence_at = 0;
		if (p->fxs) enter(p, RING_ON, p->cadence[0]);
		else enter(p, SEIZE, p->set.start);
		return nonblock ? -EINPROGRESS : 0;
	case HOOK_WINK:
		if (p->phase != IDLE) return -EBUSY;
		enter(p, PRE_WINK, p->set.prewink);
		return nonblock ? -EINPROGRESS : 0;
	case HOOK_FLASH:
		if (p->phase != ACTIVE) return -EBUSY;
		enter(p, PRE_FLASH, p->set.preflash);
		return nonblock ? -EINPROGRESS : 0;
	case HOOK_RINGOFF:
		enter(p, IDLE, 0);
		return 0;
	}
	return -EINVAL;
}

int port_tone(struct port *p, int tone) {
	dial_cancel(p);
	if (tone == -1) return 0;
	if (p->zone < 0) return -ENODATA;
	if (tone < 0 || tone >= MAX_TONE) return -EINVAL;
	const struct zone *z = &card.zones[p->zone];
	if (z->first[tone] < 0) return -ENOSYS;
	/* The segments of one tone are scattered in the zone: copy them, renumbered. */
	int where[256];
	memset(where, -1, sizeof where);
	p->tone_now = (struct tone){ 0 };
	for (int s = z->first[tone]; s >= 0 && s < z->count && where[s] < 0; s = z->seg[s].next) {
		if (p->tone_now.count == MAX_SEGMENTS) break;
		where[s] = p->tone_now.count;
		p->tone_now.seg[p->tone_now.count++] = z->seg[s];
	}
	for (int i = 0; i < p->tone_now.count; i++) {
		int next = p->tone_now.seg[i].next;
		p->tone_now.seg[i].next = next >= 0 && next < 256 ? where[next] : -1;
	}
	player_start(&p->tone, &p->tone_now, 0);
	return 0;
}

static void dial_next(struct port *p) {
	while (p->dial[0]) {
		char c = p->dial[0];
		memmove(p->dial, p->dial + 1, strlen(p->dial));
		if (c == 'T' || c == 'P') {
			p->pulse_mode = c == 'P';
		} else if (c == 'w' || c == 'W') {
			p->dial_on_ms = 0;
			p->dial_off_ms = 500;
			return;
		} else if (p->pulse_mode) {
			if (c >= '0' && c <= '9' && !p->fxs && p->phase == ACTIVE) {
				p->pulses_left = c == '0' ? 10 : c - '0';
				enter(p, PULSE_BREAK, p->set.pulsebreak);
				return;
			}
		} else if (dtmf_pair(c, &p->dtmf_low, &p->dtmf_high)) {
			p->dtmf_phase1 = p->dtmf_phase2 = 0;
			p->dial_on_ms = p->dial_off_ms = card.dialparams.dtmf / CHUNK;
			return;
		}
	}
	p->dialing = false;
	port_event(p, EV_DIALCOMPLETE);
}

int port_dial(struct port *p, const struct dahdi_dial *d) {
	if (!memchr(d->digits, 0, sizeof d->digits)) return -EINVAL;
	switch (d->op) {
	case DIAL_CANCEL:
		dial_cancel(p);
		return 0;
	case DIAL_REPLACE:
		dial_cancel(p);
		break;
	case DIAL_APPEND:
		break;
	default:
		return -EINVAL;
	}
	if (p->zone < 0) return -ENODATA;
	if (strlen(p->dial) + strlen(d->digits) >= sizeof p->dial) return -EBUSY;
	strcat(p->dial, d->digits);
	if (!p->dialing) {
		p->dialing = true;
		p->pulse_mode = false;
		p->tone.tone = NULL;
		dial_next(p);
	}
	return 0;
}

static void phase_over(struct port *p) {
	bool tell = p->handle;
	switch (p->phase) {
	case RING_ON:
	case RING_OFF: {
		bool was_on = p->phase == RING_ON;
		if (++p->cadence_at >= MAX_CADENCE || !p->cadence[p->cadence_at]) p->cadence_at = 0;
		int ms = p->cadence[p->cadence_at];
		enter(p, was_on ? RING_OFF : RING_ON, ms ? ms : RING_OFF_MS);
		port_event(p, was_on ? EV_RINGEROFF : EV_RINGERON);
		return;
	}
	case SEIZE:
		enter(p, AFTER_SEIZE, AFTER_SEIZE_MS);
		return;
	case AFTER_SEIZE:
	case FLASHING:
		enter(p, ACTIVE, 0);
		if (tell) port_event(p, EV_HOOKCOMPLETE);
		return;
	case SETTLE:
		enter(p, ACTIVE, 0);
		if (p->fxs && !p->line->closed && p->set.rxflash > 2) p->break_ms = 1;
		return;
	case PRE_WINK:
		enter(p, WINK, p->set.wink);
		return;
	case WINK:
		enter(p, IDLE, 0);
		if (tell) port_event(p, EV_HOOKCOMPLETE);
		return;
	case PRE_FLASH:
		enter(p, FLASHING, p->set.flash);
		return;
	case DROP:
		enter(p, AFTER_DROP, AFTER_DROP_MS);
		if (tell) port_event(p, EV_HOOKCOMPLETE);
		return;
	case AFTER_DROP:
		if (p->hung_up_in_drop) port_event(p, EV_ONHOOK);
		enter(p, IDLE, 0);
		p->seized = false;
		return;
	case PULSE_BREAK:
		enter(p, PULSE_MAKE, p->set.pulsemake);
		return;
	case PULSE_MAKE:
		if (--p->pulses_left > 0) enter(p, PULSE_BREAK, p->set.pulsebreak);
		else enter(p, PULSE_AFTER, p->set.pulseafter);
		return;
	case PULSE_AFTER:
		enter(p, ACTIVE, 0);
		dial_next(p);
		return;
	case IDLE:
	case ACTIVE:
		return;
	}
}

static bool loop_closed_by(const struct port *p) {
	switch (p->phase) {
	case IDLE: case PRE_WINK: case FLASHING: case PULSE_BREAK: case DROP: case AFTER_DROP:
	case RING_ON: case RING_OFF:
		return false;
	default:
		return true;
	}
}

static void make_audio(struct port *p, int16_t out[CHUNK]) {
	memset(out, 0, CHUNK * sizeof *out);
	if (p->dialing && (p->dial_on_ms > 0 || p->dial_off_ms > 0)) {
		if (p->dial_on_ms > 0) {
			double level = dbm0_amplitude(-10);
			for (int i = 0; i < CHUNK; i++) {
				out[i] = (int16_t)(level * (sin(p->dtmf_phase1) + sin(p->dtmf_phase2)));
				p->dtmf_phase1 += 2 * M_PI * p->dtmf_low / 8000;
				p->dtmf_phase2 += 2 * M_PI * p->dtmf_high / 8000;
			}
			p->dial_on_ms--;
		} else if (--p->dial_off_ms == 0) dial_next(p);
		return;
	}
	if (player_step(&p->tone, out, CHUNK)) return;
	struct handle *h = p->handle;
	if (!h || h->tx_held) return;
	unsigned n = queue_take(&h->tx, out, CHUNK);
	if (n < CHUNK) {
		h->tx_held = h->txpolicy != POLICY_IMMEDIATE;
		/* one event for each time the queue runs dry, as in the driver */
		if (p->buffer_events && !h->underrun) h->underrun = true, port_event(p, EV_WRITE_UNDERRUN);
	} else h->underrun = false;
}

void port_drive(struct port *p) {
	struct line *line = p->line;
	if (p->phase_ms > 0 && --p->phase_ms == 0) phase_over(p);
	int16_t out[CHUNK];
	make_audio(p, out);
	memcpy(p->last_tx, out, sizeof out);
	if (p->hw_tx != 1)
		for (int i = 0; i < CHUNK; i++) out[i] = (int16_t)fmax(-32768, fmin(32767, out[i] * p->hw_tx));
	if (p->fxs) {
		line->battery = !p->failed && p->phase != DROP;
		line->reversed = p->polarity;
		/* A phone that is lifted trips the ring in the card's own line circuit; the driver's loop
		   of two spans has no such circuit, and a cable is that loop. */
		line->ringing = line->battery && p->phase == RING_ON && (p->cabled || !line->closed);
		if (p->phase == RING_ON) p->onhook_ms = ONHOOK_AUDIO_MS;
		else if (p->onhook_ms > 0) p->onhook_ms--;
		line->onhook_audio = p->onhook_ms > 0 && !line->ringing && line->battery;
		memcpy(line->from_feed, out, sizeof out);
	} else {
		line->closed = !p->failed && loop_closed_by(p);
		memcpy(line->from_loop, out, sizeof out);
	}
}

static void sense_loop(struct port *p) {
	bool closed = p->line->closed && p->line->battery;
	/* While the battery is dropped no current flows, but the card's own state machine ignores the
	   loop then except to note that the phone was hung up. */
	if (p->phase == DROP) closed = p->line->closed;
	if (closed != p->was_closed) {
		p->was_closed = closed;
		if (closed) {
			p->hung_up_in_drop = false;
			if (p->break_ms) {
				int broken = p->break_ms - 1;
				if (broken > PULSE_MAX_MS) port_event(p, EV_WINKFLASH);
				else if (broken >= PULSE_MIN_MS) {
					p->pulse_ms = PULSE_DIGIT_MS;
					if (++p->pulses == 1) port_event(p, EV_PULSE_START);
				}
			} else if (!p->seized) {
				p->seized = true;
				port_event(p, EV_RINGOFFHOOK);
			}
			p->break_ms = 0;
		} else if (p->phase == DROP) p->hung_up_in_drop = true;
		else if (p->phase != SETTLE && p->phase != AFTER_DROP) p->break_ms = 1;
	}
	if (p->break_ms && ++p->break_ms > p->set.rxflash) {
		p->break_ms = 0;
		p->seized = false;
		port_event(p, EV_ONHOOK);
	}
	if (p->pulse_ms && --p->pulse_ms == 0 && p->pulses) {
		static const char digits[] = "?1234567890*#";
		if (p->pulses <= 12) port_event(p, EV_PULSEDIGIT | digits[p->pulses]);
		p->pulses = 0;
	}
}

static void sense_feed(struct port *p) {
	const struct line *line = p->line;
	bool ringing = line->ringing, battery = line->battery;
	int debounce = p->cabled ? 0 : LINE_DEBOUNCE_MS;

	if (battery == p->sensed_battery) p->battery_ms = 0;
	else if (p->battery_ms++ >= debounce) {
		p->sensed_battery = battery;
		p->battery_ms = 0;
		p->battery_alarm_ms = battery || p->cabled ? 1 : BATTERY_ALARM_MS - debounce;
		if (!battery && p->phase == ACTIVE && supervised(p)) {
			p->guard_ms = RING_GUARD_MS;
			p->trailer_ms = 0;
			port_event(p, EV_ONHOOK);
		}
	}
	if (p->battery_alarm_ms && --p->battery_alarm_ms == 0 && !p->cabled) {
		unsigned alarms = p->sensed_battery ? 0 : ALARM_RED;
		if (alarms != p->alarms) {
			p->alarms = alarms;
			port_event(p, alarms ? EV_ALARM : EV_NOALARM);
		}
	}
	if (line->reversed == p->sensed_reversed || !battery) p->polarity_ms = 0;
	else if (p->polarity_ms++ >= debounce) {
		p->sensed_reversed = line->reversed;
		p->polarity_ms = 0;
		port_event(p, EV_POLARITY);
	}

	if (ringing && !p->was_ringing && !p->guard_ms) port_event(p, EV_RINGBEGIN);
	p->was_ringing = ringing;
	if (p->guard_ms) p->guard_ms--;
	if (ringing) p->trailer_ms = RING_TRAILER_MS;
	else if (p->trailer_ms && --p->trailer_ms == 0 && !p->guard_ms) port_event(p, EV_RINGOFFHOOK);
}

void port_sense(struct port *p) {
	const struct line *line = p->line;
	int16_t in[CHUNK] = { 0 };
	bool path = line->closed || line->onhook_audio;
	/* An FXO port listens on hook as well: caller ID comes between the rings. */
	if (p->fxs ? line->closed : (p->cabled ? path : line->battery))
		memcpy(in, p->fxs ? line->from_loop : line->from_feed, sizeof in);
	if (p->erl_gain > 0 && line->closed) {
		double gain = p->erl_gain;
		/* The lab's echo canceller is an ideal one of 30 dB. */
		if (p->echo_taps && p->echocan[0]) gain *= 0.0316;
		const int16_t *own = p->fxs ? line->from_feed : line->from_loop;
		const unsigned size = sizeof p->echo_history / sizeof *p->echo_history;
		for (int i = 0; i < CHUNK; i++) {
			p->echo_history[p->echo_at % size] = own[i];
			double v = in[i] + gain * p->echo_history[(p->echo_at + size - p->erl_delay) % size];
			in[i] = (int16_t)fmax(-32768, fmin(32767, v));
			p->echo_at++;
		}
	}
	if (p->hw_rx != 1)
		for (int i = 0; i < CHUNK; i++) in[i] = (int16_t)fmax(-32768, fmin(32767, in[i] * p->hw_rx));
	memcpy(p->last_rx, in, sizeof in);
	struct handle *h = p->handle;
	if (h && !p->failed && queue_put(&h->rx, in, CHUNK) < CHUNK) {
		if (p->buffer_events && !h->overrun) h->overrun = true, port_event(p, EV_READ_OVERRUN);
	} else if (h) h->overrun = false;
	if (p->failed) return;
	if (p->fxs) sense_loop(p);
	else sense_feed(p);
}

int port_rx_state(const struct port *p) { /* 0 on hook, 1 off hook, 3 ring */
	if (p->fxs) return p->was_closed;
	return p->line->ringing ? 3 : p->sensed_battery;
}

int port_tx_state(const struct port *p) { /* 0 on hook, 1 off hook, 2 start or ring, 3 kewl */
	switch (p->phase) {
	case DROP: return 3;
	case RING_ON: case SEIZE: return 2;
	case RING_OFF: return 1;
	case IDLE: case AFTER_DROP: return 0;
	default: return p->fxs || loop_closed_by(p);
	}
}

void port_stats(const struct port *p, struct dahdi_stats *s) {
	const struct line *line = p->line;
	int loop = !line->battery ? 0 : line->closed ? 7000 : 48000;
	if (p->fxs) *s = (struct dahdi_stats){ .tip = -2000, .ring = -2000 - loop, .battery = -64000 };
	else *s = (struct dahdi_stats){ loop, loop, loop };
	if (line->reversed && p->fxs) { int t = s->tip; s->tip = s->ring; s->ring = t; }
	else if (line->reversed) s->tip = s->ring = s->battery = -loop;
}
