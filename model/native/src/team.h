// What the threads of a step meet at. OpenMP starts them; its own barriers fall asleep at once as soon as the process has more
// threads than the machine has cores, and a service has: waking up a hundred times in a step took half of it.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdint>

namespace gpt2 {

class Barrier {
 public:
    // Everybody's writes before it are seen by everybody after it. num_threads: of the team, which OpenMP may have made smaller.
    void wait(int num_threads) {
        const uint32_t phase = phase_.load(std::memory_order_acquire);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == num_threads) {
            arrived_.store(0, std::memory_order_relaxed);
            phase_.store(phase + 1, std::memory_order_seq_cst);
            if (num_asleep_.load(std::memory_order_seq_cst)) futex(FUTEX_WAKE_PRIVATE, INT_MAX);
            return;
        }
        for (int i = 0; i < NUM_SPINS; ++i) {
            if (phase_.load(std::memory_order_acquire) != phase) return;
            __builtin_ia32_pause();
        }
        // Whoever is late has lost its core, maybe to somebody who waits for this one.
        num_asleep_.fetch_add(1, std::memory_order_seq_cst);
        while (phase_.load(std::memory_order_seq_cst) == phase) futex(FUTEX_WAIT_PRIVATE, phase);
        num_asleep_.fetch_sub(1, std::memory_order_relaxed);
    }

 private:
    static constexpr int NUM_SPINS = 1000;  // 10 to 50 us, by how long the CPU takes for a pause

    void futex(int operation, uint32_t value) {
        syscall(SYS_futex, reinterpret_cast<uint32_t*>(&phase_), operation, value, nullptr, nullptr, 0);
    }

    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<uint32_t> phase_{0};
    std::atomic<int> num_asleep_{0};
};

}  // namespace gpt2
