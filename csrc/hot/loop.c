#include "hot.h"

#define TURNS_WITH_GIL 64 /* without a sleep, before another thread may have the GIL */

PyObject *pshm_hot_take(pshm_hot_path *hot, int status) {
    const pshm_form *form = &hot->in[pshm_array_layout(status)];
    return pshm_lease_array(form, hot->delivery->address[0], (Py_ssize_t)form->bytes, false);
}

/* The delivery is written with the GIL, so that other threads can read the message in hand. */
static int receive_or_sleep(pshm_hot_path *hot) {
    bool undisturbed = true;
    while (undisturbed) {
        int status = pshm_port_receive(hot->port, hot->delivery, 0);
        if (status != PSHM_TIMED_OUT) return status;
        Py_BEGIN_ALLOW_THREADS
        undisturbed = pshm_port_await(hot->port);
        Py_END_ALLOW_THREADS
    }
    return PSHM_TIMED_OUT;
}

/* Rests until the next call is due. Returns false when the routine is wanted elsewhere. */
static bool await_turn(pshm_hot_path *hot) {
    if (hot->source && pshm_hot_noticed(hot)) return false;
    if (hot->interval_ns == 0 || hot->turn_ns == 0) return true;
    uint64_t due = hot->turn_ns + hot->interval_ns, now;
    while ((now = pshm_now()) < due) {
        int status;
        Py_BEGIN_ALLOW_THREADS
        status = pshm_port_rest(hot->port, due - now);
        Py_END_ALLOW_THREADS
        if (status == PSHM_NOTICE) return false;
    }
    return true;
}

/* A call begins. Its turn is absolute, so that delays do not add up; but a routine makes up
 * for one interval at most. */
static void take_turn(pshm_hot_path *hot) {
    if (hot->interval_ns == 0 && hot->turn_ns == 0) return;
    uint64_t now = pshm_now(), next = hot->turn_ns + hot->interval_ns;
    if (hot->turn_ns == 0 || hot->interval_ns == 0)
        hot->turn_ns = now;
    else
        hot->turn_ns = next + hot->interval_ns > now ? next : now - hot->interval_ns;
}

/* A main_logic that is not Python, and never sleeps, would keep the GIL for good. */
static void share_gil(uint32_t turn) {
    if (turn % TURNS_WITH_GIL != 0) return;
    Py_BEGIN_ALLOW_THREADS
    Py_END_ALLOW_THREADS
}

static PyObject *call_source(pshm_hot_path *hot, PyObject *main_logic) {
    hot->sequence = hot->port->record->sequence;
    __atomic_store_n(&hot->port->record->busy_since_ns, pshm_now(), __ATOMIC_RELAXED);
    PyObject *result = PyObject_CallNoArgs(main_logic);
    if (result == NULL) pshm_port_end_call(hot->port);
    return result;
}

/* The receipt has begun the call; the send, or the next receipt, ends it. */
static PyObject *call_receiver(pshm_hot_path *hot, PyObject *main_logic) {
    PyObject *result = PyObject_CallFunctionObjArgs(main_logic, hot->payload, NULL);
    if (result != NULL) Py_CLEAR(hot->payload); /* it may be what is sent on */
    return result;
}

static PyObject *call(pshm_hot_path *hot, PyObject *main_logic) {
    return hot->source ? call_source(hot, main_logic) : call_receiver(hot, main_logic);
}

/* The same, and what a trace says of it. */
static PyObject *traced_call(pshm_hot_path *hot, PyObject *main_logic) {
    pshm_port *port = hot->port;
    const pshm_delivery *delivery = hot->delivery;
    port->frame_origin = hot->source ? port->origin : delivery->origin;
    port->frame = hot->source ? port->record->sequence : delivery->sequence;
    if (!hot->source) pshm_port_trace_call(port, PSHM_TRACE_DECODE, 0, delivery->received_ns);
    uint64_t began = pshm_now();
    PyObject *result = call(hot, main_logic);
    pshm_port_trace_call(port, PSHM_TRACE_CALL, 0, began);
    return result;
}

/* What becomes of a result that is not sent. */
static void finish(pshm_hot_path *hot) {
    if (hot->source) {
        hot->port->record->sequence += hot->result != Py_None;
        pshm_port_end_call(hot->port);
    } else {
        pshm_count(&hot->port->record->handled, 1);
    }
    Py_CLEAR(hot->result);
}

/* A child that was forked in a call, or by the end of an object, is not the routine. */
static bool is_stray(const pshm_hot_path *hot) {
    return hot->port->process->foreign;
}

/* Sends hot->result. Returns PSHM_OK, or why the loop ends. */
static int send_result(pshm_hot_path *hot) {
    if (hot->meta != NULL ? !pshm_hot_head_of(hot, hot->meta) : !pshm_hot_head_in_hand(hot)) {
        PyErr_Clear(); /* Python's way of sending says what is wrong */
        return PSHM_LOOP_RESULT;
    }
    int ready = pshm_hot_place(hot, hot->result);
    if (ready == PSHM_HOT_ELSEWHERE && hot->encode != NULL)
        ready = pshm_hot_pack(hot, hot->result);
    if (is_stray(hot)) return PSHM_LOOP_STRAY;
    if (ready == PSHM_HOT_REFUSED) return PSHM_LOOP_REFUSED;
    if (ready != PSHM_OK) return PSHM_LOOP_RESULT;
    if (hot->source) hot->port->record->sequence += 1;
    Py_CLEAR(hot->result);
    if (is_stray(hot)) return PSHM_LOOP_STRAY;
    hot->status = pshm_hot_tell(hot, hot->source ? 0 : 1);
    return hot->status == PSHM_OK ? PSHM_OK : PSHM_LOOP_SENT;
}

int pshm_hot_loop(pshm_hot_path *hot, PyObject *main_logic) {
    hot->calls = 0;
    hot->stale = false;
    Py_CLEAR(hot->payload);
    Py_CLEAR(hot->result);
    for (uint32_t turn = 1;; turn++) {
        share_gil(turn);
        if (!await_turn(hot)) return PSHM_LOOP_NOTICE;
        if (!hot->source) {
            hot->status = receive_or_sleep(hot);
            if (hot->status == PSHM_OK && hot->delivery->local) {
                hot->payload = pshm_hot_pick_up(hot);
            } else if (hot->status >= PSHM_ARRAY && !pshm_hot_expired(hot)) {
                hot->payload = pshm_hot_take(hot, hot->status);
                if (hot->payload == NULL) return -1;
            } else if (hot->status == PSHM_OK) {
                hot->payload = pshm_hot_unpack(hot);
                if (is_stray(hot)) return PSHM_LOOP_STRAY;
            }
            if (hot->payload == NULL) return PSHM_LOOP_FOUND;
        }
        take_turn(hot);
        Py_CLEAR(hot->meta);
        hot->result = pshm_trace_is_on() ? traced_call(hot, main_logic) : call(hot, main_logic);
        if (hot->result == NULL) return -1;
        if (is_stray(hot)) return PSHM_LOOP_STRAY;
        hot->calls++;
        if (hot->stale && hot->result != Py_None) return PSHM_LOOP_RESULT;
        if (hot->result == Py_None || hot->outs == 0) {
            finish(hot);
            if (is_stray(hot)) return PSHM_LOOP_STRAY;
            if (hot->stale) return PSHM_LOOP_NOTICE;
            continue;
        }
        int outcome = send_result(hot);
        if (outcome != PSHM_OK) return outcome;
    }
}
