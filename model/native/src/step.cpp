// The native step: every row of a step through the whole network in one call, on one team of threads.
//
// Threads share out rows, heads and blocks of outputs; what each of them computes is computed in the same order whoever does it, so
// that a row's bits depend neither on the other rows nor on the number of threads.
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>

#include "attention.h"
#include "pack.h"
#include "products.h"
#include "rows.h"
#include "step.h"
#include "team.h"

namespace gpt2 {
namespace {

// Consecutive rows of one slot.
struct Run {
    int row, num_rows, slot, position;
};

// A piece of attention work: a few rows of a run, one head.
constexpr int PIECE_ROWS = 16;

// The part of [0, n) that is this thread's, in the order of the threads.
struct Share {
    int begin, end;
    Share(int n, int thread, int num_threads)
        : begin(int(int64_t(n) * thread / num_threads)), end(int(int64_t(n) * (thread + 1) / num_threads)) {}
};

class Step {
   public:
    Step(gpt2_model& model, const gpt2_row* rows, int num_rows) : 
        model_(model), work_(model.work), rows_(rows), num_rows_(num_rows),
          uses_tiles_(model.kernels.multiply == multiply_int8_amx || model.kernels.multiply == multiply_bfloat16_amx),
          next_piece_(model.config.n_layer) {
        for (int r = 0; r < num_rows; ++r) {
            if (!runs_.empty() && runs_.back().slot == rows[r].slot && runs_.back().num_rows < PIECE_ROWS)
                ++runs_.back().num_rows;
            else
                runs_.push_back({r, 1, rows[r].slot, rows[r].position});
        }
        // The longest first, so that no thread starts on one when the others are done.
        std::stable_sort(runs_.begin(), runs_.end(), [](const Run& a, const Run& b) {
            return int64_t(a.num_rows) * (a.position + a.num_rows) > int64_t(b.num_rows) * (b.position + b.num_rows);
        });
    }

    // The calling thread's part of all layers; every thread of the team calls it.
    void run_layers() {
        const int thread = omp_get_thread_num(), num_threads = omp_get_num_threads();
        if (uses_tiles_) configure_tiles(num_rows_);
        const Share mine(num_rows_, thread, num_threads);
        for (int r = mine.begin; r < mine.end; ++r) embed(model_, rows_[r].token_id, rows_[r].position, hidden(r));
        for (int i = 0; i < model_.config.n_layer; ++i) run_layer(i, mine, thread, num_threads);
        if (uses_tiles_) release_tiles();
    }

    // The final LayerNorm and the output head for some rows: block statistics of all, logits of those that have a place for them.
    void run_head(const int* draw_rows, int num_draws, float* const* logits) {
        const int thread = omp_get_thread_num(), num_threads = omp_get_num_threads();
        const gpt2_config& config = model_.config;
        if (uses_tiles_) configure_tiles(num_draws);
        const Share mine(num_draws, thread, num_threads);
        for (int i = mine.begin; i < mine.end; ++i) {
            layer_norm(hidden(draw_rows[i]), config.n_embd, config.layer_norm_epsilon, model_.ln_f, normed(i));
            model_.kernels.prepare(normed(i), model_.width, i, work_.input);
        }
        barrier_.wait(num_threads);
        const int num_blocks = model_.head.num_blocks();
        const Share blocks(num_blocks, thread, num_threads);
        float* y = work_.scratch[thread].data();  // (num_draws, 64): the block's logits never leave the cache
        for (int block = blocks.begin; block < blocks.end; ++block) {
            model_.kernels.multiply(model_.head, work_.input, num_draws, block, block + 1, Finish::store, y - block * BLOCK, BLOCK);
            const int num = std::min(BLOCK, config.vocab_size - block * BLOCK);
            for (int i = 0; i < num_draws; ++i) {
                work_.stats[size_t(i) * num_blocks + block] = block_stats(y + i * BLOCK, num, block * BLOCK);
                if (logits[i]) std::memcpy(logits[i] + block * BLOCK, y + i * BLOCK, num * sizeof(float));
            }
        }
        barrier_.wait(num_threads);
        if (uses_tiles_) release_tiles();
    }

   private:
    float* hidden(int r) const { return work_.hidden.as<float>() + size_t(r) * model_.width; }
    float* normed(int r) const { return work_.normed.as<float>() + size_t(r) * model_.width; }

