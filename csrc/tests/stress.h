/* stress: what the native tests share.
 *
 * A test runs its roles side by side, as threads of this process or as
 * processes of their own, over memory that all of them see. A check that fails
 * says what failed and ends the program with status 1.
 */
#ifndef PSHM_STRESS_H
#define PSHM_STRESS_H

#include "../bell.h"
#include "../queue.h"

/* Longer than any role is ever away: who sleeps this long has missed a wake. */
#define PSHM_TEST_PATIENCE_NS 10000000000u

/* Indexes start here, so that every test takes them past 32 bits. */
#define PSHM_TEST_START 0xfffffff8u

typedef enum pshm_test_mode {
    PSHM_TEST_UNIT,
    PSHM_TEST_THREADS,
    PSHM_TEST_PROCESSES
} pshm_test_mode;

/* Tests that hardly sleep exchange so many times the messages of the others. */
#define PSHM_TEST_BUSY 8u

/* What all tests are told: messages per test, and the seed of patterns and
 * pauses. Written once, by main. */
typedef struct pshm_test_options {
    uint64_t count;
    uint64_t seed;
} pshm_test_options;
extern pshm_test_options pshm_test_option;

#define CHECK(condition, ...)                                                                    \
    do {                                                                                         \
        if (!(condition)) pshm_test_fail(__FILE__, __LINE__, __VA_ARGS__);                       \
    } while (0)

/* A check that its own words explain. */
#define EXPECT(condition) CHECK(condition, "%s", #condition)

_Noreturn void pshm_test_fail(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* A test stands between these two. Main thread only. */
void pshm_test_begin(const char *name, pshm_test_mode mode);
void pshm_test_passed(void);

/* A whole test of one role. Main thread only. */
void pshm_test_unit(const char *name, void (*body)(void));

/* Zeroed memory, page aligned, that forked children share; it goes when the
 * test has passed. Main thread only. */
void *pshm_test_memory(uint64_t bytes);

/* A queue in such memory, with its indexes at `start`. */
pshm_queue pshm_test_queue(uint32_t capacity, uint32_t cells, uint64_t start);

/* Runs role(shared, 0) to role(shared, roles - 1) side by side, in the mode of
 * the test that has begun, until all have returned. */
typedef void pshm_test_role(void *shared, uint32_t number);
void pshm_test_run(pshm_test_role *role, void *shared, uint32_t roles);

/* Sleeps on the role's own bell until look(context) is true. The look may do
 * what it looks for. Fails when a wake is lost. */
typedef bool pshm_test_look(void *context);
void pshm_test_await(pshm_bell *bell, pshm_test_look *look, void *context, uint64_t *random);

/* Room in a queue, for the sender's look: depth, not push, since its load of
 * the head is seq_cst. Context: a pshm_queue. */
bool pshm_test_has_room(void *context);

/* Spins until look(context) is true, for roles that race in lockstep. */
void pshm_test_spin(pshm_test_look *look, void *context);

/* A role's private random state, a value from it, and a pause that is mostly
 * nothing, at times a short spin, now and then a yield. */
uint64_t pshm_test_random(uint32_t role);
uint64_t pshm_test_next(uint64_t *random);
void pshm_test_pause(uint64_t *random);

/* Word `n` of what message `sequence` carries. */
uint64_t pshm_test_pattern(uint64_t sequence, uint64_t n);

/* Notes that a message was taken off its edge; fails when it was before. */
void pshm_test_take(_Atomic uint8_t *taken, uint64_t sequence);

/* Fails unless each of the messages was taken. */
void pshm_test_all_taken(const _Atomic uint8_t *taken, uint64_t count);

/* The tests, one file each. */
void pshm_unit_ring(void);
void pshm_unit_queue(void);
void pshm_stress_queue(pshm_test_mode mode);
void pshm_stress_ring(pshm_test_mode mode);
void pshm_stress_drop(pshm_test_mode mode);
void pshm_stress_bell(pshm_test_mode mode);

#endif
