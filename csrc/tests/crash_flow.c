/* crash_flow: the life of a flow's process, as in pipert_shm/flow and the runner of a routine.
 * The main thread is the routine; a second thread obeys the launcher.
 */
#include "crash.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define LETTERS 64u
#define WORDS (PSHM_CRASH_PAYLOAD / sizeof(uint64_t))

enum { OF_SOURCE = 1, OF_MIDDLE }; /* which routine wrote a payload slot */

/* The sink keeps the last message of each edge, and checks that nobody writes to it. */
typedef struct kept_message {
    uint32_t slots;
    uint64_t sequence;
    uint64_t slot[PSHM_MESSAGE_SLOTS];
    void *address[PSHM_MESSAGE_SLOTS];
} kept_message;

typedef struct life {
    const pshm_crash_birth *birth;
    pshm_process *process;
    pshm_port *port;
    pshm_port *local; /* of the routine LOCAL; the source's process only */
    uint64_t outs;
    uint32_t payloads; /* rings */
    uint32_t messages;
    bool quit;
    kept_message kept[EDGES];
    pthread_mutex_t lock; /* of the letters */
    pthread_cond_t told;
    uint32_t letters;
    pshm_crash_letter letter[LETTERS];
} life;

/* ---- the control thread ---------------------------------------------------------------- */

static void report(const life *own, uint32_t what, uint32_t incarnation) {
    pshm_crash_letter letter = {.what = what, .incarnation = incarnation};
    ssize_t sent = send(own->birth->channel, &letter, sizeof letter, MSG_NOSIGNAL);
    if (sent < 0) pause(); /* the launcher is dead, and we are about to die of it */
}

static void pass_on(life *own, const pshm_crash_letter *letter) {
    pthread_mutex_lock(&own->lock);
    CHECK(own->letters < LETTERS, "letters pile up");
    own->letter[own->letters++] = *letter;
    pthread_cond_signal(&own->told);
    pthread_mutex_unlock(&own->lock);
    pshm_port_notify(own->port);
}

static void *obey_launcher(void *argument) {
    life *own = argument;
    for (;;) {
        pshm_crash_letter letter;
        if (recv(own->birth->channel, &letter, sizeof letter, 0) != sizeof letter) pause();
        if (letter.what == TELL_RECEIVER_DIED || letter.what == TELL_RECEIVER_FAILED) {
            if (letter.what == TELL_RECEIVER_FAILED)
                pshm_port_discard_unread(own->port, letter.incarnation);
            CHECK(pshm_port_recover_receiver(own->port, letter.incarnation), "no memory");
            report(own, TELL_RECOVERED, letter.incarnation);
        } else {
            pass_on(own, &letter);
        }
        if (letter.what == TELL_QUIT) return NULL;
    }
}

/* ---- the routine's thread -------------------------------------------------------------- */

static bool is_over(const life *own, uint32_t routine) {
    return own->process->control.routine[routine].state != BUILT;
}

static int receive(life *own, pshm_port *port, pshm_delivery *delivery, uint64_t timeout_ns) {
    for (;;) {
        int status = pshm_port_receive(port, delivery, timeout_ns);
        while (status == PSHM_UNMAPPED) {
            pshm_crash_open_ring(own->process, delivery->unmapped);
            status = pshm_port_take(port, delivery);
        }
        CHECK(status != PSHM_PROTOCOL, "a message contradicts its slots");
        if (status != PSHM_DRAINED) return status;
        pshm_crash_open_every_ring(own->process);
        pshm_port_recover_sender(port, delivery->place);
    }
}

/* Takes no more, and discards what waits. */
static void end_ins(life *own, pshm_port *port) {
    static pshm_delivery delivery;
    int status;
    pshm_port_end_ins(port);
    while ((status = receive(own, port, &delivery, 0)) == PSHM_OK || status == PSHM_NOTICE) {
        if (status == PSHM_NOTICE)
            pshm_port_noticed(port);
        else
            pshm_port_discard(port, &delivery, PSHM_REASON_ENDED);
    }
}

static void act(life *own, const pshm_crash_letter *letter) {
    switch (letter->what) {
    case TELL_ADD_IN:
        CHECK(pshm_port_add_in(own->port, letter->about, letter->name) != UINT32_MAX, "no place");
        if (is_over(own, own->birth->flow)) end_ins(own, own->port);
        break;
    case TELL_SENDER_DIED:
        if (is_over(own, own->birth->flow)) end_ins(own, own->port);
        break;
    case TELL_ANSWER:
        pshm_port_let_end(own->port,
                          1); /* nobody holds it; it may be killed there all the same */
        report(own, TELL_READY, 0);
        break;
    default:
        own->quit = true;
    }
}

