/* The G.722 kernel for one vector unit; g722_impl.c includes it once per unit.
 *
 * The includer defines FN(name), LANES (int16 lanes of a vector V, unsigned U) and, on V:
 *   ADDS SUBS MIN MAX  saturating sum and difference, the lesser, the greater
 *   MULHI MULHIU MULLO high half of the signed, unsigned product; low half
 *   LOOKUP8/16/32      table of so many entries, index vector
 *   P PAIR(a, b); A MADD(A, P, c0, c1): acc += a * c0 + b * c1 in 32 bits; AZERO
 *   A ASUM ADIFF; V NARROW(A, shift): arithmetic shift, saturated to 16 bits
 */

#define INLINE static inline __attribute__((always_inline))
#define SPLAT(x) ((V){0} + (int16_t)(x))
#define SELECT(mask, yes, no) (((mask) & (yes)) | (~(mask) & (no)))
#define CLAMP(v, low, high) MAX(MIN(v, high), low)

/* Entry i of a state array for lanes `at` onwards. */
#define LOAD(array) (*(const V *)((array) + at))

typedef struct FN(band) {
    V s, sz, det, nb, a1, a2, r1, p1, p2, b[6], d[6];
} FN(band);

/* (a * b) >> 15 */
INLINE V FN(mul15)(V a, V b)
{
    return (V)((U)MULHI(a, b) << 1) | (V)((U)MULLO(a, b) >> 15);
}

/* Blocks 4L and 4H: adapt the predictor with the quantised difference d, predict anew. */
INLINE void FN(predict)(FN(band) *st, V d)
{
    const V zero = SPLAT(0);
    V r0 = ADDS(st->s, d), p0 = ADDS(st->sz, d);
    V differ1 = (st->p1 ^ p0) >> 15, differ2 = (st->p2 ^ p0) >> 15; /* signs: -1 or 0 */

    /* UPPOL2 */
    V t = ADDS(st->a1, st->a1);
    t = ADDS(t, t);
    t = SUBS(t ^ ~differ1, ~differ1) >> 7; /* negated where the signs agree */
    t += 128 + (differ2 & -256);
    t += st->a2 + MULHI(st->a2, SPLAT(-512)); /* a2 * 127 / 128, rounded down */
    V a2 = CLAMP(t, SPLAT(-12288), SPLAT(12288));

    /* UPPOL1 */
    t = st->a1 + MULHI(st->a1, SPLAT(-256)); /* a1 * 255 / 256, rounded down */
    t = ADDS(t, 192 + (differ1 & -384));
    V limit = SPLAT(15360) - a2;
    V a1 = CLAMP(t, -limit, limit);

    /* UPZERO, DELAYA, FILTEZ */
    V step = (d != 0) & 128;
    V sz = zero, doubled = ADDS(d, d);
    for (int32_t i = 5; i >= 0; i--) {
        V sign = (st->d[i] ^ d) >> 15;
        V b = st->b[i] + MULHI(st->b[i], SPLAT(-256));
        b = ADDS(b, (step ^ sign) - sign);
        V delayed = i ? st->d[i - 1] : doubled;
        st->b[i] = b;
        st->d[i] = delayed;
        sz = ADDS(sz, FN(mul15)(b, delayed));
    }

    /* FILTEP, PREDIC */
    V r = ADDS(r0, r0);
    V sp = ADDS(FN(mul15)(a1, r), FN(mul15)(a2, st->r1));
    st->r1 = r;
    st->p2 = st->p1;
    st->p1 = p0;
    st->a1 = a1;
    st->a2 = a2;
    st->sz = sz;
    st->s = ADDS(sp, sz);
}

/* Blocks 3L and 3H: the quantiser's scale factor. */
INLINE void FN(scale)(FN(band) *st, V weight, int16_t nb_max, const int16_t *shift_table)
{
    V nb = st->nb + MULHI(st->nb, SPLAT(-512)) + weight; /* nb * 127 / 128, rounded down */
    nb = CLAMP(nb, SPLAT(0), SPLAT(nb_max));
    st->nb = nb;
    V mantissa = LOOKUP32(ilb_table, (nb >> 6) & 31);
    st->det = (V)((U)MULHIU(mantissa, LOOKUP16(shift_table, nb >> 11)) << 2);
}

