/* counters: words that one process counts in and any process reads.
 *
 * A counter is a plain 64-bit word in shared memory. It is accessed with relaxed
 * atomics: it orders nothing, and costs its writer a single store. A reader gets a
 * value that was right at some moment. Wait-free throughout.
 */
#ifndef PSHM_COUNTERS_H
#define PSHM_COUNTERS_H

#include <stdint.h>

#define PSHM_BUCKETS 608u /* of a histogram: up to 2^41 ns, which is 36 minutes */

/* Adds to a counter. Any number of writers. */
static inline void pshm_count(uint64_t *counter, uint64_t n) {
    __atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

/* Adds one to a counter that only this thread writes. */
static inline void pshm_count_own(uint64_t *counter) {
    __atomic_store_n(counter, *counter + 1, __ATOMIC_RELAXED);
}

/* Adds a duration to a histogram of PSHM_BUCKETS counters. Each power of two is cut
 * into 16 buckets, so a bucket's width is at most 1/16 of its values. The last bucket
 * has no upper end. Any number of writers. */
void pshm_histogram_add(uint64_t *histogram, uint64_t ns);

/* Returns the duration in the middle of a bucket, in ns. */
uint64_t pshm_histogram_value(uint32_t bucket);

#endif
