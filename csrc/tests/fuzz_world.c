/* fuzz_world: the pipe that is damaged, and memory that shows accesses out of bounds. */
#undef mmap /* see the Makefile: the core's calls come here */
#undef munmap
#include "fuzz.h"

#include <sanitizer/asan_interface.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096u
#define SPARES 64u
#define BUDGET (1u << 20)

pshm_fuzz_world pshm_fuzz_here;

static const struct {
    uint32_t sender, receiver, policy, capacity;
    uint64_t timeout_ns;
} edges[EDGES] = {
    [TO_MIDDLE] = {SOURCE, MIDDLE, PSHM_POLICY_DROP_OLDEST, 3, PSHM_FOREVER},
    [TO_SINK] = {SOURCE, SINK, PSHM_POLICY_BLOCK, 2, PSHM_FOREVER},
    [FORWARDED] = {MIDDLE, SINK, PSHM_POLICY_DROP_NEWEST, 2, PSHM_FOREVER},
    [TO_LOCAL] = {SOURCE, LOCAL, PSHM_POLICY_DROP_OLDEST, 2, PSHM_FOREVER},
};

/* The sizes end within a page. Message slots have room for only a few of the descriptors that
 * a head can claim. */
static const struct {
    uint32_t owner, slots;
    uint64_t slot_bytes;
} rings[PSHM_FUZZ_RINGS] = {{SOURCE, 6, 72}, {SOURCE, 3, 96}, {MIDDLE, 4, 40}, {MIDDLE, 2, 104}};

void pshm_fuzz_fail(const char *what) {
    fprintf(stderr, "fuzz: %s\n", what);
    abort();
}

/* ---- memory ---------------------------------------------------------------------------- */

static uint64_t pages(uint64_t bytes) {
    return (bytes + PAGE - 1) / PAGE * PAGE;
}

void *pshm_fuzz_mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset);
int pshm_fuzz_munmap(void *memory, size_t bytes);

/* A mapping that was given back. All of it is out of bounds. It is kept for the next caller
 * that asks for the same, since else most of the time would go into system calls. */
typedef struct spare_mapping {
    void *memory;
    size_t bytes;
    int protection, fd;
    off_t offset;
    bool used;
} spare_mapping;

static spare_mapping spare[SPARES];

static spare_mapping *find_spare(size_t bytes, int protection, int fd, off_t offset) {
    for (uint32_t n = 0; n < SPARES; n++) {
        spare_mapping *it = &spare[n];
        if (it->memory != NULL && !it->used && it->bytes == bytes &&
            it->protection == protection && it->fd == fd && it->offset == offset)
            return it;
    }
    return NULL;
}

static void note_spare(const spare_mapping *made) {
    for (uint32_t n = 0; n < SPARES; n++) {
        if (spare[n].memory != NULL) continue;
        spare[n] = *made;
        return;
    }
}

/* Maps memory with a page before it and a page after it that are out of bounds, and so is the
 * rest of its own last page. */
static void *map_guarded(size_t bytes, int protection, int flags, int fd, off_t offset) {
    uint64_t whole = pages(bytes);
    uint8_t *room = mmap(NULL, whole + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == MAP_FAILED) return MAP_FAILED;
    return mmap(room + PAGE, whole, protection, flags | MAP_FIXED, fd, offset);
}

void *pshm_fuzz_mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset) {
    if (at != NULL) pshm_fuzz_fail("the core asks for an address");
    spare_mapping *it = find_spare(bytes, protection, fd, offset);
    void *memory = it != NULL ? it->memory : map_guarded(bytes, protection, flags, fd, offset);
    if (memory == MAP_FAILED) return MAP_FAILED;
    if (it != NULL)
        it->used = true;
    else
        note_spare(&(spare_mapping){memory, bytes, protection, fd, offset, true});
    ASAN_UNPOISON_MEMORY_REGION(memory, bytes);
    ASAN_POISON_MEMORY_REGION((uint8_t *)memory + bytes, pages(bytes) - bytes);
    return memory;
}

int pshm_fuzz_munmap(void *memory, size_t bytes) {
    for (uint32_t n = 0; n < SPARES; n++) {
        if (spare[n].memory != memory) continue;
        spare[n].used = false;
        ASAN_POISON_MEMORY_REGION(memory, pages(bytes));
        return 0;
    }
    ASAN_UNPOISON_MEMORY_REGION(memory, pages(bytes));
    return munmap((uint8_t *)memory - PAGE, pages(bytes) + 2 * PAGE);
}