INLINE void FN(adapt_low)(FN(band) *st, V code4)
{
    V d = FN(mul15)(st->det, LOOKUP16(qm4_table, code4));
    FN(scale)(st, LOOKUP16(wl_table, code4), 18432, low_shift_table);
    FN(predict)(st, d);
}

INLINE void FN(adapt_high)(FN(band) *st, V code2)
{
    V d = FN(mul15)(st->det, LOOKUP8(qm2_table, code2));
    FN(scale)(st, LOOKUP8(wh_table, code2), 22528, high_shift_table);
    FN(predict)(st, d);
}

INLINE V FN(encode_low)(FN(band) *st, V x)
{
    V e = SUBS(x, st->s), sign = e >> 15, magnitude = e ^ sign;
    /* Which of 29 decision levels is the highest not above the magnitude: five halvings. */
    V at = SPLAT(0), level;
    level = MULHIU(SPLAT(Q6_MIDDLE), st->det);
    at = (magnitude >= level) & 16;
    level = MULHIU(LOOKUP8(q6_step8, (V)((U)at >> 4)), st->det);
    at |= (magnitude >= level) & 8;
    level = MULHIU(LOOKUP8(q6_step4, (V)((U)at >> 3)), st->det);
    at |= (magnitude >= level) & 4;
    level = MULHIU(LOOKUP8(q6_step2, (V)((U)at >> 2)), st->det);
    at |= (magnitude >= level) & 2;
    level = MULHIU(LOOKUP16(q6_step1, (V)((U)at >> 1)), st->det);
    at |= (magnitude >= level) & 1;
    at = MIN(at, SPLAT(29));
    V negative = SPLAT(33) - at + (SPLAT(30) & (at < 2)), positive = SPLAT(61) - at;
    V code = SELECT(sign, negative, positive);
    FN(adapt_low)(st, code >> 2);
    return code;
}

INLINE V FN(encode_high)(FN(band) *st, V x)
{
    V e = SUBS(x, st->s), sign = e >> 15, magnitude = e ^ sign;
    V level = MULHIU(SPLAT(564 << 4), st->det);
    V outer = (magnitude >= level) & 1;
    V code = SELECT(sign, SPLAT(1), SPLAT(3)) - outer;
    FN(adapt_high)(st, code);
    return code;
}

INLINE V FN(decode_low)(FN(band) *st, V code6, int32_t mode)
{
    V q;
    if (mode == 1)
        q = SELECT(code6 > 31, LOOKUP32(qm6_table + 32, code6 & 31),
                   LOOKUP32(qm6_table, code6 & 31));
    else if (mode == 2)
        q = LOOKUP32(qm5_table, code6 >> 1);
    else
        q = LOOKUP16(qm4_table, code6 >> 2);
    V r = ADDS(st->s, FN(mul15)(st->det, q));
    r = CLAMP(r, SPLAT(-16384), SPLAT(16383));
    FN(adapt_low)(st, code6 >> 2);
    return r;
}

INLINE V FN(decode_high)(FN(band) *st, V code2)
{
    V r = ADDS(st->s, FN(mul15)(st->det, LOOKUP8(qm2_table, code2)));
    r = CLAMP(r, SPLAT(-16384), SPLAT(16383));
    FN(adapt_high)(st, code2);
    return r;
}

INLINE void FN(load)(FN(band) *st, const cp_g722_band *from, int32_t at)
{
    st->s = LOAD(from->s);
    st->sz = LOAD(from->sz);
    st->det = LOAD(from->det);
    st->nb = LOAD(from->nb);
    st->a1 = LOAD(from->a1);
    st->a2 = LOAD(from->a2);
    st->r1 = LOAD(from->r1);
    st->p1 = LOAD(from->p1);
    st->p2 = LOAD(from->p2);
    for (int32_t i = 0; i < 6; i++) {
        st->b[i] = LOAD(from->b[i]);
        st->d[i] = LOAD(from->d[i]);
    }
}

/* Lanes outside the mask have run on zeros; what they held is what they keep. */
#define STORE(array, v) (*(V *)((array) + at) = SELECT(active, v, *(const V *)((array) + at)))

INLINE void FN(store)(const FN(band) *st, cp_g722_band *to, int32_t at, V active)
{
    STORE(to->s, st->s);
    STORE(to->sz, st->sz);
    STORE(to->det, st->det);
    STORE(to->nb, st->nb);
    STORE(to->a1, st->a1);
    STORE(to->a2, st->a2);
    STORE(to->r1, st->r1);
    STORE(to->p1, st->p1);
    STORE(to->p2, st->p2);
    for (int32_t i = 0; i < 6; i++) {
        STORE(to->b[i], st->b[i]);
        STORE(to->d[i], st->d[i]);
    }
}

