// Attention over a cache of float32.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "attention.h"

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma")
#include "attention_float.h"

namespace gpt2 {
namespace {

struct Float32 {
    static constexpr int PAIR = 1;
    static __m512 dot(__m512 sum, __m512i broadcast, __m512i lanes) {
        return _mm512_fmadd_ps(_mm512_castsi512_ps(broadcast), _mm512_castsi512_ps(lanes), sum);
    }
    // 16 floats as they are broadcast later.
    static void write(float* to, __m512 x) { _mm512_storeu_ps(to, x); }
};

}  // namespace

void store_float32(gpt2_model& model, int layer, int slot, int position, const float* qkv, int begin, int end) {
    const int embd = model.config.n_embd, size = embd / model.config.n_head, width = model.head_width, t = position % TILE;
    for (int head = begin; head < end; ++head) {
        auto* keys =
            reinterpret_cast<float*>(model.keys(layer, head, slot, position / TILE)) + size_t(t / 16) * width * 16 + t % 16;
        auto* values = reinterpret_cast<float*>(model.values(layer, head, slot, position / TILE)) + size_t(t) * width;
        const float *k = qkv + embd + head * size, *v = qkv + 2 * embd + head * size;
        for (int d = 0; d < size; ++d) keys[d * 16] = k[d], values[d] = v[d];
    }
}

void attend_float32(const gpt2_model& model, const Attention& attention) {
    attend_in_groups<attend_rows<Float32, QUERIES>, attend_rows<Float32, 1>>(model, attention);
}

}  // namespace gpt2
