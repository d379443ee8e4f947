/* fuzz_steps: reads an input, and does its steps to the pipe. See fuzz.h. */
#include "fuzz.h"

#include <string.h>

#define PENDING 4u /* damage that is still to come */
#define STEPS 32u
#define MOST_POINTS                                                                              \
    100000u /* of a step; the longest step looks at every place for a ring a few times */

static const uint8_t *input, *input_end;

static uint64_t chance; /* where the next byte comes from when the input has ended */

/* A byte of the input; when that has ended, one that follows from it. libFuzzer likes short
 * inputs, but damage shows only after a while. */
static uint32_t byte(void) {
    if (input < input_end) {
        chance = chance * 31 + *input + 1;
        return *input++;
    }
    chance ^= chance << 13;
    chance ^= chance >> 7;
    chance ^= chance << 17;
    return chance >> 24 & 0xff;
}

static uint64_t word64(void) {
    uint64_t value = 0;
    for (uint32_t n = 0; n < 8; n++) value = value << 8 | byte();
    return value;
}

/* ---- damage ---------------------------------------------------------------------------- */

typedef struct damage {
    uint32_t due; /* points from now, plus one; 0 for a free place */
    pshm_fuzz_word word;
    uint64_t value;
} damage;

static damage pending[PENDING];
static uint32_t last_word;
static uint64_t points; /* passed in this step */

static void inflict(const damage *it) {
    memcpy(it->word.at, &it->value, it->word.bytes);
}

void pshm_point(const pshm_point_site *site) {
    (void)site;
    if (++points > MOST_POINTS) pshm_fuzz_fail("a step does not end");
    for (uint32_t n = 0; n < PENDING; n++)
        if (pending[n].due != 0 && --pending[n].due == 0) inflict(&pending[n]);
}

static uint64_t new_value(const pshm_fuzz_word *word) {
    static const uint64_t telling[] = {0,          1,          UINT64_MAX, INT64_MAX, 1ull << 63,
                                       UINT32_MAX, 1ull << 31, 0xffff,     0x10000,   1ull << 32};
    uint64_t value = 0;
    memcpy(&value, word->at, word->bytes);
    uint32_t how = byte();
    switch (how % 5) {
    case 0:
        return value ^ 1ull << how / 5; /* one bit of the low 52 */
    case 1:
        return value + byte() - 128;
    case 2:
        return telling[how / 5 % (sizeof telling / sizeof telling[0])];
    case 3: {
        const pshm_fuzz_word *other = &pshm_fuzz_here.word[word64() % pshm_fuzz_here.words];
        value = 0;
        memcpy(&value, other->at, other->bytes);
        return value;
    }
    default:
        return word64();
    }
}

/* Most often a word of the list, and often one near the last, such as one of the same edge;
 * sometimes any eight bytes of a segment. */
static pshm_fuzz_word pick_word(void) {
    uint32_t words = pshm_fuzz_here.words, n = byte() << 8 | byte();
    if (n < 0x8000) last_word = n % words;
    if (n >= 0x8000 && n < 0xf000) last_word = (last_word + words + n % 32 - 16) % words;
    if (n < 0xf000) return pshm_fuzz_here.word[last_word];
    uint32_t segment = n % (PSHM_FUZZ_RINGS + 1), offset = byte() << 8 | byte();
    if (segment == PSHM_FUZZ_RINGS)
        return (pshm_fuzz_word){
            (uint8_t *)pshm_fuzz_here.control + offset % (pshm_fuzz_here.control_bytes - 7), 8};
    return (pshm_fuzz_word){pshm_fuzz_here.ring[segment] + offset % (PSHM_FUZZ_RING_BYTES - 7),
                            8};
}

static void do_damage(bool at_once) {
    damage made = {.word = pick_word()};
    made.value = new_value(&made.word);
    if (at_once) {
        inflict(&made);
        return;
    }
    made.due = 1 + byte();
    for (uint32_t n = 0; n < PENDING; n++) {
        if (pending[n].due != 0) continue;
        pending[n] = made;
        return;
    }
}

/* ---- recovery, and everything else ----------------------------------------------------- */

