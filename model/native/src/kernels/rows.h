// What is done to one row at a time: LayerNorm, the inputs of products, the statistics of logits.
#pragma once

#include "functions.h"

namespace gpt2 {
namespace {

void read(const Source& source, size_t at, int num, float* to) {
    for (int i = 0; i < num; i += 16) store_first(to + i, load_weights(source.data, at + i, source.dtype, num - i), num - i);
}

void add_row(float* x, const float* row, int width) {
    for (int c = 0; c < width; c += 16) store(x + c, load(x + c) + load(row + c));
}

void layer_norm(const float* x, int size, float epsilon, const Norm& norm, float* y) {
    F total = splat(0.0f);
    for (int c = 0; c < size; c += 16) total = total + load_first(x + c, size - c);
    const F mean = splat(sum(total) / float(size));
    F squares = splat(0.0f);
    for (int c = 0; c < size; c += 16) {
        const F d = keep(first_lanes(size - c), load(x + c) - mean);
        squares = fma(d, d, squares);
    }
    const F scale = splat(1.0f / __builtin_sqrtf(sum(squares) / float(size) + epsilon));
    for (int c = 0; c < round_up(size, BLOCK); c += 16) {
        const F d = (load(x + c) - mean) * scale;
        store(y + c, keep(first_lanes(size - c), fma(d, load(norm.weight + c), load(norm.bias + c))));
    }
}

void prepare_float32(const float* x, int width, int row, const Input& input) {
    auto* to = reinterpret_cast<float*>(input.data + row * input.stride);
    for (int c = 0; c < width; c += 16) store(to + c, load(x + c));
}

void prepare_bfloat16(const float* x, int width, int row, const Input& input) {
    auto* to = reinterpret_cast<uint16_t*>(input.data + row * input.stride);
    for (int c = 0; c < width; c += 16) store_halves(to + c, to_bfloat16(load(x + c)));
}

BlockStats block_stats(const float* logits, int num, int first_id) {
    const F lowest = splat(-INFINITY_);
    F best = lowest;
    for (int c = 0; c < num; c += 16) best = max(best, select(first_lanes(num - c), load_first(logits + c, num - c), lowest));
    const float top = greatest(best);
    F total = splat(0.0f);
    int argmax = -1;
    for (int c = 0; c < num; c += 16) {
        const M lanes = first_lanes(num - c);
        const F x = load_first(logits + c, num - c);
        // What is impossible adds nothing, in a block where nothing else is too.
        total = total + keep(but_not(lanes, equal(x, lowest)), exp(x - splat(top)));
        const unsigned at_top = bits(both(lanes, equal(x, splat(top))));
        if (argmax < 0 && at_top) argmax = first_id + c + __builtin_ctz(at_top);
    }
    return {top, sum(total), argmax < 0 ? first_id : argmax};
}

}  // namespace
}  // namespace gpt2
