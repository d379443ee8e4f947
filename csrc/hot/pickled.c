#include <string.h>

#include "hot.h"

/* ---- whole messages -------------------------------------------------------------------- */

/* Keeps the exception that is set, for Python. */
static void keep_error(pshm_hot_path *hot) {
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL) PyException_SetTraceback(value, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    Py_XDECREF(hot->error);
    hot->error = value;
}

/* Makes hot->outgoing of what a function of Python makes, (kind, body, ...), of its head and,
 * unless it is NULL, the payload. */
static int pack_by(pshm_hot_path *hot, PyObject *function, PyObject *payload) {
    pshm_outgoing *out = &hot->outgoing;
    char *bytes = NULL;
    Py_ssize_t size = 0;
    unsigned kind = 0;
    PyObject *rest, *made = NULL;
    PyObject *head = PyBytes_FromStringAndSize((const char *)out->body, (Py_ssize_t)out->head);
    if (head != NULL) made = PyObject_CallFunctionObjArgs(function, head, payload, NULL);
    Py_XDECREF(head);
    if (made == NULL || !PyArg_ParseTuple(made, "Iy#|O", &kind, &bytes, &size, &rest) ||
        size > (Py_ssize_t)sizeof out->body) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "more than a message can carry");
        Py_XDECREF(made);
        keep_error(hot);
        return PSHM_HOT_REFUSED;
    }
    memcpy(out->body, bytes, (size_t)size);
    out->bytes = (uint32_t)size;
    out->kind = (out->kind & ~PSHM_KIND_ARRAY) | kind;
    Py_DECREF(made);
    return PSHM_OK;
}

/* The same as decoder.py's PICKLE_HEAD and BUFFER. */
#define PICKLE_HEAD_BYTES 21
#define ENTRY_BYTES 18

static uint8_t *put(uint8_t *at, const void *value, size_t bytes) {
    memcpy(at, value, bytes);
    return at + bytes;
}

/* The entries of the table; false where one is of a slot that is still to be written. */
static bool put_table(pshm_hot_path *hot, uint8_t **at) {
    const uint64_t whole = 0;
    for (Py_ssize_t k = 0; k < PyList_Size(hot->table); k++) {
        long slot = PyLong_AsLong(PyTuple_GetItem(PyList_GetItem(hot->table, k), 0));
        uint16_t index = (uint16_t)slot;
        if (slot < 0 || slot > UINT16_MAX) return false;
        *at = put(*at, &index, sizeof index);
        *at = put(*at, &whole, sizeof whole);
        *at = put(*at, &whole, sizeof whole);
    }
    return true;
}

/* Bytes that were written; -1 where a piece is no bytes object. */
static Py_ssize_t written(const pshm_hot_path *hot) {
    Py_ssize_t sum = 0;
    for (Py_ssize_t k = 0; k < PyList_Size(hot->pieces); k++) {
        PyObject *piece = PyList_GetItem(hot->pieces, k);
        if (!PyBytes_CheckExact(piece)) return -1;
        sum += PyBytes_Size(piece);
    }
    return sum;
}

/* Makes hot->outgoing of what was dumped; false where it has no room, or a slot is to be
 * written. */
static bool assemble(pshm_hot_path *hot) {
    pshm_outgoing *out = &hot->outgoing;
    uint32_t entries = (uint32_t)PyList_Size(hot->table);
    Py_ssize_t bytes = written(hot);
    if (bytes < 0 || entries > PSHM_MESSAGE_SLOTS) return false;
    uint64_t size = (uint64_t)entries * ENTRY_BYTES + (uint64_t)bytes, offset = 0;
    uint64_t slots = sizeof(uint64_t) * hot->post->slots;
    if (out->head + PICKLE_HEAD_BYTES + size + slots + sizeof(pshm_message) > PSHM_MESSAGE_BYTES)
        return false;
    uint8_t *at = out->body + out->head;
    at = put(at, &entries, sizeof entries);
    at = put(at, &size, sizeof size);
    at = put(at, &offset, sizeof offset);
    *at++ = 0; /* all of it is here */
    if (!put_table(hot, &at)) return false;
    for (Py_ssize_t k = 0; k < PyList_Size(hot->pieces); k++) {
        PyObject *piece = PyList_GetItem(hot->pieces, k);
        at = put(at, PyBytes_AsString(piece), (size_t)PyBytes_Size(piece));
    }
    out->bytes = (uint32_t)(at - out->body);
    out->kind = (out->kind & ~PSHM_KIND_ARRAY) | PSHM_KIND_PICKLE;
    hot->port->record->in_band_bytes += (uint64_t)bytes;
    PyList_SetSlice(hot->pieces, 0, PyList_Size(hot->pieces), NULL);
    return true;
}

/* Dumps a payload; false with an exception. */
static bool dump(pshm_hot_path *hot, PyObject *payload) {
    hot->dumps++;
    hot->pickled_post = hot->post;
    hot->pickled_outs = hot->outs;
    hot->pickled_threshold = hot->threshold;
    if (PyList_SetSlice(hot->table, 0, PyList_Size(hot->table), NULL) < 0) return false;
    PyObject *none = PyObject_CallFunctionObjArgs(hot->dump, payload, NULL);
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *cleared =
        PyObject_CallNoArgs(hot->clear_memo); /* it keeps alive what was pickled */
    if (cleared == NULL) PyErr_Clear();
    pshm_hot_forget(hot->named);
    Py_XDECREF(cleared);
    PyErr_Restore(type, value, traceback);
    Py_XDECREF(none);
    return none != NULL;
}

