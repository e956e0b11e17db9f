/* RTP sockets through io_uring: packets come in by multishot receives into a shared ring of
 * buffers and leave in one system call a wake. Where the kernel does not permit it (before 6.1, or
 * a seccomp filter) `ce_uring_open` says so, and epoll, recvfrom and sendto do the same work.
 *
 * Memory the kernel may write to belongs to the ring, never to a stream: a stream counts as let go
 * only when its receive has ended (`armed` is 0).
 */
#include "engine_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#if __has_include(<linux/io_uring.h>)
#include <linux/io_uring.h>
#endif

/* Of the features used, deferred task work came last (6.1). */
#if defined(IORING_SETUP_DEFER_TASKRUN) && defined(__NR_io_uring_setup)

enum {
    N_SQES = 512,
    N_CQES = 4096,
    N_BUFFERS = 256, /* a power of two; small enough to stay in the second-level cache */
    NAME_BYTES = sizeof(ce_addr),
    STAMP_BYTES = CMSG_SPACE(sizeof(struct timespec)),
    HEAD_BYTES = 16 + NAME_BYTES + STAMP_BYTES, /* io_uring_recvmsg_out, source, time */
    BUFFER_BYTES = HEAD_BYTES + CE_RX_BYTES + 4,
    TX_BYTES = 1536, /* the longest payload is 1,400 octets; the rest is for authentication tags */
    MOST_IN_A_WAKE = 4 * N_CQES,
    PREFETCH = 2, /* entries ahead */
    OF_RECEIVE = 0, OF_SEND = 1, /* low bits of user_data, above them the stream */
};

_Static_assert(BUFFER_BYTES % 16 == 0, "each buffer begins with a struct");
_Static_assert(sizeof(struct io_uring_recvmsg_out) == 16, "the layout above");

struct ce_uring {
    int fd;
    void *rings;
    size_t rings_bytes, sqes_bytes;
    struct io_uring_sqe *sqes;
    struct io_uring_cqe *cqes;
    _Atomic uint32_t *k_sq_tail, *k_cq_head, *k_cq_tail;
    uint32_t sq_tail, sq_mask, cq_mask, queued, n_tx;
    struct io_uring_buf_ring *pool;
    uint16_t pool_tail;
    struct msghdr shape; /* of every receive: the room for the source's address and the time */
    uint8_t (*buffers)[BUFFER_BYTES];
    uint8_t (*tx)[TX_BYTES];
};

static void enter(ce_uring *u, unsigned flags)
{
    atomic_store_explicit(u->k_sq_tail, u->sq_tail, memory_order_release);
    long n = syscall(__NR_io_uring_enter, u->fd, u->queued, 0, flags, NULL, 0);
    if (n > 0)
        u->queued -= (uint32_t)n;
}

static struct io_uring_sqe *next_sqe(ce_uring *u)
{
    if (u->queued > u->sq_mask)
        return NULL;
    struct io_uring_sqe *q = &u->sqes[u->sq_tail++ & u->sq_mask];
    u->queued++;
    memset(q, 0, sizeof *q);
    return q;
}

static void give_buffer(ce_uring *u, uint16_t id)
{
    struct io_uring_buf *b = &u->pool->bufs[u->pool_tail++ & (N_BUFFERS - 1)];
    b->addr = (uintptr_t)u->buffers[id];
    b->len = BUFFER_BYTES;
    b->bid = id;
    __atomic_store_n(&u->pool->tail, u->pool_tail, __ATOMIC_RELEASE);
}

