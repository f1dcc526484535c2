// Rounding to the nearest, denormals as they are, whatever the calling program has set: the arithmetic is defined so.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace gpt2 {

// For the calling thread, until it goes out of scope.
class FloatEnvironment {
 public:
#if defined(__x86_64__)
    FloatEnvironment() : before_(_mm_getcsr()) { _mm_setcsr(0x1F80); }
    ~FloatEnvironment() { _mm_setcsr(uint32_t(before_)); }
#elif defined(__aarch64__)
    FloatEnvironment() {
        __asm__ volatile("mrs %0, fpcr" : "=r"(before_));
        __asm__ volatile("msr fpcr, %0" ::"r"(uint64_t{0}));
    }
    ~FloatEnvironment() { __asm__ volatile("msr fpcr, %0" ::"r"(before_)); }
#endif
    FloatEnvironment(const FloatEnvironment&) = delete;

 private:
    uint64_t before_ = 0;
};

}  // namespace gpt2
