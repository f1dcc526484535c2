// Work handed out to the threads of a team: each has a share of its own and takes it in order. Who is done helps the others from
// their shares' ends, since the operating system may have given one of their cores to somebody else.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

namespace gpt2 {

// The part of [0, n) that is one thread's, in the order of the threads.
struct Share {
    int begin, end;
    Share(int n, int thread, int num_threads)
        : begin(int(int64_t(n) * thread / num_threads)), end(int(int64_t(n) * (thread + 1) / num_threads)) {}
};

class Shares {
 public:
    explicit Shares(int num_threads) : parts_(num_threads) {}

    // Fill the calling thread's part of [0, n): after a barrier that ended what was handed out before, and before one that starts
    // this.
    void fill(int n, int thread, int num_threads) {
        const Share mine(n, thread, num_threads);
        parts_[thread].left.store(pack(mine.begin, mine.end), std::memory_order_relaxed);
    }

    // The next of this thread's part, then the last of another's; -1 when nothing is left.
    int take(int thread) {
        const int num_threads = int(parts_.size());
        for (int i = 0; i < num_threads; ++i) {
            std::atomic<uint64_t>& left = parts_[(thread + i) % num_threads].left;
            for (uint64_t now = left.load(std::memory_order_relaxed); begin_of(now) < end_of(now);) {
                const int taken = i == 0 ? begin_of(now) : end_of(now) - 1;
                const uint64_t rest = i == 0 ? pack(taken + 1, end_of(now)) : pack(begin_of(now), taken);
                if (left.compare_exchange_weak(now, rest, std::memory_order_relaxed)) return taken;
            }
        }
        return -1;
    }

    // What this thread will most likely take next, -1 if its part is empty.
    int peek(int thread) const {
        const uint64_t now = parts_[thread].left.load(std::memory_order_relaxed);
        return begin_of(now) < end_of(now) ? begin_of(now) : -1;
    }

 private:
    struct alignas(64) Part {
        std::atomic<uint64_t> left{0};
    };
    static uint64_t pack(int begin, int end) { return uint64_t(uint32_t(begin)) << 32 | uint32_t(end); }
    static int begin_of(uint64_t range) { return int(range >> 32); }
    static int end_of(uint64_t range) { return int(uint32_t(range)); }

    std::vector<Part> parts_;
};

}  // namespace gpt2
