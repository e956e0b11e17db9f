/* The least a program can do that relays UDP with a socket for each leg: every 4 ms it takes what has
 * come and sends it on, untouched and unseen. What it costs is the kernel's price for a relay.
 *
 * floor CALLS BASE OWN: legs 2 n and 2 n + 1 at OWN + 4 n and OWN + 4 n + 2 of 127.0.0.1, their far
 * ends at BASE + the same. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

enum { TICK_NS = 4000000, READY = 256 };

static struct sockaddr_in at(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return a;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    int n = 2 * atoi(argv[1]), base = atoi(argv[2]), own = atoi(argv[3]), epoll = epoll_create1(0);
    int *fd = calloc((size_t)n, sizeof *fd);
    struct sockaddr_in *far = calloc((size_t)n, sizeof *far);
    for (int i = 0; i < n; i++) {
        struct sockaddr_in a = at(own + 2 * i);
        struct epoll_event e = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
        far[i] = at(base + 2 * i);
        fd[i] = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        if (bind(fd[i], (void *)&a, sizeof a) || epoll_ctl(epoll, EPOLL_CTL_ADD, fd[i], &e)) {
            perror("floor");
            return 1;
        }
    }
    puts("ready");
    fflush(stdout);
    struct timespec due;
    clock_gettime(CLOCK_MONOTONIC, &due);
    for (;;) {
        due.tv_nsec += TICK_NS;
        if (due.tv_nsec >= 1000000000)
            due.tv_nsec -= 1000000000, due.tv_sec++;
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
        struct epoll_event ready[READY];
        int k;
        do {
            k = epoll_wait(epoll, ready, READY, 0);
            for (int i = 0; i < k; i++) {
                char packet[2048];
                uint32_t s = ready[i].data.u32, to = s ^ 1;
                ssize_t got = recv(fd[s], packet, sizeof packet, MSG_DONTWAIT);
                if (got > 0)
                    sendto(fd[to], packet, (size_t)got, MSG_DONTWAIT, (void *)&far[to],
                           sizeof far[to]);
            }
        } while (k == READY);
    }
}
