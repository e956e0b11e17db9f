/* The device directory: a FUSE file system whose files are the DAHDI device nodes.

   Why FUSE: the kernel hands out real descriptors, so poll, epoll, read, write, ioctl and close
   (also the one at kill -9) of any program reach the card without a preloaded library. The nodes are
   regular files, for which FUSE passes ioctl and poll on like for a device; the only difference seen
   by a program is st_mode. Source: Linux include/uapi/linux/fuse.h, protocol 7. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include "card.h"

enum { ROOT = FUSE_ROOT_ID, INO_CTL = 2, INO_TIMER, INO_CHANNEL, INO_PSEUDO, INO_PORT = 16 };
enum { MAX_BLOCK = 8192, MAX_SPACE = 32768, MAX_BUFS = 32, DEFAULT_BLOCK = 1024, DEFAULT_BUFS = 2 };

static int fuse_fd = -1;
static char mounted[4096];

/* ---- answers ---- */

static void answer(uint64_t unique, int error, const void *data, size_t n) {
	struct fuse_out_header head = { .len = sizeof head + n, .error = error, .unique = unique };
	struct iovec parts[2] = { { &head, sizeof head }, { (void *)data, n } };
	/* ENOENT: the caller was interrupted and has gone */
	(void)!writev(fuse_fd, parts, n ? 2 : 1);
}

static void answer_ioctl(uint64_t unique, int error, const void *data, size_t n) {
	if (error) {
		answer(unique, error, NULL, 0);
		return;
	}
	struct fuse_out_header head = { .len = sizeof head + sizeof(struct fuse_ioctl_out) + n, .unique = unique };
	struct fuse_ioctl_out out = { .result = 0 };
	struct iovec parts[3] = { { &head, sizeof head }, { &out, sizeof out }, { (void *)data, n } };
	(void)!writev(fuse_fd, parts, n ? 3 : 2);
}

/* ---- readiness ---- */

static bool rx_ready(const struct handle *h) { return h->rx.count >= (unsigned)h->block; }
static bool tx_ready(const struct handle *h) { return h->tx.size - h->tx.count >= (unsigned)h->block; }
static bool event_ready(const struct handle *h) { return h->ev_in != h->ev_out; }
static bool audio_handle(const struct handle *h) { return h->node == NODE_PSEUDO || h->port; }

static unsigned readiness(const struct handle *h) {
	unsigned r = 0;
	if (h->node == NODE_TIMER) return h->timer_due || h->timer_ping ? POLLPRI : 0;
	if (!audio_handle(h)) return POLLERR;
	if (rx_ready(h)) r |= POLLIN | POLLRDNORM;
	if (tx_ready(h)) r |= POLLOUT | POLLWRNORM;
	if (event_ready(h)) r |= POLLPRI;
	if (h->port && h->port->failed) r |= POLLERR | POLLHUP | POLLPRI;
	return r;
}

static void notify(struct handle *h) {
	if (!h->poll_known || !(h->poll_armed & readiness(h))) return;
	struct fuse_out_header head = { .len = sizeof head + sizeof(struct fuse_notify_poll_wakeup_out),
		.error = FUSE_NOTIFY_POLL, .unique = 0 };
	struct fuse_notify_poll_wakeup_out out = { .kh = h->poll_kh };
	struct iovec parts[2] = { { &head, sizeof head }, { &out, sizeof out } };
	/* Everyone who waits asks again and so arms again: one wake-up for each change of readiness. */
	h->poll_armed = 0;
	(void)!writev(fuse_fd, parts, 2);
}

void handle_event(struct handle *h, int event) {
	if (h->ev_in - h->ev_out < MAX_EVENTS) h->events[h->ev_in++ % MAX_EVENTS] = event;
}

/* ---- samples of a handle ---- */

static uint8_t through_gain(const struct handle *h, bool rx, uint8_t code) {
	if (!h->port || !h->port->gains_set) return code;
	return rx ? h->port->gains.rx[code] : h->port->gains.tx[code];
}

