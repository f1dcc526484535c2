// Steps along the summed axis on AVX-512, with VNNI: some inputs, broadcast, by 16 outputs a register. See kernels/dot.h.
#pragma once

#include "vector.h"

#include "../kernels/dot.h"

namespace gpt2 {
namespace {

// VPDPBUSD multiplies unsigned bytes by signed ones: inputs and keys are kept with 128 added. AMX takes signed inputs (TDPBSSD).
#ifdef __AMX_INT8__
constexpr int INPUT_FLIP = 0, KEY_FLIP = 128;
#else
constexpr int INPUT_FLIP = 128, KEY_FLIP = 128;
#endif

struct Registers : Inputs {
    static constexpr int LANES = 16;
    static constexpr int ROWS = 6, STRIP = 4, ALONE_ROWS = 6;  // 24 of 32 registers hold sums
    static constexpr int REGS_ALONE = 4, REGS_SHARED = 2;
    static constexpr bool ASKS_AHEAD = true;
};

struct Float32 : Registers {
    static constexpr int WIDTH = 1;
    using Element = float;
    using Sum = __m512;
    using W = __m512;
    using X = __m512;
    static Sum zero() { return _mm512_setzero_ps(); }
    static Sum load(const float* from) { return _mm512_loadu_ps(from); }
    static void store(float* to, Sum sum) { _mm512_storeu_ps(to, sum); }
    static W weights(const char* from) { return _mm512_load_ps(from); }
    static X broadcast(const char* from) { return _mm512_set1_ps(*reinterpret_cast<const float*>(from)); }
    static Sum add(Sum sum, X x, W w) { return _mm512_fmadd_ps(x, w, sum); }
};

struct BFloat16Fma : Float32 {
    static constexpr int WIDTH = 2, ROWS = 4, ALONE_ROWS = 4;
    struct W {
        __m512 even, odd;
    };
    using X = W;
    static W of_pairs(__m512i pairs) {
        return {_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)),
                _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(int32_t(0xFFFF0000))))};
    }
    static W weights(const char* from) { return of_pairs(_mm512_load_si512(from)); }
    static W first_of_pairs(const char* from) {
        return of_pairs(_mm512_and_si512(_mm512_load_si512(from), _mm512_set1_epi32(0xFFFF)));
    }
    static X broadcast(const char* from) { return of_pairs(_mm512_set1_epi32(*reinterpret_cast<const int32_t*>(from))); }
    static Sum add(Sum sum, X x, W w) { return _mm512_fmadd_ps(x.odd, w.odd, _mm512_fmadd_ps(x.even, w.even, sum)); }
};

#ifdef __AVX512BF16__
struct BFloat16Dot : Float32 {
    static constexpr int WIDTH = 2;
    using W = __m512i;
    using X = __m512i;
    static W weights(const char* from) { return _mm512_load_si512(from); }
    static W first_of_pairs(const char* from) { return _mm512_and_si512(weights(from), _mm512_set1_epi32(0xFFFF)); }
    static X broadcast(const char* from) { return _mm512_set1_epi32(*reinterpret_cast<const int32_t*>(from)); }
    static Sum add(Sum sum, X x, W w) { return _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)w); }
};
#endif

struct Int8 : Registers {
    static constexpr int WIDTH = 4;
    static constexpr int GATHER_QUERIES = 4, GATHER_ALONE = 4, GATHER_SHARED = 2;  // two sums each
    using Element = int32_t;
    using Sum = __m512i;
    using W = __m512i;
    using X = __m512i;
    using Positive = __m512i;
    static Sum zero() { return _mm512_setzero_si512(); }
    static Sum splat(int32_t x) { return _mm512_set1_epi32(x); }
    static Sum load(const int32_t* from) { return _mm512_loadu_si512(from); }
    static void store(int32_t* to, Sum sum) { _mm512_storeu_si512(to, sum); }
    static W weights(const char* from) { return _mm512_load_si512(from); }
    static X broadcast(const char* from) { return _mm512_set1_epi32(*reinterpret_cast<const int32_t*>(from)); }
    static Positive broadcast_positive(const uint8_t* from) { return _mm512_set1_epi32(*reinterpret_cast<const int32_t*>(from)); }
    static Sum add(Sum sum, X x, W w) { return _mm512_dpbusd_epi32(sum, x, w); }
    static Sum add_keys(Sum sum, X q, W k) { return _mm512_dpbusd_epi32(sum, k, q); }
    static Sum add_values(Sum sum, Positive weight, W v) { return _mm512_dpbusd_epi32(sum, weight, v); }
};
using Int8Rows = Int8;

}  // namespace
}  // namespace gpt2
