// Every step works along one row in a fixed order. Filters cut by searching for a threshold, 32 halvings of the interval of all floats,
// each one pass over the row: for 50,257 logits that is some 20 times faster than sorting them.
#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma")
#include "simd.h"

namespace gpt2 {
namespace {

constexpr float INFINITY_ = std::numeric_limits<float>::infinity();

// Floats and integers in the same order: -inf < ... < -0 < 0 < ... < inf.
inline uint32_t key_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

inline float of_key(uint32_t key) {
    uint32_t bits = key & 0x80000000u ? key & 0x7FFFFFFFu : ~key;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

// The least key in [low, high] for which `holds`, which is monotonic and holds for high.
template <class Holds>
uint32_t first_key(uint32_t low, uint32_t high, Holds holds) {
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (holds(of_key(middle)))
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

int count_at_least(const std::vector<float>& x, float threshold) {
    int count = 0;
    for (size_t i = 0; i < x.size(); i += 16) {
        __mmask16 lanes = first_lanes(int(x.size() - i));
        count += __builtin_popcount(_mm512_mask_cmp_ps_mask(lanes, _mm512_maskz_loadu_ps(lanes, &x[i]), _mm512_set1_ps(threshold), _CMP_GE_OQ));
    }
    return count;
}

// The sum of the weights whose cost is at most `limit`, in double precision, in a fixed order: it never falls as the limit rises.
double mass_within(const std::vector<float>& costs, const std::vector<float>& weights, float limit) {
    __m512d low = _mm512_setzero_pd(), high = _mm512_setzero_pd();
    for (size_t i = 0; i < costs.size(); i += 16) {
        __mmask16 lanes = first_lanes(int(costs.size() - i));
        __mmask16 within = _mm512_mask_cmp_ps_mask(lanes, _mm512_maskz_loadu_ps(lanes, &costs[i]), _mm512_set1_ps(limit), _CMP_LE_OQ);
        __m512 w = _mm512_maskz_loadu_ps(within, &weights[i]);
        low = _mm512_add_pd(low, _mm512_cvtps_pd(_mm512_castps512_ps256(w)));
        high = _mm512_add_pd(high, _mm512_cvtps_pd(_mm512_extractf32x8_ps(w, 1)));
    }
    return _mm512_reduce_add_pd(_mm512_add_pd(low, high));
}

float max_of(const std::vector<float>& x) {
    __m512 best = _mm512_set1_ps(-INFINITY_);
    for (size_t i = 0; i < x.size(); i += 16) {
        __mmask16 lanes = first_lanes(int(x.size() - i));
        best = _mm512_mask_max_ps(best, lanes, best, _mm512_maskz_loadu_ps(lanes, &x[i]));
    }
    return _mm512_reduce_max_ps(best);
}

// weights = exp(logits - max), and their sum.
double weigh(const std::vector<float>& logits, std::vector<float>& weights) {
    __m512 max = _mm512_set1_ps(max_of(logits));
    for (size_t i = 0; i < logits.size(); i += 16) {
        __mmask16 lanes = first_lanes(int(logits.size() - i));
        __m512 x = _mm512_maskz_loadu_ps(lanes, &logits[i]);
        __mmask16 kept = _mm512_mask_cmp_ps_mask(lanes, x, _mm512_set1_ps(-INFINITY_), _CMP_NEQ_UQ);
        _mm512_mask_storeu_ps(&weights[i], lanes, _mm512_maskz_mov_ps(kept, exp16(_mm512_sub_ps(x, max))));
    }
    return mass_within(weights, weights, INFINITY_);
}

// The k likeliest (Fan et al. 2018, section 5.4), and any as likely as the last.
void keep_top_k(std::vector<float>& logits, int k) {
    if (k >= int(logits.size())) return;
    // The greatest threshold that k logits reach.
    uint32_t above = first_key(key_of(-INFINITY_), key_of(INFINITY_), [&](float t) { return count_at_least(logits, t) < k; });
    float threshold = of_key(above - 1);
    for (float& logit : logits)
        if (logit < threshold) logit = -INFINITY_;
}

// Tokens in order of rising cost, among equals by id, until their share of all reaches p; the first always stays.
void keep_mass(std::vector<float>& logits, SamplerScratch& scratch, double p) {
    const std::vector<float>&costs = scratch.costs, &weights = scratch.weights;
    // A p of next to nothing still asks for one token.
    double wanted = std::max(p, 1e-30) * mass_within(costs, weights, INFINITY_);
    uint32_t key = first_key(key_of(-INFINITY_), key_of(INFINITY_), [&](float t) { return mass_within(costs, weights, t) >= wanted; });
    float limit = of_key(key);
    double mass = key > key_of(-INFINITY_) ? mass_within(costs, weights, of_key(key - 1)) : 0.0;
    for (size_t i = 0; i < logits.size(); ++i) {
        if (costs[i] < limit) continue;
        if (costs[i] > limit || mass >= wanted)
            logits[i] = -INFINITY_;
        else
            mass += weights[i];
    }
}

// The smallest set of likeliest tokens whose probability reaches p (Holtzman et al. 2020, section 3.1).
void keep_top_p(std::vector<float>& logits, SamplerScratch& scratch, double p) {
    weigh(logits, scratch.weights);
    for (size_t i = 0; i < logits.size(); ++i) scratch.costs[i] = -logits[i];
    keep_mass(logits, scratch, p);
}

// Tokens at least p times as likely as the likeliest (Nguyen et al. 2024, section 3).
void keep_min_p(std::vector<float>& logits, double p) {
    float threshold = float(max_of(logits) + std::log(p));
    for (float& logit : logits)
        if (logit < threshold) logit = -INFINITY_;
}

// Tokens whose surprise is nearest to the entropy, until they make up p (Meister et al. 2023, section 4).
void keep_typical(std::vector<float>& logits, SamplerScratch& scratch, double p) {
    double total = weigh(logits, scratch.weights), log_total = std::log(total);
    float max = max_of(logits);
    double entropy = 0.0;
    for (size_t i = 0; i < logits.size(); ++i)
        if (scratch.weights[i] > 0.0f) entropy -= scratch.weights[i] / total * (double(logits[i]) - max - log_total);
    for (size_t i = 0; i < logits.size(); ++i)
        scratch.costs[i] = float(std::abs(-(double(logits[i]) - max - log_total) - entropy));
    keep_mass(logits, scratch, p);
}

// Repetition on all seen tokens (Keskar et al. 2019, section 4.1), frequency and presence on generated ones alone.
void penalise(std::vector<float>& logits, const gpt2_draw& draw, const int32_t* ids, SamplerScratch& scratch) {
    scratch.seen.resize(logits.size());
    scratch.generated.resize(logits.size());
    for (int i = draw.generated.begin; i < draw.generated.end; ++i) ++scratch.generated[ids[i]];
    auto apply = [&](int id) {
        if (scratch.seen[id]++) return;
        double logit = logits[id];
        logit = logit > 0 ? logit / draw.repetition_penalty : logit * draw.repetition_penalty;
        int count = scratch.generated[id];
        logit -= draw.frequency_penalty * count + draw.presence_penalty * (count > 0);
        logits[id] = float(std::min(1e30, std::max(-1e30, logit)));  // an infinite logit has no log-probability
    };
    for (int i = draw.prompt.begin; i < draw.prompt.end; ++i) apply(ids[i]);
    for (int i = draw.generated.begin; i < draw.generated.end; ++i) apply(ids[i]);
    for (int i = draw.prompt.begin; i < draw.prompt.end; ++i) scratch.seen[ids[i]] = 0;
    for (int i = draw.generated.begin; i < draw.generated.end; ++i) scratch.seen[ids[i]] = scratch.generated[ids[i]] = 0;
}

int32_t argmax(const std::vector<float>& x) {
    return int32_t(std::max_element(x.begin(), x.end()) - x.begin());
}

// The first token whose cumulative weight exceeds u times the total; found block by block, so that the sum has one order.
int32_t inverse_cdf(const std::vector<float>& weights, double uniform, double total) {
    double target = std::min(uniform * total, std::nextafter(total, 0.0)), before = 0.0;
    int32_t last = -1;
    for (size_t i = 0; i < weights.size(); ++i) {
        if (weights[i] == 0.0f) continue;
        last = int32_t(i);
        before += weights[i];
        if (before > target) break;
    }
    return last;  // rounding may leave the whole sum below the target: then the last that can be drawn
}

}  // namespace

int32_t sample(const float* logits, int vocab_size, const gpt2_draw& draw, const int32_t* ids, const float* values, SamplerScratch& scratch) {
    std::vector<float>& row = scratch.logits;
    row.assign(logits, logits + vocab_size);
    scratch.costs.resize(vocab_size);
    scratch.weights.resize(vocab_size);
    for (int i = draw.bias.begin; i < draw.bias.end; ++i) row[ids[i]] += values[i];
    if (draw.repetition_penalty != 1 || draw.frequency_penalty != 0 || draw.presence_penalty != 0) penalise(row, draw, ids, scratch);
    for (int i = draw.banned.begin; i < draw.banned.end; ++i) row[ids[i]] = -INFINITY_;
    if (draw.temperature == 0) return argmax(row);
    if (draw.top_k > 0) keep_top_k(row, draw.top_k);  // before the temperature, whose rounding could make logits equal
    // Counted from the greatest, so that the smallest temperature overflows to -inf alone.
    double greatest = max_of(row);
    for (float& logit : row) logit = float((logit - greatest) / draw.temperature);
    if (draw.top_p < 1) keep_top_p(row, scratch, draw.top_p);
    if (draw.min_p > 0) keep_min_p(row, draw.min_p);
    if (draw.typical_p < 1) keep_typical(row, scratch, draw.typical_p);
    double total = weigh(row, scratch.weights);
    return total > 0 && total < std::numeric_limits<double>::infinity() ? inverse_cdf(scratch.weights, draw.uniform, total) : -1;
}

}  // namespace gpt2
