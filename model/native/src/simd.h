// Vectors of 16 floats. To be included after the file's `#pragma GCC target`, which these functions are compiled with.
//
// NaN goes through all of them: _mm512_max_ps and _mm512_min_ps return their second operand where one is NaN.
#pragma once

#include <immintrin.h>

#include <cstddef>

namespace {

inline __mmask16 first_lanes(int n) { return n >= 16 ? __mmask16(0xFFFF) : n <= 0 ? __mmask16(0) : __mmask16((1u << n) - 1); }

// e^x to 1 unit in the last place or two: x = n ln 2 + r, |r| <= ln 2 / 2; a polynomial of degree 6 in r, scaled by 2^n.
// The Taylor series to that degree errs by 1.2e-7 at the ends of the interval.
inline __m512 exp16(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-104.0f), _mm512_min_ps(_mm512_set1_ps(89.0f), x));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.3888889e-3f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3333333e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1666667e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666667e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

// u/2 (1 + tanh(z)) = u / (1 + e^(-2z)), z = sqrt(2/pi) (u + 0.044715 u^3).
inline __m512 gelu16(__m512 u) {
    __m512 cubic = _mm512_fmadd_ps(_mm512_mul_ps(u, u), _mm512_set1_ps(0.044715f), _mm512_set1_ps(1.0f));
    __m512 z = _mm512_mul_ps(_mm512_mul_ps(u, cubic), _mm512_set1_ps(-2 * 0.7978845608f));
    return _mm512_div_ps(u, _mm512_add_ps(_mm512_set1_ps(1.0f), exp16(z)));
}

// Rounded to bfloat16, nearest even; NaN stays NaN. In plain AVX-512, as not every machine with VNNI has the conversion.
inline __m256i to_bfloat16(__m512 x) {
    __m512i bits = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7FC00000)), 16));
}

inline __m512 from_bfloat16(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }

}  // namespace
