/* RTP by shared sockets: what known far ends send comes by a few sockets of many legs each
 * (steer_bpf.c), and what we send leaves by one raw socket, both in batches.
 *
 * A leg's own socket keeps its port and gets whatever is not of its known far end. What cannot go
 * this way (IPv6, multicast, a leg without an address of its own, what the raw socket refuses)
 * goes by the leg's own socket as ever. */
#include "engine_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sock_diag.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "steer_bpf.h"

enum {
    SOCKETS = 16,            /* of one engine, at most */
    BUFFER_BYTES = 4 << 20,  /* the kernel doubles it: 0.8 s of 256 legs */
    BATCH = 64,
    PREFETCH = 2,            /* packets ahead */
    MOST_IN_A_WAKE = 16384,  /* of one socket: the rest waits for the next wake */
    CONTROL_BYTES = CMSG_SPACE(sizeof(struct timespec)) + CMSG_SPACE(sizeof(struct sockaddr_in)),
    FRESH = 256,
    N_TX = 256,
    TX_BYTES = 1536, /* as engine_uring.c */
    TX_ROOM = N_TX * 256, /* side by side, so that they stay in the cache: most are shorter */
    HEAD_BYTES = sizeof(struct iphdr) + sizeof(struct udphdr),
};

static const uint64_t PROGRAM[] = {
#include "steer_bpf.inc"
};

struct ce_steer {
    int program, link, leg_map, socket_map, sockets_each;
    struct sb_leg *legs;
};

struct ce_steer_share { /* one engine's part of it */
    ce_steer *steer;
    int in[SOCKETS], out, first;
    ce_stream **by_port;
    uint32_t n_fresh;
    ce_stream *fresh[FRESH]; /* of this wake: their first packets wait in their own sockets */
    struct mmsghdr rx[BATCH];
    struct iovec rx_v[BATCH];
    ce_addr from[BATCH];
    _Alignas(8) uint8_t control[BATCH][CONTROL_BYTES];
    uint8_t (*buffers)[CE_RX_BYTES];
    uint32_t n_tx, tx_octets;
    uint16_t ip_id;
    struct mmsghdr tx[N_TX];
    struct iovec tx_v[N_TX];
    struct sockaddr_in to[N_TX];
    ce_stream *who[N_TX];
    uint8_t *packets; /* TX_ROOM */
};

enum { LEG_BYTES = SB_PORTS * sizeof(struct sb_leg), PORT_BYTES = SB_PORTS * sizeof(ce_stream *) };

/* ---- life ---- */

ce_steer *ce_steer_new(int n_engines, int sockets_each, const char **what)
{
    ce_steer *k = ce_zeroed(sizeof *k);
    *what = "memory";
    if (!k)
        return NULL;
    k->program = k->link = k->socket_map = -1;
    k->legs = MAP_FAILED;
    k->sockets_each = sockets_each < SOCKETS ? sockets_each : SOCKETS;
    *what = "bpf(BPF_MAP_CREATE)";
    k->leg_map = ce_bpf_map(BPF_MAP_TYPE_ARRAY, 4, sizeof *k->legs, SB_PORTS, BPF_F_MMAPABLE);
    k->socket_map = ce_bpf_map(BPF_MAP_TYPE_SOCKMAP, 4, 8,
                               (uint32_t)(n_engines * k->sockets_each), 0);
    if (k->leg_map < 0 || k->socket_map < 0)
        goto refused;
    *what = "mmap of a BPF map";
    k->legs = mmap(NULL, LEG_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, k->leg_map, 0);
    if (k->legs == MAP_FAILED)
        goto refused;
    *what = "bpf(BPF_PROG_LOAD)";
    ce_bpf_maps maps = {2, {SB_MAP_LEGS, SB_MAP_SOCKETS}, {k->leg_map, k->socket_map}};
    k->program = ce_bpf_program(BPF_PROG_TYPE_SK_LOOKUP, BPF_SK_LOOKUP, "rtp_steer", PROGRAM,
                                sizeof PROGRAM / sizeof PROGRAM[0], &maps);
    if (k->program < 0)
        goto refused;
    *what = "bpf(BPF_LINK_CREATE)";
    int network = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (network < 0)
        goto refused;
    union bpf_attr a;
    ce_bpf_clear(&a);
    a.link_create.prog_fd = (uint32_t)k->program;
    a.link_create.target_fd = (uint32_t)network;
    a.link_create.attach_type = BPF_SK_LOOKUP;
    k->link = ce_bpf(BPF_LINK_CREATE, &a);
    int error = errno;
    close(network);
    errno = error;
    if (k->link >= 0)
        return k;
refused:
    error = errno;
    ce_steer_free(k);
    errno = error;
    return NULL;
}

