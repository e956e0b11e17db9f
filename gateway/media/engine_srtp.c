/* SRTP and SRTCP (RFC 3711, RFC 7714) of one stream by libsrtp2, which is looked for at run time.
 *
 * One session per direction: each has its own key, and one may change without the other. They are
 * made and freed by Python; in between they belong to the worker. The declarations repeat what
 * libsrtp2 keeps stable within its major version, so that building needs no header of it.
 */
#include "engine_impl.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

enum {
    SSRC_ANY_INBOUND = 2,
    SSRC_ANY_OUTBOUND = 3,
    REPLAY_SEEN = 9,
    REPLAY_OLD = 10,
    WINDOW = 1024, /* packets; what comes later is of no use to any jitter buffer */
    MOST_SSRCS = 64, /* each keeps its window as long as the key lives, else it could be replayed */
    RTCP_TRAILER = 4 + 16,
    RTP_TRAILER = 16,
};

typedef struct {
    uint32_t cipher;
    int key_len;
    uint32_t auth;
    int auth_key_len, tag_len;
    uint32_t services;
} crypto_policy;

typedef struct policy {
    struct {
        uint32_t type, value;
    } ssrc;
    crypto_policy rtp, rtcp;
    uint8_t *key;
    void **keys;
    unsigned long n_keys;
    void *unused;
    unsigned long window_size;
    int allow_repeat_tx;
    int *enc_xtn_hdr;
    int enc_xtn_hdr_count;
    struct policy *next;
    uint64_t room[16]; /* a later minor version may read further */
} policy;

static struct {
    void *library;
    char why[200];
    uint32_t suites;
    int (*init)(void);
    unsigned (*version)(void);
    int (*create)(void **session, const policy *p);
    int (*dealloc)(void *session);
    int (*protect)(void *session, void *packet, int *len);
    int (*unprotect)(void *session, void *packet, int *len);
    int (*protect_rtcp)(void *session, void *packet, int *len);
    int (*unprotect_rtcp)(void *session, void *packet, int *len);
    void (*set[CE_N_SUITES])(crypto_policy *p);
} lib;

static const struct {
    const char *setter;
    int key_len; /* master key and salt */
} SUITES[CE_N_SUITES] = {
    {"srtp_crypto_policy_set_rtp_default", 16 + 14},
    {"srtp_crypto_policy_set_aes_cm_128_hmac_sha1_32", 16 + 14},
    {"srtp_crypto_policy_set_aes_gcm_128_16_auth", 16 + 12},
    {"srtp_crypto_policy_set_aes_gcm_256_16_auth", 32 + 12},
};

static int find(const char *name, void *place)
{
    void *found = dlsym(lib.library, name);
    memcpy(place, &found, sizeof found);
    if (!found)
        snprintf(lib.why, sizeof lib.why, "libsrtp2 has no %s", name);
    return found != NULL;
}

static int complete(void)
{
    for (int i = 0; i < CE_N_SUITES; i++)
        if (!find(SUITES[i].setter, &lib.set[i]))
            return 0;
    if (!(find("srtp_init", &lib.init) && find("srtp_get_version", &lib.version) &&
          find("srtp_create", &lib.create) && find("srtp_dealloc", &lib.dealloc) &&
          find("srtp_protect", &lib.protect) && find("srtp_unprotect", &lib.unprotect) &&
          find("srtp_protect_rtcp", &lib.protect_rtcp) &&
          find("srtp_unprotect_rtcp", &lib.unprotect_rtcp)))
        return 0;
    unsigned version = lib.version();
    if (version >> 24 != 2) {
        snprintf(lib.why, sizeof lib.why, "libsrtp2 says that it is version %u", version >> 24);
        return 0;
    }
    int r = lib.init();
    if (r)
        snprintf(lib.why, sizeof lib.why, "libsrtp2 does not start (its error %d)", r);
    return !r;
}

