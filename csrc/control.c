#include "control.h"

#include "points.h"

static uint64_t round_up(uint64_t n, uint64_t to) {
    return (n + to - 1) / to * to;
}

/* A word of geometry, read here and nowhere else: what is checked is what is used. */
static uint32_t once(const uint32_t *word) {
    return __atomic_load_n(word, __ATOMIC_RELAXED);
}

static uint64_t incarnation_stride(uint32_t cells) {
    return round_up(sizeof(pshm_incarnation_record) + (uint64_t)cells * sizeof(uint64_t),
                    PSHM_CACHE_LINE);
}

static uint64_t flows_at(void) {
    return round_up(sizeof(pshm_control_head), PSHM_CACHE_LINE);
}

static uint64_t routines_at(const pshm_control_size *size) {
    return round_up(flows_at() + (uint64_t)size->flows * sizeof(pshm_flow_record),
                    PSHM_CACHE_LINE);
}

static uint64_t edges_at(const pshm_control_size *size) {
    return routines_at(size) + (uint64_t)size->routines * sizeof(pshm_routine_record);
}

static uint64_t incarnations_at(const pshm_control_size *size) {
    return edges_at(size) + (uint64_t)size->edges * sizeof(pshm_edge_record);
}

uint64_t pshm_control_bytes(const pshm_control_size *size) {
    uint32_t largest = 0xffffu;
    bool power_of_two = size->cells != 0 && (size->cells & (size->cells - 1)) == 0;
    if (size->routines == 0 || size->routines > PSHM_ROUTINES || size->flows > largest ||
        size->edges > largest || size->incarnations > largest || !power_of_two ||
        size->cells > 0x10000u)
        return 0;
    return incarnations_at(size) + size->incarnations * incarnation_stride(size->cells);
}

void pshm_control_format(void *memory, const pshm_control_size *size, uint64_t budget) {
    pshm_control_head *head = memory;
    PSHM_POINT();
    head->version = PSHM_VERSION;
    head->flows = size->flows;
    head->routines = size->routines;
    head->edges = size->edges;
    head->incarnations = size->incarnations;
    head->cells = size->cells;
    PSHM_POINT();
    atomic_store_explicit(&head->next_serial, 1, memory_order_relaxed);
    PSHM_POINT();
    head->budget = budget;
    PSHM_POINT();
    head->magic = PSHM_MAGIC;
}

bool pshm_control_attach(pshm_control *control, void *memory, uint64_t bytes) {
    pshm_control_head *head = memory;
    if (bytes < sizeof *head || head->magic != PSHM_MAGIC || head->version != PSHM_VERSION)
        return false;
    pshm_control_size size = {.flows = once(&head->flows),
                              .routines = once(&head->routines),
                              .edges = once(&head->edges),
                              .incarnations = once(&head->incarnations),
                              .cells = once(&head->cells)};
    uint64_t needed = pshm_control_bytes(&size);
    if (needed == 0 || needed > bytes) return false;
    uint8_t *base = memory;
    *control = (pshm_control){
        .head = head,
        .flows = size.flows,
        .routines = size.routines,
        .edges = size.edges,
        .incarnations = size.incarnations,
        .cells = size.cells,
        .incarnation_stride = (uint32_t)incarnation_stride(size.cells),
        .flow = (pshm_flow_record *)(base + flows_at()),
        .routine = (pshm_routine_record *)(base + routines_at(&size)),
        .edge = (pshm_edge_record *)(base + edges_at(&size)),
        .incarnation_base = base + incarnations_at(&size),
    };
    return true;
}

pshm_flow_record *pshm_control_flow(const pshm_control *control, uint32_t number) {
    return number < control->flows ? &control->flow[number] : NULL;
}

pshm_edge_record *pshm_control_edge(const pshm_control *control, uint32_t number) {
    return number < control->edges ? &control->edge[number] : NULL;
}

