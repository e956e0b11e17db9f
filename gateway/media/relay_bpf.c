/* A relay of RTP in the kernel, at tc ingress: packets that the engine would pass on untouched but
 * for their header do not come up to it. Whatever is not plainly one of the next packets (at most
 * RK_WINDOW - 1 ahead of the newest) of a known session, come in by the interface that leads to its
 * sender, goes on to its socket as if this program were not there.
 *
 * `make bpf` compiles it into relay_bpf.inc; the engine loads that and needs no compiler. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <stddef.h>

#include "relay_bpf.h"

struct rtp {
    __u8 first, type;
    __u16 seq;
    __u32 ts, ssrc;
};

enum {
    UP = -1,    /* TCX_NEXT: on its way as it came */
    HERE = 0,   /* TCX_PASS: changed, for somebody on this machine */
    AT_IP = sizeof(struct ethhdr),
    AT_UDP = AT_IP + sizeof(struct iphdr),
    AT_RTP = AT_UDP + sizeof(struct udphdr),
    AT_PAYLOAD = AT_RTP + sizeof(struct rtp),
    MOST_G711 = 480, /* octets that one law is changed for the other */
};

static void *(*const find)(const void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*const pull)(struct __sk_buff *, __u32 n) = (void *)BPF_FUNC_skb_pull_data;
static long (*const fix_l4)(struct __sk_buff *, __u32 at, __u64 from, __u64 to,
                            __u64 flags) = (void *)BPF_FUNC_l4_csum_replace;
static long (*const leave_by)(__u32 interface, void *neighbour, int n,
                              __u64 flags) = (void *)BPF_FUNC_redirect_neigh;
static __u64 (*const now_ns)(void) = (void *)BPF_FUNC_ktime_get_ns;

/* Map numbers need all 64 bits of an instruction's constant: the loader puts in another. */
static __attribute__((always_inline)) inline const void *map(__u32 number)
{
    const void *m;
    __asm__ volatile("%0 = %1 ll" : "=r"(m) : "i"(number));
    return m;
}

/* What a checksum (RFC 1624) loses and gains when `was` becomes `is`. */
static __attribute__((always_inline)) inline __u64 change(__u32 was, __u32 is)
{
    was = ~was;
    return (__u64)(was & 0xffff) + (was >> 16) + (is & 0xffff) + (is >> 16);
}

static __attribute__((always_inline)) inline __u32 folded(__u64 sum)
{
    sum = (sum & 0xffffffff) + (sum >> 32);
    return (__u32)((sum & 0xffffffff) + (sum >> 32));
}

/* From one law of G.711 to the other; 0: too long. */
static __attribute__((always_inline)) inline int change_law(struct __sk_buff *skb, __u32 n,
                                                            __u32 law, __u64 *sum)
{
    __u32 key = law - 1;
    const __u8 *table = find(map(RK_MAP_LAWS), &key);
    if (!table || n > MOST_G711 || n % 2)
        return 0;
    __u8 *p = (__u8 *)(long)skb->data + AT_PAYLOAD;
    const __u8 *end = (const __u8 *)(long)skb->data_end;
    for (__u32 i = 0; i < MOST_G711 && i < n; i += 2) {
        if (p + i + 2 > end)
            break;
        __u16 *pair = (__u16 *)(p + i), was = *pair;
        __u16 is = (__u16)(table[was & 0xff] | table[was >> 8] << 8);
        *sum += (__u16)~was + is;
        *pair = is;
    }
    return 1;
}

/* Whether it is new and near the newest: then it is marked as passed on, or as gone up. */
static __attribute__((always_inline)) inline int is_next(struct rk_session *s, __u16 seq, int up)
{
    __u64 was = *(volatile __u64 *)&s->state;
    __u16 ahead = (__u16)(seq - (__u16)was);
    if (!ahead || ahead >= RK_WINDOW)
        return 0;
    __u64 window = (was >> RK_TOP_BITS) << ahead | !up;
    /* Another processor has one of its packets at the same time: the engine sorts that out. */
    return __sync_val_compare_and_swap(&s->state, was, window << RK_TOP_BITS | seq) == was;
}