uint32_t ce_srtp_load(const char *file, const char **why)
{
    *why = lib.why;
    if (lib.library || lib.why[0])
        return lib.suites;
    lib.library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!lib.library) {
        snprintf(lib.why, sizeof lib.why, "%s", dlerror());
        return 0;
    }
    if (!complete())
        return 0;
    /* Built without OpenSSL or NSS it has no GCM, which only shows when a session is made. */
    uint8_t key[CE_SRTP_KEY] = {0};
    for (int i = 0; i < CE_N_SUITES; i++) {
        ce_srtp *k = ce_srtp_new(i, key, SUITES[i].key_len, 0);
        if (k)
            lib.suites |= 1u << i;
        ce_srtp_free(k);
    }
    if (!lib.suites)
        snprintf(lib.why, sizeof lib.why, "libsrtp2 takes none of our ciphers");
    return lib.suites;
}

ce_srtp *ce_srtp_new(int suite, const uint8_t *key, int n, int sends)
{
    if (suite < 0 || suite >= CE_N_SUITES || n != SUITES[suite].key_len || !lib.set[suite])
        return NULL;
    ce_srtp *k = ce_zeroed(sizeof *k);
    if (!k)
        return NULL;
    policy p = {0};
    uint8_t copy[CE_SRTP_KEY];
    memcpy(copy, key, (size_t)n);
    p.ssrc.type = sends ? SSRC_ANY_OUTBOUND : SSRC_ANY_INBOUND;
    lib.set[suite](&p.rtp);
    /* RFC 4568 section 6.2.2: the short tag is for RTP alone. */
    lib.set[suite == CE_SUITE_SHA1_32 ? CE_SUITE_SHA1_80 : suite](&p.rtcp);
    p.key = copy;
    p.window_size = WINDOW;
    int r = lib.create(&k->session, &p);
    explicit_bzero(copy, sizeof copy);
    if (r) {
        free(k);
        return NULL;
    }
    return k;
}

void ce_srtp_free(ce_srtp *k)
{
    if (!k)
        return;
    lib.dealloc(k->session);
    free(k);
}

void ce_srtp_set(ce_srtp **place, ce_srtp *k)
{
    if (*place)
        atomic_store_explicit(&(*place)->done, 1, memory_order_release);
    *place = k;
}

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static int is_known(const ce_srtp *k, uint32_t ssrc)
{
    for (uint32_t i = 0; i < k->n_ssrcs; i++)
        if (k->ssrc[i] == ssrc)
            return 1;
    return 0;
}

static int unprotect(ce_stream *s, uint8_t *p, int n, int rtcp)
{
    ce_srtp *k = s->srtp_in;
    uint32_t ssrc = be32(p + (rtcp ? 4 : 8));
    int known = is_known(k, ssrc);
    if (!known && k->n_ssrcs == MOST_SSRCS) {
        s->c.srtp_failed++;
        return -1;
    }
    int r = (rtcp ? lib.unprotect_rtcp : lib.unprotect)(k->session, p, &n);
    if (r == REPLAY_SEEN || r == REPLAY_OLD)
        s->c.srtp_replayed++;
    else if (r)
        s->c.srtp_failed++;
    if (r)
        return -1;
    if (!known) /* memory is taken for it after it has proved itself, and only then */
        k->ssrc[k->n_ssrcs++] = ssrc;
    return n;
}

int ce_srtp_unprotect(ce_stream *s, uint8_t *p, int n)
{
    return unprotect(s, p, n, 0);
}

int ce_srtp_unprotect_rtcp(ce_stream *s, uint8_t *p, int n)
{
    return unprotect(s, p, n, 1);
}

static uint8_t *protect(ce_stream *s, const uint8_t *p, int *n, int rtcp)
{
    uint8_t *out = s->e->srtp_buf;
    if (*n < 0 || *n > (int)sizeof s->e->srtp_buf - (rtcp ? RTCP_TRAILER : RTP_TRAILER))
        return NULL;
    memcpy(out, p, (size_t)*n);
    int r = (rtcp ? lib.protect_rtcp : lib.protect)(s->srtp_out->session, out, n);
    return r ? NULL : out;
}

uint8_t *ce_srtp_protect(ce_stream *s, const uint8_t *p, int *n)
{
    return protect(s, p, n, 0);
}

uint8_t *ce_srtp_protect_rtcp(ce_stream *s, const uint8_t *p, int *n)
{
    return protect(s, p, n, 1);
}