pshm_incarnation_record *pshm_control_incarnation(const pshm_control *control, uint32_t number) {
    if (number >= control->incarnations) return NULL;
    return (pshm_incarnation_record *)(control->incarnation_base +
                                       (uint64_t)number * control->incarnation_stride);
}

pshm_routine_record *pshm_control_routine(const pshm_control *control, uint32_t number) {
    return number < control->routines ? &control->routine[number] : NULL;
}

void pshm_incarnation_format(pshm_incarnation_record *record, uint32_t edge, uint32_t bit) {
    PSHM_POINT();
    record->edge = edge;
    record->bit = bit;
    PSHM_POINT();
    record->offered = record->settled = record->evicted = record->taken = 0;
    pshm_queue_format(&record->queue);
    PSHM_POINT();
    /* release: all of the above before the state */
    __atomic_store_n(&record->state, PSHM_LIVE, __ATOMIC_RELEASE);
}

void pshm_control_ring(const pshm_control *control, uint32_t number) {
    pshm_routine_record *record = pshm_control_routine(control, number);
    if (record != NULL) pshm_bell_ring_always(&record->bell);
}

bool pshm_edge_attach(pshm_edge *edge, const pshm_control *control, uint32_t number) {
    pshm_incarnation_record *incarnation = pshm_control_incarnation(control, number);
    pshm_edge_record *record =
        incarnation == NULL ? NULL : pshm_control_edge(control, once(&incarnation->edge));
    if (record == NULL) return false;
    uint32_t bit = once(&incarnation->bit);
    pshm_edge seen = {.record = record,
                      .incarnation = incarnation,
                      .number = number,
                      .sender = once(&record->sender),
                      .receiver = once(&record->receiver),
                      .local = record->local != 0,
                      .policy = record->policy,
                      .borrow_cap = record->borrow_cap,
                      .timeout_ns = record->timeout_ns,
                      .queue = {.words = &incarnation->queue,
                                .capacity = once(&record->capacity),
                                .mask = control->cells - 1}};
    if (seen.sender >= control->routines || seen.receiver >= control->routines) return false;
    if (seen.queue.capacity == 0 || seen.queue.capacity > control->cells) return false;
    if (!seen.local) {
        if (bit == 0 || bit > 31) return false;
        seen.mask = 1u << bit;
    }
    *edge = seen;
    return true;
}

void pshm_tickets_read(const pshm_edge_record *record, uint64_t *announced, uint64_t *done) {
    *done = __atomic_load_n(&record->ticket_done, __ATOMIC_ACQUIRE);
    *announced = __atomic_load_n(&record->ticket_announced, __ATOMIC_ACQUIRE);
}

uint64_t pshm_tickets_pushed(const pshm_edge_record *record) {
    /* acquire: the look at the queue that follows finds the message, if nobody took it */
    return __atomic_load_n(&record->ticket_pushed, __ATOMIC_ACQUIRE);
}

void pshm_tickets_settle(pshm_edge_record *record) {
    PSHM_POINT();
    uint64_t announced = __atomic_load_n(&record->ticket_announced, __ATOMIC_RELAXED);
    PSHM_POINT();
    __atomic_store_n(&record->ticket_pushed, announced, __ATOMIC_RELAXED); /* the mark follows */
}

void pshm_tickets_done(pshm_edge_record *record, uint64_t ticket) {
    if (ticket > __atomic_load_n(&record->ticket_done, __ATOMIC_RELAXED))
        __atomic_store_n(&record->ticket_done, ticket, __ATOMIC_RELEASE);
}

/* Bytes of the budget that rings have taken. */
static uint64_t taken(const pshm_control *control) {
    uint64_t sum = 0;
    for (uint32_t n = 0; n < PSHM_RINGS; n++)
        /* seq_cst: of two that spend at a time, one sees the other's */
        sum += atomic_load_explicit(&control->head->ring[n].bytes, memory_order_seq_cst);
    return sum;
}

uint64_t pshm_control_left(const pshm_control *control) {
    uint64_t bytes = taken(control), budget = control->head->budget;
    return bytes < budget ? budget - bytes : 0;
}

