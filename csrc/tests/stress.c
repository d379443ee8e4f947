#include "stress.h"

#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROLES 4u
#define MAPS 16u
#define NS_PER_MS 1000000u

pshm_test_options pshm_test_option = {.count = 150000, .seed = 1};

static const char *const mode_name[] = {"unit", "threads", "processes"};

/* The test that is running. */
static struct {
    const char *name;
    pshm_test_mode mode;
    uint64_t started;
    uint32_t maps;
    struct {
        void *memory;
        uint64_t bytes;
    } map[MAPS];
} current;

static uint32_t passed;
static pid_t main_process;

_Noreturn void pshm_test_fail(const char *file, int line, const char *format, ...) {
    char message[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    fflush(stdout);
    fprintf(stderr, "FAILED %s, %s: %s (%s:%d)\n", current.name, mode_name[current.mode], message,
            file, line);
    /* when a role is a process, its parent prints the last line */
    if (getpid() == main_process) printf("stress: %" PRIu32 " passed, 1 failed\n", passed);
    fflush(stdout);
    _exit(EXIT_FAILURE);
}

void pshm_test_begin(const char *name, pshm_test_mode mode) {
    current.name = name;
    current.mode = mode;
    current.started = pshm_now();
}

void pshm_test_passed(void) {
    passed++;
    printf("ok %-9s %-44s %6" PRIu64 " ms\n", mode_name[current.mode], current.name,
           (pshm_now() - current.started) / NS_PER_MS);
    while (current.maps > 0) {
        current.maps--;
        munmap(current.map[current.maps].memory, current.map[current.maps].bytes);
    }
}

void pshm_test_unit(const char *name, void (*body)(void)) {
    pshm_test_begin(name, PSHM_TEST_UNIT);
    body();
    pshm_test_passed();
}

void *pshm_test_memory(uint64_t bytes) {
    CHECK(current.maps < MAPS, "more than %u pieces of memory", MAPS);
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED, "no memory: %" PRIu64 " bytes", bytes);
    current.map[current.maps].memory = memory;
    current.map[current.maps++].bytes = bytes;
    return memory;
}

pshm_queue pshm_test_queue(uint32_t capacity, uint32_t cells, uint64_t start) {
    pshm_queue_words *words = pshm_test_memory(sizeof *words + cells * sizeof(uint64_t));
    pshm_queue_format(words);
    atomic_store(&words->head, start);
    atomic_store(&words->tail, start);
    return (pshm_queue){.words = words, .capacity = capacity, .mask = cells - 1};
}

typedef struct part {
    pshm_test_role *role;
    void *shared;
    uint32_t number;
} part;

static void *play(void *argument) {
    part *own = argument;
    own->role(own->shared, own->number);
    return NULL;
}

static void run_threads(part *parts, uint32_t roles) {
    pthread_t thread[ROLES];
    for (uint32_t n = 0; n < roles; n++)
        CHECK(pthread_create(&thread[n], NULL, play, &parts[n]) == 0, "no thread");
    for (uint32_t n = 0; n < roles; n++) pthread_join(thread[n], NULL);
}

static void run_processes(part *parts, uint32_t roles) {
    pid_t child[ROLES];
    fflush(stdout);
    for (uint32_t n = 0; n < roles; n++) {
        child[n] = fork();
        CHECK(child[n] >= 0, "no process");
        if (child[n] > 0) continue;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        play(&parts[n]);
        exit(EXIT_SUCCESS);
    }
    int failure = 0;
    for (uint32_t left = roles; left > 0; left--) {
        int status;
        pid_t ended = waitpid(-1, &status, 0);
        CHECK(ended > 0, "no child to wait for");
        for (uint32_t n = 0; n < roles; n++)
            if (child[n] == ended) child[n] = 0;
        if (status == 0 || failure != 0) continue;
        failure = status;
        /* the other roles would wait for it for ever */
        for (uint32_t n = 0; n < roles; n++)
            if (child[n] > 0) kill(child[n], SIGKILL);
    }
    CHECK(failure == 0, "a role ended with status %#x", (unsigned)failure);
}

void pshm_test_run(pshm_test_role *role, void *shared, uint32_t roles) {
    part parts[ROLES];
    CHECK(roles <= ROLES, "more than %u roles", ROLES);
    for (uint32_t n = 0; n < roles; n++) parts[n] = (part){role, shared, n};
    if (current.mode == PSHM_TEST_PROCESSES)
        run_processes(parts, roles);
    else
        run_threads(parts, roles);
}

