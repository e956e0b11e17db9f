#include "g722_impl.h"

#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(CP_G722_PLAIN)
#define HAVE_X86_UNITS 1 /* -DCP_G722_PLAIN leaves them out, to test what other machines get */
#include <immintrin.h>
#endif

/* Tables of G.722 clause 3 and 5, padded to whole vectors. Decision levels and logarithms are
 * shifted up by 4 so that the high half of a product is the shift by 12 that they need. */
#define TABLE(name, n) static const int16_t name[n] __attribute__((aligned(CP_ALIGN)))

#define UP(x) ((int16_t)(uint16_t)((x) << 4))
/* Decision levels as a binary search meets them: after 16 the steps of 8, 4, 2 and 1. */
#define Q6_MIDDLE UP(786)
TABLE(q6_step8, 32) = {
    UP(323), UP(1612)};
TABLE(q6_step4, 32) = {
    UP(150), UP(530), UP(1121), UP(2557)};
TABLE(q6_step2, 32) = {
    UP(72), UP(233), UP(422), UP(650), UP(940), UP(1339), UP(1980), UP(2919)};
TABLE(q6_step1, 32) = {
    UP(35), UP(110), UP(190), UP(276), UP(370), UP(473), UP(587), UP(714), UP(858), UP(1023),
    UP(1219), UP(1458), UP(1765), UP(2195), UP(2919), UP(2919)};
TABLE(ilb_table, 32) = {
    UP(2048), UP(2093), UP(2139), UP(2186), UP(2233), UP(2282), UP(2332), UP(2383), UP(2435),
    UP(2489), UP(2543), UP(2599), UP(2656), UP(2714), UP(2774), UP(2834), UP(2896), UP(2960),
    UP(3025), UP(3091), UP(3158), UP(3228), UP(3298), UP(3371), UP(3444), UP(3520), UP(3597),
    UP(3676), UP(3756), UP(3838), UP(3922), UP(4008)};
TABLE(qm2_table, 32) = {-7408, -1616, 7408, 1616};
TABLE(qm4_table, 32) = {0, -20456, -12896, -8968, -6288, -4240, -2584, -1200,
                        20456, 12896, 8968, 6288, 4240, 2584, 1200, 0};
TABLE(qm5_table, 32) = {-280, -280, -23352, -17560, -14120, -11664, -9752, -8184,
                        -6864, -5712, -4696, -3784, -2960, -2208, -1520, -880,
                        23352, 17560, 14120, 11664, 9752, 8184, 6864, 5712,
                        4696, 3784, 2960, 2208, 1520, 880, 280, -280};
TABLE(qm6_table, 64) = {
    -136, -136, -136, -136, -24808, -21904, -19008, -16704, -14984, -13512, -12280, -11192,
    -10232, -9360, -8576, -7856, -7192, -6576, -6000, -5456, -4944, -4464, -4008, -3576,
    -3168, -2776, -2400, -2032, -1688, -1360, -1040, -728, 24808, 21904, 19008, 16704,
    14984, 13512, 12280, 11192, 10232, 9360, 8576, 7856, 7192, 6576, 6000, 5456,
    4944, 4464, 4008, 3576, 3168, 2776, 2400, 2032, 1688, 1360, 1040, 728,
    432, 136, -432, -136};
/* W(IL) and W(IH), already looked up by code rather than by rank. */
TABLE(wl_table, 32) = {-60, 3042, 1198, 538, 334, 172, 58, -30, 3042, 1198, 538, 334, 172, 58,
                       -30, -60};
TABLE(wh_table, 32) = {798, -214, 798, -214};
/* 2^(12 - shift) for the exponent NB >> 11: shift 8 - it in the lower band, 10 - it above. */
TABLE(low_shift_table, 32) = {16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192};
TABLE(high_shift_table, 32) = {4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192};
static const int16_t qmf_table[12] = {3, -11, 12, 32, -210, 951, 3876, -805, 362, -156, 53, -11};
static const int16_t qmf_reversed[12] = {-11, 53, -156, 362, -805, 3876, 951, -210, 32, 12, -11, 3};

