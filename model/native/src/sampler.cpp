// Every step works along one row in a fixed order. Filters cut by searching for a threshold, 32 halvings of the interval of all
// floats, each one pass over what is left; a first guess leaves little, so that 50,257 logits are read a few times only.
#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>

#include "exact_math.h"

namespace gpt2 {
namespace {

constexpr float INFINITY_ = std::numeric_limits<float>::infinity();
constexpr int PAD = 16;      // whole vectors are stored at the end of what is kept
constexpr int STRETCH = 64;  // logits whose maximum or sum is looked at first

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

// The sum of weights that none is left out of.
double sum_of(const Sampling& kernels, const float* weights, int num) {
    return kernels.mass_within(weights, weights, num, INFINITY_);
}

double mass_within(const Sampling& kernels, const SamplerScratch& row, float limit) {
    return kernels.mass_within(row.costs.data(), row.weights.data(), row.num, limit);
}

// Let go of all but those whose x (num) is at least `low` and at most `high`; ids, logits, costs and weights move together.
void keep(const Sampling& kernels, SamplerScratch& row, const std::vector<float>& x, float low, float high) {
    float* const values[] = {row.logits.data(), row.costs.data(), row.weights.data()};
    // What decides is read before it is moved: a vector at a time, from places at or after those that are written.
    row.num = kernels.keep(x.data(), low, high, row.num, row.ids.data(), values, 3);
}

void weigh(const Sampling& kernels, SamplerScratch& row) { kernels.weigh(row.logits.data(), row.num, row.weights.data()); }

// The k likeliest (Fan et al. 2018, section 5.4), and any as likely as the last.
void keep_top_k(const Sampling& kernels, SamplerScratch& row, int k) {
    if (k >= row.num) return;
    const int num_stretches = (row.num + STRETCH - 1) / STRETCH;
    if (k <= num_stretches) {
        // The k-th greatest of the stretches' maxima: k logits at least reach it, and few more.
        for (int s = 0; s < num_stretches; ++s)
            row.costs[s] = kernels.greatest(&row.logits[s * STRETCH], std::min(STRETCH, row.num - s * STRETCH));
        std::nth_element(row.costs.begin(), row.costs.begin() + k - 1, row.costs.begin() + num_stretches, std::greater<float>());
        keep(kernels, row, row.logits, row.costs[k - 1], INFINITY_);
    }
    // The greatest threshold that k logits reach.
    uint32_t above = first_key(key_of(-INFINITY_), key_of(INFINITY_),
                               [&](float t) { return kernels.count_at_least(row.logits.data(), row.num, t) < k; });
    keep(kernels, row, row.logits, of_key(above - 1), INFINITY_);
}

// The least cost up to which the mass reaches `wanted`, and the mass of what costs less.
struct Limit {
    float cost;
    double mass_below;
};

// Halvings of the costs' own range first, each a pass over all; then of all floats, passes over the few that are left between.
Limit find_limit(const Sampling& kernels, SamplerScratch& row, float low, float high, double wanted) {
    constexpr int COARSE = 7;
    double below = 0.0;  // of what costs at most `low`
    for (int i = 0; i < COARSE && low < high; ++i) {
        const float middle = low + (high - low) / 2;
        const double mass = mass_within(kernels, row, middle);
        if (mass >= wanted)
            high = middle;
        else
            low = middle, below = mass;
    }
    std::memcpy(row.near_costs.data(), row.costs.data(), row.num * sizeof(float));
    std::memcpy(row.near_weights.data(), row.weights.data(), row.num * sizeof(float));
    float* const values[] = {row.near_costs.data(), row.near_weights.data()};
    const float beyond = below > 0 ? std::nextafter(low, INFINITY_) : -INFINITY_;
    const int num = kernels.keep(row.costs.data(), beyond, high, row.num, nullptr, values, 2);
    auto mass_up_to = [&](float cost) {
        return below + kernels.mass_within(row.near_costs.data(), row.near_weights.data(), num, cost);
    };
    const uint32_t key = first_key(key_of(-INFINITY_), key_of(INFINITY_), [&](float t) { return mass_up_to(t) >= wanted; });
    return {of_key(key), key > key_of(-INFINITY_) ? mass_up_to(of_key(key - 1)) : 0.0};
}

// Tokens in order of rising cost, among equals by id, until their share of all reaches p; the first always stays.
void keep_mass(const Sampling& kernels, SamplerScratch& row, double p) {
    // A p of next to nothing still asks for one token.
    const double wanted = std::max(p, 1e-30) * mass_within(kernels, row, INFINITY_);
    const float least = *std::min_element(row.costs.begin(), row.costs.begin() + row.num);
    float greatest = INFINITY_;
    for (float reach : {4.0f, 8.0f, 16.0f, 32.0f})  // mostly enough, and then few are left
        if (mass_within(kernels, row, least + reach) >= wanted) {
            greatest = least + reach;
            keep(kernels, row, row.costs, -INFINITY_, greatest);
            break;
        }
    const Limit limit = find_limit(kernels, row, least, greatest, wanted);
    keep(kernels, row, row.costs, -INFINITY_, limit.cost);
    double mass = limit.mass_below;
    int kept = 0;
    for (int i = 0; i < row.num; ++i) {
        if (row.costs[i] == limit.cost) {
            if (mass >= wanted) continue;
            mass += row.weights[i];
        }
        row.ids[kept] = row.ids[i], row.logits[kept++] = row.logits[i];
    }
    row.num = kept;
}

// The smallest set of likeliest tokens whose probability reaches p (Holtzman et al. 2020, section 3.1).
void keep_top_p(const Sampling& kernels, SamplerScratch& row, double p) {
    weigh(kernels, row);
    for (int i = 0; i < row.num; ++i) row.costs[i] = -row.logits[i];
    keep_mass(kernels, row, p);
}

// Tokens at least p times as likely as the likeliest (Nguyen et al. 2024, section 3).
void keep_min_p(const Sampling& kernels, SamplerScratch& row, double p) {
    keep(kernels, row, row.logits, float(kernels.greatest(row.logits.data(), row.num) + exact_log(p)), INFINITY_);
}

// Tokens whose surprise is nearest to the entropy, until they make up p (Meister et al. 2023, section 4).
void keep_typical(const Sampling& kernels, SamplerScratch& row, double p) {
    weigh(kernels, row);
    const double total = sum_of(kernels, row.weights.data(), row.num), log_total = exact_log(total);
    const double max = kernels.greatest(row.logits.data(), row.num);
    double entropy = 0.0;
    for (int i = 0; i < row.num; ++i)
        if (row.weights[i] > 0.0f) entropy -= row.weights[i] / total * (double(row.logits[i]) - max - log_total);
    for (int i = 0; i < row.num; ++i) row.costs[i] = float(std::abs(-(double(row.logits[i]) - max - log_total) - entropy));
    keep_mass(kernels, row, p);
}

// Repetition on all seen tokens (Keskar et al. 2019, section 4.1), frequency and presence on generated ones alone.
void penalise(SamplerScratch& row, const gpt2_draw& draw, const History& history) {
    for (int i = draw.num_prompt; i < history.num; ++i) ++row.generated[history.ids[i]];
    for (int i = 0; i < history.num; ++i) {
        const int id = history.ids[i];
        if (row.seen[id]++) continue;
        double logit = row.logits[id];
        logit = logit > 0 ? logit / draw.repetition_penalty : logit * draw.repetition_penalty;
        int count = row.generated[id];
        logit -= draw.frequency_penalty * count + draw.presence_penalty * (count > 0);
        row.logits[id] = float(std::min(1e30, std::max(-1e30, logit)));  // an infinite logit has no log-probability
    }
    for (int i = 0; i < history.num; ++i) row.seen[history.ids[i]] = row.generated[history.ids[i]] = 0;
}

// Leave what the mask allows.
void apply_mask(SamplerScratch& row, const uint8_t* mask) {
    for (int first = 0; first < row.num; first += 8) {
        const int allowed = mask[first / 8];
        if (allowed == 0xFF) continue;
        for (int i = first; i < std::min(first + 8, row.num); ++i)
            if (!(allowed >> (i - first) & 1)) row.logits[i] = -INFINITY_;
    }
}

// The row that the draw is made of: bias, penalties, then what may not be drawn. False if that is all.
bool adjust(const Sampling& kernels, SamplerScratch& row, const gpt2_draw& draw, const gpt2_step_input& input,
            const History& history) {
    for (int i = draw.bias.begin; i < draw.bias.end; ++i) row.logits[input.biases[i].token_id] += input.biases[i].bias;
    if (draw.repetition_penalty != 1 || draw.frequency_penalty != 0 || draw.presence_penalty != 0) penalise(row, draw, history);
    for (int i = draw.banned.begin; i < draw.banned.end; ++i) row.logits[input.banned_ids[i]] = -INFINITY_;
    if (draw.banned.begin == draw.banned.end && draw.mask < 0) return true;
    if (draw.mask >= 0) apply_mask(row, input.masks + size_t(draw.mask) * ((row.num + 7) / 8));
    return kernels.greatest(row.logits.data(), row.num) > -INFINITY_;
}

int32_t argmax(const SamplerScratch& row) {
    return int32_t(std::max_element(row.logits.begin(), row.logits.begin() + row.num) - row.logits.begin());
}

// The first token whose cumulative weight exceeds `uniform` times the total: stretch by stretch, then within one.
int32_t inverse_cdf(const Sampling& kernels, const SamplerScratch& row, double uniform) {
    auto sum_from = [&](int i) { return sum_of(kernels, &row.weights[i], std::min(STRETCH, row.num - i)); };
    double total = 0.0, before = 0.0;
    for (int i = 0; i < row.num; i += STRETCH) total += sum_from(i);
    if (!(total > 0 && total < std::numeric_limits<double>::infinity())) return -1;
    const double target = std::min(uniform * total, std::nextafter(total, 0.0));
    for (int i = 0; i < row.num; i += STRETCH) {
        const double after = before + sum_from(i);
        for (int j = i; after > target && j < std::min(i + STRETCH, row.num); ++j)
            if (row.weights[j] > 0 && (before += row.weights[j]) > target) return row.ids[j];
        before = after;
    }
    int last = row.num - 1;  // rounding may leave a stretch's own sum below the target: then the last that can be drawn
    while (row.weights[last] == 0) --last;
    return row.ids[last];
}

}  // namespace

void SamplerScratch::resize(int vocab_size) {
    ids.resize(vocab_size + PAD), seen.resize(vocab_size), generated.resize(vocab_size);
    for (std::vector<float>* values : {&logits, &costs, &weights, &near_costs, &near_weights}) values->resize(vocab_size + PAD);
}

int32_t sample(const Sampling& kernels, const float* logits, int vocab_size, const gpt2_draw& draw, const gpt2_step_input& input,
               const History& history, SamplerScratch& row) {
    row.num = vocab_size;
    std::memcpy(row.logits.data(), logits, vocab_size * sizeof(float));
    if (!adjust(kernels, row, draw, input, history)) return -1;
    if (draw.temperature == 0) return argmax(row);
    std::iota(row.ids.begin(), row.ids.begin() + vocab_size, 0);
    if (draw.top_k > 0) keep_top_k(kernels, row, draw.top_k);  // before the temperature, whose rounding could make logits equal
    kernels.temper(row.logits.data(), row.num, draw.temperature);
    if (draw.top_p < 1) keep_top_p(kernels, row, draw.top_p);
    if (draw.min_p > 0) keep_min_p(kernels, row, draw.min_p);
    if (draw.typical_p < 1) keep_typical(kernels, row, draw.typical_p);
    weigh(kernels, row);
    return inverse_cdf(kernels, row, draw.uniform);
}

}  // namespace gpt2
