/* points: the places where a process may die.
 *
 * PSHM_POINT() stands before every atomic step on shared memory (load, store,
 * exchange, counter, futex call) and before plain writes to a segment. In a normal
 * build it is nothing. With PSHM_CRASH_POINTS, tests/crash_points.c kills a process at
 * each of them. Steps that only their own process sees (its leases, its mutexes) have
 * none: they die with it.
 *
 * Inline functions in headers have none either: each file that includes them would
 * have a point of its own.
 */
#ifndef PSHM_POINTS_H
#define PSHM_POINTS_H

#ifdef PSHM_CRASH_POINTS

typedef struct pshm_point_site {
    const char *file;
    const char *function;
    long line;
    long reserved; /* makes it 32 bytes, so that sites lie side by side in their section */
} pshm_point_site;

/* Called at each point. The test driver defines it; it may not return. */
void pshm_point(const pshm_point_site *site);

/* All sites together make up the section pshm_points, so that those which are never
 * passed can be counted as well. */
#define PSHM_POINT()                                                                             \
    do {                                                                                         \
        static const pshm_point_site pshm_here                                                   \
            __attribute__((used, section("pshm_points"), aligned(32))) = {__FILE__, __func__,    \
                                                                          __LINE__, 0};          \
        pshm_point(&pshm_here);                                                                  \
    } while (0)

#else
#define PSHM_POINT() ((void)0)
#endif

#endif