#define HIGH_SILENT 0xc0 /* the code with which the higher band dies away */

/* ---- baseline: 8 lanes; SSE2 on x86-64, NEON or plain code by the compiler elsewhere ---- */

typedef int16_t v8 __attribute__((vector_size(16), may_alias));
typedef uint16_t u8v __attribute__((vector_size(16), may_alias));

#define FORCE static inline __attribute__((always_inline))

#define ZIP_LOW16(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define ZIP_HIGH16(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#define ZIP_LOW32(a, b) __builtin_shufflevector(a, b, 0, 1, 8, 9, 2, 3, 10, 11)
#define ZIP_HIGH32(a, b) __builtin_shufflevector(a, b, 4, 5, 12, 13, 6, 7, 14, 15)
#define ZIP_LOW64(a, b) __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11)
#define ZIP_HIGH64(a, b) __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15)

/* Eight rows of eight become columns: samples by lane to lanes by sample, and back. */
FORCE void transpose8(v8 r[8])
{
    v8 s[8], t[8];
    for (int32_t i = 0; i < 4; i++) {
        s[2 * i] = ZIP_LOW16(r[2 * i], r[2 * i + 1]);
        s[2 * i + 1] = ZIP_HIGH16(r[2 * i], r[2 * i + 1]);
    }
    for (int32_t i = 0; i < 8; i += 4) {
        t[i] = ZIP_LOW32(s[i], s[i + 2]);
        t[i + 1] = ZIP_HIGH32(s[i], s[i + 2]);
        t[i + 2] = ZIP_LOW32(s[i + 1], s[i + 3]);
        t[i + 3] = ZIP_HIGH32(s[i + 1], s[i + 3]);
    }
    for (int32_t i = 0; i < 4; i++) {
        r[2 * i] = ZIP_LOW64(t[i], t[i + 4]);
        r[2 * i + 1] = ZIP_HIGH64(t[i], t[i + 4]);
    }
}

FORCE v8 lookup_v8(const int16_t *table, v8 index)
{
    v8 r;
    for (int32_t i = 0; i < 8; i++)
        r[i] = table[index[i] & 31];
    return r;
}

#define FN(name) name##_baseline
#define LANES 8
#define V v8
#define U u8v
#define LOOKUP8(table, i) lookup_v8(table, i)
#define LOOKUP16(table, i) lookup_v8(table, i)
#define LOOKUP32(table, i) lookup_v8(table, i)
#define MULLO(x, y) ((v8)((u8v)(x) * (u8v)(y)))

#ifdef HAVE_X86_UNITS

typedef struct p8 {
    __m128i low, high;
} p8;

FORCE p8 madd8(p8 acc, p8 x, int16_t c0, int16_t c1)
{
    __m128i c = _mm_set1_epi32((int32_t)((uint32_t)(uint16_t)c1 << 16 | (uint16_t)c0));
    return (p8){_mm_add_epi32(acc.low, _mm_madd_epi16(x.low, c)),
                _mm_add_epi32(acc.high, _mm_madd_epi16(x.high, c))};
}

#define A p8
#define P p8
#define ADDS(x, y) ((v8)_mm_adds_epi16((__m128i)(x), (__m128i)(y)))
#define SUBS(x, y) ((v8)_mm_subs_epi16((__m128i)(x), (__m128i)(y)))
#define MIN(x, y) ((v8)_mm_min_epi16((__m128i)(x), (__m128i)(y)))
#define MAX(x, y) ((v8)_mm_max_epi16((__m128i)(x), (__m128i)(y)))
#define MULHI(x, y) ((v8)_mm_mulhi_epi16((__m128i)(x), (__m128i)(y)))
#define MULHIU(x, y) ((v8)_mm_mulhi_epu16((__m128i)(x), (__m128i)(y)))
#define PAIR(x, y)                                                                               \
    ((p8){_mm_unpacklo_epi16((__m128i)(x), (__m128i)(y)),                                        \
          _mm_unpackhi_epi16((__m128i)(x), (__m128i)(y))})
