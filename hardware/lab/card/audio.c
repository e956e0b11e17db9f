/* Companding, tones, sample queues, and a DTMF detector for the exchange. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "card.h"

/* G.711: segment number is the exponent, four bits of mantissa. */
int16_t law_decode(int law, uint8_t code) {
	if (law == LAW_A) {
		code ^= 0x55;
		int segment = (code >> 4) & 7, value = ((code & 15) << 4) + 8;
		if (segment) value = (value + 256) << (segment - 1);
		return code & 0x80 ? value : -value;
	}
	code = ~code;
	int value = ((((code & 15) << 3) + 132) << ((code >> 4) & 7)) - 132;
	return code & 0x80 ? -value : value;
}

uint8_t law_encode(int law, int16_t sample) {
	int v = sample;
	if (law == LAW_A) {
		int sign = v >= 0 ? 0x80 : 0, segment = 0;
		if (v < 0) v = -v - 1;
		for (int limit = 255; segment < 7 && v > limit; limit = 2 * limit + 1) segment++;
		return (sign | segment << 4 | ((v >> (segment ? segment + 3 : 4)) & 15)) ^ 0x55;
	}
	int sign = v < 0 ? 0x80 : 0, segment = 7;
	if (v < 0) v = -v;
	if (v > 32635) v = 32635;
	v += 132;
	for (int bit = 0x4000; segment > 0 && !(v & bit); bit >>= 1) segment--;
	return ~(sign | segment << 4 | ((v >> (segment + 3)) & 15));
}

void queue_resize(struct queue *q, unsigned size) {
	free(q->data);
	q->data = calloc(size, sizeof *q->data);
	if (!q->data) abort();
	q->size = size;
	q->head = q->count = 0;
}

unsigned queue_put(struct queue *q, const int16_t *samples, unsigned n) {
	if (n > q->size - q->count) n = q->size - q->count;
	for (unsigned i = 0; i < n; i++) q->data[(q->head + q->count++) % q->size] = samples[i];
	return n;
}

unsigned queue_take(struct queue *q, int16_t *samples, unsigned n) {
	if (n > q->count) n = q->count;
	for (unsigned i = 0; i < n; i++) samples[i] = q->data[(q->head + i) % q->size];
	q->head = (q->head + n) % q->size;
	q->count -= n;
	return n;
}

/* 0 dBm0 is a sine 3.14 dB below the clipping point (G.711). */
double dbm0_amplitude(double dbm0) { return 32768 * pow(10, (dbm0 - 3.14) / 20); }

/* The grammar of DAHDI's zone tables: [!]f1[+f2|*f2][/ms] separated by commas. */
bool tone_parse(struct tone *tone, const char *spec, double dbm0) {
	memset(tone, 0, sizeof *tone);
	int loop_to = 0;
	bool looping = false;
	while (*spec) {
		if (tone->count == MAX_SEGMENTS) return false;
		struct segment *s = &tone->seg[tone->count];
		bool once = *spec == '!';
		if (once) spec++;
		char *end;
		s->f1 = strtod(spec, &end);
		if (end == spec) return false;
		if (*end == '+' || *end == '*') {
			s->modulate = *end == '*';
			s->f2 = strtod(end + 1, &end);
		}
		s->n_samples = 0;
		if (*end == '/') s->n_samples = (int)(8 * strtol(end + 1, &end, 10));
		s->level1 = s->f1 > 0 ? dbm0_amplitude(dbm0) : 0;
		s->level2 = s->f2 > 0 ? dbm0_amplitude(dbm0) : 0;
		if (!once && !looping) loop_to = tone->count, looping = true;
		s->next = ++tone->count;
		if (*end == ',') end++;
		else if (*end) return false;
		spec = end;
	}
	if (!tone->count) return false;
	tone->seg[tone->count - 1].next = looping ? loop_to : -1;
	return true;
}

void player_start(struct player *p, const struct tone *tone, int seg) {
	*p = (struct player){ .tone = tone, .seg = seg, .left = tone ? tone->seg[seg].n_samples : 0 };
}

bool player_step(struct player *p, int16_t *out, int n) {
	if (!p->tone) return false;
	for (int i = 0; i < n; i++) {
		const struct segment *s = &p->tone->seg[p->seg];
		double a = s->level1 * sin(p->phase1), v;
		p->phase1 = fmod(p->phase1 + 2 * M_PI * s->f1 / 8000, 2 * M_PI);
		if (s->modulate) v = a * (1 + sin(p->phase2)) / 2;
		else v = a + s->level2 * sin(p->phase2);
		p->phase2 = fmod(p->phase2 + 2 * M_PI * s->f2 / 8000, 2 * M_PI);
		out[i] = (int16_t)fmax(-32768, fmin(32767, v));
		if (s->n_samples && --p->left <= 0) {
			if (s->next < 0) {
				memset(out + i + 1, 0, (n - i - 1) * sizeof *out);
				p->tone = NULL;
				return true;
			}
			p->seg = s->next;
			p->left = p->tone->seg[p->seg].n_samples;
		}
	}
	return true;
}

static const char keys[] = "123A456B789C*0#D";
static const double rows[] = { 697, 770, 852, 941 }, columns[] = { 1209, 1336, 1477, 1633 };

bool dtmf_pair(char digit, double *low, double *high) {
	const char *at = digit ? strchr(keys, digit >= 'a' && digit <= 'd' ? digit - 32 : digit) : NULL;
	if (!at) return false;
	*low = rows[(at - keys) / 4];
	*high = columns[(at - keys) % 4];
	return true;
}

static double power(const int16_t *x, int n, double f) {
	double k = 2 * cos(2 * M_PI * f / 8000), a = 0, b = 0;
	for (int i = 0; i < n; i++) {
		double c = x[i] + k * a - b;
		b = a;
		a = c;
	}
	return (a * a + b * b - k * a * b) * 2 / ((double)n * n);
}

/* Enough for clean lab audio: the pair must hold most of the energy in two blocks running. */
char dtmf_step(struct dtmf_detector *d, const int16_t *samples, int n) {
	const int size = sizeof d->block / sizeof *d->block;
	for (int i = 0; i < n; i++) d->block[d->fill++] = samples[i];
	if (d->fill < size) return 0;
	d->fill = 0;
	double energy = 0;
	for (int i = 0; i < size; i++) energy += (double)d->block[i] * d->block[i] / size;
	char digit = 0;
	if (energy > 2e4) {
		int row = 0, column = 0;
		double low = 0, high = 0;
		for (int i = 0; i < 4; i++) {
			double r = power(d->block, size, rows[i]), c = power(d->block, size, columns[i]);
			if (r > low) low = r, row = i;
			if (c > high) high = c, column = i;
		}
		/* power() gives amplitude squared over two, which is the mean square of a sine */
		if (low + high > 0.7 * energy && low > high / 16 && high > low / 16) digit = keys[4 * row + column];
	}
	char result = 0;
	if (digit && digit == d->last && d->reported != digit) result = d->reported = digit;
	if (!digit && !d->last) d->reported = 0;
	d->last = digit;
	return result;
}
