/* world: a small pipe for the programs that run whole sends and receives.
 *
 * Routine 0 is a source with two rings, of payloads and of messages. Each process has its own
 * tables and mappings; what they map is the same memory.
 */
#ifndef PSHM_WEAK_WORLD_H
#define PSHM_WEAK_WORLD_H

#include "receive.h"
#include "recover.h"
#include "send.h"
#include "tickets.h"
#include "weak.h"

#define WORLD_ROUTINES 3u
#define WORLD_EDGES 2u
#define WORLD_INCARNATIONS 3u
#define WORLD_SLOT_BYTES 64u
#define WORLD_PAYLOADS 0u /* the ring of payload slots */
#define WORLD_MESSAGES 1u /* and that of messages */

typedef struct world_shared {
    void *control;
    uint64_t bytes;
    pshm_slot *slot[2];
    uint8_t *payload[2];
    uint32_t slots[2];
    uint64_t serial[2];
} world_shared;

static world_shared world;

/* Makes the control segment and the rings of routine 0, with so many slots. */
static inline void world_make(uint32_t payloads, uint32_t messages) {
    pshm_control_size size = {.flows = 1,
                              .routines = WORLD_ROUTINES,
                              .edges = WORLD_EDGES,
                              .incarnations = WORLD_INCARNATIONS,
                              .cells = 2};
    pshm_control control;
    world.bytes = pshm_control_bytes(&size);
    world.control = weak_memory(world.bytes);
    pshm_control_format(world.control, &size, UINT64_MAX);
    CHECK(pshm_control_attach(&control, world.control, world.bytes));
    world.slots[WORLD_PAYLOADS] = payloads;
    world.slots[WORLD_MESSAGES] = messages;
    for (uint32_t ring = 0; ring < 2; ring++) {
        CHECK(pshm_control_claim_ring(&control, 0, &world.serial[ring]) == ring);
        pshm_control_publish_ring(&control, ring);
        world.slot[ring] = weak_memory(world.slots[ring] * sizeof(pshm_slot));
        world.payload[ring] = weak_memory(world.slots[ring] * WORLD_SLOT_BYTES);
        weak_payload(world.payload[ring], world.slots[ring] * WORLD_SLOT_BYTES, WORLD_SLOT_BYTES);
    }
}

/* Adds edge number `edge`, as incarnation `edge` with bit `edge` + 1. */
static inline void world_edge(uint32_t edge, uint32_t sender, uint32_t receiver, uint32_t policy,
                              uint32_t capacity) {
    pshm_control control;
    CHECK(pshm_control_attach(&control, world.control, world.bytes));
    pshm_edge_record *record = pshm_control_edge(&control, edge);
    record->sender = sender;
    record->receiver = receiver;
    record->policy = policy;
    record->capacity = capacity;
    record->borrow_cap = 4;
    record->timeout_ns = PSHM_FOREVER;
    pshm_edge_record_reach(record, 0);
    pshm_incarnation_format(pshm_control_incarnation(&control, edge), edge, edge + 1);
}

static inline pshm_mapping *world_map(uint32_t ring) {
    pshm_mapping *mapping = weak_memory(sizeof *mapping + world.slots[ring] * sizeof(pshm_lease));
    mapping->ring = (pshm_ring){.slot = world.slot[ring],
                                .slots = world.slots[ring],
                                .index = ring,
                                .owner = 0,
                                .slot_bytes = WORLD_SLOT_BYTES};
    mapping->serial = world.serial[ring];
    mapping->payload_bytes = world.slots[ring] * WORLD_SLOT_BYTES;
    mapping->read = mapping->write = world.payload[ring];
    return mapping;
}

/* Makes a process with a port of `routine`, which has mapped both rings. */
static inline pshm_port *world_port(uint32_t routine, uint32_t awaited) {
    pshm_process *process = pshm_process_open(world.control, world.bytes);
    for (uint32_t ring = 0; ring < 2; ring++) process->mapping[ring] = world_map(ring);
    process->places = 2;
    return pshm_port_open(process, routine, awaited);
}

/* Adds edge `edge`, by incarnation `edge`, to the receiver's port. */
static inline uint32_t world_add_in(pshm_port *port, uint32_t edge) {
    const pshm_incarnation_record *record =
        pshm_control_incarnation(&port->process->control, edge);
    return pshm_port_add_in(port, edge, pshm_incarnation_name(record, edge));
}

/* Sends `value` from a port of routine 0 to `outs`, as payload of one word. */
static inline int world_send(pshm_port *port, pshm_post *post, uint64_t outs, uint64_t value) {
    void *address;
    post->outs = outs;
    post->message = PSHM_NO_SLOT;
    int status = pshm_port_reserve(port, outs, WORLD_PAYLOADS, &post->slot[0], &address);
    if (status != PSHM_OK) return status;
    weak_write(address, value);
    post->slots = 1;
    return pshm_port_send(port, post, WORLD_MESSAGES, value, 1, 0, 0, 0, NULL, 0);
}

/* The payload of a delivery; it must be as it was sent. */
static inline uint64_t world_payload(const pshm_delivery *delivery) {
    CHECK(delivery->slots == 1);
    uint64_t value = weak_read(delivery->address[0]);
    CHECK(value == delivery->sequence);
    return value;
}

static inline uint32_t world_used(uint32_t ring) {
    uint32_t used = 0;
    for (uint32_t n = 0; n < world.slots[ring]; n++)
        used += pshm_slot_holders(
                    atomic_load_explicit(&world.slot[ring][n].word, memory_order_relaxed)) != 0;
    return used;
}

/* Whether every slot of a ring is free, or every slot is held. */
static inline bool world_is_free(uint32_t ring) {
    return world_used(ring) == 0;
}

static inline bool world_is_full(uint32_t ring) {
    return world_used(ring) == world.slots[ring];
}

#endif
