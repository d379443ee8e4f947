#include "counters.h"

void pshm_histogram_add(uint64_t *histogram, uint64_t ns) {
    uint64_t bucket = ns;
    if (ns >= 16) {
        uint32_t power = 63u - (uint32_t)__builtin_clzll(ns);
        bucket = (power - 3u) * 16u + ((ns >> (power - 4u)) & 15u);
    }
    if (bucket >= PSHM_BUCKETS) bucket = PSHM_BUCKETS - 1;
    pshm_count(&histogram[bucket], 1);
}

uint64_t pshm_histogram_value(uint32_t bucket) {
    if (bucket < 16) return bucket;
    uint32_t shift = bucket / 16u - 1u;
    uint64_t low = (uint64_t)(16u + bucket % 16u) << shift;
    return low + ((1ull << shift) >> 1);
}
