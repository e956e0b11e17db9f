/* A bad network between two interfaces, in user space: for kernels without sch_netem.

   between IF_A IF_B [SEED]

   Frames that come in at one interface leave at the other one, spoilt as the last command said.
   Commands are lines on standard input, each is answered by one line:

     set LOSS BURST DELAY JITTER DUPLICATE REORDER CORRUPT
                 shares are percent, times are milliseconds; BURST is the mean length of a row of
                 lost frames (1: each for itself); REORDER is the share that overtakes the delay;
                 CORRUPT flips one bit behind the UDP header
     black 0|1   nothing passes
     count       frames seen, lost, doubled, hastened, corrupted, sent; strays

   A stray is an IPv4 packet to an address outside 10.77.0.0/16 and 10.78.0.0/16. ARP passes always.
   Ends when standard input does. Needs CAP_NET_RAW. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define LONGEST 9216
#define MOST 65536
#define SIDES 2

struct frame {
    double due_ms;
    uint64_t order;
    int out, n_bytes;
    unsigned char *bytes;
};

static struct frame *waiting[MOST];
static int n_waiting;
static uint64_t n_order;
static struct { unsigned long seen, lost, doubled, hastened, corrupted, sent, strays, dropped; } n;
static struct { double loss, burst, delay, jitter, doubled, hastened, corrupt; int black; } how = {.burst = 1};
static int in_burst[SIDES], sides[SIDES];

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static int chance(double percent) { return drand48() * 100 < percent; }

static int before(const struct frame *a, const struct frame *b)
{
    return a->due_ms != b->due_ms ? a->due_ms < b->due_ms : a->order < b->order;
}

static void put(struct frame *f)
{
    if (n_waiting == MOST) {
        n.dropped++;
        free(f->bytes);
        free(f);
        return;
    }
    int at = n_waiting++;
    while (at && before(f, waiting[(at - 1) / 2])) {
        waiting[at] = waiting[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    waiting[at] = f;
}

static struct frame *take(void)
{
    struct frame *first = waiting[0], *last = waiting[--n_waiting];
    int at = 0, child;
    while ((child = 2 * at + 1) < n_waiting) {
        if (child + 1 < n_waiting && before(waiting[child + 1], waiting[child])) child++;
        if (!before(waiting[child], last)) break;
        waiting[at] = waiting[child];
        at = child;
    }
    waiting[at] = last;
    return first;
}

static int open_side(const char *name)
{
    struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL),
                             .sll_ifindex = if_nametoindex(name)};
    struct packet_mreq all = {.mr_ifindex = at.sll_ifindex, .mr_type = PACKET_MR_PROMISC};
    int fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL)), one = 1, room = 8 << 20;
    if (fd < 0 || !at.sll_ifindex || bind(fd, (struct sockaddr *)&at, sizeof at) < 0) {
        perror(name);
        exit(1);
    }
    /* What we send must not come back to us as received. */
    setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof one);
    setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof all);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
    return fd;
}

static int is_lost(int side)
{
    if (how.black) return 1;
    if (how.burst <= 1 || how.loss <= 0) return chance(how.loss);
    /* Two states (Gilbert): the share of time in the bad one is the loss. */
    double leave = 1 / how.burst, enter = leave * how.loss / (100 - how.loss);
    in_burst[side] = in_burst[side] ? drand48() >= leave : drand48() < enter;
    return in_burst[side];
}

static void pass(int from, const unsigned char *bytes, int n_bytes)
{
    int ip = n_bytes >= 34 && bytes[12] == 8 && bytes[13] == 0, copies = 1;
    double after = 0;
    n.seen++;
    if (ip) {
        if (bytes[30] != 10 || (bytes[31] != 77 && bytes[31] != 78)) n.strays++;
        if (is_lost(from)) {
            n.lost++;
            return;
        }
        if (chance(how.doubled)) {
            copies = 2;
            n.doubled++;
        }
        if (how.delay > 0 && chance(how.hastened))
            n.hastened++;
        else
            after = how.delay + how.jitter * (2 * drand48() - 1);
    }
    while (copies--) {
        struct frame *f = malloc(sizeof *f);
        *f = (struct frame){now_ms() + (after > 0 ? after : 0), n_order++, !from, n_bytes, malloc(n_bytes)};
        memcpy(f->bytes, bytes, n_bytes);
        if (ip && n_bytes > 42 && chance(how.corrupt)) {
            f->bytes[42 + lrand48() % (n_bytes - 42)] ^= 1 << lrand48() % 8;
            /* Else the receiver's kernel drops it, and the fault is just another loss. */
            if (bytes[23] == 17) f->bytes[40] = f->bytes[41] = 0;
            n.corrupted++;
        }
        put(f);
    }
}

static int obey(void)
{
    char line[256];
    if (!fgets(line, sizeof line, stdin)) return 0;
    if (sscanf(line, "set %lf %lf %lf %lf %lf %lf %lf", &how.loss, &how.burst, &how.delay,
               &how.jitter, &how.doubled, &how.hastened, &how.corrupt) == 7 ||
        sscanf(line, "black %d", &how.black) == 1)
        puts("ok");
    else if (!strncmp(line, "count", 5))
        printf("seen %lu lost %lu doubled %lu hastened %lu corrupted %lu sent %lu strays %lu dropped %lu\n",
               n.seen, n.lost, n.doubled, n.hastened, n.corrupted, n.sent, n.strays, n.dropped);
    else
        puts("what?");
    fflush(stdout);
    return 1;
}

int main(int argc, char **argv)
{
    static unsigned char bytes[LONGEST];
    if (argc < 3) {
        fprintf(stderr, "usage: between IF_A IF_B [SEED]\n");
        return 2;
    }
    srand48(argc > 3 ? atol(argv[3]) : 7);
    setvbuf(stdin, NULL, _IONBF, 0);
    for (int side = 0; side < SIDES; side++) sides[side] = open_side(argv[1 + side]);
    puts("ready");
    fflush(stdout);
    for (;;) {
        double wait = n_waiting ? waiting[0]->due_ms - now_ms() : 1000;
        if (wait < 0) wait = 0;
        struct pollfd in[3] = {{sides[0], POLLIN, 0}, {sides[1], POLLIN, 0}, {0, POLLIN, 0}};
        struct timespec t = {wait / 1e3, (long)(wait * 1e6) % 1000000000};
        if (ppoll(in, 3, &t, NULL) < 0 && errno != EINTR) return 1;
        if (in[2].revents && !obey()) return 0;
        for (int side = 0; side < SIDES; side++)
            for (int k = 0; k < 64; k++) {
                int got = recv(sides[side], bytes, sizeof bytes, MSG_DONTWAIT);
                if (got < ETH_HLEN) break;
                pass(side, bytes, got);
            }
        for (double now = now_ms(); n_waiting && waiting[0]->due_ms <= now;) {
            struct frame *f = take();
            n.sent += send(sides[f->out], f->bytes, f->n_bytes, 0) == f->n_bytes;
            free(f->bytes);
            free(f);
        }
    }
}
