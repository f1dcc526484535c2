// The C interface at random, for sanitizers to watch: networks of any small shape, weights of every type and of any bits, steps
// that are right and steps that are wrong, on every set of kernels. It says nothing; that it ends is what is looked for.
//
//     fuzz [threads [rounds]]
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "../../../model/native/src/interface.h"

namespace {

uint64_t state = 1;

uint64_t next() {  // SplitMix64 (Steele et al. 2014)
    uint64_t x = state += 0x9E3779B97F4A7C15ull;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ x >> 27) * 0x94D049BB133111EBull;
    return x ^ x >> 31;
}
int between(int low, int high) { return low + int(next() % uint64_t(high - low + 1)); }
bool happens(int percent) { return between(1, 100) <= percent; }
template <class T>
T one_of(std::initializer_list<T> values) {
    return values.begin()[between(0, int(values.size()) - 1)];
}

void require(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "%s: %s\n", what, gpt2_last_error());
    std::abort();
}

// Exactly as long as it is said to be, so that a read beyond it is seen.
template <class T>
class Exact {
 public:
    explicit Exact(const std::vector<T>& values) : values_(new T[values.size()]) {
        std::copy(values.begin(), values.end(), values_.get());
    }
    explicit Exact(size_t size) : values_(new T[size]()) {}
    T* get() { return values_.get(); }

 private:
    std::unique_ptr<T[]> values_;
};

std::vector<std::string> parted(const char* names) {
    std::vector<std::string> all{""};
    for (; *names; ++names)
        if (*names == ',')
            all.emplace_back();
        else
            all.back() += *names;
    return all;
}

