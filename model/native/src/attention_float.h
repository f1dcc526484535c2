// Attention over a cache of floats. To be included after attention.h and the file's `#pragma GCC target`, by one file a precision,
// which says how 16 sums of products are added to over one or two places of the summed axis (PAIR), and how 16 floats are written
// so that they can be broadcast for it.
#pragma once

#include "attention.h"
#include "simd.h"

namespace gpt2 {
namespace {

// Scores of N queries with B blocks of 16 keys that follow one another: scores[n][b * 16 ...].
template <class P, int N, int B>
inline void scores_of(const int32_t* const* queries, const char* keys, int depth, float scale, float* scores, size_t stride,
                      Ahead& ahead) {
    __m512 sum[N][B];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
        for (int b = 0; b < B; ++b) sum[n][b] = _mm512_setzero_ps();
    int steps = depth / P::PAIR;
    for (int j = 0; j < steps; ++j) {
        ahead.fetch();
        __m512i k[B];
#pragma GCC unroll 8
        for (int b = 0; b < B; ++b) k[b] = _mm512_load_si512(keys + (size_t(b) * steps + j) * 64);
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) {
            __m512i q = _mm512_set1_epi32(queries[n][j]);
#pragma GCC unroll 8
            for (int b = 0; b < B; ++b) sum[n][b] = P::dot(sum[n][b], q, k[b]);
        }
    }
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
        for (int b = 0; b < B; ++b) _mm512_storeu_ps(scores + n * stride + 16 * b, _mm512_mul_ps(sum[n][b], _mm512_set1_ps(scale)));
}

// In place: the first `num` scores become exp(score - max), those up to the next 64 zero; written again as they are broadcast.
// Returns their sum, which is added up by lanes and then across them.
template <class P>
inline float weigh(float* scores, int num, Ahead& ahead) {
    __m512 best = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    for (int t = 0; t < num; t += 16) best = _mm512_mask_max_ps(best, first_lanes(num - t), best, _mm512_loadu_ps(scores + t));
    __m512 max = _mm512_set1_ps(_mm512_reduce_max_ps(best)), sum = _mm512_setzero_ps();
    for (int t = 0; t < round_up(num, TILE); t += 16) {
        ahead.fetch();
        __m512 weight = _mm512_maskz_mov_ps(first_lanes(num - t), exp16(_mm512_sub_ps(_mm512_loadu_ps(scores + t), max)));
        sum = _mm512_add_ps(sum, weight);
        P::write(scores + t / P::PAIR, weight);
    }
    return _mm512_reduce_add_ps(sum);
}

// Adds the values of positions [begin, end) of one tile, weighed, to N rows of 16 * V outputs; begin is the first of a pair.
template <class P, int N, int V>
inline void gather(const int32_t* const* weights, const char* values, int begin, int end, int width, float* out, size_t stride,
                   Ahead& ahead) {
    __m512 sum[N][V];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sum[n][v] = _mm512_loadu_ps(out + n * stride + 16 * v);
    auto step = [&](int j, __mmask32 halves) __attribute__((always_inline)) {
        ahead.fetch();
        __m512i lanes[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v)
            lanes[v] = _mm512_maskz_mov_epi16(halves, _mm512_load_si512(values + (size_t(j) * width + 16 * v) * 4));
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) {
            __m512i w = _mm512_set1_epi32(weights[n][j]);
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) sum[n][v] = P::dot(sum[n][v], w, lanes[v]);
        }
    };
    for (int j = begin / P::PAIR; j < end / P::PAIR; ++j) step(j, 0xFFFFFFFF);
    // The last position's partner has a weight of zero, but what stands there may be an old NaN.
    if (end % P::PAIR) step(end / P::PAIR, 0x55555555);
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) _mm512_storeu_ps(out + n * stride + 16 * v, sum[n][v]);
}

// The same of positions [begin, end) of the sequence, all outputs; `scores` holds the rows' weights, `length` floats apart.
template <class P, int N, class ValuesOfTile>
void gather_range(const float* scores, size_t length, const ValuesOfTile& values_of_tile, int begin, int end, int width, float* out,
                  Ahead& ahead) {
    for (int first = begin / TILE * TILE; first < end; first += TILE) {
        const int32_t* weights[N];
        for (int n = 0; n < N; ++n) weights[n] = reinterpret_cast<const int32_t*>(scores + n * length) + first / P::PAIR;
        const char* values = values_of_tile(first / TILE);
        const int from = std::max(begin - first, 0), to = std::min(TILE, end - first);
        int c = 0;
        for (; c + 64 <= width; c += 64) gather<P, N, 4>(weights, values + size_t(c) * 4, from, to, width, out + c, width, ahead);
        for (; c < width; c += 16) gather<P, N, 1>(weights, values + size_t(c) * 4, from, to, width, out + c, width, ahead);
    }
}

// N queries at consecutive positions; each sees the positions up to its own. Per query the order of every sum is the same for any
// N.
template <class P, int N>
void attend_rows(const gpt2_model& model, const Attention& a) {
    const int size = model.config.n_embd / model.config.n_head, width = model.head_width, length = model.positions;
    float *scores = a.scratch,
          *sums = a.scratch + size_t(QUERIES) * length;  // (N, length); (N, width), first the queries, then the outputs
    const int32_t* queries[N];
    for (int n = 0; n < N; ++n) {
        for (int c = 0; c < width; c += 16)
            P::write(sums + n * width + c / P::PAIR,
                     _mm512_maskz_loadu_ps(first_lanes(size - c), a.qkv + n * a.stride + a.head * size + c));
        queries[n] = reinterpret_cast<const int32_t*>(sums + n * width);
    }
    const int end = a.position + N;
    const float scale = 1.0f / std::sqrt(float(size));
    Ahead ahead = past_ahead(model, a.layer, a.next, 1, ((width + TILE) / P::PAIR + TILE / 16) * ((end + TILE - 1) / TILE));
    for (int t = 0; t < end; t += TILE) {
        const char* keys = model.keys(a.layer, a.head, a.slot, t / TILE);
        // Two blocks of 16 keys for several queries, four for one: enough sums in flight, few enough for the registers.
        constexpr int B = N == 1 ? 4 : 2;
        for (int b = 0; b < 4; b += B)
            scores_of<P, N, B>(queries, keys + size_t(b) * 64 * width / P::PAIR, width, scale, scores + t + 16 * b, length, ahead);
    }
    float inverse[N];
    for (int n = 0; n < N; ++n) inverse[n] = 1.0f / weigh<P>(scores + size_t(n) * length, a.position + n + 1, ahead);
    std::memset(sums, 0, size_t(N) * width * sizeof(float));
    auto values = [&](int tile) { return model.values(a.layer, a.head, a.slot, tile); };
    // What all rows see they read together; the few last positions each for itself, as a weight of zero does not silence a NaN.
    const int common = (a.position + 1) / P::PAIR * P::PAIR;
    gather_range<P, N>(scores, length, values, 0, common, width, sums, ahead);
    for (int n = 0; n < N; ++n)
        gather_range<P, 1>(scores + size_t(n) * length, length, values, common, a.position + n + 1, width, sums + n * width, ahead);
    for (int n = 0; n < N; ++n)
        for (int c = 0; c < size; c += 16)
            _mm512_mask_storeu_ps(a.out + n * a.stride_out + a.head * size + c, first_lanes(size - c),
                                  _mm512_mul_ps(_mm512_loadu_ps(sums + n * width + c), _mm512_set1_ps(inverse[n])));
}

}  // namespace
}  // namespace gpt2
