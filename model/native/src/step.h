// One step of the whole network.
#pragma once

#include <functional>

#include "logits.h"
#include "model.h"

namespace gpt2 {

// A token that enters `slot` at `position`.
struct Row {
    int32_t token_id, position, slot;
};

// A row of the step that the output head is for, and a token whose logit is told, -1 for none.
struct HeadRow {
    int32_t row, token_id;
};

// Each row once; from `first_kept` on all logits are kept.
struct HeadRows {
    std::vector<HeadRow> rows;
    int first_kept = 0;
};

using OfLogits = std::function<void(int head_row, const Logits&, int thread)>;

// Run the rows, then the head, during which `of_logits` is told of each of its rows once, on some thread of the team.
void run_step(gpt2_model&, const std::vector<Row>& rows, const HeadRows&, const OfLogits& of_logits);

}  // namespace gpt2
