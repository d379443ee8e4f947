/* stress: what the native tests share.
 *
 * A test runs its roles side by side, as threads of this process or as processes of their
 * own, over memory that all of them share. A check that fails prints what failed and ends
 * the program with status 1.
 */
#ifndef PSHM_STRESS_H
#define PSHM_STRESS_H

#include "../bell.h"
#include "../queue.h"

/* No role is ever away for that long: a role that sleeps so long has missed a wake. */
#define PSHM_TEST_PATIENCE_NS 10000000000u

/* Indexes start here, so that in every test they grow past 32 bits. */
#define PSHM_TEST_START 0xfffffff8u

typedef enum pshm_test_mode {
    PSHM_TEST_UNIT,
    PSHM_TEST_THREADS,
    PSHM_TEST_PROCESSES
} pshm_test_mode;

/* Tests that hardly ever sleep exchange this many times as many messages. */
#define PSHM_TEST_BUSY 8u

/* Options of all tests: messages per test, and the seed of patterns and pauses. Written
 * once, by main. */
typedef struct pshm_test_options {
    uint64_t count;
    uint64_t seed;
} pshm_test_options;
extern pshm_test_options pshm_test_option;

#define CHECK(condition, ...)                                                                    \
    do {                                                                                         \
        if (!(condition)) pshm_test_fail(__FILE__, __LINE__, __VA_ARGS__);                       \
    } while (0)

/* A check whose code is its own explanation. */
#define EXPECT(condition) CHECK(condition, "%s", #condition)

_Noreturn void pshm_test_fail(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Begin and end a test. Main thread only. */
void pshm_test_begin(const char *name, pshm_test_mode mode);
void pshm_test_passed(void);

/* A whole test of one role. Main thread only. */
void pshm_test_unit(const char *name, void (*body)(void));

/* Returns zeroed memory, page aligned, that forked children share. It is unmapped when the
 * test has passed. Main thread only. */
void *pshm_test_memory(uint64_t bytes);

/* Returns a queue in such memory, with its indexes at `start`. */
pshm_queue pshm_test_queue(uint32_t capacity, uint32_t cells, uint64_t start);

/* Runs role(shared, 0) to role(shared, roles - 1) side by side, in the mode of
 * the test that has begun, until all have returned. */
typedef void pshm_test_role(void *shared, uint32_t number);
void pshm_test_run(pshm_test_role *role, void *shared, uint32_t roles);

/* Sleeps on the role's own bell until look(context) is true. The look may take what it
 * finds. Fails when a wake is lost. */
typedef bool pshm_test_look(void *context);
void pshm_test_await(pshm_bell *bell, pshm_test_look *look, void *context, uint64_t *random);

/* A sender's look: whether a queue has room. It asks for the depth and does not try to push,
 * since only the depth loads the head seq_cst. Context: a pshm_queue. */
bool pshm_test_has_room(void *context);

/* Spins until look(context) is true, for roles that race in lockstep. Fails with `what` when
 * it never is. */
void pshm_test_spin(pshm_test_look *look, void *context, const char *what);

/* Return a role's private random state, and a value from it. The pause is most often nothing,
 * sometimes a short spin, and now and then a yield. */
uint64_t pshm_test_random(uint32_t role);
uint64_t pshm_test_next(uint64_t *random);
void pshm_test_pause(uint64_t *random);

/* Returns word `n` of the payload of message `sequence`. */
uint64_t pshm_test_pattern(uint64_t sequence, uint64_t n);

/* Notes that a message was taken off its edge. Fails when it was taken before. */
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
void pshm_stress_trace(pshm_test_mode mode);

#endif
