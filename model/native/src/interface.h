/* The C interface of the native GPT-2 step, for ctypes. One model is used by one caller at a time.
 *
 * Functions that can fail return a nonzero gpt2_error; gpt2_last_error() then says why, on the same thread. */
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default) /* everything else in the library is hidden */

#define GPT2_ABI 3 /* counted up with every change of this file */

enum gpt2_error { GPT2_OUT_OF_MEMORY = 1, GPT2_OUT_OF_RANGE = 2, GPT2_UNAVAILABLE = 3 };

enum gpt2_precision { GPT2_FLOAT32 = 0, GPT2_BFLOAT16 = 1, GPT2_INT8 = 2 };

/* Instruction sets that the kernels know and this machine, its operating system included, can run. */
enum gpt2_feature { GPT2_AVX512 = 1, GPT2_AVX512_BF16 = 2, GPT2_AVX512_VNNI = 4, GPT2_AMX_BF16 = 8, GPT2_AMX_INT8 = 16 };

typedef struct {
    int32_t precision, features; /* features: those that may be used, a part of gpt2_features() */
    int32_t vocab_size, n_positions, n_embd, n_layer, n_head, n_inner;
    float layer_norm_epsilon;
    int32_t num_slots;
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

int32_t gpt2_abi(void);
int32_t gpt2_features(void);
const char* gpt2_last_error(void);

/* Room for a model's weights and cache. */
int32_t gpt2_create(const gpt2_config* config, gpt2_model** model);
void gpt2_destroy(gpt2_model* model);

/* Pack one of the network's parameters, named as in the checkpoint ("h.0.attn.c_attn.weight"): float32, row-major, linear
 * weights as (out, in). */
int32_t gpt2_load(gpt2_model* model, const char* name, const float* data, int64_t size, int32_t num_threads);

/* One step: rows enter the cache in their order, draws are made of their last hidden states. At most one run of consecutive rows
 * a slot, at consecutive positions. */
int32_t gpt2_step(gpt2_model* model, const gpt2_row* rows, int32_t num_rows, const gpt2_draw* draws, int32_t num_draws,
                  const int32_t* ids, const float* values, gpt2_token* tokens, int32_t num_threads);

/* The same, with the logits of each draw, (num_draws, vocab_size), in place of tokens. */
int32_t gpt2_logits(gpt2_model* model, const gpt2_row* rows, int32_t num_rows, const int32_t* draw_rows, int32_t num_draws,
                    float* logits, int32_t num_threads);

/* Positions [0, length) of slot `target` become those of slot `source`. */
int32_t gpt2_copy_prefix(gpt2_model* model, int32_t source, int32_t target, int32_t length);

/* Draw from logits (vocab_size): the sampler by itself. */
gpt2_token gpt2_sample(const float* logits, int32_t vocab_size, const gpt2_draw* draw, const int32_t* ids, const float* values);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
