/* What the ioctls of DAHDI do to the card: zones, spans and channels at ctl, lines, timers. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/ioctl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include "card.h"

static void fill_params(struct port *p, struct dahdi_params *out) {
	struct dahdi_params set = p->set;
	*out = set;
	out->channo = p->number;
	out->spanno = p->span;
	out->chanpos = p->position;
	out->sigtype = p->sig;
	out->sigcap = p->sigcap;
	out->rxhooksig = port_rx_state(p);
	out->txhooksig = port_tx_state(p);
	out->rxisoffhook = out->rxhooksig != 0;
	out->rxbits = out->txbits = -1;
	out->idlebits = 0;
	out->curlaw = p->law;
	out->alarms = p->failed ? ALARM_RED : p->alarms;
	snprintf(out->name, sizeof out->name, "VLC/%d/%d", p->span - 1, p->position - 1);
}

static int get_params(struct handle *h, struct dahdi_params *p) {
	struct port *port = h->port;
	bool master = false;
	if (!port) {
		master = p->channo & RETURN_MASTER;
		port = port_get(p->channo & ~RETURN_MASTER);
	}
	if (!port) return -EINVAL;
	fill_params(port, p);
	if (master) p->channo |= p->channo << 16;
	return 0;
}

static int set_params(struct handle *h, const struct dahdi_params *p) {
	struct port *port = h->port ? h->port : port_get(p->channo);
	if (!port) return -EINVAL;
	port->set = *p;
	return 0;
}

static int span_stat(struct handle *h, struct dahdi_spaninfo *s) {
	int span = s->spanno ? s->spanno : h->port ? h->port->span : 1;
	if (span < 1 || span > 2) return -EINVAL;
	memset(s, 0, sizeof *s);
	s->spanno = span;
	s->totalspans = 2;
	s->totalchans = span == 1 ? card.n_fxs : card.n_fxo;
	s->lbo = card.spans[span].lbo;
	s->lineconfig = card.spans[span].lineconfig;
	for (int i = 1; i <= n_ports(); i++) s->numchans += card.ports[i].span == span && card.ports[i].sig;
	snprintf(s->name, sizeof s->name, "VLC/%d", span - 1);
	snprintf(s->desc, sizeof s->desc, "Virtual line card, %s ports", span == 1 ? "FXS" : "FXO");
	snprintf(s->manufacturer, sizeof s->manufacturer, "Crosspoint");
	snprintf(s->devicetype, sizeof s->devicetype, "Virtual line card");
	snprintf(s->location, sizeof s->location, "lab");
	snprintf(s->spantype, sizeof s->spantype, "%s", span == 1 ? "FXS" : "FXO");
	return 0;
}

static int load_zone(pid_t pid, uint64_t arg, const struct dahdi_zone *head) {
	if (head->zone < 0 || head->zone >= MAX_ZONES || head->count < 0 || head->count > 256) return -EINVAL;
	struct zone *z = &card.zones[head->zone];
	if (z->loaded) return -EBUSY;
	/* The definitions follow the header in the caller's memory, beyond the size in the request. */
	static struct dahdi_tonedef defs[256];
	size_t n = head->count * sizeof *defs;
	struct iovec mine = { defs, n }, theirs = { (void *)(arg + sizeof *head), n };
	if (n && process_vm_readv(pid, &mine, 1, &theirs, 1, 0) != (ssize_t)n) return -EFAULT;
	memset(z, 0, sizeof *z);
	for (int i = 0; i < MAX_TONE; i++) z->first[i] = -1;
	memcpy(z->cadence, head->cadence, sizeof z->cadence);
	memcpy(z->name, head->name, sizeof z->name - 1);
	z->count = head->count;
	for (int i = 0; i < head->count; i++) {
		struct dahdi_tonedef *d = &defs[i];
		struct segment *s = &z->seg[i];
		/* fac = 2cos(w), init3 = sin(-w) level: undo the recurrence into frequency and level */
		double w1 = acos(fmax(-1, fmin(1, d->fac1 / 65536.0))), w2 = acos(fmax(-1, fmin(1, d->fac2 / 65536.0)));
		*s = (struct segment){ .f1 = w1 * 8000 / (2 * M_PI), .f2 = w2 * 8000 / (2 * M_PI),
			.level1 = w1 > 1e-6 ? fabs(d->init31 / sin(w1)) : 0, .level2 = w2 > 1e-6 ? fabs(d->init32 / sin(w2)) : 0,
			.n_samples = d->samples, .next = d->next, .modulate = d->modulate };
		if (d->tone >= 0 && d->tone < MAX_TONE && z->first[d->tone] < 0) z->first[d->tone] = i;
	}
	z->loaded = true;
	return 0;
}

