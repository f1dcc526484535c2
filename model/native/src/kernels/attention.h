// Attention for consecutive positions of a sequence: as many at once as share what is read, the rest one by one.
#pragma once

#include "cache.h"

namespace gpt2 {
namespace {

using Attend = void(const Cache&, const Attention&);

// Rows [row, row + n); only the last part asks for what comes next.
inline Attention part_of(const Attention& all, int row, int n) {
    Attention rows = all;
    rows.position += row, rows.num_rows = n, rows.qkv += row * all.stride, rows.out += row * all.stride_out;
    if (row + n < all.num_rows) rows.next = {};
    return rows;
}

template <Attend SEVERAL, Attend ONE>
void attend_in_groups(const Cache& cache, const Attention& all) {
    int row = 0;
    for (; row + QUERIES <= all.num_rows; row += QUERIES) SEVERAL(cache, part_of(all, row, QUERIES));
    for (; row < all.num_rows; ++row) ONE(cache, part_of(all, row, 1));
}

}  // namespace
}  // namespace gpt2
