// The native step: every row of a step through the whole network in one call, on one team of threads.
//
// Threads share out rows, heads and blocks of outputs; what each of them computes is computed in the same order whoever does it, so
// that a row's bits depend neither on the other rows nor on the number of threads.
#include "step.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>

#include "exact_math.h"
#include "kernels/cache.h"
#include "shares.h"

namespace gpt2 {
namespace {

// Consecutive rows of one slot, at most PIECE_ROWS of them.
struct Run {
    int row, num_rows, slot, position;
    bool follows;  // another run of the slot, which reads whole tiles of the cache
    Past past(int head) const { return {head, slot, position + num_rows}; }
};

constexpr int PIECE_ROWS = 16;  // whose attention is one piece of work, for some heads

// A thread of a step's team, and where it is in what it asks for ahead of its use.
struct Worker {
    const int thread, num_threads;
    int next_run = 0;  // of those whose past in `layer` is to be asked for
    int layer = 0;
    Ahead past{};
    Share share_of(int n) const { return Share(n, thread, num_threads); }
};

class Step {
 public:
    Step(gpt2_model& model, const gpt2_row* rows, int num_rows)
        : model_(model),
          kernels_(model.kernels),
          arithmetic_(model.arithmetic),
          work_(model.work),
          rows_(rows),
          num_rows_(num_rows),
          num_heads_(model.config.n_head),
          shares_(model.team.size()) {
        for (int r = 0; r < num_rows; ++r) {
            if (!runs_.empty() && runs_.back().slot == rows[r].slot && runs_.back().num_rows < PIECE_ROWS)
                ++runs_.back().num_rows;
            else
                runs_.push_back({r, 1, rows[r].slot, rows[r].position, !runs_.empty() && runs_.back().slot == rows[r].slot});
        }
        // The longest first, so that no thread starts on one when the others are done.
        std::stable_sort(runs_.begin(), runs_.end(), [](const Run& a, const Run& b) {
            return int64_t(a.num_rows) * (a.position + a.num_rows) > int64_t(b.num_rows) * (b.position + b.num_rows);
        });
    }

    // The calling thread's part of all layers; every thread of the team calls it.
    void run_layers(int thread) {
        Worker worker{thread, model_.team.size()};
        if (arithmetic_.has_tiles) kernels_.configure_tiles(num_rows_);
        const Share mine = worker.share_of(num_rows_);
        for (int r = mine.begin; r < mine.end; ++r) embed(rows_[r].token_id, rows_[r].position, hidden(r));
        for (int i = 0; i < model_.config.n_layer; ++i) run_layer(i, worker);
        if (arithmetic_.has_tiles) kernels_.release_tiles();
    }

    // The final LayerNorm and the output head for some rows.
    void run_head(int thread, const Draws& draws) {
        Worker worker{thread, model_.team.size()};
        if (arithmetic_.has_tiles) kernels_.configure_tiles(draws.num);
        const Share mine = worker.share_of(draws.num);
        for (int i = mine.begin; i < mine.end; ++i) prepare_normed(draws.rows[i], model_.ln_f, i);
        const Linear& head = model_.head.view;
        shares_.fill(head.num_blocks, worker.thread, worker.num_threads);
        barrier_.wait(worker.num_threads);
        float* y = work_.scratch[worker.thread].floats.data();  // (draws, 64): the block's logits never leave the cache
        for (int block; (block = shares_.take(worker.thread)) >= 0;) {
            multiply_block(head, work_.input, draws.num, Finish::store, y, BLOCK, block, nullptr, worker);
            for (int i = 0; i < draws.num; ++i) take_logits(draws, i, block, y + i * BLOCK);
        }
        barrier_.wait(worker.num_threads);
        if (arithmetic_.has_tiles) kernels_.release_tiles();
    }

 private:
    // Whether it enters the cache where it is attended to: nobody else reads there.
    static bool is_alone(const Run& run) { return run.num_rows == 1 && !run.follows; }

    float* hidden(int r) const { return work_.hidden.as<float>() + size_t(r) * model_.width; }

