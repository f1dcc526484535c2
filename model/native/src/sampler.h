// One token from one row of logits; see model.batch.SamplingParams and model.sampler, whose native twin this is.
#pragma once

#include <vector>

#include "interface.h"

namespace gpt2 {

// A thread's room for one row at a time.
struct SamplerScratch {
    std::vector<float> logits, costs, weights;
    std::vector<int32_t> seen, generated;  // counts of token ids, zero between rows
};

// The drawn id, or -1 where there is nothing to draw from.
int32_t sample(const float* logits, int vocab_size, const gpt2_draw&, const int32_t* ids, const float* values, SamplerScratch&);

}  // namespace gpt2
