// A model as the native step holds it: packed layers, the cache and one step's buffers.
#pragma once

#include <exception>
#include <string>
#include <vector>

#include "interface.h"
#include "kernels.h"
#include "memory.h"
#include "sampler.h"
#include "team.h"

namespace gpt2 {

// A weight is NaN or infinite.
struct NotFinite : std::exception {};

// A layer's weights and what belongs to them; `view` is what kernels see of it.
struct LinearStorage {
    Linear view{};
    Memory weights;
    std::vector<float> bias, scales;  // (N padded)
    std::vector<int32_t> offsets;
    std::vector<float> factors;  // (K), int8, behind a LayerNorm: see equalise()
};

struct NormStorage {
    std::vector<float> weight, bias;  // (C padded)
    Norm view() const { return {weight.data(), bias.data()}; }
};

struct Layer {
    NormStorage ln_1, ln_2;
    LinearStorage qkv, out, fc, proj;
};

struct InputStorage {
    Input view{};
    Memory data;
    std::vector<float> scales;
    std::vector<Outliers> outliers;
};

// A thread's own room.
struct Scratch {
    std::vector<float> floats;  // attention's, and a block's logits
    Memory block;               // of weights that are packed anew in every step
    std::vector<float> unpacked;
    SamplerScratch sampler;
};

// The buffers of one step, grown to the largest number of rows seen.
struct Workspace {
    int capacity = 0;
    Memory hidden, normed, qkv, attended, inner;  // float32 (R, C), (R, C), (R, 3C), (R, C), (R, inner), padded
    InputStorage input, inner_input;
    std::vector<BlockStats> stats;  // (rows of the head at once, V/64)
    std::vector<float> chosen;      // (rows of the head at once)
    Memory logits;                  // (those whose logits are kept, V)
    std::vector<Scratch> scratch;   // (threads)
};

}  // namespace gpt2

struct gpt2_model {
    explicit gpt2_model(const gpt2_config&);

    // One of the network's parameters, named as in the checkpoint; throws std::runtime_error, or NotFinite.
    void load(const std::string& name, const gpt2::Source&, int64_t size);

    // The tokens that a slot holds, by position.
    int32_t* tokens_of(int slot) const { return token_ids.as<int32_t>() + size_t(slot) * config.n_positions; }

    gpt2_config config;
    const gpt2::Kernels& kernels;
    const gpt2::Arithmetic& arithmetic;
    int width, inner_width;  // padded
    std::vector<gpt2::Layer> layers;
    gpt2::NormStorage ln_f;
    gpt2::LinearStorage head;
    gpt2::Memory wpe;        // (n_positions, width)
    gpt2::Memory token_ids;  // (slots, n_positions)
    gpt2::Memory cache_memory;
    gpt2::Cache cache;
    gpt2::Team team;
    gpt2::Workspace work;
};
