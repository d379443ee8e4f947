/* stress_ring: slots of one ring go through small graphs of queues and bells.
 *
 * Node 0 owns the ring and sends. Every other node receives, and forwards what it received
 * on its own edges. Each edge has a holder bit of its own. The node that takes a message off
 * an edge, be it the receiver or the sender, checks the payload while it holds the edge's
 * bit, and then drops the bit.
 */
#include "stress.h"

#include <inttypes.h>

#define NODES 4u
#define EDGES 3u
#define WORDS 32u /* of 8 bytes, per slot */
#define RING 7u
#define FIRST_GENERATION 0xfffffff0u /* soon past 32 bits */

typedef enum policy { BLOCK, OLDEST, NEWEST } policy;

typedef struct shape {
    const char *name;
    uint32_t slots;
    bool borrow; /* receivers may keep a slot until the next message */
    /* Ends with capacity 0. Edges into a node come before the edges out of it. */
    struct {
        uint32_t from;
        uint32_t to;
        policy policy;
        uint32_t capacity;
    } edge[EDGES];
} shape;

static const shape shapes[] = {
    {"ring: block", 8, true, {{0, 1, BLOCK, 4}}},
    {"ring: block, short of slots", 2, false, {{0, 1, BLOCK, 4}}},
    {"ring: block, one slot", 1, false, {{0, 1, BLOCK, 1}}},
    {"ring: drop_oldest", 8, true, {{0, 1, OLDEST, 4}}},
    {"ring: drop_oldest, short of slots", 3, true, {{0, 1, OLDEST, 4}}},
    {"ring: drop_newest", 8, true, {{0, 1, NEWEST, 2}}},
    {"ring: fan-out, block", 8, true, {{0, 1, BLOCK, 2}, {0, 2, BLOCK, 2}, {0, 3, BLOCK, 2}}},
    {"ring: fan-out, mixed", 8, true, {{0, 1, BLOCK, 2}, {0, 2, OLDEST, 1}, {0, 3, NEWEST, 2}}},
    {"ring: fan-out, one slot", 1, false, {{0, 1, BLOCK, 1}, {0, 2, BLOCK, 1}}},
    {"ring: forward", 6, true, {{0, 1, BLOCK, 2}, {1, 2, BLOCK, 2}}},
    {"ring: forward, drop_oldest", 6, true, {{0, 1, OLDEST, 2}, {1, 2, OLDEST, 1}}},
    {"ring: two ways", 6, true, {{0, 1, BLOCK, 2}, {1, 2, BLOCK, 2}, {0, 2, BLOCK, 2}}},
};

typedef struct edge {
    uint32_t from;
    uint32_t to;
    policy policy;
    bool lossless; /* it, and all edges on the way to it */
    uint32_t bit;
    pshm_queue queue;
    _Atomic uint8_t *taken;
    /* each written by one end */
    uint64_t sent;
    uint64_t unsent; /* evicted or refused */
    uint64_t received;
} edge;

typedef struct world {
    const shape *shape;
    uint64_t count;
    pshm_ring ring;
    uint8_t *payload;
    pshm_bell bell[NODES];
    uint32_t nodes;
    uint32_t edges;
    edge edge[EDGES];
    _Atomic uint64_t freed; /* drops that left no holder */
} world;

static uint64_t *payload_of(const world *world, uint64_t descriptor) {
    return (uint64_t *)(void *)(world->payload +
                                pshm_descriptor_slot(descriptor) * world->ring.slot_bytes);
}

static void fill(const world *world, uint64_t descriptor, uint64_t sequence) {
    uint64_t *word = payload_of(world, descriptor);
    word[0] = sequence;
    for (uint32_t n = 1; n < WORDS; n++) word[n] = pshm_test_pattern(sequence, n);
}

static uint64_t verify(const world *world, uint64_t descriptor) {
    const uint64_t *word = payload_of(world, descriptor);
    uint64_t sequence = word[0];
    CHECK(pshm_descriptor_ring(descriptor) == RING, "descriptor of another ring");
    CHECK(sequence < world->count, "message %" PRIu64 " was never sent", sequence);
    for (uint32_t n = 1; n < WORDS; n++)
        CHECK(word[n] == pshm_test_pattern(sequence, n), "message %" PRIu64 " is torn at word %u",
              sequence, n);
    return sequence;
}