static int handle_law(const struct handle *h) { return h->port ? h->port->law : h->law ? h->law : LAW_MU; }

static unsigned sample_size(const struct handle *h) { return h->linear ? 2 : 1; }

static int read_block(struct handle *h, uint8_t *out, unsigned size) {
	int16_t block[MAX_BLOCK];
	unsigned n = queue_take(&h->rx, block, h->block);
	if (n > size / sample_size(h)) n = size / sample_size(h); /* a short read loses the rest */
	int law = handle_law(h);
	bool gain = h->port && h->port->gains_set;
	if (h->linear) {
		if (gain)
			for (unsigned i = 0; i < n; i++)
				block[i] = law_decode(law, through_gain(h, true, law_encode(law, block[i])));
		memcpy(out, block, 2 * n);
		return 2 * n;
	}
	for (unsigned i = 0; i < n; i++) out[i] = through_gain(h, true, law_encode(law, block[i]));
	return n;
}

static int write_block(struct handle *h, const uint8_t *in, unsigned size) {
	int16_t block[MAX_BLOCK];
	unsigned n = size / sample_size(h);
	int law = handle_law(h);
	if (n > (unsigned)h->block) n = h->block;
	for (unsigned i = 0; i < n; i++) {
		if (!h->linear) block[i] = law_decode(law, through_gain(h, false, in[i]));
		else {
			/* between driver and line there is always companded audio */
			int16_t sample;
			memcpy(&sample, in + 2 * i, sizeof sample);
			block[i] = law_decode(law, through_gain(h, false, law_encode(law, sample)));
		}
	}
	if (h->port && (h->port->tone.tone || h->port->dialing)) {
		/* audio wins over a tone or dialling */
		h->port->tone.tone = NULL;
		h->port->dialing = false;
		h->port->dial[0] = 0;
	}
	queue_put(&h->tx, block, n);
	unsigned full = h->block * h->numbufs;
	if (h->tx_held && h->tx.count >= (h->txpolicy == POLICY_HALF_FULL ? full / 2 : full)) h->tx_held = false;
	return n * sample_size(h);
}

static int handle_error(const struct handle *h) {
	if (!audio_handle(h)) return h->node == NODE_TIMER || h->node == NODE_CTL ? -ENOSYS : -EINVAL;
	if (h->port && h->port->failed) return -ENODEV;
	return event_ready(h) ? -DAHDI_ELAST : 0;
}

static bool try_read(struct handle *h) {
	static uint8_t out[2 * MAX_BLOCK];
	int error = handle_error(h);
	if (!error && !rx_ready(h)) return false;
	int n = error ? 0 : read_block(h, out, h->read.size);
	answer(h->read.unique, error, out, n);
	h->read.unique = 0;
	return true;
}

static bool try_write(struct handle *h) {
	int error = handle_error(h);
	if (!error && !tx_ready(h)) return false;
	struct fuse_write_out out = { 0 };
	if (!error) out.size = write_block(h, h->write.data, h->write.size);
	answer(h->write.unique, error, &out, error ? 0 : sizeof out);
	h->write.unique = 0;
	return true;
}

static bool try_wait(struct handle *h) { /* ioctls that block */
	int result = 0;
	if (h->wait.nr == D_IOMUX) {
		if (h->wait.mask & MUX_READ && rx_ready(h)) result |= MUX_READ;
		if (h->wait.mask & MUX_WRITE && tx_ready(h)) result |= MUX_WRITE;
		if (h->wait.mask & MUX_WRITEEMPTY && !h->tx.count) result |= MUX_WRITEEMPTY;
		if (h->wait.mask & MUX_SIGEVENT && event_ready(h)) result |= MUX_SIGEVENT;
		if (!result && !(h->wait.mask & MUX_NOWAIT)) return false;
		answer_ioctl(h->wait.unique, 0, &result, sizeof result);
	} else {
		if (h->wait.nr == D_SYNC ? h->tx.count > 0 : h->port && port_hook_busy(h->port)) return false;
		answer_ioctl(h->wait.unique, 0, NULL, 0);
	}
	h->wait.unique = 0;
	return true;
}

