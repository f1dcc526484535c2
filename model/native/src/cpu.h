// Which sets of kernels there are on this machine, and which arithmetic they have.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace gpt2 {

// Those that were compiled in and that this CPU, its operating system included, can run; by the size of their vectors, the widest
// first.
const std::vector<const Kernels*>& available_kernels();

// The fastest for a gpt2_precision, measured once.
const Kernels& fastest_kernels(int precision);

// By name; null takes the fastest. Throws std::runtime_error naming what is missing and what is there.
const Kernels& kernels_named(const char* name, int precision);

// Of a gpt2_precision. bfloat16 is the CPU's own arithmetic where it has one, or the one by this name. Throws std::runtime_error.
const Arithmetic& arithmetic_of(const Kernels&, int precision, const char* name);

}  // namespace gpt2