int pshm_fuzz_map(pshm_process *process, uint32_t ring, uint64_t serial, uint32_t n,
                  bool writable) {
    int error = pshm_process_map(process, ring, serial, pshm_fuzz_here.ring_fd[n],
                                 PSHM_FUZZ_RING_BYTES, writable);
    if (error != 0) return error;
    const pshm_mapping *mapping = process->mapping[ring];
    uint8_t *end = (uint8_t *)&mapping->ring.slot[mapping->ring.slots];
    uint8_t *payload = (uint8_t *)mapping->head + mapping->ring.payload_offset;
    ASAN_POISON_MEMORY_REGION(end, (size_t)(payload - end));
    return 0;
}

static void open_control(void) {
    const pshm_control_size size = {.flows = 3,
                                    .routines = ROUTINES,
                                    .edges = EDGES,
                                    .incarnations = PSHM_FUZZ_INCARNATIONS,
                                    .cells = PSHM_FUZZ_CELLS};
    uint64_t bytes = pshm_control_bytes(&size), whole = pages(bytes);
    uint8_t *memory =
        pshm_fuzz_mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) pshm_fuzz_fail("no memory");
    ASAN_POISON_MEMORY_REGION(memory, whole - bytes);
    pshm_fuzz_here.control = memory + (whole - bytes);
    pshm_fuzz_here.control_bytes = bytes;
    pshm_control_format(pshm_fuzz_here.control, &size, BUDGET);
}

/* ---- words ----------------------------------------------------------------------------- */

static void add_word(void *at, size_t bytes) {
    pshm_fuzz_world *here = &pshm_fuzz_here;
    if (here->words == PSHM_FUZZ_WORDS) pshm_fuzz_fail("more words than there is room for");
    here->word[here->words++] = (pshm_fuzz_word){.at = at, .bytes = (uint32_t)bytes};
}

#define WORD(lvalue) add_word((void *)&(lvalue), sizeof(lvalue))

static void list_head(pshm_control_head *head) {
    WORD(head->magic), WORD(head->version), WORD(head->flows), WORD(head->routines);
    WORD(head->edges), WORD(head->incarnations), WORD(head->cells);
    WORD(head->next_serial), WORD(head->epoch), WORD(head->budget), WORD(head->ring[1].bytes);
    for (uint32_t n = 0; n < PSHM_FUZZ_RINGS + 2; n++)
        WORD(head->ring[n].serial), WORD(head->ring[n].ready);
}

static void list_edge(pshm_edge_record *edge) {
    WORD(edge->sender), WORD(edge->receiver), WORD(edge->local), WORD(edge->policy);
    WORD(edge->capacity), WORD(edge->borrow_cap), WORD(edge->timeout_ns), WORD(edge->reach[0]);
    WORD(edge->receiver_ended), WORD(edge->removed), WORD(edge->sender_failed);
}

static void list_incarnation(pshm_incarnation_record *record) {
    WORD(record->state), WORD(record->edge), WORD(record->bit);
    WORD(record->offered), WORD(record->settled), WORD(record->evicted), WORD(record->taken);
    WORD(record->queue.tail), WORD(record->queue.closed_at), WORD(record->queue.head);
    for (uint32_t n = 0; n < PSHM_FUZZ_CELLS; n++) WORD(record->queue.cell[n]);
}

static void list_message(pshm_message *message) {
    WORD(message->sequence), WORD(message->captured_ns), WORD(message->sent_ns);
    WORD(message->origin), WORD(message->bytes), WORD(message->slots), WORD(message->kind);
    WORD(message->slot[0]), WORD(message->slot[1]);
}

static void list_ring(pshm_ring_head *head, uint32_t n) {
    WORD(head->magic), WORD(head->slots), WORD(head->owner), WORD(head->index);
    WORD(head->slot_bytes), WORD(head->payload_offset);
    for (uint32_t slot = 0; slot < rings[n].slots; slot++) WORD(head->slot[slot].word);
    uint64_t payload = pshm_ring_bytes(rings[n].slots, rings[n].slot_bytes) -
                       rings[n].slots * rings[n].slot_bytes;
    for (uint32_t slot = 0; n % 2 == 1 && slot < rings[n].slots; slot++)
        list_message((void *)((uint8_t *)head + payload + slot * rings[n].slot_bytes));
}

static void list_words(void) {
    pshm_control control;
    if (!pshm_control_attach(&control, pshm_fuzz_here.control, pshm_fuzz_here.control_bytes))
        pshm_fuzz_fail("no control segment");
    list_head(control.head);
    for (uint32_t n = 0; n < ROUTINES; n++)
        WORD(control.routine[n].bell.word), WORD(control.routine[n].bell.waiting);
    for (uint32_t n = 0; n < PSHM_FUZZ_INCARNATIONS; n++) {
        if (n < EDGES) list_edge(&control.edge[n]);
        list_incarnation(pshm_control_incarnation(&control, n));
    }
    for (uint32_t n = 0; n < PSHM_FUZZ_RINGS; n++) list_ring((void *)pshm_fuzz_here.ring[n], n);
}