    // x = wte[token] + wpe[position]
    void embed(int token_id, int position, float* x) const {
        const Linear& head = model_.head.view;
        if (head.weights) {
            arithmetic_.embed(head, token_id, model_.width, x);
        } else {
            std::fill(x, x + model_.width, 0.0f);
            kernels_.read(head.source, size_t(token_id) * head.num_in, head.num_in, x);
        }
        kernels_.add(x, model_.wpe.as<float>() + size_t(position) * model_.width, model_.width);
    }

    // A block of the logits of draw i.
    void take_logits(const Draws& draws, int i, int block, const float* y) const {
        const int first = block * BLOCK, num = std::min(BLOCK, model_.config.vocab_size - first);
        work_.stats[size_t(i) * model_.head.view.num_blocks + block] = kernels_.block_stats(y, num, first);
        if (draws.logits && draws.logits[i]) std::memcpy(draws.logits[i] + first, y, num * sizeof(float));
        if (draws.next_ids && draws.next_ids[i] / BLOCK == block) draws.next_logits[i] = y[draws.next_ids[i] - first];
    }

    // Row `to` of the next product's input: the LayerNorm of row r's hidden state.
    void prepare_normed(int r, const NormStorage& norm, int to) {
        float* normed = work_.normed.as<float>() + size_t(to) * model_.width;
        kernels_.layer_norm(hidden(r), model_.config.n_embd, model_.config.layer_norm_epsilon, norm.view(), normed);
        arithmetic_.prepare(normed, model_.width, to, work_.input.view);
    }

    void run_layer(int i, Worker& worker) {
        const Layer& layer = model_.layers[i];
        const bool is_last = i + 1 == model_.config.n_layer;
        const size_t qkv_stride = size_t(layer.qkv.view.num_blocks) * BLOCK, stride = model_.width,
                     inner_stride = model_.inner_width;
        float *qkv = work_.qkv.as<float>(), *attended = work_.attended.as<float>(), *inner = work_.inner.as<float>();
        const Share mine = worker.share_of(num_rows_);
        for (int r = mine.begin; r < mine.end; ++r) prepare_normed(r, layer.ln_1, r);
        multiply(layer.qkv, work_.input, Finish::store, qkv, qkv_stride, &layer.out, worker);
        attend(i, qkv, qkv_stride, attended, stride, worker);
        for (int r = mine.begin; r < mine.end; ++r) arithmetic_.prepare(attended + r * stride, model_.width, r, work_.input.view);
        multiply(layer.out, work_.input, Finish::add, hidden(0), stride, &layer.fc, worker);
        for (int r = mine.begin; r < mine.end; ++r) prepare_normed(r, layer.ln_2, r);
        if (!is_last) worker.layer = i + 1, worker.next_run = 0;
        multiply(layer.fc, work_.input, Finish::gelu, inner, inner_stride, &layer.proj, worker);
        for (int r = mine.begin; r < mine.end; ++r)
            arithmetic_.prepare(inner + r * inner_stride, model_.inner_width, r, work_.inner_input.view);
        multiply(layer.proj, work_.inner_input, Finish::add, hidden(0), stride, is_last ? &model_.head : &model_.layers[i + 1].qkv,
                 worker);
    }

    // One product, between a barrier for the inputs and one for the outputs; `following` is the next one.
    void multiply(const LinearStorage& layer, const InputStorage& x, Finish finish, float* y, size_t stride,
                  const LinearStorage* following, Worker& worker) {
        shares_.fill(layer.view.num_blocks, worker.thread, worker.num_threads);
        barrier_.wait(worker.num_threads);
        for (int block; (block = shares_.take(worker.thread)) >= 0;) {
            ask_for_past(worker);
            multiply_block(layer.view, x, num_rows_, finish, y + size_t(block) * BLOCK, stride, block, following, worker);
        }
        barrier_.wait(worker.num_threads);
    }

