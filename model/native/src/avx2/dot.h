// Steps along the summed axis on AVX2 with FMA: some inputs, broadcast, by 8 outputs a register. See kernels/dot.h.
#pragma once

#include "vector.h"

#include "../kernels/dot.h"

namespace gpt2 {
namespace {

struct Registers : Inputs {
    static constexpr int LANES = 8;
    static constexpr int ROWS = 6, STRIP = 2, ALONE_ROWS = 1;  // 12 of 16 registers hold sums
    static constexpr int REGS_ALONE = 8, REGS_SHARED = 2;
    static constexpr bool ASKS_AHEAD = false;  // the core's own prefetching is 1.3 times as fast (one thread of a Zen 4)
};

struct Float32 : Registers {
    static constexpr int WIDTH = 1;
    using Element = float;
    using Sum = __m256;
    using W = __m256;
    using X = __m256;
    static Sum zero() { return _mm256_setzero_ps(); }
    static Sum load(const float* from) { return _mm256_loadu_ps(from); }
    static void store(float* to, Sum sum) { _mm256_storeu_ps(to, sum); }
    static W weights(const char* from) { return _mm256_load_ps(reinterpret_cast<const float*>(from)); }
    static X broadcast(const char* from) { return _mm256_broadcast_ss(reinterpret_cast<const float*>(from)); }
    static Sum add(Sum sum, X x, W w) { return _mm256_fmadd_ps(x, w, sum); }
};

inline __m256i load_words(const char* from) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(from)); }
inline __m256i broadcast_word(const void* from) { return _mm256_set1_epi32(*static_cast<const int32_t*>(from)); }

struct BFloat16Fma : Float32 {
    static constexpr int WIDTH = 2, ROWS = 4;
    struct W {
        __m256 even, odd;
    };
    using X = W;
    static W of_pairs(__m256i pairs) {
        return {_mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)),
                _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(int32_t(0xFFFF0000))))};
    }
    static W weights(const char* from) { return of_pairs(load_words(from)); }
    static W first_of_pairs(const char* from) { return of_pairs(_mm256_and_si256(load_words(from), _mm256_set1_epi32(0xFFFF))); }
    static X broadcast(const char* from) { return of_pairs(broadcast_word(from)); }
    static Sum add(Sum sum, X x, W w) { return _mm256_fmadd_ps(x.odd, w.odd, _mm256_fmadd_ps(x.even, w.even, sum)); }
};

struct Int8Sums : Registers {
    static constexpr int WIDTH = 4;
    static constexpr int GATHER_QUERIES = 2, GATHER_ALONE = 4, GATHER_SHARED = 2;  // two sums each
    using Element = int32_t;
    using Sum = __m256i;
    using W = __m256i;
    using Positive = __m256i;
    static Sum zero() { return _mm256_setzero_si256(); }
    static Sum splat(int32_t x) { return _mm256_set1_epi32(x); }
    static Sum load(const int32_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
    static void store(int32_t* to, Sum sum) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), sum); }
    static W weights(const char* from) { return load_words(from); }
    static Positive broadcast_positive(const uint8_t* from) { return broadcast_word(from); }
};

#ifdef __AVXVNNI__

// VPDPBUSD multiplies unsigned bytes by signed ones: inputs and keys are kept with 128 added.
constexpr int INPUT_FLIP = 128, KEY_FLIP = 128;

struct Int8 : Int8Sums {
    using X = __m256i;
    static X broadcast(const char* from) { return broadcast_word(from); }
    static Sum add(Sum sum, X x, W w) { return _mm256_dpbusd_avx_epi32(sum, x, w); }
    static Sum add_keys(Sum sum, X q, W k) { return _mm256_dpbusd_avx_epi32(sum, k, q); }
    static Sum add_values(Sum sum, Positive weight, W v) { return _mm256_dpbusd_avx_epi32(sum, weight, v); }
};
using Int8Rows = Int8;

#else

constexpr int INPUT_FLIP = 0, KEY_FLIP = 0;

// One chain of sums: left to itself gcc adds the products of many steps up first, and keeps them in memory until then, which takes
// twice as long.
inline __m256i add_in_order(__m256i sum, __m256i products) {
    sum = _mm256_add_epi32(sum, products);
    __asm__("" : "+x"(sum));
    return sum;
}

// VPMADDUBSW adds two products of unsigned and signed bytes in 16 bits and cuts off what they do not hold. The magnitudes of the
// inputs, and their signs moved to the weights, make at most 2 * 127 * 127 = 32,258 of them, which they do.
struct Int8 : Int8Sums {
    struct X {
        __m256i signs, magnitudes;
    };
    static X broadcast(const char* from) {
        const __m256i x = broadcast_word(from);
        return {x, _mm256_abs_epi8(x)};
    }
    static Sum add(Sum sum, X x, W w) { return add_values(sum, x.magnitudes, _mm256_sign_epi8(w, x.signs)); }
    static Sum add_keys(Sum sum, X q, W k) { return add(sum, q, k); }
    static Sum add_values(Sum sum, Positive weight, W v) {
        return add_in_order(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(weight, v), _mm256_set1_epi16(1)));
    }
    // A row's bytes, and behind them the same in 16 bits, of each four the even ones first.
    static void store_inputs(char* row, int depth, int k, I bytes) {
        store_bytes(row + k, bytes);
        const __m256i halves = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(low_halves(bytes), 0xD8), 0xD8);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(row + depth + 2 * k), halves);
    }
};

// For several rows: weights are widened to 16 bits once for all of them, and then a step takes two multiplications a register
// instead of three of a kind that two of the core's units carry out (1.28 times as fast on Zen 4; for one row 0.7 times).
struct Int8Rows : Int8Sums {
    static constexpr int ROWS = 4;  // widened weights take registers too
    static constexpr int X_BYTES = 8;
    static size_t begin_of_inputs(int depth) { return depth; }
    struct W {
        __m256i even, odd;
    };
    using X = W;
    static W weights(const char* from) {
        const __m256i w = load_words(from);
        return {_mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8), _mm256_srai_epi16(w, 8)};
    }
    static X broadcast(const char* from) { return {broadcast_word(from), broadcast_word(from + 4)}; }
    static Sum add(Sum sum, X x, W w) {
        return add_in_order(add_in_order(sum, _mm256_madd_epi16(x.even, w.even)), _mm256_madd_epi16(x.odd, w.odd));
    }
};

#endif

}  // namespace
}  // namespace gpt2
