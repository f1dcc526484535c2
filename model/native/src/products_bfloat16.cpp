// Products in bfloat16: two inputs a step, their products added in float32 (VDPBF16PS).
#include <immintrin.h>

#include "products.h"

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")
#include "products_avx512.h"

namespace gpt2 {
namespace {

struct BFloat16 {
    using Sum = __m512;
    using Element = float;
    static constexpr int WIDTH = 2;
    static Sum load(const float* sums) { return _mm512_load_ps(sums); }
    static Sum zero() { return _mm512_setzero_ps(); }
    static Sum add(Sum sum, const char* x, __m512i w) {
        __m512i pair = _mm512_set1_epi32(*reinterpret_cast<const int32_t*>(x));
        return _mm512_dpbf16_ps(sum, (__m512bh)pair, (__m512bh)w);
    }
};

}  // namespace

void multiply_bfloat16(const Product& product, int block, const char* next, Ahead& later) {
    multiply<BFloat16>(product, block, next, later);
}

}  // namespace gpt2