    void multiply_block(const Linear& layer, const InputStorage& x, int num_rows, Finish finish, float* y, size_t stride, int block,
                        const LinearStorage* following, Worker& worker) {
        const bool is_packed = layer.weights;
        const char* weights = is_packed ? layer.weights + block * layer.block_bytes : packed(layer, block, worker);
        const char* next = is_packed ? next_weights(layer, following, worker) : nullptr;
        arithmetic_.multiply({&layer, &x.view, num_rows, finish, y, stride, block, weights, next}, worker.past);
    }

    // A block of weights that lie as in the checkpoint.
    const char* packed(const Linear& layer, int block, const Worker& worker) const {
        Scratch& scratch = work_.scratch[worker.thread];
        char* to = scratch.block.as<char>();
        arithmetic_.pack(layer.source, layer.num_in, layer.num_out, layer.depth, block, to, nullptr, nullptr, nullptr);
        return to;
    }

    // What this thread reads after the block it has just taken: the next one of its share, or the first one of the next product.
    const char* next_weights(const Linear& layer, const LinearStorage* following, const Worker& worker) const {
        if (const int block = shares_.peek(worker.thread); block >= 0) return layer.weights + block * layer.block_bytes;
        if (!following) return nullptr;
        const Linear& next = following->view;
        return next.weights + worker.share_of(next.num_blocks).begin * next.block_bytes;
    }

    // All rows' attention over their pasts, between a barrier for the cache and one for the outputs.
    void attend(int layer, const float* qkv, size_t qkv_stride, float* out, size_t stride, Worker& worker) {
        worker.next_run = int(runs_.size()), worker.past = {};
        // Several rows see each other's; a row by itself is stored where it is attended to, whose memory has been asked for then.
        const Share heads = worker.share_of(num_heads_);
        for (const Run& run : runs_)
            if (!is_alone(run)) store(layer, run, qkv, qkv_stride, heads.begin, heads.end);
        const int heads_at_once = heads_of_piece(worker), num_parts = (num_heads_ + heads_at_once - 1) / heads_at_once;
        shares_.fill(num_parts * int(runs_.size()), worker.thread, worker.num_threads);
        barrier_.wait(worker.num_threads);
        for (int piece; (piece = shares_.take(worker.thread)) >= 0;) {
            const Run& run = runs_[piece % runs_.size()];
            const int first = piece / int(runs_.size()) * heads_at_once, end = std::min(first + heads_at_once, num_heads_);
            for (int head = first; head < end; ++head) {
                if (is_alone(run)) store(layer, run, qkv, qkv_stride, head, head + 1);
                const Past next = head + 1 < end ? run.past(head + 1) : next_past(worker);
                arithmetic_.attend(model_.cache,
                                   {layer, head, run.slot, run.position, run.num_rows, qkv + run.row * qkv_stride, qkv_stride,
                                    out + run.row * stride, stride, work_.scratch[worker.thread].floats.data(), next});
            }
        }
        barrier_.wait(worker.num_threads);
    }

    // The keys and values of a run enter the cache, heads [begin, end).
    void store(int layer, const Run& run, const float* qkv, size_t stride, int begin, int end) {
        for (int r = 0; r < run.num_rows; ++r)
            arithmetic_.store(model_.cache, layer, run.slot, run.position + r, qkv + (run.row + r) * stride, begin, end);
    }

    // A piece of attention is some neighbouring heads of a run, which lie side by side in the cache; a thread has the same ones of
    // every run.
    int heads_of_piece(const Worker& worker) const { return std::max(1, num_heads_ / std::max(2, worker.num_threads)); }

    // What this thread attends to after the piece it has just taken.
    Past next_past(const Worker& worker) const {
        const int piece = shares_.peek(worker.thread), num_runs = int(runs_.size());
        return piece < 0 ? Past{} : runs_[piece % num_runs].past(piece / num_runs * heads_of_piece(worker));
    }