INLINE V FN(active)(uint32_t mask, int32_t at)
{
    V v;
    for (int32_t l = 0; l < LANES; l++)
        v[l] = (int16_t)-(int16_t)(mask >> (at + l) & 1);
    return v;
}

/* One phase of the QMF: 12 taps over the pairs ending at p[10] (newest). */
INLINE A FN(fir)(const P *p, const int16_t *c)
{
    A acc = AZERO;
    for (int32_t i = 0; i < 12; i += 2)
        acc = MADD(acc, p[i], c[i], c[i + 1]);
    return acc;
}

/* Samples of all lanes, lanes without a frame as silence; even and odd ones apart. A frame is whole
 * milliseconds, so n is a multiple of 8. */
INLINE void FN(gather)(V *even, V *odd, const int16_t *const *src, uint32_t mask, int32_t done,
                       int32_t n)
{
    for (int32_t l = 0; l < LANES; l += 8)
        for (int32_t i = 0; i < n; i += 4) {
            v8 r[8] = {{0}};
            for (int32_t k = 0; k < 8; k++)
                if (mask >> (l + k) & 1)
                    memcpy(&r[k], src[l + k] + 2 * (done + i), sizeof r[k]);
            transpose8(r);
            for (int32_t k = 0; k < 4; k++) {
                *(v8 *)((int16_t *)(even + i + k) + l) = r[2 * k];
                *(v8 *)((int16_t *)(odd + i + k) + l) = r[2 * k + 1];
            }
        }
}

INLINE void FN(scatter)(int16_t *const *out, uint32_t mask, const V *even, const V *odd,
                        int32_t done, int32_t n)
{
    for (int32_t l = 0; l < LANES; l += 8)
        for (int32_t i = 0; (mask >> l & 0xff) && i < n; i += 4) {
            v8 r[8];
            for (int32_t k = 0; k < 4; k++) {
                r[2 * k] = *(const v8 *)((const int16_t *)(even + i + k) + l);
                r[2 * k + 1] = *(const v8 *)((const int16_t *)(odd + i + k) + l);
            }
            transpose8(r);
            for (int32_t k = 0; k < 8; k++)
                if (mask >> (l + k) & 1)
                    memcpy(out[l + k] + 2 * (done + i), &r[k], sizeof r[k]);
        }
}

/* The same for the lower band alone: as many samples as octets. */
INLINE void FN(gather_low)(V *low, const int16_t *const *src, uint32_t mask, int32_t done,
                           int32_t n)
{
    for (int32_t l = 0; l < LANES; l += 8)
        for (int32_t i = 0; i < n; i += 8) {
            v8 r[8] = {{0}};
            for (int32_t k = 0; k < 8; k++)
                if (mask >> (l + k) & 1)
                    memcpy(&r[k], src[l + k] + done + i, sizeof r[k]);
            transpose8(r);
            for (int32_t k = 0; k < 8; k++)
                *(v8 *)((int16_t *)(low + i + k) + l) = r[k];
        }
}

INLINE void FN(scatter_low)(int16_t *const *out, uint32_t mask, const V *low, int32_t done,
                            int32_t n)
{
    for (int32_t l = 0; l < LANES; l += 8)
        for (int32_t i = 0; (mask >> l & 0xff) && i < n; i += 8) {
            v8 r[8];
            for (int32_t k = 0; k < 8; k++)
                r[k] = *(const v8 *)((const int16_t *)(low + i + k) + l);
            transpose8(r);
            for (int32_t k = 0; k < 8; k++)
                if (mask >> (l + k) & 1)
                    memcpy(out[l + k] + done + i, &r[k], sizeof r[k]);
        }
}

typedef uint8_t FN(octets8) __attribute__((vector_size(8)));