static void obey(life *own, bool wait) {
    pshm_port_noticed(own->port);
    pthread_mutex_lock(&own->lock);
    while (wait && own->letters == 0) pthread_cond_wait(&own->told, &own->lock);
    while (own->letters > 0) {
        pshm_crash_letter letter = own->letter[0];
        memmove(own->letter, own->letter + 1, --own->letters * sizeof letter);
        pthread_mutex_unlock(&own->lock);
        act(own, &letter);
        pthread_mutex_lock(&own->lock);
    }
    pthread_mutex_unlock(&own->lock);
}

static void set_ended(life *own, uint32_t routine) {
    __atomic_store_n(&own->process->control.routine[routine].state, ENDED, __ATOMIC_SEQ_CST);
    report(own, TELL_STATE, 0);
}

/* ---- payloads -------------------------------------------------------------------------- */

static uint64_t word(uint64_t sequence, uint32_t whose, size_t n) {
    return pshm_crash_mix(sequence << 16 | (uint64_t)whose << 8 | n);
}

static void fill(void *address, uint64_t sequence, uint32_t whose) {
    uint64_t *words = address;
    for (size_t n = 0; n < WORDS; n++) words[n] = word(sequence, whose, n);
}

static void verify(const void *address, uint64_t sequence, uint32_t whose) {
    const uint64_t *words = address;
    for (size_t n = 0; n < WORDS; n++)
        CHECK(words[n] == word(sequence, whose, n), "a frame is torn: message %llu, slot of %u",
              (unsigned long long)sequence, whose);
}

/* For the audit: from now on this process holds the slot, until `bits` is 0. */
static void note_held(const life *own, uint64_t descriptor, uint32_t bits) {
    const pshm_mapping *mapping = own->process->mapping[pshm_descriptor_ring(descriptor)];
    uint64_t held = (uint64_t)pshm_descriptor_generation(descriptor) << 32 | bits;
    uint32_t serial = pshm_crash_serial_index(mapping->serial);
    _Atomic uint64_t *word =
        &pshm_crash_here.world->held[own->birth->flow][serial][pshm_descriptor_slot(descriptor)];
    atomic_store(word, bits == 0 ? 0 : held);
}

static uint32_t edge_of(const pshm_port *port, uint32_t place) {
    return (uint32_t)(port->in[place].record - port->process->control.edge);
}

/* Checks that a message came in order, once, and whole. */
static void check_receipt(life *own, const pshm_port *port, const pshm_delivery *delivery) {
    pshm_crash_world *world = pshm_crash_here.world;
    uint32_t edge = edge_of(port, delivery->place);
    uint64_t sequence = delivery->local ? delivery->token - 1 : delivery->sequence;
    CHECK(sequence < PSHM_CRASH_MESSAGES, "message %llu never was", (unsigned long long)sequence);
    CHECK(world->got[edge][sequence] == 0, "message %llu came twice on edge %u",
          (unsigned long long)sequence, edge);
    CHECK(sequence >= world->seen[edge], "edge %u: message %llu after %llu", edge,
          (unsigned long long)sequence, (unsigned long long)world->seen[edge] - 1);
    world->seen[edge] = sequence + 1;
    world->got[edge][sequence] = 1;
    if (delivery->local) return;
    uint64_t body[2];
    CHECK(delivery->body_bytes == sizeof body, "a body of %u bytes", delivery->body_bytes);
    memcpy(body, delivery->body, sizeof body);
    CHECK(body[0] == sequence && body[1] == ~sequence, "a message is torn");
    CHECK(delivery->slots == (edge == FORWARDED ? 2 : 1), "%u slots", delivery->slots);
    for (uint32_t k = 0; k < delivery->slots; k++) {
        note_held(own, delivery->slot[k], port->in[delivery->place].mask);
        verify(delivery->address[k], sequence, k == 0 ? OF_SOURCE : OF_MIDDLE);
    }
}

/* ---- sending --------------------------------------------------------------------------- */

static bool reserve(life *own, pshm_post *post, uint64_t sequence, uint32_t whose) {
    uint64_t descriptor;
    void *address;
    int status;
    while ((status = pshm_port_reserve(own->port, own->outs, own->payloads, &descriptor,
                                       &address)) == PSHM_NOTICE)
        obey(own, false);
    if (status != PSHM_OK) return false;
    note_held(own, descriptor, PSHM_PRODUCER);
    fill(address, sequence, whose);
    post->slot[post->slots++] = descriptor;
    return true;
}

