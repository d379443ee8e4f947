#include "trace.h"

#include <sched.h>
#include <string.h>

#define MAGIC 0x52545350u /* "PSTR" */
#define VERSION 1u

pshm_trace_head *pshm_trace_into;

static uint32_t mask;    /* of that ring; its head may be damaged by now */
static uint32_t writers; /* threads that may be writing to it */

/* ---- the ring -------------------------------------------------------------------------- */

uint64_t pshm_trace_bytes(uint32_t cells) {
    if (cells == 0 || cells > PSHM_TRACE_EVENTS || (cells & (cells - 1)) != 0) return 0;
    return offsetof(pshm_trace_head, cell) + (uint64_t)cells * sizeof(pshm_trace_cell);
}

void pshm_trace_format(void *memory, uint32_t cells, uint32_t flow, int32_t pid,
                       uint64_t serial) {
    pshm_trace_head *head = memory;
    head->version = VERSION;
    head->cells = cells;
    head->flow = flow;
    head->pid = pid;
    head->serial = serial;
    head->begun_ns = pshm_now();
    /* release: who sees the number sees the rest */
    __atomic_store_n(&head->magic, MAGIC, __ATOMIC_RELEASE);
}

uint32_t pshm_trace_cells(const void *memory, uint64_t bytes) {
    const pshm_trace_head *head = memory;
    if (bytes < sizeof *head || __atomic_load_n(&head->magic, __ATOMIC_ACQUIRE) != MAGIC)
        return 0;
    uint32_t cells = __atomic_load_n(&head->cells, __ATOMIC_RELAXED);
    uint64_t needed = pshm_trace_bytes(cells);
    return head->version == VERSION && needed != 0 && needed <= bytes ? cells : 0;
}

/* Copies the event of one turn; false where another one stands there, or half of it. */
static bool read_cell(const pshm_trace_cell *cell, uint64_t done, pshm_trace_event *event) {
    uint64_t word[PSHM_TRACE_WORDS];
    /* acquire: the words are those of that turn, or later ones */
    if (atomic_load_explicit(&cell->turn, memory_order_acquire) != done) return false;
    for (size_t n = 0; n < PSHM_TRACE_WORDS; n++)
        /* acquire: with a later turn's word, the look below sees that turn */
        word[n] = atomic_load_explicit(&cell->word[n], memory_order_acquire);
    if (atomic_load_explicit(&cell->turn, memory_order_relaxed) != done) return false;
    memcpy(event, word, sizeof *event);
    return true;
}

uint32_t pshm_trace_read(const void *memory, uint32_t cells, pshm_trace_event *events,
                         uint32_t room, uint64_t *turns) {
    const pshm_trace_head *head = memory;
    uint64_t end = atomic_load_explicit(&head->next, memory_order_acquire);
    uint32_t found = 0;
    *turns = end;
    for (uint64_t turn = end > cells ? end - cells : 0; turn != end && found < room; turn++)
        found += read_cell(&head->cell[turn & (cells - 1)], 2 * turn + 2, &events[found]);
    return found;
}

/* ---- the process ----------------------------------------------------------------------- */

void pshm_trace_begin(void *memory, uint32_t cells) {
    mask = cells - 1;
    /* seq_cst: the mask comes before it */
    __atomic_store_n(&pshm_trace_into, (pshm_trace_head *)memory, __ATOMIC_SEQ_CST);
}

void pshm_trace_end(void) {
    /* seq_cst: a writer counts itself, and then looks where to write to. So it finds nothing
     * there, or is seen here. */
    __atomic_store_n(&pshm_trace_into, (pshm_trace_head *)NULL, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&writers, __ATOMIC_SEQ_CST) != 0) sched_yield();
}

void pshm_trace_disown(void) {
    __atomic_store_n(&pshm_trace_into, (pshm_trace_head *)NULL, __ATOMIC_SEQ_CST);
    __atomic_store_n(&writers, 0u, __ATOMIC_SEQ_CST); /* other threads' are not here */
}

static void write_event(pshm_trace_head *head, const pshm_trace_event *event) {
    uint64_t word[PSHM_TRACE_WORDS];
    memcpy(word, event, sizeof word);
    uint64_t turn = atomic_fetch_add_explicit(&head->next, 1, memory_order_relaxed);
    pshm_trace_cell *cell = &head->cell[turn & mask];
    uint64_t writing = 2 * turn + 1;
    uint64_t before = atomic_load_explicit(&cell->turn, memory_order_relaxed);
    /* Another writer is a whole round behind, or we are. */
    if ((before & 1) != 0 || before > writing) return;
    /* acq_rel: the words below come after it, and after those of the turn before */
    if (!atomic_compare_exchange_strong_explicit(&cell->turn, &before, writing,
                                                 memory_order_acq_rel, memory_order_relaxed))
        return;
    for (size_t n = 0; n < PSHM_TRACE_WORDS; n++)
        /* release: who reads it sees that the cell is being written */
        atomic_store_explicit(&cell->word[n], word[n], memory_order_release);
    /* release: who sees it sees the words */
    atomic_store_explicit(&cell->turn, writing + 1, memory_order_release);
}

void pshm_trace_note(const pshm_trace_event *event) {
    /* seq_cst: see pshm_trace_end */
    __atomic_fetch_add(&writers, 1u, __ATOMIC_SEQ_CST);
    pshm_trace_head *head = __atomic_load_n(&pshm_trace_into, __ATOMIC_SEQ_CST);
    if (head != NULL) write_event(head, event);
    __atomic_fetch_add(&writers, UINT32_MAX, __ATOMIC_SEQ_CST); /* less one */
}

void pshm_trace_name(uint32_t index, const void *text, uint32_t bytes) {
    if (index >= PSHM_TRACE_NAMES || bytes >= PSHM_TRACE_NAME_BYTES) return;
    /* seq_cst: as above */
    __atomic_fetch_add(&writers, 1u, __ATOMIC_SEQ_CST);
    pshm_trace_head *head = __atomic_load_n(&pshm_trace_into, __ATOMIC_SEQ_CST);
    if (head != NULL) memcpy(head->name[index], text, bytes);
    __atomic_fetch_add(&writers, UINT32_MAX, __ATOMIC_SEQ_CST);
}
