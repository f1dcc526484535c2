#include "team.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <system_error>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace gpt2 {
namespace {

// Rounding to the nearest, denormals as they are, whatever the calling program has set: the arithmetic is defined so.
class FloatEnvironment {
 public:
#if defined(__x86_64__)
    FloatEnvironment() : before_(_mm_getcsr()) { _mm_setcsr(0x1F80); }
    ~FloatEnvironment() { _mm_setcsr(before_); }

 private:
    unsigned before_;
#elif defined(__aarch64__)
    FloatEnvironment() {
        __asm__ volatile("mrs %0, fpcr" : "=r"(before_));
        __asm__ volatile("msr fpcr, %0" ::"r"(uint64_t{0}));
    }
    ~FloatEnvironment() { __asm__ volatile("msr fpcr, %0" ::"r"(before_)); }

 private:
    uint64_t before_;
#endif
};

}  // namespace

Team::Team(int num_threads) {
    // Signals are the interpreter's: a helper takes none.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
        for (int thread = 1; thread < num_threads; ++thread) helpers_.emplace_back([this, thread] { help(thread); });
    } catch (const std::system_error&) {  // a limit of the system's: whoever is there does it
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    size_.store(size(), std::memory_order_release);
    size_.notify_all();
}

Team::~Team() {
    is_ending_ = true;
    if (size() > 1) start_.wait(size());
    for (std::thread& helper : helpers_) helper.join();
}

void Team::run(const Body& body) {
    const FloatEnvironment environment;
    if (size() == 1) return body(0);
    body_ = &body;
    start_.wait(size());
    body(0);
    end_.wait(size());
}

void Team::help(int thread) {
    const FloatEnvironment environment;
    int num_threads;
    // Until all have been started nobody knows how many are waited for.
    while ((num_threads = size_.load(std::memory_order_acquire)) == 1) size_.wait(1);
    for (;;) {
        start_.wait(num_threads);
        if (is_ending_) return;
        (*body_)(thread);
        end_.wait(num_threads);
    }
}

}  // namespace gpt2
