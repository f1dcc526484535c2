// What the dot.h of every set defines, and the part of it that most have in common. To be included after a set's vector.h.
//
// Steps along the summed axis, one class an arithmetic: Float32, BFloat16Fma, Int8, and Int8Rows, which multiplies several rows
// and may want their inputs in another form, where Int8 multiplies single rows and attends. A step is WIDTH inputs of a row,
// broadcast, by LANES outputs a register: `weights` reads those outputs, WIDTH inputs each, `first_of_pairs` the first input of
// two, zeros for the other; `add` adds the products to the sums.
//
// ROWS by STRIP registers of outputs are summed up at a time, up to ALONE_ROWS by a whole block where these are all rows; attention
// takes REGS_ALONE or REGS_SHARED registers of positions or outputs for one query or for several. None of them changes any bit.
//
// ASKS_AHEAD: weights of few rows are asked for before their use.
//
// INPUT_FLIP and KEY_FLIP are added to inputs and keys of int8 where they are kept as unsigned bytes.
#pragma once

#include "../kernels.h"

namespace gpt2 {
namespace {

// Inputs as they are prepared: four bytes a step, from the row's beginning.
struct Inputs {
    static constexpr int X_BYTES = 4;
    static constexpr size_t begin_of_inputs(int) { return 0; }
    static void store_inputs(char* row, int, int k, I bytes) { store_bytes(row + k, bytes); }
};

}  // namespace
}  // namespace gpt2
