// What every product does with its sums: bias, then store, GELU or residual. To be included after `#pragma GCC target`.
#pragma once

#include "model.h"
#include "simd.h"

namespace {

inline void finish16(__m512 sum, const float* bias, gpt2::Finish finish, float* y) {
    __m512 v = _mm512_add_ps(sum, _mm512_loadu_ps(bias));
    if (finish == gpt2::Finish::add) v = _mm512_add_ps(v, _mm512_loadu_ps(y));
    if (finish == gpt2::Finish::gelu) v = gelu16(v);
    _mm512_storeu_ps(y, v);
}

// Rows [row, row + num_rows) of block `block`: sums (num_rows, 64) of floats.
inline void finish_floats(const gpt2::Linear& layer, int block, int row, int num_rows, const float* sums, gpt2::Finish finish,
                          float* y, size_t stride_y) {
    for (int r = 0; r < num_rows; ++r)
        for (int c = 0; c < gpt2::BLOCK; c += 16) {
            int n = block * gpt2::BLOCK + c;
            finish16(_mm512_loadu_ps(sums + r * gpt2::BLOCK + c), &layer.bias[n], finish, y + (row + r) * stride_y + n);
        }
}

// The same of integers: sum over k of (byte - zero) * weight = sum - zero * (sum of the weights), exact; then both scales.
inline void finish_integers(const gpt2::Linear& layer, const gpt2::Input& x, int block, int row, int num_rows, const int32_t* sums,
                            gpt2::Finish finish, float* y, size_t stride_y) {
    for (int r = 0; r < num_rows; ++r) {
        __m512i zero = _mm512_set1_epi32(x.zeros[row + r]);
        __m512 scale = _mm512_set1_ps(x.scales[row + r]);
        for (int c = 0; c < gpt2::BLOCK; c += 16) {
            int n = block * gpt2::BLOCK + c;
            __m512i sum = _mm512_sub_epi32(_mm512_loadu_si512(sums + r * gpt2::BLOCK + c),
                                           _mm512_mullo_epi32(zero, _mm512_loadu_si512(&layer.sums[n])));
            __m512 v = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(scale, _mm512_loadu_ps(&layer.scales[n])));
            finish16(v, &layer.bias[n], finish, y + (row + r) * stride_y + n);
        }
    }
}

}  // namespace
