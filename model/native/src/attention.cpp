#include "attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")
#include "simd.h"

namespace gpt2 {
namespace {

constexpr int TILE = 64;

// Sums of products over one or two places of the summed axis: what is broadcast, and 16 lanes from the cache.
struct Float32 {
    static constexpr int PAIR = 1;
    static __m512 dot(__m512 sum, __m512i broadcast, __m512i lanes) {
        return _mm512_fmadd_ps(_mm512_castsi512_ps(broadcast), _mm512_castsi512_ps(lanes), sum);
    }
    // 16 floats as they are broadcast later.
    static void write(float* to, __m512 x) { _mm512_storeu_ps(to, x); }
};

struct BFloat16 {
    static constexpr int PAIR = 2;
    static __m512 dot(__m512 sum, __m512i broadcast, __m512i lanes) {
        return _mm512_dpbf16_ps(sum, (__m512bh)broadcast, (__m512bh)lanes);
    }
    static void write(float* to, __m512 x) { _mm256_storeu_si256((__m256i*)to, to_bfloat16(x)); }
};

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
inline float weigh(float* scores, int num) {
    __m512 best = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    for (int t = 0; t < num; t += 16) best = _mm512_mask_max_ps(best, first_lanes(num - t), best, _mm512_loadu_ps(scores + t));
    __m512 max = _mm512_set1_ps(_mm512_reduce_max_ps(best)), sum = _mm512_setzero_ps();
    for (int t = 0; t < round_up(num, TILE); t += 16) {
        __m512 weight = _mm512_maskz_mov_ps(first_lanes(num - t), exp16(_mm512_sub_ps(_mm512_loadu_ps(scores + t), max)));
        sum = _mm512_add_ps(sum, weight);
        P::write(scores + t / P::PAIR, weight);
    }
    return _mm512_reduce_add_ps(sum);
}

// Adds the values of positions [begin, end) of one tile, weighed, to N rows of 16 * V outputs; begin is the first of a pair.
template <class P, int N, int V>
inline void gather(const int32_t* const* weights, const char* values, int begin, int end, int width, float* out, size_t stride, Ahead& ahead) {
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
void gather_range(const float* scores, size_t length, const ValuesOfTile& values_of_tile, int begin, int end, int width, float* out, Ahead& ahead) {
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

// N queries at consecutive positions; each sees the positions up to its own. Per query the order of every sum is the same for any N.
template <class P, int N>
void attend_rows(const gpt2_model& model, int layer, int head, int slot, int position, const float* qkv, size_t stride,
                 const Past& next, float* out, size_t stride_out, float* scratch) {
    const int size = model.config.n_embd / model.config.n_head, width = model.head_width, length = model.positions;
    float* scores = scratch;                                   // (N, length)
    float* sums = scratch + size_t(QUERIES) * length;          // (N, width), first the queries, then the outputs
    const int32_t* queries[N];
    for (int n = 0; n < N; ++n) {
        for (int c = 0; c < width; c += 16)
            P::write(sums + n * width + c / P::PAIR, _mm512_maskz_loadu_ps(first_lanes(size - c), qkv + n * stride + head * size + c));
        queries[n] = reinterpret_cast<const int32_t*>(sums + n * width);
    }
    const int end = position + N;
    const float scale = 1.0f / std::sqrt(float(size));
    Ahead ahead = past_ahead(model, layer, next, (width + TILE) / P::PAIR * ((end + TILE - 1) / TILE));
    for (int t = 0; t < end; t += TILE) {
        const char* keys = model.keys(layer, head, slot, t / TILE);
        // Two blocks of 16 keys for several queries, four for one: enough sums in flight, few enough for the registers.
        constexpr int B = N == 1 ? 4 : 2;
        for (int b = 0; b < 4; b += B) scores_of<P, N, B>(queries, keys + size_t(b) * 64 * width / P::PAIR, width, scale, scores + t + 16 * b, length, ahead);
    }
    float inverse[N];
    for (int n = 0; n < N; ++n) inverse[n] = 1.0f / weigh<P>(scores + size_t(n) * length, position + n + 1);
    std::memset(sums, 0, size_t(N) * width * sizeof(float));
    auto values = [&](int tile) { return model.values(layer, head, slot, tile); };
    // What all rows see they read together; the few last positions each for itself, as a weight of zero does not silence a NaN.
    const int common = (position + 1) / P::PAIR * P::PAIR;
    gather_range<P, N>(scores, length, values, 0, common, width, sums, ahead);
    for (int n = 0; n < N; ++n)
        gather_range<P, 1>(scores + size_t(n) * length, length, values, common, position + n + 1, width, sums + n * width, ahead);
    for (int n = 0; n < N; ++n)
        for (int c = 0; c < size; c += 16)
            _mm512_mask_storeu_ps(out + n * stride_out + head * size + c, first_lanes(size - c),
                                  _mm512_mul_ps(_mm512_loadu_ps(sums + n * width + c), _mm512_set1_ps(inverse[n])));
}

template <class P>
void attend(const gpt2_model& model, int layer, int head, int slot, int position, int num_rows, const float* qkv, size_t stride,
            const Past& next, float* out, size_t stride_out, float* scratch) {
    int row = 0;
    for (; row + QUERIES <= num_rows; row += QUERIES)
        attend_rows<P, QUERIES>(model, layer, head, slot, position + row, qkv + row * stride, stride, row + QUERIES == num_rows ? next : Past{},
                             out + row * stride_out, stride_out, scratch);
    for (; row < num_rows; ++row)
        attend_rows<P, 1>(model, layer, head, slot, position + row, qkv + row * stride, stride, row + 1 == num_rows ? next : Past{},
                       out + row * stride_out, stride_out, scratch);
}

}  // namespace

void store_float32(gpt2_model& model, int layer, int slot, int position, const float* qkv, int begin, int end) {
    const int embd = model.config.n_embd, size = embd / model.config.n_head, width = model.head_width, t = position % TILE;
    for (int head = begin; head < end; ++head) {
        auto* keys = reinterpret_cast<float*>(model.keys(layer, head, slot, position / TILE)) + size_t(t / 16) * width * 16 + t % 16;
        auto* values = reinterpret_cast<float*>(model.values(layer, head, slot, position / TILE)) + size_t(t) * width;
        const float *k = qkv + embd + head * size, *v = qkv + 2 * embd + head * size;
        for (int d = 0; d < size; ++d) keys[d * 16] = k[d], values[d] = v[d];
    }
}

void store_bfloat16(gpt2_model& model, int layer, int slot, int position, const float* qkv, int begin, int end) {
    const int embd = model.config.n_embd, size = embd / model.config.n_head, width = model.head_width, t = position % TILE;
    for (int head = begin; head < end; ++head) {
        auto* keys = reinterpret_cast<uint32_t*>(model.keys(layer, head, slot, position / TILE)) + size_t(t / 16) * width * 8 + t % 16;
        auto* values = reinterpret_cast<uint32_t*>(model.values(layer, head, slot, position / TILE)) + size_t(t / 2) * width;
        const float *k = qkv + embd + head * size, *v = qkv + 2 * embd + head * size;
        for (int d = 0; d < size; d += 16) {
            __mmask16 lanes = first_lanes(size - d);
            alignas(32) uint32_t pairs[8];
            _mm256_store_si256((__m256i*)pairs, to_bfloat16(_mm512_maskz_loadu_ps(lanes, k + d)));
            for (int i = 0; i < 8 && d + 2 * i < size; ++i) keys[(d / 2 + i) * 16] = pairs[i];
            // Even positions are the lower halves of their pairs, odd ones the upper.
            __m512i halves = _mm512_cvtepu16_epi32(to_bfloat16(_mm512_maskz_loadu_ps(lanes, v + d)));
            if (t % 2) halves = _mm512_slli_epi32(halves, 16);
            _mm512_mask_storeu_epi16(values + d, t % 2 ? 0xAAAAAAAA : 0x55555555, halves);
        }
    }
}

void attend_float32(const gpt2_model& model, int layer, int head, int slot, int position, int num_rows, const float* qkv, size_t stride,
                    const Past& next, float* out, size_t stride_out, float* scratch) {
    attend<Float32>(model, layer, head, slot, position, num_rows, qkv, stride, next, out, stride_out, scratch);
}

void attend_bfloat16(const gpt2_model& model, int layer, int head, int slot, int position, int num_rows, const float* qkv, size_t stride,
                     const Past& next, float* out, size_t stride_out, float* scratch) {
    attend<BFloat16>(model, layer, head, slot, position, num_rows, qkv, stride, next, out, stride_out, scratch);
}

}  // namespace gpt2
