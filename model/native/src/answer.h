// What the chunks of a step ask for, put to the step, and the answers.
#pragma once

#include "model.h"
#include "step.h"

namespace gpt2 {

// The rows that the chunks' tokens are.
std::vector<Row> rows_of(const gpt2_step_input&);

// Carry out a step that has been checked.
void answer_step(gpt2_model&, const gpt2_step_input&, const gpt2_step_output&);

// Draw from a row of logits, all of which are there unless the draw is plain and asks for nothing else; 0, or the chunk's error.
int32_t answer_draw(const Sampling&, const Logits&, int vocab_size, const gpt2_draw&, const gpt2_step_input&, const History&,
                    SamplerScratch&, gpt2_token& token, gpt2_token* top);

}  // namespace gpt2
