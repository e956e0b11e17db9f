/* What is at the far end of a line: a telephone at an FXS port, an exchange at an FXO port. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include "card.h"

enum { PULSE_MIN_MS = 15, PULSE_MAX_MS = 200, PULSE_DIGIT_MS = 250, FLASH_MAX_MS = 1200 };

void outside_init(struct outside *o, struct port *p) {
	memset(o, 0, sizeof *o);
	o->port = p;
	o->battery = true;
}

bool outside_play(struct outside *o, const char *path) {
	free(o->clip);
	o->clip = NULL;
	o->clip_len = o->clip_at = 0;
	if (!path) return true;
	FILE *f = fopen(path, "rb");
	if (!f) return false;
	fseek(f, 0, SEEK_END);
	long bytes = ftell(f);
	rewind(f);
	if (bytes > 0 && (o->clip = malloc(bytes))) o->clip_len = fread(o->clip, 2, bytes / 2, f);
	fclose(f);
	return o->clip != NULL;
}

void outside_play_dtmf(struct outside *o, const char *digits, int on_ms, int off_ms, double dbm0) {
	outside_play(o, NULL);
	unsigned each = (on_ms + off_ms) * CHUNK, at = 0;
	o->clip = calloc(strlen(digits) * each + 1, sizeof *o->clip);
	if (!o->clip) return;
	for (const char *d = digits; *d; d++, at += each) {
		double low, high, level = dbm0_amplitude(dbm0);
		if (!dtmf_pair(*d, &low, &high)) continue;
		for (int i = 0; i < on_ms * CHUNK; i++)
			o->clip[at + i] = (int16_t)(level * (sin(2 * M_PI * low * i / 8000) + sin(2 * M_PI * high * i / 8000)));
	}
	o->clip_len = at;
}

static void make_audio(struct outside *o, int16_t out[CHUNK]) {
	memset(out, 0, CHUNK * sizeof *out);
	if (o->clip) {
		for (int i = 0; i < CHUNK && o->clip_at < o->clip_len; i++) out[i] = o->clip[o->clip_at++];
		if (o->clip_at >= o->clip_len) {
			outside_play(o, NULL);
			control_tell(o->port->number, "played");
		}
		return;
	}
	player_step(&o->tone, out, CHUNK);
}

void outside_drive(struct outside *o) {
	struct line *line = o->port->line;
	int16_t out[CHUNK];
	make_audio(o, out);
	if (o->port->fxs) {
		if (o->script_at < o->script_len) {
			bool closed = o->script[o->script_at].closed;
			if (o->script_ms == 0) {
				o->up = closed;
				o->script_ms = o->script[o->script_at].ms;
			}
			if (--o->script_ms <= 0 && ++o->script_at == o->script_len) {
				o->script_at = o->script_len = o->script_ms = 0;
				control_tell(o->port->number, "dialled");
			}
		}
		line->closed = o->up;
		memcpy(line->from_loop, out, sizeof out);
		return;
	}
	if (o->cadence_ms > 0 && --o->cadence_ms == 0) {
		bool last = o->ringing_on && o->rings_left > 0 && --o->rings_left == 0;
		if (++o->cadence_at >= MAX_CADENCE || !o->cadence[o->cadence_at]) o->cadence_at = 0;
		o->ringing_on = !last && o->cadence_at % 2 == 0;
		o->cadence_ms = last ? 0 : o->cadence[o->cadence_at];
		if (last) control_tell(o->port->number, "rung");
	}
	if (o->drop_ms > 0) o->drop_ms--;
	line->battery = o->battery && o->drop_ms == 0;
	line->reversed = o->reversed;
	line->ringing = o->ringing_on && line->battery && !line->closed;
	memcpy(line->from_feed, out, sizeof out);
}

static void sense_telephone(struct outside *o) {
	const struct line *line = o->port->line;
	int n = o->port->number;
	if (line->ringing != o->saw_ringing)
		control_tell(n, "ringing %s", (o->saw_ringing = line->ringing) ? "on" : "off");
	if (line->battery != o->saw_battery)
		control_tell(n, "battery %s", (o->saw_battery = line->battery) ? "on" : "off");
	if (line->reversed != o->saw_reversed)
		control_tell(n, "polarity %s", (o->saw_reversed = line->reversed) ? "reversed" : "normal");
}

static void sense_exchange(struct outside *o) {
	const struct line *line = o->port->line;
	int n = o->port->number;
	bool closed = line->closed;
	if (closed != o->was_closed) {
		o->was_closed = closed;
		if (!closed) {
			if (o->seized) o->break_ms = 1;
		} else if (o->seized) {
			int broken = o->break_ms - 1;
			if (broken > PULSE_MAX_MS) control_tell(n, "flash %d", broken);
			else if (broken >= PULSE_MIN_MS) o->pulses++, o->pulse_ms = PULSE_DIGIT_MS;
			o->break_ms = 0;
		} else {
			o->seized = true;
			o->ringing_on = false; /* an exchange trips the ring and switches the call through */
			o->cadence_ms = 0;
			control_tell(n, "seized");
		}
	}
	if (o->break_ms && ++o->break_ms > FLASH_MAX_MS) {
		o->break_ms = 0;
		o->seized = false;
		control_tell(n, "released");
	}
	if (o->pulse_ms && --o->pulse_ms == 0) {
		if (o->pulses <= 10) control_tell(n, "digit %d", o->pulses % 10);
		o->pulses = 0;
	}
	if (o->seized) {
		char digit = dtmf_step(&o->dtmf, line->from_loop, CHUNK);
		if (digit) control_tell(n, "digit %c", digit);
	}
}

void outside_sense(struct outside *o) {
	const struct line *line = o->port->line;
	if (o->port->fxs) sense_telephone(o);
	else sense_exchange(o);
	if (!o->record) return;
	int16_t heard[CHUNK] = { 0 };
	if (o->port->fxs ? (line->closed && line->battery) || line->onhook_audio : line->closed)
		memcpy(heard, o->port->fxs ? line->from_feed : line->from_loop, sizeof heard);
	fwrite(heard, sizeof *heard, CHUNK, o->record);
}
