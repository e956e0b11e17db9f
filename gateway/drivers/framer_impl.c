#include "framer_impl.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct cf_framer {
    pthread_t thread;
    int in, out, wake;
    atomic_int forwarding;
    uint32_t count, step;
    int prefix_bytes, frame_bytes, has_previous;
    uint64_t last_ns;
    _Atomic uint64_t sent, dropped, errors, worst_gap_ns;
    uint8_t previous[CF_FRAME_BYTES];
    uint8_t packet[CF_PREFIX_BYTES + 4 + 2 * CF_FRAME_BYTES];
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void forward(cf_framer *f, const uint8_t *frame)
{
    uint8_t *p = f->packet + f->prefix_bytes;
    *p++ = (uint8_t)(f->count >> 24);
    *p++ = (uint8_t)(f->count >> 16);
    *p++ = (uint8_t)(f->count >> 8);
    *p++ = (uint8_t)f->count;
    f->count += f->step;
    if (f->has_previous) {
        memcpy(p, f->previous, (size_t)f->frame_bytes);
        p += f->frame_bytes;
    }
    memcpy(p, frame, (size_t)f->frame_bytes);
    p += f->frame_bytes;
    memcpy(f->previous, frame, (size_t)f->frame_bytes);
    f->has_previous = 1;
    /* A full socket buffer costs this packet; its audio comes again in the next one. */
    if (send(f->out, f->packet, (size_t)(p - f->packet), MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
        f->errors++;
        return;
    }
    f->sent++;
    uint64_t now = now_ns();
    if (f->last_ns && now - f->last_ns > f->worst_gap_ns)
        f->worst_gap_ns = now - f->last_ns;
    f->last_ns = now;
}

static void *run(void *arg)
{
    cf_framer *f = arg;
    uint8_t frame[CF_FRAME_BYTES + 1];
    struct pollfd p[2] = {{f->in, POLLIN | POLLRDHUP, 0}, {f->wake, POLLIN, 0}};
    for (;;) {
        if (poll(p, 2, -1) < 0 && errno != EINTR)
            return NULL;
        if (p[1].revents)
            return NULL;
        ssize_t n = recv(f->in, frame, sizeof frame, MSG_DONTWAIT);
        /* An empty datagram reads like an end, but nobody has hung up. */
        int gone = n == 0 && p[0].revents & (POLLHUP | POLLRDHUP);
        if (gone || (n < 0 && errno != EAGAIN && errno != EINTR)) {
            p[0].fd = -1; /* the writer has gone: wait for the end */
            continue;
        }
        if (n < 0)
            continue;
        if (n != f->frame_bytes || !atomic_load(&f->forwarding)) {
            f->dropped++;
            continue;
        }
        forward(f, frame);
    }
}

cf_framer *cf_start(int in_fd, int out_fd, const uint8_t *prefix, int prefix_bytes,
                    int frame_bytes, uint32_t count, uint32_t step)
{
    cf_framer *f = calloc(1, sizeof *f);
    if (!f) {
        errno = ENOMEM;
        return NULL;
    }
    f->in = in_fd;
    f->out = out_fd;
    f->count = count;
    f->step = step;
    f->prefix_bytes = prefix_bytes;
    f->frame_bytes = frame_bytes;
    memcpy(f->packet, prefix, (size_t)prefix_bytes);
    f->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int error = f->wake < 0 ? errno : pthread_create(&f->thread, NULL, run, f);
    if (!error) {
        /* Below the engine; without the right to it the thread runs like any other. */
        struct sched_param p = {.sched_priority = 1};
        pthread_setschedparam(f->thread, SCHED_FIFO, &p);
    }
    if (error) {
        if (f->wake >= 0)
            close(f->wake);
        free(f);
        errno = error;
        return NULL;
    }
    return f;
}

void cf_forward(cf_framer *f, int on)
{
    atomic_store(&f->forwarding, on);
}

void cf_counts_get(cf_framer *f, cf_counts *c)
{
    c->sent = f->sent;
    c->dropped = f->dropped;
    c->errors = f->errors;
    c->worst_gap_ns = f->worst_gap_ns;
}

void cf_stop(cf_framer *f)
{
    uint64_t one = 1;
    while (write(f->wake, &one, sizeof one) < 0 && errno == EINTR) {
    }
    pthread_join(f->thread, NULL);
    close(f->in);
    close(f->out);
    close(f->wake);
    free(f);
}