static void do_recover(uint32_t how, uint32_t which) {
    pshm_process *launcher = pshm_fuzz_here.process[LAUNCHER];
    uint32_t incarnation = which % (PSHM_FUZZ_INCARNATIONS + 1), routine = which % ROUTINES;
    pshm_port *port = pshm_fuzz_here.port[routine];
    pshm_fuzz_open_every_ring(launcher);
    switch (how % 9) {
    case 0:
        pshm_recover_receiver(launcher, incarnation, PSHM_NO_SLOT);
        break;
    case 1:
        pshm_recover_edge(launcher, incarnation);
        break;
    case 2:
        pshm_recover_owner(launcher, incarnation);
        break;
    case 3:
        pshm_port_recover_receiver(port, which / ROUTINES % PSHM_FUZZ_INCARNATIONS);
        break;
    case 4:
        pshm_port_discard_unread(port, which / ROUTINES % PSHM_FUZZ_INCARNATIONS);
        break;
    case 5:
        pshm_fuzz_open_every_ring(port->process);
        pshm_port_recover_sender(port, which / ROUTINES % PSHM_INS);
        break;
    case 6: {
        pshm_incarnation_record *record =
            pshm_control_incarnation(&launcher->control, incarnation);
        if (record != NULL) __atomic_store_n(&record->state, PSHM_SENDER_DEAD, __ATOMIC_RELEASE);
        break;
    }
    case 7:
        pshm_recover_undrained(launcher, incarnation);
        break;
    default:
        pshm_process_linger(launcher, incarnation);
    }
}

static void do_edge(uint32_t how, uint32_t which) {
    pshm_process *launcher = pshm_fuzz_here.process[LAUNCHER];
    uint32_t incarnation = which % PSHM_FUZZ_INCARNATIONS, routine = which / 8 % ROUTINES;
    pshm_port *port = pshm_fuzz_here.port[routine];
    switch (how % 5) {
    case 0:
        pshm_incarnation_format(pshm_control_incarnation(&launcher->control, incarnation),
                                which / 8 % EDGES, incarnation);
        break;
    case 1:
        pshm_fuzz_add_in(port, incarnation);
        break;
    case 2:
        pshm_port_add_out(port, incarnation);
        break;
    case 3:
        pshm_fuzz_remove_out(routine, which / 32);
        break;
    default:
        pshm_port_close_outs(port);
    }
}

static void do_ring(uint32_t how, uint32_t which) {
    uint64_t serial;
    pshm_process *process = pshm_fuzz_here.process[which % TABLES];
    const pshm_control *control = &process->control;
    uint32_t ring = which / TABLES % (PSHM_FUZZ_RINGS + 2);
    switch (how % 7) {
    case 0:
        pshm_process_prune(process);
        break;
    case 1:
        pshm_fuzz_map(process, ring, pshm_control_serial(control, ring),
                      which / 32 % PSHM_FUZZ_RINGS, false);
        break;
    case 2:
        pshm_control_claim_ring(control, which / 32, &serial);
        break;
    case 3:
        pshm_control_publish_ring(control, ring);
        break;
    case 4:
        pshm_control_release_ring(control, ring);
        break;
    case 5:
        while (pshm_control_unclaim_ring(control, which / 32) != 0) continue;
        break;
    default:
        pshm_control_spend(control, ring, which);
        pshm_control_left(control);
    }
}

/* Reads what statistics, the cockpit and `pipert-shm top` read. */
static void do_read(const pshm_control *control) {
    pshm_edge edge;
    for (uint32_t n = 0; n < PSHM_FUZZ_INCARNATIONS + 1; n++)
        if (pshm_edge_attach(&edge, control, n)) {
            if (pshm_queue_depth(&edge.queue) > edge.queue.capacity)
                pshm_fuzz_fail("a queue is deeper than it is long");
            pshm_queue_finished(&edge.queue);
            pshm_fuzz_look_at((const uint8_t *)edge.record, sizeof *edge.record);
        }
    for (uint32_t n = 0; n < 8; n++) {
        const pshm_routine_record *routine = pshm_control_routine(control, n);
        const pshm_flow_record *flow = pshm_control_flow(control, n);
        if (routine != NULL) pshm_fuzz_look_at((const uint8_t *)routine, sizeof *routine);
        if (flow != NULL) pshm_fuzz_look_at((const uint8_t *)flow, sizeof *flow);
        pshm_control_ring(control, n);
    }
}

