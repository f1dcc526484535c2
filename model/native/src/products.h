// The products of a step, one block of 64 outputs at a time: one function a precision and instruction set.
#pragma once

#include <algorithm>

#include "model.h"

namespace gpt2 {

Multiply multiply_float32, multiply_bfloat16, multiply_int8;  // AVX-512, with BF16 and VNNI
Multiply multiply_bfloat16_amx, multiply_int8_amx;

// A thread's tiles, for as long as it multiplies with AMX: set up before, let go of after.
void configure_tiles(int num_rows);
void release_tiles();

}  // namespace gpt2
