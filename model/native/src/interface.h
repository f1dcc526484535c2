/* The C interface of the native GPT-2 step, for ctypes. One model is used by one caller at a time.
 *
 * Functions that can fail return a nonzero gpt2_error; gpt2_last_error() then says why, on the same thread. */
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#define GPT2_ABI 5 /* counted up with every change of this file */

enum gpt2_error {
    GPT2_OUT_OF_MEMORY = 1,
    GPT2_OUT_OF_RANGE = 2,
    GPT2_UNAVAILABLE = 3,
    GPT2_NOT_FINITE = 4,      /* of a weight, or of a chunk */
    GPT2_NOTHING_TO_DRAW = 5, /* of a chunk alone */
};

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

/* Consecutive tokens that enter `slot` at positions start, start + 1, ... What belongs to the chunks lies in the step's arrays in
 * their order: tokens, draws, and the tokens whose log-probabilities after the rows first_scored, first_scored + 1, ... of the
 * chunk are asked for, each with the top_n likeliest. */
typedef struct {
    int32_t slot, start, num_tokens, num_draws, first_scored, num_scored, top_n;
} gpt2_chunk;

typedef struct {
    int32_t token_id;
    float bias;
} gpt2_bias;

/* A half-open range of the step's biases, or of its banned ids. */
typedef struct {
    int32_t begin, end;
} gpt2_range;

/* How the token after row `row` of its chunk is drawn; see model.batch.Draw and SamplingParams. plain: greedy, nothing after top_n
 * looked at. mask: which of the step's, -1 for none. Penalties look at the slot's tokens up to the row. */
typedef struct {
    int32_t row, plain, top_n, top_k, num_prompt, mask;
    double temperature, top_p, min_p, typical_p, repetition_penalty, frequency_penalty, presence_penalty, uniform;
    gpt2_range bias, banned;
} gpt2_draw;

/* What a step is asked for; every array with its length. A mask is (vocab_size + 7) / 8 bytes: of token i, bit i % 8 of byte i / 8
 * says whether it may be drawn. */
typedef struct {
    const gpt2_chunk* chunks;
    const int32_t* token_ids;
    const gpt2_draw* draws;
    const int32_t* scored_ids;
    const gpt2_bias* biases;
    const int32_t* banned_ids;
    const uint8_t* masks;
    int32_t num_chunks, num_tokens, num_draws, num_scored, num_biases, num_banned;
    int64_t num_mask_bytes;
} gpt2_step_input;

typedef struct {
    int32_t token_id, reserved;
    double logprob;
} gpt2_token;

/* The answers: of each chunk a gpt2_error or 0, of each draw its token, of each scored token its log-probability; then, chunk by
 * chunk, the likeliest tokens of its draws and of its scored ones. What belongs to a chunk with an error means nothing. */
typedef struct {
    int32_t* errors;
    gpt2_token* tokens;
    double* logprobs;
    gpt2_token* tops;
    int32_t num_errors, num_tokens, num_logprobs, num_tops;
} gpt2_step_output;

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

/* One step: the chunks' tokens enter the cache, at most one chunk a slot, and what they ask for is answered. A step that is refused
 * has changed nothing. */
int32_t gpt2_step(gpt2_model* model, const gpt2_step_input* input, const gpt2_step_output* output);

/* The same for chunks that ask for nothing, with the logits of rows of the step, counted through its tokens: (num_rows,
 * vocab_size), num_logits in all. */
int32_t gpt2_logits(gpt2_model* model, const gpt2_step_input* input, const int32_t* rows, int32_t num_rows, float* logits,
                    int64_t num_logits);

/* Positions [0, length) of slot `target` become those of slot `source`. */
int32_t gpt2_copy_prefix(gpt2_model* model, int32_t source, int32_t target, int32_t length);

/* The sampler by itself, on some kernels, null for the fastest: the input's one draw from logits (vocab_size), after its tokens;
 * there are no chunks, and the error, the token and the likeliest ones are the output. */
int32_t gpt2_sample(const char* kernels, const float* logits, int32_t vocab_size, const gpt2_step_input* input,
                    const gpt2_step_output* output);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
