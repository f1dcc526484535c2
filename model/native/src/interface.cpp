// The C interface: checks of what comes in, and exceptions turned into messages.
#include "interface.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>

#include "cpu.h"
#include "float_environment.h"
#include "sampler.h"
#include "step.h"

using namespace gpt2;

namespace {

thread_local std::string last_error;

// Whatever `body` throws, as the last error and a code.
template <class Body>
int32_t guarded(Body body) {
    const FloatEnvironment environment;
    try {
        body();
        return 0;
    } catch (const std::bad_alloc&) {
        last_error = "out of memory";
        return GPT2_OUT_OF_MEMORY;
    } catch (const std::out_of_range& error) {
        last_error = error.what();
        return GPT2_OUT_OF_RANGE;
    } catch (const NotFinite&) {
        last_error = "it has values that are NaN or infinite";
        return GPT2_NOT_FINITE;
    } catch (const std::exception& error) {
        last_error = error.what();
        return GPT2_UNAVAILABLE;
    }
}

void require(bool holds, const char* what, int value) {
    if (!holds) throw std::out_of_range(std::string(what) + " " + std::to_string(value) + " is out of range");
}

// At most one run of rows a slot, at consecutive positions, each of them something that the model holds.
void check(const gpt2_model& model, const gpt2_row* rows, int num_rows) {
    const gpt2_config& config = model.config;
    std::vector<bool> has_run(config.num_slots);
    for (int r = 0; r < num_rows; ++r) {
        require(rows[r].token_id >= 0 && rows[r].token_id < config.vocab_size, "token", rows[r].token_id);
        require(rows[r].position >= 0 && rows[r].position < config.n_positions, "position", rows[r].position);
        require(rows[r].slot >= 0 && rows[r].slot < config.num_slots, "slot", rows[r].slot);
        if (r && rows[r].slot == rows[r - 1].slot) {
            if (rows[r].position != rows[r - 1].position + 1)
                throw std::out_of_range("the positions of a slot's rows are not consecutive");
        } else if (has_run[rows[r].slot]) {
            throw std::out_of_range("the rows of slot " + std::to_string(rows[r].slot) + " are not consecutive");
        }
        has_run[rows[r].slot] = true;
    }
}

void check(const gpt2_model& model, const gpt2_draw* draws, int num_draws, int num_rows, const int32_t* ids) {
    for (int i = 0; i < num_draws; ++i) {
        require(draws[i].row >= 0 && draws[i].row < num_rows, "row", draws[i].row);
        if (draws[i].plain) continue;
        for (const gpt2_range& range : {draws[i].bias, draws[i].banned, draws[i].prompt, draws[i].generated})
            for (int j = range.begin; j < range.end; ++j) require(ids[j] >= 0 && ids[j] < model.config.vocab_size, "token", ids[j]);
    }
}

// Draw from a row of logits whose log(sum of exp) is known; NaN for a row that cannot be drawn from.
gpt2_token draw_token(const Sampling& kernels, const float* logits, int vocab_size, double log_sum, const gpt2_draw& draw,
                      const int32_t* ids, const float* values, SamplerScratch& scratch) {
    if (!std::isfinite(log_sum)) return {0, 0, std::numeric_limits<double>::quiet_NaN()};  // a logit is no number
    const int32_t id = sample(kernels, logits, vocab_size, draw, ids, values, scratch);
    if (id < 0) return {0, 0, std::numeric_limits<double>::quiet_NaN()};
    return {id, 0, double(logits[id]) - log_sum};
}

}  // namespace

int32_t gpt2_abi() { return GPT2_ABI; }

const char* gpt2_last_error() { return last_error.c_str(); }

const char* gpt2_kernels() {
    static const std::string names = [] {
        std::string all;
        for (const Kernels* kernels : available_kernels()) all += (all.empty() ? "" : ",") + std::string(kernels->name);
        return all;
    }();
    return names.c_str();
}

int32_t gpt2_create(const gpt2_config* config, gpt2_model** model) {
    return guarded([&] { *model = new gpt2_model(*config); });
}

void gpt2_destroy(gpt2_model* model) { delete model; }

const char* gpt2_kernels_of(const gpt2_model* model) { return model->kernels.name; }

const char* gpt2_arithmetic_of(const gpt2_model* model) { return model->arithmetic.name; }

int32_t gpt2_load(gpt2_model* model, const char* name, const void* data, int64_t size, int32_t dtype, int32_t is_transposed) {
    return guarded([&] {
        try {
            if (dtype < GPT2_F32 || dtype > GPT2_BF16)
                throw std::runtime_error("its type is none of float32, float16 and bfloat16");
            model->load(name, {data, Dtype(dtype), is_transposed != 0, nullptr}, size);
        } catch (const std::runtime_error& error) {
            throw std::runtime_error(std::string(name) + ": " + error.what());
        }
    });
}

