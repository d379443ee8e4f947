/* points: the places where a process may die.
 *
 * PSHM_POINT() stands before every atomic step on shared memory (load, store,
 * exchange, counter, futex call) and before plain writes to a segment. A normal
 * build has nothing there; with PSHM_CRASH_POINTS each is a place that
 * tests/crash_points.c kills a process at. Steps that only this process sees
 * (its lease table, its mutexes) have none: they go with it.
 */
#ifndef PSHM_POINTS_H
#define PSHM_POINTS_H

#ifdef PSHM_CRASH_POINTS

typedef struct pshm_point_site {
    const char *file;
    const char *function;
    long line;
    long reserved; /* 32 bytes, so that they lie side by side in their section */
} pshm_point_site;

/* The driver's. May not return. */
void pshm_point(const pshm_point_site *site);

/* They make up the section pshm_points, where those that are never passed count
 * too. */
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
