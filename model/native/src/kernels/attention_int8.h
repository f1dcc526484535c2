// Attention over a cache of signed bytes: half the memory to read, and all sums are integers, exact in any order.
//
// Of each head a key, a value and a query have a scale of their own. Softmax weights, times their values' scales, become 14 bits in
// two halves of 7: eight bits would lose the many small ones beside a large one, and two products of a half that has all eight with
// a value do not fit the 16 bits in which AVX2 adds them up.
#pragma once

#include "cache.h"
#include "quantise.h"

namespace gpt2 {
namespace {

constexpr int HALF_BITS = 7, MAX_WEIGHT = (1 << 2 * HALF_BITS) - 1;

inline float* scales_of(char* tile, int width) { return reinterpret_cast<float*>(tile + TILE * width); }

// One query: bytes, four to a step, and the factor of its scores; `start` is what a sum begins with where keys are kept as
// x + KEY_FLIP.
struct Query {
    const char* bytes;
    int32_t start;
    float scale;
};

// Scores of N queries with REGS registers of keys: scores[n][...].
template <int N, int REGS>
inline void scores_of(const Query* queries, const char* keys, int width, const float* key_scales, float* scores, size_t stride,
                      Ahead& ahead) {
    constexpr int PARTS = 16 / Int8::LANES;  // registers of a block of 16 keys
    Int8::Sum sum[N][REGS];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 16
        for (int v = 0; v < REGS; ++v) sum[n][v] = Int8::splat(queries[n].start);
    const int num_steps = width / 4;
    for (int j = 0; j < num_steps; ++j) {
        fetch(ahead);
        Int8::W k[REGS];
#pragma GCC unroll 16
        for (int v = 0; v < REGS; ++v)
            k[v] = Int8::weights(keys + (size_t(v / PARTS) * num_steps + j) * 64 + v % PARTS * 4 * Int8::LANES);
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) {
            const Int8::X q = Int8::broadcast(queries[n].bytes + 4 * j);
#pragma GCC unroll 16
            for (int v = 0; v < REGS; ++v) sum[n][v] = Int8::add_keys(sum[n][v], q, k[v]);
        }
    }
    alignas(64) int32_t sums[N][REGS * Int8::LANES];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 16
        for (int v = 0; v < REGS; ++v) Int8::store(&sums[n][Int8::LANES * v], sum[n][v]);
    for (int i = 0; i < REGS * Int8::LANES; i += 16) {
        const F scale = load(key_scales + i);
        for (int n = 0; n < N; ++n) store(scores + n * stride + i, (to_float(load(&sums[n][i])) * scale) * splat(queries[n].scale));
    }
}

// The weights of one query's values: two rows of bytes, high and low, and what a unit of them stands for.
struct Weights {
    uint8_t *high, *low;
    float unit;
};

// exp(score - max) of the first `num` scores over their sum, times the values' scales; zeros up to `end`.
template <class ScalesOfTile>
inline void weigh_values(float* scores, int num, int end, const ScalesOfTile& scales_of_tile, Weights& weights, Ahead& ahead) {
    const F lowest = splat(-INFINITY_);
    F best = lowest;
    for (int t = 0; t < num; t += 16) best = max(best, select(first_lanes(num - t), load(scores + t), lowest));
    const F top_score = splat(greatest(best));
    F total = splat(0.0f), largest = total;
    M nan = is_nan(total);
    for (int t = 0; t < num; t += 16) {
        fetch(ahead);
        const M lanes = first_lanes(num - t);
        const F p = keep(lanes, exp(load(scores + t) - top_score));
        total = total + p;
        const F w = keep(lanes, p * load(scales_of_tile(t / TILE) + t % TILE));
        largest = max(largest, w);
        nan = either(nan, is_nan(w));
        store(scores + t, w);
    }
    const float top = greatest(largest);
    const bool is_finite = !bits(nan) && top < INFINITY_;
    const F inverse = splat(is_finite && top >= LEAST_SCALED ? float(MAX_WEIGHT) / top : 0.0f);
    for (int t = 0; t < end; t += 16) {
        fetch(ahead);
        I w = splat(0);
        if (is_finite && t < num) w = min(round(load(scores + t) * inverse), splat(MAX_WEIGHT));
        store_bytes(weights.high + t, shift_right<HALF_BITS>(w));
        store_bytes(weights.low + t, w & splat((1 << HALF_BITS) - 1));
    }
    weights.unit = is_finite ? top / float(MAX_WEIGHT) / sum(total) : __builtin_nanf("");
}

// N rows of REGS registers of outputs over all positions up to `end`; `values_of_tile` gives the bytes of a tile's outputs.
template <int N, int REGS, class ValuesOfTile>
inline void gather(const Weights* weights, const ValuesOfTile& values_of_tile, int end, int width, float* out, size_t stride,
                   Ahead& ahead) {
    Int8::Sum high[N][REGS], low[N][REGS];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
        for (int v = 0; v < REGS; ++v) high[n][v] = low[n][v] = Int8::zero();
    for (int first = 0; first < end; first += TILE) {
        const char* values = values_of_tile(first / TILE);
        const int num_fours = ((end - first < TILE ? end - first : TILE) + 3) / 4;
        for (int j = 0; j < num_fours; ++j) {
            fetch(ahead);
            Int8::W lanes[REGS];
#pragma GCC unroll 8
            for (int v = 0; v < REGS; ++v) lanes[v] = Int8::weights(values + (size_t(j) * width + Int8::LANES * v) * 4);
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) {
                const Int8::Positive h = Int8::broadcast_positive(weights[n].high + first + 4 * j);
                const Int8::Positive l = Int8::broadcast_positive(weights[n].low + first + 4 * j);
#pragma GCC unroll 8
                for (int v = 0; v < REGS; ++v) {
                    high[n][v] = Int8::add_values(high[n][v], h, lanes[v]);
                    low[n][v] = Int8::add_values(low[n][v], l, lanes[v]);
                }
            }
        }
    }
    alignas(64) int32_t sums[2][REGS * Int8::LANES];
    for (int n = 0; n < N; ++n) {
#pragma GCC unroll 8
        for (int v = 0; v < REGS; ++v)
            Int8::store(&sums[0][Int8::LANES * v], high[n][v]), Int8::store(&sums[1][Int8::LANES * v], low[n][v]);
        for (int i = 0; i < REGS * Int8::LANES; i += 16) {
            const F total = fma(to_float(load(&sums[0][i])), splat(float(1 << HALF_BITS)), to_float(load(&sums[1][i])));
            store(out + n * stride + i, total * splat(weights[n].unit));
        }
    }
}

