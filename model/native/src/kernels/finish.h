// What every product does with its sums: bias, then store, GELU or residual.
#pragma once

#include "functions.h"

namespace gpt2 {
namespace {

template <Finish FINISH>
inline void finish16(F v, float* y) {
    if (FINISH == Finish::add) v = v + load(y);
    if (FINISH == Finish::gelu) v = gelu(v);
    store(y, v);
}

// Rows [row, row + num_rows) of a block: sums (num_rows, 64) of floats.
template <Finish FINISH>
inline void finish_sums(const Product& product, int row, int num_rows, const float* sums) {
    const float* bias = product.layer->bias + product.block * BLOCK;
    float* y = product.y + row * product.stride;
    for (int r = 0; r < num_rows; ++r, y += product.stride, sums += BLOCK)
        for (int c = 0; c < BLOCK; c += 16) finish16<FINISH>(load(sums + c) + load(bias + c), y + c);
}

// y = bias + sum * both scales, sums of integers; then the outliers' part, in their order.
template <Finish FINISH>
inline void finish_sums(const Product& product, int row, int num_rows, const int32_t* sums) {
    const Linear& layer = *product.layer;
    const float *bias = layer.bias + product.block * BLOCK, *scales = layer.scales + product.block * BLOCK;
    float* y = product.y + row * product.stride;
    for (int r = 0; r < num_rows; ++r, y += product.stride, sums += BLOCK) {
        const F scale = splat(product.x->scales[row + r]);
        const Outliers& outliers = product.x->outliers[row + r];
        for (int c = 0; c < BLOCK; c += 16) {
            const F unit = load(scales + c);
            F v = fma(to_float(load(sums + c)), scale * unit, load(bias + c));
            for (int i = 0; i < outliers.num; ++i) {
                const int column = outliers.columns[i];
                const auto* four = reinterpret_cast<const int32_t*>(product.weights + size_t(column / 4) * 4 * BLOCK) + c;
                v = fma(byte_of(load(four), column % 4), splat(outliers.values[i]) * unit, v);
            }
            finish16<FINISH>(v, y + c);
        }
    }
}

template <class Element>
inline void finish_block(const Product& product, int row, int num_rows, const Element* sums) {
    switch (product.finish) {
        case Finish::store:
            return finish_sums<Finish::store>(product, row, num_rows, sums);
        case Finish::gelu:
            return finish_sums<Finish::gelu>(product, row, num_rows, sums);
        case Finish::add:
            return finish_sums<Finish::add>(product, row, num_rows, sums);
    }
}

}  // namespace
}  // namespace gpt2
