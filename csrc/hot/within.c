#include <string.h>

#include "hot.h"

/* What a message within a flow waits with, in the form of bytes: the head of hot->outgoing. */
typedef struct waiting_head {
    uint64_t sequence;
    uint64_t captured_ns;
    uint64_t sent_ns;
    uint32_t origin;
    uint32_t kind;
    uint8_t head[PSHM_HOT_HOPS * PSHM_HOT_HOP + sizeof(double)];
} waiting_head;

#define FIXED offsetof(waiting_head, head)

/* ---- sending --------------------------------------------------------------------------- */

PyObject *pshm_hot_share(pshm_hot_path *hot, PyObject *array) {
    if (!PyArray_CheckExact(array)) return NULL;
    PyArrayObject *its = (PyArrayObject *)array;
    if (!PyArray_IS_C_CONTIGUOUS(its) || PyArray_NDIM(its) > PSHM_HOT_AXES ||
        PyDataType_REFCHK(PyArray_DESCR(its)))
        return NULL;
    pshm_form form = {.dtype = (PyObject *)PyArray_DESCR(its), .axes = PyArray_NDIM(its)};
    for (int k = 0; k < form.axes; k++) form.length[k] = PyArray_DIM(its, k);
    form.bytes = (uint64_t)PyArray_NBYTES(its);
    void *address = pshm_process_share(hot->port->process, PyArray_DATA(its), form.bytes);
    if (address == NULL) return NULL;
    PyObject *own = pshm_lease_array(&form, address, (Py_ssize_t)form.bytes, false);
    if (own != NULL) PyArray_CLEARFLAGS(its, NPY_ARRAY_WRITEABLE);
    return own;
}

/* (function that gives each receiver an array of its own, head, sent_ns), as Python makes it. */
static PyObject *message_of(const pshm_outgoing *outgoing, PyObject *own) {
    waiting_head waiting = {.sequence = outgoing->sequence,
                            .captured_ns = outgoing->captured_ns,
                            .sent_ns = pshm_now(),
                            .origin = outgoing->origin,
                            .kind = outgoing->kind};
    memcpy(waiting.head, outgoing->body, outgoing->head);
    PyObject *view = PyObject_GetAttrString(own, "view");
    if (view == NULL) return NULL;
    return Py_BuildValue("Ny#K", view, (const char *)&waiting,
                         (Py_ssize_t)(FIXED + outgoing->head),
                         (unsigned long long)waiting.sent_ns);
}

/* Into every table, or into none. */
static bool lay_out(pshm_hot_path *hot, PyObject *message) {
    PyObject *token = PyLong_FromUnsignedLongLong(hot->token + 1);
    if (token == NULL) return false;
    Py_ssize_t tables = PyList_Size(hot->within), done = 0;
    while (done < tables &&
           PyObject_SetItem(PyList_GetItem(hot->within, done), token, message) == 0)
        done++;
    bool everywhere = done == tables;
    if (everywhere) hot->token++;
    while (!everywhere && done-- > 0) {
        PyErr_Clear();
        PyObject_DelItem(PyList_GetItem(hot->within, done), token);
    }
    Py_DECREF(token);
    return everywhere;
}

int pshm_hot_lay_out(pshm_hot_path *hot, PyObject *payload) {
    if (!PyArray_CheckExact(payload) ||
        (uint64_t)PyArray_NBYTES((PyArrayObject *)payload) < hot->threshold)
        return PSHM_HOT_ELSEWHERE;
    PyObject *own = pshm_hot_share(hot, payload);
    PyObject *message = own == NULL ? NULL : message_of(&hot->outgoing, own);
    bool done = message != NULL && lay_out(hot, message);
    Py_XDECREF(message);
    Py_XDECREF(own);
    if (!done) PyErr_Clear(); /* memory is short: Python's way tells */
    return done ? PSHM_OK : PSHM_HOT_ELSEWHERE;
}

int pshm_hot_hand_over(pshm_hot_path *hot, uint32_t handled) {
    int status;
    hot->port->record->sent += 1;
    Py_BEGIN_ALLOW_THREADS
    status = pshm_port_hand_over(hot->port, hot->post, hot->outs, hot->token, handled,
                                 hot->outgoing.sequence, hot->outgoing.origin);
    Py_END_ALLOW_THREADS
    return status;
}

/* ---- receiving ------------------------------------------------------------------------- */

bool pshm_hot_adopt(pshm_hot_path *hot, PyObject *head) {
    char *bytes;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(head, &bytes, &size) < 0) return false;
    if (size < (Py_ssize_t)FIXED || size > (Py_ssize_t)sizeof(waiting_head)) {
        PyErr_SetString(PyExc_ValueError, "not the head of a message within a flow");
        return false;
    }
    waiting_head waiting;
    memcpy(&waiting, bytes, (size_t)size);
    pshm_delivery *delivery = hot->delivery;
    delivery->sequence = waiting.sequence;
    delivery->captured_ns = waiting.captured_ns;
    delivery->sent_ns = waiting.sent_ns;
    delivery->origin = waiting.origin;
    delivery->kind = waiting.kind;
    delivery->head = (uint32_t)((size_t)size - FIXED);
    memcpy(delivery->body, waiting.head, delivery->head);
    return true;
}

PyObject *pshm_hot_pick_up(pshm_hot_path *hot) {
    const pshm_delivery *delivery = hot->delivery;
    PyObject *table = hot->waiting[delivery->place];
    PyObject *token = table == NULL ? NULL : PyLong_FromUnsignedLongLong(delivery->token);
    PyObject *message = token == NULL ? NULL : PyObject_GetItem(table, token);
    PyObject *head =
        message == NULL ? NULL : PyTuple_GetItem(message, 1); /* else Python's Meta */
    PyObject *payload = NULL;
    if (head != NULL && PyBytes_CheckExact(head) && pshm_hot_adopt(hot, head) &&
        !pshm_hot_expired(hot))
        payload = PyObject_CallNoArgs(PyTuple_GetItem(message, 0));
    if (payload != NULL && PyObject_DelItem(table, token) < 0) Py_CLEAR(payload);
    Py_XDECREF(message);
    Py_XDECREF(token);
    if (payload == NULL)
        PyErr_Clear(); /* Python's way tells what it is */
    else
        pshm_port_count_handed(hot->port, delivery, delivery->sent_ns, delivery->captured_ns);
    return payload;
}
