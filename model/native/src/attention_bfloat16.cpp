// Attention over a cache of bfloat16, whose products are added in pairs (VDPBF16PS).
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "attention.h"

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")
#include "attention_float.h"

namespace gpt2 {
namespace {

struct BFloat16 {
    static constexpr int PAIR = 2;
    static __m512 dot(__m512 sum, __m512i broadcast, __m512i lanes) {
        return _mm512_dpbf16_ps(sum, (__m512bh)broadcast, (__m512bh)lanes);
    }
    static void write(float* to, __m512 x) { _mm256_storeu_si256((__m256i*)to, to_bfloat16(x)); }
};

}  // namespace

void store_bfloat16(gpt2_model& model, int layer, int slot, int position, const float* qkv, int begin, int end) {
    const int embd = model.config.n_embd, size = embd / model.config.n_head, width = model.head_width, t = position % TILE;
    for (int head = begin; head < end; ++head) {
        auto* keys =
            reinterpret_cast<uint32_t*>(model.keys(layer, head, slot, position / TILE)) + size_t(t / 16) * width * 8 + t % 16;
        auto* values = reinterpret_cast<uint32_t*>(model.values(layer, head, slot, position / TILE)) + size_t(t / 2) * width;
        const float *k = qkv + embd + head * size, *v = qkv + 2 * embd + head * size;
        for (int d = 0; d < size; d += 16) {
            __mmask16 lanes = first_lanes(size - d);
            alignas(32) uint32_t pairs[8];
            _mm256_store_si256((__m256i*)pairs, to_bfloat16(_mm512_maskz_loadu_ps(lanes, k + d)));
            for (int i = 0; i < 8 && d + 2 * i < size; ++i) keys[(d / 2 + i) * 16] = pairs[i];
            // Even positions are the lower halves of their pairs, odd ones the upper.
            __m512i halves = _mm512_cvtepu16_epi32(to_bfloat16(_mm512_maskz_loadu_ps(lanes, v + d)));
            if (t % 2) halves = _mm512_slli_epi32(halves, 16);
            _mm512_mask_storeu_epi16(values + d, t % 2 ? 0xAAAAAAAA : 0x55555555, halves);
        }
    }
}

void attend_bfloat16(const gpt2_model& model, const Attention& attention) {
    attend_in_groups<attend_rows<BFloat16, QUERIES>, attend_rows<BFloat16, 1>>(model, attention);
}

}  // namespace gpt2