int32_t gpt2_step(gpt2_model* model, const gpt2_row* rows, int32_t num_rows, const gpt2_draw* draws, int32_t num_draws,
                  const int32_t* ids, const float* values, gpt2_token* tokens) {
    return guarded([&] {
        check(*model, rows, num_rows);
        check(*model, draws, num_draws, num_rows, ids);
        if (num_rows == 0) return;
        Workspace& work = model->work;
        const int vocab_size = model->config.vocab_size;
        std::vector<int32_t> draw_rows(num_draws);
        std::vector<float*> logits(num_draws, nullptr);
        size_t num_kept = 0;
        for (int i = 0; i < num_draws; ++i) num_kept += !draws[i].plain;
        if (work.logits.size() < num_kept * vocab_size * sizeof(float)) work.logits = Memory(num_kept * vocab_size * sizeof(float));
        float* next = work.logits.as<float>();
        for (int i = 0; i < num_draws; ++i) {
            draw_rows[i] = draws[i].row;
            if (!draws[i].plain) logits[i] = next, next += vocab_size;
        }
        if (num_kept)
            for (Scratch& scratch : work.scratch) scratch.sampler.resize(vocab_size);
        const Sampling& kernels = model->kernels.sampling;
        run_step(*model, rows, num_rows, {num_draws, draw_rows.data(), logits.data()},
                 [&](int i, const RowStats& stats, int thread) {
                     if (draws[i].plain)
                         tokens[i] = {stats.argmax, 0, stats.max - stats.log_sum};
                     else
                         tokens[i] = draw_token(kernels, logits[i], vocab_size, stats.log_sum, draws[i], ids, values,
                                                work.scratch[thread].sampler);
                 });
    });
}

int32_t gpt2_logits(gpt2_model* model, const gpt2_row* rows, int32_t num_rows, const int32_t* draw_rows, int32_t num_draws,
                    float* logits) {
    return guarded([&] {
        check(*model, rows, num_rows);
        for (int i = 0; i < num_draws; ++i) require(draw_rows[i] >= 0 && draw_rows[i] < num_rows, "row", draw_rows[i]);
        if (num_rows == 0) return;
        std::vector<float*> each(num_draws);
        for (int i = 0; i < num_draws; ++i) each[i] = logits + size_t(i) * model->config.vocab_size;
        run_step(*model, rows, num_rows, {num_draws, draw_rows, each.data()}, [](int, const RowStats&, int) {});
    });
}

int32_t gpt2_logprobs(gpt2_model* model, const gpt2_row* rows, int32_t num_rows, const int32_t* next_ids, double* logprobs) {
    return guarded([&] {
        const int vocab_size = model->config.vocab_size;
        check(*model, rows, num_rows);
        for (int i = 0; i < num_rows; ++i) require(next_ids[i] >= 0 && next_ids[i] < vocab_size, "token", next_ids[i]);
        if (num_rows == 0) return;
        std::vector<int32_t> all(num_rows);
        std::iota(all.begin(), all.end(), 0);
        std::vector<float> next(num_rows);
        run_step(*model, rows, num_rows, {num_rows, all.data(), nullptr, next_ids, next.data()},
                 [&](int i, const RowStats& stats, int) { logprobs[i] = next[i] - stats.log_sum; });
    });
}

int32_t gpt2_copy_prefix(gpt2_model* model, int32_t source, int32_t target, int32_t length) {
    return guarded([&] {
        require(source >= 0 && source < model->config.num_slots, "slot", source);
        require(target >= 0 && target < model->config.num_slots, "slot", target);
        require(length >= 0 && length <= model->config.n_positions, "length", length);
        if (source == target) return;
        // Whole groups of positions: what lies beyond `length` is written before it is read.
        char* cache = model->cache.data;
        const size_t num_bytes = size_t(length + TILE - 1) / TILE * model->cache.group_bytes;
        std::memcpy(cache + target * model->cache.slot_bytes, cache + source * model->cache.slot_bytes, num_bytes);
    });
}

int32_t gpt2_sample(const char* kernels_name, const float* logits, int32_t vocab_size, const gpt2_draw* draw, const int32_t* ids,
                    const float* values, gpt2_token* token) {
    return guarded([&] {
        const Kernels& kernels = kernels_named(kernels_name, GPT2_FLOAT32);
        SamplerScratch scratch;
        scratch.resize(vocab_size);
        const double log_sum = stats_of(kernels, logits, vocab_size).log_sum;
        *token = draw_token(kernels.sampling, logits, vocab_size, log_sum, *draw, ids, values, scratch);
    });
}
