/* stdatomic: C11's atomics, and the builtins of them that the core uses, as calls to relacy.
 *
 * The words stay plain memory. Each access goes to relacy.cpp with its address, its size and
 * its order; that finds the word's history by the address.
 */
#ifndef PSHM_WEAK_STDATOMIC_H
#define PSHM_WEAK_STDATOMIC_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef int memory_order;
#define memory_order_relaxed __ATOMIC_RELAXED
#define memory_order_acquire __ATOMIC_ACQUIRE
#define memory_order_release __ATOMIC_RELEASE
#define memory_order_acq_rel __ATOMIC_ACQ_REL
#define memory_order_seq_cst __ATOMIC_SEQ_CST

/* Where in the core an access stands. */
typedef struct weak_site {
    const char *function;
    const char *file;
    unsigned line;
} weak_site;

uint64_t weak_load(const void *word, unsigned bytes, int order, const weak_site *site);
void weak_store(void *word, unsigned bytes, uint64_t value, int order, const weak_site *site);
uint64_t weak_add(void *word, unsigned bytes, uint64_t value, int order, const weak_site *site);
uint64_t weak_and(void *word, unsigned bytes, uint64_t value, int order, const weak_site *site);
uint64_t weak_swap(void *word, unsigned bytes, uint64_t value, int order, const weak_site *site);
bool weak_exchange(void *word, unsigned bytes, void *expected, uint64_t value, bool may_fail,
                   int order, int failure, const weak_site *site);

#ifdef __cplusplus
}
#endif

#define _Atomic

#ifndef __cplusplus

#define WEAK_SITE (&(const weak_site){__func__, __FILE__, __LINE__})
#define WEAK_VALUE(word, value) ((__typeof__(*(word)))(value))

#define atomic_load_explicit(word, order)                                                        \
    WEAK_VALUE(word, weak_load(word, sizeof *(word), order, WEAK_SITE))
#define atomic_store_explicit(word, value, order)                                                \
    weak_store(word, sizeof *(word), (uint64_t)(value), order, WEAK_SITE)
#define atomic_fetch_add_explicit(word, value, order)                                            \
    WEAK_VALUE(word, weak_add(word, sizeof *(word), value, order, WEAK_SITE))
#define atomic_fetch_and_explicit(word, value, order)                                            \
    WEAK_VALUE(word, weak_and(word, sizeof *(word), value, order, WEAK_SITE))
#define atomic_exchange_explicit(word, value, order)                                             \
    WEAK_VALUE(word, weak_swap(word, sizeof *(word), value, order, WEAK_SITE))
#define atomic_compare_exchange_strong_explicit(word, expected, value, order, failure)           \
    weak_exchange(word, sizeof *(word), expected, value, false, order, failure, WEAK_SITE)
#define atomic_compare_exchange_weak_explicit(word, expected, value, order, failure)             \
    weak_exchange(word, sizeof *(word), expected, value, true, order, failure, WEAK_SITE)

#define __atomic_load_n(word, order) atomic_load_explicit(word, order)
#define __atomic_store_n(word, value, order) atomic_store_explicit(word, value, order)
#define __atomic_fetch_add(word, value, order) atomic_fetch_add_explicit(word, value, order)
#define __atomic_exchange_n(word, value, order) atomic_exchange_explicit(word, value, order)
#define __atomic_compare_exchange_n(word, expected, value, weak, success, failure)               \
    atomic_compare_exchange_strong_explicit(word, expected, value, success, failure)

#endif

#endif
