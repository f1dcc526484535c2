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

float any_float() {
    uint32_t bits = uint32_t(next());
    if (happens(90)) bits = (bits & 0x807FFFFFu) | uint32_t(between(117, 127)) << 23;  // mostly of a usual size
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

// Weights outlive a model that reads them where they lie.
using Kept = std::vector<std::unique_ptr<Exact<uint8_t>>>;

int32_t load(gpt2_model* model, const std::string& name, int64_t size, bool is_wild, bool may_turn, Kept& kept) {
    const int dtype = between(GPT2_F32, GPT2_BF16);
    std::vector<uint8_t> bytes;
    for (int64_t i = 0; i < size; ++i) {
        float x = any_float();
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
    const bool is_wild = happens(10);
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
            if (happens(2)) require(load(model, name, size + 1, false, false, kept) == GPT2_UNAVAILABLE, "a wrong size");
            const int32_t code = load(model, name, size, is_wild, name.find(".c_") != std::string::npos, kept);
            if (code == GPT2_NOT_FINITE) return false;
            require(code == 0, name.c_str());
        }
    require(load(model, one_of<std::string>({"", "h.0.", "h.x", "h.99.ln_1.bias", "wte"}) + "?", 1, false, false, kept) != 0,
            "no name");
    return true;
}

gpt2_range some_ids(std::vector<int32_t>& ids, int vocab_size) {
    const int begin = int(ids.size());
    for (int i = between(0, 20); i > 0; --i)
        ids.push_back(happens(99) ? between(0, vocab_size - 1) : one_of({-1, vocab_size, INT32_MAX}));
    return {begin, int32_t(ids.size())};
}

gpt2_draw any_draw(int row, std::vector<int32_t>& ids, int vocab_size) {
    gpt2_draw draw{};
    draw.row = row, draw.plain = happens(30);
    draw.temperature = one_of({0.0, 1e-30, 0.7, 1.0, 1e30}), draw.top_k = one_of({0, 0, 1, 20, INT32_MAX});
    draw.top_p = one_of({1.0, 0.9, 0.01, 1e-300}), draw.min_p = one_of({0.0, 0.05, 1.0}), draw.typical_p = one_of({1.0, 0.8, 1e-9});
    draw.repetition_penalty = one_of({1.0, 1.3, 1e-300, 1e300}), draw.frequency_penalty = one_of({0.0, 0.5, -1e38});
    draw.presence_penalty = one_of({0.0, -0.5}), draw.uniform = one_of({0.0, 0.5, 0x1.fffffffffffffp-1});
    if (happens(50)) draw.bias = some_ids(ids, vocab_size);
    if (happens(20)) draw.banned = some_ids(ids, vocab_size);
    if (happens(50)) draw.prompt = some_ids(ids, vocab_size), draw.generated = some_ids(ids, vocab_size);
    return draw;
}

void any_step(gpt2_model* model, const gpt2_config& config) {
    std::vector<gpt2_row> rows;
    for (int slot = 0; slot < config.num_slots; ++slot) {
        if (happens(40)) continue;
        const int start = between(0, config.n_positions - 1),
                  num = std::min(config.n_positions - start, one_of({1, 1, 2, 5, 16, 17, 40}));
        for (int i = 0; i < num; ++i) rows.push_back({between(0, config.vocab_size - 1), start + i, slot});
    }
    if (!rows.empty() && happens(10)) {
        gpt2_row& row = rows[between(0, int(rows.size()) - 1)];
        *one_of({&row.token_id, &row.position, &row.slot}) = one_of({-1, INT32_MAX, INT32_MIN, 3});
    }
    const int num_rows = int(rows.size());
    Exact<gpt2_row> exact_rows(rows);
    std::vector<int32_t> ids, of_rows, next_ids;
    std::vector<gpt2_draw> draws;
    for (int i = between(0, 2 + num_rows); num_rows && i > 0; --i)
        of_rows.push_back(happens(99) ? between(0, num_rows - 1) : num_rows);
    for (int row : of_rows) draws.push_back(any_draw(row, ids, config.vocab_size));
    for (int r = 0; r < num_rows; ++r) next_ids.push_back(happens(99) ? between(0, config.vocab_size - 1) : config.vocab_size);
    const int num_draws = int(draws.size());
    Exact<float> values(std::vector<float>(ids.size(), 1.5f)), logits(size_t(num_draws) * config.vocab_size);
    Exact<int32_t> exact_ids(ids), exact_next(next_ids), exact_of_rows(of_rows);
    Exact<gpt2_draw> exact_draws(draws);
    Exact<gpt2_token> tokens(num_draws);
    Exact<double> logprobs(num_rows);
    int32_t code =
        gpt2_step(model, exact_rows.get(), num_rows, exact_draws.get(), num_draws, exact_ids.get(), values.get(), tokens.get());
    require(code == 0 || code == GPT2_OUT_OF_RANGE, "a step");
    for (int i = 0; code == 0 && num_rows && i < num_draws; ++i)
        require(tokens.get()[i].token_id >= 0 && tokens.get()[i].token_id < config.vocab_size, "a token");
    code = gpt2_logits(model, exact_rows.get(), num_rows, exact_of_rows.get(), num_draws, logits.get());
    require(code == 0 || code == GPT2_OUT_OF_RANGE, "logits");
    code = gpt2_logprobs(model, exact_rows.get(), num_rows, exact_next.get(), logprobs.get());
    require(code == 0 || code == GPT2_OUT_OF_RANGE, "log-probabilities");
    code =
        gpt2_copy_prefix(model, between(-1, config.num_slots), between(0, config.num_slots), between(-1, config.n_positions + 1));
    require(code == 0 || code == GPT2_OUT_OF_RANGE, "a copy");
}

void any_sample(const char* kernels) {
    const int vocab_size = between(1, 300);
    std::vector<float> row;
    for (int i = 0; i < vocab_size; ++i) row.push_back(any_float());
    std::vector<int32_t> ids;
    const gpt2_draw draw = any_draw(0, ids, vocab_size);
    for (int32_t& id : ids) id = std::clamp(id, 0, vocab_size - 1);
    Exact<float> logits(row), values(std::vector<float>(ids.size(), -3.0f));
    Exact<int32_t> exact_ids(ids);
    gpt2_token token;
    require(gpt2_sample(kernels, logits.get(), vocab_size, &draw, exact_ids.get(), values.get(), &token) == 0, "a draw");
    require(token.token_id >= 0 && token.token_id < vocab_size, "a drawn token");
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
