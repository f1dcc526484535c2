// What fixed small networks compute, as one hash a line: `kernels case arithmetic hash`. Test_digests.py holds the lines of every
// machine against those in digests.txt.
//
//     digests [threads [kernels, parted by commas [network]]]
//
// Knows the C interface alone. Weights, prompts and uniforms are made of integers, so that no library's rounding is in them.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "../../../model/native/src/interface.h"

namespace {

void check(int32_t code) {
    if (!code) return;
    std::fprintf(stderr, "%s\n", gpt2_last_error());
    std::exit(1);
}

// SplitMix64 (Steele et al. 2014).
class Numbers {
 public:
    explicit Numbers(uint64_t seed) : state_(seed) {}
    uint64_t next() {
        uint64_t x = state_ += 0x9E3779B97F4A7C15ull;
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
        x = (x ^ x >> 27) * 0x94D049BB133111EBull;
        return x ^ x >> 31;
    }
    int below(int n) { return int(next() % uint64_t(n)); }
    double uniform() { return double(next() >> 11) * 0x1p-53; }
    float symmetric() { return float(int32_t(next() >> 40) - (1 << 23)) * 0x1p-23f; }  // [-1, 1), exact

 private:
    uint64_t state_;
};

// FNV-1a, of the values' bytes from the lowest to the highest.
class Hash {
 public:
    void add(uint64_t value, int num_bytes) {
        for (int i = 0; i < num_bytes; ++i) hash_ = (hash_ ^ (value >> 8 * i & 0xFF)) * 0x100000001B3ull;
    }
    void add(int32_t x) { add(uint32_t(x), 4); }
    void add(float x) {
        uint32_t bits;
        std::memcpy(&bits, &x, 4);
        add(x == x ? bits : 0x7FC00000u, 4);
    }
    void add(double x) {
        uint64_t bits;
        std::memcpy(&bits, &x, 8);
        add(x == x ? bits : 0x7FF8000000000000ull, 8);
    }
    unsigned long long value() const { return hash_; }

 private:
    uint64_t hash_ = 0xCBF29CE484222325ull;
};

struct Network {
    const char* name;
    int vocab_size, n_positions, n_embd, n_layer, n_head, n_inner, dtype;
    std::vector<int> loud;  // channels a thousand times as large as the others after a LayerNorm
};

const Network NETWORKS[] = {
    // No width is a multiple of 16, nor is a head's.
    {"tails", 331, 90, 75, 2, 3, 110, GPT2_F32, {}},
    // A head of 64, and a product over more inputs than one panel holds in any precision.
    {"deep", 257, 90, 64, 1, 1, 900, GPT2_BF16, {}},
    // As many channels as are multiplied apart, and, before the MLP, one more.
    {"outliers", 130, 80, 96, 2, 3, 200, GPT2_F16, {0, 1, 17, 31, 32, 63, 64, 95}},
};

// One weight in a network's type; the same stretch of numbers gives other values in each.
void append(std::vector<char>& bytes, float x, int dtype, Numbers& numbers) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    uint16_t half = uint16_t(bits >> 16);
    // Half precision by its bits: any exponent from that of denormals to a half's.
    if (dtype == GPT2_F16) {
        const uint64_t random = numbers.next();
        half = uint16_t((random & 0x83FF) | (random >> 16) % 14 << 10);
    }
    const char* from = dtype == GPT2_F32 ? reinterpret_cast<const char*>(&bits) : reinterpret_cast<const char*>(&half);
    bytes.insert(bytes.end(), from, from + (dtype == GPT2_F32 ? 4 : 2));
}

void load(gpt2_model* model, const std::string& name, int size, float scale, int dtype, Numbers& numbers,
          bool is_transposed = false) {
    std::vector<char> bytes;
    for (int i = 0; i < size; ++i) append(bytes, numbers.symmetric() * scale, dtype, numbers);
    check(gpt2_load(model, name.c_str(), bytes.data(), size, dtype, is_transposed));
}

void load_norm(gpt2_model* model, const std::string& name, const Network& network, std::vector<int> loud, Numbers& numbers) {
    std::vector<float> gains;
    for (int i = 0; i < network.n_embd; ++i) gains.push_back(1.0f + numbers.symmetric() * 0.25f);
    for (int channel : loud) gains[channel] *= 1000.0f;
    check(gpt2_load(model, (name + ".weight").c_str(), gains.data(), network.n_embd, GPT2_F32, 0));
    load(model, name + ".bias", network.n_embd, 0.25f, network.dtype, numbers);
}

