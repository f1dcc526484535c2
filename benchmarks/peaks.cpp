// The machine's limits on N threads, as one line of JSON: memory read in GB/s, and products in GFLOP/s or GOP/s by instruction set.
//
//     g++ -O2 -fopenmp benchmarks/peaks.cpp -o peaks && ./peaks 2 124
#include <cpuid.h>
#include <immintrin.h>
#include <omp.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#define AVX512 __attribute__((target("avx512f,avx512vnni,avx512bf16,amx-tile,amx-int8,amx-bf16"), noinline))

AVX512 static float read_all(const char* p, size_t n) {
    __m512 a = _mm512_setzero_ps(), b = a, c = a, d = a;
    for (size_t i = 0; i < n; i += 256) {
        for (int line = 0; line < 256; line += 64) _mm_prefetch(p + i + 4096 + line, _MM_HINT_T0);
        a = _mm512_add_ps(a, _mm512_load_ps(p + i));
        b = _mm512_add_ps(b, _mm512_load_ps(p + i + 64));
        c = _mm512_add_ps(c, _mm512_load_ps(p + i + 128));
        d = _mm512_add_ps(d, _mm512_load_ps(p + i + 192));
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)));
}

constexpr int ROUNDS = 2000000;

// 24 independent sums, as many as a product's kernel keeps, in registers named by hand: a compiler would spill or fold them.
#define ONE(INSTRUCTION, SUM) INSTRUCTION " %%zmm30, %%zmm31, %%zmm" #SUM "\n"
#define EIGHT(I, A, B, C, D, E, F, G, H) ONE(I, A) ONE(I, B) ONE(I, C) ONE(I, D) ONE(I, E) ONE(I, F) ONE(I, G) ONE(I, H)
#define SUMS(NAME, INSTRUCTION)                                                                        \
    AVX512 static void NAME() {                                                                        \
        __asm__ volatile("vpxorq %%zmm30, %%zmm30, %%zmm30\n vpxorq %%zmm31, %%zmm31, %%zmm31" ::: "xmm30", "xmm31"); \
        for (int i = 0; i < ROUNDS / 24; ++i)                                                          \
            __asm__ volatile(EIGHT(INSTRUCTION, 0, 1, 2, 3, 4, 5, 6, 7) EIGHT(INSTRUCTION, 8, 9, 10, 11, 12, 13, 14, 15) \
                                 EIGHT(INSTRUCTION, 16, 17, 18, 19, 20, 21, 22, 23)::: "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", \
                             "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16",  \
                             "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23");           \
    }
SUMS(float32, "vfmadd231ps")
SUMS(bfloat16, "vdpbf16ps")
SUMS(int8, "vpdpbusd")

AVX512 static void tiles(bool integers) {
    struct alignas(64) {
        uint8_t palette = 1, start = 0, reserved[14] = {};
        uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    __asm__ volatile("ldtilecfg %0" ::"m"(config));
    for (int i = 0; i < ROUNDS / 64; ++i) {
        if (integers)
            __asm__ volatile("tdpbusd %tmm6, %tmm4, %tmm0; tdpbusd %tmm7, %tmm4, %tmm1; tdpbusd %tmm6, %tmm5, %tmm2; tdpbusd %tmm7, %tmm5, %tmm3");
        else
            __asm__ volatile("tdpbf16ps %tmm6, %tmm4, %tmm0; tdpbf16ps %tmm7, %tmm4, %tmm1; tdpbf16ps %tmm6, %tmm5, %tmm2; tdpbf16ps %tmm7, %tmm5, %tmm3");
    }
    _tile_release();
}

template <class Work>
double best_seconds(int threads, int repeats, Work work) {
    std::vector<double> seconds;
    for (int r = 0; r < repeats; ++r) {
        double started = omp_get_wtime();
#pragma omp parallel num_threads(threads)
        work(omp_get_thread_num());
        seconds.push_back(omp_get_wtime() - started);
    }
    std::sort(seconds.begin(), seconds.end());
    return seconds[repeats / 4];  // near the best, not the luckiest
}

int main(int argc, char** argv) {
    const int threads = argc > 1 ? std::atoi(argv[1]) : 2;
    const size_t size = (argc > 2 ? std::atoll(argv[2]) : 124) << 20;
    char* data = static_cast<char*>(std::aligned_alloc(1 << 21, size + (1 << 21)));
    madvise(data, size, MADV_HUGEPAGE);
    std::memset(data, 0, size);
    const size_t share = size / threads / 256 * 256;
    volatile float sink = 0;
    double seconds = best_seconds(threads, 21, [&](int thread) { sink = read_all(data + thread * share, share); });
    std::printf("{\"threads\": %d, \"read_megabytes\": %zu, \"read_gb_per_second\": %.1f", threads, size >> 20, share * threads / seconds / 1e9);
    auto report = [&](const char* name, double operations, auto work) {
        std::printf(", \"%s\": %.0f", name, operations * threads / best_seconds(threads, 5, work) / 1e9);
    };
    uint32_t a, b, c, d;
    __get_cpuid_count(7, 0, &a, &b, &c, &d);
    const bool vnni = c >> 11 & 1, has_tiles = d >> 24 & 1 && syscall(SYS_arch_prctl, 0x1023, 18) == 0;
    const bool amx_bf16 = has_tiles && d >> 22 & 1, amx_int8 = has_tiles && d >> 25 & 1;
    __get_cpuid_count(7, 1, &a, &b, &c, &d);
    report("float32_gflops", 32.0 * ROUNDS, [](int) { float32(); });
    if (a >> 5 & 1) report("bfloat16_gflops", 64.0 * ROUNDS, [](int) { bfloat16(); });
    if (vnni) report("int8_gops", 128.0 * ROUNDS, [](int) { int8(); });
    if (amx_bf16) report("amx_bfloat16_gflops", 16384.0 * 4 * (ROUNDS / 64), [](int) { tiles(false); });
    if (amx_int8) report("amx_int8_gops", 32768.0 * 4 * (ROUNDS / 64), [](int) { tiles(true); });
    std::puts("}");
}
