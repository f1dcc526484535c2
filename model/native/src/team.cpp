#include "team.h"

#include <pthread.h>
#include <signal.h>

#include <exception>

#include "float_environment.h"

namespace gpt2 {

Team::Team(int num_threads) {
    if (num_threads > 1) helpers_.reserve(num_threads - 1);
    // Signals are the interpreter's: a helper takes none.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
        for (int thread = 1; thread < num_threads; ++thread) helpers_.emplace_back([this, thread] { help(thread); });
    } catch (const std::exception&) {  // a limit of the system's: whoever is there does it
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
