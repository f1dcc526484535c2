#include "cpu.h"

#include <stdexcept>

#include "interface.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace gpt2 {
namespace {

#if defined(__x86_64__)

bool has(uint32_t word, int bit) { return word >> bit & 1; }

// Linux lets a process use tile registers once it has asked (arch_prctl(2), ARCH_REQ_XCOMP_PERM).
bool may_use_tiles() {
#if defined(__linux__)
    constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return false;
#endif
}

// What the CPU has, by cpuid, and what registers the operating system keeps, by xgetbv.
struct Cpu {
    bool avx2 = false, avx_vnni = false, avx512 = false, bfloat16 = false, amx = false;

    Cpu() {
        uint32_t a, b, c, d;
        if (!__get_cpuid(1, &a, &b, &c, &d)) return;
        const bool fma = has(c, 12), osxsave = has(c, 27), f16c = has(c, 29);
        if (!fma || !osxsave || !f16c) return;
        uint32_t low, high;
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        constexpr uint32_t YMM = 0x6, ZMM = 0xE6, TILES = 0x60000;
        if ((low & YMM) != YMM || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
        avx2 = has(b, 5);
        const bool f = has(b, 16), dq = has(b, 17), bw = has(b, 30), vl = has(b, 31), vnni = has(c, 11);
        const bool tile = has(d, 24), tile_int8 = has(d, 25), tile_bfloat16 = has(d, 22);
        avx512 = avx2 && f && dq && bw && vl && vnni && (low & ZMM) == ZMM;
        if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) avx_vnni = avx2 && has(a, 4), bfloat16 = avx512 && has(a, 5);
        amx = bfloat16 && tile && tile_int8 && tile_bfloat16 && (low & TILES) == TILES && may_use_tiles();
    }
};

#elif defined(__aarch64__)

bool has_dot_products() {
#if defined(__linux__)
    constexpr unsigned long HWCAP_ASIMDDP_ = 1ul << 20;
    return getauxval(AT_HWCAP) & HWCAP_ASIMDDP_;
#elif defined(__APPLE__)
    int value = 0;
    size_t size = sizeof(value);
    return sysctlbyname("hw.optional.arm.FEAT_DotProd", &value, &size, nullptr, 0) == 0 && value;
#else
    return false;
#endif
}

#endif

std::vector<const Kernels*> detect() {
    std::vector<const Kernels*> found;
#if defined(__x86_64__)
    const Cpu cpu;
    if (cpu.amx) found.push_back(&amx_kernels);
    if (cpu.avx512) {
        static Kernels kernels = avx512_kernels;
        if (!cpu.bfloat16) kernels.bfloat16_dot = nullptr;
        found.push_back(&kernels);
    }
    if (cpu.avx2) found.push_back(cpu.avx_vnni ? &avx2_vnni_kernels : &avx2_kernels);
#elif defined(__aarch64__)
    if (has_dot_products()) found.push_back(&neon_kernels);
#endif
    found.push_back(&scalar_kernels);
    return found;
}

}  // namespace

const std::vector<const Kernels*>& available_kernels() {
    static const std::vector<const Kernels*> kernels = detect();
    return kernels;
}

const Kernels& kernels_named(const char* name, int precision) {
    if (!name) return fastest_kernels(precision);
    std::string there;
    for (const Kernels* kernels : available_kernels()) {
        if (std::string(name) == kernels->name) return *kernels;
        there += (there.empty() ? "" : ", ") + std::string(kernels->name);
    }
    throw std::runtime_error("the kernels " + std::string(name) + " cannot run on this CPU; " + there + " can");
}

const Arithmetic& arithmetic_of(const Kernels& kernels, int precision, const char* name) {
    std::string there;
    const auto choices = precision == GPT2_FLOAT32 ? std::vector{kernels.float32}
                         : precision == GPT2_INT8  ? std::vector{kernels.int8}
                                                   : std::vector{kernels.bfloat16_dot, kernels.bfloat16_fma};
    for (const Arithmetic* arithmetic : choices) {
        if (!arithmetic) continue;
        if (!name || std::string(name) == arithmetic->name) return *arithmetic;
        there += (there.empty() ? "" : ", ") + std::string(arithmetic->name);
    }
    throw std::runtime_error("the kernels " + std::string(kernels.name) + " have no arithmetic " + name + "; they have " + there);
}

}  // namespace gpt2
