// Attention over a cache of signed bytes: half the memory to read, and all sums are integers, exact in any order.
//
// Of each head a key, a value and a query have a scale of their own. Keys are kept with 128 added, since VNNI multiplies unsigned
// by signed; what that adds to a score is 128 times the sum of the query. Softmax weights, times their values' scales, become 16
// bits in two halves: eight would lose the many small ones beside a large one.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "attention.h"

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")
#include "simd.h"

namespace gpt2 {
namespace {

inline const float* scales_of(const char* tile, int width) { return reinterpret_cast<const float*>(tile + TILE * width); }

// size values as signed bytes up to +-127 into `to`, zeros up to `width`; returns the scale, NaN where a value is.
inline float quantise(const float* x, int size, int width, int8_t* to) {
    __m512 greatest = _mm512_setzero_ps();
    __mmask16 nan = 0;
    for (int c = 0; c < size; c += 16) {
        __m512 v = _mm512_abs_ps(_mm512_maskz_loadu_ps(first_lanes(size - c), x + c));
        greatest = _mm512_max_ps(greatest, v);
        nan |= _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    }
    float scale = _mm512_reduce_max_ps(greatest) / 127.0f;
    __m512 inverse = _mm512_set1_ps(scale > 0 ? 1.0f / scale : 0.0f);
    for (int c = 0; c < width; c += 16) {
        __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(first_lanes(size - c), x + c), inverse);
        _mm_storeu_si128((__m128i*)(to + c), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(v)));
    }
    return nan ? std::numeric_limits<float>::quiet_NaN() : scale;
}

// One query: bytes, four to a step, what the keys' 128 adds to a score, and the factor of its scores.
struct Query {
    const int32_t* bytes;
    int32_t offset;
    float scale;
};

// Scores of N queries with B blocks of 16 keys: scores[n][b * 16 ...].
template <int N, int B>
inline void scores_of(const Query* queries, const char* keys, int width, const float* key_scales, float* scores, size_t stride,
                      Ahead& ahead) {
    __m512i sum[N][B];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
        for (int b = 0; b < B; ++b) sum[n][b] = _mm512_set1_epi32(-queries[n].offset);
    const int steps = width / 4;
    for (int j = 0; j < steps; ++j) {
        ahead.fetch();
        __m512i k[B];
#pragma GCC unroll 8
        for (int b = 0; b < B; ++b) k[b] = _mm512_load_si512(keys + (size_t(b) * steps + j) * 64);
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) {
            __m512i q = _mm512_set1_epi32(queries[n].bytes[j]);
#pragma GCC unroll 8
            for (int b = 0; b < B; ++b) sum[n][b] = _mm512_dpbusd_epi32(sum[n][b], k[b], q);
        }
    }
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b) {
        __m512 scale = _mm512_loadu_ps(key_scales + 16 * b);
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n)
            _mm512_storeu_ps(scores + n * stride + 16 * b,
                             _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sum[n][b]), scale), _mm512_set1_ps(queries[n].scale)));
    }
}

// The weights of one query's values: 16 bits in two rows of bytes, high and low, and what a unit of them stands for.
struct Weights {
    uint8_t *high, *low;
    float unit;
};

// exp(score - max) of the first `num` scores over their sum, times the values' scales; zeros up to `end`.
template <class ScalesOfTile>
inline void weigh(float* scores, int num, int end, const ScalesOfTile& scales_of_tile, Weights& weights, Ahead& ahead) {
    __m512 best = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    for (int t = 0; t < num; t += 16) best = _mm512_mask_max_ps(best, first_lanes(num - t), best, _mm512_loadu_ps(scores + t));
    __m512 max = _mm512_set1_ps(_mm512_reduce_max_ps(best)), sum = _mm512_setzero_ps(), greatest = sum;
    __mmask16 nan = 0;
    for (int t = 0; t < num; t += 16) {
        ahead.fetch();
        __mmask16 lanes = first_lanes(num - t);
        __m512 p = _mm512_maskz_mov_ps(lanes, exp16(_mm512_sub_ps(_mm512_loadu_ps(scores + t), max)));
        sum = _mm512_add_ps(sum, p);
        __m512 w = _mm512_maskz_mul_ps(lanes, p, _mm512_loadu_ps(scales_of_tile(t / TILE) + t % TILE));
        greatest = _mm512_max_ps(greatest, w);
        nan |= _mm512_cmp_ps_mask(w, w, _CMP_UNORD_Q);
        _mm512_storeu_ps(scores + t, w);
    }
    float top = _mm512_reduce_max_ps(greatest);
    __m512 inverse = _mm512_set1_ps(top > 0 ? 65535.0f / top : 0.0f);
    for (int t = 0; t < num; t += 16) {
        ahead.fetch();
        __m512i w = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(scores + t), inverse));
        w = _mm512_min_epi32(_mm512_max_epi32(w, _mm512_setzero_si512()), _mm512_set1_epi32(65535));
        _mm_storeu_si128((__m128i*)(weights.high + t), _mm512_cvtepi32_epi8(_mm512_srli_epi32(w, 8)));
        _mm_storeu_si128((__m128i*)(weights.low + t), _mm512_cvtepi32_epi8(w));
    }
    for (int t = round_up(num, 16); t < end; t += 16) {
        _mm_storeu_si128((__m128i*)(weights.high + t), _mm_setzero_si128());
        _mm_storeu_si128((__m128i*)(weights.low + t), _mm_setzero_si128());
    }
    weights.unit = nan ? std::numeric_limits<float>::quiet_NaN() : top / 65535.0f / _mm512_reduce_add_ps(sum);
}

