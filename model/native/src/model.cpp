#include "model.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <stdexcept>

#include "cpu.h"
#include "shares.h"

namespace gpt2 {
namespace {

// How many products of two bytes of +-127 a sum of 32 bits holds, whatever they are.
constexpr int MAX_INT8_TERMS = INT32_MAX / (127 * 127) / BLOCK * BLOCK;

void check_sums(const Arithmetic& arithmetic, int num_terms, const char* what) {
    if (arithmetic.element == 1 && num_terms > MAX_INT8_TERMS)
        throw std::runtime_error("int8 sums up at most " + std::to_string(MAX_INT8_TERMS) + " " + what + ", not " +
                                 std::to_string(num_terms));
}

const gpt2_config& check(const gpt2_config& config) {
    if (config.precision < GPT2_FLOAT32 || config.precision > GPT2_INT8) throw std::runtime_error("no such precision");
    if (config.is_streamed && config.precision != GPT2_FLOAT32)
        throw std::runtime_error("only float32 runs from weights as they lie");
    return config;
}

NormStorage make_norm(int width) { return {std::vector<float>(width, 0.0f), std::vector<float>(width, 0.0f)}; }

void shape_linear(LinearStorage& layer, int num_in, int num_out, const Arithmetic& arithmetic) {
    const int depth = round_up(num_in, BLOCK), num_blocks = (num_out + BLOCK - 1) / BLOCK, padded = num_blocks * BLOCK;
    check_sums(arithmetic, num_in, "inputs");
    layer.bias.assign(padded, 0.0f), layer.scales.assign(padded, 0.0f), layer.offsets.assign(padded, 0);
    layer.view = {num_in,
                  num_out,
                  depth,
                  num_blocks,
                  size_t(depth) * BLOCK * arithmetic.element,
                  nullptr,
                  layer.bias.data(),
                  layer.scales.data(),
                  layer.offsets.data(),
                  {}};
}

Cache shape_cache(const gpt2_config& config, const Arithmetic& arithmetic) {
    check_sums(arithmetic, config.n_positions, "positions");
    Cache cache{};
    cache.num_heads = config.n_head, cache.head_size = config.n_embd / config.n_head;
    cache.head_width = round_up(cache.head_size, 16), cache.positions = round_up(config.n_positions, TILE);
    if (cache.head_width > MAX_HEAD_WIDTH) throw std::runtime_error("heads are larger than " + std::to_string(MAX_HEAD_WIDTH));
    const size_t scales = arithmetic.element == 1 ? TILE * sizeof(float) : 0;
    cache.tile_bytes = size_t{TILE} * cache.head_width * arithmetic.element + scales;
    cache.group_bytes = size_t(config.n_layer) * config.n_head * 2 * cache.tile_bytes;
    cache.slot_bytes = size_t(cache.positions / TILE) * cache.group_bytes;
    return cache;
}

void expect(int64_t size, int64_t wanted) {
    if (size != wanted) throw std::runtime_error("it has " + std::to_string(size) + " values, not " + std::to_string(wanted));
}

// `num` values of a tensor as floats.
void copy_row(const Kernels& kernels, const Source& source, size_t at, int num, float* to) {
    kernels.read(source, at, num, to);
    for (int i = 0; i < num; ++i)
        if (to[i] - to[i] != 0.0f) throw NotFinite();
}

void pack(LinearStorage& layer, const Arithmetic& arithmetic, Team& team, std::vector<Scratch>& scratch) {
    const Linear& view = layer.view;
    layer.weights = Memory(view.num_blocks * view.block_bytes);
    std::atomic<bool> is_finite{true};
    for (Scratch& thread : scratch) thread.unpacked.resize(std::max(thread.unpacked.size(), size_t(view.depth) * BLOCK));
    team.for_each(view.num_blocks, [&](int block, int thread) {
        char* to = layer.weights.as<char>() + block * view.block_bytes;
        if (!arithmetic.pack(view.source, view.num_in, view.num_out, view.depth, block, to, &layer.scales[block * BLOCK],
                             &layer.offsets[block * BLOCK], scratch[thread].unpacked.data()))
            is_finite = false;
    });
    layer.view.weights = layer.weights.as<char>();
    if (!is_finite) throw NotFinite();
}

// Powers of two by which the inputs of a layer behind a LayerNorm are divided, and their weights multiplied, so that eight bits
// hold both: the largest input and the largest weight of a channel come to the same size. As in SmoothQuant (Xiao et al. 2023,
// equation 4, alpha = 1/2), but that the size of an input is told by the LayerNorm's own gain and bias, without any text. In
// floats nothing changes. A normalised value seldom lies more than four deviations from the mean.
void equalise(LinearStorage& layer, NormStorage& norm, const Kernels& kernels, Team& team) {
    const Source& source = layer.view.source;
    const int num_in = layer.view.num_in, num_out = layer.view.num_out, num_rows = source.is_transposed ? num_in : num_out;
    std::vector<std::vector<float>> maxima(team.size(), std::vector<float>(num_in, 0.0f));
    team.run([&](int thread) {
        const Share mine(num_rows, thread, team.size());
        kernels.input_maxima(source, num_in, num_out, mine.begin, mine.end, maxima[thread].data());
    });
    layer.factors.assign(num_in, 1.0f);
    for (int k = 0; k < num_in; ++k) {
        float weight = 0.0f;
        for (const auto& of_thread : maxima) weight = std::max(weight, of_thread[k]);
        const float input = std::max(4.0f * std::fabs(norm.weight[k]), std::fabs(norm.bias[k]));
        if (!(std::isnormal(weight) && std::isnormal(input))) continue;
        // The power of two nearest to the quotient's square root; >> rounds down.
        const int exponent = std::clamp((std::ilogb(double(input) / weight) + 1) >> 1, -60, 60);
        layer.factors[k] = std::ldexp(1.0f, exponent);
        norm.weight[k] = std::ldexp(norm.weight[k], -exponent), norm.bias[k] = std::ldexp(norm.bias[k], -exponent);
    }
    layer.view.source.factors = layer.factors.data();
}

}  // namespace
}  // namespace gpt2

