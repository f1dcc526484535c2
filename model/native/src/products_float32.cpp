// Products in float32: one input a step, in one chain of fused multiply-adds an output.
#include <immintrin.h>

#include "products.h"

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma")
#include "products_avx512.h"

namespace gpt2 {
namespace {

struct Float32 {
    using Sum = __m512;
    using Element = float;
    static constexpr int WIDTH = 1;
    static Sum load(const float* sums) { return _mm512_load_ps(sums); }
    static Sum zero() { return _mm512_setzero_ps(); }
    static Sum add(Sum sum, const char* x, __m512i w) {
        return _mm512_fmadd_ps(_mm512_set1_ps(*reinterpret_cast<const float*>(x)), _mm512_castsi512_ps(w), sum);
    }
};

}  // namespace

void multiply_float32(const Product& product, int block, const char* next, Ahead& later) {
    multiply<Float32>(product, block, next, later);
}

}  // namespace gpt2