#define AZERO ((p8){_mm_setzero_si128(), _mm_setzero_si128()})
#define MADD(acc, p, c0, c1) madd8(acc, p, c0, c1)
#define ASUM(x, y) ((p8){_mm_add_epi32((x).low, (y).low), _mm_add_epi32((x).high, (y).high)})
#define ADIFF(x, y) ((p8){_mm_sub_epi32((x).low, (y).low), _mm_sub_epi32((x).high, (y).high)})
#define NARROW(acc, shift)                                                                       \
    ((v8)_mm_packs_epi32(_mm_srai_epi32((acc).low, shift), _mm_srai_epi32((acc).high, shift)))

#else

/* Wide vectors only ever pass between functions that are inlined. */
#pragma GCC diagnostic ignored "-Wpsabi"

typedef int32_t w8 __attribute__((vector_size(32), aligned(16)));
typedef uint32_t uw8 __attribute__((vector_size(32), aligned(16)));
typedef struct p8 {
    v8 a, b;
} p8;

#define WIDE(v) __builtin_convertvector(v, w8)

/* Wrapped sum, replaced where both signs differ from its own. */
FORCE v8 adds8(v8 x, v8 y)
{
    v8 sum = (v8)((u8v)x + (u8v)y), wrapped = (~(x ^ y) & (x ^ sum)) >> 15;
    return (wrapped & ((x >> 15) ^ 32767)) | (~wrapped & sum);
}

FORCE v8 subs8(v8 x, v8 y)
{
    v8 sum = (v8)((u8v)x - (u8v)y), wrapped = ((x ^ y) & (x ^ sum)) >> 15;
    return (wrapped & ((x >> 15) ^ 32767)) | (~wrapped & sum);
}

FORCE v8 min8(v8 x, v8 y)
{
    v8 less = x < y;
    return (less & x) | (~less & y);
}

FORCE v8 max8(v8 x, v8 y)
{
    v8 more = x > y;
    return (more & x) | (~more & y);
}

FORCE v8 mulhiu8(v8 x, v8 y)
{
    uw8 p = __builtin_convertvector((u8v)x, uw8) * __builtin_convertvector((u8v)y, uw8);
    return (v8)__builtin_convertvector(p >> 16, u8v);
}

FORCE v8 narrow8(w8 w)
{
    w8 high = w > 32767, low = w < -32768;
    w = (high & 32767) | (low & -32768) | (~(high | low) & w);
    return __builtin_convertvector(w, v8);
}

#define A w8
#define P p8
#define ADDS(x, y) adds8(x, y)
#define SUBS(x, y) subs8(x, y)
#define MIN(x, y) min8(x, y)
#define MAX(x, y) max8(x, y)
#define MULHI(x, y) __builtin_convertvector((WIDE(x) * WIDE(y)) >> 16, v8)
#define MULHIU(x, y) mulhiu8(x, y)
#define PAIR(x, y) ((p8){x, y})
#define AZERO ((w8){0})
#define MADD(acc, p, c0, c1) ((acc) + WIDE((p).a) * (int32_t)(c0) + WIDE((p).b) * (int32_t)(c1))
#define ASUM(x, y) ((x) + (y))
#define ADIFF(x, y) ((x) - (y))
#define NARROW(acc, shift) narrow8((acc) >> (shift))

#endif
#include "g722_lanes.h"

#ifdef HAVE_X86_UNITS

/* ---- AVX2: 16 lanes ---- */
#pragma GCC push_options
#pragma GCC target("avx2")

