// Vectors of 16 floats, integers and conditions: one register of AVX-512 each. See scalar/vector.h for what each function is to do.
#pragma once

#include <immintrin.h>

#include "../kernels.h"

namespace gpt2 {
namespace {

struct F {
    __m512 v;
};
struct I {
    __m512i v;
};
using M = __mmask16;

inline M first_lanes(int n) { return n >= 16 ? M(0xFFFF) : n <= 0 ? M(0) : M((1u << n) - 1); }

inline F splat(float x) { return {_mm512_set1_ps(x)}; }
inline F load(const float* from) { return {_mm512_loadu_ps(from)}; }
inline F load_first(const float* from, int n) { return {_mm512_maskz_loadu_ps(first_lanes(n), from)}; }
inline void store(float* to, F x) { _mm512_storeu_ps(to, x.v); }
inline void store_first(float* to, F x, int n) { _mm512_mask_storeu_ps(to, first_lanes(n), x.v); }

inline F operator+(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F operator-(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F operator*(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F operator/(F a, F b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F fma(F a, F b, F c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F fnma(F a, F b, F c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
inline F max(F a, F b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F min(F a, F b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F abs(F a) { return {_mm512_abs_ps(a.v)}; }

inline M at_least(F a, F b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ); }
inline M above(F a, F b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ); }
inline M equal(F a, F b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ); }
inline M is_nan(F a) { return _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q); }
inline M both(M a, M b) { return M(a & b); }
inline M either(M a, M b) { return M(a | b); }
inline M but_not(M a, M b) { return M(a & ~b); }
inline unsigned bits(M m) { return m; }
inline F keep(M m, F x) { return {_mm512_maskz_mov_ps(m, x.v)}; }
inline F select(M m, F yes, F no) { return {_mm512_mask_mov_ps(no.v, m, yes.v)}; }

inline float sum(F x) {
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

inline float greatest(F x) {
    __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

inline I splat(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline I load(const int32_t* from) { return {_mm512_loadu_si512(from)}; }
inline void store(int32_t* to, I x) { _mm512_storeu_si512(to, x.v); }
inline I operator+(I a, I b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline I operator-(I a, I b) { return {_mm512_sub_epi32(a.v, b.v)}; }
inline I operator&(I a, I b) { return {_mm512_and_si512(a.v, b.v)}; }
inline I operator|(I a, I b) { return {_mm512_or_si512(a.v, b.v)}; }
template <int N>
inline I shift_left(I a) {
    return {_mm512_slli_epi32(a.v, N)};
}
template <int N>
inline I shift_right(I a) {  // zeros come in
    return {_mm512_srli_epi32(a.v, N)};
}
template <int N>
inline I shift_right_signed(I a) {
    return {_mm512_srai_epi32(a.v, N)};
}
inline I min(I a, I b) { return {_mm512_min_epi32(a.v, b.v)}; }
inline I max(I a, I b) { return {_mm512_max_epi32(a.v, b.v)}; }
inline I select(M m, I yes, I no) { return {_mm512_mask_mov_epi32(no.v, m, yes.v)}; }

inline I round(F x) { return {_mm512_cvtps_epi32(x.v)}; }
inline F to_float(I x) { return {_mm512_cvtepi32_ps(x.v)}; }
inline I as_bits(F x) { return {_mm512_castps_si512(x.v)}; }
inline F of_bits(I x) { return {_mm512_castsi512_ps(x.v)}; }
inline F scale_by_power(F x, I n) { return {_mm512_scalef_ps(x.v, _mm512_cvtepi32_ps(n.v))}; }

inline void store_bytes(void* to, I x) { _mm_storeu_si128(static_cast<__m128i*>(to), _mm512_cvtepi32_epi8(x.v)); }
inline void store_halves(void* to, I x) { _mm256_storeu_si256(static_cast<__m256i*>(to), _mm512_cvtepi32_epi16(x.v)); }
inline I load_halves(const void* from) { return {_mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(from)))}; }
inline F load_float16(const void* from) { return {_mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(from)))}; }

inline void compress(float* to, M m, F x) { _mm512_storeu_ps(to, _mm512_maskz_compress_ps(m, x.v)); }
inline void compress(int32_t* to, M m, I x) { _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(m, x.v)); }

// Eight doubles.
struct D {
    __m512d v;
};
inline D splat_double(double x) { return {_mm512_set1_pd(x)}; }
inline D low_half(F x) { return {_mm512_cvtps_pd(_mm512_castps512_ps256(x.v))}; }
inline D high_half(F x) { return {_mm512_cvtps_pd(_mm512_extractf32x8_ps(x.v, 1))}; }
inline F to_float(D low, D high) {
    return {_mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(low.v)), _mm512_cvtpd_ps(high.v), 1)};
}
inline D operator+(D a, D b) { return {_mm512_add_pd(a.v, b.v)}; }
inline D operator-(D a, D b) { return {_mm512_sub_pd(a.v, b.v)}; }
inline D operator/(D a, D b) { return {_mm512_div_pd(a.v, b.v)}; }
inline double sum(D x) {
    __m256d four = _mm256_add_pd(_mm512_castpd512_pd256(x.v), _mm512_extractf64x4_pd(x.v, 1));
    __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

}  // namespace
}  // namespace gpt2
