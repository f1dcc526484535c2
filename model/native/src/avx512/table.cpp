#include "dot.h"

#include "../kernels/table.h"

namespace gpt2 {

constinit const Kernels avx512_kernels = {
    "avx512",     &FLOAT32, &INT8,       &BFLOAT16_FMA, &avx512_bfloat16, layer_norm, read,
    input_maxima, add_row,  block_stats, SAMPLING,      no_tiles,         no_tiles,
};

}  // namespace gpt2
