// Matrix products: some rows by some of a block's 64 outputs at a time, so that their sums stay in registers. To be included after
// a set's dot.h, which says what a step along k is: `WIDTH` inputs by `LANES` outputs a register.
//
// An output's sum runs over k = 0, 1, 2, ... in one chain whatever the number of rows and registers: a row's bits depend on that
// row alone, and are the same in every set.
#pragma once

#include "ahead.h"
#include "finish.h"

namespace gpt2 {
namespace {

constexpr int STEP_BYTES = 4 * BLOCK;  // of weights in one step along k
// Steps that all rows take before any goes on: their weights, 48 KiB, stay in the second-level cache for them, while the next ones
// are on their way. Few rows wait for the memory; theirs, 12 KiB, stay in the first-level cache, whose misses are few (1.03 times
// as fast).
constexpr int PANEL_STEPS = 192, SHORT_PANEL_STEPS = 48, MAX_SHORT_ROWS = 10;
// How far ahead weights are asked for where all rows are computed at once, and the memory is the bound.
constexpr int NEAR = 4096;
// Rows whose sums wait side by side for the next panel, 12 KiB of them.
constexpr int MAX_WAITING = 48;
// Rows from which on arithmetic takes longer than the weights' way from memory.
constexpr int MANY_ROWS = 20;
constexpr int UNIT = 4;  // steps between requests for memory

inline const float* start_of_sums(const Linear&, int, float) {
    alignas(64) static const float zeros[BLOCK] = {};
    return zeros;
}
inline const int32_t* start_of_sums(const Linear& layer, int block, int32_t) { return layer.offsets + block * BLOCK; }

// The sums of ROWS rows by REGS registers of outputs over one panel, which begin with `from`. ALONE: these are all rows, so that
// weights are asked for as fast as they are used; else `next` is what comes after the panel.
template <class P, int ROWS, int REGS, bool ALONE>
void sum_panel(const char* weights, int num_steps, const char* x, size_t stride, const typename P::Element* from,
               size_t from_stride, typename P::Element* sums, Ahead& next, Ahead& later) {
    typename P::Sum sum[ROWS][REGS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < REGS; ++v) sum[r][v] = P::load(from + r * from_stride + P::LANES * v);
    for (int k = 0; k < num_steps; k += UNIT) {
        if constexpr (!ALONE) fetch(next), fetch(later);
#pragma GCC unroll 8
        for (int step = 0; step < UNIT; ++step, weights += STEP_BYTES, x += P::X_BYTES) {
            if constexpr (ALONE && P::ASKS_AHEAD)
#pragma GCC unroll 8
                for (int line = 0; line < STEP_BYTES; line += 64) __builtin_prefetch(weights + NEAR + line, 0, 2);
            typename P::W w[REGS];
#pragma GCC unroll 16
            for (int v = 0; v < REGS; ++v) w[v] = P::weights(weights + 4 * P::LANES * v);
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; ++r) {
                const typename P::X inputs = P::broadcast(x + r * stride);
#pragma GCC unroll 16
                for (int v = 0; v < REGS; ++v) sum[r][v] = P::add(sum[r][v], inputs, w[v]);
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < REGS; ++v) P::store(sums + r * BLOCK + P::LANES * v, sum[r][v]);
}

template <class P>
using SumPanel = void (*)(const char*, int, const char*, size_t, const typename P::Element*, size_t, typename P::Element*, Ahead&,
                          Ahead&);

// By the number of rows; not more than a set's dot.h allows.
template <class P, int REGS, bool ALONE, int MAX>
constexpr SumPanel<P> panel_of(int num_rows) {
    if constexpr (MAX > 0) return num_rows == MAX ? sum_panel<P, MAX, REGS, ALONE> : panel_of<P, REGS, ALONE, MAX - 1>(num_rows);
    return nullptr;
}

// A product of at most ALONE_ROWS rows.
template <class P>
void multiply_few(const Product& product) {
    alignas(64) typename P::Element sums[P::ALONE_ROWS * BLOCK];
    const Linear& layer = *product.layer;
    const Input& x = *product.x;
    Ahead none{}, begin_of_next = make_ahead(product.next, NEAR, 0, product.next ? 1 : 0, 1);
    panel_of<P, BLOCK / P::LANES, true, P::ALONE_ROWS>(product.num_rows)(product.weights, layer.depth / P::WIDTH, x.data, x.stride,
                                                                         start_of_sums(layer, product.block, typename P::Element{}),
                                                                         0, sums, none, none);
    if (product.next != product.weights + layer.block_bytes) fetch(begin_of_next);
    finish_block(product, 0, product.num_rows, sums);
}

// Rows [row, row + num_rows) of a larger product, at most MAX_WAITING.
template <class P>
void multiply_many(const Product& product, int row, int num_rows, const char* next, Ahead& later) {
    using Element = typename P::Element;
    alignas(64) Element sums[MAX_WAITING * BLOCK];
    const Linear& layer = *product.layer;
    const Input& x = *product.x;
    constexpr int STRIP = P::STRIP * P::LANES;
    const int num_groups = (num_rows + P::ROWS - 1) / P::ROWS, num_steps = layer.depth / P::WIDTH;
    const int panel_steps = num_rows <= MAX_SHORT_ROWS ? SHORT_PANEL_STEPS : PANEL_STEPS;
    const Element* start = start_of_sums(layer, product.block, Element{});
    for (int begin = 0, end; begin < num_steps; begin = end) {
        end = begin + panel_steps < num_steps ? begin + panel_steps : num_steps;
        const size_t size = size_t(end - begin) * STEP_BYTES;
        const char *panel = product.weights + size_t(begin) * STEP_BYTES, *after = end < num_steps ? panel + size : next;
        Ahead ahead = make_ahead(after, size, 0, after ? 1 : 0, num_groups * (BLOCK / STRIP) * (end - begin) / UNIT);
        for (int group = 0; group < num_groups; ++group) {
            const int first = num_rows * group / num_groups, n = num_rows * (group + 1) / num_groups - first;
            const char* inputs = x.data + (row + first) * x.stride + P::begin_of_inputs(layer.depth) + size_t(begin) * P::X_BYTES;
            const auto sum = panel_of<P, P::STRIP, false, P::ROWS>(n);
            for (int c = 0; c < BLOCK; c += STRIP) {
                Element* to = sums + first * BLOCK + c;
                sum(panel + 4 * c, end - begin, inputs, x.stride, begin ? to : start + c, begin ? BLOCK : 0, to, ahead, later);
            }
            if (end == num_steps) finish_block(product, row + first, n, sums + first * BLOCK);
        }
    }
}

// `One` is for few rows, `P` for more.
template <class P, class One = P>
void multiply(const Product& product, Ahead& later) {
    const int num_rows = product.num_rows, num_parts = (num_rows + MAX_WAITING - 1) / MAX_WAITING;
    if (num_rows <= One::ALONE_ROWS) return multiply_few<One>(product);
    Ahead none{};
    for (int part = 0; part < num_parts; ++part) {
        const int row = num_rows * part / num_parts, end = num_rows * (part + 1) / num_parts;
        multiply_many<P>(product, row, end - row, part + 1 < num_parts ? product.weights : product.next,
                         num_rows < MANY_ROWS ? none : later);
    }
}

}  // namespace
}  // namespace gpt2