/* Sends a post. If it lacks a slot, `ready` is false, and it is given up. */
static void send_post(life *own, pshm_post *post, uint64_t sequence, bool ready) {
    uint64_t body[2] = {sequence, ~sequence};
    post->ticket = sequence + 1;
    for (uint32_t k = 0; k < post->slots; k++) note_held(own, post->slot[k], 0);
    int status = ready ? PSHM_NOTICE : PSHM_FULL;
    while (status == PSHM_NOTICE) {
        /* if the notice came before the message had its slot, nothing is done yet */
        status = post->offered != 0 ? pshm_port_resume(own->port, post)
                                    : pshm_port_send(own->port, post, own->messages, sequence,
                                                     pshm_now(), SOURCE, 1, 0, body, sizeof body);
        if (status == PSHM_NOTICE) obey(own, false);
    }
    if (status != PSHM_OK && status != PSHM_LOST)
        pshm_port_abandon(own->port, post, PSHM_REASON_NO_SLOT);
}

static void begin(const life *own, pshm_post *post, uint64_t token) {
    *post = (pshm_post){.outs = own->outs, .token = token, .message = PSHM_NO_SLOT};
}

/* ---- the routines ---------------------------------------------------------------------- */

static void look_at_local(life *own, pshm_delivery *delivery, uint64_t timeout_ns) {
    int status;
    while ((status = receive(own, own->local, delivery, timeout_ns)) == PSHM_OK)
        check_receipt(own, own->local, delivery);
    if (status != PSHM_CLOSED || timeout_ns == 0) return;
    end_ins(own, own->local);
    set_ended(own, LOCAL);
}

/* The wires out of the process that have not got a message from the process before. */
static uint64_t lacking(const life *own, uint64_t sequence) {
    uint64_t lacking = 0;
    for (uint32_t out = 0; out < own->port->outs; out++) {
        const pshm_edge *edge = &own->port->out[out];
        bool lacks = !edge->local && pshm_handing_done(edge->record) <= sequence;
        if ((own->outs >> out & 1) != 0 && lacks) lacking |= 1ull << out;
    }
    return lacking;
}

/* Sends again what the death of the process before interrupted. */
static void resume(life *own, pshm_post *post) {
    own->port->record->resumes = 1;
    uint64_t sequence = own->port->record->sequence - 1; /* no harm before the first message */
    uint64_t outs = own->port->record->sequence == 0 ? 0 : lacking(own, sequence);
    if (outs == 0) return;
    begin(own, post, sequence + 1);
    post->outs = outs;
    send_post(own, post, sequence, reserve(own, post, sequence, OF_SOURCE));
}

static void be_source(life *own, pshm_post *post, pshm_delivery *delivery) {
    uint64_t *next = &own->port->record->sequence;
    if (pshm_crash_here.graph->resumes && !is_over(own, SOURCE)) resume(own, post);
    while (!is_over(own, SOURCE) && *next < PSHM_CRASH_MESSAGES) {
        uint64_t sequence = *next;
        *next = sequence + 1;
        begin(own, post, sequence + 1);
        send_post(own, post, sequence, reserve(own, post, sequence, OF_SOURCE));
        look_at_local(own, delivery, 0);
    }
    if (!is_over(own, SOURCE)) {
        pshm_port_close_outs(own->port);
        set_ended(own, SOURCE);
    }
    if (!is_over(own, LOCAL)) look_at_local(own, delivery, PSHM_FOREVER);
}

/* The source's slot is forwarded as it is, unless the edge still holds it. */
static bool refer(life *own, pshm_post *post, const pshm_delivery *delivery) {
    return pshm_port_refer(own->port, post, own->outs, delivery->address[0],
                           PSHM_CRASH_PAYLOAD) != PSHM_NO_SLOT ||
           reserve(own, post, delivery->sequence, OF_SOURCE);
}

static void forward(life *own, pshm_post *post, const pshm_delivery *delivery) {
    begin(own, post, delivery->sequence + 1);
    bool ready = refer(own, post, delivery) && reserve(own, post, delivery->sequence, OF_MIDDLE);
    note_held(own, delivery->slot[0], 0);
    pshm_process_release(own->process, delivery->slot[0]);
    send_post(own, post, delivery->sequence, ready);
}

static void let_go(life *own, kept_message *kept) {
    for (uint32_t k = 0; k < kept->slots; k++) {
        verify(kept->address[k], kept->sequence, k == 0 ? OF_SOURCE : OF_MIDDLE);
        note_held(own, kept->slot[k], 0);
        pshm_release(kept->address[k]);
    }
    kept->slots = 0;
}

static void keep(life *own, const pshm_delivery *delivery) {
    kept_message *kept = &own->kept[edge_of(own->port, delivery->place)];
    let_go(own, kept);
    kept->slots = delivery->slots;
    kept->sequence = delivery->sequence;
    memcpy(kept->slot, delivery->slot, sizeof kept->slot);
    memcpy(kept->address, delivery->address, sizeof kept->address);
}

