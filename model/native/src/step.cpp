// The native step: every row of a step through the whole network in one call, on one team of threads.
//
// Threads share out rows, heads and blocks of outputs; what each of them computes is computed in the same order whoever does it, so
// that a row's bits depend neither on the other rows nor on the number of threads.
#include "step.h"

#include <algorithm>
#include <atomic>
#include <cstring>

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
constexpr int MAX_KEPT = 64;    // rows whose logits are kept at a time: 12.9 MB of GPT-2's, however long a prompt is scored

// Rows [begin, end) of the head that are computed at once, those from `first_kept` on with all logits kept.
struct Group {
    int begin, first_kept, end;
};

std::vector<Group> groups_of(const HeadRows& head) {
    std::vector<Group> groups;
    for (int begin = 0, num = int(head.rows.size()); begin < num; begin = groups.back().end) {
        const int first_kept = std::max(begin, head.first_kept);
        groups.push_back({begin, first_kept, std::min(first_kept + MAX_KEPT, num)});
    }
    return groups;
}

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
    Step(gpt2_model& model, const std::vector<Row>& rows, const HeadRows& head)
        : model_(model),
          kernels_(model.kernels),
          arithmetic_(model.arithmetic),
          work_(model.work),
          rows_(rows),
          head_(head),
          num_rows_(int(rows.size())),
          num_heads_(model.config.n_head),
          shares_(model.team.size()) {
        for (int r = 0; r < num_rows_; ++r) {
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
        for (int r = mine.begin; r < mine.end; ++r) {
            model_.tokens_of(rows_[r].slot)[rows_[r].position] = rows_[r].token_id;
            embed(rows_[r].token_id, rows_[r].position, hidden(r));
        }
        for (int i = 0; i < model_.config.n_layer; ++i) run_layer(i, worker);
        if (arithmetic_.has_tiles) kernels_.release_tiles();
    }

    // The final LayerNorm and the output head for some rows.
    void run_head(int thread, const Group& group) {
        Worker worker{thread, model_.team.size()};
        const int num_rows = group.end - group.begin;
        if (arithmetic_.has_tiles) kernels_.configure_tiles(num_rows);
        const Share mine = worker.share_of(num_rows);
        for (int i = mine.begin; i < mine.end; ++i) prepare_normed(head_.rows[group.begin + i].row, model_.ln_f, i);
        const Linear& head = model_.head.view;
        shares_.fill(head.num_blocks, worker.thread, worker.num_threads);
        barrier_.wait(worker.num_threads);                      // nobody looks at the logits of the group before this one any more
        float* y = work_.scratch[worker.thread].floats.data();  // (R, 64): the block's logits never leave the cache
        for (int block; (block = shares_.take(worker.thread)) >= 0;) {
            multiply_block(head, work_.input, num_rows, Finish::store, y, BLOCK, block, nullptr, worker);
            for (int i = group.begin; i < group.end; ++i) take_logits(group, i, block, y + (i - group.begin) * BLOCK);
        }
        barrier_.wait(worker.num_threads);
        if (arithmetic_.has_tiles) kernels_.release_tiles();
    }

    // Of row i of the head, which the group has computed.
    Logits logits(const Group& group, int i, int thread) const {
        const int num_blocks = model_.head.view.num_blocks;
        const BlockStats* blocks = &work_.stats[size_t(i - group.begin) * num_blocks];
        return {combine(kernels_, blocks, num_blocks, work_.scratch[thread].floats.data()), blocks, kept(group, i),
                work_.chosen[i - group.begin]};
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

    // Where all logits of row i of the head go, null where they are not kept.
    float* kept(const Group& group, int i) const {
        return i < group.first_kept ? nullptr : work_.logits.as<float>() + size_t(i - group.first_kept) * model_.config.vocab_size;
    }

    // A block of the logits of row i of the head.
    void take_logits(const Group& group, int i, int block, const float* y) const {
        const int first = block * BLOCK, num = std::min(BLOCK, model_.config.vocab_size - first), row = i - group.begin;
        const int chosen = head_.rows[i].token_id - first;
        work_.stats[size_t(row) * model_.head.view.num_blocks + block] = kernels_.block_stats(y, num, first);
        if (float* all = kept(group, i)) std::memcpy(all + first, y, num * sizeof(float));
        if (chosen >= 0 && chosen < num) work_.chosen[row] = y[chosen];
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
    const std::vector<Row>& rows_;
    const HeadRows& head_;
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

void reserve(gpt2_model& model, int num_rows, const std::vector<Group>& groups) {
    Workspace& work = model.work;
    const Linear &head = model.head.view, &proj = model.layers[0].proj.view;
    const int rows = round_up(num_rows, 32);  // products read whole tiles
    if (rows > work.capacity) {
        auto floats = [&](int width) { return Memory(size_t(rows) * width * sizeof(float)); };
        work.hidden = floats(model.width), work.normed = floats(model.width), work.attended = floats(model.width);
        work.qkv = floats(round_up(3 * model.config.n_embd, BLOCK)), work.inner = floats(model.inner_width);
        work.input = make_input(rows, head.depth, model.arithmetic);
        work.inner_input = make_input(rows, proj.depth, model.arithmetic);
        work.capacity = rows;
    }
    size_t num_at_once = 0, num_kept = 0;
    for (const Group& group : groups) {
        num_at_once = std::max(num_at_once, size_t(group.end - group.begin));
        num_kept = std::max(num_kept, size_t(group.end - group.first_kept));
    }
    work.stats.resize(num_at_once * head.num_blocks), work.chosen.resize(num_at_once);
    const size_t kept_bytes = num_kept * model.config.vocab_size * sizeof(float);
    if (work.logits.size() < kept_bytes) work.logits = Memory(kept_bytes);
    const size_t needed = std::max({attention_scratch(model.cache), size_t(rows) * BLOCK, size_t(head.num_blocks + 16) * 2});
    for (Scratch& scratch : work.scratch) {
        if (scratch.floats.size() < needed) scratch.floats.resize(needed);
        if (model.config.is_streamed && !scratch.block.size()) scratch.block = Memory(std::max(head.block_bytes, proj.block_bytes));
    }
}

}  // namespace

void run_step(gpt2_model& model, const std::vector<Row>& rows, const HeadRows& head, const OfLogits& of_logits) {
    const std::vector<Group> groups = groups_of(head);
    reserve(model, int(rows.size()), groups);
    Step step(model, rows, head);
    std::vector<std::atomic<int>> num_told(groups.size());
    model.team.run([&](int thread) {
        step.run_layers(thread);
        for (size_t g = 0; g < groups.size(); ++g) {
            const Group& group = groups[g];
            step.run_head(thread, group);
            for (int i; (i = group.begin + num_told[g].fetch_add(1, std::memory_order_relaxed)) < group.end;)
                of_logits(i, step.logits(group, i, thread), thread);
        }
    });
}

}  // namespace gpt2
