// The threads of a step and what they meet at. Of our own, as OpenMP's barriers fall asleep at once as soon as the process has more
// threads than the machine has cores, and a service has: waking up a hundred times in a step took half of it.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace gpt2 {

// Tell the core that this is a loop that waits.
inline void pause_core() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

class Barrier {
 public:
    // Everybody's writes before it are seen by everybody after it.
    void wait(int num_threads) {
        const uint32_t phase = phase_.load(std::memory_order_acquire);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == num_threads) {
            arrived_.store(0, std::memory_order_relaxed);
            phase_.store(phase + 1, std::memory_order_seq_cst);
            if (num_asleep_.load(std::memory_order_seq_cst)) phase_.notify_all();
            return;
        }
        for (int i = 0; i < NUM_SPINS; ++i) {
            if (phase_.load(std::memory_order_acquire) != phase) return;
            pause_core();
        }
        // Whoever is late has lost its core, maybe to somebody who waits for this one.
        num_asleep_.fetch_add(1, std::memory_order_seq_cst);
        while (phase_.load(std::memory_order_seq_cst) == phase) phase_.wait(phase, std::memory_order_seq_cst);
        num_asleep_.fetch_sub(1, std::memory_order_relaxed);
    }

 private:
    static constexpr int NUM_SPINS = 1000;  // 10 to 50 us, by how long the CPU takes for a pause

    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<uint32_t> phase_{0};  // wraps around
    std::atomic<int> num_asleep_{0};
};

// Helpers that live as long as the team; between runs they spin for a moment and then sleep. One caller at a time.
class Team {
 public:
    using Body = std::function<void(int thread)>;

    // Fewer threads than asked for where the system gives no more.
    explicit Team(int num_threads);
    ~Team();
    Team(const Team&) = delete;

    int size() const { return int(helpers_.size()) + 1; }

    // Carry out `body` on every thread of the team, the caller being thread 0. It must not throw.
    void run(const Body& body);

    // body(i, thread) for each i of [0, n), handed out one by one.
    template <class Each>
    void for_each(int n, const Each& each) {
        std::atomic<int> next{0};
        run([&](int thread) {
            for (int i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) each(i, thread);
        });
    }

 private:
    void help(int thread);

    const Body* body_ = nullptr;
    std::atomic<bool> is_ending_{false};
    Barrier start_, end_;
    std::vector<std::thread> helpers_;
    std::atomic<int> size_{1};
};

}  // namespace gpt2
