/* linecard DIRECTORY SOCKET [FXS-PORTS [FXO-PORTS]]: a virtual analog line card whose device nodes
   appear in DIRECTORY and whose telephones and exchange are worked through SOCKET. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include "card.h"

struct card card;

static void step(void) {
	card.now_ms++;
	for (int i = 1; i <= n_ports(); i++) {
		port_drive(&card.ports[i]);
		if (card.ports[i].outside) outside_drive(card.ports[i].outside);
	}
	for (int i = 1; i <= n_ports(); i++) {
		port_sense(&card.ports[i]);
		if (card.ports[i].outside) outside_sense(card.ports[i].outside);
	}
	device_tick();
}

static void watch(int epoll, int fd) {
	struct epoll_event e = { .events = EPOLLIN, .data.fd = fd };
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e) < 0) perror("linecard: epoll"), exit(1);
}

int main(int argc, char **argv) {
	if (argc < 3) {
		fprintf(stderr, "usage: linecard DIRECTORY SOCKET [FXS-PORTS [FXO-PORTS]]\n");
		return 2;
	}
	card.n_fxs = argc > 3 ? atoi(argv[3]) : 4;
	card.n_fxo = argc > 4 ? atoi(argv[4]) : 4;
	if (card.n_fxs < 0 || card.n_fxo < 0 || n_ports() < 1 || n_ports() > MAX_PORTS) {
		fprintf(stderr, "linecard: 1 to %d ports\n", MAX_PORTS);
		return 2;
	}
	card.default_zone = -1;
	card.dialparams = (struct dahdi_dialparams){ .mfv1 = 544, .dtmf = 800, .mfr2 = 800 };
	for (int i = 1; i <= n_ports(); i++) {
		port_init(&card.ports[i], i);
		card.ports[i].outside = &card.outsides[i];
		outside_init(&card.outsides[i], &card.ports[i]);
	}

	sigset_t stop;
	sigemptyset(&stop);
	sigaddset(&stop, SIGTERM);
	sigaddset(&stop, SIGINT);
	sigprocmask(SIG_BLOCK, &stop, NULL);
	int signals = signalfd(-1, &stop, SFD_CLOEXEC);
	int control = control_open(argv[2]);
	int device = control < 0 ? -1 : device_mount(argv[1]);
	if (device < 0) return 1;
	/* The kernel asks for our protocol version before anything else: answer before saying ready. */
	int clock = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	struct itimerspec period = { { 0, 1000000 }, { 0, 1000000 } };
	timerfd_settime(clock, 0, &period, NULL);
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	watch(epoll, signals);
	watch(epoll, control);
	watch(epoll, device);
	watch(epoll, clock);
	/* Whoever started us may be killed: then our standard input ends, and so do we. A terminal or
	   /dev/null is not watched. */
	struct stat input;
	if (fstat(0, &input) == 0 && S_ISFIFO(input.st_mode)) watch(epoll, 0);
	printf("ready\n");
	fflush(stdout);

	for (;;) {
		struct epoll_event events[16];
		int n = epoll_wait(epoll, events, 16, -1);
		if (n < 0 && errno != EINTR) break;
		for (int i = 0; i < n; i++) {
			int fd = events[i].data.fd;
			if (fd == signals || fd == 0) {
				device_unmount();
				unlink(argv[2]);
				return 0;
			}
			if (fd == clock) {
				uint64_t ticks = 0;
				if (read(clock, &ticks, sizeof ticks) != sizeof ticks) continue;
				if (ticks > 1) card.late_ticks += ticks - 1;
				while (ticks--) step();
			} else if (fd == device) device_serve(device);
			else if (fd == control) {
				int client = accept4(control, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
				if (client >= 0) {
					watch(epoll, client);
					control_accept(client);
				}
			} else control_serve(fd);
		}
	}
	device_unmount();
	return 1;
}