    // Keep products asking for the past that this thread will attend to, of the sequences that decode: the memory is idle while
    // many rows are multiplied, and the bound of attention.
    void ask_for_past(Worker& worker) const {
        constexpr int LINES_AT_ONCE = 4;  // of 3, 4, 6 and 8 the fastest in bfloat16 and float32
        if (arithmetic_.has_tiles || !is_done(worker.past)) return;
        while (worker.next_run < int(runs_.size()) && runs_[worker.next_run].num_rows > 1) ++worker.next_run;
        if (worker.next_run == int(runs_.size())) return;
        const Past past = runs_[worker.next_run++].past(std::min(worker.thread * heads_of_piece(worker), num_heads_ - 1));
        const int num_heads = std::min(heads_of_piece(worker), num_heads_ - past.head);
        const int num_lines = int(num_heads * 2 * model_.cache.tile_bytes / 64) * num_groups(past);
        worker.past = past_ahead(model_.cache, worker.layer, past, num_heads, num_lines / LINES_AT_ONCE);
    }

    gpt2_model& model_;
    const Kernels& kernels_;
    const Arithmetic& arithmetic_;
    Workspace& work_;
    const gpt2_row* rows_;
    const int num_rows_, num_heads_;
    std::vector<Run> runs_;
    Shares shares_;
    Barrier barrier_;
};

InputStorage make_input(int num_rows, int depth, const Arithmetic& arithmetic) {
    // A line more than the row, so that rows do not fall into the same sets of the cache.
    const size_t stride = size_t(depth) * arithmetic.input + 64;
    InputStorage input{{}, Memory(num_rows * stride), std::vector<float>(num_rows, 1.0f), std::vector<Outliers>(num_rows)};
    input.view = {input.data.as<char>(), stride, input.scales.data(), input.outliers.data()};
    return input;
}

void reserve(gpt2_model& model, int num_rows, int num_draws) {
    Workspace& work = model.work;
    const Linear &head = model.head.view, &proj = model.layers[0].proj.view;
    const int rows = round_up(std::max(num_rows, num_draws), 32);  // products read whole tiles
    if (rows > work.capacity) {
        auto floats = [&](int width) { return Memory(size_t(rows) * width * sizeof(float)); };
        work.hidden = floats(model.width), work.normed = floats(model.width), work.attended = floats(model.width);
        work.qkv = floats(round_up(3 * model.config.n_embd, BLOCK)), work.inner = floats(model.inner_width);
        work.input = make_input(rows, head.depth, model.arithmetic);
        work.inner_input = make_input(rows, proj.depth, model.arithmetic);
        work.capacity = rows;
    }
    work.stats.resize(size_t(num_draws) * head.num_blocks);
    const size_t needed = std::max({attention_scratch(model.cache), size_t(rows) * BLOCK, size_t(head.num_blocks + 16) * 2});
    for (Scratch& scratch : work.scratch) {
        if (scratch.floats.size() < needed) scratch.floats.resize(needed);
        if (model.config.is_streamed && !scratch.block.size()) scratch.block = Memory(std::max(head.block_bytes, proj.block_bytes));
    }
}

// The statistics of a row of logits from its blocks'; scratch: 2 (num_blocks + 16) floats.
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

}  // namespace

RowStats stats_of(const Kernels& kernels, const float* logits, int vocab_size) {
    std::vector<BlockStats> blocks;
    for (int first = 0; first < vocab_size; first += BLOCK)
        blocks.push_back(kernels.block_stats(logits + first, std::min(BLOCK, vocab_size - first), first));
    std::vector<float> scratch(2 * (blocks.size() + 16));
    return combine(kernels, blocks.data(), int(blocks.size()), scratch.data());
}

void run_step(gpt2_model& model, const gpt2_row* rows, int num_rows, const Draws& draws, const OfDraw& of_draw) {
    reserve(model, num_rows, draws.num);
    Step step(model, rows, num_rows);
    const int num_blocks = model.head.view.num_blocks;
    std::atomic<int> next_draw{0};
    model.team.run([&](int thread) {
        step.run_layers(thread);
        if (draws.num) step.run_head(thread, draws);
        for (int i; (i = next_draw.fetch_add(1, std::memory_order_relaxed)) < draws.num;) {
            const BlockStats* blocks = &model.work.stats[size_t(i) * num_blocks];
            of_draw(i, combine(model.kernels, blocks, num_blocks, model.work.scratch[thread].floats.data()), thread);
        }
    });
}

}  // namespace gpt2