// N queries at consecutive positions of one head; each sees the positions up to its own.
template <int N>
void attend_rows_int8(const Cache& cache, const Attention& a) {
    const int size = cache.head_size, width = cache.head_width, length = cache.positions;
    float *scores = a.scratch, *rows = a.scratch + size_t(QUERIES) * (length + length / 2);  // (N, length), (N, width)
    auto* halves = reinterpret_cast<uint8_t*>(a.scratch + size_t(QUERIES) * length);         // (N, 2, length)
    Query queries[N];
    Weights weights[N];
    for (int n = 0; n < N; ++n) {
        auto* bytes = reinterpret_cast<int8_t*>(rows + n * width);
        const float scale = quantise(a.qkv + n * a.stride + a.head * size, size, width, bytes) / __builtin_sqrtf(float(size));
        int32_t total = 0;
        for (int c = 0; c < width; ++c) total += bytes[c];
        queries[n] = {reinterpret_cast<const char*>(bytes), -KEY_FLIP * total, scale};
        weights[n] = {halves + size_t(2 * n) * length, halves + size_t(2 * n + 1) * length, 0.0f};
    }
    const int end = a.position + N;
    Ahead ahead = past_ahead(cache, a.layer, a.next, 1, ((width + TILE) / 4 + TILE / 8) * ((end + TILE - 1) / TILE));
    constexpr int REGS = N == 1 ? Int8::REGS_ALONE : Int8::REGS_SHARED, WIDE = REGS * Int8::LANES;
    for (int t = 0; t < end; t += TILE) {
        char* keys = keys_of(cache, a.layer, a.head, a.slot, t / TILE);
        for (int b = 0; b < TILE; b += WIDE)
            scores_of<N, REGS>(queries, keys + size_t(b) * width, width, scales_of(keys, width) + b, scores + t + b, length, ahead);
    }
    auto values = [&](int tile) { return values_of(cache, a.layer, a.head, a.slot, tile); };
    auto value_scales = [&](int tile) { return scales_of(values(tile), width); };
    for (int n = 0; n < N; ++n)
        weigh_values(scores + size_t(n) * length, a.position + n + 1, round_up(end, TILE), value_scales, weights[n], ahead);
    int c = 0;
    auto columns = [&](int tile) { return values(tile) + size_t(c) * 4; };
    constexpr int GROUP = N == 1 ? 1 : Int8::GATHER_QUERIES, PARTS = 16 / Int8::LANES;
    constexpr int GATHERED = N == 1 ? Int8::GATHER_ALONE : Int8::GATHER_SHARED;
    for (int n = 0; n < N; n += GROUP) {
        float* out = rows + n * width;
        for (c = 0; c + GATHERED * Int8::LANES <= width; c += GATHERED * Int8::LANES)
            gather<GROUP, GATHERED>(weights + n, columns, end, width, out + c, width, ahead);
        for (; c < width; c += 16) gather<GROUP, PARTS>(weights + n, columns, end, width, out + c, width, ahead);
    }
    for (int n = 0; n < N; ++n)
        for (int i = 0; i < size; i += 16)
            store_first(a.out + n * a.stride_out + a.head * size + i, load(rows + n * width + i), size - i);
}

void store_int8(const Cache& cache, int layer, int slot, int position, const float* qkv, int begin, int end) {
    const int size = cache.head_size, width = cache.head_width, embd = cache.num_heads * size, t = position % TILE;
    int8_t bytes[MAX_HEAD_WIDTH];
    for (int head = begin; head < end; ++head) {
        char* keys = keys_of(cache, layer, head, slot, position / TILE);
        char* values = values_of(cache, layer, head, slot, position / TILE);
        scales_of(keys, width)[t] = quantise(qkv + embd + head * size, size, width, bytes);
        char* key = keys + size_t(t / 16) * 16 * width + t % 16 * 4;
        for (int d = 0; d < width; ++d) key[d / 4 * 64 + d % 4] = char(bytes[d] + KEY_FLIP);
        scales_of(values, width)[t] = quantise(qkv + 2 * embd + head * size, size, width, bytes);
        char* value = values + size_t(t / 4) * width * 4 + t % 4;
        for (int d = 0; d < width; ++d) value[d * 4] = char(bytes[d]);
    }
}

}  // namespace
}  // namespace gpt2