typedef int16_t v16 __attribute__((vector_size(32), may_alias));
typedef uint16_t u16v __attribute__((vector_size(32), may_alias));
typedef struct p16 {
    __m256i low, high;
} p16;

#define TABLE128(p) _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)(p)))

/* Octet positions of int16 entry i inside a 16-octet table; vpshufb ignores the bits above. */
FORCE __m256i octets16(v16 i)
{
    return _mm256_add_epi16(_mm256_mullo_epi16((__m256i)i, _mm256_set1_epi16(0x0202)),
                            _mm256_set1_epi16(0x0100));
}

FORCE v16 lookup8_v16(const int16_t *t, v16 i)
{
    return (v16)_mm256_shuffle_epi8(TABLE128(t), octets16(i));
}

FORCE v16 lookup16_v16(const int16_t *t, v16 i)
{
    __m256i at = octets16(i);
    return (v16)_mm256_blendv_epi8(_mm256_shuffle_epi8(TABLE128(t), at),
                                   _mm256_shuffle_epi8(TABLE128(t + 8), at),
                                   _mm256_slli_epi16(at, 3));
}

FORCE v16 lookup32_v16(const int16_t *t, v16 i)
{
    __m256i at = octets16(i), bit3 = _mm256_slli_epi16(at, 3), bit4 = _mm256_slli_epi16(at, 2);
    __m256i a = _mm256_blendv_epi8(_mm256_shuffle_epi8(TABLE128(t), at),
                                   _mm256_shuffle_epi8(TABLE128(t + 8), at), bit3);
    __m256i b = _mm256_blendv_epi8(_mm256_shuffle_epi8(TABLE128(t + 16), at),
                                   _mm256_shuffle_epi8(TABLE128(t + 24), at), bit3);
    return (v16)_mm256_blendv_epi8(a, b, bit4);
}

FORCE p16 madd16(p16 acc, p16 x, int16_t c0, int16_t c1)
{
    __m256i c = _mm256_set1_epi32((int32_t)((uint32_t)(uint16_t)c1 << 16 | (uint16_t)c0));
    return (p16){_mm256_add_epi32(acc.low, _mm256_madd_epi16(x.low, c)),
                 _mm256_add_epi32(acc.high, _mm256_madd_epi16(x.high, c))};
}

#define FN(name) name##_avx2
#define LANES 16
#define V v16
#define U u16v
#define A p16
#define P p16
#define ADDS(x, y) ((v16)_mm256_adds_epi16((__m256i)(x), (__m256i)(y)))
#define SUBS(x, y) ((v16)_mm256_subs_epi16((__m256i)(x), (__m256i)(y)))
#define MIN(x, y) ((v16)_mm256_min_epi16((__m256i)(x), (__m256i)(y)))
#define MAX(x, y) ((v16)_mm256_max_epi16((__m256i)(x), (__m256i)(y)))
#define MULHI(x, y) ((v16)_mm256_mulhi_epi16((__m256i)(x), (__m256i)(y)))
#define MULHIU(x, y) ((v16)_mm256_mulhi_epu16((__m256i)(x), (__m256i)(y)))
#define MULLO(x, y) ((v16)_mm256_mullo_epi16((__m256i)(x), (__m256i)(y)))
#define LOOKUP8(table, i) lookup8_v16(table, i)
#define LOOKUP16(table, i) lookup16_v16(table, i)
#define LOOKUP32(table, i) lookup32_v16(table, i)
#define PAIR(x, y)                                                                               \
    ((p16){_mm256_unpacklo_epi16((__m256i)(x), (__m256i)(y)),                                    \
           _mm256_unpackhi_epi16((__m256i)(x), (__m256i)(y))})
#define AZERO ((p16){_mm256_setzero_si256(), _mm256_setzero_si256()})
#define MADD(acc, p, c0, c1) madd16(acc, p, c0, c1)
#define ASUM(x, y)                                                                               \
    ((p16){_mm256_add_epi32((x).low, (y).low), _mm256_add_epi32((x).high, (y).high)})
