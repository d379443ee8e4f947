#include <string.h>

#include "hot.h"

static PyObject *sequence_name, *captured_name, *origin_name, *stamp_name, *hops_name;

bool pshm_give_ready(void) {
    sequence_name = PyUnicode_InternFromString("sequence");
    captured_name = PyUnicode_InternFromString("captured_ns");
    origin_name = PyUnicode_InternFromString("origin_number");
    stamp_name = PyUnicode_InternFromString("raw_stamp");
    hops_name = PyUnicode_InternFromString("raw_hops");
    return sequence_name && captured_name && origin_name && stamp_name && hops_name;
}

/* ---- the head of a message ------------------------------------------------------------- */

static bool get_uint64(PyObject *meta, PyObject *name, uint64_t *value) {
    PyObject *got = PyObject_GetAttr(meta, name);
    PyObject *whole = got == NULL ? NULL : PyNumber_Index(got); /* NumPy's integers, too */
    Py_XDECREF(got);
    if (whole == NULL) return false;
    *value = PyLong_AsUnsignedLongLong(whole);
    if (*value == UINT64_MAX && PyErr_Occurred())
        PyErr_Format(PyExc_ValueError, "meta.%U must be from 0 to 2**64 - 1, not %R", name,
                     whole);
    Py_DECREF(whole);
    return *value != UINT64_MAX || !PyErr_Occurred();
}

/* Appends the bytes that an attribute of a meta gives, at most so many. */
static bool append(pshm_outgoing *outgoing, PyObject *meta, PyObject *name, Py_ssize_t most) {
    char *data;
    Py_ssize_t bytes;
    PyObject *got = PyObject_GetAttr(meta, name);
    if (got == NULL) return false;
    bool fits = PyBytes_AsStringAndSize(got, &data, &bytes) == 0;
    if (fits && bytes > most) {
        PyErr_Format(PyExc_ValueError, "%U has %zd bytes, more than a message can have", name,
                     bytes);
        fits = false;
    }
    if (fits) {
        memcpy(outgoing->body + outgoing->head, data, (size_t)bytes);
        outgoing->head += (uint32_t)bytes;
    }
    Py_DECREF(got);
    return fits;
}

bool pshm_hot_head_of(pshm_hot_path *hot, PyObject *meta) {
    pshm_outgoing *outgoing = &hot->outgoing;
    uint64_t origin;
    if (!get_uint64(meta, sequence_name, &outgoing->sequence) ||
        !get_uint64(meta, captured_name, &outgoing->captured_ns) ||
        !get_uint64(meta, origin_name, &origin))
        return false;
    if (origin > UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "meta.origin_number must be from 0 to 2**32 - 1");
        return false;
    }
    if (outgoing->captured_ns == 0) outgoing->captured_ns = pshm_now();
    outgoing->origin = (uint32_t)origin;
    outgoing->kind = PSHM_KIND_ARRAY;
    outgoing->head = 0;
    if (!append(outgoing, meta, hops_name, PSHM_HOT_HOPS * PSHM_HOT_HOP)) return false;
    uint32_t hops = outgoing->head;
    if (!append(outgoing, meta, stamp_name, PSHM_HOT_STAMP)) return false;
    if (outgoing->head != hops) outgoing->kind |= PSHM_KIND_STAMPED;
    return true;
}

/* What a receiver hands on of a head: the hops, of which it is the last, and the stamp. */
static bool pass_on(pshm_outgoing *outgoing, const pshm_delivery *delivery, uint64_t receiver) {
    uint32_t end = delivery->head, first = 0;
    uint32_t stamp = (delivery->kind & PSHM_KIND_STAMPED) ? PSHM_HOT_STAMP : 0;
    uint32_t behind = stamp + ((delivery->kind & PSHM_KIND_TICKETED) ? 16 : 0);
    if (end < behind || end > PSHM_HOT_HOPS * PSHM_HOT_HOP + behind) return false;
    const uint8_t *stamped = delivery->body + end - stamp;
    end -= behind;
    if (end % PSHM_HOT_HOP != 0) return false;
    if (end > (PSHM_HOT_HOPS - 1) * PSHM_HOT_HOP) first = PSHM_HOT_HOP;
    uint64_t last[] = {receiver, delivery->sent_ns, delivery->received_ns};
    memcpy(outgoing->body, delivery->body + first, end - first);
    memcpy(outgoing->body + end - first, last, sizeof last);
    outgoing->head = end - first + PSHM_HOT_HOP;
    if (stamp == 0) return true;
    memcpy(outgoing->body + outgoing->head, stamped, stamp);
    outgoing->head += stamp;
    outgoing->kind |= PSHM_KIND_STAMPED;
    return true;
}

