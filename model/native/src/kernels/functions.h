// What is made of the vectors' operations alone, and so the same to the bit in every set: exponential, GELU, bfloat16, reading of
// checkpoints. To be included after a set's vector.h.
#pragma once

#include "../kernels.h"

namespace gpt2 {
namespace {

constexpr float INFINITY_ = __builtin_huge_valf();

// e^x to 1 unit in the last place or two, for x from -87 to 88, and its values there beyond: x = n ln 2 + r, |r| <= ln 2 / 2; a
// polynomial of degree 6 in r, scaled by 2^n. The Taylor series to that degree errs by 1.2e-7 at the ends of the interval.
inline F exp(F x) {
    x = max(splat(-87.0f), min(splat(88.0f), x));  // a NaN stays one
    const I n = round(x * splat(1.44269504f));
    F r = fnma(to_float(n), splat(0.693359375f), x);
    r = fnma(to_float(n), splat(-2.12194440e-4f), r);
    F p = splat(1.3888889e-3f);
    p = fma(p, r, splat(8.3333333e-3f));
    p = fma(p, r, splat(4.1666667e-2f));
    p = fma(p, r, splat(1.6666667e-1f));
    p = fma(p, r, splat(0.5f));
    p = fma(p, r, splat(1.0f));
    p = fma(p, r, splat(1.0f));
    return scale_by_power(p, n);
}

// u/2 (1 + tanh(z)) = u / (1 + e^(-2z)), z = sqrt(2/pi) (u + 0.044715 u^3).
inline F gelu(F u) {
    const F cubic = fma(u * u, splat(0.044715f), splat(1.0f));
    const F z = (u * cubic) * splat(-2 * 0.7978845608f);
    return u / (splat(1.0f) + exp(z));
}

// The 16 bits of each lane's bfloat16, nearest even; NaN stays NaN.
inline I to_bfloat16(F x) {
    const I word = as_bits(x), odd = shift_right<16>(word) & splat(1);
    return shift_right<16>(select(is_nan(x), splat(0x7FC00000), word + (odd + splat(0x7FFF))));
}
inline F of_bfloat16(I halves) { return of_bits(shift_left<16>(halves)); }

// The signed byte of each lane that is the index-th from the lowest.
inline F byte_of(I x, int index) {
    const I moved = index == 0 ? shift_left<24>(x) : index == 1 ? shift_left<16>(x) : index == 2 ? shift_left<8>(x) : x;
    return to_float(shift_right_signed<24>(moved));
}

// The first n of 16 values of a checkpoint's tensor, zeros after them; only those are read.
inline F load_weights(const void* data, size_t at, Dtype dtype, int n) {
    if (dtype == Dtype::float32) return load_first(static_cast<const float*>(data) + at, n);
    const auto* from = static_cast<const uint16_t*>(data) + at;
    uint16_t padded[16] = {};
    if (n < 16) {
        for (int i = 0; i < n; ++i) padded[i] = from[i];
        from = padded;
    }
    return dtype == Dtype::float16 ? load_float16(from) : of_bfloat16(load_halves(from));
}

}  // namespace
}  // namespace gpt2
