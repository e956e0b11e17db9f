/* The far ends of many calls behind a few sockets: sends RTP with sendmmsg, evenly over each 20 ms,
 * takes what comes back with recvmmsg, and judges it leg by leg.
 *
 * crowd MAP SOCKETS CPU TYPE_A TYPE_B SPEECH_A SPEECH_B CAPTURE LISTEN WARM_S SECONDS TAIL_S
 *
 * MAP has a line for each call: port of ours, address and port of the gateway, of side A and then of
 * side B. The gateway tells calls apart by its own port, and so do we by the port a packet is from;
 * each side has SOCKETS ports. SPEECH files are talkers of one second (50 frames of 160 octets)
 * that go round; leg i is talker i modulo their number. What each of LISTEN calls, evenly chosen,
 * hears after the warm-up is written to CAPTURE: records of leg, number, 160 octets.
 *
 * Says "begin" after the warm-up and "end" after SECONDS, goes on for TAIL_S, and then says what
 * it saw in a line of JSON. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    FRAME = 160,
    PACKET = 12 + FRAME,
    FRAMES = 50, /* of a talker */
    TICK_NS = 500000,
    SLOTS = 40, /* ticks in 20 ms */
    BATCH = 256,
    BUFFER = 16 << 20,
    SOCKETS = 64,
    BIN_NS = 50000,
    BINS = 4000, /* 200 ms; the last holds all that is beyond */
    RX_BYTES = 512,
};

typedef struct {
    struct sockaddr_in gateway;
    uint32_t ssrc_out, ts_out, ssrc_in, heard, lost, reordered;
    uint16_t seq_out, newest;
    uint8_t side, known, captured;
    int socket;
    int64_t came_ns;
} leg;

typedef struct {
    uint32_t leg;
    uint16_t seq, octets;
    uint8_t payload[FRAME];
} record;

static leg *legs;
static int n_legs, n_sockets, fds[2 * SOCKETS], type[2], talkers[2], judging;
static uint8_t *speech[2];
static int32_t by_port[65536]; /* of the gateway: leg + 1 */
static uint64_t sent, missed, received, strange, overflowed, ssrc_changes, other_type, heard_in_all;
static uint32_t gaps[BINS], late[BINS], dropped_before[2 * SOCKETS];
static record *captured;
static size_t n_captured, max_captured;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int64_t ns_of(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void note(uint32_t *bins, int64_t ns)
{
    int64_t at = ns < 0 ? 0 : ns / BIN_NS;
    bins[at < BINS ? at : BINS - 1]++;
}

/* Upper edge, in ms, of the bin that `share` of all lie in or below. */
static double quantile(const uint32_t *bins, double share)
{
    uint64_t all = 0, seen = 0;
    for (int i = 0; i < BINS; i++)
        all += bins[i];
    for (int i = 0; i < BINS; i++)
        if ((seen += bins[i]) && (double)seen >= share * (double)all)
            return (i + 1) * (BIN_NS / 1e6);
    return 0;
}

static int shared_socket(int port)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), on = 1, n = BUFFER;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || bind(fd, (void *)&a, sizeof a))
        die("bind");
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &n, sizeof n))
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &n, sizeof n);
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &n, sizeof n))
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &n, sizeof n);
    setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_RXQ_OVFL, &on, sizeof on);
    return fd;
}

/* RTCP is taken in and thrown away by a socket with next to no buffer. */
static void sink(int port)
{
    int fd = socket(AF_INET, SOCK_DGRAM, 0), n = 1;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || bind(fd, (void *)&a, sizeof a))
        die("bind");
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &n, sizeof n);
}

static int socket_of(int port, int *ports)
{
    for (int i = 0; i < n_sockets; i++)
        if (ports[i] == port)
            return i;
    if (n_sockets == 2 * SOCKETS)
        die("too many sockets");
    ports[n_sockets] = port;
    fds[n_sockets] = shared_socket(port);
    sink(port + 1);
    return n_sockets++;
}

