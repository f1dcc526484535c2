// What an instruction set can do at most: how a file for an architecture tells benchmarks/peaks.cpp. Times nothing.
#pragma once

#include <cstddef>
#include <vector>

// How often a loop of products runs its instruction; long enough for a clock, short enough to be done before and after each run.
constexpr int ROUNDS = 2000000;

// One way to multiply: the loop, and how many operations a call of it is, a multiplication and an addition being two.
struct Products {
    void (*run)();
    double operations;
};

// An instruction set by the name that GPT2_KERNELS has for it. Of several ways the fastest counts; without one for bfloat16,
// values are widened and multiplied in float32.
struct InstructionSet {
    const char* name;
    float (*read)(const char* data, size_t size);  // a multiple of 512 bytes, aligned to 64
    std::vector<Products> float32, bfloat16, int8;
};

// Those that this CPU and its operating system have, each with the ways that are there; the largest last.
std::vector<InstructionSet> instruction_sets();

// Sums what it reads, so that no compiler leaves the loads out: eight sums, since one would wait for its last addition.
#define READ(NAME, ATTRIBUTE, BYTES)                                                                                               \
    ATTRIBUTE __attribute__((noinline)) static float NAME(const char* data, size_t size) {                                         \
        typedef float Vector __attribute__((vector_size(BYTES)));                                                                  \
        Vector sums[8] = {};                                                                                                       \
        for (size_t i = 0; i < size; i += 8 * BYTES) {                                                                             \
            _Pragma("GCC unroll 8") for (int line = 0; line < 8 * BYTES; line += 64) __builtin_prefetch(data + i + 4096 + line);   \
            _Pragma("GCC unroll 8") for (int j = 0; j < 8; ++j) sums[j] += *reinterpret_cast<const Vector*>(data + i + j * BYTES); \
        }                                                                                                                          \
        const Vector sum = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));              \
        float total = 0;                                                                                                           \
        for (size_t j = 0; j < BYTES / sizeof(float); ++j) total += sum[j];                                                        \
        return total;                                                                                                              \
    }
