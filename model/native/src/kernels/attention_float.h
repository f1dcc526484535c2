// Attention over a cache of floats, of float32 or, in pairs along the summed axis, bfloat16.
#pragma once

#include "cache.h"
#include "functions.h"

namespace gpt2 {
namespace {

// 16 floats as they are broadcast later, one or two to a step.
template <class P>
inline void write_steps(float* to, F x) {
    if constexpr (P::WIDTH == 1)
        store(to, x);
    else
        store_halves(to, to_bfloat16(x));
}

// Scores of N queries with REGS registers of keys that follow one another: scores[n][...].
template <class P, int N, int REGS>
inline void scores_of(const char* const* queries, const char* keys, int width, float scale, float* scores, size_t stride,
                      Ahead& ahead) {
    constexpr int PARTS = 16 / P::LANES;  // registers of a block of 16 keys
    typename P::Sum sum[N][REGS];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 16
        for (int v = 0; v < REGS; ++v) sum[n][v] = P::zero();
    const int num_steps = width / P::WIDTH;
    for (int j = 0; j < num_steps; ++j) {
        fetch(ahead);
        typename P::W k[REGS];
#pragma GCC unroll 16
        for (int v = 0; v < REGS; ++v)
            k[v] = P::weights(keys + (size_t(v / PARTS) * num_steps + j) * 64 + v % PARTS * 4 * P::LANES);
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) {
            const typename P::X q = P::broadcast(queries[n] + 4 * j);
#pragma GCC unroll 16
            for (int v = 0; v < REGS; ++v) sum[n][v] = P::add(sum[n][v], q, k[v]);
        }
    }
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
#pragma GCC unroll 16
        for (int v = 0; v < REGS; ++v) P::store(scores + n * stride + P::LANES * v, sum[n][v]);
        for (int i = 0; i < REGS * P::LANES; i += 16) store(scores + n * stride + i, load(scores + n * stride + i) * splat(scale));
    }
}

// In place: the first `num` scores become exp(score - max), those up to the next 64 zero; written again as they are broadcast.
// Returns their sum, which is added up by lanes and then across them.
template <class P>
inline float weigh(float* scores, int num, Ahead& ahead) {
    const F lowest = splat(-INFINITY_);
    F best = lowest;
    for (int t = 0; t < num; t += 16) best = max(best, select(first_lanes(num - t), load(scores + t), lowest));
    const F top = splat(greatest(best));
    F total = splat(0.0f);
    for (int t = 0; t < round_up(num, TILE); t += 16) {
        fetch(ahead);
        const F weight = keep(first_lanes(num - t), exp(load(scores + t) - top));
        total = total + weight;
        write_steps<P>(scores + t / P::WIDTH, weight);
    }
    return sum(total);
}

// Adds the values of positions [begin, end) of one tile, weighed, to N rows of REGS registers of outputs; begin is the first of a
// step.
template <class P, int N, int REGS>
inline void gather(const char* const* weights, const char* values, int begin, int end, int width, float* out, size_t stride,
                   Ahead& ahead) {
    typename P::Sum sum[N][REGS];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 16
        for (int v = 0; v < REGS; ++v) sum[n][v] = P::load(out + n * stride + P::LANES * v);
    auto step = [&](int j, auto read) __attribute__((always_inline)) {
        fetch(ahead);
        typename P::W lanes[REGS];
#pragma GCC unroll 16
        for (int v = 0; v < REGS; ++v) lanes[v] = read(values + (size_t(j) * width + P::LANES * v) * 4);
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) {
            const typename P::X w = P::broadcast(weights[n] + 4 * j);
#pragma GCC unroll 16
            for (int v = 0; v < REGS; ++v) sum[n][v] = P::add(sum[n][v], w, lanes[v]);
        }
    };
    auto all = [](const char* from) __attribute__((always_inline)) { return P::weights(from); };
    for (int j = begin / P::WIDTH; j < end / P::WIDTH; ++j) step(j, all);
    // The last position's partner has a weight of zero, but what stands there may be an old NaN.
    if constexpr (P::WIDTH == 2)
        if (end % 2) step(end / 2, [](const char* from) __attribute__((always_inline)) { return P::first_of_pairs(from); });
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 16
        for (int v = 0; v < REGS; ++v) P::store(out + n * stride + P::LANES * v, sum[n][v]);
}

// The same of positions [begin, end) of the sequence, all outputs; `scores` holds the rows' weights, `length` floats apart.
template <class P, int N, class ValuesOfTile>
void gather_range(const float* scores, size_t length, const ValuesOfTile& values_of_tile, int begin, int end, int width, float* out,
                  Ahead& ahead) {
    constexpr int REGS = N == 1 ? P::REGS_ALONE : P::REGS_SHARED, WIDE = REGS * P::LANES, PARTS = 16 / P::LANES;
    for (int first = begin / TILE * TILE; first < end; first += TILE) {
        const char* weights[N];
        for (int n = 0; n < N; ++n) weights[n] = reinterpret_cast<const char*>(scores + n * length + first / P::WIDTH);
        const char* values = values_of_tile(first / TILE);
        const int from = begin > first ? begin - first : 0, to = end - first < TILE ? end - first : TILE;
        int c = 0;
        for (; c + WIDE <= width; c += WIDE)
            gather<P, N, REGS>(weights, values + size_t(c) * 4, from, to, width, out + c, width, ahead);
        for (; c < width; c += 16) gather<P, N, PARTS>(weights, values + size_t(c) * 4, from, to, width, out + c, width, ahead);
    }
}