/* The same for the octets of the payloads. */
INLINE void FN(gather_octets)(V *code, const uint8_t *const *src, uint32_t mask, int32_t done,
                              int32_t n)
{
    for (int32_t l = 0; l < LANES; l += 8)
        for (int32_t i = 0; i < n; i += 8) {
            v8 r[8];
            for (int32_t k = 0; k < 8; k++) {
                FN(octets8) octets = {0};
                if (mask >> (l + k) & 1)
                    memcpy(&octets, src[l + k] + done + i, sizeof octets);
                r[k] = __builtin_convertvector(octets, v8);
            }
            transpose8(r);
            for (int32_t k = 0; k < 8; k++)
                *(v8 *)((int16_t *)(code + i + k) + l) = r[k];
        }
}

INLINE void FN(scatter_octets)(uint8_t *const *out, uint32_t mask, const V *code, int32_t done,
                               int32_t n)
{
    for (int32_t l = 0; l < LANES; l += 8)
        for (int32_t i = 0; (mask >> l & 0xff) && i < n; i += 8) {
            v8 r[8];
            for (int32_t k = 0; k < 8; k++)
                r[k] = *(const v8 *)((const int16_t *)(code + i + k) + l);
            transpose8(r);
            for (int32_t k = 0; k < 8; k++) {
                FN(octets8) octets = __builtin_convertvector(r[k], FN(octets8));
                if (mask >> (l + k) & 1)
                    memcpy(out[l + k] + done + i, &octets, sizeof octets);
            }
        }
}

#define TILE 40 /* sample pairs in hand at once: 5 ms of all lanes fit the L1 cache */

static void FN(encode)(cp_g722_group *g, const int16_t *const *src, uint8_t *const *out,
                       uint32_t mask, int32_t n_pairs, int32_t at, int32_t has_qmf)
{
    FN(band) low, high;
    V x[2][TILE + 11];
    P pairs[2][TILE + 11];
    V code[TILE];
    V active = FN(active)(mask, at);
    FN(load)(&low, &g->low, at);
    FN(load)(&high, &g->high, at);
    for (int32_t i = 0; i < 11; i++) {
        x[0][i] = LOAD(g->even[i]);
        x[1][i] = LOAD(g->odd[i]);
    }
    for (int32_t done = 0; done < n_pairs; done += TILE) {
        int32_t n = n_pairs - done < TILE ? n_pairs - done : TILE;
        FN(gather)(x[0] + 11, x[1] + 11, src + at, mask >> at, done, n);
        if (has_qmf) {
            for (int32_t i = 1; i < n + 11; i++) {
                pairs[0][i] = PAIR(x[0][i - 1], x[0][i]);
                pairs[1][i] = PAIR(x[1][i - 1], x[1][i]);
            }
        }
        for (int32_t i = 0; i < n; i++) {
            V xl = x[0][11 + i], xh = x[1][11 + i];
            if (has_qmf) {
                A odd = FN(fir)(pairs[0] + 1 + i, qmf_table);
                A even = FN(fir)(pairs[1] + 1 + i, qmf_reversed);
                xl = NARROW(ASUM(even, odd), 14);
                xh = NARROW(ADIFF(even, odd), 14);
            }
            code[i] = FN(encode_low)(&low, xl);
            code[i] |= FN(encode_high)(&high, xh) << 6;
        }
        FN(scatter_octets)(out + at, mask >> at, code, done, n);
        for (int32_t i = 0; i < 11; i++) {
            x[0][i] = x[0][n + i];
            x[1][i] = x[1][n + i];
        }
    }
    FN(store)(&low, &g->low, at, active);
    FN(store)(&high, &g->high, at, active);
    for (int32_t i = 0; i < 11; i++) {
        STORE(g->even[i], x[0][i]);
        STORE(g->odd[i], x[1][i]);
    }
}