#define ADIFF(x, y)                                                                              \
    ((p16){_mm256_sub_epi32((x).low, (y).low), _mm256_sub_epi32((x).high, (y).high)})
#define NARROW(acc, shift) narrow16(acc, shift)
FORCE v16 narrow16(p16 acc, int32_t shift)
{
    return (v16)_mm256_packs_epi32(_mm256_srai_epi32(acc.low, shift),
                                   _mm256_srai_epi32(acc.high, shift));
}
#include "g722_lanes.h"
#pragma GCC pop_options

/* ---- AVX-512: 32 lanes ---- */
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512")

typedef int16_t v32 __attribute__((vector_size(64), may_alias));
typedef uint16_t u32v __attribute__((vector_size(64), may_alias));
typedef struct p32 {
    __m512i low, high;
} p32;

FORCE v32 lookup_v32(const int16_t *t, v32 i)
{
    return (v32)_mm512_permutexvar_epi16((__m512i)i, _mm512_load_si512(t));
}

FORCE p32 madd32(p32 acc, p32 x, int16_t c0, int16_t c1)
{
    __m512i c = _mm512_set1_epi32((int32_t)((uint32_t)(uint16_t)c1 << 16 | (uint16_t)c0));
    return (p32){_mm512_add_epi32(acc.low, _mm512_madd_epi16(x.low, c)),
                 _mm512_add_epi32(acc.high, _mm512_madd_epi16(x.high, c))};
}

FORCE v32 narrow32(p32 acc, uint32_t shift)
{
    return (v32)_mm512_packs_epi32(_mm512_srai_epi32(acc.low, shift),
                                   _mm512_srai_epi32(acc.high, shift));
}

#define FN(name) name##_avx512
#define LANES 32
#define V v32
#define U u32v
#define A p32
#define P p32
#define ADDS(x, y) ((v32)_mm512_adds_epi16((__m512i)(x), (__m512i)(y)))
#define SUBS(x, y) ((v32)_mm512_subs_epi16((__m512i)(x), (__m512i)(y)))
#define MIN(x, y) ((v32)_mm512_min_epi16((__m512i)(x), (__m512i)(y)))
#define MAX(x, y) ((v32)_mm512_max_epi16((__m512i)(x), (__m512i)(y)))
#define MULHI(x, y) ((v32)_mm512_mulhi_epi16((__m512i)(x), (__m512i)(y)))
#define MULHIU(x, y) ((v32)_mm512_mulhi_epu16((__m512i)(x), (__m512i)(y)))
#define MULLO(x, y) ((v32)_mm512_mullo_epi16((__m512i)(x), (__m512i)(y)))
#define LOOKUP8(table, i) lookup_v32(table, i)
#define LOOKUP16(table, i) lookup_v32(table, i)
#define LOOKUP32(table, i) lookup_v32(table, i)
#define PAIR(x, y)                                                                               \
    ((p32){_mm512_unpacklo_epi16((__m512i)(x), (__m512i)(y)),                                    \
           _mm512_unpackhi_epi16((__m512i)(x), (__m512i)(y))})
#define AZERO ((p32){_mm512_setzero_si512(), _mm512_setzero_si512()})
#define MADD(acc, p, c0, c1) madd32(acc, p, c0, c1)
#define ASUM(x, y)                                                                               \
    ((p32){_mm512_add_epi32((x).low, (y).low), _mm512_add_epi32((x).high, (y).high)})
#define ADIFF(x, y)                                                                              \
    ((p32){_mm512_sub_epi32((x).low, (y).low), _mm512_sub_epi32((x).high, (y).high)})
#define NARROW(acc, shift) narrow32(acc, shift)
#include "g722_lanes.h"
#pragma GCC pop_options

#endif

