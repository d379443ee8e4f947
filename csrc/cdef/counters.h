/* See csrc/counters.h. */
#define PSHM_BUCKETS ...

void pshm_histogram_add(uint64_t *histogram, uint64_t ns);
uint64_t pshm_histogram_value(uint32_t bucket);
