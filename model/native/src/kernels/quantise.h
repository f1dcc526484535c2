// Floats as signed bytes, -127 to 127: -128 never comes out, so that a product of two of them can be summed up exactly in every set
// of instructions.
#pragma once

#include "functions.h"

namespace gpt2 {
namespace {

constexpr float LEAST_SCALED = 1e-30f;  // where all values are smaller they count as zeros: 127 / them may be no float

// Lanes of x times `inverse` as integers within +-127.
inline I to_bytes(F x, F inverse) { return max(min(round(x * inverse), splat(127)), splat(-127)); }

// What is known of the values of a row before they are quantised.
struct Magnitude {
    float greatest;
    bool is_finite;
};

inline Magnitude magnitude(const float* x, int size) {
    F top = splat(0.0f);
    M nan = is_nan(top);
    for (int c = 0; c < size; c += 16) {
        const F v = load_first(x + c, size - c);
        top = max(top, abs(v));
        nan = either(nan, is_nan(v));
    }
    const float greatest_ = greatest(top);
    return {greatest_, !bits(nan) && greatest_ < INFINITY_};
}

// The factor by which values up to `greatest` become bytes; 0 where there is nothing but zeros.
inline float inverse_of(float greatest) { return greatest >= LEAST_SCALED ? 127.0f / greatest : 0.0f; }

// `size` values as bytes into `to`, zeros up to `width`; returns what a unit stands for: NaN where a value is none or infinite, as
// bytes hold neither.
inline float quantise(const float* x, int size, int width, int8_t* to) {
    const Magnitude m = magnitude(x, size);
    const F inverse = splat(m.is_finite ? inverse_of(m.greatest) : 0.0f);
    for (int c = 0; c < width; c += 16) {
        const I bytes = m.is_finite ? to_bytes(load_first(x + c, size - c), inverse) : splat(0);
        store_bytes(to + c, bytes);
    }
    return m.is_finite ? m.greatest / 127.0f : __builtin_nanf("");
}

// The few values of a row beyond `limit`, more than four times as large as the greatest of the others; infinity where there are
// none, or too many. Released GPT-2 checkpoints have a few such channels, and at a first position some hundreds of times the rest
// (Sun et al. 2024): they would leave the others no more than a bit or two. As in LLM.int8() (Dettmers et al. 2022, section 3.2)
// they are multiplied apart, in floats. `greatest_` is that of all and becomes that of the others.
inline float outlier_limit(const float* x, int width, float& greatest_) {
    float limit = INFINITY_;
    while (greatest_ >= LEAST_SCALED) {
        const F next = splat(greatest_ * 0.25f);
        F rest = splat(0.0f);
        int num = 0;
        for (int c = 0; c < width && num <= MAX_OUTLIERS; c += 16) {
            const F v = abs(load(x + c));
            const M large = above(v, next);
            num += __builtin_popcount(bits(large));
            rest = max(rest, select(large, splat(0.0f), v));
        }
        if (num > MAX_OUTLIERS) break;
        limit = greatest_ * 0.25f, greatest_ = greatest(rest);
    }
    return limit;
}

// A row of a product's input: bytes, their scale, and its outliers, whose bytes are zeros.
void prepare_int8(const float* x, int width, int row, const Input& input) {
    char* to = input.data + row * input.stride;
    Outliers& outliers = input.outliers[row];
    outliers.num = 0;
    Magnitude m = magnitude(x, width);
    if (!m.is_finite) {  // bytes hold no NaN and no infinity: the scale carries them to every output of the row
        input.scales[row] = __builtin_nanf("");
        for (int c = 0; c < width; c += 16) Int8::store_inputs(to, width, c, splat(INPUT_FLIP));
        return;
    }
    const F limit = splat(outlier_limit(x, width, m.greatest)), inverse = splat(inverse_of(m.greatest));
    input.scales[row] = m.greatest / 127.0f;
    for (int c = 0; c < width; c += 16) {
        const F v = load(x + c);
        const M large = above(abs(v), limit);
        for (unsigned left = bits(large); left; left &= left - 1, ++outliers.num) {
            const int column = c + __builtin_ctz(left);
            outliers.columns[outliers.num] = column, outliers.values[outliers.num] = x[column];
        }
        Int8::store_inputs(to, width, c, select(large, splat(0), to_bytes(v, inverse)) + splat(INPUT_FLIP));
    }
}

}  // namespace
}  // namespace gpt2
