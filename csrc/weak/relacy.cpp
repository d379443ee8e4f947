/* Runs a program under relacy: the core and the program are C and compiled as such, with
 * relacy/stdatomic.h for <stdatomic.h>; here is what they call.
 *
 *     program [iterations]
 *
 * In each iteration relacy draws who runs next and which of the stores that the memory model
 * allows a load returns. It draws the same in every run of this program. Status 0: all were
 * sound. 1: an error was found, and its execution is printed.
 */
#include <relacy/relacy.hpp>

#include <setjmp.h>

extern "C" {
#include "points.h"
}
#include "weak.h"

typedef rl::atomic<uint64_t> word_history;
typedef rl::var<uint64_t> plain_history;

namespace {

unsigned const MAIN = WEAK_THREADS;
unsigned const DEATH_IN = 24; /* points, on the average */
size_t const MUTEXES = 2, WORDS = 1024, PLACES = 4096, PAYLOADS = 64, MEMORY = 0x10000;

struct shared_word {
    void const *address;
    unsigned bytes;
    bool alive; /* in this iteration */
    alignas(word_history) unsigned char history[sizeof(word_history)];

    word_history &at() {
        return *reinterpret_cast<word_history *>(history);
    }
};

struct payload_slot {
    unsigned char const *address;
    size_t bytes;
    alignas(plain_history) unsigned char history[sizeof(plain_history)];

    plain_history &at() {
        return *reinterpret_cast<plain_history *>(history);
    }
};

struct sleeper {
    void const *word;
    uint32_t expected;
};

/* The words that were met so far. Their addresses are the same in each iteration. */
shared_word words[WORDS];
size_t word_count;
uint16_t place[PLACES]; /* 1 + index in words[], by a hash of the address */
payload_slot payloads[PAYLOADS];
size_t payload_count;

struct {
    pthread_mutex_t const *address;
    alignas(rl::mutex) unsigned char history[sizeof(rl::mutex)];
} mutexes[MUTEXES];

sleeper asleep[WEAK_THREADS];
bool returned[WEAK_THREADS];
uint64_t *mortal[WEAK_THREADS]; /* the flag that says that it is dead */
jmp_buf out[WEAK_THREADS];
alignas(64) unsigned char memory[WEAK_THREADS + 1][MEMORY];
size_t used[WEAK_THREADS + 1];
unsigned awake; /* threads that have not ended and do not sleep */
bool alone;     /* before the threads, or after them */

/* A word that only the threads access has no history when it is met for the first time. It gets
 * one from the next iteration on. The present iteration is blind: accesses to the word are
 * plain, and no error is believed. That is so in the first few iterations. */
bool blind;

unsigned self() {
    return alone ? MAIN : rl::thread_index();
}

rl::debug_info info_of(weak_site const *site) {
    return rl::debug_info(site->function, site->file, site->line);
}

rl::memory_order order_of(int order) {
    switch (order) {
    case __ATOMIC_RELAXED:
        return rl::mo_relaxed;
    case __ATOMIC_ACQUIRE:
        return rl::mo_acquire;
    case __ATOMIC_RELEASE:
        return rl::mo_release;
    case __ATOMIC_ACQ_REL:
        return rl::mo_acq_rel;
    default:
        return rl::mo_seq_cst;
    }
}

uint64_t peek(void const *address, unsigned bytes) {
    uint64_t value = 0;
    __builtin_memcpy(&value, address, bytes);
    return value;
}

void poke(void *address, unsigned bytes, uint64_t value) {
    __builtin_memcpy(address, &value, bytes);
}

void bear(shared_word &word) {
    new (word.history) word_history(peek(word.address, word.bytes));
    word.alive = true;
}

[[noreturn]] void give_up(char const *what) {
    fprintf(stderr, "relacy.cpp: %s\n", what);
    _exit(2);
}

shared_word *find_word(void const *address, unsigned bytes) {
    size_t at = reinterpret_cast<uintptr_t>(address) / 4 * 0x9e3779b1u % PLACES;
    while (place[at] != 0 && words[place[at] - 1].address != address) at = (at + 1) % PLACES;
    if (place[at] == 0) {
        if (word_count == WORDS) give_up("too many words");
        words[word_count].address = address;
        words[word_count].bytes = bytes;
        place[at] = static_cast<uint16_t>(++word_count);
    }
    shared_word *word = &words[place[at] - 1];
    if (word->bytes != bytes) give_up("a word is accessed in two sizes");
    if (!word->alive) {
        if (alone)
            bear(*word);
        else
            blind = true;
    }
    return word->alive ? word : nullptr;
}

payload_slot *find_payload(void const *address) {
    unsigned char const *at = static_cast<unsigned char const *>(address);
    for (size_t n = 0; n < payload_count; n++)
        if (at >= payloads[n].address && at < payloads[n].address + payloads[n].bytes)
            return &payloads[n];
    return nullptr;
}

/* Looks for races only: the value is in memory. */
void touch(void const *address, bool writes, rl::debug_info const &info) {
    payload_slot *slot = find_payload(address);
    if (slot == nullptr || blind) return;
    if (writes)
        slot->at()(info).store(0);
    else
        slot->at()(info).load();
}

rl::mutex &mutex_of(pthread_mutex_t const *mutex) {
    unsigned n = 0;
    while (n < MUTEXES && mutexes[n].address != nullptr && mutexes[n].address != mutex) n++;
    if (n == MUTEXES) give_up("too many mutexes");
    mutexes[n].address = mutex;
    return *reinterpret_cast<rl::mutex *>(mutexes[n].history);
}

} // namespace

