// Memory asked for while something else is computed, a few lines at a time.
//
// Evenly: a burst fills the core's few buffers for misses, and then even what lies in its second-level cache has to wait. Products
// of 8 rows read their weights at 39 GB/s with this where bursts between groups of rows gave 30.
#pragma once

#include "../kernels.h"

namespace gpt2 {

static constexpr unsigned AHEAD_ONE = 256;  // rates are in 256ths of a line

// `count` stretches of `size` bytes, `stride` bytes apart, of which each `fetch` asks for an equal part, if there are
// `num_fetches`.
static inline Ahead make_ahead(const char* begin, size_t size, size_t stride, int count, int num_fetches) {
    return {begin, begin + size, size, stride, count, unsigned((size / 64 * count * AHEAD_ONE + num_fetches - 1) / num_fetches), 0};
}

static inline bool is_done(const Ahead& ahead) { return ahead.count <= 0; }

static inline void fetch(Ahead& ahead) {
    if (is_done(ahead)) return;
    for (ahead.due += ahead.rate; ahead.due >= AHEAD_ONE; ahead.due -= AHEAD_ONE, ahead.next += 64)
        __builtin_prefetch(ahead.next, 0, 2);
    if (ahead.next >= ahead.end) {
        ahead.end += ahead.stride, ahead.next = ahead.end - ahead.size;
        --ahead.count;
    }
}

}  // namespace gpt2