void pshm_fuzz_open(void) {
    open_control();
    for (uint32_t n = 0; n < PSHM_FUZZ_RINGS; n++) {
        int fd = memfd_create("ring", MFD_CLOEXEC);
        if (fd < 0 || ftruncate(fd, PSHM_FUZZ_RING_BYTES) != 0) pshm_fuzz_fail("no memfd");
        pshm_fuzz_here.ring_fd[n] = fd;
        pshm_fuzz_here.ring[n] =
            pshm_fuzz_mmap(NULL, PSHM_FUZZ_RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    }
    list_words();
}

/* ---- the pipe -------------------------------------------------------------------------- */

static void build_edge(const pshm_control *control, uint32_t n) {
    pshm_edge_record *record = &control->edge[n];
    record->sender = edges[n].sender;
    record->receiver = edges[n].receiver;
    record->local = n == TO_LOCAL;
    record->policy = edges[n].policy;
    record->capacity = edges[n].capacity;
    record->timeout_ns = edges[n].timeout_ns;
    record->borrow_cap = 2;
    record->reach[0] = 1u << SOURCE | 1u << MIDDLE;
    pshm_incarnation_format(pshm_control_incarnation(control, n), n, n == TO_LOCAL ? 0 : n + 1);
}

static void build_ring(uint32_t n) {
    pshm_process *owner = pshm_fuzz_here.process[rings[n].owner];
    uint32_t place =
        pshm_control_claim_ring(&owner->control, rings[n].owner, &pshm_fuzz_here.serial[n]);
    if (place != n) pshm_fuzz_fail("a ring is not in its place");
    pshm_control_spend(&owner->control, n, pshm_ring_bytes(rings[n].slots, rings[n].slot_bytes));
    pshm_ring_format((void *)pshm_fuzz_here.ring[n], n, rings[n].owner, rings[n].slots,
                     rings[n].slot_bytes);
    if (pshm_fuzz_map(owner, n, pshm_fuzz_here.serial[n], n, true) != 0)
        pshm_fuzz_fail("a sound ring can't be mapped");
    pshm_control_publish_ring(&owner->control, n);
}

static uint32_t table_of(uint32_t routine) {
    return routine == LOCAL ? SOURCE : routine;
}

void pshm_fuzz_build(void) {
    pshm_fuzz_world *here = &pshm_fuzz_here;
    const pshm_control_size size = {.flows = 3,
                                    .routines = ROUTINES,
                                    .edges = EDGES,
                                    .incarnations = PSHM_FUZZ_INCARNATIONS,
                                    .cells = PSHM_FUZZ_CELLS};
    memset(here->control, 0, here->control_bytes);
    for (uint32_t n = 0; n < PSHM_FUZZ_RINGS; n++) memset(here->ring[n], 0, PSHM_FUZZ_RING_BYTES);
    pshm_control_format(here->control, &size, BUDGET);
    for (uint32_t n = 0; n < TABLES; n++) {
        here->process[n] = pshm_process_open(here->control, here->control_bytes);
        if (here->process[n] == NULL) pshm_fuzz_fail("no table");
    }
    for (uint32_t n = 0; n < EDGES; n++) build_edge(&here->process[LAUNCHER]->control, n);
    for (uint32_t n = 0; n < PSHM_FUZZ_RINGS; n++) build_ring(n);
    for (uint32_t n = 0; n < ROUTINES; n++)
        here->port[n] = pshm_port_open(here->process[table_of(n)], n, 0);
    for (uint32_t n = 0; n < EDGES; n++) {
        pshm_port_add_out(here->port[edges[n].sender], n);
        pshm_fuzz_add_in(here->port[edges[n].receiver], n);
    }
}

void pshm_fuzz_add_in(pshm_port *port, uint32_t number) {
    const pshm_incarnation_record *record =
        pshm_control_incarnation(&port->process->control, number);
    if (record == NULL) return;
    uint64_t name = pshm_incarnation_name(record, number);
    pshm_port_add_in(port, pshm_read_once(&record->edge), name);
}

void pshm_fuzz_close(pshm_process *process) {
    for (uint32_t r = 0; r < process->places; r++) {
        pshm_mapping *mapping = process->mapping[r];
        for (uint32_t n = 0; mapping != NULL && n < mapping->ring.slots; n++)
            mapping->lease[n].count = 0;
    }
    if (!pshm_process_close(process)) pshm_fuzz_fail("a table can't be closed");
}

void pshm_fuzz_tear_down(void) {
    for (uint32_t n = 0; n < ROUTINES; n++) pshm_port_close(pshm_fuzz_here.port[n]);
    for (uint32_t n = 0; n < TABLES; n++) pshm_fuzz_close(pshm_fuzz_here.process[n]);
}
