// One step of the whole network.
#pragma once

#include <functional>

#include "model.h"

namespace gpt2 {

// The likeliest token of a row of logits, and log(sum of exp).
struct RowStats {
    int32_t argmax;
    float max;
    double log_sum;
};

RowStats combine(const BlockStats* blocks, int num_blocks);

using OfDraw = std::function<void(int draw, const RowStats&, int thread)>;

// Run the rows, then the head for the rows named in `draw_rows`; the logits of draw i go to logits[i] where that is not null. At
// the end `of_draw` is told of each draw, on some thread of the team.
void run_step(gpt2_model&, const gpt2_row* rows, int num_rows, const int32_t* draw_rows, int num_draws, float* const* logits,
              int num_threads, const OfDraw& of_draw);

}  // namespace gpt2
