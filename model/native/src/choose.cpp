// Which kernels are the fastest on this machine: some CPUs run narrower vectors at a higher clock, or have few units for wide ones.
#include <algorithm>
#include <chrono>
#include <limits>
#include <vector>

#include "cpu.h"
#include "interface.h"
#include "memory.h"

namespace gpt2 {
namespace {

// A product as GPT-2 124M has them, small enough for the second-level cache, of some rows.
class Trial {
 public:
    Trial(const Kernels& kernels, const Arithmetic& arithmetic, int num_rows)
        : kernels_(kernels),
          arithmetic_(arithmetic),
          num_rows_(num_rows),
          weights_(size_t(DEPTH) * BLOCK * arithmetic.element * NUM_BLOCKS),
          inputs_(size_t(num_rows + 32) * stride()),
          outputs_(size_t(num_rows) * BLOCK),
          outliers_(num_rows + 32),
          floats_(std::max(BLOCK, num_rows + 32), 0.0f),
          offsets_(BLOCK, 0) {}

    // Seconds, the best of a few runs.
    double seconds() {
        const Linear layer{DEPTH,          BLOCK,          DEPTH,           1, weights_.size() / NUM_BLOCKS, nullptr,
                           floats_.data(), floats_.data(), offsets_.data(), {}};
        const Input input{inputs_.as<char>(), stride(), floats_.data(), outliers_.data()};
        kernels_.configure_tiles(num_rows_);
        double best = std::numeric_limits<double>::infinity();
        for (int run = 0; run < NUM_RUNS; ++run) {
            const auto started = std::chrono::steady_clock::now();
            for (int i = 0; i < NUM_BLOCKS; ++i) {
                Ahead none{};
                const char* weights = weights_.as<char>() + i * layer.block_bytes;
                arithmetic_.multiply({&layer, &input, num_rows_, Finish::store, outputs_.data(), BLOCK, 0, weights, nullptr}, none);
            }
            best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count());
        }
        kernels_.release_tiles();
        return best;
    }

 private:
    static constexpr int DEPTH = 768, NUM_BLOCKS = 4, NUM_RUNS = 7;

    size_t stride() const { return size_t(DEPTH) * arithmetic_.input + 64; }

    const Kernels& kernels_;
    const Arithmetic& arithmetic_;
    const int num_rows_;
    Memory weights_, inputs_;
    std::vector<float> outputs_;
    std::vector<Outliers> outliers_;
    std::vector<float> floats_;
    std::vector<int32_t> offsets_;
};

double seconds_of(const Kernels& kernels, int precision) {
    const Arithmetic& arithmetic = arithmetic_of(kernels, precision, nullptr);
    return Trial(kernels, arithmetic, 1).seconds() + Trial(kernels, arithmetic, 8).seconds();
}

const Kernels* measure(int precision) {
    const auto& there = available_kernels();
    // bfloat16's bits depend on the kernels: which ones compute must not be a matter of measuring. Plain C++ is the last resort.
    if (precision == GPT2_BFLOAT16 || there.size() <= 2) return there.front();
    return *std::min_element(there.begin(), there.end() - 1, [precision](const Kernels* a, const Kernels* b) {
        return seconds_of(*a, precision) < seconds_of(*b, precision);
    });
}

template <int PRECISION>
const Kernels& fastest() {
    static const Kernels& kernels = *measure(PRECISION);
    return kernels;
}

}  // namespace

const Kernels& fastest_kernels(int precision) {
    return precision == GPT2_FLOAT32 ? fastest<GPT2_FLOAT32>()
           : precision == GPT2_INT8  ? fastest<GPT2_INT8>()
                                     : fastest<GPT2_BFLOAT16>();
}

}  // namespace gpt2
