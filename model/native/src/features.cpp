// What this machine can run: the instructions, by cpuid, and the registers that the operating system keeps for them.
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "interface.h"

namespace {

// Linux lets a process use tile registers once it has asked (arch_prctl(2), ARCH_REQ_XCOMP_PERM).
bool may_use_tiles() {
    constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

uint64_t enabled_state() {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return uint64_t(high) << 32 | low;
}

int32_t detect() {
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return 0;
    const bool fma = c & bit_FMA;
    const uint64_t state = enabled_state();
    constexpr uint64_t ZMM = 0xE6, TILES = 0x60000;
    if ((state & ZMM) != ZMM || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    const uint32_t wanted = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL | bit_AVX2;
    if (!fma || (b & wanted) != wanted) return 0;
    int32_t features = GPT2_AVX512;
    if (c & bit_AVX512VNNI) features |= GPT2_AVX512_VNNI;
    const bool tiles = (d & (1u << 24)) && (state & TILES) == TILES && may_use_tiles();
    if (tiles && d & (1u << 22)) features |= GPT2_AMX_BF16;
    if (tiles && d & (1u << 25)) features |= GPT2_AMX_INT8;
    if (__get_cpuid_count(7, 1, &a, &b, &c, &d) && a & (1u << 5)) features |= GPT2_AVX512_BF16;
    return features;
}

}  // namespace

int32_t gpt2_features() {
    static const int32_t features = detect();
    return features;
}
