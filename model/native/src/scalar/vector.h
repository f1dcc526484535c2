// Vectors of 16 floats, integers and conditions in plain C++: what every other set of instructions is compared with, and the last
// resort on a CPU that has none of them.
//
// The functions here define what those of the same names do elsewhere, to the bit; a NaN is only known to be one. In particular:
// fma and fnma round once; max and min give their second operand where one is a NaN, or both are zeros; sums and greatest values
// of a vector come of the tree in `tree`; round is to the nearest, ties to even.
#pragma once

#include <math.h>
#include <string.h>

#include "../kernels.h"

namespace gpt2 {
namespace {

struct F {
    float v[16];
};
struct I {
    int32_t v[16];
};
struct M {
    bool v[16];
};
struct D {
    double v[8];
};

template <class To, class Function>
inline To lanes(Function function) {
    To to;
    for (int i = 0; i < int(sizeof(to.v) / sizeof(to.v[0])); ++i) to.v[i] = function(i);
    return to;
}

inline M first_lanes(int n) {
    return lanes<M>([&](int i) { return i < n; });
}

inline F splat(float x) {
    return lanes<F>([&](int) { return x; });
}
inline F load(const float* from) {
    return lanes<F>([&](int i) { return from[i]; });
}
inline F load_first(const float* from, int n) {
    return lanes<F>([&](int i) { return i < n ? from[i] : 0.0f; });
}
inline void store(float* to, F x) { memcpy(to, x.v, sizeof(x.v)); }
inline void store_first(float* to, F x, int n) {
    for (int i = 0; i < 16 && i < n; ++i) to[i] = x.v[i];
}

inline F operator+(F a, F b) {
    return lanes<F>([&](int i) { return a.v[i] + b.v[i]; });
}
inline F operator-(F a, F b) {
    return lanes<F>([&](int i) { return a.v[i] - b.v[i]; });
}
inline F operator*(F a, F b) {
    return lanes<F>([&](int i) { return a.v[i] * b.v[i]; });
}
inline F operator/(F a, F b) {
    return lanes<F>([&](int i) { return a.v[i] / b.v[i]; });
}
inline F fma(F a, F b, F c) {
    return lanes<F>([&](int i) { return fmaf(a.v[i], b.v[i], c.v[i]); });
}
inline F fnma(F a, F b, F c) {
    return lanes<F>([&](int i) { return fmaf(-a.v[i], b.v[i], c.v[i]); });
}
inline F max(F a, F b) {
    return lanes<F>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline F min(F a, F b) {
    return lanes<F>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline F abs(F a) {
    return lanes<F>([&](int i) { return fabsf(a.v[i]); });
}

inline M at_least(F a, F b) {
    return lanes<M>([&](int i) { return a.v[i] >= b.v[i]; });
}
inline M above(F a, F b) {
    return lanes<M>([&](int i) { return a.v[i] > b.v[i]; });
}
inline M equal(F a, F b) {
    return lanes<M>([&](int i) { return a.v[i] == b.v[i]; });
}
inline M is_nan(F a) {
    return lanes<M>([&](int i) { return a.v[i] != a.v[i]; });
}
inline M both(M a, M b) {
    return lanes<M>([&](int i) { return a.v[i] && b.v[i]; });
}
inline M either(M a, M b) {
    return lanes<M>([&](int i) { return a.v[i] || b.v[i]; });
}
inline M but_not(M a, M b) {
    return lanes<M>([&](int i) { return a.v[i] && !b.v[i]; });
}
inline unsigned bits(M m) {
    unsigned all = 0;
    for (int i = 0; i < 16; ++i) all |= unsigned(m.v[i]) << i;
    return all;
}
inline F keep(M m, F x) {
    return lanes<F>([&](int i) { return m.v[i] ? x.v[i] : 0.0f; });
}
inline F select(M m, F yes, F no) {
    return lanes<F>([&](int i) { return m.v[i] ? yes.v[i] : no.v[i]; });
}

// Halves are joined until one value is left: lanes i and i + 8, then i and i + 4, i and i + 2, 0 and 1.
template <int N, class Element, class Join>
inline Element tree(const Element* lanes, Join join) {
    Element left[N];
    memcpy(left, lanes, sizeof(left));
    for (int half = N / 2; half; half /= 2)
        for (int i = 0; i < half; ++i) left[i] = join(left[i], left[i + half]);
    return left[0];
}
inline float sum(F x) {
    return tree<16>(x.v, [](float a, float b) { return a + b; });
}
inline float greatest(F x) {
    return tree<16>(x.v, [](float a, float b) { return a > b ? a : b; });
}

inline I splat(int32_t x) {
    return lanes<I>([&](int) { return x; });
}
inline I load(const int32_t* from) {
    return lanes<I>([&](int i) { return from[i]; });
}
inline void store(int32_t* to, I x) { memcpy(to, x.v, sizeof(x.v)); }
inline I operator+(I a, I b) {
    return lanes<I>([&](int i) { return int32_t(uint32_t(a.v[i]) + uint32_t(b.v[i])); });
}
inline I operator-(I a, I b) {
    return lanes<I>([&](int i) { return int32_t(uint32_t(a.v[i]) - uint32_t(b.v[i])); });
}
inline I operator&(I a, I b) {
    return lanes<I>([&](int i) { return a.v[i] & b.v[i]; });
}
inline I operator|(I a, I b) {
    return lanes<I>([&](int i) { return a.v[i] | b.v[i]; });
}
template <int N>
inline I shift_left(I a) {
    return lanes<I>([&](int i) { return int32_t(uint32_t(a.v[i]) << N); });
}
template <int N>
inline I shift_right(I a) {  // zeros come in
    return lanes<I>([&](int i) { return int32_t(uint32_t(a.v[i]) >> N); });
}
template <int N>
inline I shift_right_signed(I a) {
    return lanes<I>([&](int i) { return a.v[i] >> N; });
}
inline I min(I a, I b) {
    return lanes<I>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline I max(I a, I b) {
    return lanes<I>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline I select(M m, I yes, I no) {
    return lanes<I>([&](int i) { return m.v[i] ? yes.v[i] : no.v[i]; });
}

// The nearest integer; some integer where there is none.
inline int32_t round(float x) { return x > -2147483648.0f && x < 2147483648.0f ? int32_t(__builtin_lrintf(x)) : 0; }
inline I round(F x) {
    return lanes<I>([&](int i) { return round(x.v[i]); });
}
inline F to_float(I x) {
    return lanes<F>([&](int i) { return float(x.v[i]); });
}
inline I as_bits(F x) {
    I to;
    memcpy(to.v, x.v, sizeof(to.v));
    return to;
}
inline F of_bits(I x) {
    F to;
    memcpy(to.v, x.v, sizeof(to.v));
    return to;
}
// x * 2^n for -126 <= n <= 127.
inline F scale_by_power(F x, I n) { return x * of_bits(shift_left<23>(n + splat(127))); }

// The low 8 or 16 bits of each lane, side by side; and back.
inline void store_bytes(void* to, I x) {
    for (int i = 0; i < 16; ++i) static_cast<uint8_t*>(to)[i] = uint8_t(x.v[i]);
}
inline void store_halves(void* to, I x) {
    for (int i = 0; i < 16; ++i) static_cast<uint16_t*>(to)[i] = uint16_t(x.v[i]);
}
inline I load_halves(const void* from) {
    return lanes<I>([&](int i) { return int32_t(static_cast<const uint16_t*>(from)[i]); });
}
// IEEE's half precision: what is normal moves its exponent, what is not is a multiple of 2^-24.
inline float of_float16(uint16_t half) {
    const uint32_t sign = uint32_t(half & 0x8000) << 16, rest = half & 0x7FFF;
    uint32_t word = rest >= 0x7C00 ? sign | 0x7F800000 | (rest & 0x3FF) << 13 : sign | ((rest << 13) + (112u << 23));
    float x;
    memcpy(&x, &word, 4);
    return rest < 0x400 ? (sign ? -1.0f : 1.0f) * float(rest) * 5.9604644775390625e-8f : x;
}
inline F load_float16(const void* from) {
    return lanes<F>([&](int i) { return of_float16(static_cast<const uint16_t*>(from)[i]); });
}

// Eight doubles.
inline D splat_double(double x) {
    return lanes<D>([&](int) { return x; });
}
inline D low_half(F x) {
    return lanes<D>([&](int i) { return double(x.v[i]); });
}
inline D high_half(F x) {
    return lanes<D>([&](int i) { return double(x.v[8 + i]); });
}
inline F to_float(D low, D high) {
    return lanes<F>([&](int i) { return float(i < 8 ? low.v[i] : high.v[i - 8]); });
}
inline D operator+(D a, D b) {
    return lanes<D>([&](int i) { return a.v[i] + b.v[i]; });
}
inline D operator-(D a, D b) {
    return lanes<D>([&](int i) { return a.v[i] - b.v[i]; });
}
inline D operator/(D a, D b) {
    return lanes<D>([&](int i) { return a.v[i] / b.v[i]; });
}
inline double sum(D x) {
    return tree<8>(x.v, [](double a, double b) { return a + b; });
}

}  // namespace
}  // namespace gpt2

#include "../kernels/lanes.h"
