/* What the steering in the kernel (steer_bpf.c) and the engine (engine_steer.c) share. */
#ifndef STEER_BPF_H
#define STEER_BPF_H

#include <linux/types.h>

enum { SB_MAP_LEGS = 0x53420001, SB_MAP_SOCKETS }; /* in the program's place of a descriptor */
enum { SB_PORTS = 65536 };

/* One leg, at the index of its port. Addresses and `port` in network byte order. */
struct sb_leg {
    __u32 socket; /* 1 and up; 0: packets go to the leg's own socket */
    __u32 from;   /* the known far end: only its packets are steered */
    __u32 own;    /* 0: any of ours */
    __u16 port;   /* of the far end */
    __u16 taken;  /* the engine's: by a leg of this port */
};

#endif