static int ctl_ioctl(struct handle *h, int nr, int dir, void *a, pid_t pid, uint64_t arg) {
	int value = *(int *)a;
	switch (nr) {
	case D_LOADZONE: return load_zone(pid, arg, a);
	case D_FREEZONE:
		if (value < 0 || value >= MAX_ZONES) return -EINVAL;
		card.zones[value].loaded = false;
		return 0;
	case D_DEFAULTZONE:
		if (value < 0 || value >= MAX_ZONES || !card.zones[value].loaded) return -EINVAL;
		card.default_zone = value;
		for (int i = 1; i <= n_ports(); i++)
			if (card.ports[i].zone < 0) card.ports[i].zone = value;
		return 0;
	case D_SPANCONFIG: {
		struct dahdi_lineconfig *c = a;
		if (c->span < 1 || c->span > 2) return -ENXIO;
		card.spans[c->span].lbo = c->lbo;
		card.spans[c->span].lineconfig = c->lineconfig;
		return 0;
	}
	case D_STARTUP:
	case D_SHUTDOWN:
		if (value < 1 || value > 2) return -ENXIO;
		card.spans[value].started = nr == D_STARTUP;
		if (nr == D_SHUTDOWN)
			for (int i = 1; i <= n_ports(); i++)
				if (card.ports[i].span == value) port_configure(&card.ports[i], 0, 0);
		return 0;
	case D_CHANCONFIG: {
		struct dahdi_chanconfig *c = a;
		struct port *p = port_get(c->chan);
		if (!p || (p->sigcap & c->sigtype) != c->sigtype) return -EINVAL;
		port_configure(p, c->sigtype, c->deflaw);
		return 0;
	}
	case D_ATTACH_ECHOCAN: {
		struct dahdi_echocan *e = a;
		struct port *p = port_get(e->chan);
		if (!p) return -EINVAL;
		snprintf(p->echocan, sizeof p->echocan, "%.15s", e->name);
		return 0;
	}
	case D_DIALPARAMS: {
		struct dahdi_dialparams *d = a;
		if (dir == _IOC_READ) *d = card.dialparams;
		else if (d->dtmf < 10 * 8 || d->dtmf > 4000 * 8) return -EINVAL;
		else card.dialparams = *d;
		return 0;
	}
	case D_MAINT: return -ENOSYS;
	}
	return -ENOTTY;
}

static int chan_ioctl(struct handle *h, int nr, int dir, size_t size, void *a) {
	struct port *p = h->port;
	int value = *(int *)a;
	bool get = dir == _IOC_READ;
	if (p && p->failed) return nr == D_GETEVENT ? (*(int *)a = EV_REMOVED, 0) : -ENODEV;
	switch (nr) { /* pseudo channels too */
	case D_GET_BLOCKSIZE:
		if (get) return *(int *)a = h->block, 0;
		return handle_buffers(h, value, h->numbufs);
	case D_BUFINFO: {
		struct dahdi_bufinfo *b = a;
		if (get) {
			*b = (struct dahdi_bufinfo){ h->txpolicy, h->rxpolicy, h->numbufs, h->block, -1, -1 };
			return 0;
		}
		int error = handle_buffers(h, b->bufsize, b->numbufs);
		if (error) return error;
		h->txpolicy = b->txpolicy;
		h->rxpolicy = b->rxpolicy;
		h->tx_held = h->txpolicy != POLICY_IMMEDIATE;
		return 0;
	}
	case D_FLUSH:
		if (value & FLUSH_READ) h->rx.count = 0;
		if (value & FLUSH_WRITE) h->tx.count = 0, h->tx_held = h->txpolicy != POLICY_IMMEDIATE;
		if (value & FLUSH_EVENT) h->ev_out = h->ev_in;
		return 0;
	case D_SETLINEAR: return h->linear = value, 0;
	case D_SETLAW:
		if (value < 0 || value > 2) return -EINVAL;
		h->law = value;
		if (p) p->law = value ? value : p->law_default;
		return 0;
	case D_GETEVENT:
		*(int *)a = event_ready(h) ? h->events[h->ev_out++ % MAX_EVENTS] : EV_NONE;
		return 0;
	case D_CONF:
	case D_CONF_V1: {
		struct dahdi_conf *c = a;
		if (nr == D_CONF_V1 && dir != _IOC_WRITE) return *c = h->conf, 0;
		if ((c->mode & 0xff) > CONF_MONITORBOTH) return -EINVAL;
		if (c->mode && !port_get(c->confno)) return -EINVAL;
		h->conf = *c;
		return 0;
	}
	case D_CHANNO:
		*(int *)a = p ? p->number : 0x8000 + (int)(h - card.handles);
		return 0;
	case D_CONFMUTE: case D_GETCONFMUTE: case D_AUDIOMODE: case D_HDLC_RATE: case D_ECHOTRAIN:
	case D_ECHOCANCEL_FAX: return 0;
	}
	if (!p) return -ENOTTY;
	switch (nr) {
	case D_HOOK: return port_hook(p, value, h->flags & O_NONBLOCK);
	case D_SENDTONE: return port_tone(p, value);
	case D_TONEZONE:
		if (get) return *(int *)a = p->zone, 0;
		if (value == -1) value = card.default_zone;
		if (value < 0 || value >= MAX_ZONES || !card.zones[value].loaded) return -ENODATA;
		p->zone = value;
		memcpy(p->cadence, card.zones[value].cadence, sizeof p->cadence);
		return 0;
	case D_SETCADENCE: {
		const int *c = a;
		int n = 0;
		while (n < MAX_CADENCE && c[n] > 0) n++;
		if (!n || n % 2) return -EINVAL;
		memcpy(p->cadence, c, sizeof p->cadence);
		return 0;
	}
	case D_DIAL: return port_dial(p, a);
	case D_DIALING: return *(int *)a = p->dialing, 0;
	case D_ECHOCANCEL:
		if (size != sizeof(int)) { /* tap length and a count of parameters */
			if (((int *)a)[1]) return -EINVAL;
		}
		if (value < 0) return -EINVAL;
		if (value && !p->echocan[0]) return -ENODEV;
		p->echo_taps = value;
		return 0;
	case D_ONHOOKTRANSFER:
		if (!p->fxs) return -EINVAL;
		p->onhook_ms = value;
		return 0;
	case D_SETPOLARITY:
		if (!p->fxs || p->phase == RING_ON || p->phase == DROP) return -EINVAL;
		p->polarity = value;
		return 0;
	case D_VMWI:
		if (!p->fxs) return -EINVAL;
		p->mwi = value;
		control_tell(p->number, "messages %d", value);
		return 0;
	case D_VMWI_CONFIG:
		if (!p->fxs) return -EINVAL;
		p->mwi_type = value;
		return 0;
	case D_GAINS:
		if (dir == _IOC_WRITE) {
			p->gains = *(struct dahdi_gains *)a;
			p->gains_set = true;
		} else if (p->gains_set) *(struct dahdi_gains *)a = p->gains;
		else
			for (int i = 0; i < 256; i++) ((struct dahdi_gains *)a)->rx[i] = ((struct dahdi_gains *)a)->tx[i] = i;
		return 0;
	case D_SET_HWGAIN: {
		const struct dahdi_hwgain *g = a;
		*(g->tx ? &p->hw_tx : &p->hw_rx) = pow(10, g->tenth_db / 200.0);
		return 0;
	}
	case D_WCTDM_STATS: return port_stats(p, a), 0;
	case D_BUFFER_EVENTS: return p->buffer_events = value, 0;
	}
	return -ENOTTY;
}