static int refuse(pshm_hot_path *hot, PyObject *payload) {
    keep_error(hot);
    PyObject *told = PyObject_CallFunctionObjArgs(hot->refuse, payload, hot->error, NULL);
    if (told == NULL) {
        keep_error(hot);
        return PSHM_HOT_REFUSED;
    }
    Py_XDECREF(hot->error);
    hot->error = told;
    return PSHM_HOT_REFUSED;
}

int pshm_hot_pack(pshm_hot_path *hot, PyObject *payload) {
    if (hot->dump == NULL || PyArray_CheckExact(payload))
        return pack_by(hot, hot->encode, payload);
    if (PyObject_RichCompareBool(hot->registered, hot->live, Py_EQ) != 1) {
        PyErr_Clear();
        return pack_by(hot, hot->encode, payload);
    }
    if (!dump(hot, payload)) return refuse(hot, payload);
    return assemble(hot) ? PSHM_OK : pack_by(hot, hot->finish, NULL);
}

/* A lease for each slot of the delivery, whose own these are from now on. */
static PyObject *take_slots(pshm_delivery *delivery) {
    uint32_t slots = delivery->slots;
    PyObject *buffers = PyList_New(0);
    if (buffers == NULL) return NULL;
    for (uint32_t k = 0; k < slots; k++) {
        PyObject *own =
            pshm_lease_new(delivery->address[k], (Py_ssize_t)delivery->slot_bytes[k], false);
        delivery->slots--; /* it has ended, or the object ends it */
        if (own == NULL || PyList_Append(buffers, own) < 0) {
            Py_XDECREF(own);
            for (uint32_t j = k + 1; j < slots; j++)
                delivery->slot[j - k - 1] = delivery->slot[j];
            Py_DECREF(buffers);
            return NULL;
        }
        Py_DECREF(own);
    }
    return buffers;
}

/* The buffers of the pickle in hand, in their order; NULL, mostly without an exception, where
 * that is for Python. */
static PyObject *buffers_of(const uint8_t *table, uint32_t entries, PyObject *slots) {
    PyObject *buffers = PyList_New(0);
    for (uint32_t k = 0; buffers != NULL && k < entries; k++) {
        uint16_t index;
        uint64_t part[2];
        memcpy(&index, table + k * ENTRY_BYTES, sizeof index);
        memcpy(part, table + k * ENTRY_BYTES + sizeof index, sizeof part);
        if (part[1] != 0 || index >= PyList_Size(slots) ||
            PyList_Append(buffers, PyList_GetItem(slots, index)) < 0)
            Py_CLEAR(buffers);
    }
    return buffers;
}

/* The same as decoder.py's `decode` of a pickle that is whole in the body, with whole slots as
 * its buffers. NULL without an exception where it is not such a one. */
static PyObject *load(pshm_hot_path *hot, PyObject *slots) {
    const pshm_delivery *delivery = hot->delivery;
    uint32_t entries, start = delivery->head + PICKLE_HEAD_BYTES;
    uint64_t size;
    if (hot->loader == NULL || start > delivery->body_bytes || delivery->body[start - 1] != 0)
        return NULL;
    memcpy(&entries, delivery->body + delivery->head, sizeof entries);
    memcpy(&size, delivery->body + delivery->head + sizeof entries, sizeof size);
    if (size > delivery->body_bytes - start || entries > PSHM_MESSAGE_SLOTS ||
        entries * ENTRY_BYTES > size)
        return NULL;
    const uint8_t *table = delivery->body + start;
    PyObject *buffers = buffers_of(table, entries, slots);
    if (buffers == NULL) return NULL;
    uint32_t before = entries * ENTRY_BYTES;
    PyObject *payload = NULL, *loader = NULL;
    PyObject *stream = PyObject_CallFunction(hot->stream, "y#", (const char *)table + before,
                                             (Py_ssize_t)(size - before));
    PyObject *arguments = stream == NULL ? NULL : PyTuple_Pack(1, stream);
    PyObject *names = Py_BuildValue("{sO}", "buffers", buffers);
    if (arguments != NULL && names != NULL) loader = PyObject_Call(hot->loader, arguments, names);
    if (loader != NULL) {
        hot->loading = slots;
        payload = PyObject_CallMethod(loader, "load", NULL);
        hot->loading = NULL;
        pshm_hot_forget(hot->unnamed);
    }
    Py_XDECREF(loader);
    Py_XDECREF(names);
    Py_XDECREF(arguments);
    Py_XDECREF(stream);
    Py_DECREF(buffers);
    return payload;
}

PyObject *pshm_hot_unpack(pshm_hot_path *hot) {
    pshm_delivery *delivery = hot->delivery;
    uint32_t kind = delivery->kind & ~PSHM_KIND_STAMPED;
    if (hot->decode == NULL || kind != PSHM_KIND_PICKLE ||
        (delivery->over_cap && delivery->slots != 0) || pshm_hot_expired(hot))
        return NULL;
    PyObject *slots = take_slots(delivery), *payload = NULL;
    if (slots != NULL) payload = load(hot, slots);
    if (slots != NULL && payload == NULL && !PyErr_Occurred())
        payload = PyObject_CallFunction(hot->decode, "Iy#IO", kind, (const char *)delivery->body,
                                        (Py_ssize_t)delivery->body_bytes, delivery->head, slots);
    Py_XDECREF(slots);
    if (payload == NULL) keep_error(hot);
    return payload;
}