__attribute__((section("tc"), used)) int relay(struct __sk_buff *skb)
{
    if (skb->protocol != __builtin_bswap16(ETH_P_IP) || skb->vlan_present || skb->gso_size ||
        skb->pkt_type != PACKET_HOST || skb->len <= AT_PAYLOAD)
        return UP;
    if ((long)skb->data + AT_PAYLOAD > (long)skb->data_end && pull(skb, AT_PAYLOAD))
        return UP;
    if ((long)skb->data + AT_PAYLOAD > (long)skb->data_end)
        return UP;
    struct iphdr *ip = (void *)(long)skb->data + AT_IP;
    struct udphdr *udp = (void *)(long)skb->data + AT_UDP;
    struct rtp *rtp = (void *)(long)skb->data + AT_RTP;
    if (ip->protocol != IPPROTO_UDP || ip->version != 4 || ip->ihl != 5 ||
        ip->frag_off & ~__builtin_bswap16(0x4000) || rtp->first != 0x80)
        return UP;
    struct rk_place place = {ip->saddr, ip->daddr, udp->source, udp->dest};
    const __u32 *number = find(map(RK_MAP_PLACES), &place);
    if (!number)
        return UP;
    struct rk_session *s = find(map(RK_MAP_SESSIONS), number);
    if (!s || rtp->ssrc != s->ssrc_in || (rtp->type & 0x7f) != s->pt_in ||
        skb->ifindex != s->came_by ||
        (s->interface == RK_LOOPBACK && skb->ifindex != RK_LOOPBACK))
        return UP;
    __u32 n = __builtin_bswap16(udp->len) - sizeof *udp - sizeof *rtp;
    if (skb->len != AT_PAYLOAD + n || __builtin_bswap16(ip->tot_len) != skb->len - AT_IP)
        return UP;
    /* All of it may be written to, and other owners (a capture) keep theirs. */
    if (pull(skb, skb->len) || (long)skb->data + AT_PAYLOAD > (long)skb->data_end)
        return UP;
    ip = (void *)(long)skb->data + AT_IP;
    udp = (void *)(long)skb->data + AT_UDP;
    rtp = (void *)(long)skb->data + AT_RTP;

    __u32 ts = __builtin_bswap32(rtp->ts), law = s->law;
    __u16 seq = __builtin_bswap16(rtp->seq);
    int up = ++s->turn % RK_SAMPLE_EVERY == 0 || (law && (n > MOST_G711 || n % 2));
    if (!is_next(s, seq, up))
        return UP;
    s->last = now_ns() / 1000 << 32 | ts;
    if (up)
        return UP;
    __sync_fetch_and_add(&s->packets, 1);
    __sync_fetch_and_add(&s->octets, n);

    __u32 *word = (__u32 *)rtp, first = word[0], ports = *(__u32 *)udp;
    __u64 addresses = change(ip->saddr, s->from_ip) + change(ip->daddr, s->to_ip);
    rtp->type = (rtp->type & 0x80) | s->pt_out;
    rtp->seq = __builtin_bswap16((__u16)(seq + s->seq_add));
    rtp->ts = __builtin_bswap32(ts + s->ts_add);
    rtp->ssrc = s->ssrc_out;
    udp->source = s->from_port;
    udp->dest = s->to_port;
    __u64 rest = change(first, word[0]) + change(__builtin_bswap32(ts), word[1]) +
                 change(s->ssrc_in, word[2]) + change(ports, *(__u32 *)udp);
    ip->saddr = s->from_ip;
    ip->daddr = s->to_ip;
    ip->tos = s->tos;
    ip->ttl = 64;
    ip->frag_off = __builtin_bswap16(0x4000);
    ip->check = 0;
    __u64 sum = 0;
    for (int i = 0; i < 10; i++)
        sum += ((__u16 *)ip)[i];
    sum = (sum & 0xffff) + (sum >> 16);
    ip->check = (__u16)~((sum & 0xffff) + (sum >> 16));
    if (law)
        change_law(skb, n, law, &rest);
    __u32 at = AT_UDP + offsetof(struct udphdr, check);
    fix_l4(skb, at, 0, folded(rest), BPF_F_MARK_MANGLED_0);
    fix_l4(skb, at, 0, folded(addresses), BPF_F_MARK_MANGLED_0 | BPF_F_PSEUDO_HDR);
    if (s->interface == RK_LOOPBACK)
        return HERE;
    return (int)leave_by(s->interface, (void *)0, 0, 0);
}

char licence[] __attribute__((section("license"), used)) = "Apache-2.0";
