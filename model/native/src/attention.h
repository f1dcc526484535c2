// Keys and values of a head in the cache, and attention over them.
//
// A tile holds 64 positions. Keys of 16 positions lie side by side, so that a vector of scores needs no sum across lanes; so do the
// outputs of a value. float32: keys [T/16][D][16], values [T][D]; bfloat16, in pairs along the summed axis: keys
// [T/16][D/2][16][2], values [T/2][D][2]; int8, in fours: keys [T/16][D/4][16][4], values [T/4][D][4], each with a scale a
// position.
#pragma once

#include "ahead.h"
#include "model.h"

namespace gpt2 {

constexpr int TILE = 64;    // positions that lie together
constexpr int QUERIES = 4;  // consecutive positions of one sequence that share what is read from the cache

Store store_float32, store_bfloat16, store_int8;
Attend attend_float32, attend_bfloat16, attend_int8;

// As many rows at once as share what is read, the rest one by one.
template <Attend SEVERAL, Attend ONE>
void attend_in_groups(const gpt2_model& model, const Attention& all) {
    int row = 0;
    for (; row + QUERIES <= all.num_rows; row += QUERIES) SEVERAL(model, all.part(row, QUERIES));
    for (; row < all.num_rows; ++row) ONE(model, all.part(row, 1));
}

inline int num_groups(const Past& past) { return (past.end + TILE - 1) / TILE; }

// The keys and values of some neighbouring heads, to be read next, asked for in `num_fetches` parts.
inline Ahead past_ahead(const gpt2_model& model, int layer, const Past& past, int num_heads, int num_fetches) {
    return Ahead(model.keys(layer, past.head, past.slot, 0), num_heads * 2 * model.tile_bytes(), model.group_bytes(),
                 num_groups(past), num_fetches);
}

// Floats of scratch that `attend` needs: scores, weights in 16 bits, and a row of the head a query.
inline size_t attention_scratch(const gpt2_model& model) {
    return size_t(QUERIES) * (model.positions + model.positions / 2 + model.head_width) + 64;
}

}  // namespace gpt2
