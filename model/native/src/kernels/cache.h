// Where keys and values of a head lie in the cache.
//
// Keys of 16 positions lie side by side, so that a vector of scores needs no sum across lanes; so do the outputs of a value.
// float32: keys [T/16][D][16], values [T][D]; bfloat16, in pairs along the summed axis: keys [T/16][D/2][16][2], values
// [T/2][D][2]; int8, in fours: keys [T/16][D/4][16][4], values [T/4][D][4], and behind a tile the scales of its positions.
#pragma once

#include "ahead.h"

namespace gpt2 {

static inline char* keys_of(const Cache& cache, int layer, int head, int slot, int group) {
    const size_t tile = (size_t(layer) * cache.num_heads + head) * 2;
    return cache.data + slot * cache.slot_bytes + group * cache.group_bytes + tile * cache.tile_bytes;
}

static inline char* values_of(const Cache& cache, int layer, int head, int slot, int group) {
    return keys_of(cache, layer, head, slot, group) + cache.tile_bytes;
}

static inline int num_groups(const Past& past) { return (past.end + TILE - 1) / TILE; }

// The keys and values of some neighbouring heads, to be read next, asked for in `num_fetches` parts.
static inline Ahead past_ahead(const Cache& cache, int layer, const Past& past, int num_heads, int num_fetches) {
    return make_ahead(keys_of(cache, layer, past.head, past.slot, 0), num_heads * 2 * cache.tile_bytes, cache.group_bytes,
                      num_groups(past), num_fetches);
}

// Floats of scratch that attention needs: scores, weights in 16 bits, and a row of the head a query.
static inline size_t attention_scratch(const Cache& cache) {
    return size_t(QUERIES) * (cache.positions + cache.positions / 2 + cache.head_width) + 64;
}

}  // namespace gpt2