static int timer_ioctl(struct handle *h, int nr, void *a) {
	int value = *(int *)a;
	switch (nr) {
	case D_TIMERCONFIG:
		if (value < 0) return -EINVAL;
		h->timer_samples = h->timer_left = value;
		return 0;
	case D_TIMERACK:
		h->timer_due = value < 1 || value > h->timer_due ? 0 : h->timer_due - value;
		return 0;
	case D_GETEVENT:
		*(int *)a = h->timer_ping ? EV_TIMER_PING : h->timer_due ? EV_TIMER_EXPIRED : EV_NONE;
		return 0;
	case D_TIMERPING: return h->timer_ping = true, 0;
	case D_TIMERPONG: return h->timer_ping = false, 0;
	}
	return -ENOTTY;
}

int handle_ioctl(struct handle *h, unsigned cmd, void *a, pid_t pid, uint64_t arg) {
	int nr = _IOC_NR(cmd), dir = _IOC_DIR(cmd);
	size_t size = _IOC_SIZE(cmd);
	if (nr == D_GETVERSION && size == sizeof(struct dahdi_version)) {
		struct dahdi_version *v = a;
		snprintf(v->version, sizeof v->version, "virtual line card");
		snprintf(v->echo_canceller, sizeof v->echo_canceller, "MG2");
		return 0;
	}
	if (nr == D_PARAMS && size == sizeof(struct dahdi_params))
		return dir == _IOC_WRITE ? set_params(h, a) : get_params(h, a);
	if (nr == D_SPANSTAT && size == sizeof(struct dahdi_spaninfo)) return span_stat(h, a);
	if (nr == D_SPANSTAT && size == sizeof(struct dahdi_spaninfo_v1)) {
		struct dahdi_spaninfo s = { .spanno = *(int *)a };
		int error = span_stat(h, &s);
		struct dahdi_spaninfo_v1 v = { .spanno = s.spanno, .numchans = s.numchans, .totalchans = s.totalchans, .totalspans = s.totalspans };
		memcpy(v.name, s.name, sizeof v.name);
		memcpy(v.desc, s.desc, sizeof v.desc);
		memcpy(v.spantype, s.spantype, sizeof v.spantype);
		memcpy(a, &v, sizeof v);
		return error;
	}
	if (h->node == NODE_CTL) return ctl_ioctl(h, nr, dir, a, pid, arg);
	if (h->node == NODE_TIMER) return timer_ioctl(h, nr, a);
	if (h->node == NODE_CHANNEL && !h->port) return nr == D_SPECIFY ? handle_attach(h, *(int *)a) : -ENOSYS;
	if (nr == D_DIALPARAMS) return ctl_ioctl(h, nr, dir, a, pid, arg);
	return chan_ioctl(h, nr, dir, size, a);
}