static void drop(world *world, uint64_t descriptor, uint32_t bit) {
    uint32_t left = pshm_ring_drop(&world->ring, descriptor, bit);
    CHECK(left != UINT32_MAX, "drop of bit %#" PRIx32 " refused, descriptor %#" PRIx64, bit,
          descriptor);
    CHECK((left & bit) == 0, "bit %#" PRIx32 " still set after its drop", bit);
    if (left == 0) atomic_fetch_add_explicit(&world->freed, 1, memory_order_relaxed);
    pshm_bell_ring(&world->bell[0]); /* the owner may be waiting for a slot */
}

/* Ends an edge's hold on a message, and returns its sequence number. Either end. */
static uint64_t leave(world *world, edge *edge, uint64_t descriptor) {
    uint64_t sequence = verify(world, descriptor);
    CHECK(pshm_ring_holds(&world->ring, descriptor, edge->bit), "bit %#" PRIx32 " is not set",
          edge->bit);
    pshm_test_take(edge->taken, sequence);
    drop(world, descriptor, edge->bit);
    return sequence;
}

static bool evict(world *world, edge *edge) {
    uint64_t oldest;
    if (!pshm_queue_pop(&edge->queue, &oldest)) return false;
    leave(world, edge, oldest);
    edge->unsent++;
    return true;
}

static void send(world *world, edge *edge, uint64_t descriptor, uint64_t *random) {
    CHECK(pshm_ring_hold(&world->ring, descriptor, edge->bit), "hold of bit %#" PRIx32 " refused",
          edge->bit);
    edge->sent++;
    pshm_test_pause(random);
    while (!pshm_queue_push(&edge->queue, descriptor)) {
        if (edge->policy == BLOCK) {
            pshm_test_await(&world->bell[edge->from], pshm_test_has_room, &edge->queue, random);
        } else if (edge->policy == OLDEST) {
            evict(world, edge);
        } else {
            leave(world, edge, descriptor);
            edge->unsent++;
            return;
        }
    }
    pshm_bell_ring(&world->bell[edge->to]);
}

static void send_all(world *world, uint32_t node, uint64_t descriptor, uint64_t *random) {
    for (uint32_t n = 0; n < world->edges; n++)
        if (world->edge[n].from == node) send(world, &world->edge[n], descriptor, random);
}

static void close_all(world *world, uint32_t node) {
    for (uint32_t n = 0; n < world->edges; n++) {
        if (world->edge[n].from != node) continue;
        pshm_queue_close(&world->edge[n].queue);
        pshm_bell_ring(&world->bell[world->edge[n].to]);
    }
}

/* The source's look for a free slot. */
typedef struct slot_look {
    world *world;
    uint64_t descriptor;
} slot_look;

static bool look_for_slot(void *context) {
    slot_look *own = context;
    own->descriptor = pshm_ring_alloc(&own->world->ring);
    return own->descriptor != PSHM_NO_SLOT;
}

static uint64_t take_slot(world *world, uint64_t *random) {
    slot_look own = {.world = world};
    while (!look_for_slot(&own)) {
        bool evicted = false;
        for (uint32_t n = 0; n < world->edges; n++) {
            edge *edge = &world->edge[n];
            if (edge->from == 0 && edge->policy == OLDEST && evict(world, edge)) evicted = true;
        }
        if (evicted) continue;
        pshm_test_await(&world->bell[0], look_for_slot, &own, random);
        break;
    }
    return own.descriptor;
}

static void source(world *world) {
    uint64_t random = pshm_test_random(0);
    for (uint64_t sequence = 0; sequence < world->count; sequence++) {
        uint64_t descriptor = take_slot(world, &random);
        fill(world, descriptor, sequence);
        send_all(world, 0, descriptor, &random);
        pshm_test_pause(&random);
        drop(world, descriptor, PSHM_PRODUCER);
    }
    close_all(world, 0);
}

/* What a receiver's look found: a message on an edge, or the end of all streams. */
typedef struct inbox {
    world *world;
    uint32_t node;
    edge *edge;
    uint64_t descriptor;
    bool ended;
} inbox;

static bool look_for_message(void *context) {
    inbox *in = context;
    in->ended = true;
    for (uint32_t n = 0; n < in->world->edges; n++) {
        in->edge = &in->world->edge[n];
        if (in->edge->to != in->node) continue;
        if (pshm_queue_pop(&in->edge->queue, &in->descriptor)) {
            in->ended = false;
            return true;
        }
        if (!pshm_queue_finished(&in->edge->queue)) in->ended = false;
    }
    return in->ended;
}

