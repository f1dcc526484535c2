// y (R, stride_y) = or += x W + b, for the blocks [begin, end) of a layer's outputs: one function a precision and instruction set.
#pragma once

#include "model.h"

namespace gpt2 {

using Multiply = void(const Linear&, const Input&, int num_rows, int begin, int end, Finish, float* y, size_t stride_y);

Multiply multiply_float32, multiply_bfloat16, multiply_int8;  // AVX-512, with BF16 and VNNI
Multiply multiply_bfloat16_amx, multiply_int8_amx;

// A thread's tiles, for as long as it multiplies with AMX: set up before, let go of after.
void configure_tiles(int num_rows);
void release_tiles();

}  // namespace gpt2