static void monitor(struct handle *h) {
	struct port *p = port_get(h->conf.confno);
	int16_t mix[CHUNK] = { 0 };
	int mode = h->conf.mode & 0xff;
	if (p && mode >= CONF_MONITOR && mode <= CONF_MONITORBOTH)
		for (int i = 0; i < CHUNK; i++) {
			int v = (mode & 1 ? p->last_rx[i] : 0) + (mode & 2 ? p->last_tx[i] : 0);
			mix[i] = v > 32767 ? 32767 : v < -32768 ? -32768 : v;
		}
	queue_put(&h->rx, mix, CHUNK);
	int16_t gone[CHUNK];
	queue_take(&h->tx, gone, CHUNK);
}

void device_tick(void) {
	for (struct handle *h = card.handles; h < card.handles + MAX_HANDLES; h++) {
		if (!h->used) continue;
		if (h->node == NODE_PSEUDO) monitor(h);
		if (h->node == NODE_TIMER && h->timer_samples && (h->timer_left -= CHUNK) <= 0) {
			h->timer_left += h->timer_samples;
			h->timer_due++;
		}
		if (h->read.unique) try_read(h);
		if (h->write.unique) try_write(h);
		if (h->wait.unique) try_wait(h);
		notify(h);
	}
}

/* ---- open and close ---- */

static int handle_buffers(struct handle *h, int block, int numbufs) {
	if (block < 16 || block > MAX_BLOCK || numbufs < 2 || numbufs > MAX_BUFS || block * numbufs > MAX_SPACE)
		return -EINVAL;
	h->block = block;
	h->numbufs = numbufs;
	queue_resize(&h->rx, block * numbufs);
	queue_resize(&h->tx, block * numbufs);
	return 0;
}

static int attach(struct handle *h, int number) {
	struct port *p = port_get(number);
	if (!p) return -EINVAL;
	if (!p->sig) return -ENXIO;
	if (p->handle) return -EBUSY;
	if (p->failed) return -ENODEV;
	p->handle = h;
	h->port = p;
	port_reset(p);
	handle_buffers(h, DEFAULT_BLOCK, DEFAULT_BUFS);
	control_tell(number, "open");
	return 0;
}

static int handle_open(uint64_t nodeid, int flags, uint64_t *fh) {
	struct handle *h = NULL;
	for (int i = 1; i < MAX_HANDLES && !h; i++)
		if (!card.handles[i].used) h = &card.handles[i];
	if (!h) return -ENFILE;
	memset(h, 0, sizeof *h);
	h->flags = flags;
	*fh = h - card.handles;
	h->node = nodeid == INO_CTL ? NODE_CTL : nodeid == INO_TIMER ? NODE_TIMER
		: nodeid == INO_CHANNEL ? NODE_CHANNEL : nodeid == INO_PSEUDO ? NODE_PSEUDO : NODE_PORT;
	if (h->node == NODE_PSEUDO) handle_buffers(h, DEFAULT_BLOCK, DEFAULT_BUFS);
	if (h->node == NODE_PORT) {
		int error = attach(h, nodeid - INO_PORT);
		if (error) return error == -EINVAL ? -ENXIO : error;
	}
	h->used = true;
	return 0;
}

static void handle_close(struct handle *h) {
	struct port *p = h->port;
	if (p) {
		/* The driver hangs up whatever its user left off hook or ringing. */
		p->handle = NULL;
		port_reset(p);
		control_tell(p->number, "close");
	}
	free(h->rx.data);
	free(h->tx.data);
	memset(h, 0, sizeof *h);
}

/* ---- ioctl ---- */

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

