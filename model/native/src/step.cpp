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

// Consecutive rows of one slot, at most PIECE_ROWS of them.
struct Run {
    int row, num_rows, slot, position;
    Past past(int head) const { return {head, slot, position + num_rows}; }
};

constexpr int PIECE_ROWS = 16;  // whose attention is one piece of work, for some heads

// A thread of a step's team, and where it is in what it asks for ahead of its use.
struct Worker {
    const int thread = omp_get_thread_num(), num_threads = omp_get_num_threads();
    int next_run = 0;  // of those whose past in `layer` is to be asked for
    int layer = 0;
    Ahead past;
    Share share_of(int n) const { return Share(n, thread, num_threads); }
};

class Step {
 public:
    Step(gpt2_model& model, const gpt2_row* rows, int num_rows, int num_threads)
        : model_(model), work_(model.work), rows_(rows), num_rows_(num_rows), shares_(num_threads) {
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
        Worker worker;
        if (model_.kernels.has_tiles) configure_tiles(num_rows_);
        const Share mine = worker.share_of(num_rows_);
        for (int r = mine.begin; r < mine.end; ++r) embed(model_, rows_[r].token_id, rows_[r].position, hidden(r));
        for (int i = 0; i < model_.config.n_layer; ++i) run_layer(i, worker);
        if (model_.kernels.has_tiles) release_tiles();
    }

    // The final LayerNorm and the output head for some rows: block statistics of all, logits of those that have a place for them.
    void run_head(const int* draw_rows, int num_draws, float* const* logits) {
        Worker worker;
        const gpt2_config& config = model_.config;
        if (model_.kernels.has_tiles) configure_tiles(num_draws);
        const Share mine = worker.share_of(num_draws);
        for (int i = mine.begin; i < mine.end; ++i) prepare_normed(draw_rows[i], model_.ln_f, i);
        const int num_blocks = model_.head.num_blocks();
        shares_.fill(num_blocks, worker.thread, worker.num_threads);
        barrier_.wait(worker.num_threads);
        float* y = work_.scratch[worker.thread].data();  // (num_draws, 64): the block's logits never leave the cache
        for (int block; (block = shares_.take(worker.thread)) >= 0;) {
            const Product product{model_.head, work_.input, num_draws, Finish::store, y, BLOCK, block};
            model_.kernels.multiply(product, block, next_weights(model_.head, nullptr, worker), worker.past);
            const int num = std::min(BLOCK, config.vocab_size - block * BLOCK);
            for (int i = 0; i < num_draws; ++i) {
                work_.stats[size_t(i) * num_blocks + block] = block_stats(y + i * BLOCK, num, block * BLOCK);
                if (logits[i]) std::memcpy(logits[i] + block * BLOCK, y + i * BLOCK, num * sizeof(float));
            }
        }
        barrier_.wait(worker.num_threads);
        if (model_.kernels.has_tiles) release_tiles();
    }

 private:
    float* hidden(int r) const { return work_.hidden.as<float>() + size_t(r) * model_.width; }

    // Row `to` of the next product's input: the LayerNorm of row r's hidden state.
    void prepare_normed(int r, const Norm& norm, int to) {
        float* normed = work_.normed.as<float>() + size_t(to) * model_.width;
        layer_norm(hidden(r), model_.config.n_embd, model_.config.layer_norm_epsilon, norm, normed);
        model_.kernels.prepare(normed, model_.width, to, work_.input);
    }

    void run_layer(int i, Worker& worker) {
        const Layer& layer = model_.layers[i];
        const bool is_last = i + 1 == model_.config.n_layer;
        const size_t qkv_stride = size_t(layer.qkv.num_blocks()) * BLOCK, stride = model_.width, inner_stride = model_.inner_width;
        float *qkv = work_.qkv.as<float>(), *attended = work_.attended.as<float>(), *inner = work_.inner.as<float>();
        const Share mine = worker.share_of(num_rows_);
        for (int r = mine.begin; r < mine.end; ++r) prepare_normed(r, layer.ln_1, r);
        multiply({layer.qkv, work_.input, num_rows_, Finish::store, qkv, qkv_stride}, &layer.out, worker);
        attend(i, qkv, qkv_stride, attended, stride, worker);
        for (int r = mine.begin; r < mine.end; ++r) model_.kernels.prepare(attended + r * stride, model_.width, r, work_.input);
        multiply({layer.out, work_.input, num_rows_, Finish::add, hidden(0), stride}, &layer.fc, worker);
        for (int r = mine.begin; r < mine.end; ++r) prepare_normed(r, layer.ln_2, r);
        if (!is_last) worker.layer = i + 1, worker.next_run = 0;
        multiply({layer.fc, work_.input, num_rows_, Finish::gelu, inner, inner_stride}, &layer.proj, worker);
        for (int r = mine.begin; r < mine.end; ++r)
            model_.kernels.prepare(inner + r * inner_stride, model_.inner_width, r, work_.inner_input);
        multiply({layer.proj, work_.inner_input, num_rows_, Finish::add, hidden(0), stride},
                 is_last ? &model_.head : &model_.layers[i + 1].qkv, worker);
    }