int ce_uring_open(ce_engine *e)
{
    struct io_uring_params p = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                 IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE,
        .cq_entries = N_CQES,
    };
    ce_uring *u = ce_zeroed(sizeof *u);
    if (!u)
        return ENOMEM;
    e->uring = u;
    u->rings = MAP_FAILED, u->sqes = MAP_FAILED, u->pool = MAP_FAILED;
    u->fd = (int)syscall(__NR_io_uring_setup, N_SQES, &p);
    if (u->fd < 0)
        goto refused;
    size_t sq = p.sq_off.array + p.sq_entries * sizeof(uint32_t);
    size_t cq = p.cq_off.cqes + p.cq_entries * sizeof *u->cqes;
    u->rings_bytes = sq > cq ? sq : cq;
    u->sqes_bytes = p.sq_entries * sizeof *u->sqes;
    int rw = PROT_READ | PROT_WRITE, shared = MAP_SHARED | MAP_POPULATE;
    u->rings = mmap(NULL, u->rings_bytes, rw, shared, u->fd, IORING_OFF_SQ_RING);
    u->sqes = mmap(NULL, u->sqes_bytes, rw, shared, u->fd, IORING_OFF_SQES);
    u->pool = mmap(NULL, N_BUFFERS * sizeof(struct io_uring_buf), rw,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    u->buffers = ce_zeroed(N_BUFFERS * sizeof *u->buffers);
    u->tx = ce_zeroed(N_SQES * sizeof *u->tx);
    if (u->rings == MAP_FAILED || u->sqes == MAP_FAILED ||
        u->pool == MAP_FAILED || !u->buffers || !u->tx)
        goto refused;
    uint8_t *r = u->rings;
    u->k_sq_tail = (void *)(r + p.sq_off.tail);
    u->k_cq_head = (void *)(r + p.cq_off.head);
    u->k_cq_tail = (void *)(r + p.cq_off.tail);
    u->cqes = (void *)(r + p.cq_off.cqes);
    u->sq_mask = p.sq_entries - 1;
    u->cq_mask = p.cq_entries - 1;
    uint32_t *array = (void *)(r + p.sq_off.array);
    for (uint32_t i = 0; i < p.sq_entries; i++)
        array[i] = i;
    struct io_uring_buf_reg reg = {.ring_addr = (uintptr_t)u->pool, .ring_entries = N_BUFFERS};
    if (syscall(__NR_io_uring_register, u->fd, IORING_REGISTER_PBUF_RING, &reg, 1) < 0)
        goto refused;
    for (uint16_t i = 0; i < N_BUFFERS; i++)
        give_buffer(u, i);
    u->shape.msg_namelen = NAME_BYTES;
    u->shape.msg_controllen = STAMP_BYTES;
    return 0;
refused:;
    int why = errno ? errno : ENOMEM;
    ce_uring_close(e);
    return why;
}

void ce_uring_close(ce_engine *e)
{
    ce_uring *u = e->uring;
    if (!u)
        return;
    e->uring = NULL;
    if (u->fd >= 0)
        close(u->fd);
    if (u->rings != MAP_FAILED)
        munmap(u->rings, u->rings_bytes);
    if (u->sqes != MAP_FAILED)
        munmap(u->sqes, u->sqes_bytes);
    if (u->pool != MAP_FAILED)
        munmap(u->pool, N_BUFFERS * sizeof(struct io_uring_buf));
    free(u->buffers), free(u->tx), free(u);
}

int ce_uring_watch(ce_stream *s)
{
    ce_uring *u = s->e->uring;
    struct io_uring_sqe *q = next_sqe(u);
    if (!q) {
        ce_uring_flush(s->e);
        if (!(q = next_sqe(u)))
            return -1;
    }
    ce_rtp_stamp(s->fd, 1);
    q->opcode = IORING_OP_RECVMSG;
    q->fd = s->fd;
    q->addr = (uintptr_t)&u->shape;
    q->ioprio = IORING_RECV_MULTISHOT;
    q->flags = IOSQE_BUFFER_SELECT;
    q->user_data = (uintptr_t)s | OF_RECEIVE;
    s->armed = 1;
    return 0;
}

void ce_uring_unwatch(ce_stream *s)
{
    ce_uring *u = s->e->uring;
    struct io_uring_sqe *q = next_sqe(u);
    if (!q) {
        ce_uring_flush(s->e);
        if (!(q = next_sqe(u)))
            return; /* asked for again with the next packet that comes for it */
    }
    q->opcode = IORING_OP_ASYNC_CANCEL;
    q->fd = -1;
    q->addr = (uintptr_t)s | OF_RECEIVE;
}

int ce_uring_send(ce_stream *s, const uint8_t *packet, int n)
{
    ce_uring *u = s->e->uring;
    if (n > TX_BYTES)
        return -1;
    struct io_uring_sqe *q = next_sqe(u);
    if (!q) {
        ce_uring_flush(s->e);
        if (!(q = next_sqe(u)))
            return -1;
    }
    uint8_t *slot = u->tx[(uint32_t)(q - u->sqes)];
    memcpy(slot, packet, (size_t)n);
    q->opcode = IORING_OP_SEND;
    q->fd = s->fd;
    q->addr = (uintptr_t)slot;
    q->len = (uint32_t)n;
    q->msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL;
    q->addr2 = (uintptr_t)&s->remote;
    q->addr_len = (uint16_t)s->addr_len;
    q->flags = IOSQE_CQE_SKIP_SUCCESS;
    q->user_data = (uintptr_t)s | OF_SEND;
    return 0;
}

