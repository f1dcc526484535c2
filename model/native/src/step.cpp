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
#include "shares.h"
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

class Step {
   public:
    Step(gpt2_model& model, const gpt2_row* rows, int num_rows, int num_threads)
        : model_(model), work_(model.work), rows_(rows), num_rows_(num_rows), shares_(num_threads),
          uses_tiles_(model.kernels.multiply == multiply_int8_amx || model.kernels.multiply == multiply_bfloat16_amx) {
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
        const int num_blocks = model_.head.num_blocks();
        shares_.fill(num_blocks, thread, num_threads);
        barrier_.wait(num_threads);
        float* y = work_.scratch[thread].data();  // (num_draws, 64): the block's logits never leave the cache
        for (int block; (block = shares_.take(thread)) >= 0;) {
            model_.kernels.multiply(model_.head, work_.input, num_draws, block, next_weights(model_.head, nullptr, thread, num_threads),
                                    Finish::store, y - block * BLOCK, BLOCK);
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
        product(layer.qkv, work_.input, Finish::store, qkv, qkv_stride, &layer.out, thread, num_threads);
        // Several rows see each other's; a row by itself is stored where it is attended to, whose memory has been asked for then.
        const Share heads(config.n_head, thread, num_threads);
        for (const Run& run : runs_)
            if (run.num_rows > 1) store(i, run, qkv, qkv_stride, heads.begin, heads.end);
        attention(i, qkv, qkv_stride, attended, stride, thread, num_threads);
        for (int r = mine.begin; r < mine.end; ++r)
            model_.kernels.prepare(attended + r * stride, model_.width, r, work_.input);
        product(layer.out, work_.input, Finish::add, hidden(0), stride, &layer.fc, thread, num_threads);
        for (int r = mine.begin; r < mine.end; ++r) {
            layer_norm(hidden(r), config.n_embd, config.layer_norm_epsilon, layer.ln_2, normed(r));
            model_.kernels.prepare(normed(r), model_.width, r, work_.input);
        }
        product(layer.fc, work_.input, Finish::gelu, inner, inner_stride, &layer.proj, thread, num_threads);
        for (int r = mine.begin; r < mine.end; ++r)
            model_.kernels.prepare(inner + r * inner_stride, model_.inner_width, r, work_.inner_input);
        const Linear& following = i + 1 < config.n_layer ? model_.layers[i + 1].qkv : model_.head;
        product(layer.proj, work_.inner_input, Finish::add, hidden(0), stride, &following, thread, num_threads);
    }

    // The keys and values of a run enter the cache, heads [begin, end).
    void store(int layer, const Run& run, const float* qkv, size_t stride, int begin, int end) {
        for (int r = 0; r < run.num_rows; ++r)
            model_.kernels.store(model_, layer, run.slot, run.position + r, qkv + (run.row + r) * stride, begin, end);
    }

    // All rows' attention over their pasts, between a barrier for the cache and one for the outputs.
    void attention(int layer, const float* qkv, size_t qkv_stride, float* out, size_t stride, int thread, int num_threads) {
        // A piece is some neighbouring heads of a run, which lie side by side in the cache; a thread has the same ones of every run.
        const int num_heads = model_.config.n_head, heads_at_once = std::max(1, num_heads / std::max(2, num_threads));
        const int num_parts = (num_heads + heads_at_once - 1) / heads_at_once, num_runs = int(runs_.size());
        shares_.fill(num_parts * num_runs, thread, num_threads);
        barrier_.wait(num_threads);
        auto place = [&](int piece, int head) {
            const Run& run = runs_[piece % num_runs];
            return Past{piece / num_runs * heads_at_once + head, run.slot, run.position + run.num_rows};
        };
        for (int piece; (piece = shares_.take(thread)) >= 0;) {
            const Run& run = runs_[piece % num_runs];
            const int first = piece / num_runs * heads_at_once, num = std::min(heads_at_once, num_heads - first), next = shares_.peek(thread);
            for (int head = 0; head < num; ++head) {
                if (run.num_rows == 1) store(layer, run, qkv, qkv_stride, first + head, first + head + 1);
                const Past after = head + 1 < num ? place(piece, head + 1) : next >= 0 ? place(next, 0) : Past{};
                model_.kernels.attend(model_, layer, first + head, run.slot, run.position, run.num_rows, qkv + run.row * qkv_stride, qkv_stride,
                                      after, out + run.row * stride, stride, work_.scratch[thread].data());
            }
        }
        barrier_.wait(num_threads);
    }

    // One product, between a barrier for the inputs and one for the outputs; `following` is the next one.
    void product(const Linear& layer, const Input& input, Finish finish, float* y, size_t stride, const Linear* following, int thread,
                 int num_threads) {
        shares_.fill(layer.num_blocks(), thread, num_threads);
        barrier_.wait(num_threads);
        for (int block; (block = shares_.take(thread)) >= 0;)
            model_.kernels.multiply(layer, input, num_rows_, block, next_weights(layer, following, thread, num_threads), finish, y, stride);
        barrier_.wait(num_threads);
    }

    // What this thread reads after the block it has just taken: the next one of its share, or the first one of the next product.
    const char* next_weights(const Linear& layer, const Linear* following, int thread, int num_threads) const {
        if (const int block = shares_.peek(thread); block >= 0) return layer.weights_of(block);
        return following ? following->weights_of(Share(following->num_blocks(), thread, num_threads).begin) : nullptr;
    }

    gpt2_model& model_;
    Workspace& work_;
    const gpt2_row* rows_;
    const int num_rows_;
    std::vector<Run> runs_;
    Shares shares_;
    const bool uses_tiles_;
    Barrier barrier_;
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
    Step step(model, rows, num_rows, num_threads);
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
