/* stress_trace: writers that lap each other in a small ring, under the eyes of a reader; and the
 * end of a trace, after which none of them may write. */
#include "stress.h"

#include <inttypes.h>
#include <string.h>

#include "../trace.h"

#define CELLS 16u
#define WRITERS 3u
#define READER WRITERS
#define ENDS 500u

typedef struct world {
    void *ring;
    uint64_t bytes;
    uint64_t count;
    _Atomic bool reading;
    _Atomic uint32_t writing;
    _Atomic bool over;
} world;

static pshm_trace_event event_of(uint32_t writer, uint64_t n) {
    return (pshm_trace_event){.time_ns = n,
                              .began_ns = pshm_test_pattern(n, writer),
                              .sequence = pshm_test_pattern(n, writer + WRITERS),
                              .kind = PSHM_TRACE_SPAN,
                              .detail = (uint32_t)n,
                              .routine = (uint16_t)writer,
                              .other = (uint16_t)n,
                              .origin = (uint32_t)(n >> 16)};
}

static bool look_reading(void *context) {
    return atomic_load(&((world *)context)->reading);
}

static void write_events(world *world, uint32_t writer) {
    uint64_t random = pshm_test_random(writer);
    if (!pshm_trace_is_on())
        pshm_trace_begin(world->ring, CELLS); /* a forked child is not traced */
    pshm_test_spin(look_reading, world, "nobody reads");
    for (uint64_t n = 1; n <= world->count; n++) {
        pshm_trace_event event = event_of(writer, n);
        pshm_trace_note(&event);
        if (n % 8 == 0) pshm_test_pause(&random);
    }
    atomic_fetch_sub(&world->writing, 1);
}

/* Each event is whole, and those of one writer are in order. */
static void read_events(world *world) {
    atomic_store(&world->reading, true);
    uint64_t turns = 0;
    while (atomic_load(&world->writing) != 0) {
        pshm_trace_event found[CELLS];
        uint64_t before[WRITERS] = {0}, earlier = turns;
        uint32_t count = pshm_trace_read(world->ring, CELLS, found, CELLS, &turns);
        CHECK(turns >= earlier, "turns go back");
        for (uint32_t k = 0; k < count; k++) {
            uint32_t writer = found[k].routine;
            CHECK(writer < WRITERS, "an event of nobody: %" PRIu32, writer);
            pshm_trace_event whole = event_of(writer, found[k].time_ns);
            CHECK(memcmp(&whole, &found[k], sizeof whole) == 0, "half an event");
            CHECK(found[k].time_ns > before[writer], "events out of order");
            before[writer] = found[k].time_ns;
        }
    }
    pshm_trace_event found[CELLS];
    uint32_t count = pshm_trace_read(world->ring, CELLS, found, CELLS, &turns);
    CHECK(turns == WRITERS * world->count, "%" PRIu64 " turns", turns);
    CHECK(count > 0, "nothing is left");
}

static void write_or_read(void *shared, uint32_t number) {
    if (number == READER)
        read_events(shared);
    else
        write_events(shared, number);
}

static world *make_world(void) {
    world *world = pshm_test_memory(sizeof *world);
    world->count = pshm_test_option.count * PSHM_TEST_BUSY;
    world->bytes = pshm_trace_bytes(CELLS);
    world->ring = pshm_test_memory(world->bytes);
    world->writing = WRITERS;
    pshm_trace_format(world->ring, CELLS, 0, 1, 1);
    EXPECT(pshm_trace_cells(world->ring, world->bytes) == CELLS);
    return world;
}

/* Writes all the time, to whatever ring there is. */
static void write_on(world *world, uint32_t writer) {
    for (uint64_t n = 1; !atomic_load(&world->over); n++) {
        pshm_trace_event event = event_of(writer, n);
        pshm_trace_note(&event);
    }
}

/* Begins and ends. After an end the memory is its own: ThreadSanitizer would see a writer. */
static void end_again_and_again(world *world) {
    uint64_t written = 0;
    for (uint32_t round = 0; round < ENDS; round++) {
        uint64_t random = pshm_test_random(round), turns;
        pshm_trace_event found[CELLS];
        memset(world->ring, 0, world->bytes);
        pshm_trace_format(world->ring, CELLS, 0, 1, round);
        pshm_trace_begin(world->ring, CELLS);
        for (uint32_t n = 0; n < 20; n++) pshm_test_pause(&random);
        pshm_trace_end();
        EXPECT(!pshm_trace_is_on());
        pshm_trace_read(world->ring, CELLS, found, CELLS, &turns);
        written += turns;
        memset(world->ring, 0, world->bytes);
        for (uint32_t n = 0; n < 20; n++) pshm_test_pause(&random);
        for (uint64_t at = 0; at < world->bytes; at++)
            CHECK(((const uint8_t *)world->ring)[at] == 0, "somebody wrote after the end");
    }
    atomic_store(&world->over, true);
    CHECK(written > 0, "nobody wrote");
}

static void write_or_end(void *shared, uint32_t number) {
    if (number == READER)
        end_again_and_again(shared);
    else
        write_on(shared, number);
}

void pshm_stress_trace(pshm_test_mode mode) {
    pshm_test_begin("trace: writers that lap each other", mode);
    world *world = make_world();
    pshm_trace_begin(world->ring, CELLS);
    pshm_test_run(write_or_read, world, WRITERS + 1);
    pshm_trace_end();
    pshm_test_passed();
    if (mode != PSHM_TEST_THREADS) return;
    pshm_test_begin("trace: an end waits for the writers", mode);
    world = make_world();
    pshm_test_run(write_or_end, world, WRITERS + 1);
    pshm_test_passed();
}
