#include "pack.h"

#include <omp.h>
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma")
#include "simd.h"

namespace gpt2 {

constexpr size_t HUGE_PAGE = size_t{1} << 21;

Memory::Memory(size_t size) : size_((size + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE) {
    if (size == 0) return;
    // One huge page more than needed, so that the memory can begin at a border of one; the rest is given back.
    char* mapped = static_cast<char*>(mmap(nullptr, size_ + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (mapped == MAP_FAILED) throw std::bad_alloc();
    char* begin = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(mapped) + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
    if (begin != mapped) munmap(mapped, begin - mapped);
    if (begin != mapped + HUGE_PAGE) munmap(begin + size_, mapped + HUGE_PAGE - begin);
    madvise(begin, size_, MADV_HUGEPAGE);  // where the system has none, small pages do
    data_ = begin;
}

Memory::~Memory() {
    if (data_) munmap(data_, size_);
}

Memory& Memory::operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
}

namespace {

// Inputs in one step along k: four bytes of them.
int step_of(int32_t precision) { return precision == GPT2_FLOAT32 ? 1 : precision == GPT2_BFLOAT16 ? 2 : 4; }
int element_of(int32_t precision) { return 4 / step_of(precision); }

// The greatest weight of each output becomes 127; the same scale either way, so that a zero stays zero.
void quantise_row(const float* w, int n, float& scale, int32_t& sum, int8_t* to) {
    float greatest = 0.0f;
    bool finite = true;
    for (int k = 0; k < n; ++k) {
        greatest = std::max(greatest, std::abs(w[k]));
        finite &= std::isfinite(w[k]);
    }
    scale = greatest > 0 ? greatest / 127.0f : 1.0f;
    sum = 0;
    if (!finite) {  // bytes hold no NaN: the scale carries it to the output
        scale = std::numeric_limits<float>::quiet_NaN();
        std::memset(to, 0, n);
        return;
    }
    const float inverse = 1.0f / scale;
    for (int k = 0; k < n; ++k) {
        to[k] = int8_t(std::lrint(w[k] * inverse));
        sum += to[k];
    }
}

}  // namespace

void shape_linear(Linear& layer, int num_in, int num_out, int32_t precision) {
    layer.num_in = num_in, layer.num_out = num_out;
    layer.depth = round_up(num_in, BLOCK);
    layer.block_bytes = size_t(layer.depth) * BLOCK * element_of(precision);
    // Kernels ask for weights a little beyond the end; prefetching never faults.
    layer.weights = Memory(layer.num_blocks() * layer.block_bytes);
    layer.bias.assign(layer.num_blocks() * BLOCK, 0.0f);
    if (precision == GPT2_INT8) {
        layer.scales.assign(layer.num_blocks() * BLOCK, 0.0f);
        layer.sums.assign(layer.num_blocks() * BLOCK, 0);
    }
}

void pack_linear(Linear& layer, const float* weights, int32_t precision, int num_threads) {
    const int step = step_of(precision), element = element_of(precision), num_in = layer.num_in;
    std::vector<std::vector<char>> rows(num_threads, std::vector<char>(size_t(layer.depth) * element));  // here, where it may fail
#pragma omp parallel for num_threads(num_threads) schedule(static)
    for (int block = 0; block < layer.num_blocks(); ++block) {
        std::vector<char>& row = rows[omp_get_thread_num()];
        char* packed = layer.weights.as<char>() + block * layer.block_bytes;
        for (int n = block * BLOCK; n < std::min(layer.num_out, (block + 1) * BLOCK); ++n) {
            const float* w = weights + size_t(n) * num_in;
            if (precision == GPT2_FLOAT32) {
                std::memcpy(row.data(), w, size_t(num_in) * 4);
            } else if (precision == GPT2_BFLOAT16) {
                for (int k = 0; k < num_in; k += 16)
                    _mm256_storeu_si256((__m256i*)(row.data() + 2 * k),
                                        to_bfloat16(_mm512_maskz_loadu_ps(first_lanes(num_in - k), w + k)));
            } else {
                quantise_row(w, num_in, layer.scales[n], layer.sums[n], reinterpret_cast<int8_t*>(row.data()));
            }
            // A step's inputs of one output are four bytes in every precision.
            auto* from = reinterpret_cast<const uint32_t*>(row.data());
            auto* to = reinterpret_cast<uint32_t*>(packed) + n % BLOCK;
            for (int k = 0; k < layer.depth / step; ++k) to[size_t(k) * BLOCK] = from[k];
        }
    }
}

void pack_table(Memory& table, const float* from, int num_rows, int size, int width, bool as_float32, int num_threads) {
    table = Memory(size_t(num_rows) * width * (as_float32 ? 4 : 2));
#pragma omp parallel for num_threads(num_threads) schedule(static)
    for (int row = 0; row < num_rows; ++row)
        for (int c = 0; c < size; c += 16) {
            __mmask16 lanes = first_lanes(size - c);
            __m512 x = _mm512_maskz_loadu_ps(lanes, from + size_t(row) * size + c);
            size_t at = size_t(row) * width + c;
            if (as_float32)
                _mm512_storeu_ps(table.as<float>() + at, x);
            else
                _mm256_storeu_si256((__m256i*)(table.as<uint16_t>() + at), to_bfloat16(x));
        }
}

Input make_input(int num_rows, int depth, int32_t precision) {
    Input input;
    // A line more than the row, so that rows do not fall into the same sets of the cache.
    input.stride = size_t(depth) * element_of(precision) + 64;
    input.data = Memory(num_rows * input.stride);
    if (precision == GPT2_INT8) {
        input.scales.assign(num_rows, 1.0f);
        input.zeros.assign(num_rows, 0);
    }
    return input;
}

}  // namespace gpt2