static void do_ioctl(const struct fuse_in_header *in, struct handle *h, const struct fuse_ioctl_in *req, const uint8_t *data) {
	static _Alignas(16) uint8_t a[4096];
	unsigned cmd = req->cmd;
	int nr = _IOC_NR(cmd), dir = _IOC_DIR(cmd);
	size_t size = _IOC_SIZE(cmd);
	int error = -ENOTTY;
	memset(a, 0, sizeof a);
	if (_IOC_TYPE(cmd) != DAHDI_CODE || size > sizeof a) goto done;
	memcpy(a, data, req->in_size < sizeof a ? req->in_size : sizeof a);
	if (nr == D_GETVERSION && size == sizeof(struct dahdi_version)) {
		struct dahdi_version *v = (void *)a;
		snprintf(v->version, sizeof v->version, "virtual line card");
		snprintf(v->echo_canceller, sizeof v->echo_canceller, "MG2");
		error = 0;
	} else if (nr == D_PARAMS && size == sizeof(struct dahdi_params))
		error = dir == _IOC_WRITE ? set_params(h, (void *)a) : get_params(h, (void *)a);
	else if (nr == D_SPANSTAT && size == sizeof(struct dahdi_spaninfo))
		error = span_stat(h, (void *)a);
	else if (nr == D_SPANSTAT && size == sizeof(struct dahdi_spaninfo_v1)) {
		struct dahdi_spaninfo s = { .spanno = *(int *)a };
		error = span_stat(h, &s);
		struct dahdi_spaninfo_v1 v = { .spanno = s.spanno, .numchans = s.numchans, .totalchans = s.totalchans, .totalspans = s.totalspans };
		memcpy(v.name, s.name, sizeof v.name);
		memcpy(v.desc, s.desc, sizeof v.desc);
		memcpy(v.spantype, s.spantype, sizeof v.spantype);
		memcpy(a, &v, sizeof v);
	} else if (h->node == NODE_CTL)
		error = ctl_ioctl(h, nr, dir, a, in->pid, req->arg);
	else if (h->node == NODE_TIMER)
		error = timer_ioctl(h, nr, a);
	else if (h->node == NODE_CHANNEL && !h->port)
		error = nr == D_SPECIFY ? attach(h, *(int *)a) : -ENOSYS;
	else if (nr == D_IOMUX || nr == D_SYNC) {
		if (h->wait.unique) { error = -EBUSY; goto done; }
		h->wait.unique = in->unique;
		h->wait.nr = nr;
		h->wait.mask = *(int *)a;
		try_wait(h);
		return;
	} else if (nr == D_DIALPARAMS)
		error = ctl_ioctl(h, nr, dir, a, in->pid, req->arg);
	else {
		error = chan_ioctl(h, nr, dir, size, a);
		if (!error && nr == D_HOOK && h->port && port_hook_busy(h->port) && !h->wait.unique) {
			h->wait.unique = in->unique;
			h->wait.nr = nr;
			return;
		}
	}
done:
	answer_ioctl(in->unique, error, a, dir & _IOC_READ ? (size < req->out_size ? size : req->out_size) : 0);
}

/* ---- the file system ---- */

static uint64_t node_by_name(const char *name) {
	static const char *const fixed[] = { "ctl", "timer", "channel", "pseudo" };
	for (int i = 0; i < 4; i++)
		if (!strcmp(name, fixed[i])) return INO_CTL + i;
	char *end;
	long n = strtol(name, &end, 10);
	return *name && !*end && n >= 1 && n <= n_ports() ? INO_PORT + n : 0;
}

static struct fuse_attr attributes(uint64_t ino) {
	struct fuse_attr a = { .ino = ino, .nlink = 1, .uid = getuid(), .gid = getgid(), .blksize = 4096 };
	a.mode = ino == ROOT ? S_IFDIR | 0755 : S_IFREG | 0660;
	/* A size beyond every write lets the kernel run writes of several descriptors in parallel. */
	if (ino != ROOT) a.size = 1 << 20;
	return a;
}