extern "C" {

/* ---- the words ------------------------------------------------------------------------- */

uint64_t weak_load(void const *word, unsigned bytes, int order, weak_site const *site) {
    if (find_payload(word) != nullptr) {
        touch(word, false, info_of(site));
        return peek(word, bytes);
    }
    shared_word *it = find_word(word, bytes);
    return it == nullptr ? peek(word, bytes) : it->at()(info_of(site)).load(order_of(order));
}

void weak_store(void *word, unsigned bytes, uint64_t value, int order, weak_site const *site) {
    shared_word *it = find_word(word, bytes);
    if (it != nullptr) it->at()(info_of(site)).store(value, order_of(order));
    poke(word, bytes, value);
}

uint64_t weak_add(void *word, unsigned bytes, uint64_t value, int order, weak_site const *site) {
    shared_word *it = find_word(word, bytes);
    uint64_t old = it == nullptr ? peek(word, bytes)
                                 : it->at()(info_of(site)).fetch_add(value, order_of(order));
    poke(word, bytes, old + value);
    return old;
}

uint64_t weak_and(void *word, unsigned bytes, uint64_t value, int order, weak_site const *site) {
    shared_word *it = find_word(word, bytes);
    uint64_t old = it == nullptr ? peek(word, bytes)
                                 : it->at()(info_of(site)).fetch_and(value, order_of(order));
    poke(word, bytes, old & value);
    return old;
}

uint64_t weak_swap(void *word, unsigned bytes, uint64_t value, int order, weak_site const *site) {
    shared_word *it = find_word(word, bytes);
    uint64_t old = it == nullptr ? peek(word, bytes)
                                 : it->at()(info_of(site)).exchange(value, order_of(order));
    poke(word, bytes, value);
    return old;
}

bool weak_exchange(void *word, unsigned bytes, void *expected, uint64_t value, bool may_fail,
                   int order, int failure, weak_site const *site) {
    uint64_t seen = peek(expected, bytes);
    shared_word *it = find_word(word, bytes);
    bool done;
    if (it == nullptr) {
        done = peek(word, bytes) == seen;
        seen = peek(word, bytes);
    } else if (may_fail) {
        done = it->at()(info_of(site))
                   .compare_exchange_weak(seen, value, order_of(order), order_of(failure));
    } else {
        done = it->at()(info_of(site))
                   .compare_exchange_strong(seen, value, order_of(order), order_of(failure));
    }
    if (done)
        poke(word, bytes, value);
    else
        poke(expected, bytes, seen);
    return done;
}

/* ---- what hooks.h and weak.h declare ---------------------------------------------------- */

long weak_futex(uint32_t *word, int operation, uint32_t expected, struct timespec const *) {
    if (operation == FUTEX_WAKE) return 0;
    weak_site site = {__func__, __FILE__, __LINE__};
    awake--;
    /* seq_cst: the kernel compares under a lock, with full barriers */
    while (weak_load(word, sizeof *word, __ATOMIC_SEQ_CST, &site) == expected) {
        if (awake == 0) { /* nobody is left who could ring */
            asleep[self()] = {word, expected};
            longjmp(out[self()], 1);
        }
        rl::yield(1, $);
    }
    awake++;
    return 0;
}

bool weak_sleeps(unsigned thread) {
    sleeper const &it = asleep[thread];
    return it.word != nullptr && peek(it.word, sizeof it.expected) == it.expected;
}

bool weak_returned(unsigned thread) {
    return returned[thread];
}

int weak_clock(struct timespec *now) {
    now->tv_sec = 0;
    now->tv_nsec = 1;
    return 0;
}

void *weak_memory(size_t bytes) {
    void *there = &memory[self()][used[self()]];
    used[self()] += (bytes + 63) / 64 * 64;
    if (used[self()] > MEMORY) give_up("too little memory");
    return there;
}

void weak_copy(void *to, void const *from, size_t bytes) {
    touch(from, false, $);
    touch(to, true, $);
    __builtin_memcpy(to, from, bytes);
}

void weak_lock(pthread_mutex_t *mutex) {
    if (self() < weak_together) mutex_of(mutex).lock($);
}

void weak_unlock(pthread_mutex_t *mutex) {
    if (self() < weak_together) mutex_of(mutex).unlock($);
}

void weak_payload(void *payload, size_t bytes, size_t slot_bytes) {
    unsigned char *at = static_cast<unsigned char *>(payload);
    for (size_t n = 0; n < bytes; n += slot_bytes) {
        if (payload_count == PAYLOADS) give_up("too many slots");
        payload_slot &slot = payloads[payload_count++];
        slot.address = at + n;
        slot.bytes = slot_bytes;
        new (slot.history) plain_history(0);
    }
}

void weak_write(uint64_t *at, uint64_t value) {
    touch(at, true, $);
    *at = value;
}

uint64_t weak_read(uint64_t const *at) {
    touch(at, false, $);
    return *at;
}

void weak_die(void) {
    awake--;
    longjmp(out[rl::thread_index()], 1);
}

void weak_mortal(uint64_t *death) {
    mortal[self()] = death;
}

void weak_may_die(void) {
    if (alone || mortal[self()] == nullptr || rl::rand(DEATH_IN) != 0) return;
    weak_tell(mortal[self()]);
    weak_die();
}

void pshm_point(pshm_point_site const *) {
    weak_may_die();
}

void weak_tell(uint64_t *flag) {
    weak_site site = {__func__, __FILE__, __LINE__};
    weak_store(flag, sizeof *flag, 1, __ATOMIC_RELEASE, &site);
}

void weak_await(uint64_t *flag) {
    weak_site site = {__func__, __FILE__, __LINE__};
    for (int tries = 0; tries < 40; tries++) {
        if (weak_load(flag, sizeof *flag, __ATOMIC_ACQUIRE, &site) != 0) return;
        rl::yield(1, $);
    }
    weak_die(); /* it is not told in this execution */
}

void weak_check(bool holds, char const *what, char const *file, int line) {
    if (holds) return;
    if (!blind)
        rl::ctx().fail_test(what, rl::test_result_user_assert_failed,
                            rl::debug_info("", file, static_cast<unsigned>(line)));
    if (!alone) weak_die();
}

} // extern "C"

