#include "answer.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace gpt2 {
namespace {

// Whether none is NaN or infinite, by their exponents, which a compiler looks at a vector at a time.
bool is_finite(const float* x, int num) {
    uint32_t any = 0;
    for (int i = 0; i < num; ++i) {
        uint32_t bits;
        std::memcpy(&bits, &x[i], 4);
        any |= (bits & 0x7F800000u) == 0x7F800000u;
    }
    return !any;
}

bool needs_logits(const gpt2_draw& draw) { return !draw.plain || draw.top_n; }

// What is asked for after one row of a step.
struct Asked {
    int chunk = 0, row = 0;
    int draw = -1;    // the first of its draws; each knows the next
    int scored = -1;  // which of the scored tokens comes after it
    int64_t top = 0;  // where the likeliest tokens beside that one go
    int32_t error = 0;
    bool needs_logits = false;
    bool is_any() const { return draw >= 0 || scored >= 0; }
};

// A step's questions sorted by the rows that they are of, asked, and answered on whichever thread has a row's logits.
class Answers {
 public:
    Answers(gpt2_model& model, const gpt2_step_input& input, const gpt2_step_output& output)
        : model_(model),
          input_(input),
          output_(output),
          rows_(rows_of(input)),
          next_draw_(input.num_draws),
          tops_(input.num_draws) {
        std::vector<Asked> of_rows(rows_.size());
        collect(of_rows);
        // The head's rows: those whose logits are kept come last.
        for (const bool is_kept : {false, true}) {
            if (is_kept) head_.first_kept = int(asked_.size());
            for (const Asked& asked : of_rows)
                if (asked.is_any() && asked.needs_logits == is_kept) {
                    head_.rows.push_back({asked.row, asked.scored < 0 ? -1 : input.scored_ids[asked.scored]});
                    asked_.push_back(asked);
                }
        }
    }

    void run() {
        if (std::any_of(input_.draws, input_.draws + input_.num_draws, [](const gpt2_draw& draw) { return !draw.plain; }))
            for (Scratch& scratch : model_.work.scratch) scratch.sampler.resize(model_.config.vocab_size);
        run_step(model_, rows_, head_, [this](int i, const Logits& logits, int thread) { answer(asked_[i], logits, thread); });
        tell_errors();
    }

 private:
    // What each row of the step is asked for.
    void collect(std::vector<Asked>& of_rows) {
        int row = 0, draw = 0, scored = 0;
        int64_t top = 0;
        for (int c = 0; c < input_.num_chunks; ++c) {
            const gpt2_chunk& chunk = input_.chunks[c];
            for (int i = 0; i < chunk.num_tokens; ++i) of_rows[row + i].chunk = c, of_rows[row + i].row = row + i;
            for (int i = 0; i < chunk.num_draws; ++i, ++draw) {
                Asked& asked = of_rows[row + input_.draws[draw].row];
                next_draw_[draw] = asked.draw, asked.draw = draw;
                asked.needs_logits |= needs_logits(input_.draws[draw]);
                tops_[draw] = top, top += input_.draws[draw].top_n;
            }
            for (int i = 0; i < chunk.num_scored; ++i, ++scored) {
                Asked& asked = of_rows[row + chunk.first_scored + i];
                asked.scored = scored, asked.needs_logits |= chunk.top_n > 0;
                asked.top = top, top += chunk.top_n;
            }
            row += chunk.num_tokens;
        }
    }

    void answer(Asked& asked, const Logits& logits, int thread) const {
        if (asked.scored >= 0) score(asked, logits);
        const Row& row = rows_[asked.row];
        const History history{model_.tokens_of(row.slot), row.position + 1};
        for (int i = asked.draw; i >= 0; i = next_draw_[i]) {
            const int32_t error =
                answer_draw(model_.kernels.sampling, logits, model_.config.vocab_size, input_.draws[i], input_, history,
                            model_.work.scratch[thread].sampler, output_.tokens[i], output_.tops + tops_[i]);
            if (error && asked.error != GPT2_NOT_FINITE) asked.error = error;
        }
    }

    void score(Asked& asked, const Logits& logits) const {
        const double logprob = double(logits.chosen) - logits.stats.log_sum;
        output_.logprobs[asked.scored] = logprob;
        if (std::isfinite(logprob))
            take_top(logits, model_.config.vocab_size, input_.chunks[asked.chunk].top_n, output_.tops + asked.top);
        else
            asked.error = GPT2_NOT_FINITE;
    }

    // A value that is no number reaches its chunk's last row through attention, whatever the chunk asks for.
    void tell_errors() const {
        for (int c = 0, end = 0; c < input_.num_chunks; ++c) {
            end += input_.chunks[c].num_tokens;
            const float* last = model_.work.hidden.as<float>() + size_t(end - 1) * model_.width;
            output_.errors[c] = is_finite(last, model_.config.n_embd) ? 0 : GPT2_NOT_FINITE;
        }
        for (const Asked& asked : asked_) {
            int32_t& error = output_.errors[asked.chunk];
            if (asked.error && error != GPT2_NOT_FINITE) error = asked.error;
        }
    }

    gpt2_model& model_;
    const gpt2_step_input& input_;
    const gpt2_step_output& output_;
    std::vector<Row> rows_;
    std::vector<int> next_draw_;  // of the same row, -1 after the last
    std::vector<int64_t> tops_;   // where the likeliest tokens beside each draw go
    std::vector<Asked> asked_;    // of the head's rows
    HeadRows head_;
};

}  // namespace

std::vector<Row> rows_of(const gpt2_step_input& input) {
    std::vector<Row> rows;
    rows.reserve(input.num_tokens);
    for (int c = 0; c < input.num_chunks; ++c)
        for (int i = 0; i < input.chunks[c].num_tokens; ++i)
            rows.push_back({input.token_ids[rows.size()], input.chunks[c].start + i, input.chunks[c].slot});
    return rows;
}

void answer_step(gpt2_model& model, const gpt2_step_input& input, const gpt2_step_output& output) {
    Answers(model, input, output).run();
}

int32_t answer_draw(const Sampling& kernels, const Logits& logits, int vocab_size, const gpt2_draw& draw,
                    const gpt2_step_input& input, const History& history, SamplerScratch& scratch, gpt2_token& token,
                    gpt2_token* top) {
    const RowStats& stats = logits.stats;
    if (!std::isfinite(stats.log_sum)) return GPT2_NOT_FINITE;
    const int32_t id = draw.plain ? stats.argmax : sample(kernels, logits.all, vocab_size, draw, input, history, scratch);
    if (id < 0) return GPT2_NOTHING_TO_DRAW;
    token = {id, 0, double(draw.plain ? stats.max : logits.all[id]) - stats.log_sum};
    take_top(logits, vocab_size, draw.top_n, top);
    return 0;
}

}  // namespace gpt2
