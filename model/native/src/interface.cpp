// The C interface: what comes in is checked, exceptions are turned into messages.
#include "interface.h"

#include <cstring>
#include <stdexcept>
#include <string>

#include "answer.h"
#include "check.h"
#include "cpu.h"
#include "float_environment.h"

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

int32_t gpt2_step(gpt2_model* model, const gpt2_step_input* input, const gpt2_step_output* output) {
    return guarded([&] {
        check_step(model->config, *input, *output);
        if (input->num_chunks) answer_step(*model, *input, *output);
    });
}

int32_t gpt2_logits(gpt2_model* model, const gpt2_step_input* input, const int32_t* rows, int32_t num_rows, float* logits,
                    int64_t num_logits) {
    return guarded([&] {
        const int vocab_size = model->config.vocab_size;
        check_chunks(model->config, *input);
        for (int i = 0; i < num_rows; ++i) require(rows[i] >= 0 && rows[i] < input->num_tokens, "row", rows[i]);
        require(num_logits == int64_t(num_rows) * vocab_size, "the number of logits", num_logits);
        if (!input->num_chunks) return;
        std::vector<std::vector<int>> places(input->num_tokens);  // where the logits of each row go
        for (int i = 0; i < num_rows; ++i) places[rows[i]].push_back(i);
        HeadRows head;
        for (int r = 0; r < input->num_tokens; ++r)
            if (!places[r].empty()) head.rows.push_back({r, -1});
        run_step(*model, rows_of(*input), head, [&](int i, const Logits& row, int) {
            for (int place : places[head.rows[i].row])
                std::memcpy(logits + size_t(place) * vocab_size, row.all, vocab_size * sizeof(float));
        });
    });
}

int32_t gpt2_copy_prefix(gpt2_model* model, int32_t source, int32_t target, int32_t length) {
    return guarded([&] {
        require(source >= 0 && source < model->config.num_slots, "slot", source);
        require(target >= 0 && target < model->config.num_slots, "slot", target);
        require(length >= 0 && length <= model->config.n_positions, "length", length);
        if (source == target) return;
        std::memcpy(model->tokens_of(target), model->tokens_of(source), length * sizeof(int32_t));
        // Whole groups of positions: what lies beyond `length` is written before it is read.
        char* cache = model->cache.data;
        const size_t num_bytes = size_t(length + TILE - 1) / TILE * model->cache.group_bytes;
        std::memcpy(cache + target * model->cache.slot_bytes, cache + source * model->cache.slot_bytes, num_bytes);
    });
}

int32_t gpt2_sample(const char* kernels_name, const float* logits, int32_t vocab_size, const gpt2_step_input* input,
                    const gpt2_step_output* output) {
    return guarded([&] {
        const Kernels& kernels = kernels_named(kernels_name, GPT2_FLOAT32);
        require(input->num_draws == 1, "the number of draws", input->num_draws);
        const gpt2_draw& draw = input->draws[0];
        check_draw(draw, *input, vocab_size, 1);
        check_tokens(input->token_ids, input->num_tokens, vocab_size);
        require(output->num_errors == 1 && output->num_tokens == 1, "the number of drawn tokens", output->num_tokens);
        require(output->num_tops == draw.top_n, "the number of likeliest tokens", output->num_tops);
        SamplerScratch scratch;
        scratch.resize(vocab_size);
        std::vector<BlockStats> blocks;
        const RowStats stats = stats_of(kernels, logits, vocab_size, blocks);
        *output->errors = answer_draw(kernels.sampling, {stats, blocks.data(), logits, 0.0f}, vocab_size, draw, *input,
                                      {input->token_ids, input->num_tokens}, scratch, *output->tokens, output->tops);
    });
}