static void do_lookup(const struct fuse_in_header *in, const char *name) {
	uint64_t ino = node_by_name(name);
	if (!ino) {
		answer(in->unique, -ENOENT, NULL, 0);
		return;
	}
	struct fuse_entry_out out = { .nodeid = ino, .entry_valid = 3600, .attr_valid = 3600, .attr = attributes(ino) };
	answer(in->unique, 0, &out, sizeof out);
}

static void do_readdir(const struct fuse_in_header *in, const struct fuse_read_in *r) {
	char out[4096];
	size_t used = 0;
	for (uint64_t i = r->offset; i < (uint64_t)(4 + n_ports()); i++) {
		static const char *const fixed[] = { "ctl", "timer", "channel", "pseudo" };
		char name[16];
		if (i < 4) strcpy(name, fixed[i]);
		else snprintf(name, sizeof name, "%d", (int)i - 3);
		struct fuse_dirent d = { .ino = node_by_name(name), .off = i + 1, .namelen = strlen(name), .type = S_IFREG >> 12 };
		size_t n = FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + d.namelen);
		if (used + n > sizeof out || used + n > r->size) break;
		memset(out + used, 0, n);
		memcpy(out + used, &d, FUSE_NAME_OFFSET);
		memcpy(out + used + FUSE_NAME_OFFSET, name, d.namelen);
		used += n;
	}
	answer(in->unique, 0, out, used);
}

static void do_open(const struct fuse_in_header *in, const struct fuse_open_in *o) {
	struct fuse_open_out out = { .open_flags = FOPEN_DIRECT_IO | FOPEN_NONSEEKABLE | FOPEN_STREAM | FOPEN_PARALLEL_DIRECT_WRITES | FOPEN_NOFLUSH };
	int error = handle_open(in->nodeid, o->flags, &out.fh);
	answer(in->unique, error, &out, error ? 0 : sizeof out);
}

static void do_read(const struct fuse_in_header *in, struct handle *h, const struct fuse_read_in *r) {
	h->flags = r->flags; /* follows fcntl(F_SETFL) */
	if (h->read.unique) {
		answer(in->unique, -EBUSY, NULL, 0);
		return;
	}
	h->read.unique = in->unique;
	h->read.size = r->size;
	if (!try_read(h) && h->flags & O_NONBLOCK) {
		answer(in->unique, -EAGAIN, NULL, 0);
		h->read.unique = 0;
	}
}

static void do_write(const struct fuse_in_header *in, struct handle *h, const struct fuse_write_in *w, const uint8_t *data) {
	h->flags = w->flags;
	if (h->write.unique) {
		answer(in->unique, -EBUSY, NULL, 0);
		return;
	}
	h->write.unique = in->unique;
	h->write.size = w->size < sizeof h->write.data ? w->size : sizeof h->write.data;
	memcpy(h->write.data, data, h->write.size);
	if (!try_write(h) && h->flags & O_NONBLOCK) {
		answer(in->unique, -EAGAIN, NULL, 0);
		h->write.unique = 0;
	}
}

static void do_poll(const struct fuse_in_header *in, struct handle *h, const struct fuse_poll_in *p) {
	unsigned ready = readiness(h);
	if (p->flags & FUSE_POLL_SCHEDULE_NOTIFY) {
		h->poll_kh = p->kh;
		h->poll_known = true;
		h->poll_armed |= (p->events | POLLERR | POLLHUP) & ~ready;
	}
	struct fuse_poll_out out = { .revents = ready & (p->events | POLLERR | POLLHUP) };
	answer(in->unique, 0, &out, sizeof out);
}

static void do_interrupt(const struct fuse_interrupt_in *i) {
	for (struct handle *h = card.handles; h < card.handles + MAX_HANDLES; h++) {
		uint64_t *waiting[] = { &h->read.unique, &h->write.unique, &h->wait.unique };
		for (int k = 0; k < 3; k++)
			if (*waiting[k] == i->unique) {
				*waiting[k] = 0;
				answer(i->unique, -EINTR, NULL, 0);
			}
	}
}

