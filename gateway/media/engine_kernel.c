/* Relays that the kernel carries (relay_bpf.c): handed over and taken back, their counts read.
 *
 * A session that exists is the kernel's; without one the packets come up. The kernel takes only the
 * usual next packet of a known source, and leaves one in RK_SAMPLE_EVERY to us; all others are
 * ours. Both use the same offsets, so that it does not matter who passes on which packet. */
#include "engine_impl.h"

#include <errno.h>
#include <linux/rtnetlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "relay_bpf.h"

enum {
    LINKS = 64,
    TCX_INGRESS = 46,     /* BPF_TCX_INGRESS; older headers lack it */
    SETTLE_MS = 200,      /* in user space after each change */
    RETRY_MS = 5000,      /* after a refusal */
    FRESH_MS = 100,       /* a source that is heard */
    HANDED_A_WAKE = 16,   /* system calls keep the thread from its frames */
    REST_MS = 20,         /* before a place is used again: a packet may still be on its way */
    MOST_LAW = 480,
    XR_STEP = 32,         /* numbers that XR leaves open */
};

static const uint64_t PROGRAM[] = {
#include "relay_bpf.inc"
};
enum { N_PROGRAM = sizeof PROGRAM / sizeof PROGRAM[0] };

struct ce_kernel {
    int program, places, session_map, laws, links[LINKS];
    int n_links;
    uint32_t n;
    struct rk_session *sessions;
};

typedef struct {
    uint32_t at;
    uint64_t tick;
} free_place;

struct ce_kernel_share { /* one engine's part of it */
    ce_kernel *kernel;
    uint32_t n;
    uint64_t head, tail; /* they never wrap: n is no power of two */
    int route;
    uint64_t wake;
    int handed;
    free_place *free;
};

static void map_forget(int fd, const void *key)
{
    union bpf_attr a;
    ce_bpf_clear(&a);
    a.map_fd = (uint32_t)fd;
    a.key = (uintptr_t)key;
    ce_bpf(BPF_MAP_DELETE_ELEM, &a); /* it is there, or it is gone */
}

static int fill_laws(ce_kernel *k)
{
    uint8_t from[256], to[2][256];
    for (int i = 0; i < 256; i++)
        from[i] = (uint8_t)i;
    cp_g711_setup();
    cp_ulaw_to_alaw(from, to[RK_ULAW_TO_ALAW - 1], 256);
    cp_alaw_to_ulaw(from, to[RK_ALAW_TO_ULAW - 1], 256);
    for (uint32_t i = 0; i < 2; i++)
        if (ce_bpf_set(k->laws, &i, to[i]))
            return -1;
    return 0;
}

static size_t sessions_bytes(const ce_kernel *k)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (k->n * sizeof *k->sessions + page - 1) / page * page;
}

ce_kernel *ce_kernel_new(uint32_t n, const char **what)
{
    ce_kernel *k = ce_zeroed(sizeof *k);
    *what = "memory";
    if (!k)
        return NULL;
    k->n = n;
    k->program = -1;
    k->sessions = MAP_FAILED;
    k->places = ce_bpf_map(BPF_MAP_TYPE_HASH, sizeof(struct rk_place), 4, n, 0);
    k->session_map = ce_bpf_map(BPF_MAP_TYPE_ARRAY, 4, sizeof *k->sessions, n, BPF_F_MMAPABLE);
    k->laws = ce_bpf_map(BPF_MAP_TYPE_ARRAY, 4, 256, 2, 0);
    *what = "bpf(BPF_MAP_CREATE)";
    if (k->places < 0 || k->session_map < 0 || k->laws < 0 || fill_laws(k))
        goto refused;
    *what = "mmap of a BPF map";
    k->sessions = mmap(NULL, sessions_bytes(k), PROT_READ | PROT_WRITE, MAP_SHARED, k->session_map,
                       0);
    if (k->sessions == MAP_FAILED)
        goto refused;
    *what = "bpf(BPF_PROG_LOAD)";
    ce_bpf_maps maps = {3, {RK_MAP_PLACES, RK_MAP_SESSIONS, RK_MAP_LAWS},
                        {k->places, k->session_map, k->laws}};
    if ((k->program = ce_bpf_program(BPF_PROG_TYPE_SCHED_CLS, 0, "rtp_relay", PROGRAM, N_PROGRAM,
                                     &maps)) >= 0)
        return k;
refused:;
    int error = errno;
    ce_kernel_free(k);
    errno = error;
    return NULL;
}

