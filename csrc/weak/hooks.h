/* hooks: what the C core is given in place of the kernel and the C library, while a checker
 * runs it.
 *
 * It is included before anything else in each file of the core, and in the programs. The
 * checkers know neither futexes nor clocks, and a thread of a program stands for a process
 * of the pipe, or for one of the threads of such a process.
 */
#ifndef PSHM_WEAK_HOOKS_H
#define PSHM_WEAK_HOOKS_H

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <stdatomic.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A sleep: returns 0 when the word has changed, or changes. A thread for which it never does
 * stops here, and weak_sleeps says so. Waking does nothing: the change of the word is enough. */
long weak_futex(_Atomic uint32_t *word, int operation, uint32_t expected,
                const struct timespec *timeout);

/* The time stands still. */
int weak_clock(struct timespec *now);

/* Zeroed memory, which is given back when the threads have ended. */
void *weak_memory(size_t bytes);

/* memcpy; of payload it is a plain access, so that races are seen. */
void weak_copy(void *to, const void *from, size_t bytes);

/* A mutex is one of its process: between processes it orders nothing. */
void weak_lock(pthread_mutex_t *mutex);
void weak_unlock(pthread_mutex_t *mutex);

#ifdef __cplusplus
}
#else

#undef errno
#define errno EINVAL
#define syscall(number, word, operation, value, timeout, ...)                                    \
    weak_futex(word, operation, value, timeout)
#define clock_gettime(clock, now) weak_clock(now)
#define calloc(count, bytes) weak_memory((count) * (bytes))
#define free(memory) ((void)(memory))
#define memcpy(to, from, bytes) weak_copy(to, from, bytes)
#define pthread_mutex_init(mutex, attributes) ((void)(mutex))
#define pthread_mutex_destroy(mutex) ((void)(mutex))
#define pthread_mutex_lock(mutex) weak_lock(mutex)
#define pthread_mutex_unlock(mutex) weak_unlock(mutex)

#endif

#endif
