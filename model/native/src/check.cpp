#include "check.h"

#include <stdexcept>
#include <string>
#include <vector>

namespace gpt2 {
namespace {

// The half-open range lies within an array of `num`.
void check_range(const gpt2_range& range, int num) {
    if (0 <= range.begin && range.begin <= range.end && range.end <= num) return;
    throw std::out_of_range("a range from " + std::to_string(range.begin) + " to " + std::to_string(range.end) + " of " +
                            std::to_string(num) + " is out of range");
}

// An array is as long as what is told of it.
void check_length(int64_t length, int64_t wanted, const char* what) {
    if (length == wanted) return;
    throw std::out_of_range("the " + std::string(what) + " are " + std::to_string(length) + ", not " + std::to_string(wanted) +
                            ": out of range");
}

void check_chunk(const gpt2_config& config, const gpt2_chunk& chunk) {
    require(chunk.slot >= 0 && chunk.slot < config.num_slots, "slot", chunk.slot);
    require(chunk.num_tokens > 0, "a chunk's number of tokens", chunk.num_tokens);
    require(chunk.start >= 0 && chunk.start < config.n_positions, "position", chunk.start);
    require(chunk.num_tokens <= config.n_positions - chunk.start, "position", config.n_positions);
    require(chunk.num_draws >= 0, "a chunk's number of draws", chunk.num_draws);
    require(chunk.num_scored >= 0, "a chunk's number of scored tokens", chunk.num_scored);
    if (!chunk.num_scored) return;
    require(chunk.first_scored >= 0 && chunk.first_scored < chunk.num_tokens, "row", chunk.first_scored);
    require(chunk.num_scored <= chunk.num_tokens - chunk.first_scored, "row", chunk.num_tokens);
    require(chunk.top_n >= 0 && chunk.top_n <= config.vocab_size, "a number of likeliest tokens", chunk.top_n);
}

}  // namespace

void require(bool holds, const char* what, int64_t value) {
    if (!holds) throw std::out_of_range(std::string(what) + " " + std::to_string(value) + " is out of range");
}

void check_tokens(const int32_t* ids, int num, int vocab_size) {
    for (int i = 0; i < num; ++i) require(ids[i] >= 0 && ids[i] < vocab_size, "token", ids[i]);
}

void check_chunks(const gpt2_config& config, const gpt2_step_input& input) {
    require(input.num_chunks >= 0, "the number of chunks", input.num_chunks);
    std::vector<bool> has_chunk(config.num_slots);
    int64_t num_tokens = 0;
    for (int c = 0; c < input.num_chunks; ++c) {
        const gpt2_chunk& chunk = input.chunks[c];
        check_chunk(config, chunk);
        if (has_chunk[chunk.slot]) throw std::out_of_range("slot " + std::to_string(chunk.slot) + " has more than one chunk");
        has_chunk[chunk.slot] = true;
        num_tokens += chunk.num_tokens;
    }
    check_length(input.num_tokens, num_tokens, "chunks' tokens");
    check_tokens(input.token_ids, input.num_tokens, config.vocab_size);
}

void check_draw(const gpt2_draw& draw, const gpt2_step_input& input, int vocab_size, int num_rows) {
    require(draw.row >= 0 && draw.row < num_rows, "row", draw.row);
    require(draw.top_n >= 0 && draw.top_n <= vocab_size, "a number of likeliest tokens", draw.top_n);
    if (draw.plain) return;
    require(draw.num_prompt >= 0, "a number of the prompt's tokens", draw.num_prompt);
    const int64_t num_masks = input.num_mask_bytes / ((vocab_size + 7) / 8);
    require(draw.mask >= -1 && draw.mask < num_masks, "mask", draw.mask);
    check_range(draw.bias, input.num_biases);
    check_range(draw.banned, input.num_banned);
    for (int i = draw.bias.begin; i < draw.bias.end; ++i) check_tokens(&input.biases[i].token_id, 1, vocab_size);
    check_tokens(input.banned_ids + draw.banned.begin, draw.banned.end - draw.banned.begin, vocab_size);
}

void check_step(const gpt2_config& config, const gpt2_step_input& input, const gpt2_step_output& output) {
    check_chunks(config, input);
    int64_t num_draws = 0, num_scored = 0, num_tops = 0;
    for (int c = 0; c < input.num_chunks; ++c) {
        const gpt2_chunk& chunk = input.chunks[c];
        require(chunk.num_draws <= input.num_draws - num_draws, "a chunk's number of draws", chunk.num_draws);
        for (int i = 0; i < chunk.num_draws; ++i) {
            const gpt2_draw& draw = input.draws[num_draws++];
            check_draw(draw, input, config.vocab_size, chunk.num_tokens);
            num_tops += draw.top_n;
        }
        num_scored += chunk.num_scored;
        if (chunk.num_scored) num_tops += int64_t(chunk.num_scored) * chunk.top_n;
    }
    check_length(input.num_draws, num_draws, "chunks' draws");
    check_length(input.num_scored, num_scored, "chunks' scored tokens");
    check_tokens(input.scored_ids, input.num_scored, config.vocab_size);
    check_length(output.num_errors, input.num_chunks, "errors");
    check_length(output.num_tokens, num_draws, "drawn tokens");
    check_length(output.num_logprobs, num_scored, "log-probabilities");
    check_length(output.num_tops, num_tops, "likeliest tokens");
}

}  // namespace gpt2
