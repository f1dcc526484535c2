// The C interface: checks, exceptions turned into messages, and the model's construction from named parameters.
#include "interface.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>

#include "attention.h"
#include "pack.h"
#include "products.h"
#include "rows.h"
#include "sampler.h"
#include "step.h"

using namespace gpt2;

namespace {

thread_local std::string last_error;

Kernels choose_kernels(const gpt2_config& config) {
    const int32_t have = config.features;
    auto need = [&](int32_t features, const char* what) {
        if ((have & features) != features) throw std::runtime_error(std::string("this CPU lacks ") + what);
    };
    need(GPT2_AVX512, "AVX-512");
    if (config.precision == GPT2_FLOAT32) return {multiply_float32, prepare_float32, store_float32, attend_float32, false};
    if (config.precision == GPT2_BFLOAT16) {
        need(GPT2_AVX512_BF16, "AVX512_BF16");
        const bool tiles = have & GPT2_AMX_BF16;
        return {tiles ? multiply_bfloat16_amx : multiply_bfloat16, prepare_bfloat16, store_bfloat16, attend_bfloat16, tiles};
    }
    need(GPT2_AVX512_VNNI, "AVX512_VNNI");
    const bool tiles = have & GPT2_AMX_INT8;
    return {tiles ? multiply_int8_amx : multiply_int8, prepare_int8, store_int8, attend_int8, tiles};
}

Norm make_norm(int width) { return {std::vector<float>(width, 0.0f), std::vector<float>(width, 0.0f)}; }

void build(gpt2_model& model, const gpt2_config& config) {
    if (config.features & ~gpt2_features()) throw std::runtime_error("features are asked for that this CPU lacks");
    model.config = config;
    model.kernels = choose_kernels(config);
    const int embd = config.n_embd;
    model.width = round_up(embd, BLOCK);
    model.inner_width = round_up(config.n_inner, BLOCK);
    model.head_width = round_up(embd / config.n_head, 16);
    if (model.head_width > MAX_HEAD_WIDTH) throw std::runtime_error("heads are larger than 1,024");
    model.positions = round_up(config.n_positions, 64);
    model.ln_f = make_norm(model.width);
    shape_linear(model.head, embd, config.vocab_size, config.precision);
    model.layers.resize(config.n_layer);
    for (Layer& layer : model.layers) {
        layer.ln_1 = make_norm(model.width), layer.ln_2 = make_norm(model.width);
        shape_linear(layer.qkv, embd, 3 * embd, config.precision);
        shape_linear(layer.out, embd, embd, config.precision);
        shape_linear(layer.fc, embd, config.n_inner, config.precision);
        shape_linear(layer.proj, config.n_inner, embd, config.precision);
    }
    model.cache = Memory(size_t(config.num_slots) * model.slot_bytes());
}

void expect(int64_t size, int64_t wanted) {
    if (size != wanted) throw std::runtime_error("it has " + std::to_string(size) + " values, not " + std::to_string(wanted));
}

void load_vector(std::vector<float>& to, const float* data, int64_t size, int64_t wanted) {
    expect(size, wanted);
    std::copy(data, data + size, to.begin());
}

void load_linear(gpt2_model& model, Linear& layer, const std::string& part, const float* data, int64_t size, int num_threads) {
    if (part == "bias") return load_vector(layer.bias, data, size, layer.num_out);
    expect(size, int64_t(layer.num_in) * layer.num_out);
    pack_linear(layer, data, model.config.precision, num_threads);
}

void load(gpt2_model& model, const std::string& name, const float* data, int64_t size, int num_threads) {
    const gpt2_config& config = model.config;
    auto table = [&](Memory& to, int num_rows) {
        expect(size, int64_t(num_rows) * config.n_embd);
        pack_table(to, data, num_rows, config.n_embd, model.width, model.is_float32(), num_threads);
    };
    const std::string part = name.substr(name.rfind('.') + 1);
    auto norm = [&](Norm& to) { load_vector(part == "bias" ? to.bias : to.weight, data, size, config.n_embd); };
    if (name == "wte.weight") {
        table(model.wte, config.vocab_size);
        return load_linear(model, model.head, part, data, size, num_threads);  // the output embedding is the input's
    }
    if (name == "wpe.weight") return table(model.wpe, config.n_positions);
    if (name.rfind("ln_f.", 0) == 0) return norm(model.ln_f);
    int i = -1, parsed = 0;
    if (std::sscanf(name.c_str(), "h.%d.%n", &i, &parsed) != 1 || i < 0 || i >= config.n_layer)
        throw std::runtime_error("no such parameter");
    Layer& layer = model.layers[i];
    const std::string module = name.substr(parsed, name.rfind('.') - parsed);
    if (module == "ln_1") return norm(layer.ln_1);
    if (module == "ln_2") return norm(layer.ln_2);
    Linear* linear = module == "attn.c_attn"   ? &layer.qkv
                     : module == "attn.c_proj" ? &layer.out
                     : module == "mlp.c_fc"    ? &layer.fc
                     : module == "mlp.c_proj"  ? &layer.proj
                                               : nullptr;
    if (!linear) throw std::runtime_error("no such parameter");
    load_linear(model, *linear, part, data, size, num_threads);
}

// Whatever `body` throws, as the last error and a code.
template <class Body>
int32_t guarded(Body body) {
    try {
        body();
        return 0;
    } catch (const std::bad_alloc&) {
        last_error = "out of memory";
        return GPT2_OUT_OF_MEMORY;
    } catch (const std::out_of_range& error) {
        last_error = error.what();
        return GPT2_OUT_OF_RANGE;
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
gpt2_token draw_token(const float* logits, int vocab_size, double log_sum, const gpt2_draw& draw, const int32_t* ids,
                      const float* values, SamplerScratch& scratch) {
    if (!std::isfinite(log_sum)) return {0, 0, std::numeric_limits<double>::quiet_NaN()};  // a logit is no number
    const int32_t id = sample(logits, vocab_size, draw, ids, values, scratch);
    if (id < 0) return {0, 0, std::numeric_limits<double>::quiet_NaN()};
    return {id, 0, double(logits[id]) - log_sum};
}

}  // namespace

int32_t gpt2_abi() { return GPT2_ABI; }

const char* gpt2_last_error() { return last_error.c_str(); }

int32_t gpt2_create(const gpt2_config* config, gpt2_model** model) {
    return guarded([&] {
        auto made = std::make_unique<gpt2_model>();
        build(*made, *config);
        *model = made.release();
    });
}

void gpt2_destroy(gpt2_model* model) { delete model; }

int32_t gpt2_load(gpt2_model* model, const char* name, const float* data, int64_t size, int32_t num_threads) {
    return guarded([&] {
        try {
            load(*model, name, data, size, num_threads);
        } catch (const std::runtime_error& error) {
            throw std::runtime_error(std::string(name) + ": " + error.what());
        }
    });
}

int32_t gpt2_step(gpt2_model* model, const gpt2_row* rows, int32_t num_rows, const gpt2_draw* draws, int32_t num_draws,
                  const int32_t* ids, const float* values, gpt2_token* tokens, int32_t num_threads) {
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
        if (num_kept) {
            if (int(work.samplers.size()) < num_threads) work.samplers.resize(num_threads);
            for (SamplerScratch& scratch : work.samplers) scratch.resize(vocab_size);
        }
        run_step(*model, rows, num_rows, draw_rows.data(), num_draws, logits.data(), num_threads,
                 [&](int i, const RowStats& stats, int thread) {
                     if (draws[i].plain)
                         tokens[i] = {stats.argmax, 0, stats.max - stats.log_sum};
                     else
                         tokens[i] = draw_token(logits[i], vocab_size, stats.log_sum, draws[i], ids, values, work.samplers[thread]);
                 });
    });
}

