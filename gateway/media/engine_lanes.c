/* Places in the vector groups of the G.722 kernels. */
#include "engine_impl.h"

#include <stdlib.h>

/* A group is nothing but int16 arrays of CP_LANES entries. */
static size_t words_of(const ce_lanes *l)
{
    return (l->encode ? cp_g722_64.encoder_bytes : cp_g722_64.decoder_bytes) / (2 * CP_LANES);
}

int ce_lanes_new(ce_lanes *l, uint32_t n_groups, int encode)
{
    l->n_groups = n_groups;
    l->encode = encode;
    l->group = ce_zeroed(n_groups * sizeof *l->group);
    l->used = ce_zeroed(n_groups * sizeof *l->used);
    l->phase = ce_zeroed(n_groups);
    l->narrow = ce_zeroed(n_groups);
    if (!l->group || !l->used || !l->phase || !l->narrow)
        return -1;
    size_t bytes = encode ? cp_g722_64.encoder_bytes : cp_g722_64.decoder_bytes;
    for (uint32_t g = 0; g < n_groups; g++)
        if (!(l->group[g] = ce_zeroed(bytes)))
            return -1;
    return words_of(l) <= CE_LANE_WORDS ? 0 : -1;
}

void ce_lanes_free(ce_lanes *l)
{
    for (uint32_t g = 0; l->group && g < l->n_groups; g++)
        free(l->group[g]);
    free(l->group), free(l->used), free(l->phase), free(l->narrow);
}

const cp_codec *ce_lanes_codec(const ce_lanes *l, uint32_t group)
{
    return l->narrow[group] ? &cp_g722_narrow : &cp_g722_64;
}

int16_t ce_lane_take(ce_lanes *l, int phase, int narrow)
{
    int empty = -1;
    for (uint32_t g = 0; g < l->n_groups; g++) {
        if (!l->used[g]) {
            if (empty < 0)
                empty = (int)g;
            continue;
        }
        if (l->phase[g] == phase && l->narrow[g] == narrow && l->used[g] != UINT32_MAX) {
            empty = (int)g;
            break;
        }
    }
    if (empty < 0)
        return -1;
    l->phase[empty] = (uint8_t)phase;
    l->narrow[empty] = (uint8_t)narrow;
    int lane = __builtin_ctz(~l->used[empty]);
    l->used[empty] |= 1u << lane;
    (l->encode ? cp_g722_64.init_encoder : cp_g722_64.init_decoder)(l->group[empty], 1u << lane);
    return (int16_t)(empty * CP_LANES + lane);
}

void ce_lane_give(ce_lanes *l, int16_t *lane)
{
    if (*lane >= 0)
        l->used[*lane / CP_LANES] &= ~(1u << (*lane % CP_LANES));
    *lane = -1;
}

void ce_lane_save(const ce_lanes *l, int16_t lane, int16_t *words)
{
    if (lane < 0)
        return;
    const int16_t *a = l->group[lane / CP_LANES];
    for (size_t i = 0; i < words_of(l); i++)
        words[i] = a[i * CP_LANES + lane % CP_LANES];
}

void ce_lane_load(ce_lanes *l, int16_t lane, const int16_t *words)
{
    if (lane < 0)
        return;
    int16_t *a = l->group[lane / CP_LANES];
    for (size_t i = 0; i < words_of(l); i++)
        a[i * CP_LANES + lane % CP_LANES] = words[i];
}

/* A stream that moves to another phase or band takes its codec state along. */
int ce_lane_move(ce_lanes *l, int16_t *lane, int phase, int narrow)
{
    int16_t words[CE_LANE_WORDS];
    int from = *lane / CP_LANES;
    if (*lane < 0 || (l->phase[from] == phase && l->narrow[from] == narrow))
        return 0;
    int16_t to = ce_lane_take(l, phase, narrow);
    if (to < 0)
        return -1;
    ce_lane_save(l, *lane, words);
    ce_lane_load(l, to, words);
    if (l->narrow[from] != narrow)
        cp_g722_clear_high(l->group[to / CP_LANES], 1u << (to % CP_LANES));
    ce_lane_give(l, lane);
    *lane = to;
    return 0;
}