int ce_kernel_attach(ce_kernel *k, int interface)
{
    union bpf_attr a;
    if (k->n_links == LINKS)
        return ENOSPC;
    ce_bpf_clear(&a);
    a.link_create.prog_fd = (uint32_t)k->program;
    a.link_create.target_fd = (uint32_t)interface;
    a.link_create.attach_type = TCX_INGRESS;
    int fd = ce_bpf(BPF_LINK_CREATE, &a);
    if (fd < 0)
        return errno;
    k->links[k->n_links++] = fd;
    return 0;
}

void ce_kernel_free(ce_kernel *k)
{
    if (!k)
        return;
    for (int i = 0; i < k->n_links; i++)
        close(k->links[i]); /* the last holder of a link takes the program off its interface */
    if (k->sessions != MAP_FAILED)
        munmap(k->sessions, sessions_bytes(k));
    int fds[] = {k->program, k->places, k->session_map, k->laws};
    for (int i = 0; i < 4; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    free(k);
}

int ce_kernel_share_new(ce_engine *e, ce_kernel *k, uint32_t first, uint32_t n)
{
    ce_kernel_share *h = ce_zeroed(sizeof *h);
    if (!h)
        return ENOMEM;
    h->kernel = k;
    h->n = h->tail = n;
    h->free = ce_zeroed(n * sizeof *h->free);
    h->route = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (!h->free || h->route < 0) {
        int error = h->free ? errno : ENOMEM;
        ce_kernel_share_free(h);
        return error;
    }
    for (uint32_t i = 0; i < n; i++)
        h->free[i].at = first + i;
    e->kernel = h;
    e->st.kernel = 1;
    return 0;
}

void ce_kernel_share_free(ce_kernel_share *h)
{
    if (!h)
        return;
    if (h->route >= 0)
        close(h->route);
    free(h->free);
    free(h);
}

/* ---- where packets leave ---- */

typedef struct {
    uint32_t interface, from_ip;
} way;

/* As the kernel routes what our socket sends; 0: found. */
static int find_way(ce_kernel_share *h, uint32_t from_ip, uint32_t to_ip, way *out)
{
    struct {
        struct nlmsghdr n;
        struct rtmsg r;
        struct rtattr to_head;
        uint32_t to;
        struct rtattr from_head;
        uint32_t from;
    } ask = {
        .n = {sizeof ask, RTM_GETROUTE, NLM_F_REQUEST, 0, 0},
        .r = {.rtm_family = AF_INET, .rtm_dst_len = 32, .rtm_src_len = 32},
        .to_head = {8, RTA_DST}, .to = to_ip,
        .from_head = {8, RTA_SRC}, .from = from_ip,
    };
    if (!from_ip) {
        ask.n.nlmsg_len -= 8;
        ask.r.rtm_src_len = 0;
    }
    _Alignas(8) uint8_t buf[1024];
    if (send(h->route, &ask, ask.n.nlmsg_len, MSG_DONTWAIT) < 0)
        return -1;
    ssize_t got = recv(h->route, buf, sizeof buf, MSG_DONTWAIT); /* the answer is made at once */
    struct nlmsghdr *n = (struct nlmsghdr *)buf;
    if (got < (ssize_t)NLMSG_LENGTH(sizeof(struct rtmsg)) || n->nlmsg_type != RTM_NEWROUTE)
        return -1;
    struct rtmsg *r = NLMSG_DATA(n);
    int left = (int)RTM_PAYLOAD(n);
    *out = (way){0, from_ip};
    for (struct rtattr *a = RTM_RTA(r); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
        if (a->rta_type == RTA_OIF)
            memcpy(&out->interface, RTA_DATA(a), 4);
        else if (a->rta_type == RTA_PREFSRC && !from_ip)
            memcpy(&out->from_ip, RTA_DATA(a), 4);
    }
    /* On this machine only by way of `lo`: elsewhere our own address is no one's to come from. */
    int there = r->rtm_type == RTN_UNICAST ||
                (r->rtm_type == RTN_LOCAL && out->interface == RK_LOOPBACK);
    return there && out->interface && out->from_ip ? 0 : -1;
}

/* Our own address and port, and the way to its far end. */
static int find_leg(const ce_stream *s, struct sockaddr_in *own, way *out)
{
    ce_addr a;
    socklen_t n = sizeof a;
    if (s->remote.sa.sa_family != AF_INET || getsockname(s->fd, &a.sa, &n) ||
        a.sa.sa_family != AF_INET)
        return -1;
    *own = a.in4;
    if (find_way(s->e->kernel, own->sin_addr.s_addr, s->remote.in4.sin_addr.s_addr, out))
        return -1;
    own->sin_addr.s_addr = out->from_ip;
    return 0;
}

/* ---- one stream's packets ---- */

static ce_stream *other(const ce_stream *s)
{
    return s->bridge_next ? s->bridge_next : s->bridge_prev;
}

static struct rk_session *session(const ce_stream *s)
{
    return &s->e->kernel->kernel->sessions[s->kernel.at];
}

static int may(const ce_stream *s, const ce_stream *to)
{
    uint64_t tick = s->e->tick;
    int law = s->codec != to->codec;
    return tick >= s->kernel.after && s->rx && s->remote_set && s->rx_seen && s->relay_anchored &&
           tick - s->last_rx_tick < FRESH_MS && !s->has_probation && !s->te_active &&
           !s->cn.active && !s->srtp_in && !s->tap && s->pt != CE_NO_PT && to->tx &&
           to->remote_set && !to->srtp_out && !to->tap && !to->ext_out.set &&
           to->pt != CE_NO_PT && !(law && s->ptime_ms * s->clock_ms > MOST_LAW);
}

static int hand_over(ce_stream *s, ce_stream *to)
{
    ce_kernel_share *h = s->e->kernel;
    struct sockaddr_in in, out;
    way back, on;
    int tos = 0;
    socklen_t n = sizeof tos;
    if (find_leg(s, &in, &back) || find_leg(to, &out, &on) ||
        getsockopt(to->fd, IPPROTO_IP, IP_TOS, &tos, &n))
        return -1;
    free_place *f = &h->free[h->head % h->n];
    if (h->head == h->tail || s->e->tick < f->tick + REST_MS)
        return -1;
    struct rk_session *k = &h->kernel->sessions[f->at];
    *k = (struct rk_session){
        .from_ip = out.sin_addr.s_addr, .to_ip = to->remote.in4.sin_addr.s_addr,
        .from_port = out.sin_port, .to_port = to->remote.in4.sin_port,
        .ssrc_in = htonl(s->source.ssrc), .ssrc_out = htonl(to->ssrc_out),
        .ts_add = s->relay_ts_off, .seq_add = s->relay_seq_off, .pt_in = s->pt, .pt_out = to->pt,
        .tos = (uint8_t)tos, .interface = on.interface, .came_by = back.interface,
        .state = s->source.max_seq,
        .law = s->codec == to->codec ? RK_SAME_LAW
               : s->codec == CE_PCMU ? RK_ULAW_TO_ALAW : RK_ALAW_TO_ULAW,
    };
    s->kernel.place[0] = s->remote.in4.sin_addr.s_addr;
    s->kernel.place[1] = in.sin_addr.s_addr;
    s->kernel.place[2] = 0;
    memcpy(&s->kernel.place[2], &(uint16_t[2]){s->remote.in4.sin_port, in.sin_port}, 4);
    if (ce_bpf_set(h->kernel->places, s->kernel.place, &f->at))
        return -1;
    s->kernel.at = f->at;
    s->kernel.state = k->state;
    s->kernel.packets = s->kernel.octets = 0;
    s->kernel.on = 1;
    h->head++;
    s->e->st.n_kernel++;
    return 0;
}

/* `passed` as it was `later` packets ago; what was too long ago to tell counts as passed on. */
static uint64_t passed_before(uint64_t passed, int later)
{
    return later >= 64 ? ~0ull : passed >> later | ~(~0ull >> later);
}

/* What the kernel has done since: as if we had done it. */
void ce_kernel_sync(ce_stream *s)
{
    if (!s->kernel.on)
        return;
    ce_engine *e = s->e;
    const volatile struct rk_session *k = session(s);
    uint64_t state = k->state, last = k->last, packets = k->packets, octets = k->octets;
    uint64_t n = packets - s->kernel.packets, n_octets = octets - s->kernel.octets;
    if (state == s->kernel.state && !n)
        return;
    s->kernel.state = state;
    s->kernel.packets = packets;
    s->kernel.octets = octets;

    uint16_t top = (uint16_t)state;
    uint64_t passed = state >> RK_TOP_BITS;
    int16_t ahead = (int16_t)(top - s->window_seq);
    if (ahead >= RK_WINDOW)
        passed |= ~0ull << RK_WINDOW; /* too long ago to tell */
    if (ahead < 0 && ahead > -64)
        s->seq_window |= passed << -ahead;
    else if (!ahead)
        s->seq_window |= passed;
    while (ahead > 0) { /* XR judges a number when it has been in the window, not before */
        int step = ahead < XR_STEP ? ahead : XR_STEP;
        ahead = (int16_t)(ahead - step);
        ce_xr_advance(s, step);
        s->seq_window = s->seq_window << step | passed_before(passed, ahead);
    }
    if ((int16_t)(top - s->window_seq) > 0)
        s->window_seq = top;

    uint32_t now_us = (uint32_t)(e->now_ns / 1000), ts = (uint32_t)last;
    int64_t at_ns = e->now_ns + (int64_t)(int32_t)((uint32_t)(last >> 32) - now_us) * 1000;
    int64_t rx_ns = e->rx_ns;
    cp_rtp_source_counted(&s->source, top, (uint32_t)n, ts, at_ns);
    e->rx_ns = at_ns;
    ce_health_arrival(s, ts);
    e->rx_ns = rx_ns;
    s->last_rx_tick = (uint64_t)at_ns / 1000000;
    if (s->last_rx_tick > e->tick)
        s->last_rx_tick = e->tick; /* it came since this thread woke */
    s->timed_out = 0;
    s->c.rx_packets += n;
    s->c.rx_octets += n_octets;
    s->c.kernel_packets += n;
    if (!n)
        return;
    s->cn.active = 0;
    s->has_probation = 0;
    ce_stream *to = other(s);
    uint16_t out = (uint16_t)(top + s->relay_seq_off);
    if ((int16_t)(out - to->seq_out) >= 0)
        to->seq_out = (uint16_t)(out + 1);
    to->last_ts = ts + s->relay_ts_off;
    to->sent_any = 1;
    to->c.tx_packets += n;
    to->c.tx_octets += n_octets;
    e->st.rx_packets += n;
    e->st.tx_packets += n;
    e->st.kernel_packets += n;
    e->seen_packets += n; /* no reason to wake more often */
}

void ce_kernel_take_back(ce_stream *s)
{
    if (!s->kernel.on)
        return;
    ce_kernel_share *h = s->e->kernel;
    map_forget(h->kernel->places, s->kernel.place);
    ce_kernel_sync(s);
    s->kernel.on = 0;
    s->kernel.after = s->e->tick + SETTLE_MS;
    h->free[h->tail++ % h->n] = (free_place){s->kernel.at, s->e->tick};
    s->e->st.n_kernel--;
}

void ce_kernel_take_back_all(const ce_bridge *b)
{
    for (ce_stream *s = b ? b->members : NULL; s; s = s->bridge_next)
        ce_kernel_take_back(s);
}

void ce_kernel_consider(ce_stream *s)
{
    ce_kernel_share *h = s->e->kernel;
    if (!h || s->kernel.on || !s->relayed || !may(s, other(s)))
        return;
    if (h->wake != s->e->wakes) {
        h->wake = s->e->wakes;
        h->handed = 0;
    }
    if (h->handed++ >= HANDED_A_WAKE)
        return;
    if (hand_over(s, other(s)))
        s->kernel.after = s->e->tick + RETRY_MS;
}

int ce_kernel_has_seen(const ce_stream *s, uint16_t seq)
{
    return (uint16_t)((uint16_t)s->kernel.state - seq) < RK_WINDOW;
}

/* A packet came up: numbers that the kernel will not come to are on another time line. */
void ce_kernel_passed_by(ce_stream *s)
{
    ce_kernel_sync(s);
    uint16_t ahead = (uint16_t)(s->source.max_seq - (uint16_t)s->kernel.state);
    if (s->kernel.on && ahead >= RK_WINDOW)
        ce_kernel_take_back(s);
}

/* Routes and our own addresses change. */
void ce_kernel_look_again(ce_stream *s)
{
    struct sockaddr_in in, out;
    way back, on;
    if (!s->kernel.on)
        return;
    const struct rk_session *k = session(s);
    if (find_leg(s, &in, &back) || find_leg(other(s), &out, &on) || back.interface != k->came_by ||
        on.interface != k->interface || out.sin_addr.s_addr != k->from_ip)
        ce_kernel_take_back(s);
}