float any_float(int percent_usual = 90) {
    uint32_t bits = uint32_t(next());
    if (happens(percent_usual)) bits = (bits & 0x807FFFFFu) | uint32_t(between(117, 127)) << 23;  // of a usual size
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

// Weights outlive a model that reads them where they lie.
using Kept = std::vector<std::unique_ptr<Exact<uint8_t>>>;

enum class Sizes { usual, any_finite, any };

int32_t load(gpt2_model* model, const std::string& name, int64_t size, Sizes sizes, bool may_turn, Kept& kept) {
    const bool is_wild = sizes == Sizes::any;
    const int dtype = between(GPT2_F32, GPT2_BF16);
    std::vector<uint8_t> bytes;
    for (int64_t i = 0; i < size; ++i) {
        float x = any_float(sizes == Sizes::usual ? 100 : 90);
        if (!is_wild && !(x - x == 0)) x = 1.0f;
        uint32_t bits;
        std::memcpy(&bits, &x, 4);
        if (dtype == GPT2_F16) bits = (bits & 0x83FF0000u) | uint32_t(between(0, is_wild ? 31 : 15)) << 26;
        const auto* from = reinterpret_cast<const uint8_t*>(&bits);
        bytes.insert(bytes.end(), dtype == GPT2_F32 ? from : from + 2, from + 4);
    }
    kept.push_back(std::make_unique<Exact<uint8_t>>(bytes));
    return gpt2_load(model, name.c_str(), kept.back()->get(), size, dtype, may_turn && happens(50));
}

// All of a network's weights; false if some were refused.
bool load_all(gpt2_model* model, const gpt2_config& config, Kept& kept) {
    const int embd = config.n_embd, inner = config.n_inner;
    const Sizes sizes = one_of({Sizes::usual, Sizes::usual, Sizes::any_finite, Sizes::any});
    std::map<std::string, int64_t> vectors = {{"ln_f.weight", embd}, {"ln_f.bias", embd}};
    std::map<std::string, int64_t> matrices = {{"wte.weight", int64_t(config.vocab_size) * embd},
                                               {"wpe.weight", int64_t(config.n_positions) * embd}};
    for (int i = 0; i < config.n_layer; ++i) {
        const std::string prefix = "h." + std::to_string(i) + ".";
        for (const char* norm : {"ln_1", "ln_2"})
            vectors[prefix + norm + ".weight"] = embd, vectors[prefix + norm + ".bias"] = embd;
        for (auto [name, num_in, num_out] : {std::tuple{"attn.c_attn", embd, 3 * embd},
                                             {"attn.c_proj", embd, embd},
                                             {"mlp.c_fc", embd, inner},
                                             {"mlp.c_proj", inner, embd}})
            vectors[prefix + name + ".bias"] = num_out, matrices[prefix + name + ".weight"] = int64_t(num_in) * num_out;
    }
    for (const auto& some : {vectors, matrices})
        for (const auto& [name, size] : some) {
            if (happens(2)) require(load(model, name, size + 1, Sizes::usual, false, kept) == GPT2_UNAVAILABLE, "a wrong size");
            const int32_t code = load(model, name, size, sizes, name.find(".c_") != std::string::npos, kept);
            if (code == GPT2_NOT_FINITE) return false;
            require(code == 0, name.c_str());
        }
    require(load(model, one_of<std::string>({"", "h.0.", "h.x", "h.99.ln_1.bias", "wte"}) + "?", 1, Sizes::usual, false, kept) != 0,
            "no name");
    return true;
}

// What is mostly right and now and then far from it.
int32_t mostly(int32_t right, int percent = 99) { return happens(percent) ? right : one_of({-1, INT32_MIN, INT32_MAX, right + 1}); }

// The arrays of a step, in the order of its chunks.
struct Arrays {
    std::vector<gpt2_chunk> chunks;
    std::vector<int32_t> token_ids, scored_ids, banned_ids;
    std::vector<gpt2_draw> draws;
    std::vector<gpt2_bias> biases;
    std::vector<uint8_t> masks;
    int64_t num_tops = 0;
};

void add_draw(Arrays& step, int row, int vocab_size, int percent) {
    auto token = [&] { return mostly(between(0, vocab_size - 1), percent); };
    gpt2_draw draw{};
    draw.row = mostly(row, percent), draw.plain = happens(30), draw.top_n = between(0, std::min(vocab_size, 9)) * happens(30);
    draw.top_k = one_of({0, 0, 1, 20, INT32_MAX}), draw.num_prompt = one_of({0, 3, 50, INT32_MAX}), draw.mask = -1;
    draw.temperature = one_of({0.0, 1e-30, 0.7, 1.0, 1e30}), draw.top_p = one_of({1.0, 0.9, 0.01, 1e-300});
    draw.min_p = one_of({0.0, 0.05, 1.0}), draw.typical_p = one_of({1.0, 0.8, 1e-9});
    draw.repetition_penalty = one_of({1.0, 1.3, 1e-300, 1e300}), draw.frequency_penalty = one_of({0.0, 0.5, -1e38});
    draw.presence_penalty = one_of({0.0, -0.5}), draw.uniform = one_of({0.0, 0.5, 0x1.fffffffffffffp-1});
    draw.bias.begin = int32_t(step.biases.size()), draw.banned.begin = int32_t(step.banned_ids.size());
    for (int i = between(-10, 10); i > 0; --i) step.biases.push_back({token(), any_float()});
    for (int i = between(-10, 10); i > 0; --i) step.banned_ids.push_back(token());
    draw.bias.end = mostly(int32_t(step.biases.size()), percent), draw.banned.end = int32_t(step.banned_ids.size());
    if (happens(30)) {
        const int num_bytes = (vocab_size + 7) / 8, density = one_of({0, 3, 50, 100});
        draw.mask = mostly(int32_t(step.masks.size()) / num_bytes, percent);
        for (int i = 0; i < num_bytes; ++i) step.masks.push_back(happens(density) ? uint8_t(next()) : 0);
    }
    step.num_tops += draw.top_n;
    step.draws.push_back(draw);
}

void add_chunk(Arrays& step, int slot, const gpt2_config& config) {
    const int start = between(0, config.n_positions - 1), left = config.n_positions - start;
    const int num = std::min(left, one_of({1, 1, 1, 2, 5, 16, 17, 40, 90}));
    gpt2_chunk chunk{mostly(slot), mostly(start), mostly(num), 0, 0, 0, 0};
    for (int i = 0; i < num; ++i) step.token_ids.push_back(mostly(between(0, config.vocab_size - 1), num < 5 ? 99 : 100));
    for (int i = happens(10) ? between(0, 90) : between(0, 2); i > 0; --i, ++chunk.num_draws)
        add_draw(step, between(0, num - 1), config.vocab_size, 100 - happens(5));
    if (happens(40)) {
        chunk.first_scored = between(0, num - 1), chunk.num_scored = between(0, num - chunk.first_scored);
        chunk.top_n = between(0, std::min(config.vocab_size, 9)) * happens(50);
        for (int i = 0; i < chunk.num_scored; ++i) step.scored_ids.push_back(mostly(between(0, config.vocab_size - 1), 100));
        step.num_tops += int64_t(chunk.num_scored) * chunk.top_n;
        chunk.first_scored = mostly(chunk.first_scored), chunk.num_scored = mostly(chunk.num_scored);
    }
    step.chunks.push_back(chunk);
}

// The arrays as exactly long copies, and room for the answers that is exactly as long too.
struct Crossing {
    explicit Crossing(const Arrays& step)
        : chunks(step.chunks),
          token_ids(step.token_ids),
          scored_ids(step.scored_ids),
          banned_ids(step.banned_ids),
          draws(step.draws),
          biases(step.biases),
          masks(step.masks),
          errors(step.chunks.size()),
          tokens(step.draws.size()),
          tops(size_t(step.num_tops)),
          logprobs(step.scored_ids.size()) {
        input = {chunks.get(),
                 token_ids.get(),
                 draws.get(),
                 scored_ids.get(),
                 biases.get(),
                 banned_ids.get(),
                 masks.get(),
                 int32_t(step.chunks.size()),
                 int32_t(step.token_ids.size()),
                 int32_t(step.draws.size()),
                 int32_t(step.scored_ids.size()),
                 int32_t(step.biases.size()),
                 int32_t(step.banned_ids.size()),
                 int64_t(step.masks.size())};
        output = {errors.get(),     tokens.get(),    logprobs.get(),   tops.get(),
                  input.num_chunks, input.num_draws, input.num_scored, int32_t(step.num_tops)};
    }

    Exact<gpt2_chunk> chunks;
    Exact<int32_t> token_ids, scored_ids, banned_ids;
    Exact<gpt2_draw> draws;
    Exact<gpt2_bias> biases;
    Exact<uint8_t> masks;
    Exact<int32_t> errors;
    Exact<gpt2_token> tokens, tops;
    Exact<double> logprobs;
    gpt2_step_input input;
    gpt2_step_output output;
};

void check_answers(const Arrays& step, Crossing& crossing, int vocab_size) {
    int draw = 0;
    int64_t top = 0;
    auto is_token = [&](const gpt2_token& token) { return token.token_id >= 0 && token.token_id < vocab_size; };
    for (size_t c = 0; c < step.chunks.size(); ++c) {
        const gpt2_chunk& chunk = step.chunks[c];
        const int32_t error = crossing.errors.get()[c];
        require(error == 0 || error == GPT2_NOT_FINITE || error == GPT2_NOTHING_TO_DRAW, "a chunk's error");
        int64_t num_tops = int64_t(chunk.num_scored) * chunk.top_n;
        for (int i = 0; i < chunk.num_draws; ++i, ++draw) {
            require(error || is_token(crossing.tokens.get()[draw]), "a token");
            num_tops += step.draws[draw].top_n;
        }
        for (; num_tops > 0; --num_tops, ++top) require(error || is_token(crossing.tops.get()[top]), "a likely token");
    }
}

void any_step(gpt2_model* model, const gpt2_config& config) {
    Arrays step;
    for (int slot = 0; slot < config.num_slots; ++slot)
        if (happens(60)) add_chunk(step, slot, config);
    Crossing crossing(step);
    if (happens(5)) *one_of({&crossing.input.num_tokens, &crossing.input.num_draws, &crossing.input.num_scored}) -= 1;
    if (happens(5)) *one_of({&crossing.output.num_errors, &crossing.output.num_tokens, &crossing.output.num_tops}) -= 1;
    int32_t code = gpt2_step(model, &crossing.input, &crossing.output);
    require(code == 0 || code == GPT2_OUT_OF_RANGE, "a step");
    if (code == 0) check_answers(step, crossing, config.vocab_size);
    std::vector<int32_t> of_rows;
    const int num_rows = int(step.token_ids.size());
    for (int i = between(0, 2 + num_rows); num_rows && i > 0; --i) of_rows.push_back(mostly(between(0, num_rows - 1)));
    Exact<int32_t> exact_rows(of_rows);
    Exact<float> logits(of_rows.size() * config.vocab_size);
    code = gpt2_logits(model, &crossing.input, exact_rows.get(), int32_t(of_rows.size()), logits.get(),
                       int64_t(of_rows.size()) * config.vocab_size);
    require(code == 0 || code == GPT2_OUT_OF_RANGE, "logits");
    code =
        gpt2_copy_prefix(model, between(-1, config.num_slots), between(0, config.num_slots), between(-1, config.n_positions + 1));
    require(code == 0 || code == GPT2_OUT_OF_RANGE, "a copy");
}

void any_sample(const char* kernels) {
    const int vocab_size = between(1, 300);
    std::vector<float> row;
    for (int i = 0; i < vocab_size; ++i) row.push_back(any_float());
    Arrays step;
    for (int i = between(0, 40); i > 0; --i) step.token_ids.push_back(mostly(between(0, vocab_size - 1)));
    add_draw(step, 0, vocab_size, 99);
    step.chunks.resize(1);  // for the room of its error
    Crossing crossing(step);
    Exact<float> logits(row);
    const int32_t code = gpt2_sample(kernels, logits.get(), vocab_size, &crossing.input, &crossing.output);
    require(code == 0 || code == GPT2_OUT_OF_RANGE, "a draw");
    const int32_t token_id = crossing.tokens.get()->token_id;
    require(code || *crossing.errors.get() || (token_id >= 0 && token_id < vocab_size), "a drawn token");
}

void any_model(const char* kernels, int num_threads) {
    const int num_heads = between(1, 4), embd = num_heads * between(1, 40);
    const char* arithmetics[] = {nullptr, "bfloat16-fma"};
    gpt2_config config{};
    config.precision = between(GPT2_FLOAT32, GPT2_INT8), config.is_streamed = config.precision == GPT2_FLOAT32 && happens(30);
    config.kernels = kernels, config.arithmetic = config.precision == GPT2_BFLOAT16 ? arithmetics[between(0, 1)] : nullptr;
    config.vocab_size = between(1, 200), config.n_positions = between(1, 150), config.n_embd = embd, config.n_layer = between(1, 2);
    config.n_head = num_heads, config.n_inner = between(1, 250), config.layer_norm_epsilon = one_of({1e-5f, 0.0f});
    config.num_slots = between(1, 12), config.num_threads = between(1, num_threads);
    gpt2_model* model = nullptr;
    require(gpt2_create(&config, &model) == 0, "a model");
    Kept kept;
    if (load_all(model, config, kept)) {
        if (!config.is_streamed) kept.clear();
        for (int step = 0; step < 6; ++step) any_step(model, config);
    }
    gpt2_destroy(model);
}

}  // namespace

int main(int argc, char** argv) {
    const int num_threads = argc > 1 ? std::atoi(argv[1]) : 1, num_rounds = argc > 2 ? std::atoi(argv[2]) : 20;
    for (const std::string& kernels : parted(gpt2_kernels())) {
        state = 1;  // the same for each
        for (int round = 0; round < num_rounds; ++round) {
            any_model(kernels.c_str(), num_threads);
            for (int i = 0; i < 20; ++i) any_sample(kernels.c_str());
        }
    }
    gpt2_config config{};
    gpt2_model* model = nullptr;
    config.kernels = "mmx";
    require(gpt2_create(&config, &model) == GPT2_UNAVAILABLE, "kernels that nobody has");
    return 0;
}
