// What a set without an instruction for it does lane by lane. To be included by its vector.h, once that has `store` and `bits`.
#pragma once

#include "../kernels.h"

namespace gpt2 {
namespace {

// The lanes of m side by side from `to` on; up to 16 places are written.
template <class Element, class Vector>
inline void compress(Element* to, M m, Vector x) {
    Element lanes[16];
    store(lanes, x);
    for (unsigned left = bits(m); left; left &= left - 1) *to++ = lanes[__builtin_ctz(left)];
}

}  // namespace
}  // namespace gpt2
