/* What the relay in the kernel (relay_bpf.c) and the engine (engine_kernel.c) share. */
#ifndef RELAY_BPF_H
#define RELAY_BPF_H

#include <linux/types.h>

enum {
    RK_SAMPLE_EVERY = 16, /* packets of which one goes the usual way: its level is looked at */
    RK_MAP_PLACES = 0x52500001, RK_MAP_SESSIONS, RK_MAP_LAWS, /* put in for the maps' descriptors */
    RK_WINDOW = 48,       /* packets that `state` remembers */
    RK_TOP_BITS = 64 - RK_WINDOW,
    RK_LOOPBACK = 1,      /* index of `lo`, the same in every network namespace */
};
enum { RK_SAME_LAW, RK_ULAW_TO_ALAW, RK_ALAW_TO_ULAW };

/* Where a packet of the session comes from and goes to, as in its header. */
struct rk_place {
    __u32 from_ip, to_ip;
    __u16 from_port, to_port;
};

/* One direction of a relay. Addresses, ports and SSRCs are in network order. The first half is
 * written before the session can be found; so is the second one, and from then on the program alone
 * writes it. */
struct rk_session {
    __u32 from_ip, to_ip; /* of what leaves */
    __u16 from_port, to_port;
    __u32 ssrc_in, ssrc_out, ts_add;
    __u16 seq_add;
    __u8 pt_in, pt_out, tos, law;
    __u16 reserved;
    __u32 interface; /* that it leaves by */
    __u32 came_by;   /* the interface that leads to its sender: of others it may be forged */
    __u32 spare[2];
    /* */
    __u64 state;           /* the newest number, above it a bit per packet that was passed on */
    __u64 packets, octets; /* passed on; octets of payload */
    __u64 last;            /* arrival (CLOCK_MONOTONIC, us, 32 bits) and timestamp of the newest */
    __u64 turn;            /* counts to RK_SAMPLE_EVERY */
    __u64 spare_too[5];
};

#endif