typedef void encode_fn(cp_g722_group *g, const int16_t *const *src, uint8_t *const *out,
                       uint32_t mask, int32_t n_pairs, int32_t at, int32_t has_qmf);
typedef void decode_fn(cp_g722_group *g, const uint8_t *const *src, int16_t *const *out,
                       uint32_t mask, int32_t n_pairs, int32_t at, int32_t has_qmf, int32_t mode);

typedef void encode_narrow_fn(cp_g722_group *g, const int16_t *const *src, uint8_t *const *out,
                              uint32_t mask, int32_t n_octets, int32_t at);
typedef void decode_narrow_fn(cp_g722_group *g, const uint8_t *const *src, int16_t *const *out,
                              uint32_t mask, int32_t n_octets, int32_t at);

static const struct unit {
    int32_t lanes;
    encode_fn *encode;
    decode_fn *decode;
    encode_narrow_fn *encode_narrow;
    decode_narrow_fn *decode_narrow;
} units[] = {
    {8, encode_baseline, decode_baseline, encode_narrow_baseline, decode_narrow_baseline},
#ifdef HAVE_X86_UNITS
    {16, encode_avx2, decode_avx2, encode_narrow_avx2, decode_narrow_avx2},
    {32, encode_avx512, decode_avx512, encode_narrow_avx512, decode_narrow_avx512},
#endif
};
static int32_t unit = -1; /* not yet chosen */