static void read_map(const char *name)
{
    FILE *f = fopen(name, "r");
    int own[2], there[2], ports[2 * SOCKETS], room = 0;
    char ip[2][64];
    if (!f)
        die(name);
    while (fscanf(f, "%d %63s %d %d %63s %d", &own[0], ip[0], &there[0], &own[1], ip[1],
                  &there[1]) == 6) {
        if (n_legs == room && !(legs = realloc(legs, (size_t)(room += 512) * sizeof *legs)))
            die("memory");
        for (int side = 0; side < 2; side++) {
            leg *l = &legs[n_legs];
            memset(l, 0, sizeof *l);
            l->side = (uint8_t)side;
            l->socket = socket_of(own[side], ports);
            l->gateway = (struct sockaddr_in){.sin_family = AF_INET,
                                              .sin_port = htons((uint16_t)there[side])};
            inet_pton(AF_INET, ip[side], &l->gateway.sin_addr);
            l->ssrc_out = (uint32_t)(random() << 12 ^ n_legs);
            l->seq_out = (uint16_t)(random() & 0x7fff);
            l->ts_out = (uint32_t)random();
            by_port[there[side]] = ++n_legs;
        }
    }
    fclose(f);
}

static void read_speech(int side, const char *name)
{
    FILE *f = fopen(name, "rb");
    if (!f || fseek(f, 0, SEEK_END))
        die(name);
    long n = ftell(f);
    rewind(f);
    talkers[side] = (int)(n / (FRAMES * FRAME));
    if (talkers[side] < 1 || !(speech[side] = malloc((size_t)n)) ||
        fread(speech[side], 1, (size_t)n, f) != (size_t)n)
        die(name);
    fclose(f);
}

/* ---- out ---- */

static uint8_t packets[2 * SOCKETS][BATCH][PACKET];
static struct mmsghdr tx[2 * SOCKETS][BATCH];
static struct iovec tx_v[2 * SOCKETS][BATCH];
static int n_tx[2 * SOCKETS];

static void flush(int at)
{
    for (int i = 0; i < n_tx[at];) {
        int n = sendmmsg(fds[at], tx[at] + i, (unsigned)(n_tx[at] - i), 0);
        if (n <= 0) {
            missed++;
            i++;
            continue;
        }
        i += n;
        sent += (uint64_t)n;
    }
    n_tx[at] = 0;
}

static void speak(int i, uint32_t frame)
{
    leg *l = &legs[i];
    int at = l->socket, n = n_tx[at]++;
    uint8_t *p = packets[at][n];
    p[0] = 0x80;
    p[1] = (uint8_t)(type[l->side] | (frame ? 0 : 0x80));
    uint16_t seq = htons(l->seq_out++);
    uint32_t word[2] = {htonl(l->ts_out), htonl(l->ssrc_out)};
    memcpy(p + 2, &seq, 2);
    memcpy(p + 4, word, 8);
    l->ts_out += FRAME;
    memcpy(p + 12, speech[l->side] + (i % talkers[l->side] * FRAMES + (int)(frame % FRAMES)) * FRAME,
           FRAME);
    tx_v[at][n] = (struct iovec){p, PACKET};
    tx[at][n].msg_hdr = (struct msghdr){.msg_name = &l->gateway, .msg_namelen = sizeof l->gateway,
                                        .msg_iov = &tx_v[at][n], .msg_iovlen = 1};
    if (n + 1 == BATCH)
        flush(at);
}

/* ---- in ---- */

