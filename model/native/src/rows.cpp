#include "rows.h"

#include <cmath>
#include <limits>

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma")
#include "simd.h"

namespace gpt2 {

void embed(const gpt2_model& model, int token_id, int position, float* x) {
    size_t token = size_t(token_id) * model.width, place = size_t(position) * model.width;
    for (int c = 0; c < model.width; c += 16) {
        __m512 a, b;
        if (model.is_float32()) {
            a = _mm512_loadu_ps(model.wte.as<float>() + token + c);
            b = _mm512_loadu_ps(model.wpe.as<float>() + place + c);
        } else {
            a = from_bfloat16(_mm256_loadu_si256((const __m256i*)(model.wte.as<uint16_t>() + token + c)));
            b = from_bfloat16(_mm256_loadu_si256((const __m256i*)(model.wpe.as<uint16_t>() + place + c)));
        }
        _mm512_storeu_ps(x + c, _mm512_add_ps(a, b));
    }
}

void layer_norm(const float* x, int size, float epsilon, const Norm& norm, float* y) {
    __m512 sum = _mm512_setzero_ps();
    for (int c = 0; c < size; c += 16) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(first_lanes(size - c), x + c));
    __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / float(size));
    __m512 squares = _mm512_setzero_ps();
    for (int c = 0; c < size; c += 16) {
        __m512 d = _mm512_maskz_sub_ps(first_lanes(size - c), _mm512_loadu_ps(x + c), mean);
        squares = _mm512_fmadd_ps(d, d, squares);
    }
    __m512 scale = _mm512_set1_ps(1.0f / std::sqrt(_mm512_reduce_add_ps(squares) / float(size) + epsilon));
    for (int c = 0; c < round_up(size, BLOCK); c += 16) {
        __m512 d = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x + c), mean), scale);
        __m512 v = _mm512_fmadd_ps(d, _mm512_loadu_ps(&norm.weight[c]), _mm512_loadu_ps(&norm.bias[c]));
        _mm512_storeu_ps(y + c, _mm512_maskz_mov_ps(first_lanes(size - c), v));
    }
}

void prepare_float32(const float* x, int width, int row, Input& input) {
    float* to = reinterpret_cast<float*>(input.data.as<char>() + row * input.stride);
    for (int c = 0; c < width; c += 16) _mm512_storeu_ps(to + c, _mm512_loadu_ps(x + c));
}

void prepare_bfloat16(const float* x, int width, int row, Input& input) {
    auto* to = reinterpret_cast<uint16_t*>(input.data.as<char>() + row * input.stride);
    for (int c = 0; c < width; c += 16) _mm256_storeu_si256((__m256i*)(to + c), to_bfloat16(_mm512_loadu_ps(x + c)));
}

// A row's values from its least to its greatest become 0 to 255; zero is always one of them, so that padding stays zero.
void prepare_int8(const float* x, int width, int row, Input& input) {
    __m512 low = _mm512_setzero_ps(), high = _mm512_setzero_ps();
    __mmask16 nan = 0;
    for (int c = 0; c < width; c += 16) {
        __m512 v = _mm512_loadu_ps(x + c);
        low = _mm512_min_ps(low, v);
        high = _mm512_max_ps(high, v);
        nan |= _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    }
    float least = _mm512_reduce_min_ps(low), greatest = _mm512_reduce_max_ps(high);
    float scale = (greatest - least) / 255.0f;
    if (!(scale > 0.0f)) scale = 1.0f;
    if (nan || !(scale < std::numeric_limits<float>::infinity())) {
        // Integers hold no NaN and no infinity: the scale carries them to every output of the row.
        input.scales[row] = std::numeric_limits<float>::quiet_NaN();
        input.zeros[row] = 0;
        return;
    }
    int zero = int(std::nearbyint(-least / scale));
    input.scales[row] = scale;
    input.zeros[row] = zero;
    auto* to = reinterpret_cast<uint8_t*>(input.data.as<char>() + row * input.stride);
    __m512 inverse = _mm512_set1_ps(1.0f / scale);
    for (int c = 0; c < width; c += 16) {
        __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + c), inverse));
        q = _mm512_max_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(zero)), _mm512_setzero_si512());
        _mm_storeu_si128((__m128i*)(to + c), _mm512_cvtusepi32_epi8(q));
    }
}

BlockStats block_stats(const float* logits, int num, int first_id) {
    const __m512 lowest = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    __m512 best = lowest;
    for (int c = 0; c < num; c += 16) {
        __mmask16 lanes = first_lanes(num - c);
        best = _mm512_mask_max_ps(best, lanes, best, _mm512_maskz_loadu_ps(lanes, logits + c));
    }
    float max = _mm512_reduce_max_ps(best);
    __m512 sum = _mm512_setzero_ps();
    int argmax = -1;
    for (int c = 0; c < num; c += 16) {
        __mmask16 lanes = first_lanes(num - c);
        __m512 v = _mm512_maskz_loadu_ps(lanes, logits + c);
        // What is impossible adds nothing, in a block where nothing else is too.
        __mmask16 counted = _mm512_mask_cmp_ps_mask(lanes, v, lowest, _CMP_NEQ_UQ);
        sum = _mm512_mask_add_ps(sum, counted, sum, exp16(_mm512_sub_ps(v, _mm512_set1_ps(max))));
        __mmask16 equal = _mm512_mask_cmp_ps_mask(lanes, v, _mm512_set1_ps(max), _CMP_EQ_OQ);
        if (argmax < 0 && equal) argmax = first_id + c + __builtin_ctz(equal);
    }
    return {max, _mm512_reduce_add_ps(sum), argmax < 0 ? first_id : argmax};
}

}  // namespace gpt2
