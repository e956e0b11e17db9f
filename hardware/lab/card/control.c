/* The control socket: lines of text, "SEQUENCE VERB PORT ARGUMENTS", answered "SEQUENCE ok [...]" or
   "SEQUENCE error WHY"; facts come unasked as "* MILLISECONDS PORT WHAT". */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include "card.h"

enum { MAX_CLIENTS = 16, LINE_MAX_BYTES = 4096 };
static struct client { int fd; char buffer[LINE_MAX_BYTES]; size_t used; } clients[MAX_CLIENTS];

static void send_text(int fd, const char *text, size_t n) {
	/* A client that does not read loses facts; the card never waits for one. */
	(void)!send(fd, text, n, MSG_NOSIGNAL | MSG_DONTWAIT);
}

void control_tell(int port, const char *format, ...) {
	char text[256];
	int n = snprintf(text, sizeof text, "* %llu %d ", (unsigned long long)card.now_ms, port);
	va_list args;
	va_start(args, format);
	n += vsnprintf(text + n, sizeof text - n - 1, format, args);
	va_end(args);
	text[n++] = '\n';
	for (int i = 0; i < MAX_CLIENTS; i++)
		if (clients[i].fd > 0) send_text(clients[i].fd, text, n);
}

static int numbers(const char *list, int *out, int max) {
	int n = 0;
	for (char *end; *list && n < max; list = *end == ',' ? end + 1 : end) {
		out[n] = strtol(list, &end, 10);
		if (end == list) return -1;
		n++;
		if (*end && *end != ',') return -1;
	}
	return n;
}

static const char *script(struct outside *o, int ms, bool closed) {
	if (o->script_len == sizeof o->script / sizeof *o->script) return "script too long";
	o->script[o->script_len].ms = ms;
	o->script[o->script_len++].closed = closed;
	return NULL;
}

static const char *pulse(struct outside *o, const char *digits, int brk, int make, int pause) {
	for (const char *d = digits; *d; d++) {
		if (*d < '0' || *d > '9') return "pulse digits are 0 to 9";
		const char *error = NULL;
		for (int i = *d == '0' ? 10 : *d - '0'; i > 0 && !error; i--)
			if (!(error = script(o, brk, false))) error = script(o, i == 1 ? pause : make, true);
		if (error) return error;
	}
	return NULL;
}

static const char *cable(struct port *p, struct port *q) {
	if (p == q) { /* back to telephone and exchange */
		q = p->cabled;
		if (!q) return NULL;
		p->cabled = q->cabled = NULL;
		p->line = &p->own_line;
		q->line = &q->own_line;
		outside_init(p->outside = &card.outsides[p->number], p);
		outside_init(q->outside = &card.outsides[q->number], q);
		return NULL;
	}
	if (!p->fxs || q->fxs) return "a cable goes from an FXS to an FXO port";
	if (p->cabled || q->cabled) return "already cabled";
	p->cabled = q;
	q->cabled = p;
	q->line = p->line;
	p->outside = q->outside = NULL;
	return NULL;
}

