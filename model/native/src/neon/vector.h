// Vectors of 16 floats, integers and conditions: four registers of NEON each. See scalar/vector.h for what each function is to do.
#pragma once

#include <arm_neon.h>
#include <string.h>

#include "../kernels.h"

namespace gpt2 {
namespace {

struct F {
    float32x4_t v[4];
};
struct I {
    int32x4_t v[4];
};
struct M {  // all bits of a lane, or none
    uint32x4_t v[4];
};

template <class To, class Function>
inline __attribute__((always_inline)) To four(Function function) {
    return {{function(0), function(1), function(2), function(3)}};
}

inline M first_lanes(int n) {
    const int32x4_t lane = {0, 1, 2, 3};
    return four<M>([&](int i) { return vcltq_s32(lane, vdupq_n_s32(n - 4 * i)); });
}

inline F splat(float x) {
    return four<F>([&](int) { return vdupq_n_f32(x); });
}
inline F load(const float* from) {
    return four<F>([&](int i) { return vld1q_f32(from + 4 * i); });
}
inline F load_first(const float* from, int n) {
    if (n >= 16) return load(from);
    float padded[16] = {};
    for (int i = 0; i < n; ++i) padded[i] = from[i];
    return load(padded);
}
inline void store(float* to, F x) {
    for (int i = 0; i < 4; ++i) vst1q_f32(to + 4 * i, x.v[i]);
}
inline void store_first(float* to, F x, int n) {
    if (n >= 16) return store(to, x);
    float all[16];
    store(all, x);
    for (int i = 0; i < n; ++i) to[i] = all[i];
}

inline F operator+(F a, F b) {
    return four<F>([&](int i) { return vaddq_f32(a.v[i], b.v[i]); });
}
inline F operator-(F a, F b) {
    return four<F>([&](int i) { return vsubq_f32(a.v[i], b.v[i]); });
}
inline F operator*(F a, F b) {
    return four<F>([&](int i) { return vmulq_f32(a.v[i], b.v[i]); });
}
inline F operator/(F a, F b) {
    return four<F>([&](int i) { return vdivq_f32(a.v[i], b.v[i]); });
}
inline F fma(F a, F b, F c) {
    return four<F>([&](int i) { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); });
}
inline F fnma(F a, F b, F c) {
    return four<F>([&](int i) { return vfmsq_f32(c.v[i], a.v[i], b.v[i]); });
}
// Not vmaxq and vminq, which order zeros and answer NaN with NaN.
inline F max(F a, F b) {
    return four<F>([&](int i) { return vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); });
}
inline F min(F a, F b) {
    return four<F>([&](int i) { return vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); });
}
inline F abs(F a) {
    return four<F>([&](int i) { return vabsq_f32(a.v[i]); });
}

inline M at_least(F a, F b) {
    return four<M>([&](int i) { return vcgeq_f32(a.v[i], b.v[i]); });
}
inline M above(F a, F b) {
    return four<M>([&](int i) { return vcgtq_f32(a.v[i], b.v[i]); });
}
inline M equal(F a, F b) {
    return four<M>([&](int i) { return vceqq_f32(a.v[i], b.v[i]); });
}
inline M is_nan(F a) {
    return four<M>([&](int i) { return vmvnq_u32(vceqq_f32(a.v[i], a.v[i])); });
}
inline M both(M a, M b) {
    return four<M>([&](int i) { return vandq_u32(a.v[i], b.v[i]); });
}
inline M either(M a, M b) {
    return four<M>([&](int i) { return vorrq_u32(a.v[i], b.v[i]); });
}
inline M but_not(M a, M b) {
    return four<M>([&](int i) { return vbicq_u32(a.v[i], b.v[i]); });
}
inline unsigned bits(M m) {
    unsigned all = 0;
    const uint32x4_t weights = {1, 2, 4, 8};
    for (int i = 0; i < 4; ++i) all |= vaddvq_u32(vandq_u32(m.v[i], weights)) << 4 * i;
    return all;
}
inline F keep(M m, F x) {
    return four<F>([&](int i) { return vreinterpretq_f32_u32(vandq_u32(m.v[i], vreinterpretq_u32_f32(x.v[i]))); });
}
inline F select(M m, F yes, F no) {
    return four<F>([&](int i) { return vbslq_f32(m.v[i], yes.v[i], no.v[i]); });
}

inline float32x4_t larger(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }

inline float sum(F x) {
    float32x4_t left = vaddq_f32(vaddq_f32(x.v[0], x.v[2]), vaddq_f32(x.v[1], x.v[3]));
    left = vaddq_f32(left, vextq_f32(left, left, 2));
    return vgetq_lane_f32(vaddq_f32(left, vextq_f32(left, left, 1)), 0);
}

inline float greatest(F x) {
    float32x4_t left = larger(larger(x.v[0], x.v[2]), larger(x.v[1], x.v[3]));
    left = larger(left, vextq_f32(left, left, 2));
    return vgetq_lane_f32(larger(left, vextq_f32(left, left, 1)), 0);
}

