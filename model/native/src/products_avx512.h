// Matrix products on AVX-512: 6 rows by 64 outputs at a time, so that 24 vectors of sums stay in registers. To be included after
// products.h and the file's `#pragma GCC target`, by one file a precision, which says what a step along k is: 64 outputs by `WIDTH`
// inputs, four vectors of weights.
//
// An output's sum runs over k = 0, 1, 2, ... in one chain whatever the number of rows: a row's bits depend on that row alone.
#pragma once

#include "finish.h"

namespace gpt2 {
namespace {

constexpr int MAX_ROWS = 6;
constexpr int VECTORS = BLOCK / 16;
constexpr int STEP_BYTES = 64 * VECTORS;  // of weights in one step along k
// Steps that all rows take before any goes on: their weights, 48 KiB, stay in the second-level cache for them, while the next ones
// are on their way. Few rows wait for the memory; theirs, 12 KiB, stay in the first-level cache, whose misses are few (1.03 times
// as fast).
constexpr int PANEL_STEPS = 192, SHORT_PANEL_STEPS = 48, MAX_SHORT_ROWS = 10;
// How far ahead weights are asked for where all rows are computed at once, and the memory is the bound.
constexpr int NEAR = 4096;
// Rows whose sums wait side by side for the next panel, 12 KiB of them.
constexpr int MAX_WAITING = 8 * MAX_ROWS;
// Rows from which on arithmetic takes longer than the weights' way from memory.
constexpr int MANY_ROWS = 20;
constexpr int UNIT = 4;  // steps between requests for memory

inline void keep(float* to, __m512 sum) { _mm512_store_ps(to, sum); }
inline void keep(int32_t* to, __m512i sum) { _mm512_store_si512(to, sum); }

// The sums of ROWS rows by 64 outputs over one panel, from zero or from what `sums` holds. ALONE: these are all rows, so that
// weights are asked for as fast as they are used; else `next` is what comes after the panel.
template <class Precision, int ROWS, bool ALONE>
void sum_panel(const char* weights, int num_steps, const char* x, size_t stride, bool from_zero, typename Precision::Element* sums,
               Ahead& next, Ahead& later) {
    constexpr int X_BYTES = 4;  // of a row in one step: a float, two bfloat16 or four bytes
    typename Precision::Sum sum[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) sum[r][v] = from_zero ? Precision::zero() : Precision::load(sums + r * BLOCK + 16 * v);
    for (int k = 0; k < num_steps; k += UNIT) {
        if constexpr (!ALONE) next.fetch(), later.fetch();
#pragma GCC unroll 8
        for (int step = 0; step < UNIT; ++step, weights += STEP_BYTES, x += X_BYTES) {
#pragma GCC unroll 8
            for (int v = 0; ALONE && v < VECTORS; ++v) _mm_prefetch(weights + NEAR + 64 * v, _MM_HINT_T1);
            __m512i w[VECTORS];
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; ++v) w[v] = _mm512_load_si512(weights + 64 * v);
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
                for (int v = 0; v < VECTORS; ++v) sum[r][v] = Precision::add(sum[r][v], x + r * stride, w[v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) keep(sums + r * BLOCK + 16 * v, sum[r][v]);
}

template <class Precision>
using SumPanel = void (*)(const char*, int, const char*, size_t, bool, typename Precision::Element*, Ahead&, Ahead&);

template <class Precision, bool ALONE>
constexpr SumPanel<Precision> SUM_PANEL[] = {nullptr,
                                             sum_panel<Precision, 1, ALONE>,
                                             sum_panel<Precision, 2, ALONE>,
                                             sum_panel<Precision, 3, ALONE>,
                                             sum_panel<Precision, 4, ALONE>,
                                             sum_panel<Precision, 5, ALONE>,
                                             sum_panel<Precision, 6, ALONE>};

// A product of at most MAX_ROWS rows.
template <class Precision>
void multiply_few(const Product& product, int block, const char* next) {
    alignas(64) typename Precision::Element sums[MAX_ROWS * BLOCK];
    const Linear& layer = product.layer;
    const Input& x = product.x;
    Ahead none, begin_of_next(next, NEAR, 0, next ? 1 : 0, 1);
    SUM_PANEL<Precision, true>[product.num_rows](layer.weights_of(block), layer.depth / Precision::WIDTH, x.data.as<char>(),
                                                 x.stride, true, sums, none, none);
    if (next != layer.weights_of(block + 1)) begin_of_next.fetch();
    finish_block(product, block, 0, product.num_rows, sums);
}

// Rows [row, row + num_rows) of a larger product, at most MAX_WAITING.
template <class Precision>
void multiply_many(const Product& product, int row, int num_rows, int block, const char* next, Ahead& later) {
    alignas(64) typename Precision::Element sums[MAX_WAITING * BLOCK];
    const Linear& layer = product.layer;
    const Input& x = product.x;
    const int num_groups = (num_rows + MAX_ROWS - 1) / MAX_ROWS, num_steps = layer.depth / Precision::WIDTH;
    const int panel_steps = num_rows <= MAX_SHORT_ROWS ? SHORT_PANEL_STEPS : PANEL_STEPS;
    for (int begin = 0, end; begin < num_steps; begin = end) {
        end = std::min(begin + panel_steps, num_steps);
        const size_t size = size_t(end - begin) * STEP_BYTES;
        const char *panel = layer.weights_of(block) + size_t(begin) * STEP_BYTES, *after = end < num_steps ? panel + size : next;
        Ahead ahead(after, size, 0, after ? 1 : 0, num_groups * (end - begin) / UNIT);
        for (int group = 0; group < num_groups; ++group) {
            const int first = num_rows * group / num_groups, n = num_rows * (group + 1) / num_groups - first;
            const char* inputs = x.data.as<char>() + (row + first) * x.stride + size_t(begin) * 4;
            SUM_PANEL<Precision, false>[n](panel, end - begin, inputs, x.stride, begin == 0, sums + first * BLOCK, ahead, later);
            if (end == num_steps) finish_block(product, block, row + first, n, sums + first * BLOCK);
        }
    }
}

template <class Precision>
void multiply(const Product& product, int block, const char* next, Ahead& later) {
    const int num_rows = product.num_rows, num_parts = (num_rows + MAX_WAITING - 1) / MAX_WAITING;
    if (num_rows <= MAX_ROWS) return multiply_few<Precision>(product, block, next);
    Ahead none;
    for (int part = 0; part < num_parts; ++part) {
        const int row = num_rows * part / num_parts, end = num_rows * (part + 1) / num_parts;
        const char* after = part + 1 < num_parts ? product.layer.weights_of(block) : next;
        multiply_many<Precision>(product, row, end - row, block, after, num_rows < MANY_ROWS ? none : later);
    }
}

}  // namespace
}  // namespace gpt2