void ce_steer_free(ce_steer *k)
{
    if (!k)
        return;
    int fds[] = {k->link, k->program, k->leg_map, k->socket_map};
    for (int i = 0; i < 4; i++)
        if (fds[i] >= 0)
            close(fds[i]); /* the last holder of the link takes the program off */
    if (k->legs != MAP_FAILED)
        munmap(k->legs, LEG_BYTES);
    free(k);
}

static int shared_socket(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK); /* where it is bound does not matter */
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    int n = BUFFER_BYTES;
    if (fd < 0)
        return -1;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &n, sizeof n) ||
        setsockopt(fd, IPPROTO_IP, IP_RECVORIGDSTADDR, &on, sizeof on) ||
        bind(fd, (struct sockaddr *)&a, sizeof a)) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    ce_rtp_stamp(fd, 1);
    return fd;
}

int ce_steer_share_new(ce_engine *e, ce_steer *k, int number)
{
    ce_steer_share *h = ce_zeroed(sizeof *h);
    if (!h)
        return ENOMEM;
    for (int i = 0; i < SOCKETS; i++)
        h->in[i] = -1;
    h->steer = k;
    h->first = number * k->sockets_each;
    h->by_port = mmap(NULL, PORT_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    h->buffers = ce_zeroed(BATCH * sizeof *h->buffers);
    h->packets = ce_zeroed(TX_ROOM);
    h->out = socket(AF_INET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_RAW);
    if (h->by_port == MAP_FAILED || !h->buffers || !h->packets || h->out < 0)
        goto refused;
    int n = BUFFER_BYTES;
    if (setsockopt(h->out, SOL_SOCKET, SO_SNDBUFFORCE, &n, sizeof n))
        goto refused;
    for (int i = 0; i < k->sockets_each; i++) {
        uint32_t at = (uint32_t)(h->first + i);
        if ((h->in[i] = shared_socket()) < 0)
            goto refused;
        uint64_t fd = (uint64_t)h->in[i];
        if (ce_bpf_set(k->socket_map, &at, &fd))
            goto refused;
    }
    for (int i = 0; i < BATCH; i++) {
        h->rx_v[i] = (struct iovec){h->buffers[i], CE_RX_BYTES};
        h->rx[i].msg_hdr = (struct msghdr){.msg_name = &h->from[i], .msg_iov = &h->rx_v[i],
                                           .msg_iovlen = 1, .msg_control = h->control[i]};
    }
    for (int i = 0; i < N_TX; i++) {
        h->tx[i].msg_hdr = (struct msghdr){.msg_name = &h->to[i], .msg_namelen = sizeof h->to[i],
                                           .msg_iov = &h->tx_v[i], .msg_iovlen = 1};
    }
    e->steer = h;
    e->st.steer = 1;
    return 0;
refused:;
    int error = errno ? errno : ENOMEM;
    ce_steer_share_free(h);
    return error;
}

void ce_steer_share_free(ce_steer_share *h)
{
    if (!h)
        return;
    for (int i = 0; i < SOCKETS; i++)
        if (h->in[i] >= 0)
            close(h->in[i]);
    if (h->out >= 0)
        close(h->out);
    if (h->by_port != MAP_FAILED)
        munmap(h->by_port, PORT_BYTES);
    free(h->buffers), free(h->packets), free(h);
}

uint64_t ce_steer_dropped(const ce_steer_share *h)
{
    uint64_t dropped = 0;
    for (int i = 0; h && i < h->steer->sockets_each; i++) {
        uint32_t info[SK_MEMINFO_VARS] = {0};
        socklen_t n = sizeof info;
        if (!getsockopt(h->in[i], SOL_SOCKET, SO_MEMINFO, info, &n))
            dropped += info[SK_MEMINFO_DROPS];
    }
    return dropped;
}

/* ---- which legs ---- */

static int find_own(ce_stream *s)
{
    ce_addr a;
    socklen_t n = sizeof a, n_int = sizeof(int);
    int tos = 0, ttl = 0;
    if (s->steer.own_port)
        return 0;
    if (getsockname(s->fd, &a.sa, &n) || a.sa.sa_family != AF_INET ||
        getsockopt(s->fd, IPPROTO_IP, IP_TOS, &tos, &n_int) ||
        getsockopt(s->fd, IPPROTO_IP, IP_TTL, &ttl, &n_int))
        return -1;
    s->steer.own = a.in4.sin_addr.s_addr;
    s->steer.own_port = a.in4.sin_port;
    s->steer.tos = (uint8_t)tos;
    s->steer.ttl = (uint8_t)ttl;
    return 0;
}

static void withdraw(ce_stream *s)
{
    ce_steer_share *h = s->e->steer;
    s->steer.out = 0;
    if (s->steer.in)
        __atomic_store_n(&h->steer->legs[ntohs(s->steer.own_port)].socket, 0, __ATOMIC_RELEASE);
}

static void release(ce_stream *s)
{
    ce_steer_share *h = s->e->steer;
    uint16_t port = ntohs(s->steer.own_port);
    if (!s->steer.in)
        return;
    s->steer.in = 0;
    s->e->st.n_steered--;
    h->by_port[port] = NULL;
    for (uint32_t i = 0; i < h->n_fresh; i++)
        if (h->fresh[i] == s)
            h->fresh[i] = NULL;
    __atomic_store_n(&h->steer->legs[port].taken, 0, __ATOMIC_RELEASE);
}

void ce_steer_point(ce_stream *s)
{
    ce_steer_share *h = s->e->steer;
    if (!h || s->kind != CE_RTP)
        return;
    withdraw(s);
    const struct sockaddr_in *far = &s->remote.in4;
    if (!s->remote_set || far->sin_family != AF_INET || !far->sin_addr.s_addr ||
        IN_MULTICAST(ntohl(far->sin_addr.s_addr)) || find_own(s)) {
        release(s);
        return;
    }
    s->steer.out = s->steer.own && !IN_MULTICAST(ntohl(s->steer.own));
    uint16_t port = ntohs(s->steer.own_port), taken = 0;
    struct sb_leg *leg = &h->steer->legs[port];
    if (!s->steer.in) {
        /* Another leg may have the same port of another address of ours. */
        if (!__atomic_compare_exchange_n(&leg->taken, &taken, 1, 0, __ATOMIC_ACQUIRE,
                                         __ATOMIC_RELAXED))
            return;
        s->steer.in = 1;
        s->e->st.n_steered++;
        h->by_port[port] = s;
        if (h->n_fresh < FRESH)
            h->fresh[h->n_fresh++] = s;
    }
    leg->from = far->sin_addr.s_addr;
    leg->port = far->sin_port;
    leg->own = s->steer.own;
    __atomic_store_n(&leg->socket, (uint32_t)(h->first + port / 2 % h->steer->sockets_each) + 1,
                     __ATOMIC_RELEASE);
}

void ce_steer_let_go(ce_stream *s)
{
    ce_engine *e = s->e;
    if (!e->steer)
        return;
    withdraw(s);
    if (s->steer.in)
        ce_steer_drain(e);
    ce_steer_flush(e); /* nothing of a leg that goes may wait */
    release(s);
}

/* ---- packets in ---- */

static int port_of(struct msghdr *m)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        struct sockaddr_in a;
        if (c->cmsg_level != IPPROTO_IP || c->cmsg_type != IP_ORIGDSTADDR)
            continue;
        memcpy(&a, CMSG_DATA(c), sizeof a);
        return ntohs(a.sin_port);
    }
    return 0; /* nobody's */
}