// N rows of 16 * V outputs over all positions up to `end`; `values` gives the bytes of a tile's outputs.
template <int N, int V, class ValuesOfTile>
inline void gather(const Weights* weights, const ValuesOfTile& values_of_tile, int end, int width, float* out, size_t stride,
                   Ahead& ahead) {
    __m512i high[N][V], low[N][V];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) high[n][v] = low[n][v] = _mm512_setzero_si512();
    for (int first = 0; first < end; first += TILE) {
        const char* values = values_of_tile(first / TILE);
        const int num_fours = (std::min(TILE, end - first) + 3) / 4;
        for (int j = 0; j < num_fours; ++j) {
            ahead.fetch();
            __m512i lanes[V];
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) lanes[v] = _mm512_load_si512(values + (size_t(j) * width + 16 * v) * 4);
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) {
                int32_t h, l;
                std::memcpy(&h, weights[n].high + first + 4 * j, 4);
                std::memcpy(&l, weights[n].low + first + 4 * j, 4);
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v) {
                    high[n][v] = _mm512_dpbusd_epi32(high[n][v], _mm512_set1_epi32(h), lanes[v]);
                    low[n][v] = _mm512_dpbusd_epi32(low[n][v], _mm512_set1_epi32(l), lanes[v]);
                }
            }
        }
    }
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
            __m512 sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(high[n][v]), _mm512_set1_ps(256.0f), _mm512_cvtepi32_ps(low[n][v]));
            _mm512_storeu_ps(out + n * stride + 16 * v, _mm512_mul_ps(sum, _mm512_set1_ps(weights[n].unit)));
        }
}

// N queries at consecutive positions of one head; each sees the positions up to its own.
template <int N>
void attend_rows(const gpt2_model& model, const Attention& a) {
    const int size = model.config.n_embd / model.config.n_head, width = model.head_width, length = model.positions;
    float *scores = a.scratch, *rows = a.scratch + size_t(QUERIES) * (length + length / 2);  // (N, length), (N, width)
    auto* halves = reinterpret_cast<uint8_t*>(a.scratch + size_t(QUERIES) * length);         // (N, 2, length)
    Query queries[N];
    Weights weights[N];
    for (int n = 0; n < N; ++n) {
        auto* bytes = reinterpret_cast<int8_t*>(rows + n * width);
        float scale = quantise(a.qkv + n * a.stride + a.head * size, size, width, bytes) / std::sqrt(float(size));
        int32_t sum = 0;
        for (int c = 0; c < width; ++c) sum += bytes[c];
        queries[n] = {reinterpret_cast<const int32_t*>(bytes), 128 * sum, scale};
        weights[n] = {halves + size_t(2 * n) * length, halves + size_t(2 * n + 1) * length, 0.0f};
    }
    const int end = a.position + N;
    Ahead ahead = past_ahead(model, a.layer, a.next, 1, ((width + TILE) / 4 + TILE / 8) * ((end + TILE - 1) / TILE));
    for (int t = 0; t < end; t += TILE) {
        const char* keys = model.keys(a.layer, a.head, a.slot, t / TILE);
        // Four blocks of 16 keys for one query, two for several: enough sums in flight, few enough for the registers.
        constexpr int B = N == 1 ? 4 : 2;
        for (int b = 0; b < 4; b += B)
            scores_of<N, B>(queries, keys + size_t(b) * 16 * width, width, scales_of(keys, width) + 16 * b, scores + t + 16 * b,
                            length, ahead);
    }
    auto values = [&](int tile) { return model.values(a.layer, a.head, a.slot, tile); };
    auto value_scales = [&](int tile) { return scales_of(values(tile), width); };
    for (int n = 0; n < N; ++n)
        weigh(scores + size_t(n) * length, a.position + n + 1, round_up(end, TILE), value_scales, weights[n], ahead);
    int c = 0;
    auto columns = [&](int tile) { return values(tile) + size_t(c) * 4; };
    constexpr int V = N == 1 ? 4 : 2;  // two sums each
    for (; c + 16 * V <= width; c += 16 * V) gather<N, V>(weights, columns, end, width, rows + c, width, ahead);
    for (; c < width; c += 16) gather<N, 1>(weights, columns, end, width, rows + c, width, ahead);
    for (int n = 0; n < N; ++n) std::memcpy(a.out + n * a.stride_out + a.head * size, rows + n * width, size * sizeof(float));
}

}  // namespace

void store_int8(gpt2_model& model, int layer, int slot, int position, const float* qkv, int begin, int end) {
    const int embd = model.config.n_embd, size = embd / model.config.n_head, width = model.head_width, t = position % TILE;
    int8_t bytes[MAX_HEAD_WIDTH];
    for (int head = begin; head < end; ++head) {
        char *keys = model.keys(layer, head, slot, position / TILE), *values = model.values(layer, head, slot, position / TILE);
        const_cast<float*>(scales_of(keys, width))[t] = quantise(qkv + embd + head * size, size, width, bytes);
        char* key = keys + size_t(t / 16) * 16 * width + t % 16 * 4;
        for (int d = 0; d < width; d += 4) {
            int32_t four;
            std::memcpy(&four, bytes + d, 4);
            four ^= int32_t(0x80808080);  // plus 128 in each byte
            std::memcpy(key + size_t(d / 4) * 64, &four, 4);
        }
        const_cast<float*>(scales_of(values, width))[t] = quantise(qkv + 2 * embd + head * size, size, width, bytes);
        char* value = values + size_t(t / 4) * width * 4 + t % 4;
        for (int d = 0; d < width; ++d) value[d * 4] = char(bytes[d]);
    }
}

void attend_int8(const gpt2_model& model, const Attention& attention) {
    attend_in_groups<attend_rows<QUERIES>, attend_rows<1>>(model, attention);
}

}  // namespace gpt2
