// bfloat16 as AVX512_BF16 computes it: two products at a time, added without rounding each (VDPBF16PS).
#include "dot.h"

#include "../kernels/table.h"

namespace gpt2 {

constinit const Arithmetic avx512_bfloat16 = bfloat16<BFloat16Dot>("bfloat16-vdpbf16ps");

}  // namespace gpt2
