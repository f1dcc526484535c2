// Products in int8: four unsigned inputs by four signed weights a step, exact in 32 bits (VPDPBUSD).
#include <immintrin.h>

#include "products.h"

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")
#include "products_avx512.h"

namespace gpt2 {
namespace {

struct Int8 {
    using Sum = __m512i;
    using Element = int32_t;
    static constexpr int WIDTH = 4;
    static Sum load(const int32_t* sums) { return _mm512_load_si512(sums); }
    static Sum zero() { return _mm512_setzero_si512(); }
    static Sum add(Sum sum, const char* x, __m512i w) {
        return _mm512_dpbusd_epi32(sum, _mm512_set1_epi32(*reinterpret_cast<const int32_t*>(x)), w);
    }
};

}  // namespace

void multiply_int8(const Product& product, int block, const char* next, Ahead& later) {
    multiply<Int8>(product, block, next, later);
}

}  // namespace gpt2
