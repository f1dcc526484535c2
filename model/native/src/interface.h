/* The C interface of the native GPT-2 step, for ctypes. One model is used by one caller at a time.
 *
 * Functions that can fail return a nonzero gpt2_error; gpt2_last_error() then says why, on the same thread. */
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#define GPT2_ABI 4 /* counted up with every change of this file */

enum gpt2_error { GPT2_OUT_OF_MEMORY = 1, GPT2_OUT_OF_RANGE = 2, GPT2_UNAVAILABLE = 3, GPT2_NOT_FINITE = 4 };

enum gpt2_precision { GPT2_FLOAT32 = 0, GPT2_BFLOAT16 = 1, GPT2_INT8 = 2 };

enum gpt2_dtype { GPT2_F32 = 0, GPT2_F16 = 1, GPT2_BF16 = 2 };

typedef struct {
    int32_t precision;
    int32_t is_streamed;    /* float32 alone: weights are read where they lie, in every step; the caller keeps them */
    const char* kernels;    /* one of gpt2_kernels(), null for the fastest */
    const char* arithmetic; /* bfloat16 alone: "bfloat16-fma", which every set has, or the CPU's own; null for the latter */
    int32_t vocab_size, n_positions, n_embd, n_layer, n_head, n_inner;
    float layer_norm_epsilon;
    int32_t num_slots, num_threads;
} gpt2_config;

/* A token that enters `slot` at `position`. */
typedef struct {
    int32_t token_id, position, slot;
} gpt2_row;

/* Half-open ranges of the step's integers (and, for the bias, floats). */
typedef struct {
    int32_t begin, end;
} gpt2_range;

/* How the token after row `row` is drawn; see model.batch.SamplingParams. plain: greedy, nothing below looked at. */
typedef struct {
    int32_t row, plain, top_k, reserved;
    double temperature, top_p, min_p, typical_p, repetition_penalty, frequency_penalty, presence_penalty, uniform;
    gpt2_range bias, banned, prompt, generated;
} gpt2_draw;

typedef struct {
    int32_t token_id, reserved;
    double logprob;
} gpt2_token;

typedef struct gpt2_model gpt2_model;

#pragma GCC visibility push(default) /* everything else in the library is hidden */

int32_t gpt2_abi(void);
const char* gpt2_last_error(void);

/* The sets of kernels that this machine, its operating system included, can run, the widest vectors first, parted by commas. */
const char* gpt2_kernels(void);

/* Room for a model's weights and cache. */
int32_t gpt2_create(const gpt2_config* config, gpt2_model** model);
void gpt2_destroy(gpt2_model* model);

/* Which kernels compute, and the name of what fixes their bits. */
const char* gpt2_kernels_of(const gpt2_model* model);
const char* gpt2_arithmetic_of(const gpt2_model* model);

/* Pack one of the network's parameters, named as in the checkpoint ("h.0.attn.c_attn.weight"), of a gpt2_dtype, row-major; linear
 * weights are (out, in), or (in, out) where is_transposed. Vectors come before matrices: int8 sizes up a layer by the LayerNorm
 * before it. */
int32_t gpt2_load(gpt2_model* model, const char* name, const void* data, int64_t size, int32_t dtype, int32_t is_transposed);

/* One step: rows enter the cache in their order, draws are made of their last hidden states. At most one run of consecutive rows
 * a slot, at consecutive positions. */
int32_t gpt2_step(gpt2_model* model, const gpt2_row* rows, int32_t num_rows, const gpt2_draw* draws, int32_t num_draws,
                  const int32_t* ids, const float* values, gpt2_token* tokens);

/* The same, with the logits of each draw, (num_draws, vocab_size), in place of tokens. */
int32_t gpt2_logits(gpt2_model* model, const gpt2_row* rows, int32_t num_rows, const int32_t* draw_rows, int32_t num_draws,
                    float* logits);

/* The same, with the log-probability of a token after each row. */
int32_t gpt2_logprobs(gpt2_model* model, const gpt2_row* rows, int32_t num_rows, const int32_t* next_ids, double* logprobs);

/* Positions [0, length) of slot `target` become those of slot `source`. */
int32_t gpt2_copy_prefix(gpt2_model* model, int32_t source, int32_t target, int32_t length);

/* Draw from logits (vocab_size): the sampler by itself, on some kernels, null for the fastest. */
int32_t gpt2_sample(const char* kernels, const float* logits, int32_t vocab_size, const gpt2_draw* draw, const int32_t* ids,
                    const float* values, gpt2_token* token);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