    // One product, between a barrier for the inputs and one for the outputs; `following` is the next one.
    void multiply(const Product& product, const Linear* following, Worker& worker) {
        shares_.fill(product.layer.num_blocks(), worker.thread, worker.num_threads);
        barrier_.wait(worker.num_threads);
        for (int block; (block = shares_.take(worker.thread)) >= 0;) {
            ask_for_past(worker);
            model_.kernels.multiply(product, block, next_weights(product.layer, following, worker), worker.past);
        }
        barrier_.wait(worker.num_threads);
    }

    // What this thread reads after the block it has just taken: the next one of its share, or the first one of the next product.
    const char* next_weights(const Linear& layer, const Linear* following, const Worker& worker) const {
        if (const int block = shares_.peek(worker.thread); block >= 0) return layer.weights_of(block);
        return following ? following->weights_of(worker.share_of(following->num_blocks()).begin) : nullptr;
    }

    // All rows' attention over their pasts, between a barrier for the cache and one for the outputs.
    void attend(int layer, const float* qkv, size_t qkv_stride, float* out, size_t stride, Worker& worker) {
        worker.next_run = int(runs_.size()), worker.past = {};
        // Several rows see each other's; a row by itself is stored where it is attended to, whose memory has been asked for then.
        const Share heads = worker.share_of(model_.config.n_head);
        for (const Run& run : runs_)
            if (run.num_rows > 1) store(layer, run, qkv, qkv_stride, heads.begin, heads.end);
        const int heads_at_once = heads_of_piece(worker), num_parts = (model_.config.n_head + heads_at_once - 1) / heads_at_once;
        shares_.fill(num_parts * int(runs_.size()), worker.thread, worker.num_threads);
        barrier_.wait(worker.num_threads);
        for (int piece; (piece = shares_.take(worker.thread)) >= 0;) {
            const Run& run = runs_[piece % runs_.size()];
            const int first = piece / int(runs_.size()) * heads_at_once,
                      end = std::min(first + heads_at_once, model_.config.n_head);
            for (int head = first; head < end; ++head) {
                if (run.num_rows == 1) store(layer, run, qkv, qkv_stride, head, head + 1);
                const Past next = head + 1 < end ? run.past(head + 1) : next_past(worker);
                model_.kernels.attend(model_,
                                      {layer, head, run.slot, run.position, run.num_rows, qkv + run.row * qkv_stride, qkv_stride,
                                       out + run.row * stride, stride, work_.scratch[worker.thread].data(), next});
            }
        }
        barrier_.wait(worker.num_threads);
    }

    // The keys and values of a run enter the cache, heads [begin, end).
    void store(int layer, const Run& run, const float* qkv, size_t stride, int begin, int end) {
        for (int r = 0; r < run.num_rows; ++r)
            model_.kernels.store(model_, layer, run.slot, run.position + r, qkv + (run.row + r) * stride, begin, end);
    }

    // A piece of attention is some neighbouring heads of a run, which lie side by side in the cache; a thread has the same ones of
    // every run.
    int heads_of_piece(const Worker& worker) const { return std::max(1, model_.config.n_head / std::max(2, worker.num_threads)); }

    // What this thread attends to after the piece it has just taken.
    Past next_past(const Worker& worker) const {
        const int piece = shares_.peek(worker.thread), num_runs = int(runs_.size());
        return piece < 0 ? Past{} : runs_[piece % num_runs].past(piece / num_runs * heads_of_piece(worker));
    }

    // Keep products asking for the past that this thread will attend to, of the sequences that decode: the memory is idle while
    // many rows are multiplied, and the bound of attention.
    void ask_for_past(Worker& worker) const {
        constexpr int LINES_AT_ONCE = 4;  // of 3, 4, 6 and 8 the fastest in bfloat16 and float32
        if (model_.kernels.has_tiles || !worker.past.is_done()) return;
        while (worker.next_run < int(runs_.size()) && runs_[worker.next_run].num_rows > 1) ++worker.next_run;
        if (worker.next_run == int(runs_.size())) return;
        const Past past = runs_[worker.next_run++].past(std::min(worker.thread * heads_of_piece(worker), model_.config.n_head - 1));
        const int num_heads = std::min(heads_of_piece(worker), model_.config.n_head - past.head);
        const int num_lines = int(num_heads * 2 * model_.tile_bytes() / 64) * num_groups(past);
        worker.past = past_ahead(model_, worker.layer, past, num_heads, num_lines / LINES_AT_ONCE);
    }

    gpt2_model& model_;
    Workspace& work_;
    const gpt2_row* rows_;
    const int num_rows_;
    std::vector<Run> runs_;
    Shares shares_;
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
        work.inner_input = make_input(rows, model.layers[0].proj.depth, model.config.precision);
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
