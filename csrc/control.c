#include "control.h"

#include "points.h"

static uint64_t round_up(uint64_t n, uint64_t to) {
    return (n + to - 1) / to * to;
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
    const uint32_t largest = 0xffffu; /* far more than a pipe has, and no sum below overflows */
    bool power_of_two = size->cells != 0 && (size->cells & (size->cells - 1)) == 0;
    if (size->routines == 0 || size->routines > PSHM_ROUTINES || size->flows > largest ||
        size->edges > largest || size->incarnations > largest || !power_of_two ||
        size->cells > PSHM_CELLS)
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
    atomic_store_explicit(&head->edges_used, size->edges, memory_order_relaxed);
    atomic_store_explicit(&head->incarnations_used, size->incarnations, memory_order_relaxed);
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
    pshm_control_size size = {.flows = pshm_read_once(&head->flows),
                              .routines = pshm_read_once(&head->routines),
                              .edges = pshm_read_once(&head->edges),
                              .incarnations = pshm_read_once(&head->incarnations),
                              .cells = pshm_read_once(&head->cells)};
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

void pshm_control_use(const pshm_control *control, uint32_t edges, uint32_t incarnations) {
    pshm_control_head *head = control->head;
    /* release: who sees the count finds records that may be touched */
    atomic_store_explicit(&head->edges_used, edges, memory_order_release);
    atomic_store_explicit(&head->incarnations_used, incarnations, memory_order_release);
}

static uint32_t used(_Atomic uint32_t *count, uint32_t room) {
    uint32_t n = atomic_load_explicit(count, memory_order_acquire); /* pairs with the above */
    return n < room ? n : room;
}

uint32_t pshm_control_edges_used(const pshm_control *control) {
    return used(&control->head->edges_used, control->edges);
}

uint32_t pshm_control_incarnations_used(const pshm_control *control) {
    return used(&control->head->incarnations_used, control->incarnations);
}

void pshm_step_set(pshm_routine_record *record, uint32_t word, uint64_t value) {
    /* seq_cst: before the bell that is rung for it; and a word that was set before is seen, too
     */
    if (word < PSHM_STEPS) __atomic_store_n(&record->step[word], value, __ATOMIC_SEQ_CST);
}

uint64_t pshm_step_get(const pshm_routine_record *record, uint32_t word) {
    /* seq_cst: a look between the bell's word and the wait */
    return word < PSHM_STEPS ? __atomic_load_n(&record->step[word], __ATOMIC_SEQ_CST) : 0;
}

void pshm_control_ring(const pshm_control *control, uint32_t number) {
    pshm_routine_record *record = pshm_control_routine(control, number);
    if (record != NULL) pshm_bell_ring_always(&record->bell);
}

void pshm_control_wake(const pshm_control *control, uint32_t number) {
    pshm_routine_record *record = pshm_control_routine(control, number);
    if (record != NULL) pshm_bell_ring(&record->bell);
}
