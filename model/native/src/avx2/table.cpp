// Compiled twice: here for every CPU with AVX2, and by table_vnni.cpp with -mavxvnni for those that have AVX-VNNI too.
#include "dot.h"

#include "../kernels/table.h"

namespace gpt2 {

#ifdef __AVXVNNI__
#define GPT2_TABLE avx2_vnni_kernels
#else
#define GPT2_TABLE avx2_kernels
#endif

constinit const Kernels GPT2_TABLE = {
    "avx2",       &FLOAT32, &INT8,       &BFLOAT16_FMA, nullptr,  layer_norm, read,
    input_maxima, add_row,  block_stats, SAMPLING,      no_tiles, no_tiles,
};

}  // namespace gpt2
