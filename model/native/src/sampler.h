// One token from one row of logits; see model.batch.SamplingParams and model.sampler, whose native twin this is.
#pragma once

#include <vector>

#include "interface.h"
#include "kernels.h"

namespace gpt2 {

// A thread's room for one row at a time: what may still be drawn, in the order of the ids, and counts of ids, zero between rows.
struct SamplerScratch {
    int num = 0;  // how many may still be drawn
    std::vector<int32_t> ids;
    std::vector<float> logits, costs, weights;
    std::vector<float> near_costs, near_weights;  // of those near a filter's limit
    std::vector<int32_t> seen, generated;

    void resize(int vocab_size);
};

// The tokens before the one to be drawn, (num).
struct History {
    const int32_t* ids;
    int num;
};

// The drawn id, or -1 where nothing may be drawn. The logits are finite or -inf; scratch has their size. Biases, banned ids and
// masks are those of the input.
int32_t sample(const Sampling&, const float* logits, int vocab_size, const gpt2_draw&, const gpt2_step_input&, const History&,
               SamplerScratch&);

}  // namespace gpt2
