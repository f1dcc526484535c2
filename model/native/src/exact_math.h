// The logarithm in double precision, the same to the bit on every machine: the C library's is not. Plain operations alone, each
// rounded once; no fused multiply-adds, which not every CPU has.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

namespace gpt2 {

// ln x to two units in the last place, for x > 0 that is not denormal; -inf for less, x for infinity and NaN.
inline double exact_log(double x) {
    if (x != x || x == std::numeric_limits<double>::infinity()) return x;
    if (x < std::numeric_limits<double>::min()) return -std::numeric_limits<double>::infinity();
    uint64_t word;
    std::memcpy(&word, &x, 8);
    int n = int(word >> 52) - 1023;
    word = (word & 0xFFFFFFFFFFFFFull) | 0x3FF0000000000000ull;
    double m;
    std::memcpy(&m, &word, 8);
    if (m > 1.4142135623730951) m *= 0.5, ++n;
    // ln m = 2 artanh(s) = 2 (s + s^3/3 + s^5/5 + ...), s = (m - 1) / (m + 1), |s| <= 0.172: the next term is below 2^-60.
    const double s = (m - 1.0) / (m + 1.0), z = s * s;
    double series = 0.0;
    for (int i = 21; i > 1; i -= 2) series = z * (1.0 / i + series);
    constexpr double LN2_HIGH = 6.93147180369123816490e-01, LN2_LOW = 1.90821492927058770002e-10;
    return n * LN2_HIGH + (2.0 * s + (2.0 * s * series + n * LN2_LOW));
}

}  // namespace gpt2