static void received(ce_engine *e, ce_stream *s, const struct mmsghdr *m)
{
    const struct msghdr *h = &m->msg_hdr;
    if (!s)
        return; /* of a leg that has gone */
    e->st.steered_packets++;
    if (e->flush_rx)
        s->c.late++;
    else if (h->msg_flags & MSG_TRUNC)
        s->c.refused++;
    else {
        ce_rtp_arrived(e, h->msg_control, h->msg_controllen);
        ce_rtp_packet(s, h->msg_iov->iov_base, (int)m->msg_len, h->msg_name);
    }
}

/* Where its packet will go. */
static void prefetch_target(const ce_stream *s)
{
    if (s->relayed)
        ce_prefetch(s->bridge_next ? s->bridge_next : s->bridge_prev);
    else
        ce_jitter_prefetch(&s->jb, s->jb.end);
}

static int take(ce_engine *e, int fd)
{
    ce_steer_share *h = e->steer;
    ce_stream *who[BATCH];
    for (int i = 0; i < BATCH; i++) {
        h->rx[i].msg_hdr.msg_namelen = sizeof h->from[i];
        h->rx[i].msg_hdr.msg_controllen = CONTROL_BYTES;
    }
    int n = recvmmsg(fd, h->rx, BATCH, MSG_DONTWAIT, NULL);
    for (int i = 0; i < n + 2 * PREFETCH; i++) {
        int next = i - PREFETCH, now = next - PREFETCH;
        if (i < n && (who[i] = h->by_port[port_of(&h->rx[i].msg_hdr)]) != NULL)
            ce_prefetch(who[i]);
        if (next >= 0 && next < n && who[next])
            prefetch_target(who[next]);
        if (now >= 0)
            received(e, who[now], &h->rx[now]);
    }
    return n;
}

