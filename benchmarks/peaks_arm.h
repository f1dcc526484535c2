// AArch64's set: NEON, which every such CPU has, with the products of bytes and bfloat16 that later ones have.
#pragma once

#include <sys/auxv.h>

#include "peaks.h"

READ(read_neon, , 16)

// Twenty-four independent sums: four a cycle, each four cycles long, leave sixteen in flight. All is zero: nothing is denormal.
// clang-format off
#define TWENTY_FOUR(ONE) \
    ONE(0) ONE(1) ONE(2) ONE(3) ONE(4) ONE(5) ONE(6) ONE(7) ONE(8) ONE(9) ONE(10) ONE(11) ONE(12) ONE(13) ONE(14) ONE(15) ONE(16) \
    ONE(17) ONE(18) ONE(19) ONE(20) ONE(21) ONE(22) ONE(23)
// clang-format on
#define ZERO(N) "movi v" #N ".16b, #0\n"
#define LOOP(NAME, ONE)                                                                                                         \
    static void NAME() {                                                                                                        \
        long rounds = ROUNDS / 24;                                                                                              \
        __asm__ volatile(".arch armv8.6-a\n" TWENTY_FOUR(ZERO) ZERO(30)                                                         \
                             ZERO(31) "1:\n" TWENTY_FOUR(ONE) "subs %0, %0, #1\n b.ne 1b"                                       \
                         : "+r"(rounds)::"cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", \
                           "v13", "v14", "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v29", "v30", "v31");   \
    }

#define FMLA(N) "fmla v" #N ".4s, v30.4s, v31.4s\n"
#define BFDOT(N) "bfdot v" #N ".4s, v30.8h, v31.8h\n"
#define BFMMLA(N) "bfmmla v" #N ".4s, v30.8h, v31.8h\n"
#define SMULL(N) "smull v29.8h, v30.8b, v31.8b\n sadalp v" #N ".4s, v29.8h\n"
#define SDOT(N) "sdot v" #N ".4s, v30.16b, v31.16b\n"
#define SMMLA(N) "smmla v" #N ".4s, v30.16b, v31.16b\n"
LOOP(float32_fmla, FMLA)
LOOP(bfloat16_bfdot, BFDOT)
LOOP(bfloat16_bfmmla, BFMMLA)
LOOP(int8_smull, SMULL)
LOOP(int8_sdot, SDOT)
LOOP(int8_smmla, SMMLA)

std::vector<InstructionSet> instruction_sets() {
    constexpr double TWENTY_FOURS = ROUNDS / 24 * 24;
    // By Linux's bits (asm/hwcap.h), whose names an older header does not have: ASIMDDP, I8MM and BF16.
    const bool has_sdot = getauxval(AT_HWCAP) >> 20 & 1, has_smmla = getauxval(AT_HWCAP2) >> 13 & 1;
    const bool has_bfloat16 = getauxval(AT_HWCAP2) >> 14 & 1;
    InstructionSet neon{"neon", read_neon, {{float32_fmla, 8 * TWENTY_FOURS}}, {}, {{int8_smull, 16 * TWENTY_FOURS}}};
    if (has_sdot) neon.int8.push_back({int8_sdot, 32 * TWENTY_FOURS});
    if (has_smmla) neon.int8.push_back({int8_smmla, 64 * TWENTY_FOURS});
    if (has_bfloat16) neon.bfloat16 = {{bfloat16_bfdot, 16 * TWENTY_FOURS}, {bfloat16_bfmmla, 32 * TWENTY_FOURS}};
    return {neon};
}
