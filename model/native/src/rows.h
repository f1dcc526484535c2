// What is done to one row at a time: embedding, LayerNorm, the inputs of products, the statistics of logits.
#pragma once

#include "model.h"

namespace gpt2 {

// x = wte[token] + wpe[position]; tables of float32 or bfloat16.
void embed(const gpt2_model&, int token_id, int position, float* x);

// y = (x - mean) / sqrt(var + eps) * weight + bias over `size` values (Ba et al. 2016, equation 4); zeros up to the next 64.
void layer_norm(const float* x, int size, float epsilon, const Norm&, float* y);

Prepare prepare_float32, prepare_bfloat16, prepare_int8;

// Of 64 logits of which the first `num` count.
BlockStats block_stats(const float* logits, int num, int first_id);

}  // namespace gpt2