void ce_steer_drain(ce_engine *e)
{
    ce_steer_share *h = e->steer;
    for (uint32_t i = 0; i < h->n_fresh; i++) {
        if (!h->fresh[i])
            continue;
        h->fresh[i]->ready_wake = e->wakes; /* all of them, or a later one would come before */
        ce_rtp_readable(e, h->fresh[i]);
    }
    h->n_fresh = 0;
    for (int i = 0; i < h->steer->sockets_each; i++)
        for (int n = 0; n < MOST_IN_A_WAKE; n += BATCH)
            if (take(e, h->in[i]) < BATCH)
                break;
}

/* ---- packets out ---- */

static uint64_t sum(uint64_t so_far, const uint8_t *p, int n)
{
    uint32_t word;
    for (; n >= 4; n -= 4, p += 4) {
        memcpy(&word, p, 4);
        so_far += word;
    }
    if (n) {
        word = 0;
        memcpy(&word, p, (size_t)n);
        so_far += word;
    }
    return so_far;
}

static uint16_t checksum(uint64_t total)
{
    while (total >> 16)
        total = (total & 0xffff) + (total >> 16);
    return (uint16_t)(total == 0xffff ? 0xffff : ~total); /* RFC 768: never 0 */
}

int ce_steer_send(ce_stream *s, const uint8_t *packet, int n)
{
    ce_steer_share *h = s->e->steer;
    if (!h || !s->steer.out || n > TX_BYTES)
        return -1;
    if (h->n_tx == N_TX || h->tx_octets + HEAD_BYTES + (uint32_t)n > TX_ROOM)
        ce_steer_flush(s->e);
    uint32_t at = h->n_tx++;
    uint8_t *p = h->packets + h->tx_octets;
    h->tx_octets += (HEAD_BYTES + (uint32_t)n + 15) / 16 * 16;
    if (!++h->ip_id)
        h->ip_id = 1; /* else the kernel makes one */
    struct udphdr udp = {.source = s->steer.own_port, .dest = s->remote.in4.sin_port,
                         .len = htons((uint16_t)(sizeof udp + (size_t)n))};
    struct iphdr ip = {.version = 4, .ihl = 5, .tos = s->steer.tos, .ttl = s->steer.ttl,
                       .tot_len = htons((uint16_t)(HEAD_BYTES + n)), .id = htons(h->ip_id),
                       .frag_off = htons(IP_DF), .protocol = IPPROTO_UDP, .saddr = s->steer.own,
                       .daddr = s->remote.in4.sin_addr.s_addr};
    memcpy(p + HEAD_BYTES, packet, (size_t)n);
    uint64_t total = (uint64_t)ip.saddr + ip.daddr + htons(IPPROTO_UDP) + udp.len;
    total = sum(total, (const uint8_t *)&udp, sizeof udp);
    udp.check = checksum(sum(total, p + HEAD_BYTES, n));
    memcpy(p, &ip, sizeof ip);
    memcpy(p + sizeof ip, &udp, sizeof udp);
    h->tx_v[at] = (struct iovec){p, (size_t)(HEAD_BYTES + n)};
    h->to[at] = s->remote.in4;
    h->who[at] = s;
    return 0;
}

void ce_steer_flush(ce_engine *e)
{
    ce_steer_share *h = e->steer;
    for (uint32_t at = 0; at < h->n_tx;) {
        int sent = sendmmsg(h->out, h->tx + at, h->n_tx - at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent > 0) {
            at += (uint32_t)sent;
            continue;
        }
        /* Longer than the path takes in one piece, broadcast ...: the leg's own socket knows how,
         * or says why not. */
        ce_stream *s = h->who[at];
        if (sendto(s->fd, (uint8_t *)h->tx_v[at].iov_base + HEAD_BYTES, h->tx_v[at].iov_len - HEAD_BYTES,
                   MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&h->to[at],
                   sizeof h->to[at]) < 0)
            ce_health_unsent(s, errno);
        at++;
    }
    h->n_tx = h->tx_octets = 0;
}
