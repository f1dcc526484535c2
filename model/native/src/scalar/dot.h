// Steps along the summed axis in plain C++. See kernels/dot.h.
#pragma once

#include "vector.h"

#include "../kernels/dot.h"

namespace gpt2 {
namespace {

constexpr int INPUT_FLIP = 0, KEY_FLIP = 0;

struct Registers : Inputs {
    static constexpr int LANES = 16;
    static constexpr int ROWS = 2, STRIP = 1, ALONE_ROWS = 1;
    static constexpr int REGS_ALONE = 1, REGS_SHARED = 1;
    static constexpr bool ASKS_AHEAD = false;
};

struct Float32 : Registers {
    static constexpr int WIDTH = 1;
    using Element = float;
    using Sum = F;
    using W = F;
    using X = F;
    static Sum zero() { return gpt2::splat(0.0f); }
    static Sum load(const float* from) { return gpt2::load(from); }
    static void store(float* to, Sum sum) { gpt2::store(to, sum); }
    static W weights(const char* from) { return load(reinterpret_cast<const float*>(from)); }
    static X broadcast(const char* from) { return gpt2::splat(*reinterpret_cast<const float*>(from)); }
    static Sum add(Sum sum, X x, W w) { return fma(x, w, sum); }
};

// Inputs and weights of bfloat16, products added in float32 by fused multiply-adds, the first of a pair first.
struct BFloat16Fma : Float32 {
    static constexpr int WIDTH = 2;
    struct W {
        F even, odd;
    };
    using X = W;
    static W of_pairs(I pairs) { return {of_bits(shift_left<16>(pairs)), of_bits(pairs & gpt2::splat(int32_t(0xFFFF0000)))}; }
    static W weights(const char* from) { return of_pairs(gpt2::load(reinterpret_cast<const int32_t*>(from))); }
    static W first_of_pairs(const char* from) {
        return of_pairs(gpt2::load(reinterpret_cast<const int32_t*>(from)) & gpt2::splat(0xFFFF));
    }
    static X broadcast(const char* from) { return of_pairs(gpt2::splat(*reinterpret_cast<const int32_t*>(from))); }
    static Sum add(Sum sum, X x, W w) { return fma(x.odd, w.odd, fma(x.even, w.even, sum)); }
};

// Sums of integers, exact in any order: signed bytes by signed bytes, or, of attention's values, bytes of 7 bits by signed ones.
struct Int8 : Registers {
    static constexpr int WIDTH = 4;
    static constexpr int GATHER_QUERIES = 1, GATHER_ALONE = 1, GATHER_SHARED = 1;
    using Element = int32_t;
    using Sum = I;
    struct W {
        int8_t v[64];
    };
    struct X {
        int8_t v[4];
    };
    using Positive = X;
    static Sum zero() { return gpt2::splat(0); }
    static Sum splat(int32_t x) { return gpt2::splat(x); }
    static Sum load(const int32_t* from) { return gpt2::load(from); }
    static void store(int32_t* to, Sum sum) { gpt2::store(to, sum); }
    static W weights(const char* from) {
        W w;
        memcpy(w.v, from, sizeof(w.v));
        return w;
    }
    static X broadcast(const char* from) {
        X x;
        memcpy(x.v, from, sizeof(x.v));
        return x;
    }
    static Positive broadcast_positive(const uint8_t* from) { return broadcast(reinterpret_cast<const char*>(from)); }
    static Sum add(Sum sum, X x, W w) {
        for (int i = 0; i < 16; ++i)
            for (int j = 0; j < 4; ++j) sum.v[i] += int32_t(x.v[j]) * w.v[4 * i + j];
        return sum;
    }
    static Sum add_keys(Sum sum, X q, W k) { return add(sum, q, k); }
    static Sum add_values(Sum sum, Positive weight, W v) { return add(sum, weight, v); }
};
using Int8Rows = Int8;

}  // namespace
}  // namespace gpt2
