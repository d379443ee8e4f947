#include "bell.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "points.h"

#define NS_PER_S 1000000000u

uint32_t pshm_bell_arm(pshm_bell *bell) {
    PSHM_POINT();
    /* seq_cst: flag and word both come before the look that follows, see bell.h */
    atomic_store_explicit(&bell->waiting, 1, memory_order_seq_cst);
    PSHM_POINT();
    return atomic_load_explicit(&bell->word, memory_order_seq_cst);
}

uint32_t pshm_bell_word(const pshm_bell *bell) {
    /* seq_cst: the word comes before the look that follows */
    return atomic_load_explicit(&bell->word, memory_order_seq_cst);
}

void pshm_bell_disarm(pshm_bell *bell) {
    PSHM_POINT();
    /* seq_cst, as are all accesses to a bell */
    atomic_store_explicit(&bell->waiting, 0, memory_order_seq_cst);
}

bool pshm_bell_wait(pshm_bell *bell, uint32_t word, uint64_t timeout_ns) {
    struct timespec timeout = {.tv_sec = (time_t)(timeout_ns / NS_PER_S),
                               .tv_nsec = (long)(timeout_ns % NS_PER_S)};
    PSHM_POINT();
    /* Not PRIVATE: the ringer may be another process. The kernel compares the word and
     * puts us to sleep in one step. */
    long result = syscall(SYS_futex, &bell->word, FUTEX_WAIT, word, &timeout, NULL, 0);
    return result == 0 || errno != EINTR;
}

void pshm_bell_ring_always(pshm_bell *bell) {
    PSHM_POINT();
    /* seq_cst, and before the wake: a waiter between its look and its wait sees it */
    atomic_fetch_add_explicit(&bell->word, 1, memory_order_seq_cst);
    PSHM_POINT();
    syscall(SYS_futex, &bell->word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void pshm_bell_ring(pshm_bell *bell) {
    PSHM_POINT();
    /* seq_cst: not before what the caller published, which was seq_cst too */
    if (atomic_load_explicit(&bell->waiting, memory_order_seq_cst) != 0)
        pshm_bell_ring_always(bell);
}

uint64_t pshm_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}