void pshm_test_await(pshm_bell *bell, pshm_test_look *look, void *context, uint64_t *random) {
    while (!look(context)) {
        uint32_t word = pshm_bell_arm(bell);
        bool found = look(context);
        if (!found) {
            pshm_test_pause(random); /* room for a ring between the look and the wait */
            uint64_t asleep = pshm_now();
            pshm_bell_wait(bell, word, PSHM_TEST_PATIENCE_NS);
            CHECK(pshm_now() - asleep < PSHM_TEST_PATIENCE_NS, "a wake was lost");
        }
        pshm_bell_disarm(bell);
        if (found) return;
    }
}

bool pshm_test_has_room(void *context) {
    const pshm_queue *queue = context;
    return pshm_queue_depth(queue) < queue->capacity;
}

void pshm_test_spin(pshm_test_look *look, void *context, const char *what) {
    uint64_t started = pshm_now();
    for (uint32_t spins = 1; !look(context); spins++) {
        if (spins % 1024 != 0) continue;
        CHECK(pshm_now() - started < PSHM_TEST_PATIENCE_NS, "for good: %s", what);
        sched_yield();
    }
}

static uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

uint64_t pshm_test_random(uint32_t role) {
    return mix(pshm_test_option.seed + role) | 1;
}

uint64_t pshm_test_next(uint64_t *random) {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return *random;
}

void pshm_test_pause(uint64_t *random) {
    uint64_t chance = pshm_test_next(random) >> 20;
    if (chance % 1024 == 0) sched_yield();
    if (chance % 16 != 0) return;
    uint64_t spins = (chance >> 10) % 256;
    for (volatile uint64_t n = 0; n < spins; n++) continue;
}

uint64_t pshm_test_pattern(uint64_t sequence, uint64_t n) {
    return mix(pshm_test_option.seed ^ sequence << 8 ^ n);
}

void pshm_test_take(_Atomic uint8_t *taken, uint64_t sequence) {
    uint8_t before = atomic_fetch_add_explicit(&taken[sequence], 1, memory_order_relaxed);
    CHECK(before == 0, "message %" PRIu64 " was taken twice", sequence);
}

void pshm_test_all_taken(const _Atomic uint8_t *taken, uint64_t count) {
    for (uint64_t n = 0; n < count; n++)
        CHECK(atomic_load_explicit(&taken[n], memory_order_relaxed) == 1,
              "message %" PRIu64 " was lost", n);
}

static uint64_t number_of(const char *text) {
    char *end;
    uint64_t number = strtoull(text, &end, 0);
    if (*text >= '0' && *text <= '9' && *end == '\0') return number;
    fprintf(stderr, "stress: not a number: %s\n", text);
    exit(2);
}

int main(int arguments, char **argument) {
    bool threads = true;
    bool processes = true;
    for (int n = 1; n < arguments; n++) {
        bool more = n + 1 < arguments;
        if (more && strcmp(argument[n], "--count") == 0)
            pshm_test_option.count = number_of(argument[++n]);
        else if (more && strcmp(argument[n], "--seed") == 0)
            pshm_test_option.seed = number_of(argument[++n]);
        else if (strcmp(argument[n], "--threads") == 0)
            processes = false;
        else if (strcmp(argument[n], "--processes") == 0)
            threads = false;
        else {
            fprintf(stderr,
                    "usage: stress [--count MESSAGES] [--seed SEED] [--threads | --processes]\n"
                    "MESSAGES is per test. Without the last, both kinds run.\n");
            return 2;
        }
    }
    main_process = getpid();
    pshm_unit_ring();
    pshm_unit_queue();
    for (pshm_test_mode mode = PSHM_TEST_THREADS; mode <= PSHM_TEST_PROCESSES; mode++) {
        if (mode == PSHM_TEST_THREADS ? !threads : !processes) continue;
        pshm_stress_queue(mode);
        pshm_stress_ring(mode);
        pshm_stress_drop(mode);
        pshm_stress_bell(mode);
        pshm_stress_trace(mode);
    }
    printf("stress: %" PRIu32 " passed, 0 failed\n", passed);
    return EXIT_SUCCESS;
}