static bool has_enough(void) {
    uint32_t got = 0, limit = pshm_crash_here.graph->sink_takes;
    for (uint32_t n = 0; n < PSHM_CRASH_MESSAGES; n++)
        got += pshm_crash_here.world->got[TO_SINK][n] + pshm_crash_here.world->got[FORWARDED][n];
    return limit != 0 && got >= limit;
}

/* A sink that has enough ends only when more is there for it, so that a queue has to be
 * emptied. */
static void let_queue_up(life *own) {
    const pshm_edge *edge = &own->port->in[0];
    while (own->port->ins != 0 && edge->record != NULL && !is_over(own, SOURCE) &&
           pshm_queue_depth(&edge->queue) == 0)
        usleep(20);
}

static void be_receiver(life *own, pshm_post *post, pshm_delivery *delivery) {
    uint32_t routine = own->birth->flow;
    while (!(routine == SINK && has_enough())) {
        int status = receive(own, own->port, delivery, PSHM_FOREVER);
        if (status == PSHM_CLOSED) break;
        if (status == PSHM_NOTICE) obey(own, false);
        if (status != PSHM_OK) continue;
        check_receipt(own, own->port, delivery);
        if (routine == MIDDLE)
            forward(own, post, delivery);
        else
            keep(own, delivery);
    }
    if (routine == SINK && has_enough()) let_queue_up(own);
    pshm_port_close_outs(own->port);
    end_ins(own, own->port);
    for (uint32_t edge = 0; edge < EDGES; edge++) let_go(own, &own->kept[edge]);
    set_ended(own, routine);
}

/* ---- birth and end --------------------------------------------------------------------- */

/* Opens a port that awaits each edge whose sender lives, or has left messages. */
static pshm_port *open_port(life *own, uint32_t routine) {
    const pshm_crash_birth *birth = own->birth;
    const pshm_control *control = &own->process->control;
    uint32_t awaited = 0;
    for (uint32_t edge = 0; edge < EDGES; edge++) {
        bool present = control->edge[edge].sender_failed == 0;
        for (uint32_t n = 0; n < birth->ins; n++) present |= birth->in_edge[n] == edge;
        awaited += pshm_crash_receiver(edge) == routine && present;
    }
    pshm_port *port = pshm_port_open(own->process, routine, awaited);
    CHECK(port != NULL, "no port");
    for (uint32_t n = 0; n < birth->ins; n++) {
        uint32_t edge = birth->in_edge[n];
        if (pshm_crash_receiver(edge) == routine) pshm_port_add_in(port, edge, birth->in[n]);
    }
    return port;
}

static void make_outs(life *own, uint32_t routine) {
    const pshm_crash_graph *graph = pshm_crash_here.graph;
    own->payloads =
        pshm_crash_make_ring(own->process, routine, graph->slots[routine], PSHM_CRASH_PAYLOAD);
    own->messages =
        pshm_crash_make_ring(own->process, routine, graph->messages[routine], PSHM_CRASH_MESSAGE);
    for (uint32_t n = 0; n < own->birth->outs; n++)
        own->outs |= 1ull << pshm_port_add_out(own->port, own->birth->out[n]);
}

void pshm_crash_be_flow(const pshm_crash_birth *birth) {
    static life own;
    static pshm_post post;
    static pshm_delivery delivery;
    uint32_t routine = birth->flow;
    pthread_t control;
    own = (life){.birth = birth, .lock = PTHREAD_MUTEX_INITIALIZER};
    pthread_cond_init(&own.told, NULL);
    own.process = pshm_process_open(pshm_crash_here.control, pshm_crash_here.control_bytes);
    CHECK(own.process != NULL, "no control segment");
    own.port = open_port(&own, routine);
    if (routine == SOURCE) own.local = open_port(&own, LOCAL);
    if (routine != SINK) make_outs(&own, routine);
    report(&own, TELL_READY, 0);
    CHECK(pthread_create(&control, NULL, obey_launcher, &own) == 0, "no thread");

    if (routine == SOURCE)
        be_source(&own, &post, &delivery);
    else if (!is_over(&own, routine))
        be_receiver(&own, &post, &delivery);
    else
        end_ins(&own, own.port);
    while (!own.quit) obey(&own, true);

    pthread_join(control, NULL);
    pshm_port_close(own.port);
    if (own.local != NULL) pshm_port_close(own.local);
    CHECK(pshm_process_close(own.process), "a lease is left");
    exit(EXIT_SUCCESS);
}