static void heard(leg *l, const uint8_t *p, int n, int64_t came_ns)
{
    uint16_t seq = (uint16_t)(p[2] << 8 | p[3]);
    uint32_t ssrc = (uint32_t)p[8] << 24 | (uint32_t)p[9] << 16 | (uint32_t)p[10] << 8 | p[11];
    heard_in_all++;
    if (l->known && ssrc != l->ssrc_in)
        ssrc_changes++;
    other_type += (p[1] & 0x7f) != type[l->side];
    if (judging && l->known) {
        int16_t ahead = (int16_t)(seq - l->newest);
        l->heard++;
        if (ahead > 0)
            l->lost += (uint32_t)ahead - 1;
        else { /* it had been counted as lost, unless it came twice */
            l->reordered++;
            l->lost -= l->lost > 0;
        }
        note(gaps, came_ns - l->came_ns);
    }
    if (!l->known || (int16_t)(seq - l->newest) > 0)
        l->newest = seq;
    l->known = 1;
    l->ssrc_in = ssrc;
    l->came_ns = came_ns;
    if (judging && l->captured && n == PACKET && n_captured < max_captured) {
        record *r = &captured[n_captured++];
        r->leg = (uint32_t)(l - legs);
        r->seq = seq;
        r->octets = FRAME;
        memcpy(r->payload, p + 12, FRAME);
    }
}

static void drain(int at)
{
    static struct mmsghdr m[BATCH];
    static struct iovec v[BATCH];
    static struct sockaddr_in from[BATCH];
    static uint8_t octets[BATCH][RX_BYTES];
    static _Alignas(8) uint8_t control[BATCH][CMSG_SPACE(sizeof(struct timespec)) + CMSG_SPACE(4)];
    int n;
    do {
        for (int i = 0; i < BATCH; i++) {
            v[i] = (struct iovec){octets[i], RX_BYTES};
            m[i].msg_hdr = (struct msghdr){.msg_name = &from[i], .msg_namelen = sizeof from[i],
                                           .msg_iov = &v[i], .msg_iovlen = 1,
                                           .msg_control = control[i],
                                           .msg_controllen = sizeof control[i]};
        }
        n = recvmmsg(fds[at], m, BATCH, MSG_DONTWAIT, NULL);
        for (int i = 0; i < n; i++) {
            int64_t came_ns = 0;
            for (struct cmsghdr *c = CMSG_FIRSTHDR(&m[i].msg_hdr); c;
                 c = CMSG_NXTHDR(&m[i].msg_hdr, c)) {
                struct timespec t;
                uint32_t dropped;
                if (c->cmsg_level != SOL_SOCKET)
                    continue;
                if (c->cmsg_type == SCM_TIMESTAMPNS) {
                    memcpy(&t, CMSG_DATA(c), sizeof t);
                    came_ns = t.tv_sec * 1000000000ll + t.tv_nsec;
                } else if (c->cmsg_type == SO_RXQ_OVFL) {
                    memcpy(&dropped, CMSG_DATA(c), sizeof dropped);
                    overflowed += dropped - dropped_before[at];
                    dropped_before[at] = dropped;
                }
            }
            received++;
            int32_t who = by_port[ntohs(from[i].sin_port)];
            if (!who || m[i].msg_len < 12 || octets[i][0] >> 6 != 2 ||
                legs[who - 1].socket != at)
                strange++;
            else
                heard(&legs[who - 1], octets[i], (int)m[i].msg_len, came_ns);
        }
    } while (n == BATCH);
}

/* ---- the run ---- */

static void run(double seconds, int64_t *due, uint32_t *tick)
{
    for (int64_t end = *due + (int64_t)(seconds * 1e9); *due < end; *due += TICK_NS, ++*tick) {
        struct timespec t = {*due / 1000000000, *due % 1000000000};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
        if (judging)
            note(late, ns_of(CLOCK_MONOTONIC) - *due);
        uint32_t slot = *tick % SLOTS;
        int from = (int)((int64_t)n_legs * slot / SLOTS), to = (int)((int64_t)n_legs * (slot + 1) / SLOTS);
        for (int i = from; i < to; i++)
            speak(i, *tick / SLOTS);
        for (int i = 0; i < n_sockets; i++) {
            if (n_tx[i])
                flush(i);
            drain(i);
        }
    }
}