    void run_layer(int i, const Share& mine, int thread, int num_threads) {
        const Layer& layer = model_.layers[i];
        const gpt2_config& config = model_.config;
        const size_t qkv_stride = size_t(layer.qkv.num_blocks()) * BLOCK, stride = model_.width, inner_stride = model_.inner_width;
        float *qkv = work_.qkv.as<float>(), *attended = work_.attended.as<float>(), *inner = work_.inner.as<float>();
        for (int r = mine.begin; r < mine.end; ++r) {
            layer_norm(hidden(r), config.n_embd, config.layer_norm_epsilon, layer.ln_1, normed(r));
            model_.kernels.prepare(normed(r), model_.width, r, work_.input);
        }
        product(layer.qkv, work_.input, Finish::store, qkv, qkv_stride, thread, num_threads);
        const Share heads(config.n_head, thread, num_threads);
        for (int r = 0; r < num_rows_; ++r)
            model_.kernels.store(model_, i, rows_[r].slot, rows_[r].position, qkv + r * qkv_stride, heads.begin, heads.end);
        barrier_.wait(num_threads);
        // A thread takes neighbouring heads, which lie side by side in the cache.
        const int heads_at_once = std::max(1, config.n_head / std::max(2, num_threads));
        const int num_parts = (config.n_head + heads_at_once - 1) / heads_at_once, num_pieces = int(runs_.size()) * num_parts;
        for (int piece; (piece = next_piece_[i].fetch_add(1, std::memory_order_relaxed)) < num_pieces;) {
            const Run& run = runs_[piece / num_parts];
            const int first = piece % num_parts * heads_at_once;
            for (int head = first; head < std::min(first + heads_at_once, config.n_head); ++head)
                model_.kernels.attend(model_, i, head, run.slot, run.position, run.num_rows, qkv + run.row * qkv_stride, qkv_stride,
                                      attended + run.row * stride, stride, work_.scratch[thread].data());
        }
        barrier_.wait(num_threads);
        for (int r = mine.begin; r < mine.end; ++r)
            model_.kernels.prepare(attended + r * stride, model_.width, r, work_.input);
        product(layer.out, work_.input, Finish::add, hidden(0), stride, thread, num_threads);
        for (int r = mine.begin; r < mine.end; ++r) {
            layer_norm(hidden(r), config.n_embd, config.layer_norm_epsilon, layer.ln_2, normed(r));
            model_.kernels.prepare(normed(r), model_.width, r, work_.input);
        }
        product(layer.fc, work_.input, Finish::gelu, inner, inner_stride, thread, num_threads);
        for (int r = mine.begin; r < mine.end; ++r)
            model_.kernels.prepare(inner + r * inner_stride, model_.inner_width, r, work_.inner_input);
        product(layer.proj, work_.inner_input, Finish::add, hidden(0), stride, thread, num_threads);
    }

    // This thread's blocks of outputs, between a barrier for the inputs and one for the outputs.
    void product(const Linear& layer, const Input& input, Finish finish, float* y, size_t stride, int thread, int num_threads) {
        barrier_.wait(num_threads);
        const Share blocks(layer.num_blocks(), thread, num_threads);
        model_.kernels.multiply(layer, input, num_rows_, blocks.begin, blocks.end, finish, y, stride);
        barrier_.wait(num_threads);
    }

    gpt2_model& model_;
    Workspace& work_;
    const gpt2_row* rows_;
    const int num_rows_;
    std::vector<Run> runs_;
    const bool uses_tiles_;
    Barrier barrier_;
    std::vector<std::atomic<int>> next_piece_;  // of each layer's attention
};

void reserve(gpt2_model& model, int num_rows, int num_draws, int num_threads) {
    Workspace& work = model.work;
    const int rows = round_up(std::max(num_rows, num_draws), 32);  // products read whole tiles
    if (rows > work.capacity) {
        auto floats = [&](int width) { return Memory(size_t(rows) * width * sizeof(float)); };
        work.hidden = floats(model.width), work.normed = floats(model.width), work.attended = floats(model.width);
        work.qkv = floats(round_up(3 * model.config.n_embd, BLOCK)), work.inner = floats(model.inner_width);
        work.input = make_input(rows, model.head.depth, model.config.precision);
        work.inner_input = make_input(rows, model.layers.empty() ? model.inner_width : model.layers[0].proj.depth, model.config.precision);
        work.capacity = rows;
    }
    work.stats.resize(size_t(num_draws) * model.head.num_blocks());
    if (int(work.scratch.size()) < num_threads) work.scratch.resize(num_threads);
    const size_t needed = std::max(attention_scratch(model), size_t(rows) * BLOCK);
    for (auto& scratch : work.scratch)
        if (scratch.size() < needed) scratch.resize(needed);
}

}  // namespace

RowStats combine(const BlockStats* blocks, int num_blocks) {
    RowStats row{0, -std::numeric_limits<float>::infinity(), 0.0};
    for (int b = 0; b < num_blocks; ++b)
        if (blocks[b].max > row.max) row.max = blocks[b].max, row.argmax = blocks[b].argmax;
    double sum = 0.0;
    for (int b = 0; b < num_blocks; ++b) sum += double(blocks[b].sum) * std::exp(double(blocks[b].max) - row.max);
    row.log_sum = row.max + std::log(sum);
    return row;
}

void run_step(gpt2_model& model, const gpt2_row* rows, int num_rows, const int32_t* draw_rows, int num_draws, float* const* logits,
              int num_threads, const OfDraw& of_draw) {
    reserve(model, num_rows, num_draws, num_threads);
    Step step(model, rows, num_rows);
    const int num_blocks = model.head.num_blocks();
    std::atomic<int> next_draw{0};
#pragma omp parallel num_threads(num_threads)
    {
        step.run_layers();
        if (num_draws) step.run_head(draw_rows, num_draws, logits);
        for (int i; (i = next_draw.fetch_add(1, std::memory_order_relaxed)) < num_draws;)
            of_draw(i, combine(&model.work.stats[size_t(i) * num_blocks], num_blocks), omp_get_thread_num());
    }
}

}  // namespace gpt2