// N queries at consecutive positions; each sees the positions up to its own. Per query the order of every sum is the same for any
// N.
template <class P, int N>
void attend_rows(const Cache& cache, const Attention& a) {
    const int size = cache.head_size, width = cache.head_width, length = cache.positions;
    float *scores = a.scratch,
          *sums = a.scratch + size_t(QUERIES) * length;  // (N, length); (N, width), first the queries, then the outputs
    const char* queries[N];
    for (int n = 0; n < N; ++n) {
        for (int c = 0; c < width; c += 16)
            write_steps<P>(sums + n * width + c / P::WIDTH, load_first(a.qkv + n * a.stride + a.head * size + c, size - c));
        queries[n] = reinterpret_cast<const char*>(sums + n * width);
    }
    const int end = a.position + N;
    const float scale = 1.0f / __builtin_sqrtf(float(size));
    Ahead ahead = past_ahead(cache, a.layer, a.next, 1, ((width + TILE) / P::WIDTH + TILE / 16) * ((end + TILE - 1) / TILE));
    constexpr int REGS = N == 1 ? P::REGS_ALONE : P::REGS_SHARED, WIDE = REGS * P::LANES;
    for (int t = 0; t < end; t += TILE) {
        const char* keys = keys_of(cache, a.layer, a.head, a.slot, t / TILE);
        for (int b = 0; b < TILE; b += WIDE)
            scores_of<P, N, REGS>(queries, keys + size_t(b) * 4 * width / P::WIDTH, width, scale, scores + t + b, length, ahead);
    }
    float inverse[N];
    for (int n = 0; n < N; ++n) inverse[n] = 1.0f / weigh<P>(scores + size_t(n) * length, a.position + n + 1, ahead);
    for (int i = 0; i < N * width; i += 16) store(sums + i, splat(0.0f));
    auto values = [&](int tile) { return values_of(cache, a.layer, a.head, a.slot, tile); };
    // What all rows see they read together; the few last positions each for itself, as a weight of zero does not silence a NaN.
    const int common = (a.position + 1) / P::WIDTH * P::WIDTH;
    gather_range<P, N>(scores, length, values, 0, common, width, sums, ahead);
    for (int n = 0; n < N; ++n)
        gather_range<P, 1>(scores + size_t(n) * length, length, values, common, a.position + n + 1, width, sums + n * width, ahead);
    for (int n = 0; n < N; ++n)
        for (int c = 0; c < size; c += 16)
            store_first(a.out + n * a.stride_out + a.head * size + c, load(sums + n * width + c) * splat(inverse[n]), size - c);
}

void store_float32(const Cache& cache, int layer, int slot, int position, const float* qkv, int begin, int end) {
    const int size = cache.head_size, width = cache.head_width, embd = cache.num_heads * size, t = position % TILE;
    for (int head = begin; head < end; ++head) {
        auto* keys =
            reinterpret_cast<float*>(keys_of(cache, layer, head, slot, position / TILE)) + size_t(t / 16) * width * 16 + t % 16;
        auto* values = reinterpret_cast<float*>(values_of(cache, layer, head, slot, position / TILE)) + size_t(t) * width;
        const float *k = qkv + embd + head * size, *v = qkv + 2 * embd + head * size;
        for (int d = 0; d < size; ++d) keys[d * 16] = k[d], values[d] = v[d];
    }
}

void store_bfloat16(const Cache& cache, int layer, int slot, int position, const float* qkv, int begin, int end) {
    const int size = cache.head_size, width = cache.head_width, embd = cache.num_heads * size, t = position % TILE;
    for (int head = begin; head < end; ++head) {
        auto* keys = reinterpret_cast<uint16_t*>(keys_of(cache, layer, head, slot, position / TILE)) + size_t(t / 16) * width * 16 +
                     t % 16 * 2;
        // Even positions are the lower halves of their pairs, odd ones the upper.
        auto* values =
            reinterpret_cast<uint16_t*>(values_of(cache, layer, head, slot, position / TILE)) + size_t(t / 2) * width * 2 + t % 2;
        for (int d = 0; d < size; d += 16) {
            uint16_t k[16], v[16];
            store_halves(k, to_bfloat16(load_first(qkv + embd + head * size + d, size - d)));
            store_halves(v, to_bfloat16(load_first(qkv + 2 * embd + head * size + d, size - d)));
            for (int i = 0; i < 16 && d + i < size; ++i) keys[(d + i) / 2 * 32 + (d + i) % 2] = k[i], values[(d + i) * 2] = v[i];
        }
    }
}

}  // namespace
}  // namespace gpt2
