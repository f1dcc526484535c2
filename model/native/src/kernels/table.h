// The table of a set's kernels. To be included after its dot.h.
#pragma once

#include "attention.h"
#include "attention_float.h"
#include "attention_int8.h"
#include "pack.h"
#include "products.h"
#include "rows.h"
#include "sampling.h"

namespace gpt2 {
namespace {

void no_tiles(int) {}
void no_tiles() {}

constexpr Sampling SAMPLING = {count_at_least, greatest_of, mass_within, keep_within, weigh_logits, temper};

constexpr Arithmetic FLOAT32 = {
    "float32",
    4,
    4,
    false,
    pack_float32,
    multiply<Float32>,
    prepare_float32,
    embed_float32,
    store_float32,
    attend_in_groups<attend_rows<Float32, QUERIES>, attend_rows<Float32, 1>>,
};

constexpr Arithmetic INT8 = {
    "int8",
    1,
    1 + (Int8Rows::X_BYTES > 4 ? 2 : 0),  // where several rows want their inputs in another form
    false,
    pack_int8,
    multiply<Int8Rows, Int8>,
    prepare_int8,
    embed_int8,
    store_int8,
    attend_in_groups<attend_rows_int8<QUERIES>, attend_rows_int8<1>>,
};

template <class P>
constexpr Arithmetic bfloat16(const char* name) {
    return {
        name,
        2,
        2,
        false,
        pack_bfloat16,
        multiply<P>,
        prepare_bfloat16,
        embed_bfloat16,
        store_bfloat16,
        attend_in_groups<attend_rows<P, QUERIES>, attend_rows<P, 1>>,
    };
}

constexpr Arithmetic BFLOAT16_FMA = bfloat16<BFloat16Fma>("bfloat16-fma");

}  // namespace
}  // namespace gpt2
