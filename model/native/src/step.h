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

RowStats stats_of(const Kernels&, const float* logits, int vocab_size);

// The rows of a step that the output head is for, and where its logits go, beside their statistics: of row rows[i] all of them to
// logits[i], where that is not null, and that of token next_ids[i] to next_logits[i], where there are next_ids.
struct Draws {
    int num;
    const int32_t* rows;
    float* const* logits;
    const int32_t* next_ids;
    float* next_logits;
};

using OfDraw = std::function<void(int draw, const RowStats&, int thread)>;

// Run the rows, then the head; at the end `of_draw` is told of each draw, on some thread of the team.
void run_step(gpt2_model&, const gpt2_row* rows, int num_rows, const Draws&, const OfDraw& of_draw);

}  // namespace gpt2