static void do_init(const struct fuse_in_header *in, const struct fuse_init_in *i) {
	struct fuse_init_out out = { .major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION,
		.max_readahead = i->max_readahead, .max_background = 16, .congestion_threshold = 12,
		.max_write = 65536, .time_gran = 1, .max_pages = 17, .flags = FUSE_BIG_WRITES | FUSE_MAX_PAGES };
	answer(in->unique, 0, &out, sizeof out);
}

void device_serve(int fd) {
	static _Alignas(16) uint8_t buffer[65536 + 8192];
	ssize_t n;
	while ((n = read(fd, buffer, sizeof buffer)) > 0) {
		const struct fuse_in_header *in = (void *)buffer;
		const void *body = buffer + sizeof *in;
		const uint8_t *bytes = body;
		struct handle *h = NULL;
		switch (in->opcode) {
		case FUSE_READ: case FUSE_WRITE: case FUSE_IOCTL: case FUSE_POLL: case FUSE_RELEASE: {
			uint64_t fh = *(const uint64_t *)body; /* the first field of each of these */
			if (fh < MAX_HANDLES && card.handles[fh].used) h = &card.handles[fh];
			if (!h) {
				answer(in->unique, -EBADF, NULL, 0);
				continue;
			}
		}
		}
		switch (in->opcode) {
		case FUSE_INIT: do_init(in, body); break;
		case FUSE_LOOKUP: do_lookup(in, body); break;
		case FUSE_FORGET: case FUSE_BATCH_FORGET: break;
		case FUSE_GETATTR: case FUSE_SETATTR: {
			struct fuse_attr_out out = { .attr_valid = 3600, .attr = attributes(in->nodeid) };
			answer(in->unique, 0, &out, sizeof out);
			break;
		}
		case FUSE_OPENDIR: {
			struct fuse_open_out out = { 0 };
			answer(in->unique, 0, &out, sizeof out);
			break;
		}
		case FUSE_READDIR: do_readdir(in, body); break;
		case FUSE_RELEASEDIR: case FUSE_ACCESS: answer(in->unique, 0, NULL, 0); break;
		case FUSE_STATFS: {
			struct fuse_statfs_out out = { .st = { .bsize = 4096, .namelen = 255 } };
			answer(in->unique, 0, &out, sizeof out);
			break;
		}
		case FUSE_OPEN: do_open(in, body); break;
		case FUSE_READ: do_read(in, h, body); break;
		case FUSE_WRITE: do_write(in, h, body, bytes + sizeof(struct fuse_write_in)); break;
		case FUSE_IOCTL: do_ioctl(in, h, body, bytes + sizeof(struct fuse_ioctl_in)); break;
		case FUSE_POLL: do_poll(in, h, body); break;
		case FUSE_RELEASE:
			handle_close(h);
			answer(in->unique, 0, NULL, 0);
			break;
		case FUSE_INTERRUPT: do_interrupt(body); break;
		default: answer(in->unique, -ENOSYS, NULL, 0);
		}
		if (h && h->used) notify(h);
	}
	if (n < 0 && errno == ENODEV) raise(SIGTERM); /* unmounted under us */
}

int device_mount(const char *directory) {
	fuse_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (fuse_fd < 0) {
		perror("linecard: /dev/fuse");
		return -1;
	}
	umount2(directory, MNT_DETACH); /* what an earlier card left when it was killed */
	mkdir(directory, 0755);
	char options[128];
	snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=%d,group_id=%d,allow_other", fuse_fd, getuid(), getgid());
	if (mount("linecard", directory, "fuse", MS_NOSUID | MS_NODEV, options) < 0) {
		fprintf(stderr, "linecard: cannot mount %s: %s (needs root)\n", directory, strerror(errno));
		return -1;
	}
	snprintf(mounted, sizeof mounted, "%s", directory);
	return fuse_fd;
}

void device_unmount(void) {
	if (mounted[0]) umount2(mounted, MNT_DETACH);
	mounted[0] = 0;
}