static void do_statistics(uint32_t which) {
    pshm_process *process = pshm_fuzz_here.process[which % TABLES];
    do_read(&process->control);
    for (uint32_t r = 0; r < PSHM_FUZZ_RINGS + 1; r++) {
        const pshm_mapping *mapping = pshm_process_find(process, r);
        pshm_process_leases(process, r);
        if (mapping != NULL) pshm_ring_used(&mapping->ring);
    }
    for (uint32_t n = 0; n < PSHM_FUZZ_INCARNATIONS + 1; n++) pshm_process_borrowed(process, n);
}

/* A process comes that finds the segment as it is now. */
static void do_attach(uint32_t routine) {
    static pshm_delivery got;
    pshm_process *process =
        pshm_process_open(pshm_fuzz_here.control, pshm_fuzz_here.control_bytes);
    if (process == NULL) return;
    do_read(&process->control);
    pshm_fuzz_open_every_ring(process);
    pshm_port *port = pshm_port_open(process, routine, 0);
    for (uint32_t n = 0; port != NULL && n < PSHM_FUZZ_INCARNATIONS; n++)
        pshm_fuzz_add_in(port, n);
    for (uint32_t n = 0; port != NULL && n < 4; n++) {
        if (pshm_fuzz_take(port, &got) != PSHM_OK) continue;
        for (uint32_t k = 0; k < got.slots; k++) pshm_release(got.address[k]);
    }
    if (port != NULL) pshm_port_close(port);
    pshm_fuzz_close(process);
}

static void act(uint32_t what) {
    uint32_t which = byte(), routine = which % ROUTINES;
    switch (what % 12) {
    case 0:
    case 1:
        pshm_fuzz_receive(routine, which & 0x80);
        break;
    case 2:
    case 3:
        pshm_fuzz_send(which & 1 ? MIDDLE : SOURCE, which >> 1);
        break;
    case 4:
        pshm_fuzz_let_go(routine, which / ROUTINES % PSHM_FUZZ_HELD);
        break;
    case 5:
    case 6:
        do_recover(byte(), which);
        break;
    case 7:
        do_edge(byte(), which);
        break;
    case 8:
        do_ring(byte(), which);
        break;
    case 9:
        do_attach(routine);
        break;
    case 10:
        if (which & 0x40)
            pshm_fuzz_end(routine);
        else
            pshm_fuzz_abandon(routine);
        break;
    default:
        do_statistics(which);
    }
}

static void step(void) {
    uint32_t what = byte();
    points = 0;
    if (what < 96) {
        do_damage(what % 3 != 0);
        return;
    }
    act(what);
    pshm_fuzz_look_at_held();
}

int LLVMFuzzerInitialize(int *arguments, char ***argument);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *arguments, char ***argument) {
    (void)arguments, (void)argument;
    pshm_fuzz_open();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    memset(pending, 0, sizeof pending);
    last_word = 0;
    points = 0;
    input = data;
    input_end = data + size;
    chance = 1;
    pshm_fuzz_build();
    pshm_fuzz_send(SOURCE, 1); /* on each edge, one message is held and one waits */
    pshm_fuzz_receive(MIDDLE, false);
    pshm_fuzz_send(MIDDLE, 0x11);
    pshm_fuzz_receive(SINK, false);
    pshm_fuzz_send(SOURCE, 2); /* all of its message slots are in use now */
    pshm_fuzz_send(SOURCE, 0);
    if (!pshm_fuzz_holds(MIDDLE) || !pshm_fuzz_holds(SINK))
        pshm_fuzz_fail("nothing arrives in a sound pipe");
    for (uint32_t n = 0; n < STEPS; n++) step();
    points = 0;
    pshm_fuzz_let_all_go();
    pshm_fuzz_tear_down();
    return 0;
}