inline I splat(int32_t x) {
    return four<I>([&](int) { return vdupq_n_s32(x); });
}
inline I load(const int32_t* from) {
    return four<I>([&](int i) { return vld1q_s32(from + 4 * i); });
}
inline void store(int32_t* to, I x) {
    for (int i = 0; i < 4; ++i) vst1q_s32(to + 4 * i, x.v[i]);
}
inline I operator+(I a, I b) {
    return four<I>([&](int i) { return vaddq_s32(a.v[i], b.v[i]); });
}
inline I operator-(I a, I b) {
    return four<I>([&](int i) { return vsubq_s32(a.v[i], b.v[i]); });
}
inline I operator&(I a, I b) {
    return four<I>([&](int i) { return vandq_s32(a.v[i], b.v[i]); });
}
inline I operator|(I a, I b) {
    return four<I>([&](int i) { return vorrq_s32(a.v[i], b.v[i]); });
}
template <int N>
inline I shift_left(I a) {
    return four<I>([&](int i) { return vshlq_n_s32(a.v[i], N); });
}
template <int N>
inline I shift_right(I a) {  // zeros come in
    return four<I>([&](int i) { return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(a.v[i]), N)); });
}
template <int N>
inline I shift_right_signed(I a) {
    return four<I>([&](int i) { return vshrq_n_s32(a.v[i], N); });
}
inline I min(I a, I b) {
    return four<I>([&](int i) { return vminq_s32(a.v[i], b.v[i]); });
}
inline I max(I a, I b) {
    return four<I>([&](int i) { return vmaxq_s32(a.v[i], b.v[i]); });
}
inline I select(M m, I yes, I no) {
    return four<I>([&](int i) { return vbslq_s32(m.v[i], yes.v[i], no.v[i]); });
}

inline I round(F x) {
    return four<I>([&](int i) { return vcvtnq_s32_f32(x.v[i]); });
}
inline F to_float(I x) {
    return four<F>([&](int i) { return vcvtq_f32_s32(x.v[i]); });
}
inline I as_bits(F x) {
    return four<I>([&](int i) { return vreinterpretq_s32_f32(x.v[i]); });
}
inline F of_bits(I x) {
    return four<F>([&](int i) { return vreinterpretq_f32_s32(x.v[i]); });
}
inline F scale_by_power(F x, I n) { return x * of_bits(shift_left<23>(n + splat(127))); }

inline void store_halves(void* to, I x) {
    for (int i = 0; i < 4; ++i) {
        const int16x4_t half = vmovn_s32(x.v[i]);
        memcpy(static_cast<char*>(to) + 8 * i, &half, 8);
    }
}
inline void store_bytes(void* to, I x) {
    for (int i = 0; i < 4; i += 2) {
        const int8x8_t bytes = vmovn_s16(vcombine_s16(vmovn_s32(x.v[i]), vmovn_s32(x.v[i + 1])));
        memcpy(static_cast<char*>(to) + 4 * i, &bytes, 8);
    }
}
inline I load_halves(const void* from) {
    return four<I>([&](int i) {
        uint16x4_t half;
        memcpy(&half, static_cast<const char*>(from) + 8 * i, 8);
        return vreinterpretq_s32_u32(vmovl_u16(half));
    });
}
inline F load_float16(const void* from) {
    return four<F>([&](int i) {
        float16x4_t half;
        memcpy(&half, static_cast<const char*>(from) + 8 * i, 8);
        return vcvt_f32_f16(half);
    });
}

// Eight doubles.
struct D {
    float64x2_t v[4];
};
inline D splat_double(double x) {
    return four<D>([&](int) { return vdupq_n_f64(x); });
}
inline D of_two(float32x4_t a, float32x4_t b) {
    return {{vcvt_f64_f32(vget_low_f32(a)), vcvt_high_f64_f32(a), vcvt_f64_f32(vget_low_f32(b)), vcvt_high_f64_f32(b)}};
}
inline D low_half(F x) { return of_two(x.v[0], x.v[1]); }
inline D high_half(F x) { return of_two(x.v[2], x.v[3]); }
inline F to_float(D low, D high) {
    auto join = [](float64x2_t a, float64x2_t b) { return vcvt_high_f32_f64(vcvt_f32_f64(a), b); };
    return {{join(low.v[0], low.v[1]), join(low.v[2], low.v[3]), join(high.v[0], high.v[1]), join(high.v[2], high.v[3])}};
}
inline D operator+(D a, D b) {
    return four<D>([&](int i) { return vaddq_f64(a.v[i], b.v[i]); });
}
inline D operator-(D a, D b) {
    return four<D>([&](int i) { return vsubq_f64(a.v[i], b.v[i]); });
}
inline D operator/(D a, D b) {
    return four<D>([&](int i) { return vdivq_f64(a.v[i], b.v[i]); });
}
inline double sum(D x) {
    const float64x2_t two = vaddq_f64(vaddq_f64(x.v[0], x.v[2]), vaddq_f64(x.v[1], x.v[3]));
    return vgetq_lane_f64(two, 0) + vgetq_lane_f64(two, 1);
}

}  // namespace
}  // namespace gpt2

#include "../kernels/lanes.h"