INLINE void FN(decode_mode)(cp_g722_group *g, const uint8_t *const *src, int16_t *const *out,
                            uint32_t mask, int32_t n_pairs, int32_t at, int32_t has_qmf,
                            int32_t mode)
{
    FN(band) low, high;
    V x[2][TILE + 11];
    P pairs[2][TILE + 11];
    V code[TILE];
    V pcm[2][TILE];
    V active = FN(active)(mask, at);
    FN(load)(&low, &g->low, at);
    FN(load)(&high, &g->high, at);
    for (int32_t i = 0; i < 11; i++) {
        x[0][i] = LOAD(g->even[i]);
        x[1][i] = LOAD(g->odd[i]);
    }
    for (int32_t done = 0; done < n_pairs; done += TILE) {
        int32_t n = n_pairs - done < TILE ? n_pairs - done : TILE;
        FN(gather_octets)(code, src + at, mask >> at, done, n);
        for (int32_t i = 0; i < n; i++) {
            V rl = FN(decode_low)(&low, code[i] & 63, mode);
            V rh = FN(decode_high)(&high, code[i] >> 6);
            if (has_qmf) {
                x[0][11 + i] = rl + rh;
                x[1][11 + i] = rl - rh;
            } else {
                x[0][11 + i] = rl;
                x[1][11 + i] = rh;
            }
        }
        if (has_qmf) {
            for (int32_t i = 1; i < n + 11; i++) {
                pairs[0][i] = PAIR(x[0][i - 1], x[0][i]);
                pairs[1][i] = PAIR(x[1][i - 1], x[1][i]);
            }
            for (int32_t i = 0; i < n; i++) {
                pcm[0][i] = NARROW(FN(fir)(pairs[1] + 1 + i, qmf_reversed), 11);
                pcm[1][i] = NARROW(FN(fir)(pairs[0] + 1 + i, qmf_table), 11);
            }
        } else {
            memcpy(pcm[0], x[0] + 11, (size_t)n * sizeof(V));
            memcpy(pcm[1], x[1] + 11, (size_t)n * sizeof(V));
        }
        FN(scatter)(out + at, mask >> at, pcm[0], pcm[1], done, n);
        for (int32_t i = 0; i < 11; i++) {
            x[0][i] = x[0][n + i];
            x[1][i] = x[1][n + i];
        }
    }
    FN(store)(&low, &g->low, at, active);
    FN(store)(&high, &g->high, at, active);
    for (int32_t i = 0; i < 11; i++) {
        STORE(g->even[i], x[0][i]);
        STORE(g->odd[i], x[1][i]);
    }
}

/* The lower band alone, at 8 kHz: nothing above it is heard, or was there to be sent. */
static void FN(encode_narrow)(cp_g722_group *g, const int16_t *const *src, uint8_t *const *out,
                              uint32_t mask, int32_t n_octets, int32_t at)
{
    FN(band) low;
    V x[TILE], code[TILE];
    FN(load)(&low, &g->low, at);
    for (int32_t done = 0; done < n_octets; done += TILE) {
        int32_t n = n_octets - done < TILE ? n_octets - done : TILE;
        FN(gather_low)(x, src + at, mask >> at, done, n);
        for (int32_t i = 0; i < n; i++)
            code[i] = FN(encode_low)(&low, x[i] >> 1) | HIGH_SILENT;
        FN(scatter_octets)(out + at, mask >> at, code, done, n);
    }
    FN(store)(&low, &g->low, at, FN(active)(mask, at));
}

static void FN(decode_narrow)(cp_g722_group *g, const uint8_t *const *src, int16_t *const *out,
                              uint32_t mask, int32_t n_octets, int32_t at)
{
    FN(band) low;
    V x[TILE], code[TILE];
    FN(load)(&low, &g->low, at);
    for (int32_t done = 0; done < n_octets; done += TILE) {
        int32_t n = n_octets - done < TILE ? n_octets - done : TILE;
        FN(gather_octets)(code, src + at, mask >> at, done, n);
        for (int32_t i = 0; i < n; i++)
            x[i] = FN(decode_low)(&low, code[i] & 63, 1) * 2;
        FN(scatter_low)(out + at, mask >> at, x, done, n);
    }
    FN(store)(&low, &g->low, at, FN(active)(mask, at));
}

static void FN(decode)(cp_g722_group *g, const uint8_t *const *src, int16_t *const *out,
                       uint32_t mask, int32_t n_pairs, int32_t at, int32_t has_qmf, int32_t mode)
{
    if (mode == 1)
        FN(decode_mode)(g, src, out, mask, n_pairs, at, has_qmf, 1);
    else
        FN(decode_mode)(g, src, out, mask, n_pairs, at, has_qmf, mode);
}

#undef INLINE
#undef SPLAT
#undef SELECT
#undef CLAMP
#undef LOAD
#undef STORE
#undef TILE
#undef FN
#undef LANES
#undef V
#undef U
#undef A
#undef P
#undef ADDS
#undef SUBS
#undef MIN
#undef MAX
#undef MULHI
#undef MULHIU
#undef MULLO
#undef LOOKUP8
#undef LOOKUP16
#undef LOOKUP32
#undef PAIR
#undef MADD
#undef AZERO
#undef ASUM
#undef ADIFF
#undef NARROW