using namespace gpt2;

gpt2_model::gpt2_model(const gpt2_config& wanted)
    : config(wanted),
      kernels(kernels_named(wanted.kernels, check(wanted).precision)),
      arithmetic(arithmetic_of(kernels, wanted.precision, wanted.arithmetic)),
      width(round_up(wanted.n_embd, BLOCK)),
      inner_width(round_up(wanted.n_inner, BLOCK)),
      ln_f(make_norm(width)),
      cache(shape_cache(wanted, arithmetic)),
      team(std::max(wanted.num_threads, 1)) {
    config.kernels = kernels.name, config.arithmetic = arithmetic.name;
    const int embd = config.n_embd;
    shape_linear(head, embd, config.vocab_size, arithmetic);
    layers.resize(config.n_layer);
    for (Layer& layer : layers) {
        layer.ln_1 = make_norm(width), layer.ln_2 = make_norm(width);
        shape_linear(layer.qkv, embd, 3 * embd, arithmetic);
        shape_linear(layer.out, embd, embd, arithmetic);
        shape_linear(layer.fc, embd, config.n_inner, arithmetic);
        shape_linear(layer.proj, config.n_inner, embd, arithmetic);
    }
    if (cache.slot_bytes && size_t(config.num_slots) > SIZE_MAX / 2 / cache.slot_bytes) throw std::bad_alloc();
    token_ids = Memory(size_t(config.num_slots) * config.n_positions * sizeof(int32_t));
    cache_memory = Memory(size_t(config.num_slots) * cache.slot_bytes);
    cache.data = cache_memory.as<char>();
    work.scratch.resize(team.size());
}

void gpt2_model::load(const std::string& name, const Source& source, int64_t size) {
    const std::string part = name.substr(name.rfind('.') + 1);
    if (part != "weight" && part != "bias") throw std::runtime_error("no such parameter");
    auto vector = [&](std::vector<float>& to, int wanted) {
        expect(size, wanted);
        copy_row(kernels, source, 0, wanted, to.data());
    };
    auto norm = [&](NormStorage& to) { vector(part == "bias" ? to.bias : to.weight, config.n_embd); };
    auto linear = [&](LinearStorage& layer, NormStorage* before = nullptr) {
        if (part == "bias") return vector(layer.bias, layer.view.num_out);
        expect(size, int64_t(layer.view.num_in) * layer.view.num_out);
        layer.view.source = source;
        if (config.precision == GPT2_INT8 && before) equalise(layer, *before, kernels, team);
        if (!config.is_streamed) pack(layer, arithmetic, team, work.scratch);
    };
    const bool is_table = name == "wte.weight" || name == "wpe.weight";
    if (is_table && source.is_transposed) throw std::runtime_error("a table's rows lie one after another, it is never transposed");
    if (name == "wte.weight") return linear(head);  // the output embedding is the input's
    if (name == "wpe.weight") {
        expect(size, int64_t(config.n_positions) * config.n_embd);
        wpe = Memory(size_t(config.n_positions) * width * sizeof(float));
        for (int row = 0; row < config.n_positions; ++row)
            copy_row(kernels, source, size_t(row) * config.n_embd, config.n_embd, wpe.as<float>() + size_t(row) * width);
        return;
    }
    if (name.rfind("ln_f.", 0) == 0) return norm(ln_f);
    int i = -1, parsed = 0;
    if (std::sscanf(name.c_str(), "h.%d.%n", &i, &parsed) != 1 || i < 0 || i >= config.n_layer)
        throw std::runtime_error("no such parameter");
    Layer& layer = layers[i];
    const std::string module = name.substr(parsed, name.rfind('.') - parsed);
    if (module == "ln_1") return norm(layer.ln_1);
    if (module == "ln_2") return norm(layer.ln_2);
    if (module == "attn.c_attn") return linear(layer.qkv, &layer.ln_1);
    if (module == "attn.c_proj") return linear(layer.out);
    if (module == "mlp.c_fc") return linear(layer.fc, &layer.ln_2);
    if (module == "mlp.c_proj") return linear(layer.proj);
    throw std::runtime_error("no such parameter");
}