/* ---- the iterations -------------------------------------------------------------------- */

namespace {

struct program : rl::test_suite<program, WEAK_THREADS> {
    void before() {
        alone = true;
        blind = false;
        awake = weak_threads;
        memset(used, 0, sizeof used);
        memset(asleep, 0, sizeof asleep);
        memset(returned, 0, sizeof returned);
        memset(mortal, 0, sizeof mortal);
        memset(memory, 0, sizeof memory);
        payload_count = 0;
        for (size_t n = 0; n < word_count; n++) words[n].alive = false;
        for (auto &mutex : mutexes) {
            mutex.address = nullptr;
            new (mutex.history) rl::mutex();
        }
        weak_before();
        for (size_t n = 0; n < word_count; n++)
            if (!words[n].alive) bear(words[n]);
        alone = false;
    }

    void thread(unsigned self) {
        if (self >= weak_threads || setjmp(out[self]) != 0) return;
        weak_thread(self);
        returned[self] = true;
        awake--;
    }

    void after() {
        alone = true;
        weak_after();
        for (size_t n = 0; n < word_count; n++)
            if (words[n].alive) words[n].at().~word_history();
        for (size_t n = 0; n < payload_count; n++) payloads[n].at().~plain_history();
        for (auto &mutex : mutexes)
            reinterpret_cast<rl::mutex *>(mutex.history)->rl::mutex::~mutex();
    }
};

} // namespace

int main(int count, char **argument) {
    rl::test_params parameters;
    std::ostringstream progress;
    parameters.iteration_count = count > 1 ? strtoul(argument[1], nullptr, 10) : 100000;
    parameters.execution_depth_limit = 10000;
    parameters.progress_stream = &progress;
    return rl::simulate<program>(parameters) ? 0 : 1;
}