int32_t cp_g722_select(int32_t wanted)
{
    int32_t best = 0;
#ifdef HAVE_X86_UNITS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2"))
        best = 1;
    if (best && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq"))
        best = 2;
#endif
    best = wanted < 0 || wanted > best ? best : wanted;
    __atomic_store_n(&unit, best, __ATOMIC_RELAXED);
    return best;
}

static void clear(cp_g722_group *g, size_t from, uint32_t mask)
{
    int16_t *all = (int16_t *)g;
    for (; mask; mask &= mask - 1) {
        size_t lane = (size_t)__builtin_ctz(mask);
        for (size_t at = from / sizeof *all + lane; at < sizeof *g / sizeof *all; at += CP_LANES)
            all[at] = 0;
        g->high.det[lane] = 8;
        if (!from)
            g->low.det[lane] = 32;
    }
}

static void init(void *group, uint32_t mask)
{
    clear(group, 0, mask);
}

void cp_g722_clear_high(void *group, uint32_t mask)
{
    clear(group, offsetof(cp_g722_group, high), mask);
}

/* Chosen at the first frame; threads that race here choose the same. */
static const struct unit *chosen(void)
{
    int32_t i = __atomic_load_n(&unit, __ATOMIC_RELAXED);
    return &units[i < 0 ? cp_g722_select(-1) : i];
}

static int32_t is_frame(int32_t n_samples)
{
    return n_samples > 0 && n_samples % 16 == 0 && n_samples <= CP_MAX_FRAME_SAMPLES;
}

static int32_t encode_any(void *group, const int16_t *const *src, uint8_t *const *out,
                          uint32_t mask, int32_t n_samples, int32_t has_qmf)
{
    const struct unit *u = chosen();
    if (!is_frame(n_samples))
        return CP_EINVAL;
    uint32_t part = u->lanes == 32 ? ~0u : (1u << u->lanes) - 1;
    for (int32_t at = 0; at < CP_LANES; at += u->lanes)
        if (mask >> at & part)
            u->encode(group, src, out, mask, n_samples / 2, at, has_qmf);
    return n_samples / 2;
}

static int32_t decode_any(void *group, const uint8_t *const *src, int16_t *const *out,
                          uint32_t mask, int32_t n_samples, int32_t has_qmf, int32_t mode)
{
    const struct unit *u = chosen();
    if (!is_frame(n_samples))
        return CP_EINVAL;
    uint32_t part = u->lanes == 32 ? ~0u : (1u << u->lanes) - 1;
    for (int32_t at = 0; at < CP_LANES; at += u->lanes)
        if (mask >> at & part)
            u->decode(group, src, out, mask, n_samples / 2, at, has_qmf, mode);
    return n_samples;
}

static int32_t encode(void *group, const int16_t *const *src, uint8_t *const *out, uint32_t mask,
                      int32_t n_samples)
{
    return encode_any(group, src, out, mask, n_samples, 1);
}

static int32_t decode_64(void *group, const uint8_t *const *src, int16_t *const *out,
                         uint32_t mask, int32_t n_samples)
{
    return decode_any(group, src, out, mask, n_samples, 1, 1);
}

static int32_t decode_56(void *group, const uint8_t *const *src, int16_t *const *out,
                         uint32_t mask, int32_t n_samples)
{
    return decode_any(group, src, out, mask, n_samples, 1, 2);
}

static int32_t decode_48(void *group, const uint8_t *const *src, int16_t *const *out,
                         uint32_t mask, int32_t n_samples)
{
    return decode_any(group, src, out, mask, n_samples, 1, 3);
}

int32_t cp_g722_encode_bands(void *group, const int16_t *const *src, uint8_t *const *out,
                             uint32_t mask, int32_t n_samples)
{
    return encode_any(group, src, out, mask, n_samples, 0);
}

int32_t cp_g722_decode_bands(void *group, const uint8_t *const *src, int16_t *const *out,
                             uint32_t mask, int32_t n_samples, int32_t mode)
{
    return mode < 1 || mode > 3 ? CP_EINVAL
                                : decode_any(group, src, out, mask, n_samples, 0, mode);
}

static int32_t encode_narrow(void *group, const int16_t *const *src, uint8_t *const *out,
                             uint32_t mask, int32_t n_samples)
{
    const struct unit *u = chosen();
    if (!is_frame(2 * n_samples))
        return CP_EINVAL;
    uint32_t part = u->lanes == 32 ? ~0u : (1u << u->lanes) - 1;
    for (int32_t at = 0; at < CP_LANES; at += u->lanes)
        if (mask >> at & part)
            u->encode_narrow(group, src, out, mask, n_samples, at);
    return n_samples;
}

static int32_t decode_narrow(void *group, const uint8_t *const *src, int16_t *const *out,
                             uint32_t mask, int32_t n_samples)
{
    const struct unit *u = chosen();
    if (!is_frame(2 * n_samples))
        return CP_EINVAL;
    uint32_t part = u->lanes == 32 ? ~0u : (1u << u->lanes) - 1;
    for (int32_t at = 0; at < CP_LANES; at += u->lanes)
        if (mask >> at & part)
            u->decode_narrow(group, src, out, mask, n_samples, at);
    return n_samples;
}

#define CODEC(name_, decode_)                                                                    \
    const cp_codec name_ = {                                                                     \
        .name = "G722", .payload_type = 9, .clock_rate = 8000, .sample_rate = 16000,             \
        .samples_per_ms = 16, .octets_per_ms = 8, .lanes = CP_LANES,                             \
        .decoder_bytes = sizeof(cp_g722_group), .encoder_bytes = sizeof(cp_g722_group),          \
        .init_decoder = init, .init_encoder = init, .decode = decode_, .encode = encode,         \
    }

CODEC(cp_g722_64, decode_64);
CODEC(cp_g722_56, decode_56);
CODEC(cp_g722_48, decode_48);

const cp_codec cp_g722_narrow = {
    .name = "G722", .payload_type = 9, .clock_rate = 8000, .sample_rate = 8000,
    .samples_per_ms = 8, .octets_per_ms = 8, .lanes = CP_LANES,
    .decoder_bytes = sizeof(cp_g722_group), .encoder_bytes = sizeof(cp_g722_group),
    .init_decoder = init, .init_encoder = init,
    .decode = decode_narrow, .encode = encode_narrow,
};