static ce_stream *stream_of(const struct io_uring_cqe *c)
{
    return (ce_stream *)(uintptr_t)(c->user_data & ~(uint64_t)3);
}

/* Sends complete inside the call or fail at once (MSG_DONTWAIT), so a failure is always seen in
 * the wake that sent, while the stream is sure to exist. */
void ce_uring_flush(ce_engine *e)
{
    ce_uring *u = e->uring;
    if (!u->queued)
        return;
    uint32_t at = atomic_load_explicit(u->k_cq_tail, memory_order_acquire);
    enter(u, 0);
    uint32_t end = atomic_load_explicit(u->k_cq_tail, memory_order_acquire);
    for (; at != end; at++) {
        struct io_uring_cqe *c = &u->cqes[at & u->cq_mask];
        if ((c->user_data & 3) != OF_SEND)
            continue;
        ce_health_unsent(stream_of(c), -c->res);
        c->user_data = 0; /* `reap` meets it later */
    }
}

static void received(ce_engine *e, ce_stream *s, const struct io_uring_cqe *c)
{
    ce_uring *u = e->uring;
    uint16_t id = (uint16_t)(c->flags >> IORING_CQE_BUFFER_SHIFT);
    uint8_t *b = u->buffers[id];
    const struct io_uring_recvmsg_out *o = (const void *)b;
    int n = c->res - HEAD_BYTES;
    if (s->leaving)
        ce_uring_unwatch(s);
    else if (e->flush_rx) {
        s->c.late++;
        /* The ring gives a few of them at a time: the rest would come when nobody flushes. */
        ce_rtp_readable(e, s);
    } else if (n < 0 || o->flags & MSG_TRUNC)
        s->c.refused++;
    else {
        ce_rtp_arrived(e, b + sizeof *o + NAME_BYTES, o->controllen);
        ce_rtp_packet(s, b + HEAD_BYTES, n, (const ce_addr *)(b + sizeof *o));
    }
    give_buffer(u, id);
}

static uint32_t reap(ce_engine *e)
{
    ce_uring *u = e->uring;
    uint32_t head = atomic_load_explicit(u->k_cq_head, memory_order_relaxed), n = 0;
    /* One entry at a time: a full send queue is flushed in mid-way, and needs room for errors. */
    while (head != atomic_load_explicit(u->k_cq_tail, memory_order_acquire)) {
        struct io_uring_cqe c = u->cqes[head & u->cq_mask];
        /* Past the end stands an old entry: asking for the memory of a stream that is gone does
         * no harm. */
        ce_prefetch(stream_of(&u->cqes[(head + PREFETCH) & u->cq_mask]));
        atomic_store_explicit(u->k_cq_head, ++head, memory_order_release);
        n++;
        ce_stream *s = stream_of(&c);
        if (!s)
            continue;
        if ((c.user_data & 3) == OF_SEND) {
            ce_health_unsent(s, -c.res);
            continue;
        }
        if (c.flags & IORING_CQE_F_BUFFER)
            received(e, s, &c);
        if (c.flags & IORING_CQE_F_MORE)
            continue;
        s->armed = 0;
        if (s->leaving)
            ce_stream_gone(s);
        else if (c.res == -EINVAL || c.res == -EOPNOTSUPP || ce_uring_watch(s))
            ce_stream_watch_plain(s);
    }
    return n;
}

void ce_uring_drain(ce_engine *e)
{
    /* The kernel hands over some twenty packets a call: again until nothing comes. */
    uint32_t n, total = 0;
    do {
        enter(e->uring, IORING_ENTER_GETEVENTS);
        n = reap(e);
        total += n;
    } while (n && total < MOST_IN_A_WAKE);
}

#else

int ce_uring_open(ce_engine *e)
{
    (void)e;
    return ENOSYS;
}

void ce_uring_close(ce_engine *e)
{
    (void)e;
}

int ce_uring_watch(ce_stream *s)
{
    (void)s;
    return -1;
}

void ce_uring_unwatch(ce_stream *s)
{
    (void)s;
}

int ce_uring_send(ce_stream *s, const uint8_t *packet, int n)
{
    (void)s, (void)packet, (void)n;
    return -1;
}

void ce_uring_flush(ce_engine *e)
{
    (void)e;
}

void ce_uring_drain(ce_engine *e)
{
    (void)e;
}

#endif