bool pshm_hot_head_in_hand(pshm_hot_path *hot) {
    pshm_outgoing *outgoing = &hot->outgoing;
    const pshm_delivery *delivery = hot->delivery;
    outgoing->kind = PSHM_KIND_ARRAY;
    if (hot->source) {
        outgoing->sequence = hot->port->record->sequence;
        outgoing->captured_ns = pshm_now();
        outgoing->origin = hot->port->origin;
        outgoing->head = 0;
        return true;
    }
    outgoing->sequence = delivery->sequence;
    outgoing->captured_ns = delivery->captured_ns != 0 ? delivery->captured_ns : pshm_now();
    outgoing->origin = delivery->origin;
    return pass_on(outgoing, delivery, hot->port->origin);
}

/* ---- the array ------------------------------------------------------------------------- */

static uint32_t form_of(const pshm_hot_path *hot, PyArrayObject *array) {
    uint32_t k = 0;
    while (k < PSHM_HOT_LAYOUTS && !pshm_form_matches(&hot->out[k], array)) k++;
    return k;
}

/* Appends where the array lies in the message's first slot, and how. */
static void describe(pshm_outgoing *outgoing, const pshm_form *form, uint64_t offset) {
    uint8_t *at = outgoing->body + outgoing->head;
    memcpy(at, &offset, sizeof offset);
    memcpy(at + sizeof offset, form->text, form->text_bytes);
    outgoing->bytes = outgoing->head + (uint32_t)sizeof offset + form->text_bytes;
}

int pshm_hot_refer(pshm_hot_path *hot, PyObject *payload) {
    if (!PyArray_CheckExact(payload)) return PSHM_HOT_ELSEWHERE;
    PyArrayObject *array = (PyArrayObject *)payload;
    if (!PyArray_IS_C_CONTIGUOUS(array) || (uint64_t)PyArray_NBYTES(array) < hot->threshold)
        return PSHM_HOT_ELSEWHERE;
    uint32_t k = form_of(hot, array);
    if (k == PSHM_HOT_LAYOUTS) return PSHM_HOT_UNKNOWN;
    const pshm_form *form = &hot->out[k];
    uint64_t reference =
        pshm_port_refer(hot->port, hot->post, hot->outs, PyArray_DATA(array), form->bytes);
    if (reference == PSHM_NO_SLOT) return PSHM_HOT_ELSEWHERE;
    describe(&hot->outgoing, form, pshm_reference_offset(reference));
    PyArray_CLEARFLAGS(array, NPY_ARRAY_WRITEABLE);
    return PSHM_OK;
}

/* ---- the message ----------------------------------------------------------------------- */

static int send_now(pshm_hot_path *hot) {
    const pshm_outgoing *outgoing = &hot->outgoing;
    return pshm_port_send(hot->port, hot->post, hot->ring, outgoing->sequence,
                          outgoing->captured_ns, outgoing->origin, outgoing->kind, outgoing->head,
                          outgoing->body, outgoing->bytes);
}

int pshm_hot_send(pshm_hot_path *hot, uint32_t handled) {
    hot->port->record->sent += 1;
    hot->post->outs = hot->outs;
    hot->post->handled = handled;
    hot->port->hurried = true;
    int status = send_now(hot);
    hot->port->hurried = false;
    if (status != PSHM_NOTICE || pshm_hot_noticed(hot)) return status;
    Py_BEGIN_ALLOW_THREADS
    status = hot->post->offered ? pshm_port_resume(hot->port, hot->post) : send_now(hot);
    Py_END_ALLOW_THREADS
    return status;
}
