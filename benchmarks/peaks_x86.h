// x86-64's sets: `scalar` is what every such CPU has (SSE2), then avx2, avx512 and amx.
#pragma once

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

#include "peaks.h"

READ(read_sse2, , 16)
READ(read_avx2, __attribute__((target("avx2"))), 32)
READ(read_avx512, __attribute__((target("avx512f"))), 64)

// Twelve independent sums in registers named by hand: a compiler would spill or fold them. More are no faster: no CPU begins more
// than two of these a cycle, or needs more than six cycles for one. Everything is zero, so that nothing is denormal.
#define TWELVE(ONE) ONE(0) ONE(1) ONE(2) ONE(3) ONE(4) ONE(5) ONE(6) ONE(7) ONE(8) ONE(9) ONE(10) ONE(11)
#define LOOP(NAME, BEGIN, ONE, END)                                                                                            \
    static void NAME() {                                                                                                       \
        long rounds = ROUNDS / 12;                                                                                             \
        __asm__ volatile(BEGIN "1:\n" TWELVE(ONE) "dec %0\n jnz 1b\n" END                                                      \
                         : "+r"(rounds)::"cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", \
                           "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");                                              \
    }

#define SSE2_ZERO(N) "xorps %%xmm" #N ", %%xmm" #N "\n"
#define SSE2_BEGIN TWELVE(SSE2_ZERO) SSE2_ZERO(12) SSE2_ZERO(13) SSE2_ZERO(14) SSE2_ZERO(15)
#define MULPS(N) "movaps %%xmm14, %%xmm13\n mulps %%xmm15, %%xmm13\n addps %%xmm13, %%xmm" #N "\n"
#define PMADDWD(N) "movdqa %%xmm14, %%xmm13\n pmaddwd %%xmm15, %%xmm13\n paddd %%xmm13, %%xmm" #N "\n"
LOOP(float32_sse2, SSE2_BEGIN, MULPS, )
LOOP(int16_sse2, SSE2_BEGIN, PMADDWD, )  // bytes widened: SSE2 has no product of them

// int8 before VNNI: pairs of products in 16 bits, pairs of those in 32, and the addition.
#define MADD(REGISTER, N)                                        \
    "vpmaddubsw %%" REGISTER "14, %%" REGISTER "15, %%" REGISTER \
    "13\n"                                                       \
    "vpmaddwd %%" REGISTER "12, %%" REGISTER "13, %%" REGISTER   \
    "13\n"                                                       \
    "vpaddd %%" REGISTER "13, %%" REGISTER #N ", %%" REGISTER #N "\n"
#define DOT(INSTRUCTION, REGISTER, N) INSTRUCTION " %%" REGISTER "14, %%" REGISTER "15, %%" REGISTER #N "\n"
#define AVX(NAME, ONE) LOOP(NAME, "vzeroall\n", ONE, "vzeroupper")

#define FMA_256(N) DOT("vfmadd231ps", "ymm", N)
#define MADD_256(N) MADD("ymm", N)
#define VNNI_256(N) DOT("%{vex%} vpdpbusd", "ymm", N)
AVX(float32_avx2, FMA_256)
AVX(int8_avx2, MADD_256)
AVX(int8_avx_vnni, VNNI_256)

#define FMA_512(N) DOT("vfmadd231ps", "zmm", N)
#define BF16_512(N) DOT("vdpbf16ps", "zmm", N)
#define MADD_512(N) MADD("zmm", N)
#define VNNI_512(N) DOT("vpdpbusd", "zmm", N)
AVX(float32_avx512, FMA_512)
AVX(bfloat16_avx512, BF16_512)
AVX(int8_avx512, MADD_512)
AVX(int8_avx512_vnni, VNNI_512)

// Four sums of 16 x 16 out of two times two operands, as a product's kernel has them.
#define TILES(NAME, INSTRUCTION)                                                                                   \
    static void NAME() {                                                                                           \
        struct alignas(64) {                                                                                       \
            uint8_t palette = 1, start = 0, reserved[14] = {};                                                     \
            uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};                                                 \
            uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};                                                   \
        } config;                                                                                                  \
        __asm__ volatile("ldtilecfg %0" ::"m"(config));                                                            \
        for (int i = 0; i < ROUNDS / 64; ++i)                                                                      \
            __asm__ volatile(INSTRUCTION " %tmm6, %tmm4, %tmm0\n" INSTRUCTION " %tmm7, %tmm4, %tmm1\n" INSTRUCTION \
                                         " %tmm6, %tmm5, %tmm2\n" INSTRUCTION " %tmm7, %tmm5, %tmm3");             \
        __asm__ volatile("tilerelease");                                                                           \
    }
TILES(bfloat16_amx, "tdpbf16ps")
TILES(int8_amx, "tdpbusd")

// Linux lets a process use tile registers once it has asked (arch_prctl(2), ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA).
static bool may_use_tiles() { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

std::vector<InstructionSet> instruction_sets() {
    constexpr double TWELVES = ROUNDS / 12 * 12, TILE_PRODUCTS = ROUNDS / 64 * 4;
    std::vector<InstructionSet> sets{{"scalar", read_sse2, {{float32_sse2, 8 * TWELVES}}, {}, {{int16_sse2, 16 * TWELVES}}}};
    // The compiler's own check of these sees to it that the operating system keeps the registers.
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return sets;
    uint32_t a = 0, b = 0, c = 0, d = 0, tiles = 0;
    __get_cpuid_count(7, 0, &a, &b, &c, &tiles);
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d)) a = 0;
    sets.push_back({"avx2", read_avx2, {{float32_avx2, 16 * TWELVES}}, {}, {{int8_avx2, 64 * TWELVES}}});
    if (a >> 4 & 1) sets.back().int8.push_back({int8_avx_vnni, 64 * TWELVES});
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw")) return sets;
    sets.push_back({"avx512", read_avx512, {{float32_avx512, 32 * TWELVES}}, {}, {{int8_avx512, 128 * TWELVES}}});
    if (a >> 5 & 1) sets.back().bfloat16.push_back({bfloat16_avx512, 64 * TWELVES});
    if (__builtin_cpu_supports("avx512vnni")) sets.back().int8.push_back({int8_avx512_vnni, 128 * TWELVES});
    const bool has_bfloat16 = tiles >> 22 & 1, has_int8 = tiles >> 25 & 1;
    if (!(tiles >> 24 & 1) || !(has_bfloat16 || has_int8) || !may_use_tiles()) return sets;
    sets.push_back(sets.back());  // what tiles do not multiply is left to AVX-512
    sets.back().name = "amx";
    if (has_bfloat16) sets.back().bfloat16.push_back({bfloat16_amx, 16384 * TILE_PRODUCTS});
    if (has_int8) sets.back().int8.push_back({int8_amx, 32768 * TILE_PRODUCTS});
    return sets;
}
