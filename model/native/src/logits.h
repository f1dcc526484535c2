// What is told of a row of logits.
#pragma once

#include <vector>

#include "interface.h"
#include "kernels.h"

namespace gpt2 {

// The likeliest token of a row of logits, and log(sum of exp).
struct RowStats {
    int32_t argmax;
    float max;
    double log_sum;
};

// A row of logits as it is told of: `all` (V) is null where they are not kept.
struct Logits {
    RowStats stats;
    const BlockStats* blocks;  // (V/64)
    const float* all;
    float chosen;  // that of the token that was named
};

// The statistics of a row of logits from its blocks'; scratch: 2 (num_blocks + 16) floats.
RowStats combine(const Kernels&, const BlockStats* blocks, int num_blocks, float* scratch);

// The same of a row that did not come out of a step, and its blocks'.
RowStats stats_of(const Kernels&, const float* logits, int vocab_size, std::vector<BlockStats>& blocks);

// The num likeliest tokens of a row, all of whose logits are there, with their log-probabilities.
void take_top(const Logits&, int vocab_size, int num, gpt2_token* top);

}  // namespace gpt2
