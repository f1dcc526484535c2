// Memory asked for while something else is computed, a few lines at a time.
//
// Evenly: a burst fills the core's few buffers for misses, and then even what lies in its second-level cache has to wait. Products
// of 8 rows read their weights at 39 GB/s with this where bursts between groups of rows gave 30.
#pragma once

#include <immintrin.h>

#include <cstddef>

namespace gpt2 {

class Ahead {
 public:
    Ahead() = default;
    // `count` stretches of `size` bytes, `stride` bytes apart, of which each `fetch` asks for an equal part, if there are
    // `num_fetches`.
    Ahead(const char* begin, size_t size, size_t stride, int count, int num_fetches)
        : next_(begin),
          end_(begin + size),
          size_(size),
          stride_(stride),
          count_(count),
          rate_(unsigned((size / 64 * count * ONE + num_fetches - 1) / num_fetches)) {}

    void fetch() {
        if (is_done()) return;
        for (due_ += rate_; due_ >= ONE; due_ -= ONE, next_ += 64) _mm_prefetch(next_, _MM_HINT_T1);
        if (next_ >= end_) {
            end_ += stride_, next_ = end_ - size_;
            --count_;
        }
    }

    bool is_done() const { return count_ <= 0; }

 private:
    static constexpr unsigned ONE = 256;

    const char *next_ = nullptr, *end_ = nullptr;
    size_t size_ = 0, stride_ = 0;
    int count_ = 0;
    unsigned rate_ = 0, due_ = 0;  // lines, in 256ths
};

}  // namespace gpt2
