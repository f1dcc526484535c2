// AVX-512, but that products run on AMX.
#include "../avx512/dot.h"

#include "../kernels/table.h"
#include "products.h"

namespace gpt2 {
namespace {

constexpr Arithmetic with_tiles(Arithmetic arithmetic, void (*multiply)(const Product&, Ahead&)) {
    arithmetic.multiply = multiply;
    arithmetic.has_tiles = true;
    return arithmetic;
}

constexpr Arithmetic AMX_INT8 = with_tiles(INT8, multiply_tiles<Int8Tiles>);
// Attention has AVX512_BF16's instruction, which rounds otherwise than the tiles do; both are parts of this arithmetic.
constexpr Arithmetic AMX_BFLOAT16 = with_tiles(bfloat16<BFloat16Dot>("bfloat16-tdpbf16ps"), multiply_tiles<BFloat16Tiles>);

}  // namespace

constinit const Kernels amx_kernels = {
    "amx",        &FLOAT32, &AMX_INT8,   &BFLOAT16_FMA, &AMX_BFLOAT16,   layer_norm,    read,
    input_maxima, add_row,  block_stats, SAMPLING,      configure_tiles, release_tiles,
};

}  // namespace gpt2
