/* Steering (BPF sk_lookup): packets of a leg's known far end go to a socket that many legs share.
 * The leg's own socket keeps the port, and gets everything else.
 *
 * `make bpf` compiles it into steer_bpf.inc; the engine loads that and needs no compiler. */
#include <linux/bpf.h>
#include <linux/in.h>

#include "steer_bpf.h"

static void *(*const find)(const void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*const assign)(struct bpf_sk_lookup *, void *socket,
                            __u64 flags) = (void *)BPF_FUNC_sk_assign;
static void (*const release)(void *socket) = (void *)BPF_FUNC_sk_release;

/* Map numbers need all 64 bits of an instruction's constant: the loader puts in another. */
static __attribute__((always_inline)) inline const void *map(__u32 number)
{
    const void *m;
    __asm__ volatile("%0 = %1 ll" : "=r"(m) : "i"(number));
    return m;
}

__attribute__((section("sk_lookup"))) int steer(struct bpf_sk_lookup *c)
{
    __u32 port = c->local_port;
    if (c->protocol != IPPROTO_UDP || c->family != 2 /* AF_INET */)
        return SK_PASS;
    const volatile struct sb_leg *leg = find(map(SB_MAP_LEGS), &port);
    if (!leg)
        return SK_PASS;
    __u32 at = leg->socket, own = leg->own;
    if (!at || leg->from != c->remote_ip4 || leg->port != c->remote_port ||
        (own && own != c->local_ip4))
        return SK_PASS;
    at--;
    void *socket = find(map(SB_MAP_SOCKETS), &at);
    if (!socket)
        return SK_PASS;
    assign(c, socket, 0);
    release(socket);
    return SK_PASS;
}