int32_t gpt2_logits(gpt2_model* model, const gpt2_row* rows, int32_t num_rows, const int32_t* draw_rows, int32_t num_draws,
                    float* logits, int32_t num_threads) {
    return guarded([&] {
        check(*model, rows, num_rows);
        for (int i = 0; i < num_draws; ++i) require(draw_rows[i] >= 0 && draw_rows[i] < num_rows, "row", draw_rows[i]);
        if (num_rows == 0) return;
        std::vector<float*> each(num_draws);
        for (int i = 0; i < num_draws; ++i) each[i] = logits + size_t(i) * model->config.vocab_size;
        run_step(*model, rows, num_rows, draw_rows, num_draws, each.data(), num_threads, [](int, const RowStats&, int) {});
    });
}

int32_t gpt2_copy_prefix(gpt2_model* model, int32_t source, int32_t target, int32_t length) {
    return guarded([&] {
        require(source >= 0 && source < model->config.num_slots, "slot", source);
        require(target >= 0 && target < model->config.num_slots, "slot", target);
        require(length >= 0 && length <= model->config.n_positions, "length", length);
        if (source == target) return;
        // Whole groups of positions: what lies beyond `length` is written before it is read.
        char* cache = model->cache.as<char>();
        const size_t num_bytes = size_t(length + 63) / 64 * model->group_bytes();
        std::memcpy(cache + target * model->slot_bytes(), cache + source * model->slot_bytes(), num_bytes);
    });
}

gpt2_token gpt2_sample(const float* logits, int32_t vocab_size, const gpt2_draw* draw, const int32_t* ids, const float* values) {
    SamplerScratch scratch;
    scratch.resize(vocab_size);
    std::vector<BlockStats> blocks;
    for (int first = 0; first < vocab_size; first += BLOCK)
        blocks.push_back(block_stats(logits + first, std::min(BLOCK, vocab_size - first), first));
    return draw_token(logits, vocab_size, combine(blocks.data(), int(blocks.size())).log_sum, *draw, ids, values, scratch);
}