/* NULL, or what is wrong; *reply may be filled on success */
static const char *run(char **word, int n, char *reply, size_t reply_size) {
	const char *verb = word[0];
	if (!strcmp(verb, "info")) {
		snprintf(reply, reply_size, "%d %d %llu %llu", card.n_fxs, card.n_fxo, (unsigned long long)card.now_ms, (unsigned long long)card.late_ticks);
		return NULL;
	}
	if (!strcmp(verb, "quit")) {
		raise(SIGTERM);
		return NULL;
	}
	struct port *p = n > 1 ? port_get(atoi(word[1])) : NULL;
	if (!p) return "no such port";
	const char *arg = n > 2 ? word[2] : "";
	if (!strcmp(verb, "fail")) {
		p->failed = true;
		port_event(p, EV_REMOVED);
		return NULL;
	}
	if (!strcmp(verb, "mend")) return p->failed = false, NULL;
	if (!strcmp(verb, "echo")) {
		p->erl_gain = *arg && strcmp(arg, "off") ? pow(10, -atof(arg) / 20) : 0;
		p->erl_delay = n > 3 ? 8 * atoi(word[3]) : 0;
		return p->erl_delay < 0 || p->erl_delay >= 512 ? (p->erl_delay = 0, "delay is 0 to 63 ms") : NULL;
	}
	if (!strcmp(verb, "state")) {
		snprintf(reply, reply_size, "open=%d phase=%d closed=%d battery=%d reversed=%d ringing=%d", p->handle != NULL, p->phase,
			p->line->closed, p->line->battery, p->line->reversed, p->line->ringing);
		return NULL;
	}
	if (!strcmp(verb, "cable")) {
		struct port *q = port_get(atoi(arg));
		return q ? cable(p, q) : "no such port";
	}
	struct outside *o = p->outside;
	if (!o) return "the line is cabled: nothing is at its end";
	if (!strcmp(verb, "play")) return outside_play(o, arg) ? NULL : "cannot read the samples";
	if (!strcmp(verb, "stop")) return o->tone.tone = NULL, outside_play(o, NULL), NULL;
	if (!strcmp(verb, "dtmf")) {
		int on = n > 3 ? atoi(word[3]) : 80, off = n > 4 ? atoi(word[4]) : 80;
		if (on < 1 || off < 0 || on + off > 10000) return "durations are 1 to 10000 ms";
		outside_play_dtmf(o, arg, on, off, n > 5 ? atof(word[5]) : -10);
		return NULL;
	}
	if (!strcmp(verb, "tone")) {
		o->tone.tone = NULL;
		if (!tone_parse(&o->tone_now, arg, n > 3 ? atof(word[3]) : -13)) return "tone is [!]f1[+f2][/ms],...";
		player_start(&o->tone, &o->tone_now, 0);
		return NULL;
	}
	if (!strcmp(verb, "record")) {
		if (o->record) fclose(o->record);
		o->record = NULL;
		if (!*arg || !strcmp(arg, "-")) return NULL;
		return (o->record = fopen(arg, "wb")) ? NULL : "cannot write there";
	}
	if (p->fxs) {
		if (!strcmp(verb, "hook")) {
			o->script_at = o->script_len = o->script_ms = 0;
			o->up = !strcmp(arg, "up");
			return NULL;
		}
		if (!strcmp(verb, "flash")) {
			const char *error = script(o, atoi(arg) > 0 ? atoi(arg) : 300, false);
			return error ? error : script(o, 1, true);
		}
		if (!strcmp(verb, "pulse"))
			return pulse(o, arg, n > 3 ? atoi(word[3]) : 60, n > 4 ? atoi(word[4]) : 40, n > 5 ? atoi(word[5]) : 700);
		return "a telephone knows hook, flash, pulse, dtmf, play, tone, stop, record";
	}
	if (!strcmp(verb, "battery")) {
		o->battery = strcmp(arg, "off") != 0;
		o->reversed = !strcmp(arg, "reversed");
		return NULL;
	}
	if (!strcmp(verb, "drop")) return o->drop_ms = atoi(arg), NULL;
	if (!strcmp(verb, "ring")) {
		memset(o->cadence, 0, sizeof o->cadence);
		o->ringing_on = false;
		o->cadence_ms = o->cadence_at = 0;
		if (!strcmp(arg, "off")) return NULL;
		int k = numbers(arg, o->cadence, MAX_CADENCE);
		if (k < 2 || k % 2) return "cadence is on,off,... in ms";
		for (int i = 0; i < k; i++) if (o->cadence[i] < 1) return "cadence is on,off,... in ms";
		o->rings_left = n > 3 ? atoi(word[3]) : 0;
		o->ringing_on = true;
		o->cadence_ms = o->cadence[0];
		return NULL;
	}
	return "an exchange knows battery, drop, ring, dtmf, play, tone, stop, record";
}

static void command(int fd, char *line) {
	char *word[8], *save = NULL, reply[512] = "", text[600];
	int n = 0;
	for (char *w = strtok_r(line, " ", &save); w && n < 8; w = strtok_r(NULL, " ", &save)) word[n++] = w;
	if (n < 2) return;
	const char *error = run(word + 1, n - 1, reply, sizeof reply);
	int k = error ? snprintf(text, sizeof text, "%.20s error %s\n", word[0], error)
	              : snprintf(text, sizeof text, "%.20s ok%s%s\n", word[0], *reply ? " " : "", reply);
	send_text(fd, text, k);
}

int control_open(const char *path) {
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof a.sun_path) {
		fprintf(stderr, "linecard: socket path too long: %s\n", path);
		return -1;
	}
	strcpy(a.sun_path, path);
	unlink(path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || bind(fd, (void *)&a, sizeof a) < 0 || listen(fd, 4) < 0) {
		perror("linecard: control socket");
		return -1;
	}
	return fd;
}

void control_accept(int fd) {
	for (int i = 0; i < MAX_CLIENTS; i++)
		if (clients[i].fd <= 0) {
			clients[i].fd = fd;
			clients[i].used = 0;
			return;
		}
	close(fd);
}

bool control_serve(int fd) {
	struct client *c = NULL;
	for (int i = 0; i < MAX_CLIENTS; i++) if (clients[i].fd == fd) c = &clients[i];
	if (!c) return false;
	ssize_t n = recv(fd, c->buffer + c->used, sizeof c->buffer - 1 - c->used, MSG_DONTWAIT);
	if (n < 0 && errno == EAGAIN) return true;
	if (n <= 0 || c->used + n >= sizeof c->buffer - 1) {
		close(fd);
		c->fd = 0;
		return false;
	}
	c->used += n;
	c->buffer[c->used] = 0;
	char *start = c->buffer, *end;
	while ((end = strchr(start, '\n'))) {
		*end = 0;
		command(fd, start);
		start = end + 1;
	}
	c->used = c->buffer + c->used - start;
	memmove(c->buffer, start, c->used);
	return true;
}
