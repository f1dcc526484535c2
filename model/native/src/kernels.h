// The border between a step and the kernels of one instruction set: plain data, and a table of functions.
//
// Kernels are compiled with flags of their own. Nothing that they include may become code that the linker could merge with what
// every CPU runs: here are no member functions and nothing of the standard library, and functions in their headers are static.
//
// Letters as everywhere in the project: R rows of a step, C embedding, H heads, D head size, V vocabulary, T positions, N outputs
// and K inputs of a product. Widths are padded to a multiple of 64 with zeros, so that no kernel needs a tail; padding comes out
// as zeros again.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace gpt2 {

static constexpr int BLOCK = 64;   // outputs in one block of packed weights
static constexpr int TILE = 64;    // positions of a head that lie together in the cache
static constexpr int QUERIES = 4;  // consecutive positions of one sequence that share what is read from the cache
static constexpr int MAX_HEAD_WIDTH = 1024;
static constexpr int MAX_OUTLIERS = 8;

static constexpr int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

// Memory to be asked for, a part at a time; see ahead.h.
struct Ahead {
    const char *next, *end;
    size_t size, stride;
    int count;
    unsigned rate, due;
};

// Weights as a checkpoint holds them: (N, K), or (K, N) where `is_transposed`.
enum class Dtype { float32, float16, bfloat16 };
struct Source {
    const void* data;
    Dtype dtype;
    bool is_transposed;
    const float* factors;  // (K), powers of two that int8 multiplies each input's weights by; null for ones
};

// y = x W + b. Weights lie in blocks of 64 outputs, each of which is read front to back once a step:
// float32 [N/64][K][64], bfloat16 [N/64][K/2][64][2], int8 [N/64][K/4][64][4].
struct Linear {
    int num_in, num_out, depth, num_blocks;  // depth: inputs, padded
    size_t block_bytes;
    const char* weights;     // null where they are packed anew in every step
    const float* bias;       // (N padded), zeros where the layer has none
    const float* scales;     // int8: of each output
    const int32_t* offsets;  // int8: what each output's sum begins with
    Source source;           // where there are no `weights`
};

// The inputs of a row that are so far from the others that eight bits cannot hold both.
struct Outliers {
    int32_t num, columns[MAX_OUTLIERS];
    float values[MAX_OUTLIERS];
};

// Rows as a product takes them: float32, bfloat16, or bytes with a scale a row.
struct Input {
    char* data;
    size_t stride;  // bytes from row to row
    float* scales;
    Outliers* outliers;
};

struct Norm {
    const float *weight, *bias;  // (C padded)
};

// What becomes of a product: stored, stored through the GELU, or added to what is there.
enum class Finish { store, gelu, add };

// One block of 64 outputs of a product of a step: y (R, stride), at the block's first column, = or += x W + b.
struct Product {
    const Linear* layer;
    const Input* x;
    int num_rows;
    Finish finish;
    float* y;
    size_t stride;
    int block;
    const char* weights;  // of this block
    const char* next;     // the weights that the thread reads after these, null where there are none
};

// One draw's statistics of one block of 64 logits.
struct BlockStats {
    float max, sum;  // sum of exp(logit - max)
    int32_t argmax;
};

// [slot][T/64][layer][head][keys, values][64 positions]: it grows in memory with the positions in use, a prefix is one stretch of
// it, and what a head reads at a time lies together.
struct Cache {
    char* data;
    size_t slot_bytes, group_bytes, tile_bytes;       // group: 64 positions of all layers and heads; tile: a head's keys, or values
    int num_heads, head_size, head_width, positions;  // the last two padded
};

// A head's keys and values in a slot, of positions [0, end).
struct Past {
    int head, slot, end;
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
};

// The kernels of one arithmetic: a precision, and what it rounds.
struct Arithmetic {
    const char* name;  // what fixes the bits
    int element;       // bytes of a packed weight and of a value in the cache
    int input;         // bytes of a product's input
    bool has_tiles;    // AMX: a thread sets them up before it multiplies, and asks for no past meanwhile

    // Pack one block of 64 outputs of `source` (num_in, num_out) into `to`; int8: scales and offsets of the block. scratch:
    // depth * 64 floats. False if a weight is NaN or infinite.
    bool (*pack)(const Source& source, int num_in, int num_out, int depth, int block, char* to, float* scales, int32_t* offsets,
                 float* scratch);
    // One block of a product. `later` is asked for meanwhile, where so many rows are computed that the memory would be idle.
    void (*multiply)(const Product&, Ahead& later);
    // One row of x, (width), as a product's input.
    void (*prepare)(const float* x, int width, int row, const Input&);
    // x (width) = the row of the packed output embedding that belongs to the token; Press and Wolf 2017.
    void (*embed)(const Linear& head, int token_id, int width, float* x);
    // The keys and values of one row of q, k, v (3 C) enter the cache at (layer, slot, position), heads [begin, end).
    void (*store)(const Cache&, int layer, int slot, int position, const float* qkv, int begin, int end);
    void (*attend)(const Cache&, const Attention&);
};

// What a sampler does to the values of a row (num), in arrays with room for 16 more; see sampling.h.
struct Sampling {
    int (*count_at_least)(const float* x, int num, float threshold);
    float (*greatest)(const float* x, int num);
    double (*mass_within)(const float* costs, const float* weights, int num, float limit);
    int (*keep)(const float* x, float low, float high, int num, int32_t* ids, float* const* values, int num_values);
    void (*weigh)(const float* logits, int num, float* weights);
    void (*temper)(float* logits, int num, double temperature);
};

struct Kernels {
    const char* name;
    const Arithmetic *float32, *int8, *bfloat16_fma, *bfloat16_dot;  // the last one null where the set has no instruction for it
    // y = (x - mean) / sqrt(var + eps) * weight + bias over `size` values (Ba et al. 2016, equation 4); zeros up to the next 64.
    void (*layer_norm)(const float* x, int size, float epsilon, const Norm&, float* y);
    // Values [at, at + num) of a checkpoint's tensor as floats.
    void (*read)(const Source&, size_t at, int num, float* to);
    // The largest weight of each input (num_in), beyond what stands in `maxima`: of inputs [begin, end) where the source is
    // transposed, else of all, but of outputs [begin, end).
    void (*input_maxima)(const Source&, int num_in, int num_out, int begin, int end, float* maxima);
    // x (width) += row
    void (*add)(float* x, const float* row, int width);
    // Of 64 logits of which the first `num` count.
    BlockStats (*block_stats)(const float* logits, int num, int first_id);
    Sampling sampling;
    void (*configure_tiles)(int num_rows);
    void (*release_tiles)();
};

// Each is there where setup.py compiled its folder.
extern const Kernels scalar_kernels, avx2_kernels, avx2_vnni_kernels, avx512_kernels, amx_kernels, neon_kernels;
extern const Arithmetic avx512_bfloat16;

}  // namespace gpt2
