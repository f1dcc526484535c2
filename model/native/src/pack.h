// Weights as the kernels read them, made once at load time.
#pragma once

#include "model.h"

namespace gpt2 {

// Room for a layer of a model's precision.
void shape_linear(Linear&, int num_in, int num_out, int32_t precision);

// weights: (num_out, num_in).
void pack_linear(Linear&, const float* weights, int32_t precision, int num_threads);

// Rows of `size` values, padded to `width`: as they are, or as bfloat16.
void pack_table(Memory&, const float* table, int num_rows, int size, int width, bool as_float32, int num_threads);

Input make_input(int num_rows, int depth, int32_t precision);

}  // namespace gpt2
