#include "logits.h"

#include <algorithm>
#include <limits>

#include "exact_math.h"

namespace gpt2 {
namespace {

// The likelier one first, among equals the one of the lower id.
bool is_likelier(const gpt2_token& a, const gpt2_token& b) {
    return a.logprob != b.logprob ? a.logprob > b.logprob : a.token_id < b.token_id;
}

}  // namespace

RowStats combine(const Kernels& kernels, const BlockStats* blocks, int num_blocks, float* scratch) {
    RowStats row{0, -std::numeric_limits<float>::infinity(), 0.0};
    float *maxima = scratch, *weights = scratch + num_blocks + 16;
    for (int b = 0; b < num_blocks; ++b) {
        maxima[b] = blocks[b].max;
        if (blocks[b].max > row.max) row.max = blocks[b].max, row.argmax = blocks[b].argmax;
    }
    kernels.sampling.weigh(maxima, num_blocks, weights);
    double sum = 0.0;
    for (int b = 0; b < num_blocks; ++b) sum += double(blocks[b].sum) * weights[b];
    row.log_sum = row.max + exact_log(sum);
    return row;
}

RowStats stats_of(const Kernels& kernels, const float* logits, int vocab_size, std::vector<BlockStats>& blocks) {
    blocks.clear();
    for (int first = 0; first < vocab_size; first += BLOCK)
        blocks.push_back(kernels.block_stats(logits + first, std::min(BLOCK, vocab_size - first), first));
    std::vector<float> scratch(2 * (blocks.size() + 16));
    return combine(kernels, blocks.data(), int(blocks.size()), scratch.data());
}

// A heap of the best so far, the least of them in front; blocks without a better one are passed by.
void take_top(const Logits& logits, int vocab_size, int num, gpt2_token* top) {
    int kept = 0;
    for (int first = 0; num && first < vocab_size; first += BLOCK) {
        if (kept == num && logits.blocks[first / BLOCK].max <= top->logprob) continue;
        for (int id = first; id < std::min(first + BLOCK, vocab_size); ++id) {
            if (kept == num && logits.all[id] <= top->logprob) continue;
            if (kept == num)
                std::pop_heap(top, top + num, is_likelier);
            else
                ++kept;
            top[kept - 1] = {id, 0, logits.all[id]};
            std::push_heap(top, top + kept, is_likelier);
        }
    }
    std::sort_heap(top, top + num, is_likelier);
    for (int i = 0; i < num; ++i) top[i].logprob -= logits.stats.log_sum;
}

}  // namespace gpt2
