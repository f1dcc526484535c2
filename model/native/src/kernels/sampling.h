// What a sampler does to the values of one row; see ../sampler.cpp. Arrays have room for 16 values more than they hold.
#pragma once

#include "functions.h"

namespace gpt2 {
namespace {

int count_at_least(const float* x, int num, float threshold) {
    int count = 0;
    for (int i = 0; i < num; i += 16)
        count += __builtin_popcount(bits(both(first_lanes(num - i), at_least(load_first(x + i, num - i), splat(threshold)))));
    return count;
}

float greatest_of(const float* x, int num) {
    const F lowest = splat(-INFINITY_);
    F best = lowest;
    for (int i = 0; i < num; i += 16) best = max(best, select(first_lanes(num - i), load_first(x + i, num - i), lowest));
    return greatest(best);
}

// The sum of the weights whose cost is at most `limit`, in double precision, in a fixed order: it never falls as the limit rises.
double mass_within(const float* costs, const float* weights, int num, float limit) {
    D low = splat_double(0.0), high = low;
    for (int i = 0; i < num; i += 16) {
        const M within = both(first_lanes(num - i), at_least(splat(limit), load_first(costs + i, num - i)));
        const F w = keep(within, load_first(weights + i, num - i));
        low = low + low_half(w), high = high + high_half(w);
    }
    return sum(low + high);
}

// Of what stands side by side in ids and in each of `values`, keep where low <= x <= high; returns how many.
int keep_within(const float* x, float low, float high, int num, int32_t* ids, float* const* values, int num_values) {
    int kept = 0;
    for (int i = 0; i < num; i += 16) {
        const F v = load(x + i);
        const M stay = both(first_lanes(num - i), both(at_least(v, splat(low)), at_least(splat(high), v)));
        if (!bits(stay)) continue;
        if (ids) compress(ids + kept, stay, load(ids + i));
        for (int j = 0; j < num_values; ++j) compress(values[j] + kept, stay, load(values[j] + i));
        kept += __builtin_popcount(bits(stay));
    }
    return kept;
}

// weights = exp(logits - max); nothing for what is impossible, or so unlikely that exp does not go on: were it drawn at all, then
// at a uniform of zero.
void weigh_logits(const float* logits, int num, float* weights) {
    const F top = splat(greatest_of(logits, num)), lowest = splat(-INFINITY_);
    for (int i = 0; i < num; i += 16) {
        const F x = load(logits + i), below = x - top;
        const M never = either(equal(x, lowest), above(splat(-87.0f), below));
        store(weights + i, keep(but_not(first_lanes(num - i), never), exp(below)));
    }
}

// logits / temperature, counted from the greatest, so that the smallest temperature overflows to -inf alone.
void temper(float* logits, int num, double temperature) {
    const D top = splat_double(greatest_of(logits, num)), divisor = splat_double(temperature);
    for (int i = 0; i < num; i += 16) {
        const F x = load(logits + i);
        store(logits + i, to_float((low_half(x) - top) / divisor, (high_half(x) - top) / divisor));
    }
}

}  // namespace
}  // namespace gpt2
