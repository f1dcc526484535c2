// What every product does with its sums: bias, then store, GELU or residual. To be included after `#pragma GCC target`.
#pragma once

#include "model.h"
#include "simd.h"

namespace {

template <gpt2::Finish FINISH>
inline void finish16(__m512 sum, const float* bias, float* y) {
    __m512 v = _mm512_add_ps(sum, _mm512_loadu_ps(bias));
    if (FINISH == gpt2::Finish::add) v = _mm512_add_ps(v, _mm512_loadu_ps(y));
    if (FINISH == gpt2::Finish::gelu) v = gelu16(v);
    _mm512_storeu_ps(y, v);
}

// Rows [row, row + num_rows) of block `block`: sums (num_rows, 64) of floats.
template <gpt2::Finish FINISH>
inline void finish_sums(const gpt2::Product& product, int block, int row, int num_rows, const float* sums) {
    const float* bias = product.layer.bias.data() + block * gpt2::BLOCK;
    float* y = product.y + row * product.stride + (block - product.first_block) * gpt2::BLOCK;
    for (int r = 0; r < num_rows; ++r, y += product.stride, sums += gpt2::BLOCK)
        for (int c = 0; c < gpt2::BLOCK; c += 16) finish16<FINISH>(_mm512_loadu_ps(sums + c), bias + c, y + c);
}

// The same of integers: sum over k of (byte - zero) * weight = sum - zero * (sum of the weights), exact; then both scales.
template <gpt2::Finish FINISH>
inline void finish_sums(const gpt2::Product& product, int block, int row, int num_rows, const int32_t* sums) {
    const gpt2::Linear& layer = product.layer;
    const float *bias = layer.bias.data() + block * gpt2::BLOCK, *scales = layer.scales.data() + block * gpt2::BLOCK;
    const int32_t* weight_sums = layer.sums.data() + block * gpt2::BLOCK;
    float* y = product.y + row * product.stride + (block - product.first_block) * gpt2::BLOCK;
    for (int r = 0; r < num_rows; ++r, y += product.stride, sums += gpt2::BLOCK) {
        __m512i zero = _mm512_set1_epi32(product.x.zeros[row + r]);
        __m512 scale = _mm512_set1_ps(product.x.scales[row + r]);
        for (int c = 0; c < gpt2::BLOCK; c += 16) {
            __m512i offset = _mm512_mullo_epi32(zero, _mm512_loadu_si512(weight_sums + c));
            __m512 sum = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_loadu_si512(sums + c), offset));
            finish16<FINISH>(_mm512_mul_ps(sum, _mm512_mul_ps(scale, _mm512_loadu_ps(scales + c))), bias + c, y + c);
        }
    }
}

template <class Element>
inline void finish_block(const gpt2::Product& product, int block, int row, int num_rows, const Element* sums) {
    switch (product.finish) {
        case gpt2::Finish::store:
            return finish_sums<gpt2::Finish::store>(product, block, row, num_rows, sums);
        case gpt2::Finish::gelu:
            return finish_sums<gpt2::Finish::gelu>(product, block, row, num_rows, sums);
        case gpt2::Finish::add:
            return finish_sums<gpt2::Finish::add>(product, block, row, num_rows, sums);
    }
}

}  // namespace
