// Matrix products on AVX-512: 6 rows by 64 outputs at a time, so that 24 vectors of sums stay in registers.
//
// An output's sum runs over k = 0, 1, 2, ... in one chain whatever the number of rows: a row's bits depend on that row alone.
#include "products.h"

#include <algorithm>

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,fma")
#include "finish.h"

namespace gpt2 {
namespace {

constexpr int MAX_ROWS = 6;
constexpr int VECTORS = BLOCK / 16;
// How far ahead of the sums weights are asked for, where all rows are computed at once.
constexpr int PREFETCH_BYTES = 4096;

// Weights to be asked for in the steps [begin, end) along k: step k's lie at `weights` + 256 k.
struct Ahead {
    const char* weights;
    int begin, end;
};

// One step along k of each precision: 64 outputs by `WIDTH` inputs, 4 vectors of weights.
struct Float32 {
    using Sum = __m512;
    using Element = float;
    static constexpr int WIDTH = 1;
    static Sum zero() { return _mm512_setzero_ps(); }
    static Sum add(Sum sum, const char* x, __m512i w) {
        return _mm512_fmadd_ps(_mm512_set1_ps(*reinterpret_cast<const float*>(x)), _mm512_castsi512_ps(w), sum);
    }
};

struct BFloat16 {
    using Sum = __m512;
    using Element = float;
    static constexpr int WIDTH = 2;
    static Sum zero() { return _mm512_setzero_ps(); }
    static Sum add(Sum sum, const char* x, __m512i w) {
        __m512i pair = _mm512_set1_epi32(*reinterpret_cast<const int32_t*>(x));
        return _mm512_dpbf16_ps(sum, (__m512bh)pair, (__m512bh)w);
    }
};

struct Int8 {
    using Sum = __m512i;
    using Element = int32_t;
    static constexpr int WIDTH = 4;
    static Sum zero() { return _mm512_setzero_si512(); }
    static Sum add(Sum sum, const char* x, __m512i w) {
        return _mm512_dpbusd_epi32(sum, _mm512_set1_epi32(*reinterpret_cast<const int32_t*>(x)), w);
    }
};

inline void keep(float* to, __m512 sum) { _mm512_storeu_ps(to, sum); }
inline void keep(int32_t* to, __m512i sum) { _mm512_storeu_si512(to, sum); }

template <class Precision, int ROWS>
void sum_block(const char* weights, int num_steps, const char* x, size_t stride, typename Precision::Element* sums, const Ahead& ahead) {
    constexpr int X_BYTES = 4;  // of a row in one step: a float, two bfloat16 or four bytes
    typename Precision::Sum sum[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) sum[r][v] = Precision::zero();
    for (int k = 0; k < num_steps; ++k, weights += 256, x += X_BYTES) {
        if (k >= ahead.begin && k < ahead.end)
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; ++v) _mm_prefetch(ahead.weights + 256 * k + 64 * v, _MM_HINT_T1);
        __m512i w[VECTORS];
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) w[v] = _mm512_load_si512(weights + 64 * v);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; ++v) sum[r][v] = Precision::add(sum[r][v], x + r * stride, w[v]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) keep(sums + r * BLOCK + 16 * v, sum[r][v]);
}

template <class Precision>
using SumBlock = void (*)(const char*, int, const char*, size_t, typename Precision::Element*, const Ahead&);

template <class Precision>
void multiply(const Linear& layer, const Input& x, int num_rows, int begin, int end, Finish how, float* y, size_t stride_y) {
    static constexpr SumBlock<Precision> BY_ROWS[] = {nullptr,
                                                      sum_block<Precision, 1>,
                                                      sum_block<Precision, 2>,
                                                      sum_block<Precision, 3>,
                                                      sum_block<Precision, 4>,
                                                      sum_block<Precision, 5>,
                                                      sum_block<Precision, 6>};
    alignas(64) typename Precision::Element sums[MAX_ROWS * BLOCK];
    const int num_groups = (num_rows + MAX_ROWS - 1) / MAX_ROWS, num_steps = layer.depth / Precision::WIDTH;
    for (int block = begin; block < end; ++block) {
        const char* weights = layer.weights.as<char>() + block * layer.block_bytes;
        for (int group = 0; group < num_groups; ++group) {
            const int row = num_rows * group / num_groups, n = num_rows * (group + 1) / num_groups - row;
            // Several groups of rows each ask for their part of the next block, so that memory is read all the time.
            Ahead ahead{weights + PREFETCH_BYTES, 0, num_steps};
            if (num_groups > 1)
                ahead = {weights + layer.block_bytes, num_steps * group / num_groups, block + 1 < end ? num_steps * (group + 1) / num_groups : 0};
            BY_ROWS[n](weights, num_steps, x.data.as<char>() + row * x.stride, x.stride, sums, ahead);
            finish_block(layer, x, block, row, n, sums, how, y, stride_y);
        }
    }
}

}  // namespace

void multiply_float32(const Linear& layer, const Input& x, int num_rows, int begin, int end, Finish finish, float* y, size_t stride_y) {
    multiply<Float32>(layer, x, num_rows, begin, end, finish, y, stride_y);
}

void multiply_bfloat16(const Linear& layer, const Input& x, int num_rows, int begin, int end, Finish finish, float* y, size_t stride_y) {
    multiply<BFloat16>(layer, x, num_rows, begin, end, finish, y, stride_y);
}

void multiply_int8(const Linear& layer, const Input& x, int num_rows, int begin, int end, Finish finish, float* y, size_t stride_y) {
    multiply<Int8>(layer, x, num_rows, begin, end, finish, y, stride_y);
}

}  // namespace gpt2
