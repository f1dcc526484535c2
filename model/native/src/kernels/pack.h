// Weights as the kernels read them, 64 outputs at a time.
#pragma once

#include "quantise.h"

namespace gpt2 {
namespace {

// The weights of outputs [begin, end), 64 at most, as floats (depth, 64), zeros where there are none; false if one is not finite.
inline bool read_block(const Source& source, int num_in, int num_out, int depth, int begin, float* to) {
    const int num = num_out - begin < BLOCK ? num_out - begin : BLOCK;
    F nothing = splat(0.0f);  // x - x: zero, or NaN
    if (source.is_transposed) {
        for (int k = 0; k < num_in; ++k)
            for (int n = 0; n < BLOCK; n += 16) {
                const F w = load_weights(source.data, size_t(k) * num_out + begin + (n < num ? n : 0), source.dtype, num - n);
                nothing = nothing + (w - w);
                store(to + k * BLOCK + n, source.factors ? w * splat(source.factors[k]) : w);
            }
    } else {
        for (int n = 0; n < BLOCK; ++n)
            for (int k = 0; k < num_in; k += 16) {
                F w = splat(0.0f);
                if (n < num) w = load_weights(source.data, size_t(begin + n) * num_in + k, source.dtype, num_in - k);
                nothing = nothing + (w - w);
                if (source.factors) w = w * load_first(source.factors + k, num_in - k);
                float lanes[16];
                store(lanes, w);
                for (int i = 0; i < 16 && k + i < num_in; ++i) to[(k + i) * BLOCK + n] = lanes[i];
            }
    }
    for (int i = num_in * BLOCK; i < depth * BLOCK; i += 16) store(to + i, splat(0.0f));
    return !bits(is_nan(nothing));
}

void input_maxima(const Source& source, int num_in, int num_out, int begin, int end, float* maxima) {
    auto weights = [&](int row, int width, int c) {
        return abs(load_weights(source.data, size_t(row) * width + c, source.dtype, width - c));
    };
    for (int row = begin; row < end; ++row) {
        if (source.is_transposed) {
            F top = splat(maxima[row]);
            for (int n = 0; n < num_out; n += 16) top = max(top, weights(row, num_out, n));
            maxima[row] = greatest(top);
        } else {
            for (int k = 0; k < num_in; k += 16)
                store_first(maxima + k, max(load_first(maxima + k, num_in - k), weights(row, num_in, k)), num_in - k);
        }
    }
}

bool pack_float32(const Source& source, int num_in, int num_out, int depth, int block, char* to, float*, int32_t*, float*) {
    return read_block(source, num_in, num_out, depth, block * BLOCK, reinterpret_cast<float*>(to));
}

bool pack_bfloat16(const Source& source, int num_in, int num_out, int depth, int block, char* to, float*, int32_t*, float* w) {
    const bool is_finite = read_block(source, num_in, num_out, depth, block * BLOCK, w);
    auto* packed = reinterpret_cast<int32_t*>(to);
    for (int k = 0; k < depth; k += 2, w += 2 * BLOCK, packed += BLOCK)
        for (int n = 0; n < BLOCK; n += 16)
            store(packed + n, to_bfloat16(load(w + n)) | shift_left<16>(to_bfloat16(load(w + BLOCK + n))));
    return is_finite;
}

// The greatest weight of each output becomes 127.
bool pack_int8(const Source& source, int num_in, int num_out, int depth, int block, char* to, float* scales, int32_t* offsets,
               float* w) {
    const bool is_finite = read_block(source, num_in, num_out, depth, block * BLOCK, w);
    for (int n = 0; n < BLOCK; n += 16) {
        F top = splat(0.0f);
        for (int k = 0; k < num_in; ++k) top = max(top, abs(load(w + k * BLOCK + n)));
        store(scales + n, top / splat(127.0f));
        const F inverse = keep(at_least(top, splat(LEAST_SCALED)), splat(127.0f) / top);
        auto* packed = reinterpret_cast<int32_t*>(to) + n;
        I total = splat(0);
        for (int k = 0; k < depth; k += 4, packed += BLOCK) {
            I four[4];
            for (int i = 0; i < 4; ++i) four[i] = to_bytes(load(w + (k + i) * BLOCK + n), inverse), total = total + four[i];
            const I byte = splat(255);
            store(packed,
                  (four[0] & byte) | shift_left<8>(four[1] & byte) | shift_left<16>(four[2] & byte) | shift_left<24>(four[3]));
        }
        // Inputs that are kept as x + INPUT_FLIP are summed up as such.
        I offset = splat(0);
        for (int i = 0; i < INPUT_FLIP; i += 128) offset = offset - shift_left<7>(total);
        store(offsets + n, offset);
    }
    return is_finite;
}

// The row of the output embedding that is token's, out of its block.
inline const char* column_of(const Linear& head, int token_id) {
    return head.weights + size_t(token_id / BLOCK) * head.block_bytes + token_id % BLOCK * 4;
}

void embed_float32(const Linear& head, int token_id, int width, float* x) {
    const char* from = column_of(head, token_id);
    for (int k = 0; k < width; ++k, from += 4 * BLOCK) x[k] = *reinterpret_cast<const float*>(from);
}

void embed_bfloat16(const Linear& head, int token_id, int width, float* x) {
    const char* from = column_of(head, token_id);
    auto* words = reinterpret_cast<uint32_t*>(x);
    for (int k = 0; k < width; k += 2, from += 4 * BLOCK) {
        const uint32_t pair = *reinterpret_cast<const uint32_t*>(from);
        words[k] = pair << 16, words[k + 1] = pair & 0xFFFF0000u;
    }
}

void embed_int8(const Linear& head, int token_id, int width, float* x) {
    const char* from = column_of(head, token_id);
    const float scale = head.scales[token_id];
    for (int k = 0; k < width; k += 4, from += 4 * BLOCK)
        for (int i = 0; i < 4; ++i) x[k + i] = float(reinterpret_cast<const int8_t*>(from)[i]) * scale;
}

}  // namespace
}  // namespace gpt2