static void receiver(world *world, uint32_t node) {
    inbox in = {.world = world, .node = node};
    inbox kept = {.edge = NULL};
    uint64_t random = pshm_test_random(node);
    uint64_t next[EDGES] = {0};
    for (;;) {
        pshm_test_await(&world->bell[node], look_for_message, &in, &random);
        if (kept.edge != NULL) leave(world, kept.edge, kept.descriptor);
        kept.edge = NULL;
        if (in.ended) break;
        pshm_bell_ring(&world->bell[in.edge->from]); /* there is room again */
        in.edge->received++;

        uint64_t sequence = verify(world, in.descriptor);
        uint64_t *due = &next[in.edge - world->edge];
        CHECK(sequence >= *due, "message %" PRIu64 " after %" PRIu64, sequence, *due - 1);
        CHECK(sequence == *due || !in.edge->lossless,
              "message %" PRIu64 " where %" PRIu64 " was due", sequence, *due);
        *due = sequence + 1;

        send_all(world, node, in.descriptor, &random);
        pshm_test_pause(&random);
        if (world->shape->borrow && pshm_test_next(&random) >> 63 != 0)
            kept = in;
        else
            leave(world, in.edge, in.descriptor);
    }
    close_all(world, node);
}

static void role(void *shared, uint32_t number) {
    if (number == 0)
        source(shared);
    else
        receiver(shared, number);
}

static void make_ring(world *world) {
    uint32_t slots = world->shape->slots;
    uint64_t bytes = pshm_ring_bytes(slots, WORDS * sizeof(uint64_t));
    pshm_ring_head *head = pshm_test_memory(bytes);
    pshm_ring_format(head, RING, 0, slots, WORDS * sizeof(uint64_t));
    for (uint32_t n = 0; n < slots; n++)
        atomic_store(&head->slot[n].word, (uint64_t)FIRST_GENERATION << 32);
    CHECK(pshm_ring_attach(&world->ring, head, bytes, RING), "attach refused");
    world->payload = (uint8_t *)head + world->ring.payload_offset;
}

static bool is_lossless(const shape *shape, uint32_t n) {
    if (shape->edge[n].policy != BLOCK) return false;
    for (uint32_t m = 0; m < n; m++)
        if (shape->edge[m].to == shape->edge[n].from && !is_lossless(shape, m)) return false;
    return true;
}

static world *make_world(const shape *shape) {
    world *world = pshm_test_memory(sizeof *world);
    world->shape = shape;
    world->count = pshm_test_option.count;
    if (shape->edge[0].policy != BLOCK) world->count *= PSHM_TEST_BUSY;
    make_ring(world);
    for (uint32_t n = 0; n < EDGES && shape->edge[n].capacity != 0; n++) {
        world->edge[world->edges++] = (edge){
            .from = shape->edge[n].from,
            .to = shape->edge[n].to,
            .policy = shape->edge[n].policy,
            .lossless = is_lossless(shape, n),
            .bit = 2u << n,
            .queue = pshm_test_queue(shape->edge[n].capacity, 4, PSHM_TEST_START),
            .taken = pshm_test_memory(world->count + 1),
        };
        if (world->nodes <= shape->edge[n].to) world->nodes = shape->edge[n].to + 1;
    }
    return world;
}

static void check_end(world *world) {
    for (uint32_t n = 0; n < world->edges; n++) {
        edge *edge = &world->edge[n];
        CHECK(edge->received + edge->unsent == edge->sent,
              "edge %" PRIu32 ": %" PRIu64 " received and %" PRIu64 " dropped of %" PRIu64, n,
              edge->received, edge->unsent, edge->sent);
        CHECK(!edge->lossless || edge->received == world->count, "a lossless edge lost");
        CHECK(pshm_queue_depth(&edge->queue) == 0, "messages are left on edge %" PRIu32, n);
        if (edge->sent == world->count) pshm_test_all_taken(edge->taken, world->count);
    }
    CHECK(pshm_ring_used(&world->ring) == 0, "%" PRIu32 " slots are still held",
          pshm_ring_used(&world->ring));
    CHECK(world->freed == world->count, "%" PRIu64 " slots freed of %" PRIu64, world->freed,
          world->count);
}

void pshm_stress_ring(pshm_test_mode mode) {
    for (uint32_t n = 0; n < sizeof shapes / sizeof shapes[0]; n++) {
        pshm_test_begin(shapes[n].name, mode);
        world *world = make_world(&shapes[n]);
        pshm_test_run(role, world, world->nodes);
        check_end(world);
        pshm_test_passed();
    }
}