int main(int argc, char **argv)
{
    if (argc != 13)
        return 2;
    type[0] = atoi(argv[4]), type[1] = atoi(argv[5]);
    int listen = atoi(argv[9]);
    double warm = atof(argv[10]), seconds = atof(argv[11]), tail = atof(argv[12]);
    cpu_set_t core;
    CPU_ZERO(&core);
    CPU_SET((unsigned)atoi(argv[3]), &core);
    if (sched_setaffinity(0, sizeof core, &core))
        die("sched_setaffinity");
    srandom((unsigned)ns_of(CLOCK_REALTIME));
    read_map(argv[1]);
    read_speech(0, argv[6]);
    read_speech(1, argv[7]);
    if (n_legs < 2 || n_sockets != 2 * atoi(argv[2]))
        return 2;
    for (int i = 0; i < listen; i++) {
        int call = (int)((int64_t)i * (n_legs / 2) / listen);
        legs[2 * call].captured = legs[2 * call + 1].captured = 1;
    }
    max_captured = (size_t)(2 * listen * (seconds + 1) * FRAMES) + 1;
    if (!(captured = calloc(max_captured, sizeof *captured)))
        die("memory");
    memset(captured, 1, max_captured * sizeof *captured); /* no page of it is missing later */
    mlockall(MCL_CURRENT);

    int64_t due = ns_of(CLOCK_MONOTONIC) / TICK_NS * TICK_NS + 20000000;
    uint32_t tick = 0;
    run(warm, &due, &tick);
    int64_t cpu = ns_of(CLOCK_PROCESS_CPUTIME_ID), wall = ns_of(CLOCK_MONOTONIC);
    uint64_t before = heard_in_all, sent_before = sent;
    puts("begin");
    fflush(stdout);
    judging = 1;
    run(seconds, &due, &tick);
    judging = 0;
    cpu = ns_of(CLOCK_PROCESS_CPUTIME_ID) - cpu, wall = ns_of(CLOCK_MONOTONIC) - wall;
    uint64_t in_time = heard_in_all - before, sent_in_time = sent - sent_before;
    puts("end");
    fflush(stdout);
    run(tail, &due, &tick);
    for (int i = 0; i < 200; i++) { /* what is still on its way */
        usleep(2000);
        for (int k = 0; k < n_sockets; k++)
            drain(k);
    }

    uint64_t lost = 0, reordered = 0, with_gaps = 0;
    uint32_t least = UINT32_MAX, most = 0;
    for (int i = 0; i < n_legs; i++) {
        lost += legs[i].lost, reordered += legs[i].reordered, with_gaps += legs[i].lost > 0;
        least = legs[i].heard < least ? legs[i].heard : least;
        most = legs[i].heard > most ? legs[i].heard : most;
    }
    FILE *f = fopen(argv[8], "wb");
    if (!f || fwrite(captured, sizeof *captured, n_captured, f) != n_captured || fclose(f))
        die(argv[8]);
    printf("{\"legs\": %d, \"sockets\": %d, \"sent\": %llu, \"unsent\": %llu, \"received\": %llu, "
           "\"sent_in_time\": %llu, \"heard_in_time\": %llu, \"lost\": %llu, \"reordered\": %llu, "
           "\"legs_with_gaps\": %llu, \"least_heard\": %u, \"most_heard\": %u, \"strange\": %llu, "
           "\"ssrc_changes\": %llu, \"other_type\": %llu, \"gap_ms_p50\": %.2f, "
           "\"gap_ms_p99\": %.2f, \"gap_ms_worst\": %.2f, \"generator_late_ms_p99\": %.2f, "
           "\"generator_late_ms_worst\": %.2f, \"generator_overflowed\": %llu, "
           "\"generator_core_percent\": %.1f}\n",
           n_legs, n_sockets, (unsigned long long)sent, (unsigned long long)missed,
           (unsigned long long)received, (unsigned long long)sent_in_time,
           (unsigned long long)in_time, (unsigned long long)lost, (unsigned long long)reordered,
           (unsigned long long)with_gaps, least, most, (unsigned long long)strange,
           (unsigned long long)ssrc_changes, (unsigned long long)other_type, quantile(gaps, 0.5),
           quantile(gaps, 0.99), quantile(gaps, 1.0), quantile(late, 0.99), quantile(late, 1.0),
           (unsigned long long)overflowed, 100.0 * (double)cpu / (double)wall);
    return 0;
}
