/* The device directory: a FUSE file system whose files are the DAHDI device nodes.

   Why FUSE: the kernel hands out real descriptors, so poll, epoll, read, write, ioctl and close
   (also the one at kill -9) of any program reach the card without a preloaded library. The nodes are
   regular files, for which FUSE passes ioctl and poll on like for a device; the only difference seen
   by a program is st_mode. Source: Linux include/uapi/linux/fuse.h, protocol 7. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
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

int handle_buffers(struct handle *h, int block, int numbufs) {
	if (block < 16 || block > MAX_BLOCK || numbufs < 2 || numbufs > MAX_BUFS || block * numbufs > MAX_SPACE)
		return -EINVAL;
	h->block = block;
	h->numbufs = numbufs;
	queue_resize(&h->rx, block * numbufs);
	queue_resize(&h->tx, block * numbufs);
	return 0;
}

int handle_attach(struct handle *h, int number) {
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
		int error = handle_attach(h, nodeid - INO_PORT);
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

static void do_ioctl(const struct fuse_in_header *in, struct handle *h, const struct fuse_ioctl_in *req, const uint8_t *data) {
	static _Alignas(16) uint8_t a[4096];
	unsigned cmd = req->cmd;
	int nr = _IOC_NR(cmd);
	size_t size = _IOC_SIZE(cmd);
	bool line = h->port || h->node == NODE_PSEUDO;
	int error = -ENOTTY;
	memset(a, 0, sizeof a);
	if (_IOC_TYPE(cmd) != DAHDI_CODE || size > sizeof a) goto done;
	memcpy(a, data, req->in_size < sizeof a ? req->in_size : sizeof a);
	if (line && (nr == D_IOMUX || nr == D_SYNC)) {
		if (h->wait.unique) { error = -EBUSY; goto done; }
		h->wait.unique = in->unique;
		h->wait.nr = nr;
		h->wait.mask = *(int *)a;
		try_wait(h);
		return;
	}
	error = handle_ioctl(h, cmd, a, in->pid, req->arg);
	if (!error && nr == D_HOOK && h->port && port_hook_busy(h->port) && !h->wait.unique) {
		h->wait.unique = in->unique;
		h->wait.nr = nr;
		return;
	}
done:
	answer_ioctl(in->unique, error, a, _IOC_DIR(cmd) & _IOC_READ ? (size < req->out_size ? size : req->out_size) : 0);
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