void load_weights(gpt2_model* model, const Network& network) {
    Numbers numbers(uint64_t(network.n_embd));
    struct Layer {
        std::string name;
        int num_in, num_out;
    };
    std::vector<Layer> layers;
    std::vector<int> one_more = network.loud;
    if (!one_more.empty()) one_more.push_back(50);
    for (int i = 0; i < network.n_layer; ++i) {
        const std::string prefix = "h." + std::to_string(i);
        load_norm(model, prefix + ".ln_1", network, network.loud, numbers);
        load_norm(model, prefix + ".ln_2", network, one_more, numbers);
        layers.push_back({prefix + ".attn.c_attn", network.n_embd, 3 * network.n_embd});
        layers.push_back({prefix + ".attn.c_proj", network.n_embd, network.n_embd});
        layers.push_back({prefix + ".mlp.c_fc", network.n_embd, network.n_inner});
        layers.push_back({prefix + ".mlp.c_proj", network.n_inner, network.n_embd});
    }
    load_norm(model, "ln_f", network, {}, numbers);
    for (const Layer& layer : layers) load(model, layer.name + ".bias", layer.num_out, 0.25f, network.dtype, numbers);
    const bool is_transposed = network.dtype != GPT2_F32;
    for (const Layer& layer : layers)
        load(model, layer.name + ".weight", layer.num_in * layer.num_out, 0.25f, network.dtype, numbers, is_transposed);
    load(model, "wte.weight", network.vocab_size * network.n_embd, 0.25f, network.dtype, numbers);
    load(model, "wpe.weight", network.n_positions * network.n_embd, 0.25f, network.dtype, numbers);
}

gpt2_draw greedy() { return {0, 1, 0, 0, 0, -1, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, {}, {}}; }

// One sequence for each way to draw: none of the filters, each by itself, all.
std::vector<gpt2_draw> ways_to_draw() {
    auto sampled = [](double temperature) {
        gpt2_draw draw = greedy();
        draw.plain = 0, draw.temperature = temperature;
        return draw;
    };
    std::vector<gpt2_draw> ways(8, sampled(1.5));
    ways[0] = greedy();
    ways[2].top_k = 20;
    ways[3].top_p = 0.9;
    ways[4].min_p = 0.01;
    ways[5].typical_p = 0.9;
    ways[6].temperature = 0.0, ways[6].repetition_penalty = 1.3, ways[6].frequency_penalty = 0.5, ways[6].presence_penalty = 0.25;
    ways[7] = {0, 0, 0, 50, 0, -1, 0.7, 0.95, 0.001, 0.95, 1.1, 0.2, -0.1, 0.0, {}, {}};
    return ways;
}

struct Sequence {
    std::vector<int32_t> ids;
    int num_prompt, num_cached;
    gpt2_draw way;
};

// What a step is asked for, and its answers; each chunk's own are appended after it.
struct Step {
    std::vector<gpt2_chunk> chunks;
    std::vector<int32_t> token_ids, scored_ids;
    std::vector<gpt2_draw> draws;
    std::vector<gpt2_token> tokens;
    std::vector<double> logprobs;

    gpt2_step_input input() const {
        static const gpt2_bias biases[] = {{3, 2.0f}, {9, -1.5f}};
        static const int32_t banned[] = {9};
        return {chunks.data(),
                token_ids.data(),
                draws.data(),
                scored_ids.data(),
                biases,
                banned,
                nullptr,
                int32_t(chunks.size()),
                int32_t(token_ids.size()),
                int32_t(draws.size()),
                int32_t(scored_ids.size()),
                2,
                1,
                0};
    }

    void run(gpt2_model* model) {
        std::vector<int32_t> errors(chunks.size());
        tokens.resize(draws.size()), logprobs.resize(scored_ids.size());
        const gpt2_step_input in = input();
        const gpt2_step_output out{errors.data(), tokens.data(), logprobs.data(), nullptr,
                                   in.num_chunks, in.num_draws,  in.num_scored,   0};
        check(gpt2_step(model, &in, &out));
        for (int32_t error : errors)
            if (error) std::fprintf(stderr, "a chunk failed\n"), std::exit(1);
    }
};

