// What the parts of the native step share: packed layers, the cache's layout and one step's buffers. Plain data, no algorithms.
//
// Letters as everywhere in the project: R rows of a step, C embedding, H heads, D head size, V vocabulary, T positions.
// Every width is padded to a multiple of 64 with zeros, so that no kernel needs a tail; padding comes out as zeros again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ahead.h"
#include "interface.h"
#include "sampler.h"

namespace gpt2 {

constexpr int MAX_HEAD_WIDTH = 1024;
constexpr int BLOCK = 64;  // outputs in one block of packed weights: four vectors of 16 floats

constexpr int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

// Memory in huge pages, zeroed; read at about twice the rate of 4 KiB pages.
class Memory {
 public:
    Memory() = default;
    explicit Memory(size_t size);
    ~Memory();
    Memory(Memory&& other) noexcept : data_(other.data_), size_(other.size_) { other.data_ = nullptr, other.size_ = 0; }
    Memory& operator=(Memory&& other) noexcept;
    Memory(const Memory&) = delete;

    template <class T>
    T* as() const {
        return static_cast<T*>(data_);
    }
    size_t size() const { return size_; }

 private:
    void* data_ = nullptr;
    size_t size_ = 0;
};

// y = x W + b. Weights lie in blocks of 64 outputs, each of which is read front to back once a step:
// float32 [N/64][K][64], bfloat16 [N/64][K/2][64][2], int8 [N/64][K/4][64][4].
struct Linear {
    int num_in = 0, num_out = 0;
    int depth = 0;           // inputs, padded to what one tile takes
    size_t block_bytes = 0;  // of one block of weights
    Memory weights;
    std::vector<float> bias;    // (N padded), zeros where the layer has none
    std::vector<float> scales;  // int8: of each output
    std::vector<int32_t> sums;  // int8: of each output's weights, for the inputs' zero point

    int num_blocks() const { return (num_out + BLOCK - 1) / BLOCK; }
    const char* weights_of(int block) const { return weights.as<char>() + block * block_bytes; }
};

struct Norm {
    std::vector<float> weight, bias;  // (C padded)
};

struct Layer {
    Norm ln_1, ln_2;
    Linear qkv, out, fc, proj;
};

// Rows as a product takes them: float32, bfloat16 or unsigned bytes with a scale and a zero point a row.
struct Input {
    Memory data;
    size_t stride = 0;          // bytes from row to row
    std::vector<float> scales;  // int8: x = scale * (byte - zero)
    std::vector<int32_t> zeros;
};

// What becomes of a product: stored, stored through the GELU, or added to what is there.
enum class Finish { store, gelu, add };

// One draw's statistics of one block of 64 logits.
struct BlockStats {
    float max, sum;  // sum of exp(logit - max)
    int32_t argmax;
};

// A head's keys and values in a slot, of positions [0, end).
struct Past {
    int head = 0, slot = 0, end = 0;
};

// One product of a step: y (R, stride) = or += x W + b.
struct Product {
    const Linear& layer;
    const Input& x;
    int num_rows;
    Finish finish;
    float* y;
    size_t stride;
    int first_block = 0;  // the one that y begins with
};

// One head's attention for consecutive positions of one slot (Vaswani et al. 2017, equation 1): qkv (R, stride) -> out
// (R, stride_out).
struct Attention {
    int layer, head, slot, position, num_rows;
    const float* qkv;
    size_t stride;
    float* out;
    size_t stride_out;
    float* scratch;  // attention_scratch() floats
    Past next;       // what the thread attends to afterwards

    // Rows [row, row + n); only the last part asks for what comes next.
    Attention part(int row, int n) const {
        Attention rows = *this;
        rows.position += row, rows.num_rows = n, rows.qkv += row * stride, rows.out += row * stride_out;
        if (row + n < num_rows) rows.next = {};
        return rows;
    }
};

// One block of a product. What the thread reads after its weights is asked for meanwhile: `next`, the weights after these, null
// where there are none, and `later` where so many rows are computed that the memory would be idle.
using Multiply = void(const Product&, int block, const char* next, Ahead& later);
// One row of x, (width), as a product's input.
using Prepare = void(const float* x, int width, int row, Input&);
// The keys and values of one row of q, k, v (3 C) enter the cache at (layer, slot, position), heads [begin, end).
using Store = void(gpt2_model&, int layer, int slot, int position, const float* qkv, int begin, int end);
using Attend = void(const gpt2_model&, const Attention&);

struct Kernels {
    Multiply* multiply;
    Prepare* prepare;
    Store* store;
    Attend* attend;
    bool has_tiles;  // AMX: a thread sets them up before it multiplies, and asks for no past meanwhile
};

// The buffers of one step, grown to the largest number of rows seen.
struct Workspace {
    int capacity = 0;
    Memory hidden, normed, qkv, attended, inner;  // float32 (R, C), (R, C), (R, 3C), (R, C), (R, inner), padded
    Input input, inner_input;
    std::vector<BlockStats> stats;            // (draws, V/64)
    Memory logits;                            // (draws that need them, V)
    std::vector<SamplerScratch> samplers;     // a thread's own
    std::vector<std::vector<float>> scratch;  // a thread's own
};

}  // namespace gpt2

struct gpt2_model {
    gpt2_config config;
    gpt2::Kernels kernels;
    int width, inner_width, head_width, positions;  // padded
    std::vector<gpt2::Layer> layers;
    gpt2::Norm ln_f;
    gpt2::Linear head;
    gpt2::Memory wte, wpe;  // rows of float32, or of bfloat16 for the other precisions: (V, C), (n_positions, C)
    gpt2::Memory cache;
    gpt2::Workspace work;

    bool is_float32() const { return config.precision == GPT2_FLOAT32; }
    size_t cache_element() const { return is_float32() ? 4 : config.precision == GPT2_BFLOAT16 ? 2 : 1; }

    // The cache is [slot][T/64][layer][head][keys, values][64 positions]: it grows in memory with the positions in use, a prefix
    // is one stretch of it, and what a head reads at a time lies together.
    // Behind the values of a tile of int8 stand the scales of its 64 positions.
    size_t tile_bytes() const {
        return size_t{64} * head_width * cache_element() + (config.precision == GPT2_INT8 ? 64 * sizeof(float) : 0);
    }
    size_t group_bytes() const { return size_t(config.n_layer) * config.n_head * 2 * tile_bytes(); }
    size_t slot_bytes() const { return size_t(positions / 64) * group_bytes(); }
    char* keys(int layer, int head, int slot, int group) const {
        size_t tile = (size_t(layer) * config.n_head + head) * 2;
        return cache.as<char>() + slot * slot_bytes() + group * group_bytes() + tile * tile_bytes();
    }
    char* values(int layer, int head, int slot, int group) const { return keys(layer, head, slot, group) + tile_bytes(); }
};
