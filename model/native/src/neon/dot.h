// Steps along the summed axis on NEON with the dot products of Armv8.2: some inputs, broadcast, by 4 outputs a register. See
// kernels/dot.h.
#pragma once

#include "vector.h"

#include "../kernels/dot.h"

namespace gpt2 {
namespace {

constexpr int INPUT_FLIP = 0, KEY_FLIP = 0;

struct Registers : Inputs {
    static constexpr int LANES = 4;
    static constexpr int ROWS = 6, STRIP = 4, ALONE_ROWS = 1;  // 24 of 32 registers hold sums
    static constexpr int REGS_ALONE = 16, REGS_SHARED = 4;
    static constexpr bool ASKS_AHEAD = true;
};

struct Float32 : Registers {
    static constexpr int WIDTH = 1;
    using Element = float;
    using Sum = float32x4_t;
    using W = float32x4_t;
    using X = float32x4_t;
    static Sum zero() { return vdupq_n_f32(0.0f); }
    static Sum load(const float* from) { return vld1q_f32(from); }
    static void store(float* to, Sum sum) { vst1q_f32(to, sum); }
    static W weights(const char* from) { return vld1q_f32(reinterpret_cast<const float*>(from)); }
    static X broadcast(const char* from) { return vld1q_dup_f32(reinterpret_cast<const float*>(from)); }
    static Sum add(Sum sum, X x, W w) { return vfmaq_f32(sum, x, w); }
};

struct BFloat16Fma : Float32 {
    static constexpr int WIDTH = 2, ROWS = 4;
    struct W {
        float32x4_t even, odd;
    };
    using X = W;
    static W of_pairs(uint32x4_t pairs) {
        return {vreinterpretq_f32_u32(vshlq_n_u32(pairs, 16)), vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xFFFF0000u)))};
    }
    static uint32x4_t words(const char* from) { return vld1q_u32(reinterpret_cast<const uint32_t*>(from)); }
    static W weights(const char* from) { return of_pairs(words(from)); }
    static W first_of_pairs(const char* from) { return of_pairs(vandq_u32(words(from), vdupq_n_u32(0xFFFF))); }
    static X broadcast(const char* from) { return of_pairs(vld1q_dup_u32(reinterpret_cast<const uint32_t*>(from))); }
    static Sum add(Sum sum, X x, W w) { return vfmaq_f32(vfmaq_f32(sum, x.even, w.even), x.odd, w.odd); }
};

struct Int8 : Registers {
    static constexpr int WIDTH = 4;
    static constexpr int GATHER_QUERIES = 2, GATHER_ALONE = 8, GATHER_SHARED = 4;  // two sums each
    using Element = int32_t;
    using Sum = int32x4_t;
    using W = int8x16_t;
    using X = int8x16_t;
    using Positive = int8x16_t;
    static Sum zero() { return vdupq_n_s32(0); }
    static Sum splat(int32_t x) { return vdupq_n_s32(x); }
    static Sum load(const int32_t* from) { return vld1q_s32(from); }
    static void store(int32_t* to, Sum sum) { vst1q_s32(to, sum); }
    static W weights(const char* from) { return vld1q_s8(reinterpret_cast<const int8_t*>(from)); }
    static X broadcast(const char* from) { return vreinterpretq_s8_s32(vld1q_dup_s32(reinterpret_cast<const int32_t*>(from))); }
    static Positive broadcast_positive(const uint8_t* from) { return broadcast(reinterpret_cast<const char*>(from)); }
    static Sum add(Sum sum, X x, W w) { return vdotq_s32(sum, w, x); }
    static Sum add_keys(Sum sum, X q, W k) { return vdotq_s32(sum, k, q); }
    static Sum add_values(Sum sum, Positive weight, W v) { return vdotq_s32(sum, v, weight); }
};
using Int8Rows = Int8;

}  // namespace
}  // namespace gpt2
