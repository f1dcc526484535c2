// What comes in through the C interface: refused with std::out_of_range before anything is touched.
#pragma once

#include "interface.h"

namespace gpt2 {

// Throw unless `holds`, naming what is out of range.
void require(bool holds, const char* what, int64_t value);

// The chunks and their tokens are something that the model holds, at most one chunk a slot.
void check_chunks(const gpt2_config&, const gpt2_step_input&);

// A draw after one of `num_rows` rows.
void check_draw(const gpt2_draw&, const gpt2_step_input&, int vocab_size, int num_rows);

void check_tokens(const int32_t* ids, int num, int vocab_size);

// All of a step, and that the output has room for what it asks for, no less and no more.
void check_step(const gpt2_config&, const gpt2_step_input&, const gpt2_step_output&);

}  // namespace gpt2
