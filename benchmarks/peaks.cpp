// The machine's limits on N threads, as one line of JSON: memory read in GB/s, products in GFLOP/s or GOP/s. By the largest
// instruction set that this CPU has, or by a smaller one, named; which there are it asks the CPU, so it runs on any.
//
//     g++ -O2 -fopenmp benchmarks/peaks.cpp -o peaks && ./peaks 2 124 [scalar | avx2 | avx512 | amx | neon]
#include <omp.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "peaks.h"

#if defined(__x86_64__)
#include "peaks_x86.h"
#elif defined(__aarch64__)
#include "peaks_arm.h"
#else
#error "peaks.cpp knows x86-64 and AArch64"
#endif

template <class Work>
static double best_seconds(int threads, int repeats, Work work) {
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

static double read_speed(const InstructionSet& set, int threads, size_t size) {
    char* data = static_cast<char*>(std::aligned_alloc(1 << 21, size + (1 << 21)));
    madvise(data, size, MADV_HUGEPAGE);
    std::memset(data, 0, size);
    const size_t share = size / threads / 512 * 512;
    volatile float sink = 0;
    double seconds = best_seconds(threads, 21, [&](int thread) { sink = set.read(data + thread * share, share); });
    std::free(data);
    return share * threads / seconds;
}

static double product_speed(const std::vector<Products>& ways, int threads) {
    double best = 0;
    for (const Products& way : ways)
        best = std::max(best, way.operations * threads / best_seconds(threads, 5, [&](int) { way.run(); }));
    return best;
}

static const InstructionSet* find(const std::vector<InstructionSet>& sets, const char* name) {
    for (const InstructionSet& set : sets)
        if (std::strcmp(set.name, name) == 0) return &set;
    std::fprintf(stderr, "this CPU has no %s; it has", name);
    for (const InstructionSet& set : sets) std::fprintf(stderr, " %s", set.name);
    std::fputs("\n", stderr);
    std::exit(1);
}

int main(int argc, char** argv) {
    const int threads = argc > 1 ? std::atoi(argv[1]) : 2;
    const size_t megabytes = argc > 2 ? std::atoll(argv[2]) : 124;
    const std::vector<InstructionSet> sets = instruction_sets();
    const InstructionSet& set = argc > 3 ? *find(sets, argv[3]) : sets.back();
    std::printf("{\"set\": \"%s\", \"threads\": %d, \"read_megabytes\": %zu", set.name, threads, megabytes);
    std::printf(", \"read_gb_per_second\": %.1f", read_speed(set, threads, megabytes << 20) / 1e9);
    std::printf(", \"float32_gflops\": %.1f", product_speed(set.float32, threads) / 1e9);
    std::printf(", \"bfloat16_gflops\": %.1f", product_speed(set.bfloat16.empty() ? set.float32 : set.bfloat16, threads) / 1e9);
    std::printf(", \"int8_gops\": %.1f}\n", product_speed(set.int8, threads) / 1e9);
}