bool pshm_control_spend(const pshm_control *control, uint32_t ring, uint64_t bytes) {
    if (ring >= PSHM_RINGS || bytes > pshm_control_left(control)) return false;
    PSHM_POINT();
    atomic_store_explicit(&control->head->ring[ring].bytes, bytes, memory_order_seq_cst);
    return taken(control) <= control->head->budget;
}

uint32_t pshm_control_claim_ring(const pshm_control *control, uint32_t owner, uint64_t *serial) {
    pshm_control_head *head = control->head;
    PSHM_POINT();
    /* relaxed: serials only have to differ */
    *serial = atomic_fetch_add_explicit(&head->next_serial, 1, memory_order_relaxed) << 16 |
              (owner & 0xffffu);
    for (uint32_t n = 0; n < PSHM_RINGS; n++) {
        uint64_t none = 0;
        PSHM_POINT();
        /* acq_rel: the place's last user is done with it */
        if (atomic_compare_exchange_strong_explicit(&head->ring[n].serial, &none, *serial,
                                                    memory_order_acq_rel, memory_order_relaxed))
            return n;
    }
    return PSHM_RINGS;
}

void pshm_control_publish_ring(const pshm_control *control, uint32_t ring) {
    if (ring >= PSHM_RINGS) return;
    PSHM_POINT();
    /* release: the segment is formatted before it is found */
    atomic_store_explicit(&control->head->ring[ring].ready, 1, memory_order_release);
}

void pshm_control_release_ring(const pshm_control *control, uint32_t ring) {
    if (ring >= PSHM_RINGS) return;
    PSHM_POINT();
    atomic_store_explicit(&control->head->ring[ring].ready, 0, memory_order_relaxed);
    PSHM_POINT();
    atomic_store_explicit(&control->head->ring[ring].bytes, 0, memory_order_relaxed);
    PSHM_POINT();
    /* release: claimed again only after the above */
    atomic_store_explicit(&control->head->ring[ring].serial, 0, memory_order_release);
    PSHM_POINT();
    atomic_fetch_add_explicit(&control->head->epoch, 1, memory_order_release);
}

uint64_t pshm_control_unclaim_ring(const pshm_control *control, uint32_t owner) {
    for (uint32_t n = 0; n < PSHM_RINGS; n++) {
        pshm_ring_entry *entry = &control->head->ring[n];
        PSHM_POINT();
        uint64_t serial = atomic_load_explicit(&entry->serial, memory_order_acquire);
        if (serial == 0 || (serial & 0xffffu) != owner) continue;
        PSHM_POINT();
        if (atomic_load_explicit(&entry->ready, memory_order_acquire) != 0) continue;
        pshm_control_release_ring(control, n);
        return serial;
    }
    return 0;
}

uint64_t pshm_control_serial(const pshm_control *control, uint32_t ring) {
    if (ring >= PSHM_RINGS) return 0;
    PSHM_POINT();
    /* acquire: pairs with publish */
    if (atomic_load_explicit(&control->head->ring[ring].ready, memory_order_acquire) == 0)
        return 0;
    PSHM_POINT();
    return atomic_load_explicit(&control->head->ring[ring].serial, memory_order_acquire);
}

void pshm_histogram_add(uint64_t *histogram, uint64_t ns) {
    uint64_t bucket = ns;
    if (ns >= 16) {
        uint32_t power = 63u - (uint32_t)__builtin_clzll(ns);
        bucket = (power - 3u) * 16u + ((ns >> (power - 4u)) & 15u);
    }
    if (bucket >= PSHM_BUCKETS) bucket = PSHM_BUCKETS - 1;
    pshm_count(&histogram[bucket], 1);
}

uint64_t pshm_histogram_value(uint32_t bucket) {
    if (bucket < 16) return bucket;
    uint32_t shift = bucket / 16u - 1u;
    uint64_t low = (uint64_t)(16u + bucket % 16u) << shift;
    return low + ((1ull << shift) >> 1);
}