// Eight sequences at once, whose prompts enter in pieces of several sizes, and what is drawn after them.
void generate(gpt2_model* model, const Network& network, Hash& of_greedy, Hash& of_sampled) {
    const int lengths[] = {1, 5, 23, 16, 40, 2, 9, 66}, cuts[] = {17, 1, 40, 3, 64, 8, 6, 33}, num_new = 6;
    Numbers numbers(7);
    std::vector<Sequence> sequences;
    for (const gpt2_draw& way : ways_to_draw()) {
        const int num_prompt = lengths[sequences.size()];
        Sequence sequence{{}, num_prompt, 0, way};
        for (int i = 0; i < num_prompt; ++i) sequence.ids.push_back(numbers.below(network.vocab_size));
        sequences.push_back(sequence);
    }
    for (int round = 0;; ++round) {
        Step step;
        std::vector<Sequence*> drawing;
        for (size_t slot = 0; slot < sequences.size(); ++slot) {
            Sequence& sequence = sequences[slot];
            const int size = int(sequence.ids.size()), start = sequence.num_cached;
            if (size == sequence.num_prompt + num_new) continue;
            const int end = std::min(size, start + cuts[(slot + round) % 8]);
            step.token_ids.insert(step.token_ids.end(), sequence.ids.begin() + start, sequence.ids.begin() + end);
            step.chunks.push_back({int32_t(slot), start, end - start, end == size, 0, 0, 0});
            sequence.num_cached = end;
            if (end < size) continue;
            gpt2_draw draw = sequence.way;
            draw.row = end - start - 1, draw.uniform = numbers.uniform();
            draw.num_prompt = sequence.num_prompt, draw.bias = {0, 2}, draw.banned = {0, 1};
            step.draws.push_back(draw), drawing.push_back(&sequence);
        }
        if (step.chunks.empty()) return;
        step.run(model);
        for (size_t i = 0; i < step.tokens.size(); ++i) {
            Hash& hash = drawing[i]->way.plain ? of_greedy : of_sampled;
            hash.add(step.tokens[i].token_id), hash.add(step.tokens[i].logprob);
            drawing[i]->ids.push_back(step.tokens[i].token_id);
        }
    }
}

// All logits of a prompt, and the log-probabilities of what follows in it, after a prefix that another slot held.
void score(gpt2_model* model, const Network& network, Hash& hash) {
    Numbers numbers(11);
    const int length = 70, shared = 6;
    Step whole, rest;
    std::vector<int32_t> of_rows;
    for (int i = 0; i < length; ++i) whole.token_ids.push_back(numbers.below(network.vocab_size)), of_rows.push_back(i);
    whole.chunks = {{0, 0, length, 0, 0, 0, 0}};
    std::vector<float> logits(size_t(length) * network.vocab_size);
    const gpt2_step_input in = whole.input();
    check(gpt2_logits(model, &in, of_rows.data(), length, logits.data(), int64_t(logits.size())));
    for (float x : logits) hash.add(x);
    check(gpt2_copy_prefix(model, 0, 1, shared));
    rest.token_ids.assign(whole.token_ids.begin() + shared, whole.token_ids.end());
    rest.scored_ids.assign(rest.token_ids.begin() + 1, rest.token_ids.end());
    rest.scored_ids.push_back(0);
    rest.chunks = {{1, shared, length - shared, 0, 0, length - shared, 0}};
    rest.run(model);
    for (double x : rest.logprobs) hash.add(x);
}

// False where these kernels have no such arithmetic.
bool run(const Network& network, const char* kernels, int precision, const char* arithmetic, int num_threads) {
    const gpt2_config config{precision,
                             0,
                             kernels,
                             arithmetic,
                             network.vocab_size,
                             network.n_positions,
                             network.n_embd,
                             network.n_layer,
                             network.n_head,
                             network.n_inner,
                             1e-5f,
                             8,
                             num_threads};
    gpt2_model* model = nullptr;
    const int32_t code = gpt2_create(&config, &model);
    if (code == GPT2_UNAVAILABLE && arithmetic) return false;
    check(code);
    load_weights(model, network);
    Hash of_greedy, of_sampled, of_logits;
    generate(model, network, of_greedy, of_sampled);
    score(model, network, of_logits);
    const char* name = gpt2_arithmetic_of(model);
    auto print = [&](const char* what, const Hash& hash) {
        std::printf("%s %s/%s %s %016llx\n", kernels, network.name, what, name, hash.value());
    };
    print("greedy", of_greedy), print("sampled", of_sampled), print("logits", of_logits);
    std::fflush(stdout);
    gpt2_destroy(model);
    return true;
}

}  // namespace

int main(int argc, char** argv) {
    const int num_threads = argc > 1 ? std::atoi(argv[1]) : 1;
    std::string left = argc > 2 ? argv[2] : gpt2_kernels();
    while (!left.empty()) {
        const std::string kernels = left.substr(0, left.find(','));
        left.erase(0, kernels.size() + 1);
        for (const Network& network : NETWORKS) {
            if (argc > 3 && std::strcmp(argv[3], network.name)) continue;
            run(network, kernels.c_str(), GPT2_FLOAT32, nullptr, num_threads);
            run(network, kernels.c_str(), GPT2_INT8, nullptr, num_threads);
            for (const char* arithmetic : {"bfloat16-fma", "bfloat16-vdpbf16ps", "bfloat16-tdpbf16ps"})
                run(network, kernels.c_str(), GPT2_BFLOAT16, arithmetic, num_threads);
        }
    }
    return 0;
}
